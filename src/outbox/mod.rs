//! Outbox: what one session still has to be sent, in lanes.
//!
//! In: ready-made control frames, spans of encoded batches, and, while the session is behind, marks. Out: bytes in order, to the
//! worker that owns the socket. Lanes, first to last: the rest of a frame already begun; control (replies, pongs, orders, close:
//! never merged or dropped); ticks that may not be merged; all other ticks. A session is *behind* from the moment the kernel refused bytes until nothing is left; only
//! then ticks become marks, one per frame key, so its memory is bounded by its subscriptions (a snapshot keeps its bytes meanwhile).
//! Knows nothing of sockets, formats or market rules. `K` is the worker's frame key. Tests: below and in `engine`.

mod every;

pub use every::Entry;

use crate::policy::slow_consumer::{self, Verdict};
use bytes::Bytes;
use every::Waiting;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Instant;

/// Spans that a session keeps room for between flushes, counted.
const SPANS_KEPT: usize = 16;

/// A run of frames of one batch, all of them for this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The worker's number of the batch.
    pub batch: u64,
    /// First byte in its slab.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Frames in the run.
    pub frames: u32,
}

/// The lanes of one session.
#[derive(Debug)]
pub struct Outbox<K> {
    /// What the kernel left over of a frame already begun.
    partial: Vec<u8>,
    control: VecDeque<Bytes>,
    control_bytes: usize,
    spans: SmallVec<[Span; 2]>,
    behind: Option<Box<Behind<K>>>,
}

/// State that a session has only while it is behind.
#[derive(Debug)]
struct Behind<K> {
    since: Instant,
    /// When the kernel last took bytes, or the lossless lane began to fill.
    progress: Instant,
    marks: HashMap<K, Mark, ahash::RandomState>,
    order: VecDeque<K>,
    /// Bytes of the marks that are [`Mark::Own`].
    own_bytes: usize,
    /// Ticks that may not be merged.
    every: Waiting<K>,
}

/// That something of one key is unsent.
#[derive(Debug, PartialEq, Eq)]
pub enum Mark {
    /// A tick: the worker's newest copy of the key is due.
    Tick,
    /// A snapshot, which nobody else may get: these bytes are due, until a tick replaces them.
    Own(Box<[u8]>),
}

impl<K> Default for Outbox<K> {
    fn default() -> Self {
        Outbox { partial: Vec::new(), control: VecDeque::new(), control_bytes: 0, spans: SmallVec::new(), behind: None }
    }
}

impl<K: Copy + Eq + Hash> Outbox<K> {
    /// Adds one whole frame to the lossless lane, unless it is full.
    pub fn push_control(&mut self, frame: Bytes, config: slow_consumer::Config) -> Verdict {
        let verdict = slow_consumer::on_push(config, self.lossless_bytes(), frame.len());
        if verdict == Verdict::Keep {
            self.push_goodbye(frame);
        }
        verdict
    }

    /// Adds a frame whatever the lane holds: the Close frame of a session that overflowed.
    pub fn push_goodbye(&mut self, frame: Bytes) {
        self.lossless_begins();
        self.control_bytes += frame.len();
        self.control.push_back(frame);
    }

    /// Adds one tick that may not be merged, unless the lossless lane is full. Only for a session that is behind.
    pub fn push_every(&mut self, key: K, tick: &[u8], snapshot: bool, config: slow_consumer::Config) -> Verdict {
        let verdict = slow_consumer::on_push(config, self.lossless_bytes(), Waiting::<K>::cost(tick.len()));
        if verdict == Verdict::Keep {
            self.lossless_begins();
            self.behind.as_mut().expect("ticks are copied only while behind").every.push(key, tick, snapshot);
        }
        verdict
    }

    /// Ticks that may not be merged, first to last.
    pub fn every(&self) -> impl Iterator<Item = (Entry<K>, &[u8])> {
        self.behind.iter().flat_map(|behind| behind.every.iter())
    }

