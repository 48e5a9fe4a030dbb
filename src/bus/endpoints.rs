//! The bus's sockets: a SUB that binds and connects to any number of endpoints, each for one scope.
//!
//! Phase one, [`BusListeners::bind`], takes the ports; phase two, [`BusListeners::spawn`], runs accept loops and
//! connectors on the current runtime. Each accepted peer, and each endpoint we connect to, is one *source* with its own
//! bounded queue to ingest, handed over through [`Wiring::sources`]. A connector keeps its source across reconnects, so
//! its order holds. Promise: one peer's fault, silence or flood ends or slows that peer only; readers never wait for
//! ingest. Knows nothing of topics: [`Wiring::explode`] does. Tests: `tests/zmtp_hostile.rs`, `tests/bus_peers.rs`.

mod metrics;
mod overflow;
mod peers;
mod source;
mod status;

pub use crate::zmtp::listener::{BindCause, BindError};
pub use metrics::{
    CAUSE_OVERFLOW, CAUSE_PARTS, CAUSE_PEERS_MAX, CAUSE_SOURCES_FULL, CAUSES, ConnectOutcome, EndpointMetrics,
    PerEndpoint,
};
pub use overflow::Kind;
pub use status::{EndpointStatus, Quiet, QuietWarning, Seen, quiet};

use crate::limits;
use crate::model::{ByteBudget, ScopeId, SourceMessage, SourceReceiver};
use crate::zmtp::link::{self, LinkEnd};
use crate::zmtp::listener::{self, Bound, Listener};
use crate::zmtp::{Direction, Endpoint};
use peers::{accept_loop, connect_loop};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::interval;

/// Endpoints that may wait to be added or left at once, counted: those of all adapter processes, who may all come at once.
const COMMANDS_MAX: usize = 2 * limits::CONTROL_PEERS_MAX * limits::PUBLISHES_MAX;
/// How often the silence gauges are set.
const GAUGE_PERIOD: Duration = Duration::from_secs(1);

/// One endpoint of the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Where.
    pub endpoint: Endpoint,
    /// Who listens.
    pub direction: Direction,
    /// Whose feed arrives there.
    pub scope: ScopeId,
}

/// Bounds and periods of all endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Of one connection.
    pub link: link::Config,
    /// Accepted peers at once, counted, all bound endpoints together.
    pub peers_max: usize,
    /// One source's queue, and again its overflow, bytes.
    pub per_source_bytes: usize,
    /// `SO_RCVBUF` of tcp sockets, bytes; the kernel may grant less.
    pub receive_buffer_bytes: usize,
    /// First wait between attempts to connect.
    pub backoff_first: Duration,
    /// Longest wait between attempts to connect.
    pub backoff_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            link: link::Config::sub(),
            peers_max: limits::BUS_PEERS_MAX,
            per_source_bytes: limits::SOURCE_QUEUE_BYTES_MAX,
            receive_buffer_bytes: 4 << 20,
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// Takes each item that an [`Explode`] finds: kind, topic, payload.
pub type EachItem<'a> = dyn FnMut(Kind, &[u8], &[u8]) + 'a;

