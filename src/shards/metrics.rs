//! Metrics of the shards and of every timed lock: handles made once, published once a second or at a scrape.
//!
//! The hot path only bumps plain numbers ([`LockStats`], [`super::Usage`]); [`Metrics::publish`] hands the differences
//! over. Histograms stay exact: the exporter knows only single samples, so each bucket's new samples are recorded at
//! their mean, which lies in the same bucket and keeps the sum (`record_many`: 26 ns and, until the next drain, 16 bytes
//! a sample, on the admin thread). Tests: below.

use super::lock::{BUCKETS, Buckets, EDGES_NS, LockName, LockStats};
use super::shard::Shards;
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram};
use metrics::{gauge, histogram};
use std::sync::Arc;

/// Histogram edges of waits, seconds: 250 ns to 1 s.
pub const LOCK_WAIT_BUCKETS: (&str, &[f64]) = ("tickcast_lock_wait_seconds", &EDGES);
/// Histogram edges of holds, seconds: 250 ns to 1 s.
pub const LOCK_HOLD_BUCKETS: (&str, &[f64]) = ("tickcast_lock_hold_seconds", &EDGES);

const EDGES: [f64; BUCKETS - 1] = {
    let mut edges = [0.0; BUCKETS - 1];
    let mut i = 0;
    while i < edges.len() {
        edges[i] = EDGES_NS[i] as f64 / 1e9;
        i += 1;
    }
    edges
};

/// Handles, and what has been published so far.
pub struct Metrics {
    names: [NameMetrics; 3],
    shards: Vec<ShardMetrics>,
    locks: Vec<Published>,
}

struct NameMetrics {
    wait: Histogram,
    hold: Histogram,
    acquisitions: Counter,
    contended: Counter,
}

struct ShardMetrics {
    acquisitions: Counter,
    contended: Counter,
    // A gauge by type, because a counter of this library is a whole number; it only grows.
    wait: Gauge,
    ticks: Counter,
    subscriptions: Gauge,
}

/// One lock, and how much of each bucket the exporter has seen.
struct Published {
    stats: Arc<LockStats>,
    wait: [(u64, u64); BUCKETS],
    hold: [(u64, u64); BUCKETS],
}

impl Metrics {
    /// Makes all handles for `shards` shards. Locks are added with [`Self::watch`].
    pub fn register(shards: &Shards) -> Self {
        describe();
        let names = LockName::ALL.map(|name| NameMetrics {
            wait: histogram!(LOCK_WAIT_BUCKETS.0, "lock" => name.label()),
            hold: histogram!(LOCK_HOLD_BUCKETS.0, "lock" => name.label()),
            acquisitions: counter!("tickcast_lock_acquisitions_total", "lock" => name.label()),
            contended: counter!("tickcast_lock_contended_total", "lock" => name.label()),
        });
        let per_shard = |i: u16| {
            let shard = i.to_string();
            ShardMetrics {
                acquisitions: counter!("tickcast_shard_lock_acquisitions_total", "shard" => shard.clone()),
                contended: counter!("tickcast_shard_lock_contended_total", "shard" => shard.clone()),
                wait: gauge!("tickcast_shard_lock_wait_seconds_total", "shard" => shard.clone()),
                ticks: counter!("tickcast_shard_ticks_total", "shard" => shard.clone()),
                subscriptions: gauge!("tickcast_shard_subscriptions", "shard" => shard),
            }
        };
        let mut metrics =
            Metrics { names, shards: shards.indexes().map(|i| per_shard(i.0)).collect(), locks: Vec::new() };
        for shard in shards.indexes() {
            metrics.watch(shards.lock_stats(shard).clone());
        }
        metrics
    }

    /// Publishes this lock too (the shards' locks are watched already).
    pub fn watch(&mut self, stats: Arc<LockStats>) {
        self.locks.push(Published { stats, wait: [(0, 0); BUCKETS], hold: [(0, 0); BUCKETS] });
    }

    /// Hands over what has happened since the last call. Takes each shard's lock once, one after the other, to read its
    /// counts. About 64 short visits a second; `shards` must be the ones registered.
    pub fn publish(&mut self, shards: &Shards) {
        for lock in &mut self.locks {
            let name = &self.names[lock.stats.name as usize];
            publish_buckets(&name.wait, lock.stats.wait(), &mut lock.wait);
            publish_buckets(&name.hold, lock.stats.hold(), &mut lock.hold);
        }
        for (which, name) in LockName::ALL.into_iter().zip(&self.names) {
            let of_name = || self.locks.iter().filter(move |l| l.stats.name == which);
            name.acquisitions.absolute(of_name().map(|l| l.stats.acquisitions()).sum());
            name.contended.absolute(of_name().map(|l| l.stats.contended()).sum());
        }
        for (shard, metrics) in shards.indexes().zip(&self.shards) {
            let stats = shards.lock_stats(shard);
            metrics.acquisitions.absolute(stats.acquisitions());
            metrics.contended.absolute(stats.contended());
            metrics.wait.set(stats.waited().as_secs_f64());
            let usage = shards.with(shard, |s| s.streams.usage());
            metrics.ticks.absolute(usage.ticks);
            metrics.subscriptions.set(usage.pins as f64);
        }
    }
}

