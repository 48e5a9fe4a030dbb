//! Phase one: every port bound, every queue made, nothing running. Phase two: the threads.

use super::upkeep::{self, Upkeep, WorkerGauges};
use super::{Addresses, Life, Running};
use crate::adapter::bus::BusAdapter;
use crate::adapter::metrics::AdapterMetrics;
use crate::adapter::sim::{self, SimSwitch};
use crate::adapter::supervisor::{self, Supervisors};
use crate::adapter::{Adapter, AdapterFactory};
use crate::auth::{AuthMetrics, AuthService};
use crate::bus::endpoints::{self, BusListeners, EndpointMetrics, EndpointSpec, Wiring};
use crate::bus::explode::explode;
use crate::bus::frames::Invalidate;
use crate::bus::ingest::{self, Ingest, IngestConfig, IngestMetrics, SimEnd, WorkerEnd};
use crate::config::Settings;
use crate::config::settings::{AdapterKind, CloseStyle, Normalise};
use crate::engine::metrics::{self as engine_metrics, EngineMetrics, WorkerStats};
use crate::engine::queue::{Control, TickReceiver, tick_queue};
use crate::engine::{Worker, WorkerConfig};
use crate::limits;
use crate::model::{Brokers, ByteBudget, Heartbeats, Micros, ScopeId, SourceSender, WorkerId, source_queue};
use crate::net::accept::{self, Accepted};
use crate::net::admin::{self, AdminState, Readiness, State};
use crate::policy::admission;
use crate::registry::metrics::RegistryMetrics;
use crate::registry::{self, Registry, ScopedSource};
use crate::session::{BeforeCommand, NewSession, SessionConfig, SessionMetrics, Sessions};
use crate::shards::{self, Shards};
use crate::zmtp::{Direction, Endpoint};
use ::metrics::with_local_recorder;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};

/// Upgrades under way at once; further connections wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 2048;
/// Connections the kernel may hold for us.
const BACKLOG: i32 = 4096;
/// Sockets on their way from the front door to one worker.
const ARRIVALS_MAX: usize = 4096;
/// Sources on their way to ingest.
const NEW_SOURCES_MAX: usize = 256;
/// Invalidations on their way to the control thread.
const INVALIDATIONS_MAX: usize = 1024;

/// Why a server did not start; each kind has its exit code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A port cannot be had (exit 3).
    #[error("cannot bind {what} {address}: {cause}; stop what uses it, or choose another with {setting}")]
    Bind {
        /// What would listen there.
        what: &'static str,
        /// Where.
        address: String,
        /// What the system said.
        cause: String,
        /// How to choose another one.
        setting: &'static str,
    },
    /// The key store cannot be used (exit 4).
    #[error("{0}")]
    KeyStore(#[from] crate::auth::OpenError),
    /// Settings that passed the check but cannot be used (exit 2).
    #[error("{0}")]
    Settings(String),
    /// The system refused a thread or a runtime (exit 1).
    #[error("cannot start: {0}")]
    Runtime(#[from] std::io::Error),
}

/// What tests put in place of the real thing.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Makes adapters instead of the settings' kinds.
    pub factory: Option<Arc<dyn AdapterFactory>>,
    /// How often the auditor looks, instead of its usual period.
    pub audit_every: Option<Duration>,
    /// Called before each command is carried out; a panic in it is an injected fault.
    pub before_command: Option<BeforeCommand>,
}

/// A server with its ports bound and nothing running.
pub struct App {
    settings: Settings,
    addresses: Addresses,
    listener: TcpListener,
    admin: TcpListener,
    scrape: Option<TcpListener>,
    bus: BusListeners,
    control_runtime: Runtime,
    parts: Parts,
    auth: (AuthService, crate::auth::AuthPool),
}

/// Everything that has metrics, made under the server's own recorder.
struct Parts {
    handle: PrometheusHandle,
    brokers: Arc<Brokers>,
    shards: Arc<Shards>,
    lock_metrics: shards::metrics::Metrics,
    registry: Arc<Registry>,
    workers: Vec<WorkerParts>,
    ingest: Ingest,
    wake: Arc<Notify>,
    endpoint_metrics: Arc<EndpointMetrics>,
    door_metrics: crate::net::metrics::Metrics,
    session_metrics: SessionMetrics,
    engine_metrics: EngineMetrics,
    gauges: WorkerGauges,
    sim: Option<(SimSwitch, SourceSender)>,
    invalidations: mpsc::Receiver<Invalidate>,
    before_command: Option<BeforeCommand>,
    audit_every: Duration,
    epoch: u64,
}

