//! A stand-in broker: a WebSocket server on a port of its own that speaks a broker's real protocol, as a [`House`] says, and misbehaves
//! when told: refuses, hangs up, goes silent, goes away. It remembers every message of its clients, so that tests can
//! compare sets. Threads only; all end when it is dropped.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod angel;
pub mod angel_orders;
pub mod kite;
pub mod noren;

use sha1::{Digest, Sha1};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tickcast::wire::frame::{self, Event, Input, Opcode, Parser};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// One message of a client, bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The upgrade request: path and headers, names in lower case.
pub struct Upgrade {
    pub path: String,
    pub headers: HashMap<String, String>,
}

/// What a house sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    Text(String),
    Binary(Vec<u8>),
    /// Hang up.
    End,
}

/// One broker's protocol, as its server has it.
pub trait House: Send + 'static {
    /// Whether the upgrade is accepted, or else the status line and header lines of the answer.
    fn upgrade(&mut self, client: u64, upgrade: &Upgrade) -> Result<(), String>;
    /// The upgrade was answered; what is said unasked.
    fn opened(&mut self, _client: u64) -> Vec<Out> {
        Vec::new()
    }
    /// A text message; what is answered.
    fn text(&mut self, client: u64, text: &str) -> Vec<Out>;
    /// A connection is gone.
    fn gone(&mut self, client: u64);
}

/// What is shared with the threads.
struct Shared<H> {
    state: Mutex<State<H>>,
    changed: Condvar,
    /// Reads but never answers, not even pings.
    silent: AtomicBool,
    /// Hangs up on whoever connects.
    away: AtomicBool,
    ending: AtomicBool,
    opened: AtomicU64,
}

struct State<H> {
    house: H,
    clients: HashMap<u64, TcpStream>,
    /// (client, text) of all messages.
    log: Vec<(u64, String)>,
}

/// See the module.
pub struct StandIn<H: House> {
    pub at: SocketAddr,
    shared: Arc<Shared<H>>,
    accept: Option<JoinHandle<()>>,
}

impl<H: House> StandIn<H> {
    pub fn start(house: H) -> Self {
        Self::start_at(house, "127.0.0.1:0".parse().expect("an address"))
    }

    /// At an address that is free.
    pub fn start_at(house: H, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).expect("a port");
        let at = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            state: Mutex::new(State { house, clients: HashMap::new(), log: Vec::new() }),
            changed: Condvar::new(),
            silent: AtomicBool::new(false),
            away: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            opened: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let accept = std::thread::spawn(move || accept(&listener, &theirs));
        StandIn { at, shared, accept: Some(accept) }
    }

    fn state(&self) -> MutexGuard<'_, State<H>> {
        locked(&self.shared)
    }

    /// Looks at the house, or changes it.
    pub fn with<R>(&self, look: impl FnOnce(&mut H) -> R) -> R {
        look(&mut self.state().house)
    }

    /// Waits until `ready` holds of the house.
    pub fn await_house(&self, what: &str, mut ready: impl FnMut(&mut H) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !ready(&mut state.house) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; the last messages were {:?}", tail(&state.log));
            (state, _) = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until `ready` holds of all texts that have come.
    pub fn await_log(&self, what: &str, ready: impl Fn(&[(u64, String)]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !ready(&state.log) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what} did not come; the last messages were {:?}", tail(&state.log));
            (state, _) = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// All texts that have come.
    pub fn log(&self) -> Vec<String> {
        self.state().log.iter().map(|(_, text)| text.clone()).collect()
    }

    /// Sends to `clients`.
    pub fn send(&self, clients: impl IntoIterator<Item = u64>, out: &Out) {
        let mut state = self.state();
        for client in clients {
            deliver(&mut state.clients, client, out);
        }
    }

    /// Connections that stand.
    pub fn connected(&self) -> usize {
        self.state().clients.len()
    }

    /// Connections there ever were, refused upgrades included.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::SeqCst)
    }

    /// Hangs up on everybody, without a goodbye.
    pub fn hang_up(&self) {
        for (_, socket) in self.state().clients.drain() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Reads on but says nothing any more, while `silent`.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Hangs up on whoever is there and whoever comes, while `away`.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::SeqCst);
        if away {
            self.hang_up();
        }
    }
}

