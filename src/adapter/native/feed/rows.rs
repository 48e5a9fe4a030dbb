//! The feed's connections: what each link wants is done here.

use super::super::broker::{Broker, Limits};
use super::super::credentials::{Credentials, Fingerprint};
use super::super::link::{Action, Input, Link};
use super::super::socket::{self, Outgoing, Voice};
use super::{Account, Feed, Stage};
use crate::adapter::symbols::Table;
use crate::adapter::{CallError, Report};
use crate::shards::key::FaultCode;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError};
use tokio::time::Instant;

/// Messages that may wait for one socket, counted.
const OUT_MAX: usize = 64;
/// Room there must be for a take from the pool: more messages than any broker makes of one.
const OUT_ROOM: usize = 16;

/// Requests remembered of a connection, counted: more than can be on their way before the first is answered.
const REQUESTS_MAX: usize = 64;

/// One connection of the account.
pub(super) struct Row<B: Broker> {
    pub(super) link: Link,
    /// What the protocol remembers of it.
    pub(super) session: B::Session,
    /// Counts its sockets; what an older one says is ignored.
    pub(super) life: u64,
    /// When the next message of instruments may leave.
    pub(super) next_send: Instant,
    out: Option<mpsc::Sender<Outgoing>>,
    /// What is sent once it is up.
    then: Option<String>,
    /// Requests of late and what they asked for, newest last; of brokers that answer with their marks.
    requests: VecDeque<(Vec<String>, Vec<B::Token>)>,
    socket: Option<AbortHandle>,
    /// What it was opened with, or will be.
    credentials: Credentials,
}

/// What came of a task.
pub(super) enum Done {
    Socket,
    Read(Box<Fresh>),
}

/// What was read before a connect.
pub(super) struct Fresh {
    row: usize,
    credentials: Result<Credentials, String>,
    table: Result<Arc<Table>, String>,
}

impl<B: Broker> Row<B> {
    pub(super) fn new(limits: Limits, account: &Account) -> Self {
        let refused = account.refused.load(Ordering::Relaxed);
        Row {
            link: Link::new(limits, (refused != 0).then_some(Fingerprint(refused))),
            session: B::Session::default(),
            life: 0,
            next_send: Instant::now(),
            out: None,
            then: None,
            requests: VecDeque::new(),
            socket: None,
            credentials: Credentials::default(),
        }
    }

    /// A text without the secrets that a broker may have repeated.
    pub(super) fn scrub(&self, text: String) -> String {
        self.credentials.scrub(text)
    }
}

impl<B: Broker> Feed<B> {
    /// Makes a connection wanted.
    pub(super) fn start(&mut self, row: usize) {
        if self.rows[row].link.is_idle() {
            self.tell(row, Input::Start);
        }
    }

    /// A connection is not wanted any more; its socket says goodbye and ends.
    pub(super) fn stop(&mut self, row: usize) {
        if self.rows[row].link.is_up() {
            // Its queue closes, which is how a socket is told.
            self.rows[row].socket = None;
        }
        self.tell(row, Input::Stop);
    }

    /// Time has passed.
    pub(super) fn tick_links(&mut self) {
        let now = Instant::now().into_std();
        for row in 0..self.rows.len() {
            if self.rows[row].link.wake_at().is_some_and(|at| at <= now) {
                self.tell(row, Input::Timer);
            }
        }
    }

