//! A whole server on port 0 in the test's process, a WebSocket client that sees every byte, and a ZeroMQ publisher by hand.
//!
//! Everything blocks with a deadline: a test that waits for what never comes fails with what it did see.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod dealer;
pub mod packed;
pub mod process;
pub mod world;

use bytes::BytesMut;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickcast::adapter::AdapterFactory;
use tickcast::app::{App, ForcedFacts, Hooks, Running};
use tickcast::config::Settings;
use tickcast::policy::overload::{Facts, LOOK};
use tickcast::shards::Shards;
use tickcast::zmtp::parser;

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; drained when dropped.
pub struct Server {
    running: Option<Running>,
    pub ws: SocketAddr,
    pub admin: SocketAddr,
    /// The first bus endpoint, `tcp://…`.
    pub bus: String,
    /// The control channel, `tcp://…`.
    pub control: String,
}

impl Server {
    /// A server with the `bus` kind on loopback and port 0 everywhere; `change` may alter the settings.
    pub fn start(change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_hooks(change, Hooks::default())
    }

    /// The same with adapters made by `factory`.
    pub fn with_factory(factory: Arc<dyn AdapterFactory>, change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_hooks(change, Hooks { factory: Some(factory), ..Default::default() })
    }

    /// The same with any hooks. Unless a test says otherwise the server never finds itself overloaded: the machine may be, and then it
    /// would rightly merge ticks or refuse what the test is about.
    pub fn with_hooks(change: impl FnOnce(&mut Settings), mut hooks: Hooks) -> Self {
        let calm = || ForcedFacts { facts: Arc::new(Facts::default), every: LOOK };
        hooks.overload.get_or_insert_with(calm);
        let mut settings = Settings::default();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        settings.server.listen = loopback;
        settings.admin.listen = loopback;
        settings.bus.bind = vec!["tcp://127.0.0.1:0".into()];
        settings.adapters.control_bind = "tcp://127.0.0.1:0".into();
        settings.adapters.default = tickcast::config::settings::AdapterKind::Bus;
        change(&mut settings);
        let running = App::build(settings, hooks).and_then(App::spawn).expect("the server starts");
        let at = running.addresses().clone();
        let bus = at.bus.first().cloned().unwrap_or_default();
        Server { running: Some(running), ws: at.ws, admin: at.admin, bus, control: at.control }
    }

    /// A connected client that has not authenticated.
    pub fn connect(&self) -> Client {
        Client::connect(self.ws)
    }

    /// A client that has authenticated with the demo key.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
        assert_eq!(reply["type"], "auth", "{reply}");
        client
    }

    /// A publisher connected to the bus, whose subscription has arrived.
    pub fn publisher(&self) -> Publisher {
        Publisher::connect(self.bus.strip_prefix("tcp://").expect("a tcp bus"))
    }

    /// The shards of the running server.
    pub fn shards(&self) -> &Arc<Shards> {
        self.running.as_ref().expect("running").shards()
    }

    /// Sum of all series of the metric whose name and labels contain all of `parts`; the first one is the exact name.
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        metric_in(&self.running.as_ref().expect("running").metrics(), name, parts)
    }

    /// Waits until `metric` is `want`.
    pub fn await_metric(&self, name: &str, parts: &[&str], want: f64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(name, parts) != want {
            assert!(Instant::now() < deadline, "{name}{parts:?} is {}, not {want}", self.metric(name, parts));
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Status and body of an admin path.
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        let answer = exchange(self.admin, &request);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        (status, body.to_owned())
    }

    /// The whole answer to an upgrade that is refused.
    pub fn refused_upgrade(&self) -> String {
        exchange(self.ws, &upgrade(self.ws, "/", ""))
    }

    /// Drains now; true when nothing was left behind.
    pub fn stop(mut self) -> bool {
        self.running.take().expect("running").drain()
    }
}

fn upgrade(at: SocketAddr, path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// Sends `request` and reads to the end.
pub fn exchange(at: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(at).expect("somebody listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    tcp.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer and the end");
    answer
}

/// Sum of the series of `name` in a metrics text whose lines contain all of `parts`.
fn metric_in(text: &str, name: &str, parts: &[&str]) -> f64 {
    let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let lines = text.lines().filter(named).filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number")).sum()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain();
        }
    }
}

