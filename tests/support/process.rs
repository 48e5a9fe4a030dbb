//! The real binary as a child process: what it uses (memory, file descriptors) is nobody else's.

use super::{PATIENCE, Publisher, metric_in};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A running `tickcast serve` of kind `bus` on port 0; killed when dropped.
pub struct Process {
    child: Child,
    pub ws: SocketAddr,
    pub admin: SocketAddr,
    pub bus: String,
}

impl Process {
    /// Starts it with further settings, `section.key=value`. `SERVER_BINARY` names another build than this test's.
    pub fn start(settings: &[&str]) -> Self {
        let binary = std::env::var_os("SERVER_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_tickcast").into());
        let mut command = Command::new(binary);
        // The surroundings may hold variables that the server would take for its settings.
        command.env_clear().args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let fixed = ["bus.bind=tcp://127.0.0.1:0", "adapters.default=bus", "log.level=warn"];
        for setting in fixed.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line on stdout");
        let field = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{name} in the ready line {line:?}")).to_owned()
        };
        let address = |name: &str| field(name).parse().expect("an address");
        Process { ws: address("ws"), admin: address("admin"), bus: field("bus"), child }
    }

    /// A publisher connected to its bus.
    pub fn publisher(&self) -> Publisher {
        Publisher::connect(self.bus.strip_prefix("tcp://").expect("a tcp bus"))
    }

    /// See [`resident`].
    pub fn rss(&self) -> usize {
        resident(&self.child.id().to_string())
    }

    /// Open file descriptors, counted.
    pub fn fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a living child").count()
    }

    /// See `Server::metric`.
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let mut tcp = TcpStream::connect(self.admin).expect("the admin port");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(tcp, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).expect("sent");
        let mut text = String::new();
        tcp.read_to_string(&mut text).expect("text");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        metric_in(&text, name, parts)
    }

    /// Waits until `done` holds of a metric.
    pub fn await_metric(&self, name: &str, parts: &[&str], done: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name, parts);
            if done(value) {
                return;
            }
            assert!(Instant::now() < deadline, "{name}{parts:?} stays {value}");
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process (`self` or its id) that is its own, bytes. Pages of the program's file are left out: they are
/// four fifths of a small server, come with the code that runs for the first time, a timer's say, and go when the kernel needs room.
pub fn resident(process: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a kernel since 4.5");
    line.trim().strip_suffix(" kB").and_then(|n| n.parse::<usize>().ok()).expect("a number of kB") << 10
}
