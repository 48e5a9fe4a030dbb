//! Last values as frames: what a subscription begins with, and what one that moves to another broker goes on with.
//!
//! In: the last value that an activation read under the shard lock. Out: one frame of the session's format, marked as a snapshot, or
//! nothing when the value cannot serve the key. Whether one is due is the caller's decision. Tests: `tests/snapshots.rs`.

use super::Sessions;
use crate::engine::FrameKey;
use crate::engine::encode::{self, Encoded};
use crate::engine::normalise::{self, Unit};
use crate::model::{InstrumentRef, Micros};
use crate::shards::LastValue;

impl Sessions {
    /// Whether the value is no older than `fanout.snapshot_max_age`.
    pub(super) fn is_young(&self, last: &LastValue) -> bool {
        let age = Micros::now().0.saturating_sub(last.t_recv.0);
        u128::from(age) <= self.config.snapshot_max_age.as_micros()
    }

    /// The value as the key's takers see it, under the broker name `label`.
    pub(super) fn snapshot(
        &self,
        last: &LastValue,
        instrument: InstrumentRef<'_>,
        key: FrameKey,
        scale: u8,
        label: &str,
    ) -> Option<Vec<u8>> {
        let unit = Unit { broker: last.broker.map(|id| self.brokers.name(id)), venue: instrument.venue };
        let payload = normalise::decode(&last.payload, last.encoding, unit).ok()?;
        let tick = encode::Tick {
            instrument,
            mode: last.tick_mode,
            payload: &payload,
            t_recv: last.t_recv,
            scale,
            pass_through: self.config.pass_through,
        };
        let mut frame = Vec::with_capacity(last.payload.len() + 128);
        (tick.encode(&mut frame, key, last.seq, label, true) != Encoded::Nothing).then_some(frame)
    }
}
