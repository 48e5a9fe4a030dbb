//! What OpenAlgo's SDK needs of a server: its conformance checklist, one test per line, in its order.

mod support;

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Client, Got, Server, world};
use tickcast::adapter::scripted::{Play, Script};

/// Bytes per tick that fill a socket soon.
const BULK: usize = 32 << 10;

fn send_auth(client: &mut Client) {
    client.send(json!({"action": "authenticate", "api_key": "demo-key"}));
}

fn by_mode(mut ticks: Vec<Value>) -> Vec<Value> {
    ticks.sort_by_key(|t| t["mode"].as_u64());
    ticks
}

/// Ticks of A, large enough that a client that does not read falls behind, until it has.
fn flood(server: &Server, publisher: &mut support::Publisher) -> f64 {
    let deadline = Instant::now() + support::PATIENCE;
    let mut n = 0.0;
    while server.metric("tickcast_ticks_merged_total", &["session"]) < 20.0 {
        assert!(Instant::now() < deadline, "the client never fell behind");
        n += 1.0;
        publisher.json("NSE_A_LTP", &json!({"ltp": n, "filler": "x".repeat(BULK)}));
    }
    n
}

#[test]
fn c01_any_path_and_origin_without_subprotocol_or_extension() {
    let server = Server::start(|_| {});
    for (path, headers) in [
        ("/", ""),
        ("/ws/anything?x=1", "Origin: http://elsewhere.example:5000\r\n"),
        ("/x", "Sec-WebSocket-Protocol: unknown\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"),
    ] {
        let (mut client, head) = Client::connect_to(server.ws, path, headers);
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("sec-websocket-protocol") && !head.contains("sec-websocket-extensions"), "{head}");
        assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "the RFC's accept key: {head}");
        send_auth(&mut client);
        assert_eq!(client.json()["type"], "auth");
    }
    server.finish();
}

#[test]
fn c02_authentication_is_answered_well_within_5_s_even_by_a_broker_that_never_connects() {
    let script = Script::default();
    script.connects([Play::Hold]);
    let server = Server::with_factory(Arc::new(script.clone()), |s| s.adapters.linger = Duration::ZERO);
    let mut client = server.connect();
    let asked = Instant::now();
    send_auth(&mut client);
    let reply = client.json();
    assert!(asked.elapsed() < Duration::from_millis(4500), "{:?}", asked.elapsed());
    assert_eq!((&reply["type"], &reply["status"]), (&json!("auth"), &json!("success")));
    assert_eq!((&reply["broker"], &reply["user_id"]), (&json!("bus"), &json!("demo")));
    // A subscribe waits for the broker; what needs no broker does not wait for the subscribe.
    client.send(json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1}));
    assert!(client.settled().is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(script.connected());
    assert_eq!(client.json()["subscriptions"][0]["status"], "success");
    drop(client);
    server.finish();
}

#[test]
fn c03_a_socket_whose_key_was_refused_does_not_linger_until_the_grace_limit() {
    let server = Server::start(|_| {});
    let mut client = server.connect();
    let connected = Instant::now();
    client.send(json!({"action": "authenticate", "api_key": "wrong"}));
    assert_eq!(client.json()["code"], "AUTHENTICATION_ERROR");
    assert_eq!(client.until_close(), Got::Close(Some((4401, "auth timeout".into()))));
    let took = connected.elapsed();
    // Long before the 15 s that one has who never tried.
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(14), "a moment for another try: {took:?}");
    drop(client);
    server.finish();
}

