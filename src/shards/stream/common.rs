//! What the stream tables of all shards share: budgets, ids and scales, as counters without a lock. Tests: `tests.rs`, `laws.rs`.

use crate::model::StreamId;
use crate::shards::shard::Config;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// More digits than an i64 can hold make no sense.
pub(super) const SCALE_MAX: u8 = 18;

/// What all shards share: the budgets, the ids, the scales. No lock: three counters.
pub(in crate::shards) struct Common {
    pub(super) records: AtomicUsize,
    pub(super) records_max: usize,
    pub(super) bytes: AtomicUsize,
    pub(super) bytes_max: usize,
    pub(super) stream_next: AtomicU32,
    pub(super) scale: Vec<(String, u8)>,
    pub(super) seed: Option<u64>,
}

impl Common {
    pub(in crate::shards) fn new(config: &Config) -> Self {
        Common {
            records: AtomicUsize::new(0),
            records_max: config.instruments_max,
            bytes: AtomicUsize::new(0),
            bytes_max: config.last_value_bytes_max,
            stream_next: AtomicU32::new(1),
            scale: config.scale.clone(),
            seed: config.seed,
        }
    }

    /// Records and bytes in use.
    pub(in crate::shards) fn used(&self) -> (usize, usize) {
        (self.records.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Adds `more` to `used` unless that would exceed `max`.
    pub(super) fn take(used: &AtomicUsize, more: usize, max: usize) -> bool {
        used.fetch_update(Relaxed, Relaxed, |n| n.checked_add(more).filter(|n| *n <= max)).is_ok()
    }

    /// A fresh id; `None` when 4 billion have been used in this epoch.
    pub(super) fn next_stream(&self) -> Option<StreamId> {
        self.stream_next.fetch_update(Relaxed, Relaxed, |n| n.checked_add(1)).ok().map(StreamId)
    }

    pub(super) fn scale_of(&self, venue: &str) -> u8 {
        let overridden = self.scale.iter().find(|(v, _)| v == venue).map(|(_, digits)| *digits);
        overridden.unwrap_or_else(|| default_scale(venue)).min(SCALE_MAX)
    }
}

/// Digits after the point by venue (CONTRACTS 3.2).
pub const fn default_scale(venue: &str) -> u8 {
    match venue.as_bytes() {
        b"CDS" | b"BCD" | b"NCO" | b"GLOBAL_INDEX" => 4,
        b"CRYPTO" => 8,
        _ => 2,
    }
}