/// One worker's ends of its queues.
struct WorkerParts {
    id: WorkerId,
    stats: Arc<WorkerStats>,
    ticks: TickReceiver,
    control: (mpsc::Sender<Control>, mpsc::Receiver<Control>),
}

impl App {
    /// Binds and wires.
    ///
    /// # Errors
    /// [`StartError`]; no port stays bound.
    pub fn build(settings: Settings, hooks: Hooks) -> Result<Self, StartError> {
        let bind = |what, address: SocketAddr, setting, bound: std::io::Result<TcpListener>| {
            bound.map_err(|cause| StartError::Bind {
                what,
                address: address.to_string(),
                cause: cause.to_string(),
                setting,
            })
        };
        let (ws, admin_at) = (settings.server.listen, settings.admin.listen);
        let send_buffer = settings.fanout.send_buffer_bytes;
        let listener =
            bind("WebSocket", ws, "server.listen (--listen, WEBSOCKET_PORT)", accept::bind(ws, BACKLOG, send_buffer))?;
        let admin = bind("admin", admin_at, "admin.listen (--admin)", admin::bind(admin_at))?;
        let scrape = match settings.admin.scrape_listen {
            Some(at) => Some(bind("scrape", at, "admin.scrape_listen", admin::bind(at))?),
            None => None,
        };
        let specs = bus_specs(&settings)?;
        let bus = BusListeners::bind(&specs, bus_config(&settings)).map_err(|error| StartError::Bind {
            what: "bus",
            address: error.endpoint.to_string(),
            cause: error.cause.to_string(),
            setting: "bus.bind (ZMQ_PORT), or connect to a publisher that binds with bus.connect (ZMQ_PUB_PORT)",
        })?;
        let control_runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().thread_name("control").build()?;
        let recorder = recorder()?;
        let opened = crate::auth::open(&settings.auth_config())?;
        let auth = with_local_recorder(&recorder, || opened.start(AuthMetrics::register()))?;
        let parts = with_local_recorder(&recorder, || {
            Parts::new(&settings, hooks, &recorder, control_runtime.handle(), specs.len())
        });
        let addresses = Addresses {
            ws: listener.local_addr()?,
            admin: admin.local_addr()?,
            bus: bus.specs().iter().map(|spec| spec.endpoint.to_string()).collect(),
        };
        Ok(App { settings, addresses, listener, admin, scrape, bus, control_runtime, parts, auth })
    }

