//! The stream table of one shard: pure data, no lock, no clock.
//!
//! A record per (scope, instrument): last value and `seq` per mode, who wants it, how many keys pin it. Ticks create
//! records; beyond the limits (counted over all shards) the record of this shard that has ticked least recently and that
//! nobody pins nor wants makes room, else the tick is dropped. A record gets its [`StreamId`] at its first pin: names
//! that a publisher invents use no ids up. Cost: O(1) per tick, and no allocation once a record's buffers have grown.
//! Tests: `stream/tests.rs` (against a naive model), `tests/model.rs` (schedules).

use super::hash::seeded;
use crate::limits::{TICK_PAYLOAD_BYTES_MAX, WORKERS_MAX};
use crate::model::{BrokerId, Encoding, Format, Instrument, InstrumentRef, Micros, Mode, ScopeId, StreamId, WorkerId};
use ahash::RandomState;
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;
use std::sync::Arc;

mod common;
mod io;
#[cfg(test)]
mod laws;
mod space;
#[cfg(test)]
mod tests;

pub(super) use common::Common;
use common::SCALE_MAX;
pub use common::default_scale;

pub use io::{Activation, Full, Ingested, Interest, LastValue, Pinned, Serves, TickIn, TickOut, Usage, Want, Wants};

/// While a lower mode has ticks of its own, covered copies are held back; after so many higher-mode ticks in a row
/// without one, they are sent again.
pub const OWN_TICKS: u8 = 16;
/// Last-value buffers grow in steps, so that payloads of slightly varying length do not reallocate. Bytes.
const BUFFER_STEP: usize = 64;
/// No slot: end of a list, or no value.
const NIL: u32 = u32::MAX;

/// The stream table of one shard.
pub struct Streams {
    common: Arc<Common>,
    hasher: RandomState,
    by_name: HashTable<u32>,
    by_id: HashMap<StreamId, u32, RandomState>,
    slots: Vec<Record>,
    free: Vec<u32>,
    /// Least recently ticked (or released) of the records that nobody pins nor wants.
    oldest: u32,
    newest: u32,
    usage: Usage,
}

/// One (scope, instrument).
struct Record {
    /// `None` while the slot is free.
    instrument: Option<Instrument>,
    scope: ScopeId,
    /// Given at the first pin.
    stream: Option<StreamId>,
    scale: u8,
    pins: u32,
    modes: [ModeState; 3],
    /// At most one is referenced per mode; the others' buffers wait for reuse.
    values: [Value; 3],
    wanted: SmallVec<[WantRow; 2]>,
    older: u32,
    newer: u32,
}

/// What a record knows about one mode.
#[derive(Clone, Copy)]
struct ModeState {
    seq: u64,
    /// Which of the record's values served this mode last; 3 = none.
    value: u8,
    /// Higher-mode ticks still to be held back; 0 = the `own` flag is clear.
    own: u8,
}

const NO_VALUE: u8 = 3;

/// A tick's bytes and what is known about them.
struct Value {
    bytes: Vec<u8>,
    encoding: Encoding,
    tick_mode: Mode,
    broker: Option<BrokerId>,
    t_recv: Micros,
}

#[derive(Clone, Copy)]
struct WantRow {
    workers: u64,
    mode: Mode,
    format: Format,
    label: BrokerId,
    /// Ticks of (stream, mode) that this label could see: `seq` of the newest. Begins at the mode's own count, which it never passes, so
    /// that it does not go back when the row goes and comes again.
    seq: u64,
}

impl Record {
    fn new(scope: ScopeId, instrument: InstrumentRef<'_>, scale: u8) -> Self {
        const EMPTY: Value = Value {
            bytes: Vec::new(),
            encoding: Encoding::Json,
            tick_mode: Mode::Ltp,
            broker: None,
            t_recv: Micros(0),
        };
        Record {
            instrument: Some(instrument.to_owned()),
            scope,
            stream: None,
            scale,
            pins: 0,
            modes: [ModeState { seq: 0, value: NO_VALUE, own: 0 }; 3],
            values: [EMPTY; 3],
            wanted: SmallVec::new(),
            older: NIL,
            newer: NIL,
        }
    }

