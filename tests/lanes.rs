//! What a subscription can ask for, through the whole server: `max_rate`, `delivery: every`, `range`, and `seq` as each user sees it.
//!
//! The laws behind it are property tests in `policy/conflation.rs` and `engine/worker/conflation_tests.rs`.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::packed::Packed;
use support::world::{FakeBroker, Keys};
use support::{Client, Got, PATIENCE, Server};
use tickcast::adapter::scripted::{Play, Script};

const LONG: f64 = 0.001;

/// One entry's outcome.
fn subscribe(client: &mut Client, symbol: &str, options: Value) -> Value {
    let mut request = json!({"action": "subscribe", "symbol": symbol, "exchange": "NSE", "mode": 1});
    request.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
    client.request(request)["subscriptions"][0].clone()
}

fn price(client: &mut Client) -> Value {
    client.tick()["data"]["ltp"].clone()
}

#[test]
fn a_rate_sends_the_first_tick_at_once_and_the_newest_when_the_interval_ends() {
    let server = Server::start(|_| {});
    let (mut slow, mut plain) = (server.client(), server.client());
    subscribe(&mut slow, "INFY", json!({"max_rate": 5}));
    plain.subscribe(&["INFY"], 1);
    let mut publisher = server.publisher();
    let begun = Instant::now();
    publisher.batch([("INFY", 1.0), ("INFY", 2.0), ("INFY", 3.0)]);
    assert_eq!([price(&mut plain), price(&mut plain), price(&mut plain)], [1.0, 2.0, 3.0]);
    // That it waits for nothing is shown below, where the interval is longer than any test waits.
    assert_eq!(price(&mut slow), 1.0);
    assert_eq!(price(&mut slow), 3.0, "the newest, though nothing else has come");
    assert!(begun.elapsed() >= Duration::from_millis(190), "and not before the interval is over");
    assert!(slow.settled().is_empty());
    assert_eq!(server.metric("tickcast_ticks_merged_total", &["max_rate"]), 1.0);
    assert_eq!(server.metric("tickcast_ticks_merged_total", &[]), 1.0);
    drop((slow, plain));
    server.finish();
}

#[test]
fn a_repeat_replaces_the_options_is_a_warning_and_calls_nobody() {
    let (keys, broker) = (Keys::new(&[("asha", "fake")]), FakeBroker::default());
    let server = Server::with_factory(Arc::new(broker.clone()), |s| keys.set(s));
    let mut client = server.client_of("asha");
    broker.calls_of("asha");
    let mut publisher = server.publisher();
    subscribe(&mut client, "INFY", json!({"max_rate": LONG}));
    assert_eq!(broker.calls_of("asha").len(), 1);
    publisher.batch([("INFY", 1.0), ("INFY", 2.0)]);
    assert_eq!(price(&mut client), 1.0);
    server.await_metric("tickcast_ticks_received_total", &[], 2.0);
    assert!(client.settled().is_empty(), "held");
    let again = subscribe(&mut client, "INFY", json!({"snapshot": true}));
    assert_eq!(again["status"], "warning", "{again}");
    assert_eq!(price(&mut client), 2.0, "what was held goes at once");
    publisher.ltp("INFY", 3.0);
    assert_eq!(price(&mut client), 3.0, "and nothing is held any more");
    // Of entries that name one instrument twice, the last one's options hold.
    let entry = |options: Value| {
        let mut entry = json!({"symbol": "TCS", "exchange": "NSE", "mode": 1});
        entry.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
        entry
    };
    let entries = [entry(json!({})), entry(json!({"max_rate": LONG}))];
    let ack = client.request(json!({"action": "subscribe", "symbols": entries}));
    assert_eq!(ack["subscriptions"][1]["status"], "warning", "{ack}");
    publisher.batch([("TCS", 1.0), ("TCS", 2.0), ("INFY", 4.0)]);
    assert_eq!([price(&mut client), price(&mut client)], [1.0, 4.0]);
    assert!(client.settled().is_empty());
    assert_eq!(broker.calls_of("asha").len(), 1, "TCS, once");
    drop(client);
    server.finish();
}

#[test]
fn options_that_contradict_each_other_fail_their_entry_only() {
    let server = Server::start(|_| {});
    let mut plain = server.client();
    let mut packed = Packed::connect(&server);
    for (options, json_too, mode) in [
        (json!({"delivery": "every", "max_rate": 5}), true, 1),
        (json!({"delivery": "every", "range": true}), true, 1),
        (json!({"range": true}), true, 2),
        (json!({"range": true}), false, 1),
        (json!({"max_rate": 1000.5}), true, 1),
        (json!({"delivery": "some"}), true, 1),
    ] {
        let mut bad = json!({"symbol": "INFY", "exchange": "NSE", "mode": mode});
        bad.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
        let request = json!({"action": "subscribe", "symbols": [bad, {"symbol": "TCS", "exchange": "NSE", "mode": 1}]});
        let mut answers = vec![plain.request(request.clone())];
        if json_too {
            answers.push(packed.request(request));
        }
        for ack in answers {
            assert_eq!(ack["subscriptions"][0]["code"], "INVALID_PARAMETERS", "{options}: {ack}");
            assert_ne!(ack["subscriptions"][1]["status"], "error", "{options}: {ack}");
        }
    }
}

