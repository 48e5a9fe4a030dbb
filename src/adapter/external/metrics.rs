//! What the control channel counts. Labels are enums, never names or addresses.

use super::machine;
use super::wire::Malformed;
use crate::zmtp::link::FAULT_LABELS;
use crate::zmtp::parser::Violation;
use crate::zmtp::router::CAUSE_PEERS_MAX;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// `cause` of a peer that does not read what it is sent.
pub const CAUSE_UNREAD: &str = "unread";

/// Handles of the control channel.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    rejected: Vec<(&'static str, Counter)>,
    /// Peers whose handshake is done.
    pub peers: Gauge,
    /// Adapter processes with a live session.
    pub sessions: Gauge,
}

impl ControlMetrics {
    /// Makes the handles with the current recorder.
    pub fn register() -> Self {
        describe_counter!("tickcast_control_rejected_total", "Control channel peers and messages refused, by cause");
        describe_gauge!("tickcast_control_peers", "Connected peers of the control channel");
        describe_gauge!("tickcast_control_sessions", "Adapter processes with a live session");
        let ours = [CAUSE_PEERS_MAX, CAUSE_UNREAD].into_iter().chain(Malformed::ALL.map(Malformed::label));
        let zmtp = Violation::ALL.iter().map(|violation| violation.label()).chain(FAULT_LABELS);
        ControlMetrics {
            rejected: zmtp
                .chain(ours)
                .chain(machine::CAUSES)
                .map(|cause| (cause, counter!("tickcast_control_rejected_total", "cause" => cause)))
                .collect(),
            peers: gauge!("tickcast_control_peers"),
            sessions: gauge!("tickcast_control_sessions"),
        }
    }

    /// Counts one refusal.
    pub fn reject(&self, cause: &'static str) {
        if let Some((_, counter)) = self.rejected.iter().find(|(known, _)| *known == cause) {
            counter.increment(1);
        }
    }
}
