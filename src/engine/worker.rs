//! A worker: the thread that owns a slice of the sessions, delivers ticks to them and writes their sockets.
//!
//! In: batches from ingest, frames and subscriptions from the session layer, both on this thread. Out: bytes; sessions that must
//! go leave through [`Worker::next_eviction`]. Promise: a write never waits; one write per touched session and flush; control
//! frames go before ticks; after [`Worker::deactivate`] no tick of that key is sent. Deliberately ignorant of commands, users
//! and authentication. Flushing stands in `flush.rs`. Tests: `tests.rs` beside this file.

mod flush;
mod held;
mod overload;
#[cfg(test)]
mod tests;

use super::batch::{EncodedBatch, FrameKey};
use super::index::{Index, Places, Taker};
use super::metrics::{EngineMetrics, WorkerStats};
use super::queue::TickReceiver;
use super::transport::Transport;
use crate::model::{Format, Micros, SessionId, WorkerId};
use crate::outbox::Outbox;
use crate::policy::pacing;
use crate::policy::slow_consumer::{self, Verdict};
use bytes::Bytes;
use held::{Batches, NewestTable};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Batches a worker takes up before it writes.
const DRAIN_BATCHES_MAX: usize = 256;
/// Writes, and time, after which a flush yields to the reactor.
const YIELD_WRITES: usize = 256;
const YIELD_AFTER: Duration = Duration::from_millis(1);
/// Bitmap of a frame that is for one session alone: a snapshot.
const NO_WORKER: u64 = 0;
/// A session whose oldest unsent tick is older than this is lagging.
const LAGGING_AFTER: Duration = Duration::from_secs(1);

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
    inner: RefCell<Inner>,
    evicted: Notify,
}

struct Inner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: Index,
    batches: Batches,
    /// Slots with ticks to write, first touched first.
    touched: VecDeque<u32>,
    newest: NewestTable,
    scratch: Vec<u8>,
    evictions: VecDeque<(SessionId, Eviction)>,
    sent: Sent,
    /// The last `t_send`: it never goes back, whatever the clock does.
    t_send: Micros,
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
    outbox: Outbox<FrameKey>,
    places: Places,
    /// Stands in `Inner::touched`.
    touched: bool,
    /// A task waits for the socket to become writable.
    resuming: bool,
    /// Given up: takes no more ticks or frames except goodbye.
    doomed: bool,
}

