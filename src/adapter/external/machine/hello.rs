//! Who may say hello, and what follows: another session of the same owner ends, endpoints change hands, a new session begins.

use super::{
    CAUSE_ENDPOINT, CAUSE_OWNERS, CAUSE_REPLACED, CAUSE_SECRET, CLEAR_WAIT, Effect, Machine, Owner, Pending, Session,
};
use crate::adapter::external::wire::{self, Hello};
use crate::limits;
use crate::model::limited;
use crate::zmtp::Endpoint;
use crate::zmtp::router::PeerId;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

impl Machine {
    pub(super) fn hello(&mut self, peer: PeerId, hello: Hello, now: Instant) {
        let owner = Owner { broker: hello.broker.clone(), user: hello.user.clone() };
        let publishes = match self.admit(&hello, &owner) {
            Ok(publishes) => publishes,
            Err((cause, reason)) => {
                limited!(warn, 10, broker = %owner.broker, user = owner.user.as_deref(), reason, "an adapter's hello is refused");
                self.out.push(Effect::Reject(cause));
                return self.out.push(Effect::Send(peer, wire::disconnect(None, &reason)));
            }
        };
        if let Some(before) = self.peers.get(&peer).copied().flatten() {
            self.end(before, "the adapter process said hello again", now);
        }
        if let Some(first) = self.owners.get(&owner).and_then(|o| o.session) {
            self.out.push(Effect::Reject(CAUSE_REPLACED));
            if let Some(session) = self.sessions.get(&first) {
                self.out.push(Effect::Send(session.peer, wire::disconnect(Some(first), "replaced")));
            }
            self.end(first, "another adapter process said hello", now);
        }
        self.last_session += 1;
        let id = self.last_session;
        let state = self.owners.entry(owner.clone()).or_default();
        (state.session, state.lost, state.parked) = (Some(id), None, None);
        state.publishes.clone_from(&publishes);
        self.out.push(Effect::Publishes(owner.clone(), publishes));
        self.out.push(Effect::Send(peer, wire::welcome(id)));
        // What a process that has lived on still holds, from this server's life or one before, nobody knows.
        let clear = 1;
        self.out.push(Effect::Send(peer, wire::unsubscribe_all(id, clear)));
        let session = Session {
            peer,
            owner,
            modes: hello.modes,
            capacity: hello.capacity,
            heard: now,
            clearing: Some((clear, now + CLEAR_WAIT)),
            broker_connected: true,
            last_id: clear,
            calls: BTreeMap::from([(clear, Pending::Release)]),
            held: HashMap::new(),
            instruments: HashMap::new(),
        };
        tracing::info!(broker = %session.owner.broker, user = session.owner.user.as_deref(), session = id, "adapter process connected");
        self.sessions.insert(id, session);
        self.peers.insert(peer, Some(id));
    }

    /// Where it may publish besides what the settings connect to for it, or why it is refused.
    fn admit(&self, hello: &Hello, owner: &Owner) -> Result<Vec<Endpoint>, (&'static str, String)> {
        if let Some(secret) = &self.config.secret
            && !same(secret, hello.secret.as_deref().unwrap_or_default())
        {
            return Err((CAUSE_SECRET, "the secret is wrong or missing (adapters.secret)".into()));
        }
        if !self.owners.contains_key(owner) && self.owners.len() >= limits::CONTROL_OWNERS_MAX {
            return Err((CAUSE_OWNERS, "too many brokers and users have had an adapter process".into()));
        }
        let mut publishes = Vec::new();
        for text in &hello.publishes {
            let refuse = |why: String| (CAUSE_ENDPOINT, why);
            let endpoint: Endpoint = text.parse().map_err(|error| refuse(format!("{error}")))?;
            if !endpoint.is_local() && !self.config.allow_public {
                return Err(refuse(format!("{endpoint} is not on loopback (adapters.allow_public)")));
            }
            if endpoint.is_wildcard() || matches!(endpoint, Endpoint::Tcp { port: 0, .. }) {
                return Err(refuse(format!("{endpoint} is no address to connect to")));
            }
            let is_it = |other: &Endpoint| same_place(other, &endpoint);
            let others = self.owners.iter().any(|(other, s)| other != owner && s.publishes.iter().any(is_it));
            match self.config.taken.iter().find(|(taken, _)| is_it(taken)) {
                Some((_, Some(of))) if of == owner => continue,
                None if !others => {}
                _ => return Err(refuse(format!("{endpoint} belongs to somebody else"))),
            }
            if !publishes.iter().any(is_it) {
                publishes.push(endpoint);
            }
        }
        Ok(publishes)
    }
}

/// Whether both name one listener: `localhost` is an address too.
fn same_place(a: &Endpoint, b: &Endpoint) -> bool {
    let host = |endpoint: &Endpoint| match endpoint {
        Endpoint::Tcp { host, port } if host.eq_ignore_ascii_case("localhost") => Some(("127.0.0.1".to_owned(), *port)),
        Endpoint::Tcp { host, port } => Some((host.to_ascii_lowercase(), *port)),
        Endpoint::Ipc(_) => None,
    };
    a == b || host(a).is_some_and(|host_a| host(b) == Some(host_a))
}

/// Whether two secrets are equal, in a time that tells nothing of either.
fn same(ours: &str, theirs: &str) -> bool {
    let (ours, theirs) = (Sha256::digest(ours), Sha256::digest(theirs));
    ours.iter().zip(&theirs).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
