//! The table of settings: every key once, with its type, range and meaning.
//!
//! It drives reading, printing, the nearest-name search and `docs/SETTINGS.md`. Three families have names of the
//! operator's own and are not in it: `[brokers.NAME]`, `[scale]` and `[[bus.source]]`.

use super::places::{File, Redis};
use super::settings::{AdapterKind, CloseStyle, LogFormat, Normalise, Settings};
use super::value::{
    Address, BindEndpoint, BindEndpoints, BrokerNames, Codec, ConnectEndpoints, Count, Flag, Hidden, LogFilter, Names,
    OneOf, OptionalAddress, Raw, Size, Store, Time,
};
use crate::limits;
use std::time::Duration;

/// One setting.
pub(super) struct Key {
    /// Table in TOML.
    pub(super) section: &'static str,
    /// Key in that table.
    pub(super) name: &'static str,
    /// What it does, one sentence, for the docs.
    pub(super) doc: &'static str,
    /// Type, for the docs.
    pub(super) shape: fn() -> String,
    /// Allowed values, for the docs; empty = all of the type.
    pub(super) range: fn() -> String,
    /// Whether its value is never shown.
    pub(super) secret: bool,
    /// Reads a value into the settings, or says what would be right.
    pub(super) set: fn(&mut Settings, &Raw) -> Result<(), String>,
    /// The value as TOML.
    pub(super) print: fn(&Settings) -> String,
}

impl Key {
    /// `section.key`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// `TICKCAST_SECTION_KEY`.
    pub(super) fn variable(&self) -> String {
        format!("TICKCAST_{}_{}", self.section, self.name).to_ascii_uppercase()
    }
}

/// The key called `section.name`.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The known `section.key` that looks most like `path`.
pub(super) fn nearest(path: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    // The right key under the wrong table is nearer than a chance likeness.
    let distance = |key: &Key| {
        let whole = strsim::damerau_levenshtein(path, &key.path());
        whole.min(strsim::damerau_levenshtein(name, key.name) + 1)
    };
    KEYS.iter().min_by_key(|key| distance(key)).expect("the table is not empty").path()
}

/// The section that looks most like `name`.
pub(super) fn nearest_section(name: &str) -> &'static str {
    SECTIONS.iter().min_by_key(|(s, _)| strsim::damerau_levenshtein(name, s)).expect("the table is not empty").0
}

/// Tables of the file, in order, each with what it is about.
pub(super) const SECTIONS: [(&str, &str); 12] = [
    ("server", "The WebSocket side."),
    ("admin", "Metrics, health and the console: one HTTP listener."),
    ("bus", "Where ticks come from over ZeroMQ."),
    ("discovery", "Where publishers register that only register their endpoint (docs/PROTOCOL.md, part 2)."),
    ("auth", "Who may connect."),
    ("adapters", "Broker adapters."),
    ("brokers", "`[brokers.NAME]`: a user's broker (from the key store) and the adapter that serves it."),
    ("fanout", "How ticks reach the clients."),
    ("limits", "What one client, one address or one bus may use."),
    ("scale", "Exchange -> decimal digits of its prices in MessagePack (0 to 12)."),
    ("sim", "The simulated market."),
    ("log", "Log lines on stderr."),
];

