//! Ticks from a ZeroMQ publisher to WebSocket clients, through the whole server.

mod support;

use serde_json::json;
use support::Server;

#[test]
fn a_published_tick_reaches_the_subscriber_with_its_fields_and_label() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    let mut publisher = server.publisher();
    client.subscribe(&["INFY"], 1);
    publisher.json("NSE_INFY_LTP", &json!({"ltp": 1500.5, "ltt": 7, "extra": "kept"}));
    assert_eq!(
        client.tick(),
        json!({"type": "market_data", "symbol": "INFY", "exchange": "NSE", "mode": 1,
               "data": {"ltp": 1500.5, "ltt": 7, "extra": "kept"}, "broker": "bus"})
    );
}

#[test]
fn one_symbol_in_three_modes_gets_one_frame_a_mode_and_a_mode_given_up_leaves_the_others() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    let mut publisher = server.publisher();
    for mode in 1..=3 {
        client.subscribe(&["INFY"], mode);
    }
    let depth = json!({"ltp": 10, "volume": 5, "depth": {"buy": [], "sell": []}});
    publisher.json("NSE_INFY_DEPTH", &depth);
    let mut modes: Vec<_> = (0..3).map(|_| client.tick()["mode"].clone()).collect();
    modes.sort_by_key(|m| m.as_u64());
    assert_eq!(modes, [1, 2, 3]);
    let ack = client.request(json!({"action": "unsubscribe", "symbol": "INFY", "exchange": "NSE", "mode": 2}));
    assert_eq!(ack["status"], "success", "{ack}");
    publisher.json("NSE_INFY_DEPTH", &depth);
    let mut modes: Vec<_> = (0..2).map(|_| client.tick()["mode"].clone()).collect();
    modes.sort_by_key(|m| m.as_u64());
    assert_eq!(modes, [1, 3]);
    assert!(client.settled().is_empty());
}

#[test]
fn a_late_subscriber_gets_the_last_value_as_a_snapshot_before_ticks() {
    let server = Server::start(|_| {});
    let mut first = server.client();
    let mut publisher = server.publisher();
    first.subscribe(&["INFY"], 1);
    publisher.ltp("INFY", 1.0);
    first.tick();
    let mut late = server.client();
    late.subscribe(&["INFY"], 1);
    let snapshot = late.tick();
    assert_eq!((&snapshot["snapshot"], &snapshot["data"]["ltp"]), (&json!(true), &json!(1.0)), "{snapshot}");
    publisher.ltp("INFY", 2.0);
    let tick = late.tick();
    assert_eq!((tick.get("snapshot"), &tick["data"]["ltp"]), (None, &json!(2.0)), "{tick}");
}

#[test]
fn a_snapshot_of_a_real_tick_never_says_sim() {
    let server = Server::start(|settings| settings.adapters.default = tickcast::config::settings::AdapterKind::Sim);
    let mut first = server.client();
    first.subscribe(&["INFY"], 1);
    assert_eq!(first.tick()["broker"], "sim");
    let mut publisher = server.publisher();
    publisher.ltp("INFY", 1.25);
    let real = first.json_where(|v| v["data"]["ltp"] == 1.25);
    assert_eq!(real["broker"], "bus", "{real}");
    let mut late = server.client();
    let ack = late.subscribe(&["INFY"], 1);
    let snapshot = late.tick();
    assert_eq!((&snapshot["snapshot"], &snapshot["data"]["ltp"]), (&json!(true), &json!(1.25)), "{snapshot}");
    assert_eq!((&snapshot["broker"], &ack["broker"]), (&json!("bus"), &json!("bus")), "{snapshot} {ack}");
}
