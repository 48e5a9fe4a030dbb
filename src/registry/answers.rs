//! What the registry is asked and what it answers, entry by entry.

use super::Fault;
use crate::model::{BrokerId, InstrumentRef, Mode, ScopeId, StreamId, UserId};
use std::sync::Arc;

/// What a session is to the registry, from its first attach on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Valid while a session of the user is attached.
    pub user: UserId,
    /// The user's broker; its name is `unknown` when the key store names none.
    pub broker: BrokerId,
    /// Whose ticks the user receives.
    pub scope: ScopeId,
    /// Which change of broker or scope this is as of; compare with [`super::Registry::source`].
    pub version: u64,
    /// The user's name.
    pub name: Arc<str>,
}

/// The broker part of an attach went wrong. The session is attached all the same: it counts, it must be detached, and
/// attaching again is how it retries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", fault.message)]
pub struct AttachError {
    /// What to tell the client.
    pub fault: Fault,
    /// What the session is now.
    pub member: Member,
}

/// One entry of a subscribe request.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// Which instrument; must be acceptable ([`InstrumentRef::is_acceptable`]).
    pub instrument: InstrumentRef<'a>,
    /// Which mode.
    pub mode: Mode,
    /// Price levels asked for; counts for the first session of the key only.
    pub depth: u32,
}

/// What became of an entry of a subscribe request, so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The feed is live already; the session holds a reference now.
    Joined {
        /// The stream to take ticks from.
        stream: StreamId,
        /// Decimal digits of its integer prices.
        scale: u8,
        /// Price levels the adapter gives.
        depth: u32,
    },
    /// The session holds the key already (live or pending); nothing was changed.
    Duplicate {
        /// The stream.
        stream: StreamId,
        /// Decimal digits of its integer prices.
        scale: u8,
        /// Price levels, as far as known.
        depth: u32,
    },
    /// The session holds a reference; the outcome follows through `reply`.
    Pending,
    /// Nothing is held.
    Refused(Fault),
}

/// What became of an entry of an unsubscribe request, so far. Unless `NotHeld`, the reference is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsubscribeDecision {
    /// Done; others may remain.
    Left,
    /// It was the last reference: what the broker says follows through `reply`.
    Pending,
    /// The session does not hold the key. Nobody was called.
    NotHeld,
}
