//! One key under seeded churn, against a broker that executes calls in any order, late or never.

use super::{CallId, CallIds, Context, Effects, Event, Fault, FaultCode, Join, Key, Leave, Op, Told};
use crate::model::{SessionId, WorkerId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

fn session(n: u32) -> SessionId {
    SessionId { worker: WorkerId(0), slot: n, generation: 0 }
}

/// The naive model: who believes what, what the broker has, which calls are out.
struct World {
    key: Key<u32>,
    ids: CallIds,
    now: Instant,
    generation: u64,
    /// Waiter -> session, for joins not told yet; and leaves not told yet.
    joining: BTreeMap<u32, SessionId>,
    leaving: BTreeSet<u32>,
    held: BTreeSet<SessionId>,
    next_waiter: u32,
    at_broker: bool,
    in_flight: Option<(CallId, Op)>,
    given_up: Vec<(CallId, Op)>,
    calls: usize,
}

impl World {
    fn new() -> Self {
        World {
            key: Key::default(),
            ids: CallIds::default(),
            now: Instant::now(),
            generation: 1,
            joining: BTreeMap::new(),
            leaving: BTreeSet::new(),
            held: BTreeSet::new(),
            next_waiter: 0,
            at_broker: false,
            in_flight: None,
            given_up: Vec::new(),
            calls: 0,
        }
    }

    fn feed<R>(&mut self, f: impl FnOnce(&mut Key<u32>, &Context<'_>, &mut Effects<u32>) -> R) -> R {
        let mut fx = Effects::default();
        let cx = Context { now: self.now, generation: self.generation, calls: &self.ids };
        let out = f(&mut self.key, &cx, &mut fx);
        self.obey(fx);
        out
    }

    fn obey(&mut self, fx: Effects<u32>) {
        for (waiter, told) in fx.done {
            if let Some(session) = self.joining.remove(&waiter) {
                match told {
                    Told::Live { .. } => assert!(self.held.insert(session), "told once"),
                    Told::Failed(_) => {}
                    Told::Gone => panic!("a joiner is never told Gone"),
                }
            } else {
                assert!(self.leaving.remove(&waiter), "a waiter is told once");
                assert!(!matches!(told, Told::Live { .. }));
            }
        }
        if let Some(call) = fx.call {
            assert_eq!(self.in_flight, None, "one call in flight");
            assert_eq!(call.generation, self.generation);
            self.in_flight = Some((call.id, call.op));
            self.calls += 1;
        }
    }

    fn join(&mut self, s: SessionId) {
        let waiter = self.next_waiter;
        self.next_waiter += 1;
        let known = self.held.contains(&s) || self.joining.values().any(|j| *j == s);
        self.joining.insert(waiter, s);
        match self.feed(|k, cx, fx| k.join(s, waiter, 5, cx, fx)) {
            Join::Pending => assert!(!known),
            Join::Live { .. } => {
                assert!(!known);
                self.joining.remove(&waiter);
                self.held.insert(s);
            }
            Join::Duplicate { .. } => {
                assert!(known);
                self.joining.remove(&waiter);
            }
        }
    }

    fn leave(&mut self, s: SessionId, waits: bool) {
        let waiter = self.next_waiter;
        self.next_waiter += 1;
        let known = self.held.remove(&s) || self.joining.values().any(|j| *j == s);
        self.leaving.insert(waiter);
        let left = self.feed(|k, cx, fx| k.leave(s, waits.then_some(waiter), cx, fx));
        assert_eq!(left != Leave::NotHeld, known);
        if left != Leave::Pending || !waits {
            self.leaving.remove(&waiter);
        }
        assert!(!self.joining.values().any(|j| *j == s), "a joiner that leaves is told");
    }

    fn execute(&mut self, op: Op) {
        self.at_broker = op == Op::Subscribe;
    }

    fn answer(&mut self, ok: bool) {
        let Some((id, op)) = self.in_flight.take() else { return };
        if ok {
            self.execute(op);
        }
        let outcome = if ok { Ok(Some(5)) } else { Err(Fault::new(FaultCode::Refused, "no")) };
        assert!(self.feed(|k, cx, fx| k.result(id, outcome, cx, fx)));
    }

    fn time_out(&mut self) {
        let Some((id, op)) = self.in_flight.take() else { return };
        self.given_up.push((id, op));
        assert!(self.feed(|k, cx, fx| k.timeout(id, Fault::new(FaultCode::Broker, "late"), cx, fx)));
    }

    fn late(&mut self, i: usize, ok: bool) {
        if self.given_up.is_empty() {
            return;
        }
        let (id, op) = self.given_up.remove(i % self.given_up.len());
        if ok {
            self.execute(op);
            self.feed(|k, cx, fx| k.late_success(id, op, Some(5), cx, fx));
        }
    }

    /// The broker forgets everything. Unless the adapter is fresh, the call in flight may still reach it.
    fn reset(&mut self, fresh: bool, straggles: bool) {
        self.generation += 1;
        self.at_broker = false;
        let straggler = self.in_flight.take().filter(|_| straggles && !fresh);
        if let Some((_, op)) = straggler {
            self.execute(op);
        }
        self.given_up.clear();
        self.feed(|k, cx, fx| k.reset(fresh, cx, fx));
    }

    fn wait(&mut self, d: Duration) {
        self.now += d;
        self.feed(|k, cx, fx| k.retry(cx, fx));
    }

    fn check(&self) {
        let pending: BTreeSet<_> = self.joining.values().copied().collect();
        let wanted: Vec<_> = self.held.union(&pending).copied().collect();
        assert_eq!(self.key.sessions(), wanted, "references are exactly who holds or awaits");
    }

    /// Everything is answered, all retries run: nothing is left to do.
    fn come_to_rest(&mut self) {
        self.given_up.clear();
        for _ in 0..20 {
            self.answer(true);
            self.wait(Duration::from_secs(61));
        }
        assert_eq!(self.in_flight, None);
        assert!(self.joining.is_empty() && self.leaving.is_empty(), "everybody was told");
        assert_eq!(self.at_broker, !self.held.is_empty(), "the broker has it exactly when somebody holds it");
        assert_eq!(self.key.is_live(), self.at_broker);
        assert_eq!(self.key.is_over(), self.held.is_empty());
        let calls = self.calls;
        self.wait(Duration::from_secs(3600));
        assert_eq!(self.calls, calls, "at rest nobody is called");
    }
}

#[test]
fn actual_comes_to_equal_wanted_under_any_churn_and_everybody_is_told_once() {
    for seed in 0..3000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut w = World::new();
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..4 {
                for _ in 0..rng.random_range(1..60) {
                    let s = session(rng.random_range(0..5));
                    match rng.random_range(0..20) {
                        0..5 => w.join(s),
                        5..8 => w.leave(s, true),
                        8 => w.leave(s, false),
                        9..13 => w.answer(true),
                        13 => w.answer(false),
                        14..16 => w.time_out(),
                        16 => w.late(rng.random_range(0..8), true),
                        17 => w.late(0, false),
                        18 => w.wait(Duration::from_millis(rng.random_range(0..5000))),
                        _ if rng.random_range(0..4) == 0 => w.reset(rng.random_bool(0.5), rng.random_bool(0.5)),
                        _ => {}
                    }
                    w.check();
                }
                if round == 3 {
                    for n in 0..5 {
                        w.leave(session(n), n % 2 == 0);
                    }
                }
                w.come_to_rest();
            }
        }));
        assert!(said.is_ok(), "seed {seed}");
    }
}

