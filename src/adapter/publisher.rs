//! Our publisher: gathers ticks into BATCH messages and sends them over ZeroMQ (CONTRACTS 4.2).
//!
//! [`Batcher`] is pure; [`BatchPublisher`] feeds a task that owns the `zeromq` crate's PUB. In: topic and MessagePack
//! payload. Out: `["BATCH", [[topic, payload], …]]`, in the order of `publish`. Promise: `publish` never waits; what
//! waits is bounded in bytes and counted when dropped; the last items leave by a real timer, and on shutdown. The crate
//! never reconnects a PUB: its monitor is watched and the socket rebuilt with back-off. A PUB that binds does so where
//! only this machine reaches it, since any peer can abort a process that listens with that crate. Tests: at the end.

use crate::model::ByteBudget;
use crate::policy::backoff::Backoff;
use crate::zmtp::listener::{self, BindCause, BindError, Bound, IpcFile};
use crate::zmtp::{Direction, Endpoint};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use zeromq::{PubSocket, Socket, SocketEvent, SocketOptions, SocketSend, ZmqMessage};

/// Items that may wait for the task, counted; bytes are usually met first.
const QUEUE_ITEMS_MAX: usize = 65_536;
/// What a queued item costs beside its bytes.
const ITEM_BYTES: usize = 64;
/// A PUB drops what it sends before it has read the subscriber's wish, which follows the handshake.
const SETTLE: Duration = Duration::from_millis(100);
/// The crate hands messages to its writers through tasks; they get this long before the socket goes.
const LINGER: Duration = Duration::from_millis(200);
/// How often the crate's monitor is looked at while nothing is sent.
const MONITOR_PERIOD: Duration = Duration::from_millis(100);
/// One attempt of the crate to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// When a batch leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Items of a batch, counted; 1 sends each alone, as `[topic, payload]`.
    pub items_max: usize,
    /// A batch leaves once it holds this many bytes.
    pub bytes_max: usize,
    /// A batch leaves this long after its first item.
    pub delay: Duration,
}

impl BatchLimits {
    /// 10 items or 100 ms, as the audit asked for.
    pub const AUDIT: BatchLimits =
        BatchLimits { items_max: 10, bytes_max: 64 << 10, delay: Duration::from_millis(100) };
    /// Each item in a message of its own.
    pub const SINGLE: BatchLimits = BatchLimits { items_max: 1, bytes_max: 64 << 10, delay: Duration::ZERO };
}

impl Default for BatchLimits {
    /// 100 items, 64 KiB or 2 ms.
    fn default() -> Self {
        BatchLimits { items_max: 100, bytes_max: 64 << 10, delay: Duration::from_millis(2) }
    }
}

/// Two frames, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// `BATCH`, or the topic of a single message.
    pub topic: Bytes,
    /// The batch, or the payload of a single message.
    pub body: Bytes,
}

/// Gathers items into batches; pure.
#[derive(Debug)]
pub struct Batcher {
    limits: BatchLimits,
    items: BytesMut,
    count: u32,
    due: Option<Instant>,
}

impl Batcher {
    /// An empty one.
    pub fn new(limits: BatchLimits) -> Self {
        Batcher { limits, items: BytesMut::new(), count: 0, due: None }
    }

    /// Adds an item, whose `payload` is one MessagePack value; gives the batch if that filled it.
    pub fn push(&mut self, topic: &str, payload: &[u8], now: Instant) -> Option<Frames> {
        if self.limits.items_max <= 1 {
            let (topic, body) = (Bytes::copy_from_slice(topic.as_bytes()), Bytes::copy_from_slice(payload));
            return Some(Frames { topic, body });
        }
        let mut out = (&mut self.items).writer();
        let wrote = rmp::encode::write_array_len(&mut out, 2).and_then(|_| rmp::encode::write_str(&mut out, topic));
        wrote.expect("memory takes every write");
        self.items.put_slice(payload);
        self.count += 1;
        self.due.get_or_insert(now + self.limits.delay);
        let full = self.count as usize >= self.limits.items_max || self.items.len() >= self.limits.bytes_max;
        if full { self.flush() } else { None }
    }

