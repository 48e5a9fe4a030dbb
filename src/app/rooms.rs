//! Settings into each room's own configuration. Nobody else translates: rooms below `config` do not know [`Settings`].

use super::build::StartError;
use super::parts::Parts;
use crate::adapter::sim::SimSwitch;
use crate::adapter::supervisor;
use crate::bus::endpoints::{self, EndpointSpec};
use crate::bus::ingest;
use crate::config::Settings;
use crate::config::settings::{AdapterKind, CloseStyle, Normalise};
use crate::engine::WorkerConfig;
use crate::engine::metrics as engine_metrics;
use crate::limits;
use crate::model::{ScopeId, SharedLevel, WorkerId};
use crate::net::{accept, sys};
use crate::policy::{admission, slow_consumer};
use crate::session::SessionConfig;
use crate::session::feeds::FeedKind;
use crate::zmtp::listener::{self, Bound};
use crate::zmtp::{Direction, Endpoint, link, router};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use std::collections::HashMap;
use std::sync::Arc;

/// Upgrades under way at once; further connections wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 2048;
/// `SO_RCVBUF` of a control connection, bytes.
const CONTROL_RECEIVE_BYTES: usize = 128 << 10;

pub(super) fn worker_count(settings: &Settings) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if settings.server.workers == 0 { cores } else { settings.server.workers };
    workers.clamp(1, limits::WORKERS_MAX)
}

/// (broker, user) of everybody whose feed is theirs alone: owners of a `[[bus.source]]`, then of native accounts. One user of
/// one broker has one scope, however many endpoints; its number is the place here, counted from 1.
pub(super) fn owners(settings: &Settings) -> Vec<(&str, &str)> {
    let sources = settings.bus.sources.iter().map(|source| (source.broker.as_str(), source.user.as_str()));
    let natives = settings
        .brokers
        .iter()
        .flat_map(|(name, broker)| broker.users.iter().map(|user| (name.as_str(), user.as_str())));
    let mut owners: Vec<(&str, &str)> = Vec::new();
    for owner in sources.chain(natives) {
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    owners
}

/// The scope of an owner.
pub(super) fn scope_of(owners: &[(&str, &str)], broker: &str, user: &str) -> ScopeId {
    let at = owners.iter().position(|owner| *owner == (broker, user));
    at.map_or(ScopeId::SHARED, |at| ScopeId(at as u16 + 1))
}

pub(super) fn bus_specs(settings: &Settings) -> Result<Vec<EndpointSpec>, StartError> {
    let parse = |text: &String| text.parse::<Endpoint>().map_err(|error| StartError::Settings(error.to_string()));
    let shared =
        |text: &String, direction| Ok(EndpointSpec { endpoint: parse(text)?, direction, scope: ScopeId::SHARED });
    let bind = settings.bus.bind.iter().map(|text| shared(text, Direction::Bind));
    let connect = settings.bus.connect.iter().map(|text| shared(text, Direction::Connect));
    let owners = owners(settings);
    let owned = settings.bus.sources.iter().map(|source| {
        let scope = scope_of(&owners, &source.broker, &source.user);
        Ok(EndpointSpec { endpoint: parse(&source.endpoint)?, direction: Direction::Connect, scope })
    });
    bind.chain(connect).chain(owned).collect()
}

pub(super) fn bus_config(settings: &Settings) -> endpoints::Config {
    let mut config = endpoints::Config { peers_max: settings.limits.bus_peers, ..Default::default() };
    config.link.parser.frame_bytes_max = settings.limits.bus_frame_bytes_max;
    config.link.parser.message_bytes_max = settings.limits.bus_message_bytes_max;
    config.link.handshake = settings.limits.bus_handshake;
    config
}

/// Binds the control channel; the endpoint has its real port.
pub(super) fn bind_control(settings: &Settings) -> Result<(Bound, Endpoint), StartError> {
    let text = &settings.adapters.control_bind;
    let endpoint = text.parse::<Endpoint>().map_err(|error| StartError::Settings(error.to_string()))?;
    listener::bind(&endpoint, CONTROL_RECEIVE_BYTES).map_err(|cause| StartError::Bind {
        what: "control channel",
        address: endpoint.to_string(),
        cause: cause.to_string(),
        setting: "adapters.control_bind",
    })
}

pub(super) fn control_config(settings: &Settings) -> router::Config {
    let mut link = link::Config::router();
    link.handshake = settings.limits.bus_handshake;
    router::Config { link, peers_max: limits::CONTROL_PEERS_MAX, queue_max: limits::CONTROL_QUEUE_MAX }
}

pub(super) fn supervisor_config(settings: &Settings) -> supervisor::Config {
    supervisor::Config {
        linger: settings.adapters.linger,
        call_timeout: settings.adapters.call_timeout,
        calls_max: settings.limits.adapter_calls_pending,
        keep_alive: settings.adapters.keep_alive.iter().map(|name| name.to_ascii_lowercase()).collect(),
        ..Default::default()
    }
}

pub(super) fn worker_config(settings: &Settings, id: WorkerId) -> WorkerConfig {
    WorkerConfig {
        id,
        flush_max_delay: settings.fanout.flush_max_delay,
        outbox_bytes_total: settings.fanout.outbox_bytes_total,
        workers: worker_count(settings),
        lossless: slow_consumer::Config {
            bytes_max: settings.fanout.outbox_bytes_max,
            stall_max: settings.limits.lossless_stall,
        },
    }
}

pub(super) fn session_config(settings: &Settings, parts: &Parts) -> SessionConfig {
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
        sim: parts
            .sim
            .as_ref()
            .and_then(|(switch, _)| parts.brokers.find(AdapterKind::Sim.label()).map(|label| (label, switch.clone()))),
        epoch: parts.epoch,
        feeds: Arc::clone(&parts.feeds),
        overload: Arc::clone(&parts.overload),
        tcp_info: sys::tcp_info,
        before_command: parts.before_command.clone(),
    }
}

