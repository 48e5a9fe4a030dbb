//! What peers send, good and bad, against the pure machine.

use super::*;
use proptest::prelude::*;

fn peer_greeting(minor: u8, mechanism: &[u8]) -> Vec<u8> {
    let mut bytes = greeting().to_vec();
    bytes[11] = minor;
    bytes[12..32].fill(0);
    bytes[12..12 + mechanism.len()].copy_from_slice(mechanism);
    bytes
}

fn peer_ready(socket_type: &[u8]) -> BytesMut {
    let mut properties = BytesMut::new();
    properties.put_slice(b"\x08Identity\0\0\0\x02me\x0bsocket-TYPE");
    properties.put_u32(socket_type.len() as u32);
    properties.put_slice(socket_type);
    let mut out = BytesMut::new();
    command(b"READY", &properties, &mut out);
    out
}

fn handshake() -> BytesMut {
    let mut bytes = BytesMut::from(&peer_greeting(1, b"NULL")[..]);
    bytes.extend_from_slice(&peer_ready(b"PUB"));
    bytes
}

fn check(bytes: &[u8], expected: (usize, Option<Violation>)) {
    for split in [1, 7, bytes.len().max(1)] {
        let (events, violation) = run(Config::sub(), bytes, split);
        assert_eq!((events.len(), violation), expected, "split {split}: {events:?}");
    }
}

fn after_handshake(bytes: &[u8], violation: Violation) {
    check(&[&handshake()[..], bytes].concat(), (2, Some(violation)));
}

#[test]
fn a_publisher_s_messages_come_out_whole_and_in_order() {
    let mut bytes = handshake();
    message(&[b"NSE_INFY_LTP", b"{}"], &mut bytes);
    let long = vec![b'x'; 70_000];
    message(&[b"BATCH", &long], &mut bytes);
    for split in [1, 3, 1000, bytes.len()] {
        let (events, violation) = run(Config::sub(), &bytes, split);
        assert_eq!(violation, None);
        assert_eq!(events[..2], [Event::Greeting { minor: 1 }, Event::Ready]);
        let Event::Message(first) = &events[2] else { panic!("{events:?}") };
        assert_eq!(first[..], [&b"NSE_INFY_LTP"[..], b"{}"]);
        let Event::Message(second) = &events[3] else { panic!("{events:?}") };
        assert_eq!(second[1], long);
    }
}

#[test]
fn commands_are_answered_or_ignored_even_between_two_parts() {
    let mut bytes = handshake();
    frame(FLAG_MORE, b"topic", &mut bytes);
    command(b"PING", b"\0\x64ctx", &mut bytes);
    command(b"WHATEVER", b"later", &mut bytes);
    command(b"PONG", b"", &mut bytes);
    frame(0, b"body", &mut bytes);
    let (events, violation) = run(Config::sub(), &bytes, 5);
    assert_eq!(violation, None);
    assert_eq!(events[2], Event::Ping { context: Bytes::from_static(b"ctx") });
    assert_eq!(events[3], Event::Pong);
    let Event::Message(parts) = &events[4] else { panic!("{events:?}") };
    assert_eq!(parts[..], [&b"topic"[..], b"body"]);
}

#[test]
fn wrong_greetings_are_refused_as_early_as_they_show() {
    check(b"G", (0, Some(Violation::Signature)));
    check(b"\xff\0\0\0\0\0\0\0\0\x7e", (0, Some(Violation::Signature)));
    check(b"\xff\0\0\0\0\0\0\0\0\x7f\x01", (0, Some(Violation::Version)));
    check(&peer_greeting(0, b"PLAIN")[..16], (0, Some(Violation::Mechanism)));
    check(&peer_greeting(0, b"CURVE"), (0, Some(Violation::Mechanism)));
    check(&peer_greeting(0, b"NULLX"), (0, Some(Violation::Mechanism)));
    check(&peer_greeting(0, b"NULL")[..63], (0, None));
}

#[test]
fn a_peer_of_a_wrong_socket_type_is_refused() {
    let with = |role: Role, ready: &[u8]| {
        let bytes = [&peer_greeting(0, b"NULL")[..], ready].concat();
        run(Config { role, ..Config::sub() }, &bytes, 1).1
    };
    assert_eq!(with(Role::Sub, &peer_ready(b"XPUB")), None);
    assert_eq!(with(Role::Sub, &peer_ready(b"SUB")), Some(Violation::SocketType));
    assert_eq!(with(Role::Router, &peer_ready(b"DEALER")), None);
    assert_eq!(with(Role::Router, &peer_ready(b"PUB")), Some(Violation::SocketType));
    assert_eq!(with(Role::Sub, b"\x04\x06\x05READY"), Some(Violation::SocketType), "no Socket-Type at all");
}

