//! Which way round the bus is: each endpoint bound or connected to for a moment, and what comes of it.
//!
//! A running server is asked instead, and only where it has no peer is its endpoint looked at as well.

use super::super::facts::{Bus, Port, PortState, Seen, Served, Server};
use super::{ANSWER, LISTEN};
use crate::config::Settings;
use crate::zmtp::link::{self, LinkEnd, Sink};
use crate::zmtp::listener::{self, Listener, Stream};
use crate::zmtp::parser::{Parts, Violation};
use crate::zmtp::{Direction, Endpoint, connect};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

/// `SO_RCVBUF` of what is bound for a moment, bytes.
const RECEIVE_BYTES: usize = 64 << 10;

/// All endpoints, in the order in which metrics count them.
pub(super) async fn look(settings: &Settings, server: Option<&Server>, ports: &[Port]) -> Vec<Bus> {
    let bus = &settings.bus;
    let bind = bus.bind.iter().map(|text| ("bus.bind", text, Direction::Bind));
    let connect = bus.connect.iter().map(|text| ("bus.connect", text, Direction::Connect));
    let owned = bus.sources.iter().map(|source| ("bus.source", &source.endpoint, Direction::Connect));
    let mut looks = JoinSet::new();
    for (at, (setting, text, direction)) in bind.chain(connect).chain(owned).enumerate() {
        let Ok(endpoint) = text.parse::<Endpoint>() else { continue };
        let served = server.map(|server| served(server, at));
        let state = ports.iter().find(|port| port.at == endpoint.to_string()).map(|port| port.state.clone());
        looks.spawn(async move {
            let seen = match direction {
                _ if served.is_some_and(|served| served.peers > 0) => None,
                Direction::Bind => match state {
                    Some(PortState::Free) => listen(&endpoint).await,
                    Some(PortState::Taken(_)) => Some(call(&endpoint).await),
                    _ => None,
                },
                Direction::Connect => Some(match call(&endpoint).await {
                    Seen::Nobody { .. } if endpoint.is_local() => match listen(&endpoint).await {
                        Some(Seen::Bound { publishers, .. }) => Seen::Nobody { connecting: publishers },
                        _ => Seen::Nobody { connecting: 0 },
                    },
                    seen => seen,
                }),
            };
            (at, Bus { setting, endpoint, direction, served, seen })
        });
    }
    let mut found: Vec<(usize, Bus)> = looks.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, bus)| bus).collect()
}

fn served(server: &Server, at: usize) -> Served {
    let label = format!("endpoint=\"{at}\"");
    let silence = server.sum("tickcast_bus_silence_seconds", &label);
    Served {
        peers: server.sum("tickcast_bus_peers", &label) as u64,
        silence: Duration::try_from_secs_f64(silence).unwrap_or_default(),
    }
}

/// Binds and waits for publishers; `None` when it cannot be bound after all.
async fn listen(endpoint: &Endpoint) -> Option<Seen> {
    let until = Instant::now() + LISTEN;
    let (bound, _) = listener::bind(endpoint, RECEIVE_BYTES).ok()?;
    let listener = Listener::adopt(bound).ok()?;
    let mut peers = JoinSet::new();
    while let Ok(accepted) = timeout_at(until, listener.accept()).await {
        match accepted {
            Ok(stream) => _ = peers.spawn(meet(stream, until)),
            Err(_) => tokio::time::sleep(listener::ACCEPT_PAUSE).await,
        }
    }
    let met: Vec<usize> = peers.join_all().await.into_iter().filter_map(|seen| seen.ok()).collect();
    Some(Seen::Bound { publishers: met.len(), messages: met.iter().sum() })
}

/// Connects and sees who is there.
async fn call(endpoint: &Endpoint) -> Seen {
    let until = Instant::now() + LISTEN;
    match timeout(ANSWER, connect::open(endpoint, 0)).await {
        Ok(Ok(stream)) => match meet(stream, until).await {
            Ok(messages) => Seen::Publisher { messages },
            Err(LinkEnd::Violation(Violation::SocketType)) => Seen::OtherSocket,
            Err(_) => Seen::Stranger,
        },
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
            Seen::Nobody { connecting: 0 }
        }
        Ok(Err(error)) => Seen::Unreachable(error.to_string()),
        Err(_) => Seen::Unreachable(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

/// Shakes hands as a subscriber and counts the messages of a publisher; why there is none.
async fn meet(stream: Stream, until: Instant) -> Result<usize, LinkEnd> {
    match stream {
        Stream::Tcp(stream) => {
            let (reader, writer) = stream.into_split();
            count(reader, writer, until).await
        }
        Stream::Ipc(stream) => {
            let (reader, writer) = stream.into_split();
            count(reader, writer, until).await
        }
    }
}

async fn count<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: R,
    writer: W,
    until: Instant,
) -> Result<usize, LinkEnd> {
    let link = link::handshake(reader, writer, link::Config { handshake: ANSWER, ..link::Config::sub() }).await?;
    let mut seen = Count(0);
    let _ended = timeout_at(until, link.run(&mut seen)).await;
    Ok(seen.0)
}

/// Counts messages and forgets them.
struct Count(usize);

impl Sink for Count {
    fn read_begins(&mut self) {}

    fn message(&mut self, _: Parts) -> ControlFlow<LinkEnd> {
        self.0 += 1;
        ControlFlow::Continue(())
    }

    async fn make_progress(&mut self) {
        std::future::pending().await
    }
}
