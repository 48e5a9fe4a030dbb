//! RFC cases (after the Autobahn families 1 to 7), random portions, and a naive model.

use super::*;
use proptest::prelude::*;

const LIMIT: usize = 100_000;

/// An owned [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Violation(Violation),
}

fn own(event: Event<'_>) -> Got {
    match event {
        Event::Text(text) => Got::Text(text.into()),
        Event::Binary(bytes) => Got::Binary(bytes.into()),
        Event::Ping(bytes) => Got::Ping(bytes.into()),
        Event::Pong(bytes) => Got::Pong(bytes.into()),
        Event::Close { code, reason } => Got::Close(code, reason.into()),
    }
}

/// Feeds `portions` one after another; stops at a violation.
fn parse<'a>(parser: &mut Parser, portions: impl IntoIterator<Item = &'a [u8]>) -> Vec<Got> {
    let mut got = Vec::new();
    for portion in portions {
        let mut bytes = portion.to_vec();
        let mut input = Input::new(&mut bytes);
        loop {
            match parser.next(&mut input) {
                Ok(Some(event)) => got.push(own(event)),
                Ok(None) => break,
                Err(violation) => {
                    got.push(Got::Violation(violation));
                    return got;
                }
            }
        }
        assert!(input.remaining().is_empty());
    }
    got
}

fn parse_whole(bytes: &[u8]) -> Vec<Got> {
    parse(&mut Parser::new(LIMIT), [bytes])
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame: `first` is FIN, RSV and opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

fn check(frames: &[Vec<u8>], want: &[Got]) {
    assert_eq!(parse_whole(&frames.concat()), want);
}

fn refused(frames: &[Vec<u8>], violation: Violation) {
    assert_eq!(parse_whole(&frames.concat()).last(), Some(&Got::Violation(violation)));
}

fn text(text: &str) -> Got {
    Got::Text(text.into())
}

#[test]
fn the_rfc_example_is_read() {
    let masked_hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(parse_whole(&masked_hello), [text("Hello")]);
}

#[test]
fn messages_of_every_length_form_are_read() {
    for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536, LIMIT] {
        let payload = "x".repeat(len);
        check(&[frame(0x81, payload.as_bytes())], &[text(&payload)]);
        check(&[frame(0x82, payload.as_bytes())], &[Got::Binary(payload.into())]);
    }
}

#[test]
fn control_frames_of_up_to_125_bytes_are_read_also_within_a_fragmented_message() {
    check(&[frame(0x89, b""), frame(0x8a, &[7; 125])], &[Got::Ping(vec![]), Got::Pong(vec![7; 125])]);
    check(
        &[frame(0x01, b"frag"), frame(0x89, b"ping"), frame(0x00, b"men"), frame(0x8a, b""), frame(0x80, b"t")],
        &[Got::Ping(b"ping".into()), Got::Pong(vec![]), text("fragment")],
    );
}

#[test]
fn malformed_headers_are_refused() {
    for rsv in [0x10, 0x20, 0x40, 0x70] {
        refused(&[frame(0x81 | rsv, b"x")], Violation::ReservedBits);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        refused(&[frame(0x80 | opcode, b"")], Violation::Opcode);
    }
    for opcode in [8, 9, 10] {
        refused(&[frame(opcode, b"")], Violation::ControlFragmented);
        refused(&[frame(0x80 | opcode, &[0; 126])], Violation::ControlTooLong);
    }
    refused(&[vec![0x81, 0x01, b'x']], Violation::Unmasked);
    refused(&[vec![0x81, 0xfe, 0, 125, 0, 0, 0, 0]], Violation::Length);
    refused(&[vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]], Violation::Length);
    refused(&[vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]], Violation::Length);
    refused(&[vec![0x82, 0xff, 0x7f, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]], Violation::TooLarge);
}

