//! Tests of canonical fields, own fields, raw prices and times, with each adapter's shape (protocol 2.3).

use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const RUPEES: Unit<'_> = Unit { broker: None, venue: "NSE" };

/// Runs `test` on the payload in both encodings.
fn both(payload: &Json, unit: Unit<'_>, test: impl Fn(Result<Decoded<'_>, DecodeError>)) {
    test(decode(&serde_json::to_vec(payload).unwrap(), Encoding::Json, unit));
    test(decode(&rmp_serde::to_vec(payload).unwrap(), Encoding::MsgPack, unit));
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Json {
    let mut out = Vec::new();
    write(&mut out);
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
}

/// In both encodings: own fields are the payload, lower modes are as given.
fn check(payload: Json, ltp: Json, quote: Json) {
    both(&payload, RUPEES, |decoded| {
        let decoded = decoded.unwrap();
        assert_eq!(written(|out| decoded.write_json_own(out)), payload);
        let got = written(|out| decoded.write_json_mode(Mode::Ltp, out));
        assert_eq!(got.to_string(), ltp.to_string());
        let got = written(|out| decoded.write_json_mode(Mode::Quote, out));
        assert_eq!(got.to_string(), quote.to_string(), "order matters too");
    });
}

fn book() -> Json {
    let level = |price: f64, n: u32| json!({"price": price, "quantity": n * 10, "orders": n});
    json!({"buy": [level(811.4, 1), level(811.35, 2), level(0.0, 0)], "sell": [level(811.45, 3), level(0.0, 0)]})
}

#[test]
fn zerodha_ticks_become_canonical() {
    check(
        json!({"symbol": "SBIN", "exchange": "NSE", "mode": "full", "ltp": 811.45, "ltt": 1761367199, "timestamp": 1761367200123u64,
            "volume": 100, "last_quantity": 5, "average_price": 810.5, "total_buy_quantity": 7, "total_sell_quantity": 8,
            "open": 800.0, "high": 815.0, "low": 799.5, "close": 805.25, "oi": 9, "open_interest": 10, "depth": book()}),
        json!({"ltp": 811.45, "ltt": 1761367199, "timestamp": 1761367200123u64}),
        json!({"ltp": 811.45, "ltt": 1761367199, "timestamp": 1761367200123u64, "open": 800.0, "high": 815.0, "low": 799.5,
            "close": 805.25, "volume": 100, "last_quantity": 5, "average_price": 810.5, "total_buy_quantity": 7,
            "total_sell_quantity": 8, "oi": 9}),
    );
    // An index: no depth, and fields nobody else has.
    check(
        json!({"ltp": 23406.85, "timestamp": 1, "volume": 0, "price_change": 1.5, "price_change_percent": 0.1, "open": 1.0}),
        json!({"ltp": 23406.85, "timestamp": 1}),
        json!({"ltp": 23406.85, "timestamp": 1, "open": 1.0, "volume": 0}),
    );
}

#[test]
fn angel_ticks_become_canonical() {
    check(
        json!({"ltp": 811.45, "ltt": 1761367199000u64, "symbol": "SBIN", "exchange": "NSE", "mode": 2, "timestamp": 1,
            "volume": 100, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "last_trade_quantity": 25,
            "average_price": 810.5, "total_buy_quantity": 854321.0, "total_sell_quantity": 912345.0}),
        json!({"ltp": 811.45, "ltt": 1761367199000u64, "timestamp": 1}),
        json!({"ltp": 811.45, "ltt": 1761367199000u64, "timestamp": 1, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5,
            "volume": 100, "last_quantity": 25, "average_price": 810.5, "total_buy_quantity": 854321.0,
            "total_sell_quantity": 912345.0}),
    );
}

#[test]
fn flattrade_and_shoonya_ticks_become_canonical() {
    for time in ["flattrade_timestamp", "shoonya_timestamp"] {
        check(
            json!({"mode": 3, "ltp": 811.45, time: 1761367199, "symbol": "SBIN", "exchange": "NSE", "timestamp": 1,
                "volume": 100, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "average_price": 810.5,
                "percent_change": 0.7, "last_quantity": 3, "last_trade_time": "10:15:00", "total_buy_quantity": 1,
                "total_sell_quantity": 2, "depth": book(), "depth_level": 5, "52_week_high": 900.0}),
            json!({"ltp": 811.45, "timestamp": 1}),
            json!({"ltp": 811.45, "timestamp": 1, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 100,
                "last_quantity": 3, "average_price": 810.5, "total_buy_quantity": 1, "total_sell_quantity": 2}),
        );
    }
}

#[test]
fn dhan_ticks_become_canonical_and_its_deep_depth_serves_nobody_else() {
    check(
        json!({"symbol": "SBIN", "exchange": "NSE", "timestamp": 1, "mode": 3, "ltp": 811.4500122070312, "ltt": 1761367199,
            "volume": 100, "open": 1.0, "oi": 5, "oi_high": 6, "oi_low": 4, "depth": book(), "depth_level": 5}),
        json!({"ltp": 811.4500122070312, "ltt": 1761367199, "timestamp": 1}),
        json!({"ltp": 811.4500122070312, "ltt": 1761367199, "timestamp": 1, "open": 1.0, "volume": 100, "oi": 5}),
    );
    let deep =
        json!({"symbol": "SBIN", "exchange": "NSE", "mode": 3, "timestamp": 1, "depth": book(), "depth_level": 20});
    both(&deep, RUPEES, |decoded| {
        let decoded = decoded.unwrap();
        let serves = Mode::ALL.map(|m| decoded.serves(m, Mode::Depth));
        assert_eq!(serves, [false, false, true]);
    });
}

#[test]
fn upstox_ticks_become_canonical_and_its_text_times_are_numbers() {
    check(
        json!({"symbol": "SBIN", "exchange": "NSE", "token": "NSE_EQ|X", "ltp": 811.45, "ltq": "12", "ltt": 1761367199000u64, "cp": 805.25}),
        json!({"ltp": 811.45, "ltt": 1761367199000u64}),
        json!({"ltp": 811.45, "ltt": 1761367199000u64, "close": 805.25, "last_quantity": 12}),
    );
    check(
        json!({"ltp": 811.45, "timestamp": "1761367200123", "depth": {"buy": [], "sell": [], "timestamp": "1"}}),
        json!({"ltp": 811.45, "timestamp": 1761367200123u64}),
        json!({"ltp": 811.45, "timestamp": 1761367200123u64}),
    );
}

#[test]
fn aliases_are_taken_in_the_contract_order_and_unusable_ones_are_passed_over() {
    check(
        json!({"last_price": "811.45", "ltp": null, "ltt": "10:15:00", "volume_traded": 1, "atp": 4.0, "avg_trade_price": 2.0,
            "average_traded_price": 3.0, "totalbuyqty": 5, "totalsellqty": "x", "open_interest": 6, "cp": 7.0, "close": "",
            "ltq": 8, "last_traded_quantity": 9}),
        json!({"ltp": 811.45, "ltt": "10:15:00"}),
        json!({"ltp": 811.45, "ltt": "10:15:00", "close": 7.0, "volume": 1, "last_quantity": 9, "average_price": 2.0,
            "total_buy_quantity": 5, "oi": 6}),
    );
}

#[test]
fn ltp_and_lower_modes_need_a_finite_price_and_a_higher_mode_is_never_served() {
    for (payload, usable) in [
        (r#"{"ltp":1}"#, true),
        (r#"{"ltp":0}"#, true),
        (r#"{"ltp":"1.5"}"#, true),
        (r#"{"last_price":1.5}"#, true),
        (r#"{"\u006ctp":1.5}"#, true),
        (r#"{"ltp":NaN}"#, false),
        (r#"{"ltp":Infinity}"#, false),
        (r#"{"ltp":1e999}"#, false),
        (r#"{"ltp":null}"#, false),
        (r#"{"ltp":"n/a"}"#, false),
        (r#"{"ltp":1,"ltp":null}"#, false),
        (r#"{"depth":{"ltp":1}}"#, false),
        (r#"{"last_traded_price":1500.5}"#, false),
        (r#"{}"#, false),
    ] {
        let decoded = decode(payload.as_bytes(), Encoding::Json, RUPEES).unwrap();
        for own in Mode::ALL {
            for mode in Mode::ALL {
                let want = (mode == own && mode != Mode::Ltp) || (mode <= own && usable);
                assert_eq!(decoded.serves(mode, own), want, "{payload} {mode:?} from {own:?}");
            }
        }
    }
}

#[test]
fn own_text_passes_byte_for_byte_and_a_later_duplicate_counts() {
    let text = br#" {"ltp": 1.50, "x":[NaN], "ltp": 2.50 ,"s":"a\/b"} "#;
    let decoded = decode(text, Encoding::Json, RUPEES).unwrap();
    let mut out = Vec::new();
    decoded.write_json_own(&mut out);
    assert_eq!(out, br#"{"ltp": 1.50, "x":[null], "ltp": 2.50 ,"s":"a\/b"}"#);
    out.clear();
    decoded.write_json_mode(Mode::Ltp, &mut out);
    assert_eq!(out, br#"{"ltp":2.50}"#, "the number's own text");
}

fn raw() -> Json {
    json!({"last_traded_price": 141840, "open": 141000, "high": 0, "low": -5, "cp": 141205, "volume": 5123456,
        "average_traded_price": "141512", "ltq": 25, "closed_price": 141200, "price": 7,
        "depth": {"buy": [{"price": 141795, "quantity": 100, "orders": 1}], "sell": [{"price": 141845, "quantity": 90, "orders": 2}]}})
}

#[test]
fn raw_prices_become_rupees_in_every_mode_and_in_the_depth() {
    both(&raw(), Unit { broker: Some("Angel"), venue: "NSE" }, |decoded| {
        let decoded = decoded.unwrap();
        assert!(decoded.serves(Mode::Ltp, Mode::Depth));
        assert_eq!(
            written(|out| decoded.write_json_own(out)),
            json!({"ltp": 1418.4, "last_traded_price": 1418.4, "open": 1410.0, "high": 0.0, "low": -0.05, "cp": 1412.05,
                "volume": 5123456, "average_traded_price": "1415.12", "ltq": 25, "closed_price": 1412.0, "price": 0.07,
                "depth": {"buy": [{"price": 1417.95, "quantity": 100, "orders": 1}],
                    "sell": [{"price": 1418.45, "quantity": 90, "orders": 2}]}})
        );
        assert_eq!(written(|out| decoded.write_json_mode(Mode::Ltp, out)), json!({"ltp": 1418.4}));
        assert_eq!(
            written(|out| decoded.write_json_mode(Mode::Quote, out)),
            json!({"ltp": 1418.4, "open": 1410.0, "high": 0.0, "low": -0.05, "close": 1412.05, "volume": 5123456,
                "last_quantity": 25, "average_price": 1415.12})
        );
        assert_eq!(decoded.price_scaled(Field::Ltp, 2), Some((141_840, false)));
        assert_eq!(decoded.price_scaled(Field::Ltp, 0), Some((1418, true)));
        assert_eq!(decoded.f64(Field::Ltp), Some(1418.4));
        assert_eq!(decoded.f64(Field::Volume), Some(5_123_456.0));
        let asks: Vec<_> = decoded.asks().map(|l| (l.price_scaled(2), l.quantity(), l.orders())).collect();
        assert_eq!(asks, [(Some((141_845, false)), Some(90), Some(2))]);
    });
}

#[test]
fn the_divisor_follows_broker_and_segment_and_is_never_guessed() {
    for (broker, venue, want) in [
        (Some("angel"), "NSE", Some(14_184_000_000i64)),
        (Some("angel"), "MCX", Some(14_184_000_000)),
        (Some("angel"), "CDS", Some(141_840)),
        (Some("angel"), "BCD", None),
        (Some("ZERODHA"), "NFO", Some(14_184_000_000)),
        (Some("zerodha"), "NSE_INDEX", Some(14_184_000_000)),
        (Some("zerodha"), "CDS", Some(141_840)),
        (Some("zerodha"), "BCD", Some(141_840_000)),
        (Some("zerodha"), "NCO", Some(141_840_000)),
        (Some("zerodha"), "LSE", None),
        (Some("dhan"), "NSE", None),
        (None, "NSE", None),
    ] {
        both(&raw(), Unit { broker, venue }, |decoded| match want {
            Some(want) => {
                let price = decoded.unwrap().price_scaled(Field::Ltp, 7);
                assert_eq!(price, Some((want, false)), "{broker:?} {venue}");
            }
            None => assert_eq!(decoded.err(), Some(DecodeError::UnknownUnit), "{broker:?} {venue}"),
        });
    }
    // With an `ltp`, or without an integer, nothing is raw and nothing is rescaled.
    for payload in [
        json!({"ltp": 1418.4, "last_traded_price": 141840}),
        json!({"ltp": null, "last_traded_price": 141840}),
        json!({"last_traded_price": 1418.4}),
        json!({"last_traded_price": null}),
    ] {
        both(&payload, Unit { broker: Some("angel"), venue: "NSE" }, |decoded| {
            assert_eq!(written(|out| decoded.unwrap().write_json_own(out)), payload);
        });
    }
}

#[test]
fn times_are_read_in_any_unit_and_the_first_usable_one_wins() {
    const MICROS: u64 = 1_761_367_200_123_456;
    for (payload, t_exch, age_basis) in [
        (json!({"exchange_timestamp": MICROS / 1_000_000, "ltt": 5}), 1_761_367_200_000_000, 1_761_367_200_000_000),
        (json!({"exchange_timestamp": MICROS / 1000}), 1_761_367_200_123_000, 1_761_367_200_123_000),
        (json!({"exchange_timestamp": MICROS}), MICROS, MICROS),
        (json!({"exchange_timestamp": MICROS * 1000 + 789}), MICROS, MICROS),
        (json!({"exchange_timestamp": "1761367200"}), 1_761_367_200_000_000, 1_761_367_200_000_000),
        (json!({"exchange_timestamp": 1_761_367_200.5}), 1_761_367_200_500_000, 1_761_367_200_500_000),
        (
            json!({"exchange_timestamp": 0, "flattrade_timestamp": 1_761_367_200}),
            1_761_367_200_000_000,
            1_761_367_200_000_000,
        ),
        (
            json!({"shoonya_timestamp": "x", "ltt": 1_761_367_200, "timestamp": MICROS / 1000}),
            1_761_367_200_000_000,
            1_761_367_200_123_000,
        ),
        (json!({"ltt": 99_999_999_999u64}), 99_999_999_999_000_000, 0),
        (json!({"ltt": 100_000_000_000u64}), 100_000_000_000_000, 0),
        (json!({"ltt": "10:15:00", "timestamp": "1761367200123"}), 0, 1_761_367_200_123_000),
        (json!({"ltt": -5, "timestamp": -5}), 0, 0),
        (json!({"ltt": 1e300}), 0, 0),
        (json!({}), 0, 0),
    ] {
        both(&payload, RUPEES, |decoded| {
            let decoded = decoded.unwrap();
            assert_eq!((decoded.t_exch().0, decoded.age_basis().0), (t_exch, age_basis), "{payload}");
        });
    }
}

#[test]
fn depth_is_found_under_both_names_and_read_with_its_blanks() {
    let sides = book();
    both(&json!({"ltp": 1, "bids": sides["buy"], "asks": sides["sell"]}), RUPEES, |decoded| {
        let decoded = decoded.unwrap();
        let bids: Vec<_> = decoded.bids().map(|l| l.price_scaled(2).unwrap().0).collect();
        assert_eq!(bids, [81_140, 81_135, 0]);
    });
    let text =
        br#"{ "depth" : { "sell" : [ { "price" : 1.25 , "orders" : 2 } , { "quantity":-1 } , 7 ] , "buy" : null } }"#;
    let decoded = decode(text, Encoding::Json, RUPEES).unwrap();
    assert_eq!(decoded.bids().count(), 0);
    let asks: Vec<_> = decoded.asks().map(|l| (l.price_scaled(2), l.quantity(), l.orders())).collect();
    assert_eq!(asks, [(Some((125, false)), None, Some(2)), (None, None, None), (None, None, None)]);
}

#[test]
fn a_payload_beyond_the_limit_is_refused() {
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(TICK_PAYLOAD_BYTES_MAX));
    assert_eq!(decode(text.as_bytes(), Encoding::Json, RUPEES).err(), Some(DecodeError::TooLarge));
}

fn cases(text: &str) -> Vec<Json> {
    let vectors: Json = serde_json::from_str(text).unwrap();
    vectors["cases"].as_array().unwrap().clone()
}

#[test]
fn ticks_as_zerodhas_library_gives_them_keep_their_prices() {
    let mut seen = 0;
    for case in cases(include_str!("../../../tests/vectors/broker-feeds/kite/kite_synthetic.json")) {
        for tick in case["expected"]["ticks"].as_array().into_iter().flatten() {
            seen += 1;
            both(tick, RUPEES, |decoded| {
                let decoded = decoded.unwrap();
                let price = tick["last_price"].as_f64();
                assert_eq!(decoded.f64(Field::Ltp), price, "{}", case["name"]);
                assert_eq!(written(|out| decoded.write_json_own(out)), *tick);
                let quote = written(|out| decoded.write_json_mode(Mode::Quote, out));
                for (ours, theirs) in [
                    ("ltp", "last_price"),
                    ("volume", "volume_traded"),
                    ("last_quantity", "last_traded_quantity"),
                    ("average_price", "average_traded_price"),
                    ("oi", "oi"),
                ] {
                    assert_eq!(quote.get(ours), tick.get(theirs), "{}: {ours}", case["name"]);
                }
                let buys = tick["depth"]["buy"].as_array().map_or(0, Vec::len);
                assert_eq!(decoded.bids().count(), buys, "{}", case["name"]);
                let seconds = tick["exchange_timestamp"].as_u64().unwrap_or(0);
                assert_eq!(decoded.t_exch().0, seconds * 1_000_000, "{}", case["name"]);
            });
        }
    }
    assert!(seen > 200, "{seen} ticks");
}

#[test]
fn raw_ticks_as_angels_library_gives_them_become_rupees() {
    let mut seen = 0;
    for case in cases(include_str!("../../../tests/vectors/broker-feeds/angel/angel_synthetic.json")) {
        let tick = &case["expected"]["tick"];
        let Some(paise) = tick["last_traded_price"].as_i64() else { continue };
        let (venue, places) = match tick["exchange_type"].as_u64() {
            Some(1) => ("NSE", 2),
            Some(2) => ("NFO", 2),
            Some(5) => ("MCX", 2),
            Some(13) => ("CDS", 7),
            _ => continue,
        };
        seen += 1;
        both(tick, Unit { broker: Some("angel"), venue }, |decoded| {
            let decoded = decoded.unwrap();
            assert_eq!(decoded.price_scaled(Field::Ltp, places), Some((paise, false)), "{}", case["name"]);
            let own = written(|out| decoded.write_json_own(out));
            assert_eq!(own["ltp"].as_f64(), Some(paise as f64 / 10f64.powi(places.into())), "{}", case["name"]);
            if let Some(bid) = tick["best_5_buy_data"][0]["price"].as_f64() {
                let want = bid / 10f64.powi(places.into());
                assert_eq!(own["best_5_buy_data"][0]["price"].as_f64(), Some(want), "{}", case["name"]);
            }
        });
    }
    assert!(seen > 20, "{seen} ticks");
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic_or_write_what_is_not_json(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..120),
            prop::collection::vec(prop::sample::select(b"\x00\x01\x02\x05{}[]\":,ltp0159.-eE\\u \x80\x81\x92\xa3\xcb\xcf\xc0".to_vec()), 0..60),
        ],
    ) {
        fuzz_payload(&bytes);
    }

    #[test]
    fn bytes_changed_in_a_real_payload_never_make_it_panic(
        json in any::<bool>(),
        flags in 0u8..8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let payload = if json { serde_json::to_vec(&raw()).unwrap() } else { rmp_serde::to_vec(&raw()).unwrap() };
        let mut bytes = vec![flags & 6 | u8::from(!json)];
        bytes.extend(payload);
        for (at, byte) in changes {
            let at = 1 + at.index(bytes.len() - 1);
            bytes[at] = byte;
        }
        fuzz_payload(&bytes);
    }
}
