//! Churn: connections that subscribe, unsubscribe, leave and come back while ticks flow to everybody else, and how long each of it took.
//!
//! Each churner is a thread with a blocking socket, paced, and asks one thing at a time, so a time is that of one command: from
//! its write to the return of the read that brought its answer, ticks in between included.

use crate::Failure;
use crate::cli;
use crate::frame;
use crate::progress::Progress;
use crate::report::Report;
use crate::rig::Rig;
use crate::stats::histogram;
use hdrhistogram::Histogram;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tickcast::model::{Format, Mode};

/// An answer may take this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rounds of subscribe and unsubscribe before a churner leaves and comes back.
const ROUNDS: u32 = 10;
/// Symbols of its own that a churner uses in turn.
const OWN: u32 = 64;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    SubscribeFirst,
    SubscribeShared,
    UnsubscribeLast,
    UnsubscribeShared,
    AuthNew,
    AuthExisting,
    Connect,
}

impl Op {
    pub(crate) const ALL: [Op; 7] = [
        Op::SubscribeFirst,
        Op::SubscribeShared,
        Op::UnsubscribeLast,
        Op::UnsubscribeShared,
        Op::AuthNew,
        Op::AuthExisting,
        Op::Connect,
    ];

    pub(crate) fn words(self) -> &'static str {
        match self {
            Op::SubscribeFirst => "subscribe, first",
            Op::SubscribeShared => "subscribe, shared",
            Op::UnsubscribeLast => "unsubscribe, last",
            Op::UnsubscribeShared => "unsubscribe, shared",
            Op::AuthNew => "auth, new user",
            Op::AuthExisting => "auth, existing user",
            Op::Connect => "connect and upgrade",
        }
    }

    /// The audit's figure for OpenAlgo's proxy after its repair, ms.
    pub(crate) fn audit(self) -> Option<f64> {
        match self {
            Op::SubscribeFirst => Some(6.0),
            Op::SubscribeShared => Some(5.5),
            Op::UnsubscribeLast => Some(5.0),
            Op::UnsubscribeShared => Some(4.5),
            Op::AuthNew => Some(52.0),
            Op::AuthExisting => Some(6.0),
            Op::Connect => None,
        }
    }
}

/// Times of each operation, nanoseconds.
pub(crate) struct Times(pub(crate) Vec<(Op, Histogram<u64>)>);

impl Default for Times {
    fn default() -> Self {
        Times(Op::ALL.map(|op| (op, histogram())).into())
    }
}

impl Times {
    fn note(&mut self, op: Op, time: Duration) {
        if let Some((_, times)) = self.0.iter_mut().find(|(o, _)| *o == op) {
            times.saturating_record(time.as_nanos() as u64);
        }
    }
}

/// What all churners share.
struct Shared {
    addr: SocketAddr,
    host: String,
    path: String,
    /// The user of the steady clients.
    key: String,
    /// Users who have not been here yet.
    keys: Mutex<Vec<String>>,
    times: Mutex<Times>,
    stop: AtomicBool,
    pause: Duration,
}

impl Shared {
    fn note(&self, op: Op, time: Duration) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).note(op, time);
    }
}

pub(crate) fn run(common: &cli::Common, churn: &cli::ChurnArgs, progress: &Progress) -> Result<Report, Failure> {
    let rate = f64::from(common.load.rate);
    let mut rig = Rig::start(common, rate, churn.users, 0, progress)?;
    let shared = Arc::new(Shared {
        addr: rig.target.addr,
        host: rig.target.host.clone(),
        path: rig.target.path.clone(),
        key: rig.target.keys[0].clone(),
        keys: Mutex::new(rig.target.keys[1..].to_vec()),
        times: Mutex::default(),
        stop: AtomicBool::new(false),
        pause: churn.pause,
    });
    let mut threads = Vec::new();
    for n in 0..churn.churners {
        let (shared, held) = (Arc::clone(&shared), rig.shared_entry(n as usize));
        let thread = std::thread::Builder::new().name(format!("lt-churn-{n}"));
        threads.push(thread.spawn(move || churner(&shared, n, &held).map_err(|e| e.to_string()))?);
    }
    let measured = rig.measure("churn", rate, Duration::from_secs(u64::from(common.load.seconds)), progress);
    shared.stop.store(true, Ordering::Release);
    for thread in threads {
        thread.join().map_err(|_| "a churner panicked")?.map_err(|why| format!("a churner was refused: {why}"))?;
    }
    let mut figures = measured?;
    figures.standing = rig.finish();
    let mut report = Report::new("churn", common, vec![figures]);
    report.times = Some(std::mem::take(&mut *shared.times.lock().unwrap_or_else(PoisonError::into_inner)));
    Ok(report)
}

