//! The effective settings, typed and validated. Field names are the keys of CONTRACTS 2.

use crate::adapter::discovery::RedisUrl;
use crate::adapter::kinds::KINDS;
use crate::adapter::native::credentials::Credentials;
use crate::limits;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the server is told from outside, after all sources were merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[server]`
    pub server: Server,
    /// `[admin]`
    pub admin: Admin,
    /// `[bus]` and `[[bus.source]]`
    pub bus: Bus,
    /// `[discovery]`
    pub discovery: Discovery,
    /// `[auth]`
    pub auth: Auth,
    /// `[adapters]`
    pub adapters: Adapters,
    /// `[brokers.NAME]`, keyed by the broker's name in lower case.
    pub brokers: BTreeMap<String, Broker>,
    /// `[fanout]`
    pub fanout: Fanout,
    /// `[limits]`
    pub limits: Limits,
    /// `[scale]`: exchange -> decimal digits of its MessagePack prices.
    pub scale: BTreeMap<String, u8>,
    /// `[sim]`
    pub sim: Sim,
    /// `[log]`
    pub log: Log,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// WebSocket address; port 0 picks one.
    pub listen: SocketAddr,
    /// Delivery threads; 0 = one per core.
    pub workers: usize,
    /// How drain, restart and eviction end a connection.
    pub close_style: CloseStyle,
    /// `VALID_BROKERS`: what `get_supported_brokers` lists.
    pub supported_brokers: Vec<String>,
}

/// How the server says goodbye (`server.close_style`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseStyle {
    /// A Close frame with a code.
    Frame,
    /// TCP shutdown without a Close frame: OpenAlgo's web UI reconnects only then.
    Drop,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Admin address.
    pub listen: SocketAddr,
    /// More Host header values that are served.
    pub hosts: Vec<String>,
    /// Second listener for `/metrics`, `/healthz`, `/readyz` only.
    pub scrape_listen: Option<SocketAddr>,
    /// `WS_PROXY_STATS_FILE`: what OpenAlgo's Health page reads.
    pub stats_file: Option<PathBuf>,
    /// Allows a wildcard bind.
    pub allow_public: bool,
}

/// `[bus]`
#[derive(Clone, Debug, PartialEq)]
pub struct Bus {
    /// Endpoints we bind, `tcp://…` or `ipc://…`.
    pub bind: Vec<String>,
    /// Endpoints we connect to.
    pub connect: Vec<String>,
    /// All sources' queues together, bytes.
    pub queue_bytes_max: usize,
    /// Allows a wildcard bind.
    pub allow_public: bool,
    /// `[[bus.source]]`: endpoints that belong to one user's feed (we connect to them).
    pub sources: Vec<BusSource>,
}

/// One `[[bus.source]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct BusSource {
    /// Endpoint we connect to.
    pub endpoint: String,
    /// Broker whose feed it is.
    pub broker: String,
    /// The only user who receives it.
    pub user: String,
}

/// `[discovery]`: where publishers register that only register.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// A SQLite file.
    pub file: Option<PathBuf>,
    /// A Redis server.
    pub redis: Option<RedisUrl>,
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// Where API keys are checked.
    pub store: KeyStoreSetting,
    /// `API_KEY_PEPPER` of OpenAlgo; needed by `openalgo:` stores. Never printed.
    pub pepper: Option<Secret>,
    /// `FERNET_SALT` of OpenAlgo. Never printed.
    pub fernet_salt: Option<Secret>,
    /// `BROKER_API_KEY` of OpenAlgo. Never printed.
    pub broker_api_key: Option<Secret>,
}

/// `auth.store`
#[derive(Clone, Debug, PartialEq)]
pub enum KeyStoreSetting {
    /// One key, `demo-key`, user `demo`; loopback only.
    Demo,
    /// tickcast's own SQLite file.
    Sqlite(PathBuf),
    /// OpenAlgo's database, read-only.
    OpenAlgo(PathBuf),
}

/// A value that must not appear in any output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl Secret {
    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl AdapterKind {
    /// Every kind that is no broker of [`KINDS`], in the order in which messages list them.
    pub const ALL: [AdapterKind; 3] = [AdapterKind::Sim, AdapterKind::Bus, AdapterKind::External];

    /// Its name in settings, metrics and `"broker"` of the demo key.
    pub const fn label(self) -> &'static str {
        match self {
            AdapterKind::Sim => "sim",
            AdapterKind::Bus => "bus",
            AdapterKind::External => "external",
            AdapterKind::Native(index) => KINDS[index as usize].name,
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\"(secret)\"")
    }
}

