//! A user logs in at another broker while its sessions live: what they hold goes on under the new label and from the new scope.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use support::world::{Bound, FakeBroker, Keys};
use support::{Client, Got, PATIENCE, Publisher, Server};
use tickcast::adapter::{Adapter, AdapterFactory, Command, Io, Report, Task};
use tickcast::config::Settings;
use tickcast::config::settings::BusSource;
use tickcast::wire::msgpack::{ServerFrame, read};

fn brokers(settings: &mut Settings) {
    settings.server.supported_brokers = vec!["angel".into(), "dhan".into()];
}

/// A server on which alice has a source of her own at dhan, none at angel.
fn with_own_source(keys: &Keys, factory: Arc<dyn AdapterFactory>) -> (Server, Bound) {
    let (own, endpoint) = Bound::new();
    let server = Server::with_factory(factory, |s| {
        keys.set(s);
        brokers(s);
        s.bus.sources = vec![BusSource { endpoint, broker: "dhan".into(), user: "alice".into() }];
    });
    (server, own)
}

fn invalidate(publisher: &mut Publisher, user: &str) {
    let payload = json!({"action": "invalidate", "user_id": user, "cache_type": "ALL"});
    publisher.json(&format!("CACHE_INVALIDATE_ALL_{user}"), &payload);
}

/// (broker, price) of ticks.
fn prices(ticks: &[Value]) -> Vec<(String, f64)> {
    let text = |t: &Value| t["broker"].as_str().expect("a broker").to_owned();
    ticks.iter().map(|t| (text(t), t["data"]["ltp"].as_f64().expect("a price"))).collect()
}

/// (broker, price) of the ticks up to END.
fn seen(client: &mut Client) -> Vec<(String, f64)> {
    prices(&client.ticks_before("END"))
}

/// (broker, price) of all that has come, which must be snapshots.
fn snapshots(client: &mut Client) -> Vec<(String, f64)> {
    let ticks = client.settled();
    assert!(ticks.iter().all(|tick| tick["snapshot"] == true), "{ticks:?}");
    prices(&ticks)
}

fn pairs(want: &[(&str, f64)]) -> Vec<(String, f64)> {
    want.iter().map(|(broker, ltp)| ((*broker).to_owned(), *ltp)).collect()
}

/// Publishes END until it comes to the first of `clients` under `broker`; then all of them have got everything.
fn until_followed(clients: [&mut Client; 3], publisher: &mut Publisher, broker: &str) {
    let is = |n: f64| move |v: &Value| v["symbol"] == "END" && v["data"]["ltp"] == n;
    let mut n = 1.0;
    let [first, others @ ..] = clients;
    let deadline = Instant::now() + PATIENCE;
    loop {
        publisher.ltp("END", n);
        if first.json_where(is(n))["broker"] == broker {
            break;
        }
        assert!(Instant::now() < deadline, "the session has not followed");
        n += 1.0;
    }
    first.settled();
    for client in others {
        client.json_where(is(n));
        client.settled();
    }
}

