//! What others may know of an endpoint: its peers, its last message, and when that is worth a warning.
//!
//! Atomics written by the connections, read by anybody. The warning is a pure function. Tests: at the end.

use super::EndpointSpec;
use crate::zmtp::{Direction, Endpoint};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One endpoint's state, kept up to date while the bus runs.
#[derive(Debug)]
pub struct EndpointStatus {
    spec: EndpointSpec,
    started: Instant,
    peers: AtomicUsize,
    /// Milliseconds since `started`; the start itself counts as the first message and the last peer.
    last_message: AtomicU64,
    peerless_since: AtomicU64,
}

impl EndpointStatus {
    pub(super) fn new(spec: EndpointSpec) -> Self {
        EndpointStatus {
            spec,
            started: Instant::now(),
            peers: AtomicUsize::new(0),
            last_message: AtomicU64::new(0),
            peerless_since: AtomicU64::new(0),
        }
    }

    /// The endpoint with its real port.
    pub fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// Peers whose handshake is done.
    pub fn peers(&self) -> usize {
        self.peers.load(Ordering::Relaxed)
    }

    /// Time since the last message, or since the start if there was none.
    pub fn silence(&self) -> Duration {
        self.since(&self.last_message)
    }

    /// Time without any peer; zero while there is one.
    pub fn peerless(&self) -> Duration {
        if self.peers() > 0 { Duration::ZERO } else { self.since(&self.peerless_since) }
    }

    /// What [`quiet`] wants to know.
    pub fn seen(&self) -> Seen {
        Seen { peers: self.peers(), peerless: self.peerless(), silence: self.silence() }
    }

    pub(super) fn peer_came(&self) {
        self.peers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn peer_left(&self) {
        self.peerless_since.store(self.now(), Ordering::Relaxed);
        self.peers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn heard(&self) {
        self.last_message.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn since(&self, moment: &AtomicU64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(moment.load(Ordering::Relaxed)))
    }
}

/// One look at an [`EndpointStatus`].
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Connected peers.
    pub peers: usize,
    /// Time without any peer.
    pub peerless: Duration,
    /// Time without a message.
    pub silence: Duration,
}

/// Why no tick can come from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// Nobody is connected.
    NoPeer,
    /// Somebody is, and says nothing.
    NoMessage,
}

/// Whether an endpoint deserves a warning: there have been subscriptions for at least `after` (`None`: there are none),
/// and it has had no peer, or no message, for as long.
pub fn quiet(seen: Seen, subscribed: Option<Duration>, after: Duration) -> Option<Quiet> {
    if subscribed.is_none_or(|time| time < after) {
        return None;
    }
    match seen.peers {
        0 if seen.peerless >= after => Some(Quiet::NoPeer),
        0 => None,
        _ if seen.silence >= after => Some(Quiet::NoMessage),
        _ => None,
    }
}

/// The warning's text: which endpoint, what is missing, and which side binds.
#[derive(Clone, Copy, Debug)]
pub struct QuietWarning<'a> {
    /// Where.
    pub endpoint: &'a Endpoint,
    /// Who listens.
    pub direction: Direction,
    /// What is missing.
    pub quiet: Quiet,
    /// For how long at least.
    pub after: Duration,
}

impl fmt::Display for QuietWarning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, seconds) = (self.endpoint, self.after.as_secs());
        match self.quiet {
            Quiet::NoPeer => write!(f, "no publisher on {endpoint} for {seconds} s while clients are subscribed: ")?,
            Quiet::NoMessage => {
                write!(f, "a publisher on {endpoint} has sent nothing for {seconds} s while clients are subscribed: ")?;
            }
        }
        f.write_str(match self.direction {
            Direction::Bind => "this server binds it, so publishers must connect to it",
            Direction::Connect => "this server connects to it, so the publisher must bind it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ScopeId;

    const TEN: Duration = Duration::from_secs(10);

    fn check(peers: usize, peerless: u64, silence: u64, subscribed: Option<u64>, expected: Option<Quiet>) {
        let seen = Seen { peers, peerless: Duration::from_secs(peerless), silence: Duration::from_secs(silence) };
        assert_eq!(quiet(seen, subscribed.map(Duration::from_secs), TEN), expected, "{seen:?} {subscribed:?}");
    }

    #[test]
    fn only_a_quiet_endpoint_with_subscribers_deserves_a_warning() {
        check(0, 60, 60, None, None);
        check(0, 60, 60, Some(9), None);
        check(0, 9, 60, Some(60), None);
        check(0, 10, 60, Some(10), Some(Quiet::NoPeer));
        check(2, 0, 9, Some(60), None);
        check(2, 0, 10, Some(60), Some(Quiet::NoMessage));
    }

    #[test]
    fn the_warning_says_which_side_binds() {
        let endpoint: Endpoint = "tcp://127.0.0.1:5555".parse().expect("endpoint");
        let warn = |direction, quiet| QuietWarning { endpoint: &endpoint, direction, quiet, after: TEN }.to_string();
        let bind = warn(Direction::Bind, Quiet::NoPeer);
        assert!(bind.contains("tcp://127.0.0.1:5555 for 10 s") && bind.contains("server binds"), "{bind}");
        let connect = warn(Direction::Connect, Quiet::NoMessage);
        assert!(connect.contains("sent nothing") && connect.contains("publisher must bind"), "{connect}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_the_lack_of_peers_are_measured_from_the_last_of_them() {
        let endpoint = "ipc:///x".parse().expect("endpoint");
        let status = EndpointStatus::new(EndpointSpec {
            endpoint,
            direction: Direction::Bind,
            scope: ScopeId::SHARED,
            highest_only: false,
        });
        tokio::time::advance(TEN).await;
        assert_eq!((status.silence(), status.peerless(), status.peers()), (TEN, TEN, 0));
        status.peer_came();
        status.heard();
        tokio::time::advance(TEN).await;
        assert_eq!((status.silence(), status.peerless(), status.peers()), (TEN, Duration::ZERO, 1));
        status.peer_left();
        assert_eq!(status.peerless(), Duration::ZERO);
        tokio::time::advance(TEN).await;
        assert_eq!((status.silence(), status.peerless()), (2 * TEN, TEN));
    }
}
