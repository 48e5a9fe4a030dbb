//! The server under load: one that runs already, or a child that is started on ports of its own and ended with us.
//!
//! In: the options. Out: its addresses, its bus, its process. Every failure says what to do about it.

use crate::Failure;
use crate::cli::{self, Feed};
use crate::interrupt;
use crate::proc::Process;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tickcast::auth::sqlite::KeyFile;
use tickcast::model::Class;
use tickcast::zmtp::{Direction, Endpoint};

/// The server that is started when none is named.
pub(crate) const BINARY: &str = "target/release/tickcast";
/// The bus of a server given by --url that is named no other.
const BUS: &str = "tcp://127.0.0.1:5555";
/// For one look at /metrics.
const ADMIN: Duration = Duration::from_secs(2);

pub(crate) struct Target {
    child: Option<Started>,
    pub(crate) addr: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
    /// Where we publish, and whether we bind there; `None`: somebody else publishes.
    pub(crate) bus: Option<(Endpoint, Direction)>,
    pub(crate) process: Option<Process>,
    admin: Option<String>,
    /// One per user, the first of which is everybody's.
    pub(crate) keys: Vec<String>,
}

impl Target {
    /// Starts the server, or looks whether it is there. A started one gets `users` users besides the clients' own.
    pub(crate) fn find(options: &cli::Server, clients: u32, users: u32) -> Result<Self, Failure> {
        let mut target = match &options.url {
            Some(url) => Self::running(url, options)?,
            None => Self::start(options, clients, users)?,
        };
        if let Some(file) = &options.keys {
            let text = std::fs::read_to_string(file).map_err(|e| format!("--keys {}: {e}", file.display()))?;
            target.keys.truncate(1);
            target.keys.extend(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
        }
        if options.feed == Feed::External {
            target.bus = None;
        }
        Ok(target)
    }

    fn running(url: &str, options: &cli::Server) -> Result<Self, Failure> {
        let (host, path) = address(url)?;
        let addr = host.to_socket_addrs().map_err(|e| format!("{host}: {e}"))?.next().ok_or("it has no address")?;
        if let Err(error) = TcpStream::connect_timeout(&addr, ADMIN) {
            return Err(format!("no server at {host}: {error}. Start it, or let us start one with --spawn").into());
        }
        let bus = match (&options.bind, &options.connect) {
            (Some(bind), _) => (bind.parse()?, Direction::Bind),
            (None, connect) => (connect.as_deref().unwrap_or(BUS).parse()?, Direction::Connect),
        };
        Ok(Target {
            child: None,
            addr,
            host,
            path,
            bus: Some(bus),
            process: options.pid.map(Process),
            admin: options.admin.clone(),
            keys: vec![options.key.clone()],
        })
    }

    fn start(options: &cli::Server, clients: u32, users: u32) -> Result<Self, Failure> {
        let binary = options.spawn.clone().unwrap_or_else(|| BINARY.into());
        let mut settings = vec![
            "bus.bind=tcp://127.0.0.1:0".to_owned(),
            "adapters.default=bus".into(),
            "log.level=warn".into(),
            format!("limits.sessions={}", clients + 1000),
        ];
        let folder = Folder::new()?;
        let mut keys = vec![options.key.clone()];
        if users > 0 {
            let file = folder.0.join("keys.db");
            let mut store = KeyFile::open(&file, true)?;
            keys =
                (0..=users).map(|n| store.add(&format!("load{n}"), "bus", Class::Normal)).collect::<Result<_, _>>()?;
            settings.push(format!("auth.store=sqlite:{}", file.display()));
        }
        settings.extend(options.set.iter().cloned());
        let started = Started::start(&binary, &settings, folder)?;
        let bus = started.bus.parse()?;
        let addr = started.ws.parse()?;
        Ok(Target {
            addr,
            host: started.ws.clone(),
            path: "/".into(),
            bus: Some((bus, Direction::Connect)),
            process: Some(Process(started.child.id())),
            admin: Some(started.admin.clone()),
            child: Some(started),
            keys,
        })
    }

    /// What the server's own metric says, if it has an admin address and that metric.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let admin = self.admin.as_ref()?;
        let mut tcp = TcpStream::connect_timeout(&admin.parse().ok()?, ADMIN).ok()?;
        tcp.set_read_timeout(Some(ADMIN)).ok()?;
        write!(tcp, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        tcp.read_to_string(&mut text).ok()?;
        value_of(&text, name)
    }

    /// Why there is no going on: the server is not there any more, or we were told to end.
    pub(crate) fn is_gone(&mut self) -> Option<String> {
        if interrupt::asked() {
            return Some("interrupted".into());
        }
        let status = self.child.as_mut()?.child.try_wait().ok()??;
        Some(format!("the server ended by itself: {status}"))
    }
}

/// Value of a metric without labels, in Prometheus' text.
fn value_of(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Host with port, and path, of a `ws://` URL.
fn address(url: &str) -> Result<(String, String), Failure> {
    let rest = url.strip_prefix("ws://").ok_or_else(|| {
        format!("--url {url}: write ws://HOST:PORT (no TLS: name the plain address behind the proxy)")
    })?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if host.is_empty() {
        return Err(format!("--url {url} names no host").into());
    }
    let port = host.rsplit(':').next().is_some_and(|p| p.parse::<u16>().is_ok()) && !host.ends_with(']');
    Ok((if port { host.to_owned() } else { format!("{host}:80") }, path.to_owned()))
}

/// A folder that is removed with us.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("loadtest-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left there holds keys of a server that is gone.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Started {
    child: Child,
    ws: String,
    admin: String,
    bus: String,
    /// Removed when the server is gone.
    _folder: Folder,
}

impl Started {
    fn start(binary: &Path, settings: &[String], folder: Folder) -> Result<Self, Failure> {
        let log = folder.0.join("stderr");
        let mut command = Command::new(binary);
        // A variable of our surroundings may mean something to the server.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|n| n.starts_with("TICKCAST_") || n.starts_with("ZMQ_") || n.contains("WEBSOCKET"))
            {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let stderr = std::fs::File::create(&log)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().map_err(|e| {
            format!("{}: {e}. Build it with `cargo build --release`, or name one: --spawn BINARY", binary.display())
        })?;
        let stdout = child.stdout.take().ok_or("the server has no stdout")?;
        let mut started =
            Started { child, ws: String::new(), admin: String::new(), bus: String::new(), _folder: folder };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        match (field("ws="), field("admin="), field("bus=")) {
            (Some(ws), Some(admin), Some(bus)) => {
                (started.ws, started.admin) = (ws, admin);
                started.bus = bus.split(',').next().unwrap_or_default().to_owned();
                Ok(started)
            }
            _ => {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let code = started.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
                Err(format!("{} did not get ready ({code}):\n{}", binary.display(), said.trim()).into())
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE overload_level gauge\noverload_level_max 9\noverload_level 2\r\nother{a=\"b\"} 1\n";
        assert_eq!(value_of(text, "overload_level"), Some(2.0));
        assert_eq!(value_of(text, "missing"), None);
    }

    #[test]
    fn a_url_gives_host_port_and_path_or_says_what_to_write() {
        let read = |url| address(url).map_err(|e| e.to_string());
        assert_eq!(read("ws://127.0.0.1:8765"), Ok(("127.0.0.1:8765".into(), "/".into())));
        assert_eq!(read("ws://host/ws?x=1"), Ok(("host:80".into(), "/ws?x=1".into())));
        assert_eq!(read("ws://[::1]"), Ok(("[::1]:80".into(), "/".into())));
        for bad in ["wss://h", "h:1", "ws://"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
