//! Adapters: what speaks to brokers, and the supervisor that keeps one alive for each user.
//!
//! An adapter is a task that takes [`Command`]s and sends [`Report`]s over bounded queues, so that one that hangs delays
//! nobody. It need not answer in order, nor at all: deadlines, late answers and replay are the supervisor's business.
//! Every kind lives in a file or folder of its own; `app` maps a broker's name to a kind with an [`AdapterFactory`].
//! Knows nothing of sessions, references or the client protocol.

pub mod angel;
pub mod bus;
pub mod discovery;
pub mod external;
mod fields;
pub mod kinds;
pub mod metrics;
pub mod native;
pub mod noren;
pub mod process;
pub mod publisher;
pub mod scripted;
pub mod sim;
pub mod supervisor;
pub mod symbols;
pub mod zerodha;

use self::symbols::Table;
use crate::shards::key::{CallId, FaultCode, KeyName};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What an adapter is told. `Connect` comes first and once; nothing comes after `Disconnect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Log in and connect; answer with [`Report::Connected`] or [`Report::ConnectFailed`].
    Connect,
    /// Start a feed; idempotent. Answer with [`Report::Answer`].
    Subscribe {
        /// Goes into the answer.
        call: CallId,
        /// What to start.
        name: KeyName,
        /// Price levels asked for.
        depth: u32,
    },
    /// Stop a feed; idempotent. Answer with [`Report::Answer`].
    Unsubscribe {
        /// Goes into the answer.
        call: CallId,
        /// What to stop.
        name: KeyName,
    },
    /// Stop all feeds but stay logged in. Answer with [`Report::Answer`].
    UnsubscribeAll {
        /// Goes into the answer.
        call: CallId,
    },
    /// Log out and end; [`Report::Disconnected`], or just ending, says that it is done.
    Disconnect,
}

/// What an adapter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Ready for calls; the broker holds no subscription of ours.
    Connected,
    /// It could not connect and ends. `code` is `BrokerInit` or `BrokerConnection`.
    ConnectFailed {
        /// Which step failed.
        code: FaultCode,
        /// The real reason; the client sees it.
        reason: String,
    },
    /// As [`Report::ConnectFailed`], of the login: the broker refuses the credentials, whatever it says.
    LoginRefused {
        /// The real reason; the client sees it.
        reason: String,
    },
    /// The answer to one call; `Ok` carries the depth really given, if it differs or is known.
    Answer {
        /// Which call.
        call: CallId,
        /// What came of it.
        outcome: Result<Option<u32>, CallError>,
    },
    /// The broker connection, or the process that holds it, is lost; the adapter waits for it. Calls may go on. A reason that tells of
    /// refused credentials (`policy::refusal`) has the adapter made anew.
    Down {
        /// Why, for the log.
        reason: String,
    },
    /// As [`Report::Down`], for the credentials: the adapter reads them anew by itself, and connects once they have changed.
    Reauthenticating {
        /// Why, for the log.
        reason: String,
    },
    /// Of the connections to the broker that are needed, so many are up; told when it has changed, by adapters that have several.
    Connections {
        /// That carry ticks.
        up: usize,
        /// That are needed for what is subscribed.
        needed: usize,
    },
    /// The broker has given a sign of life that is no tick; at most one a second is worth telling. Whoever tells one keeps telling them:
    /// a feed without any for long is stale, one that never told any is judged by its ticks.
    Heartbeat,
    /// So many more instruments could be subscribed; told when it has changed, by adapters that know.
    Capacity {
        /// Instruments.
        left: usize,
    },
    /// The broker connection was lost and is back: everything wanted must be subscribed anew.
    Restored,
    /// The adapter is dead and must be replaced.
    Lost {
        /// Why, for the log.
        reason: String,
    },
    /// Logged out.
    Disconnected,
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The broker refuses this request; the text is for the client.
    Refused(String),
    /// The broker's connections can carry no more instruments; the text is for the client.
    Full(String),
    /// Something broke; the text is the true cause, for the log only.
    Failed(String),
}

/// An adapter's ends of its queues. When `commands` closes, the adapter must end.
#[derive(Debug)]
pub struct Io {
    /// What to do.
    pub commands: mpsc::Receiver<Command>,
    /// What came of it.
    pub reports: mpsc::Sender<Report>,
}

/// A boxed task.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One user's connection to one broker.
pub trait Adapter: Send {
    /// The adapter's life as a task of the control runtime: it must not block the thread. It is aborted when it does
    /// not end within [`supervisor::CLOSE_WAIT`] of `Disconnect`.
    fn run(self: Box<Self>, io: Io) -> Task;
}

/// Makes the adapter of a user, by the broker's name.
pub trait AdapterFactory: Send + Sync {
    /// A new adapter, not connected. The error says why there cannot be one; the client sees it.
    ///
    /// # Errors
    /// No kind serves this broker, or its settings do not allow it.
    fn make(&self, broker: &str, user: &str) -> Result<Box<dyn Adapter>, String>;

    /// The instruments of this user's broker, if they are known and have been read. Must not wait.
    fn table(&self, _broker: &str, _user: &str) -> Option<Arc<Table>> {
        None
    }
}