    /// Where the server will be reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The system gives no thread or runtime; what was started ends with the process.
    pub fn spawn(self) -> Result<Running, StartError> {
        let App { settings, addresses, listener, admin, scrape, bus, control_runtime, parts, auth } = self;
        let (auth, pool) = auth;
        let life = Life::default();
        let names = (0..parts.workers.len()).map(|w| format!("worker-{w}")).chain(["ingest".to_owned()]);
        let heartbeats = Heartbeats::new(names, Instant::now());
        let (door, door_stop) = watch::channel(false);
        let (rest, rest_stop) = watch::channel(false);
        let config = Arc::new(session_config(&settings, &parts));
        let outbox_total = Arc::new(AtomicUsize::new(0));
        let (mut workers, mut desks, mut stats) = (Vec::new(), Vec::new(), Vec::new());
        for worker in parts.workers {
            let (arrivals_tx, arrivals) = mpsc::channel(ARRIVALS_MAX);
            desks.push((Arc::clone(&worker.stats), arrivals_tx));
            stats.push((Arc::clone(&worker.stats), worker.control.0.clone()));
            let name = format!("worker-{}", worker.id.0);
            let heartbeat = heartbeats.handle(&name).expect("named above");
            let worker_config = worker_config(&settings, worker.id);
            let (registry, shards, brokers) = (parts.registry.clone(), parts.shards.clone(), parts.brokers.clone());
            let (session_metrics, engine_metrics) = (parts.session_metrics.clone(), parts.engine_metrics.clone());
            let (config, auth, outbox_total) = (config.clone(), auth.clone(), outbox_total.clone());
            let (control, control_rx) = worker.control;
            let thread = on_runtime(&name, move || async move {
                let engine = Worker::new(worker_config, engine_metrics, worker.stats, outbox_total);
                tokio::task::spawn_local(Rc::clone(&engine).run(worker.ticks));
                let config = SessionConfig::clone(&config);
                let sessions = Sessions::new(config, engine, registry, shards, brokers, auth, session_metrics);
                sessions.run(arrivals, control_rx, heartbeat).await;
            })?;
            workers.push((control, thread));
        }
        let (sources, new_sources) = mpsc::channel(NEW_SOURCES_MAX);
        let heartbeat = heartbeats.handle("ingest").expect("named above");
        let (stop, wake, ingest) = (rest_stop.clone(), parts.wake.clone(), parts.ingest);
        let ingest = on_runtime("ingest", move || until(stop, ingest.run(new_sources, wake, heartbeat)))?;
        let wiring = Wiring {
            budget: ByteBudget::new(settings.bus.queue_bytes_max),
            overflow_budget: ByteBudget::new(settings.bus.queue_bytes_max),
            wake: parts.wake,
            sources,
            explode: explode(parts.brokers.clone()),
            metrics: parts.endpoint_metrics,
        };
        let (statuses_tx, statuses) = std::sync::mpsc::sync_channel(1);
        let bus_stop = rest_stop.clone();
        let bus = on_runtime("bus", move || async move {
            match bus.spawn(wiring) {
                Ok((handle, tasks)) => {
                    // The receiver waits for exactly this.
                    let _ = statuses_tx.send(handle.statuses().to_vec());
                    stopped(bus_stop).await;
                    tasks.stop().await;
                }
                Err(error) => tracing::error!(%error, "the bus could not be started"),
            }
        })?;
        let endpoints = statuses.recv().map_err(|_| std::io::Error::other("the bus could not be started"))?;
        let sim_switch = parts.sim.as_ref().map(|(switch, _)| switch.clone());
        let upkeep = Upkeep {
            auth: auth.clone(),
            registry: parts.registry.clone(),
            shards: parts.shards,
            lock_metrics: parts.lock_metrics,
            gauges: parts.gauges,
            audit_every: parts.audit_every,
            workers: stats,
            endpoints,
            sim_runs: Box::new(move || sim_switch.as_ref().is_some_and(|switch| !switch.is_stopped())),
        };
        let market = sim::Config { ticks_per_second: settings.sim.ticks_per_second, seed: settings.sim.seed };
        let (sim, invalidations, registry) = (parts.sim, parts.invalidations, parts.registry);
        let control_stop = rest_stop.clone();
        let control = std::thread::Builder::new().name("control".into()).spawn(move || {
            let tasks = control_tasks(market, sim, upkeep, invalidations, auth, registry);
            control_runtime.block_on(until(control_stop, tasks));
            pool.join();
        })?;
        let door_thread = {
            let (config, metrics) = (door_config(&settings), parts.door_metrics);
            on_runtime("door", move || front_door(listener, config, metrics, door_stop, desks))?
        };
        let state = admin_state(&settings, parts.handle.clone(), heartbeats, &addresses, life.clone(), parts.epoch);
        let admin = on_runtime("admin", move || async move {
            if let Err(error) = admin::run(admin, scrape, state(), rest_stop).await {
                tracing::error!(%error, "the admin server ended");
            }
        })?;
        life.set(State::Ready);
        let threads = vec![door_thread, ingest, bus, control, admin];
        Ok(Running { addresses, life, workers, door, rest, threads, metrics: parts.handle })
    }
}

