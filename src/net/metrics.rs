//! What the front door counts.
//!
//! Handles are made once, by `register`, while the server's recorder is in force. Labels come from [`Refused`] only.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

/// Why a connection did not become a session; the value of the `cause` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All sessions are taken.
    Full,
    /// All sessions of that address are taken.
    AddressFull,
    /// The server drains.
    Draining,
    /// The server is overloaded.
    Overloaded,
    /// A proper HTTP request that is no WebSocket upgrade we can serve.
    NotWebSocket,
    /// Not HTTP, or a head beyond the limits, or the peer went away in the middle of it.
    Malformed,
    /// The head was not complete in time.
    TooSlow,
}

impl Refused {
    /// All causes.
    pub const ALL: [Refused; 7] = [
        Refused::Full,
        Refused::AddressFull,
        Refused::Draining,
        Refused::Overloaded,
        Refused::NotWebSocket,
        Refused::Malformed,
        Refused::TooSlow,
    ];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Refused::Full => "full",
            Refused::AddressFull => "address_full",
            Refused::Draining => "draining",
            Refused::Overloaded => "overloaded",
            Refused::NotWebSocket => "not_websocket",
            Refused::Malformed => "malformed",
            Refused::TooSlow => "too_slow",
        }
    }
}

/// The front door's handles.
pub struct Metrics {
    /// Errors of `accept` itself, such as no free descriptors.
    pub accept_errors: Counter,
    /// Connections that are not yet upgraded.
    pub handshakes_pending: Gauge,
    refused: [Counter; Refused::ALL.len()],
}

impl Metrics {
    /// Makes all handles with the recorder in force, and says what build this is.
    pub fn register() -> Self {
        describe_counter!(
            "tickcast_accept_errors_total",
            Unit::Count,
            "Errors of accept(2), such as too many open files"
        );
        describe_gauge!("tickcast_handshakes_pending", Unit::Count, "Connections that have not been upgraded yet");
        describe_counter!(
            "tickcast_handshakes_refused_total",
            Unit::Count,
            "Connections that did not become sessions, by cause"
        );
        describe_gauge!("tickcast_build_info", Unit::Count, "Always 1; the version is in the label");
        gauge!("tickcast_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Metrics {
            accept_errors: counter!("tickcast_accept_errors_total"),
            handshakes_pending: gauge!("tickcast_handshakes_pending"),
            refused: Refused::ALL.map(|cause| counter!("tickcast_handshakes_refused_total", "cause" => cause.label())),
        }
    }

    /// Counts a connection that did not become a session.
    pub fn refuse(&self, cause: Refused) {
        self.refused[cause as usize].increment(1);
    }
}
