//! Every Noren feed vector against the merge. The vectors' `merged_state` is a plain overwrite by key; where a rule says
//! otherwise the expected ticks are written out here.

use super::super::decode::{Message, decode};
use super::*;
use serde_json::Value;

const VECTORS: &str = include_str!("../../../../tests/vectors/broker-feeds/noren/noren_synthetic.json");

fn case(name: &str) -> Value {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    let cases = vectors["cases"].as_array().expect("cases");
    cases.iter().find(|case| case["name"] == name).expect(name).clone()
}

/// A book with what the case says is subscribed.
fn book(case: &Value) -> Book {
    let mut book = Book::default();
    for subscription in case["openalgo_subscriptions"].as_array().expect("subscriptions") {
        let (exchange, token) = subscription["scrip"].as_str().and_then(|s| s.split_once('|')).expect("a scrip");
        book.add(Key::named(Dialect::Shoonya, exchange, token).expect("a key"));
    }
    book
}

fn take(book: &mut Book, text: &str) -> Vec<(Key, NativeTick)> {
    let Some(Message::Feed(feed)) = decode(text) else { panic!("no market data: {text}") };
    let mut ticks = Vec::new();
    book.merge(Dialect::Shoonya, &feed, |key, tick| ticks.push((key, tick)));
    ticks
}

/// The ticks of each step.
fn ticks(name: &str) -> Vec<Vec<NativeTick>> {
    let case = case(name);
    let mut book = book(&case);
    let steps = case["steps"].as_array().expect("steps");
    let of = |step: &Value, book: &mut Book| take(book, step["message"].as_str().expect("text"));
    steps.iter().map(|step| of(step, &mut book).into_iter().map(|(_, tick)| tick).collect()).collect()
}

fn rupees(text: &str) -> Option<Price> {
    Price::from_text(text)
}

/// (mode, last price, whether that is news) of the tick of each step.
fn prices(name: &str) -> Vec<Vec<(Mode, Option<f64>, bool)>> {
    let of = |tick: &NativeTick| (tick.mode, tick.ltp.map(Price::rupees), !tick.ltp_unchanged);
    ticks(name).iter().map(|ticks| ticks.iter().map(of).collect()).collect()
}

/// The tick of the stream that the vector's merged state stands for.
fn expected(state: &Value) -> NativeTick {
    let fields = &state["fields"];
    let text = |key: &str| fields[key].as_str();
    let price = |key: &str| text(key).and_then(rupees);
    let count = |key: &str| text(key).map(|text| text.parse::<u64>().expect("a count"));
    let side = |side: &str| {
        std::array::from_fn(|n| {
            let field = |kind: &str| format!("{side}{kind}{}", n + 1);
            Level {
                price: price(&field("p")).unwrap_or_default(),
                quantity: count(&field("q")).unwrap_or(0),
                orders: count(&field("o")).unwrap_or(0),
            }
        })
    };
    let is_depth = matches!(text("t"), Some("dk" | "df"));
    let feed_ms = count("ft").map(|seconds| seconds * 1000);
    // All vectors trade on the day of their feed time, 2025-09-25.
    let of_day = |time: &str| {
        let parts: Vec<u64> = time.split(':').map(|part| part.parse().expect("a number")).collect();
        1_758_738_600_000 + 1000 * (parts[0] * 3600 + parts[1] * 60 + parts[2])
    };
    NativeTick {
        ltp: price("lp"),
        open: price("o"),
        high: price("h"),
        low: price("l"),
        close: price("c"),
        average_price: price("ap"),
        last_quantity: count("ltq"),
        volume: count("v"),
        total_buy_quantity: count("tbq"),
        total_sell_quantity: count("tsq"),
        oi: count("oi"),
        upper_circuit: price("uc"),
        lower_circuit: price("lc"),
        week_52_high: price("52h"),
        week_52_low: price("52l"),
        last_trade_ms: text("ltt").map(of_day),
        exchange_ms: feed_ms,
        depth: is_depth.then(|| Depth { bids: side("b"), asks: side("s") }),
        ..NativeTick::new(if is_depth { Mode::Depth } else { Mode::Quote })
    }
}

#[test]
fn where_overwriting_is_right_the_merged_state_is_published_whole() {
    for name in [
        "depth_full_then_deltas",
        "touchline_negative_pc",
        "touchline_book_only_delta",
        "index_touchline",
        "cds_four_decimals",
        "zero_volume_preopen",
    ] {
        let steps = case(name)["steps"].as_array().expect("steps").clone();
        for (at, (ticks, step)) in ticks(name).iter().zip(&steps).enumerate() {
            let got = ticks.last().map(|tick| NativeTick { ltp_unchanged: false, ..tick.clone() });
            assert_eq!(got, Some(expected(&step["merged_state"])), "step {at} of {name}");
        }
    }
}

#[test]
fn open_interest_is_the_contracts_and_an_emptied_level_is_empty() {
    let ticks = ticks("depth_full_then_deltas");
    let last = |step: usize| ticks[step].last().expect("a tick");
    // OpenAlgo publishes the underlying's 62387700 here.
    assert_eq!((last(0).oi, last(3).oi), (Some(13_245_000), Some(13_245_075)));
    let depth = last(4).depth.expect("a book");
    assert_eq!((depth.bids[4], depth.bids[3].quantity), (Level::default(), 300));
}

