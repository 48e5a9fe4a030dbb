//! Every limit of a client, reached and crossed, and every goodbye that goes with one.

mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use support::world::{error_frame, masked, stops};
use support::{Client, Got, Publisher, Server};
use tickcast::adapter::scripted::{Play, Script};
use tickcast::app::Hooks;
use tickcast::config::settings::CloseStyle;

fn close(code: u16, reason: &str) -> Got {
    Got::Close(Some((code, reason.into())))
}

fn entries(names: impl IntoIterator<Item = String>) -> Value {
    names.into_iter().map(|name| json!({"symbol": name, "exchange": "NSE"})).collect()
}

/// What the entries of a subscribe came to: their code if they have one, else their status.
fn outcomes(ack: &Value) -> Vec<&str> {
    let entries = ack["subscriptions"].as_array().expect("entries").iter();
    entries.map(|e| e["code"].as_str().or(e["status"].as_str()).expect("a status")).collect()
}

fn assert_closed(server: &Server, reason: &str) {
    server.await_metric("tickcast_sessions_closed_total", &[&format!("reason=\"{reason}\"")], 1.0);
}

#[test]
fn the_subscription_limit_accepts_up_to_it_and_refuses_whole_requests_at_it() {
    let server = Server::start(|s| s.limits.subscriptions_per_client = 3);
    let mut client = server.client();
    client.subscribe(&["A", "B"], 1);
    let symbols = entries(["B", "C", "C", "D", "E"].map(String::from));
    let ack = client.request(json!({"action": "subscribe", "mode": 1, "symbols": symbols}));
    assert_eq!(outcomes(&ack), ["warning", "success", "warning", "LIMIT_EXCEEDED", "LIMIT_EXCEEDED"]);
    assert_eq!(ack["status"], "partial");
    let one_more = json!({"action": "subscribe", "mode": 1, "symbol": "D", "exchange": "NSE"});
    assert_eq!(error_frame(&client.request(one_more.clone())).0, "LIMIT_EXCEEDED");
    client.request(json!({"action": "unsubscribe", "mode": 1, "symbol": "A", "exchange": "NSE"}));
    assert_eq!(client.request(one_more)["status"], "success");
    server.await_metric("tickcast_subscriptions_active", &[], 3.0);
    drop(client);
    server.finish();
}

#[test]
fn instruments_and_pending_adapter_calls_have_limits_of_their_own() {
    let server = Server::start(|s| s.limits.instruments = 2);
    let mut client = server.client();
    let request = json!({"action": "subscribe", "mode": 1, "symbols": entries(["A", "B", "C"].map(String::from))});
    assert_eq!(outcomes(&client.request(request.clone())), ["success", "success", "LIMIT_EXCEEDED"]);
    drop(client);
    server.finish();

    let script = Script::default();
    script.otherwise(Play::Hold);
    let server = Server::with_factory(Arc::new(script), |s| {
        s.limits.adapter_calls_pending = 2;
        s.adapters.call_timeout = Duration::from_millis(300);
        s.adapters.linger = Duration::ZERO;
    });
    let mut client = server.client();
    // The broker answers nobody: two calls time out, the third was never made.
    assert_eq!(outcomes(&client.request(request)), ["error", "error", "LIMIT_EXCEEDED"]);
    drop(client);
    server.finish();
}

#[test]
fn five_thousand_entries_fit_one_request_and_their_acknowledgements_stay_below_one_mebibyte() {
    let server = Server::start(|s| s.limits.subscriptions_per_client = 4000);
    let mut client = server.client();
    // The longest names there are, and a thousand entries that fail with a message.
    let name = |n: usize| json!({"symbol": format!("{n:0>64}"), "exchange": "E".repeat(32)});
    let symbols: Vec<_> = (0..5000).map(name).collect();
    for (action, failures) in [("subscribe", 1000), ("unsubscribe", 1000)] {
        client.send(json!({"action": action, "mode": 3, "symbols": symbols}));
        let ack = client.json();
        // The server's own separators have no blanks, as ours have not.
        assert!(ack.to_string().len() < 1 << 20, "{} bytes", ack.to_string().len());
        assert_eq!(ack["status"], "partial");
        let text = ack.to_string();
        assert_eq!(text.matches("\"status\":\"error\"").count(), failures);
        assert_eq!(text.matches("\"symbol\"").count(), 5000);
    }
    let too_many = json!({"action": "subscribe", "symbols": entries((0..5001).map(|n| n.to_string()))});
    assert_eq!(error_frame(&client.request(too_many)).0, "LIMIT_EXCEEDED");
    server.await_metric("tickcast_subscriptions_active", &[], 0.0);
    drop(client);
    server.finish();
}

