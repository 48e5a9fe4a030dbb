//! The stream table against a naive model. Its laws, one by one, stand in `laws.rs`.

use super::*;
use crate::shards::shard::Config;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 8] = ["SBIN", "TCS", "INFY", "RELIANCE", "M&M", "BAJAJ-AUTO", "NIFTY", "ITC"];
const SCOPES: [ScopeId; 2] = [ScopeId(0), ScopeId(7)];
pub(super) const BROKERS: [BrokerId; 2] = [BrokerId(0), BrokerId(1)];
const RECORDS_MAX: usize = 9;

pub(super) fn table(instruments_max: usize, last_value_bytes_max: usize) -> Streams {
    let config = Config { instruments_max, last_value_bytes_max, seed: Some(1), ..Config::default() };
    Streams::new(Arc::new(Common::new(&config)))
}

pub(super) fn nse(symbol: &str) -> InstrumentRef<'_> {
    InstrumentRef { venue: "NSE", symbol }
}

/// What a payload of `mode` serves once it was read: its own mode, and the lower ones if `lower`.
pub(super) fn reads(mode: Mode, lower: bool) -> Serves {
    Serves::Known(Mode::ALL.map(|m| m == mode || lower))
}

pub(super) fn tick<'a>(symbol: &'a str, mode: Mode, payload: &'a [u8]) -> TickIn<'a> {
    TickIn {
        position: 0,
        scope: ScopeId::SHARED,
        instrument: nse(symbol),
        mode,
        broker: None,
        payload,
        encoding: Encoding::Json,
        serves: reads(mode, true),
        merged: 0,
        highest_only: false,
        repeats_ltp: false,
        t_recv: Micros(1),
    }
}

pub(super) fn take(streams: &mut Streams, tick: TickIn<'_>) -> (Vec<TickOut>, Ingested) {
    let (mut out, mut counts) = (Vec::new(), Ingested::default());
    streams.tick(&tick, &mut out, &mut Vec::new(), &mut counts);
    streams.note_ticks(counts);
    (out, counts)
}

pub(super) fn interest(worker: u8, mode: Mode) -> Interest {
    Interest { worker: WorkerId(worker), mode, format: Format::Json, label: BROKERS[0] }
}

impl Streams {
    /// Recounts everything that is counted incrementally.
    fn check(&self) {
        let live: Vec<u32> =
            (0..self.slots.len() as u32).filter(|a| self.slots[*a as usize].instrument.is_some()).collect();
        let recount = Usage {
            records: live.len(),
            bytes: live.iter().map(|a| self.slots[*a as usize].bytes()).sum(),
            pins: live.iter().map(|a| self.slots[*a as usize].pins as usize).sum(),
            wanted: self.wanted().map(|w| w.4.count_ones() as usize).sum(),
            ..self.usage
        };
        assert_eq!(recount, self.usage);
        assert_eq!(self.common.used(), (recount.records, recount.bytes), "this table is the only one");
        assert!(recount.records <= self.common.records_max && recount.bytes <= self.common.bytes_max);
        assert_eq!(self.by_name.len(), live.len());
        assert_eq!(self.by_id.len(), live.iter().filter(|a| self.slots[**a as usize].stream.is_some()).count());
        assert_eq!(live.len() + self.free.len(), self.slots.len());
        let (mut listed, mut at, mut before) = (BTreeSet::new(), self.oldest, NIL);
        while at != NIL {
            assert!(listed.insert(at), "the list has no loop");
            assert_eq!(self.slots[at as usize].older, before);
            (before, at) = (at, self.slots[at as usize].newer);
        }
        assert_eq!(self.newest, before);
        let evictable: BTreeSet<u32> = live.into_iter().filter(|a| self.slots[*a as usize].is_evictable()).collect();
        assert_eq!(listed, evictable);
        assert!(self.slots.iter().all(|r| r.wanted.iter().all(|w| w.workers != 0)), "no row without a worker");
    }
}

// --- the naive model ------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Op {
    Tick { scope: usize, name: usize, mode: Mode, broker: Option<BrokerId>, serves_lower: bool, len: usize },
    Pin { scope: usize, name: usize },
    Unpin { which: usize },
    Activate { which: usize, interest: Interest },
    Deactivate { which: usize, interest: Interest },
    Erase { scope: Option<usize> },
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(Mode::ALL.to_vec())
}

