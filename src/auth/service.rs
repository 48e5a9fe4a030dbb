//! The auth threads and the handle that sessions ask.
//!
//! A key always goes to the same thread (by its digest), so caches need no sharing and a key that many clients present
//! at once is verified by Argon2 once: the others wait behind it and meet the cache.

use super::demo::DemoStore;
use super::metrics::AuthMetrics;
use super::openalgo::OpenAlgoStore;
use super::rate::FailureLimiter;
use super::sqlite::{SqliteStore, StoreError};
use super::{AuthError, Identity, KeyStore};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// Auth threads: Argon2 takes 64 MiB and a core for tens of milliseconds, so not more.
const THREADS: usize = 2;
/// Authentications waiting for one thread.
const WAITING_MAX: usize = 4096;
/// A key, bytes; OpenAlgo's and ours have 64. Longer ones are refused unread.
const KEY_BYTES_MAX: usize = 1024;

/// What the auth room is told.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// Where keys are checked.
    pub store: StoreConfig,
    /// Failed authentications of one address per minute and at once; 0 = no limit.
    pub failures_per_ip_per_minute: u32,
}

/// Where keys are checked.
#[derive(Clone)]
pub enum StoreConfig {
    /// One key that everybody knows; `broker` is the label of the default adapter kind.
    Demo {
        /// The demo user's broker.
        broker: Arc<str>,
    },
    /// tickcast's own file.
    Sqlite(PathBuf),
    /// OpenAlgo's database.
    OpenAlgo {
        /// The file.
        file: PathBuf,
        /// `API_KEY_PEPPER`.
        pepper: Arc<str>,
    },
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreConfig::Demo { broker } => write!(f, "Demo({broker})"),
            StoreConfig::Sqlite(file) => write!(f, "Sqlite({})", file.display()),
            StoreConfig::OpenAlgo { file, .. } => write!(f, "OpenAlgo({}, (secret))", file.display()),
        }
    }
}

/// The key store cannot be used at start (exit code 4); the text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// tickcast's own file.
    #[error("key store: {0}")]
    Sqlite(#[from] StoreError),
    /// OpenAlgo's database.
    #[error("key store: {}: {cause}; {advice}", file.display())]
    OpenAlgo {
        /// The database.
        file: PathBuf,
        /// What failed.
        cause: String,
        /// What to do.
        advice: &'static str,
    },
    /// No thread.
    #[error("cannot start the auth threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// Why an authentication failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// No such key.
    Invalid,
    /// Too many failures from this address; the key was not looked at.
    TooManyAttempts,
    /// The store could not be asked; for the log, not for clients.
    Unavailable(String),
    /// Too many authentications are waiting.
    Busy,
}

/// A store that has answered, not yet running.
pub struct Opened {
    stores: Vec<Box<dyn KeyStore>>,
    failures_per_ip_per_minute: u32,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({} connections)", self.stores.len())
    }
}

/// Opens the key store, once per auth thread, and reads from it.
///
/// # Errors
/// [`OpenError`], whose text tells the operator what to do.
pub fn open(config: &AuthConfig) -> Result<Opened, OpenError> {
    let one = || -> Result<Box<dyn KeyStore>, OpenError> {
        Ok(match &config.store {
            StoreConfig::Demo { broker } => Box::new(DemoStore::new(broker.clone())),
            StoreConfig::Sqlite(file) => Box::new(SqliteStore::open(file)?),
            StoreConfig::OpenAlgo { file, pepper } => Box::new(OpenAlgoStore::open(file, pepper.clone())?),
        })
    };
    let stores = (0..THREADS).map(|_| one()).collect::<Result<_, _>>()?;
    Ok(Opened { stores, failures_per_ip_per_minute: config.failures_per_ip_per_minute })
}

impl Opened {
    /// How many keys are good now.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub fn count(&mut self) -> Result<usize, AuthError> {
        self.stores.first_mut().map_or(Ok(0), |store| store.count())
    }

    /// Starts the threads. They end when the last [`AuthService`] is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(self, metrics: AuthMetrics) -> Result<(AuthService, AuthPool), OpenError> {
        let invalidations = Arc::new(AtomicU64::new(0));
        let limiter = FailureLimiter::new(self.failures_per_ip_per_minute);
        let door = Arc::new(Door { limiter, started: Instant::now() });
        let (mut threads, mut queues) = (Vec::new(), Vec::new());
        for (at, store) in self.stores.into_iter().enumerate() {
            let (queue, jobs) = mpsc::channel(WAITING_MAX);
            let (door, invalidations) = (door.clone(), invalidations.clone());
            let thread = std::thread::Builder::new().name(format!("auth-{at}"));
            threads.push(thread.spawn(move || run(store, jobs, &door, &invalidations))?);
            queues.push(queue);
        }
        let shared = Shared { queues, invalidations, door, metrics };
        Ok((AuthService { shared: Arc::new(shared) }, AuthPool { threads }))
    }
}

/// The auth threads, to be joined by who started them.
pub struct AuthPool {
    threads: Vec<JoinHandle<()>>,
}

impl AuthPool {
    /// Waits for the threads; every [`AuthService`] must be gone.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("an auth thread panicked");
            }
        }
    }
}

/// Checks keys; cheap to clone, works from any runtime.
#[derive(Clone)]
pub struct AuthService {
    shared: Arc<Shared>,
}

struct Shared {
    queues: Vec<mpsc::Sender<Job>>,
    /// Counted up by each invalidation; the threads compare. A count cannot be lost to a full queue.
    invalidations: Arc<AtomicU64>,
    door: Arc<Door>,
    metrics: AuthMetrics,
}

/// The failure limiter with its clock.
struct Door {
    limiter: FailureLimiter,
    started: Instant,
}

