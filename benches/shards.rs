//! What shards cost: `cargo bench --bench shards` (criterion: lock, shard lookup, ingest of a batch), and
//! `cargo bench --bench shards -- churn-table` (lock designs and shard counts under fan-out plus churn, two threads).
//!
//! The table compares on a reduced record (payload, seq, one bitmap) so that designs differ in nothing but their
//! locking; its last rows are the real `Shards`. Figures for ARCHITECTURE come from the table.

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use hashbrown::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use tickcast::model::{BrokerId, Encoding, Format, InstrumentRef, Micros, Mode, ScopeId, StreamId, WorkerId};
use tickcast::shards::{Config, Interest, LockName, Serves, ShardIndex, Shards, TickIn, TickOut, TimedLock};

const BATCH: usize = 100;
const INSTRUMENTS: usize = 2000;
const PAYLOAD: &[u8] = &[b'7'; 160];

criterion_group!(benches, locks, lookup, ingest);

fn main() {
    if std::env::args().any(|a| a == "churn-table") {
        churn_table();
    } else {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}

fn locks(c: &mut Criterion) {
    let mut group = c.benchmark_group("lock");
    let plain = Mutex::new(0u64);
    group.bench_function("std_mutex", |b| b.iter(|| *black_box(&plain).lock().expect("not poisoned") += 1));
    let timed = TimedLock::new(LockName::Subscription, Some(0), Duration::from_millis(100), 0u64);
    group.bench_function("timed_lock", |b| b.iter(|| black_box(&timed).with(|n| *n += 1)));
    group.bench_function("clock_read", |b| b.iter(Instant::now));
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let shards = Shards::new(&Config::default());
    let instrument = InstrumentRef { venue: "NFO", symbol: "BANKNIFTY25NOV2645000CE" };
    c.bench_function("shard_of", |b| b.iter(|| shards.shard_of(black_box(instrument))));
}

fn ingest(c: &mut Criterion) {
    let mut group = c.benchmark_group("ingest_100");
    group.throughput(Throughput::Elements(BATCH as u64));
    for instruments in [50, INSTRUMENTS] {
        for wanted in [false, true] {
            let real = Real::new(64, instruments, wanted);
            let (mut batches, mut grouped, mut out) = (Batches::new(instruments), Grouped::default(), Vec::new());
            let name = format!("{instruments}_instruments_{}", if wanted { "wanted" } else { "unwanted" });
            group.bench_function(name, |b| {
                b.iter_batched(
                    || batches.next(),
                    |batch| real.ingest(&batch, &mut grouped, &mut out),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

/// Batches of random instruments, the same in every run.
struct Batches {
    state: u64,
    instruments: usize,
}

impl Batches {
    fn new(instruments: usize) -> Self {
        Batches { state: 0x9e37_79b9_7f4a_7c15, instruments }
    }

    fn one(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % self.instruments as u64) as usize
    }

    fn next(&mut self) -> [usize; BATCH] {
        std::array::from_fn(|_| self.one())
    }
}

/// The real shards with every instrument pinned.
struct Real {
    shards: Shards,
    names: Vec<String>,
    homes: Vec<(ShardIndex, StreamId)>,
}

/// Reused between batches: positions sorted by shard, and the ticks of one shard.
#[derive(Default)]
struct Grouped {
    order: Vec<(ShardIndex, u32)>,
}

impl Real {
    fn new(shards: usize, instruments: usize, wanted: bool) -> Self {
        let shards = Shards::new(&Config { shards, ..Config::default() });
        let names: Vec<String> = (0..instruments).map(|i| format!("NIFTY25NOV26{}CE", 20_000 + i * 50)).collect();
        let pin = |symbol: &String| {
            let instrument = InstrumentRef { venue: "NFO", symbol };
            let home = shards.shard_of(instrument);
            (home, shards.with(home, |s| s.streams.pin(ScopeId::SHARED, instrument)).expect("room").stream)
        };
        let homes = names.iter().map(pin).collect();
        let real = Real { shards, names, homes };
        for i in (0..instruments).filter(|_| wanted) {
            real.churn(i, true, 0);
        }
        real
    }

    fn ingest(&self, batch: &[usize; BATCH], grouped: &mut Grouped, out: &mut Vec<TickOut>) {
        out.clear();
        grouped.order.clear();
        let name = |i: usize| InstrumentRef { venue: "NFO", symbol: &self.names[i] };
        grouped.order.extend(batch.iter().zip(0..).map(|(i, at)| (self.shards.shard_of(name(*i)), at)));
        grouped.order.sort_unstable();
        let mut ticks: smallvec::SmallVec<[TickIn<'_>; BATCH]> = smallvec::SmallVec::new();
        for group in grouped.order.chunk_by(|a, b| a.0 == b.0) {
            ticks.clear();
            ticks.extend(group.iter().map(|(_, at)| TickIn {
                position: *at,
                scope: ScopeId::SHARED,
                instrument: name(batch[*at as usize]),
                mode: Mode::Quote,
                broker: None,
                payload: PAYLOAD,
                encoding: Encoding::MsgPack,
                serves: Serves::Known([true; 3]),
                merged: 0,
                highest_only: false,
                repeats_ltp: false,
                t_recv: Micros(1),
            }));
            self.shards.ingest(group[0].0, &ticks, out, &mut Vec::new());
        }
    }

    fn churn(&self, i: usize, on: bool, worker: u8) {
        let (home, stream) = self.homes[i];
        let interest =
            Interest { worker: WorkerId(worker), mode: Mode::Quote, format: Format::Json, label: BrokerId(0) };
        if on {
            black_box(self.shards.activate(home, stream, interest));
        } else {
            self.shards.deactivate(home, stream, interest);
        }
    }
}

// --- lock designs ---------------------------------------------------------------------------------------------------

/// One way to guard the tables: a batch comes in, or one worker's interest changes.
trait Design: Send + Sync {
    fn ingest(&self, batch: &[usize; BATCH], order: &mut Vec<(usize, usize)>, out: &mut Vec<(usize, u64, u64)>);
    fn churn(&self, i: usize, on: bool);
}

#[derive(Clone, Default)]
struct Record {
    seq: u64,
    last: Vec<u8>,
    wanted: u64,
}

impl Record {
    fn keep(&mut self) -> u64 {
        self.last.clear();
        self.last.extend_from_slice(PAYLOAD);
        self.seq += 1;
        self.seq
    }
}

fn set(bits: &mut u64, on: bool) {
    if on { *bits |= 2 } else { *bits &= !2 }
}

/// A cheap stand-in for the symbol hash.
fn home(i: usize, shards: usize) -> usize {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) & (shards - 1)
}

fn by_shard(batch: &[usize; BATCH], shards: usize, order: &mut Vec<(usize, usize)>) {
    order.clear();
    order.extend(batch.iter().map(|i| (home(*i, shards), *i)));
    order.sort_by_key(|o| o.0);
}

fn filled<T>(shards: usize, record: impl Fn() -> T) -> Vec<HashMap<usize, T>> {
    let mut maps: Vec<HashMap<usize, T>> = (0..shards).map(|_| HashMap::new()).collect();
    for i in 0..INSTRUMENTS {
        maps[home(i, shards)].insert(i, record());
    }
    maps
}

/// What we do, without the clock: everything of a shard under one mutex.
struct OneMutex(Vec<Mutex<HashMap<usize, Record>>>);

impl Design for OneMutex {
    fn ingest(&self, batch: &[usize; BATCH], order: &mut Vec<(usize, usize)>, out: &mut Vec<(usize, u64, u64)>) {
        by_shard(batch, self.0.len(), order);
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let mut map = self.0[group[0].0].lock().expect("not poisoned");
            for (_, i) in group {
                let record = map.get_mut(i).expect("filled");
                out.push((*i, record.keep(), record.wanted));
            }
        }
    }

    fn churn(&self, i: usize, on: bool) {
        let mut map = self.0[home(i, self.0.len())].lock().expect("not poisoned");
        let record = map.get_mut(&i).expect("filled");
        set(&mut record.wanted, on);
        black_box((record.seq, record.last.clone()));
    }
}

/// A read-write lock over who wants what, and a mutex in each record for last value and `seq`.
struct ReadWrite(Vec<RwLock<WantedMap>>);

type WantedMap = HashMap<usize, (u64, Mutex<Record>)>;

impl Design for ReadWrite {
    fn ingest(&self, batch: &[usize; BATCH], order: &mut Vec<(usize, usize)>, out: &mut Vec<(usize, u64, u64)>) {
        by_shard(batch, self.0.len(), order);
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let map = self.0[group[0].0].read().expect("not poisoned");
            for (_, i) in group {
                let (wanted, record) = map.get(i).expect("filled");
                out.push((*i, record.lock().expect("not poisoned").keep(), *wanted));
            }
        }
    }

    fn churn(&self, i: usize, on: bool) {
        let mut map = self.0[home(i, self.0.len())].write().expect("not poisoned");
        let (wanted, record) = map.get_mut(&i).expect("filled");
        set(wanted, on);
        let record = record.get_mut().expect("not poisoned");
        black_box((record.seq, record.last.clone()));
    }
}

/// Who wants what is an immutable map, cloned and published at each change; last values stay in mutexes of their own.
struct Snapshot {
    wanted: Vec<Mutex<Arc<HashMap<usize, u64>>>>,
    records: Vec<Mutex<Record>>,
}

impl Design for Snapshot {
    fn ingest(&self, batch: &[usize; BATCH], order: &mut Vec<(usize, usize)>, out: &mut Vec<(usize, u64, u64)>) {
        by_shard(batch, self.wanted.len(), order);
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let map = self.wanted[group[0].0].lock().expect("not poisoned").clone();
            for (_, i) in group {
                out.push((*i, self.records[*i].lock().expect("not poisoned").keep(), map[i]));
            }
        }
    }

    fn churn(&self, i: usize, on: bool) {
        let mut published = self.wanted[home(i, self.wanted.len())].lock().expect("not poisoned");
        let mut map = HashMap::clone(&published);
        set(map.get_mut(&i).expect("filled"), on);
        *published = Arc::new(map);
        drop(published);
        let record = self.records[i].lock().expect("not poisoned");
        black_box((record.seq, record.last.clone()));
    }
}

/// The real thing, names, wants, limits, clock and all.
struct Whole(Real);

impl Design for Whole {
    fn ingest(&self, batch: &[usize; BATCH], _: &mut Vec<(usize, usize)>, _: &mut Vec<(usize, u64, u64)>) {
        thread_local! {
            static REUSED: std::cell::RefCell<(Grouped, Vec<TickOut>)> = std::cell::RefCell::default();
        }
        REUSED.with_borrow_mut(|(grouped, out)| self.0.ingest(batch, grouped, out));
    }

    fn churn(&self, i: usize, on: bool) {
        self.0.churn(i, on, 1);
    }
}

fn design(name: &str, shards: usize) -> Box<dyn Design> {
    match name {
        "mutex" => Box::new(OneMutex(filled(shards, Record::default).into_iter().map(Mutex::new).collect())),
        "rwlock" => {
            let maps = filled(shards, || (1, Mutex::default()));
            Box::new(ReadWrite(maps.into_iter().map(RwLock::new).collect()))
        }
        "snapshot" => {
            let wanted = filled(shards, || 1).into_iter().map(|m| Mutex::new(Arc::new(m))).collect();
            Box::new(Snapshot { wanted, records: (0..INSTRUMENTS).map(|_| Mutex::default()).collect() })
        }
        _ => Box::new(Whole(Real::new(shards, INSTRUMENTS, true))),
    }
}

/// One thread ingests batches, another changes interests as fast as it can. Batch time median and p99 in
/// microseconds, changes per second.
fn measure(design: &dyn Design, time: Duration) -> [f64; 3] {
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut times: Vec<u64> = Vec::with_capacity(1 << 20);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut which = Batches::new(INSTRUMENTS);
            while !stop.load(Relaxed) {
                let i = which.one();
                design.churn(i, true);
                design.churn(i, false);
                changes.fetch_add(2, Relaxed);
            }
        });
        let (mut batches, mut order, mut out) = (Batches::new(INSTRUMENTS), Vec::new(), Vec::new());
        let from = Instant::now();
        while from.elapsed() < time {
            let batch = batches.next();
            out.clear();
            let began = Instant::now();
            design.ingest(&batch, &mut order, &mut out);
            times.push(began.elapsed().as_nanos() as u64);
            black_box(&out);
        }
        stop.store(true, Relaxed);
    });
    times.sort_unstable();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize] as f64 / 1e3;
    [at(0.5), at(0.99), changes.load(Relaxed) as f64 / time.as_secs_f64()]
}

/// Medians of interleaved rounds.
fn churn_table() {
    const ROUNDS: usize = 7;
    let cells: Vec<(&str, usize)> = ["mutex", "rwlock", "snapshot", "shards (real)"]
        .into_iter()
        .flat_map(|name| [1, 16, 64, 1024].map(|shards| (name, shards)))
        .collect();
    let mut results = vec![Vec::new(); cells.len()];
    for _ in 0..ROUNDS {
        for (result, (name, shards)) in results.iter_mut().zip(&cells) {
            result.push(measure(&*design(name, *shards), Duration::from_millis(250)));
        }
    }
    println!("| design | shards | batch of 100, median us | p99 us | changes/s |");
    println!("| --- | --- | --- | --- | --- |");
    for (result, (name, shards)) in results.iter().zip(&cells) {
        let median = |column: usize| {
            let mut values: Vec<f64> = result.iter().map(|r| r[column]).collect();
            values.sort_by(f64::total_cmp);
            values[ROUNDS / 2]
        };
        println!("| {name} | {shards} | {:.1} | {:.1} | {:.0} k |", median(0), median(1), median(2) / 1e3);
    }
}