/// Comes, subscribes and unsubscribes for some rounds, leaves, until told to stop.
fn churner(shared: &Shared, number: u32, held: &str) -> Result<(), Failure> {
    let mut own = 0;
    while !shared.stop.load(Ordering::Acquire) {
        let new = shared.keys.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(key) = &new {
            // The user's first client, and then a second one beside it.
            let first = Connection::open(shared, key, Op::AuthNew)?;
            pause(shared);
            Connection::open(shared, key, Op::AuthExisting)?;
            drop(first);
        }
        let mut connection = Connection::open(shared, &shared.key, Op::AuthExisting)?;
        for _ in 0..ROUNDS {
            own = (own + 1) % OWN;
            let alone = format!(r#"{{"symbol":"CHURN{number}X{own}","exchange":"NSE"}}"#);
            for (entry, subscribe, unsubscribe) in [
                (alone.as_str(), Op::SubscribeFirst, Op::UnsubscribeLast),
                (held, Op::SubscribeShared, Op::UnsubscribeShared),
            ] {
                for (action, op) in [("subscribe", subscribe), ("unsubscribe", unsubscribe)] {
                    if shared.stop.load(Ordering::Acquire) {
                        return Ok(());
                    }
                    let took = connection.ask(&frame::request(action, Mode::Ltp, &[entry]), action)?;
                    shared.note(op, took);
                    pause(shared);
                }
            }
        }
    }
    Ok(())
}

fn pause(shared: &Shared) {
    std::thread::park_timeout(shared.pause);
}

/// A blocking JSON client.
struct Connection {
    tcp: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(shared: &Shared, key: &str, op: Op) -> Result<Self, Failure> {
        let began = Instant::now();
        let tcp = TcpStream::connect_timeout(&shared.addr, PATIENCE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let mut connection = Connection { tcp, buffer: Vec::new() };
        connection.tcp.write_all(frame::upgrade(&shared.host, &shared.path, Format::Json).as_bytes())?;
        let head = loop {
            connection.fill()?;
            if let Some(head) = frame::upgraded(&connection.buffer, Format::Json)? {
                break head;
            }
        };
        connection.buffer.drain(..head);
        shared.note(Op::Connect, began.elapsed());
        let took = connection.ask(&frame::authenticate(key), "auth")?;
        shared.note(op, took);
        Ok(connection)
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let at = self.buffer.len();
        self.buffer.resize(at + (64 << 10), 0);
        let read = self.tcp.read(&mut self.buffer[at..]);
        self.buffer.truncate(at + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err("the server hung up".into()),
            _ => Ok(()),
        }
    }

    fn send(&mut self, first: u8, payload: &[u8]) -> Result<(), Failure> {
        let mut out = Vec::new();
        frame::write(&mut out, first, payload);
        Ok(self.tcp.write_all(&out)?)
    }

    /// Sends a command; how long its answer, of type `kind`, took.
    fn ask(&mut self, text: &str, kind: &str) -> Result<Duration, Failure> {
        let began = Instant::now();
        self.send(frame::TEXT, text.as_bytes())?;
        loop {
            let mut at = 0;
            while let Some((first, from, to)) = frame::next(&self.buffer, at) {
                at = to;
                let body = self.buffer[from..to].to_vec();
                match first {
                    frame::TEXT if frame::is_tick(&body) => {}
                    frame::TEXT => {
                        let answer: serde_json::Value = serde_json::from_slice(&body)?;
                        if answer["type"] == kind || answer["status"] == "error" {
                            self.buffer.drain(..at);
                            let took = began.elapsed();
                            return frame::refusal(&answer).map_or(Ok(took), |why| Err(why.into()));
                        }
                    }
                    frame::PING => self.send(frame::PONG, &body)?,
                    frame::CLOSE => return Err(frame::goodbye(&body).into()),
                    _ => {}
                }
            }
            self.buffer.drain(..at);
            self.fill()?;
        }
    }
}
