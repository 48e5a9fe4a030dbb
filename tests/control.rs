//! The control channel's port: handshakes, hostile peers, and what a peer without a session hears.

mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use support::Server;
use support::dealer::{DEALER_READY, Dealer};
use tickcast::zmtp::parser;
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend};

#[test]
fn whoever_speaks_without_a_session_is_asked_to_say_hello() {
    let server = Server::start(|_| {});
    let mut dealer = Dealer::connect(&server.control);
    dealer.send(json!({"v": 1, "op": "heartbeat", "session": "of another life"}));
    assert_eq!(dealer.recv(), json!({"v": 1, "op": "hello_required"}));
    dealer.raw(b"no map at all");
    assert_eq!(dealer.recv()["op"], "hello_required");
    server.await_metric("tickcast_control_peers", &[], 1.0);
    drop(dealer);
    server.await_metric("tickcast_control_peers", &[], 0.0);
}

#[test]
fn the_dealer_of_the_zeromq_crate_gets_a_session_and_heartbeats() {
    let server = Server::start(|_| {});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut dealer = DealerSocket::new();
        dealer.connect(&server.control).await.expect("the channel listens");
        let mut session = Value::Null;
        let beat = |session: &Value| json!({"v": 1, "op": "heartbeat", "session": session});
        for (say, op) in [(json!({"v": 1, "op": "hello", "broker": "angel"}), "welcome"), (Value::Null, "heartbeat")] {
            let say = if say.is_null() { beat(&session) } else { say };
            dealer.send(rmp_serde::to_vec(&say).expect("MessagePack").into()).await.expect("sent");
            session = loop {
                let answer = dealer.recv().await.expect("an answer");
                let map: Value = rmp_serde::from_slice(answer.get(0).expect("a part")).expect("a map");
                if map["op"] == op {
                    break map["session"].clone();
                }
            };
            assert!(session.is_u64(), "{session}");
        }
    });
}

#[test]
fn a_peers_fault_costs_that_peer_its_connection_and_nobody_else() {
    let server = Server::start(|_| {});
    let mut good = Dealer::connect(&server.control);
    for (what, bytes, cause) in [
        ("no ZMTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "zmtp_signature"),
        (
            "a REQ",
            [&parser::greeting()[..], b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03REQ"].concat(),
            "zmtp_socket_type",
        ),
        (
            "a tebibyte",
            [&parser::greeting()[..], DEALER_READY, b"\x02\0\0\x01\0\0\0\0\0"].concat(),
            "zmtp_frame_too_large",
        ),
        (
            "many parts",
            [&parser::greeting()[..], DEALER_READY, b"\x01\x01a\x01\x01b\x01\x01c"].concat(),
            "zmtp_too_many_parts",
        ),
    ] {
        let mut bad = TcpStream::connect(server.control.trim_start_matches("tcp://")).expect("the channel listens");
        bad.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
        bad.write_all(&bytes).expect("sent");
        let mut rest = Vec::new();
        // The end, or a reset since bytes were left unread.
        let _ = bad.read_to_end(&mut rest);
        server.await_metric("tickcast_control_rejected_total", &[cause], 1.0);
        good.send(json!({"v": 1, "op": "heartbeat"}));
        assert_eq!(good.recv()["op"], "hello_required", "after {what}");
    }
}

#[test]
fn half_a_handshake_ends_at_its_deadline() {
    let server = Server::start(|s| s.limits.bus_handshake = std::time::Duration::from_millis(50));
    let mut half = TcpStream::connect(server.control.trim_start_matches("tcp://")).expect("the channel listens");
    half.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    half.write_all(&parser::greeting()[..20]).expect("sent");
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest);
    server.await_metric("tickcast_control_rejected_total", &["zmtp_handshake_timeout"], 1.0);
}

#[test]
fn the_channel_binds_ipc_as_well() {
    let path = std::env::temp_dir().join(format!("tc-control-{}.sock", std::process::id()));
    let endpoint = format!("ipc://{}", path.display());
    let server = Server::start(|s| s.adapters.control_bind = endpoint.clone());
    assert_eq!(server.control, endpoint);
    let mut peer = std::os::unix::net::UnixStream::connect(&path).expect("the channel listens");
    peer.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    peer.write_all(&[&parser::greeting()[..], DEALER_READY, b"\0\x01\x80"].concat()).expect("sent");
    let mut answer = [0; 64 + 30 + 2 + 22];
    peer.read_exact(&mut answer).expect("handshake and answer");
    assert!(answer.ends_with(b"hello_required"), "{answer:?}");
    assert!(server.stop());
    assert!(!path.exists(), "the file goes with the server");
}
