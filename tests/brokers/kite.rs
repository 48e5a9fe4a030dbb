//! A stand-in for Zerodha's ticker: checks the credentials in the query, keeps one mode a token, sends real packets, a heartbeat
//! byte, orders and notices; cuts connections, falls silent, and remembers what it was asked. The official Python library
//! is run against it (`tests/e2e/kite.rs`), so that it is known to speak the protocol.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, Role, after_handshake_split, upgrade};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::LocalSet;

const PATIENCE: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// What it has seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections accepted so far.
    pub opened: usize,
    /// Upgrades answered 403.
    pub refused: usize,
    /// `access_token` of each attempt, good or bad.
    pub tokens: Vec<String>,
    /// Open connections: what each is subscribed to, in which mode.
    pub held: BTreeMap<usize, BTreeMap<u32, String>>,
    /// Every text message, with its connection.
    pub messages: Vec<(usize, String)>,
}

impl Seen {
    /// All subscriptions of all open connections.
    pub fn all(&self) -> BTreeMap<u32, String> {
        self.held.values().flatten().map(|(token, mode)| (*token, mode.clone())).collect()
    }
}

#[derive(Clone, Debug)]
enum Do {
    /// A packet of this token, to whoever holds it, in the mode it holds it in.
    Price(u32, i32),
    /// Bytes, to everybody.
    Frame(Vec<u8>),
    /// Text, to everybody.
    Text(String),
    /// Every connection ends at once.
    Cut,
    /// Nothing is sent any more, or again.
    Mute(bool),
    /// The stand-in itself ends.
    End,
}

#[derive(Default)]
struct State {
    seen: Seen,
    /// `api_key`, `access_token`.
    valid: (String, String),
}

/// See the header.
pub struct Kite {
    pub url: String,
    state: Arc<(Mutex<State>, Condvar)>,
    orders: broadcast::Sender<Do>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Kite {
    /// On a free port, accepting these credentials.
    pub fn start(api_key: &str, access_token: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("an option");
        let url = format!("ws://{}", listener.local_addr().expect("bound"));
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        state.0.lock().expect("sound").valid = (api_key.to_owned(), access_token.to_owned());
        let (orders, end) = broadcast::channel(65_536);
        let (shared, sender) = (Arc::clone(&state), orders.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, serve(listener, shared, sender, end));
        });
        Kite { url, state, orders, thread: Some(thread) }
    }

    /// From now on only this token is good.
    pub fn accept(&self, access_token: &str) {
        self.state.0.lock().expect("sound").valid.1 = access_token.to_owned();
    }

    pub fn price(&self, token: u32, raw: i32) {
        self.tell(Do::Price(token, raw));
    }

    pub fn frame(&self, bytes: Vec<u8>) {
        self.tell(Do::Frame(bytes));
    }

    pub fn text(&self, text: &str) {
        self.tell(Do::Text(text.to_owned()));
    }

    pub fn cut(&self) {
        self.tell(Do::Cut);
    }

    pub fn mute(&self, mute: bool) {
        self.tell(Do::Mute(mute));
    }

    fn tell(&self, what: Do) {
        let _nobody_is_connected = self.orders.send(what);
    }

    pub fn seen(&self) -> Seen {
        self.state.0.lock().expect("sound").seen.clone()
    }

    /// Waits until `wanted` holds of what it has seen.
    pub fn await_seen(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.0.lock().expect("sound");
        while !wanted(&state.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it never came to that: {:?}", state.seen);
            state = self.state.1.wait_timeout(state, left).expect("sound").0;
        }
        state.seen.clone()
    }
}

impl Drop for Kite {
    fn drop(&mut self) {
        self.tell(Do::End);
        if let Some(thread) = self.thread.take() {
            let _its_panic_was_reported = thread.join();
        }
    }
}

type Shared = Arc<(Mutex<State>, Condvar)>;

fn change<R>(shared: &Shared, change: impl FnOnce(&mut State) -> R) -> R {
    let out = change(&mut shared.0.lock().expect("sound"));
    shared.1.notify_all();
    out
}

async fn serve(
    listener: std::net::TcpListener,
    shared: Shared,
    orders: broadcast::Sender<Do>,
    mut end: broadcast::Receiver<Do>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let ended = async {
        loop {
            match end.recv().await {
                Ok(Do::End) | Err(broadcast::error::RecvError::Closed) => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            }
        }
    };
    let accepting = async {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { return };
            tokio::task::spawn_local(connection(tcp, Arc::clone(&shared), orders.clone()));
        }
    };
    tokio::select! { () = ended => {}, () = accepting => {} }
}

async fn connection(tcp: TcpStream, shared: Shared, orders: broadcast::Sender<Do>) {
    let _ = tcp.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, orders) = (Arc::clone(&shared), orders.subscribe());
        async move { Ok::<_, Infallible>(answer(request, shared, orders)) }
    });
    let _ =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).with_upgrades().await;
}

