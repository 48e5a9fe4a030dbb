//! Subscriptions with terms of their own: `max_rate`, `delivery: every`, `range`, and the rate that overload imposes on a class.
//!
//! In: ticks of such takers, moments. Out: what becomes of each tick; held ticks when their slot begins. Promises: a session without
//! terms costs one comparison a tick and holds nothing; a held tick is the worker's shared copy and one entry in its calendar, so memory
//! follows subscriptions; a key is held or marked, never both; after a gap an `every` session gets no further tick. What may be merged
//! and when is decided in `policy::conflation`. Tests: `conflation_tests.rs`, `tests/lanes.rs`.

use super::held::NewestTable;
use super::{Connection, Eviction, Inner, Sent, Worker};
use crate::engine::batch::{EncodedBatch, Frame, FrameKey, Kind};
use crate::engine::queue::TickReceiver;
use crate::model::{Class, Micros, SessionId};
use crate::outbox::Mark;
use crate::policy::conflation::{self, Merged, Moment, Pace, Slot, Terms};
use crate::policy::slow_consumer::{self, Verdict};
use crate::wire::msgpack;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one session has beside plain subscriptions.
#[derive(Default)]
pub(super) struct Lanes {
    by_key: HashMap<FrameKey, Lane, ahash::RandomState>,
    /// Ticks in the spans of the coming flush that say what was merged into them.
    pub(super) dressed: Vec<Dressed>,
}

#[derive(Default)]
struct Lane {
    terms: Terms,
    pace: Pace,
    /// A tick is held until then.
    held: Option<Slot>,
    /// What has been merged since the last tick went, and is told with the next.
    merged: Merged,
    /// Number of the last tick of an `every` lane.
    last: Option<u64>,
    /// A tick of an `every` lane is missing.
    broken: bool,
}

/// A tick with its range, as this session alone gets it.
pub(super) struct Dressed {
    pub(super) key: FrameKey,
    pub(super) seq: u64,
    pub(super) bytes: Vec<u8>,
    merged: Merged,
}

/// What becomes of a tick for a taker with terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// As for everybody: a span, or a mark while behind.
    Plain,
    /// Nothing more to do: held, or copied.
    Done,
    /// The session must go.
    Evict(Eviction),
}

/// Held ticks of all sessions by the slot that they are due in.
#[derive(Default)]
pub(super) struct Calendar {
    due: BTreeSet<(Slot, u32, FrameKey)>,
}

impl Calendar {
    /// Held ticks.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// When the first of them is due.
    fn first(&self) -> Option<Slot> {
        self.due.first().map(|(slot, ..)| *slot)
    }

    /// Takes out what is due by `now`.
    fn take(&mut self, now: Slot) -> BTreeSet<(Slot, u32, FrameKey)> {
        let later = self.due.split_off(&(Slot(now.0 + 1), 0, FrameKey::MIN));
        std::mem::replace(&mut self.due, later)
    }
}

impl Lanes {
    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    fn terms(&self, key: FrameKey) -> Terms {
        self.by_key.get(&key).map_or(Terms::default(), |lane| lane.terms)
    }

    /// A tick has gone after having been marked: what was merged is told.
    pub(super) fn sent(&mut self, key: FrameKey, now: Moment) {
        if let Some(lane) = self.by_key.get_mut(&key) {
            lane.pace.sent(now);
            lane.merged = Merged::default();
        }
    }

    /// The marked tick with what was merged into it, if that is to be told.
    pub(super) fn dress(&self, key: FrameKey, mark: &Mark, newest: &NewestTable) -> Option<Vec<u8>> {
        let lane = self.by_key.get(&key).filter(|lane| lane.terms.range && *mark == Mark::Tick)?;
        lane.merged.range().map(|range| with_range(newest.due(key, mark), range))
    }
}

fn with_range(bytes: &[u8], range: (i64, i64)) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 18);
    msgpack::tick_with_range(&mut out, bytes, range);
    out
}

impl Connection {
    /// A marked tick has gone.
    pub(super) fn mark_sent(&mut self, key: FrameKey, newest: &NewestTable) {
        if let Some(lanes) = &mut self.lanes {
            lanes.sent(key, newest.now());
        }
    }

