//! A worker: the thread that owns a slice of the sessions, delivers ticks to them and writes their sockets.
//!
//! In: batches from ingest, frames and subscriptions from the session layer, both on this thread. Out: bytes; sessions that must
//! go leave through [`Worker::next_eviction`]. Promise: a write never waits; one write per touched session and flush; control
//! frames go before ticks; after [`Worker::deactivate`] no tick of that key is sent. Deliberately ignorant of commands, users
//! and authentication. Flushing stands in `flush.rs`. Tests: `tests.rs` beside this file.

#[cfg(test)]
mod conflation_tests;
mod flush;
mod gate;
mod held;
mod inner;
mod lanes;
mod overload;
mod survey;
mod sweep;
mod tally;
#[cfg(test)]
mod tests;
mod touched;

use super::batch::{EncodedBatch, Frame, FrameKey, Kind};
use super::index::{Index, Taken};
use super::metrics::{EngineMetrics, WorkerStats};
use super::queue::TickReceiver;
use super::transport::Transport;
use crate::model::{Class, Format, Micros, SessionId, WorkerId};
use crate::outbox::Outbox;
use crate::policy::conflation::Terms;
use crate::policy::pacing::{self, Arrivals};
use crate::policy::slow_consumer::{self, Verdict};
use bytes::Bytes;
use gate::Gates;
use held::{Batches, NewestTable};
use lanes::{Lanes, Take};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tally::{Sent, Tally};
use tokio::sync::Notify;
use touched::Touched;

/// Batches a worker takes up before it writes.
const DRAIN_BATCHES_MAX: usize = 256;
/// Writes, and time, after which a flush yields to the reactor.
const YIELD_WRITES: usize = 256;
const YIELD_AFTER: Duration = Duration::from_micros(500);
/// Bitmap of a frame that is for one session alone: a snapshot.
const NO_WORKER: u64 = 0;
/// What a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Which worker it is: its bit in delivery bitmaps.
    pub id: WorkerId,
    /// Longest rest between two flushes.
    pub flush_max_delay: Duration,
    /// When a session's lossless lane is given up.
    pub lossless: slow_consumer::Config,
    /// All outboxes of all workers, bytes.
    pub outbox_bytes_total: usize,
    /// How many workers share that.
    pub workers: usize,
}

/// Why the engine gave a session up; the session layer says goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The lossless lane overflowed.
    Overflow,
    /// The lossless lane made no progress for too long.
    Stalled,
    /// A tick that may not be merged was lost before it came here.
    Gap,
    /// All outboxes together are too large, and this one is the largest of its worker.
    Shed,
    /// The socket failed.
    Gone,
}

/// One key that a session begins to take.
#[derive(Debug)]
pub struct Activate {
    /// What it takes.
    pub key: FrameKey,
    /// Ticks at or below this number are skipped.
    pub floor: u64,
    /// An encoded snapshot frame, if one is due.
    pub snapshot: Option<Vec<u8>>,
    /// How the ticks are to be delivered.
    pub terms: Terms,
}

/// See the module header.
pub struct Worker {
    config: WorkerConfig,
    metrics: EngineMetrics,
    stats: Arc<WorkerStats>,
    /// Outbox bytes of all workers, as each last reported.
    outbox_total: Arc<AtomicUsize>,
    /// The longest rest between two flushes at the present overload level.
    max_delay: Cell<Duration>,
    /// How late the last sweep was.
    late_by: Cell<Duration>,
    inner: RefCell<Inner>,
    evicted: Notify,
}

struct Inner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: Index,
    batches: Batches,
    /// Slots with ticks to write.
    touched: Touched,
    newest: NewestTable,
    scratch: Vec<u8>,
    evictions: VecDeque<(SessionId, Eviction)>,
    sent: Sent,
    /// The last `t_send`: it never goes back, whatever the clock does.
    t_send: Micros,
    /// Slowest rate that overload imposes, by class.
    imposed: [Option<Duration>; 3],
    /// What that holds back for all sessions at once.
    gates: Gates,
    /// (session, key) pairs in the index.
    subscriptions: usize,
    /// What this worker's last sweep added to the total of all outboxes.
    claimed: usize,
}

struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

struct Connection {
    transport: Rc<Transport>,
    format: Format,
    class: Class,
    outbox: Outbox<FrameKey>,
    tally: Tally,
    taken: Taken,
    /// Subscriptions with terms of their own; most sessions have none.
    lanes: Option<Box<Lanes>>,
    /// Stands in `Inner::touched`.
    touched: bool,
    /// A task waits for the socket to become writable.
    resuming: bool,
    /// Given up: takes no more ticks or frames except goodbye.
    doomed: bool,
}

