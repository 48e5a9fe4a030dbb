//! The server under load: a child process, what it costs, and its end.
//!
//! In: the path of the binary. Out: its ports from the ready line; CPU time and resident memory from /proc. It is killed when
//! dropped. Knows nothing of what it serves.

use crate::Failure;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Kernel ticks a second in /proc/PID/stat; 100 on every Linux since 2.6.
const TICKS_PER_SECOND: u64 = 100;
/// Bytes of one page in /proc/PID/statm, on x86-64 and most of ARM.
const PAGE_BYTES: u64 = 4096;

pub(crate) struct Server {
    child: Child,
    pub(crate) ws: String,
    pub(crate) bus: String,
}

impl Server {
    pub(crate) fn start(binary: &Path) -> Result<Self, Failure> {
        let at =
            |why: &dyn std::fmt::Display| format!("{}: {why}; build it with cargo build --release", binary.display());
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        for setting in ["bus.bind=tcp://127.0.0.1:0", "adapters.default=bus", "log.level=warn", "limits.sessions=60000"]
        {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|e| at(&e))?;
        let stdout = child.stdout.take().ok_or("the server has no stdout")?;
        let mut server = Server { child, ws: String::new(), bus: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        match (field("ws="), field("bus=")) {
            (Some(ws), Some(bus)) => (server.ws, server.bus) = (ws, bus),
            _ => return Err(at(&"it did not say that it is ready").into()),
        }
        Ok(server)
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold blanks; user and system time are the 12th and 13th fields after it.
        let fields: Vec<&str> =
            stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<u64>().ok()).ok_or("no times in /proc/PID/stat");
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS_PER_SECOND))
    }

    /// Resident memory, bytes.
    pub(crate) fn rss(&self) -> Result<u64, Failure> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages: u64 = statm.split(' ').nth(1).ok_or("no second field in /proc/PID/statm")?.parse()?;
        Ok(pages * PAGE_BYTES)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
