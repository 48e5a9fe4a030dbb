//! What follows from the settings that were made, and what they must be to each other.

use super::endpoint::{self, Endpoint};
use super::load::{Draft, Origin};
use super::settings::{AdapterKind, KeyStoreSetting};
use super::value::parse_host;
use std::net::SocketAddr;

/// OpenAlgo refuses shorter peppers.
const PEPPER_CHARS_MIN: usize = 32;

/// Fills in what nobody set.
pub(super) fn derive(draft: &mut Draft) {
    ports(draft);
    for path in ["limits.sessions_per_user", "limits.sessions_per_ip"] {
        if !draft.is_set(path) && draft.is_set("limits.sessions") {
            draft.origins.insert(path.into(), Origin::Derived("limits.sessions".into()));
            let limits = &mut draft.settings.limits;
            let field =
                if path.ends_with("user") { &mut limits.sessions_per_user } else { &mut limits.sessions_per_ip };
            *field = limits.sessions;
        }
    }
    if !draft.is_set("adapters.default")
        && let Some(why) = real_prices(draft)
    {
        draft.settings.adapters.default = AdapterKind::Bus;
        draft.origins.insert("adapters.default".into(), Origin::Derived(format!("{why} is configured")));
    }
}

/// Admin and control ports follow the WebSocket port, so that a second instance needs to name only that.
fn ports(draft: &mut Draft) {
    if draft.bad.contains("server.listen") {
        return;
    }
    let port = draft.settings.server.listen.port();
    for (path, base, right) in [
        ("admin.listen", 9464, "admin.listen (or --admin) = \"127.0.0.1:9464\""),
        ("adapters.control_bind", 5655, "adapters.control_bind = \"tcp://127.0.0.1:5655\""),
    ] {
        if draft.is_set(path) || port == 8765 {
            continue;
        }
        let shifted = base + i32::from(port) - 8765;
        let follow = match u16::try_from(shifted) {
            _ if port == 0 => 0,
            Ok(follow) if follow > 0 => follow,
            _ => {
                let place = draft.origins.get("server.listen").cloned().unwrap_or(Origin::BuiltIn);
                let message =
                    format!("server.listen has port {port}, so {path} would have port {shifted}; set {right}");
                draft.problem(&place, message);
                draft.bad.insert(path.into());
                continue;
            }
        };
        match path {
            "admin.listen" => draft.settings.admin.listen.set_port(follow),
            _ => draft.settings.adapters.control_bind = format!("tcp://127.0.0.1:{follow}"),
        }
        draft.origins.insert(path.into(), Origin::Derived("server.listen".into()));
    }
}

/// What shows that real prices are meant, so that nobody meets simulated ones by surprise.
fn real_prices(draft: &Draft) -> Option<String> {
    if let Some(name) = &draft.openalgo_variable {
        return Some(format!("OpenAlgo's {name}"));
    }
    let bus = draft.origins.keys().chain(&draft.bad).find(|path| path.starts_with("bus."));
    if bus.is_some() || draft.bus_section {
        return Some("[bus]".into());
    }
    if draft.settings.discovery.file.is_some() || draft.settings.discovery.redis.is_some() {
        return Some("[discovery]".into());
    }
    if draft.settings.auth.store != KeyStoreSetting::Demo {
        return Some("a key store".into());
    }
    (!draft.settings.brokers.is_empty()).then(|| "a broker".into())
}

/// Checks everything that concerns more than one key.
pub(super) fn check(draft: &mut Draft) {
    demo_key(draft);
    key_store(draft);
    wildcards(draft);
    collisions(draft);
    sources(draft);
    super::brokers::check(draft);
    numbers(draft);
}

/// Notes a mistake at the first of `paths` that somebody set, unless one of them is already known to be wrong.
fn fail(draft: &mut Draft, paths: &[&str], message: impl Into<String>) {
    if paths.iter().any(|path| draft.bad.contains(*path)) {
        return;
    }
    let place = paths.iter().find_map(|path| draft.origins.get(*path)).cloned().unwrap_or(Origin::BuiltIn);
    draft.problem(&place, message);
}

fn demo_key(draft: &mut Draft) {
    let listen = draft.settings.server.listen;
    if draft.settings.auth.store == KeyStoreSetting::Demo
        && !listen.ip().is_loopback()
        && draft.database_problem.is_none()
    {
        let message = format!(
            "server.listen = \"{listen}\" with auth.store = \"demo\": everybody knows the demo key, so it works on loopback only; \
             listen on 127.0.0.1, or make keys with `tickcast keys add --store keys.db …` and set auth.store = \"sqlite:keys.db\""
        );
        fail(draft, &["server.listen", "auth.store"], message);
    }
}

fn key_store(draft: &mut Draft) {
    let store_is_set = draft.is_set("auth.store");
    if let Some((place, message)) = draft.database_problem.take().filter(|_| !store_is_set) {
        draft.problem(&place, message);
    }
    if !matches!(draft.settings.auth.store, KeyStoreSetting::OpenAlgo(_)) {
        return;
    }
    let chars = draft.settings.auth.pepper.as_ref().map_or(0, |pepper| pepper.expose().chars().count());
    if chars == 0 {
        let message =
            "auth.store is OpenAlgo's, which needs its API_KEY_PEPPER: give --env-file /path/to/openalgo/.env";
        fail(draft, &["auth.store", "auth.pepper"], message);
    } else if chars < PEPPER_CHARS_MIN {
        let message = format!(
            "auth.pepper has {chars} characters, OpenAlgo's has at least {PEPPER_CHARS_MIN}; copy API_KEY_PEPPER whole"
        );
        fail(draft, &["auth.pepper", "auth.store"], message);
    }
}

