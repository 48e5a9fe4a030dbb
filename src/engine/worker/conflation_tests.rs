//! The laws of conflation, driven through the real worker and outboxes by sockets that take as many bytes as a script says.
//!
//! Time is paused. Laws: order per (session, key); once nothing is left over, everybody has the newest; gaps in `seq` equal counted merges;
//! `every` has no gap; a range covers exactly what was merged; a rate holds; memory follows subscriptions.

use super::*;
use crate::engine::queue::{TickReceiver, tick_queue};
use crate::engine::transport::Script;
use crate::model::{BrokerId, Mode, StreamId};
use crate::wire::msgpack::{self, Field, Head, Received, ServerFrame};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use proptest::prelude::*;

const SESSIONS: usize = 3;
const KEYS: u32 = 3;

fn key(stream: u32) -> FrameKey {
    FrameKey::new(StreamId(stream), Mode::Ltp, Format::MsgPack, BrokerId(0))
}

/// A price that goes up and down with the number.
fn price(stream: u32, seq: u64) -> i64 {
    (seq * 7919 + u64::from(stream) * 31) as i64 % 1000 - 500
}

fn rate(ms: u64) -> Terms {
    Terms { interval: Some(Duration::from_millis(ms)), ..Terms::default() }
}

const EVERY: Terms = Terms { every: true, interval: None, range: false };
const RANGE: Terms = Terms { every: false, interval: None, range: true };

#[derive(Clone, Debug)]
enum Op {
    /// One batch of ticks of these keys.
    Ticks(Vec<u32>),
    Flush,
    /// The socket of a session takes more bytes.
    Room(usize, usize),
    /// A reply to a session.
    Reply(usize),
    /// Milliseconds go by.
    Wait(u64),
    SetTerms(usize, u32, Terms),
    Impose(Option<u64>),
}

