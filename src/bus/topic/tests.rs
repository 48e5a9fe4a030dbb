//! Tests of topics: the protocol's table, the order of tests, and what both eras tolerate.

use super::*;

fn check(topic: &str, want: Option<(Option<&str>, &str, &str, Mode)>) {
    let brokers = Brokers::new();
    brokers.intern("my_own_broker").unwrap();
    let got = match parse(topic.as_bytes(), &brokers) {
        Ok(Topic::Tick { broker, instrument, mode }) => Some((broker, instrument.venue, instrument.symbol, mode)),
        Ok(other) => panic!("{topic}: {other:?}"),
        Err(_) => None,
    };
    assert_eq!(got, want, "{topic}");
}

#[test]
fn every_row_of_the_protocol_table_reads_as_the_table_says() {
    for (topic, broker, venue, symbol, mode) in [
        ("NSE_INFY_LTP", None, "NSE", "INFY", Mode::Ltp),
        ("NSE_INDEX_NIFTY_QUOTE", None, "NSE_INDEX", "NIFTY", Mode::Quote),
        ("GLOBAL_INDEX_US30_LTP", None, "GLOBAL_INDEX", "US30", Mode::Ltp),
        ("CRYPTO_SOL_INR_DEPTH", None, "CRYPTO", "SOL_INR", Mode::Depth),
        ("NSE_TCS:50_DEPTH", None, "NSE", "TCS:50", Mode::Depth),
        ("zerodha_NSE_INFY_LTP", Some("zerodha"), "NSE", "INFY", Mode::Ltp),
        ("DHAN_SANDBOX_BSE_INDEX_SENSEX_LTP", Some("DHAN_SANDBOX"), "BSE_INDEX", "SENSEX", Mode::Ltp),
    ] {
        check(topic, Some((broker, venue, symbol, mode)));
    }
    check("DEBUG_MARKET_DATA", None);
}

#[test]
fn oddities_of_both_eras_are_tolerated() {
    // Modes in any case.
    check("NSE_INFY_ltp", Some((None, "NSE", "INFY", Mode::Ltp)));
    check("NSE_INFY_Quote", Some((None, "NSE", "INFY", Mode::Quote)));
    // Symbols with the separator and other signs in them.
    check("NFO_M&M-I_X_DEPTH", Some((None, "NFO", "M&M-I_X", Mode::Depth)));
    check("NSE_M&M_LTP", Some((None, "NSE", "M&M", Mode::Ltp)));
    check("NSE_LTP_LTP", Some((None, "NSE", "LTP", Mode::Ltp)));
    // Every exchange of two parts, and those that only look like one.
    check("MCX_INDEX_MCXBULLDEX_LTP", Some((None, "MCX_INDEX", "MCXBULLDEX", Mode::Ltp)));
    check("CDS_INDEX_X_LTP", Some((None, "CDS_INDEX", "X", Mode::Ltp)));
    check("NSEIX_INDEX_GIFTNIFTY_LTP", Some((None, "NSEIX", "INDEX_GIFTNIFTY", Mode::Ltp)));
    check("NSE_INDEX_LTP", Some((None, "NSE", "INDEX", Mode::Ltp)));
    // Brokers in front: any case, underscores, and names from the settings.
    check("Angel_NFO_NIFTY25NOV25FUT_QUOTE", Some((Some("Angel"), "NFO", "NIFTY25NOV25FUT", Mode::Quote)));
    check("dhan_NSE_INFY_LTP", Some((Some("dhan"), "NSE", "INFY", Mode::Ltp)));
    check("deltaexchange_CRYPTO_SOL_INR_LTP", Some((Some("deltaexchange"), "CRYPTO", "SOL_INR", Mode::Ltp)));
    check("MY_OWN_BROKER_NSE_INFY_LTP", Some((Some("MY_OWN_BROKER"), "NSE", "INFY", Mode::Ltp)));
    // What nobody knows falls back to upstream's reading.
    check("nobody_NSE_INFY_LTP", Some((None, "nobody", "NSE_INFY", Mode::Ltp)));
    check("LSE_VOD_LTP", Some((None, "LSE", "VOD", Mode::Ltp)));
    check("zerodha_LSE_VOD_LTP", Some((None, "zerodha", "LSE_VOD", Mode::Ltp)));
    check("GLOBAL_US30_LTP", Some((None, "GLOBAL", "US30", Mode::Ltp)));
}

