//! Every error code, provoked through the whole server, with exactly its keys.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use support::world::{FakeBroker, Keys, error_frame};
use support::{Client, Server};
use tickcast::app::Hooks;
use tickcast::wire::command::Command;
use tickcast::wire::error::ErrorCode;

/// `frame` must be an error of `code` that echoes `request_id`, if there is one, and it must have been counted.
fn assert_error(server: &Server, frame: &Value, code: ErrorCode, request_id: Option<Value>) -> String {
    let (got, message) = error_frame(frame);
    assert_eq!((got, frame.get("request_id")), (code.as_str(), request_id.as_ref()), "{frame}");
    let label = format!("code=\"{}\"", code.as_str());
    assert!(server.metric("tickcast_subscription_errors_total", &[&label]) >= 1.0, "{code:?} was not counted");
    message.to_owned()
}

/// A message that carries a reference for the operator.
fn assert_reference(message: &str) {
    let is_reference = |word: &str| word.len() == 6 && word.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(message.split([' ', '(', ')', ',', ';']).any(is_reference), "no reference in {message:?}");
}

fn assert_alive(client: &mut Client) {
    assert_eq!(client.ask(r#"{"action":"ping"}"#)["type"], "pong");
}

#[test]
fn authentication_error_when_the_key_is_missing_or_wrong() {
    let server = Server::start(|_| {});
    let mut client = server.connect();
    for (request, message) in [
        (json!({"action": "authenticate"}), "API key is required"),
        (json!({"action": "authenticate", "api_key": ""}), "API key is required"),
        (json!({"action": "auth", "apikey": "wrong"}), "Invalid API key"),
    ] {
        let reply = client.request(request);
        assert_eq!(assert_error(&server, &reply, ErrorCode::AuthenticationError, None), message);
    }
    assert_eq!(client.request(json!({"action": "auth", "apikey": "demo-key"}))["status"], "success");
    drop(client);
    server.finish();
}

#[test]
fn broker_errors_carry_the_true_reason_and_a_reference_and_leave_the_session_alive() {
    let keys = Keys::new(&["revoked", "nokind", "noinit", "noconnect"].map(|user| (user, "fake")));
    keys.revoke("revoked");
    let server = Server::with_factory(Arc::new(FakeBroker::default()), |s| keys.set(s));
    for (user, code, reason) in [
        ("revoked", ErrorCode::BrokerError, "No broker"),
        ("nokind", ErrorCode::BrokerError, "it is not installed"),
        ("noinit", ErrorCode::BrokerInitError, "the token has expired"),
        ("noconnect", ErrorCode::BrokerConnectionError, "no route to the broker"),
    ] {
        let mut client = server.connect();
        let message = assert_error(&server, &client.login(user), code, None);
        assert!(message.contains(reason), "{message}");
        assert_reference(&message);
        let request = json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "request_id": [1, {"a": null}]});
        let reply = client.request(request);
        let message = assert_error(&server, &reply, ErrorCode::BrokerError, Some(json!([1, {"a": null}])));
        assert_reference(&message);
        assert_alive(&mut client);
    }
    server.finish();
}

#[test]
fn not_authenticated_for_every_action_that_needs_it_even_when_it_is_wrong_in_itself() {
    let server = Server::start(|_| {});
    let mut client = server.connect();
    for action in ["subscribe", "unsubscribe", "unsubscribe_all", "subscribe_orders", "unsubscribe_orders"] {
        let reply = client.request(json!({"action": action, "request_id": action}));
        assert_error(&server, &reply, ErrorCode::NotAuthenticated, Some(action.into()));
    }
    let reply = client.request(json!({"action": "get_broker_info"}));
    assert_error(&server, &reply, ErrorCode::NotAuthenticated, None);
    drop(client);
    server.finish();
}