fn terms() -> impl Strategy<Value = Terms> {
    prop_oneof![
        Just(Terms::default()),
        (5u64..200).prop_map(rate),
        Just(EVERY),
        Just(RANGE),
        (5u64..200).prop_map(|ms| Terms { range: true, ..rate(ms) }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => prop::collection::vec(0..KEYS, 1..6).prop_map(Op::Ticks),
        8 => Just(Op::Flush),
        8 => (0..SESSIONS, 1usize..120).prop_map(|(session, bytes)| Op::Room(session, bytes)),
        1 => (0..SESSIONS).prop_map(Op::Reply),
        6 => (1u64..80).prop_map(Op::Wait),
        2 => (0..SESSIONS, 0..KEYS, terms()).prop_map(|(session, key, terms)| Op::SetTerms(session, key, terms)),
        1 => prop::option::of(20u64..100).prop_map(Op::Impose),
    ]
}

struct Bench {
    worker: Rc<Worker>,
    idle: TickReceiver,
    metrics: PrometheusHandle,
    sessions: Vec<(SessionId, Rc<Transport>)>,
    /// Per session: bytes not yet read as frames, and ticks with the moment of their arrival.
    seen: Vec<(usize, Vec<(tokio::time::Instant, Received)>)>,
    seq: Vec<u64>,
    replies: [u64; SESSIONS],
}

impl Bench {
    fn new(terms: &[Terms]) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let engine = ::metrics::with_local_recorder(&recorder, EngineMetrics::register);
        let config = WorkerConfig {
            id: WorkerId(0),
            flush_max_delay: Duration::from_millis(5),
            outbox_bytes_total: 1 << 30,
            workers: 1,
            lossless: slow_consumer::Config { bytes_max: 1 << 20, stall_max: Duration::from_secs(10) },
        };
        let worker = Worker::new(config, engine, Arc::default(), Arc::default());
        let (_, idle) = tick_queue(1 << 20, Arc::new(Notify::new()));
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|session| {
                let socket = Rc::new(Transport::Scripted(Script::default()));
                let id = worker.open(Rc::clone(&socket), Format::MsgPack);
                worker.activate(id, None, 0..KEYS, |k| Activate {
                    key: key(k),
                    floor: 0,
                    snapshot: None,
                    terms: terms[session * KEYS as usize + k as usize],
                });
                (id, socket)
            })
            .collect();
        let seen = vec![(0, Vec::new()); SESSIONS];
        Bench {
            worker,
            idle,
            metrics: recorder.handle(),
            sessions,
            seen,
            seq: vec![0; KEYS as usize],
            replies: [0; SESSIONS],
        }
    }

    fn script(&self, session: usize) -> &Script {
        match &*self.sessions[session].1 {
            Transport::Scripted(script) => script,
            Transport::Plain(_) => unreachable!("made by `new`"),
        }
    }

    fn deliver(&mut self, keys: &[u32]) {
        let mut batch = EncodedBatch::new(Micros(0), Instant::now());
        for &k in keys {
            self.seq[k as usize] += 1;
            let seq = self.seq[k as usize];
            let head = Head { id: StreamId(k), mode: Mode::Ltp, seq, t_exch: Micros(0), t_recv: Micros(0) };
            batch.push(key(k), seq, 1, |slab| msgpack::tick(slab, head, &[Field::Price(price(k, seq))]));
        }
        self.worker.deliver(Arc::new(batch));
    }

    /// What `run` does between two batches.
    async fn flush(&mut self) {
        self.worker.send_due();
        self.worker.flush_pass(&mut self.idle).await;
        self.worker.inner.borrow_mut().release_written();
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Ticks(keys) => self.deliver(&keys),
            Op::Flush => self.flush().await,
            Op::Room(session, bytes) => self.script(session).allow(bytes),
            Op::Reply(session) => {
                self.replies[session] += 1;
                self.worker.send(self.sessions[session].0, Bytes::from_static(b"\x82\x02\x92\x00"));
            }
            Op::Wait(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
            Op::SetTerms(session, k, terms) => self.worker.set_terms(self.sessions[session].0, key(k), terms),
            Op::Impose(ms) => self.worker.set_conflation_interval(Class::Normal, ms.map(Duration::from_millis)),
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        self.read();
        let inner = self.worker.inner.borrow();
        assert!(inner.newest.kept.len() <= KEYS as usize);
        assert!(inner.newest.calendar.len() <= SESSIONS * KEYS as usize);
        for slot in &inner.slots {
            let outbox = &slot.connection.as_ref().expect("open").outbox;
            assert!(outbox.marks_len() <= KEYS as usize);
        }
    }

    /// Takes whole frames off what the sockets have taken.
    fn read(&mut self) {
        let now = tokio::time::Instant::now();
        for session in 0..SESSIONS {
            loop {
                let script = self.script(session);
                let taken = script.taken.borrow();
                let from = self.seen[session].0;
                let (head, len) = match &taken[from..] {
                    [_, len @ 0..=125, ..] => (2, usize::from(*len)),
                    [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
                    _ => break,
                };
                if taken.len() < from + head + len {
                    break;
                }
                let frame = taken[from + head..from + head + len].to_vec();
                drop(taken);
                self.seen[session].0 += head + len;
                if frame == [0x92, 0x00] {
                    self.replies[session] -= 1;
                    continue;
                }
                let Ok(ServerFrame::Ticks { ticks, .. }) = msgpack::read(&frame) else { panic!("{frame:x?}") };
                self.seen[session].1.extend(ticks.into_iter().map(|tick| (now, tick)));
            }
        }
    }

    /// Lets everything through.
    async fn settle(&mut self) {
        self.worker.set_conflation_interval(Class::Normal, None);
        for session in 0..SESSIONS {
            self.script(session).allow(usize::MAX);
        }
        for _ in 0..60 {
            self.step(Op::Flush).await;
            self.step(Op::Wait(10)).await;
        }
        self.step(Op::Flush).await;
    }

    fn merged(&self) -> f64 {
        let text = self.metrics.render();
        let lines = text.lines().filter(|l| l.starts_with("tickcast_ticks_merged_total"));
        lines.map(|l| l.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
    }

    /// Checks the laws; `terms` as they were at first, `None` where they changed.
    fn check(&self, terms: &[Option<Terms>], room_always: bool) {
        let mut missing = 0;
        for (session, (_, seen)) in self.seen.iter().enumerate() {
            assert_eq!(self.replies[session], 0, "every reply came");
            for k in 0..KEYS {
                let terms = terms[session * KEYS as usize + k as usize];
                let ticks: Vec<_> = seen.iter().filter(|(_, tick)| tick.id == StreamId(k)).collect();
                assert_eq!(ticks.last().map_or(0, |(_, t)| t.seq), self.seq[k as usize], "the newest has come");
                let mut before = (None, 0);
                for (at, tick) in &ticks {
                    assert!(tick.seq > before.1, "order of {k} in session {session}");
                    assert_eq!(tick.ltp(), Some(price(k, tick.seq)), "its own price");
                    missing += tick.seq - before.1 - 1;
                    self.check_terms(terms, k, (*at, tick), before, room_always);
                    before = (Some(*at), tick.seq);
                }
            }
        }
        assert_eq!(missing as f64, self.merged(), "a gap is a merged tick and nothing else");
        let inner = self.worker.inner.borrow();
        assert!(inner.evictions.is_empty());
        assert_eq!((inner.newest.kept.len(), inner.newest.calendar.len(), inner.batches.held.len()), (0, 0, 0));
    }

    fn check_terms(
        &self,
        terms: Option<Terms>,
        k: u32,
        (at, tick): (tokio::time::Instant, &Received),
        before: (Option<tokio::time::Instant>, u64),
        room_always: bool,
    ) {
        let Some(terms) = terms else { return };
        if terms.every {
            assert_eq!(tick.seq, before.1 + 1, "nothing of `every` is merged");
        }
        let merged: Vec<_> = (before.1 + 1..=tick.seq).map(|seq| i128::from(price(k, seq))).collect();
        let want =
            (terms.range && merged.len() > 1).then(|| [merged.iter().min().copied(), merged.iter().max().copied()]);
        assert_eq!(
            tick.numbers.get(1..),
            want.as_ref().map_or(Some(&[][..]), |want| Some(&want[..])),
            "range of {merged:?}"
        );
        if let (Some(interval), Some(before), true) = (terms.interval, before.0, room_always) {
            assert!(at.duration_since(before) >= interval, "at most one tick an interval");
        }
    }
}

fn run(ops: Vec<Op>, terms: Vec<Terms>, room_always: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut bench = Bench::new(&terms);
        let mut fixed: Vec<Option<Terms>> = terms.into_iter().map(Some).collect();
        if room_always {
            (0..SESSIONS).for_each(|session| bench.script(session).allow(usize::MAX));
        }
        for op in ops {
            if let Op::SetTerms(session, k, _) = op {
                fixed[session * KEYS as usize + k as usize] = None;
            }
            bench.step(op).await;
        }
        bench.settle().await;
        bench.check(&fixed, room_always);
    });
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_the_socket_refuses_order_newest_gaps_and_memory_hold(
        ops in prop::collection::vec(op(), 1..150),
        terms in prop::collection::vec(terms(), SESSIONS * KEYS as usize),
    ) {
        run(ops, terms, false);
    }

    #[test]
    fn a_reader_that_keeps_up_gets_its_rate(
        ops in prop::collection::vec(op(), 1..150),
        terms in prop::collection::vec(terms(), SESSIONS * KEYS as usize),
    ) {
        // Each tick is flushed at once, so that arrival is sending.
        let flushed = ops.into_iter().flat_map(|op| [op, Op::Flush]).collect();
        run(flushed, terms, true);
    }
}

