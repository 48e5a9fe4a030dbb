//! One client as a state machine over a non-blocking socket: connects, upgrades, authenticates, subscribes, receives.
//!
//! In: readiness. Out: counts and ages in [`Stats`]. It does as little as it can, so that thousands fit one thread: a tick is looked for,
//! not parsed, and a run of ticks that were due together is recorded at once. Nothing is kept between reads but the part of a frame.

use crate::board::Board;
use crate::frame;
use crate::stats::Stats;
use crate::ticks::{self, Instrument};
use mio::net::TcpStream;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tickcast::model::{Format, Micros, Mode};
use tickcast::wire::msgpack::{self, Received};

/// Entries of one subscribe request.
const CHUNK: usize = 500;
/// Clients of one source address: a pair of addresses has 28,000 ports.
const CLIENTS_PER_ADDRESS: u32 = 20_000;
/// What the kernel keeps for a client that stops reading, bytes.
const STALLED_BUFFER: usize = 16 << 10;
/// An external tick is as old as its time says only within this, microseconds.
const AGE_MAX_US: u64 = 3_600_000_000;

/// What all clients have in common.
pub(crate) struct Common {
    pub(crate) addr: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) format: Format,
    pub(crate) instruments: Arc<Vec<Instrument>>,
    pub(crate) board: Arc<Board>,
    /// Somebody else publishes: a tick's age is that of its own time.
    pub(crate) external: bool,
}

/// What one client is to do.
pub(crate) struct Spec {
    pub(crate) number: u32,
    /// Sorted.
    pub(crate) symbols: Vec<u32>,
    pub(crate) mode: Mode,
    /// Belongs to those that stop reading when told.
    pub(crate) stalls: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    Upgrading,
    Authenticating,
    /// So many symbols have been asked for.
    Subscribing(usize),
    Live,
    Ended,
}

/// The newest tick of one symbol.
#[derive(Clone, Copy, Default)]
struct Last {
    number: u32,
    /// The server's own number, its low half.
    seq: u32,
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) spec: Spec,
    state: State,
    /// The part of a frame that has come.
    partial: Vec<u8>,
    /// What the kernel would not take yet.
    unsent: Vec<u8>,
    last: Vec<Last>,
    /// Scales other than 2, by the server's id.
    scales: Vec<(u32, u8)>,
    reached: bool,
}

/// A run of ticks of the same age.
#[derive(Default)]
struct Run {
    age: u64,
    count: u64,
}

impl Run {
    fn add(&mut self, age: u64, stats: &mut Stats) {
        if age != self.age {
            self.flush(stats);
            self.age = age;
        }
        self.count += 1;
    }

    fn flush(&mut self, stats: &mut Stats) {
        if self.count > 0 {
            stats.ages.saturating_record_n(self.age, self.count);
            self.count = 0;
        }
    }
}

/// What a thread's clients share for reading.
pub(crate) struct Scratch {
    buffer: Vec<u8>,
    tick: Received,
    run: Run,
    /// Where the price stood in the last tick, or its time.
    hint: usize,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch { buffer: vec![0; 256 << 10], tick: Received::default(), run: Run::default(), hint: 0 }
    }
}

impl Client {
    /// Begins to connect.
    pub(crate) fn open(common: &Common, spec: Spec) -> std::io::Result<Self> {
        let domain = if common.addr.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if spec.stalls {
            socket.set_recv_buffer_size(STALLED_BUFFER)?;
        }
        if common.addr.ip().is_loopback() && common.addr.is_ipv4() {
            let address = Ipv4Addr::new(127, 0, 0, 2 + (spec.number / CLIENTS_PER_ADDRESS) as u8);
            socket.bind(&SocketAddr::from((address, 0)).into())?;
        }
        match socket.connect(&common.addr.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let last = vec![Last::default(); spec.symbols.len()];
        Ok(Client {
            stream: TcpStream::from_std(socket.into()),
            spec,
            state: State::Connecting,
            partial: Vec::new(),
            unsent: Vec::new(),
            last,
            scales: Vec::new(),
            reached: false,
        })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Gives up.
    pub(crate) fn end(&mut self, why: String, stats: &mut Stats) {
        if self.state != State::Ended {
            let stage = match self.state {
                State::Connecting => "connecting",
                State::Upgrading => "at the WebSocket upgrade",
                State::Authenticating => "authenticating",
                State::Subscribing(_) => "subscribing",
                State::Live | State::Ended => "while ticks flowed",
            };
            if self.state == State::Live {
                stats.live -= 1;
            }
            stats.end(format!("{stage}: {why}"));
            self.state = State::Ended;
        }
    }

    /// The socket takes bytes.
    pub(crate) fn writable(&mut self, common: &Common, stats: &mut Stats) {
        if self.state == State::Connecting {
            if let Ok(Some(error)) | Err(error) = self.stream.take_error() {
                return self.end(format!("cannot connect to {}: {error}", common.addr), stats);
            }
            if self.stream.peer_addr().is_err() {
                return;
            }
            self.state = State::Upgrading;
            self.unsent = frame::upgrade(&common.host, &common.path, common.format).into_bytes();
        }
        self.flush(stats);
    }

    fn flush(&mut self, stats: &mut Stats) {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(0) => return self.end("the server hung up".into(), stats),
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.end(error.to_string(), stats),
            }
        }
        self.unsent.drain(..sent);
    }

