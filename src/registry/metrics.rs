//! Metrics of references and users. CONTRACTS 6.

use crate::shards::key::{Event, RefCounts};
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Edges of `tickcast_subscription_references`.
pub const REFERENCES_BUCKETS: (&str, &[f64]) = (
    "tickcast_subscription_references",
    &[0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0],
);

/// `event` labels of `tickcast_subscription_events_total`.
pub const EVENTS: [&str; 11] = [
    "first_in",
    "joined",
    "left",
    "last_out",
    "duplicate",
    "not_held",
    "rolled_back",
    "limit_exceeded",
    "replayed",
    "replay_failed",
    "release_failed",
];

/// Handles.
pub struct RegistryMetrics {
    active: Gauge,
    by_references: [Gauge; 6],
    shared_ratio: Gauge,
    users_connected: Gauge,
    drift: [Gauge; 3],
    first_in: Counter,
    joined: Counter,
    left: Counter,
    last_out: Counter,
    rolled_back: Counter,
    replayed: Counter,
    replay_failed: Counter,
    release_failed: Counter,
    pub(super) references: Histogram,
    pub(super) duplicate: Counter,
    pub(super) not_held: Counter,
    pub(super) limit_exceeded: Counter,
}

impl RegistryMetrics {
    /// Makes the handles.
    pub fn register() -> Self {
        describe_gauge!("tickcast_subscriptions_active", "Subscriptions: session x instrument x mode");
        describe_gauge!("tickcast_subscriptions_by_references", "Keys by how many sessions hold them");
        describe_gauge!("tickcast_subscriptions_shared_ratio", "Keys held by at least two sessions / keys held");
        describe_gauge!("tickcast_users_connected", "Users with at least one authenticated session");
        describe_gauge!("tickcast_subscription_drift", "Subscriptions on which two parts of the server disagree");
        describe_counter!("tickcast_subscription_events_total", "What happened to references");
        describe_histogram!("tickcast_subscription_references", "Reference count after each join and leave");
        let event = |e: &'static str| counter!("tickcast_subscription_events_total", "event" => e);
        RegistryMetrics {
            active: gauge!("tickcast_subscriptions_active"),
            by_references: RefCounts::LABELS.map(|l| gauge!("tickcast_subscriptions_by_references", "refs" => l)),
            shared_ratio: gauge!("tickcast_subscriptions_shared_ratio"),
            users_connected: gauge!("tickcast_users_connected"),
            drift: super::audit::BETWEEN.map(|b| gauge!("tickcast_subscription_drift", "between" => b)),
            first_in: event("first_in"),
            joined: event("joined"),
            left: event("left"),
            last_out: event("last_out"),
            rolled_back: event("rolled_back"),
            replayed: event("replayed"),
            replay_failed: event("replay_failed"),
            release_failed: event("release_failed"),
            references: histogram!("tickcast_subscription_references"),
            duplicate: event("duplicate"),
            not_held: event("not_held"),
            limit_exceeded: event("limit_exceeded"),
        }
    }

    pub(super) fn event(&self, event: Event) {
        match event {
            Event::FirstIn => self.first_in.increment(1),
            Event::Joined => self.joined.increment(1),
            Event::Left => self.left.increment(1),
            Event::LastOut => self.last_out.increment(1),
            Event::RolledBack(n) => self.rolled_back.increment(n as u64),
            Event::Replayed => self.replayed.increment(1),
            Event::ReplayFailed => self.replay_failed.increment(1),
            Event::ReleaseFailed => self.release_failed.increment(1),
        }
    }

    pub(super) fn observe(&self, counts: &RefCounts, users: usize) {
        self.active.set(counts.active as f64);
        for (gauge, n) in self.by_references.iter().zip(counts.keys) {
            gauge.set(n as f64);
        }
        self.shared_ratio.set(counts.shared_ratio());
        self.users_connected.set(users as f64);
    }

    pub(super) fn drifted(&self, drift: &super::audit::Drift) {
        for (gauge, n) in self.drift.iter().zip(drift.counts()) {
            gauge.set(n as f64);
        }
    }
}