/// Takes a message apart: calls with each item of a BATCH, or with the one message. What is neither market data nor
/// lossless, and what cannot be read, it leaves out and counts itself.
pub type Explode = Arc<dyn Fn(&SourceMessage, &mut EachItem<'_>) + Send + Sync>;

/// What the endpoints need of the rest of the program.
#[derive(Clone)]
pub struct Wiring {
    /// Bytes of all sources' queues together.
    pub budget: Arc<ByteBudget>,
    /// Bytes of all overflows together.
    pub overflow_budget: Arc<ByteBudget>,
    /// Rung after each message for ingest.
    pub wake: Arc<Notify>,
    /// New sources on their way to ingest.
    pub sources: mpsc::Sender<SourceReceiver>,
    /// See [`Explode`].
    pub explode: Explode,
    /// Registered for as many endpoints as the settings have.
    pub metrics: Arc<EndpointMetrics>,
}

/// Bound, nothing running. Dropping it frees the ports and removes the ipc files.
#[derive(Debug)]
pub struct BusListeners {
    config: Config,
    specs: Vec<EndpointSpec>,
    bound: Vec<(usize, Bound)>,
}

impl BusListeners {
    /// Binds those of `specs` that bind; the position in `specs` is the endpoint's index in metrics.
    ///
    /// # Errors
    /// The first endpoint that could not be bound, and why.
    pub fn bind(specs: &[EndpointSpec], config: Config) -> Result<Self, BindError> {
        let mut listeners = BusListeners { config, specs: specs.to_vec(), bound: Vec::new() };
        for (index, spec) in listeners.specs.iter_mut().enumerate() {
            if spec.direction == Direction::Bind {
                let (bound, real) = listener::bind(&spec.endpoint, config.receive_buffer_bytes)
                    .map_err(|cause| BindError { endpoint: spec.endpoint.clone(), cause })?;
                spec.endpoint = real;
                listeners.bound.push((index, bound));
            }
        }
        Ok(listeners)
    }

    /// All endpoints, bound ones with their real port.
    pub fn specs(&self) -> &[EndpointSpec] {
        &self.specs
    }

    /// Starts accept loops and connectors on the current tokio runtime.
    ///
    /// # Errors
    /// The runtime could not take a listener over.
    pub fn spawn(self, wiring: Wiring) -> io::Result<(BusHandle, BusTasks)> {
        let statuses: Vec<_> = self.specs.into_iter().map(|spec| Arc::new(EndpointStatus::new(spec))).collect();
        let shared = Arc::new(Shared { config: self.config, wiring });
        let permits = Arc::new(Semaphore::new(self.config.peers_max));
        let (stop, stopped) = watch::channel(());
        let (mut acceptors, mut connectors) = (JoinSet::new(), JoinSet::new());
        for (index, bound) in self.bound {
            let at = At { shared: shared.clone(), status: statuses[index].clone(), index: Some(index) };
            let listener = Listener::adopt(bound)?;
            acceptors.spawn(accept_loop(at, listener, permits.clone(), stopped.clone()));
        }
        for (index, status) in statuses.iter().enumerate() {
            if status.spec().direction == Direction::Connect {
                let at = At { shared: shared.clone(), status: status.clone(), index: Some(index) };
                connectors.spawn(connect_loop(at));
            }
        }
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let handle = BusHandle { commands, statuses: statuses.clone().into(), next: Arc::new(AtomicU64::new(0)) };
        let root =
            tokio::spawn(run(Running { shared, statuses, acceptors, connectors, added: Vec::new() }, inbox, stopped));
        Ok((handle, BusTasks { stop, root }))
    }
}

/// Names an endpoint that was added while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddedEndpoint(u64);

/// The endpoints cannot take a request: they have stopped, or too many requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bus takes no endpoint now")]
pub struct BusUnavailable;

/// Speaks to the running endpoints from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct BusHandle {
    commands: mpsc::Sender<Command>,
    statuses: Arc<[Arc<EndpointStatus>]>,
    next: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Command {
    Add(AddedEndpoint, Arc<EndpointStatus>),
    Remove(AddedEndpoint),
}

impl BusHandle {
    /// Endpoints of the settings, by index.
    pub fn statuses(&self) -> &[Arc<EndpointStatus>] {
        &self.statuses
    }

    /// Connects to one more endpoint until it is removed, whatever `spec.direction` says.
    ///
    /// # Errors
    /// The bus has stopped, or too many requests wait.
    pub fn add_connect(&self, spec: EndpointSpec) -> Result<(AddedEndpoint, Arc<EndpointStatus>), BusUnavailable> {
        let id = AddedEndpoint(self.next.fetch_add(1, Ordering::Relaxed));
        let status = Arc::new(EndpointStatus::new(EndpointSpec { direction: Direction::Connect, ..spec }));
        self.commands.try_send(Command::Add(id, status.clone())).map_err(|_| BusUnavailable)?;
        Ok((id, status))
    }

    /// Leaves an added endpoint; its source ends.
    ///
    /// # Errors
    /// The bus has stopped, or too many requests wait.
    pub fn remove(&self, id: AddedEndpoint) -> Result<(), BusUnavailable> {
        self.commands.try_send(Command::Remove(id)).map_err(|_| BusUnavailable)
    }
}

/// The joiner and stop signal of everything that [`BusListeners::spawn`] started.
#[derive(Debug)]
pub struct BusTasks {
    stop: watch::Sender<()>,
    root: JoinHandle<()>,
}

impl BusTasks {
    /// Ends all connections, frees the ports, removes the ipc files; resolves when that is done.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.root.await {
            tracing::error!(%error, "the bus task did not end well");
        }
    }
}

