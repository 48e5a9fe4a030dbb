//! Sessions: one client's life, from the upgraded socket to the last goodbye.
//!
//! In: sockets from the front door, order updates from ingest, evictions from the engine. Out: commands to the registry, frames
//! and subscriptions to the engine. Promises: commands are carried out in order, one at a time; `ping` and
//! `get_supported_brokers` are answered at once; the reader never stops while a command is pending; a session that goes
//! away releases its references at once. Everything of one session happens on its worker's thread. Knows nothing of the
//! front door or of brokers. Tests: `transcript`, `errors`, `checklist`, `limits`, `snapshots` and `hostile_clients` in `tests/`.

mod audit;
mod commands;
pub mod feeds;
mod follow;
mod held;
mod metrics;
mod overload;
mod reader;
mod snapshot;
mod state;
mod xray;

pub use metrics::{COMMAND_SECONDS_BUCKETS, SessionMetrics};

use crate::adapter::sim::SimSwitch;
use crate::auth::AuthService;
use crate::engine::queue::Control;
use crate::engine::worker::Eviction;
use crate::engine::{FrameKey, Transport, Worker};
use crate::model::heartbeat::Heartbeat;
use crate::model::{BrokerId, Brokers, Format, InstrumentRef, Level, Mode, SessionId, SharedLevel, limited};
use crate::policy::{admission, diagnosis::Tcp};
use crate::registry::Registry;
use crate::shards::{Interest, ShardIndex, Shards};
use crate::wire::close::CloseReason;
use crate::wire::command::Command;
use crate::wire::{frame, reply};
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use held::{Names, Subscription};
use state::{Phase, Ping, Session, State};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(100);
/// Bytes read at once; one buffer serves all sessions of a worker, so an idle session holds none.
const READ_BYTES: usize = 64 << 10;

/// See [`SessionConfig::before_command`].
pub type BeforeCommand = Arc<dyn Fn(&Command) + Send + Sync>;

/// What sessions are told.
#[derive(Clone)]
pub struct SessionConfig {
    /// Subscriptions of one client.
    pub subscriptions_max: usize,
    /// Entries in one request.
    pub entries_max: usize,
    /// One inbound message, bytes; before authentication and after.
    pub message_bytes_max: (usize, usize),
    /// From accept to a verified key.
    pub auth_deadline: Duration,
    /// Failed authentications on one connection.
    pub auth_failures_max: u32,
    /// Rate of commands.
    pub commands: admission::Config,
    /// Ping period; zero = off.
    pub ping_interval: Duration,
    /// Time to answer a ping.
    pub ping_timeout: Duration,
    /// Sessions of one user.
    pub sessions_per_user: usize,
    /// Oldest last value sent unasked.
    pub snapshot_max_age: Duration,
    /// `normalise = "off"`.
    pub pass_through: bool,
    /// End drained and evicted sessions without a Close frame.
    pub drop_style: bool,
    /// What `get_supported_brokers` lists.
    pub supported_brokers: Vec<String>,
    /// The label of simulated sessions, and how to know that real ticks have come.
    pub sim: Option<(BrokerId, SimSwitch)>,
    /// Told to clients: ids and sequence numbers compare only within one.
    pub epoch: u64,
    /// How users' feeds are.
    pub feeds: Arc<feeds::Feeds>,
    /// How much the server sheds.
    pub overload: Arc<SharedLevel>,
    /// Asks the kernel about a connection.
    pub tcp_info: fn(BorrowedFd<'_>) -> Option<Tcp>,
    /// Called before each command is carried out; tests inject faults here.
    pub before_command: Option<BeforeCommand>,
}

/// A socket on its way from the front door to its worker.
pub struct NewSession {
    /// Non-blocking, registered with no runtime.
    pub tcp: std::net::TcpStream,
    /// What the client sent right behind its upgrade request.
    pub early: Bytes,
    /// The far side.
    pub peer: SocketAddr,
    /// Chosen by subprotocol.
    pub format: Format,
    /// When the connection was accepted.
    pub accepted_at: Instant,
    /// Dropped when the session is gone.
    pub permit: Box<dyn Any + Send>,
}

/// What all sessions of one worker share.
pub struct Sessions {
    config: SessionConfig,
    worker: Rc<Worker>,
    registry: Arc<Registry>,
    shards: Arc<Shards>,
    brokers: Arc<Brokers>,
    auth: AuthService,
    metrics: SessionMetrics,
    open: RefCell<HashMap<SessionId, Rc<Session>>>,
    /// Sessions that asked for order updates, by user.
    orders: RefCell<HashMap<Arc<str>, HashSet<SessionId>>>,
    names: RefCell<Names>,
    scratch: RefCell<Vec<u8>>,
    draining: Cell<bool>,
    /// The overload level that worker and sessions know of.
    level: Cell<Level>,
    /// When the slowest may be closed again.
    next_shed: Cell<Instant>,
}

impl Sessions {
    /// No session yet.
    pub fn new(
        config: SessionConfig,
        worker: Rc<Worker>,
        registry: Arc<Registry>,
        shards: Arc<Shards>,
        brokers: Arc<Brokers>,
        auth: AuthService,
        metrics: SessionMetrics,
    ) -> Rc<Self> {
        Rc::new(Sessions {
            config,
            worker,
            registry,
            shards,
            brokers,
            auth,
            metrics,
            open: RefCell::default(),
            orders: RefCell::default(),
            names: RefCell::default(),
            scratch: RefCell::new(vec![0; READ_BYTES]),
            draining: Cell::new(false),
            level: Cell::default(),
            next_shed: Cell::new(Instant::now()),
        })
    }

