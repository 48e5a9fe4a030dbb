//! A worker's look at its own sessions for the X-ray: a few hundred slots at a time.
//!
//! In: a [`Survey`] under way. Out: the same, further on. Tests: below, `tests/xray.rs`.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::metrics::EngineMetrics;
    use crate::engine::transport::{Script, Transport};
    use crate::engine::worker::WorkerConfig;
    use crate::engine::xray::{Ask, By};
    use crate::model::{Format, WorkerId};
    use crate::policy::slow_consumer;
    use bytes::Bytes;
    use std::rc::Rc;

    #[tokio::test(flavor = "local")]
    async fn a_survey_goes_on_where_it_stopped_passes_over_who_is_leaving_and_finds_who_is_behind() {
        let config = WorkerConfig {
            id: WorkerId(3),
            flush_max_delay: Duration::from_millis(1),
            outbox_bytes_total: 1 << 20,
            workers: 1,
            lossless: slow_consumer::Config { bytes_max: 1 << 20, stall_max: Duration::from_secs(10) },
        };
        let worker = Worker::new(config, EngineMetrics::register(), Default::default(), Default::default());
        let open = |_| worker.open(Rc::new(Transport::Scripted(Script::default())), Format::Json);
        let ids: Vec<SessionId> = (0..2 * SLOTS_AT_ONCE + 1).map(open).collect();
        // Sockets that take nothing: what is sent to these is left over.
        for (slot, len) in [(SLOTS_AT_ONCE, 10), (7, 20), (9, 30)] {
            worker.send(ids[slot], Bytes::from(vec![0; len]));
        }
        worker.goodbye(ids[9], None, |_| {});
        worker.remove(ids[11], |_| {});
        let mut survey = Survey::new(Ask { by: By::Bytes, top: 3 }, Instant::now());
        let mut stops = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            stops.push(from);
            next = worker.survey(&mut survey, from);
        }
        assert_eq!(stops, [0, SLOTS_AT_ONCE, 2 * SLOTS_AT_ONCE]);
        let (total, lagging, first) = survey.finish();
        assert_eq!((total, lagging), (ids.len() - 2, 0), "nobody has had ticks to send for a second");
        let found: Vec<_> = first.iter().map(|one| (one.id, one.outbox_bytes)).collect();
        assert_eq!(found, [(ids[7], 20), (ids[SLOTS_AT_ONCE], 10), (ids[0], 0)]);
    }
}
