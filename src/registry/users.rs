//! The two small tables behind the user and the adapter lock: who is attached, and whose supervisor is where.
//!
//! Plain data; every method is short and calls nobody. No method of one knows of the other, so that their locks are
//! never nested. A user's entry goes when its supervisor retires and no session is left; ids are never reused.

use super::sources::Source;
use crate::adapter::supervisor::Handle;
use crate::model::{ScopeId, SessionId, UserId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Sessions by user.
#[derive(Default)]
pub(super) struct Users {
    ids: HashMap<Arc<str>, UserId>,
    by_id: HashMap<UserId, User>,
    last_id: u32,
}

struct User {
    name: Arc<str>,
    sessions: HashSet<SessionId>,
}

impl Users {
    /// Counts `session` under the user's name; twice is once. Whether it was new.
    pub(super) fn attach(&mut self, session: SessionId, name: &str) -> (UserId, Arc<str>, bool) {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                self.last_id += 1;
                let (id, name): (_, Arc<str>) = (UserId(self.last_id), name.into());
                self.ids.insert(name.clone(), id);
                self.by_id.insert(id, User { name, sessions: HashSet::new() });
                id
            }
        };
        let user = self.by_id.get_mut(&id).expect("a name leads to a user");
        let new = user.sessions.insert(session);
        (id, user.name.clone(), new)
    }

    /// How many sessions are left, if this one was there.
    pub(super) fn detach(&mut self, session: SessionId, id: UserId) -> Option<usize> {
        let user = self.by_id.get_mut(&id)?;
        user.sessions.remove(&session).then_some(user.sessions.len())
    }

    /// Forgets a user without sessions.
    pub(super) fn forget_idle(&mut self, id: UserId) {
        if self.by_id.get(&id).is_some_and(|u| u.sessions.is_empty())
            && let Some(user) = self.by_id.remove(&id)
        {
            self.ids.remove(&user.name);
        }
    }

    /// The name of a user who is known.
    pub(super) fn name(&self, id: UserId) -> Option<Arc<str>> {
        self.by_id.get(&id).map(|user| user.name.clone())
    }

    pub(super) fn find(&self, name: &str) -> Option<UserId> {
        self.ids.get(name).copied()
    }

    /// Id and name of a user who is known.
    pub(super) fn named(&self, name: &str) -> Option<(UserId, Arc<str>)> {
        self.ids.get_key_value(name).map(|(name, id)| (*id, name.clone()))
    }

    /// Sessions of a user; `None` when it is not known.
    pub(super) fn sessions(&self, id: UserId) -> Option<usize> {
        self.by_id.get(&id).map(|u| u.sessions.len())
    }

    /// (users with a session, sessions).
    pub(super) fn counts(&self) -> (usize, usize) {
        let sessions = self.by_id.values().map(|u| u.sessions.len());
        sessions.filter(|n| *n > 0).fold((0, 0), |(users, all), n| (users + 1, all + n))
    }

    /// Users known, with or without sessions.
    pub(super) fn known(&self) -> Vec<UserId> {
        self.by_id.keys().copied().collect()
    }
}

impl Link {
    /// Takes label and scope of `source`. Whether keys must move, which ends in [`Links::announce`].
    fn turn(&mut self, source: Source) -> bool {
        let other = (self.source.broker, self.source.scope) != (source.broker, source.scope);
        let changed = other || self.moving > 0;
        self.moving += u32::from(changed);
        (self.source.broker, self.source.scope) = (source.broker, source.scope);
        self.handle.set_scope(source.scope);
        changed
    }
}

/// Supervisors by user, and who has ticks of its own.
#[derive(Default)]
pub(super) struct Links {
    by_user: HashMap<UserId, Link>,
    /// (broker, user) -> scope of its own source; whoever is not here receives everybody's.
    own: HashMap<(Arc<str>, Arc<str>), ScopeId>,
}

/// What is desired of one supervisor, and its handle.
pub(super) struct Link {
    pub(super) handle: Arc<Handle>,
    pub(super) broker: Option<Arc<str>>,
    pub(super) ticket: u64,
    pub(super) rebuild: u64,
    /// Label and scope of what the user receives. A change is told to sessions by its version, which comes last.
    source: Source,
    /// Changes not yet told: who attaches meanwhile must not go on before its keys have moved.
    moving: u32,
}

/// What an attach found.
pub(super) struct Attached {
    pub(super) handle: Arc<Handle>,
    pub(super) ticket: u64,
    /// The source as of the last change that is complete.
    pub(super) version: u64,
    /// The source is another one now: keys must move.
    pub(super) changed: bool,
    /// Whose ticks the user receives.
    pub(super) scope: ScopeId,
}

