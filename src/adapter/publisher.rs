//! Our publisher: gathers ticks into BATCH messages and sends them over ZeroMQ (CONTRACTS 4.2).
//!
//! [`Batcher`] is pure; [`BatchPublisher`] feeds a task that owns the `zeromq` crate's PUB. In: topic and MessagePack
//! payload. Out: `["BATCH", [[topic, payload], …]]`, in the order of `publish`. Promise: `publish` never waits; what
//! waits is bounded in bytes and counted when dropped, and so is what the crate has taken and not sent; the last items
//! leave by a real timer, and on shutdown. The crate never reconnects a PUB: its monitor is watched and the socket
//! rebuilt with back-off. Who stops reading holds everybody up, and is hung up on after [`STALL`]. One that binds waits a
//! while for its subscriber, and does so where only this machine reaches it: any peer can abort a process that listens
//! with that crate. Tests: at the ends of the files, `tests/bus_peers.rs`.

mod batch;
mod task;

pub use batch::{BatchLimits, Batcher, Frames};
pub use task::STALL;

use self::task::{Item, Task, bind, listen};
use crate::model::ByteBudget;
use crate::zmtp::listener::BindError;
use crate::zmtp::{Direction, Endpoint};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Items that may wait for the task, counted; bytes are usually met first.
const QUEUE_ITEMS_MAX: usize = 65_536;
/// What a queued item costs beside its bytes.
const ITEM_BYTES: usize = 64;
/// Ports tried by [`stand_ins`], counted.
const PORTS_TRIED: u16 = 200;

/// Where and how to publish.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where.
    pub endpoint: Endpoint,
    /// Whether we listen there.
    pub direction: Direction,
    /// When a batch leaves.
    pub limits: BatchLimits,
    /// Bytes that may wait while the socket is being rebuilt or the task is behind.
    pub queue_bytes_max: usize,
}

/// Why publishing could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The endpoint can be reached from other machines.
    #[error("a publisher may only bind a loopback or ipc endpoint, not {0}")]
    NotLocal(Endpoint),
    /// The endpoint could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The crate did not take the listener over.
    #[error("cannot listen on {0}: {1}")]
    Listen(Endpoint, zeromq::ZmqError),
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Publish {
    /// It waits for the task.
    Queued,
    /// The queue was full, or the publisher has shut down; counted.
    Dropped,
}

/// The publisher's handle; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct BatchPublisher {
    items: mpsc::Sender<Item>,
    budget: Arc<ByteBudget>,
    dropped: Arc<AtomicU64>,
}

impl BatchPublisher {
    /// Binds at once, or begins to connect and keeps at it for ever; runs on the current tokio runtime. The endpoint
    /// given back has its real port.
    ///
    /// # Errors
    /// A bound endpoint that is not local or cannot be bound. Connecting never fails here.
    pub async fn start(config: Config) -> Result<(BatchPublisher, PublisherTask, Endpoint), PublishError> {
        let (bound, real) = match config.direction {
            Direction::Bind => {
                let (bound, real) = bind(&config.endpoint)?;
                let listening = listen(&bound).await.map_err(|error| PublishError::Listen(real.clone(), error))?;
                (Some((bound, listening)), real)
            }
            Direction::Connect => (None, config.endpoint.clone()),
        };
        let (items, inbox) = mpsc::channel(QUEUE_ITEMS_MAX);
        let (stop, stopped) = watch::channel(());
        let budget = ByteBudget::new(config.queue_bytes_max);
        let publisher = BatchPublisher { items, budget: budget.clone(), dropped: Arc::default() };
        let task = Task::new(
            config.endpoint.to_string(),
            Batcher::new(config.limits),
            inbox,
            budget,
            stopped,
            publisher.dropped.clone(),
        );
        Ok((publisher, PublisherTask { stop, root: tokio::spawn(task.run(bound)) }, real))
    }

    /// Queues one item, whose `payload` is one MessagePack value. Never waits.
    pub fn publish(&self, topic: &str, payload: &[u8]) -> Publish {
        self.queue(topic, payload, false)
    }

    /// Queues one message that is sent as it is, in its turn: an order update's JSON. Never waits.
    pub fn publish_alone(&self, topic: &str, payload: &[u8]) -> Publish {
        self.queue(topic, payload, true)
    }

