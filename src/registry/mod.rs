//! Registry: which session of which user wants what, and which adapter must therefore do what.
//!
//! In: attach, detach, subscribe, unsubscribe from sessions (any worker thread), answers from supervisors (control thread).
//! Out: a decision per entry at once, outcomes of pending entries through the caller's bounded reply queue, calls for
//! adapters. A session that wants ticks activates itself at the shards when it is told that its entry is live.
//! Promises: no method waits but `attach` (at most `attach_window`); per entry one shard lock, never two locks at once;
//! a broker sees first-in and last-out only; what is rolled back, left or retired leaves nothing behind.
//! Knows nothing of sockets, formats or ticks. Tests: `tests/registry_races.rs`, `tests/registry_threads.rs`, `tests/adapter_lifecycle.rs`.

mod answers;
pub mod audit;
mod feeds;
pub mod metrics;
mod owner;
mod sources;
pub mod streams;
mod unavailable;
mod users;

use self::metrics::RegistryMetrics;
use self::unavailable::failed;
use self::users::{Attached, Links, Users};
use crate::adapter::supervisor::{Handle, State, Supervisors, broker_fault};
use crate::adapter::symbols::Table;
use crate::model::{BrokerId, Brokers, InstrumentRef, Mode, ScopeId, SessionId, UserId, limited};
use crate::shards::key::{Context, Effects, Event, Join, KeyName, Leave, Touched, Waiter};
use crate::shards::{LockName, Shards, TimedLock};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;

pub use self::answers::{AttachError, Decision, Member, UnsubscribeDecision, Want};
pub use self::feeds::Feed;
pub use self::sources::Source;
pub use crate::shards::key::{Fault, FaultCode, Outcome, RefCounts, Reply};

/// One user's own tick source (`[[bus.source]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedSource {
    /// Scope of its ticks.
    pub scope: ScopeId,
    /// Broker whose feed it is.
    pub broker: String,
    /// The only user who receives it.
    pub user: String,
}

/// Settings of the registry.
#[derive(Clone, Debug)]
pub struct Config {
    /// Users with a source of their own.
    pub sources: Vec<ScopedSource>,
    /// How long `attach` waits for the adapter before it goes on in the background.
    pub attach_window: Duration,
    /// Locks waited for or held longer than this are logged.
    pub lock_slow: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config { sources: Vec::new(), attach_window: Duration::from_secs(3), lock_slow: crate::limits::LOCK_SLOW }
    }
}

/// The registry; see the module's header.
pub struct Registry {
    config: Config,
    shards: Arc<Shards>,
    brokers: Arc<Brokers>,
    supervisors: Arc<Supervisors>,
    metrics: RegistryMetrics,
    users: TimedLock<Users>,
    links: TimedLock<Links>,
    /// See [`Source::version`].
    versions: AtomicU64,
    changed: watch::Sender<()>,
}

impl Registry {
    /// An empty registry over these shards.
    pub fn new(
        config: Config,
        shards: Arc<Shards>,
        brokers: Arc<Brokers>,
        supervisors: Arc<Supervisors>,
        metrics: RegistryMetrics,
    ) -> Arc<Self> {
        let slow = config.lock_slow;
        let mut links = Links::default();
        for ScopedSource { scope, broker, user } in &config.sources {
            links.set_own(&broker.to_ascii_lowercase(), user, Some(*scope));
        }
        Arc::new(Registry {
            config,
            shards,
            brokers,
            supervisors,
            metrics,
            users: TimedLock::new(LockName::User, None, slow, Users::default()),
            links: TimedLock::new(LockName::Adapter, None, slow, links),
            versions: AtomicU64::new(0),
            changed: watch::Sender::new(()),
        })
    }

    /// Counts `session` under `user` and waits until the user's adapter is ready, has failed, or the window is over (it
    /// then goes on in the background and subscribes queue). `broker` is what the key store names. Attaching again is
    /// re-authentication and retry, and with another broker moves all of the user's keys before it waits; as another user,
    /// the caller detaches the old member first. A first attach that is dropped before it is done counts for nothing.
    ///
    /// # Errors
    /// The broker part failed; the session stays attached.
    pub async fn attach(
        self: &Arc<Self>,
        session: SessionId,
        user: &str,
        broker: Option<&str>,
    ) -> Result<Member, AttachError> {
        let (id, name, new) = self.users.with(|users| users.attach(session, user));
        let mut undo = Undo { registry: new.then_some(self), session, user: id };
        let Some((broker, source)) = broker.and_then(|b| self.source_for(b)) else {
            let nothing = Source { version: 0, broker: BrokerId(u16::MAX), scope: ScopeId::SHARED };
            // What the user's other sessions hold goes on until its credentials are declared invalid.
            let Source { version, broker, scope } = self.source(id).unwrap_or(nothing);
            let member = Member { user: id, broker, scope, name, version };
            undo.registry = None;
            let (text, cause) = ("No broker is configured for this user", "no usable broker row");
            return Err(AttachError { fault: broker_fault(FaultCode::Broker, id, "none", text, cause), member });
        };
        let Attached { handle, ticket, mut version, changed, scope } = self.link(id, &name, &broker, source);
        if changed {
            version = self.move_keys(id);
        }
        let member = Member { user: id, broker: source.broker, scope, name, version };
        let mut status = handle.status();
        let decided = status.wait_for(|s| s.ticket >= ticket && s.state.is_decided());
        let state = match tokio::time::timeout(self.config.attach_window, decided).await {
            Ok(Ok(status)) => status.state.clone(),
            // Late, or the control runtime is going down: subscribes will queue, or be refused.
            Ok(Err(_)) | Err(_) => State::Connecting,
        };
        undo.registry = None;
        match state.fault() {
            Some(fault) => Err(AttachError { fault: fault.clone(), member }),
            None => Ok(member),
        }
    }

