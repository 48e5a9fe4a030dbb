//! The one lock of this program: a mutex that is timed, counted, and cannot cross an `.await`.
//!
//! [`TimedLock::with`] lends the data to a closure, so no guard ever exists outside it. Every acquisition is counted and
//! every wait and hold lands in an exact histogram; an uncontended acquisition costs two clock reads and no wait
//! measurement (`try_lock` succeeded: the wait is 0). Debug builds panic when a thread takes a second lock while it
//! holds one. Waits and holds above `slow` are logged after release, once a minute and call site.
//!
//! Why the numbers live here and not in a `metrics::Histogram`: a shared handle costs 26 to 106 ns a sample and keeps
//! 16 bytes of it until drained. [`LockStats`] is written only by the holder (plain load and store, no atomic
//! read-modify-write) and read without the lock by `metrics.rs`, which hands the differences over once a second. Measured
//! (`benches/shards.rs`, 2 shared cores): bare mutex 7 ns, this one 76 to 86 ns, nearly all of it two clock reads of 36 to
//! 48 ns. Sampling holds would halve that and miss the one long hold that matters, so every hold is measured.
//!
//! Poison: a panic inside a closure is our bug and may leave a table half changed. Everybody who comes after panics
//! too: a restart with empty tables is better than prices under wrong names. Tests: below, and `tests/model.rs`.

use crate::model::LogGate;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[cfg(feature = "shuttle")]
use shuttle::sync::{Mutex, MutexGuard};
use std::sync::TryLockError;
#[cfg(not(feature = "shuttle"))]
use std::sync::{Mutex, MutexGuard};

/// Upper edges of the wait and hold histograms, nanoseconds; the last bucket has none.
pub const EDGES_NS: [u64; 21] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
];
/// Buckets of one histogram, the unbounded one included.
pub const BUCKETS: usize = EDGES_NS.len() + 1;

/// What a lock guards; the `lock` label of its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockName {
    /// One shard of keys and streams.
    Subscription,
    /// The table of users.
    User,
    /// The table of adapters.
    Adapter,
}

impl LockName {
    /// All names, in the order in which they would have to be taken if a change ever needed two.
    pub const ALL: [LockName; 3] = [LockName::Subscription, LockName::User, LockName::Adapter];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            LockName::Subscription => "subscription",
            LockName::User => "user",
            LockName::Adapter => "adapter",
        }
    }
}

/// A mutex over plain data, timed and counted.
pub struct TimedLock<T> {
    data: Mutex<T>,
    stats: Arc<LockStats>,
    slow: Duration,
}

impl<T> TimedLock<T> {
    /// A lock over `data`. `shard` is its number when there are several of one name; `slow` the wait or hold above
    /// which an acquisition is logged (default [`crate::limits::LOCK_SLOW`]).
    pub fn new(name: LockName, shard: Option<u16>, slow: Duration, data: T) -> Self {
        TimedLock { data: Mutex::new(data), stats: Arc::new(LockStats::new(name, shard)), slow }
    }

    /// Lends the data to `f`. `f` must neither encode, log, call the system nor take another lock.
    ///
    /// # Panics
    /// When a holder has panicked before, and in debug builds when this thread already holds a lock.
    #[track_caller]
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let site = Location::caller();
        let nesting = Nesting::enter(self.stats.name);
        let (mut guard, wait) = self.acquire();
        let from = Instant::now();
        let result = f(&mut guard);
        let hold = from.elapsed();
        self.stats.note(wait, hold);
        drop(guard);
        drop(nesting);
        if hold >= self.slow || wait.is_some_and(|w| w >= self.slow) {
            self.report_slow(site, wait.unwrap_or_default(), hold);
        }
        result
    }

    /// Counts and times of this lock, readable without it.
    pub fn stats(&self) -> &Arc<LockStats> {
        &self.stats
    }

    /// The guard, and how long it took when somebody else held it.
    #[inline]
    fn acquire(&self) -> (MutexGuard<'_, T>, Option<Duration>) {
        match self.data.try_lock() {
            Ok(guard) => (guard, None),
            Err(TryLockError::WouldBlock) => self.acquire_contended(),
            Err(TryLockError::Poisoned(_)) => self.poisoned(),
        }
    }

    #[cold]
    fn acquire_contended(&self) -> (MutexGuard<'_, T>, Option<Duration>) {
        let from = Instant::now();
        match self.data.lock() {
            Ok(guard) => (guard, Some(from.elapsed())),
            Err(_) => self.poisoned(),
        }
    }

    #[cold]
    fn poisoned(&self) -> ! {
        panic!("a thread panicked while it held the {} lock: its tables cannot be trusted", self.stats.name.label())
    }

    #[cold]
    fn report_slow(&self, site: &'static Location<'static>, wait: Duration, hold: Duration) {
        static SITES: SlowSites = SlowSites::new();
        if let Some(held_back) = SITES.gate(site).open() {
            let (lock, shard) = (self.stats.name.label(), self.stats.shard);
            tracing::warn!(lock, shard, ?wait, ?hold, site = %site, held_back, "a lock was waited for or held for long");
        }
    }
}

