//! The control channel as a pure machine: peers, sessions and who is served by which, fed with what was said and when.
//!
//! In: peers that come, speak and leave; adapters that start, command and go; ticks of a clock. Out: [`Effect`]s in order.
//! A session belongs to an owner, (broker, user) or (broker, everybody), and an owner has one session at most. A user with an
//! adapter process of its own, even a dead one, is never served by the shared one. Promises: every call is answered once or
//! forgotten by the supervisor's next generation; a session begins with nothing held (`unsubscribe_all` goes first); a key
//! that two users of a shared session hold is let go with the second. Knows no sockets, clocks or locks. Tests: `machine/tests.rs`.

mod calls;
mod hello;
#[cfg(test)]
mod tests;

use super::wire::{self, Malformed, Said};
use crate::adapter::{Command, Report};
use crate::limits;
use crate::model::Instrument;
use crate::shards::key::{CallId, KeyName};
use crate::zmtp::Endpoint;
use crate::zmtp::router::PeerId;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How long the answer to the first `unsubscribe_all` is waited for before calls are made all the same.
const CLEAR_WAIT: Duration = Duration::from_secs(2);
/// Endpoints of a dead adapter process are kept this long.
const ENDPOINTS_KEPT: Duration = Duration::from_secs(60);

/// `cause`: a hello with a wrong secret or none.
pub const CAUSE_SECRET: &str = "hello_secret";
/// `cause`: a hello that publishes where it may not.
pub const CAUSE_ENDPOINT: &str = "hello_endpoint";
/// `cause`: more (broker, user) pairs than there may be.
pub const CAUSE_OWNERS: &str = "hello_owners";
/// `cause`: words of a session that is over, from a peer that has another.
pub const CAUSE_STALE: &str = "stale_session";
/// `cause`: a result for no call, or a second one.
pub const CAUSE_UNKNOWN_ID: &str = "unknown_id";
/// `cause`: a session silent for too long.
pub const CAUSE_SILENT: &str = "silent";
/// `cause`: a session replaced by another hello for the same broker and user.
pub const CAUSE_REPLACED: &str = "replaced";
/// All of them.
pub const CAUSES: [&str; 7] =
    [CAUSE_SECRET, CAUSE_ENDPOINT, CAUSE_OWNERS, CAUSE_STALE, CAUSE_UNKNOWN_ID, CAUSE_SILENT, CAUSE_REPLACED];

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// What a hello must carry, if anything.
    pub secret: Option<String>,
    /// Whether publishers may be anywhere.
    pub allow_public: bool,
    /// The number before the first session's; larger at each start of a server.
    pub sessions_from: u64,
    /// A call without a session to carry it waits this long; less than the supervisor does.
    pub call_wait: Duration,
    /// An adapter that starts without a session is told to go on without one after this; less than the supervisor waits.
    pub connect_wait: Duration,
    /// Endpoints of the settings, with the owner if they have one: a hello cannot take them away.
    pub taken: Vec<(Endpoint, Option<Owner>)>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            secret: None,
            allow_public: false,
            sessions_from: 0,
            call_wait: Duration::from_secs(4),
            connect_wait: Duration::from_secs(20),
            taken: Vec::new(),
        }
    }
}

/// Whom an adapter process serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Broker, lower case.
    pub broker: String,
    /// One user, or all that have no process of their own.
    pub user: Option<String>,
}

/// One running [`super::ExternalAdapter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub u64);

/// What is to be done; in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this to a peer.
    Send(PeerId, Bytes),
    /// Tell an adapter's supervisor.
    Report(AdapterId, Report),
    /// The owner publishes exactly there; none of its own means the shared bus. Whether each tick comes once, in its highest mode.
    Publishes(Owner, Vec<Endpoint>, bool),
    /// The owner is gone for long: leave its endpoints, keep its scope.
    Abandon(Owner),
    /// Count a refusal.
    Reject(&'static str),
}

/// One peer's life as an adapter.
struct Session {
    peer: PeerId,
    owner: Owner,
    modes: [bool; 3],
    capacity: u64,
    heard: Instant,
    /// Call id of the first `unsubscribe_all`, and how long it is waited for; no adapter is bound before.
    clearing: Option<(u64, Instant)>,
    broker_connected: bool,
    last_id: u64,
    calls: BTreeMap<u64, Pending>,
    /// Who holds what, by successful or unanswered subscribes.
    held: HashMap<KeyName, Vec<AdapterId>>,
    /// Modes held by instrument: brokers count instruments.
    instruments: HashMap<Instrument, usize>,
}

/// A call on its way.
enum Pending {
    Subscribe(AdapterId, CallId, KeyName),
    Unsubscribe(AdapterId, CallId, KeyName),
    UnsubscribeAll(AdapterId, CallId),
    /// Nobody waits for the answer.
    Release,
}

