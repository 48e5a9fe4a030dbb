//! The task of one user: a loop that waits for one thing, then takes the step that what is desired demands.

mod calls;

use self::calls::Pending;
use super::signs::AtBroker;
use super::{CLOSE_WAIT, Desired, Handle, Owner, RETRY_SCAN, State, Status, Supervisors, Unstarted, broker_fault};
use crate::adapter::metrics::{CallOp, CallOutcome};
use crate::adapter::{CallError, Command, Io, Report};
use crate::model::UserId;
use crate::shards::key::{Call, CallId, Fault, FaultCode, KeyName, Op, retry_delay};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
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
    phase: Phase,
    /// Ticket and rebuild count that the last start took into account.
    tried: u64,
    rebuilt: u64,
    /// When the adapter goes if nobody comes; set while there is no session.
    linger_until: Option<Instant>,
    /// Starts that failed and adapters lost soon after their start, in a row.
    failures: u32,
    /// Clearings of a kept adapter that failed in a row.
    uncleared: u32,
    /// When the adapter became ready.
    ready_since: Instant,
    /// It has said that its broker is not connected.
    down: bool,
    pending: HashMap<CallId, Pending>,
    /// Deadlines of pending calls, oldest first; an id that is not pending any more is skipped.
    deadlines: VecDeque<(Instant, CallId)>,
    late: HashMap<CallId, (Op, KeyName)>,
    at_broker: AtBroker,
    next_scan: Option<Instant>,
}

/// Where the user's adapter stands.
enum Phase {
    /// There is none.
    Down { fault: Option<Fault>, retry_at: Option<Instant> },
    /// There is one.
    Up { adapter: Running, stage: Stage },
}