#[test]
fn fragments_out_of_order_are_refused() {
    refused(&[frame(0x80, b"x")], Violation::OrphanContinuation);
    refused(&[frame(0x00, b"x")], Violation::OrphanContinuation);
    refused(&[frame(0x81, b"x"), frame(0x80, b"y")], Violation::OrphanContinuation);
    refused(&[frame(0x01, b"x"), frame(0x81, b"y")], Violation::InterleavedMessage);
    refused(&[frame(0x02, b"x"), frame(0x01, b"y")], Violation::InterleavedMessage);
}

#[test]
fn empty_fragments_are_bounded_per_message() {
    let mut frames = vec![frame(0x01, b"x")];
    frames.extend(std::iter::repeat_n(frame(0x00, b""), usize::from(EMPTY_FRAGMENTS_MAX)));
    let mut fine = frames.clone();
    fine.extend([frame(0x80, b"y")]);
    check(&[fine.concat(), fine.concat()], &[text("xy"), text("xy")]);
    frames.push(frame(0x00, b""));
    refused(&frames, Violation::EmptyFragments);
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_header_whole_or_in_fragments() {
    let mut head = frame(0x81, &[b'x'; LIMIT + 1]);
    head.truncate(14);
    refused(&[head], Violation::TooLarge);
    refused(&[frame(0x01, &[b'x'; LIMIT]), frame(0x80, b"y")], Violation::TooLarge);
    check(&[frame(0x01, &[b'x'; LIMIT]), frame(0x80, b"")], &[text(&"x".repeat(LIMIT))]);
}

#[test]
fn the_limit_can_be_raised_between_two_messages_of_one_portion() {
    let mut bytes = [frame(0x81, b"auth"), frame(0x81, b"a longer message")].concat();
    let mut parser = Parser::new(4);
    let mut input = Input::new(&mut bytes);
    assert_eq!(parser.next(&mut input), Ok(Some(Event::Text("auth"))));
    parser.set_limit(16);
    assert_eq!(parser.next(&mut input), Ok(Some(Event::Text("a longer message"))));
}

#[test]
fn text_must_be_utf8_also_across_fragments_and_in_close_reasons() {
    let euro = "€".as_bytes();
    check(&[frame(0x01, &euro[..1]), frame(0x80, &euro[1..])], &[text("€")]);
    let surrogate: &[u8] = &[0xed, 0xa0, 0x80];
    for bad in [b"\xff".as_slice(), &euro[..2], surrogate, b"\xc0\xaf", b"\xf4\x90\x80\x80"] {
        refused(&[frame(0x81, bad)], Violation::Utf8);
        refused(&[frame(0x01, b"ok"), frame(0x80, bad)], Violation::Utf8);
        refused(&[frame(0x88, &[&[0x03, 0xe8], bad].concat())], Violation::Utf8);
        check(&[frame(0x82, bad)], &[Got::Binary(bad.into())]);
    }
}

#[test]
fn close_codes_are_checked() {
    check(&[frame(0x88, b"")], &[Got::Close(None, String::new())]);
    refused(&[frame(0x88, &[3])], Violation::CloseCode);
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        refused(&[frame(0x88, &code.to_be_bytes())], Violation::CloseCode);
    }
    for code in [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let payload = [&code.to_be_bytes()[..], b"bye"].concat();
        check(&[frame(0x88, &payload)], &[Got::Close(Some(code), "bye".into())]);
    }
}

#[test]
fn nothing_is_read_after_close_and_a_violation_is_final() {
    check(&[frame(0x88, b""), frame(0x81, b"late")], &[Got::Close(None, String::new())]);
    let mut parser = Parser::new(LIMIT);
    assert_eq!(parse(&mut parser, [&frame(0x80, b"x")[..]]), [Got::Violation(Violation::OrphanContinuation)]);
    let again = parse(&mut parser, [&frame(0x81, b"x")[..]]);
    assert_eq!(again, [Got::Violation(Violation::OrphanContinuation)]);
}

