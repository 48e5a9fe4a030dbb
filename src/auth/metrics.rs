//! Metrics of the auth room (CONTRACTS 6).

use super::AuthFailure;
use metrics::{Counter, Histogram, Unit};

/// Edges of `tickcast_auth_seconds`: a cached key takes microseconds, Argon2 over many rows seconds.
pub const AUTH_SECONDS_BUCKETS: (&str, &[f64]) = (
    "tickcast_auth_seconds",
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
);

/// Handles, resolved once.
#[derive(Clone)]
pub struct AuthMetrics {
    seconds: [Histogram; 5],
    failures: [Counter; 4],
}

const OUTCOMES: [&str; 5] = ["success", "invalid", "too_many_attempts", "unavailable", "busy"];

impl AuthMetrics {
    /// Makes the handles with the current recorder.
    pub fn register() -> Self {
        metrics::describe_histogram!(
            "tickcast_auth_seconds",
            Unit::Seconds,
            "From asking for an authentication to its outcome, waiting included"
        );
        metrics::describe_counter!("tickcast_auth_failures_total", "Authentications that failed, by reason");
        AuthMetrics {
            seconds: OUTCOMES.map(|outcome| metrics::histogram!("tickcast_auth_seconds", "outcome" => outcome)),
            failures: std::array::from_fn(
                |at| metrics::counter!("tickcast_auth_failures_total", "reason" => OUTCOMES[at + 1]),
            ),
        }
    }

    pub(super) fn record<T>(&self, result: &Result<T, AuthFailure>, seconds: f64) {
        let outcome = match result {
            Ok(_) => 0,
            Err(AuthFailure::Invalid) => 1,
            Err(AuthFailure::TooManyAttempts) => 2,
            Err(AuthFailure::Unavailable(_)) => 3,
            Err(AuthFailure::Busy) => 4,
        };
        self.seconds[outcome].record(seconds);
        if outcome > 0 {
            self.failures[outcome - 1].increment(1);
        }
    }
}
