//! A native feed: the task that makes an adapter of a [`Broker`].
//!
//! In: the supervisor's commands, what sockets say, time. Out: reports, and ticks and order updates in a queue to ingest that is
//! this feed's own, in its user's scope. It does what link, pool and hand-over decide and decides nothing itself.
//! Promises: one task owns it all, so there is no lock; a subscribe is answered when it has been written for a connection
//! that is up; after every reconnect what is wanted is subscribed again without anybody asking; when it ends, its sockets
//! end. Tests: `tests/native_feed.rs`, against a stand-in broker.

mod postbacks;
mod rows;

use self::postbacks::next_order;
use self::rows::{Done, Row};
use super::book::Book;
use super::broker::{Broker, Event, Message};
use super::credentials::Source;
use super::handover::Handover;
use super::link::Input;
use super::metrics::NativeMetrics;
use super::orders::Heard;
use super::pool::{Full, Pool};
use super::socket::{Said, Tls, What};
use super::tick::LEVELS;
use crate::adapter::symbols::Table;
use crate::adapter::{Adapter, CallError, Command, Io, Report, Task};
use crate::limits::SOURCE_QUEUE_BYTES_MAX;
use crate::model::{ByteBudget, Instrument, Micros, Mode, ScopeId, SourceReceiver, source_queue};
use crate::shards::key::{CallId, FaultCode, KeyName};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Messages of brokers that may wait for the task, over all its connections, counted.
const SAID_MAX: usize = 64;
/// Commands and messages taken up before what they ask for is sent.
const TAKE_UP_MAX: usize = 1024;
/// The broker's signs of life are told this often at most.
const BEAT: Duration = Duration::from_secs(1);
/// How long sockets may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// One user's account at one broker, from the settings.
pub struct Account {
    /// The broker's name in lower case, as in the key store.
    pub broker: String,
    /// Whose account it is.
    pub user: String,
    /// Where the broker is.
    pub url: String,
    /// Where order updates come from, at brokers that have a socket of its own for them.
    pub order_url: Option<String>,
    /// What it is logged in with.
    pub credentials: Source,
    /// The broker's instruments.
    pub book: Arc<Book>,
    /// Instruments of one connection, counted; at most the broker's own limit.
    pub per_connection: usize,
    /// Connections, counted; at most the broker's own limit.
    pub connections: usize,
    /// Whose ticks these are.
    pub scope: ScopeId,
    /// Fingerprint of credentials that the broker has refused, 0 = none. Outlives the adapter, so that nobody can make
    /// the server log in with them again and again.
    pub refused: AtomicU64,
    /// Of its broker.
    pub metrics: Arc<NativeMetrics>,
}

/// What native feeds need of the server.
#[derive(Clone)]
pub struct Wiring {
    /// Takes a feed's end of its queue to ingest.
    pub sources: mpsc::Sender<SourceReceiver>,
    /// All their queues together.
    pub budget: Arc<ByteBudget>,
    /// Rung when there is something in a queue.
    pub wake: Arc<Notify>,
    /// For `wss://`.
    pub tls: Tls,
}

/// The adapter of one account.
pub struct NativeAdapter<B> {
    /// The protocol.
    pub broker: Arc<B>,
    /// The account.
    pub account: Arc<Account>,
    /// The server.
    pub wiring: Wiring,
}

impl<B: Broker> Adapter for NativeAdapter<B> {
    fn run(self: Box<Self>, io: Io) -> Task {
        Box::pin(async move {
            let (sender, receiver) =
                source_queue(&self.wiring.budget, SOURCE_QUEUE_BYTES_MAX, Arc::clone(&self.wiring.wake));
            if self.wiring.sources.send(receiver).await.is_err() {
                return;
            }
            self.wiring.wake.notify_one();
            let handover = Handover::new(sender, self.account.scope, Arc::clone(&self.account.metrics));
            Feed::new(*self, io, handover).run().await;
        })
    }
}

/// A name that a token has, and the modes in which it is wanted.
struct Name {
    instrument: Instrument,
    wanted: [bool; 3],
}

/// A subscribe that is answered once it is on the wire.
struct Waiting<T> {
    call: CallId,
    token: T,
    mode: Mode,
    depth: Option<u32>,
}