impl Worker {
    /// A worker without sessions.
    pub fn new(
        config: WorkerConfig,
        metrics: EngineMetrics,
        stats: Arc<WorkerStats>,
        outbox_total: Arc<AtomicUsize>,
    ) -> Rc<Self> {
        Rc::new(Worker {
            max_delay: Cell::new(config.flush_max_delay),
            late_by: Cell::default(),
            config,
            metrics,
            stats,
            outbox_total,
            inner: RefCell::new(Inner {
                slots: Vec::new(),
                free: Vec::new(),
                index: Index::default(),
                batches: Batches::default(),
                touched: Touched::default(),
                newest: NewestTable::default(),
                scratch: Vec::new(),
                evictions: VecDeque::new(),
                sent: Sent::default(),
                t_send: Micros(0),
                imposed: [None; 3],
                gates: Gates::default(),
                subscriptions: 0,
                claimed: 0,
            }),
            evicted: Notify::new(),
        })
    }

    /// Which worker this is.
    pub fn id(&self) -> WorkerId {
        self.config.id
    }

    /// What the worker knows of itself.
    pub fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// Takes a socket over; the session starts with empty lanes and no subscriptions.
    pub fn open(&self, transport: Rc<Transport>, format: Format) -> SessionId {
        let mut inner = self.inner.borrow_mut();
        let connection = Box::new(Connection {
            transport,
            format,
            class: Class::default(),
            outbox: Outbox::default(),
            tally: Tally::default(),
            taken: Taken::default(),
            lanes: None,
            touched: false,
            resuming: false,
            doomed: false,
        });
        let slot = match inner.free.pop() {
            Some(slot) => slot,
            None => {
                inner.slots.push(Slot { generation: 0, connection: None });
                (inner.slots.len() - 1) as u32
            }
        };
        inner.gates.join(Class::default());
        let held = &mut inner.slots[slot as usize];
        held.generation = held.generation.wrapping_add(1);
        held.connection = Some(connection);
        SessionId { worker: self.config.id, slot, generation: held.generation }
    }

    /// Queues one lossless frame and writes it at once unless the session is behind. A full lane evicts the session.
    pub fn send(self: &Rc<Self>, id: SessionId, frame: Bytes) {
        let mut inner = self.inner.borrow_mut();
        let Some(connection) = inner.connection(id).filter(|c| !c.doomed) else { return };
        match connection.outbox.push_control(frame, self.config.lossless) {
            Verdict::Keep => self.write(&mut inner, id.slot),
            Verdict::Full | Verdict::Stalled => self.evict(&mut inner, id.slot, Eviction::Overflow),
        }
    }

    /// One step: queues the acknowledgement if there is one, enters the delivery index, queues the snapshots. `activate` is called for each
    /// entry after the acknowledgement stands in the lane; it sets the wanted bit and reads floor and last value in one lock.
    pub fn activate<E>(
        self: &Rc<Self>,
        id: SessionId,
        ack: Option<Bytes>,
        entries: impl IntoIterator<Item = E>,
        mut activate: impl FnMut(E) -> Activate,
    ) {
        let mut inner = self.inner.borrow_mut();
        let Some(connection) = inner.connection(id).filter(|c| !c.doomed) else { return };
        let lane = self.config.lossless;
        if ack.is_some_and(|ack| connection.outbox.push_control(ack, lane) != Verdict::Keep) {
            return self.evict(&mut inner, id.slot, Eviction::Overflow);
        }
        let mut snapshots = EncodedBatch::new(Micros(0), Instant::now()).of_kind(Kind::Snapshots);
        let entries = entries.into_iter();
        connection.taken.reserve(entries.size_hint().0);
        for entry in entries {
            let Activate { key, floor, snapshot, terms } = activate(entry);
            inner.enter(id.slot, key, floor, terms);
            if let Some(bytes) = snapshot {
                snapshots.push(key, floor, NO_WORKER, |slab| slab.extend_from_slice(&bytes));
            }
        }
        if !inner.queue_snapshots(id.slot, snapshots, lane) {
            self.evict(&mut inner, id.slot, Eviction::Overflow);
        }
        self.write(&mut inner, id.slot);
        inner.release_written();
        self.stats.subscriptions.store(inner.subscriptions, Ordering::Relaxed);
    }

