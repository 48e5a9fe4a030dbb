//! Kind `scripted`: an adapter for tests that does what its script says, call by call, without a clock.
//!
//! A [`Script`] is shared by all adapters of its factory: it records every command in order, counts adapters alive, and
//! decides each answer: at once, or when the test releases it. What the broker holds is derived from the calls that were
//! answered with success, so a test can compare it with what is wanted.

use super::{Adapter, AdapterFactory, CallError, Command, Io, Report, Task};
use crate::shards::key::{CallId, FaultCode, KeyName};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// What happens to one call or connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Play {
    /// Success.
    Accept,
    /// Success with this depth.
    AcceptDepth(u32),
    /// The broker says no, with this message.
    Refuse(String),
    /// Something breaks; the text is the true cause.
    Fail(String),
    /// Nothing, until the test answers by hand ([`Script::answer`], [`Script::connected`]).
    Hold,
    /// The adapter dies.
    Die,
}

/// One command as it reached an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which adapter, counted from 1 in the order they were made.
    pub adapter: usize,
    /// Its broker.
    pub broker: String,
    /// Its user.
    pub user: String,
    /// What it was told.
    pub command: Command,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    connects: VecDeque<Play>,
    calls: VecDeque<Play>,
    otherwise: Option<Play>,
    made: usize,
    alive: usize,
    alive_max: usize,
    reports: HashMap<usize, mpsc::Sender<Report>>,
    at_broker: HashMap<usize, BTreeSet<String>>,
    refused_kinds: Vec<String>,
}

/// The test's hold on scripted adapters. State lives in a watch channel: tests wait for changes instead of sleeping.
#[derive(Clone)]
pub struct Script {
    state: Arc<watch::Sender<State>>,
}

impl Default for Script {
    fn default() -> Self {
        Script { state: Arc::new(watch::channel(State::default()).0) }
    }
}

impl Script {
    /// The next connects and disconnects, in order; after them, they succeed.
    pub fn connects(&self, plays: impl IntoIterator<Item = Play>) {
        self.state.send_modify(|s| s.connects.extend(plays));
    }

    /// The next calls, in order; after them, [`Script::otherwise`].
    pub fn calls(&self, plays: impl IntoIterator<Item = Play>) {
        self.state.send_modify(|s| s.calls.extend(plays));
    }

    /// Forgets the plays that are left.
    pub fn clear(&self) {
        self.state.send_modify(|s| {
            s.calls.clear();
            s.connects.clear();
        });
    }

    /// What happens to calls beyond the script; `Accept` unless told.
    pub fn otherwise(&self, play: Play) {
        self.state.send_modify(|s| s.otherwise = Some(play));
    }

    /// Brokers for which no adapter can be made.
    pub fn refuse_broker(&self, broker: &str) {
        self.state.send_modify(|s| s.refused_kinds.push(broker.into()));
    }

    /// Every command so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.borrow().seen.clone()
    }

    /// Subscribes and unsubscribes so far, e.g. `+NSE:SBIN/LTP#5`, `-NSE:SBIN/LTP`.
    pub fn log(&self) -> Vec<String> {
        self.state.borrow().seen.iter().filter_map(|s| brief(&s.command)).collect()
    }

    /// Calls (ids) of these commands so far, in order.
    pub fn call_ids(&self) -> Vec<CallId> {
        self.state.borrow().seen.iter().filter_map(|s| call_of(&s.command)).collect()
    }

    /// Adapters made so far.
    pub fn made(&self) -> usize {
        self.state.borrow().made
    }

    /// Adapters whose task runs.
    pub fn alive(&self) -> usize {
        self.state.borrow().alive
    }

    /// Most adapters that ever ran at once.
    pub fn alive_max(&self) -> usize {
        self.state.borrow().alive_max
    }

    /// What the broker holds for the newest adapter, sorted, e.g. `NSE:SBIN/LTP`.
    pub fn at_broker(&self) -> Vec<String> {
        let state = self.state.borrow();
        state.at_broker.get(&state.made).into_iter().flatten().cloned().collect()
    }

    /// Answers a held call of the newest adapter by hand; success takes effect at the broker now.
    pub async fn answer(&self, call: CallId, outcome: Result<Option<u32>, CallError>) {
        let adapter = self.made();
        if outcome.is_ok() {
            self.state.send_modify(|s| {
                let command = s.seen.iter().find(|seen| call_of(&seen.command) == Some(call));
                let command = command.map(|seen| seen.command.clone());
                if let Some(command) = command {
                    s.take_effect(adapter, &command);
                }
            });
        }
        self.report(Report::Answer { call, outcome }).await;
    }

    /// Lets a held connect of the newest adapter succeed.
    pub async fn connected(&self) {
        self.report(Report::Connected).await;
    }

    /// Makes the newest adapter say this. After [`Report::Restored`] its broker holds nothing.
    pub async fn report(&self, report: Report) {
        if report == Report::Restored {
            self.state.send_modify(|s| {
                let newest = s.made;
                s.at_broker.remove(&newest);
            });
        }
        let sender = {
            let state = self.state.borrow();
            state.reports.get(&state.made).cloned()
        };
        if let Some(sender) = sender {
            // A dead adapter says nothing, and nobody listens to it either.
            let _ = sender.send(report).await;
        }
    }

    /// Waits until `done` holds. A test that waits for what never comes hangs, and its runner says so.
    pub async fn until(&self, mut done: impl FnMut(&Script) -> bool) {
        let mut changes = self.state.subscribe();
        while !done(self) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn next_call(&mut self) -> Play {
        self.calls.pop_front().or_else(|| self.otherwise.clone()).unwrap_or(Play::Accept)
    }

    fn take_effect(&mut self, adapter: usize, command: &Command) {
        let held = self.at_broker.entry(adapter).or_default();
        match command {
            Command::Subscribe { name, .. } => {
                held.insert(text(name));
            }
            Command::Unsubscribe { name, .. } => {
                held.remove(&text(name));
            }
            Command::UnsubscribeAll { .. } => held.clear(),
            Command::Connect | Command::Disconnect => {}
        }
    }
}

