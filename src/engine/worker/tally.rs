//! What was written: since the worker's counters were last told, and to each session since it came.
//!
//! Cost: three additions a write, one a merged tick. Tests: `tests/logs.rs`.

use super::{Connection, Worker};
use crate::model::{Format, SessionId};

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
    /// Ticks, frames and bytes of one format.
    pub(super) fn of(&self, format: Format) -> [u64; 3] {
        let format = format as usize;
        [self.ticks[format], self.frames[format], self.bytes[format]]
    }
}

/// What has become of one session's ticks so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) merged: u64,
    pub(super) ticks: u64,
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
    pub(super) fn tally(&mut self, before: [u64; 3], sent: &Sent) {
        let now = sent.of(self.format);
        self.tally.ticks += now[0] - before[0];
        self.tally.frames += now[1] - before[1];
        self.tally.bytes += now[2] - before[2];
    }
}

impl Worker {
    /// What a session that is still open has got: ticks, ticks merged because it was behind, bytes.
    pub fn written(&self, id: SessionId) -> (u64, u64, u64) {
        let mut inner = self.inner.borrow_mut();
        inner.connection(id).map_or((0, 0, 0), |c| (c.tally.ticks, c.tally.merged, c.tally.bytes))
    }
}
