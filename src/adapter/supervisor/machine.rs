//! Where one user's adapter stands, and what is done about it: a pure machine.
//!
//! In: what the adapter says ([`Input`]), what is desired, the time. Out: what to do ([`Action`]s), when to look again, and how it
//! stands ([`Stands`]). Promises: one adapter at a time, and the next only when the last is gone; what fails is tried again by
//! `policy::backoff::Reconnects`; refused credentials are read anew, once at once and then ever less often (protocol 4.3), and no
//! adapter logs in twice, so none with a token that it held; a word of refusal never rebuilds more than once a minute; without
//! a session it lingers, and then goes or is kept and cleared. Knows no task, queue or key. Tests: `machine/tests.rs`.

#[cfg(test)]
mod tests;

use super::{CLOSE_WAIT, Config, Desired};
use crate::policy::backoff::{Backoff, LOOK, LOOK_SELDOM, Reconnects};
use crate::shards::key::FaultCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A start that takes longer than a client waits for `authenticate` is relied upon: the client was told success.
const ATTACH_WINDOW: Duration = Duration::from_secs(3);
/// An adapter lost after it stood this long is replaced at once; and so often at most is one rebuilt for a word of refusal.
const STEADY: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Time has passed, or something else is desired.
    Look,
    /// There is no such adapter.
    NotMade,
    /// It is logged in and holds nothing.
    Connected,
    /// It could not log in, and has ended.
    ConnectFailed { code: FaultCode, reason: String, refused: bool },
    /// Its connection to the broker is lost; with `refused`, for the credentials.
    Down { refused: bool },
    /// The credentials are refused, and it waits for new ones by itself.
    Refused,
    /// Its connection is back, and holds nothing.
    Restored,
    /// A part of its connections is up, or all.
    Whole(bool),
    /// A call was answered with a word of refused credentials.
    CallRefused,
    /// A kept adapter has let go of everything, or not.
    Cleared(bool),
    /// It has ended.
    Ended { reason: String, refused: bool },
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Make the adapter of this broker and tell it to connect; [`Input::NotMade`] when there is none.
    Make(Arc<str>),
    /// Tell it to log out.
    Disconnect,
    /// It is over, or shall be.
    Drop,
    /// Tell it to let go of everything.
    Clear,
    /// Clearing has failed, or was not answered in time; it is tried again.
    Uncleared,
    /// A new life in which the broker holds nothing. `fresh`: no older call can reach it any more.
    Begin { fresh: bool },
    /// It cannot be had: whoever waits is told this.
    Fail { code: FaultCode, reason: String },
    /// Nobody needs it any more: forget the user, unless somebody has come.
    Retire,
}

/// How an adapter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    Absent,
    Connecting,
    Live,
    Degraded,
    /// `takes_calls`: the adapter is there and waits for credentials; else one is being made with new ones.
    Reauthenticating {
        takes_calls: bool,
    },
    Down,
    Lingering,
    Kept,
    Closing,
    /// There is none; `refused`: for want of credentials, which are looked at again.
    Failed {
        refused: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// There is none. The next is made at `until`, or when somebody asks.
    Absent {
        until: Option<Instant>,
    },
    /// As `Absent`, and whoever asks for a subscription is told why.
    Failed {
        until: Option<Instant>,
        refused: bool,
    },
    Connecting {
        since: Instant,
    },
    /// `clear_at`: when to try again to clear a kept one.
    Live {
        kept: bool,
        clear_at: Option<Instant>,
    },
    Clearing {
        since: Instant,
    },
    Closing {
        since: Instant,
    },
}

/// What the adapter said last of its connection to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Up,
    Partly,
    Down,
    Refused,
}

