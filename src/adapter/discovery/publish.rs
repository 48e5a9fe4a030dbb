//! The publisher's side: bind, on the next free port if that one is taken, register, renew, and leave when dropped.
//!
//! In: where to publish, whose ticks, and which registry. Out: the publisher and its [`Lease`]. Promises: what is registered is
//! bound by this process, and was nobody else's to whom a server may still be connected there; a registry that fails later is tried again with back-off while ticks flow; a process that is
//! killed is forgotten after [`super::LEASE`]. Only who registers slides: nobody would find the other. Tests:
//! `tests/discovery.rs`; an example: `examples/register_publisher.rs`.

use super::{BEAT, Entry, Place, Registry, RegistryError, Whose};
use crate::adapter::publisher::{self, BatchPublisher, PublishError, PublisherTask, stand_ins};
use crate::policy::backoff::Backoff;
use crate::zmtp::listener::BindCause;
use crate::zmtp::{Direction, Endpoint};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the first registration is tried; many may begin at once.
const REGISTER_WAIT: Duration = Duration::from_secs(10);
/// Waits after a renewal that failed: shorter than what a server grants after its own failure.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// Why a publisher could not register.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// No endpoint could be bound.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// All are in use, or still another's in the registry.
    #[error("{0} and what could stand for it are in use, or still leased to others")]
    NoneFree(Endpoint),
    /// A server would refuse it.
    #[error("a user needs a broker, and names have 1 to 64 bytes without blanks")]
    Names,
    /// The registry cannot be used.
    #[error("cannot register: {0}")]
    Registry(#[from] RegistryError),
    /// The system gave no thread.
    #[error("cannot register: {0}")]
    Thread(#[from] std::io::Error),
}

/// A registered publisher.
pub struct Registered {
    /// Takes ticks.
    pub publisher: BatchPublisher,
    task: PublisherTask,
    /// Where it publishes; the port may be another than asked for.
    pub endpoint: Endpoint,
    lease: Lease,
}

impl Registered {
    /// Leaves the registry, sends what waits, and closes the socket.
    pub async fn shutdown(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self.lease)).await;
        self.task.shutdown().await;
    }
}

/// Binds `config.endpoint`, or the next free port above it, and registers what it got; runs on the current tokio runtime.
///
/// # Errors
/// [`RegisterError`]; nothing stays bound or registered.
pub async fn start(config: publisher::Config, place: &Place, whose: Whose) -> Result<Registered, RegisterError> {
    if !whose.is_sound() {
        return Err(RegisterError::Names);
    }
    let (publisher, task, endpoint) = bind(config, place, &whose).await?;
    let (place, entry) = (place.clone(), Entry { endpoint: endpoint.clone(), whose });
    let taken = tokio::task::spawn_blocking(move || Lease::take(&place, entry)).await;
    match taken.map_err(std::io::Error::other).map_err(RegisterError::from).flatten() {
        Ok(lease) => Ok(Registered { publisher, task, endpoint, lease }),
        Err(error) => {
            task.shutdown().await;
            Err(error)
        }
    }
}

type Bound = (BatchPublisher, PublisherTask, Endpoint);

/// Binds the first port that is neither in use nor, by the registry, still another's.
async fn bind(mut config: publisher::Config, place: &Place, whose: &Whose) -> Result<Bound, RegisterError> {
    config.direction = Direction::Bind;
    let mut registry = place.registry();
    let first = config.endpoint.clone();
    for endpoint in stand_ins(&first) {
        config.endpoint = endpoint;
        let picked = matches!(first, Endpoint::Tcp { port: 0, .. });
        let held;
        (held, registry) = is_anothers(registry, &config.endpoint, whose).await?;
        if held {
            continue;
        }
        let (publisher, task, endpoint) = match BatchPublisher::start(config.clone()).await {
            Err(PublishError::Bind(error)) if matches!(error.cause, BindCause::InUse) => continue,
            bound => bound?,
        };
        // The kernel's choice is known only now; nothing has been published there.
        let held;
        (held, registry) = if picked { is_anothers(registry, &endpoint, whose).await? } else { (false, registry) };
        if !held {
            return Ok((publisher, task, endpoint));
        }
        task.shutdown().await;
    }
    Err(RegisterError::NoneFree(first))
}

