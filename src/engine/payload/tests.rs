//! Tests of both readers: grammar, hostile bytes, and agreement with serde_json and rmp-serde.

use super::*;
use crate::limits::PAYLOAD_DEPTH_MAX;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// What clients get for a JSON payload.
fn passed(text: &str) -> Result<String, DecodeError> {
    let mut nulls = json::Nulls::new();
    json::scan(text.as_bytes(), &mut nulls, |_, _, _| {})?;
    let mut out = Vec::new();
    json::write(text.as_bytes(), &nulls, &mut out);
    Ok(String::from_utf8(out).unwrap())
}

/// What clients get for a MessagePack payload; scan and transcoder must agree on what is one map.
fn transcoded(bytes: &[u8]) -> Result<String, DecodeError> {
    let mut out = Vec::new();
    let checked = msgpack::scan(bytes, |_, _| {});
    let written = msgpack::write_json(bytes, None, &mut out);
    if checked != Err(DecodeError::NotAnObject) {
        assert_eq!(checked, written, "{bytes:02x?}");
    }
    checked?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn json_that_is_valid_passes_byte_for_byte() {
    for text in [
        r#"{}"#,
        r#" { "a" : [ ] , "b":{ } } "#,
        r#"{"a":[1,-2.5e-3,0,{"b":[[]]}],"a":"\u00e9\ud83d\ude00\n\"","":null,"t":true,"f":false}"#,
        "{\"s\":\"h\u{e9}llo\u{7f}\"}",
        r#"{"n":1e308,"z":-0,"big":123456789012345678901234567890}"#,
    ] {
        assert_eq!(passed(text).as_deref(), Ok(text));
        serde_json::from_str::<Json>(text).unwrap();
    }
}

#[test]
fn what_python_writes_but_json_forbids_becomes_null() {
    let text = r#"{"ltp":NaN,"a":[Infinity,-Infinity,1e999],"s":"NaN","b":-1E+400}"#;
    assert_eq!(passed(text).unwrap(), r#"{"ltp":null,"a":[null,null,null],"s":"NaN","b":null}"#);
    let digits = format!("{{\"n\":{}}}", "9".repeat(400));
    assert_eq!(passed(&digits).unwrap(), r#"{"n":null}"#);
}

#[test]
fn json_that_clients_could_not_read_is_refused() {
    use DecodeError::*;
    for (text, want) in [
        ("", NotAnObject),
        ("[]", NotAnObject),
        ("null", NotAnObject),
        ("{", Truncated),
        ("{\"a\"", Truncated),
        ("{\"a\":", Truncated),
        ("{\"a\":1", Truncated),
        ("{\"a\":\"x", Truncated),
        ("{\"a\":1}x", Trailing),
        ("{\"a\":1}{}", Trailing),
        ("{\"a\":1,}", Syntax),
        ("{,}", Syntax),
        ("{\"a\":[1,]}", Syntax),
        ("{\"a\":[1}", Syntax),
        ("{\"a\":1]", Syntax),
        ("{\"a\" 1}", Syntax),
        ("{a:1}", Syntax),
        ("{'a':1}", Syntax),
        ("{\"a\":01}", Syntax),
        ("{\"a\":1.}", Syntax),
        ("{\"a\":.5}", Syntax),
        ("{\"a\":+1}", Syntax),
        ("{\"a\":1e}", Syntax),
        ("{\"a\":-}", Syntax),
        ("{\"a\":nul}", Syntax),
        ("{\"a\":nan}", Syntax),
        ("{\"a\":\"\n\"}", Syntax),
        ("{\"a\":\"\\x\"}", Syntax),
        ("{\"a\":\"\\u12g4\"}", Syntax),
        ("{\"a\":\"\\ud800\"}", NotText),
        ("{\"a\":\"\\ud800\\u0041\"}", NotText),
        ("{\"a\":\"\\udc00\"}", NotText),
    ] {
        assert_eq!(passed(text), Err(want), "{text}");
    }
    assert_eq!(json::scan(b"{\"a\":\"\xff\"}", &mut json::Nulls::new(), |_, _, _| {}), Err(NotText));
}

#[test]
fn nesting_ends_at_the_limit_in_both_encodings() {
    let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
    assert!(passed(&nested(PAYLOAD_DEPTH_MAX)).is_ok());
    assert_eq!(passed(&nested(PAYLOAD_DEPTH_MAX + 1)), Err(DecodeError::TooDeep));
    assert_eq!(passed(&nested(30_000)), Err(DecodeError::TooDeep));

    let nested = |n: usize| [b"\x81\xa1a".as_slice(), &vec![0x91; n - 1], b"\x01"].concat();
    assert!(transcoded(&nested(PAYLOAD_DEPTH_MAX)).is_ok());
    assert_eq!(transcoded(&nested(PAYLOAD_DEPTH_MAX + 1)), Err(DecodeError::TooDeep));
    assert_eq!(transcoded(&nested(30_000)), Err(DecodeError::TooDeep));
}

#[test]
fn the_vector_of_the_protocol_reads_as_it_says() {
    let bytes = b"\x82\xa3ltp\xcb\x40\x97\x72\x00\x00\x00\x00\x00\xa9timestamp\xcf\x00\x00\x01\x9a\x19\xaa\x91\x7b";
    assert_eq!(transcoded(bytes).unwrap(), r#"{"ltp":1500.5,"timestamp":1761367200123}"#);
}

#[test]
fn messagepack_becomes_the_json_python_would_write() {
    let text = |bytes: &[u8]| transcoded(bytes).unwrap();
    // Whole floats stay floats; 32-bit floats are printed at their own precision.
    assert_eq!(text(b"\x81\xa1a\xcb\x40\x97\x70\x00\x00\x00\x00\x00"), r#"{"a":1500.0}"#);
    assert_eq!(text(b"\x81\xa1a\xca\x44\x4a\xdc\xcd"), r#"{"a":811.45}"#);
    // NaN, infinities, extensions (timestamps among them).
    assert_eq!(text(b"\x82\xa1a\xcb\x7f\xf8\0\0\0\0\0\0\xa1b\xcb\xff\xf0\0\0\0\0\0\0"), r#"{"a":null,"b":null}"#);
    assert_eq!(text(b"\x82\xa1a\xd6\xff\x01\x02\x03\x04\xa1b\xc7\x02\x05\x01\x02"), r#"{"a":null,"b":null}"#);
    // Keys that are no text, bytes as text, integers of any width.
    assert_eq!(text(b"\x84\x05\x01\xff\x02\xc0\x03\xc3\x04"), r#"{"5":1,"-1":2,"null":3,"true":4}"#);
    assert_eq!(text(b"\x81\xc4\x01a\xc4\x02\xc3\xa9"), "{\"a\":\"\u{e9}\"}");
    assert_eq!(
        text(b"\x83\xa1a\xd3\x80\0\0\0\0\0\0\0\xa1b\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1c\xd0\x80"),
        r#"{"a":-9223372036854775808,"b":18446744073709551615,"c":-128}"#
    );
    assert_eq!(text(b"\x83\xa1a\x90\xa1b\x80\xa1c\x92\x80\x91\xc2"), r#"{"a":[],"b":{},"c":[{},[false]]}"#);
    assert_eq!(text(b"\x81\xa1a\xa5\"\\\n\x01\x7f"), "{\"a\":\"\\\"\\\\\\n\\u0001\x7f\"}");
}

#[test]
fn hostile_messagepack_is_refused_before_anything_is_done_for_it() {
    use DecodeError::*;
    for (bytes, want) in [
        (b"".as_slice(), Truncated),
        (b"\x90", NotAnObject),
        (b"\xdf\xff\xff\xff\xff", Truncated),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", Truncated),
        (b"\x81\xa1a\xdb\xff\xff\xff\xff", Truncated),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", Truncated),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff", Truncated),
        (b"\x81\xa1a\xc1", Syntax),
        (b"\x81\x90\x01", Syntax),
        (b"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01", Syntax),
        (b"\x81\xa1a\xa1\xff", NotText),
        (b"\x81\xa1\xff\x01", NotText),
        (b"\x80\xc0", Trailing),
    ] {
        assert_eq!(transcoded(bytes), Err(want), "{bytes:02x?}");
    }
}

/// Any JSON object; floats that MessagePack and JSON both carry.
fn object() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        (-1e7..1e7f64).prop_map(|p| Json::from((p * 100.0).round() / 100.0)),
        "\\PC{0,12}".prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    let value = leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6).prop_map(|m| Json::Object(m.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(".{0,6}", value, 0..8).prop_map(|m| Json::Object(m.into_iter().collect()))
}

proptest! {
    #[test]
    fn json_we_pass_on_reads_as_what_was_written(value in object(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let passed = passed(&text).unwrap();
        prop_assert_eq!(&passed, &text);
        let parsed = serde_json::from_str::<Json>(&passed).unwrap();
        prop_assert_eq!(parsed, serde_json::from_str::<Json>(&text).unwrap());
    }

    #[test]
    fn messagepack_we_transcode_reads_as_what_was_packed(value in object()) {
        let text = transcoded(&rmp_serde::to_vec(&value).unwrap()).unwrap();
        // Compared as text: without its `float_roundtrip`, serde_json reads some floats a digit off.
        prop_assert_eq!(text, serde_json::to_string(&value).unwrap());
    }

    #[test]
    fn a_truncated_payload_is_refused_and_never_panics(value in object(), at in any::<prop::sample::Index>()) {
        let text = serde_json::to_vec(&value).unwrap();
        let cut = &text[..at.index(text.len())];
        let scanned = json::scan(cut, &mut json::Nulls::new(), |_, _, _| {});
        prop_assert!(scanned.is_err());
        let packed = rmp_serde::to_vec(&value).unwrap();
        prop_assert!(transcoded(&packed[..at.index(packed.len())]).is_err());
    }

    #[test]
    fn json_is_accepted_exactly_when_serde_json_accepts_it(
        mut text in object().prop_map(|v| serde_json::to_vec(&v).unwrap()),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![prop::sample::select(b"{}[]\",:\\0-eE. \nu".to_vec()), any::<u8>()],
    ) {
        let at = at.index(text.len());
        text[at] = byte;
        let mut nulls = json::Nulls::new();
        let ours = json::scan(&text, &mut nulls, |_, _, _| {}).is_ok() && nulls.is_empty();
        let theirs = serde_json::from_slice::<serde_json::Map<String, Json>>(&text).is_ok();
        prop_assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn values_are_found_where_serde_json_finds_them(value in object()) {
        let text = serde_json::to_vec(&value).unwrap();
        let packed = rmp_serde::to_vec(&value).unwrap();
        for (key, want) in value.as_object().unwrap() {
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
                continue;
            }
            for (bytes, encoding) in [(&text, Encoding::Json), (&packed, Encoding::MsgPack)] {
                let got = Value { bytes, encoding }.get(key).unwrap();
                prop_assert_eq!(got.elements().count(), want.as_array().map_or(0, Vec::len));
                if let Some(want) = want.as_str() {
                    let text = got.text();
                    prop_assert_eq!(text.as_deref(), Some(want));
                } else if let Some(want) = want.as_f64() {
                    prop_assert_eq!(got.number().unwrap().f64(), want);
                }
            }
        }
    }

    #[test]
    fn no_bytes_make_the_helpers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let value = Value { bytes: &bytes, encoding };
            let _ = (value.number(), value.text(), value.get("a").is_some(), value.elements().count());
        }
    }
}

#[test]
fn numbers_keep_what_their_sender_wrote() {
    let number = |text: &'static str| Value { bytes: text.as_bytes(), encoding: Encoding::Json }.number();
    let written = |text| {
        let mut out = Vec::new();
        number(text)?.write_json(&mut out);
        Some(String::from_utf8(out).unwrap())
    };
    for (text, want) in [
        ("1500.050", Some("1500.050")),
        ("\"811.45\"", Some("811.45")),
        ("\" 7 \"", Some("7")),
        ("\"+7.5\"", Some("7.5")),
        ("\"007\"", Some("7.0")),
        ("\"abc\"", None),
        ("\"\"", None),
        ("\"1e999\"", None),
        ("1e999", None),
        ("NaN", None),
        ("-Infinity", None),
        ("null", None),
        ("true", None),
        ("{}", None),
    ] {
        assert_eq!(written(text).as_deref(), want, "{text}");
    }
    assert_eq!(json!(number("12.5").unwrap().f64()), json!(12.5));
    assert_eq!(number("854321.0").unwrap().u64(), Some(854_321));
    assert_eq!(number("-1").unwrap().u64(), None);
}