struct Feed<B: Broker> {
    broker: Arc<B>,
    account: Arc<Account>,
    tls: Tls,
    io: Io,
    /// To be sent before anything else is done.
    reports: VecDeque<Report>,
    table: Option<Arc<Table>>,
    rows: Vec<Row<B>>,
    pool: Pool<B::Token>,
    /// Who is told of a token's ticks.
    names: HashMap<B::Token, Vec<Name>>,
    /// The token that a name had when it was subscribed: tables change.
    tokens: HashMap<Instrument, B::Token>,
    waiting: Vec<Waiting<B::Token>>,
    handover: Handover,
    said: (mpsc::Sender<Said>, mpsc::Receiver<Said>),
    tasks: JoinSet<Done>,
    /// What the socket of order updates hears, once there is one.
    orders: Option<mpsc::Receiver<Heard<B::Token>>>,
    events: Vec<Event<B::Token>>,
    stage: Stage,
    /// When the next sign of life is worth telling.
    next_beat: Instant,
    /// What this feed has added to the broker's gauge.
    capacity: usize,
    /// Connections told last: up, and needed.
    connections: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not told to connect yet, or connecting.
    Starting,
    /// Told `Connected`; at least one connection is up.
    Up,
    /// None is.
    Down,
    /// Nothing more to do.
    Over,
}

impl<B: Broker> Drop for Feed<B> {
    fn drop(&mut self) {
        self.account.metrics.capacity.decrement(self.capacity as f64);
        let up = self.rows.iter().filter(|row| row.link.is_up()).count();
        self.account.metrics.connections.decrement(up as f64);
    }
}

impl<B: Broker> Feed<B> {
    fn new(adapter: NativeAdapter<B>, io: Io, handover: Handover) -> Self {
        let NativeAdapter { broker, account, wiring } = adapter;
        let limits = broker.limits();
        let per_connection = account.per_connection.min(limits.per_connection);
        let pool = Pool::new(per_connection, account.connections.min(limits.connections));
        let rows = (0..pool.rows()).map(|_| Row::new(limits, &account)).collect();
        Feed {
            broker,
            account,
            tls: wiring.tls,
            io,
            reports: VecDeque::new(),
            table: None,
            rows,
            pool,
            names: HashMap::new(),
            tokens: HashMap::new(),
            waiting: Vec::new(),
            handover,
            said: mpsc::channel(SAID_MAX),
            tasks: JoinSet::new(),
            orders: None,
            events: Vec::new(),
            stage: Stage::Starting,
            next_beat: Instant::now(),
            capacity: 0,
            connections: (0, 0),
        }
    }

