//! The publisher: a thread that keeps time, and one that owns the bus socket (the library's `BatchPublisher`).
//!
//! In: phases (rate, seconds). Out: for each, what was published by symbol, and how late the thread was. Time is kept without
//! coordinated omission: message `k` of a phase is due at `start + k * batch / rate` whatever became of those before it, and that is
//! the time its ticks carry. A tick that the full queue refuses was not published, and is counted.

use crate::Failure;
use crate::board::{Board, NUMBERS_MAX};
use crate::cli::Bus;
use crate::ticks::{self, Instrument};
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};
use tickcast::adapter::publisher::{BatchLimits, BatchPublisher, Config, Publish, PublisherTask};
use tickcast::model::{Micros, Mode};
use tickcast::zmtp::{Direction, Endpoint};

/// What may wait for the socket, bytes.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// How soon a wait notices that all is to stop.
const STOP_LOOK: Duration = Duration::from_millis(50);
/// Above this our own bookkeeping would be late by itself; ticks are not split over it, bytes.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// What is published, and how.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) endpoint: Endpoint,
    pub(crate) direction: Direction,
    pub(crate) instruments: Arc<Vec<Instrument>>,
    pub(crate) mode: Mode,
    pub(crate) bus: Bus,
    pub(crate) batch: u32,
}

/// One stretch of a steady rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) rate: f64,
    pub(crate) time: Duration,
    /// Whether its ticks count.
    pub(crate) measured: bool,
}

/// What was published in a phase.
pub(crate) struct Published {
    /// By symbol.
    pub(crate) ticks: Vec<u64>,
    pub(crate) dropped: u64,
    /// How long after its due time each message was handed over, nanoseconds.
    pub(crate) late: Histogram<u64>,
    pub(crate) took: Duration,
}

impl Published {
    pub(crate) fn total(&self) -> u64 {
        self.ticks.iter().sum()
    }

