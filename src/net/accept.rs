//! The front door of one listener: takes connections, bounds them, upgrades them, hands them on.
//!
//! In: a bound listener, a stop signal. Out: [`Accepted`] sockets to a sink, each with its permit. `run` is for a
//! current_thread runtime of its own, so that hostile handshakes never stall ticks. Promises: at most
//! `handshakes_max` connections are not yet upgraded, each at most `handshake` long and `HEAD_BYTES_MAX` large; at
//! most `sessions` (`sessions_per_ip` from one address) hold a permit; an error of accept(2) is waited out and
//! counted. Whoever holds a permit frees its slots by dropping it, on any thread, without waiting.
//! Knows nothing of workers, authentication or ticks. Tests: `accept/tests.rs`.

use super::http::{self, Refusal};
use super::metrics::{Metrics, Refused};
use super::sys;
use crate::model::{Format, SharedLevel, limited};
use crate::policy::overload::takes_sessions;
use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};

/// A request head, bytes; browsers with many cookies stay below. hyper answers 431 beyond.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Header lines of one request, counted.
const HEADERS_MAX: usize = 100;
/// After an error of accept(2), which usually means that descriptors ran out, we wait this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(75);
/// Handshakes that are under way when a drain begins may take this long to be answered.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// What the front door needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sessions at once, counted.
    pub sessions: usize,
    /// Sessions of one address at once, counted. IPv6 addresses count by their /64.
    pub sessions_per_ip: usize,
    /// Connections that are not yet upgraded, counted; further ones wait in the kernel's backlog.
    pub handshakes_max: usize,
    /// From accept to the 101.
    pub handshake: Duration,
    /// Whether MessagePack is served; otherwise its subprotocol is passed over and the session speaks JSON.
    pub msgpack: bool,
    /// While it forbids new sessions, they are refused.
    pub overload: Arc<SharedLevel>,
}

/// A socket that speaks WebSocket from here on: the 101 has been written.
#[derive(Debug)]
pub struct Accepted {
    /// Non-blocking, registered with no runtime.
    pub tcp: std::net::TcpStream,
    /// What the client sent right behind its request: the first bytes to parse.
    pub early: Bytes,
    /// The far side.
    pub peer: SocketAddr,
    /// What the subprotocol chose.
    pub format: Format,
    /// To be kept as long as the session lives.
    pub permit: SessionPermit,
    /// When the connection was accepted; the deadline for authentication runs from here.
    pub accepted_at: Instant,
}

/// A non-blocking listener whose sockets inherit the send buffer (bytes; 0 = the kernel's own) and the low-water mark.
///
/// # Errors
/// What the kernel answered; `AddrInUse` and `PermissionDenied` are the usual ones.
pub fn bind(addr: SocketAddr, backlog: i32, send_buffer_bytes: usize) -> io::Result<std::net::TcpListener> {
    sys::listen(addr, backlog, send_buffer_bytes)
}

/// Serves `listener` until `stop` holds true or its sender is gone, then closes it, answers the handshakes under way
/// with 503 and returns. The sink is called on this thread and must not block.
///
/// # Errors
/// Only when the listener cannot be registered with the runtime.
pub async fn run<S>(
    listener: std::net::TcpListener,
    config: Config,
    metrics: Metrics,
    stop: watch::Receiver<bool>,
    sink: S,
) -> io::Result<()>
where
    S: Fn(Accepted) + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    serve(listener, config, metrics, stop, sink).await;
    Ok(())
}

/// Where connections come from: a listener, or in tests one that fails.
trait Accept {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)>;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