    /// The spans of the flush have been written or marked.
    pub(super) fn forget_dressed(&mut self) {
        if let Some(lanes) = &mut self.lanes {
            lanes.dressed.clear();
        }
    }

    /// Whether ticks of `key` may not be merged.
    pub(super) fn takes_every(&self, key: FrameKey) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.terms(key).every)
    }

    /// A tick is marked: one that was held is merged with it, and what it says of others is kept.
    pub(super) fn join_mark(
        &mut self,
        slot: u32,
        (key, seq): (FrameKey, u64),
        bytes: &[u8],
        newest: &mut NewestTable,
        sent: &mut Sent,
    ) {
        let Some(lanes) = &mut self.lanes else { return };
        let Some(lane) = lanes.by_key.get_mut(&key) else { return };
        release(lane, slot, key, newest, sent);
        if lane.terms.range {
            match lanes.dressed.iter().find(|d| d.key == key && d.seq == seq) {
                Some(dressed) => lane.merged.join(dressed.merged),
                None => lane.merged.add(msgpack::price(bytes)),
            }
        }
    }

    /// What becomes of a tick for this taker, which has terms or whose class is slowed down.
    pub(super) fn take(
        &mut self,
        slot: u32,
        frame: &Frame,
        bytes: &[u8],
        (imposed, lossless): (Option<Duration>, slow_consumer::Config),
        newest: &mut NewestTable,
        sent: &mut Sent,
    ) -> Take {
        let key = frame.key;
        let lanes = self.lanes.get_or_insert_default();
        let lane = lanes.by_key.entry(key).or_default();
        if lane.terms.every {
            if lane.broken || self.doomed {
                return Take::Done;
            }
            lane.broken = !conflation::follows(lane.last, frame.seq);
            if lane.broken {
                return Take::Evict(Eviction::Gap);
            }
            lane.last = Some(frame.seq);
            if !self.outbox.is_behind() {
                return Take::Plain;
            }
            return match self.outbox.push_every(key, bytes, false, lossless) {
                Verdict::Keep => Take::Done,
                Verdict::Full | Verdict::Stalled => {
                    lane.broken = true;
                    Take::Evict(Eviction::Overflow)
                }
            };
        }
        if self.outbox.is_marked(key) {
            self.join_mark(slot, (key, frame.seq), bytes, newest, sent);
            return Take::Plain;
        }
        let now = newest.now();
        match lane.pace.on_tick(now, lane.terms.interval_now(imposed)) {
            conflation::Verdict::Send => {
                lane.pace.sent(now);
                if self.outbox.is_behind() {
                    self.join_mark(slot, (key, frame.seq), bytes, newest, sent);
                } else if release(lane, slot, key, newest, sent) && lane.terms.range {
                    lane.merged.add(msgpack::price(bytes));
                    let merged = std::mem::take(&mut lane.merged);
                    if let Some(range) = merged.range() {
                        let bytes = with_range(bytes, range);
                        lanes.dressed.push(Dressed { key, seq: frame.seq, bytes, merged });
                    }
                }
                Take::Plain
            }
            conflation::Verdict::Hold(due) => {
                if lane.held.is_some() {
                    // The worker's copy has been renewed already.
                    sent.merged_by_rate += 1;
                } else {
                    lane.held = Some(due);
                    newest.calendar.due.insert((due, slot, key));
                    newest.hold(key, frame.seq, bytes);
                }
                if lane.terms.range {
                    lane.merged.add(msgpack::price(bytes));
                }
                Take::Done
            }
        }
    }
}

/// The held tick of a lane, if there is one, is merged into a newer one that goes instead.
fn release(lane: &mut Lane, slot: u32, key: FrameKey, newest: &mut NewestTable, sent: &mut Sent) -> bool {
    let Some(due) = lane.held.take() else { return false };
    newest.calendar.due.remove(&(due, slot, key));
    newest.release(key);
    sent.merged_by_rate += 1;
    true
}

impl Inner {
    /// The session begins to take `key` on these terms; `floor` is the last number it does not get.
    pub(super) fn begin_lane(&mut self, slot: u32, key: FrameKey, terms: Terms, floor: u64) {
        if terms.is_plain() {
            return;
        }
        let connection = self.slots[slot as usize].connection.as_mut().expect("an open session subscribes");
        let lane = Lane { terms, last: Some(floor), ..Lane::default() };
        connection.lanes.get_or_insert_default().by_key.insert(key, lane);
        self.index.set_special(key, slot, true);
    }