impl Parts {
    fn new(
        settings: &Settings,
        hooks: Hooks,
        recorder: &PrometheusRecorder,
        control: &tokio::runtime::Handle,
        endpoints: usize,
    ) -> Self {
        let brokers = Arc::new(Brokers::new());
        let default = settings.adapters.default;
        let named = settings.brokers.keys().map(String::as_str);
        let owned = settings.bus.sources.iter().map(|s| s.broker.as_str());
        let listed = settings.server.supported_brokers.iter().map(String::as_str);
        for name in std::iter::once(default.label()).chain(named).chain(owned).chain(listed) {
            if brokers.intern(name).is_none() {
                tracing::warn!(
                    broker = name,
                    "more than {} broker names; this one cannot be used",
                    limits::BROKERS_MAX
                );
            }
        }
        let shards = Arc::new(Shards::new(&shards::Config {
            shards: settings.fanout.shards,
            instruments_max: settings.limits.instruments,
            last_value_bytes_max: settings.limits.last_value_bytes_max,
            scale: settings.scale.iter().map(|(venue, digits)| (venue.clone(), *digits)).collect(),
            lock_slow: settings.fanout.lock_slow,
            seed: None,
        }));
        let mut lock_metrics = shards::metrics::Metrics::register(&shards);
        let factory = hooks.factory.unwrap_or_else(|| Arc::new(Kinds));
        let names: Vec<String> = brokers.iter().map(|(_, name)| name.to_owned()).collect();
        let adapter_metrics = AdapterMetrics::register(names.iter().map(String::as_str));
        let supervisors = Supervisors::new(supervisor_config(settings), factory, adapter_metrics, control.clone());
        let registry_config = registry::Config {
            sources: scoped(settings)
                .map(|(scope, s)| ScopedSource { scope, broker: s.broker.clone(), user: s.user.clone() })
                .collect(),
            lock_slow: settings.fanout.lock_slow,
            ..Default::default()
        };
        let registry =
            Registry::new(registry_config, shards.clone(), brokers.clone(), supervisors, RegistryMetrics::register());
        registry.lock_stats().into_iter().for_each(|stats| lock_metrics.watch(Arc::clone(stats)));
        let wake = Arc::new(Notify::new());
        let (mut workers, mut ends) = (Vec::new(), Vec::new());
        for id in 0..worker_count(settings) {
            let (ticks_tx, ticks) = tick_queue(settings.fanout.worker_queue_bytes_max, wake.clone());
            let control = mpsc::channel(limits::WORKER_CONTROL_MAX);
            ends.push(WorkerEnd { ticks: ticks_tx, control: control.0.clone() });
            workers.push(WorkerParts { id: WorkerId(id as u8), stats: Arc::default(), ticks, control });
        }
        let (sim, sim_end) = match default {
            AdapterKind::Sim => {
                let budget = ByteBudget::new(limits::SOURCE_QUEUE_BYTES_MAX);
                let (tx, source) = source_queue(&budget, limits::SOURCE_QUEUE_BYTES_MAX, wake.clone());
                let switch = SimSwitch::default();
                let stop = switch.clone();
                (Some((switch, tx)), Some(SimEnd { source, stop: Box::new(move || _ = stop.stop()) }))
            }
            AdapterKind::Bus => (None, None),
        };
        let (invalidate, invalidations) = mpsc::channel(INVALIDATIONS_MAX);
        let ingest_config = IngestConfig {
            pass_through: settings.fanout.normalise == Normalise::Off,
            sim_label: brokers.find(AdapterKind::Sim.label()).filter(|_| default == AdapterKind::Sim),
        };
        let ingest = Ingest::new(
            ingest_config,
            shards.clone(),
            brokers.clone(),
            IngestMetrics::register(),
            ends,
            sim_end,
            invalidate,
        );
        Parts {
            handle: recorder.handle(),
            brokers,
            shards,
            lock_metrics,
            registry,
            workers,
            ingest,
            wake,
            endpoint_metrics: Arc::new(EndpointMetrics::register(endpoints)),
            door_metrics: crate::net::metrics::Metrics::register(),
            session_metrics: SessionMetrics::register(),
            engine_metrics: EngineMetrics::register(),
            gauges: WorkerGauges::register(),
            sim,
            invalidations,
            before_command: hooks.before_command,
            audit_every: hooks.audit_every.unwrap_or(upkeep::AUDIT),
            epoch: Micros::now().millis(),
        }
    }
}

/// The adapter kinds of the settings. `sim` has nobody to call either: its market ticks whatever is subscribed.
struct Kinds;

impl AdapterFactory for Kinds {
    fn make(&self, _broker: &str, _user: &str) -> Result<Box<dyn Adapter>, String> {
        Ok(Box::new(BusAdapter))
    }
}

fn worker_count(settings: &Settings) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if settings.server.workers == 0 { cores } else { settings.server.workers };
    workers.clamp(1, limits::WORKERS_MAX)
}

