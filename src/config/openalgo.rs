//! OpenAlgo's environment variables: what tickcast takes over from an installation as it stands.
//!
//! An empty variable counts as not set, as in OpenAlgo's sample file. Any of them also says that real prices are meant
//! (`adapters.default`); `DATABASE_URL` alone does not, for many programs have one.

use super::load::{Draft, Origin};
use super::settings::KeyStoreSetting;
use super::sources::Variables;
use super::value::{Raw, parse_host, quote};
use std::path::{Path, PathBuf};

/// A variable and what it does here, for the docs.
pub(super) const VARIABLES: [(&str, &str); 24] = [
    ("WEBSOCKET_HOST", "host of `server.listen`; an IP address or `localhost`"),
    ("WEBSOCKET_PORT", "port of `server.listen`"),
    ("WS_AUTH_GRACE_SECONDS", "`limits.auth_deadline`"),
    ("WS_PING_INTERVAL", "`limits.ping_interval`, seconds"),
    ("WS_PING_TIMEOUT", "`limits.ping_timeout`, seconds"),
    ("ZMQ_HOST", "host of the bus; default 127.0.0.1"),
    ("ACTUAL_ZMQ_PORT", "connect the bus there, and bind nothing; wins over `ZMQ_PUB_PORT`"),
    ("ZMQ_PUB_PORT", "connect the bus there, and bind nothing; wins over `ZMQ_PORT`"),
    ("ZMQ_PORT", "bind the bus there"),
    ("MAX_SUBSCRIPTIONS_PER_CLIENT", "`limits.subscriptions_per_client`"),
    ("VALID_BROKERS", "`server.supported_brokers`"),
    ("API_KEY_PEPPER", "`auth.pepper`"),
    ("FERNET_SALT", "`auth.fernet_salt`"),
    ("BROKER_API_KEY", "`auth.broker_api_key`"),
    (
        "WS_PROXY_STATS_FILE",
        "`admin.stats_file`; a relative path is one from the `--env-file`, else from the working directory",
    ),
    (
        "DATABASE_URL",
        "together with `API_KEY_PEPPER`: `auth.store = \"openalgo:…\"`. `sqlite:///relative` (to the `--env-file`, else to the \
         working directory) or `sqlite:////absolute`",
    ),
    ("WEBSOCKET_URL", NOT_USED),
    ("WS_MAX_QUEUE", NOT_USED),
    ("WS_STALE_TICK_WARN_SECONDS", NOT_USED),
    ("MAX_SYMBOLS_PER_WEBSOCKET", NOT_USED),
    ("MAX_WEBSOCKET_CONNECTIONS", NOT_USED),
    ("ENABLE_CONNECTION_POOLING", NOT_USED),
    ("ORDER_UPDATES_ENABLED", NOT_USED),
    ("ORDER_POLL_INTERVAL", NOT_USED),
];

const NOT_USED: &str = "not used";

/// Applies the variables; `home` is the directory of the `--env-file`, which is OpenAlgo's own.
pub(super) fn apply(variables: &Variables, home: Option<&Path>, draft: &mut Draft) {
    let known = VARIABLES.iter().map(|(name, _)| *name).filter(|name| *name != "DATABASE_URL");
    draft.openalgo_variable = known.map(String::from).find(|name| get(variables, name).is_some());
    listen(variables, draft);
    bus(variables, draft);
    for (name, key) in [
        ("WS_AUTH_GRACE_SECONDS", "auth_deadline"),
        ("WS_PING_INTERVAL", "ping_interval"),
        ("WS_PING_TIMEOUT", "ping_timeout"),
    ] {
        let Some((value, origin)) = get(variables, name) else { continue };
        let seconds = value.parse::<f64>().ok().filter(|s| s.is_finite() && (0.0..1e9).contains(s));
        match seconds {
            Some(s) => {
                draft.set_path("limits", key, &Raw::Text(format!("{}us", (s * 1e6).round() as u64)), origin.clone())
            }
            None => {
                draft.problem(origin, format!("{name} = {}: write a number of seconds", quote(value)));
                draft.bad.insert(format!("limits.{key}"));
            }
        }
    }
    for (name, section, key) in [
        ("MAX_SUBSCRIPTIONS_PER_CLIENT", "limits", "subscriptions_per_client"),
        ("VALID_BROKERS", "server", "supported_brokers"),
        ("API_KEY_PEPPER", "auth", "pepper"),
        ("FERNET_SALT", "auth", "fernet_salt"),
        ("BROKER_API_KEY", "auth", "broker_api_key"),
    ] {
        if let Some((value, origin)) = get(variables, name) {
            draft.set_path(section, key, &Raw::Text(value.to_string()), origin.clone());
        }
    }
    key_store(variables, home, draft);
    if let Some((path, origin)) = get(variables, "WS_PROXY_STATS_FILE") {
        let path = from_home(PathBuf::from(path), origin, home);
        draft.set_path("admin", "stats_file", &Raw::Text(path.display().to_string()), origin.clone());
    }
}

