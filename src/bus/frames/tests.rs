//! Tests of frames: the protocol's vectors, batches good and bad, price keys, orders and invalidations.

use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// The protocol's payload vector, `{"ltp":1500.5,"timestamp":1761367200123}`.
const TICK: &[u8] = b"\x82\xa3ltp\xcb\x40\x97\x72\x00\x00\x00\x00\x00\xa9timestamp\xcf\x00\x00\x01\x9a\x19\xaa\x91\x7b";

/// Items and causes of one message; causes of items first, then the message's own.
fn scanned<'a>(topic: &'a [u8], body: &'a [u8]) -> (Option<Kind>, Vec<Item<'a>>, Vec<Cause>) {
    let (mut items, mut causes) = (Vec::new(), Vec::new());
    let kind = scan(topic, body, &mut items, &mut |cause| causes.push(cause));
    causes.extend(kind.err());
    (kind.ok(), items, causes)
}

fn item<'a>(topic: &'a [u8], payload: &'a [u8], encoding: Encoding) -> Item<'a> {
    Item { topic, payload, encoding }
}

#[test]
fn the_vectors_of_the_protocol_are_recognised() {
    let (kind, items, causes) = scanned(b"NSE_INFY_LTP", TICK);
    assert_eq!((kind, causes.len()), (Some(Kind::MsgPack), 0));
    assert_eq!(items, [item(b"NSE_INFY_LTP", TICK, Encoding::MsgPack)]);

    let batch = [b"\x91\x92\xac\x4e\x53\x45\x5f\x49\x4e\x46\x59\x5f\x4c\x54\x50", TICK].concat();
    let (kind, items, causes) = scanned(b"BATCH", &batch);
    assert_eq!((kind, causes.len()), (Some(Kind::Batch), 0));
    assert_eq!(items, [item(b"NSE_INFY_LTP", TICK, Encoding::MsgPack)]);
}

#[test]
fn a_single_payload_is_recognised_by_its_first_byte() {
    for (body, want) in [
        (b"{}".as_slice(), Ok(Kind::Json)),
        (b" \n{\"a\":1}", Ok(Kind::Json)),
        (b"\x80", Ok(Kind::MsgPack)),
        (b"\xde\0\0", Ok(Kind::MsgPack)),
        (b"\xdf\0\0\0\0", Ok(Kind::MsgPack)),
        (b"", Err(Cause::Encoding)),
        (b"[]", Err(Cause::Encoding)),
        (b"\x90", Err(Cause::Encoding)),
        (b"x", Err(Cause::Encoding)),
        (b"\xef\xbb\xbf{}", Err(Cause::Encoding)),
    ] {
        assert_eq!(scan(b"NSE_INFY_LTP", body, &mut Vec::new(), &mut |_| {}), want, "{body:02x?}");
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(TICK_PAYLOAD_BYTES_MAX));
    assert_eq!(scanned(b"NSE_INFY_LTP", large.as_bytes()).2, [Cause::PayloadBytes]);
}

#[test]
fn a_bad_item_of_a_good_batch_costs_only_itself() {
    let large = "x".repeat(TICK_PAYLOAD_BYTES_MAX);
    let batch = json!([
        ["NSE_A_LTP", {"ltp": 1}],
        ["NSE_B_LTP", [1]],
        ["NSE_C_LTP"],
        ["NSE_D_LTP", {"ltp": 1}, 3],
        [7, {"ltp": 1}],
        "x",
        {"a": {"b": [1]}},
        ["NSE_E_LTP", {"a": large}],
        ["UPSTOX_asha_orders", {"user_id": "asha"}],
    ]);
    let want_causes = [Cause::Item; 6].into_iter().chain([Cause::PayloadBytes]).collect::<Vec<_>>();
    for body in [rmp_serde::to_vec(&batch).unwrap(), serde_json::to_vec_pretty(&batch).unwrap()] {
        let (kind, items, causes) = scanned(b"BATCH", &body);
        assert_eq!(kind, Some(Kind::Batch));
        assert_eq!(items.iter().map(|i| i.topic).collect::<Vec<_>>(), [b"NSE_A_LTP".as_slice(), b"UPSTOX_asha_orders"]);
        assert_eq!(causes, want_causes);
    }
}

