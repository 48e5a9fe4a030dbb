//! Protocol checklist 5.2 with the SDK itself.

use crate::process::{ANYWHERE, PATIENCE, Server};
use crate::python::{Generation, Publisher, Sdk, callback_name, nse};
use serde_json::{Value, json};

fn depth_tick(price: f64) -> Value {
    json!({
        "symbol": "INFY", "exchange": "NSE", "mode": "full", "ltp": price, "ltt": 1_761_367_199,
        "timestamp": 1_761_367_200_123_u64, "open": 1569.15, "high": 1575.0, "low": 1561.05, "close": 1567.8,
        "volume": 1_192_471, "oi": 0,
        "depth": {"buy": [{"price": 1573.4, "quantity": 5, "orders": 1}], "sell": [{"price": 1573.7, "quantity": 172, "orders": 3}]}
    })
}

fn all_three(generation: Generation) {
    let server = Server::anywhere(&[]);
    let mut publisher = Publisher::heard(&server);
    let mut sdk = Sdk::connected(generation, &server);
    for mode in [1, 2, 3] {
        sdk.subscribe(mode, &[nse("INFY")]);
    }
    server.await_metric("tickcast_subscriptions_active", &[], 3.0);

    publisher.send("json", "NSE_INFY_DEPTH", &depth_tick(1573.7));
    let (symbol, ltp) = sdk.callback(1);
    assert_eq!(
        (symbol.as_str(), &ltp["ltp"], &ltp["timestamp"]),
        ("INFY", &json!(1573.7), &json!(1_761_367_200_123_u64))
    );
    let (_, quote) = sdk.callback(2);
    for (field, value) in [("ltp", 1573.7), ("open", 1569.15), ("high", 1575.0), ("low", 1561.05), ("close", 1567.8)] {
        assert_eq!(quote[field], value, "{field} of {quote}");
    }
    assert_eq!(quote["volume"], 1_192_471);
    let (_, depth) = sdk.callback(3);
    assert_eq!((&depth["ltp"], &depth["depth"]), (&json!(1573.7), &depth_tick(0.0)["depth"]));

    // A repeat changes nothing and brings no tick twice.
    sdk.subscribe(3, &[nse("INFY")]);
    server.await_metric("tickcast_subscription_events_total", &["duplicate"], 1.0);
    sdk.unsubscribe(2, &[nse("INFY")]);
    server.await_metric("tickcast_subscriptions_active", &[], 2.0);
    publisher.send("msgpack", "NSE_INFY_DEPTH", &depth_tick(1574.0));
    assert_eq!(sdk.callback(1).1["ltp"], 1574.0);
    assert_eq!(sdk.callback(3).1["ltp"], 1574.0);
    // What would have come twice, or as a quote, would have come before this.
    publisher.send("json", "NSE_INFY_DEPTH", &depth_tick(1575.5));
    assert_eq!((sdk.callback(1).1["ltp"].clone(), sdk.callback(3).1["ltp"].clone()), (json!(1575.5), json!(1575.5)));
    assert_eq!(sdk.0.kept(callback_name(2)), Vec::<Value>::new(), "no quote after unsubscribing");
    assert_eq!(sdk.0.kept(callback_name(3)), Vec::<Value>::new(), "no depth twice");
    sdk.call(json!({"op": "disconnect"}));
    server.await_metric("tickcast_subscriptions_active", &[], 0.0);
    sdk.0.finish();
    publisher.script.finish();
    server.stop();
}

#[test]
fn the_installed_sdk_gets_all_three_callbacks_and_keeps_two_when_one_mode_is_dropped() {
    all_three(Generation::Installed);
}

#[test]
fn sdk_2_gets_all_three_callbacks_and_keeps_two_when_one_mode_is_dropped() {
    all_three(Generation::Two);
}