/// Adapter kinds of `adapters.default` and `[brokers.NAME] kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AdapterKind {
    /// The built-in simulated market.
    Sim,
    /// Publisher only: ticks arrive on the bus, subscribe always succeeds.
    Bus,
    /// An adapter process at the control channel.
    External,
    /// A broker that we speak to ourselves, by its place in [`KINDS`]; in `[brokers.NAME]` only.
    Native(u8),
}

/// `[adapters]`
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    /// Kind for brokers without a section of their own.
    pub default: AdapterKind,
    /// Control channel, ZeroMQ ROUTER.
    pub control_bind: String,
    /// Secret an adapter's hello must carry, when set.
    pub secret: Option<Secret>,
    /// How long an adapter outlives its last client.
    pub linger: Duration,
    /// Deadline of one adapter call.
    pub call_timeout: Duration,
    /// Brokers whose adapter is kept (after `unsubscribe_all`) when the last client leaves.
    pub keep_alive: Vec<String>,
    /// Allows a wildcard bind of the control channel.
    pub allow_public: bool,
}

/// `[brokers.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Adapter kind for this broker.
    pub kind: AdapterKind,
    /// Users who have an account, for native kinds; so is all that follows.
    pub users: Vec<String>,
    /// Where the accounts' credentials are.
    pub credentials: Option<CredentialsFrom>,
    /// Instrument files.
    pub symbols: Vec<PathBuf>,
    /// Where the broker is, if not at its own address.
    pub url: Option<String>,
    /// Where order updates come from, of brokers with a socket of its own for them.
    pub order_url: Option<String>,
    /// Instruments of one connection; unset = the broker's limit.
    pub symbols_per_connection: Option<usize>,
    /// Connections of one account; unset = the broker's limit.
    pub connections: Option<usize>,
}

impl Default for Broker {
    fn default() -> Self {
        Broker {
            kind: AdapterKind::Bus,
            users: Vec::new(),
            credentials: None,
            symbols: Vec::new(),
            url: None,
            order_url: None,
            symbols_per_connection: None,
            connections: None,
        }
    }
}

/// `credentials` of `[brokers.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub enum CredentialsFrom {
    /// A file; `{user}` in the path stands for the user.
    File(String),
    /// Variables.
    Env {
        /// What their names begin with, up to the last `_`.
        prefix: String,
        /// Their values, by the rest of their names.
        given: Credentials,
    },
    /// OpenAlgo's database, which is the key store too.
    OpenAlgo,
}

impl std::fmt::Display for CredentialsFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CredentialsFrom::File(path) => write!(f, "file:{path}"),
            CredentialsFrom::Env { prefix, .. } => write!(f, "env:{prefix}"),
            CredentialsFrom::OpenAlgo => f.write_str("openalgo"),
        }
    }
}

/// `[fanout]`
#[derive(Clone, Debug, PartialEq)]
pub struct Fanout {
    /// Registry shards, a power of two.
    pub shards: usize,
    /// Longest rest between two flushes.
    pub flush_max_delay: Duration,
    /// A session's lossless lane, bytes.
    pub outbox_bytes_max: usize,
    /// All outboxes, bytes.
    pub outbox_bytes_total: usize,
    /// Ticks waiting for one worker, bytes.
    pub worker_queue_bytes_max: usize,
    /// `SO_SNDBUF` of a client socket, bytes.
    pub send_buffer_bytes: usize,
    /// Oldest last value that an unasked-for snapshot may carry.
    pub snapshot_max_age: Duration,
    /// Build only what is subscribed, or pass JSON payloads through to all modes.
    pub normalise: Normalise,
    /// Locks waited for or held longer than this are logged.
    pub lock_slow: Duration,
}

/// `fanout.normalise`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalise {
    /// Lower modes get their canonical fields only.
    Lazy,
    /// JSON payloads pass through to all modes.
    Off,
}

/// `[limits]`; see CONTRACTS 7.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Subscriptions of one client.
    pub subscriptions_per_client: usize,
    /// Entries in one request.
    pub entries_per_request: usize,
    /// Adapter calls pending for one user.
    pub adapter_calls_pending: usize,
    /// One inbound message, bytes.
    pub message_bytes_max: usize,
    /// One inbound message before authentication, bytes.
    pub message_bytes_max_unauthenticated: usize,
    /// HTTP upgrade deadline.
    pub handshake: Duration,
    /// Authentication deadline.
    pub auth_deadline: Duration,
    /// The lossless lane may make no progress this long.
    pub lossless_stall: Duration,
    /// Commands per second on average.
    pub commands_per_second: u32,
    /// Commands at once.
    pub commands_burst: u32,
    /// Sessions at once.
    pub sessions: usize,
    /// Sessions of one user.
    pub sessions_per_user: usize,
    /// Sessions of one address.
    pub sessions_per_ip: usize,
    /// Failed authentications on one connection.
    pub auth_failures_per_connection: u32,
    /// Failed authentications of one address per minute (token bucket).
    pub auth_failures_per_ip_per_minute: u32,
    /// Protocol ping period; 0 = off.
    pub ping_interval: Duration,
    /// Time to answer a ping.
    pub ping_timeout: Duration,
    /// Instruments known at once.
    pub instruments: usize,
    /// Last values, bytes.
    pub last_value_bytes_max: usize,
    /// ZMTP peers at once.
    pub bus_peers: usize,
    /// One ZMTP frame, bytes.
    pub bus_frame_bytes_max: usize,
    /// One ZMTP message over all parts, bytes.
    pub bus_message_bytes_max: usize,
    /// Greeting and READY of a ZMTP peer.
    pub bus_handshake: Duration,
}

