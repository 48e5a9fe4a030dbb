//! ZeroMQ peers that mean harm, against the whole server while a client receives real ticks.
//!
//! What each attack does to the bus alone is in `zmtp_hostile.rs`.

mod support;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::{PATIENCE, Server};
use tickcast::zmtp::parser;

const READY: &[u8] = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB";

/// Sends `bytes` as a new peer of the bus.
fn attack(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut peer = TcpStream::connect(server.bus.strip_prefix("tcp://").expect("tcp")).expect("the bus listens");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // It may be cut off before it has said everything.
    let _ = peer.write_all(bytes);
    peer
}

/// Reads until the server hangs up.
fn hung_up(mut peer: TcpStream) {
    let mut sink = [0; 4096];
    loop {
        match peer.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the peer is still connected"),
            Err(_) => return,
        }
    }
}

#[test]
fn hostile_peers_are_dropped_and_counted_while_ticks_of_other_publishers_keep_flowing() {
    let server = Server::start(|s| s.limits.bus_handshake = Duration::from_millis(200));
    let mut client = server.client();
    client.subscribe(&["INFY"], 1);
    let mut publisher = server.publisher();
    let mut price = 0.0;
    let mut tick = |what: &str| {
        price += 1.0;
        publisher.ltp("INFY", price);
        assert_eq!(client.tick()["data"]["ltp"], json!(price), "{what}");
    };
    let greeting = parser::greeting();
    let after_ready = |rest: &[u8]| [&greeting[..], READY, rest].concat();
    tick("before");
    let attacks: [(&str, Vec<u8>); 5] = [
        ("zmtp_frame_too_large", after_ready(b"\x02\0\0\x01\0\0\0\0\0")),
        ("zmtp_too_many_parts", after_ready(&b"\x01\x04more".repeat(100_000))),
        ("zmtp_not_ready", [&greeting[..], b"\x02\0\0\x01\0\0\0\0\0"].concat()),
        ("zmtp_signature", b"GET / HTTP/1.1\r\nHost: bus\r\n\r\n".to_vec()),
        ("zmtp_handshake_timeout", Vec::new()),
    ];
    for (cause, bytes) in attacks {
        let cause_label = format!("cause=\"{cause}\"");
        let before = server.metric("tickcast_bus_rejected_total", &[&cause_label]);
        let peer = attack(&server, &bytes);
        tick(cause);
        hung_up(peer);
        server.await_metric("tickcast_bus_rejected_total", &[&cause_label], before + 1.0);
        tick(cause);
    }
    for seed in 0..50 {
        let mut noise = vec![0; 4000];
        SmallRng::seed_from_u64(seed).fill(&mut noise[..]);
        // Half of them greet well first. Most are cut off at once; all are when they hang up.
        let peer = attack(&server, &if seed % 2 == 0 { after_ready(&noise) } else { noise });
        tick("noise");
        drop(peer);
    }
    // Only the good publisher is left.
    server.await_metric("tickcast_bus_peers", &[], 1.0);
    tick("after");
    assert!(client.settled().is_empty());
    assert!(server.stop());
}
