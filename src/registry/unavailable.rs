//! When no adapter can be asked: the fault that says so, for whole requests and for single entries.
//!
//! In: a member. Out: why its subscribes are refused now, if they are. Tests: `tests/errors.rs`, `tests/transcript.rs`.

use super::{Fault, FaultCode, Member, Registry};
use crate::adapter::supervisor::{Handle, broker_fault};

impl Registry {
    /// Why every subscribe of this user would be refused now, if so: there is no adapter and none is on its way.
    pub fn unavailable(&self, member: &Member) -> Option<Fault> {
        match self.links.with(|links| links.handle(member.user)) {
            Some(handle) => failed(&handle),
            None => Some(self.no_adapter(member)),
        }
    }

    pub(super) fn no_adapter(&self, member: &Member) -> Fault {
        let broker = self.brokers.name(member.broker);
        broker_fault(FaultCode::Broker, member.user, broker, "Broker adapter not found", "no supervisor")
    }
}

/// The fault of a user whose adapter could not be made or connected.
pub(super) fn failed(handle: &Handle) -> Option<Fault> {
    let status = handle.status();
    let state = &status.borrow().state;
    state.fault().map(|fault| Fault::new(FaultCode::Broker, format!("Broker adapter not available: {}", fault.message)))
}
