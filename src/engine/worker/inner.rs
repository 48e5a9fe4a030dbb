//! What a worker keeps in step when a session enters or leaves a key: index, lanes, snapshots, batches.
//!
//! Tests: `tests.rs`.

use super::Inner;
use crate::engine::batch::{EncodedBatch, FrameKey};
use crate::engine::index::Taker;
use crate::model::SessionId;
use crate::policy::conflation::Terms;
use crate::policy::slow_consumer::{self, Verdict};
use std::sync::Arc;

impl Inner {
    pub(super) fn connection(&mut self, id: SessionId) -> Option<&mut super::Connection> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.connection.as_deref_mut() } else { None }
    }

    pub(super) fn enter(&mut self, slot: u32, key: FrameKey, floor: u64, terms: Terms) {
        let connection = self.slots[slot as usize].connection.as_mut().expect("an open session subscribes");
        if self.index.enter(key, Taker { slot, special: false, floor }, &mut connection.taken) {
            self.subscriptions += 1;
            self.begin_lane(slot, key, terms, floor);
        }
    }

    pub(super) fn leave(&mut self, slot: u32, key: FrameKey) -> Option<bool> {
        self.end_lane(slot, key);
        let connection = self.slots[slot as usize].connection.as_mut()?;
        if connection.outbox.unmark(key) {
            self.newest.release(key);
        }
        let gone = self.index.leave(key, slot, &mut connection.taken);
        self.subscriptions -= usize::from(gone.is_some());
        if gone == Some(true) {
            self.gates.forget(key);
        }
        gone
    }

    /// Snapshots travel like the ticks that follow them: merged with newer ones if the socket is full, or in the lossless lane. False if that
    /// has no room.
    pub(super) fn queue_snapshots(
        &mut self,
        slot: u32,
        snapshots: EncodedBatch,
        lossless: slow_consumer::Config,
    ) -> bool {
        if snapshots.frames.is_empty() {
            return true;
        }
        let snapshots = Arc::new(snapshots);
        let number = self.batches.push(Arc::clone(&snapshots));
        let connection = self.slots[slot as usize].connection.as_mut().expect("an open session subscribes");
        for frame in &snapshots.frames {
            if !connection.outbox.is_behind() {
                connection.outbox.push_frame(number, frame.start, frame.end);
            } else if !connection.takes_every(frame.key) {
                connection.outbox.mark_snapshot(frame.key, snapshots.bytes(frame));
            } else if connection.outbox.push_every(frame.key, snapshots.bytes(frame), true, lossless) != Verdict::Keep {
                return false;
            }
        }
        true
    }

    /// Drops the batches that were written: all of them once nobody is touched, for then nobody's spans refer to one.
    pub(super) fn release_written(&mut self) {
        if self.touched.is_empty() {
            let next = self.batches.next();
            let _ = self.batches.release(next);
        }
    }
}