#[test]
fn c04_pings_are_answered_while_the_data_queue_is_full_and_before_the_ticks_in_it() {
    let server = Server::start(|s| s.fanout.send_buffer_bytes = 4096);
    let (mut client, mut publisher) = (server.client().narrow(), server.publisher());
    client.subscribe(&["A"], 1);
    let last = flood(&server, &mut publisher);
    // Nothing was read so far. The pongs follow what the kernel holds already, and precede the tick that waits with us.
    client.frame(0x89, b"are you there?");
    client.send(json!({"action": "ping", "_pingId": "p"}));
    client.send(json!({"action": "subscribe", "symbol": "B", "exchange": "NSE", "mode": 1}));
    // The server has seen all three before the first byte is read.
    server.await_metric("tickcast_subscription_events_total", &["first_in"], 2.0);
    let mut order = Vec::new();
    let mut newest = 0.0;
    while newest < last {
        match client.next() {
            Got::Pong(payload) => order.push(format!("pong {}", String::from_utf8_lossy(&payload))),
            Got::Json(v) if v["type"] != "market_data" => order.push(v["type"].to_string()),
            Got::Json(v) => {
                newest = v["data"]["ltp"].as_f64().expect("a price");
                if newest == last {
                    order.push("newest tick".into());
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, ["pong are you there?", "\"pong\"", "\"subscribe\"", "newest tick"]);
    drop(client);
    server.finish();
}

#[test]
fn c05_late_and_unasked_pongs_are_tolerated() {
    let server = Server::start(|s| {
        s.limits.ping_interval = Duration::from_millis(200);
        s.limits.ping_timeout = Duration::from_secs(8);
    });
    let mut client = server.client();
    client.frame(0x8a, b"unasked");
    // The first pong is a whole ping interval late.
    let mut payloads = Vec::new();
    while payloads.len() < 3 {
        if let Got::Ping(payload) = client.next() {
            payloads.push(payload);
        }
    }
    for payload in &payloads {
        client.frame(0x8a, payload);
    }
    client.frame(0x8a, b"of another ping");
    assert!(client.settled().is_empty());
    assert_eq!(server.metric("tickcast_sessions_closed_total", &[]), 0.0);
    drop(client);
    server.finish();
}

#[test]
fn c06_single_and_bulk_requests_back_to_back_are_carried_out_in_order() {
    let server = Server::start(|_| {});
    let mut client = server.connect();
    // One write: authentication, and requests that did not wait for it.
    let requests = [
        json!({"action": "authenticate", "api_key": "demo-key"}),
        json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1, "depth": 5, "request_id": 1}),
        json!({"action": "subscribe", "symbols": [{"symbol": "B", "exchange": "NSE"}, {"symbol": "C", "exchange": "NSE"}],
               "mode": 2, "depth": 5, "request_id": 2}),
        json!({"action": "unsubscribe", "symbol": "A", "exchange": "NSE", "mode": 1, "request_id": 3}),
        json!({"action": "nonsense", "request_id": 4}),
        json!({"action": "unsubscribe", "symbols": [{"symbol": "B", "exchange": "NSE", "mode": 2}], "request_id": 5}),
        json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 3, "request_id": 6}),
        json!({"action": "unsubscribe_all", "request_id": 7}),
    ];
    let bytes: Vec<u8> = requests.iter().flat_map(|r| world::masked(0x81, r.to_string().as_bytes())).collect();
    client.raw(&bytes);
    assert_eq!(client.json()["type"], "auth");
    let replies: Vec<_> = (1..=7).map(|_| client.json()).collect();
    let ids: Vec<_> = replies.iter().map(|r| r["request_id"].as_u64().expect("echoed")).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
    let statuses: Vec<_> = replies.iter().map(|r| r["status"].as_str().expect("a status")).collect();
    assert_eq!(statuses, ["success", "success", "success", "error", "success", "success", "success"]);
    let left: Vec<_> = replies[6]["successful"].as_array().expect("entries").iter().map(|e| &e["symbol"]).collect();
    assert_eq!(left, ["C", "A"], "what was held at that moment");
    drop(client);
    server.finish();
}

#[test]
fn c07_the_mode_is_an_integer_and_names_come_back_exactly_as_subscribed() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    let names = [("M&M", "NSE"), ("TCS:50", "NSE"), ("SOL_INR", "CRYPTO"), ("NIFTY", "NSE_INDEX"), ("é-1", "NSE")];
    for (symbol, exchange) in names {
        for mode in [json!("ltp"), json!("Quote"), json!(3)] {
            let request = json!({"action": "subscribe", "symbol": symbol, "exchange": exchange, "mode": mode});
            assert_eq!(client.request(request)["status"], "success");
        }
        publisher.json(&format!("{exchange}_{symbol}_DEPTH"), &json!({"ltp": 1.5, "depth": {"buy": [], "sell": []}}));
        let ticks = by_mode((0..3).map(|_| client.tick()).collect());
        for (tick, mode) in ticks.iter().zip([1, 2, 3]) {
            assert_eq!((&tick["symbol"], &tick["exchange"]), (&json!(symbol), &json!(exchange)));
            assert!(tick["mode"].is_u64() && tick["mode"] == mode, "{tick}");
        }
    }
    drop(client);
    server.finish();
}

