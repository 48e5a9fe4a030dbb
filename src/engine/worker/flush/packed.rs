//! MessagePack sessions: ticks share their bytes, but a frame's head, `t_send` and count, is the session's own.
//!
//! In: spans of ticks. Out: binary frames in the scratch buffer, at most 256 KiB each, live ticks and snapshots apart. A frame the kernel took
//! any byte of is finished; its ticks count as sent. Tests: `tests/messagepack.rs`, `worker/tests.rs`.

use super::super::held::Batches;
use super::super::lanes::Dressed;
use super::super::{Connection, Sent};
use crate::engine::batch::Kind;
use crate::model::Micros;
use crate::outbox::Span;
use crate::wire::{frame, msgpack};
use smallvec::SmallVec;

/// Ticks of one frame, bytes.
const TICKS_BYTES_MAX: usize = msgpack::FRAME_BYTES_MAX - msgpack::FRAME_HEAD_BYTES_MAX;

/// Where MessagePack frames stand in the scratch buffer.
#[derive(Default)]
pub(super) struct Packed {
    /// First byte of the first frame.
    start: usize,
    /// Per frame: one past its last byte, and how many ticks it and those before it hold.
    ends: SmallVec<[(usize, usize); 2]>,
}

impl Packed {
    /// Frames.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// After the kernel took `taken` bytes of `scratch`: keeps the rest of the frame that was begun, and returns how many ticks are
    /// thereby sent.
    pub(super) fn begin(&self, connection: &mut Connection, scratch: &[u8], taken: usize, sent: &mut Sent) -> usize {
        let format = connection.format as usize;
        let (mut start, mut ticks) = (self.start, 0);
        for &(end, ticks_so_far) in &self.ends {
            if taken <= start {
                break;
            }
            connection.outbox.set_partial(&scratch[taken.min(end)..end]);
            sent.frames[format] += 1;
            (start, ticks) = (end, ticks_so_far);
        }
        sent.ticks[format] += ticks as u64;
        ticks
    }
}

/// Appends frames for `spans`, one per run of live ticks or of snapshots, split before it grows too large.
/// `dressed` ticks go in this session's own form.
pub(super) fn pack(
    spans: &[Span],
    batches: &Batches,
    dressed: &[Dressed],
    out: &mut Vec<u8>,
    t_send: Micros,
) -> Packed {
    let mut packed = Packed { start: out.len(), ends: SmallVec::new() };
    let mut open = Open { snapshots: false, pieces: SmallVec::new(), bytes: 0, count: 0, ticks: 0, t_send };
    for span in spans {
        let batch = batches.get(span.batch);
        let snapshots = batch.kind == Kind::Snapshots;
        if snapshots != open.snapshots {
            open.close(out, &mut packed);
            open.snapshots = snapshots;
        }
        let whole = &batch.slab[span.start as usize..span.end as usize];
        if dressed.is_empty() && open.bytes + whole.len() <= TICKS_BYTES_MAX {
            open.add(whole, span.frames as usize);
            continue;
        }
        for tick in batch.frames_within(span.start, span.end) {
            let own = dressed.iter().find(|d| d.key == tick.key && d.seq == tick.seq);
            let piece = own.map_or(batch.bytes(tick), |own| &own.bytes);
            if open.bytes + piece.len() > TICKS_BYTES_MAX {
                open.close(out, &mut packed);
            }
            open.add(piece, 1);
        }
    }
    open.close(out, &mut packed);
    packed
}

/// The frame being gathered.
struct Open<'a> {
    snapshots: bool,
    /// Most sessions take a few runs of a batch: no allocation for them.
    pieces: SmallVec<[&'a [u8]; 16]>,
    bytes: usize,
    count: usize,
    /// Ticks of the frames closed so far.
    ticks: usize,
    t_send: Micros,
}

impl<'a> Open<'a> {
    fn add(&mut self, piece: &'a [u8], count: usize) {
        self.pieces.push(piece);
        self.bytes += piece.len();
        self.count += count;
    }

    fn close(&mut self, out: &mut Vec<u8>, packed: &mut Packed) {
        if self.count > 0 {
            one_frame(out, self.snapshots, self.t_send, self.count, &self.pieces);
            self.ticks += self.count;
            packed.ends.push((out.len(), self.ticks));
        }
        self.pieces.clear();
        (self.bytes, self.count) = (0, 0);
    }
}

/// Appends one binary frame of `count` ticks whose arrays are `pieces`.
pub(super) fn one_frame(out: &mut Vec<u8>, snapshots: bool, t_send: Micros, count: usize, pieces: &[&[u8]]) {
    let kind = if snapshots { msgpack::SNAPSHOTS } else { msgpack::TICKS };
    let start = frame::begin(out);
    msgpack::frame_head(out, kind, t_send, count);
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    frame::finish(out, start, frame::Opcode::Binary);
}