/// See [`Registry::is_anothers`]; a registry that fails is asked again for a while. Gives it back.
async fn is_anothers(
    mut registry: Box<dyn Registry>,
    endpoint: &Endpoint,
    whose: &Whose,
) -> Result<(bool, Box<dyn Registry>), RegisterError> {
    let (begin, mut backoff) = (Instant::now(), RETRY);
    loop {
        let entry = Entry { endpoint: endpoint.clone(), whose: whose.clone() };
        let asked = tokio::task::spawn_blocking(move || (registry.is_anothers(&entry), registry)).await;
        let answer;
        (answer, registry) = asked.map_err(std::io::Error::other)?;
        match answer {
            Ok(held) => return Ok((held, registry)),
            Err(error) if begin.elapsed() >= REGISTER_WAIT => return Err(error.into()),
            Err(_) => tokio::time::sleep(backoff.wait(rand::random())).await,
        }
    }
}

/// An entry that is renewed on a thread of its own until this is dropped; then it is taken out, which may block for a second.
#[derive(Debug)]
pub struct Lease {
    stop: Option<SyncSender<()>>,
    renewing: Option<JoinHandle<()>>,
}

impl Lease {
    /// Registers. Blocks until the registry has taken the entry, for at most about ten seconds.
    ///
    /// # Errors
    /// The registry has not taken it by then, or there is no thread.
    pub fn take(place: &Place, entry: Entry) -> Result<Self, RegisterError> {
        let (stop, stopped) = sync_channel(0);
        let (tell, told) = sync_channel(1);
        let renewal = Renewal { registry: place.registry(), entry, backoff: RETRY, tell: Some(tell) };
        let renewing = std::thread::Builder::new().name("lease".into()).spawn(move || renewal.run(&stopped))?;
        let lease = Lease { stop: Some(stop), renewing: Some(renewing) };
        told.recv().map_err(std::io::Error::other)??;
        Ok(lease)
    }
}

/// What the thread of a lease works with.
struct Renewal {
    registry: Box<dyn Registry>,
    entry: Entry,
    backoff: Backoff,
    /// To whom the first registration is told.
    tell: Option<SyncSender<Result<(), RegistryError>>>,
}

impl Renewal {
    fn run(mut self, stopped: &Receiver<()>) {
        let begin = Instant::now();
        loop {
            let wait = match self.registry.renew(&self.entry) {
                Ok(()) => self.renewed(),
                Err(error) if self.tell.is_some() && begin.elapsed() >= REGISTER_WAIT => {
                    return self.tell(Err(error));
                }
                Err(error) => self.failed(&error),
            };
            if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        if let Err(error) = self.registry.leave(&self.entry) {
            tracing::warn!(%error, "could not leave the registry; the entry runs out by itself");
        }
    }

    fn tell(&mut self, outcome: Result<(), RegistryError>) {
        if let Some(tell) = self.tell.take() {
            // The receiver waits for exactly this.
            let _ = tell.send(outcome);
        }
    }

    fn renewed(&mut self) -> Duration {
        if self.tell.is_some() {
            tracing::info!(endpoint = %self.entry.endpoint, "registered");
            self.tell(Ok(()));
        } else if self.backoff.is_failing() {
            tracing::info!("the registry is back");
        }
        self.backoff.reset();
        BEAT
    }

    /// The wait until the next attempt; one warning when it begins to fail.
    fn failed(&mut self, error: &RegistryError) -> Duration {
        if !self.backoff.is_failing() {
            tracing::warn!(%error, "cannot register now; publishing goes on, and it is tried again");
        }
        self.backoff.wait(rand::random())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
    }
}
