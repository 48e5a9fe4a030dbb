//! Peers that mean harm: each loses its own connection, is counted, and delays nobody.

mod bus_support;

use bus_support::{PUB_READY, RawPub, Rig, closed, quick, spec};
use tickcast::zmtp::{Direction, parser};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn greeted(rest: &[u8]) -> Vec<u8> {
    [&parser::greeting()[..], rest].concat()
}

/// Sends `bytes` beside a good publisher; the attacker is dropped and counted, the good one's ticks arrive.
async fn check(bytes: &[u8], cause: &str) {
    let mut rig = Rig::bound();
    let mut good = RawPub::connect(&rig.address(), 1).await;
    good.send("NSE_INFY_LTP", "before").await;
    let mut attacker = TcpStream::connect(rig.address()).await.expect("a listener");
    // It may be cut off before it has said everything.
    let _ = attacker.write_all(bytes).await;
    good.send("NSE_INFY_LTP", "during").await;
    closed(&mut attacker).await;
    assert_eq!(rig.rejected(cause), 1.0, "{cause}");
    good.send("NSE_INFY_LTP", "after").await;
    for value in ["before", "during", "after"] {
        assert_eq!(rig.text().await, format!("NSE_INFY_LTP={value}"), "{cause}");
    }
    assert_eq!(rig.handle.statuses()[0].peers(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_frame_of_one_tebibyte_costs_only_its_sender() {
    let tebibyte = b"\x02\0\0\x01\0\0\0\0\0";
    check(&greeted(&[PUB_READY, tebibyte].concat()), "zmtp_frame_too_large").await;
    check(&greeted(b"\x06\0\0\x01\0\0\0\0\0"), "zmtp_command").await;
    check(&greeted(tebibyte), "zmtp_not_ready").await;
}

#[tokio::test]
async fn an_endless_message_costs_only_its_sender() {
    let chain = b"\x01\x04more".repeat(1000);
    check(&greeted(&[PUB_READY, &chain].concat()), "zmtp_too_many_parts").await;
}

#[tokio::test]
async fn silence_and_half_a_greeting_end_with_the_deadline() {
    check(b"", "zmtp_handshake_timeout").await;
    check(&parser::greeting()[..40], "zmtp_handshake_timeout").await;
    check(&parser::greeting(), "zmtp_handshake_timeout").await;
}

#[tokio::test]
async fn wrong_protocols_and_mechanisms_are_refused() {
    check(b"GET / HTTP/1.1\r\n\r\n", "zmtp_signature").await;
    let mut plain = parser::greeting();
    plain[12..17].copy_from_slice(b"PLAIN");
    check(&plain, "zmtp_mechanism").await;
    check(&greeted(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB"), "zmtp_socket_type").await;
    let mut old = parser::greeting();
    old[10] = 1;
    check(&old, "zmtp_version").await;
}

#[tokio::test]
async fn noise_after_a_good_handshake_costs_only_its_sender() {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    let mut rig = Rig::bound();
    let mut good = RawPub::connect(&rig.address(), 0).await;
    for seed in 0..200u64 {
        let mut noise = vec![0u8; 2000];
        StdRng::seed_from_u64(seed).fill(&mut noise[..]);
        let mut attacker = RawPub::connect(&rig.address(), (seed % 2) as u8).await;
        let _ = attacker.stream.write_all(&noise).await;
        good.send("NSE_INFY_LTP", &seed.to_string()).await;
    }
    let mut expected = 0;
    while expected < 200 {
        let message = rig.next().await;
        // Noise may hold a well-formed message of two parts; it says nothing about this topic.
        if &message.topic[..] == b"NSE_INFY_LTP" {
            assert_eq!(message.body, expected.to_string());
            expected += 1;
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn peers_beyond_the_limit_are_refused_and_counted() {
    let mut config = quick();
    config.peers_max = 2;
    let mut rig = Rig::start(&[spec(Direction::Bind, "tcp://127.0.0.1:0")], config);
    let mut first = RawPub::connect(&rig.address(), 1).await;
    let second = RawPub::connect(&rig.address(), 1).await;
    let mut third = TcpStream::connect(rig.address()).await.expect("a listener");
    closed(&mut third).await;
    assert_eq!(rig.rejected("peers_max"), 1.0);
    assert_eq!(rig.metric("tickcast_bus_connects_total{endpoint=\"0\",outcome=\"full\"}"), 1.0);
    first.send("A", "1").await;
    assert_eq!(rig.text().await, "A=1");
    drop(second);
    // The place is free once the bus has seen the second leave.
    while rig.handle.statuses()[0].peers() == 2 {
        tokio::task::yield_now().await;
    }
    let mut fourth = RawPub::connect(&rig.address(), 0).await;
    fourth.send("B", "2").await;
    assert_eq!(rig.text().await, "B=2");
    rig.stop().await;
}

#[tokio::test]
async fn a_flood_of_pings_that_nobody_reads_ends_the_flooder() {
    let mut rig = Rig::bound();
    let mut good = RawPub::connect(&rig.address(), 1).await;
    let mut flooder = RawPub::connect(&rig.address(), 1).await;
    let pings = b"\x04\x17\x04PING\0\0sixteen bytes ok".repeat(1000);
    while flooder.stream.write_all(&pings).await.is_ok() {}
    assert_eq!(rig.rejected("zmtp_answers_unread"), 1.0);
    good.send("A", "1").await;
    assert_eq!(rig.text().await, "A=1");
    rig.stop().await;
}