fn answer(mut request: Request<Incoming>, shared: Shared, orders: broadcast::Receiver<Do>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let value = |name: &str| {
        let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value).to_owned()
    };
    let (key, token) = (value("api_key"), value("access_token"));
    let id = change(&shared, |state| {
        state.seen.tokens.push(token.clone());
        if state.valid != (key, token) {
            state.seen.refused += 1;
            return None;
        }
        state.seen.opened += 1;
        let id = state.seen.opened;
        state.seen.held.insert(id, BTreeMap::new());
        Some(id)
    });
    let Some(id) = id else {
        let text =
            r#"{"status":"error","message":"Incorrect `api_key` or `access_token`.","error_type":"TokenException"}"#;
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = StatusCode::FORBIDDEN;
        return response;
    };
    let (response, upgraded) = upgrade::upgrade(&mut request).expect("a WebSocket upgrade");
    tokio::task::spawn_local(async move {
        if let Ok(ws) = upgraded.await {
            converse(id, ws.into_inner(), &shared, orders).await;
        }
        change(&shared, |state| drop(state.seen.held.remove(&id)));
    });
    response.map(|_| Full::default())
}

async fn converse(
    id: usize,
    stream: TokioIo<hyper::upgrade::Upgraded>,
    shared: &Shared,
    mut orders: broadcast::Receiver<Do>,
) {
    let (read, write) = tokio::io::split(stream);
    let (mut reader, mut writer) = after_handshake_split(read, write, Role::Server);
    // It must not be muted as to closing: a client that says goodbye is gone.
    let reading = async {
        loop {
            let frame = reader.read_frame(&mut |_| std::future::ready(Ok::<(), std::io::Error>(()))).await;
            match frame {
                Ok(frame) if frame.opcode == OpCode::Text => {
                    let text = String::from_utf8_lossy(&frame.payload).into_owned();
                    change(shared, |state| hear(state, id, text));
                }
                Ok(frame) if frame.opcode != OpCode::Close => {}
                _ => return,
            }
        }
    };
    let writing = async {
        let mut beats = tokio::time::interval(HEARTBEAT);
        let mut mute = false;
        loop {
            let frame = tokio::select! {
                _ = beats.tick() => Some(binary(vec![0])),
                order = orders.recv() => match order {
                    Ok(Do::Price(token, raw)) => {
                        let mode = shared.0.lock().expect("sound").seen.held.get(&id).and_then(|held| held.get(&token).cloned());
                        mode.map(|mode| binary(packets(&[packet(token, &mode, raw)])))
                    }
                    Ok(Do::Frame(bytes)) => Some(binary(bytes)),
                    Ok(Do::Text(text)) => Some(Frame::text(Payload::Owned(text.into_bytes()))),
                    Ok(Do::Mute(now)) => {
                        mute = now;
                        None
                    }
                    Ok(Do::Cut | Do::End) | Err(_) => return,
                },
            };
            if let Some(frame) = frame.filter(|_| !mute)
                && writer.write_frame(frame).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! { () = reading => {}, () = writing => {} }
}

fn binary(bytes: Vec<u8>) -> Frame<'static> {
    Frame::binary(Payload::Owned(bytes))
}

/// Does what a client asks for, without a word, as Zerodha does.
fn hear(state: &mut State, id: usize, text: String) {
    let message: Value = serde_json::from_str(&text).unwrap_or_default();
    state.seen.messages.push((id, text));
    let Some(held) = state.seen.held.get_mut(&id) else { return };
    // Tokens that are not numbers are nobody's.
    let tokens = |list: &Value| -> Vec<u32> {
        list.as_array().into_iter().flatten().filter_map(Value::as_u64).map(|token| token as u32).collect()
    };
    match message["a"].as_str() {
        Some("subscribe") => {
            for token in tokens(&message["v"]) {
                held.entry(token).or_insert_with(|| "quote".to_owned());
            }
        }
        Some("unsubscribe") => tokens(&message["v"]).iter().for_each(|token| drop(held.remove(token))),
        Some("mode") => {
            let mode = message["v"][0].as_str().unwrap_or("quote");
            for token in tokens(&message["v"][1]) {
                held.insert(token, mode.to_owned());
            }
        }
        _ => {}
    }
}

/// One message of these packets.
pub fn packets(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = (packets.len() as u16).to_be_bytes().to_vec();
    for packet in packets {
        out.extend((packet.len() as u16).to_be_bytes());
        out.extend(packet);
    }
    out
}

/// A packet whose every price follows from `raw`: open is 1 less, high 2 more, low 3 less, close 4 less, and so on.
pub fn packet(token: u32, mode: &str, raw: i32) -> Vec<u8> {
    let mut out = Vec::with_capacity(184);
    let mut put = |value: i32| out.extend(value.to_be_bytes());
    put(token as i32);
    put(raw);
    if mode == "ltp" {
        return out;
    }
    if token & 0xff == 9 {
        [raw + 2, raw - 3, raw - 1, raw - 4, 4].into_iter().for_each(&mut put);
        if mode == "full" {
            put(1_700_000_000);
        }
        return out;
    }
    [7, raw - 5, 1000, 300, 400, raw - 1, raw + 2, raw - 3, raw - 4].into_iter().for_each(&mut put);
    if mode == "full" {
        [1_700_000_000, 55, 60, 50, 1_700_000_001].into_iter().for_each(&mut put);
        for side in [-1, 1] {
            for level in 1..=5 {
                put(10 * level);
                put(raw + side * level);
                put((level << 16) | 0xdead_i32);
            }
        }
    }
    out
}
