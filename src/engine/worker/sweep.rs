//! A worker's housekeeping: who has made no progress for too long, who holds too much, and what that adds up to.
//!
//! In: the time. Out: evictions and sums. Cost: a look at every session that is behind. Tests: `tests.rs`.

use super::{Eviction, Worker};
use crate::policy::slow_consumer::Verdict;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Worker {
    /// Housekeeping, called a few times a second: stalled lossless lanes, the total of all outboxes, gauges.
    pub fn sweep(self: &Rc<Self>, now: Instant, late_by: Duration) {
        self.metrics.loop_lag.record(late_by.as_secs_f64());
        self.stats.load.swept(late_by);
        self.late_by.set(late_by);
        let mut inner = self.inner.borrow_mut();
        self.tell_counters(&mut inner.sent);
        // What sessions given up still hold is on its way out: counting it would cost others their place.
        let (mut bytes, mut claimed, mut lagging) = (0, 0, 0);
        let (mut stalled, mut waiting_at) = (Vec::new(), Vec::new());
        for (slot, held) in inner.slots.iter().enumerate() {
            let Some(connection) = held.connection.as_ref().filter(|c| c.outbox.is_behind()) else { continue };
            let waiting = connection.outbox.bytes();
            bytes += waiting;
            lagging += usize::from(connection.is_lagging(now));
            if connection.doomed {
                continue;
            }
            claimed += waiting;
            if connection.outbox.lossless_verdict(self.config.lossless, now) == Verdict::Stalled {
                stalled.push((slot as u32, Eviction::Stalled));
            } else if waiting > 0 {
                waiting_at.push((connection.class, waiting, slot as u32));
            }
        }
        self.stats.outbox_bytes.store(bytes, Ordering::Relaxed);
        self.stats.lagging.store(lagging, Ordering::Relaxed);
        // While every taker is behind nothing is flushed, and merged ticks would go untold just then.
        self.tell_counters(&mut inner.sent);
        let change = claimed.wrapping_sub(std::mem::replace(&mut inner.claimed, claimed));
        let total = self.outbox_total.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        // Only a worker above its share sheds, its largest first; when the total is too large there is such a worker.
        let share = self.config.outbox_bytes_total / self.config.workers.max(1);
        let mut excess = total.saturating_sub(self.config.outbox_bytes_total).min(claimed.saturating_sub(share));
        // The lowest class first, and of one class the largest.
        waiting_at.sort_unstable_by_key(|(class, waiting, _)| std::cmp::Reverse((*class, *waiting)));
        for (_, waiting, slot) in waiting_at {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(waiting);
            stalled.push((slot, Eviction::Shed));
        }
        for (slot, why) in stalled {
            self.evict(&mut inner, slot, why);
        }
    }
}