    /// Resolves when an item of these many bytes, topic and payload, would be queued, or none ever will. Cancel-safe.
    pub async fn room(&self, bytes: usize) {
        tokio::select! {
            () = self.budget.room(bytes + ITEM_BYTES) => {}
            () = self.items.closed() => {}
        }
    }

    fn queue(&self, topic: &str, payload: &[u8], alone: bool) -> Publish {
        let item = Item { topic: topic.into(), payload: Bytes::copy_from_slice(payload), alone };
        let cost = item.cost();
        if self.budget.try_take(cost) {
            if self.items.try_send(item).is_ok() {
                return Publish::Queued;
            }
            self.budget.give(cost);
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
        Publish::Dropped
    }

    /// Items dropped so far because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The joiner and stop signal of a publisher's task; dropping it stops the task, too.
#[derive(Debug)]
pub struct PublisherTask {
    stop: watch::Sender<()>,
    root: JoinHandle<()>,
}

impl PublisherTask {
    /// Sends what waits, if there is a connection, and closes the socket.
    pub async fn shutdown(self) {
        drop(self.stop);
        if let Err(error) = self.root.await {
            tracing::error!(%error, "the publisher's task did not end well");
        }
    }
}

/// The endpoint asked for, and what may stand for it while that is in use: the ports above it. One whose port the kernel
/// picks stands for itself, and nothing stands for a path.
pub fn stand_ins(first: &Endpoint) -> impl Iterator<Item = Endpoint> {
    let first = first.clone();
    (0..PORTS_TRIED).map_while(move |tried| match &first {
        Endpoint::Tcp { port: 0, .. } => Some(first.clone()),
        Endpoint::Tcp { host, port } => Some(Endpoint::Tcp { host: host.clone(), port: port.checked_add(tried)? }),
        Endpoint::Ipc(_) => (tried == 0).then(|| first.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(value: i64) -> Vec<u8> {
        rmp_serde::to_vec(&value).expect("encodes")
    }

    #[tokio::test]
    async fn what_waits_is_bounded_and_drops_are_counted() {
        let config = Config {
            // Nobody listens on a path that does not exist.
            endpoint: "ipc:///nonexistent/tickcast".parse().expect("endpoint"),
            direction: Direction::Connect,
            limits: BatchLimits::default(),
            queue_bytes_max: 10 * (1 + 1 + ITEM_BYTES),
        };
        let (publisher, task, _) = BatchPublisher::start(config).await.expect("connects later");
        let queued = (0..25).filter(|i| publisher.publish("A", &payload(*i)) == Publish::Queued).count();
        assert_eq!((queued, publisher.dropped()), (10, 15));
        task.shutdown().await;
        assert_eq!(publisher.dropped(), 25);
        assert_eq!(publisher.publish("A", &payload(1)), Publish::Dropped);
    }

    #[test]
    fn the_ports_above_stand_in_for_one_that_is_in_use() {
        let of = |text: &str| stand_ins(&text.parse().expect(text)).map(|e| e.to_string()).collect::<Vec<_>>();
        let above = of("tcp://127.0.0.1:5601");
        assert_eq!(
            (&above[..2], above.len()),
            (&["tcp://127.0.0.1:5601".to_owned(), "tcp://127.0.0.1:5602".to_owned()][..], 200)
        );
        assert_eq!(of("tcp://127.0.0.1:65535"), ["tcp://127.0.0.1:65535"]);
        assert_eq!(of("ipc:///tmp/x"), ["ipc:///tmp/x"]);
        let picked = of("tcp://127.0.0.1:0");
        assert!(picked.len() == 200 && picked.iter().all(|e| e == "tcp://127.0.0.1:0"));
    }

    #[tokio::test]
    async fn a_publisher_binds_nothing_that_others_can_reach() {
        let config = Config {
            endpoint: "tcp://*:0".parse().expect("endpoint"),
            direction: Direction::Bind,
            limits: BatchLimits::default(),
            queue_bytes_max: 1 << 20,
        };
        let refused = BatchPublisher::start(config).await.err();
        assert!(matches!(refused, Some(PublishError::NotLocal(_))), "{refused:?}");
    }
}
