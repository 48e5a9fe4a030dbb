//! What stands around a server in protocol tests: a key store with many users, a broker that can refuse, and the check that a
//! test has left nothing behind.

use super::{Client, Publisher, Server};
use argon2::password_hash::CustomizedPasswordHasher;
use argon2::{Argon2, Params};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use tickcast::adapter::{Adapter, AdapterFactory, CallError, Command, Io, Report, Task};
use tickcast::config::Settings;
use tickcast::config::settings::{KeyStoreSetting, Secret};
use tickcast::session::BeforeCommand;
use tickcast::shards::key::FaultCode;
use tickcast::wire::command::Command as ClientCommand;
use tickcast::zmtp::parser;

/// OpenAlgo's pepper in the tests' key stores.
pub const PEPPER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const SCHEMA: &str = "
CREATE TABLE api_keys (id INTEGER PRIMARY KEY, user_id VARCHAR NOT NULL UNIQUE, api_key_hash TEXT NOT NULL);
CREATE TABLE auth (id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL UNIQUE, auth TEXT, feed_token TEXT, broker VARCHAR(20) NOT NULL,
  user_id VARCHAR(255), is_revoked BOOLEAN);
";

/// An OpenAlgo database with one key per user, `key-USER`; removed when dropped.
pub struct Keys {
    directory: PathBuf,
    db: rusqlite::Connection,
}

impl Keys {
    /// Every user in `users` is logged in at the broker beside the name.
    pub fn new(users: &[(&str, &str)]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("tickcast-keys-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory of our own");
        let db = rusqlite::Connection::open(directory.join("openalgo.db")).expect("a database");
        db.execute_batch(SCHEMA).expect("a schema");
        let keys = Keys { directory, db };
        for (user, broker) in users {
            // As OpenAlgo's, but with the least memory and time.
            let params = Params::new(8, 1, 1, None).expect("allowed");
            let peppered = format!("key-{user}{PEPPER}");
            let salt = b"a salt of 16 by.";
            let hash = Argon2::default().hash_password_customized(peppered.as_bytes(), salt, None, None, params);
            let hash = hash.expect("hashed").to_string();
            keys.execute(&format!("INSERT INTO api_keys (user_id, api_key_hash) VALUES ('{user}', '{hash}')"));
            keys.execute(&format!("INSERT INTO auth (name, broker) VALUES ('{user}', '{broker}')"));
        }
        keys
    }

    /// The user's broker login is gone.
    pub fn revoke(&self, user: &str) {
        self.execute(&format!("UPDATE auth SET is_revoked = 1 WHERE name = '{user}'"));
    }

    /// The user logs in at another broker.
    pub fn log_in(&self, user: &str, broker: &str) {
        self.execute(&format!("UPDATE auth SET broker = '{broker}', is_revoked = 0 WHERE name = '{user}'"));
    }

    /// The broker's token of this login, as OpenAlgo stores it: encrypted.
    pub fn store_token(&self, user: &str, encrypted: &str) {
        self.execute(&format!("UPDATE auth SET auth = '{encrypted}', is_revoked = 0 WHERE name = '{user}'"));
    }

    /// Nothing can be read from it any more.
    pub fn ruin(&self) {
        self.execute("DROP TABLE api_keys");
    }

    fn execute(&self, sql: &str) {
        self.db.execute(sql, []).expect("valid SQL");
    }

    /// The database.
    pub fn file(&self) -> String {
        self.directory.join("openalgo.db").display().to_string()
    }

