//! Every Angel vector of the feed against the decoder. Expected values are those of Angel's own Python library, except where
//! a choice is written beside the test.

use super::*;
use serde_json::Value;

const VECTORS: &str = include_str!("../../../../tests/vectors/broker-feeds/angel/angel_synthetic.json");

fn cases() -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    vectors["cases"].as_array().expect("cases").clone()
}

fn bytes(case: &Value) -> Vec<u8> {
    let hex = case["frame_hex"].as_str().expect("a packet");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn decoded(name: &str) -> Result<(Key, NativeTick), DecodeError> {
    let cases = cases();
    decode(&bytes(cases.iter().find(|case| case["name"] == name).expect(name)))
}

fn tick(name: &str) -> NativeTick {
    decoded(name).expect(name).1
}

/// The field's raw price in 1e-7 rupee.
fn price(tick: &Value, name: &str) -> Option<Price> {
    let places = if tick["exchange_type"] == 13 { 7 } else { 2 };
    Price::from_raw(tick[name].as_i64()?, places)
}

#[test]
fn all_packets_that_angels_library_reads_give_its_values() {
    // Choices: see the next test.
    let ours = ["depth20", "token_empty", "unknown_mode_9", "mode_0", "unknown_exchange_99", "snap_empty_book_flags0"];
    let mut compared = 0;
    for case in cases().iter().filter(|case| case["kind"] == "binary") {
        let name = case["name"].as_str().expect("a name");
        let want = &case["expected"]["tick"];
        if want.is_null() {
            assert!(matches!(decode(&bytes(case)), Err(DecodeError::Short { .. })), "{name}");
            continue;
        }
        if ours.contains(&name) {
            continue;
        }
        let (key, got) = decode(&bytes(case)).expect(name);
        compared += 1;
        assert_eq!(
            (u64::from(key.exchange()), key.token()),
            (want["exchange_type"].as_u64().unwrap(), want["token"].as_str().unwrap()),
            "{name}"
        );
        assert_eq!(Some(i64::from(got.mode.int())), want["subscription_mode"].as_i64(), "{name}");
        let count = |field: &str| want[field].as_i64().and_then(|n| u64::try_from(n).ok());
        let total = |field: &str| want[field].as_f64().map(|n| n.round() as u64);
        for (field, got, want) in [
            ("exchange time", got.exchange_ms, count("exchange_timestamp").filter(|&ms| ms > 0)),
            ("last quantity", got.last_quantity, count("last_traded_quantity")),
            ("volume", got.volume, count("volume_trade_for_the_day")),
            // Floats on the wire, shares in truth: rounded.
            ("buyers", got.total_buy_quantity, total("total_buy_quantity")),
            ("sellers", got.total_sell_quantity, total("total_sell_quantity")),
            ("open interest", got.oi, count("open_interest")),
            ("last trade", got.last_trade_ms, count("last_traded_timestamp").filter(|&s| s > 0).map(|s| s * 1000)),
        ] {
            assert_eq!(got, want, "{field} of {name}");
        }
        for (field, got) in [
            ("last_traded_price", got.ltp),
            ("average_traded_price", got.average_price),
            ("open_price_of_the_day", got.open),
            ("high_price_of_the_day", got.high),
            ("low_price_of_the_day", got.low),
            ("closed_price", got.close),
            ("upper_circuit_limit", got.upper_circuit),
            ("lower_circuit_limit", got.lower_circuit),
            ("52_week_high_price", got.week_52_high),
            ("52_week_low_price", got.week_52_low),
        ] {
            assert_eq!(got, price(want, field), "{field} of {name}");
        }
        for (field, side) in
            [("best_5_buy_data", got.depth.map(|d| d.bids)), ("best_5_sell_data", got.depth.map(|d| d.asks))]
        {
            let want = want[field].as_array().map(|levels| {
                let level = |level: &Value| Level {
                    price: price(level, "price").expect("in range"),
                    quantity: level["quantity"].as_u64().expect("a count"),
                    orders: level["no of orders"].as_u64().expect("a count"),
                };
                levels.iter().map(level).collect::<Vec<_>>()
            });
            assert_eq!(side.map(Vec::from), want, "{field} of {name}");
        }
    }
    assert_eq!(compared, 26);
}

#[test]
fn where_libraries_differ_ours_is_the_choice_written_here() {
    // No record says that it is a buyer's: places decide, and nobody is shown ten sellers.
    assert_eq!(tick("snap_empty_book_flags0").depth, Some(Depth::default()));
    // A flag other than 0 is a buyer, as in Angel's library.
    assert_eq!(tick("snap_flag_other").depth.expect("a book").bids[0].price, Price::from_raw(1, 2).unwrap());
    // A mode or an exchange that nobody documents is dropped and counted: a price of unknown unit is worse than none.
    assert_eq!(decoded("unknown_mode_9"), Err(DecodeError::Mode(9)));
    assert_eq!(decoded("mode_0"), Err(DecodeError::Mode(0)));
    assert_eq!(decoded("unknown_exchange_99"), Err(DecodeError::Instrument(99)));
    assert_eq!(decoded("token_empty"), Err(DecodeError::Instrument(1)));
    // One message is one packet: what follows is not read.
    assert_eq!(tick("two_packets_concatenated").ltp.map(Price::rupees), Some(1.0));
    // Depth 20 is gone at Angel; should it come, its best five are a book without a price. The exchange's time is at 27;
    // Angel's library reports the time of receipt instead.
    let depth_20 = tick("depth20");
    let book = depth_20.depth.expect("a book");
    assert_eq!((depth_20.mode, depth_20.ltp, depth_20.exchange_ms), (Mode::Depth, None, Some(1_746_171_226_000)));
    assert_eq!(book.bids[1], Level { price: Price::from_raw(141_795, 2).unwrap(), quantity: 10, orders: 1 });
    // The currency divisor is the documented one; the libraries leave it to their users, OpenAlgo divides by 100.
    assert_eq!(tick("ltp_cds").ltp.map(Price::rupees), Some(83.2525));
    // All eight bytes of a price count, and it may be negative.
    assert_eq!(tick("ltp_above_i32").ltp.map(Price::rupees), Some(50_000_000.0));
    assert_eq!(tick("ltp_negative").ltp.map(Price::rupees), Some(-37.63));
}

#[test]
fn a_last_trade_is_read_in_seconds_or_milliseconds_by_its_size() {
    let snap = cases().into_iter().find(|case| case["name"] == "snap_nse").expect("a snap quote");
    for (raw, want) in [
        (1_746_171_226_i64, Some(1_746_171_226_000)),
        (1_746_171_226_123, Some(1_746_171_226_123)),
        (0, None),
        (-5, None),
    ] {
        let mut packet = bytes(&snap);
        packet[123..131].copy_from_slice(&raw.to_le_bytes());
        assert_eq!(decode(&packet).expect("a snap quote").1.last_trade_ms, want, "{raw}");
    }
}

#[test]
fn values_outside_every_range_are_missing_and_never_wrap() {
    let snap = cases().into_iter().find(|case| case["name"] == "snap_nse").expect("a snap quote");
    let mut packet = bytes(&snap);
    packet[35..379].fill(0x80);
    let tick = decode(&packet).expect("a packet").1;
    assert_eq!((tick.ltp, tick.volume, tick.oi, tick.exchange_ms), (None, None, None, None));
    assert_eq!(tick.total_buy_quantity, None);
    packet[75..83].copy_from_slice(&f64::NAN.to_le_bytes());
    assert_eq!(decode(&packet).expect("a packet").1.total_buy_quantity, None);
}
