//! Schedules of ingest, workers and registry over the shards, explored with shuttle (random and PCT).
//!
//! Run: `cargo test --features shuttle --test model`. One ingest thread takes ticks and hands what is wanted to bounded
//! per-worker queues; each worker owns two sessions that subscribe, unsubscribe and close at random, and a private
//! delivery index; a registry thread pins and unpins; invented names press for eviction. For each subscription every
//! tick is in the snapshot or delivered after it, in order, never neither nor both, and none after the unsubscribe.

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use shuttle::thread;
use std::sync::Arc;
use tickcast::model::{BrokerId, Encoding, Format, InstrumentRef, Micros, Mode, ScopeId, StreamId, WorkerId};
use tickcast::shards::{Activation, Config, Interest, Serves, ShardIndex, Shards, TickIn, Want};

const WORKERS: u8 = 2;
const TICKS: u8 = 6;
const STEPS: usize = 6;
const SBIN: InstrumentRef<'static> = InstrumentRef { venue: "NSE", symbol: "SBIN" };
const INVENTED: [&str; 3] = ["X1", "X2", "X3"];

/// What travels from ingest to a worker: one tick in one mode.
#[derive(Clone, Copy)]
struct Delivery {
    mode: Mode,
    seq: u64,
    /// The tick's number; its payload is this one byte.
    number: u8,
}

/// How a worker activates; the broken way shows that the model can fail.
type Activate = fn(&Shards, ShardIndex, StreamId, Interest) -> Activation;

fn in_one_step(shards: &Shards, home: ShardIndex, stream: StreamId, interest: Interest) -> Activation {
    shards.activate(home, stream, interest).expect("main pins the stream")
}

/// Reads first and sets the wanted bit later: a tick between the two is lost.
fn in_two_steps(shards: &Shards, home: ShardIndex, stream: StreamId, interest: Interest) -> Activation {
    let read = in_one_step(shards, home, stream, interest);
    shards.deactivate(home, stream, interest);
    in_one_step(shards, home, stream, interest);
    read
}

/// One subscription of one session.
struct Subscription {
    mode: Mode,
    seq: u64,
    number: u8,
}

/// One worker: its sessions, at most one subscription each, and its end of the queue.
struct Worker {
    id: WorkerId,
    shards: Arc<Shards>,
    home: ShardIndex,
    stream: StreamId,
    activate: Activate,
    queue: Receiver<Delivery>,
    sessions: [Option<Subscription>; 2],
}

impl Worker {
    fn interest(&self, mode: Mode) -> Interest {
        Interest { worker: self.id, mode, format: Format::Json, label: BrokerId(0) }
    }

    fn subscribe(&mut self, session: usize, mode: Mode) {
        let got = (self.activate)(&self.shards, self.home, self.stream, self.interest(mode));
        let number = got.last.as_ref().map_or(0, |l| l.payload[0]);
        assert_eq!(got.last.as_ref().map_or(0, |l| l.seq), got.floor, "the snapshot is the newest tick");
        self.sessions[session] = Some(Subscription { mode, seq: got.floor, number });
    }

    /// Unsubscribe and close alike: the index drops the session first; the last one out clears the wanted bit.
    fn leave(&mut self, session: usize) {
        let Some(left) = self.sessions[session].take() else { return };
        if !self.sessions.iter().flatten().any(|s| s.mode == left.mode) {
            assert!(self.shards.deactivate(self.home, self.stream, self.interest(left.mode)), "the bit was set");
        }
    }

    fn deliver(&mut self, tick: Delivery) {
        for subscription in self.sessions.iter_mut().flatten().filter(|s| s.mode == tick.mode) {
            // At or below the floor: it is in the snapshot, or was queued for a session before this one.
            if tick.seq <= subscription.seq {
                continue;
            }
            assert_eq!(tick.seq, subscription.seq + 1, "no tick is missing between snapshot and delivery");
            assert!(tick.number > subscription.number, "no tick is in the snapshot and delivered too");
            (subscription.seq, subscription.number) = (tick.seq, tick.number);
        }
    }

