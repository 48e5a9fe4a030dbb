//! An adapter process by hand: a ZMTP 3.1 DEALER that speaks MessagePack maps with the control channel.

use super::PATIENCE;
use bytes::BytesMut;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
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
        // The server may have hung up already.
        let _ = self.tcp.write_all(&out);
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

/// An adapter process that says hello, takes every call but those for symbols that begin with BAD, and sends heartbeats.
/// Its connection ends when it is dropped, as that of a killed process does.
pub struct AdapterProcess {
    tcp: TcpStream,
    seen: Arc<Mutex<Seen>>,
}

/// What a process was told.
#[derive(Default)]
struct Seen {
    /// `SYMBOL/mode` of what it holds.
    held: BTreeSet<String>,
    /// Every call, e.g. `+INFY/1`, `-INFY/1`, `-*`, and `disconnect: REASON`.
    log: Vec<String>,
    /// Ids of one session.
    ids: HashSet<u64>,
    session: u64,
}

impl AdapterProcess {
    /// Connects and says this hello (`v` and `op` are added); the session is live when this returns.
    pub fn start(control: &str, hello: &Value) -> Self {
        let mut dealer = Dealer::connect(control);
        let mut map = json!({"v": 1, "op": "hello"});
        map.as_object_mut().expect("a map").extend(hello.as_object().expect("a map").clone());
        dealer.send(map);
        let welcome = dealer.recv();
        assert_eq!(welcome["op"], "welcome", "{welcome}");
        let session = welcome["session"].as_u64().expect("a session");
        let seen = Arc::new(Mutex::new(Seen { session, ..Seen::default() }));
        let tcp = dealer.tcp.try_clone().expect("a second handle");
        let (process, hello) = (AdapterProcess { tcp, seen: seen.clone() }, hello.clone());
        std::thread::spawn(move || {
            dealer.tcp.set_read_timeout(None).expect("no timeout");
            while let Some(map) = dealer.try_recv().and_then(|body| rmp_serde::from_slice::<Value>(&body).ok()) {
                dealer.obey(&map, &hello, &mut seen.lock().expect("no test panics with it"));
            }
        });
        let beats = process.tcp.try_clone().expect("a third handle");
        let session = process.seen.clone();
        std::thread::spawn(move || {
            let mut beats = Dealer { tcp: beats, session: Value::Null };
            loop {
                std::thread::park_timeout(Duration::from_secs(2));
                let session = session.lock().expect("no test panics with it").session;
                let beat = rmp_serde::to_vec(&json!({"v": 1, "op": "heartbeat", "session": session}));
                let mut out = BytesMut::new();
                parser::message(&[&beat.expect("MessagePack")], &mut out);
                if beats.tcp.write_all(&out).is_err() {
                    break;
                }
            }
        });
        process
    }

    /// What it holds, as `SYMBOL/mode`.
    pub fn held(&self) -> Vec<String> {
        self.seen.lock().expect("no test panics with it").held.iter().cloned().collect()
    }

    /// What it was told since the last look.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("no test panics with it").log)
    }

    /// Waits until it holds exactly this.
    pub fn await_held(&self, want: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while self.held() != want {
            assert!(Instant::now() < deadline, "holds {:?}, not {want:?}", self.held());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Waits until it has been told to disconnect, and gives the reason; what it was told before is forgotten.
    pub fn await_disconnect(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(reason) = self.log().iter().find_map(|told| told.strip_prefix("disconnect: ")) {
                return reason.to_owned();
            }
            assert!(Instant::now() < deadline, "was not told to disconnect");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Says that its broker is connected, or not.
    pub fn status(&self, connected: bool) {
        let session = self.seen.lock().expect("no test panics with it").session;
        let mut dealer = Dealer { tcp: self.tcp.try_clone().expect("a handle"), session: Value::Null };
        if !connected {
            // The broker forgets.
            self.seen.lock().expect("no test panics with it").held.clear();
        }
        dealer.send(json!({"v": 1, "op": "status", "session": session, "connected": connected}));
    }
}

impl Drop for AdapterProcess {
    fn drop(&mut self) {
        let _ = self.tcp.shutdown(std::net::Shutdown::Both);
    }
}

impl Dealer {
    fn obey(&mut self, map: &Value, hello: &Value, seen: &mut Seen) {
        let id = map["id"].as_u64();
        if let Some(id) = id {
            assert_eq!(map["session"], seen.session, "{map}");
            assert!(seen.ids.insert(id), "an id twice: {map}");
        }
        let symbol = map["symbol"].as_str().unwrap_or_default();
        let key = format!("{symbol}/{}", map["mode"]);
        let mut answer = json!({"v": 1, "op": "result", "session": seen.session, "id": id, "status": "success"});
        match map["op"].as_str() {
            Some("subscribe") => {
                seen.log.push(format!("+{key}"));
                if symbol.starts_with("BAD") {
                    answer["status"] = "error".into();
                    answer["message"] = format!("{symbol} is not traded").into();
                    answer["code"] = "SYMBOL_NOT_FOUND".into();
                } else {
                    seen.held.insert(key);
                    answer["actual_depth"] = map["depth"].as_u64().unwrap_or(5).min(5).into();
                }
            }
            Some("unsubscribe") => {
                seen.log.push(format!("-{key}"));
                seen.held.remove(&key);
            }
            Some("unsubscribe_all") => {
                seen.log.push("-*".into());
                seen.held.clear();
            }
            Some("hello_required") => {
                let mut map = json!({"v": 1, "op": "hello"});
                map.as_object_mut().expect("a map").extend(hello.as_object().expect("a map").clone());
                return self.send(map);
            }
            Some("welcome") => {
                seen.session = map["session"].as_u64().expect("a session");
                return seen.ids.clear();
            }
            Some("disconnect") => {
                seen.held.clear();
                return seen.log.push(format!("disconnect: {}", map["reason"].as_str().unwrap_or_default()));
            }
            _ => return,
        }
        self.send(answer);
    }
}