async fn serve<A, S>(mut listener: A, config: Config, metrics: Metrics, mut stop: watch::Receiver<bool>, sink: S)
where
    A: Accept,
    S: Fn(Accepted) + 'static,
{
    let slots = Arc::new(Semaphore::new(config.handshakes_max));
    let door = Rc::new(Door {
        permits: Permits::new(config.sessions, config.sessions_per_ip),
        config,
        metrics,
        draining: Cell::new(false),
        sink,
    });
    let local = LocalSet::new();
    let mut handshakes = JoinSet::new();
    let accepting = async {
        loop {
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                _ = stop.wait_for(|&stop| stop) => return,
                Some(_) = handshakes.join_next(), if !handshakes.is_empty() => continue,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    let door = Rc::clone(&door);
                    handshakes.spawn_local(async move {
                        door.metrics.handshakes_pending.increment(1.0);
                        door.handshake(tcp, peer).await;
                        door.metrics.handshakes_pending.decrement(1.0);
                        drop(slot);
                    });
                }
                Err(error) => {
                    door.metrics.accept_errors.increment(1);
                    limited!(warn, 1, %error, "cannot accept connections, trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    local.run_until(accepting).await;
    drop(listener);
    door.draining.set(true);
    let all = async { while handshakes.join_next().await.is_some() {} };
    if local.run_until(tokio::time::timeout(DRAIN_WAIT, all)).await.is_err() {
        handshakes.abort_all();
    }
}

/// What all handshakes of one listener share, on one thread.
struct Door<S> {
    config: Config,
    permits: Permits,
    metrics: Metrics,
    draining: Cell<bool>,
    sink: S,
}

/// What the service leaves for the connection's owner once it has answered 101.
struct Upgrading {
    socket: UpgradeFut,
    format: Format,
    permit: SessionPermit,
}

impl<S: Fn(Accepted)> Door<S> {
    /// One connection, from accept to the sink or to its end.
    async fn handshake(&self, tcp: TcpStream, peer: SocketAddr) {
        let accepted_at = tokio::time::Instant::now();
        match tokio::time::timeout_at(accepted_at + self.config.handshake, self.upgrade(tcp, peer)).await {
            Ok(Ok(Some((tcp, early, format, permit)))) => {
                let accepted_at = accepted_at.into_std();
                (self.sink)(Accepted { tcp, early, peer, format, permit, accepted_at });
            }
            Ok(Ok(None)) => {} // Refused, answered and counted.
            Ok(Err(error)) => {
                self.metrics.refuse(Refused::Malformed);
                tracing::debug!(%error, "a handshake failed");
            }
            Err(_) => self.metrics.refuse(Refused::TooSlow),
        }
    }

    async fn upgrade(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
    ) -> Result<Option<(std::net::TcpStream, Bytes, Format, SessionPermit)>, HandshakeError> {
        sys::tune_client(&tcp)?;
        let upgrading = RefCell::new(None);
        let service = service_fn(|request| {
            let response = self.answer(request, peer, &upgrading);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        http1::Builder::new()
            // One request per connection: it is either upgraded or refused. The deadline is `handshake`'s.
            .keep_alive(false)
            .header_read_timeout(None)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(tcp), service)
            .with_upgrades()
            .await?;
        let Some(Upgrading { socket, format, permit }) = upgrading.into_inner() else { return Ok(None) };
        // The WebSocket has read nothing yet, so taking it apart loses nothing.
        let upgraded = socket.await?.into_inner().into_inner();
        let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("it is the socket given to hyper above");
        Ok(Some((parts.io.into_inner().into_std()?, parts.read_buf, format, permit)))
    }

    fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        upgrading: &RefCell<Option<Upgrading>>,
    ) -> Response<Full<Bytes>> {
        let admitted = http::inspect(&request, self.config.msgpack).and_then(|offer| {
            if self.draining.get() {
                return Err(Refusal::Draining);
            }
            if !takes_sessions(self.config.overload.get()) {
                return Err(Refusal::Overloaded);
            }
            Ok((offer, self.permits.take(peer.ip())?))
        });
        let (offer, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.metrics.refuse(refusal.into());
                return refusal.response();
            }
        };
        let (response, socket) = upgrade(&mut request).expect("key and version were inspected");
        *upgrading.borrow_mut() = Some(Upgrading { socket, format: offer.format, permit });
        let mut response = response.map(|_| Full::default());
        if let Some(name) = offer.subprotocol {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        response
    }
}

/// Why a connection ended before it was upgraded or refused; always the peer's doing.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("upgrade: {0}")]
    Upgrade(#[from] fastwebsockets::WebSocketError),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(_) => Refused::Full,
            Refusal::AddressFull(_) => Refused::AddressFull,
            Refusal::Draining => Refused::Draining,
            Refusal::Overloaded => Refused::Overloaded,
            Refusal::Method
            | Refusal::HttpVersion
            | Refusal::NoUpgrade
            | Refusal::WebSocketVersion
            | Refusal::Key
            | Refusal::Body => Refused::NotWebSocket,
        }
    }
}

/// The right to be a session. Dropping it, on any thread, gives its slots back.
#[derive(Debug)]
pub struct SessionPermit {
    all: Arc<AtomicUsize>,
    address: Arc<AtomicUsize>,
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.address.fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts sessions, in all and by address. Only this thread adds, any thread subtracts, so plain atomics suffice.
struct Permits {
    sessions: usize,
    sessions_per_ip: usize,
    all: Arc<AtomicUsize>,
    by_address: RefCell<HashMap<IpAddr, Arc<AtomicUsize>>>,
    /// When the table has this many addresses, those without a session are taken out.
    sweep_at: Cell<usize>,
}

/// Addresses that are kept without a thought for whether they still have sessions.
const ADDRESSES_KEPT: usize = 64;

impl Permits {
    fn new(sessions: usize, sessions_per_ip: usize) -> Self {
        Permits {
            sessions,
            sessions_per_ip,
            all: Arc::default(),
            by_address: RefCell::default(),
            sweep_at: Cell::new(ADDRESSES_KEPT),
        }
    }

    fn take(&self, address: IpAddr) -> Result<SessionPermit, Refusal> {
        if self.all.load(Ordering::Relaxed) >= self.sessions {
            return Err(Refusal::Full(self.sessions));
        }
        let mut by_address = self.by_address.borrow_mut();
        if by_address.len() >= self.sweep_at.get() {
            by_address.retain(|_, sessions| sessions.load(Ordering::Relaxed) > 0);
            // Twice what is left, so that a sweep is paid for by the addresses that came since the last.
            self.sweep_at.set(ADDRESSES_KEPT.max(2 * by_address.len()));
        }
        let sessions = by_address.entry(network(address)).or_default();
        if sessions.load(Ordering::Relaxed) >= self.sessions_per_ip {
            return Err(Refusal::AddressFull(self.sessions_per_ip));
        }
        sessions.fetch_add(1, Ordering::Relaxed);
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(SessionPermit { all: Arc::clone(&self.all), address: Arc::clone(sessions) })
    }
}

/// What counts as one address: IPv4 whole, also when written as IPv6; IPv6 by its /64, the least a customer is given.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