/// Counts and times of one lock. Written only while the lock is held, so a store never races another store.
#[derive(Debug)]
pub struct LockStats {
    /// What the lock guards.
    pub name: LockName,
    /// Its number, when there are several of one name.
    pub shard: Option<u16>,
    contended: AtomicU64,
    wait: Buckets,
    hold: Buckets,
}

impl LockStats {
    fn new(name: LockName, shard: Option<u16>) -> Self {
        LockStats { name, shard, contended: AtomicU64::new(0), wait: Buckets::new(), hold: Buckets::new() }
    }

    /// Times the lock was taken.
    pub fn acquisitions(&self) -> u64 {
        self.hold.count.iter().map(|c| c.load(Relaxed)).sum()
    }

    /// Times somebody else held it first.
    pub fn contended(&self) -> u64 {
        self.contended.load(Relaxed)
    }

    /// All waits together.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.wait.sum_ns.iter().map(|c| c.load(Relaxed)).sum())
    }

    /// Waits; an uncontended acquisition is a wait of 0.
    pub fn wait(&self) -> &Buckets {
        &self.wait
    }

    /// Holds, up to but without the release itself.
    pub fn hold(&self) -> &Buckets {
        &self.hold
    }

    #[inline]
    fn note(&self, wait: Option<Duration>, hold: Duration) {
        match wait {
            None => bump(&self.wait.count[0], 1),
            Some(wait) => {
                bump(&self.contended, 1);
                self.wait.add(wait);
            }
        }
        self.hold.add(hold);
    }
}

/// An exact histogram over [`EDGES_NS`]: per bucket how many, and their sum.
#[derive(Debug)]
pub struct Buckets {
    count: [AtomicU64; BUCKETS],
    sum_ns: [AtomicU64; BUCKETS],
}

impl Buckets {
    fn new() -> Self {
        Buckets { count: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: [const { AtomicU64::new(0) }; BUCKETS] }
    }

    /// How many fell into bucket `i` so far, and their sum in nanoseconds. Read while somebody may be writing: the
    /// two may be one sample apart.
    pub fn read(&self, i: usize) -> (u64, u64) {
        (self.count[i].load(Relaxed), self.sum_ns[i].load(Relaxed))
    }

    #[inline]
    fn add(&self, time: Duration) {
        let ns = time.as_nanos() as u64;
        // Nearly all samples are in the first four buckets: a walk beats a search.
        let i = EDGES_NS.iter().position(|edge| ns <= *edge).unwrap_or(BUCKETS - 1);
        bump(&self.sum_ns[i], ns);
        bump(&self.count[i], 1);
    }
}

/// Adds without an atomic read-modify-write; right only because the lock's holder is the only writer.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// A gate for each call site: a small table without a lock. Sites are places in our source, so 64 are plenty;
/// should there be more, the surplus shares the last entry.
struct SlowSites {
    sites: [AtomicUsize; 64],
    gates: [LogGate; 64],
}

impl SlowSites {
    const fn new() -> Self {
        SlowSites { sites: [const { AtomicUsize::new(0) }; 64], gates: [const { LogGate::lines(1) }; 64] }
    }

    /// The gate of `site`.
    fn gate(&self, site: &'static Location<'static>) -> &LogGate {
        let address = std::ptr::from_ref(site).addr();
        let last = self.sites.len() - 1;
        let mine = self.sites.iter().position(|held| {
            held.compare_exchange(0, address, Relaxed, Relaxed).is_ok() || held.load(Relaxed) == address
        });
        &self.gates[mine.unwrap_or(last)]
    }
}