/// Each `[[bus.source]]` owner's scope; one user of one broker has one scope, however many endpoints.
fn scoped(settings: &Settings) -> impl Iterator<Item = (ScopeId, &crate::config::settings::BusSource)> {
    let mut owners: Vec<(&str, &str)> = Vec::new();
    settings.bus.sources.iter().map(move |source| {
        let owner = (source.broker.as_str(), source.user.as_str());
        let at = owners.iter().position(|o| *o == owner).unwrap_or_else(|| {
            owners.push(owner);
            owners.len() - 1
        });
        (ScopeId(at as u16 + 1), source)
    })
}

fn bus_specs(settings: &Settings) -> Result<Vec<EndpointSpec>, StartError> {
    let parse = |text: &String| text.parse::<Endpoint>().map_err(|error| StartError::Settings(error.to_string()));
    let shared =
        |text: &String, direction| Ok(EndpointSpec { endpoint: parse(text)?, direction, scope: ScopeId::SHARED });
    let bind = settings.bus.bind.iter().map(|text| shared(text, Direction::Bind));
    let connect = settings.bus.connect.iter().map(|text| shared(text, Direction::Connect));
    let owned = scoped(settings).map(|(scope, source)| {
        Ok(EndpointSpec { endpoint: parse(&source.endpoint)?, direction: Direction::Connect, scope })
    });
    bind.chain(connect).chain(owned).collect()
}

fn bus_config(settings: &Settings) -> endpoints::Config {
    let mut config = endpoints::Config { peers_max: settings.limits.bus_peers, ..Default::default() };
    config.link.parser.frame_bytes_max = settings.limits.bus_frame_bytes_max;
    config.link.parser.message_bytes_max = settings.limits.bus_message_bytes_max;
    config.link.handshake = settings.limits.bus_handshake;
    config
}

fn supervisor_config(settings: &Settings) -> supervisor::Config {
    supervisor::Config {
        linger: settings.adapters.linger,
        call_timeout: settings.adapters.call_timeout,
        calls_max: settings.limits.adapter_calls_pending,
        keep_alive: settings.adapters.keep_alive.iter().map(|name| name.to_ascii_lowercase()).collect(),
        ..Default::default()
    }
}

fn worker_config(settings: &Settings, id: WorkerId) -> WorkerConfig {
    WorkerConfig {
        id,
        flush_max_delay: settings.fanout.flush_max_delay,
        outbox_bytes_max: settings.fanout.outbox_bytes_max,
        outbox_bytes_total: settings.fanout.outbox_bytes_total,
        lossless_stall: settings.limits.lossless_stall,
    }
}

fn session_config(settings: &Settings, parts: &Parts) -> SessionConfig {
    let limits = &settings.limits;
    SessionConfig {
        subscriptions_max: limits.subscriptions_per_client,
        entries_max: limits.entries_per_request,
        message_bytes_max: (limits.message_bytes_max_unauthenticated, limits.message_bytes_max),
        auth_deadline: limits.auth_deadline,
        auth_failures_max: limits.auth_failures_per_connection,
        commands: admission::Config { per_second: limits.commands_per_second, burst: limits.commands_burst },
        ping_interval: limits.ping_interval,
        ping_timeout: limits.ping_timeout,
        sessions_per_user: limits.sessions_per_user,
        snapshot_max_age: settings.fanout.snapshot_max_age,
        pass_through: settings.fanout.normalise == Normalise::Off,
        drop_style: settings.server.close_style == CloseStyle::Drop,
        supported_brokers: supported_brokers(settings),
        epoch: parts.epoch,
        before_command: parts.before_command.clone(),
    }
}

/// `VALID_BROKERS` when set, else what the settings name.
fn supported_brokers(settings: &Settings) -> Vec<String> {
    if !settings.server.supported_brokers.is_empty() {
        return settings.server.supported_brokers.clone();
    }
    let mut names: Vec<String> = settings.brokers.keys().cloned().collect();
    names.push(settings.adapters.default.label().to_owned());
    names.sort();
    names.dedup();
    names
}