    /// Random steps, then both sessions stay until ingest has finished, then all leave.
    fn run(mut self) -> [u64; 2] {
        for _ in 0..STEPS {
            let session = thread_rng().gen_range(0..2);
            match thread_rng().gen_range(0..4) {
                0 if self.sessions[session].is_none() => self.subscribe(session, Mode::ALL[session]),
                // Both sessions in one mode share the wanted bit.
                1 if self.sessions[session].is_none() => self.subscribe(session, Mode::Ltp),
                2 => self.leave(session),
                _ => match self.queue.try_recv() {
                    Ok(tick) => self.deliver(tick),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => thread::yield_now(),
                },
            }
        }
        for session in 0..2 {
            self.leave(session);
            self.subscribe(session, Mode::ALL[session]);
        }
        while let Ok(tick) = self.queue.recv() {
            self.deliver(tick);
        }
        let reached = [0, 1].map(|s: usize| self.sessions[s].as_ref().expect("subscribed above").seq);
        self.leave(0);
        self.leave(1);
        reached
    }
}

/// Ticks in random modes, two a batch, between ticks of invented names.
fn ingest(shards: &Shards, home: ShardIndex, queues: &[SyncSender<Delivery>]) {
    let mut out = Vec::new();
    for number in (1..=TICKS).step_by(2) {
        let payloads = [[number], [number + 1]];
        let modes = [0, 1].map(|_| Mode::ALL[thread_rng().gen_range(0..2)]);
        let ticks = [0, 1].map(|i: usize| tick(SBIN, modes[i], &payloads[i], i as u32));
        let invented = InstrumentRef { venue: "NSE", symbol: INVENTED[usize::from(number / 2) % 3] };
        out.clear();
        shards.ingest(shards.shard_of(invented), &[tick(invented, Mode::Ltp, b"x", 0)], &mut out, &mut Vec::new());
        assert!(out.is_empty(), "nobody wants an invented name");
        shards.ingest(home, &ticks, &mut out, &mut Vec::new());
        for tick in &out {
            let number = payloads[tick.position as usize][0];
            for Want { mode, seq, workers, .. } in &tick.wants {
                for (_, queue) in queues.iter().enumerate().filter(|(w, _)| workers >> w & 1 == 1) {
                    queue.send(Delivery { mode: *mode, seq: *seq, number }).expect("workers outlive ingest");
                }
            }
        }
    }
}

fn tick<'a>(instrument: InstrumentRef<'a>, mode: Mode, payload: &'a [u8], position: u32) -> TickIn<'a> {
    TickIn {
        position,
        scope: ScopeId::SHARED,
        instrument,
        mode,
        broker: None,
        payload,
        encoding: Encoding::Json,
        serves: Serves::Known([true; 3]),
        merged: 0,
        highest_only: false,
        repeats_ltp: false,
        t_recv: Micros(0),
    }
}

fn scenario(activate: Activate) {
    let config = Config { shards: 2, instruments_max: 3, seed: Some(7), ..Config::default() };
    let shards = Arc::new(Shards::new(&config));
    let home = shards.shard_of(SBIN);
    let stream = shards.with(home, |s| s.streams.pin(ScopeId::SHARED, SBIN)).expect("room").stream;
    let (senders, workers): (Vec<_>, Vec<_>) = (0..WORKERS)
        .map(|id| {
            let (sender, queue) = sync_channel(2 * usize::from(TICKS));
            let (shards, id) = (shards.clone(), WorkerId(id));
            let worker = Worker { id, shards, home, stream, activate, queue, sessions: [None, None] };
            (sender, thread::spawn(move || worker.run()))
        })
        .unzip();
    let ingest = {
        let shards = shards.clone();
        thread::spawn(move || ingest(&shards, home, &senders))
    };
    let registry = {
        let shards = shards.clone();
        thread::spawn(move || {
            let again = shards.with(home, |s| s.streams.pin(ScopeId::SHARED, SBIN)).expect("it is there");
            assert_eq!(again.stream, stream, "a pinned stream keeps its id");
            assert!(shards.with(home, |s| s.streams.unpin(stream)));
        })
    };
    ingest.join().expect("ingest");
    registry.join().expect("registry");
    let reached: Vec<[u64; 2]> = workers.into_iter().map(|w| w.join().expect("worker")).collect();
    assert_eq!(reached[0], reached[1], "no tick is missing at the end: workers agree");
    let newest = Mode::ALL.map(|mode| {
        let interest = Interest { worker: WorkerId(0), mode, format: Format::Json, label: BrokerId(0) };
        let floor = shards.activate(home, stream, interest).expect("pinned").floor;
        shards.deactivate(home, stream, interest);
        floor
    });
    assert_eq!(reached[0], newest[..2], "no tick is missing at the end: workers reached the newest");
    assert_eq!((shards.usage().wanted, shards.usage().pins), (0, 1));
    assert!(shards.with(home, |s| s.streams.unpin(stream)));
    assert_eq!(shards.usage().pins, 0);
}