impl AdapterFactory for Script {
    fn make(&self, broker: &str, user: &str) -> Result<Box<dyn Adapter>, String> {
        if self.state.borrow().refused_kinds.iter().any(|b| b == broker) {
            return Err(format!("unknown broker {broker}"));
        }
        let mut id = 0;
        self.state.send_modify(|s| {
            s.made += 1;
            id = s.made;
        });
        Ok(Box::new(Scripted { script: self.clone(), id, broker: broker.into(), user: user.into() }))
    }
}

struct Scripted {
    script: Script,
    id: usize,
    broker: String,
    user: String,
}

/// Counts an adapter task down however it ends, by abort too.
struct Alive(Script);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.state.send_modify(|s| s.alive -= 1);
    }
}

impl Adapter for Scripted {
    fn run(self: Box<Self>, mut io: Io) -> Task {
        Box::pin(async move {
            self.script.state.send_modify(|s| {
                s.alive += 1;
                s.alive_max = s.alive_max.max(s.alive);
                s.reports.insert(self.id, io.reports.clone());
            });
            let _alive = Alive(self.script.clone());
            while let Some(command) = io.commands.recv().await {
                let mut play = Play::Accept;
                self.script.state.send_modify(|s| {
                    s.seen.push(Seen {
                        adapter: self.id,
                        broker: self.broker.clone(),
                        user: self.user.clone(),
                        command: command.clone(),
                    });
                    play = match &command {
                        Command::Connect | Command::Disconnect => s.connects.pop_front().unwrap_or(Play::Accept),
                        _ => s.next_call(),
                    };
                    if matches!(play, Play::Accept | Play::AcceptDepth(_)) {
                        s.take_effect(self.id, &command);
                    }
                });
                let over = command == Command::Disconnect;
                let report = match (&command, play) {
                    (_, Play::Die) => break,
                    (_, Play::Hold) => continue,
                    (Command::Disconnect, _) => Report::Disconnected,
                    (Command::Connect, Play::Accept | Play::AcceptDepth(_)) => Report::Connected,
                    (Command::Connect, Play::Refuse(reason)) => {
                        Report::ConnectFailed { code: FaultCode::BrokerInit, reason }
                    }
                    (Command::Connect, Play::Fail(reason)) => {
                        Report::ConnectFailed { code: FaultCode::BrokerConnection, reason }
                    }
                    (command, play) => {
                        let Some(call) = call_of(command) else { continue };
                        let outcome = match play {
                            Play::AcceptDepth(depth) => Ok(Some(depth)),
                            Play::Refuse(message) => Err(CallError::Refused(message)),
                            Play::Fail(cause) => Err(CallError::Failed(cause)),
                            Play::Accept | Play::Hold | Play::Die => Ok(None),
                        };
                        Report::Answer { call, outcome }
                    }
                };
                if io.reports.send(report).await.is_err() || over {
                    break;
                }
            }
            self.script.state.send_modify(|s| {
                s.reports.remove(&self.id);
            });
        })
    }
}

fn text(name: &KeyName) -> String {
    format!("{name:?}")
}

fn brief(command: &Command) -> Option<String> {
    Some(match command {
        Command::Subscribe { name, depth, .. } => format!("+{name:?}#{depth}"),
        Command::Unsubscribe { name, .. } => format!("-{name:?}"),
        Command::UnsubscribeAll { .. } => "-*".into(),
        Command::Connect | Command::Disconnect => return None,
    })
}

fn call_of(command: &Command) -> Option<CallId> {
    match command {
        Command::Subscribe { call, .. } | Command::Unsubscribe { call, .. } | Command::UnsubscribeAll { call } => {
            Some(*call)
        }
        Command::Connect | Command::Disconnect => None,
    }
}