#[test]
fn c08_what_is_tagged_ltp_or_quote_has_an_ltp() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    for mode in 1..=3 {
        client.subscribe(&["A"], mode);
    }
    client.subscribe(&["END"], 1);
    let depth = json!({"buy": [{"price": 1.0, "quantity": 1, "orders": 1}], "sell": []});
    publisher.json("NSE_A_DEPTH", &json!({"depth": depth}));
    publisher.json("NSE_A_DEPTH", &json!({"ltp": null, "depth": depth}));
    publisher.ltp("END", 1.0);
    let modes: Vec<_> = client.ticks_before("END").iter().map(|t| t["mode"].clone()).collect();
    assert_eq!(modes, [3, 3]);
    publisher.json("NSE_A_DEPTH", &json!({"ltp": 2.5, "depth": depth}));
    publisher.ltp("END", 2.0);
    for tick in by_mode(client.ticks_before("END")) {
        assert_eq!(tick["data"]["ltp"], 2.5);
    }
    drop(client);
    server.finish();
}

#[test]
fn c09_a_depth_subscriber_gets_the_depth_and_never_a_tick_of_a_lower_mode() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    client.subscribe(&["A"], 3);
    client.subscribe(&["END"], 1);
    let level = |price: f64| json!({"price": price, "quantity": 75, "orders": 3});
    let depth = json!({"buy": [level(10.05), level(10.0)], "sell": [level(10.1)]});
    publisher.ltp("A", 1.0);
    publisher.json("NSE_A_QUOTE", &json!({"ltp": 1.0, "volume": 5}));
    publisher.json("NSE_A_DEPTH", &json!({"ltp": 10.05, "depth": depth}));
    publisher.ltp("END", 1.0);
    let ticks = client.ticks_before("END");
    assert_eq!(ticks.len(), 1, "{ticks:?}");
    assert_eq!(ticks[0]["data"]["depth"], depth);
    drop(client);
    server.finish();
}

#[test]
fn c10_ltp_quote_and_depth_of_one_symbol_each_get_their_frame() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    for mode in 1..=3 {
        client.subscribe(&["A"], mode);
    }
    publisher.json("NSE_A_DEPTH", &json!({"ltp": 5, "volume": 9, "depth": {"buy": [], "sell": []}}));
    let ticks = by_mode((0..3).map(|_| client.tick()).collect());
    let fields: Vec<_> = ticks.iter().map(|t| world::keys(&t["data"])).collect();
    assert_eq!(fields, [vec!["ltp"], vec!["ltp", "volume"], vec!["depth", "ltp", "volume"]]);
    assert!(client.settled().is_empty());
    drop(client);
    server.finish();
}

#[test]
fn c11_a_duplicate_subscribe_is_a_success_and_brings_no_second_copy() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    client.subscribe(&["A", "END"], 1);
    let twice = json!([{"symbol": "A", "exchange": "NSE"}, {"symbol": "N", "exchange": "NSE"},
                       {"symbol": "N", "exchange": "NSE"}]);
    let ack = client.request(json!({"action": "subscribe", "symbols": twice, "mode": 1}));
    let statuses: Vec<_> = ack["subscriptions"].as_array().expect("entries").iter().map(|e| &e["status"]).collect();
    assert_eq!(
        (&ack["status"], statuses),
        (&json!("success"), vec![&json!("warning"), &json!("success"), &json!("warning")])
    );
    publisher.ltp("A", 1.0);
    publisher.ltp("N", 1.0);
    publisher.ltp("END", 1.0);
    assert_eq!(client.ticks_before("END").len(), 2);
    server.await_metric("tickcast_subscriptions_active", &[], 3.0);
    drop(client);
    server.finish();
}

#[test]
fn c12_after_unsubscribing_one_mode_the_others_keep_flowing() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    client.subscribe(&["END"], 1);
    for mode in 1..=3 {
        client.subscribe(&["A"], mode);
    }
    let depth = json!({"ltp": 5, "volume": 9, "depth": {"buy": [], "sell": []}});
    for (given_up, left) in [(2, vec![1, 3]), (3, vec![1]), (1, vec![])] {
        let entry = json!([{"symbol": "A", "exchange": "NSE", "mode": given_up}]);
        assert_eq!(client.request(json!({"action": "unsubscribe", "symbols": entry}))["status"], "success");
        publisher.json("NSE_A_DEPTH", &depth);
        publisher.ltp("END", 1.0);
        let modes: Vec<_> = by_mode(client.ticks_before("END")).iter().map(|t| t["mode"].clone()).collect();
        assert_eq!(modes, left);
    }
    drop(client);
    server.finish();
}

