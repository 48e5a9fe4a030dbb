//! The publishing end of an adapter process: what the feed hands over, onto one or several PUB sockets.
//!
//! In: whole messages from the feed's queue. Out: their items, each to the socket that its instrument's hash picks, so that the
//! order of every topic, and of an instrument over its modes, holds whatever their number. Promises: nothing is published
//! without a session; a full publisher is waited for, so that the feed merges ticks to the newest instead of losing any; orders go
//! as messages of their own. What is merged, dropped or left out is counted and logged. Tests: `tests/adapter_process.rs`.

use crate::adapter::publisher::{BatchLimits, BatchPublisher, Config, Publish, PublishError, PublisherTask, stand_ins};
use crate::limits::TICK_PAYLOAD_BYTES_MAX;
use crate::model::{SourceMessage, SourceReceiver};
use crate::zmtp::listener::BindCause;
use crate::zmtp::{Direction, Endpoint};
use ahash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

/// What may wait for one socket, bytes; more than the largest message of a feed, twice.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// How often losses are told.
const TELL: Duration = Duration::from_secs(10);

const _: () = assert!(QUEUE_BYTES_MAX >= 16 * TICK_PAYLOAD_BYTES_MAX, "a message of a feed must fit");

/// Takes a message apart: for each item whether it must not be lost, its topic and its payload.
pub type TakeApart = Box<dyn Fn(&SourceMessage, &mut dyn FnMut(bool, &[u8], &[u8])) + Send>;

/// Where to publish.
#[derive(Clone, Debug)]
pub struct Place {
    /// The first socket's endpoint; the others bind beside it, or connect to it too.
    pub endpoint: Endpoint,
    /// Who listens.
    pub direction: Direction,
    /// Sockets, counted.
    pub sockets: usize,
    /// What market data's topics begin with: the broker's name and `_` when other brokers' users may hear them.
    pub prefix: String,
}

/// What became of ticks, counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// Handed to a publisher.
    pub published: AtomicU64,
    /// Replaced by newer ones while the publishers were full.
    pub merged: AtomicU64,
    /// Left out since no server had said welcome.
    pub unwanted: AtomicU64,
    /// Lost where nothing could be merged.
    pub dropped: AtomicU64,
}

/// Sockets that publish.
pub struct Outlet {
    publishers: Vec<BatchPublisher>,
    tasks: Vec<PublisherTask>,
    endpoints: Vec<Endpoint>,
    prefix: String,
    hash: RandomState,
    counts: Arc<Counts>,
}

impl Outlet {
    /// Binds, each socket on the next free port if its own is taken, or begins to connect.
    ///
    /// # Errors
    /// An endpoint that is not local or cannot be bound.
    pub async fn open(place: Place) -> Result<Self, PublishError> {
        let (mut publishers, mut tasks, mut endpoints) = (Vec::new(), Vec::new(), Vec::<Endpoint>::new());
        for number in 0..place.sockets.max(1) {
            let wanted = match endpoints.last() {
                Some(last) if place.direction == Direction::Bind => beside(&place.endpoint, last, number),
                _ => place.endpoint.clone(),
            };
            let (publisher, task, endpoint) = start(&wanted, place.direction).await?;
            publishers.push(publisher);
            tasks.push(task);
            endpoints.push(endpoint);
        }
        let hash = RandomState::with_seeds(1, 2, 3, 4);
        Ok(Outlet { publishers, tasks, endpoints, prefix: place.prefix, hash, counts: Arc::default() })
    }

    /// Where it publishes, with real ports.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What becomes of ticks.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Publishes what comes until told to stop, then what is left, and closes the sockets.
    pub async fn run(
        self,
        mut sources: mpsc::Receiver<SourceReceiver>,
        wake: Arc<Notify>,
        live: watch::Receiver<bool>,
        take_apart: TakeApart,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut open: Vec<SourceReceiver> = Vec::new();
        let mut tell = interval(TELL);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = (0, 0);
        loop {
            // Before the last look at what there is, so that nothing handed over before is left behind.
            let last = *stop.borrow();
            while let Ok(source) = sources.try_recv() {
                open.push(source);
            }
            for source in &mut open {
                while let Some(message) = source.try_recv() {
                    if *live.borrow() && !*stop.borrow() {
                        tokio::select! {
                            () = self.room(&message) => {}
                            _ = stop.changed() => {}
                        }
                    }
                    self.pass(&message, *live.borrow(), &take_apart);
                }
            }
            open.retain(|source| !source.is_closed());
            if last {
                break;
            }
            tokio::select! {
                () = wake.notified() => {}
                Some(source) = sources.recv() => open.push(source),
                _ = stop.changed() => {}
                _ = tell.tick() => self.tell(&mut told),
            }
        }
        for task in self.tasks {
            task.shutdown().await;
        }
        let Counts { published, merged, unwanted, dropped } = &*self.counts;
        let [published, merged, unwanted] = [published, merged, unwanted].map(|n| n.load(Ordering::Relaxed));
        let lost: u64 = self.publishers.iter().map(BatchPublisher::dropped).sum();
        let dropped = dropped.load(Ordering::Relaxed) + lost;
        tracing::info!(published, merged, unwanted, dropped, "ticks in all");
    }

