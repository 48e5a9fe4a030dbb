//! Ingest: the one place where ticks get their order, their `seq`, and their bytes.
//!
//! In: whole messages from all sources, served round-robin, each source in order. Out: one encoded batch a pass to every worker
//! that has takers; order updates to workers; cache invalidations to the control thread. Promises: one short lock per shard that a
//! pass touches; a payload is decoded only when wanted, a mode nobody wants is never built, nothing is encoded twice; ingest
//! never waits for a worker. The first real tick ends the simulated market for good. Tests: `ingest/tests.rs`, `tests/`.

mod metrics;
#[cfg(test)]
mod tests;

pub use metrics::{IngestMetrics, TICK_AGE_BUCKETS};

use super::frames::{self, Cause, Item};
use super::topic::{self, Topic};
use crate::engine::batch::{EncodedBatch, FrameKey};
use crate::engine::encode::{self, Encoded};
use crate::engine::metrics::WorkerStats;
use crate::engine::normalise::{self, DecodeError, Decoded, Unit};
use crate::engine::queue::{Control, TickSender};
use crate::model::heartbeat::Heartbeat;
use crate::model::queue::SourceReceiver;
use crate::model::{BrokerId, Brokers, FeedClock, Micros, Mode, ScopeId, SourceMessage, limited};
use crate::shards::{Serves, ShardIndex, Shards, TickIn, TickOut};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Messages taken up in one pass, counted and in bytes: enough to share locks and writes, little enough to stay prompt.
const PASS_MESSAGES_MAX: usize = 256;
const PASS_BYTES_MAX: usize = 1 << 20;
/// An idle loop still shows that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// Users whose order updates were lost to a full worker queue; beyond it all of that worker's order sessions are told.
const ORDER_GAPS_MAX: usize = 1024;
/// Distinct invalidations that wait for the control thread.
const INVALIDATES_MAX: usize = 4096;

/// What ingest is told.
pub struct IngestConfig {
    /// `normalise = "off"`: JSON payloads pass through to all modes.
    pub pass_through: bool,
    /// The label of simulated sessions; once real ticks flow their frames no longer say `sim`.
    pub sim_label: Option<BrokerId>,
    /// Told when each feed ticks.
    pub clock: Arc<FeedClock>,
}

/// A worker as ingest sees it.
pub struct WorkerEnd {
    /// Ticks; conflated when full.
    pub ticks: TickSender,
    /// Orders and gaps; never waits.
    pub control: mpsc::Sender<Control>,
    /// Told how many ticks were offered and merged.
    pub stats: Arc<WorkerStats>,
}

/// The simulated market as ingest sees it.
pub struct SimEnd {
    /// Its ticks.
    pub source: SourceReceiver,
    /// Ends it for the whole process.
    pub stop: Box<dyn FnOnce() + Send>,
}

/// See the module header.
pub struct Ingest {
    config: IngestConfig,
    shards: Arc<Shards>,
    brokers: Arc<Brokers>,
    metrics: IngestMetrics,
    workers: Vec<Worker>,
    sources: Vec<SourceReceiver>,
    /// The source whose turn it is.
    turn: usize,
    sim: Option<SimEnd>,
    invalidations: mpsc::Sender<frames::Invalidate>,
    /// Waiting for room there.
    invalidates: VecDeque<frames::Invalidate>,
    outs: Vec<TickOut>,
}

struct Worker {
    end: WorkerEnd,
    /// Users to be told that an order update was lost.
    gaps: VecDeque<Arc<str>>,
    /// There are more of them than `gaps` holds.
    gaps_all: bool,
    /// It is to be told that ticks were lost.
    ticks_lost: bool,
}

impl Worker {
    fn new(end: WorkerEnd) -> Self {
        Worker { end, gaps: VecDeque::new(), gaps_all: false, ticks_lost: false }
    }
}

impl Ingest {
    /// Wires ingest; nothing runs yet.
    pub fn new(
        config: IngestConfig,
        shards: Arc<Shards>,
        brokers: Arc<Brokers>,
        metrics: IngestMetrics,
        workers: Vec<WorkerEnd>,
        sim: Option<SimEnd>,
        invalidations: mpsc::Sender<frames::Invalidate>,
    ) -> Self {
        metrics.sim_active.set(if sim.is_some() { 1.0 } else { 0.0 });
        Ingest {
            config,
            shards,
            brokers,
            metrics,
            workers: workers.into_iter().map(Worker::new).collect(),
            sources: Vec::new(),
            turn: 0,
            sim,
            invalidations,
            invalidates: VecDeque::new(),
            outs: Vec::new(),
        }
    }