    /// `session` has gone (or becomes another user's). Its references must have been released. The user's last session
    /// starts the linger.
    pub fn detach(&self, session: SessionId, member: &Member) {
        self.detach_user(session, member.user);
    }

    /// Takes a reference for each want. Entry `i` of the answer is about `wants[i]`; for `Pending` ones `(i, outcome)`
    /// follows through `reply`, whose capacity must be at least `wants.len()`.
    pub fn subscribe(&self, member: &Member, session: SessionId, wants: &[Want<'_>], reply: &Reply) -> Vec<Decision> {
        let link =
            self.links.with(|links| links.get(member.user).map(|link| (link.handle.clone(), link.broker.clone())));
        let Some((handle, broker)) = link else {
            return vec![Decision::Refused(self.no_adapter(member)); wants.len()];
        };
        if let Some(fault) = failed(&handle) {
            return vec![Decision::Refused(fault); wants.len()];
        }
        let table = broker.and_then(|broker| self.supervisors.table(&broker, &member.name));
        let of = Feeder { handle: &handle, table: table.as_deref() };
        let entries = wants.iter().enumerate();
        entries.map(|(i, want)| self.subscribe_one(member, session, want, i as u32, reply, of)).collect()
    }

    /// Gives back a reference for each key. Entry `i` of the answer is about `keys[i]`; for `Pending` ones `(i, outcome)`
    /// follows through `reply`, whose capacity must be at least `keys.len()`.
    pub fn unsubscribe(
        &self,
        member: &Member,
        session: SessionId,
        keys: &[(InstrumentRef<'_>, Mode)],
        reply: &Reply,
    ) -> Vec<UnsubscribeDecision> {
        let Some(handle) = self.links.with(|links| links.handle(member.user)) else {
            return vec![UnsubscribeDecision::NotHeld; keys.len()];
        };
        let leave = |(i, key): (usize, &(InstrumentRef<'_>, Mode))| {
            let waiter = Waiter { entry: i as u32, reply: reply.clone() };
            match self.leave_one(member.user, session, *key, Some(waiter), &handle) {
                Leave::Left => UnsubscribeDecision::Left,
                Leave::Pending => UnsubscribeDecision::Pending,
                Leave::NotHeld => UnsubscribeDecision::NotHeld,
            }
        };
        keys.iter().enumerate().map(leave).collect()
    }

    /// Gives back references of a session that has closed, pending ones too. Nobody waits for the broker.
    pub fn leave_all<'a>(
        &self,
        member: &Member,
        session: SessionId,
        keys: impl IntoIterator<Item = (InstrumentRef<'a>, Mode)>,
    ) {
        let Some(handle) = self.links.with(|links| links.handle(member.user)) else { return };
        for key in keys {
            self.leave_one(member.user, session, key, None, &handle);
        }
    }

    /// Credentials of `user` have changed: the adapter is rebuilt in the background and everything replayed. `broker` is
    /// what the key store names now; `None` (revoked) leaves clients without an adapter until they attach again.
    pub fn invalidate(&self, user: &str, broker: Option<&str>) {
        let Some((id, name)) = self.users.with(|users| users.named(user)) else { return };
        let broker = broker.and_then(|b| self.source_for(b));
        if let Some((handle, changed)) = self.links.with(|links| links.rebuild(id, &name, broker)) {
            if changed {
                self.move_keys(id);
            }
            handle.nudge();
        }
    }

    /// As [`Registry::invalidate`] when nobody can say what the key store names now: rebuilt at the broker that it has.
    pub fn refresh(&self, user: &str) {
        let Some((id, _)) = self.users.with(|users| users.named(user)) else { return };
        if let Some(handle) = self.links.with(|links| links.refresh(id)) {
            handle.nudge();
        }
    }

    /// A session that asked twice for what it holds was answered without a look here.
    pub fn count_duplicate(&self) {
        self.metrics.duplicate.increment(1);
    }

    /// A session that gave back what it does not hold was answered without a look here.
    pub fn count_not_held(&self) {
        self.metrics.not_held.increment(1);
    }

    /// Sessions attached under `user`.
    pub fn sessions_of(&self, user: &str) -> usize {
        self.users.with(|users| users.find(user).and_then(|id| users.sessions(id)).unwrap_or(0))
    }

    /// What `get_broker_info` says of the user's adapter: `connected`, `connecting` or `disconnected`.
    pub fn adapter_status(&self, user: UserId) -> &'static str {
        let handle = self.links.with(|links| links.handle(user));
        let state = handle.map(|h| h.status().borrow().state.clone());
        match state {
            Some(State::Live | State::Degraded | State::Lingering | State::Kept) => "connected",
            Some(State::Connecting | State::Closing | State::Reauthenticating { takes_calls: false }) => "connecting",
            _ => "disconnected",
        }
    }

    /// The id of a user who is attached or kept.
    pub fn user_id(&self, user: &str) -> Option<UserId> {
        self.users.with(|users| users.find(user))
    }

    /// All supervisors: user, broker, where the adapter stands. For the console and `feed_status`.
    pub fn adapters(&self) -> Vec<(UserId, Arc<str>, State)> {
        let links = self.links.with(|links| links.all());
        links.into_iter().map(|(user, broker, h)| (user, broker, h.status().borrow().state.clone())).collect()
    }

    /// References by count, over all shards. Takes each shard's lock in turn.
    pub fn counts(&self) -> RefCounts {
        let mut sum = RefCounts::default();
        for shard in self.shards.indexes() {
            sum.add(&self.shards.with(shard, |s| s.keys.counts()));
        }
        sum
    }

    /// Sets the gauges; to be called every second or so, off the tick path.
    pub fn observe(&self) {
        let (users, _) = self.users.with(|users| users.counts());
        self.metrics.observe(&self.counts(), users);
        let links = self.links.with(|links| links.all());
        let stands = |handle: &Handle| Some((handle.status().borrow().state.label()?, handle.signs().connections()));
        let adapters = links.iter().filter_map(|(_, broker, handle)| {
            let (state, connections) = stands(handle)?;
            Some((&**broker, state, connections))
        });
        self.supervisors.metrics().observe(adapters);
    }

    /// Times and counts of the user and adapter locks, for the lock metrics.
    pub fn lock_stats(&self) -> [&Arc<crate::shards::LockStats>; 2] {
        [self.users.stats(), self.links.stats()]
    }

    fn detach_user(&self, session: SessionId, user: UserId) {
        let left = self.users.with(|users| users.detach(session, user));
        if left != Some(0) {
            return;
        }
        match self.links.with(|links| links.handle(user)) {
            Some(handle) => handle.nudge(),
            // A user without a broker never had a supervisor that could forget it.
            None => self.users.with(|users| users.forget_idle(user)),
        }
    }

    /// The user's supervisor, made if there is none, told of one more attach.
    fn link(self: &Arc<Self>, user: UserId, name: &Arc<str>, broker: &Arc<str>, source: Source) -> Attached {
        if let Some(attached) = self.links.with(|links| links.attach(user, name, broker, source)) {
            attached.handle.nudge();
            return attached;
        }
        let (handle, unstarted) = self.supervisors.prepare();
        let (attached, ours) = self.links.with(|links| links.attach_or_insert(user, name, broker, source, handle));
        if ours {
            self.supervisors.start(user, name.clone(), self.clone(), attached.handle.clone(), unstarted);
        } else {
            attached.handle.nudge();
        }
        attached
    }

    fn subscribe_one(
        &self,
        member: &Member,
        session: SessionId,
        want: &Want<'_>,
        entry: u32,
        reply: &Reply,
        Feeder { handle, table }: Feeder<'_>,
    ) -> Decision {
        let (user, Want { instrument, mode, depth }) = (member.user, *want);
        let waiter = Waiter { entry, reply: reply.clone() };
        let now = tokio::time::Instant::now().into_std();
        let mut fx = Effects::default();
        // Prices may have more digits than their exchange's usually do: the id that is told goes with a scale that holds them.
        let digits = table.and_then(|table| table.find(instrument)?.scale).unwrap_or(0);
        let joined = self.shards.with(self.shards.shard_of(instrument), |shard| {
            if !shard.keys.has(user, instrument, mode) {
                shard.streams.raise_scale(handle.scope(), instrument, digits).ok()?;
                let pinned = shard.streams.pin(handle.scope(), instrument).ok()?;
                shard.keys.insert(user, instrument, mode, pinned.stream, pinned.scale);
            }
            let cx = Context { now, generation: handle.generation(), calls: self.supervisors.call_ids() };
            shard.keys.join(user, (instrument, mode), session, waiter, depth, &cx, &mut fx)
        });
        let Some((join, touched)) = joined else {
            self.metrics.limit_exceeded.increment(1);
            return Decision::Refused(Fault::new(FaultCode::Limit, "Too many instruments, or the name is too long"));
        };
        let Touched { stream, scale, .. } = touched;
        if !matches!(join, Join::Duplicate { .. }) {
            self.metrics.references.record(touched.refs as f64);
        }
        self.act(user, Some(handle), KeyName { instrument: instrument.to_owned(), mode }, touched, fx);
        match join {
            Join::Live { depth } => Decision::Joined { stream, scale, depth },
            Join::Pending => Decision::Pending,
            Join::Duplicate { depth } => {
                self.metrics.duplicate.increment(1);
                Decision::Duplicate { stream, scale, depth }
            }
        }
    }

    fn leave_one(
        &self,
        user: UserId,
        session: SessionId,
        (instrument, mode): (InstrumentRef<'_>, Mode),
        waiter: Option<Waiter>,
        handle: &Handle,
    ) -> Leave {
        let now = tokio::time::Instant::now().into_std();
        let mut fx = Effects::default();
        let left = self.shards.with(self.shards.shard_of(instrument), |shard| {
            let cx = Context { now, generation: handle.generation(), calls: self.supervisors.call_ids() };
            let left = shard.keys.leave(user, (instrument, mode), session, waiter, &cx, &mut fx)?;
            if left.1.over {
                shard.streams.unpin(left.1.stream);
            }
            Some(left)
        });
        match left {
            None | Some((Leave::NotHeld, _)) => {
                self.metrics.not_held.increment(1);
                Leave::NotHeld
            }
            Some((leave, touched)) => {
                self.metrics.references.record(touched.refs as f64);
                self.act(user, Some(handle), KeyName { instrument: instrument.to_owned(), mode }, touched, fx);
                leave
            }
        }
    }

    /// Does what a key's machine asked for, after its lock was given back: tells waiters, logs, hands over the call.
    fn act(&self, user: UserId, handle: Option<&Handle>, name: KeyName, mut touched: Touched, mut fx: Effects<Waiter>) {
        loop {
            for event in &fx.events {
                self.tell(user, &name, *event, touched.refs);
            }
            for (waiter, told) in fx.done.drain(..) {
                let outcome = Outcome::of(told, touched.stream, touched.scale);
                // The session may have closed; the capacity is the caller's promise.
                let _ = waiter.reply.try_send((waiter.entry, outcome));
            }
            if fx.unsettled
                && let Some(handle) = handle
            {
                handle.mark_unsettled();
            }
            let Some(call) = fx.call else { return };
            if handle.is_some_and(|h| h.call(call, name.clone())) {
                return;
            }
            // Not handed over: the machine hears it as an error, and may want another call, which it then retries later.
            self.metrics.limit_exceeded.increment(1);
            let fault = Fault::new(FaultCode::Limit, "Too many adapter calls are pending for this user");
            let mut next = Effects::default();
            let fed = self.feed(&name, handle, |keys, cx| keys.result(user, &name, call.id, Err(fault), cx, &mut next));
            let Some(now) = fed else { return };
            (touched, fx) = (now, next);
        }
    }

    fn tell(&self, user: UserId, name: &KeyName, event: Event, refs: usize) {
        self.metrics.event(event);
        let user = user.0;
        match event {
            Event::FirstIn => tracing::debug!(user, key = ?name, refs, "first-in: the broker accepted"),
            Event::Joined => tracing::debug!(user, key = ?name, refs, "joined"),
            Event::Left => tracing::debug!(user, key = ?name, refs, "left"),
            Event::LastOut => tracing::debug!(user, key = ?name, refs, "last-out: the broker let go"),
            Event::RolledBack(n) => tracing::debug!(user, key = ?name, refs, sessions = n, "rolled back"),
            Event::Replayed => tracing::debug!(user, key = ?name, refs, "replayed"),
            Event::ReplayFailed => limited!(warn, 20, user, key = ?name, refs, "not live though held, trying again"),
            Event::ReleaseFailed => {
                limited!(warn, 20, user, key = ?name, refs, "the broker did not let go, trying again")
            }
        }
    }
}

/// Who feeds a user, and with what.
#[derive(Clone, Copy)]
struct Feeder<'a> {
    handle: &'a Handle,
    /// The instruments of the user's broker, if they are known.
    table: Option<&'a Table>,
}

/// Takes a first attach back when its caller stops waiting for it.
struct Undo<'a> {
    registry: Option<&'a Arc<Registry>>,
    session: SessionId,
    user: UserId,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(registry) = self.registry {
            registry.detach_user(self.session, self.user);
        }
    }
}