#[test]
fn invalid_parameters_action_json_and_mode() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    let parameters = [
        json!({"action": "subscribe"}),
        json!({"action": "subscribe", "symbols": "INFY"}),
        json!({"action": "subscribe", "symbols": ["INFY"]}),
        json!({"action": "subscribe", "symbol": "INFY", "exchange": "NSE", "depth": "x".repeat(40)}),
        json!({"action": "unsubscribe", "symbols": []}),
    ];
    for mut request in parameters {
        request["request_id"] = 7.into();
        let reply = client.request(request);
        assert_error(&server, &reply, ErrorCode::InvalidParameters, Some(7.into()));
    }
    for (request, shown) in [(json!({"request_id": 8}), "None"), (json!({"action": "fly", "request_id": 8}), "fly")] {
        let reply = client.request(request);
        let message = assert_error(&server, &reply, ErrorCode::InvalidAction, Some(8.into()));
        assert_eq!(message, format!("Invalid action: {shown}"));
    }
    for text in ["", "{", "nonsense", r#"{"action":"ping"} x"#] {
        assert_error(&server, &client.ask(text), ErrorCode::InvalidJson, None);
    }
    for mode in [json!(0), json!(4), json!(null), json!("1"), json!(true), json!(1.0), json!("Full"), json!([1])] {
        let request =
            json!({"action": "subscribe", "symbol": "INFY", "exchange": "NSE", "mode": mode, "request_id": "m"});
        let reply = client.request(request);
        assert_error(&server, &reply, ErrorCode::InvalidMode, Some("m".into()));
    }
    let reply = client.request(json!({"action": "unsubscribe", "symbol": "INFY", "exchange": "NSE", "mode": 9}));
    assert_error(&server, &reply, ErrorCode::InvalidMode, None);
    drop(client);
    server.finish();
}

#[test]
fn a_bad_entry_costs_that_entry_only() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    let reply = client.request(json!({"action": "subscribe", "symbols": [
        {"symbol": "INFY", "exchange": "NSE", "mode": 9},
        {"symbol": "x".repeat(65), "exchange": "NSE"},
        {"symbol": 5, "exchange": "NSE"},
        {"symbol": "TCS", "exchange": "NSE", "max_rate": -1},
        {"symbol": "SBIN", "exchange": "NSE"},
    ]}));
    let entries = reply["subscriptions"].as_array().expect("entries");
    let codes: Vec<_> = entries.iter().map(|e| e["code"].as_str().unwrap_or("-")).collect();
    assert_eq!(
        codes,
        ["INVALID_MODE", "INVALID_PARAMETERS", "INVALID_PARAMETERS", "INVALID_PARAMETERS", "-"],
        "{reply}"
    );
    assert_eq!((&reply["status"], &entries[4]["status"]), (&json!("partial"), &json!("success")));
    drop(client);
    server.finish();
}

#[test]
fn limit_exceeded_as_a_frame_at_the_limit() {
    let server = Server::start(|s| s.limits.subscriptions_per_client = 1);
    let mut client = server.client();
    client.subscribe(&["A"], 1);
    let reply =
        client.request(json!({"action": "subscribe", "symbol": "B", "exchange": "NSE", "mode": 1, "request_id": 1}));
    assert_error(&server, &reply, ErrorCode::LimitExceeded, Some(1.into()));
    drop(client);
    server.finish();
}

#[test]
fn processing_error_when_a_command_panics_and_the_session_goes_on() {
    let fault = |command: &Command| assert!(!matches!(command, Command::UnsubscribeAll { .. }), "an injected fault");
    let server = Server::with_hooks(|_| {}, Hooks { before_command: Some(Arc::new(fault)), ..Default::default() });
    let mut client = server.client();
    client.subscribe(&["INFY"], 1);
    let reply = client.request(json!({"action": "unsubscribe_all", "request_id": "p"}));
    let message = assert_error(&server, &reply, ErrorCode::ProcessingError, Some("p".into()));
    assert_reference(&message);
    let mut publisher = server.publisher();
    publisher.ltp("INFY", 3.0);
    assert_eq!(client.tick()["data"]["ltp"], 3.0, "its subscriptions are untouched");
    client.subscribe(&["TCS"], 1);
    drop(client);
    server.finish();
}

#[test]
fn server_error_for_json_that_is_no_object_and_when_the_key_store_breaks() {
    let keys = Keys::new(&[("alice", "fake"), ("bob", "fake")]);
    let server = Server::with_factory(Arc::new(FakeBroker::default()), |s| keys.set(s));
    let mut alice = server.client_of("alice");
    for text in ["[]", "5", "\"authenticate\"", "null"] {
        assert_error(&server, &alice.ask(text), ErrorCode::ServerError, None);
    }
    keys.ruin();
    let mut bob = server.connect();
    let reply = bob.login("bob");
    let message = assert_error(&server, &reply, ErrorCode::ServerError, None);
    assert_reference(&message);
    assert!(!message.contains("api_keys"), "the cause is for the log: {message}");
    assert_eq!(server.metric("tickcast_auth_failures_total", &["unavailable"]), 1.0);
    alice.subscribe(&["INFY"], 1);
    assert_alive(&mut bob);
    drop((alice, bob));
    server.finish();
}