    pub(crate) fn rate(&self) -> f64 {
        self.total() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// The running publisher.
pub(crate) struct Publisher {
    phases: Option<SyncSender<Phase>>,
    done: Receiver<Published>,
    keeper: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Binds or begins to connect.
    pub(crate) fn start(plan: Plan, board: Arc<Board>) -> Result<Self, Failure> {
        let (socket, task, runtime) = open(&plan)?;
        let (phases, orders) = sync_channel::<Phase>(1);
        let (tell, done) = sync_channel(1);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::Builder::new().name("lt-bus".into()).spawn(move || {
            runtime.block_on(async {
                // An error is the sender's end, which means the same.
                let _ = ended.await;
                task.shutdown().await;
            });
        })?;
        let keeper = std::thread::Builder::new().name("lt-publisher".into()).spawn(move || {
            let mut keeper = Keeper::new(plan, board, socket);
            for phase in orders {
                let published = keeper.run(phase);
                if tell.send(published).is_err() {
                    break;
                }
            }
            drop(end);
        })?;
        Ok(Publisher { phases: Some(phases), done, keeper: Some(keeper) })
    }

    /// Begins a phase; its end is told by [`Publisher::wait`].
    pub(crate) fn begin(&self, phase: Phase) -> Result<(), Failure> {
        let phases = self.phases.as_ref().ok_or("the publisher has ended")?;
        phases.send(phase).map_err(|_| "the publisher has ended".into())
    }

    /// What the phase came to, if it ends within `patience`.
    pub(crate) fn wait(&self, patience: Duration) -> Result<Option<Published>, Failure> {
        match self.done.recv_timeout(patience) {
            Ok(published) => Ok(Some(published)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the publisher has ended".into()),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.phases = None;
        if let Some(keeper) = self.keeper.take() {
            // It ends with the phase it is in.
            let _ = keeper.join();
        }
    }
}

type Open = (BatchPublisher, PublisherTask, tokio::runtime::Runtime);

fn open(plan: &Plan) -> Result<Open, Failure> {
    if plan.direction == Direction::Connect
        && let Endpoint::Tcp { host, port } = &plan.endpoint
        && let Err(error) = std::net::TcpStream::connect((host.as_str(), *port))
    {
        return Err(format!(
            "no bus at {}: {error}. Name the endpoint that the server binds (--connect), or, if it connects to its publishers, where we \
             shall bind (--bind)",
            plan.endpoint
        )
        .into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let items_max = if plan.bus == Bus::Batch { plan.batch as usize } else { 1 };
    let limits = BatchLimits { items_max, bytes_max: MESSAGE_BYTES_MAX, ..BatchLimits::default() };
    let config =
        Config { endpoint: plan.endpoint.clone(), direction: plan.direction, limits, queue_bytes_max: QUEUE_BYTES_MAX };
    let started = runtime.block_on(BatchPublisher::start(config));
    let (socket, task, _) = started.map_err(|e| format!("{e}. Is another publisher running? Choose another --bind"))?;
    Ok((socket, task, runtime))
}

struct Keeper {
    plan: Plan,
    board: Arc<Board>,
    socket: BatchPublisher,
    topics: Vec<String>,
    number: u64,
    payload: Vec<u8>,
}

impl Keeper {
    fn new(plan: Plan, board: Arc<Board>, socket: BatchPublisher) -> Self {
        let topics = plan.instruments.iter().map(|i| ticks::topic(i, plan.mode)).collect();
        Keeper { plan, board, socket, topics, number: 0, payload: Vec::with_capacity(2048) }
    }

    fn run(&mut self, phase: Phase) -> Published {
        let late = Histogram::new_with_bounds(1000, 60_000_000_000, 3).expect("sound bounds");
        let mut published = Published { ticks: vec![0; self.topics.len()], dropped: 0, late, took: Duration::ZERO };
        if phase.measured {
            self.board.open(self.number + 1);
        }
        let started = Instant::now();
        let step = f64::from(self.plan.batch) / phase.rate;
        let messages = (phase.time.as_secs_f64() / step).ceil().max(1.0) as u64;
        for k in 0..messages {
            let due = started + Duration::from_secs_f64(k as f64 * step);
            let is_full = self.number + u64::from(self.plan.batch) >= NUMBERS_MAX;
            if is_full || !self.wait_until(due) {
                break;
            }
            published.late.saturating_record(due.elapsed().as_nanos() as u64);
            self.message(self.board.at(due), &mut published);
            if started.elapsed() > phase.time * 2 {
                // So far behind that the rest would be a different load.
                break;
            }
        }
        let end = started + Duration::from_secs_f64(messages as f64 * step);
        self.wait_until(end);
        if phase.measured {
            self.board.close(self.number);
        }
        published.took = started.elapsed();
        published
    }

    /// False when all is to stop.
    fn wait_until(&self, time: Instant) -> bool {
        while !self.board.stop.load(Ordering::Acquire) {
            match time.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => park_timeout(left.min(STOP_LOOK)),
                _ => return true,
            }
        }
        false
    }

    /// The next `batch` ticks, all due at `due`.
    fn message(&mut self, due: u64, published: &mut Published) {
        let now_ms = Micros::now().0 / 1000;
        for _ in 0..self.plan.batch {
            self.number += 1;
            let symbol = (self.number % self.board.universe) as usize;
            self.payload.clear();
            match self.plan.bus {
                Bus::Json => ticks::json(&mut self.payload, self.plan.mode, self.number, now_ms),
                Bus::Msgpack | Bus::Batch => ticks::msgpack(&mut self.payload, self.plan.mode, self.number, now_ms),
            }
            self.board.note(self.number, due);
            match self.socket.publish(&self.topics[symbol], &self.payload) {
                Publish::Queued => published.ticks[symbol] += 1,
                Publish::Dropped => published.dropped += 1,
            }
        }
    }
}
