//! Wall-clock time as the wire carries it. Durations and deadlines use `std::time::Instant` instead.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the UNIX epoch, read from our clock; 0 means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// The clock now. A clock before 1970 reads as 0.
    pub fn now() -> Self {
        Micros(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64))
    }

    /// Whole milliseconds since the UNIX epoch.
    pub const fn millis(self) -> u64 {
        self.0 / 1000
    }
}
