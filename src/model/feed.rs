//! What is known of feeds as such: the words for their state, and when each last brought a tick.
//!
//! In: a note from ingest for each pass and source. Out: how long a feed has been silent. Relaxed atomics, a fixed table: noting costs
//! one store, and nobody waits. Knows nothing of users or adapters; `policy/feed_health` judges.

use super::id::{BrokerId, ScopeId};
use crate::limits::BROKERS_MAX;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// State of a user's feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FeedState {
    /// Ticks flow.
    Live,
    /// Connected; no ticks, and none are expected.
    Quiet,
    /// Connected; no ticks although some are expected.
    Stale,
    /// Not connected.
    Down,
    /// Connected again, subscriptions replayed.
    Recovered,
}

impl FeedState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            FeedState::Live => "live",
            FeedState::Quiet => "quiet",
            FeedState::Stale => "stale",
            FeedState::Down => "down",
            FeedState::Recovered => "recovered",
        }
    }
}

/// Scopes of one page of the table.
const PAGE: usize = 256;

/// When each feed last brought a tick. Scopes have a place each; on the shared bus, each broker prefix has one.
pub struct FeedClock {
    origin: Instant,
    /// Pages are made when a scope of theirs first ticks.
    scopes: Box<[OnceLock<Box<[AtomicU64]>>]>,
    /// Of the shared scope, by the topic's broker prefix.
    prefixes: Box<[AtomicU64]>,
}

impl FeedClock {
    /// Nothing has ticked yet.
    pub fn new(origin: Instant) -> Self {
        FeedClock {
            origin,
            scopes: (0..=usize::from(u16::MAX) / PAGE).map(|_| OnceLock::new()).collect(),
            prefixes: empty(BROKERS_MAX),
        }
    }

    /// A tick of this source and topic prefix has come; `at` as of [`FeedClock::reading`].
    pub fn ticked(&self, scope: ScopeId, prefix: Option<BrokerId>, at: u64) {
        let place = match prefix.filter(|_| scope == ScopeId::SHARED) {
            Some(broker) => self.prefixes.get(usize::from(broker.0)),
            None => {
                let page = self.scopes[usize::from(scope.0) / PAGE].get_or_init(|| empty(PAGE));
                page.get(usize::from(scope.0) % PAGE)
            }
        };
        // A prefix that is nobody's broker has no place.
        if let Some(place) = place {
            place.store(at, Relaxed);
        }
    }

    /// `now` as [`FeedClock::ticked`] takes it; never 0.
    pub fn reading(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64 + 1
    }

    /// How long ago the feed that a user of `broker` receives from `scope` last brought a tick; `None` when it never has.
    pub fn silence(&self, scope: ScopeId, broker: BrokerId, now: Instant) -> Option<Duration> {
        let page = self.scopes[usize::from(scope.0) / PAGE].get();
        let unprefixed = page.map_or(0, |page| page[usize::from(scope.0) % PAGE].load(Relaxed));
        let prefixed = self.prefixes.get(usize::from(broker.0)).filter(|_| scope == ScopeId::SHARED);
        let last = unprefixed.max(prefixed.map_or(0, |place| place.load(Relaxed)));
        (last > 0).then(|| Duration::from_millis(self.reading(now).saturating_sub(last)))
    }
}

fn empty(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_that_of_the_own_scope_and_on_the_shared_bus_of_the_own_prefix_or_none() {
        let origin = Instant::now();
        let clock = FeedClock::new(origin);
        let at = |s: u64| origin + Duration::from_secs(s);
        let (angel, dhan) = (BrokerId(1), BrokerId(2));
        assert_eq!(clock.silence(ScopeId::SHARED, angel, at(1)), None);
        clock.ticked(ScopeId::SHARED, Some(angel), clock.reading(at(1)));
        clock.ticked(ScopeId::SHARED, Some(BrokerId(u16::MAX)), clock.reading(at(9)));
        clock.ticked(ScopeId(700), Some(dhan), clock.reading(at(2)));
        let seconds = |scope, broker| clock.silence(scope, broker, at(10)).map(|s| s.as_secs());
        assert_eq!(seconds(ScopeId::SHARED, angel), Some(9));
        assert_eq!(seconds(ScopeId::SHARED, dhan), None, "another broker's prefix");
        assert_eq!(seconds(ScopeId(700), dhan), Some(8));
        assert_eq!(seconds(ScopeId(701), dhan), None);
        clock.ticked(ScopeId::SHARED, None, clock.reading(at(4)));
        assert_eq!((seconds(ScopeId::SHARED, angel), seconds(ScopeId::SHARED, dhan)), (Some(6), Some(6)));
        assert_eq!(seconds(ScopeId(700), dhan), Some(8), "the shared bus is not its feed");
    }
}