    /// Resolves when every socket could take all of it: which one gets what is not known before.
    async fn room(&self, message: &SourceMessage) {
        for publisher in &self.publishers {
            // Twice: items are larger in a queue than in their message.
            publisher.room(2 * message.len_bytes()).await;
        }
    }

    fn pass(&self, message: &SourceMessage, live: bool, take_apart: &TakeApart) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.counts.merged, message.merged.into());
        let mut topic = String::new();
        take_apart(message, &mut |lossless, name, payload| {
            if !live {
                add(&self.counts.unwanted, 1);
                return;
            }
            let Ok(name) = std::str::from_utf8(name) else { return };
            // The mode is its last word: all modes of an instrument go the same way.
            let instrument = name.rsplit_once('_').map_or(name, |(instrument, _)| instrument);
            let at = self.hash.hash_one(instrument) % self.publishers.len() as u64;
            let publisher = &self.publishers[at as usize];
            let queued = if lossless {
                publisher.publish_alone(name, payload)
            } else {
                topic.clear();
                topic.push_str(&self.prefix);
                topic.push_str(name);
                publisher.publish(&topic, payload)
            };
            // A publisher counts what it drops.
            if queued == Publish::Queued {
                add(&self.counts.published, 1);
            }
        });
    }

    fn tell(&self, told: &mut (u64, u64)) {
        let lost: u64 = self.publishers.iter().map(BatchPublisher::dropped).sum();
        let dropped = self.counts.dropped.load(Ordering::Relaxed) + lost;
        let merged = self.counts.merged.load(Ordering::Relaxed);
        let since = (dropped - told.0, merged - told.1);
        if since != (0, 0) {
            tracing::warn!(
                dropped = since.0,
                merged = since.1,
                "the server did not take all ticks in the last {} s: some are lost, or merged to newer ones",
                TELL.as_secs()
            );
        }
        *told = (dropped, merged);
    }
}

/// Where the next socket binds: above the port before, at a picked port, or at a path of its own.
fn beside(first: &Endpoint, last: &Endpoint, number: usize) -> Endpoint {
    match (first, last) {
        (Endpoint::Tcp { port: 0, .. }, _) => first.clone(),
        (_, Endpoint::Tcp { host, port }) => Endpoint::Tcp { host: host.clone(), port: port.saturating_add(1) },
        (Endpoint::Ipc(path), _) => {
            let mut path = path.clone().into_os_string();
            path.push(format!("-{}", number + 1));
            Endpoint::Ipc(path.into())
        }
        (Endpoint::Tcp { .. }, Endpoint::Ipc(_)) => first.clone(),
    }
}

async fn start(
    wanted: &Endpoint,
    direction: Direction,
) -> Result<(BatchPublisher, PublisherTask, Endpoint), PublishError> {
    let config =
        |endpoint| Config { endpoint, direction, limits: BatchLimits::default(), queue_bytes_max: QUEUE_BYTES_MAX };
    let mut in_use = None;
    for endpoint in stand_ins(wanted) {
        match BatchPublisher::start(config(endpoint)).await {
            Err(PublishError::Bind(error)) if matches!(error.cause, BindCause::InUse) => {
                in_use.get_or_insert(error);
            }
            started => return started,
        }
    }
    Err(in_use.expect("an endpoint stands in for itself").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_bind_side_by_side() {
        let of =
            |first: &str, last: &str| beside(&first.parse().expect(first), &last.parse().expect(last), 1).to_string();
        assert_eq!(of("tcp://127.0.0.1:5601", "tcp://127.0.0.1:5603"), "tcp://127.0.0.1:5604");
        assert_eq!(of("tcp://127.0.0.1:0", "tcp://127.0.0.1:43210"), "tcp://127.0.0.1:0");
        assert_eq!(of("ipc:///tmp/feed", "ipc:///tmp/feed"), "ipc:///tmp/feed-2");
    }
}
