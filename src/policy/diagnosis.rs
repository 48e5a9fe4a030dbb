//! Diagnosis: why a session is behind: the network, a client that does not read, or us.
//!
//! In: [`Facts`], what we know of the session's outbox and what the kernel knows of its connection ([`Tcp`]). Out: a [`Finding`].
//! The law, first that fits: a closed receive window is the client's doing, whatever else is true; timeouts without an answer, or segments
//! lost while the session is behind, are the network's; a session that is not behind is ok unless its worker is late; of one that is
//! behind, the kernel tells where the bytes wait: before the kernel (us), at the client's window (client), on the way (network).
//! A total of retransmits decides nothing: a client that does not read makes some too. Tests: `diagnosis/tests.rs`, `tests/xray.rs`.

#[cfg(test)]
mod tests;

use serde::Serialize;
use std::time::Duration;

/// A session that has been behind for less is not a case: every burst leaves something over for a moment.
pub const BEHIND_AFTER: Duration = Duration::from_millis(250);
/// A worker that comes round so late delays all of its sessions.
pub const LATE_AFTER: Duration = Duration::from_millis(100);
/// So many timeouts in a row are trouble even though nothing has piled up yet.
const TIMEOUTS: u8 = 2;

/// What the kernel says of a connection; `None` where it is too old to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_var: Duration,
    /// Segments sent again since the connection began.
    pub retransmits: u32,
    /// Retransmission timeouts in a row without an answer.
    pub timeouts: u8,
    /// Segments believed lost.
    pub lost: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Since the last acknowledgement.
    pub silence: Duration,
    /// One segment, bytes.
    pub segment: u32,
    /// What was delivered lately, bytes a second.
    pub delivery_rate: Option<u64>,
    /// Bytes in the kernel that have not been sent once.
    pub notsent: Option<u32>,
    /// Bytes in the kernel, sent or not, that are not acknowledged.
    pub send_queue: Option<u32>,
    /// What the client is ready to receive, bytes.
    pub window: Option<u32>,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// For how long something of it has been left over; zero when nothing is.
    pub lag: Duration,
    /// How late its worker last came round.
    pub worker_late: Duration,
    /// The kernel's view; `None` when it gives none.
    pub tcp: Option<Tcp>,
}

/// Where the trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There is none.
    Ok,
    /// Between us and the client.
    Network,
    /// The client does not read, or not fast enough.
    Client,
    /// In this server.
    Us,
}

/// A verdict and the fact behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `None`: it is behind, and nobody can say why.
    pub verdict: Option<Verdict>,
    /// One sentence for people.
    pub why: String,
}

/// Judges one session by one look; see the module header.
pub fn judge(facts: &Facts) -> Finding {
    let behind = facts.lag >= BEHIND_AFTER;
    let found = |verdict, why| Finding { verdict: Some(verdict), why };
    let tcp = facts.tcp.unwrap_or_default();
    if window_is_closed(&tcp) {
        let silence = if behind { format!(" for {}", seconds(facts.lag)) } else { String::new() };
        return found(Verdict::Client, format!("its receive window is closed: it has not been reading{silence}"));
    }
    if tcp.timeouts >= TIMEOUTS || (behind && tcp.unacked > 0 && (tcp.timeouts > 0 || tcp.lost > 0)) {
        return found(
            Verdict::Network,
            format!(
                "{} segments unacknowledged, {} lost, {} timeouts in a row; the last acknowledgement came {} ago",
                tcp.unacked,
                tcp.lost,
                tcp.timeouts,
                seconds(tcp.silence)
            ),
        );
    }
    if !behind {
        return match facts.worker_late >= LATE_AFTER {
            true => found(Verdict::Us, late(facts.worker_late)),
            false => found(Verdict::Ok, "it takes what it is sent".into()),
        };
    }
    let lag = seconds(facts.lag);
    if facts.tcp.is_none() {
        return Finding { verdict: None, why: format!("behind for {lag}, and the kernel tells nothing about it") };
    }
    if tcp.send_queue == Some(0) {
        let why = format!("behind for {lag} although the kernel would take more: its worker does not get round to it");
        return found(Verdict::Us, why);
    }
    if fills_its_window(&tcp) {
        let window = tcp.window.unwrap_or_default();
        return found(
            Verdict::Client,
            format!("it reads more slowly than it is sent: its window is down to {window} bytes"),
        );
    }
    if facts.worker_late >= LATE_AFTER {
        return found(Verdict::Us, late(facts.worker_late));
    }
    let rate = tcp.delivery_rate.map_or(String::new(), |rate| format!(", {rate} bytes a second arrive"));
    let why =
        format!("{} segments are on their way, rtt {}{rate}: the path takes no more", tcp.unacked, seconds(tcp.rtt));
    found(Verdict::Network, why)
}

/// Bytes wait in the kernel, and the client takes none. A kernel that does not tell the window shows it by having nothing under way.
fn window_is_closed(tcp: &Tcp) -> bool {
    let waits = tcp.notsent.is_some_and(|bytes| bytes > 0) || tcp.unacked > 0;
    match tcp.window {
        Some(window) => window == 0 && waits,
        None => tcp.unacked == 0 && tcp.notsent.is_some_and(|bytes| bytes > 0),
    }
}

/// Bytes wait because another segment would not fit what the client is ready to receive.
fn fills_its_window(tcp: &Tcp) -> bool {
    let (Some(window), Some(queue), Some(notsent)) = (tcp.window, tcp.send_queue, tcp.notsent) else { return false };
    let under_way = queue.saturating_sub(notsent);
    notsent > 0 && u64::from(under_way) + u64::from(tcp.segment.min(notsent)) > u64::from(window)
}

fn late(by: Duration) -> String {
    format!("its worker came round {} late: all of its sessions wait", seconds(by))
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 0.1 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}
