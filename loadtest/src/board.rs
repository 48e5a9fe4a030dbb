//! What publisher and readers share: when each tick was due, and which ticks count.
//!
//! Ticks are numbered from 1; tick `n` is of symbol `n % universe`. The publisher writes a tick's due time before it hands the tick
//! over, a reader looks it up by the number that came back as the price. Promise: a time is never that of another tick; one that
//! has been overwritten counts as as old as the board reaches back. No lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Due times kept at most, counted: 128 MiB.
const SLOTS_MAX: u64 = 1 << 24;
const SLOTS_MIN: u64 = 1 << 16;
/// How far back the board should reach, seconds.
const REACH_SECONDS: u64 = 30;
/// Numbers stay below this, so that a reader can keep them in 32 bits.
pub(crate) const NUMBERS_MAX: u64 = u32::MAX as u64;

pub(crate) struct Board {
    epoch: Instant,
    due: Box<[AtomicU64]>,
    /// Symbols; tick `n` is of symbol `n % universe`.
    pub(crate) universe: u64,
    /// The newest tick's number.
    newest: AtomicU64,
    /// Ticks from here on are counted …
    first: AtomicU64,
    /// … up to this one.
    last: AtomicU64,
    /// Stalled clients do not read while it is set.
    pub(crate) stall: AtomicBool,
    /// Readers end.
    pub(crate) stop: AtomicBool,
}

impl Board {
    pub(crate) fn new(universe: u32, rate_max: u64) -> Self {
        let slots = (rate_max * REACH_SECONDS).next_power_of_two().clamp(SLOTS_MIN, SLOTS_MAX);
        Board {
            epoch: Instant::now(),
            due: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            universe: u64::from(universe),
            newest: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(u64::MAX),
            stall: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// Nanoseconds since the board was made.
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    /// Publisher: tick `number` was due then.
    pub(crate) fn note(&self, number: u64, due: u64) {
        self.due[(number as usize) & (self.due.len() - 1)].store(due, Ordering::Relaxed);
        self.newest.store(number, Ordering::Release);
    }

    /// Publisher: ticks from `first` on count.
    pub(crate) fn open(&self, first: u64) {
        self.last.store(u64::MAX, Ordering::Release);
        self.first.store(first, Ordering::Release);
    }

    /// Publisher: none above `last`.
    pub(crate) fn close(&self, last: u64) {
        self.last.store(last, Ordering::Release);
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Whether tick `number` can have been published.
    pub(crate) fn is_ours(&self, number: u64) -> bool {
        (1..=self.newest()).contains(&number)
    }

    /// Whether tick `number` is one that is measured.
    pub(crate) fn counts(&self, number: u64) -> bool {
        number >= self.first.load(Ordering::Acquire) && number <= self.last.load(Ordering::Acquire)
    }

    /// Age of tick `number` at `now`, nanoseconds.
    pub(crate) fn age(&self, number: u64, now: u64) -> u64 {
        if self.newest() - number.min(self.newest()) >= self.due.len() as u64 {
            // Its time has been overwritten: as old as the oldest that has not.
            let oldest = self.newest() - self.due.len() as u64 + 1;
            return self.age(oldest + 1, now);
        }
        now.saturating_sub(self.due[(number as usize) & (self.due.len() - 1)].load(Ordering::Relaxed))
    }

    /// The newest tick of `symbol` that counts, if any does.
    pub(crate) fn last_of(&self, symbol: u32) -> Option<u64> {
        let last = self.last.load(Ordering::Acquire).min(self.newest());
        let behind = (last % self.universe + self.universe - u64::from(symbol)) % self.universe;
        last.checked_sub(behind).filter(|number| *number >= self.first.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticks_age_counts_from_when_it_was_due_and_old_ones_keep_the_oldest_age_known() {
        let board = Board::new(10, 1);
        for number in 1..=70_000 {
            board.note(number, number * 10);
        }
        assert_eq!(board.age(70_000, 700_100), 100);
        assert_eq!(board.age(69_000, 700_000), 10_000);
        let reach = SLOTS_MIN * 10;
        assert!(board.age(1, 700_000) >= reach - 20 && board.age(1, 700_000) <= reach, "{}", board.age(1, 700_000));
        assert!(board.is_ours(1) && !board.is_ours(0) && !board.is_ours(70_001));
    }

    #[test]
    fn only_ticks_of_the_window_count_and_each_symbols_last_one_is_known() {
        let board = Board::new(10, 1);
        (1..=100).for_each(|number| board.note(number, 0));
        assert!(!board.counts(50), "closed before it was opened");
        board.open(41);
        board.close(67);
        assert_eq!([40, 41, 67, 68].map(|n| board.counts(n)), [false, true, true, false]);
        assert_eq!(board.last_of(7), Some(67));
        assert_eq!(board.last_of(8), Some(58));
        assert_eq!(board.last_of(0), Some(60));
        board.open(65);
        board.close(67);
        assert_eq!(board.last_of(8), None, "symbol 8 had none in the window");
    }
}