struct Shared {
    config: Config,
    wiring: Wiring,
}

/// One endpoint, as its tasks see it.
#[derive(Clone)]
struct At {
    shared: Arc<Shared>,
    status: Arc<EndpointStatus>,
    index: Option<usize>,
}

impl At {
    fn metrics(&self) -> &PerEndpoint {
        self.shared.wiring.metrics.endpoint(self.index)
    }

    fn endpoint(&self) -> &Endpoint {
        &self.status.spec().endpoint
    }

    /// Counts and, at most once a minute and cause, logs a peer that was refused.
    fn refuse(&self, cause: &'static str, why: &dyn std::fmt::Display) {
        if let Some(held_back) = self.shared.wiring.metrics.reject(cause, 1) {
            tracing::info!(endpoint = %self.endpoint(), cause, held_back, "a bus peer was refused: {why}");
        }
    }

    fn ended(&self, end: &LinkEnd) {
        match end.fault() {
            Some(cause) => self.refuse(cause, end),
            None => tracing::debug!(endpoint = %self.endpoint(), "a bus peer left: {end}"),
        }
    }
}

struct Running {
    shared: Arc<Shared>,
    statuses: Vec<Arc<EndpointStatus>>,
    acceptors: JoinSet<()>,
    connectors: JoinSet<()>,
    added: Vec<(AddedEndpoint, AbortHandle)>,
}

async fn run(mut running: Running, mut inbox: mpsc::Receiver<Command>, mut stopped: watch::Receiver<()>) {
    let mut gauges = interval(GAUGE_PERIOD);
    loop {
        tokio::select! {
            // Only ever fails: the sender is dropped to stop us.
            _ = stopped.changed() => break,
            Some(command) = inbox.recv() => running.obey(command),
            _ = gauges.tick() => running.set_gauges(),
            Some(Err(error)) = running.connectors.join_next(), if !running.connectors.is_empty() => failed(&error),
            Some(Err(error)) = running.acceptors.join_next(), if !running.acceptors.is_empty() => failed(&error),
        }
    }
    running.connectors.shutdown().await;
    // They have seen the signal and end their peers first.
    while let Some(ended) = running.acceptors.join_next().await {
        if let Err(error) = ended {
            failed(&error);
        }
    }
}

fn failed(error: &JoinError) {
    if error.is_panic() {
        tracing::error!(%error, "a bus task failed");
    }
}

impl Running {
    fn obey(&mut self, command: Command) {
        self.added.retain(|(_, task)| !task.is_finished());
        match command {
            Command::Add(id, status) => {
                let at = At { shared: self.shared.clone(), status, index: None };
                self.added.push((id, self.connectors.spawn(connect_loop(at))));
            }
            Command::Remove(id) => {
                if let Some(at) = self.added.iter().position(|(added, _)| *added == id) {
                    self.added.swap_remove(at).1.abort();
                }
            }
        }
    }

    fn set_gauges(&self) {
        for (index, status) in self.statuses.iter().enumerate() {
            let metrics = self.shared.wiring.metrics.endpoint(Some(index));
            metrics.silence.set(status.silence().as_secs_f64());
        }
    }
}
