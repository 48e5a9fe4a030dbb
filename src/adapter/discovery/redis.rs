//! The registry in Redis: a key with a time to live for each publisher, and a sorted set that names them all.
//!
//! The set keeps a look bounded and in order of registration, whatever else the database holds. A look writes, too: a server
//! that takes no writes (out of memory, read-only) takes no renewals, and its keys run out without anybody having died.
//! Tests: at the end, `tests/e2e/discovery.rs` with a real server.

use super::resp::{Reply, Resp};
use super::{
    ENDPOINT_BYTES_MAX, Entry, LEASE, LEASE_MAX, Look, PATIENCE, ROWS_MAX, Registry, RegistryError, Row, Whose,
};
use super::{millis, wall_millis};
use crate::zmtp::Endpoint;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;

/// Names all publishers; the score is the time of registration.
const SET: &str = "tickcast:publishers";
/// Before the endpoint: the key that holds the lease.
const PREFIX: &str = "tickcast:publisher:";
/// Written by every look.
const LOOKED: &str = "tickcast:looked";

/// `redis://[[user]:password@]host[:port][/database]`. Its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    user: Option<String>,
    password: Option<String>,
    host: String,
    port: u16,
    database: u32,
}

impl FromStr for RedisUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str = "write redis://HOST:PORT/DATABASE, with :PASSWORD@ before the host if it needs one";
        let rest = text.strip_prefix("redis://").ok_or(RIGHT)?;
        let (login, place) = rest.rsplit_once('@').map_or((None, rest), |(login, place)| (Some(login), place));
        let (address, database) = place.split_once('/').unwrap_or((place, ""));
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| RIGHT)? };
        let (host, port) = match address.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| RIGHT)?),
            None => (address, 6379),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(RIGHT);
        }
        let (user, password) = match login {
            None => (None, None),
            Some(login) => {
                let (user, password) = login.split_once(':').ok_or(RIGHT)?;
                let user = if user.is_empty() { None } else { Some(decoded(user).ok_or(RIGHT)?) };
                (user, Some(decoded(password).ok_or(RIGHT)?))
            }
        };
        Ok(RedisUrl { user, password, host, port, database })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RedisUrl { host, port, database, .. } = self;
        if host.contains(':') {
            write!(f, "redis://[{host}]:{port}/{database}")
        } else {
            write!(f, "redis://{host}:{port}/{database}")
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Percent-encoding undone.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// The value of a publisher's key, as JSON.
#[derive(Serialize, Deserialize)]
struct Value {
    broker: Option<String>,
    user: Option<String>,
    pid: Option<u32>,
}

pub(super) struct RedisRegistry {
    url: RedisUrl,
    open: Option<Resp<TcpStream>>,
}

impl RedisRegistry {
    pub(super) fn new(url: RedisUrl) -> Self {
        RedisRegistry { url, open: None }
    }

    fn ask(&mut self, commands: &[Vec<String>]) -> Result<Vec<Reply>, RegistryError> {
        let asked = match &mut self.open {
            Some(resp) => resp.ask(commands),
            None => connect(&self.url).and_then(|resp| self.open.insert(resp).ask(commands)),
        };
        asked.map_err(|error| {
            self.open = None;
            RegistryError(format!("{}: {error}", self.url))
        })
    }

    fn answer(&self) -> RegistryError {
        RegistryError(format!("{}: an answer of another kind than asked for", self.url))
    }
}

fn connect(url: &RedisUrl) -> io::Result<Resp<TcpStream>> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (&url.host[..], url.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                let mut resp = Resp::new(stream);
                let mut first = Vec::new();
                if let Some(password) = &url.password {
                    first.push(words(["AUTH"].into_iter().chain(url.user.as_deref()).chain([&password[..]])));
                }
                if url.database > 0 {
                    first.push(words(["SELECT", &url.database.to_string()]));
                }
                return resp.ask(&first).map(|_| resp);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

impl Registry for RedisRegistry {
    fn look(&mut self) -> Result<Look, RegistryError> {
        let last = (ROWS_MAX - 1).to_string();
        let looked = words(["SET", LOOKED, &wall_millis().to_string(), "PX", "60000"]);
        let mut replies = self.ask(&[looked, words(["ZRANGE", SET, "0", &last])])?;
        let Some(Reply::Many(members)) = replies.pop() else { return Err(self.answer()) };
        let (mut look, mut endpoints, mut asks) = (Look::default(), Vec::new(), Vec::new());
        for (at, member) in members.into_iter().enumerate() {
            let endpoint = match member {
                Reply::Text(bytes) if bytes.len() <= ENDPOINT_BYTES_MAX => String::from_utf8(bytes).ok(),
                _ => None,
            };
            let Some(endpoint) = endpoint else {
                look.rows.push(Err(format!("member {at} of {SET}")));
                continue;
            };
            let key = format!("{PREFIX}{endpoint}");
            asks.extend([words(["GET", &key]), words(["PTTL", &key])]);
            endpoints.push(endpoint);
        }
        let answers = self.ask(&asks)?;
        for (endpoint, answer) in endpoints.into_iter().zip(answers.chunks_exact(2)) {
            match answer {
                // Gone, or gone between the two questions.
                [Reply::Nil, _] | [_, Reply::Number(-2)] => look.dead.push(endpoint),
                [Reply::Text(value), Reply::Number(left)] => look.rows.push(read(endpoint, value, *left)),
                _ => look.rows.push(Err(endpoint)),
            }
        }
        if !look.dead.is_empty() {
            // Who registers at this very moment is named again by its next renewal.
            self.ask(&[words(["ZREM", SET].into_iter().chain(look.dead.iter().map(String::as_str)))])?;
        }
        Ok(look)
    }

    fn is_anothers(&mut self, entry: &Entry) -> Result<bool, RegistryError> {
        let endpoint = entry.endpoint.to_string();
        let key = format!("{PREFIX}{endpoint}");
        let answers = self.ask(&[words(["GET", &key]), words(["ZSCORE", SET, &endpoint])])?;
        Ok(match &answers[..] {
            [Reply::Nil, Reply::Nil] => false,
            // It has just run out, nobody knows whose it was; a path, unlike a port, is not taken by chance.
            [Reply::Nil, _] => matches!(entry.endpoint, Endpoint::Tcp { .. }),
            [Reply::Text(value), _] => read(endpoint, value, 0).is_ok_and(|row| !entry.whose.shares_with(&row.whose)),
            _ => false,
        })
    }

    fn renew(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let (endpoint, now) = (entry.endpoint.to_string(), wall_millis().to_string());
        let lease = millis(LEASE).to_string();
        self.ask(&[
            words(["MULTI"]),
            words(["SET", &format!("{PREFIX}{endpoint}"), &value(entry), "PX", &lease]),
            words(["ZADD", SET, "NX", &now, &endpoint]),
            words(["EXEC"]),
        ])
        .map(drop)
    }

    fn leave(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let endpoint = entry.endpoint.to_string();
        let key = format!("{PREFIX}{endpoint}");
        let held = self.ask(&[words(["GET", &key])])?;
        if held != [Reply::Text(value(entry).into_bytes())] {
            return Ok(());
        }
        self.ask(&[words(["MULTI"]), words(["DEL", &key]), words(["ZREM", SET, &endpoint]), words(["EXEC"])]).map(drop)
    }
}

fn value(entry: &Entry) -> String {
    let Whose { broker, user } = entry.whose.clone();
    let value = Value { broker, user, pid: Some(std::process::id()) };
    serde_json::to_string(&value).expect("text and numbers are JSON")
}

fn read(endpoint: String, value: &[u8], left_ms: i64) -> Result<Row, String> {
    match serde_json::from_slice::<Value>(value) {
        Ok(Value { broker, user, .. }) if (0..=millis(LEASE_MAX)).contains(&left_ms) => {
            Ok(Row { endpoint, whose: Whose { broker, user } })
        }
        _ => Err(endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_host_port_database_and_login_and_never_show_the_password() {
        for (text, shown) in [
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://127.0.0.1:6380/3", "redis://127.0.0.1:6380/3"),
            ("redis://[::1]:6380", "redis://[::1]:6380/0"),
            ("redis://[::1]/1", "redis://[::1]:6379/1"),
            ("redis://:se%40cret@h:1/", "redis://h:1/0"),
            ("redis://asha:s@h", "redis://h:6379/0"),
        ] {
            let url: RedisUrl = text.parse().expect(text);
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), shown.to_owned()), "{text}");
        }
        let url: RedisUrl = "redis://asha:se%40c@h".parse().expect("a login");
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("asha"), Some("se@c")));
        for bad in
            ["", "localhost", "rediss://h", "redis://", "redis://h:x", "redis://h/x", "redis://a@h", "redis://:%4@h"]
        {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_without_an_end_or_with_another_value_is_malformed() {
        let good = br#"{"broker":"angel","user":"asha","pid":7,"later":1}"#;
        assert_eq!(read("e".into(), good, 4000).expect("good").whose.user.as_deref(), Some("asha"));
        assert_eq!(read("e".into(), b"{}", 1).expect("everybody's").whose, Whose::default());
        for (value, left) in [(&good[..], -1), (good, 5001), (b"[]", 1), (b"\xff", 1), (br#"{"user":1}"#, 1)] {
            assert!(read("e".into(), value, left).is_err(), "{value:?} {left}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error_that_names_it() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let url = format!("redis://:secret@127.0.0.1:{port}").parse().expect("a URL");
        let error = RedisRegistry::new(url).look().expect_err("nobody is there").to_string();
        assert!(error.contains(&port.to_string()) && !error.contains("secret"), "{error}");
    }
}
