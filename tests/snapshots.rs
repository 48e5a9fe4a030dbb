//! Last values: who gets one on subscribing, and that no value ever reaches somebody it does not belong to.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use support::world::{Bound, FakeBroker, Keys};
use support::{Client, Publisher, Server};
use tickcast::adapter::Report;
use tickcast::adapter::scripted::{Play, Script};
use tickcast::config::Settings;
use tickcast::config::settings::{AdapterKind, BusSource, Normalise};

/// Subscribes; gives what comes before anything else.
fn subscribed(client: &mut Client, symbol: &str, mode: u8, snapshot: Option<bool>) -> Vec<Value> {
    let mut request = json!({"action": "subscribe", "symbol": symbol, "exchange": "NSE", "mode": mode});
    if let Some(snapshot) = snapshot {
        request["snapshot"] = snapshot.into();
    }
    let ack = client.request(request);
    assert_eq!(ack["subscriptions"][0]["status"], "success", "{ack}");
    client.settled()
}

/// A server whose last value of A is `payload`, published as depth.
fn with_last_value(payload: &Value, change: impl FnOnce(&mut Settings)) -> (Server, Publisher) {
    let server = Server::start(change);
    let mut publisher = server.publisher();
    publisher.json("NSE_A_DEPTH", payload);
    server.await_metric("tickcast_ticks_received_total", &[], 1.0);
    (server, publisher)
}

#[test]
fn a_young_value_of_a_live_feed_comes_unasked_marked_and_with_its_own_timestamp() {
    let payload =
        json!({"ltp": 5.5, "volume": 7, "timestamp": 1_761_367_200_123_u64, "depth": {"buy": [], "sell": []}});
    let (server, mut publisher) = with_last_value(&payload, |_| {});
    let mut client = server.client();
    for (mode, data) in [
        (3, payload.clone()),
        (1, json!({"ltp": 5.5, "timestamp": 1_761_367_200_123_u64})),
        (2, json!({"ltp": 5.5, "timestamp": 1_761_367_200_123_u64, "volume": 7})),
    ] {
        let want = json!({"type": "market_data", "symbol": "A", "exchange": "NSE", "mode": mode, "data": data,
                          "broker": "bus", "snapshot": true});
        assert_eq!(subscribed(&mut client, "A", mode, None), [want]);
    }
    // Never seen, so there is nothing to show; and a repeat shows nothing again.
    assert!(subscribed(&mut client, "B", 1, Some(true)).is_empty());
    let repeat = json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1, "snapshot": true});
    assert_eq!(client.request(repeat)["subscriptions"][0]["status"], "warning");
    assert!(client.settled().is_empty());
    // Live ticks are not marked.
    publisher.ltp("A", 6.0);
    assert_eq!(client.tick().get("snapshot"), None);
    drop(client);
    server.finish();
}

#[test]
fn an_explicit_wish_wins_over_age_and_the_default_heeds_it() {
    let (server, _publisher) = with_last_value(&json!({"ltp": 5.5}), |s| s.fanout.snapshot_max_age = Duration::ZERO);
    for (wish, count) in [(None, 0), (Some(false), 0), (Some(true), 1)] {
        let mut client = server.client();
        assert_eq!(subscribed(&mut client, "A", 1, wish).len(), count, "{wish:?}");
    }
    server.finish();
    let (server, _publisher) = with_last_value(&json!({"ltp": 5.5}), |_| {});
    for (wish, count) in [(None, 1), (Some(false), 0), (Some(true), 1)] {
        let mut client = server.client();
        assert_eq!(subscribed(&mut client, "A", 1, wish).len(), count, "{wish:?}");
    }
    // In a list, an entry's own wish wins.
    let mut client = server.client();
    let entries = json!([{"symbol": "A", "exchange": "NSE", "mode": 1}, {"symbol": "A", "exchange": "NSE", "mode": 2, "snapshot": true}]);
    client.request(json!({"action": "subscribe", "symbols": entries, "snapshot": false}));
    let modes: Vec<_> = client.settled().iter().map(|t| t["mode"].clone()).collect();
    assert_eq!(modes, [2]);
    drop(client);
    server.finish();
}