impl Links {
    /// Gives the user of a broker (lower case) ticks of its own, or takes them away.
    pub(super) fn set_own(&mut self, broker: &str, user: &str, scope: Option<ScopeId>) {
        let owner = (broker.into(), user.into());
        match scope {
            Some(scope) => _ = self.own.insert(owner, scope),
            None => _ = self.own.remove(&owner),
        }
    }

    /// `source` with the scope of this owner.
    fn scoped(&self, broker: &Arc<str>, name: &Arc<str>, source: Source) -> Source {
        let scope = self.own.get(&(broker.clone(), name.clone())).copied().unwrap_or(ScopeId::SHARED);
        Source { scope, ..source }
    }

    /// Brings a user to the scope that is its own now. Whether keys must move, which ends in [`Links::announce`].
    pub(super) fn rescope(&mut self, user: UserId, name: &Arc<str>) -> bool {
        let Some(link) = self.by_user.get(&user) else { return false };
        let Some(broker) = link.broker.clone() else { return false };
        let source = self.scoped(&broker, name, link.source);
        self.by_user.get_mut(&user).is_some_and(|link| link.turn(source))
    }

    /// One more attach to a supervisor that is there.
    pub(super) fn attach(
        &mut self,
        user: UserId,
        name: &Arc<str>,
        broker: &Arc<str>,
        source: Source,
    ) -> Option<Attached> {
        let source = self.scoped(broker, name, source);
        let link = self.by_user.get_mut(&user)?;
        link.ticket += 1;
        if link.broker.as_ref() != Some(broker) {
            link.broker = Some(broker.clone());
        }
        let changed = link.turn(source);
        let (handle, ticket, version) = (link.handle.clone(), link.ticket, link.source.version);
        Some(Attached { handle, ticket, version, changed, scope: source.scope })
    }

    /// As `attach`, with `handle` if there is none. Whether it was taken.
    pub(super) fn attach_or_insert(
        &mut self,
        user: UserId,
        name: &Arc<str>,
        broker: &Arc<str>,
        source: Source,
        handle: Arc<Handle>,
    ) -> (Attached, bool) {
        if let Some(attached) = self.attach(user, name, broker, source) {
            return (attached, false);
        }
        let source = self.scoped(broker, name, source);
        handle.set_scope(source.scope);
        let link =
            Link { handle: handle.clone(), broker: Some(broker.clone()), ticket: 1, rebuild: 0, source, moving: 0 };
        self.by_user.insert(user, link);
        let Source { version, scope, .. } = source;
        (Attached { handle, ticket: 1, version, changed: false, scope }, true)
    }

    /// The user's source.
    pub(super) fn source(&self, user: UserId) -> Option<Source> {
        self.by_user.get(&user).map(|l| l.source)
    }

    /// The user's keys have moved: sessions may follow.
    pub(super) fn announce(&mut self, user: UserId, version: u64) {
        if let Some(link) = self.by_user.get_mut(&user) {
            link.source.version = version;
            link.moving = link.moving.saturating_sub(1);
        }
    }

    pub(super) fn handle(&self, user: UserId) -> Option<Arc<Handle>> {
        self.by_user.get(&user).map(|l| l.handle.clone())
    }

    pub(super) fn get(&self, user: UserId) -> Option<&Link> {
        self.by_user.get(&user)
    }

    /// One more demand to rebuild; without a broker, what is held stays as it is. Whether the source has changed.
    pub(super) fn rebuild(
        &mut self,
        user: UserId,
        name: &Arc<str>,
        broker: Option<(Arc<str>, Source)>,
    ) -> Option<(Arc<Handle>, bool)> {
        let broker = broker.map(|(broker, source)| (broker.clone(), self.scoped(&broker, name, source)));
        let link = self.by_user.get_mut(&user)?;
        link.rebuild += 1;
        let (broker, source) = broker.unzip();
        link.broker = broker;
        let changed = source.is_some_and(|source| link.turn(source));
        Some((link.handle.clone(), changed))
    }

    /// One more demand to rebuild, at the same broker.
    pub(super) fn refresh(&mut self, user: UserId) -> Option<Arc<Handle>> {
        let link = self.by_user.get_mut(&user)?;
        link.rebuild += 1;
        Some(link.handle.clone())
    }

    /// Forgets a supervisor unless somebody has attached since `ticket`.
    pub(super) fn retire(&mut self, user: UserId, ticket: u64) -> bool {
        match self.by_user.get(&user) {
            Some(link) if link.ticket != ticket => false,
            _ => {
                self.by_user.remove(&user);
                true
            }
        }
    }

    pub(super) fn all(&self) -> Vec<(UserId, Arc<str>, Arc<Handle>)> {
        let none: Arc<str> = "none".into();
        let each = self.by_user.iter();
        each.map(|(u, l)| (*u, l.broker.clone().unwrap_or_else(|| none.clone()), l.handle.clone())).collect()
    }
}
