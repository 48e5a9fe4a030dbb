//! What one session has got, for the line at its end and for whoever asks. Counted where the worker's own counters are, as their
//! difference around one session's write. Tests: `tests.rs`.

use super::Worker;
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

/// Counts since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ticks written.
    pub ticks: u64,
    /// Ticks replaced by a newer one because the session was behind or over its rate; not those that overload merged for all at once.
    pub merged: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Tally {
    /// What `sent` says of one format, for the difference that [`Self::add`] takes.
    pub(super) fn of(sent: &Sent, format: Format) -> Self {
        let format = format as usize;
        Tally { ticks: sent.ticks[format], merged: sent.merged + sent.merged_by_rate, bytes: sent.bytes[format] }
    }

    /// Adds what came between two readings.
    pub(super) fn add(&mut self, before: Tally, after: Tally) {
        self.ticks += after.ticks - before.ticks;
        self.merged += after.merged - before.merged;
        self.bytes += after.bytes - before.bytes;
    }
}

impl Worker {
    /// What the session has got so far; nothing once it is gone.
    pub fn tally(&self, id: SessionId) -> Tally {
        self.inner.borrow_mut().connection(id).map(|connection| connection.tally).unwrap_or_default()
    }
}
