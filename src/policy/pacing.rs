//! Pacing: how long a worker rests after a flush, so that ticks gather and one write carries more of them.
//!
//! In: how long the flush took, how often batches come. Out: a rest. Promise: an idle or lightly loaded worker never rests, nobody
//! rests where nothing would gather, writing takes about half a core at most where resting helps, and no rest is longer than `max_delay`.
//! Pacing is not "being behind": it neither merges nor drops. The law and what it was measured against: `docs/PERFORMANCE.md`.

use std::time::Duration;

/// Flushes at most this long are followed by no rest: the worker is not busy.
pub const BUSY_FLUSH: Duration = Duration::from_micros(500);

/// A rest is worth its delay when a write carries this many batches at least, on average.
const BATCHES_WORTH_A_REST: f64 = 1.25;
/// How much of what was seen before the last flush still counts.
const MEMORY: f64 = 0.875;
/// Longer pauses count as this: the market that opens again is not judged by the night before.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The rest after a flush that took `flush_took`, at most `max_delay` (setting `fanout.flush_max_delay`; zero turns pacing off), where a
/// batch comes every `gap`.
pub fn rest_after(flush_took: Duration, max_delay: Duration, gap: Duration) -> Duration {
    let rest = flush_took.min(max_delay);
    let gathers = flush_took + rest >= gap.mul_f64(BATCHES_WORTH_A_REST);
    if flush_took > BUSY_FLUSH && gathers { rest } else { Duration::ZERO }
}

/// How often batches come, as an average over the last flushes that forgets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    seconds: f64,
    batches: f64,
}

impl Arrivals {
    /// Between the last flush and this one, `took` in all, so many batches came.
    pub fn note(&mut self, batches: usize, took: Duration) {
        self.seconds = self.seconds * MEMORY + took.min(PAUSE_MAX).as_secs_f64();
        self.batches = self.batches * MEMORY + batches as f64;
    }

    /// The average time from one batch to the next.
    pub fn gap(&self) -> Duration {
        if self.batches > 0.0 { Duration::from_secs_f64(self.seconds / self.batches) } else { PAUSE_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(5);
    const OFTEN: Duration = Duration::from_micros(100);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_busy_worker_rests_as_long_as_it_wrote_up_to_the_maximum() {
        for (took_us, rest_us) in [(0, 0), (1, 0), (500, 0), (501, 501), (3000, 3000), (5000, 5000), (80_000, 5000)] {
            let got = rest_after(Duration::from_micros(took_us), MAX, OFTEN);
            assert_eq!(got, Duration::from_micros(rest_us), "flush of {took_us} us");
        }
    }

    #[test]
    fn nobody_rests_where_nothing_would_gather() {
        // Flush and rest together last 8 ms.
        for (gap_ms, rest_ms) in [(1, 4), (6, 4), (7, 0), (10, 0)] {
            assert_eq!(rest_after(ms(4), MAX, ms(gap_ms)), ms(rest_ms), "a batch every {gap_ms} ms");
        }
    }

    #[test]
    fn a_maximum_of_zero_turns_pacing_off() {
        assert_eq!(rest_after(Duration::from_secs(1), Duration::ZERO, OFTEN), Duration::ZERO);
    }

    #[test]
    fn the_gap_is_that_of_the_last_flushes() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.gap(), PAUSE_MAX, "nothing is known: nobody rests");
        arrivals.note(1, Duration::from_secs(3600));
        assert_eq!(arrivals.gap(), PAUSE_MAX);
        for _ in 0..60 {
            arrivals.note(10, ms(20));
        }
        assert!(arrivals.gap().abs_diff(ms(2)) < Duration::from_micros(50), "{:?}", arrivals.gap());
    }
}