    /// Tells a link what happened and does what it wants.
    pub(super) fn tell(&mut self, row: usize, input: Input) {
        let refused = matches!(input, Input::Refused(_));
        let code = match input {
            Input::Refused(_) | Input::NoCredentials(_) => FaultCode::BrokerInit,
            _ => FaultCode::BrokerConnection,
        };
        let was_up = self.rows[row].link.is_up();
        let actions = self.rows[row].link.on(input, Instant::now().into_std(), rand::random());
        let is_up = self.rows[row].link.is_up();
        self.account.metrics.connections.increment(f64::from(i8::from(is_up) - i8::from(was_up)));
        if refused {
            self.account.metrics.refused.increment(1);
            let print = self.rows[row].link.refused().map_or(0, |print| print.0);
            self.account.refused.store(print, Ordering::Relaxed);
        }
        for action in actions {
            match action {
                Action::Read => self.read(row),
                Action::Connect => self.connect(row),
                Action::Beat => {
                    if let (Some(out), Some(beat)) = (&self.rows[row].out, self.broker.heartbeat()) {
                        // A socket that takes nothing will be found silent.
                        let _ = out.try_send(Outgoing::Text(beat.to_owned()));
                    }
                }
                Action::Probe => {
                    if let Some(out) = &self.rows[row].out {
                        let _ = out.try_send(Outgoing::Ping);
                    }
                }
                Action::Close => self.close(row),
                Action::Up => self.up(row),
                Action::Down(reason) if refused && self.stage == Stage::Starting => {
                    self.end(Report::LoginRefused { reason });
                }
                Action::Down(reason) => self.down(row, reason, code),
                Action::Barred(reason) => self.barred(row, reason),
            }
        }
    }

    fn read(&mut self, row: usize) {
        let account = Arc::clone(&self.account);
        self.tasks.spawn_blocking(move || {
            let credentials = account.credentials.read().map_err(|error| error.to_string());
            Done::Read(Box::new(Fresh { row, credentials, table: account.book.current() }))
        });
    }

    /// A task is over.
    pub(super) fn take_done(&mut self, done: Result<Done, JoinError>) {
        let Ok(Done::Read(fresh)) = done else { return };
        let Fresh { row, credentials, table } = *fresh;
        // Clients are told no paths of ours.
        let Account { broker, user, .. } = &*self.account;
        match table {
            Ok(table) => self.table = Some(table),
            // Only a feed that never had one is without.
            Err(reason) => {
                tracing::error!(broker, user, reason, "no instruments");
                let told = "the broker's instruments cannot be read; the server's log says why";
                return self.failed(FaultCode::BrokerInit, told.to_owned());
            }
        }
        match credentials {
            Ok(credentials) => {
                let print = credentials.fingerprint();
                self.rows[row].credentials = credentials;
                self.tell(row, Input::Credentials(print));
            }
            Err(reason) => {
                tracing::error!(broker, user, reason, "no credentials");
                let told = "the broker's credentials cannot be read; the server's log says why";
                self.tell(row, Input::NoCredentials(told.to_owned()));
            }
        }
    }

    fn connect(&mut self, row: usize) {
        let at = &mut self.rows[row];
        at.life += 1;
        at.session = B::Session::default();
        let mut request = match self.broker.request(&self.account.url, &at.credentials) {
            Ok(request) => request,
            Err(reason) => return self.tell(row, Input::Lost(reason)),
        };
        let (out, queue) = mpsc::channel(OUT_MAX);
        let voice = Voice { row, life: at.life, said: self.said.0.clone() };
        let (tls, socket) = (self.tls.clone(), socket::run);
        at.then = request.then.take();
        at.requests.clear();
        let task = async move {
            socket(request, tls, queue, voice).await;
            Done::Socket
        };
        at.out = Some(out);
        at.socket = Some(self.tasks.spawn(task));
    }

    fn close(&mut self, row: usize) {
        let at = &mut self.rows[row];
        at.life += 1;
        at.out = None;
        if let Some(socket) = at.socket.take() {
            socket.abort();
        }
        self.pool.down(row);
    }

    fn up(&mut self, row: usize) {
        self.account.metrics.opened.increment(1);
        self.account.refused.store(0, Ordering::Relaxed);
        self.rows[row].next_send = Instant::now();
        let then = self.rows[row].then.take();
        if let (Some(out), Some(then)) = (&self.rows[row].out, then) {
            // It is new, and therefore empty.
            let _ = out.try_send(Outgoing::Text(then));
        }
        self.pool.up(row);
        match self.stage {
            Stage::Starting => self.reports.push_back(Report::Connected),
            Stage::Down => self.reports.push_back(Report::Restored),
            Stage::Up | Stage::Over => {}
        }
        if self.stage != Stage::Over {
            self.stage = Stage::Up;
        }
        self.hear_orders();
        let Account { broker, user, .. } = &*self.account;
        tracing::info!(broker, user, connection = row, "broker connection is up");
    }