impl<H: House> Drop for StandIn<H> {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.hang_up();
        // Wakes the thread that waits for the next connection.
        let _ = TcpStream::connect(self.at);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

/// A test that fails with it must not hide its reason behind a second panic.
fn locked<H>(shared: &Shared<H>) -> MutexGuard<'_, State<H>> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tail(log: &[(u64, String)]) -> &[(u64, String)] {
    &log[log.len().saturating_sub(5)..]
}

fn deliver(clients: &mut HashMap<u64, TcpStream>, client: u64, out: &Out) {
    let Some(socket) = clients.get_mut(&client) else { return };
    let mut bytes = Vec::new();
    match out {
        Out::Text(text) => frame::write(&mut bytes, Opcode::Text, text.as_bytes()),
        Out::Binary(payload) => frame::write(&mut bytes, Opcode::Binary, payload),
        Out::End => {
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
    }
    // A client may be gone by now; its reader says so.
    let _ = socket.write_all(&bytes);
}

fn accept<H: House>(listener: &TcpListener, shared: &Arc<Shared<H>>) {
    let mut serving = Vec::new();
    for stream in listener.incoming() {
        if shared.ending.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        let client = shared.opened.fetch_add(1, Ordering::SeqCst);
        if shared.away.load(Ordering::SeqCst) {
            continue;
        }
        let theirs = Arc::clone(shared);
        serving.push(std::thread::spawn(move || serve(stream, client, &theirs)));
    }
    for thread in serving {
        let _ = thread.join();
    }
}

fn serve<H: House>(mut stream: TcpStream, client: u64, shared: &Shared<H>) {
    let _ = stream.set_nodelay(true);
    let Some(upgrade) = read_head(&mut stream) else { return };
    {
        let mut state = locked(shared);
        if let Err(refusal) = state.house.upgrade(client, &upgrade) {
            let _ = write!(stream, "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            drop(state);
            shared.changed.notify_all();
            return;
        }
        let key = upgrade.headers.get("sec-websocket-key").map_or("", String::as_str);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            accept_key(key)
        );
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        state.clients.insert(client, stream.try_clone().expect("a descriptor"));
        let State { house, clients, .. } = &mut *state;
        house.opened(client).iter().for_each(|out| deliver(clients, client, out));
    }
    shared.changed.notify_all();
    converse(stream, client, shared);
    let mut state = locked(shared);
    state.clients.remove(&client);
    state.house.gone(client);
    drop(state);
    shared.changed.notify_all();
}

fn converse<H: House>(mut stream: TcpStream, client: u64, shared: &Shared<H>) {
    let (mut parser, mut chunk) = (Parser::new(MESSAGE_BYTES_MAX), vec![0; 64 << 10]);
    loop {
        let Ok(read @ 1..) = stream.read(&mut chunk) else { return };
        let mut input = Input::new(&mut chunk[..read]);
        loop {
            let silent = shared.silent.load(Ordering::SeqCst);
            match parser.next(&mut input) {
                Ok(Some(Event::Text(text))) => {
                    let mut state = locked(shared);
                    let State { house, clients, log } = &mut *state;
                    log.push((client, text.to_owned()));
                    let answers = house.text(client, text);
                    for answer in answers.iter().filter(|_| !silent) {
                        deliver(clients, client, answer);
                    }
                    drop(state);
                    shared.changed.notify_all();
                }
                Ok(Some(Event::Ping(payload))) if !silent => {
                    let _ = stream.write_all(&frame::pong_frame(payload));
                }
                Ok(Some(Event::Close { .. })) => {
                    let _ = stream.write_all(&frame::empty_close_frame());
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<Upgrade> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    stream.set_read_timeout(None).ok()?;
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let header = |line: &str| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
    Some(Upgrade { path, headers: lines.filter_map(header).collect() })
}

/// RFC 6455's answer to the client's key.
fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in digest.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let is_there = at <= three.len();
            let letter = char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63]);
            text.push(if is_there { letter } else { '=' });
        }
    }
    text
}

#[test]
fn the_answer_to_a_key_is_that_of_the_standard() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
