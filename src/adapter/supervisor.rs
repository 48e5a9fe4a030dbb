//! The supervisor: one task a user that owns the user's adapter, from the first client to the end of the linger.
//!
//! In: calls for keys (bounded, any thread), nudges ("look again at what is desired"), the adapter's reports. Out, through
//! [`Owner`]: answers, timeouts, late answers, resets. What is desired (broker, sessions, rebuilds) is *read* after each
//! nudge, never queued, so no wish can be lost and rapid changes cost one step.
//! Promises: one adapter a user at any time, made by this task only; a dying adapter is gone before the next is made;
//! every call is answered to the owner once, at the latest at its deadline; nothing of an old generation is believed.
//! `machine` decides when an adapter is made, let go, tried again; `actor` has the task, the queues and the calls.
//! Knows nothing of sessions, keys' references or shards. Tests: `tests/adapter_lifecycle.rs`, `tests/registry_*.rs`.

mod actor;
mod machine;
mod signs;

pub use signs::Signs;

use super::symbols::Table;
use super::{AdapterFactory, metrics::AdapterMetrics};
use crate::limits::{self, REFERENCES_LOGGED};
use crate::model::{ScopeId, UserId, limited};
use crate::shards::key::{Call, CallId, CallIds, Fault, FaultCode, KeyName, Op};
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::{Notify, mpsc, watch};

/// A disconnecting adapter has this long before its task is aborted.
pub const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How often keys that wait for a retry are looked at.
pub const RETRY_SCAN: Duration = Duration::from_millis(250);
/// Calls given up whose late answers we still recognise, counted, per user.
pub const LATE_CALLS_MAX: usize = 10_000;

/// Settings of all supervisors.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long an adapter outlives its last client.
    pub linger: Duration,
    /// Deadline of one call.
    pub call_timeout: Duration,
    /// Deadline of one connect.
    pub connect_timeout: Duration,
    /// Calls pending for one user, counted.
    pub calls_max: usize,
    /// Brokers (lower case) whose adapter stays, cleared, when the last client has gone.
    pub keep_alive: HashSet<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            linger: Duration::from_secs(10),
            call_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(30),
            calls_max: limits::ADAPTER_CALLS_PENDING,
            keep_alive: ["flattrade", "shoonya"].map(String::from).into(),
        }
    }
}

/// Where an adapter stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is none.
    Absent,
    /// Logging in.
    Connecting,
    /// Takes calls.
    Live,
    /// Takes calls, but part of what is wanted is not carried: a connection is down, or the broker refused to begin it anew.
    Degraded,
    /// The broker has refused the credentials: they are read anew. Whether it takes calls meanwhile.
    Reauthenticating {
        /// Else an adapter is being made with the credentials of now.
        takes_calls: bool,
    },
    /// Takes calls, or is tried again soon, but is not connected to its broker now.
    Down,
    /// Takes calls, but the last client has gone.
    Lingering,
    /// Cleared and kept without a client.
    Kept,
    /// Being let go.
    Closing,
    /// Could not be made or connected.
    Failed(Fault),
    /// The same, since the broker refused its credentials: they are looked at again by and by.
    Refused(Fault),
}

/// [`State`] as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateLabel {
    /// See [`State::Connecting`].
    Connecting,
    /// See [`State::Live`].
    Live,
    /// See [`State::Degraded`].
    Degraded,
    /// See [`State::Reauthenticating`] and [`State::Refused`].
    Reauthenticating,
    /// See [`State::Down`] and [`State::Failed`].
    Down,
    /// See [`State::Lingering`].
    Lingering,
    /// See [`State::Kept`].
    Kept,
    /// See [`State::Closing`].
    Closing,
}

impl StateLabel {
    /// All labels.
    pub const ALL: [StateLabel; 8] = [
        StateLabel::Connecting,
        StateLabel::Live,
        StateLabel::Degraded,
        StateLabel::Reauthenticating,
        StateLabel::Down,
        StateLabel::Lingering,
        StateLabel::Kept,
        StateLabel::Closing,
    ];

