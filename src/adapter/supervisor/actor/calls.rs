//! Calls under way: sent, answered, given up, answered late.

use super::Actor;
use crate::adapter::metrics::{CallOp, CallOutcome};
use crate::adapter::supervisor::machine::Input;
use crate::adapter::supervisor::{LATE_CALLS_MAX, broker_fault};
use crate::adapter::{CallError, Command};
use crate::model::limited;
use crate::policy::refusal::is_auth_error;
use crate::shards::key::{Call, CallId, Fault, FaultCode, KeyName, Op};
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// A call without an answer yet.
pub(super) struct Pending {
    op: Op,
    name: KeyName,
    /// When it went to the adapter; `None` while there is none to take it.
    sent: Option<Instant>,
}

impl Actor {
    pub(super) fn take_call(&mut self, call: Call, name: KeyName) {
        if call.generation != self.generation() {
            // Its key has been brought to the new generation since, with a call of its own.
            self.handle.pending.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let now = Instant::now();
        if let Some(fault) = self.fault.clone() {
            self.handle.pending.fetch_sub(1, Ordering::AcqRel);
            self.owner.answered(self.user, &name, call.id, Err(fault));
            return;
        }
        self.deadlines.push_back((now + self.all.config.call_timeout, call.id));
        let mut pending = Pending { op: call.op, name, sent: None };
        let sent = match &self.adapter {
            Some(adapter) if self.machine.takes_calls() => {
                let name = pending.name.clone();
                let command = match call.op {
                    Op::Subscribe => Command::Subscribe { call: call.id, name, depth: call.depth },
                    Op::Unsubscribe => Command::Unsubscribe { call: call.id, name },
                };
                pending.sent = Some(now);
                adapter.commands.try_send(command).is_ok()
            }
            // It waits: a connect or a clearing ends in a new generation, whose calls go out then.
            _ => true,
        };
        self.pending.insert(call.id, pending);
        if !sent {
            // Its words are ours, and tell nothing of credentials.
            self.take_answer(call.id, Err(CallError::Failed("the adapter's queue is full".into())), now);
        }
    }

    /// Calls that waited for a clearing that has failed are answered with an error: what the broker holds is not known.
    pub(super) fn fail_waiting(&mut self) {
        let waiting: Vec<CallId> = self.pending.iter().filter(|(_, p)| p.sent.is_none()).map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(p) = self.pending.remove(&id) else { continue };
            self.handle.pending.fetch_sub(1, Ordering::AcqRel);
            let text = "The broker could not be cleared";
            let fault = broker_fault(FaultCode::Broker, self.user, self.broker(), text, "unsubscribe_all failed");
            self.owner.answered(self.user, &p.name, id, Err(fault));
        }
    }

    /// What the machine must hear of it.
    pub(super) fn take_answer(
        &mut self,
        call: CallId,
        outcome: Result<Option<u32>, CallError>,
        now: Instant,
    ) -> Option<Input> {
        let Some(mut p) = self.pending.remove(&call) else {
            if let (Some((op, name)), Ok(depth)) = (self.late.remove(&call), outcome) {
                limited!(info, 10, user = self.user.0, key = ?name, op = op.label(), "late answer from the broker");
                self.at_broker.done(&self.handle.signs, op, &name);
                self.owner.late_success(self.user, &name, call, op, depth);
            }
            return None;
        };
        let broker = self.broker();
        let took = now - p.sent.unwrap_or(now);
        let refused = match &outcome {
            Err(CallError::Refused(text)) if is_auth_error(text) => Some(CallOutcome::Refused),
            Err(CallError::Failed(text)) if is_auth_error(text) => Some(CallOutcome::Failed),
            _ => None,
        };
        if let Some(label) = refused
            && self.machine.may_reauthenticate(now)
        {
            self.all.metrics.called(broker, call_op(p.op), label, took);
            tracing::warn!(user = self.user.0, broker, "a call tells of refused credentials: the adapter logs in anew");
            // It is made again by the next adapter, and whoever waits hears of that one.
            p.sent = None;
            self.pending.insert(call, p);
            return Some(Input::CallRefused);
        }
        let (label, outcome) = match outcome {
            Ok(depth) => (CallOutcome::Success, Ok(depth)),
            Err(CallError::Refused(message)) => (CallOutcome::Refused, Err(Fault::new(FaultCode::Refused, message))),
            Err(CallError::Full(message)) => (CallOutcome::Refused, Err(Fault::new(FaultCode::Capacity, message))),
            Err(CallError::Failed(cause)) => {
                let text = "The broker call failed";
                (CallOutcome::Failed, Err(broker_fault(FaultCode::Broker, self.user, broker, text, &cause)))
            }
        };
        self.all.metrics.called(broker, call_op(p.op), label, took);
        self.handle.pending.fetch_sub(1, Ordering::AcqRel);
        if outcome.is_ok() {
            self.at_broker.done(&self.handle.signs, p.op, &p.name);
        }
        self.owner.answered(self.user, &p.name, call, outcome);
        None
    }

    pub(super) fn expire_calls(&mut self, now: Instant) {
        while let Some((at, call)) = self.deadlines.front().copied() {
            if !self.pending.contains_key(&call) {
                self.deadlines.pop_front();
                continue;
            }
            if at > now {
                break;
            }
            self.deadlines.pop_front();
            let Some(p) = self.pending.remove(&call) else { continue };
            self.handle.pending.fetch_sub(1, Ordering::AcqRel);
            let (broker, cause) = (self.broker(), "call deadline passed");
            let Some(sent) = p.sent else {
                let text = "The broker is not connected";
                let fault = broker_fault(FaultCode::Broker, self.user, broker, text, cause);
                self.owner.answered(self.user, &p.name, call, Err(fault));
                continue;
            };
            let fault = broker_fault(FaultCode::Broker, self.user, broker, "The broker did not answer in time", cause);
            self.all.metrics.called(broker, call_op(p.op), CallOutcome::Timeout, now - sent);
            if self.late.len() < LATE_CALLS_MAX {
                self.late.insert(call, (p.op, p.name.clone()));
            }
            self.owner.timed_out(self.user, &p.name, call, fault);
        }
    }

    pub(super) fn pending_fail(&mut self, fault: &Fault) {
        self.deadlines.clear();
        for (id, p) in std::mem::take(&mut self.pending) {
            self.handle.pending.fetch_sub(1, Ordering::AcqRel);
            self.owner.answered(self.user, &p.name, id, Err(fault.clone()));
        }
    }
}

fn call_op(op: Op) -> CallOp {
    match op {
        Op::Subscribe => CallOp::Subscribe,
        Op::Unsubscribe => CallOp::Unsubscribe,
    }
}