    /// Ends delivery of `keys` to the session: what it still has to get of them has been written or is dropped when this returns.
    /// `unwanted` is called for each key that no session of this worker takes any more.
    pub fn deactivate(self: &Rc<Self>, id: SessionId, keys: &[FrameKey], mut unwanted: impl FnMut(FrameKey)) {
        let mut inner = self.inner.borrow_mut();
        if inner.connection(id).is_none() {
            return;
        }
        // Ticks taken up before the command go out before the acknowledgement.
        self.write(&mut inner, id.slot);
        for &key in keys {
            if inner.leave(id.slot, key) == Some(true) {
                unwanted(key);
            }
        }
        self.stats.subscriptions.store(inner.subscriptions, Ordering::Relaxed);
    }

    /// Ends all delivery to the session and queues its last frame; then only [`Worker::remove`] is left.
    pub fn goodbye(self: &Rc<Self>, id: SessionId, close_frame: Option<Bytes>, mut unwanted: impl FnMut(FrameKey)) {
        let mut inner = self.inner.borrow_mut();
        if inner.connection(id).is_none() {
            return;
        }
        self.write(&mut inner, id.slot);
        let Inner { slots, newest, .. } = &mut *inner;
        let Some(connection) = slots[id.slot as usize].connection.as_mut() else { return };
        for key in connection.outbox.clear_ticks() {
            newest.release(key);
        }
        let keys = connection.taken.keys().to_vec();
        for key in keys {
            if inner.leave(id.slot, key) == Some(true) {
                unwanted(key);
            }
        }
        let Some(connection) = inner.connection(id) else { return };
        connection.doomed = true;
        if let Some(frame) = close_frame {
            connection.outbox.push_goodbye(frame);
        }
        self.write(&mut inner, id.slot);
        self.stats.subscriptions.store(inner.subscriptions, Ordering::Relaxed);
    }

    /// How much the session matters when there is not enough for all.
    pub fn set_class(&self, id: SessionId, class: Class) {
        let mut inner = self.inner.borrow_mut();
        if let Some(connection) = inner.connection(id) {
            let before = std::mem::replace(&mut connection.class, class);
            inner.gates.part(before);
            inner.gates.join(class);
        }
    }

    /// Overload: gives up to `at_most` sessions of `class` up that have been behind for longest. How many there were.
    pub fn evict_slowest(&self, class: Class, at_most: usize) -> usize {
        let mut inner = self.inner.borrow_mut();
        let slots = inner.slots.iter().zip(0..).filter_map(|(held, slot)| Some((held.connection.as_ref()?, slot)));
        let behind = slots.filter(|(c, _)| c.class == class && !c.doomed);
        let mut behind: Vec<_> = behind.filter_map(|(c, slot)| Some((c.outbox.behind_since()?, slot))).collect();
        behind.sort_unstable();
        behind.truncate(at_most);
        behind.iter().for_each(|(_, slot)| self.evict(&mut inner, *slot, Eviction::Shed));
        behind.len()
    }

    /// Whether everything queued for the session has been handed to the kernel.
    pub fn is_flushed(&self, id: SessionId) -> bool {
        self.inner.borrow_mut().connection(id).is_none_or(|c| c.outbox.bytes() == 0)
    }

    /// Forgets the session; its socket closes when its reader lets go too.
    pub fn remove(self: &Rc<Self>, id: SessionId, unwanted: impl FnMut(FrameKey)) {
        self.goodbye(id, None, unwanted);
        let mut inner = self.inner.borrow_mut();
        if let Some(class) = inner.connection(id).map(|connection| connection.class) {
            inner.gates.part(class);
            inner.slots[id.slot as usize].connection = None;
            inner.free.push(id.slot);
        }
    }

    /// The next session that the engine gave up. Cancel-safe.
    pub async fn next_eviction(&self) -> (SessionId, Eviction) {
        loop {
            if let Some(evicted) = self.inner.borrow_mut().evictions.pop_front() {
                return evicted;
            }
            self.evicted.notified().await;
        }
    }

    /// Sessions, and how many keys somebody takes.
    pub fn len(&self) -> (usize, usize) {
        let inner = self.inner.borrow();
        (inner.slots.len() - inner.free.len(), inner.index.len())
    }