    /// The label's text.
    pub const fn label(self) -> &'static str {
        match self {
            StateLabel::Connecting => "connecting",
            StateLabel::Live => "live",
            StateLabel::Degraded => "degraded",
            StateLabel::Reauthenticating => "reauthenticating",
            StateLabel::Down => "down",
            StateLabel::Lingering => "lingering",
            StateLabel::Kept => "kept",
            StateLabel::Closing => "closing",
        }
    }

    /// Whether such an adapter has a broker connection.
    pub const fn is_connected(self) -> bool {
        matches!(self, StateLabel::Live | StateLabel::Degraded | StateLabel::Lingering | StateLabel::Kept)
    }
}

impl State {
    /// The metric label; `None` when there is no adapter to count.
    pub fn label(&self) -> Option<StateLabel> {
        Some(match self {
            State::Absent => return None,
            State::Connecting => StateLabel::Connecting,
            State::Live => StateLabel::Live,
            State::Degraded => StateLabel::Degraded,
            State::Reauthenticating { .. } | State::Refused(_) => StateLabel::Reauthenticating,
            State::Down | State::Failed(_) => StateLabel::Down,
            State::Lingering => StateLabel::Lingering,
            State::Kept => StateLabel::Kept,
            State::Closing => StateLabel::Closing,
        })
    }

    /// Why there is no adapter to be asked, if so.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            State::Failed(fault) | State::Refused(fault) => Some(fault),
            _ => None,
        }
    }

    /// Whether it is worth waiting no longer: it takes calls, or there is none.
    pub fn is_decided(&self) -> bool {
        match self {
            State::Reauthenticating { takes_calls } => *takes_calls,
            State::Absent | State::Connecting | State::Lingering | State::Kept | State::Closing => false,
            State::Live | State::Degraded | State::Down | State::Failed(_) | State::Refused(_) => true,
        }
    }
}

/// A state, and the last attach it takes into account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// [`Desired::ticket`] when the state was decided.
    pub ticket: u64,
    /// Where the adapter stands.
    pub state: State,
}

/// What the registry wants of one user's supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The broker to be connected to, in lower case; `None` when the key store names none.
    pub broker: Option<Arc<str>>,
    /// Sessions of the user.
    pub sessions: usize,
    /// Counts attaches.
    pub ticket: u64,
    /// Counts demands to rebuild the adapter (new credentials).
    pub rebuild: u64,
}

/// The registry, as a supervisor sees it. No method may block or wait; all are called on the control thread.
pub trait Owner: Send + Sync + 'static {
    /// What is wanted now; `None` when the user is not known any more.
    fn desired(&self, user: UserId) -> Option<Desired>;
    /// A call was answered in time, or could not be made.
    fn answered(&self, user: UserId, name: &KeyName, call: CallId, outcome: Result<Option<u32>, Fault>);
    /// A call was not answered in time.
    fn timed_out(&self, user: UserId, name: &KeyName, call: CallId, fault: Fault);
    /// A call that timed out has succeeded after all.
    fn late_success(&self, user: UserId, name: &KeyName, call: CallId, op: Op, depth: Option<u32>);
    /// The generation of the user's handle has changed: bring every key to it. `fresh`: no call of an older
    /// generation can reach the broker any more.
    fn reset(&self, user: UserId, fresh: bool);
    /// Try again what is due. Whether something still waits.
    fn retry(&self, user: UserId) -> bool;
    /// Forgets the supervisor unless somebody has attached since `ticket`. After `true` the task ends.
    fn retire(&self, user: UserId, ticket: u64) -> bool;
}

/// What everybody but the task itself holds of a supervisor.
pub struct Handle {
    calls: mpsc::Sender<(Call, KeyName)>,
    pending: AtomicUsize,
    calls_max: usize,
    generation: AtomicU64,
    scope: AtomicU16,
    unsettled: AtomicBool,
    nudge: Notify,
    status: watch::Receiver<Status>,
    signs: Signs,
}

impl Handle {
    /// Hands a call over. `false`: too many are pending.
    #[must_use]
    pub fn call(&self, call: Call, name: KeyName) -> bool {
        let room = |n| (n < self.calls_max).then_some(n + 1);
        if self.pending.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            return false;
        }
        // Calls in the queue are pending, so it has room; it is closed when the supervisor has retired.
        let sent = self.calls.try_send((call, name)).is_ok();
        if !sent {
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
        sent
    }