/// See the module header.
#[derive(Debug)]
pub(super) struct Machine {
    config: Arc<Config>,
    phase: Phase,
    /// Of the adapter that is there.
    broker: Option<Arc<str>>,
    line: Line,
    /// Ticket and rebuild count that the last start took into account.
    tried: u64,
    rebuilt: u64,
    /// When the adapter goes if nobody comes; set while there is no session.
    linger_until: Option<Instant>,
    reconnects: Reconnects,
    refusals: Backoff,
    clearings: Backoff,
    /// Some client was told that it has this adapter.
    relied_on: bool,
    /// The one try that a failed start has at once is used up.
    again: bool,
    /// It is being made anew since its credentials were refused.
    reauthenticating: bool,
    /// When a word of refusal last rebuilt it.
    reauthenticated: Option<Instant>,
}

impl Machine {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Machine {
            config,
            phase: Phase::Absent { until: None },
            broker: None,
            line: Line::Up,
            tried: 0,
            rebuilt: 0,
            linger_until: None,
            reconnects: Reconnects::new(STEADY),
            refusals: Backoff::new(LOOK, LOOK_SELDOM),
            clearings: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            relied_on: false,
            again: false,
            reauthenticating: false,
            reauthenticated: None,
        }
    }

    /// Whether calls go out; while they do not, they wait.
    pub(super) fn takes_calls(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    /// Whether a word of refusal is a reason to rebuild now: not when it was one a moment ago.
    pub(super) fn may_reauthenticate(&self, now: Instant) -> bool {
        self.takes_calls() && self.reauthenticated.is_none_or(|at| now - at >= STEADY)
    }

    /// How it stands. `unsettled`: something that is wanted is not carried, and is tried again.
    pub(super) fn stands(&self, unsettled: bool) -> Stands {
        match self.phase {
            Phase::Absent { until: None } => Stands::Absent,
            Phase::Absent { .. } if self.reauthenticating => Stands::Reauthenticating { takes_calls: false },
            Phase::Absent { .. } => Stands::Down,
            Phase::Failed { until, refused } => Stands::Failed { refused: refused && until.is_some() },
            Phase::Connecting { .. } | Phase::Closing { .. } if self.reauthenticating => {
                Stands::Reauthenticating { takes_calls: false }
            }
            Phase::Connecting { .. } => Stands::Connecting,
            Phase::Live { kept: true, .. } => Stands::Kept,
            Phase::Live { .. } | Phase::Clearing { .. } if self.linger_until.is_some() => Stands::Lingering,
            Phase::Clearing { .. } => Stands::Connecting,
            Phase::Live { .. } => match self.line {
                Line::Down => Stands::Down,
                Line::Refused => Stands::Reauthenticating { takes_calls: true },
                Line::Partly => Stands::Degraded,
                Line::Up if unsettled => Stands::Degraded,
                Line::Up => Stands::Live,
            },
            Phase::Closing { .. } => Stands::Closing,
        }
    }

    /// When [`Input::Look`] is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let due = match self.phase {
            Phase::Absent { until } | Phase::Failed { until, .. } => until,
            Phase::Connecting { since } => Some(since + self.config.connect_timeout),
            Phase::Live { clear_at, .. } => clear_at,
            Phase::Clearing { since } => Some(since + self.config.call_timeout),
            Phase::Closing { since } => Some(since + CLOSE_WAIT),
        };
        // A kept or closing adapter lingers no more.
        let lingers = matches!(self.phase, Phase::Connecting { .. } | Phase::Live { kept: false, .. });
        [due, self.linger_until.filter(|_| lingers)].into_iter().flatten().min()
    }

    /// Takes one input. `chance` lies in 0..1 and moves waits.
    pub(super) fn on(&mut self, input: Input, wish: &Desired, now: Instant, chance: f64) -> Vec<Action> {
        let mut out = Vec::new();
        match (input, &self.phase) {
            (Input::Connected, Phase::Connecting { .. }) => self.connected(now, &mut out),
            (Input::NotMade, Phase::Connecting { .. }) => self.phase = Phase::Failed { until: None, refused: false },
            (Input::ConnectFailed { code, reason, refused }, Phase::Connecting { since }) => {
                let failed = Failed { since: *since, code, reason, refused };
                self.start_failed(failed, now, chance, &mut out);
            }
            (Input::Ended { reason, refused }, Phase::Connecting { since }) => {
                let failed = Failed { since: *since, code: FaultCode::BrokerConnection, reason, refused };
                self.start_failed(failed, now, chance, &mut out);
            }
            (Input::Ended { .. }, Phase::Closing { .. }) => self.gone(now, &mut out),
            (Input::Ended { refused, .. }, Phase::Live { .. } | Phase::Clearing { .. }) => {
                self.reauthenticating = refused;
                out.push(Action::Drop);
                // One that dies right after each login must not log in all the time.
                let wait = self.reconnects.lost(now.into_std(), chance);
                self.phase = Phase::Absent { until: Some(now + wait) };
            }
            (Input::Down { refused }, Phase::Live { .. } | Phase::Clearing { .. }) => {
                self.line = if refused { Line::Refused } else { Line::Down };
                if refused && self.may_reauthenticate(now) {
                    self.reauthenticate(now, &mut out);
                }
            }
            (Input::Refused, Phase::Live { .. } | Phase::Clearing { .. }) => self.line = Line::Refused,
            (Input::Restored, Phase::Live { .. }) => {
                self.line = Line::Up;
                out.push(Action::Begin { fresh: false });
            }
            // What it held is being cleared anyway.
            (Input::Restored, Phase::Clearing { .. }) => self.line = Line::Up,
            (Input::Whole(whole), Phase::Live { .. } | Phase::Clearing { .. }) => match (self.line, whole) {
                (Line::Up, false) => self.line = Line::Partly,
                (Line::Partly, true) => self.line = Line::Up,
                _ => {}
            },
            (Input::CallRefused, Phase::Live { .. }) if self.may_reauthenticate(now) => {
                self.reauthenticate(now, &mut out);
            }
            (Input::Cleared(done), Phase::Clearing { .. }) => self.cleared(done, now, chance, &mut out),
            // Time, and late words of a life that is over.
            _ => {}
        }
        self.look(wish, now, chance, &mut out);
        out
    }

    /// Does everything that is due, until nothing more is.
    fn look(&mut self, wish: &Desired, now: Instant, chance: f64, out: &mut Vec<Action>) {
        if wish.sessions > 0 {
            self.linger_until = None;
        } else {
            self.linger_until.get_or_insert(now + self.config.linger);
        }
        let other_broker = wish.broker.is_some() && wish.broker != self.broker;
        let replace = other_broker || wish.rebuild > self.rebuilt;
        let unused = self.linger_until.is_some_and(|at| at <= now);
        match self.phase {
            Phase::Closing { since } if since + CLOSE_WAIT <= now => self.gone(now, out),
            Phase::Connecting { since } if since + self.config.connect_timeout <= now => {
                let reason = "The broker connection timed out".to_owned();
                let failed = Failed { since, code: FaultCode::BrokerConnection, reason, refused: false };
                self.start_failed(failed, now, chance, out);
            }
            Phase::Connecting { .. } | Phase::Live { .. } | Phase::Clearing { .. } if replace => self.close(now, out),
            Phase::Connecting { .. } if unused => self.close(now, out),
            Phase::Live { ref mut kept, ref mut clear_at } => {
                let keep = self.broker.as_ref().is_some_and(|broker| self.config.keep_alive.contains(&**broker));
                if wish.sessions > 0 {
                    (*kept, *clear_at) = (false, None);
                } else if unused && !keep {
                    self.close(now, out);
                } else if unused && (!*kept || clear_at.is_some_and(|at| at <= now)) {
                    self.phase = Phase::Clearing { since: now };
                    out.push(Action::Clear);
                }
            }
            Phase::Clearing { since } if since + self.config.call_timeout <= now => {
                self.cleared(false, now, chance, out);
            }
            _ => {}
        }
        if let Phase::Absent { until } | Phase::Failed { until, .. } = self.phase {
            self.look_for_a_start(until, wish, now, out);
        }
    }

    fn look_for_a_start(&mut self, until: Option<Instant>, wish: &Desired, now: Instant, out: &mut Vec<Action>) {
        if wish.sessions == 0 {
            // Nobody is there: keys that still wait for a broker that is gone are forgotten, and so is the user.
            out.extend([Action::Begin { fresh: true }, Action::Retire]);
            return;
        }
        let asked = wish.ticket > self.tried || wish.rebuild > self.rebuilt;
        if !asked && until.is_none_or(|at| at > now) {
            return;
        }
        self.again &= !asked;
        if wish.rebuild > self.rebuilt {
            // What failed, failed with other credentials.
            self.reconnects = Reconnects::new(STEADY);
            self.refusals.reset();
        }
        (self.tried, self.rebuilt) = (wish.ticket, wish.rebuild);
        self.broker.clone_from(&wish.broker);
        match &wish.broker {
            Some(broker) => {
                self.phase = Phase::Connecting { since: now };
                out.push(Action::Make(broker.clone()));
            }
            None => {
                self.phase = Phase::Failed { until: None, refused: false };
                out.push(Action::Fail { code: FaultCode::Broker, reason: "No broker is configured".to_owned() });
            }
        }
    }

    fn connected(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.phase = Phase::Live { kept: false, clear_at: None };
        self.line = Line::Up;
        self.reconnects.up(now.into_std());
        self.refusals.reset();
        (self.relied_on, self.again, self.reauthenticating) = (true, false, false);
        out.push(Action::Begin { fresh: true });
    }

    /// The adapter could not start. Without a client that relies on it, the next attach is the retry; else it is tried again in
    /// the background.
    fn start_failed(&mut self, failed: Failed, now: Instant, chance: f64, out: &mut Vec<Action>) {
        let Failed { since, code, reason, refused } = failed;
        let late = now - since >= ATTACH_WINDOW;
        self.relied_on |= late;
        self.reauthenticating = refused;
        out.push(Action::Drop);
        // Credentials are read anew, and a connection that failed may have been one of bad luck: once, while clients still wait.
        if (refused || code == FaultCode::BrokerConnection) && !late && !self.again {
            self.again = true;
            self.phase = Phase::Absent { until: Some(now) };
            return;
        }
        let wait = match refused {
            true => self.refusals.wait(chance),
            false => self.reconnects.failed(now.into_std(), chance),
        };
        let until = self.relied_on.then(|| now + wait);
        self.phase = Phase::Failed { until, refused };
        out.push(Action::Fail { code, reason });
    }

    /// The credentials are refused: the adapter logs out, and the next reads them anew.
    fn reauthenticate(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.reauthenticated = Some(now);
        // That start is the one more try.
        (self.reauthenticating, self.again) = (true, true);
        self.close(now, out);
    }

    fn close(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.phase = Phase::Closing { since: now };
        out.push(Action::Disconnect);
    }

    /// The adapter is no more, as was wanted.
    fn gone(&mut self, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::Drop);
        self.phase = Phase::Absent { until: Some(now) };
    }

    /// The answer to `unsubscribe_all`. After a success the broker has nothing: keys start from there.
    fn cleared(&mut self, done: bool, now: Instant, chance: f64, out: &mut Vec<Action>) {
        let mut clear_at = None;
        if done {
            self.clearings.reset();
            out.push(Action::Begin { fresh: false });
        } else {
            clear_at = Some(now + self.clearings.wait(chance));
            out.push(Action::Uncleared);
        }
        self.phase = Phase::Live { kept: true, clear_at };
    }
}

/// A start that came to nothing.
struct Failed {
    since: Instant,
    code: FaultCode,
    reason: String,
    refused: bool,
}
