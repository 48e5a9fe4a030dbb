//! Where a key stands with the broker, as people see it. Tests: `tests/xray.rs`.

/// Where a key stands with the broker, for people. The greater, the further from what somebody who wants it would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The broker has it.
    Live,
    /// A subscribe is in flight.
    Subscribing,
    /// An unsubscribe is in flight.
    Unsubscribing,
    /// The broker may have it or not; it will be asked again.
    Unknown,
    /// The broker does not have it.
    Absent,
}

impl Standing {
    /// As it is shown.
    pub const fn label(self) -> &'static str {
        match self {
            Standing::Live => "live",
            Standing::Subscribing => "subscribing",
            Standing::Unsubscribing => "unsubscribing",
            Standing::Unknown => "unknown",
            Standing::Absent => "absent",
        }
    }
}