/// `[sim]`
#[derive(Clone, Debug, PartialEq)]
pub struct Sim {
    /// Ticks per second over all instruments.
    pub ticks_per_second: u32,
    /// Seed of the random walk.
    pub seed: u64,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// How a line is written.
    pub format: LogFormat,
    /// What is logged to stderr, in the notation of tracing's filters.
    pub level: String,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Settings {
            server: Server {
                listen: loopback(8765),
                workers: 0,
                close_style: CloseStyle::Frame,
                supported_brokers: Vec::new(),
            },
            admin: Admin {
                listen: loopback(9464),
                hosts: Vec::new(),
                scrape_listen: None,
                stats_file: None,
                allow_public: false,
            },
            bus: Bus {
                bind: vec!["tcp://127.0.0.1:5555".into()],
                connect: Vec::new(),
                queue_bytes_max: limits::SOURCES_QUEUE_BYTES_MAX,
                allow_public: false,
                sources: Vec::new(),
            },
            discovery: Discovery { file: None, redis: None },
            auth: Auth { store: KeyStoreSetting::Demo, pepper: None, fernet_salt: None, broker_api_key: None },
            adapters: Adapters {
                default: AdapterKind::Sim,
                control_bind: "tcp://127.0.0.1:5655".into(),
                secret: None,
                linger: Duration::from_secs(10),
                call_timeout: Duration::from_secs(5),
                keep_alive: vec!["flattrade".into(), "shoonya".into()],
                allow_public: false,
            },
            brokers: BTreeMap::new(),
            fanout: Fanout {
                shards: 64,
                flush_max_delay: Duration::from_millis(5),
                outbox_bytes_max: limits::OUTBOX_BYTES_MAX,
                outbox_bytes_total: limits::OUTBOX_BYTES_TOTAL,
                worker_queue_bytes_max: limits::WORKER_QUEUE_BYTES_MAX,
                send_buffer_bytes: 128 << 10,
                snapshot_max_age: Duration::from_secs(60),
                normalise: Normalise::Lazy,
                lock_slow: limits::LOCK_SLOW,
            },
            limits: Limits {
                subscriptions_per_client: limits::SUBSCRIPTIONS_PER_CLIENT,
                entries_per_request: limits::ENTRIES_PER_REQUEST,
                adapter_calls_pending: limits::ADAPTER_CALLS_PENDING,
                message_bytes_max: limits::MESSAGE_BYTES_MAX,
                message_bytes_max_unauthenticated: limits::MESSAGE_BYTES_MAX_UNAUTHENTICATED,
                handshake: limits::HANDSHAKE,
                auth_deadline: limits::AUTH_DEADLINE,
                lossless_stall: limits::LOSSLESS_STALL,
                commands_per_second: limits::COMMANDS_PER_SECOND,
                commands_burst: limits::COMMANDS_BURST,
                sessions: limits::SESSIONS_MAX,
                sessions_per_user: limits::SESSIONS_MAX,
                sessions_per_ip: limits::SESSIONS_MAX,
                auth_failures_per_connection: limits::AUTH_FAILURES_PER_CONNECTION,
                auth_failures_per_ip_per_minute: 60,
                ping_interval: limits::PING_INTERVAL,
                ping_timeout: limits::PING_TIMEOUT,
                instruments: limits::INSTRUMENTS_MAX,
                last_value_bytes_max: limits::LAST_VALUE_BYTES_MAX,
                bus_peers: limits::BUS_PEERS_MAX,
                bus_frame_bytes_max: limits::BUS_FRAME_BYTES_MAX,
                bus_message_bytes_max: limits::BUS_MESSAGE_BYTES_MAX,
                bus_handshake: limits::BUS_HANDSHAKE,
            },
            scale: BTreeMap::new(),
            sim: Sim { ticks_per_second: 200, seed: 1 },
            log: Log { format: LogFormat::Text, level: "info".into() },
        }
    }
}
