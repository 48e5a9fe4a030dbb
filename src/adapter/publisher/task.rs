//! The task behind a publisher: it owns the crate's PUB, one after another, and sends what the handle queues.
//!
//! In: items, the monitor's events, time. Out: messages, in order. It sends while its far end is there, waits a while for one that
//! comes, counts by their own drop what the crate has not let go of, and makes another socket when one is lost or stuck.

use super::batch::{Batcher, Frames};
use super::{ITEM_BYTES, PublishError};
use crate::model::ByteBudget;
use crate::policy::backoff::Backoff;
use crate::zmtp::Endpoint;
use crate::zmtp::listener::{self, BindCause, BindError, Bound};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use zeromq::util::PeerIdentity;
use zeromq::{PubSocket, Socket, SocketEvent, SocketOptions, SocketSend, ZmqMessage};

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

/// One tick, or one message that goes alone.
pub(super) struct Item {
    pub(super) topic: Box<str>,
    pub(super) payload: Bytes,
    /// In a message of its own, as it is.
    pub(super) alone: bool,
}

impl Item {
    /// What it takes of the queue, bytes.
    pub(super) fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + ITEM_BYTES
    }
}

/// Takes the port, and gives the endpoint with its real one.
pub(super) fn bind(endpoint: &Endpoint) -> Result<(Bound, Endpoint), PublishError> {
    if !endpoint.is_local() {
        return Err(PublishError::NotLocal(endpoint.clone()));
    }
    listener::bind(endpoint, 64 << 10)
        .map_err(|cause: BindCause| BindError { endpoint: endpoint.clone(), cause }.into())
}

/// A socket on a copy of the listener, which stays ours: nobody else gets the port while a socket is replaced.
pub(super) async fn listen(bound: &Bound) -> Result<(PubSocket, Peers), zeromq::ZmqError> {
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
pub(super) enum Peers {
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

/// See the module's header.
pub(super) struct Task {
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
    pub(super) fn new(
        endpoint: String,
        batcher: Batcher,
        inbox: mpsc::Receiver<Item>,
        budget: Arc<ByteBudget>,
        stopped: watch::Receiver<()>,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Task { endpoint, batcher, inbox, budget, stopped, dropped, held: [None, None], in_flight: Arc::default() }
    }

    /// Publishes until it is stopped.
    pub(super) async fn run(mut self, bound: Option<(Bound, (PubSocket, Peers))>) {
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
    use super::super::BatchLimits;
    use super::super::batch::tests::{items, payload};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_alone_goes_after_what_came_before_it_and_as_it_is() {
        let (_items, inbox) = mpsc::channel(1);
        let batcher = Batcher::new(BatchLimits::default());
        let (budget, stopped) = (ByteBudget::new(1 << 20), watch::channel(()).1);
        let mut task = Task::new(String::new(), batcher, inbox, budget, stopped, Arc::default());
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
}