    /// The adapter's life, counted from 1. Read it under the lock of the key it is for.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whose ticks the user receives now. Read it under the lock of the key it is for: who changes it visits every shard
    /// afterwards, so a key made with the old one is found there.
    pub fn scope(&self) -> ScopeId {
        ScopeId(self.scope.load(Ordering::Acquire))
    }

    /// The user's broker has changed, and with it whose ticks it receives.
    pub fn set_scope(&self, scope: ScopeId) {
        self.scope.store(scope.0, Ordering::Release);
    }

    /// Some key waits for a retry.
    pub fn mark_unsettled(&self) {
        if !self.unsettled.swap(true, Ordering::AcqRel) {
            self.nudge();
        }
    }

    /// Makes the task look again at what is desired.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Where the adapter stands, and its changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What the adapter shows of its health.
    pub fn signs(&self) -> &Signs {
        &self.signs
    }

    /// Calls pending, counted.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }
}

/// Starts supervisors on the control runtime.
pub struct Supervisors {
    config: Arc<Config>,
    factory: Arc<dyn AdapterFactory>,
    metrics: AdapterMetrics,
    runtime: runtime::Handle,
    calls: Arc<CallIds>,
}

/// A supervisor that is not running yet.
pub struct Unstarted {
    queue: mpsc::Receiver<(Call, KeyName)>,
    status: watch::Sender<Status>,
}

impl Supervisors {
    /// Supervisors whose tasks and adapters run on `runtime`.
    pub fn new(
        config: Config,
        factory: Arc<dyn AdapterFactory>,
        metrics: AdapterMetrics,
        runtime: runtime::Handle,
    ) -> Arc<Self> {
        Arc::new(Supervisors { config: Arc::new(config), factory, metrics, runtime, calls: Arc::default() })
    }

    /// A handle to be put into the owner's table, and the other end. Cheap: it may be made under a lock.
    pub fn prepare(&self) -> (Arc<Handle>, Unstarted) {
        let (calls, queue) = mpsc::channel(self.config.calls_max.max(1));
        let (status, seen) = watch::channel(Status { ticket: 0, state: State::Absent });
        let handle = Handle {
            calls,
            pending: AtomicUsize::new(0),
            calls_max: self.config.calls_max,
            generation: AtomicU64::new(1),
            scope: AtomicU16::new(ScopeId::SHARED.0),
            unsettled: AtomicBool::new(false),
            nudge: Notify::new(),
            status: seen,
            signs: Signs::new(),
        };
        (Arc::new(handle), Unstarted { queue, status })
    }

    /// Runs the supervisor of `user`, whose handle stands in the owner's table.
    pub fn start(
        self: &Arc<Self>,
        user: UserId,
        name: Arc<str>,
        owner: Arc<dyn Owner>,
        handle: Arc<Handle>,
        unstarted: Unstarted,
    ) {
        let actor = actor::Actor::new(self.clone(), user, name, owner, handle, unstarted);
        self.runtime.spawn(actor.run());
    }

    /// See [`AdapterFactory::table`].
    pub fn table(&self, broker: &str, user: &str) -> Option<Arc<Table>> {
        self.factory.table(broker, user)
    }

    /// Ids for calls, shared by all users.
    pub fn call_ids(&self) -> &CallIds {
        &self.calls
    }

    /// Settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Metrics of adapters.
    pub fn metrics(&self) -> &AdapterMetrics {
        &self.metrics
    }
}

/// A short id that a client's error message and our log line share: six hex digits.
pub fn correlation_id() -> String {
    static SEED: OnceLock<ahash::RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = SEED.get_or_init(ahash::RandomState::new).build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    format!("{:06x}", hasher.finish() & 0xff_ffff)
}

/// A fault of the BROKER_* kind: logs the true cause, and gives the client a text with the same correlation id.
pub fn broker_fault(code: FaultCode, user: UserId, broker: &str, text: &str, cause: &str) -> Fault {
    let id = correlation_id();
    limited!(warn, REFERENCES_LOGGED, user = user.0, broker, correlation = %id, cause, "broker fault: {text}");
    Fault::new(code, format!("{text} (ref {id})"))
}
