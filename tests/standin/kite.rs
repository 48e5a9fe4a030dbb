//! Zerodha's ticker as a stand-in: checks the credentials in the query, keeps one mode a token, sends real packets, a heartbeat
//! byte, orders and notices. The official Python library is run against it (`tests/e2e/kite.rs`), so that it is known to
//! speak the protocol.

use super::{House, Out, StandIn, Upgrade};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const HEARTBEAT: Duration = Duration::from_millis(500);

/// What it has seen so far, and whom it lets in.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections accepted so far.
    pub accepted: usize,
    /// Upgrades answered 403.
    pub refused: usize,
    /// `access_token` of each attempt, good or bad.
    pub tokens: Vec<String>,
    /// Open connections: what each is subscribed to, in which mode.
    pub held: BTreeMap<u64, BTreeMap<u32, String>>,
    /// `api_key`, `access_token`.
    valid: (String, String),
}

impl Seen {
    /// All subscriptions of all open connections.
    pub fn all(&self) -> BTreeMap<u32, String> {
        self.held.values().flatten().map(|(token, mode)| (*token, mode.clone())).collect()
    }
}

impl House for Seen {
    fn upgrade(&mut self, client: u64, upgrade: &Upgrade) -> Result<(), String> {
        let query = upgrade.path.split_once('?').map_or("", |(_, query)| query);
        let value = |name: &str| {
            let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
            found.map_or("", |(_, value)| value).to_owned()
        };
        let (key, token) = (value("api_key"), value("access_token"));
        self.tokens.push(token.clone());
        if self.valid != (key, token) {
            self.refused += 1;
            return Err("403 Forbidden".to_owned());
        }
        self.accepted += 1;
        self.held.insert(client, BTreeMap::new());
        Ok(())
    }

    /// Does what a client asks for, without a word, as Zerodha does.
    fn text(&mut self, client: u64, text: &str) -> Vec<Out> {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(held) = self.held.get_mut(&client) else { return Vec::new() };
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
        Vec::new()
    }

    fn gone(&mut self, client: u64) {
        self.held.remove(&client);
    }
}

/// The stand-in with its heartbeat.
pub struct Kite {
    pub url: String,
    server: Arc<StandIn<Seen>>,
    mute: Arc<AtomicBool>,
    /// Closing it ends the heartbeat.
    alive: Option<mpsc::SyncSender<()>>,
    beats: Option<std::thread::JoinHandle<()>>,
}

impl Kite {
    /// On a free port, accepting these credentials.
    pub fn start(api_key: &str, access_token: &str) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), api_key, access_token)
    }

    /// At an address that is free.
    pub fn start_at(at: SocketAddr, api_key: &str, access_token: &str) -> Self {
        let valid = (api_key.to_owned(), access_token.to_owned());
        let server = Arc::new(StandIn::start_at(Seen { valid, ..Seen::default() }, at));
        let (url, mute) = (format!("ws://{}", server.at), Arc::new(AtomicBool::new(false)));
        let (alive, ended) = mpsc::sync_channel::<()>(1);
        let (theirs, muted) = (Arc::clone(&server), Arc::clone(&mute));
        let beats = std::thread::spawn(move || {
            while ended.recv_timeout(HEARTBEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                if !muted.load(Ordering::SeqCst) {
                    everybody(&theirs, &Out::Binary(vec![0]));
                }
            }
        });
        Kite { url, server, mute, alive: Some(alive), beats: Some(beats) }
    }

    /// Where it listens.
    pub fn at(&self) -> SocketAddr {
        self.server.at
    }

    /// From now on only this token is good.
    pub fn accept(&self, access_token: &str) {
        self.server.with(|seen| seen.valid.1 = access_token.to_owned());
    }

    /// A packet of this token to whoever holds it, in the mode it holds it in.
    pub fn price(&self, token: u32, raw: i32) {
        let holders: Vec<(u64, String)> = self.server.with(|seen| {
            seen.held.iter().filter_map(|(client, held)| Some((*client, held.get(&token)?.clone()))).collect()
        });
        for (client, mode) in holders {
            self.server.send([client], &Out::Binary(packets(&[packet(token, &mode, raw)])));
        }
    }

    /// Bytes, to everybody.
    pub fn frame(&self, bytes: Vec<u8>) {
        everybody(&self.server, &Out::Binary(bytes));
    }

    /// Text, to everybody.
    pub fn text(&self, text: &str) {
        everybody(&self.server, &Out::Text(text.to_owned()));
    }

    /// Every connection ends at once.
    pub fn cut(&self) {
        self.server.hang_up();
    }

    /// The connection that holds `token` ends.
    pub fn cut_holder(&self, token: u32) {
        let holders = self.server.with(|seen| {
            let held = seen.held.iter().filter(|(_, held)| held.contains_key(&token));
            held.map(|(client, _)| *client).collect::<Vec<_>>()
        });
        self.server.send(holders, &Out::End);
    }

    /// Whoever is there or comes is hung up on, while `away`.
    pub fn away(&self, away: bool) {
        self.server.set_away(away);
    }

    /// Connections that came so far, whatever became of them.
    pub fn came(&self) -> u64 {
        self.server.opened()
    }

    /// No heartbeat any more, or again.
    pub fn mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    /// Every text message so far.
    pub fn messages(&self) -> Vec<String> {
        self.server.log()
    }

    pub fn seen(&self) -> Seen {
        self.server.with(|seen| seen.clone())
    }

    /// Waits until `wanted` holds of what it has seen.
    pub fn await_seen(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut found = None;
        self.server.await_house("what is wanted of the stand-in", |seen| {
            found = wanted(seen).then(|| seen.clone());
            found.is_some()
        });
        found.expect("just found")
    }
}

impl Drop for Kite {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(beats) = self.beats.take() {
            let _its_panic_was_reported = beats.join();
        }
    }
}

fn everybody(server: &StandIn<Seen>, out: &Out) {
    let clients: Vec<u64> = server.with(|seen| seen.held.keys().copied().collect());
    server.send(clients, out);
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
