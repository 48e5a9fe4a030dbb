//! Whose ticks a user receives: its broker's label and its scope, and what follows when the key store names another broker.
//!
//! In: attaches and invalidations. Out: keys whose pins have moved to the streams of the new scope, and then a wake-up for
//! the session layer. Promises: a key is moved under its shard's lock, one shard after the other; a key made meanwhile is in
//! the new scope or is found; sessions hear of a change only when every key has moved, and no change can be lost, since they
//! compare versions. Cost of a change: each shard's lock once. Tests: `tests/broker_change.rs`.

use super::{Member, Registry};
use crate::adapter::symbols::Table;
use crate::model::{BrokerId, InstrumentRef, Mode, ScopeId, UserId};
use crate::shards::Shard;
use crate::shards::key::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Label and scope of what a user receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Counts changes of all users; another version says that everything held must be looked up again.
    pub version: u64,
    /// The broker, as clients see it.
    pub broker: BrokerId,
    /// Whose ticks.
    pub scope: ScopeId,
}

impl Registry {
    /// What `user` receives now; `None` when it has no supervisor.
    pub fn source(&self, user: UserId) -> Option<Source> {
        self.links.with(|links| links.source(user))
    }

    /// Wakes up whenever some user's source has changed.
    pub fn source_changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The stream that a key pins now.
    pub fn pin_of(&self, member: &Member, instrument: InstrumentRef<'_>, mode: Mode) -> Option<Pin> {
        self.shards.with(self.shards.shard_of(instrument), |shard| shard.keys.pin_of(member.user, instrument, mode))
    }

    /// From now on the user's ticks at this broker come from `scope`, or with `None` from everybody's. Sessions follow.
    pub fn set_source(&self, broker: &str, user: &str, scope: Option<ScopeId>) {
        self.links.with(|links| links.set_own(&broker.to_ascii_lowercase(), user, scope));
        // Who attaches from here on finds it; who did before is known.
        let Some((id, name)) = self.users.with(|users| users.named(user)) else { return };
        if self.links.with(|links| links.rescope(id, &name)) {
            self.move_keys(id);
        }
    }

    /// What the key store's broker means, but for the scope, which the table of links knows; `None` when there are too many
    /// brokers.
    pub(super) fn source_for(&self, broker: &str) -> Option<(Arc<str>, Source)> {
        let id = self.brokers.intern(broker)?;
        let scope = ScopeId::SHARED;
        Some((broker.to_ascii_lowercase().into(), Source { version: self.next_version(), broker: id, scope }))
    }

    /// The user's source has changed: moves every key, then lets sessions follow. The version they will see.
    pub(super) fn move_keys(&self, user: UserId) -> u64 {
        let link = self.links.with(|links| links.get(user).map(|link| (link.handle.clone(), link.broker.clone())));
        let name = self.users.with(|users| users.name(user));
        if let Some((handle, broker)) = link {
            let table = broker.zip(name).and_then(|(broker, name)| self.supervisors.table(&broker, &name));
            for index in self.shards.indexes() {
                let full = self.shards.with(index, |shard| move_pins(shard, user, handle.scope(), table.as_deref()));
                if full > 0 {
                    self.metrics.limit_exceeded.increment(full as u64);
                    tracing::warn!(
                        user = user.0,
                        keys = full,
                        "too many instruments: the old broker's streams are kept"
                    );
                }
            }
        }
        let version = self.next_version();
        self.links.with(|links| links.announce(user, version));
        self.changed.send_replace(());
        version
    }

    fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Moves the user's pins to the streams of `scope`. How many could not be moved, for want of room.
fn move_pins(shard: &mut Shard, user: UserId, scope: ScopeId, table: Option<&Table>) -> usize {
    let Shard { streams, keys } = shard;
    let mut full = 0;
    keys.move_pins(user, |name, stream| {
        if streams.stream(stream).is_some_and(|(held, _)| held == scope) {
            return None;
        }
        let instrument = name.instrument.as_ref();
        let digits = table.and_then(|table| table.find(instrument)?.scale).unwrap_or(0);
        let pinned = streams.raise_scale(scope, instrument, digits).and_then(|_| streams.pin(scope, instrument));
        let Ok(pinned) = pinned else {
            full += 1;
            return None;
        };
        streams.unpin(stream);
        Some((pinned.stream, pinned.scale))
    });
    full
}
