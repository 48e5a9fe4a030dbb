//! Who looks whether the server is overloaded: gathers the facts, lets `policy/overload` judge, and tells everybody.
//!
//! Beside the auditor on the upkeep thread, but a task of its own, since the auditor waits for workers. The level goes out through
//! one atomic ([`SharedLevel`]); workers and the front door read it. Tests: `tests/overload.rs`.

use crate::engine::metrics::WorkerStats;
use crate::model::{ByteBudget, Level, SharedLevel};
use crate::policy::overload::{Change, Facts, LOOK, Overload};
use metrics::{Gauge, describe_gauge, gauge};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// Facts in place of the real ones, for tests: no load on a clock.
#[derive(Clone)]
pub struct ForcedFacts {
    /// Called at each look.
    pub facts: Arc<dyn Fn() -> Facts + Send + Sync>,
    /// Between two looks.
    pub every: Duration,
}

/// The metric.
pub(super) struct OverloadGauge(Gauge);

impl OverloadGauge {
    /// Makes the handle with the current recorder.
    pub(super) fn register() -> Self {
        describe_gauge!(
            "tickcast_overload_level",
            "0 normal, 1 longer pacing, 2 ticks merge to a lower rate, 3 no new subscriptions of class low, 4 no new sessions"
        );
        let gauge = gauge!("tickcast_overload_level");
        gauge.set(0.0);
        OverloadGauge(gauge)
    }
}

/// What is looked at, and who is told.
pub(super) struct OverloadWatch {
    pub(super) workers: Vec<Arc<WorkerStats>>,
    pub(super) sources: Arc<ByteBudget>,
    pub(super) outbox_bytes_total: usize,
    pub(super) level: Arc<SharedLevel>,
    pub(super) gauge: OverloadGauge,
    pub(super) forced: Option<ForcedFacts>,
}

impl OverloadWatch {
    /// Looks for ever; its thread drops it at the end.
    pub(super) async fn run(self) {
        let mut overload = Overload::default();
        let mut looks = tokio::time::interval(self.forced.as_ref().map_or(LOOK, |forced| forced.every));
        // A machine that was asleep has had one look's time, not many.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut delays = vec![Duration::ZERO; self.workers.len()];
        let mut last = Instant::now();
        loop {
            looks.tick().await;
            let since = last.elapsed();
            last = Instant::now();
            let facts = match &self.forced {
                Some(forced) => (forced.facts)(),
                None => self.gather(&mut delays, since),
            };
            if let Some(change) = overload.look(&facts) {
                self.tell(&change);
            }
        }
    }

    /// One look. `delays` are the workers' at the last one; `since` is how long ago that was.
    fn gather(&self, delays: &mut [Duration], since: Duration) -> Facts {
        let mut facts = Facts::default();
        let mut waiting = 0;
        for (stats, delay) in self.workers.iter().zip(delays) {
            let seen = stats.load.take();
            // Nothing done with: the worker had nothing to do, or is still at what it had at the last look.
            *delay = seen.delay.unwrap_or(if seen.in_hand > 0 { *delay } else { Duration::ZERO });
            facts.delay = facts.delay.max(*delay);
            // Without a sweep, it is late by at least the time since the last look.
            facts.loop_lag = facts.loop_lag.max(seen.lag.unwrap_or(since));
            facts.merged = facts.merged.max(share(seen.merged, seen.offered));
            waiting += stats.outbox_bytes.load(Ordering::Relaxed);
        }
        facts.outboxes = share(waiting as u64, self.outbox_bytes_total as u64);
        facts.sources = share(self.sources.used() as u64, self.sources.max() as u64);
        facts
    }

    fn tell(&self, change: &Change) {
        let (cause, value) = (change.cause.0.label(), change.cause.1);
        let (from, to) = (change.from.number(), change.to.number());
        self.level.set(change.to);
        self.gauge.0.set(f64::from(to));
        if change.to > change.from {
            tracing::warn!(from, to, cause, value, "overload level rises");
        } else if change.to == Level::Normal {
            tracing::info!(from, to, "the overload is over");
        } else {
            tracing::info!(from, to, cause, value, "overload level falls");
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