/// How each broker's ticks come in; the simulated market's by the bus once it has stopped.
pub(super) fn feed_kinds(settings: &Settings, sim: Option<SimSwitch>) -> Box<dyn Fn(&str) -> FeedKind + Send + Sync> {
    let default = settings.adapters.default;
    let named: HashMap<String, AdapterKind> = settings.brokers.iter().map(|(name, b)| (name.clone(), b.kind)).collect();
    Box::new(move |broker| match named.get(broker).copied().unwrap_or(default) {
        AdapterKind::Sim if sim.as_ref().is_some_and(|switch| !switch.is_stopped()) => FeedKind::Sim,
        AdapterKind::Sim | AdapterKind::Bus => FeedKind::Bus,
        kind @ (AdapterKind::External | AdapterKind::Native(_)) => FeedKind::Adapter(kind.label()),
    })
}

/// `VALID_BROKERS` when set, else what the settings name.
pub(super) fn supported_brokers(settings: &Settings) -> Vec<String> {
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
pub(super) fn recorder() -> Result<PrometheusRecorder, StartError> {
    let buckets = [
        engine_metrics::BROADCAST_LATENCY_BUCKETS,
        engine_metrics::STAGE_BUCKETS,
        engine_metrics::DELIVERY_DELAY_BUCKETS,
        engine_metrics::LOOP_LAG_BUCKETS,
        ingest::TICK_AGE_BUCKETS,
        crate::session::COMMAND_SECONDS_BUCKETS,
        crate::auth::metrics::AUTH_SECONDS_BUCKETS,
        crate::adapter::metrics::BROKER_CALL_BUCKETS,
        crate::adapter::metrics::ADAPTER_START_BUCKETS,
        crate::registry::metrics::REFERENCES_BUCKETS,
    ];
    let mut builder = PrometheusBuilder::new();
    for (name, edges) in buckets {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), edges)
            .map_err(|error| StartError::Settings(error.to_string()))?;
    }
    Ok(builder.build_recorder())
}

pub(super) fn door_config(settings: &Settings, overload: &Arc<SharedLevel>) -> accept::Config {
    accept::Config {
        sessions: settings.limits.sessions,
        sessions_per_ip: settings.limits.sessions_per_ip,
        handshakes_max: HANDSHAKES_MAX,
        handshake: settings.limits.handshake,
        msgpack: true,
        overload: Arc::clone(overload),
    }
}