/// The labels under which anything is wanted.
fn labels(server: &Server) -> BTreeSet<u16> {
    let shards = server.shards();
    let of = |index| shards.with(index, |s| s.streams.wanted().map(|(_, _, _, label, _)| label.0).collect::<Vec<_>>());
    shards.indexes().flat_map(of).collect()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Publishes one tick of A without a prefix, under each broker's prefix, then END.
fn publish(publisher: &mut Publisher, n: f64) {
    publisher.ltp("A", n);
    publisher.json("ANGEL_NSE_A_LTP", &json!({"ltp": n + 0.1}));
    publisher.json("DHAN_NSE_A_LTP", &json!({"ltp": n + 0.2}));
    publisher.ltp("END", 0.0);
}

#[test]
fn authenticating_again_under_another_broker_moves_what_every_session_of_the_user_holds() {
    let keys = Keys::new(&[("alice", "angel"), ("bob", "angel")]);
    let server = Server::with_factory(Arc::new(FakeBroker::default()), |s| {
        keys.set(s);
        brokers(s);
    });
    let mut publisher = server.publisher();
    let [mut first, mut second] = ["alice", "alice"].map(|user| server.client_of(user));
    let mut bob = server.client_of("bob");
    for client in [&mut first, &mut second, &mut bob] {
        client.subscribe(&["A", "END"], 1);
    }
    publish(&mut publisher, 1.0);
    for client in [&mut first, &mut second, &mut bob] {
        assert_eq!(seen(client), pairs(&[("angel", 1.0), ("angel", 1.1)]));
    }
    keys.log_in("alice", "dhan");
    let reply = first.login("alice");
    assert_eq!((&reply["type"], &reply["broker"]), (&json!("auth"), &json!("dhan")), "{reply}");
    assert_eq!(snapshots(&mut first), pairs(&[("dhan", 1.2), ("dhan", 0.0)]), "the newest prices of the new broker");
    publish(&mut publisher, 2.0);
    assert_eq!(seen(&mut first), pairs(&[("dhan", 2.0), ("dhan", 2.2)]), "not one under the old label");
    assert_eq!(seen(&mut bob), pairs(&[("angel", 2.0), ("angel", 2.1)]), "another user's stay");
    // The other session asked for nothing, and follows all the same.
    until_followed([&mut second, &mut first, &mut bob], &mut publisher, "dhan");
    publish(&mut publisher, 3.0);
    for client in [&mut first, &mut second] {
        assert_eq!(seen(client), pairs(&[("dhan", 3.0), ("dhan", 3.2)]));
    }
    assert_eq!(seen(&mut bob), pairs(&[("angel", 3.0), ("angel", 3.1)]));
    // What moved can be given back, and is named with the new broker.
    let ack = second.ask(r#"{"action":"unsubscribe","symbol":"A","exchange":"NSE","mode":1}"#);
    assert_eq!((&ack["status"], &ack["broker"]), (&json!("success"), &json!("dhan")), "{ack}");
    publish(&mut publisher, 4.0);
    assert_eq!(seen(&mut first), pairs(&[("dhan", 4.0), ("dhan", 4.2)]));
    assert_eq!(seen(&mut second), []);
    assert_eq!(seen(&mut bob), pairs(&[("angel", 4.0), ("angel", 4.1)]));
    drop((first, second, bob));
    nothing_wanted(&server);
    server.finish();
}

/// No stream is wanted by anybody, nor pinned.
fn nothing_wanted(server: &Server) {
    server.await_metric("tickcast_clients_connected", &[], 0.0);
    server.await_metric("tickcast_subscriptions_active", &[], 0.0);
    // The broker lets go a moment after the clients have gone.
    eventually("a stream is pinned or wanted by nobody", || {
        let usage = server.shards().usage();
        (usage.wanted, usage.pins) == (0, 0)
    });
}

#[test]
fn a_user_whose_new_broker_has_a_source_of_its_own_receives_that_source_only_and_back() {
    let keys = Keys::new(&[("alice", "angel")]);
    let (server, own) = with_own_source(&keys, Arc::new(FakeBroker::default()));
    let (mut own, mut shared) = (own.accept(), server.publisher());
    let mut first = server.client_of("alice");
    first.subscribe(&["A", "END"], 1);
    let angel = labels(&server);
    publish(&mut shared, 1.0);
    assert_eq!(seen(&mut first), pairs(&[("angel", 1.0), ("angel", 1.1)]));
    keys.log_in("alice", "dhan");
    assert_eq!(first.login("alice")["broker"], "dhan");
    // A second session joins the keys that the first one has held all the time.
    let mut second = server.client_of("alice");
    second.text(r#"{"action":"subscribe","symbols":[{"symbol":"A","exchange":"NSE"},{"symbol":"END","exchange":"NSE"}],"mode":1,"snapshot":false}"#);
    assert_eq!(second.json_where(|v| v["type"] == "subscribe")["status"], "success");
    // The shared feed's ticks are in before the own ones are sent, so they would come first.
    let before = server.metric("tickcast_ticks_received_total", &[]);
    publish(&mut shared, 2.0);
    server.await_metric("tickcast_ticks_received_total", &[], before + 4.0);
    publish(&mut own, 3.0);
    for client in [&mut first, &mut second] {
        assert_eq!(seen(client), pairs(&[("dhan", 3.0), ("dhan", 3.2)]));
    }
    // Back, this time told by the bus.
    keys.log_in("alice", "angel");
    invalidate(&mut shared, "alice");
    eventually("a session has not followed", || labels(&server) == angel);
    // One may be between its old labels and its new ones; it is not when it answers.
    for client in [&mut first, &mut second] {
        assert_eq!(snapshots(client), pairs(&[("angel", 0.0)]), "END; of A the newest came from dhan");
    }
    let before = server.metric("tickcast_ticks_received_total", &[]);
    publish(&mut own, 4.0);
    server.await_metric("tickcast_ticks_received_total", &[], before + 4.0);
    publish(&mut shared, 5.0);
    for client in [&mut first, &mut second] {
        assert_eq!(seen(client), pairs(&[("angel", 5.0), ("angel", 5.1)]));
    }
    drop((first, second));
    nothing_wanted(&server);
    server.finish();
}

/// The next MessagePack message, or the (id, price) of ticks.
fn packed(client: &mut Client) -> Result<Value, Vec<(u64, i64)>> {
    loop {
        let Got::Binary(payload) = client.next() else { continue };
        match read(&payload).expect("a readable frame") {
            ServerFrame::Message(message) => return Ok(message),
            ServerFrame::Ticks { ticks, .. } | ServerFrame::Snapshots { ticks, .. } => {
                return Err(ticks.iter().map(|t| (u64::from(t.id.0), t.ltp().expect("a price"))).collect());
            }
            ServerFrame::Unknown => panic!("unknown frame {payload:x?}"),
        }
    }
}

#[test]
fn a_messagepack_client_is_told_the_new_ids_before_their_ticks() {
    let keys = Keys::new(&[("alice", "angel")]);
    let (server, own) = with_own_source(&keys, Arc::new(FakeBroker::default()));
    let mut own = own.accept();
    let (mut client, _) = Client::connect_to(server.ws, "/", "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n");
    let authenticate = json!({"action": "authenticate", "api_key": "key-alice"});
    client.send(authenticate.clone());
    assert_eq!(packed(&mut client).expect("a reply")["broker"], "angel");
    client.text(r#"{"action":"subscribe","symbol":"A","exchange":"NSE","mode":1}"#);
    let old = packed(&mut client).expect("an acknowledgement")["subscriptions"][0].clone();
    keys.log_in("alice", "dhan");
    client.send(authenticate);
    let ack = packed(&mut client).expect("an acknowledgement that nobody asked for");
    let new = ack["subscriptions"][0].clone();
    assert_eq!((&ack["type"], &ack["broker"], &new["symbol"]), (&json!("subscribe"), &json!("dhan"), &json!("A")));
    assert_ne!(new["id"], old["id"]);
    for key in ["mode", "depth", "scale", "exchange"] {
        assert_eq!(new[key], old[key], "{key} in {ack}");
    }
    assert_eq!(packed(&mut client).expect("a reply")["broker"], "dhan");
    own.ltp("A", 3.0);
    assert_eq!(packed(&mut client), Err(vec![(new["id"].as_u64().expect("an id"), 300)]));
    drop(client);
    nothing_wanted(&server);
    server.finish();
}

/// At angel nothing is ever answered; dhan accepts everything. What angel was asked for is told.
struct Silent {
    asked: SyncSender<()>,
}

impl Silent {
    fn new() -> (Arc<Self>, Receiver<()>) {
        let (asked, seen) = sync_channel(8);
        (Arc::new(Silent { asked }), seen)
    }
}

impl AdapterFactory for Silent {
    fn make(&self, broker: &str, _user: &str) -> Result<Box<dyn Adapter>, String> {
        match broker {
            "angel" => Ok(Box::new(SilentAdapter { asked: self.asked.clone() })),
            _ => Ok(Box::new(tickcast::adapter::bus::BusAdapter)),
        }
    }
}

struct SilentAdapter {
    asked: SyncSender<()>,
}

impl Adapter for SilentAdapter {
    fn run(self: Box<Self>, mut io: Io) -> Task {
        Box::pin(async move {
            while let Some(command) = io.commands.recv().await {
                let report = match command {
                    Command::Connect => Report::Connected,
                    Command::Disconnect => Report::Disconnected,
                    _ => {
                        self.asked.try_send(()).expect("the test listens");
                        continue;
                    }
                };
                if io.reports.send(report).await.is_err() {
                    break;
                }
            }
        })
    }
}

#[test]
fn a_subscribe_that_is_pending_while_the_broker_changes_ends_up_at_the_new_one() {
    let keys = Keys::new(&[("alice", "angel")]);
    let (factory, asked) = Silent::new();
    let (server, own) = with_own_source(&keys, factory);
    let (mut own, mut shared) = (own.accept(), server.publisher());
    let mut client = server.client_of("alice");
    client.text(r#"{"action":"subscribe","symbols":[{"symbol":"A","exchange":"NSE"},{"symbol":"END","exchange":"NSE"}],"mode":1}"#);
    asked.recv_timeout(PATIENCE).expect("angel is asked");
    keys.log_in("alice", "dhan");
    invalidate(&mut shared, "alice");
    let ack = client.json_where(|v| v["type"] == "subscribe");
    assert_eq!((&ack["status"], &ack["broker"]), (&json!("success"), &json!("dhan")), "{ack}");
    let before = server.metric("tickcast_ticks_received_total", &[]);
    publish(&mut shared, 1.0);
    server.await_metric("tickcast_ticks_received_total", &[], before + 4.0);
    publish(&mut own, 2.0);
    assert_eq!(seen(&mut client), pairs(&[("dhan", 2.0), ("dhan", 2.2)]));
    drop(client);
    nothing_wanted(&server);
    server.finish();
}
