//! Shards: the truth about keys and streams, sliced by symbol hash, each slice behind its own timed lock.
//!
//! In: ticks from ingest ([`Shards::ingest`]), interest of workers ([`Shards::activate`], [`Shards::deactivate`]), keys
//! and pins of the registry ([`Shards::with`]). Out: for each tick who wants it, for each activation the last value and
//! the `seq` at which delivery begins.
//! Promises: a tick is either in the snapshot of an activation or handed out after it, never neither nor both; order of
//! a batch is kept; no allocation per tick in the steady state; instruments and last values are bounded over all shards.
//! Knows nothing of sessions, formats' bytes, sockets or adapters. Model-checked in `tests/model.rs`; costs in
//! `benches/shards.rs`.

pub mod hash;
pub mod key;
pub mod lock;
pub mod metrics;
pub mod shard;
pub mod stream;

pub use hash::{ShardHash, ShardIndex};
pub use lock::{LockName, LockStats, TimedLock};
pub use shard::{Config, Shard, Shards};
pub use stream::{
    Activation, Full, Ingested, Interest, LastValue, Pinned, Serves, Streams, TickIn, TickOut, Usage, Want, Wants,
};