    fn send(&mut self, first: u8, payload: &[u8], stats: &mut Stats) {
        frame::write(&mut self.unsent, first, payload);
        self.flush(stats);
    }

    /// The socket has bytes: all of them are read.
    pub(crate) fn readable(&mut self, common: &Common, scratch: &mut Scratch, stats: &mut Stats) {
        let mut buffer = std::mem::take(&mut scratch.buffer);
        while self.state != State::Ended {
            let kept = self.partial.len();
            if buffer.len() < kept + (64 << 10) {
                buffer.resize(2 * (kept + (64 << 10)), 0);
            }
            buffer[..kept].copy_from_slice(&self.partial);
            let room = buffer.len() - kept;
            match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => self.end("the server hung up".into(), stats),
                Ok(n) => {
                    stats.reads += 1;
                    stats.bytes += n as u64;
                    self.take(&buffer[..kept + n], common, scratch, stats);
                    if n < room {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.end(error.to_string(), stats),
            }
        }
        scratch.run.flush(stats);
        scratch.buffer = buffer;
    }

    /// Takes the whole frames of `bytes`, and keeps the rest. A tick's age is taken when the read has returned.
    fn take(&mut self, bytes: &[u8], common: &Common, scratch: &mut Scratch, stats: &mut Stats) {
        let now = common.board.now();
        let mut at = 0;
        if self.state == State::Upgrading {
            match frame::upgraded(bytes, common.format) {
                Ok(Some(head)) => {
                    at = head;
                    self.state = State::Authenticating;
                    self.send(frame::TEXT, frame::authenticate(&common.key).as_bytes(), stats);
                }
                Ok(None) => {}
                Err(why) => return self.end(why, stats),
            }
        }
        while self.state != State::Upgrading
            && let Some((first, from, to)) = frame::next(bytes, at)
        {
            at = to;
            stats.frames += 1;
            let body = &bytes[from..to];
            match first {
                frame::TEXT if frame::is_tick(body) => self.json_tick(body, now, common, scratch, stats),
                frame::TEXT => match serde_json::from_slice(body) {
                    Ok(answer) => self.answer(&answer, common, stats),
                    Err(_) => stats.unreadable += 1,
                },
                frame::BINARY => self.binary(body, now, common, scratch, stats),
                frame::PING => self.send(frame::PONG, body, stats),
                frame::CLOSE => self.end(frame::goodbye(body), stats),
                frame::PONG => {}
                _ => stats.unreadable += 1,
            }
        }
        self.partial.clear();
        self.partial.extend_from_slice(&bytes[at..]);
    }

    fn json_tick(&mut self, body: &[u8], now: u64, common: &Common, scratch: &mut Scratch, stats: &mut Stats) {
        if common.external {
            let time = frame::after(body, b"\"timestamp\":", &mut scratch.hint)
                .and_then(ticks::number_of)
                .map(|cents| cents / 100);
            return self.external(time.map(microseconds), scratch, stats);
        }
        match frame::after(body, b"\"ltp\":", &mut scratch.hint).and_then(ticks::number_of) {
            Some(number) => self.tick(number, None, now, common, scratch, stats),
            None => stats.unreadable += 1,
        }
    }

    fn binary(&mut self, body: &[u8], now: u64, common: &Common, scratch: &mut Scratch, stats: &mut Stats) {
        let mut tick = std::mem::take(&mut scratch.tick);
        let read = msgpack::each_tick(body, &mut tick, |tick| {
            if common.external {
                return self.external(Some(tick.t_recv.0), scratch, stats);
            }
            let scale = self.scales.iter().find(|(id, _)| *id == tick.id.0).map_or(2, |(_, scale)| *scale);
            let unit = 10i64.pow(u32::from(scale.saturating_sub(2)));
            match tick.ltp().and_then(|price| u64::try_from(price / unit).ok()) {
                Some(number) => self.tick(number, Some(tick.seq as u32), now, common, scratch, stats),
                None => stats.unreadable += 1,
            }
        });
        scratch.tick = tick;
        match read {
            Ok(true) => {}
            Ok(false) => match msgpack::read(body) {
                Ok(msgpack::ServerFrame::Message(answer)) => self.answer(&answer, common, stats),
                Ok(_) => {}
                Err(_) => stats.unreadable += 1,
            },
            Err(_) => stats.unreadable += 1,
        }
    }

    /// A tick of ours came back.
    fn tick(
        &mut self,
        number: u64,
        seq: Option<u32>,
        now: u64,
        common: &Common,
        scratch: &mut Scratch,
        stats: &mut Stats,
    ) {
        let board = &*common.board;
        stats.ticks += 1;
        self.reach(stats);
        let symbol = (number % board.universe) as u32;
        let (true, Some(at)) = (board.is_ours(number), self.place(symbol)) else {
            stats.strangers += 1;
            return;
        };
        let (last, number32) = (self.last[at], number as u32);
        if number32 == last.number {
            stats.duplicates += 1;
            return;
        }
        if number32 < last.number {
            stats.reordered += 1;
            return;
        }
        if let Some(seq) = seq.filter(|_| last.number > 0) {
            stats.merged += u64::from(seq.wrapping_sub(last.seq).saturating_sub(1));
        }
        self.last[at] = Last { number: number32, seq: seq.unwrap_or_default() };
        if board.counts(number) {
            match self.spec.stalls {
                true => stats.stalled += 1,
                false => {
                    stats.delivered += 1;
                    scratch.run.add(board.age(number, now), stats);
                }
            }
        }
    }

    /// Where `symbol` stands among ours.
    fn place(&self, symbol: u32) -> Option<usize> {
        let symbols = &self.spec.symbols;
        match symbols.get(symbol as usize) {
            // Who takes the first ones has each in its own place.
            Some(found) if *found == symbol => Some(symbol as usize),
            _ => symbols.binary_search(&symbol).ok(),
        }
    }

    /// A tick of somebody else's came; `time` is its own, in microseconds since 1970.
    fn external(&mut self, time: Option<u64>, scratch: &mut Scratch, stats: &mut Stats) {
        stats.ticks += 1;
        stats.delivered += 1;
        self.reach(stats);
        let age = time.and_then(|time| Micros::now().0.checked_sub(time)).filter(|age| *age < AGE_MAX_US);
        if let Some(age) = age {
            scratch.run.add(age * 1000, stats);
        }
    }

    fn reach(&mut self, stats: &mut Stats) {
        if !std::mem::replace(&mut self.reached, true) {
            stats.reached += 1;
        }
    }

    fn answer(&mut self, answer: &Value, common: &Common, stats: &mut Stats) {
        let kind = answer["type"].as_str().unwrap_or_default();
        match (self.state, kind) {
            (State::Authenticating, _) => match frame::refusal(answer) {
                None => self.subscribe(0, common, stats),
                Some(why) => self.end(format!("{why} (is --key right?)"), stats),
            },
            (State::Subscribing(asked), "subscribe" | "") => match frame::refusal(answer) {
                None => {
                    for entry in answer["subscriptions"].as_array().into_iter().flatten() {
                        if let (Some(id), Some(scale)) = (entry["id"].as_u64(), entry["scale"].as_u64())
                            && scale != 2
                        {
                            self.scales.push((id as u32, scale as u8));
                        }
                    }
                    self.subscribe(asked, common, stats);
                }
                Some(why) => self.end(why, stats),
            },
            _ => {}
        }
    }

    /// Asks for the symbols from `asked` on, or is done.
    fn subscribe(&mut self, asked: usize, common: &Common, stats: &mut Stats) {
        let rest = &self.spec.symbols[asked..];
        if rest.is_empty() {
            self.state = State::Live;
            stats.live += 1;
            return;
        }
        let chunk = &rest[..rest.len().min(CHUNK)];
        let entries: Vec<String> = chunk.iter().map(|s| common.instruments[*s as usize].entry()).collect();
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        self.state = State::Subscribing(asked + chunk.len());
        self.send(frame::TEXT, frame::request("subscribe", self.spec.mode, &entries).as_bytes(), stats);
    }

    /// Whether it has the newest tick of each of its symbols.
    pub(crate) fn is_up_to_date(&self, board: &Board) -> bool {
        let newest = |symbol: &u32| board.last_of(*symbol).unwrap_or_default();
        self.spec.symbols.iter().zip(&self.last).all(|(symbol, last)| u64::from(last.number) >= newest(symbol))
    }
}

/// A time as OpenAlgo's adapters write it, in microseconds: seconds, milliseconds, microseconds.
fn microseconds(time: u64) -> u64 {
    match time {
        ..100_000_000_000 => time * 1_000_000,
        100_000_000_000..100_000_000_000_000 => time * 1000,
        _ => time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_one_age_are_recorded_together_and_none_is_lost() {
        let (mut run, mut stats) = (Run::default(), Stats::default());
        for age in [5000, 5000, 5000, 9000, 5000] {
            run.add(age, &mut stats);
        }
        run.flush(&mut stats);
        run.flush(&mut stats);
        assert_eq!((stats.ages.len(), stats.ages.count_at(5000), stats.ages.count_at(9000)), (5, 4, 1));
    }

    #[test]
    fn times_are_read_in_the_units_that_adapters_write() {
        let want = 1_761_367_200_000_000;
        for time in [1_761_367_200, 1_761_367_200_000, want] {
            assert_eq!(microseconds(time), want);
        }
    }
}
