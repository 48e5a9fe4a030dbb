//! What goes into a stream table and what comes out of it.

use crate::model::{BrokerId, Encoding, Format, InstrumentRef, Micros, Mode, ScopeId, StreamId, WorkerId};
use smallvec::SmallVec;
use std::iter::Sum;
use std::ops::AddAssign;

/// One tick on its way in.
#[derive(Clone, Copy, Debug)]
pub struct TickIn<'a> {
    /// Its place in the batch; handed back in [`TickOut`].
    pub position: u32,
    /// Whose feed it came from.
    pub scope: ScopeId,
    /// What ticked.
    pub instrument: InstrumentRef<'a>,
    /// The mode the adapter published it in.
    pub mode: Mode,
    /// The topic's broker prefix: then only wants with that label are served.
    pub broker: Option<BrokerId>,
    /// The adapter's bytes.
    pub payload: &'a [u8],
    /// How to read them.
    pub encoding: Encoding,
    /// What it can serve.
    pub serves: Serves,
    /// Older ticks of its topic that it has replaced before it came here; they count in `seq`.
    pub merged: u32,
    /// See [`crate::model::SourceMessage::highest_only`].
    pub highest_only: bool,
    /// Its last price is the one before, so that LTP subscribers need not hear of it.
    pub repeats_ltp: bool,
    /// When its message was read.
    pub t_recv: Micros,
}

impl TickIn<'_> {
    /// Ticks of its topic that it stands for.
    pub(super) fn counts(&self) -> u64 {
        1 + u64::from(self.merged)
    }
}

/// Which modes a payload can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// Nobody has read it: good enough while nobody wants the stream. Lower modes if it seems to have an `ltp`.
    Unread {
        /// It seems to have one.
        lower: bool,
    },
    /// By [`Mode::index`], from the payload itself.
    Known([bool; 3]),
}

/// A tick that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickOut {
    /// [`TickIn::position`].
    pub position: u32,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Digits after the point of this stream's integer prices.
    pub scale: u8,
    /// Who wants it, one entry per (mode, format, label).
    pub wants: Wants,
}

/// The wants of one tick; more than four kinds of subscriber on one instrument are rare.
pub type Wants = SmallVec<[Want; 4]>;

/// One kind of frame that a tick is wanted in, and by which workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The mode to deliver in, at most the tick's own.
    pub mode: Mode,
    /// The tick's number within (stream, mode) as users of this label see it.
    pub seq: u64,
    /// The format to encode in.
    pub format: Format,
    /// The broker name that JSON frames carry.
    pub label: BrokerId,
    /// Bit w is set when worker w has takers.
    pub workers: u64,
}

/// What a worker wants of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest {
    /// Who.
    pub worker: WorkerId,
    /// In which mode.
    pub mode: Mode,
    /// In which format.
    pub format: Format,
    /// Under which broker name.
    pub label: BrokerId,
}

/// Where delivery begins after an activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// `seq` of the newest tick of (stream, mode) under this label so far: ticks at or below it are not for this subscription.
    pub floor: u64,
    /// The newest value that can serve the mode; absent when there was none, when it was erased, or when it came under
    /// another broker's name.
    pub last: Option<LastValue>,
}

/// A copy of a last value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastValue {
    /// The adapter's bytes.
    pub payload: Vec<u8>,
    /// How to read them.
    pub encoding: Encoding,
    /// The mode the adapter published it in; may be higher than the mode asked for.
    pub tick_mode: Mode,
    /// The topic's broker prefix.
    pub broker: Option<BrokerId>,
    /// When its message was read.
    pub t_recv: Micros,
    /// Its number within (stream, mode asked for) under this label; equals the floor.
    pub seq: u64,
}

/// A stream that a key holds on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Its id.
    pub stream: StreamId,
    /// Digits after the point of its integer prices, fixed from now on.
    pub scale: u8,
}

/// There is no room for another instrument (`LIMIT_EXCEEDED`), or its name is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another instrument")]
pub struct Full;

/// What became of the ticks of one `ingest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// Handed out: somebody wants them.
    pub wanted: u32,
    /// Kept as last value only.
    pub unwanted: u32,
    /// Dropped: no room (`instrument_limit`).
    pub refused: u32,
    /// Of those, how many somebody wanted.
    pub lost: u32,
}

impl AddAssign for Ingested {
    fn add_assign(&mut self, more: Ingested) {
        self.wanted += more.wanted;
        self.unwanted += more.unwanted;
        self.refused += more.refused;
        self.lost += more.lost;
    }
}

/// What a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Records.
    pub records: usize,
    /// Bytes of last-value buffers.
    pub bytes: usize,
    /// Pins held by keys.
    pub pins: usize,
    /// (stream, mode, format, label, worker) bits set.
    pub wanted: usize,
    /// Ticks taken so far, refused ones included.
    pub ticks: u64,
    /// Ticks refused so far.
    pub refused: u64,
    /// Records evicted so far.
    pub evicted: u64,
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(all: I) -> Usage {
        all.fold(Usage::default(), |a, b| Usage {
            records: a.records + b.records,
            bytes: a.bytes + b.bytes,
            pins: a.pins + b.pins,
            wanted: a.wanted + b.wanted,
            ticks: a.ticks + b.ticks,
            refused: a.refused + b.refused,
            evicted: a.evicted + b.evicted,
        })
    }
}
