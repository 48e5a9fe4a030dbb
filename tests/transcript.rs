//! The golden transcript: upstream's observed behaviour, line by line, with our decided deviations marked.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use support::world::{FakeBroker, Keys, error_frame, keys};
use support::{Client, Got, Server};
use tickcast::config::Settings;

fn users() -> Keys {
    let keys = Keys::new(&[("alice", "fake"), ("bob", "fake"), ("carol", "fake"), ("noinit", "fake")]);
    keys.revoke("carol");
    keys
}

fn settings(keys: &Keys) -> impl FnOnce(&mut Settings) {
    |settings| {
        keys.set(settings);
        settings.server.supported_brokers = vec!["fake".into(), "zerodha".into()];
    }
}

fn ack(entries: Value, status: &str) -> Value {
    json!({"type": "subscribe", "status": status, "subscriptions": entries,
           "message": "Subscription processing complete", "broker": "fake"})
}

fn unsubscribed(status: &str, successful: &[&str], failed: Value) -> Value {
    let entry = |s: &&str| json!({"symbol": s, "exchange": "NSE", "status": "success", "broker": "fake"});
    let successful: Vec<_> = successful.iter().map(entry).collect();
    json!({"type": "unsubscribe", "status": status, "message": "Unsubscription processing complete",
           "successful": successful, "failed": failed, "broker": "fake"})
}

fn market_data(symbol: &str, mode: u8, data: &Value) -> Value {
    json!({"type": "market_data", "symbol": symbol, "exchange": "NSE", "mode": mode, "data": data, "broker": "fake"})
}

#[test]
fn the_golden_transcript_with_our_deviations() {
    let (store, broker) = (users(), FakeBroker::default());
    let server = Server::with_factory(Arc::new(broker.clone()), settings(&store));
    let mut alice = server.connect();
    before_authentication(&mut alice);
    authentication(&mut alice);
    subscribing(&mut alice);
    broker_answers(&broker, &mut alice);
    let mut bus = server.publisher();
    let mut bob = server.client_of("bob");
    ticks_and_orders(&mut bus, &mut alice, &mut bob);
    assert_eq!(broker.calls_of("bob"), ["bob connect", "bob +NSE:INFY/LTP"]);
    unsubscribing(&broker, &mut bus, &mut alice, &mut bob);
    invalidation(&broker, &mut bus, &mut alice);
    drop((alice, bob));
    server.finish();
}