    async fn run(mut self) {
        while self.stage != Stage::Over {
            self.send_changes();
            self.answer_sent();
            self.show_capacity();
            self.show_connections();
            while let Some(report) = self.reports.pop_front() {
                if self.io.reports.send(report).await.is_err() {
                    return;
                }
            }
            let wake = self.wake_at();
            let timer = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.io.commands.recv() => match command {
                    Some(Command::Disconnect) => return self.goodbye().await,
                    Some(command) => if self.take_commands(command) { return self.goodbye().await },
                    None => return,
                },
                Some(said) = self.said.1.recv() => self.take_said(said),
                Some(done) = self.tasks.join_next() => self.take_done(done),
                Some((event, t_recv)) = next_order(&mut self.orders) => self.take_order(event, t_recv),
                () = self.handover.room() => self.handover.retry(),
                () = timer => self.tick_links(),
            }
        }
        while let Some(report) = self.reports.pop_front() {
            // A supervisor that is gone need not be told.
            let _ = self.io.reports.send(report).await;
        }
    }

    /// Ends in order: sockets say goodbye, then the supervisor hears of it.
    async fn goodbye(mut self) {
        self.orders = None;
        for row in 0..self.rows.len() {
            self.stop(row);
        }
        let _late_ones_are_aborted = timeout(GOODBYE, async { while self.tasks.join_next().await.is_some() {} }).await;
        let _ = self.io.reports.send(Report::Disconnected).await;
    }

    /// Takes up what has come, so that a bulk request leaves in few messages. Whether it was told to end.
    fn take_commands(&mut self, first: Command) -> bool {
        self.take_command(first);
        for _ in 0..TAKE_UP_MAX {
            match self.io.commands.try_recv() {
                Ok(Command::Disconnect) => return true,
                Ok(command) => self.take_command(command),
                Err(_) => break,
            }
        }
        false
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Connect => self.start(0),
            Command::Subscribe { call, name, .. } => {
                if let Err(error) = self.subscribe(call, &name) {
                    self.reports.push_back(Report::Answer { call, outcome: Err(error) });
                }
            }
            Command::Unsubscribe { call, name } => {
                self.unsubscribe(&name);
                self.reports.push_back(Report::Answer { call, outcome: Ok(None) });
            }
            Command::UnsubscribeAll { call } => {
                let held: Vec<Instrument> = self.tokens.keys().cloned().collect();
                for instrument in held {
                    for mode in Mode::ALL {
                        self.unsubscribe(&KeyName { instrument: instrument.clone(), mode });
                    }
                }
                self.reports.push_back(Report::Answer { call, outcome: Ok(None) });
            }
            // It is looked for where commands are fetched.
            Command::Disconnect => {}
        }
    }

    fn subscribe(&mut self, call: CallId, name: &KeyName) -> Result<(), CallError> {
        let instrument = name.instrument.as_ref();
        let token = match self.tokens.get(&name.instrument) {
            Some(token) => token.clone(),
            None => {
                let listing = self.table.as_ref().and_then(|table| table.find(instrument));
                let unknown = || CallError::Refused(format!("{} does not list {instrument:?}", self.account.broker));
                listing.and_then(|listing| self.broker.token(listing)).ok_or_else(unknown)?
            }
        };
        let mode = self.broker.wire_mode(name.mode);
        let known = self.names.get(&token).and_then(|names| names.iter().position(|n| n.instrument == name.instrument));
        let held = known.is_some_and(|at| self.names[&token][at].wanted[name.mode.index()]);
        if !held {
            let row = self.pool.want(&token, mode).map_err(|Full| {
                let (used, _) = self.pool.usage();
                CallError::Full(format!("{} can carry no more than these {used} instruments", self.account.broker))
            })?;
            if self.rows[row].link.is_barred() {
                self.pool.release(&token, mode);
                return Err(CallError::Refused(format!("{} refuses the credentials", self.account.broker)));
            }
            let names = self.names.entry(token.clone()).or_default();
            let at = known.unwrap_or_else(|| {
                names.push(Name { instrument: name.instrument.clone(), wanted: [false; 3] });
                names.len() - 1
            });
            names[at].wanted[name.mode.index()] = true;
            self.tokens.insert(name.instrument.clone(), token.clone());
            self.start(row);
        }
        let depth = (name.mode == Mode::Depth).then_some(LEVELS as u32);
        self.waiting.push(Waiting { call, token, mode, depth });
        Ok(())
    }

    fn unsubscribe(&mut self, name: &KeyName) {
        let Some(token) = self.tokens.get(&name.instrument).cloned() else { return };
        let Some(names) = self.names.get_mut(&token) else { return };
        let Some(at) = names.iter().position(|n| n.instrument == name.instrument) else { return };
        if !std::mem::take(&mut names[at].wanted[name.mode.index()]) {
            return;
        }
        if names[at].wanted == [false; 3] {
            names.swap_remove(at);
            self.tokens.remove(&name.instrument);
        }
        let row = self.pool.row_of(&token);
        if self.pool.release(&token, self.broker.wire_mode(name.mode)) == Some(true) {
            self.names.remove(&token);
            if let Some(row) = row.filter(|&row| row > 0 && !self.pool.is_used(row)) {
                self.stop(row);
            }
        }
    }

    /// Answers the subscribes that are on the wire now.
    fn answer_sent(&mut self) {
        let Feed { waiting, pool, reports, .. } = self;
        waiting.retain(|w| {
            let sent = pool.is_sent(&w.token, w.mode);
            if sent {
                reports.push_back(Report::Answer { call: w.call, outcome: Ok(w.depth) });
            }
            // One that was let go meanwhile is nobody's wish any more.
            !sent && pool.row_of(&w.token).is_some()
        });
    }

    fn take_said(&mut self, first: Said) {
        let mut next = Some(first);
        let mut last = Micros::default();
        for _ in 0..SAID_MAX {
            let Some(said) = next else { break };
            if self.rows[said.row].life == said.life {
                last = self.hear(said).unwrap_or(last);
            }
            next = self.said.1.try_recv().ok();
        }
        if let Some(said) = next.filter(|said| self.rows[said.row].life == said.life) {
            last = self.hear(said).unwrap_or(last);
        }
        self.handover.flush(last);
        self.beat();
    }

    /// Tells the supervisor that the broker lives.
    fn beat(&mut self) {
        let now = Instant::now();
        if self.stage == Stage::Up && self.next_beat <= now {
            self.next_beat = now + BEAT;
            self.reports.push_back(Report::Heartbeat);
        }
    }

    /// One word of a socket that is in use; when its message was read.
    fn hear(&mut self, said: Said) -> Option<Micros> {
        let row = said.row;
        let (t_recv, input) = match said.what {
            What::Opened => (None, Input::Opened),
            What::Heard => (None, Input::Heard),
            What::Pong => (None, Input::Pong),
            What::Lost(reason) => (None, Input::Lost(self.rows[row].scrub(reason))),
            What::Refused { status, text } => {
                let text = self.rows[row].scrub(text);
                let shown: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
                let reason = format!("the broker answered {status} {shown}").trim_end().to_owned();
                let refused = self.broker.refuses_credentials(status, &text);
                (None, if refused { Input::Refused(reason) } else { Input::Lost(reason) })
            }
            What::Text(t_recv, text) => {
                self.message(row, Message::Text(&text), t_recv);
                (Some(t_recv), Input::Heard)
            }
            What::Binary(t_recv, bytes) => {
                self.message(row, Message::Binary(&bytes), t_recv);
                (Some(t_recv), Input::Heard)
            }
        };
        self.tell(row, input);
        t_recv
    }

    fn message(&mut self, row: usize, message: Message<'_>, t_recv: Micros) {
        let mut events = std::mem::take(&mut self.events);
        self.broker.decode(&mut self.rows[row].session, message, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Tick(token, tick) => {
                    for name in self.names.get(&token).into_iter().flatten() {
                        self.handover.tick(name.instrument.as_ref(), &tick, t_recv);
                    }
                }
                Event::LoggedIn => self.tell(row, Input::LoggedIn),
                Event::Refused(text) => {
                    let reason = self.rows[row].scrub(text);
                    self.tell(row, Input::Refused(reason));
                }
                Event::Order(order) => self.order(order, t_recv),
                Event::Notice(text) => {
                    let text = self.rows[row].scrub(text);
                    tracing::info!(broker = self.account.broker, user = self.account.user, text, "the broker says");
                }
                Event::Overfull(mark) => self.overfull(row, &mark),
                Event::Damaged => self.account.metrics.damaged.increment(1),
            }
        }
        self.events = events;
    }

    fn show_capacity(&mut self) {
        let left = match self.stage {
            Stage::Starting | Stage::Over => 0,
            Stage::Up | Stage::Down => self.pool.usage().1,
        };
        if left != self.capacity {
            self.account.metrics.capacity.increment(left as f64 - self.capacity as f64);
            self.capacity = left;
            self.reports.push_back(Report::Capacity { left });
        }
    }

    fn show_connections(&mut self) {
        if !matches!(self.stage, Stage::Up | Stage::Down) {
            return;
        }
        let up = self.rows.iter().filter(|row| row.link.is_up()).count();
        let needed = self.rows.iter().filter(|row| !row.link.is_idle()).count();
        if self.connections != (up, needed) {
            self.connections = (up, needed);
            self.reports.push_back(Report::Connections { up, needed });
        }
    }

    fn end(&mut self, last: Report) {
        if self.stage == Stage::Over {
            return;
        }
        self.reports.push_back(last);
        self.stage = Stage::Over;
    }

    fn failed(&mut self, code: FaultCode, reason: String) {
        self.end(Report::ConnectFailed { code, reason });
    }

    /// When a link or a message is due.
    fn wake_at(&self) -> Option<Instant> {
        let links = self.rows.iter().filter_map(|row| row.link.wake_at()).map(Instant::from_std);
        let due = (0..self.rows.len()).filter(|&row| self.rows[row].link.is_up() && self.pool.is_due(row));
        links.chain(due.map(|row| self.rows[row].next_send)).min()
    }
}
