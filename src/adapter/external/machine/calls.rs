//! Calls of the served adapters: sent with an id of the session, answered, shared among the users of one session.

use super::{AdapterId, CAUSE_UNKNOWN_ID, Effect, Machine, Pending, Session};
use crate::adapter::CallError;
use crate::adapter::external::wire;
use crate::limits;
use crate::shards::key::{CallId, KeyName};
use tokio::time::Instant;

/// Why a call fails while nobody is there.
pub(super) fn no_process() -> CallError {
    CallError::Failed("no adapter process is connected".into())
}

impl Session {
    /// The next call's id; the oldest unanswered is forgotten when there are too many.
    fn put(&mut self, pending: Pending) -> u64 {
        self.last_id += 1;
        self.calls.insert(self.last_id, pending);
        if self.calls.len() > 2 * limits::ADAPTER_CALLS_PENDING {
            self.calls.pop_first();
        }
        self.last_id
    }

    fn hold(&mut self, name: &KeyName, adapter: AdapterId) {
        let holders = self.held.entry(name.clone()).or_insert_with(|| {
            *self.instruments.entry(name.instrument.clone()).or_default() += 1;
            Vec::new()
        });
        if !holders.contains(&adapter) {
            holders.push(adapter);
        }
    }

    /// Whether nobody holds it any more, now.
    fn let_go(&mut self, name: &KeyName, adapter: AdapterId) -> bool {
        let Some(holders) = self.held.get_mut(name) else { return false };
        let before = holders.len();
        holders.retain(|holder| *holder != adapter);
        if holders.len() == before || !holders.is_empty() {
            return false;
        }
        self.held.remove(name);
        if let Some(modes) = self.instruments.get_mut(&name.instrument) {
            *modes -= 1;
            if *modes == 0 {
                self.instruments.remove(&name.instrument);
            }
        }
        true
    }

    /// Why it cannot take this, if so.
    fn refuses(&self, name: &KeyName) -> Option<CallError> {
        if !self.modes[name.mode.index()] {
            let words = format!("The adapter does not serve mode {} ({})", name.mode.int(), name.mode.label());
            return Some(CallError::Refused(words));
        }
        let full = self.capacity > 0 && self.instruments.len() as u64 >= self.capacity;
        let words = || format!("MAX_CAPACITY_REACHED: the adapter holds {} instruments at most", self.capacity);
        (full && !self.instruments.contains_key(&name.instrument)).then(|| CallError::Refused(words()))
    }
}

impl Machine {
    fn session_of(&mut self, id: AdapterId) -> Option<(u64, &mut Session)> {
        let session = self.served.get(&id)?.session?;
        Some((session, self.sessions.get_mut(&session)?))
    }

    pub(super) fn subscribe(&mut self, id: AdapterId, call: CallId, name: KeyName, depth: u32, now: Instant) {
        let until = now + self.config.call_wait;
        let Some((number, session)) = self.session_of(id) else {
            return self.waiting.push_back((until, id, call));
        };
        if let Some(refused) = session.refuses(&name) {
            return self.answer(id, call, Err(refused));
        }
        session.hold(&name, id);
        let call_id = session.put(Pending::Subscribe(id, call, name.clone()));
        let send = Effect::Send(session.peer, wire::subscribe(number, call_id, &name, depth));
        self.out.push(send);
    }

    pub(super) fn unsubscribe(&mut self, id: AdapterId, call: CallId, name: KeyName) {
        let Some((number, session)) = self.session_of(id) else {
            // What a session held ends with it.
            return self.answer(id, call, Ok(None));
        };
        if session.held.get(&name).is_some_and(|holders| holders.iter().any(|holder| *holder != id)) {
            session.let_go(&name, id);
            return self.answer(id, call, Ok(None));
        }
        let call_id = session.put(Pending::Unsubscribe(id, call, name.clone()));
        let send = Effect::Send(session.peer, wire::unsubscribe(number, call_id, &name));
        self.out.push(send);
    }

    pub(super) fn unsubscribe_all(&mut self, id: AdapterId, call: CallId) {
        let Some((number, session)) = self.session_of(id) else { return self.answer(id, call, Ok(None)) };
        if session.held.values().flatten().any(|holder| *holder != id) {
            self.release(id);
            return self.answer(id, call, Ok(None));
        }
        let call_id = session.put(Pending::UnsubscribeAll(id, call));
        let send = Effect::Send(session.peer, wire::unsubscribe_all(number, call_id));
        self.out.push(send);
    }

    /// Lets go of what only this adapter holds.
    pub(super) fn release(&mut self, id: AdapterId) {
        self.waiting.retain(|(_, adapter, _)| *adapter != id);
        let Some((number, session)) = self.session_of(id) else { return };
        let held = session.held.iter().filter(|(_, holders)| holders.contains(&id));
        let names: Vec<KeyName> = held.map(|(name, _)| name.clone()).collect();
        let mut sends = Vec::new();
        for name in names {
            if session.let_go(&name, id) {
                let call_id = session.put(Pending::Release);
                sends.push(Effect::Send(session.peer, wire::unsubscribe(number, call_id, &name)));
            }
        }
        self.out.extend(sends);
    }

    /// The user's linger is over, or the adapter is rebuilt: a process of its own is told to log out, and stays connected;
    /// everybody's only lets go.
    pub(super) fn disconnect(&mut self, id: AdapterId, now: Instant) {
        let Some((number, session)) = self.session_of(id) else { return };
        if session.owner.user.is_none() {
            return self.release(id);
        }
        let (peer, owner) = (session.peer, session.owner.clone());
        self.out.push(Effect::Send(peer, wire::disconnect(Some(number), "unused")));
        // Nothing more is reported to the one who asked.
        self.served.remove(&id);
        self.end(number, "it is not needed any more", now);
        if let Some(state) = self.owners.get_mut(&owner) {
            state.parked = Some(peer);
        }
    }

    pub(super) fn result(&mut self, session: u64, id: u64, outcome: Result<Option<u32>, CallError>) {
        let Some(live) = self.sessions.get_mut(&session) else { return };
        let Some(pending) = live.calls.remove(&id) else {
            return self.out.push(Effect::Reject(CAUSE_UNKNOWN_ID));
        };
        if live.clearing.is_some_and(|(clearing, _)| clearing == id) {
            return self.cleared(session);
        }
        match pending {
            Pending::Subscribe(adapter, call, name) => {
                if outcome.is_err() {
                    live.let_go(&name, adapter);
                }
                self.answer(adapter, call, outcome);
            }
            Pending::Unsubscribe(adapter, call, name) => {
                if outcome.is_ok() {
                    live.let_go(&name, adapter);
                }
                self.answer(adapter, call, outcome);
            }
            Pending::UnsubscribeAll(adapter, call) => {
                if outcome.is_ok() {
                    let names: Vec<KeyName> = live.held.keys().cloned().collect();
                    for name in names {
                        live.let_go(&name, adapter);
                    }
                }
                self.answer(adapter, call, outcome);
            }
            Pending::Release => {}
        }
    }
}