    fn down(&mut self, row: usize, reason: String, code: FaultCode) {
        let Account { broker, user, metrics, .. } = &*self.account;
        tracing::warn!(broker, user, connection = row, reason, "broker connection is down");
        if code == FaultCode::BrokerConnection {
            metrics.lost.increment(1);
        }
        self.pool.down(row);
        match self.stage {
            Stage::Starting => self.failed(code, reason),
            Stage::Up if self.rows.iter().any(|row| row.link.is_up()) => {}
            // The link reads them anew by itself.
            Stage::Up | Stage::Down if code == FaultCode::BrokerInit => {
                self.stage = Stage::Down;
                self.reports.push_back(Report::Reauthenticating { reason });
            }
            Stage::Up => {
                self.stage = Stage::Down;
                self.reports.push_back(Report::Down { reason });
            }
            Stage::Down | Stage::Over => {}
        }
    }

    fn barred(&mut self, row: usize, reason: String) {
        let Account { broker, user, .. } = &*self.account;
        tracing::warn!(broker, user, connection = row, reason, "broker connection waits for new credentials");
        if self.stage == Stage::Starting {
            return self.end(Report::LoginRefused { reason });
        }
        // Nobody waits for what cannot come soon; what is held stays wanted.
        for waiting in std::mem::take(&mut self.waiting) {
            let outcome = Err(CallError::Failed(reason.clone()));
            self.reports.push_back(Report::Answer { call: waiting.call, outcome });
        }
    }

    /// The broker had no room for a request: what it asked for moves to another connection.
    pub(super) fn overfull(&mut self, row: usize, mark: &str) {
        let is_it = |(messages, _): &&(Vec<String>, _)| messages.iter().any(|message| message.contains(mark));
        let found = self.rows[row].requests.iter().rev().find(is_it).map(|(_, tokens)| tokens.clone());
        let tokens = found.unwrap_or_default();
        let silent = self.pool.move_away(row, &tokens);
        let Account { broker, user, .. } = &*self.account;
        let moved = tokens.len() - silent.min(tokens.len());
        tracing::warn!(
            broker,
            user,
            connection = row,
            moved,
            silent,
            "the broker's connection is full before its time"
        );
        for row in 0..self.rows.len() {
            if self.pool.is_used(row) {
                self.start(row);
            }
        }
    }

    /// Sends what the pool wants changed, as far as sockets and the broker's pace allow.
    pub(super) fn send_changes(&mut self) {
        let (now, limits) = (Instant::now(), self.broker.limits());
        for (row, at) in self.rows.iter_mut().enumerate() {
            if !at.link.is_up() || at.next_send > now || !self.pool.is_due(row) {
                continue;
            }
            at.next_send = now + limits.message_gap;
            let Some(out) = at.out.as_ref().filter(|out| out.capacity() >= OUT_ROOM) else { continue };
            let changes = self.pool.take(row, limits.per_message);
            changes.unsubscribe.iter().for_each(|(token, _)| self.broker.forget(&mut at.session, token));
            changes.subscribe.iter().for_each(|(token, _)| self.broker.expect(&mut at.session, token));
            let messages = self.broker.messages(&changes);
            for message in &messages {
                // There was room; a socket that has ended says so by itself.
                let _ = out.try_send(Outgoing::Text(message.clone()));
            }
            if B::HAS_MARKS {
                let begun = changes.subscribe.into_iter().map(|(token, _)| token);
                let changed = changes.change.into_iter().map(|(token, ..)| token);
                at.requests.push_back((messages, begun.chain(changed).collect()));
                let old = at.requests.len().saturating_sub(REQUESTS_MAX);
                at.requests.drain(..old);
            }
        }
    }
}
