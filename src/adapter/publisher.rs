//! Our publisher: gathers ticks into BATCH messages and sends them over ZeroMQ (CONTRACTS 4.2).
//!
//! [`Batcher`] is pure; [`BatchPublisher`] feeds a task that owns the `zeromq` crate's PUB. In: topic and MessagePack
//! payload. Out: `["BATCH", [[topic, payload], …]]`, in the order of `publish`. Promise: `publish` never waits; what
//! waits is bounded in bytes and counted when dropped, and so is what the crate has taken and not sent; the last items
//! leave by a real timer, and on shutdown. The crate never reconnects a PUB: its monitor is watched and the socket
//! rebuilt with back-off. Who stops reading holds everybody up, and is hung up on after [`STALL`]. One that binds waits a
//! while for its subscriber, and does so where only this machine reaches it: any peer can abort a process that listens
//! with that crate. Tests: at the end, `tests/bus_peers.rs`.

use crate::model::ByteBudget;
use crate::zmtp::listener::{self, BindCause, BindError, Bound};
use crate::zmtp::{Backoff, Direction, Endpoint};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use zeromq::util::PeerIdentity;
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
/// One attempt of the crate to connect. Longer ones would be no help: it spaces its own tries at a closed port further
/// and further apart.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What the crate may hold unsent, bytes: it counts messages, 100,000 of them, and those may be batches.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
/// A subscriber that takes nothing for so long, while the crate holds all it may, is hung up on.
pub const STALL: Duration = Duration::from_secs(10);
/// At the end, what the crate holds gets this long to leave.
const DRAIN: Duration = Duration::from_secs(1);
/// Items wait so long for a subscriber to a bound socket; after that they go the way of all that a PUB without one sends.
const HOLD: Duration = Duration::from_secs(3);
/// Ports tried by [`stand_ins`], counted.
const PORTS_TRIED: u16 = 200;

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
    /// In a message of its own, as it is.
    alone: bool,
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
        let task = Task {
            endpoint: config.endpoint.to_string(),
            batcher: Batcher::new(config.limits),
            inbox,
            budget,
            stopped,
            dropped: publisher.dropped.clone(),
            held: [None, None],
            in_flight: Arc::default(),
        };
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

fn bind(endpoint: &Endpoint) -> Result<(Bound, Endpoint), PublishError> {
    if !endpoint.is_local() {
        return Err(PublishError::NotLocal(endpoint.clone()));
    }
    listener::bind(endpoint, 64 << 10)
        .map_err(|cause: BindCause| BindError { endpoint: endpoint.clone(), cause }.into())
}

/// A socket on a copy of the listener, which stays ours: nobody else gets the port while a socket is replaced.
async fn listen(bound: &Bound) -> Result<(PubSocket, Peers), zeromq::ZmqError> {
    let mut socket = PubSocket::new();
    // Taken before listening, or the first events are missed.
    let mut monitor = socket.monitor();
    match bound {
        Bound::Tcp(listener) => socket.bind_listener(listener.try_clone()?).await?,
        Bound::Ipc(listener, _) => socket.bind_listener(listener.try_clone()?).await?,
    };
    let event = Box::new(move || monitor.try_recv().ok());
    Ok((socket, Peers::Come { event, here: HashSet::new(), settled: Instant::now(), held: None }))
}

/// The next event of a socket's monitor, if one waits.
type NextEvent = Box<dyn FnMut() -> Option<SocketEvent> + Send>;

/// The far ends of a socket, as its monitor tells them.
enum Peers {
    /// There is one, that we connected to.
    One {
        event: NextEvent,
        /// It has gone; an event is told once.
        lost: bool,
    },
    /// They come and go.
    Come {
        event: NextEvent,
        here: HashSet<PeerIdentity>,
        /// When the first of them will have said what it wants.
        settled: Instant,
        /// Since when something waits for one.
        held: Option<Instant>,
    },
}

/// What may be done with a socket now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Send,
    Hold,
    Lost,
}

impl Peers {
    fn look(&mut self, waits: bool) -> Sight {
        match self {
            Peers::One { event, lost } => {
                *lost |= std::iter::from_fn(event)
                    .any(|event| matches!(event, SocketEvent::Disconnected(_) | SocketEvent::Closed));
                if *lost { Sight::Lost } else { Sight::Send }
            }
            Peers::Come { event, here, settled, held } => {
                let now = Instant::now();
                for event in std::iter::from_fn(event) {
                    match event {
                        SocketEvent::Accepted(_, peer) => {
                            if here.is_empty() {
                                *settled = now + SETTLE;
                            }
                            here.insert(peer);
                        }
                        SocketEvent::Disconnected(peer) => _ = here.remove(&peer),
                        _ => {}
                    }
                }
                let expected = !here.is_empty() && *settled <= now;
                if expected || !waits {
                    *held = None;
                    return if expected { Sight::Send } else { Sight::Hold };
                }
                let since = *held.get_or_insert(now);
                if now - since < HOLD { Sight::Hold } else { Sight::Send }
            }
        }
    }
}