/// A recorder of this server's own, with edges for every histogram: without, it would be a summary, slow and not to be added up.
fn recorder() -> Result<PrometheusRecorder, StartError> {
    let buckets = [
        engine_metrics::BROADCAST_LATENCY_BUCKETS,
        engine_metrics::DELIVERY_DELAY_BUCKETS,
        engine_metrics::LOOP_LAG_BUCKETS,
        ingest::TICK_AGE_BUCKETS,
        crate::session::COMMAND_SECONDS_BUCKETS,
        crate::auth::metrics::AUTH_SECONDS_BUCKETS,
        crate::adapter::metrics::BROKER_CALL_BUCKETS,
        crate::adapter::metrics::ADAPTER_START_BUCKETS,
        crate::registry::metrics::REFERENCES_BUCKETS,
        shards::metrics::LOCK_WAIT_BUCKETS,
        shards::metrics::LOCK_HOLD_BUCKETS,
    ];
    let mut builder = PrometheusBuilder::new();
    for (name, edges) in buckets {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), edges)
            .map_err(|error| StartError::Settings(error.to_string()))?;
    }
    Ok(builder.build_recorder())
}

/// A thread with a runtime of its own that runs what `make` makes there: it need not be `Send`, and may spawn local tasks.
fn on_runtime<F>(
    name: &str,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, StartError>
where
    F: Future,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        tokio::task::LocalSet::new().block_on(&runtime, async { drop(make().await) });
    })?)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender stops too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn until(stop: watch::Receiver<bool>, future: impl Future) {
    tokio::select! {
        () = stopped(stop) => {}
        _ = future => {}
    }
}

/// Everything on the control thread besides the supervisors, which spawn themselves there.
async fn control_tasks(
    config: sim::Config,
    sim: Option<(SimSwitch, SourceSender)>,
    upkeep: Upkeep,
    invalidations: mpsc::Receiver<Invalidate>,
    auth: AuthService,
    registry: Arc<Registry>,
) {
    let market = async {
        if let Some((switch, sender)) = sim {
            // A full queue drops simulated ticks: they are worth nothing later.
            sim::run(config, switch, |message| {
                let _ = sender.try_push(message);
                !sender.is_closed()
            })
            .await;
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(market, upkeep.run(), upkeep::invalidate(invalidations, auth, registry));
}

fn door_config(settings: &Settings) -> accept::Config {
    accept::Config {
        sessions: settings.limits.sessions,
        sessions_per_ip: settings.limits.sessions_per_ip,
        handshakes_max: HANDSHAKES_MAX,
        handshake: settings.limits.handshake,
        msgpack: true,
    }
}

/// The front door hands each socket to the worker with fewest sessions.
async fn front_door(
    listener: TcpListener,
    config: accept::Config,
    metrics: crate::net::metrics::Metrics,
    stop: watch::Receiver<bool>,
    desks: Vec<(Arc<WorkerStats>, mpsc::Sender<NewSession>)>,
) {
    let sink = move |accepted: Accepted| {
        let (stats, desk) =
            desks.iter().min_by_key(|(stats, _)| stats.sessions.load(Ordering::Relaxed)).expect("at least one worker");
        stats.sessions.fetch_add(1, Ordering::Relaxed);
        let load = LoadGuard(Arc::clone(stats));
        let new = NewSession {
            tcp: accepted.tcp,
            early: accepted.early,
            peer: accepted.peer,
            format: accepted.format,
            accepted_at: accepted.accepted_at,
            permit: Box::new((accepted.permit, load)),
        };
        if desk.try_send(new).is_err() {
            tracing::warn!("a worker takes no more arrivals; a connection was dropped");
        }
    };
    if let Err(error) = accept::run(listener, config, metrics, stop, sink).await {
        tracing::error!(%error, "the front door could not be opened");
    }
}

/// Counts a session towards its worker's load as long as it lives.
struct LoadGuard(Arc<WorkerStats>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes the admin server's state on its own thread, for it need not be shared.
fn admin_state(
    settings: &Settings,
    metrics: PrometheusHandle,
    heartbeats: Arc<Heartbeats>,
    addresses: &Addresses,
    life: Life,
    epoch: u64,
) -> impl FnOnce() -> AdminState + Send + 'static {
    let (addresses, hosts) = (addresses.clone(), settings.admin.hosts.clone());
    move || AdminState {
        metrics,
        heartbeats,
        readiness: Box::new(move || Readiness {
            state: life.get(),
            listen: vec![addresses.ws.to_string()],
            admin: addresses.admin.to_string(),
            bus: addresses.bus.clone(),
            control: "none".to_owned(),
            epoch,
        }),
        routes: Vec::new(),
        hosts,
    }
}