#[test]
fn while_a_feed_is_down_its_last_value_is_shown_only_to_who_asks() {
    let script = Script::default();
    let server = Server::with_factory(Arc::new(script.clone()), |_| {});
    let mut publisher = server.publisher();
    let mut first = server.client();
    first.subscribe(&["A", "B"], 1);
    publisher.ltp("A", 1.0);
    publisher.ltp("B", 2.0);
    first.tick();
    first.tick();
    // The adapter dies, and its successor hangs while it connects.
    script.connects([Play::Hold]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(script.report(Report::Lost { reason: "a test".into() }));
    runtime.block_on(script.until(|s| s.seen().iter().any(|seen| seen.adapter == 2)));
    // What is wanted already is shared at once; its replay is under way.
    let mut second = server.client();
    assert!(subscribed(&mut second, "A", 1, None).is_empty(), "young, but nobody knows whether it still holds");
    assert_eq!(subscribed(&mut second, "B", 1, Some(true))[0]["data"]["ltp"], 2.0);
    runtime.block_on(script.connected());
    runtime.block_on(script.until(|s| s.at_broker().len() == 2));
    let mut third = server.client();
    assert_eq!(subscribed(&mut third, "A", 1, None)[0]["snapshot"], true, "live again");
    publisher.ltp("A", 3.0);
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.tick()["data"]["ltp"], 3.0);
    }
    drop((first, second, third));
    server.finish();
}

#[test]
fn simulated_values_are_erased_by_the_first_real_tick_and_never_shown_again() {
    let server = Server::start(|s| {
        s.adapters.default = AdapterKind::Sim;
        s.sim.ticks_per_second = 2000;
    });
    let mut client = server.client();
    client.subscribe(&["RELIANCE", "TCS"], 1);
    let tick = client.tick();
    assert_eq!((&tick["broker"], server.metric("tickcast_sim_active", &[])), (&json!("sim"), 1.0));
    let mut publisher = server.publisher();
    publisher.ltp("RELIANCE", 77.5);
    server.await_metric("tickcast_sim_active", &[], 0.0);
    // Of what had been encoded before, the last is the real one; then there is silence.
    let real = client.json_where(|v| v["data"]["ltp"] == 77.5);
    assert_eq!(real["broker"], "bus", "not said to be simulated");
    publisher.ltp("RELIANCE", 78.5);
    assert_eq!(client.json_where(|v| v["data"]["ltp"] == 78.5)["type"], "market_data");
    let mut late = server.client();
    assert!(subscribed(&mut late, "TCS", 1, Some(true)).is_empty(), "a simulated price is not a last value");
    let snapshots = subscribed(&mut late, "RELIANCE", 1, Some(true));
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0]["data"]["ltp"], 78.5);
    drop((client, late));
    server.finish();
}

#[test]
fn two_users_with_feeds_of_their_own_never_see_each_others_ticks_or_snapshots() {
    let keys = Keys::new(&[("alice", "fake"), ("bob", "fake"), ("carol", "fake")]);
    let (of_alice, alice_at) = Bound::new();
    let (of_bob, bob_at) = Bound::new();
    let server = Server::with_factory(Arc::new(FakeBroker::default()), |s| {
        keys.set(s);
        let source = |endpoint, user: &str| BusSource { endpoint, broker: "fake".into(), user: user.into() };
        s.bus.sources = vec![source(alice_at, "alice"), source(bob_at, "bob")];
    });
    let (mut a, mut b, mut shared) = (of_alice.accept(), of_bob.accept(), server.publisher());
    let feeds = [("alice", 1.0), ("bob", 2.0), ("carol", 3.0)];
    let mut clients: Vec<_> = feeds.iter().map(|(user, _)| server.client_of(user)).collect();
    for client in &mut clients {
        client.subscribe(&["A", "END"], 1);
    }
    let mut publish = |n: f64| {
        for (at, publisher) in [&mut a, &mut b, &mut shared].into_iter().enumerate() {
            publisher.ltp("A", n + at as f64);
            // A broker's prefix does not lead into another user's feed either.
            publisher.json("fake_NSE_A_LTP", &json!({"ltp": n + at as f64}));
            publisher.ltp("END", n);
        }
    };
    publish(1.0);
    for (client, (user, price)) in clients.iter_mut().zip(feeds) {
        let seen: Vec<_> = client.ticks_before("END").iter().map(|t| t["data"]["ltp"].clone()).collect();
        assert_eq!(seen, [price, price], "{user}");
    }
    for (user, price) in feeds {
        let mut late = server.client_of(user);
        let snapshots = subscribed(&mut late, "A", 1, Some(true));
        assert_eq!(snapshots.len(), 1);
        assert_eq!(snapshots[0]["data"]["ltp"], price, "{user}");
    }
    publish(11.0);
    for (client, (user, price)) in clients.iter_mut().zip(feeds) {
        let seen: Vec<_> = client.ticks_before("END").iter().map(|t| t["data"]["ltp"].clone()).collect();
        assert_eq!(seen, [price + 10.0, price + 10.0], "{user}");
    }
    drop(clients);
    server.finish();
}

