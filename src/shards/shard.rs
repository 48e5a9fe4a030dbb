//! The shards together: which lock an instrument lives behind, and one short closure per visit.
//!
//! Every method takes exactly one shard lock and gives it back before it returns; `erase_last_values` and the sums take
//! one after the other, never two. Tests: here, `stream/tests.rs`, and `tests/model.rs` (schedules).

use super::hash::{ShardHash, ShardIndex};
use super::key::KeyTable;
use super::lock::{LockName, LockStats, TimedLock};
use super::stream::{Activation, Common, Ingested, Interest, Streams, TickIn, TickOut, Usage};
use crate::limits;
use crate::model::{InstrumentRef, ScopeId, StreamId};
use std::sync::Arc;
use std::time::Duration;

/// What the shards need to know at construction.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many shards; a power of two.
    pub shards: usize,
    /// Instruments in all shards together, counted.
    pub instruments_max: usize,
    /// Last values in all shards together, bytes of their buffers.
    pub last_value_bytes_max: usize,
    /// `[scale]`: digits after the point by venue; overrides CONTRACTS 3.2. More than 18 count as 18.
    pub scale: Vec<(String, u8)>,
    /// A wait or hold above this is logged.
    pub lock_slow: Duration,
    /// Fixes the hash keys, for tests that must repeat; `None` draws random ones.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            shards: 64,
            instruments_max: limits::INSTRUMENTS_MAX,
            last_value_bytes_max: limits::LAST_VALUE_BYTES_MAX,
            scale: Vec::new(),
            lock_slow: limits::LOCK_SLOW,
            seed: None,
        }
    }
}

/// What one shard lock guards.
pub struct Shard {
    /// Streams of the shard's instruments: last values, `seq`, who wants them.
    pub streams: Streams,
    /// Keys of the shard's instruments: references and the state machine of each.
    pub keys: KeyTable,
}

/// All shards.
pub struct Shards {
    hash: ShardHash,
    shards: Box<[Padded]>,
    common: Arc<Common>,
}

/// Two cache lines: adjacent-line prefetch would otherwise couple neighbouring locks.
#[repr(align(128))]
struct Padded(TimedLock<Shard>);

impl Shards {
    /// Empty shards.
    ///
    /// # Panics
    /// When `config.shards` is not a power of two up to 32,768.
    pub fn new(config: &Config) -> Self {
        let hash = ShardHash::new(config.shards, config.seed);
        let common = Arc::new(Common::new(config));
        let shards = (0..config.shards as u16)
            .map(|i| {
                let shard = Shard { streams: Streams::new(common.clone()), keys: KeyTable::default() };
                Padded(TimedLock::new(LockName::Subscription, Some(i), config.lock_slow, shard))
            })
            .collect();
        Shards { hash, shards, common }
    }

    /// How many shards there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always a shard")]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// All shard numbers, ascending.
    pub fn indexes(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        (0..self.shards.len() as u16).map(ShardIndex)
    }

    /// The shard that holds `instrument`, in every scope.
    #[inline]
    pub fn shard_of(&self, instrument: InstrumentRef<'_>) -> ShardIndex {
        self.hash.shard_of(instrument)
    }

    /// Lends one shard to `f`, which must neither encode, log, call the system nor come back here.
    #[track_caller]
    #[inline]
    pub fn with<R>(&self, shard: ShardIndex, f: impl FnOnce(&mut Shard) -> R) -> R {
        self.lock(shard).with(f)
    }

    /// Takes all of one batch's ticks for `shard`, in order, under one lock. Appends to `out` the ticks that somebody
    /// wants, in order; the rest is kept as last value only. The positions of unread ticks that somebody may want are appended to `later`:
    /// nothing has become of them yet, and none later of their stream has overtaken them.
    #[track_caller]
    pub fn ingest(
        &self,
        shard: ShardIndex,
        ticks: &[TickIn<'_>],
        out: &mut Vec<TickOut>,
        later: &mut Vec<u32>,
    ) -> Ingested {
        self.with(shard, |s| {
            let mut counts = Ingested::default();
            for tick in ticks {
                s.streams.tick(tick, out, later, &mut counts);
            }
            s.streams.note_ticks(counts);
            counts
        })
    }

    /// Makes ticks of `interest` go to its worker from now on, and reads the newest value it can be served with.
    /// `None`: there is no such stream (it was never pinned, or has been evicted).
    #[track_caller]
    pub fn activate(&self, shard: ShardIndex, stream: StreamId, interest: Interest) -> Option<Activation> {
        self.with(shard, |s| s.streams.activate(stream, interest))
    }

    /// Ends what [`Self::activate`] began; the worker calls it when its last session of that kind has left. Batches that
    /// ingest made before may still be in the worker's queue. Whether the worker was wanted there.
    #[track_caller]
    pub fn deactivate(&self, shard: ShardIndex, stream: StreamId, interest: Interest) -> bool {
        self.with(shard, |s| s.streams.deactivate(stream, interest))
    }

    /// Forgets the last values of one scope, or of all (`None`), shard after shard. `seq` goes on.
    pub fn erase_last_values(&self, scope: Option<ScopeId>) {
        for shard in self.indexes() {
            self.with(shard, |s| s.streams.erase_last_values(scope));
        }
    }

    /// What all shards hold together, shard after shard, so not one instant.
    pub fn usage(&self) -> Usage {
        self.indexes().map(|i| self.with(i, |s| s.streams.usage())).sum()
    }

    /// Counts and times of one shard's lock, readable without it.
    pub fn lock_stats(&self, shard: ShardIndex) -> &Arc<LockStats> {
        self.lock(shard).stats()
    }

    /// Records and last-value bytes in all shards, read without a lock.
    pub fn budget(&self) -> (usize, usize) {
        self.common.used()
    }

    #[inline]
    fn lock(&self, shard: ShardIndex) -> &TimedLock<Shard> {
        &self.shards[usize::from(shard.0)].0
    }
}