#[cfg(all(debug_assertions, feature = "shuttle"))]
shuttle::thread_local! {
    static HELD: std::cell::Cell<Option<LockName>> = std::cell::Cell::new(None);
}
#[cfg(all(debug_assertions, not(feature = "shuttle")))]
std::thread_local! {
    static HELD: std::cell::Cell<Option<LockName>> = const { std::cell::Cell::new(None) };
}

/// Debug builds: this thread holds a lock as long as this lives.
struct Nesting;

impl Nesting {
    #[inline]
    fn enter(name: LockName) -> Self {
        #[cfg(debug_assertions)]
        HELD.with(|held| {
            let outer = held.get();
            assert!(outer.is_none(), "the {} lock is taken while {outer:?} is held", name.label());
            held.set(Some(name));
        });
        let _ = name;
        Nesting
    }
}

impl Drop for Nesting {
    #[inline]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        HELD.with(|held| held.set(None));
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    fn lock(slow: Duration) -> TimedLock<u64> {
        TimedLock::new(LockName::Subscription, Some(3), slow, 0)
    }

    #[test]
    fn every_acquisition_is_one_wait_and_one_hold() {
        let lock = lock(Duration::MAX);
        for _ in 0..1000 {
            lock.with(|n| *n += 1);
        }
        let stats = lock.stats();
        assert_eq!((stats.acquisitions(), stats.contended(), stats.waited()), (1000, 0, Duration::ZERO));
        assert_eq!((0..BUCKETS).map(|i| stats.wait().read(i).0).sum::<u64>(), 1000);
        assert_eq!(stats.wait().read(0), (1000, 0));
        assert_eq!(lock.with(|n| *n), 1000);
    }

    #[test]
    fn a_wait_behind_another_holder_is_counted_and_timed() {
        let lock = Arc::new(lock(Duration::MAX));
        let (held, is_held) = sync_channel(0);
        let holder = {
            let lock = lock.clone();
            std::thread::spawn(move || {
                lock.with(|_| {
                    held.send(()).unwrap();
                    let from = Instant::now();
                    while from.elapsed() < Duration::from_millis(20) {
                        std::hint::spin_loop();
                    }
                });
            })
        };
        is_held.recv().unwrap();
        lock.with(|n| *n += 1);
        holder.join().unwrap();
        let stats = lock.stats();
        assert_eq!((stats.acquisitions(), stats.contended()), (2, 1));
        assert!(stats.waited() > Duration::from_millis(1), "{:?}", stats.waited());
    }

    #[test]
    fn samples_fall_into_the_bucket_whose_edge_they_do_not_exceed() {
        let buckets = Buckets::new();
        for ns in [0, 250, 251, 1_000_000, 100_000_000, 100_000_001, 2_000_000_000] {
            buckets.add(Duration::from_nanos(ns));
        }
        assert_eq!(buckets.read(0), (2, 250));
        assert_eq!(buckets.read(1), (1, 251));
        assert_eq!(buckets.read(11), (1, 1_000_000));
        assert_eq!(buckets.read(17), (1, 100_000_000));
        assert_eq!(buckets.read(18), (1, 100_000_001));
        assert_eq!(buckets.read(BUCKETS - 1), (1, 2_000_000_000));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "the adapter lock is taken while Some(User) is held")]
    fn a_second_lock_while_one_is_held_panics_in_debug_builds() {
        let user = TimedLock::new(LockName::User, None, Duration::MAX, ());
        let adapter = TimedLock::new(LockName::Adapter, None, Duration::MAX, ());
        user.with(|()| adapter.with(|()| ()));
    }

    #[test]
    fn a_panicking_holder_makes_everybody_after_it_panic_and_frees_the_thread_for_other_locks() {
        let broken = lock(Duration::MAX);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| broken.with(|_| panic!("bug"))));
        assert!(caught.is_err());
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| broken.with(|n| *n)));
        let text = *again.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("cannot be trusted"), "{text}");
        lock(Duration::MAX).with(|n| *n += 1);
    }

    #[test]
    fn a_call_site_logs_once_a_minute_and_does_not_silence_another() {
        let sites = SlowSites::new();
        let (a, b) = (here(), here());
        let logs = |site| sites.gate(site).open().is_some();
        assert_eq!((logs(a), logs(a), logs(b), logs(a)), (true, false, true, false));
    }

    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }
}