#[test]
fn a_range_tells_low_and_high_of_what_was_merged_and_is_absent_otherwise() {
    let server = Server::start(|_| {});
    let (mut ranged, mut other) = (Packed::connect(&server), Packed::connect(&server));
    let request = |range: bool| json!({"action": "subscribe", "symbol": "INFY", "exchange": "NSE", "mode": 1, "max_rate": 5, "range": range});
    ranged.request(request(true));
    other.request(request(false));
    let mut publisher = server.publisher();
    publisher.batch([("INFY", 10.0), ("INFY", 12.5), ("INFY", 9.25), ("INFY", 11.0)]);
    let numbers = |client: &mut Packed| {
        let (snapshot, tick) = client.tick();
        assert!(!snapshot);
        (tick.seq, tick.numbers)
    };
    assert_eq!(numbers(&mut ranged), (1, vec![Some(1000)]), "nothing merged, nothing told");
    assert_eq!(numbers(&mut ranged), (4, vec![Some(1100), Some(925), Some(1250)]));
    assert_eq!(numbers(&mut other), (1, vec![Some(1000)]));
    assert_eq!(numbers(&mut other), (4, vec![Some(1100)]), "nobody gets what another one asked for");
    publisher.ltp("INFY", 13.0);
    assert_eq!(numbers(&mut ranged), (5, vec![Some(1300)]));
}

#[test]
fn a_slow_reader_learns_the_range_of_what_it_missed() {
    let server = Server::start(|settings| settings.fanout.send_buffer_bytes = 8 << 10);
    let mut slow = Packed::connect(&server);
    slow.client = slow.client.narrow();
    slow.request(json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1, "range": true}));
    let mut publisher = server.publisher();
    let rounds = 30_000;
    // Saw-tooth prices: the range of any stretch can be told from its numbers.
    let price = |n: u64| (n * 7919 % 1000) as f64;
    for first in (1..=rounds).step_by(1000) {
        publisher.batch((first..first + 1000).map(|n| ("A", price(n))));
        server.await_metric("tickcast_ticks_received_total", &[], (first + 999) as f64);
    }
    let (mut last, mut merged) = (0, 0);
    while last < rounds {
        let (_, tick) = slow.tick();
        assert!(tick.seq > last);
        let missed: Vec<i128> = (last + 1..=tick.seq).map(|n| price(n) as i128 * 100).collect();
        let mut want = vec![Some(missed[missed.len() - 1])];
        if missed.len() > 1 {
            merged += missed.len() - 1;
            want.extend([missed.iter().min().copied(), missed.iter().max().copied()]);
        }
        assert_eq!(tick.numbers, want, "tick {} after {last}", tick.seq);
        last = tick.seq;
    }
    assert!(merged > 0, "the reader was slow enough");
    assert_eq!(server.metric("tickcast_ticks_merged_total", &[]), merged as f64);
}

/// Publishes until the server closes `client`, which does not read meanwhile; what it had been sent, and the goodbye.
fn overflow(server: &Server, client: &mut Client) -> (Vec<Got>, Option<(u16, String)>) {
    let mut publisher = server.publisher();
    let (mut n, deadline) = (0, Instant::now() + PATIENCE);
    while server.metric("tickcast_sessions_closed_total", &["outbox_full"]) == 0.0 {
        assert!(Instant::now() < deadline, "still open after {n} ticks");
        // Few at a time: from its goodbye on the server waits for two seconds only.
        publisher.batch((n + 1..=n + 100).map(|n| ("A", f64::from(n))));
        n += 100;
        server.await_metric("tickcast_ticks_received_total", &[], f64::from(n));
    }
    client.take_in();
    let mut seen = Vec::new();
    loop {
        match client.next() {
            Got::Close(goodbye) => return (seen, goodbye),
            Got::End => panic!("no goodbye"),
            got => seen.push(got),
        }
    }
}

#[test]
fn every_loses_nothing_until_it_is_closed_for_being_too_slow() {
    let server = Server::start(|settings| {
        settings.fanout.send_buffer_bytes = 8 << 10;
        settings.fanout.outbox_bytes_max = 64 << 10;
        settings.limits.ping_interval = Duration::ZERO;
    });
    let mut latest = server.client().narrow();
    latest.subscribe(&["A"], 1);
    let mut every = server.client().narrow();
    assert_eq!(subscribe(&mut every, "A", json!({"delivery": "every"}))["status"], "success");
    let (seen, goodbye) = overflow(&server, &mut every);
    assert_eq!(goodbye, Some((4408, "too slow: too much waiting".into())));
    let prices = seen.iter().map(|got| match got {
        Got::Json(tick) => tick["data"]["ltp"].as_f64().expect("a price"),
        other => panic!("{other:?}"),
    });
    assert!(prices.zip(1..).all(|(price, n)| price == f64::from(n)), "every tick up to the goodbye");
    assert!(seen.len() > 10, "{} ticks", seen.len());
    assert_eq!(server.metric("tickcast_clients_connected", &[]), 1.0, "who takes the latest stays");
}