#[test]
fn a_broker_prefix_serves_only_users_of_that_broker_snapshots_included() {
    let keys = Keys::new(&[("alice", "angel"), ("bob", "dhan")]);
    let server = Server::with_factory(Arc::new(FakeBroker::default()), |s| {
        keys.set(s);
        s.server.supported_brokers = vec!["angel".into(), "dhan".into()];
    });
    let mut publisher = server.publisher();
    let mut alice = server.client_of("alice");
    let mut bob = server.client_of("bob");
    for client in [&mut alice, &mut bob] {
        client.subscribe(&["A", "END"], 1);
    }
    publisher.json("ANGEL_NSE_A_LTP", &json!({"ltp": 1}));
    publisher.ltp("END", 0.0);
    assert_eq!(alice.ticks_before("END").len(), 1);
    assert!(bob.ticks_before("END").is_empty());
    assert_eq!(subscribed(&mut server.client_of("alice"), "A", 1, Some(true)).len(), 1);
    assert!(subscribed(&mut server.client_of("bob"), "A", 1, Some(true)).is_empty());
    drop((alice, bob));
    server.finish();
}

#[test]
fn with_normalise_off_every_mode_gets_the_adapters_fields_and_snapshots_too() {
    let payload = json!({"ltp": 5.5, "volume": 7, "extra": {"a": [1]}, "depth": {"buy": [], "sell": []}});
    let (server, mut publisher) = with_last_value(&payload, |s| s.fanout.normalise = Normalise::Off);
    let mut client = server.client();
    for mode in 1..=3 {
        let snapshots = subscribed(&mut client, "A", mode, None);
        assert_eq!((snapshots.len(), &snapshots[0]["data"]), (1, &payload));
    }
    publisher.json("NSE_A_DEPTH", &payload);
    for _ in 0..3 {
        assert_eq!(client.tick()["data"], payload);
    }
    drop(client);
    server.finish();
}

#[test]
fn while_an_adapter_publishes_a_mode_itself_covered_copies_are_held_back() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    client.subscribe(&["A", "END"], 1);
    client.subscribe(&["A"], 3);
    let mut ltp_of = |publisher: &mut Publisher, ticks: &[(&str, f64)]| {
        for (mode, ltp) in ticks {
            let data = json!({"ltp": ltp, "depth": {"buy": [], "sell": []}});
            publisher.json(&format!("NSE_A_{mode}"), &data);
        }
        publisher.ltp("END", 0.0);
        let seen = client.ticks_before("END");
        seen.iter().filter(|t| t["mode"] == 1).map(|t| t["data"]["ltp"].as_f64().expect("a price")).collect::<Vec<_>>()
    };
    // Only depth: it covers LTP.
    assert_eq!(ltp_of(&mut publisher, &[("DEPTH", 1.0)]), [1.0]);
    // The adapter publishes the trade in both modes: one copy.
    assert_eq!(ltp_of(&mut publisher, &[("LTP", 2.0), ("DEPTH", 2.0), ("LTP", 3.0), ("DEPTH", 3.0)]), [2.0, 3.0]);
    // It stops doing so: after sixteen ticks without an LTP of its own, depth covers again.
    let quiet: Vec<_> = (0..20).map(|n| ("DEPTH", 10.0 + f64::from(n))).collect();
    let seen = ltp_of(&mut publisher, &quiet);
    assert_eq!(seen, [25.0, 26.0, 27.0, 28.0, 29.0], "fifteen of the sixteen, since one depth tick came before");
    drop(client);
    server.finish();
}