/// What the crate has taken and not let go of: sent or dropped, it does not say which.
#[derive(Debug, Default)]
struct InFlight {
    bytes: AtomicUsize,
    /// Messages let go of so far, counted.
    released: AtomicU64,
    freed: Notify,
}

impl InFlight {
    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= IN_FLIGHT_BYTES_MAX
    }

    /// The same bytes; they count until the last copy is gone.
    fn counted(self: &Arc<Self>, body: Bytes) -> Bytes {
        self.bytes.fetch_add(body.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { body, of: self.clone() })
    }
}

struct Counted {
    body: Bytes,
    of: Arc<InFlight>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.body.len(), Ordering::Relaxed);
        self.of.released.fetch_add(1, Ordering::Relaxed);
        self.of.freed.notify_one();
    }
}

/// Why a socket's life ended.
enum Ended {
    Lost,
    Stuck,
    Stopped,
}

struct Task {
    endpoint: String,
    batcher: Batcher,
    inbox: mpsc::Receiver<Item>,
    budget: Arc<ByteBudget>,
    stopped: watch::Receiver<()>,
    dropped: Arc<AtomicU64>,
    /// Messages that were ready when their far end had gone; they may still reach the next one.
    held: [Option<Frames>; 2],
    /// Of the socket of now.
    in_flight: Arc<InFlight>,
}

impl Task {
    async fn run(mut self, bound: Option<(Bound, (PubSocket, Peers))>) {
        match bound {
            Some((bound, listening)) => self.publish_bound(&bound, listening).await,
            None => self.publish_connected().await,
        }
        // What nobody was connected for at the end.
        self.dropped.fetch_add(self.inbox.len() as u64, Ordering::Relaxed);
    }

    async fn publish_bound(&mut self, bound: &Bound, listening: (PubSocket, Peers)) {
        let (mut socket, mut peers) = listening;
        loop {
            let ended = self.serve(&mut socket, peers).await;
            socket.close().await;
            if matches!(ended, Ended::Stopped) {
                return;
            }
            (socket, peers) = match listen(bound).await {
                Ok(listening) => listening,
                Err(error) => return tracing::error!(endpoint = %self.endpoint, %error, "cannot publish any more"),
            };
        }
    }

