//! Golden bytes, round trips and hostile frames of the MessagePack ticks.

//! Tests of the MessagePack reader: what it makes of clients' frames, and what it refuses.

use super::*;
use proptest::prelude::*;

fn head() -> Head {
    Head { id: StreamId(7), mode: Mode::Ltp, seq: 3, t_exch: Micros(0), t_recv: Micros(1_761_367_200_123_456) }
}

/// One frame with these ticks.
fn frame(kind: u8, ticks: &[(Head, Vec<Field>)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame_head(&mut out, kind, Micros(5), ticks.len());
    for (head, fields) in ticks {
        tick(&mut out, *head, fields);
    }
    out
}

#[test]
fn an_ltp_tick_is_these_bytes() {
    let mut out = Vec::new();
    tick(&mut out, head(), &[Field::Price(150_050), Field::Nil, Field::Nil]);
    let t_recv = 1_761_367_200_123_456u64.to_be_bytes();
    let want: Vec<u8> =
        [0x96, 7, 1, 3, 0, 0xcf].into_iter().chain(t_recv).chain([0xce, 0x00, 0x02, 0x4a, 0x22]).collect();
    assert_eq!(out, want);
}

#[test]
fn a_frame_head_is_these_bytes() {
    let mut out = Vec::new();
    frame_head(&mut out, TICKS, Micros(300), 20);
    assert_eq!(out, [0x93, 0x01, 0xcd, 0x01, 0x2c, 0xdc, 0x00, 0x14]);
}

#[test]
fn padding_levels_are_left_off_but_gaps_are_kept() {
    let side =
        vec![(Some(5), Some(1), Some(1)), (Some(0), Some(0), Some(0)), (Some(4), None, None), (Some(0), Some(0), None)];
    let fields: Vec<Field> =
        std::iter::repeat_n(Field::Nil, 11).chain([Field::Levels(side), Field::Levels(vec![])]).collect();
    let head = Head { mode: Mode::Depth, ..head() };
    let Ok(ServerFrame::Ticks { ticks, .. }) = read(&frame(TICKS, &[(head, fields)])) else { panic!("ticks") };
    let bids: Vec<_> = ticks[0].bids.iter().map(|l| (l.price, l.quantity, l.orders)).collect();
    assert_eq!(bids, [(Some(5), Some(1), Some(1)), (Some(0), Some(0), Some(0)), (Some(4), None, None)]);
    assert_eq!(ticks[0].asks, []);
}

#[test]
fn a_reader_ignores_frames_and_fields_it_does_not_know() {
    for unknown in [&[0x92, 0x09, 0xc0][..], &[0x90], &[0x91, 0xc0], &[0x93, 0xcd, 0x01, 0x00, 0x01, 0x01]] {
        assert_eq!(read(unknown), Ok(ServerFrame::Unknown), "{unknown:x?}");
    }
    let mut later = Vec::new();
    frame_head(&mut later, SNAPSHOTS, Micros(1), 1);
    // [7, 1, 3, 0, 0, 5, nil, nil, {"new": [1.5, "x"]}]
    later
        .extend([0x99, 7, 1, 3, 0, 0, 5, 0xc0, 0xc0, 0x81, 0xa3, b'n', b'e', b'w', 0x92, 0xca, 0, 0, 0, 0, 0xa1, b'x']);
    let Ok(ServerFrame::Snapshots { ticks, .. }) = read(&later) else { panic!("snapshots") };
    assert_eq!((ticks[0].id, ticks[0].ltp()), (StreamId(7), Some(5)));
}

#[test]
fn ticks_can_be_read_one_after_the_other_into_one() {
    let side = vec![(Some(5), Some(6), None)];
    let depth = [vec![Field::Count(3); 11], vec![Field::Levels(side), Field::Nil]].concat();
    let ticks = [(Head { mode: Mode::Depth, ..head() }, depth), (head(), vec![Field::Price(-5)])];
    let whole = frame(TICKS, &ticks);
    let Ok(ServerFrame::Ticks { ticks: want, .. }) = read(&whole) else { panic!("ticks") };
    let (mut got, mut tick) = (Vec::new(), Received::default());
    assert_eq!(each_tick(&whole, &mut tick, |tick| got.push(tick.clone())), Ok(true));
    assert_eq!(got, want, "nothing of the first is left in the second");
    assert_eq!(each_tick(&[0x92, 0, 0x80], &mut tick, |_| panic!("a message")), Ok(false));
    assert!(each_tick(&whole[..whole.len() - 1], &mut tick, |_| {}).is_err());
}

#[test]
fn a_message_is_read_as_its_json() {
    let payload = br#"{"type":"pong","server_timestamp":5}"#;
    let whole = crate::wire::reply::frame_msgpack(payload).expect("valid");
    // Behind the two bytes of the WebSocket header.
    let ServerFrame::Message(message) = read(&whole[2..]).expect("readable") else { panic!("a message") };
    assert_eq!(message, serde_json::from_slice::<serde_json::Value>(payload).expect("valid"));
}

#[test]
fn hostile_lengths_are_refused_at_once() {
    for hostile in [
        &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
        &[0x93, 0x01, 0x00, 0xdd, 0xff, 0xff, 0xff, 0xff],
        &[0x92, 0x00, 0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0x92, 0x00, 0xc1],
        &[0x93, 0x01],
    ] {
        assert!(read(hostile).is_err(), "{hostile:x?}");
    }
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![Just(Field::Nil), any::<i64>().prop_map(Field::Price), any::<u64>().prop_map(Field::Count)]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(id: u32, seq: u64, t: u64, r: u64, fields in proptest::collection::vec(field(), 11), n in 1usize..40) {
        let head = Head { id: StreamId(id), mode: Mode::Quote, seq, t_exch: Micros(t), t_recv: Micros(r) };
        let ticks = vec![(head, fields.clone()); n];
        let Ok(ServerFrame::Ticks { t_send, ticks }) = read(&frame(TICKS, &ticks)) else { panic!("ticks") };
        prop_assert_eq!((t_send, ticks.len()), (Micros(5), n));
        let seen = &ticks[0];
        prop_assert_eq!((seen.id.0, seen.mode, seen.seq, seen.t_exch.0, seen.t_recv.0), (id, 2, seq, t, r));
        for (at, field) in fields.iter().enumerate() {
            let want = match field {
                Field::Price(p) => Some(i128::from(*p)),
                Field::Count(c) => Some(i128::from(*c)),
                _ => None,
            };
            prop_assert_eq!(seen.numbers.get(at).copied().flatten(), want);
        }
    }

    #[test]
    fn random_and_cut_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0usize..30) {
        let _ = read(&bytes);
        let whole = frame(TICKS, &[(head(), vec![Field::Price(-5)])]);
        if cut < whole.len() {
            prop_assert!(read(&whole[..cut]).is_err());
        }
    }
}
