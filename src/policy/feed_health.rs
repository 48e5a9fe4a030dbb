//! Feed health: whether the feed of one user lives, is quiet, or is dead.
//!
//! In: [`Facts`], a few times a second or whenever somebody asks. Out: a [`FeedState`]. Promises: a feed that is not connected is down,
//! and nothing else is; one that ticks is live; longer silence never makes it look better; `recovered` follows `down` only, and lasts
//! until the first tick after it, or as long as silence is taken for nothing. A heartbeat of the broker's own proves that a silent
//! connection lives: instruments may trade once an hour. Without one, silence in market hours is stale. Time is an argument.
//! Tests: `feed_health/tests.rs`.

#[cfg(test)]
mod tests;

use crate::model::FeedState;
use std::time::{Duration, Instant};

/// A feed that has not ticked for so long is no longer live. Liquid instruments tick every second; a lone one often pauses for ten.
pub const SILENT_AFTER: Duration = Duration::from_secs(30);

/// What is known of a feed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It has a connection to the broker, or to a publisher.
    pub connected: bool,
    /// Since its last tick; `None`: there was none yet.
    pub data: Option<Duration>,
    /// Since the broker last gave a sign of life on a connection that has such signs; `None`: it has none.
    pub heartbeat: Option<Duration>,
    /// Something is subscribed on an exchange that should tick now.
    pub expected: bool,
}

/// What a feed's past says about its present.
#[derive(Clone, Debug)]
pub struct FeedHealth {
    silent_after: Duration,
    state: FeedState,
    /// When ticks began to be expected of a connection without pause.
    expected_since: Option<Instant>,
    /// When they began to be expected without pause, connected or not.
    wanted_since: Option<Instant>,
    /// When it was connected again.
    recovered_at: Option<Instant>,
    was_up: bool,
}

impl FeedHealth {
    /// A feed that is not known yet: down until it is looked at.
    pub fn new(silent_after: Duration) -> Self {
        FeedHealth {
            silent_after,
            state: FeedState::Down,
            expected_since: None,
            wanted_since: None,
            recovered_at: None,
            was_up: false,
        }
    }

    /// The state at the last look.
    pub fn state(&self) -> FeedState {
        self.state
    }

    /// Takes a look into account; the state after it.
    pub fn look(&mut self, facts: &Facts, now: Instant) -> FeedState {
        let next = self.peek(facts, now);
        if next == FeedState::Recovered {
            self.recovered_at.get_or_insert(now);
        } else {
            self.recovered_at = None;
        }
        self.expected_since = (facts.connected && facts.expected).then(|| self.expected_since.unwrap_or(now));
        self.wanted_since = facts.expected.then(|| self.wanted_since.unwrap_or(now));
        self.was_up |= facts.connected;
        self.state = next;
        next
    }

    /// The state that a look now would find.
    pub fn peek(&self, facts: &Facts, now: Instant) -> FeedState {
        let found = self.judge(facts, now);
        let recovering = match (self.state, self.recovered_at) {
            // The look that finds it connected says so, whatever it brings.
            (FeedState::Down, _) => self.was_up,
            (_, Some(at)) => {
                let since = now.saturating_duration_since(at);
                since < self.silent_after && facts.data.is_none_or(|silence| silence >= since)
            }
            _ => false,
        };
        if recovering && found != FeedState::Down { FeedState::Recovered } else { found }
    }

    /// How long ticks that are expected have been missing, connected or not: since the last one or the broker's last sign of life, and
    /// never for longer than they have been expected. Zero when none are.
    pub fn silence(&self, facts: &Facts, now: Instant) -> Duration {
        let wanted = self.wanted_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        [facts.data, facts.heartbeat].into_iter().flatten().fold(wanted, Duration::min)
    }

    fn judge(&self, facts: &Facts, now: Instant) -> FeedState {
        let lately = |silence: Option<Duration>| silence.is_some_and(|silence| silence < self.silent_after);
        let waited = self.expected_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        match facts {
            Facts { connected: false, .. } => FeedState::Down,
            _ if lately(facts.data) => FeedState::Live,
            // It has the right to be silent for as long as any other, from the moment that something is expected of it.
            Facts { expected: true, .. } if !lately(facts.heartbeat) && waited >= self.silent_after => FeedState::Stale,
            _ => FeedState::Quiet,
        }
    }
}