/// What a client received.
#[derive(Debug, PartialEq)]
pub enum Got {
    Json(Value),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// Code and reason; `None` without a code.
    Close(Option<(u16, String)>),
    /// The connection ended.
    End,
}

/// A WebSocket client over a plain socket.
pub struct Client {
    pub tcp: TcpStream,
    buffer: BytesMut,
    /// JSON messages set aside while looking for another.
    aside: Vec<Value>,
}

impl Client {
    pub fn connect(at: SocketAddr) -> Self {
        Self::connect_to(at, "/", "").0
    }

    /// Upgrades with `path` and further header lines; also gives the response head.
    pub fn connect_to(at: SocketAddr, path: &str, headers: &str) -> (Self, String) {
        Client::over(TcpStream::connect(at).expect("the server listens"), path, headers)
    }

    /// The same from another address of this machine: a client address has some 28,000 ports only.
    pub fn connect_from(from: IpAddr, at: SocketAddr, headers: &str) -> Self {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of loopback");
        socket.connect(&at.into()).expect("the server listens");
        Client::over(socket.into(), "/", headers).0
    }

    fn over(mut tcp: TcpStream, path: &str, headers: &str) -> (Self, String) {
        let at = tcp.peer_addr().expect("connected");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.write_all(upgrade(at, path, headers).as_bytes()).expect("sent");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            tcp.read_exact(&mut byte).expect("a response head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        (Client { tcp, buffer: BytesMut::new(), aside: Vec::new() }, head)
    }

    /// Sends one masked frame with the given first byte.
    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n @ 126..=65535 => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        self.raw(&out);
    }

    /// Sends bytes as they are. The server may have hung up already.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.frame(0x81, text.as_bytes());
    }

    pub fn send(&mut self, message: Value) {
        self.text(&message.to_string());
    }

    /// The next frame.
    pub fn next(&mut self) -> Got {
        loop {
            if let Some(got) = self.parse() {
                return got;
            }
            let mut chunk = [0; 64 << 10];
            match self.tcp.read(&mut chunk) {
                Ok(0) => return Got::End,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came in {PATIENCE:?}"),
                Err(_) => return Got::End,
            }
        }
    }

    fn parse(&mut self) -> Option<Got> {
        let (head, len) = match &self.buffer[..] {
            [_, len @ 0..=125, ..] => (2, usize::from(*len)),
            [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            [_, 127, rest @ ..] if rest.len() >= 8 => {
                (10, u64::from_be_bytes(rest[..8].try_into().expect("eight bytes")) as usize)
            }
            _ => return None,
        };
        if self.buffer.len() < head + len {
            return None;
        }
        let first = self.buffer[0];
        let body = self.buffer.split_to(head + len)[head..].to_vec();
        Some(match first {
            0x81 => Got::Json(serde_json::from_slice(&body).expect("valid JSON")),
            0x82 => Got::Binary(body),
            0x89 => Got::Ping(body),
            0x8a => Got::Pong(body),
            0x88 if body.len() >= 2 => {
                let reason = String::from_utf8(body[2..].to_vec()).expect("UTF-8");
                Got::Close(Some((u16::from_be_bytes([body[0], body[1]]), reason)))
            }
            0x88 => Got::Close(None),
            other => panic!("first byte {other:#x}"),
        })
    }

    /// The next JSON message, pings answered on the way.
    pub fn json(&mut self) -> Value {
        if !self.aside.is_empty() {
            return self.aside.remove(0);
        }
        self.fresh_json()
    }

    fn fresh_json(&mut self) -> Value {
        loop {
            match self.next() {
                Got::Json(value) => return value,
                Got::Ping(payload) => self.frame(0x8a, &payload),
                Got::Pong(_) => {}
                other => panic!("wanted JSON, got {other:?}"),
            }
        }
    }

    /// The next JSON message for which `wanted` holds; others are kept for later.
    pub fn json_where(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.aside.iter().position(&wanted) {
            return self.aside.remove(at);
        }
        loop {
            let value = self.fresh_json();
            if wanted(&value) {
                return value;
            }
            self.aside.push(value);
        }
    }

    /// Sends a request and returns the next message that is no tick.
    pub fn request(&mut self, message: Value) -> Value {
        self.send(message);
        self.json_where(|v| v["type"] != "market_data")
    }

    /// The next tick.
    pub fn tick(&mut self) -> Value {
        self.json_where(|v| v["type"] == "market_data")
    }

    /// Subscribes to `symbols` on NSE in `mode`; every entry must succeed.
    pub fn subscribe(&mut self, symbols: &[&str], mode: u8) -> Value {
        let symbols: Vec<_> = symbols.iter().map(|s| json!({"symbol": s, "exchange": "NSE"})).collect();
        let ack = self.request(json!({"action": "subscribe", "symbols": symbols, "mode": mode}));
        assert!(ack["subscriptions"].as_array().expect("entries").iter().all(|e| e["status"] == "success"), "{ack}");
        ack
    }

    /// Reads until the close or the end of the connection.
    pub fn until_close(&mut self) -> Got {
        loop {
            if let end @ (Got::Close(_) | Got::End) = self.next() {
                return end;
            }
        }
    }

    /// Everything before the answer to a ping: proof that nothing else was on its way.
    pub fn settled(&mut self) -> Vec<Value> {
        self.send(json!({"action": "ping", "_pingId": "settled"}));
        let mut seen = std::mem::take(&mut self.aside);
        loop {
            let value = self.fresh_json();
            if value["_pingId"] == "settled" {
                return seen;
            }
            seen.push(value);
        }
    }
}