    fn name(&self) -> InstrumentRef<'_> {
        self.instrument.as_ref().expect("the slot is in use").as_ref()
    }

    /// Nobody pins it and nobody wants it: it may make room for another.
    fn is_evictable(&self) -> bool {
        self.pins == 0 && self.wanted.is_empty()
    }

    fn bytes(&self) -> usize {
        self.values.iter().map(|v| v.bytes.capacity()).sum()
    }

    /// Which modes a tick of `mode` serves, by [`Mode::index`]; updates the own flags.
    fn serve(&mut self, tick: &TickIn<'_>) -> [bool; 3] {
        let mode = tick.mode;
        let can = match tick.serves {
            Serves::Unread { lower } => [lower; 3],
            Serves::Known(modes) => modes,
        };
        let mut served = [false; 3];
        for m in Mode::ALL {
            let state = &mut self.modes[m.index()];
            if m == mode {
                // A source that sends each tick once may send the next one in a higher mode.
                state.own = if tick.highest_only { 0 } else { OWN_TICKS };
                served[m.index()] = true;
            } else if m < mode {
                let is_news = m != Mode::Ltp || !tick.repeats_ltp;
                served[m.index()] = can[m.index()] && state.own == 0 && is_news;
                state.own = state.own.saturating_sub(1);
            }
        }
        served
    }

    /// The value to overwrite with a tick that serves `served`: one that no other mode still needs. There always is one:
    /// at most two modes are not served. The old value of the tick's own mode comes first: its buffer has the right size.
    fn victim(&self, mode: Mode, served: [bool; 3]) -> usize {
        let needed = |v: usize| (0..3).any(|m| !served[m] && usize::from(self.modes[m].value) == v);
        let own = usize::from(self.modes[mode.index()].value);
        let candidates = [own, mode.index(), 0, 1, 2];
        candidates.into_iter().find(|v| *v < 3 && !needed(*v)).expect("three values, at most two of them needed")
    }
}

impl Streams {
    pub(super) fn new(common: Arc<Common>) -> Self {
        // Not the hash that chose the shard: its low bits are all equal here.
        let hasher = seeded(common.seed.map(|s| s ^ 0x5bd1_e995));
        Streams {
            by_id: HashMap::with_hasher(hasher.clone()),
            hasher,
            common,
            by_name: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            oldest: NIL,
            newest: NIL,
            usage: Usage::default(),
        }
    }

    /// Takes one tick: value first, then `seq`, then who wants it. An unread one of a stream that somebody wants is left alone and named
    /// in `later`: what it serves decides its `seq`.
    pub(super) fn tick(
        &mut self,
        tick: &TickIn<'_>,
        out: &mut Vec<TickOut>,
        later: &mut Vec<u32>,
        counts: &mut Ingested,
    ) {
        let found = self.find(tick.scope, tick.instrument);
        match tick.serves {
            Serves::Unread { .. } if found.is_some_and(|at| !self.slots[at as usize].wanted.is_empty()) => {
                return later.push(tick.position);
            }
            // It is nothing to anybody, and must not stand where a value stood.
            Serves::Known(modes) if !modes[tick.mode.index()] => {
                counts.unwanted += 1;
                return;
            }
            _ => {}
        }
        let Some(slot) = self.store(found, tick) else {
            counts.refused += 1;
            counts.lost += u32::from(found.is_some_and(|at| !self.slots[at as usize].wanted.is_empty()));
            return;
        };
        let record = &mut self.slots[slot.at as usize];
        let (Some(stream), false) = (record.stream, record.wanted.is_empty()) else {
            counts.unwanted += 1;
            return;
        };
        let wants: Wants = record
            .wanted
            .iter_mut()
            .filter(|w| slot.served[w.mode.index()] && tick.broker.is_none_or(|b| b == w.label))
            .map(|w| {
                w.seq += tick.counts();
                Want { mode: w.mode, seq: w.seq, format: w.format, label: w.label, workers: w.workers }
            })
            .collect();
        if wants.is_empty() {
            counts.unwanted += 1;
            return;
        }
        counts.wanted += 1;
        out.push(TickOut { position: tick.position, stream, scale: record.scale, wants });
    }

