//! What discovery counts. Labels are enums, never endpoints or names.

use super::watch;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Handles of one registry.
#[derive(Clone, Debug)]
pub struct DiscoveryMetrics {
    /// Endpoints that hold.
    pub(super) leases: Gauge,
    pub(super) found: Counter,
    pub(super) failed: Counter,
    rejected: Vec<(&'static str, Counter)>,
}

impl DiscoveryMetrics {
    /// Makes the handles of the registries with these labels, with the current recorder, and gives them in this order.
    pub fn register<const N: usize>(registries: [&'static str; N]) -> [Self; N] {
        registries.map(Self::of)
    }

    fn of(registry: &'static str) -> Self {
        describe_gauge!("tickcast_discovery_leases", "Publishers' endpoints that hold, by registry");
        describe_counter!("tickcast_discovery_looks_total", "Looks into a registry; one that failed changes nothing");
        describe_counter!("tickcast_discovery_rejected_total", "Registered endpoints that are not used, by cause");
        let looks = |outcome| counter!("tickcast_discovery_looks_total", "registry" => registry, "outcome" => outcome);
        DiscoveryMetrics {
            leases: gauge!("tickcast_discovery_leases", "registry" => registry),
            found: looks("found"),
            failed: looks("failed"),
            rejected: watch::CAUSES
                .map(|cause| (cause, counter!("tickcast_discovery_rejected_total", "cause" => cause)))
                .to_vec(),
        }
    }

    pub(super) fn reject(&self, cause: &'static str) {
        if let Some((_, counter)) = self.rejected.iter().find(|(known, _)| *known == cause) {
            counter.increment(1);
        }
    }
}
