//! What an adapter is asked, and the number by which its answer is recognised.

use std::sync::atomic::{AtomicU64, Ordering};

/// Names one adapter call; larger = issued later. Never reused in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Where call ids come from; shared by all shards, so that an id is unique at an adapter.
#[derive(Debug, Default)]
pub struct CallIds(AtomicU64);

impl CallIds {
    /// The next id, from 1.
    pub fn next(&self) -> CallId {
        CallId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What an adapter is asked to do for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Start the feed of this (instrument, mode).
    Subscribe,
    /// Stop it.
    Unsubscribe,
}

impl Op {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Op::Subscribe => "subscribe",
            Op::Unsubscribe => "unsubscribe",
        }
    }
}