    /// Makes a server use it.
    pub fn set(&self, settings: &mut Settings) {
        settings.auth.store = KeyStoreSetting::OpenAlgo(self.file().into());
        settings.auth.pepper = Some(Secret(PEPPER.into()));
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A broker that refuses symbols beginning with BAD and gives at most 20 levels. Users called `noinit`, `noconnect` and `nokind` have
/// no luck with it. Every command is remembered, e.g. `alice +NSE:INFY/LTP`.
#[derive(Clone, Default)]
pub struct FakeBroker {
    seen: Arc<Mutex<Vec<String>>>,
}

impl FakeBroker {
    /// What one user's adapters were told since the last call.
    pub fn calls_of(&self, user: &str) -> Vec<String> {
        let mut seen = self.seen.lock().expect("no test panics with it");
        let (own, others) = seen.drain(..).partition(|line| line.split(' ').next() == Some(user));
        *seen = others;
        own
    }
}

impl AdapterFactory for FakeBroker {
    fn make(&self, _broker: &str, user: &str) -> Result<Box<dyn Adapter>, String> {
        match user {
            "nokind" => Err("it is not installed".into()),
            _ => Ok(Box::new(FakeAdapter { broker: self.clone(), user: user.into() })),
        }
    }
}

struct FakeAdapter {
    broker: FakeBroker,
    user: String,
}

impl FakeAdapter {
    fn answer(&self, command: &Command) -> Report {
        let failed = |code, reason: &str| Report::ConnectFailed { code, reason: reason.into() };
        match command {
            Command::Connect if self.user == "noinit" => failed(FaultCode::BrokerInit, "the token has expired"),
            Command::Connect if self.user == "noconnect" => {
                failed(FaultCode::BrokerConnection, "no route to the broker")
            }
            Command::Connect => Report::Connected,
            Command::Subscribe { call, name, .. } if format!("{name:?}").contains(":BAD") => {
                Report::Answer { call: *call, outcome: Err(CallError::Refused("Symbol not found".into())) }
            }
            Command::Subscribe { call, depth, .. } => {
                Report::Answer { call: *call, outcome: Ok(Some((*depth).min(20))) }
            }
            Command::Unsubscribe { call, .. } | Command::UnsubscribeAll { call } => {
                Report::Answer { call: *call, outcome: Ok(None) }
            }
            Command::Disconnect => Report::Disconnected,
        }
    }
}

impl Adapter for FakeAdapter {
    fn run(self: Box<Self>, mut io: Io) -> Task {
        Box::pin(async move {
            while let Some(command) = io.commands.recv().await {
                let shown = match &command {
                    Command::Connect => "connect".into(),
                    Command::Disconnect => "disconnect".into(),
                    Command::Subscribe { name, .. } => format!("+{name:?}"),
                    Command::Unsubscribe { name, .. } => format!("-{name:?}"),
                    Command::UnsubscribeAll { .. } => "-*".into(),
                };
                self.broker.seen.lock().expect("no test panics with it").push(format!("{} {shown}", self.user));
                let report = self.answer(&command);
                if io.reports.send(report).await.is_err() || command == Command::Disconnect {
                    break;
                }
            }
        })
    }
}

/// A ZMTP publisher that binds, as adapters of one user do.
pub struct Bound {
    listener: TcpListener,
}

impl Bound {
    pub fn new() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("tcp://{}", listener.local_addr().expect("bound"));
        (Bound { listener }, endpoint)
    }

    /// Waits for the server's connection and subscription.
    pub fn accept(&self) -> Publisher {
        self.accept_with(super::greeting_3_0())
    }

    /// The same as a publisher of ZMTP 3.1, which the server asks for signs of life; ticks are such.
    pub fn accept_pinged(&self) -> Publisher {
        self.accept_with(parser::greeting())
    }

    fn accept_with(&self, greeting: [u8; 64]) -> Publisher {
        let (mut tcp, _) = self.listener.accept().expect("the server connects");
        tcp.set_read_timeout(Some(super::PATIENCE)).expect("a timeout");
        tcp.write_all(&greeting).expect("sent");
        let mut greeting = [0; 64];
        tcp.read_exact(&mut greeting).expect("a greeting");
        let mut ready = bytes::BytesMut::new();
        let body = b"\x05READY\x0bSocket-Type\0\0\0\x03PUB";
        ready.extend_from_slice(&[4, body.len() as u8]);
        ready.extend_from_slice(body);
        tcp.write_all(&ready).expect("sent");
        for _ in 0..2 {
            skip_frame(&mut tcp);
        }
        Publisher { tcp }
    }
}

fn skip_frame(tcp: &mut TcpStream) {
    let mut head = [0; 2];
    tcp.read_exact(&mut head).expect("a frame");
    let mut body = vec![0; usize::from(head[1])];
    tcp.read_exact(&mut body).expect("a body");
}

impl Server {
    /// A client that has authenticated as `user` of [`Keys`].
    pub fn client_of(&self, user: &str) -> Client {
        let mut client = self.connect();
        let reply = client.login(user);
        assert_eq!(reply["type"], "auth", "{reply}");
        client
    }