impl Door {
    fn allows(&self, ip: IpAddr) -> bool {
        self.limiter.allows(ip, self.started.elapsed())
    }

    fn failed(&self, ip: IpAddr) -> AuthFailure {
        self.limiter.failed(ip, self.started.elapsed());
        AuthFailure::Invalid
    }
}

enum Job {
    Verify { api_key: String, ip: IpAddr, reply: oneshot::Sender<Result<Identity, AuthFailure>> },
    StillValid { key_ids: Vec<u64>, reply: oneshot::Sender<Result<Vec<u64>, AuthFailure>> },
    BrokerOf { user: String, reply: oneshot::Sender<Result<Option<Arc<str>>, AuthFailure>> },
}

impl AuthService {
    /// Whose key it is. Dropping the future gives the attempt up before it costs anything, if it has not begun.
    ///
    /// # Errors
    /// See [`AuthFailure`]. Only [`AuthFailure::Invalid`] counts against the address.
    pub async fn authenticate(&self, api_key: String, ip: IpAddr) -> Result<Identity, AuthFailure> {
        let begun = Instant::now();
        let result = self.ask(api_key, ip).await;
        self.shared.metrics.record(&result, begun.elapsed().as_secs_f64());
        result
    }

    async fn ask(&self, api_key: String, ip: IpAddr) -> Result<Identity, AuthFailure> {
        let shared = &*self.shared;
        if !shared.door.allows(ip) {
            return Err(AuthFailure::TooManyAttempts);
        }
        if api_key.is_empty() || api_key.len() > KEY_BYTES_MAX {
            return Err(shared.door.failed(ip));
        }
        let lane = usize::from(Sha256::digest(&api_key)[0]) % shared.queues.len();
        let (reply, answer) = oneshot::channel();
        let ended = || AuthFailure::Unavailable("the auth thread ended".into());
        match shared.queues[lane].try_send(Job::Verify { api_key, ip, reply }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(ended())),
            Err(mpsc::error::TrySendError::Full(_)) => Err(AuthFailure::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ended()),
        }
    }

    /// The broker that `user` is logged in at now; `None` = none. Waits its turn behind authentications.
    ///
    /// # Errors
    /// [`AuthFailure::Unavailable`] when the store cannot be asked.
    pub async fn broker_of(&self, user: &str) -> Result<Option<Arc<str>>, AuthFailure> {
        let (reply, answer) = oneshot::channel();
        let ended = || AuthFailure::Unavailable("the auth thread ended".into());
        let job = Job::BrokerOf { user: user.to_owned(), reply };
        self.shared.queues[0].send(job).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Those of `key_ids` that have been revoked or replaced since they were verified.
    ///
    /// # Errors
    /// [`AuthFailure::Unavailable`] when the store cannot be asked.
    pub async fn revoked(&self, key_ids: Vec<u64>) -> Result<Vec<u64>, AuthFailure> {
        let ended = || AuthFailure::Unavailable("the auth thread ended".into());
        let mut revoked = Vec::new();
        for (lane, queue) in self.shared.queues.iter().enumerate() {
            // A key's id begins with the byte that chose its lane when it was verified by OpenAlgo's store; the others do not care.
            let mine = |id: &u64| (*id >> 56) as usize % self.shared.queues.len() == lane;
            let key_ids: Vec<u64> = key_ids.iter().copied().filter(mine).collect();
            if key_ids.is_empty() {
                continue;
            }
            let (reply, answer) = oneshot::channel();
            queue.send(Job::StillValid { key_ids, reply }).await.map_err(|_| ended())?;
            revoked.extend(answer.await.unwrap_or_else(|_| Err(ended()))?);
        }
        Ok(revoked)
    }

    /// Forgets refused keys (bus message `CACHE_INVALIDATE`). Good ones are checked against the store at each use.
    pub fn invalidate(&self) {
        self.shared.invalidations.fetch_add(1, Ordering::Release);
    }
}

fn run(mut store: Box<dyn KeyStore>, mut jobs: mpsc::Receiver<Job>, door: &Door, invalidations: &AtomicU64) {
    let mut seen = 0;
    while let Some(job) = jobs.blocking_recv() {
        let (api_key, ip, reply) = match job {
            Job::Verify { api_key, ip, reply } => (api_key, ip, reply),
            Job::StillValid { key_ids, reply } => {
                let mut revoked = Ok(Vec::new());
                for id in key_ids {
                    match (store.still_valid(id), &mut revoked) {
                        (Ok(false), Ok(revoked)) => revoked.push(id),
                        (Err(error), _) => revoked = Err(AuthFailure::Unavailable(error.to_string())),
                        _ => {}
                    }
                }
                let _ = reply.send(revoked);
                continue;
            }
            Job::BrokerOf { user, reply } => {
                // The asker may be gone: then nobody needs to know.
                let _ = reply.send(store.broker_of(&user).map_err(|e| AuthFailure::Unavailable(e.to_string())));
                continue;
            }
        };
        // The client left while it waited: no Argon2 for nobody.
        if reply.is_closed() {
            continue;
        }
        let current = invalidations.load(Ordering::Acquire);
        if current != seen {
            seen = current;
            store.invalidate();
        }
        // Asked again, for many attempts of one address may have come in before the first of them failed.
        let verdict = if door.allows(ip) {
            store.verify(&api_key).map_err(|error| match error {
                AuthError::Invalid => door.failed(ip),
                AuthError::Unavailable(cause) => AuthFailure::Unavailable(cause),
            })
        } else {
            Err(AuthFailure::TooManyAttempts)
        };
        // The asker may have left meanwhile; then the verdict is of no use to anybody.
        let _ = reply.send(verdict);
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
