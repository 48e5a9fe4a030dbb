//! The machine of one key.

use super::call::{CallId, CallIds, Op};
use super::fault::{Fault, FaultCode};
use super::standing::Standing;
use crate::model::SessionId;
use smallvec::SmallVec;
use std::time::{Duration, Instant};

/// A call the caller must now hand to the adapter of the key's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its id; the answer must carry it.
    pub id: CallId,
    /// What to do.
    pub op: Op,
    /// Price levels asked for (subscribe).
    pub depth: u32,
    /// The adapter generation it was made for; an adapter of another generation must ignore it.
    pub generation: u64,
}

/// What a waiter is told, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The feed is live with this many price levels.
    Live {
        /// Levels the adapter really gives.
        depth: u32,
    },
    /// The broker has let go.
    Gone,
    /// It did not work. A joiner has been rolled back; a leaver's reference is gone all the same.
    Failed(Fault),
}

/// What happened, told after the fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker accepted the first subscription of the key.
    FirstIn,
    /// One more session shares the key.
    Joined,
    /// A session left; others remain.
    Left,
    /// The broker let go after the last session left (or there was nothing to let go of).
    LastOut,
    /// So many sessions lost their reference because the broker did not accept it.
    RolledBack(usize),
    /// A key that was held all the time is live again.
    Replayed,
    /// A key that is held could not be made live; it will be tried again.
    ReplayFailed,
    /// The broker could not be made to let go; it will be tried again.
    ReleaseFailed,
}

/// What one input led to. `W` is whatever a waiter is to the caller.
#[derive(Debug)]
#[must_use]
pub struct Effects<W> {
    /// At most one call to hand to the adapter. If it cannot be handed over, feed [`Key::result`] an error.
    pub call: Option<Call>,
    /// Waiters and what to tell them.
    pub done: Vec<(W, Told)>,
    /// What happened, for logs and metrics.
    pub events: SmallVec<[Event; 2]>,
    /// The key has scheduled a retry; somebody must call [`Key::retry`] from time to time.
    pub unsettled: bool,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Effects { call: None, done: Vec::new(), events: SmallVec::new(), unsettled: false }
    }
}

/// What the machine needs from outside at each input.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Monotonic now.
    pub now: Instant,
    /// The current generation of the user's adapter.
    pub generation: u64,
    /// Ids for new calls.
    pub calls: &'a CallIds,
}

/// Answer to a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Shared a live feed; the waiter was not used.
    Live {
        /// Levels the adapter gives.
        depth: u32,
    },
    /// The waiter will be told.
    Pending,
    /// This session holds the key already; nothing was changed.
    Duplicate {
        /// Levels, as far as known.
        depth: u32,
    },
}

/// Answer to a leave. In every case but `NotHeld` the reference is gone already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Nothing more to wait for; the waiter was not used.
    Left,
    /// It was the last one; the waiter will be told what the broker said.
    Pending,
    /// This session does not hold the key.
    NotHeld,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actual {
    /// The broker does not have it.
    Absent,
    /// A subscribe is in flight.
    Subscribing { call: CallId },
    /// The broker has it.
    Live { depth: u32 },
    /// An unsubscribe is in flight.
    Unsubscribing { call: CallId },
    /// A call was not answered in time, or an unsubscribe failed: the broker may have it or not.
    Unknown,
}

/// One key. A new one is absent and wanted by nobody.
#[derive(Debug)]
pub struct Key<W> {
    /// Sorted. Holds every session that has or awaits the key.
    wanted: Vec<SessionId>,
    /// Sessions of `wanted` not told yet. Empty while `Live`.
    joiners: Vec<(SessionId, W)>,
    /// Who waits for the broker to let go.
    leavers: Vec<W>,
    actual: Actual,
    /// Levels asked for by the first session in.
    depth: u32,
    /// Adapter generation `actual` is about.
    generation: u64,
    /// The last unsubscribe issued: an older subscribe's late success says nothing about now.
    unsubscribed: Option<CallId>,
    /// The broker may hold the key although a subscribe is answered with an error.
    doubtful: bool,
    attempts: u32,
    retry_at: Option<Instant>,
}

impl<W> Default for Key<W> {
    fn default() -> Self {
        Key {
            wanted: Vec::new(),
            joiners: Vec::new(),
            leavers: Vec::new(),
            actual: Actual::Absent,
            depth: 0,
            generation: 0,
            unsubscribed: None,
            doubtful: false,
            attempts: 0,
            retry_at: None,
        }
    }
}

