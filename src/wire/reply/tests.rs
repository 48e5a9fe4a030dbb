//! Every reply decoded again: exactly the protocol's keys, in its order, in both formats.

use super::*;
use serde_json::{Value, value::to_raw_value};

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

/// Compares text, so key order counts too; and the MessagePack form with the same keys.
fn check(write: impl FnOnce(&mut Vec<u8>), want: &str) {
    let mut out = Vec::new();
    write(&mut out);
    let want: Value = serde_json::from_str(want).expect("the expectation is JSON");
    assert_eq!(String::from_utf8(out.clone()).expect("UTF-8"), want.to_string());
    let packed = frame(Format::MsgPack, &out);
    let head = if packed[1] < 126 { 2 } else { 4 };
    assert_eq!(packed[0], 0x82);
    let decoded: (u8, Value) = rmp_serde::from_slice(&packed[head..]).expect("MessagePack");
    assert_eq!(decoded, (0, want));
}

#[test]
fn authentication() {
    check(
        |out| auth_success(out, "zerodha", "asha", 7),
        r#"{"type":"auth","status":"success","message":"Authentication successful","broker":"zerodha",
            "user_id":"asha","supported_features":{"ltp":true,"quote":true,"depth":true},"epoch":7}"#,
    );
}

fn entries(depth: &Depth) -> [AckEntry<'_>; 4] {
    let held = Subscribed { mode: Mode::Depth, depth, id: StreamId(70_000), scale: 2 };
    let entry = |symbol, outcome| AckEntry { symbol, exchange: "NSE", outcome };
    [
        entry("SBIN", AckOutcome::Success(held)),
        entry("TCS", AckOutcome::Duplicate(held)),
        entry("BADX", AckOutcome::Error { message: "why", code: None }),
        entry("INFY", AckOutcome::Error { message: "full", code: Some(ErrorCode::LimitExceeded) }),
    ]
}

#[test]
fn subscribe_acknowledgements() {
    let depth = Depth::Levels(20);
    let request_id = raw("\"r-17\"");
    check(
        |out| subscribe_ack(out, Format::Json, "dhan", &entries(&depth), Some(&request_id)),
        r#"{"type":"subscribe","status":"partial","subscriptions":[
            {"symbol":"SBIN","exchange":"NSE","status":"success","mode":"Depth","depth":20,"broker":"dhan"},
            {"symbol":"TCS","exchange":"NSE","status":"warning","message":"Already subscribed","mode":"Depth","depth":20,
             "broker":"dhan"},
            {"symbol":"BADX","exchange":"NSE","status":"error","message":"why","broker":"dhan"},
            {"symbol":"INFY","exchange":"NSE","status":"error","code":"LIMIT_EXCEEDED","message":"full","broker":"dhan"}],
            "message":"Subscription processing complete","broker":"dhan","request_id":"r-17"}"#,
    );
    check(
        |out| subscribe_ack(out, Format::MsgPack, "dhan", &entries(&depth)[..2], None),
        r#"{"type":"subscribe","status":"success","subscriptions":[
            {"symbol":"SBIN","exchange":"NSE","status":"success","mode":"Depth","depth":20,"id":70000,"scale":2,
             "broker":"dhan"},
            {"symbol":"TCS","exchange":"NSE","status":"warning","message":"Already subscribed","mode":"Depth","depth":20,
             "id":70000,"scale":2,"broker":"dhan"}],
            "message":"Subscription processing complete","broker":"dhan"}"#,
    );
    check(
        |out| subscribe_ack(out, Format::Json, "dhan", &[], None),
        r#"{"type":"subscribe","status":"success","subscriptions":[],"message":"Subscription processing complete",
            "broker":"dhan"}"#,
    );
    let odd = Depth::Other(raw("\"all\""));
    let mut out = Vec::new();
    subscribe_ack(&mut out, Format::Json, "dhan", &entries(&odd)[..1], None);
    assert!(String::from_utf8(out).expect("UTF-8").contains(r#""depth":"all""#));
}

#[test]
fn unsubscribe_acknowledgements() {
    let held = [InstrumentRef { venue: "NSE", symbol: "SBIN" }];
    let failed = [FailedEntry { symbol: "NOPE", exchange: "NSE", message: NOT_SUBSCRIBED }];
    let good = r#"{"symbol":"SBIN","exchange":"NSE","status":"success","broker":"dhan"}"#;
    let bad = r#"{"symbol":"NOPE","exchange":"NSE","status":"error",
        "message":"Client is not subscribed to this symbol/exchange/mode","broker":"dhan"}"#;
    for (successful, failed, status, goods, bads) in [
        (&held[..], &[][..], "success", good, ""),
        (&held, &failed, "partial", good, bad),
        (&[], &failed, "error", "", bad),
        (&[], &[], "success", "", ""),
    ] {
        check(
            |out| unsubscribe_ack(out, "dhan", successful, failed, Some(&to_raw_value(&4).expect("JSON"))),
            &format!(
                r#"{{"type":"unsubscribe","status":"{status}","message":"Unsubscription processing complete",
                    "successful":[{goods}],"failed":[{bads}],"broker":"dhan","request_id":4}}"#
            ),
        );
    }
}

