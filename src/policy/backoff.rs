//! Back-off: when to try again after a failure.
//!
//! Delays double from `first` to `max`; each is drawn from its upper half, so that many peers that failed together do
//! not come back together. Time and the random generator are arguments.

use rand::{Rng, RngExt};
use std::time::{Duration, Instant};

/// The shape of a back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest delay after the first failure; the drawn delay lies between half of it and all of it.
    pub first: Duration,
    /// Largest delay after any number of failures.
    pub max: Duration,
}

/// How often something has failed in a row.
#[derive(Clone, Debug)]
pub struct Backoff {
    config: Config,
    failures: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub const fn new(config: Config) -> Self {
        Backoff { config, failures: 0 }
    }

    /// Notes a failure at `now`; the next attempt should be made at the returned instant.
    pub fn failed(&mut self, now: Instant, chance: &mut impl Rng) -> Instant {
        let doublings = self.failures.min(31);
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.config.first.saturating_mul(1 << doublings).min(self.config.max);
        now + ceiling.mul_f64(chance.random_range(0.5..=1.0)).min(self.config.max)
    }

    /// Notes a success: the next failure starts from the beginning.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    const CONFIG: Config = Config { first: Duration::from_millis(100), max: Duration::from_secs(5) };

    #[test]
    fn delays_double_within_their_jitter_up_to_the_maximum() {
        let (now, mut chance, mut backoff) = (Instant::now(), StdRng::seed_from_u64(7), Backoff::new(CONFIG));
        for ceiling_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let delay = backoff.failed(now, &mut chance) - now;
            let ceiling = Duration::from_millis(ceiling_ms);
            assert!(delay >= ceiling / 2 && delay <= ceiling, "{delay:?} for a ceiling of {ceiling:?}");
        }
        assert_eq!(backoff.failures(), 8);
    }

    #[test]
    fn a_success_starts_over() {
        let (now, mut chance, mut backoff) = (Instant::now(), StdRng::seed_from_u64(7), Backoff::new(CONFIG));
        for _ in 0..100 {
            backoff.failed(now, &mut chance);
        }
        backoff.succeeded();
        assert!(backoff.failed(now, &mut chance) - now <= CONFIG.first);
    }

    #[test]
    fn peers_that_failed_together_come_back_apart() {
        let now = Instant::now();
        let delays: std::collections::BTreeSet<_> =
            (0..50).map(|seed| Backoff::new(CONFIG).failed(now, &mut StdRng::seed_from_u64(seed))).collect();
        assert!(delays.len() > 40, "only {} different instants of 50", delays.len());
    }
}
