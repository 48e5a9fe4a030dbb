//! ROUTER: accepts DEALERs, hands their messages to one place in order, and sends each what it is owed.
//!
//! In: a bound endpoint. Out: [`Event`]s over a bounded queue. Promise: a peer's fault, silence or flood ends or slows that
//! peer only: it is read again when what it sent last has been taken; at most `peers_max` peers, each with a bounded queue of
//! messages to it. Dropping a [`Peer`] closes its connection; dropping the future of [`serve`] ends everything and frees the
//! port. Peers are told apart by connection, never by a name they give. Knows nothing of what messages mean.
//! Tests: `tests/control.rs`.

use super::link::{self, LinkEnd, Sink};
use super::listener::{ACCEPT_PAUSE, Bound, Listener, Stream, tune};
use super::parser::{self, Parts};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// `cause` of a peer beyond the limit.
pub const CAUSE_PEERS_MAX: &str = "peers_max";

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Of one connection.
    pub link: link::Config,
    /// Peers at once, counted.
    pub peers_max: usize,
    /// Messages waiting for one peer, counted.
    pub queue_max: usize,
}

/// One connection's number; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// What happened to a peer. `Joined` comes first, `Left` last.
#[derive(Debug)]
pub enum Event {
    /// Its handshake is done.
    Joined(PeerId, Peer),
    /// It sent this.
    Message(PeerId, Parts),
    /// It has gone.
    Left(PeerId),
}

/// The way to one peer; its connection lives no longer.
#[derive(Debug)]
pub struct Peer {
    orders: mpsc::Sender<Bytes>,
    close: Arc<Notify>,
}

impl Peer {
    /// Sends one message of one part. `false`: too many wait, since the peer does not read.
    #[must_use]
    pub fn send(&self, message: Bytes) -> bool {
        self.orders.try_send(message).is_ok()
    }

    /// A peer without a connection, for tests of what speaks to one: what is sent to it comes out at the other end.
    pub fn detached(queue_max: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (orders, out) = mpsc::channel(queue_max);
        (Peer { orders, close: Arc::default() }, out)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close.notify_one();
    }
}

/// Serves until dropped. `refused` hears the cause of each peer that was to blame for its end.
///
/// # Errors
/// The runtime could not take the listener over.
pub async fn serve(
    bound: Bound,
    config: Config,
    events: mpsc::Sender<Event>,
    refused: impl Fn(&'static str) + Clone + Send + 'static,
) -> io::Result<()> {
    let listener = Listener::adopt(bound)?;
    let permits = Arc::new(Semaphore::new(config.peers_max));
    let mut peers = JoinSet::new();
    let mut last = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = peers.join_next(), if !peers.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a control connection failed");
                }
                continue;
            }
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            refused(CAUSE_PEERS_MAX);
            continue;
        };
        last += 1;
        let (id, events, refused) = (PeerId(last), events.clone(), refused.clone());
        peers.spawn(async move {
            let end = attend(id, stream, config, events).await;
            tracing::debug!(peer = id.0, "a control peer left: {end}");
            end.fault().into_iter().for_each(refused);
            drop(permit);
        });
    }
}

async fn attend(id: PeerId, stream: Stream, config: Config, events: mpsc::Sender<Event>) -> LinkEnd {
    match stream {
        Stream::Tcp(stream) => {
            if let Err(error) = tune(&stream) {
                return error.into();
            }
            let (reader, writer) = stream.into_split();
            talk(id, reader, writer, config, events).await
        }
        Stream::Ipc(stream) => {
            let (reader, writer) = stream.into_split();
            talk(id, reader, writer, config, events).await
        }
    }
}

async fn talk<R, W>(id: PeerId, reader: R, writer: W, config: Config, events: mpsc::Sender<Event>) -> LinkEnd
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let link = match link::handshake(reader, writer, config.link).await {
        Ok(link) => link,
        Err(end) => return end,
    };
    let (orders, waiting) = mpsc::channel(config.queue_max);
    let close = Arc::new(Notify::new());
    let peer = Peer { orders, close: close.clone() };
    if events.send(Event::Joined(id, peer)).await.is_err() {
        return LinkEnd::SinkGone;
    }
    let mut desk = Desk { id, taken: VecDeque::new(), events: events.clone(), waiting, next: None, gone: false };
    let end = tokio::select! {
        end = link.run(&mut desk) => end,
        () = close.notified() => LinkEnd::Closed,
    };
    // A peer that has hung up may have said its last words in the same read.
    while let Some(parts) = desk.taken.pop_front() {
        if events.send(Event::Message(id, parts)).await.is_err() {
            return end;
        }
    }
    // Nobody listens any more when this fails.
    let _ = events.send(Event::Left(id)).await;
    end
}

/// One peer's messages on their way in and out.
struct Desk {
    id: PeerId,
    /// Messages of the last read; the next read waits until they are taken.
    taken: VecDeque<Parts>,
    events: mpsc::Sender<Event>,
    waiting: mpsc::Receiver<Bytes>,
    next: Option<Bytes>,
    gone: bool,
}

impl Sink for Desk {
    fn read_begins(&mut self) {}

    fn message(&mut self, parts: Parts) -> ControlFlow<LinkEnd> {
        self.taken.push_back(parts);
        ControlFlow::Continue(())
    }

    fn has_room(&self) -> bool {
        self.taken.is_empty()
    }

    async fn make_progress(&mut self) {
        tokio::select! {
            room = self.events.reserve(), if !self.taken.is_empty() => match (room, self.taken.pop_front()) {
                (Ok(room), Some(parts)) => room.send(Event::Message(self.id, parts)),
                (Ok(_), None) => {}
                (Err(_), _) => self.gone = true,
            },
            Some(message) = self.waiting.recv() => self.next = Some(message),
            else => std::future::pending().await,
        }
    }

    fn outgoing(&mut self, out: &mut BytesMut) -> ControlFlow<LinkEnd> {
        if self.gone {
            return ControlFlow::Break(LinkEnd::SinkGone);
        }
        if let Some(message) = self.next.take() {
            parser::message(&[&message], out);
        }
        ControlFlow::Continue(())
    }
}
