//! What a worker holds on to between a tick's arrival and its writing: batches, and the newest frame of keys somebody is behind on.
//!
//! Promise: a batch is dropped once no outbox refers to it, and a kept frame with its last mark; neither grows with the number
//! of ticks, only with what is still to be written.

use super::NO_WORKER;
use super::lanes::Calendar;
use crate::engine::batch::{EncodedBatch, FrameKey};
use crate::outbox::Mark;
use crate::policy::conflation::Moment;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant as StdInstant;
use tokio::time::Instant;

/// Batches whose frames stand in some session's spans, numbered from the first the worker ever saw.
#[derive(Default)]
pub(super) struct Batches {
    pub(super) held: VecDeque<HeldBatch>,
    pub(super) first: u64,
}

/// One of them.
pub(super) struct HeldBatch {
    pub(super) batch: Arc<EncodedBatch>,
    /// When its last frame stood in the outboxes; of ticks that came from ingest.
    pub(super) queued_at: StdInstant,
}

impl Batches {
    pub(super) fn push(&mut self, batch: Arc<EncodedBatch>) -> u64 {
        let queued_at = batch.encoded_at;
        self.held.push_back(HeldBatch { batch, queued_at });
        self.next() - 1
    }

    pub(super) fn get(&self, number: u64) -> &EncodedBatch {
        &self.held[(number - self.first) as usize].batch
    }

    /// The newest batch stands in the outboxes.
    pub(super) fn queued(&mut self, now: StdInstant) {
        if let Some(newest) = self.held.back_mut() {
            newest.queued_at = now;
        }
    }

    /// The number that the next batch will have.
    pub(super) fn next(&self) -> u64 {
        self.first + self.held.len() as u64
    }

    /// Drops all batches before `number`. When the newest of them that came from ingest was read from the bus.
    pub(super) fn release(&mut self, number: u64) -> Option<StdInstant> {
        let mut newest = None;
        while self.first < number
            && let Some(HeldBatch { batch, .. }) = self.held.pop_front()
        {
            self.first += 1;
            newest = (batch.workers != NO_WORKER).then_some(batch.read_at).or(newest);
        }
        newest
    }
}

/// The worker's own copy of the newest frame of each key on which some session is behind, or which it has held back for one.
pub(super) struct NewestTable {
    pub(super) kept: HashMap<FrameKey, Newest, ahash::RandomState>,
    /// When what is held back falls due.
    pub(super) calendar: Calendar,
    /// Moments count from here.
    pub(super) begun: Instant,
}

impl Default for NewestTable {
    fn default() -> Self {
        NewestTable { kept: HashMap::default(), calendar: Calendar::default(), begun: Instant::now() }
    }
}

pub(super) struct Newest {
    pub(super) seq: u64,
    pub(super) bytes: Vec<u8>,
    /// Sessions with a mark on the key, or for which it is held.
    holders: u32,
}

impl NewestTable {
    /// The present moment.
    pub(super) fn now(&self) -> Moment {
        Moment(self.begun.elapsed().as_micros() as u64)
    }

    /// A session has marked `key`, whose tick `seq` has these bytes.
    pub(super) fn hold(&mut self, key: FrameKey, seq: u64, bytes: &[u8]) {
        let kept = self.kept.entry(key).or_insert_with(|| Newest { seq: 0, bytes: Vec::new(), holders: 0 });
        kept.holders += 1;
        kept.renew(seq, bytes);
    }

    /// A newer frame of a key, if anybody is behind on it.
    pub(super) fn renew(&mut self, key: FrameKey, seq: u64, bytes: &[u8]) {
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.renew(seq, bytes);
        }
    }

    /// The bytes that a mark stands for.
    pub(super) fn due<'a>(&'a self, key: FrameKey, mark: &'a Mark) -> &'a [u8] {
        match mark {
            Mark::Tick => &self.kept.get(&key).expect("a marked key is kept").bytes,
            Mark::Own(snapshot) => snapshot,
        }
    }

    /// A mark on `key` is gone.
    pub(super) fn release(&mut self, key: FrameKey) {
        if let hashbrown::hash_map::Entry::Occupied(mut kept) = self.kept.entry(key) {
            kept.get_mut().holders -= 1;
            if kept.get().holders == 0 {
                kept.remove();
            }
        }
    }
}

impl Newest {
    pub(super) fn renew(&mut self, seq: u64, bytes: &[u8]) {
        if seq >= self.seq || self.bytes.is_empty() {
            self.seq = seq;
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
        }
    }
}
