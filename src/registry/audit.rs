//! The auditor: do sessions, registry and adapters agree on who holds what?
//!
//! It looks at one after the other while they change, so a single disagreement proves nothing: only what two audits in a
//! row see is drift. Off the tick path: costs about 0.1 µs and 16 bytes for each reference while it runs, so at a million
//! references call it from a thread that may be busy for a tenth of a second. A reference is known by its [`fingerprint`].

use super::Registry;
use crate::model::{Instrument, InstrumentRef, Mode, SessionId, UserId};
use crate::shards::ShardIndex;
use crate::shards::key::KeyView;
use ahash::RandomState;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

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

/// One of them by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Of [`BETWEEN`].
    pub between: &'static str,
    /// Whose it is.
    pub user: String,
    /// The session; `None` when it is about the user alone.
    pub session: Option<SessionId>,
    /// The key; `None` when it is about the user alone.
    pub key: Option<(Instrument, Mode)>,
}

/// What an audit found, for people.
#[derive(Clone, Debug)]
pub struct Findings {
    /// When.
    pub at: Instant,
    /// How much.
    pub drift: Drift,
    /// The first of each kind, by name, as far as they were still there.
    pub named: Vec<Disagreement>,
}

/// What a session's reference to a key is known by here: a thousand sessions with a thousand keys make a million references, too
/// many to keep their names.
pub fn fingerprint(
    hash: &RandomState,
    user: UserId,
    (instrument, mode): (InstrumentRef<'_>, Mode),
    session: SessionId,
) -> u64 {
    hash.hash_one((hash.hash_one((user, instrument, mode)), session))
}

/// Disagreements, each as the hash of what it is about.
#[derive(Default)]
struct Suspects {
    session_registry: HashSet<u64>,
    registry_session: HashSet<u64>,
    registry_adapter: HashSet<u64>,
}

impl Suspects {
    /// What is wrong in both.
    fn and(&self, other: &Suspects) -> Suspects {
        let both = |a: &HashSet<u64>, b: &HashSet<u64>| a.intersection(b).copied().collect();
        Suspects {
            session_registry: both(&self.session_registry, &other.session_registry),
            registry_session: both(&self.registry_session, &other.registry_session),
            registry_adapter: both(&self.registry_adapter, &other.registry_adapter),
        }
    }
}

/// Remembers what looked wrong last time.
#[derive(Default)]
pub struct Auditor {
    hash: RandomState,
    last: Suspects,
    /// What is drift since the last audit.
    lasting: Suspects,
}

impl Auditor {
    /// Makes this auditor's fingerprints.
    pub fn hash(&self) -> &RandomState {
        &self.hash
    }

    /// Compares what sessions believe to hold, live and pending, with the registry; sets the drift gauges, and returns what was
    /// wrong now and last time.
    pub fn audit(&mut self, registry: &Registry, mut held: Vec<u64>) -> Drift {
        let mut counted = Vec::with_capacity(held.len());
        let links: HashSet<UserId> = registry.links.with(|l| l.all()).into_iter().map(|(user, ..)| user).collect();
        let users: HashSet<UserId> = registry.users.with(|u| u.known()).into_iter().collect();
        let mut now = Suspects::default();
        now.registry_adapter.extend(links.difference(&users).map(|user| self.hash.hash_one(user)));
        for index in registry.shards.indexes() {
            for (key, user, sessions) in self.copy(registry, index) {
                if !links.contains(&user) {
                    now.registry_adapter.insert(key);
                }
                counted.extend(sessions.into_iter().map(|session| self.hash.hash_one((key, session))));
            }
        }
        held.sort_unstable();
        counted.sort_unstable();
        now.session_registry = without(&held, &counted);
        now.registry_session = without(&counted, &held);
        self.lasting = now.and(&self.last);
        self.last = now;
        let drift = Drift {
            session_registry: self.lasting.session_registry.len(),
            registry_session: self.lasting.registry_session.len(),
            registry_adapter: self.lasting.registry_adapter.len(),
        };
        registry.metrics.drifted(&drift);
        drift
    }

    /// The first `at_most` references that sessions believe in and the registry does not know: their names are asked of the sessions.
    pub fn unknown_to_registry(&self, at_most: usize) -> Arc<HashSet<u64>> {
        Arc::new(self.lasting.session_registry.iter().copied().take(at_most).collect())
    }

    /// The first `at_most` of each kind of the other disagreements, by name. What has gone meanwhile is left out. Costs as much as an audit.
    pub fn named(&self, registry: &Registry, at_most: usize) -> Vec<Disagreement> {
        let [_, registry_session, registry_adapter] = BETWEEN;
        let (mut leaked, mut orphaned) = (Vec::new(), Vec::new());
        for (user, ..) in registry.links.with(|l| l.all()) {
            if self.lasting.registry_adapter.contains(&self.hash.hash_one(user)) {
                orphaned.push((user, None, None));
            }
        }
        for index in registry.shards.indexes() {
            registry.shards.with(index, |shard| {
                for key in shard.keys.iter() {
                    let hash = self.hash.hash_one((key.user, key.name.instrument.as_ref(), key.name.mode));
                    let name = || Some((key.name.instrument.clone(), key.name.mode));
                    if self.lasting.registry_adapter.contains(&hash) && orphaned.len() < at_most {
                        orphaned.push((key.user, None, name()));
                    }
                    for session in key.sessions {
                        if leaked.len() < at_most
                            && self.lasting.registry_session.contains(&self.hash.hash_one((hash, session)))
                        {
                            leaked.push((key.user, Some(*session), name()));
                        }
                    }
                }
            });
        }
        orphaned.truncate(at_most);
        let found = leaked.into_iter().map(|one| (registry_session, one));
        let found = found.chain(orphaned.into_iter().map(|one| (registry_adapter, one)));
        let named =
            |(between, (user, session, key))| Disagreement { between, user: registry.user_name(user), session, key };
        found.map(named).collect()
    }

    /// The keys of one shard; the lock is held for a hash and a copy of the sessions of each.
    fn copy(&self, registry: &Registry, index: ShardIndex) -> Vec<(u64, UserId, Vec<SessionId>)> {
        registry.shards.with(index, |shard| {
            let keys = shard.keys.iter();
            let one = |k: KeyView<'_>| {
                let key = self.hash.hash_one((k.user, k.name.instrument.as_ref(), k.name.mode));
                (key, k.user, k.sessions.to_vec())
            };
            keys.map(one).collect()
        })
    }
}

/// Those of `these` that are not among `others`, which are sorted.
fn without(these: &[u64], others: &[u64]) -> HashSet<u64> {
    these.iter().copied().filter(|one| others.binary_search(one).is_err()).collect()
}
