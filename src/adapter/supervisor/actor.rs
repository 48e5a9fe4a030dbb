//! The task of one user: waits for one thing, tells the machine, does what the machine wants.

mod calls;

use self::calls::Pending;
use super::machine::{Action, Input, Machine, Stands};
use super::signs::AtBroker;
use super::{Desired, Handle, Owner, RETRY_SCAN, State, Status, Supervisors, Unstarted, broker_fault};
use crate::adapter::metrics::{CallOp, CallOutcome};
use crate::adapter::{CallError, Command, Io, Report};
use crate::model::UserId;
use crate::policy::refusal::is_auth_error;
use crate::shards::key::{Call, CallId, Fault, FaultCode, KeyName, Op};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// One user's supervisor.
pub(super) struct Actor {
    all: Arc<Supervisors>,
    user: UserId,
    name: Arc<str>,
    owner: Arc<dyn Owner>,
    handle: Arc<Handle>,
    queue: mpsc::Receiver<(Call, KeyName)>,
    status: watch::Sender<Status>,
    machine: Machine,
    adapter: Option<Running>,
    /// Why there is none, told to whoever asks.
    fault: Option<Fault>,
    /// When the adapter was told to connect.
    connecting_since: Instant,
    /// The call that clears a kept adapter, and when it was made.
    clearing: Option<(CallId, Instant)>,
    pending: HashMap<CallId, Pending>,
    /// Deadlines of pending calls, oldest first; an id that is not pending any more is skipped.
    deadlines: VecDeque<(Instant, CallId)>,
    late: HashMap<CallId, (Op, KeyName)>,
    at_broker: AtBroker,
    next_scan: Option<Instant>,
}

