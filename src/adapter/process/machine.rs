//! An adapter process's end of the control channel as a pure machine (CONTRACTS 5): hello, heartbeats, silence, calls, and when
//! the adapter behind it is logged in.
//!
//! In: the connection that comes and goes, what the server says, what the adapter reports, time. Out: [`Effect`]s in order.
//! Promises: hello on connect, when asked, and after every 6 s without a word; one result for each id of the live session, none for any
//! other; calls reach the adapter in their order and only once it is logged in; nothing is published without a session,
//! since until then nobody has said whose ticks these are. Knows no sockets, clocks or brokers. Tests: `machine/tests.rs`.

#[cfg(test)]
mod tests;

use super::words::{self, Card, Told};
use crate::adapter::{CallError, Command, Report};
use crate::limits;
use crate::policy::backoff::Reconnects;
use crate::shards::key::{CallId, KeyName};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// How often we say that we live.
pub const BEAT: Duration = Duration::from_secs(2);
/// Calls without an answer, counted: more than a server has pending for one user.
pub const CALLS_MAX: usize = 2 * limits::ADAPTER_CALLS_PENDING;
/// A login that was lost before it stood this long counts as one more that failed.
const STEADY: Duration = Duration::from_secs(5);
/// A connection on which nothing was heard for so long is given up. A server that was stopped and goes on reads the hellos that wait
/// on the old one at once; a new one would have to be made first.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Why a call is refused that has no instrument, or none that can exist.
const NAMELESS: &str = "The call names no instrument";
/// The reason of a `disconnect` by which another process takes over.
const REPLACED: &str = "replaced";

/// What is to be done; in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this to the server.
    Send(Bytes),
    /// The connection is of no use any more: make another.
    Reconnect,
    /// Make an adapter and tell it to connect.
    Start,
    /// Tell the adapter.
    Tell(Command),
    /// Tell the adapter to log out.
    Stop,
    /// Ticks are published from now on, or not any more.
    Publish(bool),
    /// Another process serves this broker and user: end.
    Replaced,
}

/// The conversation with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// No connection.
    Down,
    /// Said hello.
    Greeting,
    /// Welcome; when the next heartbeat is due.
    Live { session: u64, beat: Instant },
    /// Told that nobody needs us: silent until asked back.
    Parked,
}

/// The adapter behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Feed {
    /// There is none: nobody has needed it since the last log-out.
    Idle,
    /// Logging in.
    Starting,
    /// Logged in.
    Up,
    /// Logged in, and its broker connection is lost.
    Down,
    /// Logging out; whether it is needed again.
    Closing { again: bool },
    /// Could not log in, or died: when it is tried again.
    Failed { until: Instant, reason: String },
}

#[derive(Clone, Debug)]
enum Asked {
    Subscribe(KeyName),
    Unsubscribe(KeyName),
    UnsubscribeAll,
}

/// See the module's header.
pub struct Machine {
    card: Card,
    line: Line,
    /// When the server last said something, or the connection began.
    heard: Instant,
    /// When silence means the next hello.
    patience: Instant,
    feed: Feed,
    /// Log in without being asked for anything: at the start, so that bad credentials show at once.
    eager: bool,
    /// The server has been told, or must be, that the broker is not connected.
    broken: bool,
    /// Calls of the live session that have no result: the server's id and what it asked.
    calls: BTreeMap<CallId, (u64, Asked)>,
    /// What the adapter is told once it is logged in.
    waiting: VecDeque<Command>,
    last_call: u64,
    logins: Reconnects,
    out: Vec<Effect>,
}

impl Machine {
    /// Without a connection, without an adapter.
    pub fn new(card: Card, now: Instant) -> Self {
        Machine {
            card,
            line: Line::Down,
            heard: now,
            patience: now,
            feed: Feed::Idle,
            eager: true,
            broken: false,
            calls: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_call: 0,
            logins: Reconnects::new(STEADY),
            out: Vec::new(),
        }
    }

    /// What came of the last inputs.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// A connection to the server stands.
    pub fn connected(&mut self, now: Instant) {
        self.heard_at(now);
        self.hello();
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.end_session(Line::Down);
    }

    /// The server said this; `None`: something that cannot be used, which is a word all the same.
    pub fn heard(&mut self, told: Option<Told>, now: Instant) {
        self.heard_at(now);
        let live = match self.line {
            Line::Down => return,
            Line::Live { session, .. } => Some(session),
            Line::Greeting | Line::Parked => None,
        };
        match told {
            Some(Told::Welcome { session }) => self.welcome(session, now),
            Some(Told::HelloRequired) => self.hello(),
            Some(Told::Disconnect { session: Some(session), reason }) if live == Some(session) => self.over(&reason),
            Some(Told::Disconnect { session: None, reason }) => {
                tracing::warn!(reason, "the server refuses the hello; it is said again in some seconds");
            }
            Some(Told::Subscribe { session, id, name, depth }) if live == Some(session) => {
                self.subscribe(session, id, name, depth);
            }
            Some(Told::Unsubscribe { session, id, name }) if live == Some(session) => {
                self.unsubscribe(session, id, name);
            }
            Some(Told::UnsubscribeAll { session, id }) if live == Some(session) => {
                self.unsubscribe_all(id);
            }
            Some(_) | None => {}
        }
    }

