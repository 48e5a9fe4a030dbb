//! Admission: a token bucket that says whether one more command, or one more attempt, is taken now.
//!
//! In: the time. Out: a [`Verdict`]. The bucket is one instant (the generic cell rate algorithm), so that every session
//! and every address can have one: no tokens are counted and nothing needs refilling.

use std::time::{Duration, Instant};

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Admitted per second on average; 0 admits nothing beyond the first burst.
    pub per_second: u32,
    /// Admitted at once after a pause.
    pub burst: u32,
}

impl Config {
    /// Time that one admission costs.
    fn interval(self) -> Duration {
        // A century stands for "never": it can still be added to an `Instant`.
        if self.per_second == 0 { Duration::from_secs(3_000_000_000) } else { Duration::from_secs(1) / self.per_second }
    }
}

/// Whether a request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Taken, and charged.
    Admit,
    /// Not taken, not charged; it would be after this long.
    Refuse {
        /// Until the bucket holds one token again.
        retry_after: Duration,
    },
}

/// One peer's bucket; full at first.
#[derive(Clone, Debug, Default)]
pub struct TokenBucket {
    /// When the bucket will be full again; `None` or past means it is full.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new() -> Self {
        TokenBucket { full_at: None }
    }

    /// Takes one token at `now` if there is one.
    pub fn take(&mut self, config: Config, now: Instant) -> Verdict {
        let interval = config.interval();
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let debt = full_at.duration_since(now).saturating_add(interval);
        let debt_max = interval.saturating_mul(config.burst);
        if debt > debt_max {
            return Verdict::Refuse { retry_after: debt - debt_max };
        }
        match full_at.checked_add(interval) {
            Some(at) => {
                self.full_at = Some(at);
                Verdict::Admit
            }
            None => Verdict::Refuse { retry_after: interval },
        }
    }

    /// Whether the bucket is full at `now`, so that forgetting it changes nothing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: Config = Config { per_second: 50, burst: 2000 };

    fn admitted(bucket: &mut TokenBucket, config: Config, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| bucket.take(config, now) == Verdict::Admit).count()
    }

    #[test]
    fn a_burst_is_taken_whole_and_then_the_rate_holds() {
        let (start, mut bucket) = (Instant::now(), TokenBucket::new());
        assert_eq!(admitted(&mut bucket, CONFIG, start, 3000), 2000);
        assert_eq!(admitted(&mut bucket, CONFIG, start + Duration::from_secs(1), 3000), 50);
        assert_eq!(admitted(&mut bucket, CONFIG, start + Duration::from_secs(1000), 3000), 2000);
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let (start, mut bucket) = (Instant::now(), TokenBucket::new());
        admitted(&mut bucket, CONFIG, start, 2000);
        let Verdict::Refuse { retry_after } = bucket.take(CONFIG, start) else { panic!("the bucket is empty") };
        assert_eq!(retry_after, Duration::from_millis(20));
        assert_eq!(bucket.take(CONFIG, start + retry_after), Verdict::Admit);
    }

    #[test]
    fn a_rate_of_zero_admits_the_burst_only_and_a_burst_of_zero_nothing() {
        let (start, mut bucket) = (Instant::now(), TokenBucket::new());
        assert!(admitted(&mut bucket, Config { per_second: 0, burst: 1 }, start, 10) <= 1);
        assert_eq!(admitted(&mut TokenBucket::new(), Config { per_second: 5, burst: 0 }, start, 10), 0);
    }

    #[test]
    fn a_full_bucket_may_be_forgotten() {
        let (start, mut bucket) = (Instant::now(), TokenBucket::new());
        assert!(bucket.is_full(start));
        let _ = bucket.take(CONFIG, start);
        assert!(!bucket.is_full(start));
        assert!(bucket.is_full(start + Duration::from_millis(20)));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_times_time(gaps_ms in prop::collection::vec(0u64..200, 1..300)) {
            let config = Config { per_second: 20, burst: 10 };
            let (start, mut bucket) = (Instant::now(), TokenBucket::new());
            let (mut now, mut count) = (start, 0u64);
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                count += u64::from(bucket.take(config, now) == Verdict::Admit);
            }
            let elapsed_ms = (now - start).as_millis() as u64;
            prop_assert!(count <= 10 + elapsed_ms * 20 / 1000);
        }
    }
}