#[test]
fn the_rest_of_a_frame_of_ticks_is_kept_when_a_reply_went_out_before_it() {
    // The socket takes the reply and one byte of the frame.
    let ops = vec![Op::Ticks(vec![2, 0]), Op::Room(0, 5), Op::Reply(0)];
    run(ops, vec![Terms::default(); SESSIONS * KEYS as usize], false);
}

/// Runs `test` with paused time.
fn paused<F: Future<Output = ()>>(terms: Terms, test: impl FnOnce(Bench) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { test(Bench::new(&[terms; 9])).await });
}

const PONG: &[u8] = b"\x8a\x00";

#[test]
fn a_gap_evicts_who_takes_every_tick_and_no_tick_follows_it() {
    paused(EVERY, |mut bench| async move {
        bench.script(0).allow(usize::MAX);
        bench.step(Op::Ticks(vec![1])).await;
        // Ingest merged tick 2 of the key into tick 3.
        bench.seq[1] += 1;
        bench.step(Op::Ticks(vec![1, 2, 1])).await;
        bench.step(Op::Flush).await;
        let seen: Vec<_> = bench.seen[0].1.iter().map(|(_, t)| (t.id.0, t.seq)).collect();
        assert_eq!(seen, [(1, 1), (2, 1)]);
        assert_eq!(bench.worker.next_eviction().await, (bench.sessions[0].0, Eviction::Gap));
    });
}

#[test]
fn lost_ticks_evict_only_who_takes_every_tick() {
    paused(Terms::default(), |bench| async move {
        bench.worker.set_terms(bench.sessions[1].0, key(2), EVERY);
        bench.worker.ticks_lost();
        assert_eq!(bench.worker.next_eviction().await, (bench.sessions[1].0, Eviction::Gap));
        assert!(bench.worker.inner.borrow().evictions.is_empty());
    });
}