fn before_authentication(client: &mut Client) {
    let reply = client.ask("{oops");
    assert_eq!(reply, json!({"status": "error", "code": "INVALID_JSON", "message": "Invalid JSON message"}));
    assert_eq!(error_frame(&client.ask("[]")).0, "SERVER_ERROR");
    let reply = client.ask("{}");
    assert_eq!(reply, json!({"status": "error", "code": "INVALID_ACTION", "message": "Invalid action: None"}));
    let reply = client.ask(r#"{"action":"subscribe","symbol":"INFY","exchange":"NSE"}"#);
    assert_eq!(error_frame(&reply).0, "NOT_AUTHENTICATED");
    let mut pong = client.ask(r#"{"action":"ping","timestamp":12,"_pingId":"p1"}"#);
    assert!(pong["server_timestamp"].take().as_u64().is_some_and(|ms| ms > 1_700_000_000_000));
    assert_eq!(
        pong,
        json!({"type": "pong", "status": "success", "server_timestamp": null, "client_timestamp": 12, "_pingId": "p1"})
    );
    let reply = client.ask(r#"{"type":"get_supported_brokers"}"#);
    let want = json!({"type": "supported_brokers", "status": "success", "brokers": ["fake", "zerodha"], "count": 2});
    assert_eq!(reply, want);
}

fn authentication(client: &mut Client) {
    let reply = client.ask(r#"{"action":"authenticate","api_key":"wrong"}"#);
    assert_eq!(reply, json!({"status": "error", "code": "AUTHENTICATION_ERROR", "message": "Invalid API key"}));
    client.frame(0x82, br#"{"type":"auth","apikey":"key-alice"}"#);
    let mut reply = client.json();
    // Ours: the epoch, an additional key.
    assert!(reply["epoch"].take().is_u64(), "{reply}");
    assert_eq!(
        reply,
        json!({"type": "auth", "status": "success", "message": "Authentication successful", "broker": "fake",
               "user_id": "alice", "supported_features": {"ltp": true, "quote": true, "depth": true}, "epoch": null})
    );
}

fn subscribing(client: &mut Client) {
    let once = r#"{"action":"subscribe","symbol":"INFY","exchange":"NSE","mode":"ltp","request_id":"r1"}"#;
    let mut entry = json!({"symbol": "INFY", "exchange": "NSE", "status": "success", "mode": "LTP", "depth": 5,
                           "broker": "fake"});
    let mut want = ack(json!([entry]), "success");
    want["request_id"] = "r1".into();
    assert_eq!(client.ask(once), want);
    // Seed (D1): a warning, and still success overall.
    entry["status"] = "warning".into();
    entry["message"] = "Already subscribed".into();
    want["subscriptions"] = json!([entry]);
    assert_eq!(client.ask(once), want);
    // Ours (D13): TCS honours its own mode.
    let reply = client.ask(
        r#"{"action":"subscribe","mode":"Depth","depth":50,"symbols":[{"symbol":"BADX","exchange":"NSE"},
            {"symbol":"TCS","exchange":"NSE","mode":1},{"exchange":"NSE"}]}"#,
    );
    let bad = json!({"symbol": "BADX", "exchange": "NSE", "status": "error", "message": "Symbol not found",
                     "broker": "fake"});
    let tcs = json!({"symbol": "TCS", "exchange": "NSE", "status": "success", "mode": "LTP", "depth": 20,
                     "broker": "fake"});
    assert_eq!(reply, ack(json!([bad, tcs]), "partial"));
    let reply = client.ask(r#"{"action":"subscribe","symbols":[{"symbol":"BADX","exchange":"NSE"}]}"#);
    assert_eq!(reply, ack(json!([bad]), "partial"), "partial even when all failed");
    assert_eq!(client.ask(r#"{"action":"subscribe","symbols":[{}]}"#), ack(json!([]), "success"));
    // Ours: kinder than SERVER_ERROR, in the same frame.
    let reply = client.ask(r#"{"action":"subscribe","symbols":["INFY"]}"#);
    assert_eq!(error_frame(&reply).0, "INVALID_PARAMETERS");
    for mode in ["4", "null", "\"1\"", "true", "1.0"] {
        let reply = client.ask(&format!(r#"{{"action":"subscribe","symbol":"INFY","exchange":"NSE","mode":{mode}}}"#));
        assert_eq!(error_frame(&reply).0, "INVALID_MODE", "mode {mode}");
    }
    assert_eq!(error_frame(&client.ask(r#"{"action":"subscribe"}"#)).0, "INVALID_PARAMETERS");
    assert_eq!(
        client.ask(r#"{"action":"get_broker_info"}"#),
        json!({"type": "broker_info", "status": "success", "broker": "fake", "adapter_status": "connected",
               "user_id": "alice"})
    );
    let reply = client.ask(r#"{"action":"subscribe","symbol":"INFY","exchange":"NSE","mode":3}"#);
    assert_eq!((&reply["status"], &reply["subscriptions"][0]["mode"]), (&json!("success"), &json!("Depth")));
}

fn broker_answers(broker: &FakeBroker, _: &mut Client) {
    let calls = broker.calls_of("alice");
    let want = ["connect", "+NSE:INFY/LTP", "+NSE:BADX/Depth", "+NSE:TCS/LTP", "+NSE:BADX/Quote", "+NSE:INFY/Depth"];
    assert_eq!(calls, want.map(|call| format!("alice {call}")), "nothing twice, nothing for a refused request");
}

fn ticks_and_orders(bus: &mut support::Publisher, alice: &mut Client, bob: &mut Client) {
    let level = json!({"price": 1500.25, "quantity": 10, "orders": 1});
    let depth = json!({"ltp": 1500.5, "depth": {"buy": [level], "sell": []}});
    // Ours (D7): one frame for each mode held.
    bus.json("NSE_INFY_DEPTH", &depth);
    let mut frames = [alice.json(), alice.json()];
    frames.sort_by_key(|f| f["mode"].as_u64());
    assert_eq!(frames, [market_data("INFY", 1, &json!({"ltp": 1500.5})), market_data("INFY", 3, &depth)]);
    bus.json("NSE_INFY_QUOTE", &json!({"ltp": 1500.5}));
    assert_eq!(alice.json(), market_data("INFY", 1, &json!({"ltp": 1500.5})));
    // Ours (D8): a broker's prefix is understood.
    bus.json("fake_NSE_INFY_LTP", &json!({"ltp": 1}));
    assert_eq!(alice.json(), market_data("INFY", 1, &json!({"ltp": 1})));
    bus.json("zerodha_NSE_INFY_LTP", &json!({"ltp": 2}));
    let reply = alice.ask(r#"{"action":"subscribe_orders"}"#);
    let want = json!({"type": "subscribe_orders", "status": "success", "message": "Subscribed to order updates"});
    assert_eq!(reply, want);
    let order = json!({"type": "order_update", "user_id": "alice", "orderid": "1"});
    bus.json("FAKE_alice_orders", &order);
    assert_eq!(alice.json(), order, "and no tick of another broker's before it");
    bob.send(json!({"action": "subscribe", "symbol": "INFY", "exchange": "NSE", "mode": 1, "snapshot": false}));
    assert_eq!(bob.json()["status"], "success");
    bus.json("NSE_INFY_LTP", &json!({"ltp": 5}));
    for client in [alice, bob] {
        assert_eq!(client.json(), market_data("INFY", 1, &json!({"ltp": 5})));
    }
}

fn unsubscribing(broker: &FakeBroker, bus: &mut support::Publisher, alice: &mut Client, bob: &mut Client) {
    assert!(broker.calls_of("alice").is_empty(), "ticks call nobody");
    let failed = |symbol: &str, message: &str| json!([{"symbol": symbol, "exchange": "NSE", "status": "error", "message": message, "broker": "fake"}]);
    // Seed (D2): an error, and nobody is called.
    let not_held = "Client is not subscribed to this symbol/exchange/mode";
    let reply = alice.ask(r#"{"action":"unsubscribe","symbol":"NOPE","exchange":"NSE"}"#);
    assert_eq!(reply, unsubscribed("error", &[], failed("NOPE", not_held)));
    assert!(broker.calls_of("alice").is_empty());
    // Ours (D13): the top-level mode counts.
    let reply = alice.ask(r#"{"action":"unsubscribe","symbols":[{"symbol":"INFY","exchange":"NSE"}],"mode":"LTP"}"#);
    assert_eq!(reply, unsubscribed("success", &["INFY"], json!([])));
    assert_eq!(broker.calls_of("alice"), ["alice -NSE:INFY/LTP"]);
    let mut reply = alice
        .ask(r#"{"action":"unsubscribe","symbols":[{"symbol":"INFY","exchange":"NSE","mode":"x"}],"request_id":"u1"}"#);
    assert_eq!(reply["request_id"].take(), "u1");
    assert_eq!(reply["status"], "error");
    assert_eq!(keys(&reply["failed"][0]), ["broker", "exchange", "message", "status", "symbol"]);
    assert_eq!((&reply["failed"][0]["symbol"], &reply["successful"]), (&json!("INFY"), &json!([])));
    assert_eq!(error_frame(&alice.ask(r#"{"action":"unsubscribe"}"#)).0, "INVALID_PARAMETERS");
    // Ours (D3): Alice's feed is hers alone, and so is its end.
    alice.subscribe(&["INFY"], 1);
    alice.tick();
    let reply = alice.ask(r#"{"action":"unsubscribe","symbol":"INFY","exchange":"NSE","mode":1}"#);
    assert_eq!(reply, unsubscribed("success", &["INFY"], json!([])));
    assert_eq!(broker.calls_of("alice"), ["alice +NSE:INFY/LTP", "alice -NSE:INFY/LTP"]);
    bus.ltp("INFY", 6.0);
    assert_eq!(bob.tick()["data"]["ltp"], 6.0);
    assert_eq!(alice.ask(r#"{"type":"unsubscribe_all"}"#), unsubscribed("success", &["TCS", "INFY"], json!([])));
    assert_eq!(alice.ask(r#"{"type":"unsubscribe_all"}"#), unsubscribed("success", &[], json!([])));
    let mut calls = broker.calls_of("alice");
    calls.sort();
    assert_eq!(calls, ["alice -NSE:INFY/Depth", "alice -NSE:TCS/LTP"]);
    assert!(broker.calls_of("bob").is_empty());
}

fn invalidation(broker: &FakeBroker, bus: &mut support::Publisher, alice: &mut Client) {
    alice.subscribe(&["SBIN"], 1);
    assert_eq!(broker.calls_of("alice"), ["alice +NSE:SBIN/LTP"]);
    let payload = json!({"action": "invalidate", "user_id": "alice", "cache_type": "ALL"});
    bus.json("CACHE_INVALIDATE_ALL_alice", &payload);
    // Ours (D16): the adapter is rebuilt and everything replayed; nobody need authenticate again.
    let deadline = std::time::Instant::now() + support::PATIENCE;
    let mut calls = Vec::new();
    while calls.len() < 3 {
        calls.extend(broker.calls_of("alice"));
        assert!(std::time::Instant::now() < deadline, "{calls:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    assert_eq!(calls, ["alice disconnect", "alice connect", "alice +NSE:SBIN/LTP"]);
    let reply = alice.ask(r#"{"action":"subscribe","symbol":"INFY","exchange":"NSE"}"#);
    assert_eq!((&reply["type"], &reply["status"]), (&json!("subscribe"), &json!("success")), "{reply}");
    bus.ltp("SBIN", 7.0);
    assert_eq!(alice.json_where(|v| v["symbol"] == "SBIN")["data"]["ltp"], 7.0);
}

#[test]
fn a_user_without_a_broker_stays_past_the_grace_period_and_one_without_a_key_does_not() {
    let (store, broker) = (users(), FakeBroker::default());
    let settings = settings(&store);
    let server = Server::with_factory(Arc::new(broker), |s| {
        settings(s);
        s.limits.auth_deadline = Duration::from_millis(300);
    });
    let mut carol = server.connect();
    assert_eq!(error_frame(&carol.login("carol")).0, "BROKER_ERROR");
    let mut nobody = server.connect();
    assert_eq!(error_frame(&nobody.ask(r#"{"action":"authenticate","api_key":"wrong"}"#)).0, "AUTHENTICATION_ERROR");
    assert_eq!(nobody.until_close(), Got::Close(Some((4401, "auth timeout".into()))));
    // Carol came first, so her grace period is over too.
    assert_eq!(carol.ask(r#"{"action":"ping"}"#)["type"], "pong");
    let reply = carol.ask(r#"{"action":"subscribe","symbol":"INFY","exchange":"NSE"}"#);
    assert_eq!(error_frame(&reply).0, "BROKER_ERROR");
    drop((carol, nobody));
    server.finish();
}

#[test]
fn a_failed_initialisation_says_why_and_a_large_message_and_a_stop_close_as_agreed() {
    let (store, broker) = (users(), FakeBroker::default());
    let server = Server::with_factory(Arc::new(broker), settings(&store));
    // Ours: the true code and reason.
    let reply = server.connect().login("noinit");
    let (code, message) = error_frame(&reply);
    assert_eq!(code, "BROKER_INIT_ERROR");
    assert!(message.contains("the token has expired"), "{message}");
    let mut alice = server.client_of("alice");
    alice.text(&" ".repeat((1 << 20) + 1));
    assert!(matches!(alice.until_close(), Got::Close(Some((1009, _)))));
    let mut bob = server.client_of("bob");
    assert!(server.stop());
    assert_eq!(bob.until_close(), Got::Close(Some((1001, "server going away".into()))));
}