/// Records the samples that are new since `seen`, each bucket's at their mean.
fn publish_buckets(histogram: &Histogram, buckets: &Buckets, seen: &mut [(u64, u64); BUCKETS]) {
    for (i, (count_seen, sum_seen)) in seen.iter_mut().enumerate() {
        let (count, sum) = buckets.read(i);
        let fresh = count - *count_seen;
        if fresh == 0 {
            continue;
        }
        // A writer may be between the two numbers: keep the mean inside its bucket and carry the rest to the next call.
        let lowest = if i == 0 { 0 } else { EDGES_NS[i - 1] + 1 };
        let highest = EDGES_NS.get(i).copied().unwrap_or(u64::MAX);
        let mean = (sum.saturating_sub(*sum_seen) / fresh).clamp(lowest, highest);
        histogram.record_many(mean as f64 / 1e9, fresh as usize);
        *count_seen = count;
        *sum_seen += mean * fresh;
    }
}

fn describe() {
    describe_histogram!(LOCK_WAIT_BUCKETS.0, Unit::Seconds, "Time waited for a lock; 0 when nobody held it");
    describe_histogram!(LOCK_HOLD_BUCKETS.0, Unit::Seconds, "Time a lock was held");
    describe_counter!("tickcast_lock_acquisitions_total", "Times a lock was taken");
    describe_counter!("tickcast_lock_contended_total", "Times a lock was held by somebody else when it was wanted");
    describe_counter!("tickcast_shard_lock_acquisitions_total", "Times one shard's lock was taken");
    describe_counter!("tickcast_shard_lock_contended_total", "Times one shard's lock was held by somebody else");
    describe_gauge!(
        "tickcast_shard_lock_wait_seconds_total",
        Unit::Seconds,
        "Time waited for one shard's lock; only grows"
    );
    describe_counter!("tickcast_shard_ticks_total", "Ticks that one shard took, refused ones included");
    describe_gauge!("tickcast_shard_subscriptions", "Pins that keys hold on one shard's streams");
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::model::{InstrumentRef, ScopeId};
    use crate::shards::{Config, ShardIndex, TimedLock};
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    use std::time::Duration;

    /// The value of the series that begins with `series`.
    fn value(text: &str, series: &str) -> f64 {
        let line = text.lines().find(|l| l.starts_with(series)).unwrap_or_else(|| panic!("no {series} in\n{text}"));
        line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number")
    }

    #[test]
    fn what_is_scraped_is_what_happened_and_nothing_is_published_twice() {
        let mut builder = PrometheusBuilder::new();
        for (name, edges) in [LOCK_WAIT_BUCKETS, LOCK_HOLD_BUCKETS] {
            builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), edges).unwrap();
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let shards = Shards::new(&Config { shards: 2, ..Config::default() });
        let users = TimedLock::new(LockName::User, None, Duration::MAX, ());
        let mut metrics = metrics::with_local_recorder(&recorder, || Metrics::register(&shards));
        metrics.watch(users.stats().clone());
        for round in 1..=3 {
            users.with(|()| std::hint::black_box((0..20_000).sum::<u64>()));
            metrics.publish(&shards);
            let text = handle.render();
            let hold = users.stats().hold();
            assert_eq!(value(&text, "tickcast_lock_hold_seconds_count{lock=\"user\"}"), f64::from(round));
            let sum_ns: u64 = (0..BUCKETS).map(|i| hold.read(i).1).sum();
            let sum = value(&text, "tickcast_lock_hold_seconds_sum{lock=\"user\"}");
            assert!((sum - sum_ns as f64 / 1e9).abs() < 1e-8, "{sum} for {sum_ns} ns");
            assert_eq!(
                value(&text, "tickcast_lock_wait_seconds_bucket{lock=\"user\",le=\"0.00000025\"}"),
                f64::from(round)
            );
            assert_eq!(value(&text, "tickcast_lock_acquisitions_total{lock=\"user\"}"), f64::from(round));
            for edge in ["0.001", "0.05", "0.1"] {
                value(&text, &format!("tickcast_lock_wait_seconds_bucket{{lock=\"subscription\",le=\"{edge}\"}}"));
            }
        }
        let pin = |symbol| {
            shards
                .with(ShardIndex(1), |s| s.streams.pin(ScopeId::SHARED, InstrumentRef { venue: "NSE", symbol }))
                .unwrap()
        };
        pin("SBIN");
        pin("TCS");
        metrics.publish(&shards);
        let text = handle.render();
        assert_eq!(value(&text, "tickcast_shard_subscriptions{shard=\"0\"}"), 0.0);
        assert_eq!(value(&text, "tickcast_shard_subscriptions{shard=\"1\"}"), 2.0);
        // Publishing itself visits each shard once: three times so far when the fourth was counted, and two pins.
        assert_eq!(value(&text, "tickcast_shard_lock_acquisitions_total{shard=\"1\"}"), 5.0);
        assert_eq!(value(&text, "tickcast_shard_lock_contended_total{shard=\"1\"}"), 0.0);
    }
}