#[test]
fn last_price_subscribers_hear_of_a_price_or_a_time_and_not_of_the_book() {
    // Choice: OpenAlgo repeats the old price at every change of the book.
    let quote = |is_news| [(Mode::Quote, Some(2950.5), is_news)];
    assert_eq!(prices("touchline_book_only_delta"), [quote(true), quote(false), quote(true)]);
}

#[test]
fn before_the_snapshot_only_a_last_price_is_published() {
    assert_eq!(prices("delta_before_snapshot"), [[(Mode::Ltp, Some(2951.0), true)]]);
    // The same message with numbers instead of texts.
    assert_eq!(prices("numbers_not_strings"), [[(Mode::Ltp, Some(2951.25), true)]]);
    // A snapshot before the open has no price: nobody is told that it is zero.
    assert_eq!(prices("zero_volume_preopen"), [[(Mode::Quote, None, true)]]);
}

#[test]
fn zeros_do_not_overwrite_the_days_prices() {
    let steps = ticks("zero_ohlc_does_not_overwrite");
    let (before, after) = (steps[0].last().expect("a tick"), steps[1].last().expect("a tick"));
    let want = NativeTick { ltp: rupees("2951.00"), ..before.clone() };
    assert_eq!((after, before.open), (&want, rupees("2935.00")));
}

#[test]
fn what_does_not_parse_leaves_the_old_value_and_is_no_news() {
    let steps = ticks("non_numeric_values");
    let first = steps[0].last().expect("a tick");
    // Choice: OpenAlgo publishes a last price of 0 here.
    let repeated = [NativeTick { ltp_unchanged: true, ..first.clone() }];
    assert_eq!((&steps[1][..], &steps[2][..]), (&repeated[..], &repeated[..]));
}

#[test]
fn equal_tokens_of_two_exchanges_are_two_instruments() {
    let case = case("same_token_two_exchanges");
    let mut book = book(&case);
    let mut seen = Vec::new();
    for step in case["steps"].as_array().expect("steps") {
        let ticks = take(&mut book, step["message"].as_str().expect("text"));
        seen.push(ticks.last().map(|(key, tick)| (format!("{key:?}"), tick.ltp.map(Price::rupees))).expect("a tick"));
    }
    let want = [("1|1234", 10.0), ("5|1234", 83.2525), ("1|1234", 10.05)].map(|(key, ltp)| (key.to_owned(), Some(ltp)));
    assert_eq!(seen, want);
}

#[test]
fn without_an_exchange_a_token_is_enough_only_if_it_is_the_only_one() {
    assert_eq!(prices("missing_exchange_unique"), [[(Mode::Ltp, Some(2951.0), true)]]);
    assert_eq!(prices("missing_exchange_ambiguous"), [[]]);
    assert_eq!(prices("unsubscribed_scrip"), [[]]);
}

#[test]
fn both_streams_share_one_state_and_each_serves_its_own_mode_after_its_own_snapshot() {
    let want = [
        [(Mode::Quote, Some(2950.5), true)],
        // The depth stream's change is news of the price; its book is held back until its snapshot.
        [(Mode::Ltp, Some(2955.0), true)],
        [(Mode::Quote, Some(2955.0), false)],
    ];
    assert_eq!(prices("touchline_does_not_feed_depth"), want);
}

#[test]
fn what_is_let_go_is_forgotten_and_begins_anew() {
    let case = case("touchline_negative_pc");
    let mut book = book(&case);
    let text = |step: usize| case["steps"][step]["message"].as_str().expect("text").to_owned();
    take(&mut book, &text(0));
    let key = Key::named(Dialect::Shoonya, "NSE", "2885").expect("a key");
    book.forget(&key);
    assert!(book.is_empty() && take(&mut book, &text(1)).is_empty());
    book.add(key);
    let ticks = take(&mut book, &text(1));
    assert_eq!(ticks.len(), 1, "a change before the snapshot: the last price only");
    assert_eq!((ticks[0].1.mode, ticks[0].1.open), (Mode::Ltp, None));
}

#[test]
fn control_messages_are_what_their_vectors_say() {
    let vectors = include_str!("../../../../tests/vectors/broker-feeds/noren/noren_control.json");
    let vectors: Value = serde_json::from_str(vectors).expect("JSON");
    for case in vectors["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let got = decode(case["message"].as_str().expect("text"));
        let right = match name {
            // Both generations' answers count, in any letter case; their own library does not know `ak`.
            "connect_ack_ck_ok" | "connect_ack_ak_ok" | "connect_ack_ak_Ok_mixed_case" => {
                got == Some(Message::Login(Ok(())))
            }
            "connect_ack_ck_notok" => got == Some(Message::Login(Err("Session Expired :  Invalid Session Key".into()))),
            "connect_ack_ak_notok" => got == Some(Message::Login(Err("Invalid Session".into()))),
            "heartbeat_echo" | "heartbeat_ack_hk" | "unsubscribe_ack_uk" | "unsubscribe_ack_udk" | "order_sub_ack" => {
                got == Some(Message::Acknowledged)
            }
            "order_update" => matches!(&got, Some(Message::Order(order)) if order["norenordno"] == "1"),
            // Their libraries raise an exception; a message without a type is damaged, one of a new type is not.
            "not_json" | "no_t" => got.is_none(),
            "unknown_t" => got == Some(Message::Other),
            _ => panic!("a new vector: {name}"),
        };
        assert!(right, "{name}: {got:?}");
    }
}
