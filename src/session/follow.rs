//! Following a user whose broker has changed: held subscriptions go on under the new label, on the new scope's streams.
//!
//! In: the registry's word that a source is another one, before each command and whenever it changes. Out: deactivations, then
//! activations in the engine. Promises: after [`Sessions::follow`] no tick of the old broker is sent to the session, none twice,
//! and MessagePack clients know the new ids before their ticks. A tick of the old broker still on its way is dropped; the newest young
//! value under the new label comes as a snapshot, so that none is missed. Cost: a short lock per live session and change of any user;
//! two per key that moves. Tests: `tests/broker_change.rs`.

use super::Sessions;
use super::held::Subscription;
use super::state::{Phase, Session};
use crate::engine::FrameKey;
use crate::engine::worker::Activate;
use crate::model::Format;
use crate::policy::conflation::Terms;
use crate::registry::Member;
use crate::shards::key::Pin;
use crate::wire::command::Depth;
use crate::wire::reply::{self, AckEntry, AckOutcome, Subscribed};
use bytes::Bytes;
use hashbrown::HashMap;
use std::rc::Rc;

/// A subscription on its way from one frame key to another.
struct Move {
    held: Subscription,
    to: FrameKey,
    pin: Pin,
    terms: Terms,
}

impl Sessions {
    /// Some user's source has changed: whoever is concerned follows.
    pub(super) fn follow_all(&self) {
        let all: Vec<_> = self.open.borrow().values().map(Rc::clone).collect();
        for session in all {
            self.follow(&session);
        }
    }

    /// Brings the session to its user's present broker and scope.
    pub(super) fn follow(&self, session: &Session) {
        let mut state = session.state.borrow_mut();
        let Phase::Live { member: Some(member), .. } = &mut state.phase else { return };
        let Some(source) = self.registry.source(member.user).filter(|s| s.version != member.version) else { return };
        (member.version, member.broker, member.scope) = (source.version, source.broker, source.scope);
        let member = member.clone();
        let mut moves = Vec::new();
        for held in state.held.in_order() {
            let (instrument, mode) = held.name();
            let Some(pin) = self.registry.pin_of(&member, instrument, mode) else { continue };
            let to = FrameKey::new(pin.stream, mode, session.format, member.broker);
            if to != held.key {
                state.held.move_to(instrument, mode, (to, pin.scale));
                let terms = self.worker.terms(session.id, held.key);
                moves.push(Move { held, to, pin, terms });
            }
        }
        drop(state);
        if moves.is_empty() {
            return;
        }
        let from: Vec<_> = moves.iter().map(|m| m.held.key).collect();
        let shards: HashMap<_, _> = moves.iter().map(|m| (m.held.key.stream(), self.shard_of(&m.held))).collect();
        self.worker.deactivate(session.id, &from, |key| self.unwanted(shards[&key.stream()], key));
        let notice = self.new_ids(session, &member, &moves);
        let label = self.label(member.broker);
        self.worker.activate(session.id, notice, &moves, |m| {
            let activation = self.shards.activate(self.shard_of(&m.held), m.to.stream(), self.interest(m.to));
            let Some(activation) = activation else {
                return Activate { key: m.to, floor: 0, snapshot: None, terms: m.terms };
            };
            // What was on its way under the old label has been dropped: without this the newest price could be missing until the next tick.
            let snapshot = activation.last.as_ref().filter(|last| self.is_young(last));
            let snapshot = snapshot.and_then(|last| self.snapshot(last, m.held.name().0, m.to, m.pin.scale, label));
            Activate { key: m.to, floor: activation.floor, snapshot, terms: m.terms }
        });
    }

    /// MessagePack ticks name their instrument by id only: a subscribe acknowledgement that nobody asked for says the new ones.
    fn new_ids(&self, session: &Session, member: &Member, moves: &[Move]) -> Option<Bytes> {
        let renamed = || moves.iter().filter(|m| m.held.key.stream() != m.to.stream());
        if session.format != Format::MsgPack || renamed().next().is_none() {
            return None;
        }
        let depths: Vec<_> = renamed().map(|m| Depth::Levels(m.pin.depth)).collect();
        let entry = |(m, depth)| {
            let Move { held, pin, .. }: &Move = m;
            let (name, mode) = held.name();
            let subscribed = Subscribed { mode, depth, id: pin.stream, scale: pin.scale };
            let outcome = AckOutcome::Success(subscribed);
            AckEntry { symbol: name.symbol, exchange: name.venue, outcome }
        };
        let entries: Vec<_> = renamed().zip(&depths).map(entry).collect();
        let mut json = Vec::with_capacity(256 + entries.len() * 128);
        reply::subscribe_ack(&mut json, session.format, self.label(member.broker), &entries, None);
        Some(reply::frame(session.format, &json).into())
    }
}
