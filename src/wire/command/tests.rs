//! The oddities of the protocol, one by one, and hostile input.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parse_text(text: &str) -> Result<Command, CommandError> {
    super::parse(text.as_bytes(), false, Format::Json, 5000)
}

fn refusal(text: &str) -> (ErrorCode, String) {
    let error = parse_text(text).map(|command| format!("{command:?}")).expect_err("refused");
    (error.code, error.message)
}

fn code(text: &str) -> ErrorCode {
    refusal(text).0
}

fn subscribe(text: &str) -> SubscribeRequest {
    match parse_text(text) {
        Ok(Command::Subscribe(request)) => request,
        other => panic!("{text}: {other:?}"),
    }
}

fn unsubscribe(text: &str) -> UnsubscribeRequest {
    match parse_text(text) {
        Ok(Command::Unsubscribe(request)) => request,
        other => panic!("{text}: {other:?}"),
    }
}

/// Symbol and mode of each entry, or its error code.
fn modes(text: &str) -> Vec<Result<(String, Mode), ErrorCode>> {
    let entry = |e: Entry| (e.instrument.symbol().to_owned(), e.mode);
    subscribe(text).entries.into_iter().map(|e| e.map(entry).map_err(|e| e.code)).collect()
}

fn choices(text: &str) -> Vec<Result<ModeChoice, ErrorCode>> {
    unsubscribe(text).entries.into_iter().map(|e| e.map(|e| e.mode).map_err(|e| e.code)).collect()
}

fn ok(symbol: &str, mode: Mode) -> Result<(String, Mode), ErrorCode> {
    Ok((symbol.into(), mode))
}

#[test]
fn what_is_no_object_or_no_json_is_told_apart() {
    for text in ["{oops", "", "{\"a\":}", "{} {}", "NaN"] {
        assert_eq!(refusal(text), (ErrorCode::InvalidJson, "Invalid JSON message".into()), "{text}");
    }
    for text in ["[]", "5", "\"x\"", "null", "[{}]"] {
        assert_eq!(code(text), ErrorCode::ServerError, "{text}");
    }
    assert_eq!(
        super::parse(b"{\"action\":\"\xff\"}", true, Format::Json, 5).expect_err("bad").code,
        ErrorCode::InvalidJson
    );
}