#[test]
fn a_reader_of_every_that_catches_up_in_time_gets_every_tick_in_both_formats() {
    let server = Server::start(|settings| {
        settings.fanout.send_buffer_bytes = 8 << 10;
        settings.fanout.outbox_bytes_max = 64 << 20;
    });
    let mut plain = server.client().narrow();
    subscribe(&mut plain, "A", json!({"delivery": "every"}));
    let mut packed = Packed::connect(&server);
    packed.client = packed.client.narrow();
    packed.request(json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1, "delivery": "every"}));
    let mut publisher = server.publisher();
    let ticks = 4_000;
    for first in (1..=ticks).step_by(1000) {
        publisher.batch((first..first + 1000).map(|n| ("A", f64::from(n))));
        server.await_metric("tickcast_ticks_received_total", &[], f64::from(first + 999));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=ticks).for_each(|n| assert_eq!(price(&mut plain), f64::from(n))));
        for n in 1..=ticks {
            let (_, tick) = packed.tick();
            assert_eq!((tick.seq, tick.ltp()), (n as u64, Some(i64::from(n) * 100)));
        }
    });
    // Once each at least; who catches up between two batches falls behind again.
    assert!(server.metric("tickcast_delivery_delay_seconds_count", &[]) >= 2.0, "both had been behind");
    assert_eq!(server.metric("tickcast_ticks_merged_total", &[]), 0.0);
}

#[test]
fn seq_has_no_gap_for_what_a_user_could_not_have_seen() {
    let keys = Keys::new(&[("asha", "angel"), ("ravi", "dhan")]);
    let server = Server::with_factory(Arc::new(FakeBroker::default()), |s| keys.set(s));
    let mut asha = Packed::connect_with(&server, "key-asha");
    let mut ravi = Packed::connect_with(&server, "key-ravi");
    asha.subscribe("INFY", 1);
    ravi.subscribe("INFY", 1);
    let mut publisher = server.publisher();
    publisher.ltp("INFY", 1.0);
    publisher.json("NSE_INFY_LTP", &json!({"ltp": null}));
    publisher.send("NSE_INFY_LTP", b"{\"ltp\": nonsense");
    publisher.json("dhan_NSE_INFY_LTP", &json!({"ltp": 2.0}));
    publisher.json("NSE_INFY_DEPTH", &json!({"depth": {"buy": [], "sell": []}}));
    publisher.ltp("INFY", 3.0);
    let seen = |client: &mut Packed| {
        let (_, tick) = client.tick();
        (tick.seq, tick.ltp())
    };
    assert_eq!([seen(&mut asha), seen(&mut asha)], [(1, Some(100)), (2, Some(300))]);
    assert_eq!([seen(&mut ravi), seen(&mut ravi), seen(&mut ravi)], [(1, Some(100)), (2, Some(200)), (3, Some(300))]);
    // Who comes later goes on from the snapshot, in the numbers of its own broker.
    let mut late = Packed::connect_with(&server, "key-asha");
    late.subscribe("INFY", 1);
    assert_eq!(late.tick().1.seq, 2);
    publisher.ltp("INFY", 4.0);
    assert_eq!([seen(&mut late), seen(&mut asha)], [(3, Some(400)), (3, Some(400))]);
    assert_eq!(seen(&mut ravi), (4, Some(400)));
}

#[test]
fn pongs_and_pings_wait_for_no_broker_and_for_no_held_tick() {
    let script = Script::default();
    let server = Server::with_factory(Arc::new(script.clone()), |_| {});
    let mut publisher = server.publisher();
    let mut client = server.client();
    subscribe(&mut client, "A", json!({"max_rate": LONG}));
    publisher.batch([("A", 1.0), ("A", 2.0)]);
    assert_eq!(price(&mut client), 1.0);
    script.calls([Play::Hold]);
    client.send(json!({"action": "subscribe", "symbol": "B", "exchange": "NSE", "mode": 1, "request_id": "slow"}));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(script.until(|s| s.call_ids().len() == 2));
    client.frame(0x89, b"are you there");
    assert_eq!(client.next(), Got::Pong(b"are you there".into()));
    assert!(client.settled().is_empty(), "the ping was answered before the broker");
    let call = script.call_ids()[1];
    runtime.block_on(script.answer(call, Ok(None)));
    assert_eq!(client.json()["request_id"], "slow");
}
