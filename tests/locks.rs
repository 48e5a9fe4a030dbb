//! One shard's lock, or one broker call, delays nobody who does not need it.

mod support;

use serde_json::json;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, mpsc::SyncSender};
use std::thread::JoinHandle;
use support::Server;
use tickcast::adapter::CallError;
use tickcast::adapter::scripted::{Play, Script};
use tickcast::model::InstrumentRef;
use tickcast::shards::{ShardIndex, Shards};

/// A shard's lock in the hands of another thread until released.
struct HeldShard {
    release: SyncSender<()>,
    holder: JoinHandle<()>,
}

impl HeldShard {
    fn take(shards: &Arc<Shards>, shard: ShardIndex) -> Self {
        let (held, is_held) = sync_channel(0);
        let (release, released) = sync_channel(0);
        let shards = Arc::clone(shards);
        let holder = std::thread::spawn(move || {
            shards.with(shard, |_| {
                held.send(()).expect("the test waits");
                released.recv().expect("the test releases");
            });
        });
        is_held.recv().expect("the lock is free");
        HeldShard { release, holder }
    }

    fn release(self) {
        self.release.send(()).expect("held until now");
        self.holder.join().expect("no panic");
    }
}

fn shard_of(server: &Server, symbol: &str) -> ShardIndex {
    server.shards().shard_of(InstrumentRef { venue: "NSE", symbol })
}

#[test]
fn while_one_shard_s_lock_is_held_subscribe_unsubscribe_and_fan_out_proceed_in_all_others() {
    let server = Server::start(|s| s.fanout.shards = 16);
    let names: Vec<String> = (0..2000).map(|n| format!("S{n}")).collect();
    let of_shard = |i: ShardIndex, nth: usize| {
        let names = names.iter().map(String::as_str).filter(|n| shard_of(&server, n) == i);
        { names }.nth(nth).expect("2000 names meet 16 shards many times")
    };
    let held_symbol = of_shard(ShardIndex(3), 0);
    // One symbol of each other shard.
    let set = |nth: usize| -> Vec<&str> {
        server.shards().indexes().filter(|i| i.0 != 3).map(|i| of_shard(i, nth)).collect()
    };
    let others = set(0);
    assert_eq!(others.len(), 15);
    let mut bystander = server.client();
    bystander.subscribe(&[held_symbol], 1);
    let mut before = server.client();
    before.subscribe(&others, 1);
    let mut publisher = server.publisher();

    let held = HeldShard::take(server.shards(), ShardIndex(3));
    // Longer than the period of the gauges, which visit every shard: they must not take the others with them.
    for round in 0..12 {
        let mut client = server.client();
        // Fresh keys: each is subscribed at the broker, and given back there.
        let fresh = set(round + 1);
        client.subscribe(&fresh, 1);
        let price = (round + 1) as f64;
        publisher.batch(others.iter().chain(&fresh).map(|s| (*s, price)));
        for client in [&mut before, &mut client] {
            for _ in 0..15 {
                assert_eq!(client.tick()["data"]["ltp"], json!(price));
            }
        }
        for symbol in &fresh {
            let ack = client.request(json!({"action": "unsubscribe", "symbol": symbol, "exchange": "NSE", "mode": 1}));
            assert_eq!(ack["status"], "success", "{ack}");
        }
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
    held.release();
    publisher.ltp(held_symbol, 7.0);
    assert_eq!(bystander.tick()["data"]["ltp"], json!(7.0));
    assert!(server.stop());
}

#[test]
fn a_broker_call_pending_on_one_symbol_delays_no_other_symbol_of_its_shard() {
    let script = Script::default();
    script.calls([Play::Hold]);
    let server = Server::with_factory(Arc::new(script.clone()), |s| {
        s.fanout.shards = 1;
        s.adapters.call_timeout = std::time::Duration::from_secs(60);
    });
    let mut slow = server.client();
    slow.send(json!({"action": "subscribe", "symbols": [{"symbol": "SLOW", "exchange": "NSE"}], "mode": 1}));
    // The first call to reach the broker is the one it sits on.
    while script.call_ids().is_empty() {
        std::thread::yield_now();
    }
    let mut quick = server.client();
    let mut publisher = server.publisher();
    for symbol in ["SBIN", "INFY", "TCS"] {
        assert_eq!(shard_of(&server, symbol), shard_of(&server, "SLOW"));
        quick.subscribe(&[symbol], 1);
        publisher.ltp(symbol, 5.0);
        assert_eq!(quick.tick()["symbol"], json!(symbol));
        let ack = quick.request(json!({"action": "unsubscribe", "symbol": symbol, "exchange": "NSE", "mode": 1}));
        assert_eq!(ack["status"], "success", "{ack}");
    }
    // The same client is told at the end, and only then.
    let answer = script.answer(script.call_ids()[0], Err(CallError::Refused("no such symbol".into())));
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(answer);
    let ack = slow.json();
    assert_eq!(ack["subscriptions"][0]["status"], "error", "{ack}");
}
