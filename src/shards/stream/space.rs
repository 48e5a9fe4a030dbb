//! Room in a stream table: making, evicting and freeing records, and the list that says who goes first.
//!
//! Promises: records and bytes are counted over all shards before they are used, so neither limit is ever exceeded; only what
//! nobody pins nor wants is evicted, least recently ticked first. Cost: O(1) but for the evictions that a tick needs.

use super::{BUFFER_STEP, Common, NIL, Record, Streams};
use crate::model::{InstrumentRef, ScopeId};
use smallvec::SmallVec;
use std::sync::atomic::Ordering::Relaxed;

impl Streams {
    /// A new record, newest in the list; takes the place of the oldest when the limit is reached.
    pub(super) fn create(&mut self, scope: ScopeId, instrument: InstrumentRef<'_>) -> Option<u32> {
        if !instrument.is_acceptable() {
            return None;
        }
        while !Common::take(&self.common.records, 1, self.common.records_max) {
            self.evict_oldest(NIL)?;
        }
        let record = Record::new(scope, instrument, self.common.scale_of(instrument.venue));
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = record;
                at
            }
            None => {
                self.slots.push(record);
                self.slots.len() as u32 - 1
            }
        };
        let hash = self.hasher.hash_one((scope, instrument));
        let rehash = |at: &u32| {
            let record = &self.slots[*at as usize];
            self.hasher.hash_one((record.scope, record.name()))
        };
        self.by_name.insert_unique(hash, at, rehash);
        self.usage.records += 1;
        self.link_newest(at);
        Some(at)
    }

    /// Grows one value's buffer to hold `len` bytes, evicting others while the budget is spent. Whether it fits now.
    pub(super) fn make_room(&mut self, at: u32, value: usize, len: usize) -> bool {
        let held = self.slots[at as usize].values[value].bytes.capacity();
        if len <= held {
            return true;
        }
        let more = len.next_multiple_of(BUFFER_STEP) - held;
        while !Common::take(&self.common.bytes, more, self.common.bytes_max) {
            if self.evict_oldest(at).is_none() {
                return false;
            }
        }
        // A fresh buffer rather than a grown one: the old bytes are about to be overwritten.
        let fresh = Vec::with_capacity(held + more);
        debug_assert_eq!(fresh.capacity(), held + more, "with_capacity of bytes is exact");
        self.slots[at as usize].values[value].bytes = fresh;
        self.usage.bytes += more;
        true
    }

    /// Removes the least recently ticked record that nobody pins nor wants, but never `except`.
    pub(super) fn evict_oldest(&mut self, except: u32) -> Option<()> {
        let at = self.oldest;
        if at == NIL || at == except {
            return None;
        }
        self.remove(at);
        self.usage.evicted += 1;
        Some(())
    }

    /// Removes an evictable record and all its memory but the slot itself.
    pub(super) fn remove(&mut self, at: u32) {
        self.unlink(at);
        let record = &self.slots[at as usize];
        debug_assert!(record.is_evictable(), "only what nobody pins nor wants is removed");
        let hash = self.hasher.hash_one((record.scope, record.name()));
        if let Ok(entry) = self.by_name.find_entry(hash, |held| *held == at) {
            entry.remove();
        }
        let record = &mut self.slots[at as usize];
        if let Some(stream) = record.stream.take() {
            self.by_id.remove(&stream);
        }
        let freed = record.bytes();
        record.instrument = None;
        record.values.iter_mut().for_each(|v| v.bytes = Vec::new());
        record.wanted = SmallVec::new();
        self.free.push(at);
        self.usage.records -= 1;
        self.common.records.fetch_sub(1, Relaxed);
        self.give_back(freed);
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.usage.bytes -= bytes;
        self.common.bytes.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn link_newest(&mut self, at: u32) {
        let before = self.newest;
        let record = &mut self.slots[at as usize];
        (record.older, record.newer) = (before, NIL);
        match before {
            NIL => self.oldest = at,
            before => self.slots[before as usize].newer = at,
        }
        self.newest = at;
    }

    pub(super) fn unlink(&mut self, at: u32) {
        let Record { older, newer, .. } = self.slots[at as usize];
        match older {
            NIL => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
    }
}