fn interests() -> impl Strategy<Value = Interest> {
    (prop::sample::select(vec![0u8, 1, 63]), mode(), any::<bool>(), 0..2usize).prop_map(
        |(worker, mode, json, label)| {
            let format = if json { Format::Json } else { Format::MsgPack };
            Interest { worker: WorkerId(worker), mode, format, label: BROKERS[label] }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let broker = prop::option::weighted(0.3, prop::sample::select(BROKERS.to_vec()));
    prop_oneof![
        20 => (0..2usize, 0..8usize, mode(), broker, any::<bool>(), 0..300usize).prop_map(
            |(scope, name, mode, broker, serves_lower, len)| Op::Tick { scope, name, mode, broker, serves_lower, len }),
        3 => (0..2usize, 0..8usize).prop_map(|(scope, name)| Op::Pin { scope, name }),
        2 => (0..12usize).prop_map(|which| Op::Unpin { which }),
        4 => (0..12usize, interests()).prop_map(|(which, interest)| Op::Activate { which, interest }),
        3 => (0..12usize, interests()).prop_map(|(which, interest)| Op::Deactivate { which, interest }),
        1 => prop::option::of(0..2usize).prop_map(|scope| Op::Erase { scope }),
    ]
}

#[derive(Default)]
struct NaiveMode {
    seq: u64,
    higher_since_own: Option<u32>,
    last: Option<LastValue>,
}

#[derive(Default)]
struct NaiveRecord {
    stream: Option<StreamId>,
    pins: usize,
    modes: [NaiveMode; 3],
    wanted: BTreeSet<(u8, u8, u16, u8)>,
    /// What users of one (mode, format, label) have seen so far; there only while somebody wants it.
    seen: BTreeMap<(u8, u8, u16), u64>,
}

/// The table's rules, written for clarity: linear searches, whole copies.
#[derive(Default)]
struct Naive {
    records: BTreeMap<(usize, usize), NaiveRecord>,
    /// Least recently ticked or released first; holds exactly what nobody pins nor wants.
    order: Vec<(usize, usize)>,
    /// Every id ever given, and to whom.
    ids: BTreeMap<StreamId, (usize, usize)>,
}

fn row(i: Interest) -> (u8, u8, u16, u8) {
    (i.mode.int(), i.format as u8, i.label.0, i.worker.0)
}

impl Naive {
    /// Whether there is a record of `key` now.
    fn find_or_create(&mut self, key: (usize, usize)) -> bool {
        if self.records.contains_key(&key) {
            return true;
        }
        if self.records.len() == RECORDS_MAX {
            if self.order.is_empty() {
                return false;
            }
            let oldest = self.order.remove(0);
            self.records.remove(&oldest);
        }
        self.records.insert(key, NaiveRecord::default());
        self.order.push(key);
        true
    }

    /// Keeps `order` true after `key`'s pins or wants have changed.
    fn reorder(&mut self, key: (usize, usize)) {
        let record = &self.records[&key];
        let free = record.pins == 0 && record.wanted.is_empty();
        let listed = self.order.contains(&key);
        if free && !listed {
            self.order.push(key);
        } else if !free {
            self.order.retain(|k| *k != key);
        }
    }

    fn tick(&mut self, key: (usize, usize), tick: &TickIn<'_>) -> Option<Vec<Want>> {
        if !self.find_or_create(key) {
            return None;
        }
        if self.order.contains(&key) {
            self.order.retain(|k| *k != key);
            self.order.push(key);
        }
        let record = self.records.get_mut(&key).unwrap();
        let mut served = Vec::new();
        for m in Mode::ALL.into_iter().filter(|m| *m <= tick.mode) {
            let state = &mut record.modes[m.index()];
            if m == tick.mode {
                state.higher_since_own = Some(0);
                served.push(m);
            } else {
                let own = state.higher_since_own.is_some_and(|n| n < 16);
                state.higher_since_own = state.higher_since_own.map(|n| n + 1);
                if tick.serves == reads(tick.mode, true) && !own {
                    served.push(m);
                }
            }
        }
        for m in &served {
            let state = &mut record.modes[m.index()];
            state.seq += 1 + u64::from(tick.merged);
            state.last = Some(LastValue {
                payload: tick.payload.to_vec(),
                encoding: tick.encoding,
                tick_mode: tick.mode,
                broker: tick.broker,
                t_recv: tick.t_recv,
                seq: state.seq,
            });
        }
        let mut wants: BTreeMap<(u8, u8, u16), u64> = BTreeMap::new();
        for (m, f, label, worker) in &record.wanted {
            if served.iter().any(|s| s.int() == *m) && tick.broker.is_none_or(|b| b.0 == *label) {
                *wants.entry((*m, *f, *label)).or_default() |= 1 << worker;
            }
        }
        let want = |((m, f, label), workers): ((u8, u8, u16), u64)| {
            let mode = Mode::from_int(m.into()).unwrap();
            let seen = record.seen.get_mut(&(m, f, label)).unwrap();
            *seen += 1 + u64::from(tick.merged);
            let seq = *seen;
            Want { mode, seq, format: Format::ALL[usize::from(f)], label: BrokerId(label), workers }
        };
        Some(wants.into_iter().map(want).collect())
    }
}

fn run(ops: Vec<Op>) {
    let (mut streams, mut naive) = (table(RECORDS_MAX, 1 << 20), Naive::default());
    // Ids in the order given, so that an op can name one; evicted ones too.
    let mut ids: Vec<StreamId> = Vec::new();
    let id = |ids: &Vec<StreamId>, which: usize| ids.get(ids.len().wrapping_sub(1 + which)).copied();
    for (n, op) in ops.into_iter().enumerate() {
        match op {
            Op::Tick { scope, name, mode, broker, serves_lower, len } => {
                let payload = vec![n as u8; len];
                let t = TickIn {
                    position: n as u32,
                    scope: SCOPES[scope],
                    broker,
                    serves: reads(mode, serves_lower),
                    merged: (n % 4 == 0).into(),
                    t_recv: Micros(n as u64),
                    ..tick(NAMES[name], mode, &payload)
                };
                let (out, counts) = take(&mut streams, t);
                match naive.tick((scope, name), &t) {
                    None => assert_eq!(counts, Ingested { refused: 1, ..Ingested::default() }),
                    Some(wants) if wants.is_empty() => assert_eq!((out.len(), counts.unwanted), (0, 1)),
                    Some(wants) => {
                        assert_eq!((out.len(), counts.wanted, out[0].position), (1, 1, n as u32));
                        assert_eq!(Some(out[0].stream), naive.records[&(scope, name)].stream);
                        let mut got = out[0].wants.to_vec();
                        got.sort_by_key(|w| (w.mode, w.format, w.label));
                        assert_eq!(got, wants);
                    }
                }
            }
            Op::Pin { scope, name } => {
                let key = (scope, name);
                let got = streams.pin(SCOPES[scope], nse(NAMES[name]));
                assert_eq!(got.is_ok(), naive.find_or_create(key));
                let Ok(pinned) = got else { continue };
                let record = naive.records.get_mut(&key).unwrap();
                record.pins += 1;
                match record.stream {
                    Some(stream) => assert_eq!(stream, pinned.stream),
                    None => {
                        record.stream = Some(pinned.stream);
                        assert_eq!(naive.ids.insert(pinned.stream, key), None, "an id is never given twice");
                        ids.push(pinned.stream);
                    }
                }
                naive.reorder(key);
            }
            Op::Unpin { which } => {
                let Some(stream) = id(&ids, which) else { continue };
                let key = naive.ids[&stream];
                let record = naive.records.get_mut(&key).filter(|r| r.stream == Some(stream) && r.pins > 0);
                assert_eq!(streams.unpin(stream), record.is_some());
                if let Some(record) = record {
                    record.pins -= 1;
                    naive.reorder(key);
                }
            }
            Op::Activate { which, interest } => {
                let Some(stream) = id(&ids, which) else { continue };
                let key = naive.ids[&stream];
                let record = naive.records.get_mut(&key).filter(|r| r.stream == Some(stream));
                let want = record.map(|record| {
                    record.wanted.insert(row(interest));
                    let state = &record.modes[interest.mode.index()];
                    let (mode, format, label, _) = row(interest);
                    let floor = *record.seen.entry((mode, format, label)).or_insert(state.seq);
                    let last = state.last.clone().filter(|l| l.broker.is_none_or(|b| b == interest.label));
                    Activation { floor, last: last.map(|last| LastValue { seq: floor, ..last }) }
                });
                let is_live = want.is_some();
                assert_eq!(streams.activate(stream, interest), want);
                if is_live {
                    naive.reorder(key);
                }
            }
            Op::Deactivate { which, interest } => {
                let Some(stream) = id(&ids, which) else { continue };
                let key = naive.ids[&stream];
                let record = naive.records.get_mut(&key).filter(|r| r.stream == Some(stream));
                let was = record.is_some_and(|r| {
                    let was = r.wanted.remove(&row(interest));
                    let wanted = &r.wanted;
                    r.seen.retain(|kind, _| wanted.iter().any(|w| (w.0, w.1, w.2) == *kind));
                    was
                });
                assert_eq!(streams.deactivate(stream, interest), was);
                if was {
                    naive.reorder(key);
                }
            }
            Op::Erase { scope } => {
                streams.erase_last_values(scope.map(|s| SCOPES[s]));
                for (key, record) in &mut naive.records {
                    if scope.is_none_or(|s| s == key.0) {
                        for m in &mut record.modes {
                            (m.last, m.higher_since_own) = (None, None);
                        }
                    }
                }
            }
        }
        streams.check();
    }
    release_everything(&mut streams);
}

/// Undoes all pins and wants, evicts what is left, and checks that nothing remains.
fn release_everything(streams: &mut Streams) {
    let wanted: Vec<_> = streams.wanted().collect();
    for (stream, mode, format, label, workers) in wanted {
        for worker in (0..64).filter(|w| workers >> w & 1 == 1).map(WorkerId) {
            assert!(streams.deactivate(stream, Interest { worker, mode, format, label }));
        }
    }
    let ids: Vec<StreamId> = streams.by_id.keys().copied().collect();
    for stream in ids {
        while streams.unpin(stream) {}
    }
    streams.check();
    assert_eq!((streams.usage.pins, streams.usage.wanted), (0, 0));
    while streams.evict_oldest(NIL).is_some() {}
    streams.check();
    assert_eq!((streams.usage.records, streams.usage.bytes, streams.by_id.len()), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_naive_model_does_and_ends_empty(ops in prop::collection::vec(op(), 1..200)) {
        run(ops);
    }

    #[test]
    fn bytes_stay_within_their_limit_whatever_happens(ops in prop::collection::vec(op(), 1..200)) {
        let mut streams = table(RECORDS_MAX, 1000);
        let mut ids = Vec::new();
        for op in ops {
            match op {
                Op::Tick { scope, name, mode, serves_lower, len, .. } => {
                    let payload = vec![1; len];
                    let before = streams.find(SCOPES[scope], nse(NAMES[name])).map(|at| streams.slots[at as usize].modes.map(|m| (m.seq, m.own)));
                    let t = TickIn { scope: SCOPES[scope], serves: reads(mode, serves_lower), ..tick(NAMES[name], mode, &payload) };
                    let (_, counts) = take(&mut streams, t);
                    if counts.refused == 1 {
                        let after = streams.find(SCOPES[scope], nse(NAMES[name])).map(|at| streams.slots[at as usize].modes.map(|m| (m.seq, m.own)));
                        prop_assert_eq!(before, after, "a refused tick leaves no trace");
                    }
                }
                Op::Pin { scope, name } => ids.extend(streams.pin(SCOPES[scope], nse(NAMES[name])).ok().map(|p| p.stream)),
                Op::Unpin { which } => { ids.get(which).map(|id| streams.unpin(*id)); }
                Op::Activate { which, interest } => { ids.get(which).map(|id| streams.activate(*id, interest)); }
                Op::Deactivate { which, interest } => { ids.get(which).map(|id| streams.deactivate(*id, interest)); }
                Op::Erase { scope } => streams.erase_last_values(scope.map(|s| SCOPES[s])),
            }
            streams.check();
        }
        release_everything(&mut streams);
    }
}
