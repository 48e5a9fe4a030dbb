//! Back-off: when to try again after a failure.
//!
//! [`Backoff`]: waits that double up to a cap, each moved by a fifth so that many who failed together do not come back together.
//! [`Reconnects`]: the law by which connections to brokers are tried again, whoever keeps them: a native feed's link or a user's
//! supervisor. Time and chance are arguments. Tests: at the end.

use std::time::{Duration, Instant};

/// For so long a broker that is away is asked at short intervals.
pub const QUICK: Duration = Duration::from_secs(120);
/// Refused credentials are looked at again after so long, to see whether they have changed.
pub const LOOK: Duration = Duration::from_secs(5);
/// As [`LOOK`], after many refusals.
pub const LOOK_SELDOM: Duration = Duration::from_secs(60);

/// Doubling waits with ±20 % jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    failing: bool,
}

impl Backoff {
    /// Waits start at `first` and double up to `max`, both before jitter.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, max, next: first, failing: false }
    }

    /// Something failed: how long to wait before the next attempt. `chance` lies in 0..1.
    pub fn wait(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        (self.next, self.failing) = ((wait * 2).min(self.max), true);
        wait.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))
    }

    /// After a success the next wait is the first again.
    pub fn reset(&mut self) {
        (self.next, self.failing) = (self.first, false);
    }

    /// Whether something has failed since the last success.
    pub fn is_failing(&self) -> bool {
        self.failing
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new(Duration::from_millis(250), Duration::from_secs(2))
    }
}

/// Waits of 0.25 s doubling to 2 s while a connection has been away for less than [`QUICK`], then from 4 s on to a minute.
#[derive(Clone, Debug)]
pub struct Reconnects {
    /// What was lost before it stood this long counts as one more failure: the broker may be refusing us.
    steady: Duration,
    quick: Backoff,
    slow: Backoff,
    down_since: Option<Instant>,
    up_since: Option<Instant>,
}

impl Reconnects {
    /// Nothing has failed yet.
    pub const fn new(steady: Duration) -> Self {
        let quick = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
        let slow = Backoff::new(Duration::from_secs(4), Duration::from_secs(60));
        Reconnects { steady, quick, slow, down_since: None, up_since: None }
    }

    /// It is connected.
    pub fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// It was lost, or could not be made: how long to wait before the next attempt.
    pub fn failed(&mut self, now: Instant, chance: f64) -> Duration {
        self.settle(now);
        let down_since = *self.down_since.get_or_insert(now);
        let backoff = if now - down_since < QUICK { &mut self.quick } else { &mut self.slow };
        backoff.wait(chance)
    }

    /// As [`Reconnects::failed`], of something whose first replacement need not wait.
    pub fn lost(&mut self, now: Instant, chance: f64) -> Duration {
        self.settle(now);
        if self.down_since.is_some() {
            return self.failed(now, chance);
        }
        self.down_since = Some(now);
        Duration::ZERO
    }

    /// It is not wanted any more: when it is again, its absence was no failure.
    pub fn rest(&mut self) {
        (self.down_since, self.up_since) = (None, None);
    }

    fn settle(&mut self, now: Instant) {
        if self.up_since.take().is_some_and(|since| now - since >= self.steady) {
            *self = Reconnects::new(self.steady);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Duration = Duration::from_secs(5);

    #[test]
    fn waits_double_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..5).map(|_| backoff.wait(0.5).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 2000]);
        assert!(backoff.is_failing());
        backoff.reset();
        assert!(!backoff.is_failing());
        assert_eq!(backoff.wait(0.0).as_millis(), 200);
        assert_eq!(backoff.wait(1.0).as_millis(), 600);
    }

    #[test]
    fn a_broker_is_asked_every_two_seconds_for_two_minutes_and_then_ever_less_often() {
        let (mut law, began) = (Reconnects::new(STEADY), Instant::now());
        let mut now = began;
        let mut slow = Vec::new();
        while slow.last() != Some(&60) {
            let quick = now - began < QUICK;
            let wait = law.failed(now, 0.5);
            if quick {
                assert!(wait <= Duration::from_secs(2), "{wait:?}");
            } else {
                slow.push(wait.as_secs());
            }
            now += wait;
        }
        assert_eq!(slow, [4, 8, 16, 32, 60]);
    }

    #[test]
    fn what_stood_starts_over_and_what_fell_at_once_goes_on() {
        let (mut law, mut now) = (Reconnects::new(STEADY), Instant::now());
        let mut waits = Vec::new();
        for stood in [STEADY / 2, STEADY / 2, STEADY, STEADY / 2] {
            law.up(now);
            now += stood;
            waits.push(law.failed(now, 0.5).as_millis());
        }
        assert_eq!(waits, [250, 500, 250, 500]);
        law.rest();
        assert_eq!(law.lost(now, 0.5), Duration::ZERO, "the first replacement is made at once");
        assert_eq!(law.lost(now, 0.5).as_millis(), 1000, "the next one waits its turn");
        law.up(now);
        assert_eq!(law.lost(now + STEADY, 0.5), Duration::ZERO);
        assert_eq!(law.failed(now + STEADY, 0.5).as_millis(), 250);
    }
}