impl<W> Key<W> {
    /// Sessions that hold or await the key: the reference count.
    pub fn refs(&self) -> usize {
        self.wanted.len()
    }

    /// The sessions that hold or await the key, sorted.
    pub fn sessions(&self) -> &[SessionId] {
        &self.wanted
    }

    /// Whether we believe that the broker has it.
    pub fn is_live(&self) -> bool {
        matches!(self.actual, Actual::Live { .. })
    }

    /// Whether the broker may have it, or is being asked.
    pub fn may_be_at_broker(&self) -> bool {
        self.actual != Actual::Absent
    }

    /// Where it stands with the broker.
    pub fn standing(&self) -> Standing {
        match self.actual {
            Actual::Absent => Standing::Absent,
            Actual::Subscribing { .. } => Standing::Subscribing,
            Actual::Live { .. } => Standing::Live,
            Actual::Unsubscribing { .. } => Standing::Unsubscribing,
            Actual::Unknown => Standing::Unknown,
        }
    }

    /// Whether nobody wants it and nothing is under way, so that it can be forgotten.
    pub fn is_over(&self) -> bool {
        self.wanted.is_empty() && self.actual == Actual::Absent && self.leavers.is_empty()
    }

    /// `session` wants the key with `depth` levels (which count if it is the first).
    pub fn join(&mut self, session: SessionId, waiter: W, depth: u32, cx: &Context<'_>, fx: &mut Effects<W>) -> Join {
        let Err(place) = self.wanted.binary_search(&session) else {
            return Join::Duplicate { depth: self.known_depth() };
        };
        if self.wanted.is_empty() {
            self.depth = depth;
        }
        self.wanted.insert(place, session);
        match self.actual {
            Actual::Live { depth } => {
                fx.events.push(Event::Joined);
                return Join::Live { depth };
            }
            Actual::Subscribing { .. } | Actual::Unsubscribing { .. } => self.joiners.push((session, waiter)),
            Actual::Absent | Actual::Unknown => {
                self.joiners.push((session, waiter));
                self.start_subscribe(cx, fx);
            }
        }
        Join::Pending
    }

    /// `session` no longer wants the key. `waiter` is told the broker's word if it was the last; a session that
    /// has closed gives none.
    pub fn leave(&mut self, session: SessionId, waiter: Option<W>, cx: &Context<'_>, fx: &mut Effects<W>) -> Leave {
        let Ok(place) = self.wanted.binary_search(&session) else {
            return Leave::NotHeld;
        };
        self.wanted.remove(place);
        if let Some(i) = self.joiners.iter().position(|(s, _)| *s == session) {
            let (_, joiner) = self.joiners.swap_remove(i);
            let fault = Fault::new(FaultCode::Cancelled, "Unsubscribed before the broker answered");
            fx.done.push((joiner, Told::Failed(fault)));
        }
        if !self.wanted.is_empty() {
            fx.events.push(Event::Left);
            return Leave::Left;
        }
        match self.actual {
            Actual::Absent => {
                self.retry_at = None;
                fx.events.push(Event::LastOut);
                return Leave::Left;
            }
            Actual::Live { .. } | Actual::Unknown => self.start_unsubscribe(cx, fx),
            Actual::Subscribing { .. } | Actual::Unsubscribing { .. } => {}
        }
        self.leavers.extend(waiter);
        Leave::Pending
    }

    /// The answer to `call`, in time. `Ok` carries the levels an adapter really gives, if it says so. A call that
    /// could not be handed over is an `Err` here. An id that is not in flight is ignored.
    pub fn result(
        &mut self,
        call: CallId,
        outcome: Result<Option<u32>, Fault>,
        cx: &Context<'_>,
        fx: &mut Effects<W>,
    ) -> bool {
        match (self.actual, outcome) {
            (Actual::Subscribing { call: c }, Ok(depth)) if c == call => {
                self.went_live(depth, fx);
                if self.wanted.is_empty() {
                    self.start_unsubscribe(cx, fx);
                }
            }
            (Actual::Subscribing { call: c }, Err(fault)) if c == call => {
                self.roll_back(&fault, fx);
                self.actual = if self.doubtful { Actual::Unknown } else { Actual::Absent };
                if self.actual == Actual::Absent && self.wanted.is_empty() {
                    self.let_go(fx);
                } else {
                    self.tell_leavers(&Told::Failed(fault), fx);
                    self.retry_later(cx, fx);
                }
            }
            (Actual::Unsubscribing { call: c }, Ok(_)) if c == call => {
                self.actual = Actual::Absent;
                self.doubtful = false;
                self.let_go(fx);
                if !self.wanted.is_empty() {
                    self.start_subscribe(cx, fx);
                }
            }
            (Actual::Unsubscribing { call: c }, Err(fault)) if c == call => self.release_failed(fault, cx, fx),
            _ => return false,
        }
        true
    }