#[test]
fn an_idle_parser_is_small_and_holds_no_buffer() {
    assert!(size_of::<Parser>() <= 64 + size_of::<Vec<u8>>(), "{} bytes", size_of::<Parser>());
    let mut parser = Parser::new(LIMIT);
    let bytes = [frame(0x01, b"a"), frame(0x89, b"p"), frame(0x80, b"b"), frame(0x82, &[0; 5000])].concat();
    let (first, second) = bytes.split_at(1000);
    assert_eq!(parse(&mut parser, [first]).len(), 2);
    assert!(!parser.is_idle() && parser.heap_bytes() > 0);
    assert_eq!(parse(&mut parser, [second]).len(), 1);
    assert!(parser.is_idle());
    assert_eq!(parser.heap_bytes(), 0);
}

#[test]
fn a_declared_length_alone_costs_no_memory() {
    let mut parser = Parser::new(1 << 20);
    let mut head = frame(0x82, &[0; 1 << 20]);
    head.truncate(20);
    assert!(parse(&mut parser, [&head[..]]).is_empty());
    assert!(parser.heap_bytes() < 64, "{} bytes for 6", parser.heap_bytes());
}

#[test]
fn every_violation_is_a_close_frame_of_1002_1007_or_1009() {
    for (violation, code) in [(Violation::Utf8, 1007), (Violation::TooLarge, 1009), (Violation::Length, 1002)] {
        assert_eq!(violation.close_reason().code(), code);
    }
}

#[test]
fn written_frames_have_the_shortest_header_and_stand_side_by_side() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut direct = b"front".to_vec();
        write(&mut direct, Opcode::Binary, &payload);
        let mut out = b"front".to_vec();
        let start = begin(&mut out);
        out.extend_from_slice(&payload);
        let span = finish(&mut out, start, Opcode::Binary);
        assert_eq!(span, 5..out.len(), "{len}");
        assert!(out == direct, "{len}");
        let (head, head_len) = header(Opcode::Binary, len);
        assert_eq!(&out[5..5 + head_len], &head[..head_len]);
        assert!(out[5 + head_len..] == payload, "{len}");
    }
}

#[test]
fn control_frames_are_cut_to_their_limit() {
    assert_eq!(close_frame(1001, "bye"), [0x88, 5, 0x03, 0xe9, b'b', b'y', b'e']);
    assert_eq!(empty_close_frame(), [0x88, 0]);
    let long = close_frame(1000, &"€".repeat(100));
    assert_eq!(long.len(), 4 + 123);
    assert!(std::str::from_utf8(&long[4..]).is_ok());
    assert_eq!(ping_frame(b"a"), [0x89, 1, b'a']);
    assert_eq!(pong_frame(&[1; 200]).len(), 127);
}