#[test]
fn orders_brokers_and_pongs() {
    check(
        |out| orders_subscribed(out, Some(&raw("[1]"))),
        r#"{"type":"subscribe_orders","status":"success","message":"Subscribed to order updates","request_id":[1]}"#,
    );
    check(
        |out| orders_unsubscribed(out, None),
        r#"{"type":"unsubscribe_orders","status":"success","message":"Unsubscribed from order updates"}"#,
    );
    check(
        |out| broker_info(out, "dhan", "connected", "asha"),
        r#"{"type":"broker_info","status":"success","broker":"dhan","adapter_status":"connected","user_id":"asha"}"#,
    );
    check(
        |out| supported_brokers(out, &["angel", "dhan"]),
        r#"{"type":"supported_brokers","status":"success","brokers":["angel","dhan"],"count":2}"#,
    );
    check(
        |out| pong(out, 1_761_367_200_124, Some(&raw("12")), Some(&raw("\"p1\""))),
        r#"{"type":"pong","status":"success","server_timestamp":1761367200124,"client_timestamp":12,"_pingId":"p1"}"#,
    );
    check(|out| pong(out, 1, None, None), r#"{"type":"pong","status":"success","server_timestamp":1}"#);
}

#[test]
fn errors_have_exactly_their_keys() {
    check(
        |out| error(out, ErrorCode::InvalidJson, "not \"JSON\"", None),
        r#"{"status":"error","code":"INVALID_JSON","message":"not \"JSON\""}"#,
    );
    check(
        |out| error(out, ErrorCode::LimitExceeded, "full", Some(&raw("{\"a\":1}"))),
        r#"{"status":"error","code":"LIMIT_EXCEEDED","message":"full","request_id":{"a":1}}"#,
    );
}

#[test]
fn notices() {
    check(
        |out| feed_status(out, "dhan", FeedState::Down, 1_761_367_200_123, "socket closed"),
        r#"{"type":"feed_status","broker":"dhan","state":"down","since":1761367200123,"detail":"socket closed"}"#,
    );
    check(|out| overload(out, 2), r#"{"type":"overload","level":2}"#);
}

#[test]
fn a_json_session_gets_text_frames() {
    assert_eq!(frame(Format::Json, b"{}"), [0x81, 2, b'{', b'}']);
    assert_eq!(frame(Format::MsgPack, b"{}"), [0x82, 3, 0x92, 0, 0x80]);
}

#[test]
fn an_acknowledgement_of_5000_failures_stays_below_what_clients_accept() {
    let (symbol, exchange) = ("S".repeat(64), "E".repeat(32));
    let message = "a long reason why this could not be subscribed just now, with an id for the operator";
    let outcome = AckOutcome::Error { message, code: Some(ErrorCode::InvalidParameters) };
    let entries = vec![AckEntry { symbol: &symbol, exchange: &exchange, outcome }; 5000];
    let failed = vec![FailedEntry { symbol: &symbol, exchange: &exchange, message }; 5000];
    for count in [10, 4000, 5000] {
        let (mut subscribe, mut unsubscribe) = (b"before".to_vec(), Vec::new());
        subscribe_ack(&mut subscribe, Format::Json, "compositedge", &entries[..count], None);
        unsubscribe_ack(&mut unsubscribe, "compositedge", &[], &failed[..count], None);
        for ack in [&subscribe[6..], &unsubscribe] {
            assert!(ack.len() <= ACK_BYTES_MAX, "{} bytes for {count} entries", ack.len());
            let ack: Value = serde_json::from_slice(ack).expect("JSON");
            let list = ack.get("subscriptions").or(ack.get("failed")).and_then(Value::as_array).expect("a list");
            assert_eq!(list.len(), count);
            assert!(count > 10 || list[0]["message"] == message, "a small one keeps its reasons");
        }
    }
}