    /// Delivers until ingest stops: take up what waits, write each touched session once, rest as the pacing law says.
    pub async fn run(self: Rc<Self>, mut ticks: TickReceiver) {
        let (mut arrivals, mut flushed_at) = (Arrivals::default(), Instant::now());
        let mut seen = 0;
        while self.more(&mut ticks).await {
            self.take_up(&mut ticks);
            while !self.inner.borrow().touched.is_empty() {
                let started = Instant::now();
                self.flush_pass(&mut ticks).await;
                let taken_up = self.inner.borrow().batches.next();
                arrivals.note((taken_up - seen) as usize, started.duration_since(flushed_at));
                (seen, flushed_at) = (taken_up, started);
                let rest = pacing::rest_after(started.elapsed(), self.max_delay.get(), arrivals.gap());
                if !rest.is_zero() {
                    tokio::time::sleep(rest).await;
                }
                self.take_up(&mut ticks);
            }
            self.release_all();
        }
    }

    fn evict(&self, inner: &mut Inner, slot: u32, why: Eviction) {
        let generation = inner.slots[slot as usize].generation;
        let Some(connection) = inner.slots[slot as usize].connection.as_mut() else { return };
        if std::mem::replace(&mut connection.doomed, true) {
            return;
        }
        inner.evictions.push_back((SessionId { worker: self.config.id, slot, generation }, why));
        self.evicted.notify_one();
    }

    /// Takes up what ingest has ready, so that one write carries as much as possible.
    fn take_up(&self, ticks: &mut TickReceiver) {
        for _ in 0..DRAIN_BATCHES_MAX {
            match ticks.try_recv() {
                Some(batch) => self.deliver(batch),
                None => break,
            }
        }
        self.send_due();
    }

    /// Puts each frame into the outbox of each of its takers, unless overload holds it back for all of them.
    pub fn deliver(&self, batch: Arc<EncodedBatch>) {
        let bit = 1u64 << self.config.id.0;
        let mut inner = self.inner.borrow_mut();
        let mut evict = Vec::new();
        let number = inner.batches.push(Arc::clone(&batch));
        let interval = inner.gates.interval(&inner.imposed);
        let gated = (interval.is_some() || !inner.gates.is_open()).then(|| (inner.newest.now(), interval));
        for frame in batch.frames.iter().filter(|f| f.workers & bit != 0) {
            if let Some(gated) = gated {
                let Inner { gates, index, sent, .. } = &mut *inner;
                let takers = index.takers(frame.key);
                if gates.holds(frame, batch.bytes(frame), takers, gated, &mut sent.merged_by_rate) {
                    continue;
                }
            }
            self.hand_out(&mut inner, number, &batch, frame, &mut evict);
        }
        inner.batches.queued(Instant::now());
        for (slot, why) in evict {
            self.evict(&mut inner, slot, why);
        }
        self.stats.batches.fetch_add(1, Ordering::Relaxed);
        self.stats.load.holds(inner.batches.held.len());
    }

    /// Puts one frame of batch `number` into the outbox of each of its takers.
    fn hand_out(
        &self,
        inner: &mut Inner,
        number: u64,
        batch: &EncodedBatch,
        frame: &Frame,
        evict: &mut Vec<(u32, Eviction)>,
    ) {
        let Inner { slots, index, touched, newest, sent, imposed, gates, .. } = inner;
        let takers = index.takers(frame.key);
        // What the gate has held back long enough is not held back again for as long.
        let waited = gates.interval(imposed).filter(|_| !takers.iter().any(|taker| taker.special));
        let imposed =
            imposed.map(|interval| interval.filter(|interval| waited.is_none_or(|waited| *interval > waited)));
        let slowed = imposed.iter().any(Option::is_some);
        if !newest.kept.is_empty() {
            newest.renew(frame.key, frame.seq, batch.bytes(frame));
        }
        for taker in takers {
            if frame.seq <= taker.floor {
                continue;
            }
            let Some(connection) = slots[taker.slot as usize].connection.as_mut() else { continue };
            if taker.special || slowed || (waited.is_some() && connection.lanes.is_some()) {
                let imposed = imposed[connection.class as usize];
                let rules = (imposed, self.config.lossless);
                match connection.take(taker.slot, frame, batch.bytes(frame), rules, newest, sent) {
                    Take::Plain => {}
                    Take::Done => continue,
                    Take::Evict(why) => {
                        evict.push((taker.slot, why));
                        continue;
                    }
                }
            }
            if !connection.outbox.is_behind() {
                connection.outbox.push_frame(number, frame.start, frame.end);
                if !connection.touched {
                    connection.touched = true;
                    touched.push(connection.class, taker.slot);
                }
            } else if connection.outbox.mark(frame.key) {
                newest.hold(frame.key, frame.seq, batch.bytes(frame));
            } else {
                connection.merged_one(sent);
            }
        }
    }
}
