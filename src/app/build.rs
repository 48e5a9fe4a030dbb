//! Phase one: every port bound, every queue made, nothing running. Phase two: the threads.

use super::control::{BusFeeds, ControlParts, Kinds, control_channel, machine_config, places, watch_config};
use super::door::front_door;
use super::rooms::{
    bind_control, bus_config, bus_specs, control_config, door_config, recorder, scoped, session_config,
    supervisor_config, worker_config, worker_count,
};
use super::upkeep::{self, Upkeep, WorkerGauges};
use super::{Addresses, Life, Running};
use crate::adapter::AdapterFactory;
use crate::adapter::discovery::{self, Place, metrics::DiscoveryMetrics};
use crate::adapter::external::machine::Owner;
use crate::adapter::external::{Inbox, metrics::ControlMetrics};
use crate::adapter::metrics::AdapterMetrics;
use crate::adapter::sim::{self, SimSwitch};
use crate::adapter::supervisor::Supervisors;
use crate::auth::{AuthMetrics, AuthService};
use crate::bus::endpoints::{BusListeners, EndpointMetrics, Wiring};
use crate::bus::explode::explode;
use crate::bus::frames::Invalidate;
use crate::bus::ingest::{Ingest, IngestConfig, IngestMetrics, SimEnd, WorkerEnd};
use crate::config::Settings;
use crate::config::settings::{AdapterKind, Normalise};
use crate::engine::Worker;
use crate::engine::metrics::{EngineMetrics, WorkerStats};
use crate::engine::queue::{Control, TickReceiver, tick_queue};
use crate::limits;
use crate::model::{Brokers, ByteBudget, Heartbeats, Micros, SourceSender, WorkerId, source_queue};
use crate::net::accept;
use crate::net::admin::{self, AdminState, Readiness, State};
use crate::registry::metrics::RegistryMetrics;
use crate::registry::{self, Registry, ScopedSource};
use crate::session::{BeforeCommand, SessionConfig, SessionMetrics, Sessions};
use crate::shards::{self, Shards};
use crate::zmtp::listener::Bound;
use ::metrics::with_local_recorder;
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};

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
    control: Bound,
    control_runtime: Runtime,
    parts: Parts,
    auth: (AuthService, crate::auth::AuthPool),
}

/// Everything that has metrics, made under the server's own recorder.
pub(super) struct Parts {
    handle: PrometheusHandle,
    pub(super) brokers: Arc<Brokers>,
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
    pub(super) sim: Option<(SimSwitch, SourceSender)>,
    invalidations: mpsc::Receiver<Invalidate>,
    control: (Inbox, ControlMetrics),
    registries: Vec<(Option<Place>, DiscoveryMetrics)>,
    pub(super) before_command: Option<BeforeCommand>,
    audit_every: Duration,
    pub(super) epoch: u64,
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
        let (control, control_at) = bind_control(&settings)?;
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
            control: control_at.to_string(),
        };
        Ok(App { settings, addresses, listener, admin, scrape, bus, control, control_runtime, parts, auth })
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
        let App { settings, addresses, listener, admin, scrape, bus, control, control_runtime, parts, auth } = self;
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
                let delivery = tokio::task::spawn_local(Rc::clone(&engine).run(worker.ticks));
                let config = SessionConfig::clone(&config);
                let sessions = Sessions::new(config, engine, registry, shards, brokers, auth, session_metrics);
                tokio::select! {
                    () = sessions.run(arrivals, control_rx, heartbeat) => {}
                    // Sessions without ticks would look healthy: the worker ends, its clients see it, and so does /healthz.
                    Err(fault) = delivery => panic!("delivery failed: {fault}"),
                }
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
        let machine = machine_config(&settings, bus.specs());
        let (mut registered, mut watchers) = (Vec::new(), Vec::new());
        for (place, metrics) in parts.registries {
            let Some(place) = place else { continue };
            let (leases, followed) = watch::channel(discovery::watch::Leases::new());
            registered.push(followed);
            // A thread of its own: registries block it.
            let (stop, config) = (rest_stop.clone(), watch_config(&settings, bus.specs()));
            let watching = discovery::watch::run(place, config, leases, metrics);
            watchers.push(on_runtime("discovery", move || until(stop, watching))?);
        }
        let (handle_tx, handle) = std::sync::mpsc::sync_channel(1);
        let bus_stop = rest_stop.clone();
        let bus = on_runtime("bus", move || async move {
            match bus.spawn(wiring) {
                Ok((handle, tasks)) => {
                    // The receiver waits for exactly this.
                    let _ = handle_tx.send(handle);
                    stopped(bus_stop).await;
                    tasks.stop().await;
                }
                Err(error) => tracing::error!(%error, "the bus could not be started"),
            }
        })?;
        let bus_handle = handle.recv().map_err(|_| std::io::Error::other("the bus could not be started"))?;
        let sim_switch = parts.sim.as_ref().map(|(switch, _)| switch.clone());
        let upkeep = Upkeep {
            auth: auth.clone(),
            registry: parts.registry.clone(),
            shards: parts.shards.clone(),
            lock_metrics: parts.lock_metrics,
            gauges: parts.gauges,
            audit_every: parts.audit_every,
            workers: stats,
            endpoints: bus_handle.statuses().to_vec(),
            sim_runs: Box::new(move || sim_switch.as_ref().is_some_and(|switch| !switch.is_stopped())),
        };
        // A thread of its own: it visits every shard, and must delay nobody while it waits for one.
        let upkeep_stop = rest_stop.clone();
        let upkeep = on_runtime("upkeep", move || until(upkeep_stop, upkeep.run()))?;
        let market = sim::Config { ticks_per_second: settings.sim.ticks_per_second, seed: settings.sim.seed };
        let (sim, invalidations, registry) = (parts.sim, parts.invalidations, parts.registry);
        let control_stop = rest_stop.clone();
        let owners = scoped(&settings).map(|(scope, source)| {
            (scope, Owner { broker: source.broker.to_ascii_lowercase(), user: Some(source.user.clone()) })
        });
        let feeds = BusFeeds::new(bus_handle, registry.clone(), owners);
        let (config, (inbox, metrics)) = (control_config(&settings), parts.control);
        let channel = ControlParts { config, machine, inbox, feeds, metrics };
        let control = std::thread::Builder::new().name("control".into()).spawn(move || {
            let channel = control_channel(control, channel, registered);
            let tasks = control_tasks(market, sim, invalidations, auth, registry);
            let all = until(control_stop, async { tokio::join!(tasks, channel) });
            tokio::task::LocalSet::new().block_on(&control_runtime, all);
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
        let threads = [door_thread, ingest, bus, upkeep, control, admin].into_iter().chain(watchers).collect();
        Ok(Running { addresses, life, workers, door, rest, threads, metrics: parts.handle, shards: parts.shards })
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
        let (kinds, inbox) = Kinds::new(settings);
        let factory = hooks.factory.unwrap_or_else(|| Arc::new(kinds));
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
            AdapterKind::Bus | AdapterKind::External => (None, None),
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
            control: (inbox, ControlMetrics::register()),
            registries: places(settings).into_iter().zip(DiscoveryMetrics::register(Place::LABELS)).collect(),
            before_command: hooks.before_command,
            audit_every: hooks.audit_every.unwrap_or(upkeep::AUDIT),
            epoch: Micros::now().millis(),
        }
    }
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
    tokio::join!(market, upkeep::invalidate(invalidations, auth, registry));
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
            control: addresses.control.clone(),
            epoch,
        }),
        routes: Vec::new(),
        hosts,
    }
}