enum Stage {
    Connecting {
        since: Instant,
    },
    Ready {
        kept: bool,
        clear_at: Option<Instant>,
    },
    /// A kept adapter is told to let go of everything; keys wait for the answer.
    Clearing {
        call: CallId,
        since: Instant,
    },
    Closing {
        since: Instant,
    },
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
            all,
            user,
            name,
            owner,
            handle,
            queue: unstarted.queue,
            status: unstarted.status,
            phase: Phase::Down { fault: None, retry_at: None },
            tried: 0,
            rebuilt: 0,
            linger_until: None,
            failures: 0,
            uncleared: 0,
            ready_since: Instant::now(),
            down: false,
            pending: HashMap::new(),
            deadlines: VecDeque::new(),
            late: HashMap::new(),
            at_broker: AtBroker::default(),
            next_scan: None,
        }
    }

    pub(super) async fn run(mut self) {
        while self.step() {
            match self.wait().await {
                Woken::Look => {}
                Woken::Call(call, name) => self.take_call(call, name),
                Woken::Report(Some(report)) => self.take_report(report),
                Woken::Report(None) => self.adapter_ended("the adapter ended by itself"),
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let wake = self.next_wake();
        let reports = match &mut self.phase {
            Phase::Up { adapter, .. } => Some(&mut adapter.reports),
            Phase::Down { .. } => None,
        };
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

    fn next_wake(&self) -> Option<Instant> {
        let config = &self.all.config;
        let phase = match &self.phase {
            Phase::Down { retry_at, .. } => *retry_at,
            Phase::Up { stage, .. } => match stage {
                Stage::Connecting { since } => Some(*since + config.connect_timeout),
                Stage::Ready { clear_at, .. } => *clear_at,
                Stage::Clearing { since, .. } => Some(*since + config.call_timeout),
                Stage::Closing { since } => Some(*since + CLOSE_WAIT),
            },
        };
        let linger = match &self.phase {
            // A kept or closing adapter lingers no more.
            Phase::Up { stage: Stage::Connecting { .. } | Stage::Ready { kept: false, .. }, .. } => self.linger_until,
            _ => None,
        };
        let deadline = self.deadlines.front().map(|(at, _)| *at);
        [phase, linger, deadline, self.next_scan].into_iter().flatten().min()
    }

    /// Does everything that is due, until nothing more is. `false` when the task has nothing left to live for.
    fn step(&mut self) -> bool {
        let now = Instant::now();
        self.expire_calls(now);
        self.scan_retries(now);
        let Some(desired) = self.owner.desired(self.user) else { return false };
        if desired.sessions > 0 {
            self.linger_until = None;
        } else {
            self.linger_until.get_or_insert(now + self.all.config.linger);
        }
        let alive = match &self.phase {
            Phase::Down { .. } => self.step_down(&desired, now),
            Phase::Up { .. } => self.step_up(&desired, now),
        };
        self.publish(&desired);
        alive
    }

    fn step_down(&mut self, desired: &Desired, now: Instant) -> bool {
        let Phase::Down { retry_at, .. } = &self.phase else { return true };
        if desired.sessions == 0 {
            // Nobody is there: keys that still wait for a broker that is gone are forgotten, and so is the user.
            self.new_generation(true);
            return !self.owner.retire(self.user, desired.ticket);
        }
        let asked = desired.ticket > self.tried || desired.rebuild > self.rebuilt;
        if asked || retry_at.is_some_and(|at| at <= now) {
            self.start_adapter(desired, now);
        }
        true
    }

    fn step_up(&mut self, desired: &Desired, now: Instant) -> bool {
        let config = &self.all.config;
        let Phase::Up { adapter, stage } = &mut self.phase else { return true };
        let other_broker = desired.broker.as_ref().is_some_and(|b| *b != adapter.broker);
        let replace = other_broker || desired.rebuild > self.rebuilt;
        let unused = self.linger_until.is_some_and(|at| at <= now);
        match stage {
            Stage::Closing { since } if *since + CLOSE_WAIT <= now => self.gone(),
            Stage::Closing { .. } => {}
            Stage::Connecting { since } if *since + config.connect_timeout <= now => {
                self.start_failed(FaultCode::BrokerConnection, "The broker connection timed out", desired.sessions);
            }
            _ if replace => self.close(now),
            Stage::Connecting { .. } if unused => self.close(now),
            Stage::Connecting { .. } => {}
            Stage::Ready { kept, clear_at } => {
                let keep = config.keep_alive.contains(&*adapter.broker);
                if desired.sessions > 0 {
                    (*kept, *clear_at) = (false, None);
                } else if unused && !keep {
                    self.close(now);
                } else if unused && (!*kept || clear_at.is_some_and(|at| at <= now)) {
                    self.clear(now);
                }
            }
            Stage::Clearing { since, .. } if *since + config.call_timeout <= now => {
                self.cleared(Err(CallOutcome::Timeout), "not answered in time", now);
            }
            Stage::Clearing { .. } => {}
        }
        match &self.phase {
            // `close`, `gone` and failures may have taken it down: what is desired is looked at anew.
            Phase::Down { .. } => self.step_down(desired, now),
            Phase::Up { .. } => true,
        }
    }

    fn publish(&self, desired: &Desired) {
        let idle = desired.sessions == 0;
        let state = match &self.phase {
            Phase::Down { fault: Some(fault), .. } => State::Failed(fault.clone()),
            Phase::Down { fault: None, .. } => State::Absent,
            Phase::Up { stage, .. } => match stage {
                Stage::Connecting { .. } => State::Connecting,
                Stage::Ready { kept: true, .. } => State::Kept,
                Stage::Ready { .. } | Stage::Clearing { .. } if idle => State::Lingering,
                Stage::Ready { .. } if self.down => State::Down,
                Stage::Ready { .. } => State::Ready,
                Stage::Clearing { .. } => State::Connecting,
                Stage::Closing { .. } => State::Closing,
            },
        };
        let status = Status { ticket: desired.ticket, state };
        self.status.send_if_modified(|seen| {
            let changed = *seen != status;
            *seen = status;
            changed
        });
    }

    fn start_adapter(&mut self, desired: &Desired, now: Instant) {
        self.tried = desired.ticket;
        self.rebuilt = desired.rebuild;
        let Some(broker) = desired.broker.clone() else {
            self.pending_fail(&Fault::new(FaultCode::Broker, "No broker configured for this user"));
            let fault = broker_fault(FaultCode::Broker, self.user, "none", "No broker is configured", "no broker row");
            self.phase = Phase::Down { fault: Some(fault), retry_at: None };
            return;
        };
        match self.all.factory.make(&broker, &self.name) {
            Ok(made) => {
                // A call's answer takes one place, and so does each change of state.
                let (commands, their_commands) = mpsc::channel(self.all.config.calls_max + 8);
                let (their_reports, reports) = mpsc::channel(1024);
                let task = made.run(Io { commands: their_commands, reports: their_reports });
                let task = self.all.runtime.spawn(task).abort_handle();
                let sent = commands.try_send(Command::Connect);
                debug_assert!(sent.is_ok(), "a new queue has room");
                let adapter = Running { broker, commands, reports, task };
                self.phase = Phase::Up { adapter, stage: Stage::Connecting { since: now } };
            }
            Err(reason) => {
                let text = format!("No adapter for this broker: {reason}");
                let fault = broker_fault(FaultCode::Broker, self.user, &broker, &text, &reason);
                self.pending_fail(&fault);
                self.phase = Phase::Down { fault: Some(fault), retry_at: None };
            }
        }
    }

    /// The adapter could not start. Without a client that relies on it, the next attach is the retry; else it is
    /// tried again in the background.
    fn start_failed(&mut self, code: FaultCode, reason: &str, sessions: usize) {
        let Phase::Up { adapter, stage } = &self.phase else { return };
        let now = Instant::now();
        let since = if let Stage::Connecting { since } = stage { *since } else { now };
        self.all.metrics.started(&adapter.broker, false, now - since);
        let fault = broker_fault(code, self.user, &adapter.broker, reason, reason);
        let relied_on = self.failures > 0 || self.generation() > 1 || now - since >= ATTACH_WINDOW;
        self.pending_fail(&fault);
        let retry_at = (relied_on && sessions > 0).then(|| now + retry_delay(self.failures));
        if relied_on {
            self.failures = self.failures.saturating_add(1);
        }
        self.phase = Phase::Down { fault: Some(fault), retry_at };
    }

    fn close(&mut self, now: Instant) {
        let Phase::Up { adapter, stage } = &mut self.phase else { return };
        *stage = Stage::Closing { since: now };
        if adapter.commands.try_send(Command::Disconnect).is_err() {
            self.gone();
        }
    }

    /// The adapter is no more, as was wanted.
    fn gone(&mut self) {
        tracing::debug!(user = self.user.0, "adapter disconnected");
        self.failures = 0;
        self.phase = Phase::Down { fault: None, retry_at: Some(Instant::now()) };
    }

    /// The adapter is no more, unasked: replaced at once, and with back-off when that fails.
    fn adapter_ended(&mut self, reason: &str) {
        let Phase::Up { adapter, stage } = &self.phase else { return };
        match stage {
            Stage::Closing { .. } => self.gone(),
            Stage::Connecting { .. } => {
                let sessions = self.owner.desired(self.user).map_or(0, |d| d.sessions);
                self.start_failed(FaultCode::BrokerConnection, reason, sessions);
            }
            Stage::Ready { .. } | Stage::Clearing { .. } => {
                tracing::warn!(user = self.user.0, broker = &*adapter.broker, reason, "adapter lost, replacing it");
                let now = Instant::now();
                if now - self.ready_since >= STEADY {
                    self.failures = 0;
                }
                // One that dies right after each login must not log in all the time.
                let again = if self.failures == 0 { now } else { now + retry_delay(self.failures - 1) };
                self.failures = self.failures.saturating_add(1);
                self.phase = Phase::Down { fault: None, retry_at: Some(again) };
            }
        }
    }

    fn clear(&mut self, now: Instant) {
        let call = self.all.calls.next();
        let Phase::Up { adapter, stage } = &mut self.phase else { return };
        *stage = Stage::Clearing { call, since: now };
        if adapter.commands.try_send(Command::UnsubscribeAll { call }).is_err() {
            self.adapter_ended("the adapter takes no calls");
        }
    }

    /// The answer to `unsubscribe_all`. After a success the broker has nothing: keys start from there.
    fn cleared(&mut self, outcome: Result<(), CallOutcome>, cause: &str, now: Instant) {
        let Phase::Up { adapter, stage } = &mut self.phase else { return };
        let Stage::Clearing { since, .. } = stage else { return };
        let label = outcome.err().unwrap_or(CallOutcome::Success);
        self.all.metrics.called(&adapter.broker, CallOp::UnsubscribeAll, label, now - *since);
        if outcome.is_ok() {
            tracing::debug!(user = self.user.0, broker = &*adapter.broker, "kept adapter cleared");
            *stage = Stage::Ready { kept: true, clear_at: None };
            self.uncleared = 0;
            self.new_generation(false);
        } else {
            tracing::warn!(
                user = self.user.0,
                broker = &*adapter.broker,
                cause,
                "kept adapter not cleared, trying again"
            );
            *stage = Stage::Ready { kept: true, clear_at: Some(now + retry_delay(self.uncleared)) };
            self.uncleared = self.uncleared.saturating_add(1);
            self.fail_waiting();
        }
    }

    fn take_report(&mut self, report: Report) {
        let now = Instant::now();
        let Phase::Up { adapter, stage } = &mut self.phase else { return };
        match (report, stage) {
            (Report::Connected, stage @ Stage::Connecting { .. }) => {
                let Stage::Connecting { since } = *stage else { return };
                *stage = Stage::Ready { kept: false, clear_at: None };
                self.all.metrics.started(&adapter.broker, true, now - since);
                tracing::debug!(user = self.user.0, broker = &*adapter.broker, "adapter connected");
                (self.ready_since, self.down) = (now, false);
                self.handle.signs.forget_beats();
                self.handle.signs.set_capacity(None);
                self.new_generation(true);
            }
            (Report::ConnectFailed { code, reason }, Stage::Connecting { .. }) => {
                let sessions = self.owner.desired(self.user).map_or(0, |d| d.sessions);
                self.start_failed(code, &reason, sessions);
            }
            (Report::Answer { call, outcome }, Stage::Clearing { call: ours, .. }) if call == *ours => match outcome {
                Ok(_) => self.cleared(Ok(()), "", now),
                Err(CallError::Refused(cause) | CallError::Full(cause)) => {
                    self.cleared(Err(CallOutcome::Refused), &cause, now);
                }
                Err(CallError::Failed(cause)) => self.cleared(Err(CallOutcome::Failed), &cause, now),
            },
            (Report::Answer { call, outcome }, Stage::Ready { .. } | Stage::Clearing { .. }) => {
                self.take_answer(call, outcome, now);
            }
            (Report::Down { reason }, Stage::Ready { .. } | Stage::Clearing { .. }) => {
                tracing::warn!(user = self.user.0, broker = &*adapter.broker, reason, "adapter is down");
                self.down = true;
            }
            (Report::Restored, Stage::Ready { .. }) => {
                self.down = false;
                tracing::info!(user = self.user.0, broker = &*adapter.broker, "broker connection is back, replaying");
                self.new_generation(false);
            }
            (Report::Heartbeat, _) => self.handle.signs.beat(),
            (Report::Capacity { left }, _) => self.handle.signs.set_capacity(Some(left)),
            (Report::Lost { reason }, _) => self.adapter_ended(&reason),
            (Report::Disconnected, _) => self.adapter_ended("the adapter disconnected by itself"),
            // Late words of a life that is over.
            (Report::Connected | Report::ConnectFailed { .. } | Report::Answer { .. }, _) => {}
            (Report::Down { .. } | Report::Restored, _) => {}
        }
    }

    fn scan_retries(&mut self, now: Instant) {
        if self.handle.unsettled.swap(false, Ordering::AcqRel) {
            self.next_scan.get_or_insert(now + RETRY_SCAN);
        }
        if self.next_scan.is_none_or(|at| at > now) {
            return;
        }
        // Without an adapter to ask, what is due waits for the replay.
        let ready = matches!(&self.phase, Phase::Up { stage: Stage::Ready { .. }, .. });
        let waiting = !ready || self.owner.retry(self.user);
        let connected_some_day = !matches!(&self.phase, Phase::Down { .. });
        self.next_scan = (waiting && connected_some_day).then(|| now + RETRY_SCAN);
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
        match &self.phase {
            Phase::Up { adapter, .. } => &adapter.broker,
            Phase::Down { .. } => "none",
        }
    }
}

/// A start that takes longer than a client waits for `authenticate` is relied upon: the client was told success.
const ATTACH_WINDOW: Duration = Duration::from_secs(3);
/// An adapter lost after it was ready this long is replaced at once; sooner, with back-off.
const STEADY: Duration = Duration::from_secs(60);