#[test]
fn items_of_a_batch_keep_their_order_and_their_bytes() {
    let topics: Vec<String> = (0..300).map(|n| format!("NSE_S{n}_QUOTE")).collect();
    let batch: Json = topics.iter().map(|t| json!([t, {"ltp": 1.5, "symbol": t}])).collect();
    for (body, encoding) in
        [(rmp_serde::to_vec(&batch).unwrap(), Encoding::MsgPack), (serde_json::to_vec(&batch).unwrap(), Encoding::Json)]
    {
        let (_, items, _) = scanned(b"BATCH", &body);
        assert_eq!(items.len(), topics.len());
        for (item, topic) in items.iter().zip(&topics) {
            assert_eq!((item.topic, item.encoding), (topic.as_bytes(), encoding));
            let payload: Json = match encoding {
                Encoding::Json => serde_json::from_slice(item.payload).unwrap(),
                Encoding::MsgPack => rmp_serde::from_slice(item.payload).unwrap(),
            };
            assert_eq!(payload, json!({"ltp": 1.5, "symbol": topic}));
        }
    }
    assert_eq!(scanned(b"BATCH", b"\x90"), (Some(Kind::Batch), vec![], vec![]));
    assert_eq!(scanned(b"BATCH", b" [ ] "), (Some(Kind::Batch), vec![], vec![]));
}

#[test]
fn a_batch_whose_own_structure_is_broken_is_dropped_whole() {
    let good = [b"\x92\x92\xa9NSE_A_LTP".as_slice(), TICK].concat();
    let with = |tail: &[u8]| [good.as_slice(), tail].concat();
    for (body, want) in [
        (good.clone(), Cause::Batch),
        (with(b"\xc1"), Cause::Batch),
        (with(b"\x92\xa1"), Cause::Batch),
        (with(b"\x92\xa1a\xdf\xff\xff\xff\xff"), Cause::Batch),
        (with(b"\x92\xa1a\x81\xa1a\xdb\xff\xff\xff\xff"), Cause::Batch),
        (with(b"\xc0\xc0"), Cause::Batch),
        (b"\xdd\xff\xff\xff\xff".to_vec(), Cause::Batch),
        (b"\xdc\xff".to_vec(), Cause::Batch),
        (b"\x80".to_vec(), Cause::Encoding),
        (b"".to_vec(), Cause::Encoding),
        (b"{}".to_vec(), Cause::Encoding),
        (b"[".to_vec(), Cause::Batch),
        (b"[[\"NSE_A_LTP\",{}]".to_vec(), Cause::Batch),
        (b"[[\"NSE_A_LTP\",{}],]".to_vec(), Cause::Batch),
        (b"[[\"NSE_A_LTP\",{}]]x".to_vec(), Cause::Batch),
        (b"[[\"NSE_A_LTP\",{}]}".to_vec(), Cause::Batch),
        ([b"\xdd\x00\x00\x27\x11".as_slice(), &[0xc0; 10_001]].concat(), Cause::BatchItems),
        (format!("[{}0]", "0,".repeat(10_000)).into_bytes(), Cause::BatchItems),
    ] {
        let (kind, items, causes) = scanned(b"BATCH", &body);
        assert_eq!((kind, items.len(), causes.last()), (None, 0, Some(&want)), "{body:02x?}");
    }
}

#[test]
fn what_was_scanned_before_stays_when_a_later_message_is_bad() {
    let mut items = vec![item(b"a", b"{}", Encoding::Json)];
    let body = [b"\x92\x92\xa9NSE_A_LTP".as_slice(), TICK].concat();
    assert_eq!(scan(b"BATCH", &body, &mut items, &mut |_| {}), Err(Cause::Batch));
    assert_eq!(items.len(), 1);
}

#[test]
fn a_price_key_is_found_without_decoding() {
    for (payload, want) in [
        (json!({"symbol": "X", "ltp": 1}), true),
        (json!({"last_price": 1}), true),
        (json!({"last_traded_price": 1}), true),
        (json!({"symbol": "ltp", "x_ltp": 1, "ltp_x": 2}), false),
        (json!({"depth": {"buy": []}, "timestamp": 1}), false),
        (json!({}), false),
    ] {
        let text = serde_json::to_vec_pretty(&payload).unwrap();
        assert_eq!(has_ltp(&text, Encoding::Json), want, "{payload}");
        let packed = rmp_serde::to_vec(&payload).unwrap();
        // A value that reads like a key only costs a decode.
        assert!(has_ltp(&packed, Encoding::MsgPack) || !want, "{payload}");
    }
    assert!(has_ltp(b"\x81\xd9\x03ltp\x01", Encoding::MsgPack));
    assert!(has_ltp(b"\x81\xda\x00\x03ltp\x01", Encoding::MsgPack));
    assert!(!has_ltp(b"\x81\xa4xltp\x01", Encoding::MsgPack));
    assert!(!has_ltp(b"ltp", Encoding::MsgPack));
}

