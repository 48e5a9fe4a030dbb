//! Pacing: how long a worker rests after a flush, so that ticks gather and one write carries more of them.
//!
//! In: how long the flush took. Out: a rest. Promise: writing never takes more than about half a core, an idle or
//! lightly loaded worker never rests, and no rest is longer than `max_delay`. Pacing is not "being behind": it
//! neither merges nor drops.

use std::time::Duration;

/// Flushes at most this long are followed by no rest: the worker is not busy.
pub const BUSY_FLUSH: Duration = Duration::from_micros(500);

/// The rest after a flush that took `flush_took`, at most `max_delay` (setting `fanout.flush_max_delay`; zero turns
/// pacing off).
pub fn rest_after(flush_took: Duration, max_delay: Duration) -> Duration {
    if flush_took > BUSY_FLUSH { flush_took.min(max_delay) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_worker_rests_as_long_as_it_wrote_up_to_the_maximum() {
        let max = Duration::from_millis(5);
        for (took_us, rest_us) in [(0, 0), (1, 0), (500, 0), (501, 501), (3000, 3000), (5000, 5000), (80_000, 5000)] {
            let got = rest_after(Duration::from_micros(took_us), max);
            assert_eq!(got, Duration::from_micros(rest_us), "flush of {took_us} us");
        }
    }

    #[test]
    fn a_maximum_of_zero_turns_pacing_off() {
        assert_eq!(rest_after(Duration::from_secs(1), Duration::ZERO), Duration::ZERO);
    }
}