    pub(super) fn note_ticks(&mut self, counts: Ingested) {
        self.usage.ticks += u64::from(counts.wanted + counts.unwanted + counts.refused);
        self.usage.refused += u64::from(counts.refused);
    }

    /// Finds or makes the record, keeps the value, advances `seq`. `None`: no room.
    fn store(&mut self, found: Option<u32>, tick: &TickIn<'_>) -> Option<Stored> {
        if tick.payload.len() > TICK_PAYLOAD_BYTES_MAX {
            return None;
        }
        let (at, is_new) = match found {
            Some(at) => (at, false),
            None => (self.create(tick.scope, tick.instrument)?, true),
        };
        if self.slots[at as usize].is_evictable() {
            self.unlink(at);
            self.link_newest(at);
        }
        let record = &mut self.slots[at as usize];
        // A refused tick must leave no trace, so flags change only once there is room.
        let flags = record.modes;
        let served = record.serve(tick);
        let value = record.victim(tick.mode, served);
        if !self.make_room(at, value, tick.payload.len()) {
            self.slots[at as usize].modes = flags;
            if is_new {
                self.remove(at);
            }
            return None;
        }
        let record = &mut self.slots[at as usize];
        let held = &mut record.values[value];
        held.bytes.clear();
        held.bytes.extend_from_slice(tick.payload);
        held.encoding = tick.encoding;
        held.tick_mode = tick.mode;
        held.broker = tick.broker;
        held.t_recv = tick.t_recv;
        for (state, served) in record.modes.iter_mut().zip(served) {
            if served {
                state.seq += tick.counts();
                state.value = value as u8;
            }
        }
        Some(Stored { at, served })
    }

    /// Holds on to a stream for one key; makes it if need be, and fixes its id and scale.
    ///
    /// # Errors
    /// [`Full`] when the limit of instruments is reached and nothing in this shard can make room, or when the name is
    /// not acceptable.
    pub fn pin(&mut self, scope: ScopeId, instrument: InstrumentRef<'_>) -> Result<Pinned, Full> {
        let at = self.find_or_create(scope, instrument)?;
        let record = &mut self.slots[at as usize];
        let stream = match record.stream {
            Some(stream) => stream,
            // An unpinned record that was made just now stays: it is the first to be evicted.
            None => self.common.next_stream().ok_or(Full)?,
        };
        let was_evictable = record.is_evictable();
        record.stream = Some(stream);
        record.pins += 1;
        let scale = record.scale;
        self.by_id.insert(stream, at);
        self.usage.pins += 1;
        if was_evictable {
            self.unlink(at);
        }
        Ok(Pinned { stream, scale })
    }

    /// Gives one pin back. Whether there was one.
    pub fn unpin(&mut self, stream: StreamId) -> bool {
        let Some(&at) = self.by_id.get(&stream) else { return false };
        let record = &mut self.slots[at as usize];
        if record.pins == 0 {
            return false;
        }
        record.pins -= 1;
        self.usage.pins -= 1;
        if record.is_evictable() {
            self.link_newest(at);
        }
        true
    }

    /// Raises a stream's scale to at least `digits`, as far as nobody has been told another one yet. The scale in force.
    ///
    /// # Errors
    /// [`Full`] as in [`Self::pin`].
    pub fn raise_scale(&mut self, scope: ScopeId, instrument: InstrumentRef<'_>, digits: u8) -> Result<u8, Full> {
        let at = self.find_or_create(scope, instrument)?;
        let record = &mut self.slots[at as usize];
        if record.stream.is_none() {
            record.scale = record.scale.max(digits.min(SCALE_MAX));
        }
        Ok(record.scale)
    }