    /// Serves sessions on the worker's thread until a drain has said goodbye to all of them. Must run in a `LocalSet`.
    pub async fn run(
        self: Rc<Self>,
        mut arrivals: mpsc::Receiver<NewSession>,
        mut control: mpsc::Receiver<Control>,
        heartbeat: Heartbeat,
    ) {
        let mut timer = tokio::time::interval(SWEEP);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = tokio::time::Instant::now();
        let mut sources = self.registry.source_changes();
        let mut feeds = self.config.feeds.changes();
        loop {
            tokio::select! {
                Some(new) = arrivals.recv() => self.open(new),
                message = control.recv() => match message {
                    Some(Control::Order { user, json }) => self.order(&user, &json),
                    Some(Control::OrderGap { user }) => self.order_gap(&user),
                    Some(Control::OrderGapAll) => {
                        let users: Vec<_> = self.orders.borrow().keys().cloned().collect();
                        users.iter().for_each(|user| self.order_gap(user));
                    }
                    Some(Control::TicksLost) => self.worker.ticks_lost(),
                    Some(Control::Audit { hash, reply }) => {
                        tokio::task::spawn_local(Rc::clone(&self).holdings(hash, reply));
                    }
                    Some(Control::Named { hash, references, reply }) => {
                        tokio::task::spawn_local(Rc::clone(&self).named(hash, references, reply));
                    }
                    Some(Control::Sessions { ask, reply }) => {
                        tokio::task::spawn_local(Rc::clone(&self).xray(ask, reply));
                    }
                    Some(Control::Revoked(keys)) => self.revoked(&keys),
                    Some(Control::Drain) | None => self.drain(),
                },
                Ok(()) = sources.changed() => self.follow_all(),
                Ok(()) = feeds.changed() => self.tell_feeds(),
                (id, why) = self.worker.next_eviction() => self.evicted(id, why),
                now = timer.tick() => {
                    heartbeat.beat(Instant::now());
                    self.worker.sweep(Instant::now(), now.saturating_duration_since(due));
                    due = tokio::time::Instant::now() + SWEEP;
                    self.sweep(Instant::now());
                    self.follow_overload(Instant::now());
                }
            }
            if self.draining.get() && self.open.borrow().is_empty() && arrivals.is_empty() {
                heartbeat.retire();
                return;
            }
        }
    }