/// A live adapter task; aborted when dropped.
struct Running {
    broker: Arc<str>,
    commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Report>,
    task: tokio::task::AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Woken {
    Look,
    Call(Call, KeyName),
    Report(Option<Report>),
}

impl Actor {
    pub(super) fn new(
        all: Arc<Supervisors>,
        user: UserId,
        name: Arc<str>,
        owner: Arc<dyn Owner>,
        handle: Arc<Handle>,
        unstarted: Unstarted,
    ) -> Self {
        Actor {
            machine: Machine::new(all.config.clone()),
            all,
            user,
            name,
            owner,
            handle,
            queue: unstarted.queue,
            status: unstarted.status,
            adapter: None,
            fault: None,
            connecting_since: Instant::now(),
            clearing: None,
            pending: HashMap::new(),
            deadlines: VecDeque::new(),
            late: HashMap::new(),
            at_broker: AtBroker::default(),
            next_scan: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut inputs = vec![Input::Look];
        while inputs.into_iter().all(|input| self.tell(input)) {
            inputs = match self.wait().await {
                Woken::Look => vec![],
                Woken::Call(call, name) => {
                    self.take_call(call, name);
                    vec![]
                }
                Woken::Report(Some(report)) => self.take_report(report).into_iter().collect(),
                Woken::Report(None) => {
                    vec![Input::Ended { reason: "the adapter ended by itself".to_owned(), refused: false }]
                }
            };
            self.expire_calls(Instant::now());
            self.scan_retries(Instant::now());
            if inputs.is_empty() {
                inputs.push(Input::Look);
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let deadline = self.deadlines.front().map(|(at, _)| *at);
        let wake = [self.machine.wake_at(), deadline, self.next_scan].into_iter().flatten().min();
        let reports = self.adapter.as_mut().map(|adapter| &mut adapter.reports);
        let report = async {
            match reports {
                Some(reports) => reports.recv().await,
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.handle.nudge.notified() => Woken::Look,
            report = report => Woken::Report(report),
            // The handle in `self` keeps the queue open.
            Some((call, name)) = self.queue.recv() => Woken::Call(call, name),
            () = timer => Woken::Look,
        }
    }

    /// Tells the machine and does what it wants. `false` when the task has nothing left to live for.
    fn tell(&mut self, input: Input) -> bool {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(desired) = self.owner.desired(self.user) else { return false };
            for action in self.machine.on(input, &desired, Instant::now(), rand::random()) {
                match action {
                    Action::Make(broker) => inputs.extend(self.make(broker).err()),
                    Action::Disconnect => inputs.extend(self.command(Command::Disconnect)),
                    Action::Drop => {
                        (self.adapter, self.clearing) = (None, None);
                        self.handle.signs.forget();
                    }
                    Action::Clear => {
                        let call = self.all.calls.next();
                        self.clearing = Some((call, Instant::now()));
                        inputs.extend(self.command(Command::UnsubscribeAll { call }));
                    }
                    Action::Uncleared => self.uncleared(),
                    Action::Begin { fresh } => self.new_generation(fresh),
                    Action::Fail { code, reason } => self.fail(code, &reason, &desired),
                    Action::Retire if self.owner.retire(self.user, desired.ticket) => return false,
                    // Somebody has come.
                    Action::Retire => {}
                }
            }
            self.publish(&desired);
        }
        true
    }

    fn publish(&self, desired: &Desired) {
        let fault = || self.fault.clone().unwrap_or_else(|| Fault::new(FaultCode::Broker, "There is no adapter"));
        let state = match self.machine.stands(self.next_scan.is_some()) {
            Stands::Absent => State::Absent,
            Stands::Connecting => State::Connecting,
            Stands::Live => State::Live,
            Stands::Degraded => State::Degraded,
            Stands::Reauthenticating { takes_calls } => State::Reauthenticating { takes_calls },
            Stands::Down => State::Down,
            Stands::Lingering => State::Lingering,
            Stands::Kept => State::Kept,
            Stands::Closing => State::Closing,
            Stands::Failed { refused: false } => State::Failed(fault()),
            Stands::Failed { refused: true } => State::Refused(fault()),
        };
        let status = Status { ticket: desired.ticket, state };
        self.status.send_if_modified(|seen| {
            let changed = *seen != status;
            *seen = status;
            changed
        });
    }

    /// Makes the adapter and tells it to connect.
    fn make(&mut self, broker: Arc<str>) -> Result<(), Input> {
        self.fault = None;
        match self.all.factory.make(&broker, &self.name) {
            Ok(made) => {
                // A call's answer takes one place, and so does each change of state.
                let (commands, their_commands) = mpsc::channel(self.all.config.calls_max + 8);
                let (their_reports, reports) = mpsc::channel(1024);
                let task = made.run(Io { commands: their_commands, reports: their_reports });
                let task = self.all.runtime.spawn(task).abort_handle();
                let sent = commands.try_send(Command::Connect);
                debug_assert!(sent.is_ok(), "a new queue has room");
                self.connecting_since = Instant::now();
                self.adapter = Some(Running { broker, commands, reports, task });
                Ok(())
            }
            Err(reason) => {
                let text = format!("No adapter for this broker: {reason}");
                let fault = broker_fault(FaultCode::Broker, self.user, &broker, &text, &reason);
                self.pending_fail(&fault);
                self.fault = Some(fault);
                Err(Input::NotMade)
            }
        }
    }

    /// Tells the adapter; one that takes nothing is as good as gone.
    fn command(&mut self, command: Command) -> Option<Input> {
        let sent = self.adapter.as_ref().is_some_and(|adapter| adapter.commands.try_send(command).is_ok());
        (!sent).then(|| Input::Ended { reason: "the adapter takes no calls".to_owned(), refused: false })
    }

    /// There is no adapter, and whoever waits for one is told why.
    fn fail(&mut self, code: FaultCode, reason: &str, desired: &Desired) {
        let broker = desired.broker.as_deref().unwrap_or("none");
        let fault = broker_fault(code, self.user, broker, reason, reason);
        self.pending_fail(&fault);
        self.fault = Some(fault);
    }

    /// Takes what the adapter says; what the machine must hear of it.
    fn take_report(&mut self, report: Report) -> Option<Input> {
        let now = Instant::now();
        let broker = Arc::clone(&self.adapter.as_ref()?.broker);
        let (user, broker) = (self.user.0, &*broker);
        match report {
            Report::Connected => {
                self.all.metrics.started(broker, true, now - self.connecting_since);
                tracing::debug!(user, broker, "adapter connected");
                self.handle.signs.forget();
                Some(Input::Connected)
            }
            Report::ConnectFailed { code, reason } => {
                self.all.metrics.started(broker, false, now - self.connecting_since);
                tracing::warn!(user, broker, reason, "adapter could not connect");
                let refused = is_auth_error(&reason);
                Some(Input::ConnectFailed { code, reason, refused })
            }
            Report::LoginRefused { reason } => {
                self.all.metrics.started(broker, false, now - self.connecting_since);
                tracing::warn!(user, broker, reason, "the broker refuses the adapter's credentials");
                Some(Input::ConnectFailed { code: FaultCode::BrokerInit, reason, refused: true })
            }
            Report::Answer { call, outcome } if self.clearing.is_some_and(|(ours, _)| ours == call) => {
                self.cleared(outcome, now)
            }
            // Those of an adapter that goes are given again by the next one.
            Report::Answer { .. } if !self.machine.takes_calls() && self.clearing.is_none() => None,
            Report::Answer { call, outcome } => self.take_answer(call, outcome, now),
            Report::Down { reason } => {
                tracing::warn!(user, broker, reason, "adapter is down");
                Some(Input::Down { refused: is_auth_error(&reason) })
            }
            Report::Reauthenticating { reason } => {
                tracing::warn!(user, broker, reason, "adapter waits for new credentials");
                Some(Input::Refused)
            }
            Report::Restored => {
                tracing::info!(user, broker, "broker connection is back, replaying");
                Some(Input::Restored)
            }
            Report::Connections { up, needed } => {
                self.handle.signs.set_connections(up);
                Some(Input::Whole(up >= needed))
            }
            Report::Heartbeat => {
                self.handle.signs.beat();
                None
            }
            Report::Capacity { left } => {
                self.handle.signs.set_capacity(left);
                None
            }
            Report::Lost { reason } => {
                tracing::warn!(user, broker, reason, "adapter lost");
                Some(Input::Ended { refused: is_auth_error(&reason), reason })
            }
            Report::Disconnected => {
                tracing::debug!(user, broker, "adapter disconnected");
                Some(Input::Ended { reason: "the adapter disconnected by itself".to_owned(), refused: false })
            }
        }
    }

    /// The answer to `unsubscribe_all`, unless it was given up.
    fn cleared(&mut self, outcome: Result<Option<u32>, CallError>, now: Instant) -> Option<Input> {
        let (_, since) = self.clearing.take()?;
        let (label, cause) = match &outcome {
            Ok(_) => (CallOutcome::Success, ""),
            Err(CallError::Refused(cause) | CallError::Full(cause)) => (CallOutcome::Refused, &**cause),
            Err(CallError::Failed(cause)) => (CallOutcome::Failed, &**cause),
        };
        self.all.metrics.called(self.broker(), CallOp::UnsubscribeAll, label, now - since);
        tracing::debug!(
            user = self.user.0,
            broker = self.broker(),
            cause,
            outcome = label.label(),
            "kept adapter cleared"
        );
        Some(Input::Cleared(outcome.is_ok()))
    }

    /// A kept adapter has not let go, or not in time.
    fn uncleared(&mut self) {
        if let Some((_, since)) = self.clearing.take() {
            self.all.metrics.called(self.broker(), CallOp::UnsubscribeAll, CallOutcome::Timeout, since.elapsed());
        }
        tracing::warn!(user = self.user.0, broker = self.broker(), "kept adapter not cleared, trying again");
        self.fail_waiting();
    }

    fn scan_retries(&mut self, now: Instant) {
        if self.handle.unsettled.swap(false, Ordering::AcqRel) {
            self.next_scan.get_or_insert(now + RETRY_SCAN);
        }
        if self.next_scan.is_none_or(|at| at > now) {
            return;
        }
        // Without an adapter to ask, what is due waits for the replay.
        let waiting = !self.machine.takes_calls() || self.owner.retry(self.user);
        self.next_scan = (waiting && self.adapter.is_some()).then(|| now + RETRY_SCAN);
    }

    /// A new life in which the broker has nothing of ours: calls of the old one are forgotten, and every key makes the
    /// call it needs now.
    fn new_generation(&mut self, fresh: bool) {
        self.handle.pending.fetch_sub(self.pending.len(), Ordering::AcqRel);
        self.pending.clear();
        self.deadlines.clear();
        self.late.clear();
        self.at_broker.cleared(&self.handle.signs);
        self.next_scan = None;
        self.handle.generation.fetch_add(1, Ordering::AcqRel);
        self.owner.reset(self.user, fresh);
    }

    fn generation(&self) -> u64 {
        self.handle.generation()
    }

    fn broker(&self) -> &str {
        self.adapter.as_ref().map_or("none", |adapter| &adapter.broker)
    }
}