    /// The adapter said this; `chance` lies in 0..1.
    pub fn report(&mut self, report: Report, now: Instant, chance: f64) {
        match report {
            Report::Connected if self.feed == Feed::Starting => self.logged_in(now),
            Report::ConnectFailed { reason, .. } | Report::LoginRefused { reason } | Report::Lost { reason } => {
                self.ended(&reason, now, chance)
            }
            Report::Answer { call, outcome } => self.answer(call, outcome),
            Report::Down { reason } | Report::Reauthenticating { reason } if self.feed == Feed::Up => {
                self.feed = Feed::Down;
                self.broken(&reason);
            }
            Report::Restored if self.feed == Feed::Down => {
                self.feed = Feed::Up;
                self.mended();
            }
            Report::Disconnected => self.ended("it has logged out", now, chance),
            Report::Connected | Report::Down { .. } | Report::Reauthenticating { .. } | Report::Restored => {}
            Report::Heartbeat | Report::Capacity { .. } | Report::Connections { .. } => {}
        }
    }

    /// The adapter has ended, whatever it said before.
    pub fn ended(&mut self, reason: &str, now: Instant, chance: f64) {
        match self.feed {
            Feed::Closing { again: true } => self.start(),
            Feed::Closing { again: false } => self.feed = Feed::Idle,
            Feed::Starting | Feed::Up | Feed::Down => self.failed(reason, now, chance),
            Feed::Idle | Feed::Failed { .. } => {}
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if self.line != Line::Down && now.duration_since(self.heard) >= GIVE_UP {
            self.end_session(Line::Down);
            self.out.push(Effect::Reconnect);
        } else if self.line != Line::Down && self.patience <= now {
            tracing::warn!("nothing is heard from the server; saying hello again");
            self.patience = now + limits::CONTROL_SILENCE;
            self.hello();
        }
        if let Line::Live { session, beat } = &mut self.line
            && *beat <= now
        {
            *beat = now + BEAT;
            self.out.push(Effect::Send(words::heartbeat(*session)));
        }
        if matches!(&self.feed, Feed::Failed { until, .. } if *until <= now) {
            self.start();
        }
    }

    /// When [`Machine::tick`] has something to do, at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        let silence = (self.line != Line::Down).then(|| self.patience.min(self.heard + GIVE_UP));
        let beat = match self.line {
            Line::Live { beat, .. } => Some(beat),
            Line::Down | Line::Greeting | Line::Parked => None,
        };
        let retry = match &self.feed {
            Feed::Failed { until, .. } => Some(*until),
            _ => None,
        };
        [silence, beat, retry].into_iter().flatten().min()
    }

    fn heard_at(&mut self, now: Instant) {
        (self.heard, self.patience) = (now, now + limits::CONTROL_SILENCE);
    }

    fn hello(&mut self) {
        self.end_session(Line::Greeting);
        self.out.push(Effect::Send(words::hello(&self.card)));
    }

    /// What a session asked ends with it: the next one begins with `unsubscribe_all`.
    fn end_session(&mut self, line: Line) {
        if matches!(self.line, Line::Live { .. }) {
            self.out.push(Effect::Publish(false));
        }
        self.line = line;
        self.calls.clear();
        self.waiting.clear();
    }

    fn welcome(&mut self, session: u64, now: Instant) {
        self.end_session(Line::Live { session, beat: now + BEAT });
        self.out.push(Effect::Publish(true));
        tracing::info!(session, "the server says welcome");
        if self.broken {
            let reason = match &self.feed {
                Feed::Failed { reason, .. } => reason.clone(),
                _ => "the broker connection is lost".to_owned(),
            };
            self.status(false, &reason);
        }
        if std::mem::take(&mut self.eager) && self.feed == Feed::Idle {
            self.start();
        }
    }

    /// The server has no use for the session.
    fn over(&mut self, reason: &str) {
        self.end_session(Line::Parked);
        if reason == REPLACED {
            return self.out.push(Effect::Replaced);
        }
        tracing::info!(reason, "the server needs no feed now; logging out until it does");
        match &mut self.feed {
            Feed::Starting | Feed::Up | Feed::Down => {
                self.feed = Feed::Closing { again: false };
                self.out.push(Effect::Stop);
            }
            Feed::Closing { again } => *again = false,
            Feed::Failed { .. } => self.feed = Feed::Idle,
            Feed::Idle => {}
        }
        self.broken = false;
    }