macro_rules! key {
    ($section:ident.$name:ident: $codec:ty, $doc:expr) => {
        key!(@ $section, $name, $codec, $doc, String::new, |_| Ok(()))
    };
    ($section:ident.$name:ident: $codec:ty, $low:expr => $high:expr, $doc:expr) => {
        key!(@ $section, $name, $codec, $doc,
            || format!("{} to {}", <$codec>::print(&$low), <$codec>::print(&$high)).replace('"', ""),
            |value: &<$codec as Codec>::T| if ($low..=$high).contains(value) {
                Ok(())
            } else {
                let (low, high) = (<$codec>::print(&$low), <$codec>::print(&$high));
                Err(format!("write a value from {low} to {high}"))
            })
    };
    (@ $section:ident, $name:ident, $codec:ty, $doc:expr, $range:expr, $check:expr) => {
        Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: $doc,
            shape: <$codec>::shape,
            range: $range,
            secret: <$codec>::SECRET,
            set: |settings, raw| {
                let value = <$codec>::parse(raw)?;
                let check: fn(&<$codec as Codec>::T) -> Result<(), String> = $check;
                check(&value)?;
                settings.$section.$name = value;
                Ok(())
            },
            print: |settings| <$codec>::print(&settings.$section.$name),
        }
    };
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Every key, in the order in which they are printed.
pub(super) static KEYS: &[Key] = &[
    key!(server.listen: Address, "WebSocket address. Port 0 picks a free one; the ready line names it."),
    key!(server.workers: Count<usize>, 0 => limits::WORKERS_MAX, "Delivery threads; 0 = one per core."),
    key!(server.close_style: OneOf<CloseStyle>,
        "`drop`: drain, restart and eviction end by TCP shutdown without a Close frame (OpenAlgo's web UI reconnects only then)."),
    key!(server.supported_brokers: BrokerNames, "What `get_supported_brokers` lists."),
    key!(admin.listen: Address, "Admin address. Unset, its port is 9464 plus what `server.listen` is above 8765; 0 when that is 0."),
    key!(admin.hosts: Names, "More `Host` header values that are served, besides its own addresses and localhost."),
    key!(admin.scrape_listen: OptionalAddress, "Second listener for `/metrics`, `/healthz` and `/readyz` only; empty = none."),
    key!(admin.stats_file: File, "JSON file for OpenAlgo's Health page, replaced every 10 s; its directory must be there. Empty = none."),
    key!(admin.allow_public: Flag, "Allows `listen` and `scrape_listen` on every interface."),
    key!(bus.bind: BindEndpoints, "Endpoints we bind, `tcp://` or `ipc://`, any number."),
    key!(bus.connect: ConnectEndpoints, "Endpoints we connect to."),
    key!(bus.queue_bytes_max: Size, limits::SOURCE_QUEUE_BYTES_MAX => 16 * GIB, "All sources' queues together."),
    key!(bus.allow_public: Flag, "Allows `bind` on every interface, and registered publishers (`[discovery]`) on other machines: whoever reaches them can publish prices."),
    key!(discovery.file: File, "SQLite file, made when there is none; whoever can write it can publish prices. Empty = none."),
    key!(discovery.redis: Redis, "Redis server, `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`; whoever can write there can publish prices. Empty = none."),
    key!(auth.store: Store, "Where API keys are checked: `demo`, `sqlite:FILE`, or `openalgo:FILE` (needs `pepper`)."),
    key!(auth.pepper: Hidden, "OpenAlgo's `API_KEY_PEPPER`, at least 32 characters; only for `openalgo:` stores."),
    key!(auth.fernet_salt: Hidden, "OpenAlgo's `FERNET_SALT`, for native feeds with `credentials = \"openalgo\"`; unset = its old built-in salt."),
    key!(auth.broker_api_key: Hidden, "OpenAlgo's `BROKER_API_KEY`, for native feeds with `credentials = \"openalgo\"`: its database lacks it. Zerodha needs none."),
    key!(adapters.default: OneOf<AdapterKind>,
        "Kind for brokers without a section. Unset: `bus` as soon as an OpenAlgo variable, a `[bus]` setting, a key store or a broker is configured, else `sim`."),
    key!(adapters.control_bind: BindEndpoint,
        "Control channel of external adapters. Unset, its port is 5655 plus what `server.listen` is above 8765; 0 when that is 0."),
    key!(adapters.secret: Hidden, "What an adapter's hello must carry; needed with `allow_public`."),
    key!(adapters.linger: Time, ms(0) => secs(3600), "How long an adapter outlives its user's last client."),
    key!(adapters.call_timeout: Time, ms(100) => secs(60), "Deadline of one adapter call."),
    key!(adapters.keep_alive: BrokerNames, "Brokers whose adapter stays connected when the last client leaves."),
    key!(adapters.allow_public: Flag, "Allows `control_bind` on every interface."),
    key!(fanout.shards: Count<usize>, 1 => 4096, "Registry shards; a power of two."),
    key!(fanout.flush_max_delay: Time, ms(0) => secs(1), "Longest rest between two flushes while busy."),
    key!(fanout.outbox_bytes_max: Size, 64 * KIB => GIB, "A session's lossless lane."),
    key!(fanout.outbox_bytes_total: Size, MIB => 64 * GIB, "All sessions' outboxes together."),
    key!(fanout.worker_queue_bytes_max: Size, MIB => 4 * GIB, "Ticks waiting for one worker."),
    key!(fanout.send_buffer_bytes: Size, 4 * KIB => 16 * MIB, "`SO_SNDBUF` of a client socket."),
    key!(fanout.snapshot_max_age: Time, ms(0) => secs(86_400), "Oldest last value that a snapshot nobody asked for may carry."),
    key!(fanout.normalise: OneOf<Normalise>, "`off` passes JSON payloads through to all modes."),
    key!(fanout.lock_slow: Time, ms(1) => secs(60), "Locks waited for or held longer are logged."),
    key!(limits.subscriptions_per_client: Count<usize>, 1 => 1_000_000, "Subscriptions of one client; beyond: `LIMIT_EXCEEDED`."),
    key!(limits.entries_per_request: Count<usize>, 1 => 100_000, "Entries of one subscribe or unsubscribe request."),
    key!(limits.adapter_calls_pending: Count<usize>, 1 => 1_000_000, "Adapter calls pending for one user."),
    key!(limits.message_bytes_max: Size, KIB => 64 * MIB, "One inbound message; larger closes with 1009."),
    key!(limits.message_bytes_max_unauthenticated: Size, 512 => 64 * MIB, "One inbound message before authentication."),
    key!(limits.handshake: Time, ms(100) => secs(300), "Deadline of the HTTP upgrade."),
    key!(limits.auth_deadline: Time, ms(100) => secs(3600), "Deadline of authentication; then 4401."),
    key!(limits.lossless_stall: Time, ms(100) => secs(3600), "The lossless lane may make no progress this long; then 4408."),
    key!(limits.commands_per_second: Count<u32>, 1 => 1_000_000, "Commands of one client per second on average; beyond: 4429."),
    key!(limits.commands_burst: Count<u32>, 1 => 1_000_000, "Commands of one client at once."),
    key!(limits.sessions: Count<usize>, 1 => 1_000_000, "Sessions at once; beyond: 503."),
    key!(limits.sessions_per_user: Count<usize>, 1 => 1_000_000, "Sessions of one user. Unset: `sessions`."),
    key!(limits.sessions_per_ip: Count<usize>, 1 => 1_000_000, "Sessions of one address. Unset: `sessions`."),
    key!(limits.auth_failures_per_connection: Count<u32>, 1 => 1_000, "Failed authentications on one connection; then 4401."),
    key!(limits.auth_failures_per_ip_per_minute: Count<u32>, 0 => 1_000_000,
        "Failed authentications of one address (IPv6: /64) per minute, and at once; 0 = no limit (behind a proxy all clients share one address)."),
    key!(limits.ping_interval: Time, ms(0) => secs(3600), "Protocol ping period; 0 = off."),
    key!(limits.ping_timeout: Time, ms(100) => secs(3600), "Time to answer a ping; then 1011."),
    key!(limits.instruments: Count<usize>, 1 => 10_000_000, "Instruments known at once."),
    key!(limits.last_value_bytes_max: Size, MIB => 64 * GIB, "Memory of last values."),
    key!(limits.bus_peers: Count<usize>, 1 => 10_000, "Publishers and adapters connected at once."),
    key!(limits.bus_frame_bytes_max: Size, limits::TICK_PAYLOAD_BYTES_MAX => 256 * MIB, "One ZeroMQ frame; a larger one closes that peer's connection."),
    key!(limits.bus_message_bytes_max: Size, limits::TICK_PAYLOAD_BYTES_MAX => 256 * MIB, "One ZeroMQ message, all parts."),
    key!(limits.bus_handshake: Time, ms(100) => secs(60), "Time for greeting and READY of a ZeroMQ peer."),
    key!(sim.ticks_per_second: Count<u32>, 1 => 1_000_000, "Ticks per second over all instruments."),
    key!(sim.seed: Count<u64>, "Seed of the random walk."),
    key!(log.format: OneOf<LogFormat>, "`json`: one object a line, the banner included, for a collector. Mistakes in the settings are told as text."),
    key!(log.level: LogFilter, "What is logged to stderr: a level, or a list such as `info,tickcast::bus=debug`."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_own_range() {
        for key in KEYS.iter().filter(|key| !key.secret) {
            let printed = (key.print)(&Settings::default());
            let document: toml_edit::Document<String> = format!("x = {printed}").parse().unwrap();
            let raw = super::super::toml::raw(&document["x"]);
            let mut settings = Settings::default();
            assert_eq!((key.set)(&mut settings, &raw), Ok(()), "{} = {printed}", key.path());
            assert_eq!(settings, Settings::default(), "{} = {printed}", key.path());
        }
    }

    #[test]
    fn the_nearest_key_is_found_across_typos_and_wrong_tables() {
        for (typed, want) in [
            ("server.lissten", "server.listen"),
            ("fanout.shard", "fanout.shards"),
            ("server.shards", "fanout.shards"),
            ("limits.message_max_bytes", "limits.message_bytes_max"),
        ] {
            assert_eq!(nearest(typed), want);
        }
        assert_eq!(nearest_section("servr"), "server");
    }

    #[test]
    fn no_two_keys_share_a_variable() {
        let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), KEYS.len());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_key_panic_and_what_is_taken_is_printed_back(text in "[0-9a-z:/.,=*\"\\[\\] é-]{0,24}") {
            for key in KEYS.iter().filter(|key| !key.secret) {
                let (mut once, mut twice) = (Settings::default(), Settings::default());
                if (key.set)(&mut once, &Raw::Text(text.clone())).is_ok() {
                    let document: toml_edit::Document<String> = format!("x = {}", (key.print)(&once)).parse().unwrap();
                    let again = (key.set)(&mut twice, &super::super::toml::raw(&document["x"]));
                    proptest::prop_assert_eq!(again, Ok(()), "{}", key.path());
                    proptest::prop_assert_eq!(&once, &twice, "{}", key.path());
                }
            }
        }
    }
}