/// What was written since the counters were last told, by format.
#[derive(Default)]
struct Sent {
    ticks: [u64; 2],
    frames: [u64; 2],
    bytes: [u64; 2],
    merged: u64,
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
            config,
            metrics,
            stats,
            outbox_total,
            inner: RefCell::new(Inner {
                slots: Vec::new(),
                free: Vec::new(),
                index: Index::default(),
                batches: Batches::default(),
                touched: VecDeque::new(),
                newest: NewestTable::default(),
                scratch: Vec::new(),
                evictions: VecDeque::new(),
                sent: Sent::default(),
                t_send: Micros(0),
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
            outbox: Outbox::default(),
            places: Places::default(),
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
        let mut snapshots = EncodedBatch::new(Micros(0), Instant::now());
        for entry in entries {
            let Activate { key, floor, snapshot } = activate(entry);
            inner.enter(id.slot, key, floor);
            if let Some(bytes) = snapshot {
                snapshots.push(key, floor, NO_WORKER, |slab| slab.extend_from_slice(&bytes));
            }
        }
        inner.queue_snapshots(id.slot, snapshots);
        self.write(&mut inner, id.slot);
        // Between flushes nobody else's spans refer to a batch.
        if inner.touched.is_empty() {
            let next = inner.batches.next();
            let _ = inner.batches.release(next);
        }
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
        let Some(connection) = inner.connection(id) else { return };
        let keys: Vec<_> = connection.places.keys().copied().collect();
        for key in keys {
            if inner.leave(id.slot, key) == Some(true) {
                unwanted(key);
            }
        }
        let Inner { slots, newest, .. } = &mut *inner;
        let connection = slots[id.slot as usize].connection.as_mut().expect("checked above");
        for key in connection.outbox.clear_ticks() {
            newest.release(key);
        }
        connection.doomed = true;
        if let Some(frame) = close_frame {
            connection.outbox.push_goodbye(frame);
        }
        self.write(&mut inner, id.slot);
        self.stats.subscriptions.store(inner.subscriptions, Ordering::Relaxed);
    }

    /// Whether everything queued for the session has been handed to the kernel.
    pub fn is_flushed(&self, id: SessionId) -> bool {
        self.inner.borrow_mut().connection(id).is_none_or(|c| c.outbox.bytes() == 0)
    }

    /// Forgets the session; its socket closes when its reader lets go too.
    pub fn remove(self: &Rc<Self>, id: SessionId, unwanted: impl FnMut(FrameKey)) {
        self.goodbye(id, None, unwanted);
        let mut inner = self.inner.borrow_mut();
        if inner.connection(id).is_some() {
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
        while let Some(batch) = ticks.recv().await {
            self.deliver(batch);
            self.take_up(&mut ticks);
            while !self.inner.borrow().touched.is_empty() {
                let started = Instant::now();
                self.flush_pass(&mut ticks).await;
                let rest = pacing::rest_after(started.elapsed(), self.max_delay.get());
                if !rest.is_zero() {
                    tokio::time::sleep(rest).await;
                }
                self.take_up(&mut ticks);
            }
            self.release_all();
        }
    }

    /// Housekeeping, called a few times a second: stalled lossless lanes, the total of all outboxes, gauges.
    pub fn sweep(self: &Rc<Self>, now: Instant, late_by: Duration) {
        self.metrics.loop_lag.record(late_by.as_secs_f64());
        self.stats.load.swept(late_by);
        let mut inner = self.inner.borrow_mut();
        self.tell_counters(&mut inner.sent);
        // What sessions given up still hold is on its way out: counting it would cost others their place.
        let (mut bytes, mut claimed, mut lagging) = (0, 0, 0);
        let (mut stalled, mut waiting_at) = (Vec::new(), Vec::new());
        for (slot, held) in inner.slots.iter().enumerate() {
            let Some(connection) = held.connection.as_ref().filter(|c| c.outbox.is_behind()) else { continue };
            let waiting = connection.outbox.bytes();
            bytes += waiting;
            let since = connection.outbox.behind_since().expect("behind");
            lagging += usize::from(connection.outbox.marks_len() > 0 && now.duration_since(since) > LAGGING_AFTER);
            if connection.doomed {
                continue;
            }
            claimed += waiting;
            if connection.outbox.lossless_verdict(self.config.lossless, now) == Verdict::Stalled {
                stalled.push((slot as u32, Eviction::Stalled));
            } else if waiting > 0 {
                waiting_at.push((waiting, slot as u32));
            }
        }
        self.stats.outbox_bytes.store(bytes, Ordering::Relaxed);
        self.stats.lagging.store(lagging, Ordering::Relaxed);
        // While every taker is behind nothing is flushed, and merged ticks would go untold just then.
        self.tell_counters(&mut inner.sent);
        let change = claimed.wrapping_sub(std::mem::replace(&mut inner.claimed, claimed));
        let total = self.outbox_total.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        // Only a worker above its share sheds, its largest first; when the total is too large there is such a worker.
        let share = self.config.outbox_bytes_total / self.config.workers.max(1);
        let mut excess = total.saturating_sub(self.config.outbox_bytes_total).min(claimed.saturating_sub(share));
        waiting_at.sort_unstable_by_key(|(waiting, _)| std::cmp::Reverse(*waiting));
        for (waiting, slot) in waiting_at {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(waiting);
            stalled.push((slot, Eviction::Shed));
        }
        for (slot, why) in stalled {
            self.evict(&mut inner, slot, why);
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
    }

    /// Puts each frame into the outbox of each of its takers.
    pub fn deliver(&self, batch: Arc<EncodedBatch>) {
        let bit = 1u64 << self.config.id.0;
        let mut inner = self.inner.borrow_mut();
        let Inner { slots, index, batches, touched, newest, sent, .. } = &mut *inner;
        let number = batches.push(Arc::clone(&batch));
        for frame in batch.frames.iter().filter(|f| f.workers & bit != 0) {
            if !newest.kept.is_empty() {
                newest.renew(frame.key, frame.seq, batch.bytes(frame));
            }
            for taker in index.takers(frame.key) {
                if frame.seq <= taker.floor {
                    continue;
                }
                let Some(connection) = slots[taker.slot as usize].connection.as_mut() else { continue };
                if !connection.outbox.is_behind() {
                    connection.outbox.push_frame(number, frame.start, frame.end);
                    if !connection.touched {
                        connection.touched = true;
                        touched.push_back(taker.slot);
                    }
                } else if connection.outbox.mark(frame.key) {
                    newest.hold(frame.key, frame.seq, batch.bytes(frame));
                } else {
                    sent.merged += 1;
                }
            }
        }
        self.stats.batches.fetch_add(1, Ordering::Relaxed);
        self.stats.load.holds(inner.batches.held.len());
    }
}

impl Inner {
    fn connection(&mut self, id: SessionId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_deref_mut() } else { None }
    }

    fn enter(&mut self, slot: u32, key: FrameKey, floor: u64) {
        let connection = self.slots[slot as usize].connection.as_mut().expect("an open session subscribes");
        if !connection.places.contains_key(&key) {
            self.index.enter(key, Taker { slot, floor }, &mut connection.places);
            self.subscriptions += 1;
        }
    }

    fn leave(&mut self, slot: u32, key: FrameKey) -> Option<bool> {
        let connection = self.slots[slot as usize].connection.as_mut()?;
        if connection.outbox.unmark(key) {
            self.newest.release(key);
        }
        let mut moved = None;
        let gone = self.index.leave(key, &mut connection.places, |other, place| moved = Some((other, place)));
        if let Some((other, place)) = moved {
            let other = self.slots[other as usize].connection.as_mut().expect("a taker is open");
            other.places.insert(key, place);
        }
        self.subscriptions -= usize::from(gone.is_some());
        gone
    }

    /// Snapshots travel like ticks: merged with newer ones if the socket is full, so they count against no lane.
    fn queue_snapshots(&mut self, slot: u32, snapshots: EncodedBatch) {
        if snapshots.frames.is_empty() {
            return;
        }
        let snapshots = Arc::new(snapshots);
        let number = self.batches.push(Arc::clone(&snapshots));
        let connection = self.slots[slot as usize].connection.as_mut().expect("an open session subscribes");
        for frame in &snapshots.frames {
            if !connection.outbox.is_behind() {
                connection.outbox.push_frame(number, frame.start, frame.end);
            } else {
                connection.outbox.mark_snapshot(frame.key, snapshots.bytes(frame));
            }
        }
    }
}