/// The model: whole frames only, one after another, everything copied.
fn model(mut bytes: &[u8]) -> Vec<Got> {
    let mut got = Vec::new();
    let mut message: Option<(u8, Vec<u8>, u32)> = None;
    loop {
        let [first, second, rest @ ..] = bytes else { return got };
        let (fin, opcode, short) = (first & 0x80 != 0, first & 15, u64::from(second & 0x7f));
        let violation = if first & 0x70 != 0 {
            Some(Violation::ReservedBits)
        } else if opcode == 0 && message.is_none() {
            Some(Violation::OrphanContinuation)
        } else if (opcode == 1 || opcode == 2) && message.is_some() {
            Some(Violation::InterleavedMessage)
        } else if (3..8).contains(&opcode) || opcode > 10 {
            Some(Violation::Opcode)
        } else if opcode >= 8 && !fin {
            Some(Violation::ControlFragmented)
        } else if opcode >= 8 && short > 125 {
            Some(Violation::ControlTooLong)
        } else if second & 0x80 == 0 {
            Some(Violation::Unmasked)
        } else {
            None
        };
        if let Some(violation) = violation {
            got.push(Got::Violation(violation));
            return got;
        }
        let extra = [(126, 2), (127, 8)].iter().find(|(s, _)| *s == short).map_or(0, |(_, n)| *n);
        if rest.len() < extra + 4 {
            return got;
        }
        let mut len = short;
        if extra > 0 {
            len = rest[..extra].iter().fold(0, |sum, b| (sum << 8) | u64::from(*b));
            if len >> 63 != 0 || len <= if extra == 2 { 125 } else { 65_535 } {
                got.push(Got::Violation(Violation::Length));
                return got;
            }
        }
        let held = message.as_ref().map_or(0, |(_, held, _)| held.len() as u64);
        if opcode < 8 && held + len > LIMIT as u64 {
            got.push(Got::Violation(Violation::TooLarge));
            return got;
        }
        if opcode < 3 && len == 0 && !(fin && opcode > 0) {
            let empties = 1 + message.as_ref().map_or(0, |m| m.2);
            if let Some(message) = &mut message {
                message.2 = empties;
            }
            if empties > u32::from(EMPTY_FRAGMENTS_MAX) {
                got.push(Got::Violation(Violation::EmptyFragments));
                return got;
            }
        }
        let (mask, body) = rest[extra..].split_at(4);
        if (body.len() as u64) < len {
            return got;
        }
        let (payload, after) = body.split_at(len as usize);
        let payload: Vec<u8> = payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]).collect();
        bytes = after;
        let (kind, whole) = match (opcode, fin, message.take()) {
            (0, true, Some((kind, mut held, _))) => {
                held.extend(payload);
                (kind, held)
            }
            (0, false, Some((kind, mut held, empties))) => {
                held.extend(payload);
                message = Some((kind, held, empties));
                continue;
            }
            (1 | 2, false, None) => {
                message = Some((opcode, payload.clone(), u32::from(payload.is_empty())));
                continue;
            }
            (opcode, _, kept) => {
                message = kept;
                (opcode, payload)
            }
        };
        got.push(match kind {
            1 => String::from_utf8(whole).map_or(Got::Violation(Violation::Utf8), Got::Text),
            2 => Got::Binary(whole),
            9 => Got::Ping(whole),
            10 => Got::Pong(whole),
            _ if whole.is_empty() => Got::Close(None, String::new()),
            _ if whole.len() == 1 => Got::Violation(Violation::CloseCode),
            _ => match (u16::from_be_bytes([whole[0], whole[1]]), String::from_utf8(whole[2..].to_vec())) {
                (0..1000 | 1004..1007 | 1015..3000 | 5000.., _) => Got::Violation(Violation::CloseCode),
                (_, Err(_)) => Got::Violation(Violation::Utf8),
                (code, Ok(reason)) => Got::Close(Some(code), reason),
            },
        });
        if matches!(got.last(), Some(Got::Close(..) | Got::Violation(_))) {
            return got;
        }
    }
}

/// Mostly sound frames, some not.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => any::<String>().prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..300),
        1 => Just(vec![b'a'; 66_000]),
        1 => Just(Vec::new()),
    ];
    let first = prop_oneof![
        6 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a]),
        1 => any::<u8>(),
    ];
    let one = (first, payload).prop_map(|(first, mut payload)| {
        if first & 0x0f >= 8 {
            payload.truncate(125);
        }
        frame(first, &payload)
    });
    prop::collection::vec(one, 1..12).prop_map(|frames| frames.concat())
}

fn portions<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    for &size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (portion, rest) = bytes.split_at(size.clamp(1, bytes.len()));
        out.push(portion);
        bytes = rest;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn portions_make_no_difference_and_the_model_agrees(
        bytes in frames(),
        sizes in prop::collection::vec(prop_oneof![1usize..20, 1usize..3000], 1..8),
    ) {
        let whole = parse_whole(&bytes);
        prop_assert_eq!(&parse(&mut Parser::new(LIMIT), portions(&bytes, &sizes)), &whole);
        prop_assert_eq!(&model(&bytes), &whole);
    }

    #[test]
    fn random_bytes_never_panic_and_the_model_agrees(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        sizes in prop::collection::vec(1usize..9, 1..4),
    ) {
        let whole = parse_whole(&bytes);
        prop_assert_eq!(&parse(&mut Parser::new(LIMIT), portions(&bytes, &sizes)), &whole);
        prop_assert_eq!(&model(&bytes), &whole);
    }
}
