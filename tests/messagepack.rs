//! MessagePack clients (`tickcast.v1.msgpack`) through the whole server: the same market as JSON clients see, in integers.

mod support;

use serde_json::json;
use std::collections::BTreeMap;
use support::Server;
use support::packed::Packed;
use tickcast::wire::msgpack::Received;

#[test]
fn a_tick_is_the_same_for_both_formats() {
    let server = Server::start(|_| {});
    let mut packed = Packed::connect(&server);
    let mut plain = server.client();
    let entry = packed.subscribe("INFY", 3);
    assert_eq!(entry["scale"], 2);
    plain.subscribe(&["INFY"], 3);
    let mut publisher = server.publisher();
    let depth = json!({"ltp": 1500.05, "volume": 7, "open": 1499.5, "oi": 3, "exchange_timestamp": 1761367200123u64,
        "depth": {"buy": [{"price": 1500.0, "quantity": 5, "orders": 2}], "sell": [{"price": 1500.1, "quantity": 1, "orders": 1}]}});
    publisher.json("NSE_INFY_DEPTH", &depth);
    assert_eq!(plain.tick()["data"], depth);
    let (snapshot, tick) = packed.tick();
    assert_eq!((snapshot, u64::from(tick.id.0)), (false, entry["id"].as_u64().expect("an id")));
    assert_eq!((tick.mode, tick.ltp(), tick.t_exch.0), (3, Some(150_005), 1_761_367_200_123_000));
    assert_eq!(tick.numbers[..3], [Some(150_005), Some(7), Some(149_950)]);
    assert_eq!((tick.bids[0].price, tick.asks[0].price), (Some(150_000), Some(150_010)));
    assert!(server.metric("tickcast_encodes_total", &["mode=\"depth\"", "format=\"msgpack\""]) == 1.0);
}

#[test]
fn a_subscribe_brings_the_last_value_as_a_snapshot_whose_seq_the_ticks_go_on_from() {
    let server = Server::start(|_| {});
    let mut first = Packed::connect(&server);
    first.subscribe("INFY", 1);
    let mut publisher = server.publisher();
    for price in 1..=3 {
        publisher.ltp("INFY", f64::from(price));
    }
    while first.tick().1.ltp() != Some(300) {}
    let mut late = Packed::connect(&server);
    late.subscribe("INFY", 1);
    let (snapshot, last) = late.tick();
    assert_eq!((snapshot, last.ltp()), (true, Some(300)));
    publisher.ltp("INFY", 4.0);
    let (snapshot, tick) = late.tick();
    assert_eq!((snapshot, tick.ltp(), tick.seq), (false, Some(400), last.seq + 1));
}

#[test]
fn a_slow_reader_sees_gaps_in_seq_that_equal_what_was_merged_and_ends_with_the_newest() {
    let server = Server::start(|settings| settings.fanout.send_buffer_bytes = 8 << 10);
    let mut slow = Packed::connect(&server);
    let symbols = ["A", "B", "C"];
    let ids: Vec<u64> = symbols.iter().map(|s| slow.subscribe(s, 2)["id"].as_u64().expect("an id")).collect();
    let mut publisher = server.publisher();
    // Nobody reads: both kernel buffers fill, then ticks are merged.
    let rounds = 20_000;
    for n in 1..=rounds {
        for symbol in symbols {
            publisher.json(
                &format!("NSE_{symbol}_QUOTE"),
                &json!({"ltp": n, "volume": n, "open": 1, "high": 2, "low": 1, "close": 1}),
            );
        }
        if n % 500 == 0 {
            // In step with ingest, so that nothing is conflated before it got its seq.
            server.await_metric("tickcast_ticks_received_total", &[], f64::from(n * 3));
        }
    }
    let mut seen: BTreeMap<u64, Vec<Received>> = BTreeMap::new();
    while ids
        .iter()
        .any(|id| seen.get(id).and_then(|t| t.last()).and_then(Received::ltp) != Some(i64::from(rounds) * 100))
    {
        let (_, tick) = slow.tick();
        seen.entry(u64::from(tick.id.0)).or_default().push(tick);
    }
    let mut missing = 0;
    for ticks in seen.values() {
        for pair in ticks.windows(2) {
            assert!(pair[0].seq < pair[1].seq, "order per instrument");
            assert_eq!(
                pair[1].ltp().expect("a price") - pair[0].ltp().expect("a price"),
                (pair[1].seq - pair[0].seq) as i64 * 100
            );
            missing += pair[1].seq - pair[0].seq - 1;
        }
    }
    assert_eq!(server.metric("tickcast_ticks_merged_total", &["where=\"source\""]), 0.0);
    let merged = server.metric("tickcast_ticks_merged_total", &[]);
    assert!(missing > 0, "the reader was slow enough");
    assert_eq!(missing as f64, merged, "a gap is a merged tick, nothing else");
}

#[test]
fn text_frames_hold_json_and_an_undecodable_binary_one_is_invalid_json() {
    let server = Server::start(|_| {});
    let mut packed = Packed::connect(&server);
    packed.client.frame(0x82, &[0xc1]);
    assert_eq!(packed.frame().expect("a reply")["code"], "INVALID_JSON");
    // {"action": "ping"} as MessagePack.
    packed.client.frame(0x82, b"\x81\xa6action\xa4ping");
    assert_eq!(packed.frame().expect("a reply")["type"], "pong");
}
