//! Clients that break the protocol: each gets its close code, is counted, disturbs nobody and leaves nothing open.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use support::world::masked;
use support::{Client, Got, Publisher, Server};

/// One way to misbehave after the upgrade, and what it earns.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    code: u16,
}

fn case(name: &'static str, code: u16, bytes: impl Into<Vec<u8>>) -> Case {
    Case { name, bytes: bytes.into(), code }
}

/// A header with a mask of zeros and nothing behind it.
fn head(first: u8, length: &[u8]) -> Vec<u8> {
    [&[first][..], length, &[0; 4]].concat()
}

fn cases() -> Vec<Case> {
    let top_bit = [&[0x80 | 127][..], &(1_u64 << 63).to_be_bytes()].concat();
    let wide = [&[0x80 | 127][..], &5_u64.to_be_bytes()].concat();
    let tebibyte = [&[0x80 | 127][..], &(1_u64 << 40).to_be_bytes()].concat();
    let endless = [masked(0x01, b"[\""), masked(0x00, &[b'x'; 30_000]).repeat(3)].concat();
    vec![
        case("unmasked text", 1002, *b"\x81\x02{}"),
        case("unmasked ping", 1002, *b"\x89\x00"),
        case("a 64-bit length with the top bit set", 1002, head(0x81, &top_bit)),
        case("a length in more bytes than it needs", 1002, head(0x81, &wide)),
        case("a declared length of 1 TiB", 1009, head(0x82, &tebibyte)),
        case("a ping of 126 bytes", 1002, masked(0x89, &[b'x'; 126])),
        case("a fragmented ping", 1002, masked(0x09, b"x")),
        case("a close of one byte", 1002, masked(0x88, b"x")),
        case("a close with a code that must not be sent", 1002, masked(0x88, &1005_u16.to_be_bytes())),
        case("a close whose reason is not UTF-8", 1007, masked(0x88, b"\x03\xe8\xff")),
        case("RSV1, as if compressed", 1002, masked(0xc1, b"{}")),
        case("RSV2", 1002, masked(0xa1, b"{}")),
        case("RSV3", 1002, masked(0x91, b"{}")),
        case("an unknown data opcode", 1002, masked(0x83, b"{}")),
        case("an unknown control opcode", 1002, masked(0x8b, b"")),
        case("a continuation of nothing", 1002, masked(0x80, b"{}")),
        case("a message inside a message", 1002, [masked(0x01, b"{"), masked(0x81, b"}")].concat()),
        case("text that is not UTF-8", 1007, masked(0x81, b"{\"a\":\"\xc3\x28\"}")),
        case("text that ends within a character", 1007, masked(0x81, b"\xe2\x82")),
        case("fragments without end", 1009, endless),
        case("empty fragments without end", 1002, [masked(0x01, b""), masked(0x00, b"").repeat(100)].concat()),
        case("random bytes", 1002, noise(4096)),
    ]
}

/// Bytes of a small generator, the same each time; the first byte's RSV bits are set.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::once(0xf1).chain((1..len).map(|_| next())).collect()
}

/// Sockets that this process holds open as a server at `port`, whatever their state.
fn sockets_of(server: &Server) -> usize {
    let port = format!(":{:04X}", server.ws.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    // Local address, then state: 0A listens, 06 is TIME_WAIT, which no process holds.
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f[1].ends_with(&port) && f[3] != "0A" && f[3] != "06" && f[9] != "0").count()
}

/// A client that must not notice anything.
struct Witness {
    client: Client,
    publisher: Publisher,
    price: f64,
}

impl Witness {
    fn new(server: &Server) -> Self {
        let (mut client, publisher) = (server.client(), server.publisher());
        client.subscribe(&["A"], 1);
        Witness { client, publisher, price: 0.0 }
    }

    fn assert_unharmed(&mut self, after: &str) {
        self.price += 1.0;
        self.publisher.ltp("A", self.price);
        assert_eq!(self.client.json()["data"]["ltp"], self.price, "after {after}");
    }
}

#[test]
fn each_breach_of_the_protocol_gets_its_close_code_and_is_counted_and_disturbs_nobody() {
    let server = Server::start(|_| {});
    let mut witness = Witness::new(&server);
    let (mut protocol, mut utf8, mut large) = (0, 0, 0);
    for authenticated in [false, true] {
        // Larger messages are allowed once authenticated, so the endless one is endless before only.
        for case in cases().iter().filter(|c| !(authenticated && c.name == "fragments without end")) {
            let mut client = if authenticated { server.client() } else { server.connect() };
            client.raw(&case.bytes);
            match client.until_close() {
                Got::Close(Some((code, reason))) => assert_eq!(code, case.code, "{}: {reason}", case.name),
                other => panic!("{}: {other:?}", case.name),
            }
            match case.code {
                1002 => protocol += 1,
                1007 => utf8 += 1,
                _ => large += 1,
            }
            witness.assert_unharmed(case.name);
        }
    }
    for (reason, count) in [("protocol", protocol), ("invalid_utf8", utf8), ("too_large", large)] {
        server.await_metric("tickcast_sessions_closed_total", &[&format!("\"{reason}\"")], f64::from(count));
    }
    drop(witness);
    server.finish();
}

