//! Ticks that overload holds back for a whole worker, before they meet a session.
//!
//! In: ticks while every class of session here is slowed down. Out: the newest of each key, once per interval. Cost of a tick held back: one
//! look-up and a pass over its takers' floors, where taking it to each of them costs a hundred times that: what slows clients down must
//! not cost more than what it saves. Promises: order per key; what it holds is one frame a key; a key that somebody takes on terms of his
//! own is never held. Longer intervals of single classes are the lanes' business. Tests: `conflation_tests.rs`, `tests/overload.rs`.

use super::Worker;
use crate::engine::batch::{EncodedBatch, Frame, FrameKey, Kind};
use crate::engine::index::Taker;
use crate::model::{Class, Micros};
use crate::policy::conflation::{Moment, Pace, Slot, Verdict};
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All keys of one worker.
#[derive(Default)]
pub(super) struct Gates {
    by_key: HashMap<FrameKey, Gate, ahash::RandomState>,
    due: BTreeSet<(Slot, FrameKey)>,
    /// Sessions of each class.
    members: [usize; 3],
}

#[derive(Default)]
struct Gate {
    pace: Pace,
    waiting: Option<Waiting>,
}

/// The newest tick of a key, which nobody has got yet.
struct Waiting {
    seq: u64,
    bytes: Vec<u8>,
    due: Slot,
}

impl Gates {
    /// A session has come.
    pub(super) fn join(&mut self, class: Class) {
        self.members[class as usize] += 1;
    }

    /// A session has gone.
    pub(super) fn part(&mut self, class: Class) {
        self.members[class as usize] -= 1;
    }

    /// The shortest interval that is imposed on anybody here; `None` when somebody is not slowed down at all.
    pub(super) fn interval(&self, imposed: &[Option<Duration>; 3]) -> Option<Duration> {
        let here = imposed.iter().zip(self.members).filter(|(_, members)| *members > 0).map(|(interval, _)| *interval);
        here.min().flatten()
    }

    /// Whether a tick needs no look here.
    pub(super) fn is_open(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether the tick is held back. What was held before is merged into it: `merged` counts, for each taker that would have got it.
    pub(super) fn holds(
        &mut self,
        frame: &Frame,
        bytes: &[u8],
        takers: &[Taker],
        (now, interval): (Moment, Option<Duration>),
        merged: &mut u64,
    ) -> bool {
        let interval = interval.filter(|_| !takers.iter().any(|taker| taker.special));
        let gate = self.by_key.entry(frame.key).or_default();
        let mut replace = |waiting: &Waiting| *merged += takers.iter().filter(|t| t.floor < waiting.seq).count() as u64;
        match (gate.pace.on_tick(now, interval), &mut gate.waiting) {
            (Verdict::Hold(_), Some(waiting)) => {
                replace(waiting);
                waiting.seq = frame.seq;
                waiting.bytes.clear();
                waiting.bytes.extend_from_slice(bytes);
                true
            }
            (Verdict::Hold(due), None) => {
                gate.waiting = Some(Waiting { seq: frame.seq, bytes: bytes.to_vec(), due });
                self.due.insert((due, frame.key));
                true
            }
            (Verdict::Send, waiting) => {
                if let Some(waiting) = waiting.take() {
                    replace(&waiting);
                    self.due.remove(&(waiting.due, frame.key));
                }
                gate.pace.sent(now);
                if interval.is_none() {
                    self.by_key.remove(&frame.key);
                }
                false
            }
        }
    }

    /// Nobody takes `key` any more.
    pub(super) fn forget(&mut self, key: FrameKey) {
        if let Some(waiting) = self.by_key.remove(&key).and_then(|gate| gate.waiting) {
            self.due.remove(&(waiting.due, key));
        }
    }

    /// When the first tick is due.
    pub(super) fn first(&self) -> Option<Slot> {
        self.due.first().map(|(slot, _)| *slot)
    }

    /// What is due by `now`, each key once.
    fn take_due(&mut self, now: Moment) -> EncodedBatch {
        let mut batch = EncodedBatch::new(Micros(0), Instant::now()).of_kind(Kind::Held);
        while let Some((slot, key)) = self.due.first().copied().filter(|(slot, _)| *slot <= now.slot()) {
            self.due.remove(&(slot, key));
            let Some(gate) = self.by_key.get_mut(&key) else { continue };
            let Some(waiting) = gate.waiting.take() else { continue };
            gate.pace.sent(now);
            batch.push(key, waiting.seq, 0, |slab| slab.extend_from_slice(&waiting.bytes));
        }
        batch
    }
}

impl Worker {
    /// Hands over what has been held back for long enough.
    pub(super) fn open_gates(&self) {
        let mut inner = self.inner.borrow_mut();
        let now = inner.newest.now();
        if inner.gates.first().is_none_or(|first| first > now.slot()) {
            return;
        }
        let batch = Arc::new(inner.gates.take_due(now));
        let number = inner.batches.push(Arc::clone(&batch));
        let mut evict = Vec::new();
        for frame in &batch.frames {
            self.hand_out(&mut inner, number, &batch, frame, &mut evict);
        }
        for (slot, why) in evict {
            self.evict(&mut inner, slot, why);
        }
    }
}
