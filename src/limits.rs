//! Every bound in the program, named, with its unit, checked against the others at compile time.
//!
//! These are the defaults of CONTRACTS 7 and DESIGN 4 and the bounds that are no settings. A setting's effective value
//! lives in `config`; code that enforces a setting gets it handed down.

use std::time::Duration;

/// Workers, counted; the delivery bitmap of a stream is one `u64`.
pub const WORKERS_MAX: usize = 64;
/// Distinct broker names, counted.
pub const BROKERS_MAX: usize = 256;
/// An `exchange` name, bytes.
pub const VENUE_BYTES_MAX: usize = 32;
/// A symbol, bytes.
pub const SYMBOL_BYTES_MAX: usize = 64;
/// Instruments known at once, counted (setting `limits.instruments`).
pub const INSTRUMENTS_MAX: usize = 200_000;
/// Last values kept, bytes in all (setting `limits.last_value_bytes_max`).
pub const LAST_VALUE_BYTES_MAX: usize = 256 << 20;

/// Subscriptions of one client, counted (setting).
pub const SUBSCRIPTIONS_PER_CLIENT: usize = 1000;
/// Entries in one subscribe or unsubscribe request, counted (setting).
pub const ENTRIES_PER_REQUEST: usize = 5000;
/// Adapter calls pending for one user, counted (setting).
pub const ADAPTER_CALLS_PENDING: usize = 10_000;
/// One inbound client message, bytes (setting); larger closes with 1009.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// One inbound client message before authentication, bytes (setting).
pub const MESSAGE_BYTES_MAX_UNAUTHENTICATED: usize = 64_000;
/// The largest acknowledgement we send, bytes: OpenAlgo's internal client refuses more than 1 MiB.
pub const ACK_BYTES_MAX: usize = (1 << 20) - 1;
/// Commands one session may have waiting, counted, and their bytes.
pub const COMMANDS_WAITING_MAX: usize = 1024;
/// See [`COMMANDS_WAITING_MAX`]; bytes.
pub const COMMANDS_WAITING_BYTES_MAX: usize = 1 << 20;
/// Commands per second one session may send on average (setting).
pub const COMMANDS_PER_SECOND: u32 = 50;
/// Commands one session may send at once (setting).
pub const COMMANDS_BURST: u32 = 2000;

/// A session's lossless lane, bytes (setting `fanout.outbox_bytes_max`).
pub const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// All sessions' outboxes, bytes (setting `fanout.outbox_bytes_total`).
pub const OUTBOX_BYTES_TOTAL: usize = 1 << 30;
/// The lossless lane may make no progress this long.
pub const LOSSLESS_STALL: Duration = Duration::from_secs(10);

/// One source's queue to ingest, bytes.
pub const SOURCE_QUEUE_BYTES_MAX: usize = 8 << 20;
/// All sources' queues, bytes (setting `bus.queue_bytes_max`).
pub const SOURCES_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Batches waiting for one worker, counted.
pub const WORKER_QUEUE_BATCHES_MAX: usize = 256;
/// Batches waiting for one worker, bytes (setting `fanout.worker_queue_bytes_max`).
pub const WORKER_QUEUE_BYTES_MAX: usize = 16 << 20;
/// Orders and control messages waiting for one worker, counted.
pub const WORKER_CONTROL_MAX: usize = 65_536;

/// One ZMTP frame, bytes.
pub const BUS_FRAME_BYTES_MAX: usize = 4 << 20;
/// One ZMTP message, bytes over all parts.
pub const BUS_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Parts of one bus message, counted.
pub const BUS_PARTS_MAX: usize = 2;
/// ZMTP peers at once, counted.
pub const BUS_PEERS_MAX: usize = 256;
/// Items of one BATCH, counted.
pub const BATCH_ITEMS_MAX: usize = 10_000;
/// One tick's payload, bytes.
pub const TICK_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Nesting inside one payload, levels.
pub const PAYLOAD_DEPTH_MAX: usize = 32;
/// Greeting and READY of a ZMTP peer.
pub const BUS_HANDSHAKE: Duration = Duration::from_secs(3);

/// One message on the control channel, bytes.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Peers of the control channel at once, counted.
pub const CONTROL_PEERS_MAX: usize = 256;
/// Messages waiting for one control peer, counted: a replay of many users' keys goes out at once.
pub const CONTROL_QUEUE_MAX: usize = 65_536;
/// Endpoints one hello may name, counted.
pub const PUBLISHES_MAX: usize = 16;
/// Broker or user in a hello, bytes.
pub const CONTROL_NAME_BYTES_MAX: usize = 64;
/// An adapter's words that are passed on, bytes.
pub const CONTROL_TEXT_BYTES_MAX: usize = 400;
/// (broker, user) pairs with an adapter process, living or not, counted; each may have a scope of its own.
pub const CONTROL_OWNERS_MAX: usize = 4096;
/// An adapter process that says nothing for this long is dead.
pub const CONTROL_SILENCE: Duration = Duration::from_secs(6);
/// A broker's credentials file, bytes.
pub const CREDENTIALS_BYTES_MAX: u64 = 16 << 10;

/// Endpoints of registered publishers at once, counted, of each registry.
pub const DISCOVERY_ENDPOINTS_MAX: usize = 128;

/// Sessions at once, counted (setting); also per user and per address.
pub const SESSIONS_MAX: usize = 10_000;
/// HTTP upgrade deadline (setting).
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Authentication deadline (setting; OpenAlgo's `WS_AUTH_GRACE_SECONDS`).
pub const AUTH_DEADLINE: Duration = Duration::from_secs(15);
/// Failed authentications on one connection (setting).
pub const AUTH_FAILURES_PER_CONNECTION: u32 = 5;
/// Protocol ping period (setting).
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Time to answer a ping (setting).
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After our Close frame we wait this long for the peer's.
pub const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Rows of one answer of the admin server, counted.
pub const ADMIN_ROWS_MAX: usize = 1000;
/// The admin server waits so long for a worker's word about its sessions.
pub const XRAY_WAIT: Duration = Duration::from_secs(1);
/// Disagreements of one kind that are told by name, counted.
pub const DRIFT_NAMES_MAX: usize = 100;
/// Connections of clients that the kernel may hold for us.
pub const BACKLOG: i32 = 4096;

/// A drain ends after this long.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Locks waited for or held longer than this are logged (setting).
pub const LOCK_SLOW: Duration = Duration::from_millis(100);

/// Log lines a minute with a reference that a client was told, of one kind; further ones are written at debug.
pub const REFERENCES_LOGGED: u32 = 100;

const _: () = assert!(BUS_MESSAGE_BYTES_MAX >= BUS_FRAME_BYTES_MAX, "a frame must fit a message");
const _: () = assert!(SOURCE_QUEUE_BYTES_MAX >= BUS_FRAME_BYTES_MAX, "a frame must fit its source's queue");
const _: () = assert!(BUS_FRAME_BYTES_MAX > TICK_PAYLOAD_BYTES_MAX, "a payload must fit a frame");
const _: () = assert!(MESSAGE_BYTES_MAX > MESSAGE_BYTES_MAX_UNAUTHENTICATED, "authentication must not shrink messages");
const _: () = assert!(WORKERS_MAX <= 64, "the delivery bitmap is one u64");
const _: () = assert!(OUTBOX_BYTES_MAX > ACK_BYTES_MAX, "an acknowledgement must fit the outbox");
