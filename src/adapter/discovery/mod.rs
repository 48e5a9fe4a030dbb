//! Discovery: publishers that only register where they publish, in a SQLite file or in Redis (`[discovery]`).
//!
//! An entry is a lease: its publisher renews it every [`BEAT`], it lasts [`LEASE`], and none may promise more than
//! [`LEASE_MAX`]. `watch` is the server's side: it decides which endpoints hold, `app` connects the bus to them. `publish` is
//! the publisher's: it binds, slides to a free port, registers, renews, and leaves. `file` and `redis` are the two registries,
//! `resp` the few words of Redis's protocol. Everything blocks, each call for about a second at most, on threads of its own.
//! Promise: a registry that is locked or down ends no lease. Tests: in the files, `tests/discovery.rs`, `tests/e2e/discovery.rs`.

mod file;
pub mod metrics;
pub mod publish;
mod redis;
mod resp;
pub mod watch;

use crate::limits::CONTROL_NAME_BYTES_MAX;
use crate::zmtp::Endpoint;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use redis::RedisUrl;

/// How often a publisher renews its entry.
pub const BEAT: Duration = Duration::from_secs(1);
/// How long an entry holds from its last renewal.
pub const LEASE: Duration = Duration::from_secs(4);
/// An entry that would hold longer than this is malformed: it would outlive its publisher.
pub const LEASE_MAX: Duration = Duration::from_secs(5);
/// A registry that does not answer, or is locked, for this long counts as down.
const PATIENCE: Duration = Duration::from_millis(500);
/// Rows read at one look, counted: endpoints that may hold, and as many that may not.
const ROWS_MAX: usize = 2 * crate::limits::DISCOVERY_ENDPOINTS_MAX;
/// An entry that ran out is taken out by the server within this, if there is a server.
const CLEARED: Duration = Duration::from_secs(10);
/// The longest endpoint worth reading, bytes.
const ENDPOINT_BYTES_MAX: usize = 256;

/// Where publishers register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A SQLite file; made when there is none.
    File(PathBuf),
    /// A Redis server.
    Redis(RedisUrl),
}

impl Place {
    /// Every [`Place::label`].
    pub const LABELS: [&str; 2] = ["file", "redis"];

    /// Its name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Place::File(_) => Self::LABELS[0],
            Place::Redis(_) => Self::LABELS[1],
        }
    }

    /// Asks it something that changes nothing; a file that is not there yet is made.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn reach(&self) -> Result<(), RegistryError> {
        let nobody = Entry { endpoint: Endpoint::Ipc("/".into()), whose: Whose::default() };
        self.registry().is_anothers(&nobody).map(drop)
    }

    fn registry(&self) -> Box<dyn Registry> {
        match self {
            Place::File(path) => Box::new(file::FileRegistry::new(path.clone())),
            Place::Redis(url) => Box::new(redis::RedisRegistry::new(url.clone())),
        }
    }
}

/// Why a registry could not be used: locked, down, no right to write, or something else than a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegistryError(String);

/// One publisher, as it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it binds.
    pub endpoint: Endpoint,
    /// Whose feed it is: everybody's without a user.
    pub whose: Whose,
}

/// Whose ticks a publisher sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    /// Broker, in lower case.
    pub broker: Option<String>,
    /// The only user who receives them; needs a broker.
    pub user: Option<String>,
}

impl Whose {
    /// Whether a server takes it: names of 1 to 64 bytes without blanks, and no user without a broker.
    fn is_sound(&self) -> bool {
        let named = |name: &String| {
            !name.is_empty()
                && name.len() <= CONTROL_NAME_BYTES_MAX
                && !name.chars().any(|c| c.is_control() || c == ' ')
        };
        self.broker.iter().chain(&self.user).all(named) && (self.user.is_none() || self.broker.is_some())
    }

    /// Whether a server gives both publishers' ticks to the same users.
    fn shares_with(&self, other: &Whose) -> bool {
        let broker = |whose: &Whose| whose.broker.as_ref().map(|name| name.to_ascii_lowercase());
        self.user == other.user && (self.user.is_none() || broker(self) == broker(other))
    }
}

/// One entry, as it was read: not checked, but for its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    endpoint: String,
    whose: Whose,
}

/// What a registry holds now.
#[derive(Debug, Default)]
struct Look {
    /// In order of registration. The error names an entry that cannot be read.
    rows: Vec<Result<Row, String>>,
    /// Endpoints whose lease has run out; they are gone from the registry.
    dead: Vec<String>,
}

/// A registry. Every call blocks, and connects first when it must.
trait Registry: Send {
    /// All that holds; takes out what no longer does, and fails when nobody could have renewed.
    fn look(&mut self) -> Result<Look, RegistryError>;
    /// Whether a server may still connect to the endpoint for somebody else: what is published there would reach him.
    fn is_anothers(&mut self, entry: &Entry) -> Result<bool, RegistryError>;
    /// Registers, or renews.
    fn renew(&mut self, entry: &Entry) -> Result<(), RegistryError>;
    /// Takes out the entry, if it is still this process's.
    fn leave(&mut self, entry: &Entry) -> Result<(), RegistryError>;
}

/// Milliseconds since the UNIX epoch: processes of one machine have no other clock in common.
fn wall_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
