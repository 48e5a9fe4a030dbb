//! The auditor: do sessions, registry and adapters agree on who holds what?
//!
//! It looks at one after the other while they change, so a single disagreement proves nothing: only what two audits in a
//! row see is drift. Off the tick path; costs a visit of each key and each session's set.

use super::Registry;
use crate::model::{InstrumentRef, Mode, SessionId, UserId};
use crate::shards::key::KeyName;
use std::collections::HashSet;

/// `between` labels of `tickcast_subscription_drift`.
pub const BETWEEN: [&str; 3] = ["session_registry", "registry_session", "registry_adapter"];

/// Disagreements that have lasted for two audits, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// A session believes that it holds a key; the registry does not know it.
    pub session_registry: usize,
    /// The registry counts a reference that no session knows of.
    pub registry_session: usize,
    /// A key without a supervisor who could call for it, or a supervisor without a user.
    pub registry_adapter: usize,
}

impl Drift {
    /// In the order of [`BETWEEN`].
    pub fn counts(&self) -> [usize; 3] {
        [self.session_registry, self.registry_session, self.registry_adapter]
    }
}

/// What one session believes to hold, live and pending.
pub struct Held<K> {
    /// Which session.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// Its keys.
    pub keys: K,
}

type Reference = (UserId, KeyName, SessionId);

#[derive(Default)]
struct Suspects {
    session_registry: HashSet<Reference>,
    registry_session: HashSet<Reference>,
    registry_adapter: HashSet<(UserId, Option<KeyName>)>,
}

/// Remembers what looked wrong last time.
#[derive(Default)]
pub struct Auditor {
    last: Suspects,
}

impl Auditor {
    /// Compares, sets the drift gauges, and returns what was wrong now and last time.
    pub fn audit<'a, K>(&mut self, registry: &Registry, sessions: impl IntoIterator<Item = Held<K>>) -> Drift
    where
        K: IntoIterator<Item = (InstrumentRef<'a>, Mode)>,
    {
        let mut held = HashSet::new();
        for Held { session, user, keys } in sessions {
            let name =
                |(instrument, mode): (InstrumentRef<'_>, Mode)| KeyName { instrument: instrument.to_owned(), mode };
            held.extend(keys.into_iter().map(|key| (user, name(key), session)));
        }
        let links: HashSet<UserId> = registry.links.with(|l| l.all()).into_iter().map(|(user, ..)| user).collect();
        let users: HashSet<UserId> = registry.users.with(|u| u.known()).into_iter().collect();
        let mut now = Suspects::default();
        let mut counted = HashSet::new();
        for index in registry.shards.indexes() {
            registry.shards.with(index, |shard| {
                for key in shard.keys.iter() {
                    if !links.contains(&key.user) {
                        now.registry_adapter.insert((key.user, Some(key.name.clone())));
                    }
                    counted.extend(key.sessions.iter().map(|s| (key.user, key.name.clone(), *s)));
                }
            });
        }
        now.registry_adapter.extend(links.difference(&users).map(|user| (*user, None)));
        now.session_registry = held.difference(&counted).cloned().collect();
        now.registry_session = counted.difference(&held).cloned().collect();
        let drift = Drift {
            session_registry: now.session_registry.intersection(&self.last.session_registry).count(),
            registry_session: now.registry_session.intersection(&self.last.registry_session).count(),
            registry_adapter: now.registry_adapter.intersection(&self.last.registry_adapter).count(),
        };
        self.last = now;
        registry.metrics.drifted(&drift);
        drift
    }
}