#[test]
fn a_pong_waits_for_no_flush_and_goes_before_ticks_that_wait() {
    paused(EVERY, |mut bench| async move {
        // No flush has begun yet.
        bench.script(0).allow(100);
        bench.deliver(&[1]);
        bench.worker.send(bench.sessions[0].0, Bytes::from_static(PONG));
        assert!(bench.script(0).taken.borrow().starts_with(PONG));
        // A hundred ticks wait, one of them begun.
        for _ in 0..100 {
            bench.deliver(&[1]);
            bench.flush().await;
        }
        let before = bench.script(0).taken.borrow().len();
        bench.worker.send(bench.sessions[0].0, Bytes::from_static(PONG));
        bench.script(0).allow(usize::MAX);
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        let taken = bench.script(0).taken.borrow();
        let at = taken[before..].windows(2).position(|w| w == PONG).expect("the pong");
        assert!(at < 40, "only the frame begun goes first, not {at} bytes");
        assert!(taken.len() > before + 500);
    });
}

#[test]
fn overload_slows_one_class_and_evicts_its_slowest() {
    paused(Terms::default(), |mut bench| async move {
        let (low, slowest) = (bench.sessions[0].0, bench.sessions[1].0);
        for id in [low, slowest] {
            bench.worker.set_class(id, Class::Low);
        }
        bench.worker.set_conflation_interval(Class::Low, Some(Duration::from_millis(100)));
        (0..SESSIONS).for_each(|session| bench.script(session).allow(usize::MAX));
        for _ in 0..3 {
            bench.step(Op::Ticks(vec![1])).await;
            bench.step(Op::Flush).await;
        }
        let seen =
            |bench: &Bench| bench.seen.iter().map(|(_, seen)| seen.last().map_or(0, |t| t.1.seq)).collect::<Vec<_>>();
        assert_eq!(seen(&bench), [1, 1, 3]);
        bench.worker.set_conflation_interval(Class::Low, None);
        bench.read();
        assert_eq!(seen(&bench), [3, 3, 3], "what was held goes at once");
        {
            let mut inner = bench.worker.inner.borrow_mut();
            let (now, long_ago) = (Instant::now(), Instant::now().checked_sub(Duration::from_secs(5)).unwrap());
            inner.connection(low).unwrap().outbox.fall_behind(now);
            inner.connection(slowest).unwrap().outbox.fall_behind(long_ago);
            let normal = bench.sessions[2].0;
            inner.connection(normal).unwrap().outbox.fall_behind(long_ago);
        }
        assert_eq!(bench.worker.evict_slowest(Class::Low, 1), 1);
        assert_eq!(bench.worker.next_eviction().await, (slowest, Eviction::Shed));
        assert!(bench.worker.inner.borrow().evictions.is_empty());
    });
}

/// Lanes that a session has.
fn lanes(bench: &Bench, session: usize) -> usize {
    let mut inner = bench.worker.inner.borrow_mut();
    let connection = inner.connection(bench.sessions[session].0).expect("open");
    connection.lanes.as_ref().map_or(0, |lanes| lanes.len())
}

#[test]
fn terms_for_one_key_cost_nothing_on_the_others() {
    paused(Terms::default(), |mut bench| async move {
        let rated = Terms { interval: Some(Duration::from_millis(100)), ..Terms::default() };
        bench.step(Op::SetTerms(0, 0, rated)).await;
        bench.step(Op::Ticks(vec![0, 1, 2])).await;
        assert_eq!(lanes(&bench, 0), 1);
    });
}

#[test]
fn what_overload_holds_back_for_all_meets_no_session() {
    paused(Terms::default(), |mut bench| async move {
        (0..SESSIONS).for_each(|session| bench.script(session).allow(usize::MAX));
        bench.step(Op::Impose(Some(100))).await;
        for _ in 0..3 {
            bench.step(Op::Ticks(vec![1])).await;
            bench.step(Op::Flush).await;
        }
        let seen = |bench: &Bench| bench.seen.iter().map(|(_, seen)| seen.len()).collect::<Vec<_>>();
        assert_eq!(seen(&bench), [1; SESSIONS], "the first goes at once");
        assert_eq!((0..SESSIONS).map(|session| lanes(&bench, session)).sum::<usize>(), 0);
        assert_eq!(bench.worker.inner.borrow().newest.calendar.len(), 0);
        bench.step(Op::Wait(120)).await;
        bench.step(Op::Flush).await;
        assert_eq!(seen(&bench), [2; SESSIONS], "the newest when its time has come");
    });
}
