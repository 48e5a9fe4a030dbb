//! Waiting times between attempts to connect: doubling to a cap, with jitter so that peers do not march in step.
//!
//! Pure: chance is an argument. Tests: at the end of this file.

use std::time::Duration;

/// Doubling waits with ±20 % jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits start at `first` and double up to `max`, both before jitter.
    pub fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, max, next: first }
    }

    /// The next wait; `chance` lies in 0..1 and moves it by at most a fifth.
    pub fn wait(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))
    }

    /// After a success the next wait is the first again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new(Duration::from_millis(250), Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..5).map(|_| backoff.wait(0.5).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.wait(0.0).as_millis(), 200);
        assert_eq!(backoff.wait(1.0).as_millis(), 600);
    }
}
