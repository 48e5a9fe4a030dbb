//! Kind `external`: adapters as processes of their own, in any language, over the control channel (CONTRACTS 5).
//!
//! In: messages of connected peers, from the ROUTER; commands of the supervisors' [`ExternalAdapter`]s. Out: answers to both,
//! and where ticks are published. `machine` decides, `wire` reads and writes, this file moves bytes and reports. One task on
//! the control thread; it waits for nobody: queues to peers and adapters are bounded, and who lets one fill is dropped.
//! Tests: `tests.rs`, `machine/tests.rs`, `tests/control.rs`, `tests/external.rs`.

pub mod machine;
pub mod metrics;
#[cfg(test)]
mod tests;
pub mod wire;

use self::machine::{AdapterId, Effect, Machine, Owner};
use self::metrics::ControlMetrics;
use super::{Adapter, Command, Io, Report, Task};
use crate::zmtp::Endpoint;
use crate::zmtp::router::{Event, Peer, PeerId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Words of all adapters on their way to the channel, counted.
const INBOX_MAX: usize = 1024;
/// Reports beyond the answers to one adapter's calls, counted.
const REPORTS_SPARE: usize = 64;
/// How often silence and waiting times are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Who brings the ticks of adapter processes in. Called on the control thread; must not wait.
pub trait Feeds {
    /// The owner's ticks come from exactly these endpoints; a user's from no other source, if there are any. With `highest_only`
    /// each tick comes once, in its highest mode.
    fn publishes(&mut self, owner: &Owner, endpoints: &[Endpoint], highest_only: bool);
    /// The owner's endpoints are given up; its user still receives nobody else's ticks.
    fn abandon(&mut self, owner: &Owner);
}

enum Word {
    Started { id: AdapterId, broker: String, user: String, reports: mpsc::Sender<Report> },
    Command(AdapterId, Command),
}

/// The supervisors' end: makes adapters that speak through the channel. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    words: mpsc::Sender<Word>,
    next: Arc<AtomicU64>,
    reports_max: usize,
}

/// The channel's end; see [`run`].
pub struct Inbox(mpsc::Receiver<Word>);

impl Channel {
    /// Both ends; an adapter has at most `calls_max` calls pending.
    pub fn new(calls_max: usize) -> (Self, Inbox) {
        let (words, inbox) = mpsc::channel(INBOX_MAX);
        let channel = Channel { words, next: Arc::default(), reports_max: calls_max + REPORTS_SPARE };
        (channel, Inbox(inbox))
    }

    /// The adapter of one user at one broker; any process that says the right hello serves it.
    pub fn adapter(&self, broker: &str, user: &str) -> ExternalAdapter {
        ExternalAdapter { channel: self.clone(), broker: broker.to_ascii_lowercase(), user: user.to_owned() }
    }
}

/// A user's adapter whose work is done by a process at the channel.
pub struct ExternalAdapter {
    channel: Channel,
    broker: String,
    user: String,
}

impl Adapter for ExternalAdapter {
    fn run(self: Box<Self>, mut io: Io) -> Task {
        Box::pin(async move {
            let ExternalAdapter { channel, broker, user } = *self;
            let id = AdapterId(channel.next.fetch_add(1, Ordering::Relaxed) + 1);
            let (reports, mut heard) = mpsc::channel(channel.reports_max);
            if channel.words.send(Word::Started { id, broker, user, reports }).await.is_err() {
                return;
            }
            loop {
                tokio::select! {
                    command = io.commands.recv() => {
                        let Some(command) = command else { break };
                        if channel.words.send(Word::Command(id, command)).await.is_err() {
                            break;
                        }
                    }
                    report = heard.recv() => {
                        let Some(report) = report else { break };
                        let over = report == Report::Disconnected;
                        if io.reports.send(report).await.is_err() || over {
                            break;
                        }
                    }
                }
            }
        })
    }
}

/// Runs the channel until the peers' queue closes.
pub async fn run<F: Feeds>(
    machine: Machine,
    mut events: mpsc::Receiver<Event>,
    inbox: Inbox,
    feeds: F,
    metrics: ControlMetrics,
) {
    let mut desk = Desk { machine, peers: HashMap::new(), adapters: HashMap::new(), feeds, metrics };
    let Inbox(mut inbox) = inbox;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => desk.event(event),
                None => return,
            },
            Some(word) = inbox.recv() => desk.word(word),
            _ = ticks.tick() => desk.tick(),
        }
        desk.act();
    }
}

struct Desk<F> {
    machine: Machine,
    peers: HashMap<PeerId, Peer>,
    adapters: HashMap<AdapterId, mpsc::Sender<Report>>,
    feeds: F,
    metrics: ControlMetrics,
}

impl<F: Feeds> Desk<F> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Joined(id, peer) => {
                self.peers.insert(id, peer);
                self.machine.joined(id);
            }
            Event::Message(id, parts) => {
                let said = match &parts[..] {
                    [body] => wire::read(body),
                    _ => Err(wire::Malformed::Map),
                };
                self.machine.message(id, said, Instant::now());
            }
            Event::Left(id) => {
                self.peers.remove(&id);
                self.machine.left(id, Instant::now());
            }
        }
    }

    fn word(&mut self, word: Word) {
        match word {
            Word::Started { id, broker, user, reports } => {
                self.adapters.insert(id, reports);
                self.machine.started(id, &broker, &user);
            }
            Word::Command(id, command) => self.machine.command(id, command, Instant::now()),
        }
    }

    fn tick(&mut self) {
        let over: Vec<AdapterId> = self.adapters.iter().filter(|(_, r)| r.is_closed()).map(|(id, _)| *id).collect();
        for id in over {
            self.adapters.remove(&id);
            self.machine.gone(id);
        }
        self.machine.tick(Instant::now());
    }

    /// Carries out what the machine wants, and what follows from it.
    fn act(&mut self) {
        let mut effects = self.machine.effects();
        while !effects.is_empty() {
            for effect in effects {
                match effect {
                    Effect::Send(peer, message) => self.send(peer, message),
                    Effect::Report(id, report) => self.report(id, report),
                    Effect::Publishes(owner, endpoints, highest_only) => {
                        self.feeds.publishes(&owner, &endpoints, highest_only);
                    }
                    Effect::Abandon(owner) => self.feeds.abandon(&owner),
                    Effect::Reject(cause) => self.metrics.reject(cause),
                }
            }
            effects = self.machine.effects();
        }
        self.metrics.peers.set(self.peers.len() as f64);
        self.metrics.sessions.set(self.machine.sessions() as f64);
    }

    fn send(&mut self, id: PeerId, message: bytes::Bytes) {
        if self.peers.get(&id).is_some_and(|peer| !peer.send(message)) {
            self.metrics.reject(metrics::CAUSE_UNREAD);
            self.peers.remove(&id);
            self.machine.left(id, Instant::now());
        }
    }

    fn report(&mut self, id: AdapterId, report: Report) {
        let over = report == Report::Disconnected;
        // It has room for an answer to every call; one that is full or closed is no more.
        let sent = self.adapters.get(&id).is_some_and(|reports| reports.try_send(report).is_ok());
        if over || !sent {
            self.adapters.remove(&id);
            self.machine.gone(id);
        }
    }
}