/// A server on the client and bus ports that another one had.
fn same_ports(ws: &str, bus: &str) -> Server {
    let bus = format!("bus.bind={bus}");
    let control = "adapters.control_bind=tcp://127.0.0.1:0";
    let ports = ["--listen", ws, "--admin", "127.0.0.1:0", "--set", control, "--set", &bus];
    Server::start(&[&ports[..], &ANYWHERE[2..]].concat(), &[])
}

#[test]
fn sdk_2_replays_its_subscriptions_by_itself_when_the_server_was_killed_and_is_back() {
    let mut first = Server::anywhere(&[]);
    let mut publisher = Publisher::heard(&first);
    let mut sdk = Sdk::connected(Generation::Two, &first);
    for mode in [1, 2, 3] {
        sdk.subscribe(mode, &[nse("INFY"), nse("TCS")]);
    }
    sdk.call(json!({"op": "subscribe_orders"}));
    first.await_metric("tickcast_subscriptions_active", &[], 6.0);
    first.process.kill();

    let second = same_ports(&first.ws.to_string(), &first.bus);
    second.await_metric("tickcast_subscriptions_active", &[], 6.0);
    publisher.until_heard(&second);
    publisher.send("json", "NSE_INFY_DEPTH", &depth_tick(1580.0));
    for mode in [1, 2, 3] {
        assert_eq!(sdk.callback(mode).1["ltp"], 1580.0, "mode {mode}");
    }
    let order =
        json!({"type": "order_update", "user_id": "demo", "orderid": "26082200017", "order_status": "complete"});
    publisher.send("json", "BUS_demo_orders", &order);
    assert_eq!(sdk.0.event("order")["message"], order);
    second.stop();
}

#[test]
fn a_drained_server_is_followed_too_and_the_installed_sdk_comes_back_when_its_user_connects_again() {
    let first = Server::anywhere(&[]);
    let mut two = Sdk::connected(Generation::Two, &first);
    two.subscribe(1, &[nse("INFY")]);
    let mut one = Sdk::connected(Generation::Installed, &first);
    one.subscribe(1, &[nse("INFY")]);
    first.await_metric("tickcast_subscriptions_active", &[], 2.0);
    let (ws, bus) = (first.ws.to_string(), first.bus.clone());
    first.stop();
    let second = same_ports(&ws, &bus);
    second.await_metric("tickcast_subscriptions_active", &[], 1.0);
    let deadline = std::time::Instant::now() + PATIENCE;
    while one.call(json!({"op": "state"})) != json!({"connected": false, "authenticated": false}) {
        assert!(std::time::Instant::now() < deadline, "the old SDK did not notice the close");
    }
    assert_eq!(one.call(json!({"op": "connect"})), json!(true));
    one.subscribe(1, &[nse("INFY")]);
    second.await_metric("tickcast_subscriptions_active", &[], 2.0);
    let mut publisher = Publisher::heard(&second);
    publisher.ltp("INFY", 1573.15);
    assert_eq!(one.callback(1).1["ltp"], 1573.15);
    assert_eq!(two.callback(1).1["ltp"], 1573.15);
}

#[test]
fn a_thousand_symbols_in_one_frame_of_sdk_2_are_all_subscribed() {
    let server = Server::anywhere(&[]);
    let mut publisher = Publisher::heard(&server);
    let mut sdk = Sdk::connected(Generation::Two, &server);
    let names: Vec<_> = (0..1000).map(|i| nse(&format!("SYM{i}"))).collect();
    sdk.subscribe(1, &names);
    server.await_metric("tickcast_subscriptions_active", &[], 1000.0);
    let item = |i: u32| json!([format!("NSE_SYM{i}_LTP"), {"ltp": 100.0 + f64::from(i)}]);
    publisher.script.tell(&json!({"form": "batch", "items": (0..1000).map(item).collect::<Vec<_>>()}));
    for i in 0..1000 {
        let (symbol, data) = sdk.callback(1);
        assert_eq!((symbol, &data["ltp"]), (format!("SYM{i}"), &json!(100.0 + f64::from(i))));
    }
}