/// A ZMTP 3.1 PUB by hand, connected to a bus that binds.
pub struct Publisher {
    pub tcp: TcpStream,
}

impl Publisher {
    pub fn connect(at: &str) -> Self {
        let mut tcp = TcpStream::connect(at).expect("the bus listens");
        tcp.set_nodelay(true).expect("an option");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        tcp.write_all(&parser::greeting()).expect("sent");
        let mut greeting = [0; 64];
        tcp.read_exact(&mut greeting).expect("a greeting");
        let mut ready = BytesMut::new();
        frame(&mut ready, 0x04, b"\x05READY\x0bSocket-Type\0\0\0\x03PUB");
        tcp.write_all(&ready).expect("sent");
        // READY and SUBSCRIBE of the server; after that nothing is lost.
        for _ in 0..2 {
            let mut head = [0; 2];
            tcp.read_exact(&mut head).expect("a frame");
            let mut body = vec![0; usize::from(head[1])];
            tcp.read_exact(&mut body).expect("a body");
        }
        Publisher { tcp }
    }

    /// Sends one two-part message.
    pub fn send(&mut self, topic: &str, body: &[u8]) {
        let mut out = BytesMut::new();
        parser::message(&[topic.as_bytes(), body], &mut out);
        self.tcp.write_all(&out).expect("sent");
    }

    pub fn json(&mut self, topic: &str, payload: &Value) {
        self.send(topic, payload.to_string().as_bytes());
    }

    /// Publishes LTP ticks on NSE as one JSON BATCH.
    pub fn batch<'a>(&mut self, ticks: impl IntoIterator<Item = (&'a str, f64)>) {
        let items: Vec<_> =
            ticks.into_iter().map(|(symbol, ltp)| json!([format!("NSE_{symbol}_LTP"), {"ltp": ltp}])).collect();
        self.json("BATCH", &Value::Array(items));
    }

    /// Publishes one BATCH of whole prices that count up, one symbol after the other.
    pub fn batch_counting(&mut self, symbols: &[&str], prices: std::ops::Range<usize>) {
        let items: Vec<_> =
            prices.map(|n| json!([format!("NSE_{}_LTP", symbols[(n - 1) % symbols.len()]), {"ltp": n}])).collect();
        self.json("BATCH", &Value::Array(items));
    }

    /// Publishes an LTP tick of `symbol` on NSE.
    pub fn ltp(&mut self, symbol: &str, ltp: f64) {
        self.json(&format!("NSE_{symbol}_LTP"), &json!({"ltp": ltp}));
    }
}

fn frame(out: &mut BytesMut, flags: u8, body: &[u8]) {
    out.extend_from_slice(&[flags, body.len() as u8]);
    out.extend_from_slice(body);
}