    fn open(self: &Rc<Self>, new: NewSession) {
        let transport = match Transport::plain(new.tcp) {
            Ok(transport) => Rc::new(transport),
            Err(error) => {
                limited!(warn, 1, %error, "a client's socket could not be taken over");
                return;
            }
        };
        let now = Instant::now();
        let id = self.worker.open(Rc::clone(&transport), new.format);
        let session = Rc::new(Session {
            id,
            peer: new.peer,
            format: new.format,
            accepted_at: new.accepted_at,
            transport,
            state: RefCell::new(State {
                phase: Phase::AwaitingAuth { deadline: new.accepted_at + self.config.auth_deadline },
                held: Default::default(),
                pending: Vec::new(),
                waiting: Default::default(),
                waiting_bytes: 0,
                busy: false,
                commands: Default::default(),
                auth_failures: 0,
                orders: false,
                feed_told: None,
                ping: Ping { next: now + self.config.ping_interval, due: None },
            }),
            _permit: new.permit,
        });
        self.metrics.unauthenticated.increment(1.0);
        self.open.borrow_mut().insert(id, Rc::clone(&session));
        if self.draining.get() {
            self.close(&session, CloseReason::GoingAway);
        }
        tokio::task::spawn_local(reader::read(Rc::clone(self), session, new.early));
    }

    /// Queues one message, written as JSON: a reply, error or notice.
    fn reply(&self, session: &Session, json: &[u8]) {
        self.worker.send(session.id, reply::frame(session.format, json).into());
    }

    /// Says goodbye: releases every reference at once, sends the Close frame, and leaves the socket a moment for the peer's.
    fn close(&self, session: &Session, reason: CloseReason) {
        self.close_with(session, reason, self.close_frame(reason));
    }