#[test]
fn without_faults_only_first_in_and_last_out_call_the_broker() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut w = World::new();
    let (mut holders, mut edges) = (0usize, 0usize);
    for _ in 0..10_000 {
        let s = session(rng.random_range(0..6));
        if rng.random_bool(0.5) {
            w.join(s)
        } else {
            w.leave(s, true)
        }
        w.answer(true);
        edges += usize::from((holders == 0) != w.held.is_empty());
        holders = w.held.len();
    }
    assert_eq!(w.calls, edges);
}

#[test]
fn events_come_after_the_fact() {
    let ids = CallIds::default();
    let cx = Context { now: Instant::now(), generation: 1, calls: &ids };
    let mut key = Key::default();
    let mut fx = Effects::default();
    key.join(session(1), 1, 5, &cx, &mut fx);
    key.join(session(2), 2, 20, &cx, &mut fx);
    assert!(fx.events.is_empty(), "nothing has succeeded yet");
    let call = fx.call.expect("first-in").id;
    assert!(key.result(call, Ok(None), &cx, &mut fx));
    assert_eq!(fx.events.to_vec(), [Event::FirstIn, Event::Joined]);
    assert_eq!(fx.done, [(1, Told::Live { depth: 5 }), (2, Told::Live { depth: 5 })]);
    let mut fx = Effects::default();
    assert_eq!(key.leave(session(1), Some(3), &cx, &mut fx), Leave::Left);
    assert_eq!(key.leave(session(2), Some(4), &cx, &mut fx), Leave::Pending);
    assert_eq!(fx.events.to_vec(), [Event::Left]);
    let call = fx.call.expect("last-out").id;
    assert!(key.result(call, Ok(None), &cx, &mut fx));
    assert_eq!(fx.events.to_vec(), [Event::Left, Event::LastOut]);
    assert!(key.is_over());
}

#[test]
fn a_late_success_older_than_an_unsubscribe_is_not_adopted() {
    let ids = CallIds::default();
    let start = Instant::now();
    let cx = |secs| Context { now: start + Duration::from_secs(secs), generation: 1, calls: &ids };
    let late = || Fault::new(FaultCode::Broker, "late");
    let (mut key, mut fx) = (Key::default(), Effects::default());
    key.join(session(1), 1, 5, &cx(0), &mut fx);
    let first = fx.call.take().expect("first-in").id;
    key.timeout(first, late(), &cx(5), &mut fx);
    key.retry(&cx(10), &mut fx);
    let second = fx.call.take().expect("let go");
    assert_eq!(second.op, Op::Unsubscribe);
    key.timeout(second.id, late(), &cx(15), &mut fx);
    let mut fx = Effects::default();
    key.join(session(2), 2, 5, &cx(16), &mut fx);
    let third = fx.call.take().expect("a first-in on an unknown key subscribes").id;
    // The unsubscribe may still be executed after the first subscribe was.
    key.late_success(first, Op::Subscribe, None, &cx(17), &mut fx);
    assert!(fx.done.is_empty() && fx.call.is_none());
    assert!(key.result(third, Ok(None), &cx(18), &mut fx));
    assert_eq!(fx.done, [(2, Told::Live { depth: 5 })]);
}

#[test]
fn retries_back_off_to_a_minute() {
    let delays: Vec<u64> = (0..9).map(|n| super::retry_delay(n).as_secs()).collect();
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}