    /// See [`super::Shards::activate`].
    pub fn activate(&mut self, stream: StreamId, interest: Interest) -> Option<Activation> {
        let at = *self.by_id.get(&stream)?;
        let record = &mut self.slots[at as usize];
        let was_evictable = record.is_evictable();
        let bit = worker_bit(interest.worker);
        let row = match record.wanted.iter().position(|w| w.is_for(&interest)) {
            Some(i) => &mut record.wanted[i],
            None => {
                let Interest { mode, format, label, .. } = interest;
                let seq = record.modes[mode.index()].seq;
                record.wanted.push(WantRow { workers: 0, mode, format, label, seq });
                record.wanted.last_mut().expect("a row was pushed just now")
            }
        };
        if row.workers & bit == 0 {
            row.workers |= bit;
            self.usage.wanted += 1;
        }
        let seq = row.seq;
        let state = record.modes[interest.mode.index()];
        let last = record.values.get(usize::from(state.value)).filter(|v| v.broker.is_none_or(|b| b == interest.label));
        let last = last.map(|v| LastValue {
            payload: v.bytes.clone(),
            encoding: v.encoding,
            tick_mode: v.tick_mode,
            broker: v.broker,
            t_recv: v.t_recv,
            seq,
        });
        if was_evictable {
            self.unlink(at);
        }
        Some(Activation { floor: seq, last })
    }

    /// See [`super::Shards::deactivate`].
    pub fn deactivate(&mut self, stream: StreamId, interest: Interest) -> bool {
        let Some(&at) = self.by_id.get(&stream) else { return false };
        let record = &mut self.slots[at as usize];
        let Some(i) = record.wanted.iter().position(|w| w.is_for(&interest)) else { return false };
        let bit = worker_bit(interest.worker);
        let row = &mut record.wanted[i];
        if row.workers & bit == 0 {
            return false;
        }
        row.workers &= !bit;
        self.usage.wanted -= 1;
        if row.workers == 0 {
            record.wanted.swap_remove(i);
        }
        if record.is_evictable() {
            self.link_newest(at);
        }
        true
    }

    /// Forgets last values and own flags of `scope`, or of all scopes, and gives their memory back. O(records).
    pub fn erase_last_values(&mut self, scope: Option<ScopeId>) {
        let mut freed = 0;
        for record in self.slots.iter_mut().filter(|r| r.instrument.is_some() && scope.is_none_or(|s| s == r.scope)) {
            freed += record.bytes();
            for state in &mut record.modes {
                (state.value, state.own) = (NO_VALUE, 0);
            }
            for value in &mut record.values {
                value.bytes = Vec::new();
            }
        }
        self.give_back(freed);
    }

    /// What is behind an id.
    pub fn stream(&self, stream: StreamId) -> Option<(ScopeId, InstrumentRef<'_>)> {
        let record = &self.slots[*self.by_id.get(&stream)? as usize];
        Some((record.scope, record.name()))
    }

    /// Ticks of a stream so far that served `mode`, whoever wanted them: its `seq`.
    pub fn ticks(&self, stream: StreamId, mode: Mode) -> u64 {
        self.by_id.get(&stream).map_or(0, |at| self.slots[*at as usize].modes[mode.index()].seq)
    }

    /// All wants of all streams, for the auditor: (stream, mode, format, label, workers). O(records).
    pub fn wanted(&self) -> impl Iterator<Item = (StreamId, Mode, Format, BrokerId, u64)> + '_ {
        self.slots
            .iter()
            .filter_map(|r| r.stream.map(|id| (id, r)))
            .flat_map(|(id, r)| r.wanted.iter().map(move |w| (id, w.mode, w.format, w.label, w.workers)))
    }

    /// What the table holds.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn find_or_create(&mut self, scope: ScopeId, instrument: InstrumentRef<'_>) -> Result<u32, Full> {
        match self.find(scope, instrument) {
            Some(at) => Ok(at),
            None => self.create(scope, instrument).ok_or(Full),
        }
    }

    #[inline]
    fn find(&self, scope: ScopeId, instrument: InstrumentRef<'_>) -> Option<u32> {
        let hash = self.hasher.hash_one((scope, instrument));
        let is_it = |at: &u32| {
            let record = &self.slots[*at as usize];
            record.scope == scope && record.name() == instrument
        };
        self.by_name.find(hash, is_it).copied()
    }
}

/// Where a tick was stored, and which modes it serves.
struct Stored {
    at: u32,
    served: [bool; 3],
}

impl WantRow {
    fn is_for(&self, interest: &Interest) -> bool {
        self.mode == interest.mode && self.format == interest.format && self.label == interest.label
    }
}

fn worker_bit(worker: WorkerId) -> u64 {
    assert!(usize::from(worker.0) < WORKERS_MAX, "a worker's number fits the bitmap");
    1 << worker.0
}