    /// When the batch must leave, if there is one.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What has been gathered, if anything.
    pub fn flush(&mut self) -> Option<Frames> {
        self.due = None;
        if self.count == 0 {
            return None;
        }
        let mut body = BytesMut::with_capacity(self.items.len() + 5);
        rmp::encode::write_array_len(&mut (&mut body).writer(), self.count).expect("memory takes every write");
        body.put_slice(&self.items);
        self.items.clear();
        self.count = 0;
        Some(Frames { topic: Bytes::from_static(b"BATCH"), body: body.freeze() })
    }
}

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

struct Item {
    topic: Box<str>,
    payload: Bytes,
}

impl Item {
    fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + ITEM_BYTES
    }
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
        let bound = match config.direction {
            Direction::Bind => Some(bind(&config.endpoint).await?),
            Direction::Connect => None,
        };
        let (socket, real) = match bound {
            Some((socket, file, real)) => (Some((socket, file)), real),
            None => (None, config.endpoint.clone()),
        };
        let (items, inbox) = mpsc::channel(QUEUE_ITEMS_MAX);
        let (stop, stopped) = watch::channel(());
        let budget = ByteBudget::new(config.queue_bytes_max);
        let publisher = BatchPublisher { items, budget: budget.clone(), dropped: Arc::default() };
        let task = Task {
            endpoint: config.endpoint.to_string(),
            batcher: Batcher::new(config.limits),
            inbox,
            budget,
            stopped,
            dropped: publisher.dropped.clone(),
            held: None,
        };
        Ok((publisher, PublisherTask { stop, root: tokio::spawn(task.run(socket)) }, real))
    }

    /// Queues one item, whose `payload` is one MessagePack value. Never waits.
    pub fn publish(&self, topic: &str, payload: &[u8]) -> Publish {
        let item = Item { topic: topic.into(), payload: Bytes::copy_from_slice(payload) };
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

async fn bind(endpoint: &Endpoint) -> Result<(PubSocket, Option<IpcFile>, Endpoint), PublishError> {
    if !endpoint.is_local() {
        return Err(PublishError::NotLocal(endpoint.clone()));
    }
    let (bound, real) = listener::bind(endpoint, 64 << 10)
        .map_err(|cause: BindCause| BindError { endpoint: endpoint.clone(), cause })?;
    let mut socket = PubSocket::new();
    let (listening, file) = match bound {
        Bound::Tcp(listener) => (socket.bind_listener(listener).await, None),
        Bound::Ipc(listener, file) => (socket.bind_listener(listener).await, Some(file)),
    };
    listening.map_err(|error| PublishError::Listen(real.clone(), error))?;
    Ok((socket, file, real))
}

/// Why a socket's life ended.
enum Ended {
    Lost,
    Stopped,
}

struct Task {
    endpoint: String,
    batcher: Batcher,
    inbox: mpsc::Receiver<Item>,
    budget: Arc<ByteBudget>,
    stopped: watch::Receiver<()>,
    dropped: Arc<AtomicU64>,
    /// A batch that was ready when its socket was lost.
    held: Option<Frames>,
}

impl Task {
    async fn run(mut self, bound: Option<(PubSocket, Option<IpcFile>)>) {
        self.publish(bound).await;
        // What nobody was connected for at the end.
        self.dropped.fetch_add(self.inbox.len() as u64, Ordering::Relaxed);
    }

    async fn publish(&mut self, bound: Option<(PubSocket, Option<IpcFile>)>) {
        if let Some((mut socket, _file)) = bound {
            self.serve(&mut socket, || false).await;
            socket.close().await;
            return;
        }
        let mut backoff = Backoff::default();
        loop {
            let mut options = SocketOptions::default();
            options.connect_timeout(CONNECT_TIMEOUT);
            let mut socket = PubSocket::with_options(options);
            // Taken before connecting, or the first events are missed.
            let mut monitor = socket.monitor();
            let connected = tokio::select! {
                connected = socket.connect(&self.endpoint) => connected,
                _ = self.stopped.changed() => return,
            };
            match connected {
                Ok(()) => {
                    tracing::info!(endpoint = %self.endpoint, "publishing");
                    backoff.reset();
                    sleep(SETTLE).await;
                    let lost = || {
                        std::iter::from_fn(|| monitor.try_recv().ok())
                            .any(|event| matches!(event, SocketEvent::Disconnected(_) | SocketEvent::Closed))
                    };
                    match self.serve(&mut socket, lost).await {
                        Ended::Stopped => return drop(socket.close().await),
                        Ended::Lost => tracing::warn!(endpoint = %self.endpoint, "the bus is gone; connecting again"),
                    }
                }
                Err(error) => tracing::debug!(endpoint = %self.endpoint, %error, "cannot connect"),
            }
            drop(socket);
            tokio::select! {
                () = sleep(backoff.wait(rand::random::<f64>())) => {}
                _ = self.stopped.changed() => return,
            }
        }
    }

    /// Sends until told to stop or until `lost` says that the far end has gone.
    async fn serve(&mut self, socket: &mut PubSocket, mut lost: impl FnMut() -> bool) -> Ended {
        send(socket, self.held.take()).await;
        let mut look = tokio::time::interval(MONITOR_PERIOD);
        loop {
            let due = self.batcher.due();
            let frames = tokio::select! {
                item = self.inbox.recv() => match item {
                    Some(item) => self.take(&item),
                    // All handles are gone: as good as a shutdown.
                    None => break,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.batcher.flush(),
                _ = look.tick() => None,
                _ = self.stopped.changed() => break,
            };
            if lost() {
                // What the crate had taken is gone with its socket; this batch may still reach the next one.
                self.held = frames;
                return Ended::Lost;
            }
            send(socket, frames).await;
        }
        while let Ok(item) = self.inbox.try_recv() {
            let frames = self.take(&item);
            send(socket, frames).await;
        }
        send(socket, self.batcher.flush()).await;
        sleep(LINGER).await;
        Ended::Stopped
    }

    fn take(&mut self, item: &Item) -> Option<Frames> {
        self.budget.give(item.cost());
        self.batcher.push(&item.topic, &item.payload, Instant::now())
    }
}

async fn send(socket: &mut PubSocket, frames: Option<Frames>) {
    let Some(frames) = frames else { return };
    let message = ZmqMessage::try_from(vec![frames.topic, frames.body]).expect("two frames are a message");
    // A PUB reports no peer's fault here; the monitor does.
    if let Err(error) = socket.send(message).await {
        tracing::debug!(%error, "a batch was not sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Items = Vec<(String, i64)>;

    fn items(frames: &Frames) -> Items {
        assert_eq!(&frames.topic[..], b"BATCH");
        rmp_serde::from_slice(&frames.body).expect("a batch")
    }

    fn payload(value: i64) -> Vec<u8> {
        rmp_serde::to_vec(&value).expect("encodes")
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_leaves_full_in_the_order_of_its_items() {
        let mut batcher = Batcher::new(BatchLimits::default());
        let mut batches = Vec::new();
        for i in 0..250 {
            batches.extend(batcher.push(&format!("T{}", i % 3), &payload(i), Instant::now()));
        }
        batches.extend(batcher.flush());
        assert_eq!(batches.iter().map(|b| items(b).len()).collect::<Vec<_>>(), [100, 100, 50]);
        let all: Items = batches.iter().flat_map(items).collect();
        assert_eq!(all, (0..250).map(|i| (format!("T{}", i % 3), i)).collect::<Items>());
        assert_eq!(batcher.flush(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_leaves_by_size_and_is_due_after_its_first_item() {
        let mut batcher = Batcher::new(BatchLimits::default());
        assert_eq!(batcher.due(), None);
        let now = Instant::now();
        let long = rmp_serde::to_vec(&"x".repeat(40_000)).expect("encodes");
        assert_eq!(batcher.push("A", &long, now), None);
        assert_eq!(batcher.due(), Some(now + Duration::from_millis(2)));
        assert!(batcher.push("A", &long, now + Duration::from_millis(1)).is_some());
        assert_eq!(batcher.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_audit_s_limits_and_single_messages_can_be_chosen() {
        let mut batcher = Batcher::new(BatchLimits::AUDIT);
        let first = (1..=10).find_map(|i| batcher.push("A", &payload(i), Instant::now()).map(|b| (i, items(&b).len())));
        assert_eq!(first, Some((10, 10)));
        let single = Batcher::new(BatchLimits::SINGLE).push("A", &payload(7), Instant::now()).expect("at once");
        assert_eq!(single, Frames { topic: Bytes::from_static(b"A"), body: payload(7).into() });
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
