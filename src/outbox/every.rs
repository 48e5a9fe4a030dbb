//! Ticks that may not be merged, of a session that is behind: copies in their order, one buffer for all of them.
//!
//! Cost: amortised O(1) a tick, no allocation once the buffer has grown; removing a key copies what is left. Tests: below and in `engine`.

use bytes::{Buf, BytesMut};
use std::collections::VecDeque;

/// What one entry costs beside its bytes.
const ENTRY_BYTES: usize = 24;

/// One copied tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<K> {
    /// Of what.
    pub key: K,
    /// Its bytes, counted.
    pub len: u32,
    /// It is a snapshot.
    pub snapshot: bool,
}

/// See the module header.
#[derive(Debug)]
pub(super) struct Waiting<K> {
    bytes: BytesMut,
    entries: VecDeque<Entry<K>>,
}

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Waiting { bytes: BytesMut::new(), entries: VecDeque::new() }
    }
}

impl<K: Copy + Eq> Waiting<K> {
    /// What a tick of `len` bytes adds to [`bytes`](Self::bytes).
    pub(super) const fn cost(len: usize) -> usize {
        len + ENTRY_BYTES
    }

    /// Bytes that count towards the lossless lane.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.entries.len() * ENTRY_BYTES
    }

    pub(super) fn push(&mut self, key: K, tick: &[u8], snapshot: bool) {
        self.bytes.extend_from_slice(tick);
        self.entries.push_back(Entry { key, len: tick.len() as u32, snapshot });
    }

    /// The entries and their bytes, first to last.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Entry<K>, &[u8])> {
        let mut rest = &self.bytes[..];
        self.entries.iter().map(move |entry| {
            let (tick, after) = rest.split_at(entry.len as usize);
            rest = after;
            (*entry, tick)
        })
    }

    pub(super) fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes.advance(entry.len as usize);
        }
    }

    /// Drops what waits of `key`.
    pub(super) fn remove(&mut self, key: K) {
        if self.entries.iter().any(|entry| entry.key == key) {
            let mut kept = Waiting::default();
            self.iter().filter(|(entry, _)| entry.key != key).for_each(|(e, tick)| kept.push(e.key, tick, e.snapshot));
            *self = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_leave_in_order_and_a_key_can_be_taken_out() {
        let mut waiting = Waiting::default();
        for (key, tick) in [(1, "one"), (2, "two"), (1, "three"), (3, "four")] {
            waiting.push(key, tick.as_bytes(), key == 3);
        }
        assert_eq!(waiting.bytes(), 15 + 4 * ENTRY_BYTES);
        waiting.remove(2);
        waiting.pop();
        let left: Vec<_> = waiting.iter().map(|(e, tick)| (e.key, e.snapshot, tick)).collect();
        assert_eq!(left, [(1, false, &b"three"[..]), (3, true, b"four")]);
        waiting.remove(1);
        waiting.pop();
        waiting.pop();
        assert_eq!((waiting.bytes(), waiting.iter().count()), (0, 0));
    }
}