    /// Removes the first of them, which is in the kernel or has become [`partial`](Self::partial).
    pub fn pop_every(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.every.pop();
        }
    }

    /// Replies, orders and ticks that may not be merged, bytes.
    fn lossless_bytes(&self) -> usize {
        self.control_bytes + self.behind.as_ref().map_or(0, |b| b.every.bytes())
    }

    /// Something enters the lossless lane: an empty one has not been waiting, however long ticks have.
    fn lossless_begins(&mut self) {
        if self.lossless_bytes() == 0
            && let Some(behind) = &mut self.behind
        {
            behind.progress = Instant::now();
        }
    }

    /// Adds one frame of a batch to the ticks of the coming flush; neighbours in the slab become one span.
    pub fn push_frame(&mut self, batch: u64, start: u32, end: u32) {
        if let Some(last) = self.spans.last_mut()
            && last.batch == batch
            && last.end == start
        {
            last.end = end;
            last.frames += 1;
            return;
        }
        self.spans.push(Span { batch, start, end, frames: 1 });
    }

    /// Remembers that a tick of `key` is unsent. True when the mark is the session's first for a tick of the key, false when an
    /// older unsent tick is thereby merged. Only for a session that is behind.
    pub fn mark(&mut self, key: K) -> bool {
        let behind = self.behind.as_mut().expect("marks are made only while behind");
        match behind.marks.insert(key, Mark::Tick) {
            Some(Mark::Tick) => false,
            Some(Mark::Own(snapshot)) => {
                behind.own_bytes -= snapshot.len();
                true
            }
            None => {
                behind.order.push_back(key);
                true
            }
        }
    }

    /// Remembers that a snapshot of `key`, which has no mark yet, is unsent. Only for a session that is behind.
    pub fn mark_snapshot(&mut self, key: K, frame: &[u8]) {
        let behind = self.behind.as_mut().expect("marks are made only while behind");
        if let hashbrown::hash_map::Entry::Vacant(free) = behind.marks.entry(key) {
            free.insert(Mark::Own(frame.into()));
            behind.order.push_back(key);
            behind.own_bytes += frame.len();
        }
    }

    /// Whether something of `key` is marked as unsent.
    pub fn is_marked(&self, key: K) -> bool {
        self.behind.as_ref().is_some_and(|b| b.marks.contains_key(&key))
    }

    /// Forgets what is unsent of `key`; true when it was marked for a tick.
    pub fn unmark(&mut self, key: K) -> bool {
        if let Some(behind) = &mut self.behind {
            behind.every.remove(key);
        }
        self.take_mark(key) == Some(Mark::Tick)
    }

    /// Forgets the mark of `key`, and returns what it was.
    pub fn take_mark(&mut self, key: K) -> Option<Mark> {
        let behind = self.behind.as_mut()?;
        let mark = behind.marks.remove(&key)?;
        if let Mark::Own(snapshot) = &mark {
            behind.own_bytes -= snapshot.len();
        }
        Some(mark)
    }

    /// The next marked key, oldest first; its mark is removed.
    pub fn next_mark(&mut self) -> Option<(K, Mark)> {
        while let Some(key) = self.behind.as_mut()?.order.pop_front() {
            if let Some(mark) = self.take_mark(key) {
                return Some((key, mark));
            }
        }
        None
    }

    /// Puts what was taken by [`next_mark`](Self::next_mark) back, in front.
    pub fn return_mark(&mut self, key: K, mark: Mark) {
        let behind = self.behind.as_mut().expect("marks exist only while behind");
        if let Mark::Own(snapshot) = &mark {
            behind.own_bytes += snapshot.len();
        }
        behind.marks.insert(key, mark);
        behind.order.push_front(key);
    }

    /// The kernel refused bytes: from now on ticks are marks.
    pub fn fall_behind(&mut self, now: Instant) {
        if self.behind.is_none() {
            self.behind = Some(Box::new(Behind {
                since: now,
                progress: now,
                marks: HashMap::default(),
                order: VecDeque::new(),
                own_bytes: 0,
                every: Waiting::default(),
            }));
        }
    }

    /// Nothing is left over: returns since when it had been behind.
    pub fn catch_up(&mut self) -> Option<Instant> {
        debug_assert!(self.partial.is_empty() && self.lossless_bytes() == 0, "behind while anything is left over");
        self.partial = Vec::new();
        self.behind.take().map(|b| b.since)
    }

    /// Whether the session is behind.
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Since when it is behind.
    pub fn behind_since(&self) -> Option<Instant> {
        self.behind.as_ref().map(|b| b.since)
    }

    /// Whether the lossless lane of a session that is behind makes no progress.
    pub fn lossless_verdict(&self, config: slow_consumer::Config, now: Instant) -> Verdict {
        self.behind
            .as_ref()
            .map_or(Verdict::Keep, |b| slow_consumer::on_tick(config, self.lossless_bytes(), b.progress, now))
    }

    /// The kernel took bytes.
    pub fn progressed(&mut self, now: Instant) {
        if let Some(behind) = &mut self.behind {
            behind.progress = now;
        }
    }

    /// Ticks of the coming flush.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Takes the ticks of the coming flush.
    pub fn take_spans(&mut self) -> SmallVec<[Span; 2]> {
        std::mem::take(&mut self.spans)
    }

    /// Gives the list of written spans back, so that the next flush need not allocate; a long one is let go.
    pub fn reuse_spans(&mut self, mut spans: SmallVec<[Span; 2]>) {
        if self.spans.is_empty() && spans.capacity() <= SPANS_KEPT {
            spans.clear();
            self.spans = spans;
        }
    }

    /// Control frames, first to last.
    pub fn control(&self) -> impl Iterator<Item = &Bytes> {
        self.control.iter()
    }

    /// Whether the lossless lane is empty.
    pub fn control_is_empty(&self) -> bool {
        self.control.is_empty()
    }

    /// Removes the first control frame, which is in the kernel or has become [`partial`](Self::partial).
    pub fn pop_control(&mut self) -> Option<Bytes> {
        let frame = self.control.pop_front()?;
        self.control_bytes -= frame.len();
        if self.control.is_empty() {
            // Idle sessions hold no buffer.
            self.control = VecDeque::new();
        }
        Some(frame)
    }

    /// The rest of the frame already begun.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Replaces the rest of the frame already begun.
    pub fn set_partial(&mut self, rest: &[u8]) {
        self.partial.clear();
        self.partial.extend_from_slice(rest);
    }

    /// The kernel took the first `n` bytes of the partial frame.
    pub fn advance_partial(&mut self, n: usize) {
        self.partial.drain(..n);
    }

    /// Bytes that wait here: left-over, lossless lane, and snapshots. Other marks hold none.
    pub fn bytes(&self) -> usize {
        self.partial.len() + self.lossless_bytes() + self.behind.as_ref().map_or(0, |b| b.own_bytes)
    }

    /// Keys with an unsent tick.
    pub fn marks_len(&self) -> usize {
        self.behind.as_ref().map_or(0, |b| b.marks.len())
    }

    /// Whether ticks wait.
    pub fn has_ticks(&self) -> bool {
        self.marks_len() > 0 || self.every().next().is_some()
    }

    /// Drops every tick that has not begun; returns the keys that were marked for a tick.
    pub fn clear_ticks(&mut self) -> Vec<K> {
        self.spans = SmallVec::new();
        match &mut self.behind {
            Some(behind) => {
                behind.order.clear();
                behind.own_bytes = 0;
                behind.every = Waiting::default();
                behind.marks.drain().filter(|(_, mark)| *mark == Mark::Tick).map(|(key, _)| key).collect()
            }
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_frames_become_one_span() {
        let mut outbox = Outbox::<u32>::default();
        outbox.push_frame(7, 0, 10);
        outbox.push_frame(7, 10, 25);
        outbox.push_frame(7, 30, 40);
        outbox.push_frame(8, 40, 50);
        let seen: Vec<_> = outbox.spans().iter().map(|s| (s.batch, s.start, s.end, s.frames)).collect();
        assert_eq!(seen, [(7, 0, 25, 2), (7, 30, 40, 1), (8, 40, 50, 1)]);
    }

    #[test]
    fn the_lossless_lane_overflows_but_takes_one_large_message_when_empty() {
        let mut outbox = Outbox::<u32>::default();
        let config = slow_consumer::Config { bytes_max: 10, stall_max: std::time::Duration::from_secs(1) };
        assert_eq!(outbox.push_control(Bytes::from(vec![0; 100]), config), Verdict::Keep);
        assert_eq!(outbox.push_control(Bytes::from_static(b"x"), config), Verdict::Full);
        assert_eq!(outbox.bytes(), 100);
        assert!(outbox.pop_control().is_some());
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_snapshot_waits_in_its_own_bytes_until_a_tick_replaces_it() {
        let mut outbox = Outbox::<u32>::default();
        outbox.fall_behind(Instant::now());
        outbox.mark_snapshot(1, b"one");
        outbox.mark_snapshot(2, b"two");
        outbox.mark_snapshot(3, b"three");
        assert_eq!(outbox.bytes(), 11);
        assert!(outbox.mark(1), "the worker must keep the tick");
        assert!(!outbox.unmark(3), "the worker keeps nothing for a snapshot");
        assert_eq!(outbox.next_mark(), Some((1, Mark::Tick)));
        let (key, mark) = outbox.next_mark().unwrap();
        assert_eq!((key, &mark), (2, &Mark::Own(b"two"[..].into())));
        assert_eq!(outbox.bytes(), 0);
        outbox.return_mark(key, mark);
        assert_eq!(outbox.bytes(), 3);
        assert!(outbox.clear_ticks().is_empty());
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_session_behind_holds_one_mark_a_key_in_the_order_they_fell_due() {
        let mut outbox = Outbox::<u32>::default();
        outbox.fall_behind(Instant::now());
        assert!(outbox.mark(1));
        assert!(outbox.mark(2));
        assert!(!outbox.mark(1), "an older tick was unsent: merged");
        assert_eq!(outbox.marks_len(), 2);
        assert!(outbox.unmark(2));
        assert_eq!(outbox.next_mark(), Some((1, Mark::Tick)));
        assert_eq!(outbox.next_mark(), None);
        assert!(outbox.catch_up().is_some());
        assert!(!outbox.is_behind());
    }
}