    /// `call` was not answered in time: its waiters get `fault`, joiners are rolled back.
    pub fn timeout(&mut self, call: CallId, fault: Fault, cx: &Context<'_>, fx: &mut Effects<W>) -> bool {
        match self.actual {
            Actual::Subscribing { call: c } if c == call => {
                self.roll_back(&fault, fx);
                self.doubtful = true;
                self.actual = Actual::Unknown;
                self.tell_leavers(&Told::Failed(fault), fx);
                self.retry_later(cx, fx);
            }
            Actual::Unsubscribing { call: c } if c == call => self.release_failed(fault, cx, fx),
            _ => return false,
        }
        true
    }

    /// `call`, given up earlier, has succeeded after all. It is adopted when somebody wants the key and no
    /// unsubscribe was issued after it; else it only tells us that the broker's state is not what we thought.
    pub fn late_success(&mut self, call: CallId, op: Op, depth: Option<u32>, cx: &Context<'_>, fx: &mut Effects<W>) {
        match (op, self.actual) {
            (Op::Subscribe, Actual::Absent | Actual::Unknown) if self.wanted.is_empty() => {
                self.doubtful = true;
                self.start_unsubscribe(cx, fx);
            }
            (Op::Subscribe, Actual::Absent | Actual::Unknown) if self.is_newest(call) => self.went_live(depth, fx),
            (Op::Subscribe, Actual::Absent | Actual::Unknown) => self.start_subscribe(cx, fx),
            (Op::Subscribe, Actual::Subscribing { .. }) => {
                // The newer call stays in flight, and its answer still counts: if it is an error, the sessions told
                // here keep their references and the key is tried again like any failed replay.
                self.doubtful = true;
                if self.is_newest(call) && !self.joiners.is_empty() {
                    self.tell_joiners(depth.unwrap_or(self.depth), fx);
                }
            }
            // It may have run after the subscribe that made the key live.
            (Op::Unsubscribe, Actual::Live { .. }) => {
                self.doubtful = true;
                self.start_subscribe(cx, fx);
            }
            (Op::Unsubscribe, _) | (Op::Subscribe, Actual::Live { .. } | Actual::Unsubscribing { .. }) => {}
        }
    }

    /// Tries again what was scheduled, if it is due. Returns whether the key still waits for a retry.
    pub fn retry(&mut self, cx: &Context<'_>, fx: &mut Effects<W>) -> bool {
        if self.retry_at.is_some_and(|at| at <= cx.now) {
            match (self.actual, self.wanted.is_empty()) {
                (Actual::Absent | Actual::Unknown, false) => self.start_subscribe(cx, fx),
                (Actual::Unknown, true) => self.start_unsubscribe(cx, fx),
                _ => self.retry_at = None,
            }
        }
        self.retry_at.is_some()
    }

    /// The adapter has a new life (`cx.generation`), in which the broker has nothing: what is wanted is subscribed
    /// anew, in mode and depth. Whoever waits for a call of the old life waits for the new one. Unless the adapter itself
    /// is `fresh`, a call of the old life may still reach the broker, so what nobody wants is let go once more. A key
    /// that belongs to the new life already is left alone.
    pub fn reset(&mut self, fresh: bool, cx: &Context<'_>, fx: &mut Effects<W>) {
        if self.generation == cx.generation {
            return;
        }
        self.generation = cx.generation;
        self.doubtful = !fresh && !matches!(self.actual, Actual::Absent | Actual::Live { .. });
        self.actual = Actual::Absent;
        self.unsubscribed = None;
        self.attempts = 0;
        self.retry_at = None;
        if !self.wanted.is_empty() {
            self.tell_leavers(&Told::Gone, fx);
            self.start_subscribe(cx, fx);
        } else if self.doubtful {
            self.start_unsubscribe(cx, fx);
        } else {
            self.let_go(fx);
        }
    }

