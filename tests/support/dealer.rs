//! An adapter process by hand: a ZMTP 3.1 DEALER that speaks MessagePack maps with the control channel.

use super::PATIENCE;
use bytes::BytesMut;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use tickcast::zmtp::parser;

/// READY of a DEALER.
pub const DEALER_READY: &[u8] = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER";

/// A connected DEALER.
pub struct Dealer {
    pub tcp: TcpStream,
    /// The session of the last welcome.
    pub session: Value,
}

impl Dealer {
    /// Connects to `tcp://…` and shakes hands.
    pub fn connect(control: &str) -> Self {
        let mut tcp = TcpStream::connect(control.strip_prefix("tcp://").expect("tcp")).expect("the channel listens");
        tcp.set_nodelay(true).expect("an option");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.write_all(&parser::greeting()).expect("sent");
        tcp.write_all(DEALER_READY).expect("sent");
        let mut head = [0; 64 + 2];
        tcp.read_exact(&mut head).expect("greeting and the head of READY");
        let mut ready = vec![0; usize::from(head[65])];
        tcp.read_exact(&mut ready).expect("READY");
        assert!(ready.ends_with(b"\0\0\0\x06ROUTER"), "{ready:?}");
        Dealer { tcp, session: Value::Null }
    }

    /// Sends bytes as one message.
    pub fn raw(&mut self, body: &[u8]) {
        let mut out = BytesMut::new();
        parser::message(&[body], &mut out);
        self.tcp.write_all(&out).expect("sent");
    }

    /// Sends a map.
    pub fn send(&mut self, map: Value) {
        self.raw(&rmp_serde::to_vec(&map).expect("MessagePack"));
    }

    /// The next message's parts' bytes; `None` when the connection has ended. PINGs are answered on the way.
    pub fn try_recv(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut head = [0; 2];
            self.tcp.read_exact(&mut head).ok()?;
            let len = if head[0] & 2 == 0 {
                usize::from(head[1])
            } else {
                let mut rest = [0; 7];
                self.tcp.read_exact(&mut rest).ok()?;
                usize::try_from(u64::from_be_bytes(std::array::from_fn(|i| if i == 0 { head[1] } else { rest[i - 1] })))
                    .expect("a length")
            };
            let mut body = vec![0; len];
            self.tcp.read_exact(&mut body).ok()?;
            if head[0] & 4 == 0 {
                return Some(body);
            }
            if body.starts_with(b"\x04PING") {
                let mut pong = BytesMut::new();
                parser::pong(&body[7..], &mut pong);
                self.tcp.write_all(&pong).expect("sent");
            }
        }
    }

    /// The next map; it must have `v: 1`.
    pub fn recv(&mut self) -> Value {
        let body = self.try_recv().expect("a message");
        let map: Value = rmp_serde::from_slice(&body).expect("a MessagePack map");
        assert_eq!(map["v"], json!(1), "{map}");
        map
    }

    /// The next map but heartbeats.
    pub fn next(&mut self) -> Value {
        loop {
            let map = self.recv();
            if map["op"] != "heartbeat" {
                return map;
            }
        }
    }
}