#[test]
fn every_tick_is_in_the_snapshot_or_delivered_after_it_under_random_schedules() {
    shuttle::check_random(|| scenario(in_one_step), 5_000);
}

#[test]
fn every_tick_is_in_the_snapshot_or_delivered_after_it_under_adversarial_schedules() {
    shuttle::check_pct(|| scenario(in_one_step), 2_000, 3);
}

#[test]
#[should_panic(expected = "no tick is missing")]
fn the_model_finds_an_activation_that_reads_before_it_is_wanted() {
    shuttle::check_random(|| scenario(in_two_steps), 20_000);
}

mod keys {
    //! One key under the timed lock: three sessions join and leave at random while an adapter answers, at times with a
    //! refusal. First-in and last-out call exactly once each, a waiter is told exactly once, and nothing stays behind.

    use super::{Arc, Rng, WorkerId, sync_channel, thread, thread_rng};
    use shuttle::sync::mpsc::SyncSender;
    use std::collections::{HashMap, VecDeque};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    use std::time::{Duration, Instant};
    use tickcast::model::SessionId;
    use tickcast::shards::key::{Call, CallIds, Context, Effects, Fault, FaultCode, Join, Key, Leave, Op, Told};
    use tickcast::shards::{LockName, TimedLock};

    const SESSIONS: u32 = 3;
    const ROUNDS: u32 = 3;

    /// Schedules in which a session came while the broker was letting go, and left while it was being asked: without
    /// them the model would prove nothing.
    static CAME_WHILE_LETTING_GO: AtomicUsize = AtomicUsize::new(0);
    static LEFT_WHILE_ASKING: AtomicUsize = AtomicUsize::new(0);
    static REFUSED: AtomicUsize = AtomicUsize::new(0);

    struct Scene {
        key: TimedLock<Key<u32>>,
        ids: CallIds,
        /// Whether the broker has the instrument; changed by the adapter before it answers.
        broker: AtomicBool,
        /// Calls handed out and not answered; read and changed under the key's lock only.
        in_flight: Mutex<Option<Op>>,
        /// How often each waiter was told.
        told: Mutex<HashMap<u32, usize>>,
        now: Instant,
    }

    impl Scene {
        /// One input to the machine; what came of it is recorded, its call handed back.
        fn input<R>(&self, f: impl FnOnce(&mut Key<u32>, &Context<'_>, &mut Effects<u32>) -> R) -> (R, Option<Call>) {
            let context = Context { now: self.now, generation: 0, calls: &self.ids };
            let (result, effects) = self.key.with(|key| {
                let mut effects = Effects::default();
                let result = f(key, &context, &mut effects);
                if let Some(call) = effects.call {
                    let before = self.in_flight.lock().expect("one at a time").replace(call.op);
                    assert_eq!(before, None, "at most one call in flight");
                }
                (result, effects)
            });
            for (waiter, told) in effects.done {
                assert!(!matches!(told, Told::Failed(ref f) if f.message.is_empty()));
                *self.told.lock().expect("one at a time").entry(waiter).or_default() += 1;
            }
            (result, effects.call)
        }

        fn in_flight(&self) -> Option<Op> {
            *self.in_flight.lock().expect("one at a time")
        }
    }

