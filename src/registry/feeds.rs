//! The feeds of all users, for whoever judges their health or shows them.
//!
//! In: nothing but the tables. Out: per user its broker, whose ticks it receives, where its adapter stands and what that shows. Two short
//! locks, one after the other. Tests: `tests/feeds.rs`.

use super::Registry;
use crate::adapter::supervisor::{Handle, State};
use crate::model::{BrokerId, ScopeId, UserId};
use std::sync::Arc;
use std::time::Duration;

/// One user's feed.
pub struct Feed {
    /// Whose it is.
    pub user: UserId,
    /// The same, by name.
    pub name: Arc<str>,
    /// Its broker, lower case.
    pub broker: Arc<str>,
    /// The broker, as clients and topics have it.
    pub label: BrokerId,
    /// Whose ticks the user receives.
    pub scope: ScopeId,
    /// Where the adapter stands.
    pub state: State,
    handle: Arc<Handle>,
}

impl Feed {
    /// What the adapter shows of its health.
    pub fn signs(&self) -> &crate::adapter::supervisor::Signs {
        self.handle.signs()
    }
}

impl Registry {
    /// All users with a supervisor.
    pub fn feeds(&self) -> Vec<Feed> {
        let feeds = self.links.with(|links| links.feeds());
        feeds.into_iter().map(|feed| self.complete(feed)).collect()
    }

    /// One user's; `None` when it has no supervisor.
    pub fn feed_of(&self, user: UserId) -> Option<Feed> {
        self.links.with(|links| links.feed(user)).map(|feed| self.complete(feed))
    }

    fn complete(&self, mut feed: Feed) -> Feed {
        feed.state = feed.handle.status().borrow().state.clone();
        // A user who has just gone has no name any more.
        feed.name = self.users.with(|users| users.name(feed.user)).unwrap_or(feed.name);
        feed
    }

    /// Different (instrument, mode) that somebody wants, whoever; a look at each key, one shard after the other.
    pub fn distinct_keys(&self) -> usize {
        let hash = ahash::RandomState::new();
        let mut distinct = 0;
        for index in self.shards.indexes() {
            // All keys of an instrument are in one shard.
            let mut wanted: Vec<u64> = self.shards.with(index, |shard| {
                let wanted = shard.keys.iter().filter(|key| !key.sessions.is_empty());
                wanted.map(|key| hash.hash_one((key.name.instrument.as_ref(), key.name.mode))).collect()
            });
            wanted.sort_unstable();
            wanted.dedup();
            distinct += wanted.len();
        }
        distinct
    }

    /// Sets the gauge of the longest silence by broker.
    pub fn observe_silence<'a>(&self, silences: impl Iterator<Item = (&'a str, Duration)>) {
        self.supervisors.metrics().observe_silence(silences);
    }
}

impl super::users::Links {
    fn feed(&self, user: UserId) -> Option<Feed> {
        let link = self.get(user)?;
        let source = self.source(user)?;
        Some(Feed {
            user,
            name: "".into(),
            broker: link.broker.clone().unwrap_or_else(|| "none".into()),
            label: source.broker,
            scope: source.scope,
            state: State::Absent,
            handle: link.handle.clone(),
        })
    }

    fn feeds(&self) -> Vec<Feed> {
        self.all().into_iter().filter_map(|(user, ..)| self.feed(user)).collect()
    }
}
