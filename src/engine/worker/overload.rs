//! A worker under overload: what it tells of its load, and the measures it takes.
//!
//! In: the level, from the session layer. Out: samples for [`crate::engine::load::Load`]; a longer rest between flushes,
//! a lower rate for what may be merged. Tests:
//! `tests/overload.rs`.

use super::{Inner, Worker};
use crate::model::{Class, Level, SessionId};
use crate::policy::overload;
use std::rc::Rc;
use std::time::Instant;

impl Worker {
    /// Takes the measures of an overload level that are about delivery.
    pub fn set_overload(self: &Rc<Self>, level: Level) {
        self.max_delay.set(self.config.flush_max_delay * overload::pacing_factor(level));
        for class in [Class::High, Class::Normal, Class::Low] {
            self.set_conflation_interval(class, overload::conflation(level, class));
        }
    }

    /// Since when the session is behind, if it is.
    pub fn behind_since(&self, id: SessionId) -> Option<Instant> {
        self.inner.borrow_mut().connection(id)?.outbox.behind_since()
    }

    /// Forgets all batches before `number`: every session that was not behind has been written.
    pub(super) fn let_go(&self, inner: &mut Inner, number: u64, now: Instant) {
        if let Some(read_at) = inner.batches.release(number) {
            self.stats.load.delivered(now.saturating_duration_since(read_at));
        }
        self.stats.load.holds(inner.batches.held.len());
    }

    /// The same for all batches, once nobody is left to be written.
    pub(super) fn release_all(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.touched.is_empty() && !inner.batches.held.is_empty() {
            let next = inner.batches.next();
            self.let_go(&mut inner, next, Instant::now());
        }
    }
}
