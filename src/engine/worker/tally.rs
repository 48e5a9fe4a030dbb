//! What was written: since the worker's counters were last told, and to each session since it came.
//!
//! Cost: two additions a write, one a merged tick. Tests: `tests.rs`.

use super::Connection;
use crate::model::Format;

/// What was written since the counters were last told, by format.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) ticks: [u64; 2],
    pub(super) frames: [u64; 2],
    pub(super) bytes: [u64; 2],
    pub(super) merged: u64,
    pub(super) merged_by_rate: u64,
}

impl Sent {
    /// Frames and bytes of one format.
    pub(super) fn of(&self, format: Format) -> (u64, u64) {
        (self.frames[format as usize], self.bytes[format as usize])
    }
}

/// What has become of one session's ticks so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) merged: u64,
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Connection {
    /// A tick gave way to a newer one because the session is behind.
    pub(super) fn merged_one(&mut self, sent: &mut Sent) {
        sent.merged += 1;
        self.tally.merged += 1;
    }

    /// Adds what one write has added to the worker's counters, which stood at `before`.
    pub(super) fn tally(&mut self, before: (u64, u64), sent: &Sent) {
        let (frames, bytes) = sent.of(self.format);
        self.tally.frames += frames - before.0;
        self.tally.bytes += bytes - before.1;
    }
}
