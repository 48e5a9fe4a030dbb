//! Everything a server is made of besides its ports and threads: tables, queues, adapters and metrics, wired to each other.
//!
//! In: settings. Out: [`Parts`], made under the server's own recorder; `build.rs` hands them out to threads.

use super::build::Hooks;
use super::control::places;
use super::kinds::Kinds;
use super::overload::{ForcedFacts, OverloadGauge};
use super::rooms::{feed_kinds, owners, supervisor_config, worker_count};
use super::stats_file;
use super::upkeep::{self, WorkerGauges};
use crate::adapter::discovery::{Place, metrics::DiscoveryMetrics};
use crate::adapter::external::{Channel, Inbox, metrics::ControlMetrics};
use crate::adapter::metrics::AdapterMetrics;
use crate::adapter::native::feed::Wiring as FeedWiring;
use crate::adapter::native::socket::Tls;
use crate::adapter::sim::SimSwitch;
use crate::adapter::supervisor::Supervisors;
use crate::bus::endpoints::EndpointMetrics;
use crate::bus::frames::Invalidate;
use crate::bus::ingest::{Ingest, IngestConfig, IngestMetrics, SimEnd, WorkerEnd};
use crate::config::Settings;
use crate::config::settings::{AdapterKind, Normalise};
use crate::engine::metrics::{EngineMetrics, WorkerStats};
use crate::engine::queue::{Control, TickReceiver, tick_queue};
use crate::limits;
use crate::model::{
    Brokers, ByteBudget, FeedClock, Micros, ScopeId, SharedLevel, SourceReceiver, SourceSender, WorkerId, source_queue,
};
use crate::registry::metrics::RegistryMetrics;
use crate::registry::{self, Registry, ScopedSource};
use crate::session::feeds::Feeds;
use crate::session::{BeforeCommand, SessionMetrics};
use crate::shards::{self, Shards};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Sources on their way to ingest.
const NEW_SOURCES_MAX: usize = 256;
/// Invalidations on their way to the control thread.
const INVALIDATIONS_MAX: usize = 1024;

/// Everything that has metrics, made under the server's own recorder.
pub(super) struct Parts {
    pub(super) handle: PrometheusHandle,
    pub(super) brokers: Arc<Brokers>,
    pub(super) shards: Arc<Shards>,
    pub(super) lock_metrics: shards::metrics::Metrics,
    pub(super) registry: Arc<Registry>,
    pub(super) workers: Vec<WorkerParts>,
    pub(super) ingest: Ingest,
    pub(super) wake: Arc<Notify>,
    /// Queues on their way to ingest.
    pub(super) sources: (mpsc::Sender<SourceReceiver>, mpsc::Receiver<SourceReceiver>),
    /// What they may hold together.
    pub(super) budget: Arc<ByteBudget>,
    pub(super) endpoint_metrics: Arc<EndpointMetrics>,
    pub(super) door_metrics: crate::net::metrics::Metrics,
    pub(super) session_metrics: SessionMetrics,
    pub(super) engine_metrics: EngineMetrics,
    pub(super) gauges: WorkerGauges,
    pub(super) sim: Option<(SimSwitch, SourceSender)>,
    pub(super) invalidations: mpsc::Receiver<Invalidate>,
    pub(super) control: (Inbox, ControlMetrics),
    pub(super) registries: Vec<(Option<Place>, DiscoveryMetrics)>,
    pub(super) before_command: Option<BeforeCommand>,
    pub(super) audit_every: Duration,
    pub(super) stats_every: Duration,
    pub(super) epoch: u64,
    /// How much the server sheds, for everybody who must know.
    pub(super) overload: Arc<SharedLevel>,
    pub(super) overload_gauge: OverloadGauge,
    pub(super) forced_facts: Option<ForcedFacts>,
    pub(super) feeds: Arc<Feeds>,
}

/// One worker's ends of its queues.
pub(super) struct WorkerParts {
    pub(super) id: WorkerId,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) ticks: TickReceiver,
    pub(super) control: (mpsc::Sender<Control>, mpsc::Receiver<Control>),
}

