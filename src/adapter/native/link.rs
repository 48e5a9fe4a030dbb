//! The life of one connection to a broker, without the connection: a pure machine.
//!
//! In: what happened ([`Input`]) and the time. Out: what to do ([`Action`]s), and when to look again. Promises: credentials are
//! read before every connect, never kept from the last one; waits are those of `policy::backoff::Reconnects`; refused credentials
//! are not tried again unchanged (unless the broker wants that), and after so many refusals only looked at; silence beyond the
//! broker's limit is death, and so is, at a broker that answers pings, a ping without an answer: a path that was cut need not
//! tell anybody. Tests: `link/tests.rs`.

#[cfg(test)]
mod tests;

use super::broker::Limits;
use super::credentials::Fingerprint;
use crate::policy::backoff::{LOOK, LOOK_SELDOM, Reconnects};
use std::time::{Duration, Instant};

/// Opening, upgrade included, may take this long.
const OPEN: Duration = Duration::from_secs(10);
/// A connection lost before it stood this long counts as one more failure: the broker may be refusing us.
const STEADY: Duration = Duration::from_secs(5);
/// A broker that has said nothing for this long is sent a ping. Its own libraries ping every 2.5 s (Kite) or 3 s (Noren).
const PROBE: Duration = Duration::from_millis(2500);
/// One that answers pings has this long to do so.
const ANSWER: Duration = Duration::from_millis(2500);
/// Woken later than this we were stalled ourselves, and what came meanwhile is still to be read.
const LATE: Duration = Duration::from_millis(500);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The connection is wanted.
    Start,
    /// The credentials, as they are now.
    Credentials(Fingerprint),
    /// There are none.
    NoCredentials(String),
    /// The socket is open and upgraded; the first message is on its way.
    Opened,
    /// The first message was accepted.
    LoggedIn,
    /// Any message came.
    Heard,
    /// A pong came: somebody is there, which does not say that the feed lives.
    Pong,
    /// The credentials were refused, at the upgrade or by message.
    Refused(String),
    /// The socket could not be opened, or is gone.
    Lost(String),
    /// Time has passed.
    Timer,
    /// The credentials may have changed.
    Changed,
    /// The connection is no longer wanted.
    Stop,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the credentials; answer with [`Input::Credentials`] or [`Input::NoCredentials`].
    Read,
    /// Open a socket with the credentials just read; answer with [`Input::Opened`], [`Input::Refused`] or [`Input::Lost`].
    Connect,
    /// Send the heartbeat.
    Beat,
    /// Send a ping.
    Probe,
    /// Drop the socket.
    Close,
    /// It is ready and carries nothing.
    Up,
    /// It is not ready any more, or could not be made ready; it will be tried again.
    Down(String),
    /// The credentials are refused: nothing is tried until they change.
    Barred(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Waiting { until: Instant },
    Reading,
    Opening { print: Fingerprint, until: Instant },
    LoggingIn { print: Fingerprint, until: Instant },
    Live { print: Fingerprint, heard: Instant, beat: Option<Instant>, probe: Probe },
    Barred { look: Instant },
    Looking,
}

/// Whether somebody is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Probe {
    /// When the next ping is due, or the answer to the last one.
    at: Instant,
    asked: bool,
    /// Whether it ever answered one: not every server does.
    answers: bool,
}

impl Probe {
    fn heard(&mut self, now: Instant) {
        (self.at, self.asked) = (now + PROBE, false);
    }
}

/// See the module header.
#[derive(Debug)]
pub struct Link {
    limits: Limits,
    state: State,
    reconnects: Reconnects,
    /// The credentials that were refused last, and how often in a row any were.
    refused: Option<(Fingerprint, u32)>,
}

impl Link {
    /// Not wanted yet. `refused`: credentials of this account that are known to be refused.
    pub fn new(limits: Limits, refused: Option<Fingerprint>) -> Self {
        Link {
            limits,
            state: State::Idle,
            reconnects: Reconnects::new(STEADY),
            refused: refused.map(|print| (print, 1)),
        }
    }

    /// Whether it carries ticks.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    /// Whether it is not wanted.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether it waits for new credentials.
    pub fn is_barred(&self) -> bool {
        matches!(self.state, State::Barred { .. } | State::Looking)
    }

    /// The credentials that were refused and have not been accepted since.
    pub fn refused(&self) -> Option<Fingerprint> {
        self.refused.map(|(print, _)| print)
    }