#[test]
fn an_order_passes_to_its_user_as_it_came() {
    let text = br#" {"type":"order_update", "user_id":"asha\u0020r", "price": 811.50, "trigger_price":NaN} "#;
    let got = order(text, Encoding::Json).unwrap();
    assert_eq!(got.user_id, "asha r");
    assert_eq!(got.json, br#"{"type":"order_update", "user_id":"asha\u0020r", "price": 811.50, "trigger_price":null}"#);

    let update = json!({"type": "order_update", "user_id": "asha", "mode": "live", "price": 811.0, "quantity": 10});
    let got = order(&rmp_serde::to_vec(&update).unwrap(), Encoding::MsgPack).unwrap();
    assert_eq!(got.user_id, "asha");
    assert_eq!(String::from_utf8(got.json).unwrap(), update.to_string());

    assert_eq!(order(br#"{"user_id":42}"#, Encoding::Json).unwrap().user_id, "42");
    for (payload, want) in [
        (r#"{"orderid":"1"}"#, Cause::OrderUser),
        (r#"{"user_id":""}"#, Cause::OrderUser),
        (r#"{"user_id":null}"#, Cause::OrderUser),
        (r#"{"user_id":["asha"]}"#, Cause::OrderUser),
        (r#"{"user_id":"asha"#, Cause::Payload),
        (r#"["user_id"]"#, Cause::Payload),
    ] {
        assert_eq!(order(payload.as_bytes(), Encoding::Json), Err(want), "{payload}");
    }
    let deep = format!("{{\"user_id\":\"a\",\"x\":{}{}}}", "[".repeat(99), "]".repeat(99));
    assert_eq!(order(deep.as_bytes(), Encoding::Json), Err(Cause::PayloadDepth));
}

#[test]
fn an_invalidation_names_its_user_and_defaults_to_everything() {
    for (payload, want) in [
        (json!({"action": "invalidate", "user_id": "asha_r", "cache_type": "ALL"}), Ok(InvalidateKind::All)),
        (json!({"user_id": "asha_r", "cache_type": "AUTH"}), Ok(InvalidateKind::Auth)),
        (json!({"user_id": "asha_r", "cache_type": "feed"}), Ok(InvalidateKind::Feed)),
        (json!({"user_id": "asha_r"}), Ok(InvalidateKind::All)),
        (json!({"user_id": "asha_r", "cache_type": 7}), Ok(InvalidateKind::All)),
        (json!({"cache_type": "ALL"}), Err(Cause::InvalidateUser)),
    ] {
        let want = want.map(|kind| Invalidate { user: "asha_r".into(), kind });
        assert_eq!(invalidate(&serde_json::to_vec(&payload).unwrap(), Encoding::Json), want, "{payload}");
        assert_eq!(invalidate(&rmp_serde::to_vec(&payload).unwrap(), Encoding::MsgPack), want, "{payload}");
    }
}

#[test]
fn every_cause_has_its_own_label_and_place() {
    let labels: std::collections::BTreeSet<_> = Cause::ALL.iter().map(|c| c.label()).collect();
    assert_eq!(labels.len(), Cause::ALL.len());
    for (n, cause) in Cause::ALL.into_iter().enumerate() {
        assert_eq!(cause.index(), n);
    }
}

proptest! {
    #[test]
    fn no_frames_make_the_scan_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_frames(&bytes);
    }

    #[test]
    fn a_cut_or_changed_batch_never_panics_and_a_cut_one_is_dropped(
        json in any::<bool>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let batch = json!([["NSE_A_LTP", {"ltp": 1.5}], ["X_u_orders", {"user_id": "u", "a": [1, {"b": null}]}]]);
        let body = if json { serde_json::to_vec(&batch).unwrap() } else { rmp_serde::to_vec(&batch).unwrap() };
        let at = at.index(body.len());
        let (kind, items, _) = scanned(b"BATCH", &body[..at]);
        prop_assert_eq!((kind, items.len()), (None, 0));
        let mut changed = vec![u8::MAX];
        changed.extend(&body);
        changed[at + 1] = byte;
        fuzz_frames(&changed);
    }
}
