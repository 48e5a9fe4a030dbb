//! Every synthetic vector of Zerodha's protocol. The captured ones are read by the run with `--features e2e`.

#[path = "kite/mod.rs"]
mod kite;

use kite::{cases, events, expected, ticks};
use serde_json::{Value, json};
use tickcast::adapter::native::broker::{Broker, Event, Message};
use tickcast::adapter::zerodha::Zerodha;

const BINARY: &str = include_str!("vectors/broker-feeds/kite/kite_synthetic.json");
const TEXT: &str = include_str!("vectors/broker-feeds/kite/kite_text.json");

/// Where implementations differ, what we do and why; everywhere else we do as Zerodha's Python library does, also with the
/// divisor of NCO (`ltp_nco_12`), which the other libraries do not know. The last part is the prices we read.
const CHOICES: [(&str, &str, &[f64]); 10] = [
    ("ltp_high_bit", "prices are i32, as documented and in three libraries: they may be negative", &[-1.0]),
    (
        "ltp_cds_above_i32",
        "the price of that choice: beyond 214.74 a currency wraps; no pair trades there",
        &[-209.496_729_6],
    ),
    (
        "len_zero_packet",
        "a packet of no known length costs itself only; the library loses the whole message",
        &[1573.15],
    ),
    ("len_3_packet", "as above", &[1573.15]),
    ("truncated_to_ltp_shape", "the declared length counts, not what is left: this is no LTP packet", &[]),
    ("truncated_full_to_quote_shape", "as above", &[]),
    ("truncated_in_token", "what is cut off is dropped; nothing is raised", &[]),
    ("truncated_length_field", "the good packets before the damage are kept", &[1573.15]),
    ("count_larger_than_packets", "as above", &[1573.15]),
    ("count_65535", "as above", &[1573.15]),
];

#[test]
fn every_binary_vector_gives_the_ticks_of_zerodha_s_own_library_or_of_a_stated_choice() {
    let mut chosen = 0;
    for case in cases(BINARY) {
        let name = case["name"].as_str().expect("a name");
        if let Some((_, _, prices)) = CHOICES.iter().find(|(choice, ..)| *choice == name) {
            chosen += 1;
            let got: Vec<f64> = ticks(&case).iter().map(|t| t["last_price"].as_f64().expect("a price")).collect();
            assert_eq!(got, *prices, "{name}");
            let raised = case["expected"].get("error").is_some();
            assert!(raised || ticks(&case) != expected(&case), "{name} is no choice: the library does the same");
            continue;
        }
        // The library never gets to see what its message handler takes for a heartbeat.
        assert!(case["expected"].get("error").is_none(), "{name}: an error needs a choice");
        assert_eq!(ticks(&case), expected(&case), "{name}");
    }
    assert_eq!(chosen, CHOICES.len(), "every choice has its vector");
}

#[test]
fn damage_is_counted_and_heartbeats_are_not_damage() {
    let damage = |name: &str| {
        let case = cases(BINARY).into_iter().find(|case| case["name"] == name).expect(name);
        events(&case).iter().filter(|event| **event == Event::Damaged).count()
    };
    for name in [
        "heartbeat_1byte",
        "heartbeat_2byte_zero",
        "empty_message",
        "three_bytes",
        "count_zero_with_junk",
        "trailing_bytes",
    ] {
        assert_eq!(damage(name), 0, "{name}");
    }
    for name in [
        "unknown_len_12",
        "unknown_len_200",
        "unknown_between_known",
        "truncated_quote_body",
        "count_65535",
        "four_bytes",
    ] {
        assert_eq!(damage(name), 1, "{name}");
    }
}

#[test]
fn every_text_vector_is_an_order_a_refusal_a_notice_or_nothing() {
    for case in cases(TEXT) {
        let name = case["name"].as_str().expect("a name");
        let mut out = Vec::new();
        Zerodha.decode(&mut (), Message::Text(case["text"].as_str().expect("text")), &mut out);
        match (name, out.as_slice()) {
            ("text_order_postback", [Event::Order(order)]) => {
                assert_eq!(order.token, Some(779_521));
                let expected = json!({"orderid": "220303000308932", "symbol": "SBIN", "exchange": "NSE", "action": "BUY",
                    "quantity": 1, "price": 0, "trigger_price": 0, "pricetype": "MARKET", "product": "CNC",
                    "order_status": "complete", "filled_quantity": 1, "pending_quantity": 0, "average_price": 470,
                    "rejection_reason": ""});
                assert_eq!(Value::Object(order.fields.clone()), expected);
            }
            ("text_error", [Event::Refused(text)]) => assert_eq!(text, "Invalid `api_key` or `access_token`."),
            ("text_message", [Event::Notice(text)]) => assert_eq!(text, "Broker notice text"),
            ("text_order_no_data" | "text_unknown_type" | "text_not_json" | "text_json_array", []) => {}
            (name, events) => panic!("{name}: {events:?}"),
        }
    }
}
