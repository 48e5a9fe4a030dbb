//! How a worker keeps up, as the judge of overload wants to know it.
//!
//! In: a sample per flush, per sweep and per hand-over. Out: [`Load::take`], a few times a second, which starts afresh. Times are kept as
//! the smallest since the last look: one prompt batch proves that there is no standing queue. Relaxed atomics; nobody waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// No sample since the last look.
const NONE: u64 = u64::MAX;

/// One worker's.
#[derive(Debug)]
pub struct Load {
    /// Microseconds.
    delay: AtomicU64,
    lag: AtomicU64,
    in_hand: AtomicUsize,
    offered: AtomicU64,
    merged: AtomicU64,
}

impl Default for Load {
    fn default() -> Self {
        Load {
            delay: AtomicU64::new(NONE),
            lag: AtomicU64::new(NONE),
            in_hand: AtomicUsize::new(0),
            offered: AtomicU64::new(0),
            merged: AtomicU64::new(0),
        }
    }
}

/// What came since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadSeen {
    /// The smallest time from the bus read of a batch until it was done with; `None` without a batch.
    pub delay: Option<Duration>,
    /// The smallest lateness of a sweep; `None` without a sweep.
    pub lag: Option<Duration>,
    /// Batches taken up and not done with.
    pub in_hand: usize,
    /// Ticks offered to its queue.
    pub offered: u64,
    /// Those of them that merged because it was full.
    pub merged: u64,
}

impl Load {
    /// A batch is done with, so long after its bus read.
    pub fn delivered(&self, after: Duration) {
        self.delay.fetch_min(after.as_micros() as u64, Relaxed);
    }

    /// A sweep came so late.
    pub fn swept(&self, late_by: Duration) {
        self.lag.fetch_min(late_by.as_micros() as u64, Relaxed);
    }

    /// So many batches are taken up and not done with.
    pub fn holds(&self, batches: usize) {
        self.in_hand.store(batches, Relaxed);
    }

    /// Ingest has handed over so many ticks, of which so many merged.
    pub fn offered(&self, ticks: u64, merged: u64) {
        self.offered.fetch_add(ticks, Relaxed);
        self.merged.fetch_add(merged, Relaxed);
    }

    /// What came since the last call.
    pub fn take(&self) -> LoadSeen {
        let time = |cell: &AtomicU64| match cell.swap(NONE, Relaxed) {
            NONE => None,
            micros => Some(Duration::from_micros(micros)),
        };
        LoadSeen {
            delay: time(&self.delay),
            lag: time(&self.lag),
            in_hand: self.in_hand.load(Relaxed),
            offered: self.offered.swap(0, Relaxed),
            merged: self.merged.swap(0, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_a_period_counts_and_the_next_period_starts_afresh() {
        let (load, ms) = (Load::default(), Duration::from_millis);
        load.delivered(ms(900));
        load.delivered(ms(3));
        load.delivered(ms(700));
        load.swept(ms(5));
        load.offered(10, 2);
        load.offered(5, 0);
        load.holds(4);
        let seen = load.take();
        assert_eq!((seen.delay, seen.lag), (Some(ms(3)), Some(ms(5))));
        assert_eq!((seen.offered, seen.merged, seen.in_hand), (15, 2, 4));
        assert_eq!(load.take(), LoadSeen { delay: None, lag: None, in_hand: 4, offered: 0, merged: 0 });
    }
}