    /// The session leaves `key`: what is held of it is dropped.
    pub(super) fn end_lane(&mut self, slot: u32, key: FrameKey) {
        let Some(connection) = self.slots[slot as usize].connection.as_mut() else { return };
        let Some(lanes) = &mut connection.lanes else { return };
        if let Some(mut lane) = lanes.by_key.remove(&key)
            && lane.held.is_some()
        {
            release(&mut lane, slot, key, &mut self.newest, &mut Sent::default());
        }
        if lanes.by_key.is_empty() && lanes.dressed.is_empty() {
            connection.lanes = None;
        }
    }

    /// Puts held ticks where ticks go; each key's bytes are shared by all sessions that it is due to.
    /// `touch`: they go with the next flush; else the caller writes.
    fn send_held(&mut self, mut due: Vec<(FrameKey, u32)>, touch: bool) {
        due.sort_unstable();
        let now = self.newest.now();
        let mut batch = EncodedBatch::new(Micros(0), Instant::now()).of_kind(Kind::Held);
        for same in due.chunk_by(|a, b| a.0 == b.0) {
            let key = same[0].0;
            let kept = self.newest.kept.get(&key).expect("a held key is kept");
            batch.push(key, kept.seq, 0, |slab| slab.extend_from_slice(&kept.bytes));
        }
        let batch = Arc::new(batch);
        let number = self.batches.push(Arc::clone(&batch));
        let Inner { slots, newest, touched, sent, .. } = self;
        for (frame, same) in batch.frames.iter().zip(due.chunk_by(|a, b| a.0 == b.0)) {
            for &(key, slot) in same {
                let connection =
                    slots[slot as usize].connection.as_mut().expect("who leaves takes its held ticks along");
                let lanes = connection.lanes.as_mut().expect("a lane holds the tick");
                let lane = lanes.by_key.get_mut(&key).expect("a lane holds the tick");
                lane.held = None;
                if connection.outbox.is_behind() {
                    if !connection.outbox.mark(key) {
                        newest.release(key);
                        connection.merged_one(sent);
                    }
                    continue;
                }
                lane.pace.sent(now);
                let merged = std::mem::take(&mut lane.merged);
                if lane.terms.range
                    && let Some(range) = merged.range()
                {
                    let bytes = with_range(batch.bytes(frame), range);
                    lanes.dressed.push(Dressed { key, seq: frame.seq, bytes, merged });
                }
                connection.outbox.push_frame(number, frame.start, frame.end);
                newest.release(key);
                if touch && !std::mem::replace(&mut connection.touched, true) {
                    touched.push(connection.class, slot);
                }
            }
        }
    }
}

impl Worker {
    /// Waits for a batch, which is delivered, or for held ticks to fall due. False once ingest has stopped.
    pub(super) async fn more(&self, ticks: &mut TickReceiver) -> bool {
        let due = {
            let inner = self.inner.borrow();
            let first = [inner.newest.calendar.first(), inner.gates.first()].into_iter().flatten().min();
            first.map(|slot| inner.newest.begun + slot.starts())
        };
        let batch = match due {
            None => ticks.recv().await,
            Some(due) => tokio::select! {
                biased;
                batch = ticks.recv() => batch,
                () = tokio::time::sleep_until(due) => return true,
            },
        };
        batch.map(|batch| self.deliver(batch)).is_some()
    }

    /// Hands over the held ticks whose slot has begun.
    pub(super) fn send_due(&self) {
        self.open_gates();
        let mut inner = self.inner.borrow_mut();
        if let Some(first) = inner.newest.calendar.first() {
            let now = inner.newest.now().slot();
            if first <= now {
                let due = inner.newest.calendar.take(now);
                inner.send_held(due.into_iter().map(|(_, slot, key)| (key, slot)).collect(), true);
            }
        }
    }

    /// On what terms the session takes `key`.
    pub fn terms(&self, id: SessionId, key: FrameKey) -> Terms {
        let mut inner = self.inner.borrow_mut();
        inner.connection(id).and_then(|c| c.lanes.as_ref()).map_or(Terms::default(), |lanes| lanes.terms(key))
    }

