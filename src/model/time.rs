//! Wall-clock time as the wire carries it. Durations and deadlines use `std::time::Instant` instead.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since this was first asked in this process: a monotonic clock that fits an atomic.
pub fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Microseconds since the UNIX epoch, read from our clock; 0 means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// The clock now. A clock before 1970 reads as 0.
    pub fn now() -> Self {
        Micros(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64))
    }

    /// A time since the UNIX epoch whose unit its sender does not state, in millionths of that unit: below 1e11 units they
    /// are seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds. `None` unless it is after 1970.
    pub fn of_unknown_unit(millionths: i128) -> Option<Self> {
        let micros = match millionths / 1_000_000 {
            time if time < 100_000_000_000 => millionths,
            time if time < 100_000_000_000_000 => millionths / 1000,
            time if time < 100_000_000_000_000_000 => millionths / 1_000_000,
            _ => millionths / 1_000_000_000,
        };
        u64::try_from(micros).ok().filter(|&time| time > 0).map(Micros)
    }

    /// Whole milliseconds since the UNIX epoch.
    pub const fn millis(self) -> u64 {
        self.0 / 1000
    }
}