#[test]
fn nothing_but_ready_may_follow_the_greeting() {
    let greeted = |rest: &[u8]| [&peer_greeting(1, b"NULL")[..], rest].concat();
    check(&greeted(b"\x00\x01x"), (1, Some(Violation::NotReady)));
    check(&greeted(b"\x04\x07\x04PING\0\0"), (1, Some(Violation::NotReady)));
    check(&greeted(b"\x04\x0b\x05ERROR\x04nope"), (1, Some(Violation::Refused)));
    check(&greeted(b"\x04\x00"), (1, Some(Violation::Command)));
    check(&greeted(b"\x04\x02\x05R"), (1, Some(Violation::Command)));
    check(&greeted(b"\x04\x07\x05READY\xff"), (1, Some(Violation::Command)));
}

#[test]
fn a_declared_length_is_refused_before_anything_is_allocated_for_it() {
    let mut parser = Parser::new(Config::sub());
    parser.buffer().extend_from_slice(&handshake());
    parser.buffer().extend_from_slice(b"\x02\0\0\x01\0\0\0\0\0");
    while let Ok(Some(_)) = parser.next_event() {}
    assert_eq!(parser.next_event(), Err(Violation::FrameTooLarge));
    assert!(parser.buffer().capacity() <= 2 * READ_CHUNK_BYTES);
    after_handshake(b"\x02\xff\xff\xff\xff\xff\xff\xff\xff", Violation::FrameTooLarge);
    after_handshake(b"\x06\0\0\0\0\0\0\x10\x01", Violation::Command);
    // The largest frame allowed is waited for without room being made for it.
    let mut parser = Parser::new(Config::sub());
    parser.buffer().extend_from_slice(&handshake());
    parser.buffer().extend_from_slice(b"\x02\0\0\0\0\0\x40\0\0");
    while let Ok(Some(_)) = parser.next_event() {}
    assert_eq!(parser.next_event(), Ok(None));
    assert!(parser.buffer().capacity() <= 2 * READ_CHUNK_BYTES);
}

#[test]
fn an_endless_chain_of_parts_is_refused() {
    after_handshake(b"\x01\x00\x01\x00", Violation::TooManyParts);
    let config = Config { parts_max: usize::MAX, message_bytes_max: 100, ..Config::sub() };
    let mut bytes = handshake();
    for _ in 0..11 {
        frame(FLAG_MORE, b"ten bytes.", &mut bytes);
    }
    assert_eq!(run(config, &bytes, 9).1, Some(Violation::MessageTooLarge));
}

#[test]
fn impossible_flags_are_refused() {
    after_handshake(b"\x08", Violation::Flags);
    after_handshake(b"\x80", Violation::Flags);
    after_handshake(b"\x05\x05\x04PING", Violation::Flags);
    after_handshake(b"\x04\x06\x04PING\0", Violation::Command);
    after_handshake(b"\x04\x18\x04PING\0\x0012345678901234567", Violation::Command);
}

#[test]
fn subscribe_speaks_the_peer_s_version() {
    let mut out = BytesMut::new();
    subscribe(0, b"", &mut out);
    assert_eq!(out[..], *b"\0\x01\x01");
    out.clear();
    subscribe(1, b"NSE", &mut out);
    assert_eq!(out[..], *b"\x04\x0d\x09SUBSCRIBENSE");
}

#[test]
fn every_violation_has_its_own_label() {
    let labels: std::collections::BTreeSet<_> = Violation::ALL.iter().map(|v| v.label()).collect();
    assert_eq!(labels.len(), Violation::ALL.len());
}

fn traffic() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    prop::collection::vec(
        prop_oneof![
            (bytes.clone(), bytes.clone()).prop_map(|(a, b)| {
                let mut out = BytesMut::new();
                message(&[&a, &b], &mut out);
                out.to_vec()
            }),
            prop::collection::vec(any::<u8>(), 0..16).prop_map(|context| {
                let mut out = BytesMut::new();
                command(b"PING", &[&[0, 0], &context[..]].concat(), &mut out);
                out.to_vec()
            }),
        ],
        0..20,
    )
    .prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn however_the_bytes_are_split_the_events_are_the_same(traffic in traffic(), cuts in prop::collection::vec(1usize..300, 1..50)) {
        let bytes = [&handshake()[..], &traffic].concat();
        let whole = run(Config::sub(), &bytes, bytes.len());
        let mut parser = Parser::new(Config::sub());
        let (mut events, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            if at == bytes.len() { break }
            let end = (at + cut).min(bytes.len());
            parser.buffer().extend_from_slice(&bytes[at..end]);
            at = end;
            while let Some(event) = parser.next_event().expect("well-formed") { events.push(event) }
        }
        prop_assert_eq!((events, None), whole);
    }

    #[test]
    fn random_bytes_never_panic(choice in any::<u8>(), start in 0usize..3, noise in prop::collection::vec(any::<u8>(), 0..600)) {
        let head = [&b""[..], &peer_greeting(1, b"NULL"), &handshake()][start].to_vec();
        fuzz(&[&[choice][..], &head, &noise].concat());
    }
}
