//! Metrics of sessions and their commands.

use super::commands::Outcome;
use crate::model::Format;
use crate::wire::close::CloseReason;
use crate::wire::error::ErrorCode;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::time::Duration;

/// Edges of `tickcast_command_seconds`, seconds.
pub const COMMAND_SECONDS_BUCKETS: (&str, &[f64]) = (
    "tickcast_command_seconds",
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0],
);

/// Values of the `action` label; `invalid` is a message that was no command.
const ACTIONS: [&str; 10] = [
    "authenticate",
    "subscribe",
    "unsubscribe",
    "unsubscribe_all",
    "subscribe_orders",
    "unsubscribe_orders",
    "get_broker_info",
    "get_supported_brokers",
    "ping",
    "invalid",
];
const OUTCOMES: [&str; 3] = ["success", "partial", "error"];

/// Handles of one worker's sessions.
#[derive(Clone)]
pub struct SessionMetrics {
    /// `tickcast_clients_connected{format}`
    pub live: [Gauge; 2],
    /// `tickcast_sessions_unauthenticated`
    pub unauthenticated: Gauge,
    closed: Vec<Counter>,
    errors: Vec<Counter>,
    commands: Vec<[Histogram; 3]>,
}

impl SessionMetrics {
    /// Makes the handles with the current recorder.
    pub fn register() -> Self {
        describe_gauge!("tickcast_clients_connected", "Sessions with a verified key, by client format");
        describe_gauge!("tickcast_sessions_unauthenticated", "Sessions whose key has not been verified yet");
        describe_counter!("tickcast_sessions_closed_total", "Sessions ended, by reason");
        describe_counter!("tickcast_subscription_errors_total", "Error frames and failed entries, by code");
        describe_histogram!(
            "tickcast_command_seconds",
            "From the moment a command's turn comes until it is answered, by action and outcome"
        );
        let commands = ACTIONS.map(|action| {
            OUTCOMES.map(|outcome| histogram!("tickcast_command_seconds", "action" => action, "outcome" => outcome))
        });
        SessionMetrics {
            live: Format::ALL.map(|f| gauge!("tickcast_clients_connected", "format" => f.label())),
            unauthenticated: gauge!("tickcast_sessions_unauthenticated"),
            closed: CloseReason::ALL
                .iter()
                .map(|r| counter!("tickcast_sessions_closed_total", "reason" => r.label()))
                .collect(),
            errors: ErrorCode::ALL
                .iter()
                .map(|c| counter!("tickcast_subscription_errors_total", "code" => c.as_str()))
                .collect(),
            commands: commands.into(),
        }
    }

    pub(super) fn closed(&self, reason: CloseReason) {
        let at = CloseReason::ALL.iter().position(|r| *r == reason).expect("ALL lists every reason");
        self.closed[at].increment(1);
    }

    pub(super) fn error(&self, code: ErrorCode) {
        let at = ErrorCode::ALL.iter().position(|c| *c == code).expect("ALL lists every code");
        self.errors[at].increment(1);
    }

    pub(super) fn command(&self, action: &str, outcome: Outcome, took: Duration) {
        let action = ACTIONS.iter().position(|a| *a == action).unwrap_or(ACTIONS.len() - 1);
        self.commands[action][outcome as usize].record(took.as_secs_f64());
    }
}