impl Parts {
    pub(super) fn new(
        settings: &Settings,
        hooks: Hooks,
        recorder: &Arc<PrometheusRecorder>,
        control: &tokio::runtime::Handle,
        endpoints: usize,
    ) -> Self {
        let brokers = Arc::new(Brokers::new());
        let default = settings.adapters.default;
        let configured = || {
            let named = settings.brokers.keys().map(String::as_str);
            let owned = settings.bus.sources.iter().map(|s| s.broker.as_str());
            std::iter::once(default.label()).chain(named).chain(owned)
        };
        let listed = settings.server.supported_brokers.iter().map(String::as_str);
        for name in configured().chain(listed) {
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
        let wake = Arc::new(Notify::new());
        let (sources, new_sources) = mpsc::channel(NEW_SOURCES_MAX);
        let budget = ByteBudget::new(settings.bus.queue_bytes_max);
        let (channel, inbox) = Channel::new(settings.limits.adapter_calls_pending);
        let factory = hooks.factory.unwrap_or_else(|| {
            let wiring =
                FeedWiring { sources: sources.clone(), budget: budget.clone(), wake: wake.clone(), tls: Tls::public() };
            Arc::new(Kinds::new(settings, wiring, channel))
        });
        let adapter_metrics = AdapterMetrics::register(brokers.clone(), configured(), recorder.clone());
        let supervisors = Supervisors::new(supervisor_config(settings), factory, adapter_metrics, control.clone());
        let registry_config = registry::Config {
            sources: owners(settings)
                .iter()
                .enumerate()
                .map(|(at, (broker, user))| ScopedSource {
                    scope: ScopeId(at as u16 + 1),
                    broker: (*broker).to_owned(),
                    user: (*user).to_owned(),
                })
                .collect(),
            lock_slow: settings.fanout.lock_slow,
            ..Default::default()
        };
        let registry =
            Registry::new(registry_config, shards.clone(), brokers.clone(), supervisors, RegistryMetrics::register());
        registry.lock_stats().into_iter().for_each(|stats| lock_metrics.watch(Arc::clone(stats)));
        let (mut workers, mut ends) = (Vec::new(), Vec::new());
        for id in 0..worker_count(settings) {
            let (ticks_tx, ticks) = tick_queue(settings.fanout.worker_queue_bytes_max, wake.clone());
            let control = mpsc::channel(limits::WORKER_CONTROL_MAX);
            let stats = Arc::<WorkerStats>::default();
            ends.push(WorkerEnd { ticks: ticks_tx, control: control.0.clone(), stats: Arc::clone(&stats) });
            workers.push(WorkerParts { id: WorkerId(id as u8), stats, ticks, control });
        }
        let (sim, sim_end) = match default {
            AdapterKind::Sim => {
                let budget = ByteBudget::new(limits::SOURCE_QUEUE_BYTES_MAX);
                let (tx, source) = source_queue(&budget, limits::SOURCE_QUEUE_BYTES_MAX, wake.clone());
                let switch = SimSwitch::default();
                let stop = switch.clone();
                (Some((switch, tx)), Some(SimEnd { source, stop: Box::new(move || _ = stop.stop()) }))
            }
            AdapterKind::Bus | AdapterKind::External | AdapterKind::Native(_) => (None, None),
        };
        let (invalidate, invalidations) = mpsc::channel(INVALIDATIONS_MAX);
        let clock = Arc::new(FeedClock::new(Instant::now()));
        let ingest_config = IngestConfig {
            pass_through: settings.fanout.normalise == Normalise::Off,
            sim_label: brokers.find(AdapterKind::Sim.label()).filter(|_| default == AdapterKind::Sim),
            clock: Arc::clone(&clock),
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
        let sim_switch = sim.as_ref().map(|(switch, _)| switch.clone());
        let times = hooks.feed_times.unwrap_or_default();
        let feeds = Feeds::new(times, Arc::clone(&registry), clock, feed_kinds(settings, sim_switch));
        Parts {
            handle: recorder.handle(),
            brokers,
            shards,
            lock_metrics,
            registry,
            workers,
            ingest,
            wake,
            sources: (sources, new_sources),
            budget,
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
            stats_every: hooks.stats_every.unwrap_or(stats_file::EVERY),
            epoch: Micros::now().millis(),
            overload: Arc::default(),
            overload_gauge: OverloadGauge::register(),
            forced_facts: hooks.overload,
            feeds,
        }
    }
}