    /// The session goes on taking `key`, on other terms. What was held goes at once.
    pub fn set_terms(self: &Rc<Self>, id: SessionId, key: FrameKey, terms: Terms) {
        let mut inner = self.inner.borrow_mut();
        if !inner.connection(id).is_some_and(|c| c.taken.contains(key)) {
            return;
        }
        self.flush_held(&mut inner, id.slot, |held| held == key);
        let lossless = self.config.lossless;
        let Inner { slots, newest, index, .. } = &mut *inner;
        let connection = slots[id.slot as usize].connection.as_mut().expect("found above");
        let mut full = false;
        if terms.every && !connection.takes_every(key) && connection.outbox.is_marked(key) {
            // What waits is older than all that will be copied.
            if let Some(mark) = connection.outbox.take_mark(key) {
                let snapshot = matches!(mark, Mark::Own(_));
                full = connection.outbox.push_every(key, newest.due(key, &mark), snapshot, lossless) != Verdict::Keep;
                if !snapshot {
                    newest.release(key);
                }
            }
        }
        index.set_special(key, id.slot, !terms.is_plain());
        if !terms.is_plain() {
            let lane = connection.lanes.get_or_insert_default().by_key.entry(key).or_default();
            let goes_on = lane.terms.every && terms.every;
            (lane.last, lane.terms) = (lane.last.filter(|_| goes_on), terms);
            if !terms.range {
                lane.merged = Merged::default();
            }
        } else if let Some(lanes) = &mut connection.lanes {
            lanes.by_key.remove(&key);
        }
        if full {
            self.evict(&mut inner, id.slot, Eviction::Overflow);
        }
    }

    /// Overload: `latest` subscriptions of sessions of `class` get at most one tick per instrument, mode and `interval`; `None` ends it,
    /// what lanes held goes at once, what the gates hold when it is due. Longer intervals that clients asked for hold on; `every` is not touched.
    pub fn set_conflation_interval(self: &Rc<Self>, class: Class, interval: Option<Duration>) {
        let mut inner = self.inner.borrow_mut();
        if std::mem::replace(&mut inner.imposed[class as usize], interval) == interval || interval.is_some() {
            return;
        }
        for slot in 0..inner.slots.len() as u32 {
            let connection = inner.slots[slot as usize].connection.as_ref();
            // By what holds now: a session may have come here from another class.
            let free = connection.filter(|c| inner.imposed[c.class as usize].is_none());
            let Some(lanes) = free.and_then(|c| c.lanes.as_ref()) else { continue };
            let imposed: Vec<FrameKey> =
                lanes.by_key.iter().filter(|(_, lane)| lane.terms.is_plain()).map(|(key, _)| *key).collect();
            self.flush_held(&mut inner, slot, |key| imposed.contains(&key));
            imposed.into_iter().for_each(|key| inner.end_lane(slot, key));
        }
    }

    /// Sends what one session holds of these keys now.
    fn flush_held(self: &Rc<Self>, inner: &mut Inner, slot: u32, which: impl Fn(FrameKey) -> bool) {
        let connection = inner.slots[slot as usize].connection.as_ref();
        let Some(lanes) = connection.and_then(|c| c.lanes.as_ref()) else { return };
        let held = lanes.by_key.iter().filter_map(|(key, lane)| Some((lane.held?, slot, *key)));
        let due: Vec<_> = held.filter(|(.., key)| which(*key)).collect();
        if due.is_empty() {
            return;
        }
        for entry in &due {
            inner.newest.calendar.due.remove(entry);
        }
        inner.send_held(due.into_iter().map(|(_, slot, key)| (key, slot)).collect(), false);
        self.write(inner, slot);
        inner.release_written();
    }

    /// Ticks were lost before they got a number, nobody knows of what: whoever was promised every tick must go.
    pub fn ticks_lost(&self) {
        let mut inner = self.inner.borrow_mut();
        for slot in 0..inner.slots.len() as u32 {
            let lanes = inner.slots[slot as usize].connection.as_ref().and_then(|c| c.lanes.as_ref());
            if lanes.is_some_and(|lanes| lanes.by_key.values().any(|lane| lane.terms.every)) {
                self.evict(&mut inner, slot, Eviction::Gap);
            }
        }
    }
}