    /// The same with this Close frame, or without one.
    fn close_with(&self, session: &Session, reason: CloseReason, close_frame: Option<Bytes>) {
        let mut state = session.state.borrow_mut();
        if state.is_closing() {
            return;
        }
        let deadline = Instant::now() + crate::limits::CLOSE_WAIT;
        let phase = std::mem::replace(&mut state.phase, Phase::Closing { deadline });
        let held = state.held.take();
        let pending = std::mem::take(&mut state.pending);
        let orders = std::mem::take(&mut state.orders);
        state.waiting.clear();
        drop(state);
        self.metrics.closed(reason);
        let shards: HashMap<_, _> = held.iter().map(|s| (s.key.stream(), self.shard_of(s))).collect();
        self.worker.goodbye(session.id, close_frame, |key| {
            self.unwanted(shards[&key.stream()], key);
        });
        let (ticks, merged, bytes) = self.worker.written(session.id);
        let (reason_label, age, subscriptions) = (reason.label(), session.accepted_at.elapsed(), held.len());
        tracing::debug!(session = %session.id, reason = reason_label, ?age, subscriptions, ticks, merged, bytes, "session ended");
        match phase {
            Phase::Live { identity, member } => {
                self.metrics.live[session.format as usize].decrement(1.0);
                if orders {
                    self.forget_orders(&identity.user, session.id);
                }
                if let Some(member) = member {
                    let keys: Vec<(InstrumentRef<'_>, Mode)> = held
                        .iter()
                        .map(Subscription::name)
                        .chain(pending.iter().map(|(i, m)| (i.as_ref(), *m)))
                        .collect();
                    self.registry.leave_all(&member, session.id, keys);
                    self.registry.detach(session.id, &member);
                }
            }
            _ => self.metrics.unauthenticated.decrement(1.0),
        }
        if matches!(reason, CloseReason::PeerGone) || (self.config.drop_style && reason.may_drop_silently()) {
            session.transport.shutdown();
        }
    }

    fn close_frame(&self, reason: CloseReason) -> Option<Bytes> {
        match reason {
            CloseReason::PeerGone => None,
            CloseReason::PeerClosed => Some(frame::empty_close_frame().into()),
            _ if self.config.drop_style && reason.may_drop_silently() => None,
            _ => Some(frame::close_frame(reason.code(), reason.text()).into()),
        }
    }

    /// The reader has ended: nothing is left but to forget the session.
    fn finish(&self, session: &Session) {
        self.close(session, CloseReason::PeerGone);
        self.worker.remove(session.id, |_| {});
        session.transport.shutdown();
        self.open.borrow_mut().remove(&session.id);
    }

    fn evicted(&self, id: SessionId, why: Eviction) {
        let Some(session) = self.open.borrow().get(&id).cloned() else { return };
        self.close(
            &session,
            match why {
                Eviction::Overflow => CloseReason::OutboxFull,
                Eviction::Stalled => CloseReason::Stalled,
                Eviction::Gap => CloseReason::LosslessGap,
                Eviction::Shed => CloseReason::Shed,
                Eviction::Gone => CloseReason::PeerGone,
            },
        );
    }

    fn shard_of(&self, held: &Subscription) -> ShardIndex {
        self.shards.shard_of(held.name().0)
    }

    fn unwanted(&self, shard: ShardIndex, key: FrameKey) {
        self.shards.deactivate(shard, key.stream(), self.interest(key));
    }

    /// The broker name that clients see: once the simulated market is over, what its sessions get comes from the bus.
    fn label(&self, broker: BrokerId) -> &str {
        match &self.config.sim {
            Some((sim, switch)) if *sim == broker && switch.is_stopped() => "bus",
            _ => self.brokers.name(broker),
        }
    }

    fn interest(&self, key: FrameKey) -> Interest {
        Interest { worker: self.worker.id(), mode: key.mode(), format: key.format(), label: key.label() }
    }

    fn order(&self, user: &Arc<str>, json: &Bytes) {
        let orders = self.orders.borrow();
        let Some(ids) = orders.get(user) else { return };
        let mut framed: [Option<Bytes>; 2] = [None, None];
        for &id in ids {
            let Some(format) = self.open.borrow().get(&id).map(|session| session.format) else { continue };
            let bytes = framed[format as usize].get_or_insert_with(|| reply::frame(format, json).into());
            self.worker.send(id, bytes.clone());
        }
    }

    /// Order updates of `user` were lost: its sessions are closed rather than left with a hole.
    fn order_gap(&self, user: &Arc<str>) {
        let ids: Vec<_> = self.orders.borrow().get(user).into_iter().flatten().copied().collect();
        for id in ids {
            let session = self.open.borrow().get(&id).cloned();
            if let Some(session) = session {
                self.close(&session, CloseReason::LosslessGap);
            }
        }
    }

    fn revoked(&self, keys: &[u64]) {
        let all: Vec<_> = self.open.borrow().values().cloned().collect();
        for session in all {
            let revoked = match &session.state.borrow().phase {
                Phase::Live { identity, .. } => keys.contains(&identity.key_id),
                _ => false,
            };
            if revoked {
                self.close(&session, CloseReason::KeyRevoked);
            }
        }
    }

    fn forget_orders(&self, user: &Arc<str>, id: SessionId) {
        let mut orders = self.orders.borrow_mut();
        if let Some(ids) = orders.get_mut(user) {
            ids.remove(&id);
            if ids.is_empty() {
                orders.remove(user);
            }
        }
    }

    fn drain(&self) {
        if self.draining.replace(true) {
            return;
        }
        let all: Vec<_> = self.open.borrow().values().cloned().collect();
        for session in all {
            self.close(&session, CloseReason::GoingAway);
        }
    }

    /// Deadlines: authentication, pings, the closing handshake.
    fn sweep(&self, now: Instant) {
        let all: Vec<_> = self.open.borrow().values().cloned().collect();
        for session in all {
            let mut state = session.state.borrow_mut();
            let late = match state.phase {
                Phase::Closing { deadline } if now >= deadline => {
                    session.transport.shutdown();
                    continue;
                }
                Phase::Closing { .. } => continue,
                Phase::AwaitingAuth { deadline } if now >= deadline => Some(CloseReason::AuthTimeout),
                _ => state.ping.due.filter(|due| now >= *due).map(|_| CloseReason::PingTimeout),
            };
            let ping = late.is_none() && !self.config.ping_interval.is_zero() && now >= state.ping.next;
            if ping {
                state.ping.next = now + self.config.ping_interval;
                state.ping.due.get_or_insert(now + self.config.ping_timeout);
            }
            drop(state);
            if let Some(reason) = late {
                self.close(&session, reason);
            } else if ping {
                self.worker.send(session.id, frame::ping_frame(b"tickcast").into());
            }
        }
    }
}