    fn subscribe(&mut self, session: u64, id: u64, name: Option<KeyName>, depth: u32) {
        let Some(name) = name else { return self.refuse(session, id, NAMELESS) };
        if let Feed::Failed { reason, .. } = &self.feed {
            let reason = reason.clone();
            return self.refuse(session, id, &reason);
        }
        if self.calls.len() >= CALLS_MAX {
            return self.refuse(session, id, "Too many calls wait for the broker");
        }
        let call = self.open(id, Asked::Subscribe(name.clone()));
        let command = Command::Subscribe { call, name, depth };
        match &mut self.feed {
            Feed::Up | Feed::Down => return self.out.push(Effect::Tell(command)),
            Feed::Idle => self.start(),
            Feed::Closing { again } => *again = true,
            Feed::Starting | Feed::Failed { .. } => {}
        }
        self.waiting.push_back(command);
    }

    fn unsubscribe(&mut self, session: u64, id: u64, name: Option<KeyName>) {
        let Some(name) = name else { return self.refuse(session, id, NAMELESS) };
        let call = self.open(id, Asked::Unsubscribe(name.clone()));
        match self.feed {
            Feed::Up | Feed::Down => self.out.push(Effect::Tell(Command::Unsubscribe { call, name })),
            // Nothing is held without a login, and what waits for one is told with this answer.
            _ => self.answer(call, Ok(None)),
        }
    }

    /// The result of a call that goes no further.
    fn refuse(&mut self, session: u64, id: u64, why: &str) {
        let outcome = Err(CallError::Refused(why.to_owned()));
        self.out.push(Effect::Send(words::result(session, id, &outcome)));
    }

    fn unsubscribe_all(&mut self, id: u64) {
        let call = self.open(id, Asked::UnsubscribeAll);
        match self.feed {
            Feed::Up | Feed::Down => self.out.push(Effect::Tell(Command::UnsubscribeAll { call })),
            _ => self.answer(call, Ok(None)),
        }
    }

    fn open(&mut self, id: u64, asked: Asked) -> CallId {
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.insert(call, (id, asked));
        call
    }

    /// An answer of the adapter. One to an unsubscribe answers the subscribes before it too: an adapter need not answer
    /// what was taken back.
    fn answer(&mut self, call: CallId, outcome: Result<Option<u32>, CallError>) {
        let (Some((_, asked)), true) = (self.calls.get(&call).cloned(), matches!(self.line, Line::Live { .. })) else {
            return;
        };
        if outcome.is_ok() && !matches!(asked, Asked::Subscribe(_)) {
            let is_taken_back = |(_, other): &(u64, Asked)| match (other, &asked) {
                (Asked::Subscribe(_), Asked::UnsubscribeAll) => true,
                (Asked::Subscribe(name), Asked::Unsubscribe(of)) => name == of,
                _ => false,
            };
            let before: Vec<CallId> =
                self.calls.range(..call).filter(|(_, open)| is_taken_back(open)).map(|(call, _)| *call).collect();
            for call in before {
                self.settle(call, &Err(CallError::Refused("It was taken back".to_owned())));
            }
        }
        self.settle(call, &outcome);
    }

    /// The one result of a call.
    fn settle(&mut self, call: CallId, outcome: &Result<Option<u32>, CallError>) {
        let Line::Live { session, .. } = self.line else { return };
        let Some((id, asked)) = self.calls.remove(&call) else { return };
        self.waiting.retain(|command| !matches!(command, Command::Subscribe { call: waits, .. } if *waits == call));
        if let Err(CallError::Failed(cause)) = outcome {
            tracing::warn!(?asked, cause, "the broker did not do it");
        }
        self.out.push(Effect::Send(words::result(session, id, outcome)));
    }

    fn start(&mut self) {
        self.feed = Feed::Starting;
        self.out.push(Effect::Start);
    }

    fn logged_in(&mut self, now: Instant) {
        self.feed = Feed::Up;
        self.logins.up(now.into_std());
        self.mended();
        self.out.extend(self.waiting.drain(..).map(Effect::Tell));
    }

    /// The adapter could not log in, or is dead: whoever waits for it is told, and it is made anew after a while.
    fn failed(&mut self, reason: &str, now: Instant, chance: f64) {
        let wait = self.logins.failed(now.into_std(), chance);
        self.feed = Feed::Failed { until: now + wait, reason: reason.to_owned() };
        let open: Vec<CallId> = self.calls.keys().copied().collect();
        for call in open {
            self.settle(call, &Err(CallError::Refused(reason.to_owned())));
        }
        self.broken(reason);
    }

    fn broken(&mut self, reason: &str) {
        tracing::warn!(reason, "the broker is not connected");
        self.broken = true;
        self.status(false, reason);
    }

    fn mended(&mut self) {
        if std::mem::take(&mut self.broken) {
            self.status(true, "connected again");
        }
    }

    fn status(&mut self, connected: bool, detail: &str) {
        if let Line::Live { session, .. } = self.line {
            self.out.push(Effect::Send(words::status(session, connected, detail)));
        }
    }
}
