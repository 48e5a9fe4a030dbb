//! What ingest hands to workers: frames encoded once, in one slab, with who wants each of them.
//!
//! In: one frame per (stream, mode, format, broker label) wanted. Out: `Arc<EncodedBatch>`, read by every worker in its
//! bitmap. Promise: frames stand in the slab in the order of their ticks, without gaps between neighbours, so a session that
//! wants a run of frames is written with one slice. Knows nothing of sessions or sockets.

use crate::model::{BrokerId, Format, Micros, Mode, StreamId};
use std::time::Instant;

/// What makes two sessions want the same bytes: packed (stream, broker label, mode, format).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameKey(u64);

impl FrameKey {
    /// Before all others.
    pub const MIN: FrameKey = FrameKey(0);

    /// Packs the four parts; they can be told apart again.
    pub const fn new(stream: StreamId, mode: Mode, format: Format, label: BrokerId) -> Self {
        FrameKey(((stream.0 as u64) << 32) | ((label.0 as u64) << 8) | ((mode as u64) << 1) | format as u64)
    }

    /// The stream.
    pub const fn stream(self) -> StreamId {
        StreamId((self.0 >> 32) as u32)
    }

    /// The subscribed mode.
    pub const fn mode(self) -> Mode {
        match (self.0 >> 1) & 3 {
            1 => Mode::Ltp,
            2 => Mode::Quote,
            _ => Mode::Depth,
        }
    }

    /// The client format.
    pub const fn format(self) -> Format {
        if self.0 & 1 == 0 { Format::Json } else { Format::MsgPack }
    }

    /// The broker label.
    pub const fn label(self) -> BrokerId {
        BrokerId((self.0 >> 8) as u16)
    }
}

/// One encoded tick: for JSON a whole frame, ready for the socket; for MessagePack the tick's array.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Who wants it.
    pub key: FrameKey,
    /// Position of the tick in its (stream, mode).
    pub seq: u64,
    /// Bit w set: worker w has takers.
    pub workers: u64,
    /// First byte in the slab.
    pub start: u32,
    /// One past the last byte in the slab.
    pub end: u32,
}

/// What a batch is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Ticks of one ingest pass.
    #[default]
    Live,
    /// Ticks that a worker had held back for their takers' `max_rate`.
    Held,
    /// Snapshots for one session.
    Snapshots,
}

/// Frames of one ingest pass, encoded once for all workers and sessions.
#[derive(Debug)]
pub struct EncodedBatch {
    /// All frames, one behind the other.
    pub slab: Vec<u8>,
    /// Where each frame is; ascending, without overlap.
    pub frames: Vec<Frame>,
    /// Union of the frames' worker bitmaps.
    pub workers: u64,
    /// What it is made of.
    pub kind: Kind,
    /// Our clock when the oldest message of the pass was read.
    pub t_recv: Micros,
    /// The same moment on the monotonic clock, for latency.
    pub read_at: Instant,
    /// When its last frame stood in the slab.
    pub encoded_at: Instant,
}

impl EncodedBatch {
    /// An empty batch for messages read at (`t_recv`, `read_at`).
    pub fn new(t_recv: Micros, read_at: Instant) -> Self {
        let (slab, frames) = Default::default();
        EncodedBatch { slab, frames, workers: 0, kind: Kind::Live, t_recv, read_at, encoded_at: read_at }
    }

    /// The same batch as one of `kind`.
    pub fn of_kind(self, kind: Kind) -> Self {
        EncodedBatch { kind, ..self }
    }

    /// Appends one frame that `write` puts at the end of the slab.
    pub fn push(&mut self, key: FrameKey, seq: u64, workers: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.slab.len() as u32;
        write(&mut self.slab);
        self.frames.push(Frame { key, seq, workers, start, end: self.slab.len() as u32 });
        self.workers |= workers;
    }

    /// The bytes of one frame.
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.slab[frame.start as usize..frame.end as usize]
    }

    /// The frames that lie wholly within slab bytes `start..end`.
    pub fn frames_within(&self, start: u32, end: u32) -> &[Frame] {
        let from = self.frames.partition_point(|f| f.start < start);
        let to = self.frames.partition_point(|f| f.end <= end);
        &self.frames[from.min(to)..to]
    }

    /// Memory that the batch holds, bytes.
    pub fn len_bytes(&self) -> usize {
        self.slab.len() + self.frames.len() * size_of::<Frame>()
    }

    /// What a frame of `len` bytes adds to [`len_bytes`](Self::len_bytes).
    pub const fn frame_bytes(len: usize) -> usize {
        len + size_of::<Frame>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_key_gives_its_parts_back() {
        for mode in Mode::ALL {
            for format in Format::ALL {
                let key = FrameKey::new(StreamId(u32::MAX - 1), mode, format, BrokerId(0x1234));
                assert_eq!((key.stream(), key.mode()), (StreamId(u32::MAX - 1), mode));
                assert_eq!((key.format(), key.label()), (format, BrokerId(0x1234)));
            }
        }
    }

    #[test]
    fn frames_within_a_span_are_those_it_covers_wholly() {
        let mut batch = EncodedBatch::new(Micros(0), Instant::now());
        let key = FrameKey::new(StreamId(1), Mode::Ltp, Format::Json, BrokerId(0));
        for n in 0..4u64 {
            batch.push(key, n, 1, |slab| slab.extend_from_slice(b"abc"));
        }
        let seqs = |a, b| batch.frames_within(a, b).iter().map(|f| f.seq).collect::<Vec<_>>();
        assert_eq!(seqs(0, 12), [0, 1, 2, 3]);
        assert_eq!(seqs(3, 9), [1, 2]);
        assert_eq!(seqs(4, 9), [2]);
        assert_eq!(seqs(4, 5), Vec::<u64>::new());
    }
}
