//! Metrics of the shards and of every timed lock: handles made once, published once a second or at a scrape.
//!
//! The hot path only bumps plain numbers ([`LockStats`], [`super::Usage`]); [`Metrics::publish`] hands the differences
//! over. The locks' times are counted in [`LockStats`] already, so they are written as text by [`LockHistograms`]: the exporter
//! knows only whole counters and single samples, and keeps 16 bytes or more of each sample until it is drained, megabytes a
//! second on a busy server. Tests: below.

use super::lock::{BUCKETS, Buckets, EDGES_NS, LockName, LockStats};
use super::shard::Shards;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use std::fmt::Write as _;
use std::sync::Arc;

/// Handles, and what has been published so far.
pub struct Metrics {
    names: [NameMetrics; 3],
    shards: Vec<ShardMetrics>,
    locks: Vec<Arc<LockStats>>,
}

struct NameMetrics {
    acquisitions: Counter,
    contended: Counter,
}

struct ShardMetrics {
    acquisitions: Counter,
    contended: Counter,
    ticks: Counter,
    subscriptions: Gauge,
}

impl Metrics {
    /// Makes all handles for `shards` shards. Locks are added with [`Self::watch`].
    pub fn register(shards: &Shards) -> Self {
        describe();
        let names = LockName::ALL.map(|name| NameMetrics {
            acquisitions: counter!("tickcast_lock_acquisitions_total", "lock" => name.label()),
            contended: counter!("tickcast_lock_contended_total", "lock" => name.label()),
        });
        let per_shard = |i: u16| {
            let shard = i.to_string();
            ShardMetrics {
                acquisitions: counter!("tickcast_shard_lock_acquisitions_total", "shard" => shard.clone()),
                contended: counter!("tickcast_shard_lock_contended_total", "shard" => shard.clone()),
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
        self.locks.push(stats);
    }

    /// Waits and holds of all locks watched by now.
    pub fn histograms(&self) -> LockHistograms {
        LockHistograms(self.locks.clone().into())
    }

    /// Hands over what has happened since the last call. Takes each shard's lock once, one after the other, to read its
    /// counts. About 64 short visits a second; `shards` must be the ones registered.
    pub fn publish(&mut self, shards: &Shards) {
        for (which, name) in LockName::ALL.into_iter().zip(&self.names) {
            let of_name = || self.locks.iter().filter(move |l| l.name == which);
            name.acquisitions.absolute(of_name().map(|l| l.acquisitions()).sum());
            name.contended.absolute(of_name().map(|l| l.contended()).sum());
        }
        for (shard, metrics) in shards.indexes().zip(&self.shards) {
            let stats = shards.lock_stats(shard);
            metrics.acquisitions.absolute(stats.acquisitions());
            metrics.contended.absolute(stats.contended());
            let usage = shards.with(shard, |s| s.streams.usage());
            metrics.ticks.absolute(usage.ticks);
            metrics.subscriptions.set(usage.pins as f64);
        }
    }
}

/// Waits and holds of the timed locks, as the exporter would write them. Cheap to clone.
#[derive(Clone)]
pub struct LockHistograms(Arc<[Arc<LockStats>]>);

impl LockHistograms {
    /// Appends them to a page of metrics. Read while locks are taken: one sample may be missing here and there.
    pub fn render(&self, out: &mut String) {
        self.write(out, "tickcast_lock_wait_seconds", "Time waited for a lock; 0 when nobody held it", LockStats::wait)
            .and_then(|()| self.write(out, "tickcast_lock_hold_seconds", "Time a lock was held", LockStats::hold))
            .and_then(|()| self.write_waited(out))
            .expect("a string takes every write");
    }

    fn write(&self, out: &mut String, name: &str, help: &str, of: fn(&LockStats) -> &Buckets) -> std::fmt::Result {
        write!(out, "# HELP {name} {help}\n# TYPE {name} histogram\n")?;
        for which in LockName::ALL {
            let lock = which.label();
            let (mut count, mut sum_ns) = (0, 0);
            for i in 0..BUCKETS {
                for (n, ns) in self.0.iter().filter(|l| l.name == which).map(|l| of(l).read(i)) {
                    (count, sum_ns) = (count + n, sum_ns + ns);
                }
                match EDGES_NS.get(i) {
                    Some(edge) => {
                        writeln!(out, "{name}_bucket{{lock=\"{lock}\",le=\"{}\"}} {count}", *edge as f64 / 1e9)?;
                    }
                    None => writeln!(out, "{name}_bucket{{lock=\"{lock}\",le=\"+Inf\"}} {count}")?,
                }
            }
            writeln!(out, "{name}_sum{{lock=\"{lock}\"}} {}", sum_ns as f64 / 1e9)?;
            writeln!(out, "{name}_count{{lock=\"{lock}\"}} {count}")?;
        }
        out.push('\n');
        Ok(())
    }

    /// Seconds as a counter: the exporter's are whole numbers.
    fn write_waited(&self, out: &mut String) -> std::fmt::Result {
        let name = "tickcast_shard_lock_wait_seconds_total";
        write!(out, "# HELP {name} Time waited for one shard's lock\n# TYPE {name} counter\n")?;
        for lock in self.0.iter() {
            if let Some(shard) = lock.shard {
                writeln!(out, "{name}{{shard=\"{shard}\"}} {}", lock.waited().as_secs_f64())?;
            }
        }
        out.push('\n');
        Ok(())
    }
}

fn describe() {
    describe_counter!("tickcast_lock_acquisitions_total", "Times a lock was taken");
    describe_counter!("tickcast_lock_contended_total", "Times a lock was held by somebody else when it was wanted");
    describe_counter!("tickcast_shard_lock_acquisitions_total", "Times one shard's lock was taken");
    describe_counter!("tickcast_shard_lock_contended_total", "Times one shard's lock was held by somebody else");
    describe_counter!("tickcast_shard_ticks_total", "Ticks that one shard took, refused ones included");
    describe_gauge!("tickcast_shard_subscriptions", "Pins that keys hold on one shard's streams");
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::model::{InstrumentRef, ScopeId};
    use crate::shards::{Config, ShardIndex, TimedLock};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use std::time::Duration;

    /// The value of the series that begins with `series`.
    fn value(text: &str, series: &str) -> f64 {
        let line = text.lines().find(|l| l.starts_with(series)).unwrap_or_else(|| panic!("no {series} in\n{text}"));
        line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number")
    }

    #[test]
    fn what_is_scraped_is_what_happened_and_nothing_is_published_twice() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let shards = Shards::new(&Config { shards: 2, ..Config::default() });
        let users = TimedLock::new(LockName::User, None, Duration::MAX, ());
        let mut metrics = metrics::with_local_recorder(&recorder, || Metrics::register(&shards));
        metrics.watch(users.stats().clone());
        let histograms = metrics.histograms();
        let text = || {
            let mut text = handle.render();
            histograms.render(&mut text);
            text
        };
        for round in 1..=3 {
            users.with(|()| std::hint::black_box((0..20_000).sum::<u64>()));
            metrics.publish(&shards);
            let text = text();
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
        let text = text();
        assert_eq!(value(&text, "tickcast_shard_subscriptions{shard=\"0\"}"), 0.0);
        assert_eq!(value(&text, "tickcast_shard_subscriptions{shard=\"1\"}"), 2.0);
        // Publishing itself visits each shard once: three times so far when the fourth was counted, and two pins.
        assert_eq!(value(&text, "tickcast_shard_lock_acquisitions_total{shard=\"1\"}"), 5.0);
        assert_eq!(value(&text, "tickcast_shard_lock_contended_total{shard=\"1\"}"), 0.0);
        let waited = shards.lock_stats(ShardIndex(1)).waited().as_secs_f64();
        assert_eq!(value(&text, "tickcast_shard_lock_wait_seconds_total{shard=\"1\"}"), waited);
    }
}