    /// Price levels, as far as known.
    pub(super) fn known_depth(&self) -> u32 {
        match self.actual {
            Actual::Live { depth } => depth,
            _ => self.depth,
        }
    }

    fn is_newest(&self, call: CallId) -> bool {
        self.unsubscribed.is_none_or(|u| u < call)
    }

    fn start_subscribe(&mut self, cx: &Context<'_>, fx: &mut Effects<W>) {
        let id = cx.calls.next();
        self.actual = Actual::Subscribing { call: id };
        self.generation = cx.generation;
        self.retry_at = None;
        fx.call = Some(Call { id, op: Op::Subscribe, depth: self.depth, generation: cx.generation });
    }

    fn start_unsubscribe(&mut self, cx: &Context<'_>, fx: &mut Effects<W>) {
        let id = cx.calls.next();
        self.actual = Actual::Unsubscribing { call: id };
        self.generation = cx.generation;
        self.unsubscribed = Some(id);
        self.retry_at = None;
        fx.call = Some(Call { id, op: Op::Unsubscribe, depth: self.depth, generation: cx.generation });
    }

    fn went_live(&mut self, depth: Option<u32>, fx: &mut Effects<W>) {
        let depth = depth.unwrap_or(self.depth);
        self.actual = Actual::Live { depth };
        self.attempts = 0;
        self.retry_at = None;
        if self.joiners.len() < self.wanted.len() {
            fx.events.push(Event::Replayed);
        }
        self.tell_joiners(depth, fx);
        if !self.wanted.is_empty() {
            // Who left while the subscribe was pending left a key that others hold by now: nothing to wait for.
            self.tell_leavers(&Told::Gone, fx);
        }
    }

    fn tell_joiners(&mut self, depth: u32, fx: &mut Effects<W>) {
        let first = self.joiners.len() == self.wanted.len();
        for (i, (_, waiter)) in self.joiners.drain(..).enumerate() {
            fx.events.push(if i == 0 && first { Event::FirstIn } else { Event::Joined });
            fx.done.push((waiter, Told::Live { depth }));
        }
    }

    fn tell_leavers(&mut self, told: &Told, fx: &mut Effects<W>) {
        fx.done.extend(self.leavers.drain(..).map(|w| (w, told.clone())));
    }

    /// Nothing of the key is left at the broker.
    fn let_go(&mut self, fx: &mut Effects<W>) {
        self.attempts = 0;
        self.retry_at = None;
        if self.wanted.is_empty() {
            fx.events.push(Event::LastOut);
        }
        self.tell_leavers(&Told::Gone, fx);
    }

    fn roll_back(&mut self, fault: &Fault, fx: &mut Effects<W>) {
        let count = self.joiners.len();
        for (session, waiter) in self.joiners.drain(..) {
            if let Ok(place) = self.wanted.binary_search(&session) {
                self.wanted.remove(place);
            }
            fx.done.push((waiter, Told::Failed(fault.clone())));
        }
        if count > 0 {
            fx.events.push(Event::RolledBack(count));
        }
        if !self.wanted.is_empty() {
            fx.events.push(Event::ReplayFailed);
        }
    }

    /// An unsubscribe failed or was not answered.
    fn release_failed(&mut self, fault: Fault, cx: &Context<'_>, fx: &mut Effects<W>) {
        fx.events.push(Event::ReleaseFailed);
        self.tell_leavers(&Told::Failed(fault), fx);
        self.doubtful = true;
        self.actual = Actual::Unknown;
        if self.wanted.is_empty() {
            self.retry_later(cx, fx);
        } else {
            self.start_subscribe(cx, fx);
        }
    }

    fn retry_later(&mut self, cx: &Context<'_>, fx: &mut Effects<W>) {
        self.retry_at = Some(cx.now + retry_delay(self.attempts));
        self.attempts = self.attempts.saturating_add(1);
        fx.unsettled = true;
    }
}

/// How long to wait before trying again after `attempts` failures: 1 s, doubling, at most 60 s.
pub fn retry_delay(attempts: u32) -> Duration {
    Duration::from_secs((1u64 << attempts.min(6)).min(60))
}