    /// When [`Input::Timer`] is due.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Idle | State::Reading | State::Looking => None,
            State::Waiting { until } | State::Opening { until, .. } | State::LoggingIn { until, .. } => Some(until),
            State::Live { heard, beat, ref probe, .. } => {
                let due = probe.at.min(heard + self.limits.silence);
                Some(beat.map_or(due, |beat| beat.min(due)))
            }
            State::Barred { look } => Some(look),
        }
    }

    /// Takes one input. `chance` lies in 0..1 and moves waits.
    pub fn on(&mut self, input: Input, now: Instant, chance: f64) -> Vec<Action> {
        match (input, &mut self.state) {
            (Input::Stop, State::Idle) => vec![],
            (Input::Stop, _) => {
                self.state = State::Idle;
                self.reconnects.rest();
                vec![Action::Close]
            }
            (Input::Start, State::Idle) => self.read(),
            (Input::Credentials(print), State::Reading | State::Looking) => self.credentials(print, now),
            (Input::NoCredentials(reason), State::Reading) => self.wait(reason, now, chance),
            (Input::NoCredentials(_), State::Looking) => self.bar(now),
            (Input::Opened, State::Opening { print, .. }) => {
                let print = *print;
                match self.limits.login {
                    Some(wait) => {
                        self.state = State::LoggingIn { print, until: now + wait };
                        vec![]
                    }
                    None => self.live(print, now),
                }
            }
            (Input::LoggedIn, State::LoggingIn { print, .. }) => {
                let print = *print;
                self.live(print, now)
            }
            (Input::Pong, State::Live { probe, .. }) => {
                probe.heard(now);
                probe.answers = true;
                vec![]
            }
            (Input::Heard, State::Live { heard, probe, .. }) => {
                *heard = now;
                probe.heard(now);
                vec![]
            }
            (Input::Refused(reason), State::Opening { print, .. } | State::LoggingIn { print, .. })
            | (Input::Refused(reason), State::Live { print, .. }) => {
                let print = *print;
                self.refuse(print, reason, now, chance)
            }
            (Input::Lost(reason), State::Opening { .. } | State::LoggingIn { .. } | State::Live { .. }) => {
                self.lost(reason, now, chance)
            }
            (Input::Timer, _) => self.timer(now, chance),
            (Input::Changed, State::Barred { .. }) => {
                self.state = State::Looking;
                vec![Action::Read]
            }
            // New credentials do not wait for the end of a back-off.
            (Input::Changed, State::Waiting { .. }) => self.read(),
            // Late words of a socket that was given up, and wishes that are fulfilled.
            _ => vec![],
        }
    }

    fn timer(&mut self, now: Instant, chance: f64) -> Vec<Action> {
        let is_late = self.wake_at().is_some_and(|due| due + LATE < now);
        match &mut self.state {
            State::Live { heard, probe, .. } if is_late => {
                let patience = self.limits.silence.saturating_sub(ANSWER);
                *heard = (*heard).max(now.checked_sub(patience).unwrap_or(now));
                (probe.at, probe.asked) = (now + ANSWER, true);
                vec![Action::Probe]
            }
            State::Waiting { until } if *until <= now => self.read(),
            State::Opening { until, .. } if *until <= now => self.lost("no answer to the connect".into(), now, chance),
            State::LoggingIn { until, .. } if *until <= now => self.lost("no answer to the login".into(), now, chance),
            State::Live { heard, .. } if *heard + self.limits.silence <= now => {
                let reason = format!("nothing heard for {} s", self.limits.silence.as_secs());
                self.lost(reason, now, chance)
            }
            State::Live { beat: Some(beat), .. } if *beat <= now => {
                *beat = now + self.limits.heartbeat.unwrap_or(self.limits.silence);
                vec![Action::Beat]
            }
            State::Live { probe, .. } if probe.at <= now => {
                if probe.asked && probe.answers {
                    return self.lost("no answer to a ping".into(), now, chance);
                }
                probe.asked = !probe.asked;
                probe.at = now + if probe.asked { ANSWER } else { PROBE };
                if probe.asked { vec![Action::Probe] } else { vec![] }
            }
            State::Barred { look } if *look <= now => {
                self.state = State::Looking;
                vec![Action::Read]
            }
            _ => vec![],
        }
    }

    fn read(&mut self) -> Vec<Action> {
        self.state = State::Reading;
        vec![Action::Read]
    }

    fn credentials(&mut self, print: Fingerprint, now: Instant) -> Vec<Action> {
        if let Some((refused, times)) = self.refused
            && refused == print
            && (!self.limits.same_again || times >= self.limits.refusals)
        {
            return self.bar(now);
        }
        self.state = State::Opening { print, until: now + OPEN };
        vec![Action::Connect]
    }

    fn live(&mut self, print: Fingerprint, now: Instant) -> Vec<Action> {
        let beat = self.limits.heartbeat.map(|period| now + period);
        // Asked at once, to know whether it answers at all.
        let probe = Probe { at: now + ANSWER, asked: true, answers: false };
        self.state = State::Live { print, heard: now, beat, probe };
        self.refused = None;
        self.reconnects.up(now);
        vec![Action::Up, Action::Probe]
    }

    fn lost(&mut self, reason: String, now: Instant, chance: f64) -> Vec<Action> {
        let mut actions = vec![Action::Close];
        actions.extend(self.wait(reason, now, chance));
        actions
    }

    fn wait(&mut self, reason: String, now: Instant, chance: f64) -> Vec<Action> {
        self.state = State::Waiting { until: now + self.reconnects.failed(now, chance) };
        vec![Action::Down(reason)]
    }

    fn refuse(&mut self, print: Fingerprint, reason: String, now: Instant, chance: f64) -> Vec<Action> {
        let times = self.refused.map_or(0, |(_, times)| times) + 1;
        self.refused = Some((print, times));
        if times < self.limits.refusals {
            // The credentials are read again after the wait: new ones are tried, the same ones bar it.
            return self.lost(reason, now, chance);
        }
        let mut actions = vec![Action::Close, Action::Down(reason)];
        actions.extend(self.bar(now));
        actions
    }

    fn bar(&mut self, now: Instant) -> Vec<Action> {
        let first = self.state != State::Looking;
        let times = self.refused.map_or(0, |(_, times)| times);
        let period = if times >= self.limits.refusals { LOOK_SELDOM } else { LOOK };
        self.state = State::Barred { look: now + period };
        if first {
            let reason = "the broker refuses these credentials; put in new ones, they are taken up by themselves";
            return vec![Action::Barred(reason.to_owned())];
        }
        vec![]
    }
}