    /// Serves sources until `new_sources` closes. `wake` is notified by sources that have something and by workers that have room.
    pub async fn run(
        mut self,
        mut new_sources: mpsc::Receiver<SourceReceiver>,
        wake: Arc<Notify>,
        heartbeat: Heartbeat,
    ) {
        let mut messages = Vec::with_capacity(PASS_MESSAGES_MAX);
        loop {
            heartbeat.beat(Instant::now());
            // The notification is asked for before looking, so that nothing pushed in between is overslept.
            let woken = wake.notified();
            while let Ok(source) = new_sources.try_recv() {
                self.sources.push(source);
            }
            self.take_up(&mut messages);
            if !messages.is_empty() {
                self.pass(&messages);
                self.retry_workers();
                messages.clear();
                tokio::task::yield_now().await;
                continue;
            }
            self.retry_workers();
            self.hand_over_invalidates();
            tokio::select! {
                () = woken => {}
                source = new_sources.recv() => match source {
                    Some(source) => self.sources.push(source),
                    None => return,
                },
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    /// Takes one message from each source in turn until a pass is full or all are empty.
    fn take_up(&mut self, messages: &mut Vec<SourceMessage>) {
        let lost = self.sources.iter().filter(|s| s.take_loss()).count() > 0;
        self.workers.iter_mut().for_each(|worker| worker.ticks_lost |= lost);
        self.sources.retain(|s| !s.is_closed());
        let mut bytes = 0;
        // A peer that has gone may be back already as a new source: what it said before goes first.
        for gone in self.sources.iter_mut().filter(|s| s.is_abandoned()) {
            while let Some(message) = gone.try_recv() {
                bytes += message.len_bytes();
                messages.push(message);
            }
        }
        let mut empty = 0;
        while empty < self.sources.len() && messages.len() < PASS_MESSAGES_MAX && bytes < PASS_BYTES_MAX {
            self.turn = (self.turn + 1) % self.sources.len();
            match self.sources[self.turn].try_recv() {
                Some(message) => {
                    empty = 0;
                    bytes += message.len_bytes();
                    messages.push(message);
                }
                None => empty += 1,
            }
        }
        if messages.is_empty()
            && let Some(sim) = &mut self.sim
        {
            messages.extend(sim.source.try_recv());
        } else if !messages.is_empty() && self.sim.is_some() && messages.iter().any(|m| self.has_tick(m)) {
            self.stop_sim();
        }
    }

    /// One pass: scan, lock each touched shard once, encode what is wanted, hand over.
    fn pass(&mut self, messages: &[SourceMessage]) {
        let mut ticks: Vec<(ShardIndex, TickIn<'_>)> = Vec::new();
        let mut items = Vec::new();
        let reading = self.config.clock.reading(Instant::now());
        for message in messages {
            items.clear();
            let rejected = &mut |cause| self.metrics.reject(cause);
            match frames::scan(&message.topic, &message.body, &mut items, rejected) {
                Ok(kind) => self.metrics.message(kind),
                Err(cause) => {
                    self.metrics.reject(cause);
                    continue;
                }
            }
            for item in &items {
                match topic::parse(item.topic, &self.brokers) {
                    Ok(Topic::Tick { broker, instrument, mode }) => {
                        // A prefix that no user's broker has matches nobody, but the value is still kept.
                        let broker = broker.map(|name| self.brokers.find(name).unwrap_or(BrokerId(u16::MAX)));
                        self.config.clock.ticked(message.scope, broker, reading);
                        let tick = TickIn {
                            position: ticks.len() as u32,
                            scope: message.scope,
                            instrument,
                            mode,
                            broker,
                            payload: item.payload,
                            encoding: item.encoding,
                            serves: Serves::Unread { lower: frames::has_ltp(item.payload, item.encoding) },
                            merged: message.merged,
                            highest_only: message.highest_only,
                            repeats_ltp: message.highest_only && frames::repeats_ltp(item.payload, item.encoding),
                            t_recv: message.t_recv,
                        };
                        ticks.push((self.shards.shard_of(instrument), tick));
                    }
                    Ok(Topic::Orders) => self.order(item),
                    Ok(Topic::Invalidate) => self.invalidate(item),
                    Ok(Topic::Ignored) => {}
                    Err(error) => self.metrics.reject(error.into()),
                }
            }
        }
        self.metrics.ticks_received.increment(ticks.len() as u64);
        if let Some(oldest) = messages.first()
            && !ticks.is_empty()
        {
            self.fan_out(&ticks, oldest);
        }
    }

    fn fan_out(&mut self, ticks: &[(ShardIndex, TickIn<'_>)], oldest: &SourceMessage) {
        let mut by_shard: Vec<u32> = (0..ticks.len() as u32).collect();
        by_shard.sort_by_key(|&i| ticks[i as usize].0);
        let mut outs = std::mem::take(&mut self.outs);
        let mut slice = Vec::with_capacity(ticks.len());
        let (mut later, mut read) = (Vec::new(), Vec::new());
        for group in by_shard.chunk_by(|&a, &b| ticks[a as usize].0 == ticks[b as usize].0) {
            let shard = ticks[group[0] as usize].0;
            slice.clear();
            slice.extend(group.iter().map(|&i| ticks[i as usize].1));
            later.clear();
            let mut seen = self.shards.ingest(shard, &slice, &mut outs, &mut later);
            if !later.is_empty() {
                // Somebody wants these streams. What a payload serves decides its `seq`, so it is read before the shard takes it; whoever
                // comes or goes meanwhile is met by the second visit.
                slice.clear();
                for &position in &later {
                    let tick = ticks[position as usize].1;
                    if let Some(decoded) = self.read(&tick) {
                        let serves = Serves::Known(Mode::ALL.map(|m| decoded.serves(m, tick.mode)));
                        slice.push(TickIn { serves, ..tick });
                        read.push((position, decoded));
                    }
                }
                seen += self.shards.ingest(shard, &slice, &mut outs, &mut later);
            }
            self.metrics.ingested(&seen);
            // A tick for which there was no room, of a stream that somebody wants, had no number yet.
            self.workers.iter_mut().for_each(|worker| worker.ticks_lost |= seen.lost > 0);
        }
        // Shards were served one after the other; the batch goes out in the order in which its ticks came.
        outs.sort_unstable_by_key(|out| out.position);
        read.sort_unstable_by_key(|(position, _)| *position);
        let mut batch = EncodedBatch::new(oldest.t_recv, read_at(oldest.t_recv));
        let mut read = read.iter();
        for out in &outs {
            let (_, decoded) =
                read.find(|(position, _)| *position == out.position).expect("only what was read is handed out");
            self.encode(&mut batch, &ticks[out.position as usize].1, decoded, out);
        }
        outs.clear();
        self.outs = outs;
        if !batch.frames.is_empty() {
            batch.encoded_at = Instant::now();
            self.metrics.batch_encoded(batch.encoded_at.duration_since(batch.read_at));
        }
        self.metrics.tell();
        self.hand_over(batch);
    }

    /// Checks the payload; one that cannot be read is counted, and is nothing to anybody.
    fn read<'a>(&mut self, tick: &TickIn<'a>) -> Option<Decoded<'a>> {
        let broker = tick.broker.map(|id| self.brokers.name(id));
        let unit = Unit { broker, venue: tick.instrument.venue };
        match normalise::decode(tick.payload, tick.encoding, unit) {
            Ok(decoded) => {
                self.metrics.decoded(decoded.age_basis(), tick.t_recv);
                return Some(decoded);
            }
            Err(DecodeError::UnknownUnit) => self.metrics.reject(Cause::UnknownUnit),
            Err(_) => self.metrics.reject(Cause::Payload),
        }
        None
    }

    fn encode(&mut self, batch: &mut EncodedBatch, tick: &TickIn<'_>, payload: &Decoded<'_>, out: &TickOut) {
        let frame = encode::Tick {
            instrument: tick.instrument,
            mode: tick.mode,
            payload,
            t_recv: tick.t_recv,
            scale: out.scale,
            pass_through: self.config.pass_through,
        };
        for want in &out.wants {
            let key = FrameKey::new(out.stream, want.mode, want.format, want.label);
            let label = if self.sim.is_none() && Some(want.label) == self.config.sim_label {
                "bus"
            } else {
                self.brokers.name(want.label)
            };
            let mut encoded = Encoded::Nothing;
            batch.push(key, want.seq, want.workers, |slab| encoded = frame.encode(slab, key, want.seq, label, false));
            match encoded {
                Encoded::Frame { rounded } => {
                    self.metrics.encoded(want.mode, want.format, tick.instrument.venue, rounded)
                }
                Encoded::Nothing => drop(batch.frames.pop()),
            }
        }
    }

    fn hand_over(&mut self, batch: EncodedBatch) {
        let batch = Arc::new(batch);
        for (w, worker) in self.workers.iter_mut().enumerate() {
            let bit = 1u64 << w;
            if batch.workers & bit != 0 {
                let merged = worker.end.ticks.push(&batch, bit);
                worker.end.stats.load.offered(batch.frames.len() as u64, merged);
                if merged > 0 {
                    self.metrics.merged_worker.increment(merged);
                }
            }
        }
    }

    /// Hands over what a full worker queue refused, as far as there is room now.
    fn retry_workers(&mut self) {
        for (w, worker) in self.workers.iter_mut().enumerate() {
            worker.end.ticks.retry(1u64 << w);
            worker.ticks_lost = worker.ticks_lost
                && matches!(worker.end.control.try_send(Control::TicksLost), Err(mpsc::error::TrySendError::Full(_)));
            if worker.gaps_all {
                match worker.end.control.try_send(Control::OrderGapAll) {
                    Err(mpsc::error::TrySendError::Full(_)) => continue,
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {
                        worker.gaps_all = false;
                        worker.gaps.clear();
                    }
                }
            }
            while let Some(user) = worker.gaps.front() {
                match worker.end.control.try_send(Control::OrderGap { user: Arc::clone(user) }) {
                    Err(mpsc::error::TrySendError::Full(_)) => break,
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => drop(worker.gaps.pop_front()),
                }
            }
        }
    }

    fn order(&mut self, item: &Item<'_>) {
        let order = match frames::order(item.payload, item.encoding) {
            Ok(order) => order,
            Err(cause) => return self.metrics.reject(cause),
        };
        self.metrics.orders.increment(1);
        let user: Arc<str> = order.user_id.into();
        let json = bytes::Bytes::from(order.json);
        for worker in &mut self.workers {
            // Behind a gap nothing is delivered: the sessions concerned are closed anyway.
            let message = Control::Order { user: Arc::clone(&user), json: json.clone() };
            let full = !worker.gaps.is_empty()
                || matches!(worker.end.control.try_send(message), Err(mpsc::error::TrySendError::Full(_)));
            if full && !worker.gaps.contains(&user) {
                worker.gaps_all |= worker.gaps.len() >= ORDER_GAPS_MAX;
                if !worker.gaps_all {
                    worker.gaps.push_back(Arc::clone(&user));
                }
            }
        }
    }

    fn invalidate(&mut self, item: &Item<'_>) {
        match frames::invalidate(item.payload, item.encoding) {
            Ok(invalidate) => {
                self.metrics.invalidates.increment(1);
                // The same invalidation twice is one.
                if !self.invalidates.contains(&invalidate) {
                    self.invalidates.push_back(invalidate);
                }
                self.hand_over_invalidates();
            }
            Err(cause) => self.metrics.reject(cause),
        }
    }

    /// Invalidations are kept until the control thread takes them; there are never more than users on the bus.
    fn hand_over_invalidates(&mut self) {
        while let Some(invalidate) = self.invalidates.pop_front() {
            match self.invalidations.try_send(invalidate) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(invalidate)) => {
                    self.invalidates.push_front(invalidate);
                    if self.invalidates.len() > INVALIDATES_MAX {
                        self.invalidates.pop_back();
                        limited!(
                            error,
                            1,
                            "more than {INVALIDATES_MAX} cache invalidations wait; the newest is dropped"
                        );
                    }
                    return;
                }
            }
        }
    }

    fn has_tick(&self, message: &SourceMessage) -> bool {
        let mut items = Vec::new();
        frames::scan(&message.topic, &message.body, &mut items, &mut |_| {}).is_ok()
            && items.iter().any(|i| matches!(topic::parse(i.topic, &self.brokers), Ok(Topic::Tick { .. })))
    }

    /// Real ticks have come: simulated ones end for the whole process, and none of their values is ever shown again.
    fn stop_sim(&mut self) {
        let Some(sim) = self.sim.take() else { return };
        // Whoever sees the switch must not find a simulated value any more.
        self.shards.erase_last_values(Some(ScopeId::SHARED));
        (sim.stop)();
        self.metrics.sim_active.set(0.0);
        tracing::warn!(
            "real market data has arrived on the bus: the simulated market has stopped and its prices are erased \
             (set adapters.default = \"bus\" to start without it)"
        );
    }
}

/// Age of a tick at its receipt, seconds, and whether its clock was ahead of ours.
fn age(basis: Micros, t_recv: Micros) -> (f64, bool) {
    (t_recv.0.saturating_sub(basis.0) as f64 / 1e6, basis.0 > t_recv.0)
}

/// The wall-clock reading of a message's receipt on the monotonic clock, which latency is measured with.
fn read_at(t_recv: Micros) -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_micros(Micros::now().0.saturating_sub(t_recv.0))).unwrap_or(now)
}