#[test]
fn the_action_may_stand_in_type_and_a_missing_one_is_none() {
    for text in ["{}", r#"{"action":""}"#, r#"{"action":null,"type":0}"#] {
        assert_eq!(refusal(text), (ErrorCode::InvalidAction, "Invalid action: None".into()), "{text}");
    }
    assert_eq!(refusal(r#"{"action":"x","type":"ping"}"#).1, "Invalid action: x");
    assert_eq!(refusal(r#"{"action":5}"#).1, "Invalid action: 5");
    assert_eq!(refusal(&format!(r#"{{"action":"{}"}}"#, "y".repeat(999))).1.len(), 16 + 64);
    for (text, want) in [
        (r#"{"action":"","type":"ping"}"#, "ping"),
        (r#"{"type":"get_supported_brokers"}"#, "get_supported_brokers"),
        (r#"{"action":"get_broker_info"}"#, "get_broker_info"),
        (r#"{"action":"auth"}"#, "authenticate"),
        (r#"{"action":"x","action":"\u0070ing"}"#, "ping"),
        (r#"{"type":"unsubscribe_all"}"#, "unsubscribe_all"),
        (r#"{"action":"subscribe_orders"}"#, "subscribe_orders"),
        (r#"{"action":"unsubscribe_orders"}"#, "unsubscribe_orders"),
    ] {
        assert_eq!(parse_text(text).expect(text).action(), want, "{text}");
    }
}

#[test]
fn the_key_has_two_names_and_must_be_a_string() {
    for (text, want) in [
        (r#"{"action":"authenticate","api_key":"a","apikey":"b"}"#, Some("a")),
        (r#"{"action":"auth","api_key":"","apikey":"b\n"}"#, Some("b\n")),
        (r#"{"action":"auth"}"#, None),
        (r#"{"action":"auth","api_key":5}"#, None),
    ] {
        let Ok(Command::Authenticate { key }) = parse_text(text) else { panic!("{text}") };
        assert_eq!(key.as_deref(), want, "{text}");
    }
}

#[test]
fn no_key_is_ever_printed() {
    let command = parse_text(r#"{"action":"auth","api_key":"secret"}"#).expect("a command");
    assert!(!format!("{command:?}").contains("secret"));
}

#[test]
fn the_single_form_takes_its_names_from_the_top() {
    let request =
        subscribe(r#"{"action":"subscribe","symbol":"INFY","exchange":"NSE","mode":"ltp","request_id":"r1"}"#);
    assert_eq!(request.request_id.expect("echoed").get(), "\"r1\"");
    assert_eq!(request.depth.levels(), 5);
    assert_eq!(request.entries.len(), 1);
    let empty_list = r#"{"action":"subscribe","symbols":[],"symbol":"INFY","exchange":"NSE"}"#;
    assert_eq!(modes(empty_list), [ok("INFY", Mode::Quote)]);
    for text in [r#"{"action":"subscribe"}"#, r#"{"action":"subscribe","symbol":"A"}"#, r#"{"action":"unsubscribe"}"#] {
        assert_eq!(code(text), ErrorCode::InvalidParameters, "{text}");
    }
}

#[test]
fn entries_lacking_a_name_are_skipped_and_anything_but_objects_is_refused() {
    assert_eq!(modes(r#"{"action":"subscribe","symbols":[{}]}"#), []);
    let text = r#"{"action":"subscribe","symbols":[{"exchange":"NSE"},{"symbol":"A","exchange":null},{"symbol":"","exchange":"NSE"},{"symbol":"TCS","exchange":"NSE"}]}"#;
    assert_eq!(modes(text), [ok("TCS", Mode::Quote)]);
    for symbols in [r#"["INFY"]"#, r#""INFY""#, r#"{"symbol":"A"}"#, "5", "[null]", "[[1]]"] {
        for action in ["subscribe", "unsubscribe"] {
            let text = format!(r#"{{"action":"{action}","symbols":{symbols}}}"#);
            assert_eq!(code(&text), ErrorCode::InvalidParameters, "{text}");
        }
    }
    assert_eq!(modes(r#"{"action":"subscribe","instruments":[{"symbol":"A","exchange":"B"}]}"#).len(), 1);
}

#[test]
fn modes_are_integers_or_labels_and_nothing_else() {
    for (mode, want) in [
        ("1", Mode::Ltp),
        ("3", Mode::Depth),
        ("\"LTP\"", Mode::Ltp),
        ("\" quote \"", Mode::Quote),
        ("\"dEpTh\"", Mode::Depth),
    ] {
        let text = format!(r#"{{"action":"subscribe","symbol":"A","exchange":"B","mode":{mode}}}"#);
        assert_eq!(modes(&text), [ok("A", want)], "{mode}");
    }
    for mode in ["0", "4", "-1", "null", "\"1\"", "true", "1.0", "1e0", "\"x\"", "\"\"", "[]", "99999999999999999999"] {
        for action in ["subscribe", "unsubscribe"] {
            let text = format!(r#"{{"action":"{action}","symbol":"A","exchange":"B","mode":{mode}}}"#);
            assert_eq!(code(&text), ErrorCode::InvalidMode, "{text}");
        }
    }
}

#[test]
fn an_entrys_mode_wins_over_the_requests() {
    let list = r#"[{"symbol":"A","exchange":"X"},{"symbol":"B","exchange":"X","mode":1},{"symbol":"C","exchange":"X","mode":"1"}]"#;
    let text = format!(r#"{{"action":"subscribe","mode":"Depth","symbols":{list}}}"#);
    assert_eq!(modes(&text), [ok("A", Mode::Depth), ok("B", Mode::Ltp), Err(ErrorCode::InvalidMode)]);
    let text = format!(r#"{{"action":"unsubscribe","mode":"Depth","symbols":{list}}}"#);
    let (ltp, depth) = (ModeChoice::Given(Mode::Ltp), ModeChoice::Given(Mode::Depth));
    assert_eq!(choices(&text), [Ok(depth), Ok(ltp), Err(ErrorCode::InvalidMode)]);
    let text = format!(r#"{{"action":"unsubscribe","symbols":{list}}}"#);
    assert_eq!(choices(&text)[0], Ok(ModeChoice::Unspecified));
    let text = format!(r#"{{"action":"unsubscribe","mode":7,"symbols":{list}}}"#);
    assert_eq!(choices(&text), [Err(ErrorCode::InvalidMode), Ok(ltp), Err(ErrorCode::InvalidMode)]);
    let text = format!(r#"{{"action":"subscribe","mode":7,"symbols":{list}}}"#);
    assert_eq!(code(&text), ErrorCode::InvalidMode);
    assert_eq!(choices(r#"{"action":"unsubscribe","symbol":"A","exchange":"B"}"#), [Ok(ModeChoice::Unspecified)]);
}

#[test]
fn depth_may_be_anything_small() {
    for (depth, levels) in
        [("20", 20), ("\"20\"", 5), ("null", 5), ("1.5", 5), ("-1", 5), ("true", 5), ("4294967295", u32::MAX)]
    {
        let text = format!(r#"{{"action":"subscribe","symbol":"A","exchange":"B","depth":{depth}}}"#);
        let got = subscribe(&text).depth;
        assert_eq!(got.levels(), levels, "{depth}");
        if let Depth::Other(raw) = got {
            assert_eq!(raw.get(), depth);
        }
    }
    let text = r#"{"action":"subscribe","symbol":"A","exchange":"B","depth_level":30}"#;
    assert_eq!(subscribe(text).depth.levels(), 30);
    let text = format!(r#"{{"action":"subscribe","symbol":"A","exchange":"B","depth":"{}"}}"#, "x".repeat(1000));
    assert_eq!(code(&text), ErrorCode::InvalidParameters);
}

#[test]
fn request_ids_are_echoed_verbatim_unless_null_or_unfit() {
    for id in ["4", "\"r\"", "false", "0", "[1, {\"a\":2}]", "1.50"] {
        let Ok(Command::UnsubscribeAll { request_id }) =
            parse_text(&format!(r#"{{"action":"unsubscribe_all","request_id":{id}}}"#))
        else {
            panic!("{id}")
        };
        assert_eq!(request_id.expect("echoed").get(), id);
    }
    let Ok(Command::SubscribeOrders { request_id: None }) =
        parse_text(r#"{"action":"subscribe_orders","request_id":null}"#)
    else {
        panic!("null is not echoed")
    };
    for id in
        [format!("\"{}\"", "x".repeat(5000)), "1e999".into(), "\"\\ud800\"".into(), "[".repeat(70) + &"]".repeat(70)]
    {
        let text = format!(r#"{{"action":"unsubscribe_all","request_id":{id}}}"#);
        assert_eq!(code(&text), ErrorCode::InvalidParameters, "{id}");
    }
    let error = parse_text(r#"{"action":"subscribe","request_id":9}"#).expect_err("no symbols");
    assert_eq!(error.request_id.expect("echoed").get(), "9");
    assert!(error.needs_auth);
}

#[test]
fn pings_echo_timestamp_and_id() {
    let Ok(Command::Ping { timestamp, ping_id }) = parse_text(r#"{"action":"ping","timestamp":12,"_pingId":"p1"}"#)
    else {
        panic!("a ping")
    };
    assert_eq!((timestamp.expect("echoed").get(), ping_id.expect("echoed").get()), ("12", "\"p1\""));
}

#[test]
fn unacceptable_names_fail_their_entry_only() {
    let long = "x".repeat(100);
    let text = json!({"action": "subscribe", "symbols": [
        {"symbol": long, "exchange": "NSE"}, {"symbol": "A\u{7}", "exchange": "NSE"}, {"symbol": 5, "exchange": "NSE"},
        {"symbol": "TCS:50", "exchange": "é".repeat(20)}, {"symbol": "M&M-EQ_1:50", "exchange": "NSE"}]});
    let entries = subscribe(&text.to_string()).entries;
    for (entry, symbol) in entries.iter().zip([&long[..64], "A\u{7}", "5", "TCS:50"]) {
        let error = entry.as_ref().expect_err("unacceptable");
        assert_eq!((error.symbol.as_str(), error.code), (symbol, ErrorCode::InvalidParameters));
    }
    assert!(entries[4].is_ok());
}

#[test]
fn too_many_entries_are_refused_with_advice() {
    let list = r#"{"symbol":"A","exchange":"B"},"#.repeat(5000);
    let fits = format!(r#"{{"action":"subscribe","symbols":[{}]}}"#, list.trim_end_matches(','));
    assert_eq!(subscribe(&fits).entries.len(), 5000);
    let over = format!(r#"{{"action":"subscribe","symbols":[{list}{{}}]}}"#);
    let (code, message) = refusal(&over);
    assert_eq!(code, ErrorCode::LimitExceeded);
    assert!(message.contains("5001") && message.contains("split"), "{message}");
}

fn options(format: Format, top: &str, entry: &str) -> Result<Options, &'static str> {
    let text = format!(r#"{{"action":"subscribe","mode":1{top},"symbols":[{{"symbol":"A","exchange":"B"{entry}}}]}}"#);
    match super::parse(text.as_bytes(), false, format, 10) {
        Ok(Command::Subscribe(mut request)) => request.entries.remove(0).map(|e| e.options).map_err(|e| {
            assert_eq!(e.code, ErrorCode::InvalidParameters);
            e.message
        }),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn options_stand_at_the_top_or_in_an_entry_which_wins() {
    let plain = options(Format::Json, "", "").expect("fine");
    assert_eq!(plain, Options::default());
    let both = options(
        Format::MsgPack,
        r#","snapshot":true,"max_rate":0,"feed_status":true,"range":true,"overload":true"#,
        r#","snapshot":false,"max_rate":2.5"#,
    )
    .expect("the entry's rate replaces the bad one");
    assert_eq!(both.snapshot, Some(false));
    assert_eq!(both.max_rate.map(MaxRate::per_second), Some(2.5));
    assert!(both.feed_status && both.range && both.overload);
    assert_eq!(options(Format::Json, r#","delivery":"every""#, "").map(|o| o.delivery), Ok(Delivery::Every));
    assert_eq!(MaxRate::new(1e-300).expect("above 0").interval().as_secs(), 86_400);
    assert_eq!(MaxRate::new(1000.0).expect("the largest").interval().as_millis(), 1);
}

#[test]
fn bad_options_fail_their_entry_with_a_reason() {
    for bad in [
        r#","snapshot":1"#,
        r#","max_rate":0"#,
        r#","max_rate":1000.1"#,
        r#","max_rate":-1"#,
        r#","max_rate":"5""#,
        r#","max_rate":1e999"#,
        r#","delivery":"all""#,
        r#","delivery":1"#,
        r#","range":"yes""#,
        r#","delivery":"every","max_rate":1"#,
        r#","delivery":"every","range":true"#,
        r#","mode":2,"range":true"#,
        r#","feed_status":0"#,
    ] {
        assert!(options(Format::MsgPack, "", bad).is_err(), "{bad}");
        assert!(bad.contains("mode") || options(Format::MsgPack, bad, "").is_err(), "{bad} at the top");
    }
    assert!(options(Format::Json, "", r#","range":true"#).is_err(), "range is MessagePack's");
}

#[test]
fn binary_messages_are_json_or_messagepack_as_agreed() {
    let json = br#"{"type":"auth","apikey":"key-a"}"#;
    let packed = transcode::to_msgpack(json).expect("JSON");
    for (payload, binary, format) in
        [(&json[..], true, Format::Json), (json, false, Format::MsgPack), (&packed, true, Format::MsgPack)]
    {
        let Ok(Command::Authenticate { key }) = super::parse(payload, binary, format, 10) else { panic!("{format:?}") };
        assert_eq!(key.as_deref(), Some("key-a"));
    }
    for (payload, binary, format) in [(&json[..], true, Format::MsgPack), (&packed, true, Format::Json)] {
        assert_eq!(super::parse(payload, binary, format, 10).expect_err("unfit").code, ErrorCode::InvalidJson);
    }
}

/// JSON values near the protocol's words.
fn near_json() -> impl Strategy<Value = serde_json::Value> {
    let word = prop::sample::select(vec![
        "action",
        "type",
        "subscribe",
        "unsubscribe",
        "symbols",
        "symbol",
        "exchange",
        "mode",
        "NSE",
        "depth",
        "ping",
        "max_rate",
        "delivery",
        "every",
        "range",
        "snapshot",
        "request_id",
        "auth",
        "api_key",
        "",
    ]);
    let leaf = prop_oneof![
        3 => word.clone().prop_map(serde_json::Value::from),
        1 => any::<String>().prop_map(serde_json::Value::from),
        1 => any::<i64>().prop_map(serde_json::Value::from),
        1 => any::<f64>().prop_map(serde_json::Value::from),
        1 => prop::sample::select(vec![json!(null), json!(true), json!(1), json!(3)]),
    ];
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::vec((word.clone(), inner), 0..8)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_gives_a_command_or_an_error_in_both_formats_alike(mut value in near_json(), act in any::<bool>()) {
        if let (true, Some(map)) = (act, value.as_object_mut()) {
            map.insert("action".into(), "subscribe".into());
        }
        let text = value.to_string();
        let packed = transcode::to_msgpack(text.as_bytes()).expect("JSON");
        let by_text = super::parse(text.as_bytes(), false, Format::MsgPack, 5000);
        let by_pack = super::parse(&packed, true, Format::MsgPack, 5000);
        let show = |got: Result<Command, CommandError>| match got {
            Ok(Command::Subscribe(request)) => format!("{:?}", request.entries),
            Ok(command) => format!("{command:?}"),
            Err(error) => format!("{error}"),
        };
        prop_assert_eq!(show(by_text), show(by_pack));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), binary in any::<bool>()) {
        for format in Format::ALL {
            let _ = super::parse(&bytes, binary, format, 10);
        }
    }
}