    /// With all clients gone nothing may be left of them; then the server must stop cleanly.
    pub fn finish(self) {
        self.await_metric("tickcast_clients_connected", &[], 0.0);
        self.await_metric("tickcast_sessions_unauthenticated", &[], 0.0);
        self.await_metric("tickcast_subscriptions_active", &[], 0.0);
        self.await_metric("tickcast_users_connected", &[], 0.0);
        assert_eq!(self.metric("tickcast_subscription_drift", &[]), 0.0);
        assert!(self.stop(), "a thread did not end in time");
    }
}

impl Client {
    /// Keeps the kernel from taking megabytes for a client that does not read.
    pub fn narrow(self) -> Self {
        socket2::SockRef::from(&self.tcp).set_recv_buffer_size(4096).expect("an option");
        self
    }

    /// Takes in all bytes up to the end of the connection, to be looked at afterwards: faster than looking at each.
    pub fn take_in(&mut self) {
        let mut bytes = Vec::new();
        // A reset ends the connection too.
        let _ = self.tcp.read_to_end(&mut bytes);
        self.buffer.extend_from_slice(&bytes);
    }

    /// Sends the key of `user`; gives the reply.
    pub fn login(&mut self, user: &str) -> Value {
        self.request(json!({"action": "authenticate", "api_key": format!("key-{user}")}))
    }

    /// Sends `text`; gives the next message that is no tick.
    pub fn ask(&mut self, text: &str) -> Value {
        self.text(text);
        self.json_where(|v| v["type"] != "market_data")
    }

    /// Ticks up to the one of `symbol`, which is left out.
    pub fn ticks_before(&mut self, symbol: &str) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let tick = self.tick();
            if tick["symbol"] == symbol {
                return seen;
            }
            seen.push(tick);
        }
    }
}

/// One whole frame as a client sends it, with a mask of zeros.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..126 => frame.push(0x80 | n as u8),
        n @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(0x80 | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The keys of an object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Checks that `frame` is an error frame with exactly its keys; gives code and message.
pub fn error_frame(frame: &Value) -> (&str, &str) {
    let (code, message) = (frame["code"].as_str().expect("a code"), frame["message"].as_str().expect("a message"));
    assert_eq!(frame["status"], "error", "{frame}");
    match frame.get("request_id") {
        Some(_) => assert_eq!(keys(frame), ["code", "message", "request_id", "status"], "{frame}"),
        None => assert_eq!(keys(frame), ["code", "message", "status"], "{frame}"),
    }
    assert!(message.len() > 5, "says nothing: {frame}");
    (code, message)
}

/// A hook that stops the worker of whoever asks for `get_broker_info`, and what lets it go on.
pub fn stops() -> (BeforeCommand, Stopped) {
    let (release, gate) = mpsc::sync_channel::<()>(1);
    let (entered_tx, entered) = mpsc::sync_channel::<()>(1);
    let (gate, entered_tx) = (Mutex::new(gate), Mutex::new(entered_tx));
    let hook = move |command: &ClientCommand| {
        if matches!(command, ClientCommand::BrokerInfo) {
            entered_tx.lock().expect("one test").send(()).expect("the test listens");
            // A test that fails lets go by ending.
            let _ = gate.lock().expect("one test").recv();
        }
    };
    (Arc::new(hook), Stopped { entered, release })
}

/// The test's end of [`stops`].
pub struct Stopped {
    entered: mpsc::Receiver<()>,
    release: mpsc::SyncSender<()>,
}

impl Stopped {
    /// Stops the worker of this client; it stands still when this returns.
    pub fn stop(&mut self, client: &mut Client) {
        client.send(json!({"action": "get_broker_info"}));
        self.entered.recv_timeout(super::PATIENCE).expect("the worker is busy with it");
    }

    /// Lets it go on.
    pub fn let_go(&mut self) {
        self.release.send(()).expect("the worker waits");
    }
}