/// An adapter, as its supervisor runs it.
struct Served {
    broker: String,
    user: String,
    session: Option<u64>,
    /// `Connect` has come; before that nothing may be reported.
    begun: bool,
    /// `Connect` is not answered; since when.
    connecting: Option<Instant>,
}

#[derive(Default)]
struct OwnerState {
    session: Option<u64>,
    /// Where it publishes.
    publishes: Vec<Endpoint>,
    /// When its last session ended.
    lost: Option<Instant>,
    /// A peer that was told to disconnect since nobody was left; it is asked back when somebody comes.
    parked: Option<PeerId>,
}

/// See the module's header.
pub struct Machine {
    config: Config,
    peers: HashMap<PeerId, Option<u64>>,
    sessions: HashMap<u64, Session>,
    owners: HashMap<Owner, OwnerState>,
    served: BTreeMap<AdapterId, Served>,
    /// Subscribes that found no session: when they fail.
    waiting: VecDeque<(Instant, AdapterId, CallId)>,
    last_session: u64,
    out: Vec<Effect>,
}

impl Machine {
    /// Nobody is there.
    pub fn new(config: Config) -> Self {
        Machine {
            last_session: config.sessions_from,
            config,
            peers: HashMap::new(),
            sessions: HashMap::new(),
            owners: HashMap::new(),
            served: BTreeMap::new(),
            waiting: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// What came of the last inputs.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// Sessions that live.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// A peer has connected.
    pub fn joined(&mut self, peer: PeerId) {
        self.peers.insert(peer, None);
    }

    /// A peer has gone, and its session with it.
    pub fn left(&mut self, peer: PeerId, now: Instant) {
        if let Some(Some(session)) = self.peers.remove(&peer) {
            self.end(session, "the adapter process has gone", now);
        }
    }

    /// A peer said this.
    pub fn message(&mut self, peer: PeerId, said: Result<Said, Malformed>, now: Instant) {
        let Some(live) = self.peers.get(&peer).copied() else { return };
        let said = match said {
            Ok(Said::Hello(hello)) => return self.hello(peer, hello, now),
            Ok(said) => said,
            Err(malformed) => {
                self.out.push(Effect::Reject(malformed.label()));
                Said::Unknown
            }
        };
        let Some(live) = live else { return self.out.push(Effect::Send(peer, wire::hello_required())) };
        match said {
            Said::Result { session, .. } | Said::Status { session, .. } | Said::Heartbeat { session }
                if session != live =>
            {
                return self.out.push(Effect::Reject(CAUSE_STALE));
            }
            _ => {}
        }
        if let Some(session) = self.sessions.get_mut(&live) {
            session.heard = now;
        }
        match said {
            Said::Heartbeat { .. } => self.out.push(Effect::Send(peer, wire::heartbeat(live))),
            Said::Result { id, outcome, .. } => self.result(live, id, outcome),
            Said::Status { connected, detail, .. } => self.status(live, connected, detail),
            Said::Unknown | Said::Hello(_) => {}
        }
    }

    /// An adapter runs; it will say `Connect`.
    pub fn started(&mut self, id: AdapterId, broker: &str, user: &str) {
        let (broker, user) = (broker.into(), user.into());
        let served = Served { broker, user, session: None, begun: false, connecting: None };
        self.served.insert(id, served);
    }

    /// An adapter has ended without `Disconnect`.
    pub fn gone(&mut self, id: AdapterId) {
        self.release(id);
        self.served.remove(&id);
    }

    /// What its supervisor wants of an adapter.
    pub fn command(&mut self, id: AdapterId, command: Command, now: Instant) {
        let Some(served) = self.served.get_mut(&id) else { return };
        match command {
            Command::Connect => {
                (served.begun, served.connecting) = (true, Some(now));
                self.bind(id);
                self.ask_back(id);
            }
            Command::Subscribe { call, name, depth } => self.subscribe(id, call, name, depth, now),
            Command::Unsubscribe { call, name } => self.unsubscribe(id, call, name),
            Command::UnsubscribeAll { call } => self.unsubscribe_all(id, call),
            Command::Disconnect => {
                self.disconnect(id, now);
                self.served.remove(&id);
                self.out.push(Effect::Report(id, Report::Disconnected));
            }
        }
    }

    /// Time has passed: who was silent is dead, who waited too long is told.
    pub fn tick(&mut self, now: Instant) {
        let silent = |s: &&Session| now.duration_since(s.heard) >= limits::CONTROL_SILENCE;
        let dead: Vec<u64> = self.sessions.iter().filter(|(_, s)| silent(s)).map(|(id, _)| *id).collect();
        for session in dead {
            self.out.push(Effect::Reject(CAUSE_SILENT));
            self.end(session, "the adapter process is silent", now);
        }
        let due = |s: &Session| s.clearing.is_some_and(|(_, until)| until <= now);
        let uncleared: Vec<u64> = self.sessions.iter().filter(|(_, s)| due(s)).map(|(id, _)| *id).collect();
        for session in uncleared {
            self.cleared(session);
        }
        while let Some((_, id, call)) = self.waiting.front().copied().filter(|(until, ..)| *until <= now) {
            self.waiting.pop_front();
            self.answer(id, call, Err(calls::no_process()));
        }
        for (id, served) in &mut self.served {
            if served.connecting.is_some_and(|since| now.duration_since(since) >= self.config.connect_wait) {
                served.connecting = None;
                self.out.push(Effect::Report(*id, Report::Connected));
                let reason = "no adapter process is connected".to_owned();
                self.out.push(Effect::Report(*id, Report::Down { reason }));
            }
        }
        for (owner, state) in &mut self.owners {
            let old = |lost: Instant| now.duration_since(lost) >= ENDPOINTS_KEPT;
            if !state.publishes.is_empty() && state.session.is_none() && state.lost.is_some_and(old) {
                state.publishes.clear();
                self.out.push(Effect::Abandon(owner.clone()));
            }
        }
    }

    /// A session is over: its adapters are down until the next one, and what they wait for waits with them.
    fn end(&mut self, id: u64, reason: &str, now: Instant) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(peer) = self.peers.get_mut(&session.peer) {
            *peer = None;
        }
        if let Some(owner) = self.owners.get_mut(&session.owner) {
            (owner.session, owner.lost) = (None, Some(now));
        }
        tracing::info!(broker = %session.owner.broker, user = session.owner.user.as_deref(), session = id, reason, "adapter process: session over");
        for pending in session.calls.into_values() {
            match pending {
                Pending::Subscribe(adapter, call, _) => {
                    self.waiting.push_back((now + self.config.call_wait, adapter, call));
                }
                // Nobody holds anything any more.
                Pending::Unsubscribe(adapter, call, _) | Pending::UnsubscribeAll(adapter, call) => {
                    self.answer(adapter, call, Ok(None));
                }
                Pending::Release => {}
            }
        }
        for (adapter, served) in self.served.iter_mut().filter(|(_, s)| s.session == Some(id)) {
            served.session = None;
            self.out.push(Effect::Report(*adapter, Report::Down { reason: reason.to_owned() }));
        }
    }

    /// Which owner's session serves this user: its own if it ever had one, else everybody's.
    fn owner_of(&self, served: &Served) -> Owner {
        let own = Owner { broker: served.broker.clone(), user: Some(served.user.clone()) };
        if self.owners.contains_key(&own) { own } else { Owner { user: None, ..own } }
    }

    /// Binds an adapter to its session if that is ready and another than before.
    fn bind(&mut self, id: AdapterId) {
        let Some(served) = self.served.get(&id).filter(|served| served.begun) else { return };
        let session = self.owners.get(&self.owner_of(served)).and_then(|owner| owner.session);
        let ready = session.filter(|s| self.sessions.get(s).is_some_and(|s| s.clearing.is_none()));
        if ready.is_none() || ready == served.session {
            return;
        }
        // It may have been served by everybody's session until now.
        self.release(id);
        let Some(served) = self.served.get_mut(&id) else { return };
        served.session = ready;
        let report = if served.connecting.take().is_some() { Report::Connected } else { Report::Restored };
        // Its supervisor makes every call anew.
        self.waiting.retain(|(_, adapter, _)| *adapter != id);
        self.out.push(Effect::Report(id, report));
    }

    /// The session holds nothing (or does not say): whoever waits for it is bound.
    fn cleared(&mut self, session: u64) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.clearing = None;
        }
        let all: Vec<AdapterId> = self.served.keys().copied().collect();
        for id in all {
            self.bind(id);
        }
    }

    /// An adapter starts whose process was told to disconnect and is still connected: it is asked to say hello.
    fn ask_back(&mut self, id: AdapterId) {
        let Some(served) = self.served.get(&id).filter(|s| s.session.is_none()) else { return };
        let owner = self.owner_of(served);
        let parked = self.owners.get_mut(&owner).and_then(|owner| owner.parked.take());
        if let Some(peer) = parked.filter(|peer| self.peers.get(peer) == Some(&None)) {
            self.out.push(Effect::Send(peer, wire::hello_required()));
        }
    }

    fn status(&mut self, id: u64, connected: bool, detail: String) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let before = std::mem::replace(&mut session.broker_connected, connected);
        tracing::info!(broker = %session.owner.broker, session = id, connected, detail, "adapter process: broker connection");
        if before == connected {
            return;
        }
        if connected {
            session.held.clear();
            session.instruments.clear();
        }
        for adapter in self.served.iter().filter(|(_, s)| s.session == Some(id)).map(|(adapter, _)| *adapter) {
            let reason = || format!("the broker connection is down: {detail}");
            let report = if connected { Report::Restored } else { Report::Down { reason: reason() } };
            self.out.push(Effect::Report(adapter, report));
        }
    }

    fn answer(&mut self, id: AdapterId, call: CallId, outcome: Result<Option<u32>, crate::adapter::CallError>) {
        self.out.push(Effect::Report(id, Report::Answer { call, outcome }));
    }
}
