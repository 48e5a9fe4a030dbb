//! One session's state: which phase of its life it is in, what it holds, and what it is owed.
//!
//! Data only; the worker thread owns it. `reader.rs` feeds it, `commands.rs` acts on it, `mod.rs` ends it.

use super::held::Held;
use crate::auth::Identity;
use crate::engine::Transport;
use crate::model::{Class, FeedState, Format, Instrument, Mode, SessionId};
use crate::policy::admission::TokenBucket;
use crate::registry::Member;
use crate::wire::command::{Command, CommandError};
use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A connected client.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) peer: SocketAddr,
    pub(super) accepted_at: Instant,
    pub(super) format: Format,
    pub(super) transport: Rc<Transport>,
    pub(super) state: RefCell<State>,
    /// Gives the front door's slots back when dropped.
    pub(super) _permit: Box<dyn Any + Send>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) held: Held,
    /// References taken by the subscribe that is pending; released with the rest if the session ends first.
    pub(super) pending: Vec<(Instrument, Mode)>,
    /// Commands that wait for the one being carried out.
    pub(super) waiting: VecDeque<(Result<Command, CommandError>, usize)>,
    pub(super) waiting_bytes: usize,
    /// A task carries commands out.
    pub(super) busy: bool,
    pub(super) commands: TokenBucket,
    pub(super) auth_failures: u32,
    pub(super) orders: bool,
    /// The last state of its feed that it was told.
    pub(super) feed_told: Option<(FeedState, bool)>,
    pub(super) ping: Ping,
}

/// Where a session is in its life.
pub(super) enum Phase {
    /// No key has been verified yet.
    AwaitingAuth { deadline: Instant },
    /// A key has been verified. Without a usable broker there is no `member`; authenticating again is the way to get one.
    Live { identity: Identity, member: Option<Member> },
    /// Everything is released; the socket gets a moment for the closing handshake.
    Closing { deadline: Instant },
}

/// Liveness by protocol pings.
pub(super) struct Ping {
    pub(super) next: Instant,
    /// A ping is out; its pong is due by then.
    pub(super) due: Option<Instant>,
}

impl State {
    /// The user behind the session, once a key has been verified.
    pub(super) fn user(&self) -> Option<&Arc<str>> {
        match &self.phase {
            Phase::Live { identity, .. } => Some(&identity.user),
            _ => None,
        }
    }

    /// How much the session matters under overload, once a key has been verified.
    pub(super) fn class(&self) -> Option<Class> {
        match &self.phase {
            Phase::Live { identity, .. } => Some(identity.class),
            _ => None,
        }
    }

    /// Whether the session has been given up.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. })
    }
}
