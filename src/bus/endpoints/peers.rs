//! One endpoint's tasks: accepting, connecting again and again, and serving a peer from greeting to goodbye.
//!
//! In: a bound listener or an endpoint to connect to. Out: messages to the peer's source. Each peer is a task of its
//! acceptor and ends with it. Tests: `tests/zmtp_hostile.rs`, `tests/bus_peers.rs`.

use super::metrics::{CAUSE_PEERS_MAX, CAUSE_SOURCES_FULL, ConnectOutcome};
use super::source::Source;
use super::status::EndpointStatus;
use super::{At, failed};
use crate::policy::backoff::Backoff;
use crate::zmtp::connect;
use crate::zmtp::link::{self, LinkEnd};
use crate::zmtp::listener::{ACCEPT_PAUSE, Listener, Stream, tune};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// A peer that left may still have this long to hand over what waits in its overflow.
const LINGER: Duration = Duration::from_secs(5);

pub(super) async fn accept_loop(at: At, listener: Listener, permits: Arc<Semaphore>, mut stopped: watch::Receiver<()>) {
    let mut peers = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = peers.join_next(), if !peers.is_empty() => {
                if let Err(error) = ended {
                    failed(&error);
                }
                continue;
            }
            _ = stopped.changed() => return peers.shutdown().await,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                at.metrics().connect(ConnectOutcome::AcceptFailed);
                tracing::debug!(endpoint = %at.endpoint(), %error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            at.metrics().connect(ConnectOutcome::Full);
            at.refuse(CAUSE_PEERS_MAX, &"too many peers");
            continue;
        };
        let at = at.clone();
        peers.spawn(async move {
            let source = serve_accepted(&at, stream).await;
            drop(permit);
            if let Some(mut source) = source {
                let _ = timeout(LINGER, source.drained()).await;
            }
        });
    }
}

/// One accepted peer from greeting to goodbye; gives its source back, which may still hold an overflow.
async fn serve_accepted(at: &At, stream: Stream) -> Option<Source> {
    let mut source = None;
    let end = serve(at, stream, &mut source).await;
    at.ended(&end);
    source
}

pub(super) async fn connect_loop(at: At) {
    let config = at.shared.config;
    let mut backoff = Backoff::new(config.backoff_first, config.backoff_max);
    // Kept across reconnects: what is older stays ahead of what is newer.
    let mut source: Option<Source> = None;
    loop {
        match timeout(config.link.handshake, connect::open(at.endpoint(), config.receive_buffer_bytes))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        {
            Ok(stream) => {
                let started = Instant::now();
                let end = serve(&at, stream, &mut source).await;
                at.ended(&end);
                // A peer that greets well and then fails at once is retried ever more slowly, too.
                if started.elapsed() > config.backoff_max {
                    backoff.reset();
                }
            }
            Err(error) => {
                at.metrics().connect(ConnectOutcome::Unreachable);
                tracing::debug!(endpoint = %at.endpoint(), %error, "cannot connect");
            }
        }
        if source.as_ref().is_some_and(Source::is_gone) {
            return;
        }
        let pause = sleep(backoff.wait(rand::random::<f64>()));
        tokio::pin!(pause);
        match &mut source {
            None => pause.await,
            Some(source) => {
                tokio::select! {
                    () = &mut pause => {}
                    () = async { source.drained().await; std::future::pending().await } => {}
                }
            }
        }
    }
}

async fn serve(at: &At, stream: Stream, source: &mut Option<Source>) -> LinkEnd {
    match stream {
        Stream::Tcp(stream) => {
            if let Err(error) = tune(&stream) {
                return error.into();
            }
            let (reader, writer) = stream.into_split();
            serve_halves(at, reader, writer, source).await
        }
        Stream::Ipc(stream) => {
            let (reader, writer) = stream.into_split();
            serve_halves(at, reader, writer, source).await
        }
    }
}

async fn serve_halves<R, W>(at: &At, reader: R, writer: W, source: &mut Option<Source>) -> LinkEnd
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let config = at.shared.config;
    let link = match link::handshake(reader, writer, config.link).await {
        Ok(link) => link,
        Err(end) => {
            at.metrics().connect(ConnectOutcome::Handshake);
            return end;
        }
    };
    if source.is_none() {
        match introduce(at).await {
            Ok(new) => *source = Some(new),
            Err(end) => {
                at.metrics().connect(ConnectOutcome::Full);
                return end;
            }
        }
    }
    let source = source.as_mut().expect("made above");
    at.metrics().connect(ConnectOutcome::Ready);
    tracing::debug!(endpoint = %at.endpoint(), minor = link.minor(), "a bus peer is ready");
    let _present = Present::new(at);
    link.run(source).await
}

/// Makes a source and hands its other end to ingest, which has as long as a peer has for its handshake.
async fn introduce(at: &At) -> Result<Source, LinkEnd> {
    let config = at.shared.config;
    let (source, receiver) = Source::new(&at.shared.wiring, config.per_source_bytes, at.status.clone());
    match timeout(config.link.handshake, at.shared.wiring.sources.send(receiver)).await {
        Ok(Ok(())) => {
            at.shared.wiring.wake.notify_one();
            Ok(source)
        }
        Ok(Err(_)) => Err(LinkEnd::SinkGone),
        Err(_) => {
            at.refuse(CAUSE_SOURCES_FULL, &"ingest takes no new source");
            Err(LinkEnd::SinkGone)
        }
    }
}

/// A peer whose handshake is done, for as long as it lives.
struct Present {
    status: Arc<EndpointStatus>,
    peers: ::metrics::Gauge,
}

impl Present {
    fn new(at: &At) -> Self {
        at.status.peer_came();
        let peers = at.metrics().peers.clone();
        peers.increment(1.0);
        Present { status: at.status.clone(), peers }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.status.peer_left();
        self.peers.decrement(1.0);
    }
}
