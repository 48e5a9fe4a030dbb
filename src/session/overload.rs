//! Sessions under overload: the level as it reaches one worker's sessions.
//!
//! In: the shared level, read at each sweep. Out: the worker's measures, a notice to each session that asked for it, goodbyes to the
//! slowest of class low. The level is read, never queued: what is full must not delay the news that it is. A session that asks for
//! notices while the level is not 0 is told at once. Tests: `tests/overload.rs`.

use super::Sessions;
use super::state::Session;
use crate::model::{Class, Level, SessionId};
use crate::policy::overload::evictions;
use crate::wire::close::CloseReason;
use crate::wire::reply;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between two rounds of goodbyes.
const SHED_EVERY: Duration = Duration::from_secs(1);
/// A session behind for less is not slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

impl Sessions {
    /// Brings worker and sessions to the present level.
    pub(super) fn follow_overload(&self, now: Instant) {
        let level = self.config.overload.get();
        if self.level.replace(level) != level {
            self.worker.set_overload(level);
            let all: Vec<_> = self.open.borrow().values().map(Rc::clone).collect();
            let asked = all.iter().filter(|session| session.state.borrow().held.notices().overload);
            asked.for_each(|session| self.send_level(session, level));
        }
        if now >= self.next_shed.get() {
            self.next_shed.set(now + SHED_EVERY);
            self.shed_slowest(level, now);
        }
    }

    /// Tells a session that has just asked for notices the level it would otherwise not hear of before the next change.
    pub(super) fn tell_overload(&self, session: &Session) {
        let level = self.level.get();
        if level > Level::Normal {
            self.send_level(session, level);
        }
    }

    fn send_level(&self, session: &Session, level: Level) {
        let mut json = Vec::with_capacity(40);
        reply::overload(&mut json, level.number());
        self.reply(session, &json);
    }

    /// Closes sessions of class low that have been behind for longest. 4408, since not reading is what chose them, not a limit of their
    /// key (1013).
    fn shed_slowest(&self, level: Level, now: Instant) {
        if evictions(level, usize::MAX) == 0 {
            return;
        }
        let open = self.open.borrow();
        let low = open.values().filter(|session| session.state.borrow().class() == Some(Class::Low));
        let mut slow: Vec<(Instant, SessionId)> = low
            .filter_map(|session| Some((self.worker.behind_since(session.id)?, session.id)))
            .filter(|(since, _)| now.saturating_duration_since(*since) >= SLOW_AFTER)
            .collect();
        slow.sort_unstable_by_key(|(since, _)| *since);
        let goes = evictions(level, slow.len());
        let goodbyes: Vec<_> = slow[..goes].iter().filter_map(|(_, id)| open.get(id).map(Rc::clone)).collect();
        drop(open);
        for session in goodbyes {
            self.close(&session, CloseReason::Shed);
        }
    }
}