fn wildcards(draft: &mut Draft) {
    let s = &draft.settings;
    let mut open = Vec::new();
    if !s.admin.allow_public {
        let scrape = s.admin.scrape_listen.filter(|a| a.ip().is_unspecified());
        open.extend(s.admin.listen.ip().is_unspecified().then(|| ("admin.listen", s.admin.listen.to_string())));
        open.extend(scrape.map(|a| ("admin.scrape_listen", a.to_string())));
    }
    if !s.bus.allow_public {
        open.extend(s.bus.bind.iter().filter(|e| endpoint::is_wildcard(e)).map(|e| ("bus.bind", e.clone())));
    }
    if !s.adapters.allow_public && endpoint::is_wildcard(&s.adapters.control_bind) {
        open.push(("adapters.control_bind", s.adapters.control_bind.clone()));
    }
    let secret_is_missing = s.adapters.allow_public && s.adapters.secret.is_none();
    for (path, value) in open {
        let section = path.split('.').next().unwrap_or(path);
        let message = format!(
            "{path} = \"{value}\" listens on every interface: name one address, or set {section}.allow_public = true if that is meant"
        );
        fail(draft, &[path], message);
    }
    if secret_is_missing {
        let message = "adapters.allow_public needs adapters.secret, or anybody on the network could be an adapter";
        fail(draft, &["adapters.allow_public", "adapters.secret"], message);
    }
}

/// Two listeners on one port would fail later, with less to say.
fn collisions(draft: &mut Draft) {
    let s = &draft.settings;
    let mut listeners = vec![("server.listen", s.server.listen), ("admin.listen", s.admin.listen)];
    listeners.extend(s.admin.scrape_listen.map(|a| ("admin.scrape_listen", a)));
    let endpoints =
        s.bus.bind.iter().map(|e| ("bus.bind", e)).chain([("adapters.control_bind", &s.adapters.control_bind)]);
    let mut paths = Vec::new();
    let mut clashes = Vec::new();
    for (path, text) in endpoints {
        match endpoint::parse(text) {
            Ok(Endpoint::Tcp(host, port)) => {
                listeners.extend(parse_host(host).map(|ip| (path, SocketAddr::new(ip, port))));
            }
            Ok(Endpoint::Ipc(file)) if paths.contains(&file) => {
                clashes.push(([path, path], format!("{path} and another endpoint both bind {text}")));
            }
            Ok(Endpoint::Ipc(file)) => paths.push(file),
            Err(_) => {}
        }
    }
    for (at, (path, a)) in listeners.iter().enumerate() {
        let same_ip = |b: &SocketAddr| a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
        for (other, b) in listeners[..at].iter().filter(|(_, b)| a.port() != 0 && a.port() == b.port() && same_ip(b)) {
            clashes.push(([*path, *other], format!("{path} ({a}) and {other} ({b}) want the same port; change one")));
        }
    }
    for (paths, message) in clashes {
        fail(draft, &paths, message);
    }
}

/// An endpoint belongs to one user, or one user's prices would reach another.
fn sources(draft: &mut Draft) {
    let s = &draft.settings.bus;
    let mut mistakes = Vec::new();
    for (at, source) in s.sources.iter().enumerate() {
        let path = format!("bus.source[{at}]");
        if s.connect.contains(&source.endpoint) {
            let message =
                format!("{} is in bus.connect too, which would show this user's prices to everybody", source.endpoint);
            mistakes.push((path.clone(), message));
        }
        if s.sources[..at].iter().any(|earlier| earlier.endpoint == source.endpoint) {
            mistakes.push((
                path,
                format!("{} already belongs to another [[bus.source]]; give each its own", source.endpoint),
            ));
        }
    }
    for (path, message) in mistakes {
        fail(draft, &[&path], message);
    }
}

fn numbers(draft: &mut Draft) {
    let (fanout, limits) = (draft.settings.fanout.clone(), draft.settings.limits.clone());
    if !fanout.shards.is_power_of_two() {
        let (low, high) = (fanout.shards.next_power_of_two() / 2, fanout.shards.next_power_of_two());
        let message = format!("fanout.shards = {}: write a power of two, such as {low} or {high}", fanout.shards);
        fail(draft, &["fanout.shards"], message);
    }
    // The smaller comes first; its default may be the one that is too large, so both are named.
    for (small, a, large, b) in [
        ("fanout.outbox_bytes_max", fanout.outbox_bytes_max, "fanout.outbox_bytes_total", fanout.outbox_bytes_total),
        (
            "limits.message_bytes_max_unauthenticated",
            limits.message_bytes_max_unauthenticated,
            "limits.message_bytes_max",
            limits.message_bytes_max,
        ),
        (
            "limits.bus_frame_bytes_max",
            limits.bus_frame_bytes_max,
            "limits.bus_message_bytes_max",
            limits.bus_message_bytes_max,
        ),
        (
            "limits.bus_message_bytes_max",
            limits.bus_message_bytes_max,
            "bus.queue_bytes_max",
            draft.settings.bus.queue_bytes_max,
        ),
        ("limits.sessions_per_user", limits.sessions_per_user, "limits.sessions", limits.sessions),
        ("limits.sessions_per_ip", limits.sessions_per_ip, "limits.sessions", limits.sessions),
    ] {
        if a > b {
            fail(
                draft,
                &[small, large],
                format!("{small} ({a}) is above {large} ({b}); lower the first or raise the second"),
            );
        }
    }
}
