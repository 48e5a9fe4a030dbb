//! How overloaded the server is, as one number that every thread can read.
//!
//! In: the level, set by whoever judges it a few times a second. Out: the same, read by workers, sessions and the front door. One
//! atomic and no queue: news of an overload must not wait behind what overloads. What a level means stands in `policy/overload`.

use std::sync::atomic::{AtomicU8, Ordering};

/// How much the server sheds; each level includes the milder ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Nothing.
    #[default]
    Normal,
    /// Longer rests between flushes, so that one write carries more.
    Paced,
    /// Ticks of `latest` sessions merge to a lower rate.
    Conflated,
    /// No new subscriptions for keys of class low.
    Held,
    /// No new sessions, and the slowest of class low are closed.
    Refusing,
}

impl Level {
    /// Every level, mildest first; the position is the number that clients and metrics see.
    pub const ALL: [Level; 5] = [Level::Normal, Level::Paced, Level::Conflated, Level::Held, Level::Refusing];

    /// The number that clients and metrics see.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The next harsher one, if there is any.
    pub fn up(self) -> Option<Level> {
        Level::ALL.get(self as usize + 1).copied()
    }

    /// The next milder one.
    pub fn down(self) -> Level {
        Level::ALL[(self as usize).saturating_sub(1)]
    }
}

/// The level in force.
#[derive(Debug, Default)]
pub struct SharedLevel(AtomicU8);

impl SharedLevel {
    /// Sets it.
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Release);
    }

    /// Reads it.
    pub fn get(&self) -> Level {
        Level::ALL[usize::from(self.0.load(Ordering::Acquire))]
    }
}
