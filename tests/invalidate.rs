//! New credentials by bus message (`CACHE_INVALIDATE_*`): the adapter is rebuilt and everything replayed, whatever clients do.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::world::{FakeBroker, Keys};
use support::{Client, PATIENCE, Publisher, Server};

/// A server whose one user, alice, is logged in at the fake broker.
struct World {
    keys: Keys,
    broker: FakeBroker,
    server: Server,
    publisher: Publisher,
    calls: Vec<String>,
}

impl World {
    fn new() -> Self {
        let (keys, broker) = (Keys::new(&[("alice", "angel")]), FakeBroker::default());
        let server = Server::with_factory(Arc::new(broker.clone()), |s| keys.set(s));
        let publisher = server.publisher();
        World { keys, broker, server, publisher, calls: Vec::new() }
    }

    fn invalidate(&mut self, kind: &str) {
        let payload = json!({"action": "invalidate", "user_id": "alice", "cache_type": kind});
        self.publisher.json(&format!("CACHE_INVALIDATE_{kind}_alice"), &payload);
    }

    /// Waits until the broker was told `wanted`, in any order.
    fn await_calls(&mut self, wanted: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let mut wanted: Vec<String> = wanted.iter().map(|call| format!("alice {call}")).collect();
        wanted.sort();
        loop {
            self.calls.extend(self.broker.calls_of("alice"));
            self.calls.sort();
            if self.calls == wanted {
                return self.calls.clear();
            }
            assert!(Instant::now() < deadline && self.calls.len() <= wanted.len(), "{:?}", self.calls);
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

fn subscribe(client: &mut Client, symbol: &str, mode: u8) -> Value {
    client.request(json!({"action": "subscribe", "symbol": symbol, "exchange": "NSE", "mode": mode, "depth": 20}))
}

#[test]
fn new_credentials_of_any_kind_rebuild_the_adapter_and_replay_what_clients_hold() {
    let mut world = World::new();
    let mut client = world.server.client_of("alice");
    subscribe(&mut client, "INFY", 3);
    subscribe(&mut client, "SBIN", 1);
    world.await_calls(&["connect", "+NSE:INFY/Depth", "+NSE:SBIN/LTP"]);
    for (n, kind) in ["ALL", "AUTH", "FEED"].into_iter().enumerate() {
        world.invalidate(kind);
        world.await_calls(&["disconnect", "connect", "+NSE:INFY/Depth", "+NSE:SBIN/LTP"]);
        world.publisher.ltp("SBIN", n as f64);
        assert_eq!(client.tick()["data"]["ltp"], n as f64);
    }
    drop(client);
    world.server.finish();
}

#[test]
fn a_revoked_login_leaves_clients_what_they_hold_and_the_next_login_brings_it_back() {
    let mut world = World::new();
    let mut client = world.server.client_of("alice");
    subscribe(&mut client, "SBIN", 1);
    world.await_calls(&["connect", "+NSE:SBIN/LTP"]);
    world.keys.revoke("alice");
    world.invalidate("ALL");
    world.await_calls(&["disconnect"]);
    world.server.await_metric("tickcast_adapters", &["other", "\"down\""], 1.0);
    let refused = subscribe(&mut client, "TCS", 1);
    assert_eq!(refused["code"], "BROKER_ERROR", "{refused}");
    world.server.await_metric("tickcast_subscriptions_active", &[], 1.0);
    // The token of the day: nobody but OpenAlgo says anything.
    world.keys.log_in("alice", "angel");
    world.invalidate("ALL");
    world.await_calls(&["connect", "+NSE:SBIN/LTP"]);
    world.publisher.ltp("SBIN", 812.5);
    assert_eq!(client.tick()["data"]["ltp"], 812.5);
    assert_eq!(subscribe(&mut client, "TCS", 1)["status"], "success");
    drop(client);
    world.server.finish();
}