    /// Joins and leaves; returns the waiters that must be told once. All others must never be.
    fn session(scene: &Scene, n: u32, calls: &SyncSender<Call>) -> Vec<u32> {
        let id = SessionId { worker: WorkerId(0), slot: n, generation: 0 };
        let mut pending = Vec::new();
        for round in 0..ROUNDS {
            let waiter = 100 * n + 10 * round;
            let (joined, call) = scene.input(|key, context, effects| {
                let letting_go = scene.in_flight() == Some(Op::Unsubscribe);
                let joined = key.join(id, waiter, 5, context, effects);
                assert!(
                    !matches!(joined, Join::Live { .. }) || scene.broker.load(SeqCst),
                    "live means the broker has it"
                );
                CAME_WHILE_LETTING_GO.fetch_add(usize::from(letting_go), SeqCst);
                joined
            });
            pending.extend((joined == Join::Pending).then_some(waiter));
            call.into_iter().for_each(|call| calls.send(call).expect("the adapter outlives sessions"));
            if thread_rng().gen_bool(0.5) {
                thread::yield_now();
            }
            let closing = thread_rng().gen_bool(0.3);
            let (left, call) = scene.input(|key, context, effects| {
                let asking = scene.in_flight() == Some(Op::Subscribe);
                let left = key.leave(id, (!closing).then_some(waiter + 1), context, effects);
                LEFT_WHILE_ASKING.fetch_add(usize::from(asking && left == Leave::Pending), SeqCst);
                left
            });
            pending.extend((left == Leave::Pending && !closing).then_some(waiter + 1));
            call.into_iter().for_each(|call| calls.send(call).expect("the adapter outlives sessions"));
        }
        pending
    }

    fn scenario() {
        let scene = Arc::new(Scene {
            key: TimedLock::new(LockName::Subscription, Some(0), Duration::MAX, Key::default()),
            ids: CallIds::default(),
            broker: AtomicBool::new(false),
            in_flight: Mutex::default(),
            told: Mutex::default(),
            now: Instant::now(),
        });
        let (sender, calls) = sync_channel::<Call>(64);
        let adapter = {
            let scene = scene.clone();
            thread::spawn(move || {
                let mut own = VecDeque::new();
                while let Some(call) = own.pop_front().or_else(|| calls.recv().ok()) {
                    let subscribe = call.op == Op::Subscribe;
                    assert_eq!(scene.broker.load(SeqCst), !subscribe, "only first-in and last-out reach the broker");
                    let refuse = subscribe && thread_rng().gen_bool(0.3);
                    REFUSED.fetch_add(usize::from(refuse), SeqCst);
                    let outcome = if refuse {
                        Err(Fault::new(FaultCode::Refused, "no such symbol"))
                    } else {
                        scene.broker.store(subscribe, SeqCst);
                        Ok(None)
                    };
                    let (known, next) = scene.input(|key, context, effects| {
                        *scene.in_flight.lock().expect("one at a time") = None;
                        key.result(call.id, outcome, context, effects)
                    });
                    assert!(known, "the answer belongs to the call in flight");
                    own.extend(next);
                }
            })
        };
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|n| {
                let (scene, sender) = (scene.clone(), sender.clone());
                thread::spawn(move || session(&scene, n, &sender))
            })
            .collect();
        drop(sender);
        let pending: Vec<u32> = sessions.into_iter().flat_map(|s| s.join().expect("session")).collect();
        adapter.join().expect("adapter");
        let told = scene.told.lock().expect("one at a time");
        let expected: HashMap<u32, usize> = pending.into_iter().map(|waiter| (waiter, 1)).collect();
        assert_eq!(*told, expected, "who waits is told exactly once, and nobody else is");
        assert!(scene.key.with(|key| key.is_over()), "the key can be forgotten");
        assert!(!scene.broker.load(SeqCst), "the broker holds nothing that nobody wants");
    }

    #[test]
    fn first_in_last_out_and_results_keep_key_and_broker_equal_under_all_schedules_tried() {
        shuttle::check_random(scenario, 2_000);
        shuttle::check_pct(scenario, 2_000, 3);
        for reached in [&CAME_WHILE_LETTING_GO, &LEFT_WHILE_ASKING, &REFUSED] {
            assert!(reached.load(SeqCst) > 100, "the schedules reach the races this model is for");
        }
    }
}