/// A path as OpenAlgo would read it: a relative one begins where its `--env-file` stands. A variable of the process knows no other
/// home than ours.
fn from_home(path: PathBuf, origin: &Origin, home: Option<&Path>) -> PathBuf {
    let from_file = matches!(origin, Origin::EnvFile { .. });
    // `join` leaves an absolute path alone.
    home.filter(|_| from_file).map_or(path.clone(), |home| home.join(&path))
}

fn get<'a>(variables: &'a Variables, name: &str) -> Option<(&'a str, &'a Origin)> {
    let (value, origin) = variables.get(name)?;
    let value = value.trim();
    (!value.is_empty()).then_some((value, origin))
}

fn port(variables: &Variables, name: &str, key: &str, draft: &mut Draft) -> Option<(u16, Origin)> {
    let (value, origin) = get(variables, name)?;
    match value.parse() {
        Ok(port) => Some((port, origin.clone())),
        Err(_) => {
            draft.problem(origin, format!("{name} = {}: write a port from 0 to 65535", quote(value)));
            draft.bad.insert(key.to_string());
            None
        }
    }
}

fn listen(variables: &Variables, draft: &mut Draft) {
    let port = port(variables, "WEBSOCKET_PORT", "server.listen", draft);
    let host = get(variables, "WEBSOCKET_HOST");
    if let Some((host, origin)) = host {
        match parse_host(host) {
            Some(ip) => {
                draft.settings.server.listen.set_ip(ip);
                draft.origins.insert("server.listen".into(), origin.clone());
            }
            None => {
                draft.problem(origin, format!("WEBSOCKET_HOST = {}: write an IP address or localhost", quote(host)));
                draft.bad.insert("server.listen".into());
            }
        }
    }
    if let Some((port, origin)) = port {
        draft.settings.server.listen.set_port(port);
        draft.origins.insert("server.listen".into(), origin);
    }
}

/// Which way round the bus is: the audit's publishers bind and say where, current ones connect to us.
fn bus(variables: &Variables, draft: &mut Draft) {
    let actual = port(variables, "ACTUAL_ZMQ_PORT", "bus.connect", draft);
    let published = port(variables, "ZMQ_PUB_PORT", "bus.connect", draft);
    let bound = port(variables, "ZMQ_PORT", "bus.bind", draft);
    let host = get(variables, "ZMQ_HOST");
    let name = host.map_or("127.0.0.1", |(name, _)| name);
    let list = |host: &str, port: u16| {
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_string() };
        Raw::List(vec![Raw::Str(format!("tcp://{host}:{port}"))])
    };
    if let Some((port, origin)) = actual.or(published) {
        // A publisher that binds every interface is reached on loopback.
        let name = if parse_host(name).is_some_and(|ip| ip.is_unspecified()) { "127.0.0.1" } else { name };
        draft.set_path("bus", "connect", &list(name, port), origin.clone());
        draft.set_path("bus", "bind", &Raw::List(Vec::new()), origin);
    } else if let Some((port, origin)) = bound {
        draft.set_path("bus", "bind", &list(name, port), origin);
    } else if let Some((_, origin)) = host {
        draft.set_path("bus", "bind", &list(name, 5555), origin.clone());
    }
}

fn key_store(variables: &Variables, home: Option<&Path>, draft: &mut Draft) {
    let (Some((url, origin)), Some(_)) = (get(variables, "DATABASE_URL"), get(variables, "API_KEY_PEPPER")) else {
        return;
    };
    match database_path(url) {
        Some(path) => {
            draft.settings.auth.store = KeyStoreSetting::OpenAlgo(from_home(path, origin, home));
            draft.origins.insert("auth.store".into(), origin.clone());
        }
        None => {
            // The URL may hold a password, so it is not shown.
            let right = "DATABASE_URL is not a SQLite file (sqlite:///db/openalgo.db), and tickcast reads keys from SQLite only; \
                         make keys with `tickcast keys add --store keys.db …` and set auth.store = \"sqlite:keys.db\"";
            draft.database_problem = Some((origin.clone(), right.into()));
        }
    }
}

/// The file of a SQLAlchemy URL: three slashes and a relative path, or four and an absolute one.
fn database_path(url: &str) -> Option<PathBuf> {
    let (scheme, rest) = url.split_once(":///")?;
    let path = rest.split('?').next().unwrap_or(rest);
    let is_sqlite = scheme == "sqlite" || scheme.starts_with("sqlite+");
    (is_sqlite && !path.is_empty() && path != ":memory:").then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_urls_are_relative_with_three_slashes_and_absolute_with_four() {
        for (url, want) in [
            ("sqlite:///db/openalgo.db", Some("db/openalgo.db")),
            ("sqlite:////opt/openalgo/db/openalgo.db", Some("/opt/openalgo/db/openalgo.db")),
            ("sqlite+pysqlite:///db/x.db?timeout=5", Some("db/x.db")),
            ("sqlite://", None),
            ("sqlite:///:memory:", None),
            ("postgresql://u:p@host/db", None),
        ] {
            assert_eq!(database_path(url), want.map(PathBuf::from), "{url}");
        }
    }
}
