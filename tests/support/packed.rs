//! A MessagePack client over the harness's socket.

use super::{Client, Got, Server};
use serde_json::{Value, json};
use tickcast::wire::msgpack::{Received, ServerFrame, read};

const PROTOCOL: &str = "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n";

/// See the module header.
pub struct Packed {
    pub client: Client,
    /// Ticks read while waiting for something else; `true` = snapshot.
    pub ticks: Vec<(bool, Received)>,
}

impl Packed {
    pub fn connect(server: &Server) -> Self {
        Self::connect_with(server, "demo-key")
    }

    pub fn connect_with(server: &Server, key: &str) -> Self {
        let (client, head) = Client::connect_to(server.ws, "/", PROTOCOL);
        assert!(head.to_ascii_lowercase().contains("sec-websocket-protocol: tickcast.v1.msgpack"), "{head}");
        let mut packed = Packed { client, ticks: Vec::new() };
        let reply = packed.request(json!({"action": "authenticate", "api_key": key}));
        assert_eq!(reply["type"], "auth", "{reply}");
        packed
    }

    /// Reads one frame; the message if it was one.
    pub fn frame(&mut self) -> Option<Value> {
        loop {
            match self.client.next() {
                Got::Binary(payload) => match read(&payload).expect("a readable frame") {
                    ServerFrame::Message(message) => return Some(message),
                    ServerFrame::Ticks { ticks, t_send } => {
                        assert!(ticks.iter().all(|t| t.t_recv <= t_send));
                        self.ticks.extend(ticks.into_iter().map(|t| (false, t)));
                        return None;
                    }
                    ServerFrame::Snapshots { ticks, .. } => {
                        self.ticks.extend(ticks.into_iter().map(|t| (true, t)));
                        return None;
                    }
                    ServerFrame::Unknown => panic!("unknown frame {payload:x?}"),
                },
                Got::Ping(payload) => self.client.frame(0x8a, &payload),
                other => panic!("only binary frames are expected, got {other:?}"),
            }
        }
    }

    pub fn request(&mut self, message: Value) -> Value {
        self.client.send(message);
        loop {
            if let Some(reply) = self.frame() {
                return reply;
            }
        }
    }

    pub fn subscribe(&mut self, symbol: &str, mode: u8) -> Value {
        let ack = self.request(json!({"action": "subscribe", "symbol": symbol, "exchange": "NSE", "mode": mode}));
        assert_eq!(ack["status"], "success", "{ack}");
        ack["subscriptions"][0].clone()
    }

    pub fn tick(&mut self) -> (bool, Received) {
        while self.ticks.is_empty() {
            assert_eq!(self.frame(), None, "a tick was expected");
        }
        self.ticks.remove(0)
    }
}