#[test]
fn messages_are_limited_to_64_kb_before_authentication_and_1_mib_after() {
    let server = Server::start(|_| {});
    let ping = r#"{"action":"ping"}"#;
    let padded = |len: usize| ping.to_owned() + &" ".repeat(len - ping.len());
    let mut client = server.connect();
    assert_eq!(client.ask(&padded(64_000))["type"], "pong");
    client.text(&padded(64_001));
    assert_eq!(client.until_close(), close(1009, "message too large"));
    let mut client = server.client();
    assert_eq!(client.ask(&padded(1 << 20))["type"], "pong");
    // In fragments, none of which is too large by itself.
    client.frame(0x01, padded(1 << 19).as_bytes());
    client.frame(0x00, padded(1 << 19).as_bytes());
    client.frame(0x80, b" ");
    assert_eq!(client.until_close(), close(1009, "message too large"));
    server.await_metric("tickcast_sessions_closed_total", &["too_large"], 2.0);
    drop(client);
    server.finish();
}

#[test]
fn commands_beyond_the_burst_close_with_4429() {
    let server = Server::start(|s| {
        s.limits.commands_per_second = 1;
        s.limits.commands_burst = 50;
    });
    let mut client = server.client();
    let ping = masked(0x81, br#"{"action":"ping"}"#);
    client.raw(&ping.repeat(49));
    for _ in 0..49 {
        assert_eq!(client.json()["type"], "pong");
    }
    client.raw(&ping.repeat(20));
    assert_eq!(client.until_close(), close(4429, "too many requests"));
    assert_closed(&server, "command_rate");
    drop(client);
    server.finish();
}

#[test]
fn commands_that_wait_behind_a_slow_broker_are_bounded() {
    let script = Script::default();
    script.otherwise(Play::Hold);
    let server = Server::with_factory(Arc::new(script), |s| s.adapters.linger = Duration::ZERO);
    let mut client = server.client();
    client.send(json!({"action": "subscribe", "symbol": "A", "exchange": "NSE"}));
    // Answered at once, though the subscribe is pending; so it has been taken up.
    assert!(client.settled().is_empty());
    let waiting = masked(0x81, br#"{"action":"unsubscribe_all"}"#);
    client.raw(&waiting.repeat(1024));
    assert!(client.settled().is_empty());
    client.raw(&waiting);
    assert_eq!(client.until_close(), close(4429, "too many requests waiting"));
    assert_closed(&server, "command_backlog");
    drop(client);
    server.finish();
}

#[test]
fn a_client_that_says_nothing_is_closed_at_the_auth_deadline() {
    let server = Server::start(|s| s.limits.auth_deadline = Duration::from_millis(200));
    let mut client = server.connect();
    assert_eq!(client.until_close(), close(4401, "auth timeout"));
    // One that was in time stays, whatever comes later.
    let mut live = server.client();
    let mut witness = server.connect();
    assert_eq!(witness.until_close(), close(4401, "auth timeout"));
    assert!(live.settled().is_empty());
    drop((client, live, witness));
    server.finish();
}

#[test]
fn five_refused_keys_close_the_connection_and_an_address_has_a_limit_too() {
    let server = Server::start(|s| s.limits.auth_failures_per_ip_per_minute = 7);
    let wrong = json!({"action": "authenticate", "api_key": "wrong"});
    let mut client = server.connect();
    for _ in 0..5 {
        assert_eq!(error_frame(&client.request(wrong.clone())), ("AUTHENTICATION_ERROR", "Invalid API key"));
    }
    assert_eq!(client.until_close(), close(4401, "too many attempts"));
    let mut client = server.connect();
    for _ in 0..2 {
        assert_eq!(error_frame(&client.request(wrong.clone())).1, "Invalid API key");
    }
    // Even the right key is not looked at now.
    let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    let (code, message) = error_frame(&reply);
    assert_eq!(code, "AUTHENTICATION_ERROR");
    assert!(message.contains("wait a minute"), "{message}");
    assert_eq!(client.until_close(), close(4401, "too many attempts"));
    server.await_metric("tickcast_sessions_closed_total", &["auth_attempts"], 2.0);
    assert_eq!(server.metric("tickcast_auth_failures_total", &["too_many_attempts"]), 1.0);
    drop(client);
    server.finish();
}

#[test]
fn a_client_that_answers_no_ping_is_closed_with_1011() {
    let server = Server::start(|s| {
        s.limits.ping_interval = Duration::from_millis(200);
        s.limits.ping_timeout = Duration::from_millis(400);
    });
    let mut client = server.client();
    assert_eq!(client.until_close(), close(1011, "ping timeout"));
    assert_closed(&server, "ping_timeout");
    drop(client);
    server.finish();
}

/// The response to an upgrade request, until the server closes.
fn refused(server: &Server) -> String {
    let mut tcp = TcpStream::connect(server.ws).expect("it listens");
    tcp.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    tcp.write_all(request.as_bytes()).expect("sent");
    let mut response = String::new();
    tcp.read_to_string(&mut response).expect("text");
    response
}

#[test]
fn a_full_server_and_a_full_address_answer_503_with_retry_after() {
    for (per_address, what, cause) in [(9, "this server is full", "full"), (2, "your address", "address_full")] {
        let server = Server::start(|s| {
            s.limits.sessions = if per_address == 2 { 9 } else { 2 };
            s.limits.sessions_per_ip = per_address;
        });
        let clients = [server.client(), server.connect()];
        let response = refused(&server);
        assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        assert!(response.to_ascii_lowercase().contains("\r\nretry-after: 5\r\n"), "{response}");
        assert!(response.contains(what), "{response}");
        assert_eq!(server.metric("tickcast_handshakes_refused_total", &[&format!("\"{cause}\"")]), 1.0);
        drop(clients);
        server.await_metric("tickcast_sessions_closed_total", &[], 2.0);
        server.await_metric("tickcast_clients_connected", &[], 0.0);
        server.client();
        server.finish();
    }
}

#[test]
fn a_user_with_too_many_sessions_is_told_so_with_1013() {
    let server = Server::start(|s| s.limits.sessions_per_user = 2);
    let (mut first, mut second) = (server.client(), server.client());
    let mut third = server.connect();
    third.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    assert_eq!(third.until_close(), close(1013, "too many sessions of this user"));
    assert_closed(&server, "user_limit");
    // Authenticating again on a live connection counts no second time.
    for client in [&mut first, &mut second] {
        let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
        assert_eq!(reply["type"], "auth", "{reply}");
    }
    drop(first);
    server.await_metric("tickcast_clients_connected", &[], 1.0);
    server.client();
    drop((second, third));
    server.finish();
}

#[test]
fn a_drain_says_1001_or_nothing_at_all_as_the_setting_wants() {
    for (style, want) in [(CloseStyle::Frame, close(1001, "server going away")), (CloseStyle::Drop, Got::End)] {
        let server = Server::start(|s| s.server.close_style = style);
        let (mut client, mut stranger) = (server.client(), server.connect());
        client.subscribe(&["A"], 1);
        assert!(server.stop());
        assert_eq!(client.until_close(), want);
        assert_eq!(stranger.until_close(), want);
    }
}

fn order(n: usize, filler: usize) -> Value {
    json!({"type": "order_update", "user_id": "demo", "orderid": n, "filler": "x".repeat(filler)})
}

fn with_orders(server: &Server) -> Client {
    let mut client = server.client().narrow();
    assert_eq!(client.request(json!({"action": "subscribe_orders"}))["status"], "success");
    client
}

/// Publishes orders until a session is closed for `reason`; how many it took.
fn orders_until_closed(server: &Server, publisher: &mut Publisher, filler: usize, reason: &str) -> usize {
    let deadline = std::time::Instant::now() + support::PATIENCE;
    for n in 0.. {
        if server.metric("tickcast_sessions_closed_total", &[reason]) > 0.0 {
            return n;
        }
        assert!(std::time::Instant::now() < deadline, "nobody was closed for {reason}");
        publisher.json("BUS_demo_orders", &order(n, filler));
    }
    unreachable!("the numbers do not end")
}

#[test]
fn a_client_that_reads_no_orders_is_closed_with_4408_and_the_others_lose_none() {
    let server = Server::start(|s| {
        s.fanout.outbox_bytes_max = 64 << 10;
        s.fanout.send_buffer_bytes = 4096;
    });
    let mut idle = with_orders(&server);
    // Reads all the while, on a thread of its own.
    let mut reader = server.client();
    assert_eq!(reader.request(json!({"action": "subscribe_orders"}))["status"], "success");
    reader.subscribe(&["END"], 1);
    let reading = std::thread::spawn(move || {
        let mut numbers = Vec::new();
        loop {
            let message = reader.json();
            match message["orderid"].as_u64() {
                Some(n) => numbers.push(n),
                None => return numbers,
            }
        }
    });
    let mut publisher = server.publisher();
    let sent = orders_until_closed(&server, &mut publisher, 8 << 10, "outbox_full");
    server.await_metric("tickcast_bus_messages_total", &["order"], sent as f64);
    publisher.ltp("END", 1.0);
    let numbers = reading.join().expect("it read JSON");
    // Ticks and orders travel on different queues: the last ones may stand behind the mark.
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "a gap");
    assert!(numbers.len() + 64 > sent, "{} of {sent}", numbers.len());
    assert_eq!(idle.until_close(), close(4408, "too slow: too much waiting"));
    drop(idle);
    server.finish();
}

#[test]
fn a_lossless_lane_without_progress_is_given_up() {
    let server = Server::start(|s| {
        s.server.close_style = CloseStyle::Drop;
        s.limits.lossless_stall = Duration::from_millis(300);
        s.fanout.send_buffer_bytes = 4096;
        s.fanout.outbox_bytes_max = 256 << 20;
    });
    let mut idle = with_orders(&server);
    let mut publisher = server.publisher();
    orders_until_closed(&server, &mut publisher, 32 << 10, "stalled");
    // An eviction, so it ends as the setting wants.
    assert_eq!(idle.until_close(), Got::End);
    drop(idle);
    server.finish();
}

#[test]
fn order_updates_that_cannot_be_queued_close_their_sessions_rather_than_leave_a_hole() {
    let (stop, mut stopped) = stops();
    let server = Server::with_hooks(
        |s| {
            s.server.workers = 1;
            s.fanout.outbox_bytes_max = 64 << 20;
        },
        Hooks { before_command: Some(stop), ..Default::default() },
    );
    let mut client = server.client();
    assert_eq!(client.request(json!({"action": "subscribe_orders"}))["status"], "success");
    let mut publisher = server.publisher();
    let mut blocker = server.client();
    // The only worker stands still, so its queue of 65,536 orders fills.
    stopped.stop(&mut blocker);
    let total = 70_000;
    for batch in (0..total).collect::<Vec<_>>().chunks(10_000) {
        let items: Vec<_> = batch.iter().map(|n| ("BUS_demo_orders", order(*n, 0))).collect();
        publisher.send("BATCH", &rmp_serde::to_vec_named(&items).expect("MessagePack"));
    }
    server.await_metric("tickcast_bus_messages_total", &["\"order\""], total as f64);
    stopped.let_go();
    client.take_in();
    let mut next = 0;
    let end = loop {
        match client.next() {
            Got::Json(order) => {
                assert_eq!(order["orderid"], next, "no hole before the goodbye");
                next += 1;
            }
            end @ (Got::Close(_) | Got::End) => break end,
            _ => {}
        }
    };
    assert_eq!(end, close(4408, "too slow: lossless delivery impossible"));
    assert!((1..total).contains(&next), "{next}");
    assert_closed(&server, "lossless_gap");
    assert_eq!(blocker.json()["type"], "broker_info", "who wants no orders is not concerned");
    drop((client, blocker));
    server.finish();
}
