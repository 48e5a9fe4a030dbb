//! The bus's sockets: a SUB that binds and connects to any number of endpoints, each for one scope.
//!
//! Phase one, [`BusListeners::bind`], takes the ports; phase two, [`BusListeners::spawn`], runs accept loops and
//! connectors on the current runtime. Each accepted peer, and each endpoint we connect to, is one *source* with its own
//! bounded queue to ingest, handed over through [`Wiring::sources`]. A connector keeps its source across reconnects, so
//! its order holds. Promise: one peer's fault, silence or flood ends or slows that peer only; readers never wait for
//! ingest. Knows nothing of topics: [`Wiring::explode`] does. Tests: `tests/zmtp_hostile.rs`, `tests/bus_peers.rs`.

mod metrics;
mod overflow;
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
use crate::zmtp::listener::{self, Bound};
use crate::zmtp::{Backoff, Direction, Endpoint};
use socket2::{SockRef, TcpKeepalive};
use source::Source;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, timeout};

/// Endpoints that may wait to be added at once, counted.
const COMMANDS_MAX: usize = 256;
/// After a failed `accept`: long enough not to spin while files are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(75);
/// A peer that left may still have this long to hand over what waits in its overflow.
const LINGER: Duration = Duration::from_secs(5);
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
        if self.shared.wiring.metrics.reject(cause, 1) {
            tracing::info!(endpoint = %self.endpoint(), cause, "a bus peer was refused: {why}");
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

enum Listener {
    Tcp(TcpListener),
    Ipc(UnixListener, #[expect(dead_code, reason = "removes the file when dropped")] listener::IpcFile),
}

enum Stream {
    Tcp(TcpStream),
    Ipc(UnixStream),
}

impl Listener {
    fn adopt(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
            Bound::Ipc(listener, file) => Listener::Ipc(UnixListener::from_std(listener)?, file),
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Ipc(listener, _) => listener.accept().await.map(|(stream, _)| Stream::Ipc(stream)),
        }
    }
}

async fn accept_loop(at: At, listener: Listener, permits: Arc<Semaphore>, mut stopped: watch::Receiver<()>) {
    let mut peers = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = peers.join_next(), if !peers.is_empty() => {
                if let Err(error) = ended {
                    failed(&error);
                }
                continue;
            }
            _ = stopped.changed() => return peers.shutdown().await,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                at.metrics().connect(ConnectOutcome::AcceptFailed);
                tracing::debug!(endpoint = %at.endpoint(), %error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            at.metrics().connect(ConnectOutcome::Full);
            at.refuse(CAUSE_PEERS_MAX, &"too many peers");
            continue;
        };
        let at = at.clone();
        peers.spawn(async move {
            let source = serve_accepted(&at, stream).await;
            drop(permit);
            if let Some(mut source) = source {
                let _ = timeout(LINGER, source.drained()).await;
            }
        });
    }
}

/// One accepted peer from greeting to goodbye; gives its source back, which may still hold an overflow.
async fn serve_accepted(at: &At, stream: Stream) -> Option<Source> {
    let mut source = None;
    let end = serve(at, stream, &mut source).await;
    at.ended(&end);
    source
}

async fn connect_loop(at: At) {
    let config = at.shared.config;
    let mut backoff = Backoff::new(config.backoff_first, config.backoff_max);
    // Kept across reconnects: what is older stays ahead of what is newer.
    let mut source: Option<Source> = None;
    loop {
        match timeout(config.link.handshake, open(&at)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                let started = Instant::now();
                let end = serve(&at, stream, &mut source).await;
                at.ended(&end);
                // A peer that greets well and then fails at once is retried ever more slowly, too.
                if started.elapsed() > config.backoff_max {
                    backoff.reset();
                }
            }
            Err(error) => {
                at.metrics().connect(ConnectOutcome::Unreachable);
                tracing::debug!(endpoint = %at.endpoint(), %error, "cannot connect");
            }
        }
        if source.as_ref().is_some_and(Source::is_gone) {
            return;
        }
        let pause = sleep(backoff.wait(rand::random::<f64>()));
        tokio::pin!(pause);
        match &mut source {
            None => pause.await,
            Some(source) => {
                tokio::select! {
                    () = &mut pause => {}
                    () = async { source.drained().await; std::future::pending().await } => {}
                }
            }
        }
    }
}

async fn open(at: &At) -> io::Result<Stream> {
    match at.endpoint() {
        Endpoint::Ipc(path) => UnixStream::connect(path).await.map(Stream::Ipc),
        Endpoint::Tcp { host, port } => {
            let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                // Before connecting, for the window scale; best effort.
                let bytes = u32::try_from(at.shared.config.receive_buffer_bytes).unwrap_or(u32::MAX);
                let _ = socket.set_recv_buffer_size(bytes);
                match socket.connect(address).await {
                    // With nobody listening, the kernel may pick the very port we ask for and connect us to ourselves.
                    Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                        failed = io::ErrorKind::ConnectionRefused.into();
                    }
                    Ok(stream) => return Ok(Stream::Tcp(stream)),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }
    }
}

async fn serve(at: &At, stream: Stream, source: &mut Option<Source>) -> LinkEnd {
    match stream {
        Stream::Tcp(stream) => {
            if let Err(error) = tune(&stream) {
                return error.into();
            }
            let (reader, writer) = stream.into_split();
            serve_halves(at, reader, writer, source).await
        }
        Stream::Ipc(stream) => {
            let (reader, writer) = stream.into_split();
            serve_halves(at, reader, writer, source).await
        }
    }
}

/// Keepalive finds dead peers of ZMTP 3.0, which know no PING: 10 s idle, then three probes 5 s apart.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

async fn serve_halves<R, W>(at: &At, reader: R, writer: W, source: &mut Option<Source>) -> LinkEnd
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let config = at.shared.config;
    let link = match link::handshake(reader, writer, config.link).await {
        Ok(link) => link,
        Err(end) => {
            at.metrics().connect(ConnectOutcome::Handshake);
            return end;
        }
    };
    if source.is_none() {
        match introduce(at).await {
            Ok(new) => *source = Some(new),
            Err(end) => {
                at.metrics().connect(ConnectOutcome::Full);
                return end;
            }
        }
    }
    let source = source.as_mut().expect("made above");
    at.metrics().connect(ConnectOutcome::Ready);
    tracing::debug!(endpoint = %at.endpoint(), minor = link.minor(), "a bus peer is ready");
    let _present = Present::new(at);
    link.run(source).await
}

/// Makes a source and hands its other end to ingest, which has as long as a peer has for its handshake.
async fn introduce(at: &At) -> Result<Source, LinkEnd> {
    let config = at.shared.config;
    let (source, receiver) = Source::new(&at.shared.wiring, config.per_source_bytes, at.status.clone());
    match timeout(config.link.handshake, at.shared.wiring.sources.send(receiver)).await {
        Ok(Ok(())) => {
            at.shared.wiring.wake.notify_one();
            Ok(source)
        }
        Ok(Err(_)) => Err(LinkEnd::SinkGone),
        Err(_) => {
            at.refuse(CAUSE_SOURCES_FULL, &"ingest takes no new source");
            Err(LinkEnd::SinkGone)
        }
    }
}

/// A peer whose handshake is done, for as long as it lives.
struct Present {
    status: Arc<EndpointStatus>,
    peers: ::metrics::Gauge,
}

impl Present {
    fn new(at: &At) -> Self {
        at.status.peer_came();
        let peers = at.metrics().peers.clone();
        peers.increment(1.0);
        Present { status: at.status.clone(), peers }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.status.peer_left();
        self.peers.decrement(1.0);
    }
}
