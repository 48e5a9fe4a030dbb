//! Who wants which instrument: one state machine a key, where a key is (user, instrument, mode).
//!
//! *Wanted* is the set of sessions that hold the key; the reference count is its size. *Actual* is what we believe of
//! the broker. Inputs: joins, leaves, results, timeouts, late answers, retries, resets. Out: an [`Effects`] with at most
//! one call for the adapter, the waiters to tell, and what happened (for logs and metrics).
//! Promises: at most one call in flight a key; a waiter is told exactly once; a leaver holds nothing from the moment it
//! leaves; once the adapter answers, actual comes to equal wanted; what we are unsure of is asked for again with back-off.
//! Cost: O(log sessions) to find a session in its key. Knows no clock, lock, adapter or wire format.
//! Tests: `key/tests.rs` (against a naive model), `tests/registry_races.rs`.

use crate::model::StreamId;

mod call;
mod fault;
mod machine;
mod standing;
mod table;
#[cfg(test)]
mod tests;

pub use call::{CallId, CallIds, Op};
pub use fault::{Fault, FaultCode};
pub use machine::{Call, Context, Effects, Event, Join, Key, Leave, Told, retry_delay};
pub use standing::Standing;
pub use table::{KeyName, KeyView, Pin, RefCounts, Touched};

/// All keys of one shard, as the registry fills it.
pub type KeyTable = table::KeyTable<Waiter>;

/// What a session hears through its reply channel, once per entry that was pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The feed is live for this session.
    Subscribed {
        /// The stream to take ticks from.
        stream: StreamId,
        /// Decimal digits of its integer prices.
        scale: u8,
        /// Price levels the adapter gives.
        depth: u32,
    },
    /// The broker has let go.
    Unsubscribed,
    /// It did not work. A subscribe has been rolled back; an unsubscribe has taken effect for the session all the same.
    Failed(Fault),
}

/// Where outcomes go: (entry, outcome). Its capacity is the number of entries, so that sending never waits.
pub type Reply = tokio::sync::mpsc::Sender<(u32, Outcome)>;

/// Somebody who waits for one key's call.
#[derive(Debug)]
pub struct Waiter {
    /// Index of the entry in the session's request.
    pub entry: u32,
    /// Where its outcome goes; a session that is gone no longer listens.
    pub reply: Reply,
}