#[test]
fn an_endless_message_of_an_authenticated_client_ends_at_one_mebibyte() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    client.raw(&masked(0x01, b"[\""));
    let fragment = masked(0x00, &[b'x'; 30_000]);
    for _ in 0..40 {
        client.raw(&fragment);
    }
    assert_eq!(client.until_close(), Got::Close(Some((1009, "message too large".into()))));
    drop(client);
    server.finish();
}

#[test]
fn whoever_breaks_the_protocol_and_stays_is_hung_up_on_and_leaves_no_descriptor() {
    let server = Server::start(|_| {});
    let mut stayers: Vec<Client> = Vec::new();
    for case in cases() {
        let mut client = server.connect();
        client.raw(&case.bytes);
        stayers.push(client);
    }
    assert!(sockets_of(&server) >= stayers.len(), "they are counted while they are open");
    // And some who leave in the middle of a frame, or without a goodbye.
    for bytes in [&b""[..], b"\x81", &head(0x81, &[0x80 | 100]), &masked(0x01, b"{")] {
        let mut client = server.client();
        client.subscribe(&["A", "B"], 1);
        client.raw(bytes);
    }
    for client in &mut stayers {
        assert!(matches!(client.until_close(), Got::Close(Some(_))));
    }
    // None of them closes its socket; the server does, after its 2 s of patience.
    for client in &mut stayers {
        assert_eq!(client.next(), Got::End);
    }
    server.await_metric("tickcast_sessions_closed_total", &[], (stayers.len() + 4) as f64);
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while sockets_of(&server) > 0 {
        assert!(std::time::Instant::now() < deadline, "{} sockets are left", sockets_of(&server));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    drop(stayers);
    server.finish();
}

/// Sends `bytes` without upgrading; what comes back until the server hangs up.
fn answer(server: &Server, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(server.ws).expect("it listens");
    tcp.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    // The server may hang up before it has taken everything.
    let _ = tcp.write_all(bytes);
    let mut response = Vec::new();
    if let Err(error) = tcp.read_to_end(&mut response) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it was not hung up on");
    }
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn what_is_no_upgrade_is_answered_or_dropped_in_time_and_counted() {
    let server = Server::start(|s| s.limits.handshake = Duration::from_millis(500));
    let mut witness = Witness::new(&server);
    let endless_line = [b"GET /".to_vec(), vec![b'a'; 100_000]].concat();
    let many_headers = ["GET / HTTP/1.1\r\n".to_owned(), "X: y\r\n".repeat(500), "\r\n".to_owned()].concat();
    for (name, bytes, status, cause) in [
        ("a request line that never ends", endless_line.as_slice(), "", "malformed"),
        ("headers without end", many_headers.as_bytes(), "HTTP/1.1 431", "malformed"),
        ("random bytes", &noise(2000)[..], "HTTP/1.1 400", "malformed"),
        ("a ZMTP greeting", &tickcast::zmtp::parser::greeting()[..], "HTTP/1.1 400", "malformed"),
        ("a plain GET", &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "HTTP/1.1 426", "not_websocket"),
        ("half a request", &b"GET / HTTP/1.1\r\nHos"[..], "", "too_slow"),
        ("nothing at all", &b""[..], "", "too_slow"),
    ] {
        let label = format!("cause=\"{cause}\"");
        let before = server.metric("tickcast_handshakes_refused_total", &[&label]);
        let response = answer(&server, bytes);
        // Whoever gets no answer, or one that the reset overtook, is hung up on all the same.
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{name}: {response:?}");
        assert!(response.starts_with(status), "{name}: {response:?}");
        server.await_metric("tickcast_handshakes_refused_total", &[&label], before + 1.0);
        witness.assert_unharmed(name);
    }
    server.await_metric("tickcast_handshakes_pending", &[], 0.0);
    drop(witness);
    server.finish();
}

#[test]
fn a_client_that_keeps_talking_after_its_breach_still_gets_the_close_frame() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    let mut flood = masked(0xc1, b"{}");
    flood.extend(masked(0x81, br#"{"action":"ping"}"#).repeat(20_000));
    client.raw(&flood);
    client.tcp.shutdown(Shutdown::Write).expect("still open");
    assert_eq!(client.until_close(), Got::Close(Some((1002, "protocol error".into()))));
    // What followed the breach was not carried out.
    assert_eq!(server.metric("tickcast_sessions_closed_total", &["protocol"]), 1.0);
    drop(client);
    server.finish();
}

#[test]
fn a_clean_goodbye_is_echoed_with_its_code_and_nothing_after_it_is_read() {
    let server = Server::start(|_| {});
    let ping = masked(0x81, br#"{"action":"ping"}"#);
    for (goodbye, echo) in [
        (&b"\x03\xe8bye"[..], Got::Close(Some((1000, String::new())))),
        (&4999_u16.to_be_bytes(), Got::Close(Some((4999, String::new())))),
        (b"", Got::Close(None)),
    ] {
        let mut client = server.client();
        client.subscribe(&["A"], 1);
        client.raw(&[masked(0x88, goodbye), ping.clone()].concat());
        assert_eq!(client.next(), echo);
        assert_eq!(client.next(), Got::End);
    }
    server.await_metric("tickcast_sessions_closed_total", &["peer_closed"], 3.0);
    server.finish();
}
