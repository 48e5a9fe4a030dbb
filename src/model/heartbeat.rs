//! Heartbeats: whether every loop that must never stop is still going round.
//!
//! In: each worker and ingest loop stores a tick whenever it goes round. Out: the names of the loops that have
//! not done so for too long. Atomics only, so a beat costs one relaxed store and nothing waits for anybody.
//! A loop that waits for work must wake by itself at least once a second to beat. No clock: time is an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Stored by a loop that ended on purpose: it is no longer expected to beat.
const RETIRED: u64 = u64::MAX;

/// All loops of one server.
#[derive(Debug)]
pub struct Heartbeats {
    /// What the ticks count from; also the first beat of every loop, so one that never starts is found.
    origin: Instant,
    loops: Box<[Beating]>,
}

#[derive(Debug)]
struct Beating {
    name: Box<str>,
    /// Milliseconds since `origin`, or [`RETIRED`].
    at: AtomicU64,
}

/// One loop's end; its owner calls [`Heartbeat::beat`].
#[derive(Clone, Debug)]
pub struct Heartbeat {
    all: Arc<Heartbeats>,
    index: usize,
}

impl Heartbeats {
    /// Loops named `names`, all of which count as having beaten at `origin`.
    pub fn new<S: Into<Box<str>>>(names: impl IntoIterator<Item = S>, origin: Instant) -> Arc<Self> {
        let loops = names.into_iter().map(|name| Beating { name: name.into(), at: AtomicU64::new(0) }).collect();
        Arc::new(Heartbeats { origin, loops })
    }

    /// The end that the loop called `name` keeps; `None` when no loop has that name.
    pub fn handle(self: &Arc<Self>, name: &str) -> Option<Heartbeat> {
        let index = self.loops.iter().position(|l| &*l.name == name)?;
        Some(Heartbeat { all: Arc::clone(self), index })
    }

    /// Names of the loops whose last beat is older than `limit`, in the order they were given.
    pub fn stuck(&self, now: Instant, limit: Duration) -> Vec<&str> {
        let now = self.millis(now);
        let limit = limit.as_millis() as u64;
        let late = |l: &&Beating| match l.at.load(Ordering::Relaxed) {
            RETIRED => false,
            at => now.saturating_sub(at) > limit,
        };
        self.loops.iter().filter(late).map(|l| &*l.name).collect()
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }
}

impl Heartbeat {
    /// Notes that the loop went round at `now`.
    pub fn beat(&self, now: Instant) {
        let millis = self.all.millis(now);
        self.all.loops[self.index].at.store(millis, Ordering::Relaxed);
    }

    /// Notes that the loop ended on purpose, as at a drain.
    pub fn retire(&self) {
        self.all.loops[self.index].at.store(RETIRED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loop_that_stopped_beating_is_named_and_a_retired_one_never() {
        let origin = Instant::now();
        let at = |s| origin + Duration::from_secs(s);
        let limit = Duration::from_secs(5);
        let all = Heartbeats::new(["worker-0", "worker-1", "ingest"], origin);
        let ends: Vec<_> = ["worker-0", "worker-1", "ingest"].iter().map(|n| all.handle(n).expect("named")).collect();
        assert!(all.handle("worker-2").is_none());
        assert!(all.stuck(at(5), limit).is_empty(), "exactly the limit is not stuck");
        assert_eq!(all.stuck(at(6), limit), ["worker-0", "worker-1", "ingest"], "a loop that never began is stuck");
        ends[0].beat(at(6));
        ends[1].retire();
        assert_eq!(all.stuck(at(10), limit), ["ingest"]);
        ends[2].beat(at(10));
        assert_eq!(all.stuck(at(12), limit), ["worker-0"]);
    }
}
