//! Phase one: every port bound, every queue made, nothing running. Phase two: the threads.

use super::admin::AdminParts;
use super::control::{BusFeeds, ControlParts, control_channel, machine_config, watch_config};
use super::door::front_door;
use super::overload::{ForcedFacts, OverloadWatch};
use super::parts::Parts;
use super::rooms::{
    bind_control, bus_config, bus_specs, control_config, door_config, owners, recorder, session_config, worker_config,
};
use super::stats_file::StatsFile;
use super::upkeep::{self, Upkeep};
use super::{Addresses, Life, MetricsPage, Running};
use crate::adapter::AdapterFactory;
use crate::adapter::discovery;
use crate::adapter::external::machine::Owner;
use crate::adapter::sim::{self, SimSwitch};
use crate::auth::{AuthMetrics, AuthService, DEMO_KEY};
use crate::bus::endpoints::{BusListeners, Wiring};
use crate::bus::explode::explode;
use crate::bus::frames::Invalidate;
use crate::config::Settings;
use crate::config::settings::KeyStoreSetting;
use crate::engine::Worker;
use crate::limits;
use crate::model::{ByteBudget, Heartbeats, ScopeId, SourceSender};
use crate::net::accept;
use crate::net::admin::{self, State};
use crate::registry::Registry;
use crate::session::feeds::FeedTimes;
use crate::session::{BeforeCommand, SessionConfig, Sessions};
use crate::zmtp::listener::Bound;
use ::metrics::with_local_recorder;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Sockets on their way from the front door to one worker.
const ARRIVALS_MAX: usize = 4096;
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
    /// How often OpenAlgo's stats file is replaced, instead of its usual period.
    pub stats_every: Option<Duration>,
    /// Called before each command is carried out; a panic in it is an injected fault.
    pub before_command: Option<BeforeCommand>,
    /// What the server believes of its load.
    pub overload: Option<ForcedFacts>,
    /// When silence of a feed counts.
    pub feed_times: Option<FeedTimes>,
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
        let listener = bind(
            "WebSocket",
            ws,
            "server.listen (--listen, WEBSOCKET_PORT)",
            accept::bind(ws, limits::BACKLOG, send_buffer),
        )?;
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
        let recorder = Arc::new(recorder()?);
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
        let heartbeat = heartbeats.handle("ingest").expect("named above");
        let (stop, wake, ingest, new_sources) = (rest_stop.clone(), parts.wake.clone(), parts.ingest, parts.sources.1);
        let ingest = on_runtime("ingest", move || until(stop, ingest.run(new_sources, wake, heartbeat)))?;
        let stats_of_workers: Vec<_> = stats.iter().map(|(stats, _)| Arc::clone(stats)).collect();
        let watch = OverloadWatch {
            workers: stats_of_workers.clone(),
            sources: Arc::clone(&parts.budget),
            outbox_bytes_total: settings.fanout.outbox_bytes_total,
            level: Arc::clone(&parts.overload),
            gauge: parts.overload_gauge,
            forced: parts.forced_facts,
        };
        let wiring = Wiring {
            budget: parts.budget,
            overflow_budget: ByteBudget::new(settings.bus.queue_bytes_max),
            wake: parts.wake,
            sources: parts.sources.0,
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
        let metrics = MetricsPage { exporter: parts.handle, locks: parts.lock_metrics.histograms() };
        let endpoints = bus_handle.statuses().to_vec();
        parts.feeds.set_endpoints(endpoints.clone());
        let feeds = Arc::clone(&parts.feeds);
        let sim_switch = parts.sim.as_ref().map(|(switch, _)| switch.clone());
        let (found, findings) = watch::channel(None);
        let asked = stats.iter().map(|(_, control)| control.clone()).collect();
        let upkeep = Upkeep {
            auth: auth.clone(),
            registry: parts.registry.clone(),
            shards: parts.shards.clone(),
            lock_metrics: parts.lock_metrics,
            gauges: parts.gauges,
            audit_every: parts.audit_every,
            workers: stats,
            findings: found,
            endpoints,
            sim_runs: Box::new(move || sim_switch.as_ref().is_some_and(|switch| !switch.is_stopped())),
        };
        let stats_file = StatsFile {
            path: settings.admin.stats_file.clone(),
            every: parts.stats_every,
            registry: parts.registry.clone(),
            workers: stats_of_workers,
        };
        // A thread of its own: it visits every shard, and must delay nobody while it waits for one.
        let upkeep_stop = rest_stop.clone();
        let upkeep = on_runtime("upkeep", move || {
            until(upkeep_stop, async { tokio::join!(upkeep.run(), watch.run(), feeds.run(), stats_file.run()) })
        })?;
        let market = sim::Config { ticks_per_second: settings.sim.ticks_per_second, seed: settings.sim.seed };
        let (sim, invalidations, registry) = (parts.sim, parts.invalidations, parts.registry.clone());
        let control_stop = rest_stop.clone();
        let owners = owners(&settings).into_iter().enumerate().map(|(at, (broker, user))| {
            (ScopeId(at as u16 + 1), Owner { broker: broker.to_ascii_lowercase(), user: Some(user.to_owned()) })
        });
        let bus_feeds = BusFeeds::new(bus_handle, registry.clone(), owners);
        let (config, (inbox, counters)) = (control_config(&settings), parts.control);
        let channel = ControlParts { config, machine, inbox, feeds: bus_feeds, metrics: counters };
        let control = std::thread::Builder::new().name("control".into()).spawn(move || {
            let channel = control_channel(control, channel, registered);
            let tasks = control_tasks(market, sim, invalidations, auth, registry);
            let all = until(control_stop, async { tokio::join!(tasks, channel) });
            tokio::task::LocalSet::new().block_on(&control_runtime, all);
            pool.join();
        })?;
        let door_thread = {
            let (config, metrics) = (door_config(&settings, &parts.overload), parts.door_metrics);
            on_runtime("door", move || front_door(listener, config, metrics, door_stop, desks))?
        };
        let state = AdminParts {
            hosts: settings.admin.hosts.clone(),
            demo_key: (settings.auth.store == KeyStoreSetting::Demo).then_some(DEMO_KEY),
            metrics: metrics.clone(),
            heartbeats,
            addresses: addresses.clone(),
            life: life.clone(),
            overload: parts.overload,
            feeds: parts.feeds,
            epoch: parts.epoch,
            workers: asked,
            registry: parts.registry,
            findings,
        };
        let admin = on_runtime("admin", move || async move {
            if let Err(error) = admin::run(admin, scrape, state.open(), rest_stop).await {
                tracing::error!(%error, "the admin server ended");
            }
        })?;
        life.set(State::Ready);
        let threads = [door_thread, ingest, bus, upkeep, control, admin].into_iter().chain(watchers).collect();
        Ok(Running { addresses, life, workers, door, rest, threads, metrics, shards: parts.shards })
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
