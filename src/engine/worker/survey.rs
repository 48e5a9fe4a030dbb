//! A worker's look at its own sessions for the X-ray: a few hundred slots at a time.
//!
//! In: a [`Survey`] under way. Out: the same, further on. Tests: `tests.rs`, `tests/xray.rs`.

use super::tally::Tally;
use super::{Connection, Worker};
use crate::engine::xray::{Figures, Survey};
use crate::model::SessionId;
use std::time::{Duration, Instant};

/// A session whose oldest unsent tick is older than this is lagging.
const LAGGING_AFTER: Duration = Duration::from_secs(1);
/// Slots looked at before ticks get their turn. Each may cost a few cache misses, so this is some tens of µs.
const SLOTS_AT_ONCE: usize = 256;

impl Worker {
    /// Looks at the next sessions from slot `from` on; where to go on, if there are more.
    pub fn survey(&self, survey: &mut Survey, from: usize) -> Option<usize> {
        let inner = self.inner.borrow();
        let next = from + SLOTS_AT_ONCE;
        for (held, slot) in inner.slots.iter().zip(0..).take(next).skip(from) {
            let Some(connection) = held.connection.as_ref().filter(|c| !c.doomed) else { continue };
            let id = SessionId { worker: self.config.id, slot, generation: held.generation };
            survey.offer(connection.figures(id, survey.now), connection.is_lagging(survey.now));
        }
        (next < inner.slots.len()).then_some(next)
    }

    /// How late the worker last came round.
    pub fn late_by(&self) -> Duration {
        self.late_by.get()
    }
}

impl Connection {
    /// Whether its oldest unsent tick is older than 1 s.
    pub(super) fn is_lagging(&self, now: Instant) -> bool {
        let since = self.outbox.behind_since().filter(|_| self.outbox.has_ticks());
        since.is_some_and(|since| now.saturating_duration_since(since) > LAGGING_AFTER)
    }

    fn figures(&self, id: SessionId, now: Instant) -> Figures {
        let lag = self.outbox.behind_since().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let Tally { merged, frames, bytes, .. } = self.tally;
        Figures {
            id,
            format: self.format,
            class: self.class,
            lag,
            outbox_bytes: self.outbox.bytes(),
            merged,
            sent_frames: frames,
            sent_bytes: bytes,
        }
    }
}
