//! What was found, before anybody judges it. Plain data without a secret in it.

use crate::cli::admin::Metrics;
use crate::zmtp::{Direction, Endpoint};
use std::path::PathBuf;
use std::time::Duration;

/// Everything that was looked at.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) files: OpenFiles,
    pub(super) kernel: Kernel,
    /// The running server that answers at the admin address.
    pub(super) server: Option<Server>,
    pub(super) ports: Vec<Port>,
    pub(super) bus: Vec<Bus>,
    pub(super) clock: Clock,
    pub(super) keys: Keys,
    pub(super) disks: Vec<Disk>,
    pub(super) registries: Vec<Registry>,
    pub(super) accounts: Vec<Account>,
    pub(super) symbols: Vec<SymbolFile>,
    /// Files that hold a secret, each with the setting that is in it.
    pub(super) secrets: Vec<SecretFile>,
}

/// Open files that a process may have.
#[derive(Clone, Debug)]
pub(super) struct OpenFiles {
    /// The hard limit, to which `serve` raises its own.
    pub(super) limit: u64,
    /// Of the running server with this pid; `None`: of whoever runs the doctor.
    pub(super) server: Option<u32>,
}

/// Settings of the kernel; `None` where it has none or does not tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) somaxconn: Option<u64>,
    pub(super) wmem_max: Option<u64>,
    pub(super) rmem_max: Option<u64>,
    /// Ports that outgoing connections get.
    pub(super) local_ports: Option<(u16, u16)>,
    /// And those they never get.
    pub(super) reserved_ports: Vec<(u16, u16)>,
    pub(super) conntrack_max: Option<u64>,
}

/// A running server, as it says itself.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) version: String,
    pub(super) state: String,
    pub(super) ready: bool,
    /// Addresses of all its listeners, as the ready line spells them.
    pub(super) listeners: Vec<String>,
    /// What `/healthz` says when it is not well.
    pub(super) stuck: Option<String>,
    pub(super) metrics: Metrics,
}

impl Server {
    /// Sum of all series of a metric whose line contains `part`; 0 when there is none.
    pub(super) fn sum(&self, name: &str, part: &str) -> f64 {
        self.metrics.sum(name, part).unwrap_or_default()
    }
}

/// An address that `serve` would bind.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) setting: &'static str,
    pub(super) at: String,
    /// The port, where there is one and the settings name it.
    pub(super) number: Option<u16>,
    pub(super) state: PortState,
}

/// Whether it could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    Free,
    /// The running server has it.
    Ours,
    Taken(Option<Holder>),
    /// No right to it.
    Denied,
    /// No such address on this machine.
    NoAddress,
    Failed(String),
}

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) name: String,
}

/// An endpoint of the bus.
#[derive(Clone, Debug)]
pub(super) struct Bus {
    pub(super) setting: &'static str,
    pub(super) endpoint: Endpoint,
    pub(super) direction: Direction,
    /// The running server's own word.
    pub(super) served: Option<Served>,
    /// What a look at it showed; `None` when there was none.
    pub(super) seen: Option<Seen>,
}

/// What the running server knows of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) peers: u64,
    pub(super) silence: Duration,
}

/// What came of binding or connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// We bound it and waited for publishers.
    Bound { publishers: usize, messages: usize },
    /// A publisher is bound there.
    Publisher { messages: usize },
    /// A ZeroMQ socket is bound there that is no publisher.
    OtherSocket,
    /// Something is bound there that does not speak ZeroMQ.
    Stranger,
    /// Nobody listens. If it is on this machine, we bound it, and so many publishers connected.
    Nobody { connecting: usize },
    /// It cannot be reached.
    Unreachable(String),
}

/// The wall clock.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// Whether the kernel says that something keeps it in step.
    pub(super) synchronised: Option<bool>,
    /// The most it may be wrong by, as the kernel says.
    pub(super) max_error: Option<Duration>,
    /// How far it moved against the monotonic clock while the doctor looked.
    pub(super) jump: Duration,
    /// Seconds since the UNIX epoch.
    pub(super) now: u64,
}

/// The key store.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Good keys, or why it cannot be used.
    pub(super) opened: Result<usize, String>,
    /// Permission bits of its file.
    pub(super) mode: Option<u32>,
}

/// Room where something is written.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// What lies there.
    pub(super) what: &'static str,
    pub(super) folder: PathBuf,
    /// Bytes free for us, or why that is not known.
    pub(super) free: Result<u64, String>,
}

/// A registry of publishers.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    pub(super) setting: &'static str,
    pub(super) place: String,
    pub(super) state: Result<Reach, String>,
}

/// How a registry was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Answers,
    /// A file that the server will make.
    NotMadeYet,
}

/// A native broker's account.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) broker: String,
    pub(super) user: String,
    /// Where its credentials are.
    pub(super) from: String,
    /// Names that are missing there, or why they cannot be read.
    pub(super) missing: Result<Vec<&'static str>, String>,
}

/// An instrument file of a native broker.
#[derive(Clone, Debug)]
pub(super) struct SymbolFile {
    pub(super) broker: String,
    pub(super) path: PathBuf,
    /// Why it cannot be read.
    pub(super) fault: Option<String>,
}

/// A file with a secret in it.
#[derive(Clone, Debug)]
pub(super) struct SecretFile {
    pub(super) setting: String,
    pub(super) path: PathBuf,
    pub(super) mode: u32,
}