    async fn publish_connected(&mut self) {
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
                    let event = Box::new(move || monitor.try_recv().ok());
                    match self.serve(&mut socket, Peers::One { event, lost: false }).await {
                        Ended::Stopped => return drop(socket.close().await),
                        Ended::Lost => tracing::warn!(endpoint = %self.endpoint, "the bus is gone; connecting again"),
                        Ended::Stuck => {}
                    }
                }
                Err(error) => tracing::debug!(endpoint = %self.endpoint, %error, "cannot connect"),
            }
            drop(socket);
            tokio::select! {
                // The lower half of the jitter only: no wait is longer than two seconds.
                () = sleep(backoff.wait(rand::random::<f64>() / 2.0)) => {}
                _ = self.stopped.changed() => return,
            }
        }
    }

    /// Sends until told to stop, until the far end has gone, or until it takes nothing.
    async fn serve(&mut self, socket: &mut PubSocket, mut peers: Peers) -> Ended {
        self.in_flight = Arc::default();
        let mut look = tokio::time::interval(MONITOR_PERIOD);
        let (mut released, mut moved) = (0, Instant::now());
        loop {
            let (due, full) = (self.batcher.due(), self.in_flight.is_full());
            let waits = due.is_some() || !self.inbox.is_empty() || self.held != [None, None];
            let sight = peers.look(waits);
            if sight == Sight::Lost {
                return Ended::Lost;
            }
            let open = sight == Sight::Send && !full;
            if open {
                let held = std::mem::take(&mut self.held);
                self.send(socket, held).await;
            }
            let frames = tokio::select! {
                item = self.inbox.recv(), if open => match item {
                    Some(item) => self.take(item),
                    // All handles are gone: as good as a shutdown.
                    None => break,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && open => {
                    [self.batcher.flush(), None]
                }
                () = self.in_flight.freed.notified(), if full => [None, None],
                _ = look.tick() => [None, None],
                _ = self.stopped.changed() => break,
            };
            let let_go = self.in_flight.released.load(Ordering::Relaxed);
            if !full || let_go != released {
                (released, moved) = (let_go, Instant::now());
            } else if moved.elapsed() >= STALL {
                let bytes = self.in_flight.bytes.load(Ordering::Relaxed);
                tracing::warn!(endpoint = %self.endpoint, bytes, "a subscriber takes nothing and is hung up on");
                return Ended::Stuck;
            }
            if frames == [None, None] {
                continue;
            }
            // The wait may have been long.
            match peers.look(true) {
                Sight::Send => self.send(socket, frames).await,
                Sight::Hold | Sight::Lost => self.held = frames,
            }
        }
        let held = std::mem::take(&mut self.held);
        self.send(socket, held).await;
        while let Ok(item) = self.inbox.try_recv() {
            let frames = self.take(item);
            self.send(socket, frames).await;
        }
        let last = [self.batcher.flush(), None];
        self.send(socket, last).await;
        let deadline = Instant::now() + DRAIN;
        while self.in_flight.bytes.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            tokio::select! {
                () = self.in_flight.freed.notified() => {}
                () = sleep_until(deadline) => {}
            }
        }
        sleep(LINGER).await;
        Ended::Stopped
    }

    /// The messages that an item completes, in order.
    fn take(&mut self, item: Item) -> [Option<Frames>; 2] {
        self.budget.give(item.cost());
        if !item.alone {
            return [self.batcher.push(&item.topic, &item.payload, Instant::now()), None];
        }
        let topic = Bytes::from(item.topic.into_string());
        [self.batcher.flush(), Some(Frames { topic, body: item.payload })]
    }

    async fn send(&self, socket: &mut PubSocket, frames: [Option<Frames>; 2]) {
        for Frames { topic, body } in frames.into_iter().flatten() {
            let parts = vec![topic, self.in_flight.counted(body)];
            let message = ZmqMessage::try_from(parts).expect("two frames are a message");
            // A PUB reports no peer's fault here; the monitor does.
            if let Err(error) = socket.send(message).await {
                tracing::debug!(%error, "a batch was not sent");
            }
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_message_alone_goes_after_what_came_before_it_and_as_it_is() {
        let (_items, inbox) = mpsc::channel(1);
        let mut task = Task {
            endpoint: String::new(),
            batcher: Batcher::new(BatchLimits::default()),
            inbox,
            budget: ByteBudget::new(1 << 20),
            stopped: watch::channel(()).1,
            dropped: Arc::default(),
            held: [None, None],
            in_flight: Arc::default(),
        };
        let mut take = |topic: &str, payload: Vec<u8>, alone| {
            let item = Item { topic: topic.into(), payload: payload.into(), alone };
            assert!(task.budget.try_take(item.cost()));
            task.take(item)
        };
        assert_eq!(take("A", payload(1), false), [None, None]);
        let [before, order] = take("X_asha_orders", b"{}".to_vec(), true);
        assert_eq!(items(&before.expect("what waited")), [("A".to_owned(), 1)]);
        let (topic, body) = (Bytes::from_static(b"X_asha_orders"), Bytes::from_static(b"{}"));
        assert_eq!(order, Some(Frames { topic, body }));
        assert_eq!(task.budget.used(), 0);
    }

    #[test]
    fn what_the_crate_holds_counts_until_its_last_copy_is_gone() {
        let in_flight = Arc::<InFlight>::default();
        let first = in_flight.counted(Bytes::from(vec![0; IN_FLIGHT_BYTES_MAX - 1]));
        let copy = first.slice(1..);
        let second = in_flight.counted(Bytes::from_static(b"x"));
        assert!(in_flight.is_full());
        drop(second);
        assert!(!in_flight.is_full());
        drop(first);
        assert_eq!(in_flight.bytes.load(Ordering::Relaxed), IN_FLIGHT_BYTES_MAX - 1);
        drop(copy);
        assert_eq!((in_flight.bytes.load(Ordering::Relaxed), in_flight.released.load(Ordering::Relaxed)), (0, 2));
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

    #[tokio::test(start_paused = true)]
    async fn a_far_end_that_has_gone_stays_gone_and_one_that_comes_is_given_time_to_say_what_it_wants() {
        let (tell, told) = std::sync::mpsc::sync_channel(4);
        let event = Box::new(move || told.try_recv().ok());
        let mut one = Peers::One { event, lost: false };
        assert_eq!(one.look(true), Sight::Send);
        let peer = PeerIdentity::new();
        tell.send(SocketEvent::Disconnected(peer.clone())).expect("room");
        assert_eq!((one.look(true), one.look(true)), (Sight::Lost, Sight::Lost));

        let (tell, told) = std::sync::mpsc::sync_channel(4);
        let event = Box::new(move || told.try_recv().ok());
        let mut come = Peers::Come { event, here: HashSet::new(), settled: Instant::now(), held: None };
        assert_eq!((come.look(false), come.look(true)), (Sight::Hold, Sight::Hold));
        sleep(HOLD).await;
        assert_eq!(come.look(true), Sight::Send, "as a PUB without a subscriber does");
        assert_eq!(come.look(false), Sight::Hold);
        let accepted = || SocketEvent::Accepted("tcp://127.0.0.1:1".parse().expect("one of theirs"), peer.clone());
        tell.send(accepted()).expect("room");
        assert_eq!(come.look(true), Sight::Hold);
        sleep(SETTLE).await;
        assert_eq!((come.look(true), come.look(false)), (Sight::Send, Sight::Send));
        // The crate may say twice that one has gone.
        tell.send(SocketEvent::Disconnected(peer.clone())).expect("room");
        tell.send(SocketEvent::Disconnected(peer.clone())).expect("room");
        assert_eq!(come.look(true), Sight::Hold);
        tell.send(accepted()).expect("room");
        come.look(true);
        sleep(SETTLE).await;
        assert_eq!(come.look(true), Sight::Send);
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