#[test]
fn what_is_no_market_data_is_refused() {
    for topic in
        ["", "_", "LTP", "NSE_LTP", "NSE_INFY", "NSE_INFY_1", "NSE__LTP", "_INFY_LTP", "__LTP", "NSE_INFY_LTP "]
    {
        check(topic, None);
    }
    check("NSE_INDEX__LTP", None);
    check("zerodha_NSE__LTP", None);
}

#[test]
fn names_beyond_the_limits_are_refused() {
    let brokers = Brokers::new();
    let refused = |topic: &[u8]| parse(topic, &brokers).unwrap_err();
    assert_eq!(refused(format!("NSE_{}_LTP", "A".repeat(65)).as_bytes()), TopicError::Unacceptable);
    assert_eq!(refused(format!("{}_A_LTP", "A".repeat(33)).as_bytes()), TopicError::Unacceptable);
    assert_eq!(refused(b"NSE_A\nB_LTP"), TopicError::Unacceptable);
    assert_eq!(refused("NSE_A\u{85}B_LTP".as_bytes()), TopicError::Unacceptable);
    assert_eq!(refused(b"NSE_A\xffB_LTP"), TopicError::NotText);
    assert!(parse(format!("NSE_{}_LTP", "A".repeat(64)).as_bytes(), &brokers).is_ok());
    assert!(parse("NSE_É_LTP".as_bytes(), &brokers).is_ok());
}

#[test]
fn side_topics_come_before_market_data_in_the_protocol_order() {
    let brokers = Brokers::new();
    for (topic, want) in [
        ("CACHE_INVALIDATE_ALL_asha", Topic::Invalidate),
        ("CACHE_INVALIDATE_AUTH_a_b_orders", Topic::Invalidate),
        ("CACHE_INVALIDATE_X_LTP", Topic::Invalidate),
        ("CACHE_INVALIDATE", Topic::Invalidate),
        ("UPSTOX_asha_orders", Topic::Orders),
        ("ANALYZE_a_s_h_a_orders", Topic::Orders),
        ("deltaexchange_orders", Topic::Orders),
        ("deltaexchange_positions", Topic::Ignored),
        ("deltaexchange_margins", Topic::Ignored),
    ] {
        assert_eq!(parse(topic.as_bytes(), &brokers), Ok(want), "{topic}");
    }
    // Only in lower case: an instrument may well be called ORDERS.
    assert_eq!(parse(b"X_Y_ORDERS", &brokers), Err(TopicError::NoMode));
}

proptest::proptest! {
    #[test]
    fn no_topic_makes_the_parser_panic(topic in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
        fuzz_topic(&topic);
    }

    #[test]
    fn what_is_put_together_comes_apart_again(
        broker in proptest::sample::select(vec!["", "zerodha_", "DHAN_SANDBOX_", "angel_"]),
        venue in proptest::sample::select(vec!["NSE", "NSE_INDEX", "NFO", "CRYPTO", "GLOBAL_INDEX", "MCX"]),
        symbol in "[A-Z0-9&:-][A-Z0-9_&:-]{0,20}",
    ) {
        proptest::prop_assume!(!symbol.starts_with("INDEX_"));
        let topic = format!("{broker}{venue}_{symbol}_DEPTH");
        let got = parse(topic.as_bytes(), &Brokers::new()).unwrap();
        let want = broker.strip_suffix('_');
        let instrument = InstrumentRef { venue, symbol: &symbol };
        proptest::prop_assert_eq!(got, Topic::Tick { broker: want, instrument, mode: Mode::Depth });
    }
}
