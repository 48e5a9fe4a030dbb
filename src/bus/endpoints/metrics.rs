//! What the bus endpoints count. Labels are indices of the settings and enums, never addresses.

use crate::model::LogGate;
use crate::zmtp::link::FAULT_LABELS;
use crate::zmtp::parser::Violation;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// `cause` of a message without exactly two parts.
pub const CAUSE_PARTS: &str = "parts";
/// `cause` of a peer beyond the limit.
pub const CAUSE_PEERS_MAX: &str = "peers_max";
/// `cause` of a peer that ingest had no place for.
pub const CAUSE_SOURCES_FULL: &str = "sources_full";
/// `cause` of market data that a full source's overflow had to drop.
pub const CAUSE_OVERFLOW: &str = "source_overflow";
/// The causes that arise here beside those of `zmtp`.
pub const CAUSES: [&str; 4] = [CAUSE_PARTS, CAUSE_PEERS_MAX, CAUSE_SOURCES_FULL, CAUSE_OVERFLOW];

/// How an attempt to connect or accept ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectOutcome {
    /// Handshake done.
    Ready,
    /// Refused, unreachable, no such name, no such file, or no answer in time.
    Unreachable,
    /// Connected, but no good ZMTP peer.
    Handshake,
    /// Too many peers, or ingest had no place.
    Full,
    /// `accept` failed, by too many open files for one.
    AcceptFailed,
}

impl ConnectOutcome {
    /// Every outcome.
    pub const ALL: [ConnectOutcome; 5] = [
        ConnectOutcome::Ready,
        ConnectOutcome::Unreachable,
        ConnectOutcome::Handshake,
        ConnectOutcome::Full,
        ConnectOutcome::AcceptFailed,
    ];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            ConnectOutcome::Ready => "ready",
            ConnectOutcome::Unreachable => "unreachable",
            ConnectOutcome::Handshake => "handshake",
            ConnectOutcome::Full => "full",
            ConnectOutcome::AcceptFailed => "accept_failed",
        }
    }
}

/// Handles of all endpoints together.
#[derive(Debug)]
pub struct EndpointMetrics {
    causes: Vec<(&'static str, Counter, LogGate)>,
    /// Market-data messages replaced by a newer one before ingest took them.
    pub merged: Counter,
    /// One per endpoint of the settings, then one for all those added later.
    endpoints: Vec<PerEndpoint>,
}

/// Handles of one endpoint.
#[derive(Clone, Debug)]
pub struct PerEndpoint {
    /// Peers whose handshake is done.
    pub peers: Gauge,
    /// Seconds since the last message.
    pub silence: Gauge,
    /// By [`ConnectOutcome`], in its order.
    connects: [Counter; ConnectOutcome::ALL.len()],
}

impl PerEndpoint {
    fn register(label: String) -> Self {
        PerEndpoint {
            peers: gauge!("tickcast_bus_peers", "endpoint" => label.clone()),
            silence: gauge!("tickcast_bus_silence_seconds", "endpoint" => label.clone()),
            connects: ConnectOutcome::ALL.map(|outcome| {
                counter!("tickcast_bus_connects_total", "endpoint" => label.clone(), "outcome" => outcome.label())
            }),
        }
    }

    /// Counts one attempt.
    pub fn connect(&self, outcome: ConnectOutcome) {
        self.connects[outcome as usize].increment(1);
    }
}

impl EndpointMetrics {
    /// Handles for `endpoints` endpoints of the settings, labelled by index; `added` stands for all that come later.
    pub fn register(endpoints: usize) -> Self {
        describe_gauge!("tickcast_bus_peers", "ZMTP peers connected, by index of the endpoint in the settings.");
        describe_gauge!(
            "tickcast_bus_silence_seconds",
            metrics::Unit::Seconds,
            "Time since the last message of an endpoint, by its index in the settings."
        );
        describe_counter!(
            "tickcast_bus_connects_total",
            "Connections made, accepted and refused, by endpoint and outcome."
        );
        let zmtp = Violation::ALL.iter().map(|violation| violation.label()).chain(FAULT_LABELS);
        EndpointMetrics {
            causes: zmtp
                .chain(CAUSES)
                .map(|cause| (cause, counter!("tickcast_bus_rejected_total", "cause" => cause), LogGate::default()))
                .collect(),
            merged: counter!("tickcast_ticks_merged_total", "where" => "source"),
            endpoints: (0..endpoints)
                .map(|index| PerEndpoint::register(index.to_string()))
                .chain([PerEndpoint::register("added".to_owned())])
                .collect(),
        }
    }

    /// Handles of the endpoint with this index of the settings, or of the added ones.
    pub fn endpoint(&self, index: Option<usize>) -> &PerEndpoint {
        let last = self.endpoints.len() - 1;
        &self.endpoints[index.map_or(last, |index| index.min(last))]
    }

    /// Counts `count` refusals; `Some` when one may be logged now: how many log lines were held back since the last.
    pub fn reject(&self, cause: &'static str, count: u64) -> Option<u64> {
        let (_, counter, gate) = self.causes.iter().find(|(known, ..)| *known == cause)?;
        counter.increment(count);
        gate.open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_distinct_and_logged_once_a_minute() {
        let metrics = EndpointMetrics::register(1);
        let mut names: Vec<_> = metrics.causes.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), metrics.causes.len());
        assert_eq!([1, 2].map(|count| metrics.reject(CAUSE_PARTS, count)), [Some(0), None]);
        assert_eq!(metrics.reject(CAUSE_PEERS_MAX, 1), Some(0));
    }
}