#[test]
fn c13_a_restarted_server_takes_the_replay_of_1500_symbols_in_one_frame() {
    let start = |listen: SocketAddr| {
        Server::start(|s| {
            s.server.listen = listen;
            s.limits.subscriptions_per_client = 2000;
        })
    };
    let names: Vec<String> = (0..1500).map(|n| format!("S{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = start(([127, 0, 0, 1], 0).into());
    let address = first.ws;
    let mut client = first.client();
    client.subscribe(&names, 1);
    assert!(first.stop());
    assert!(matches!(client.until_close(), Got::Close(Some((1001, _)))));
    // The old socket is still open at our side and must not block the new server.
    let second = start(address);
    let mut again = second.client();
    let ack = again.subscribe(&names, 1);
    assert_eq!((&ack["status"], ack["subscriptions"].as_array().map(Vec::len)), (&json!("success"), Some(1500)));
    let mut publisher = second.publisher();
    publisher.ltp("S0", 1.0);
    publisher.ltp("S1499", 2.0);
    assert_eq!((again.tick()["symbol"].clone(), again.tick()["symbol"].clone()), (json!("S0"), json!("S1499")));
    drop((client, again));
    second.finish();
}

#[test]
fn c14_order_updates_come_only_after_subscribe_orders_and_only_to_their_user() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    let mut other = server.client();
    client.subscribe(&["END"], 1);
    let order = |user: &str, id: u32| json!({"type": "order_update", "user_id": user, "orderid": id, "price": 811.5});
    let mut publish = |id: u32| {
        publisher.json("BUS_demo_orders", &order("demo", id));
        publisher.json("BUS_asha_orders", &order("asha", id));
        publisher.ltp("END", f64::from(id));
    };
    let orders_before_end = |client: &mut Client| {
        let end = |v: &Value| v["type"] == "market_data" || v["type"] == "order_update";
        let mut seen = Vec::new();
        loop {
            match client.json_where(end) {
                v if v["type"] == "market_data" => return seen,
                v => seen.push(v),
            }
        }
    };
    publish(1);
    assert!(orders_before_end(&mut client).is_empty());
    for _ in 0..2 {
        let reply = client.request(json!({"action": "subscribe_orders", "request_id": 9}));
        assert_eq!((&reply["status"], &reply["request_id"]), (&json!("success"), &json!(9)));
    }
    publish(2);
    // Orders travel beside the ticks: the one before the tick may come after it.
    let mut got = orders_before_end(&mut client);
    if got.is_empty() {
        got.push(client.json());
    }
    assert_eq!(got, [order("demo", 2)]);
    assert_eq!(client.request(json!({"action": "unsubscribe_orders"}))["type"], "unsubscribe_orders");
    publish(3);
    server.await_metric("tickcast_bus_messages_total", &["order"], 6.0);
    assert!(orders_before_end(&mut client).is_empty());
    assert!(client.settled().is_empty() && other.settled().is_empty());
    drop((client, other));
    server.finish();
}

#[test]
fn c15_unknown_keys_are_passed_over() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    let request = json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1, "apikey": "x",
                         "strategy": {"a": [1, 2]}, "Symbol": 5});
    assert_eq!(client.request(request)["status"], "success");
    drop(client);
    server.finish();
}

#[test]
fn c16_only_valid_json_leaves_whatever_the_adapter_sends() {
    let server = Server::start(|_| {});
    let (mut client, mut publisher) = (server.client(), server.publisher());
    for mode in 1..=3 {
        client.subscribe(&["A"], mode);
    }
    let body = br#"{"ltp": 5.5, "volume": NaN, "open": -Infinity, "x": [Infinity, {"y": NaN}], "depth": {"buy": [], "sell": []}}"#;
    publisher.send("NSE_A_DEPTH", body);
    // The client itself fails on anything that is not JSON.
    let ticks = by_mode((0..3).map(|_| client.tick()).collect());
    assert_eq!(ticks[1]["data"], json!({"ltp": 5.5}), "a number that is none is missing");
    assert_eq!(ticks[2]["data"]["x"], json!([null, {"y": null}]));
    publisher.send("NSE_A_LTP", br#"{"ltp": NaN}"#);
    publisher.ltp("A", 6.0);
    assert_eq!(client.tick()["data"]["ltp"], 6.0);
    drop(client);
    server.finish();
}
