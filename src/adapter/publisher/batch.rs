//! Ticks into BATCH messages: when a batch is full, and when it is due. Pure; time is an argument. Tests: at the end.

use bytes::{BufMut, Bytes, BytesMut};
use std::time::Duration;
use tokio::time::Instant;

/// When a batch leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Items of a batch, counted; 1 sends each alone, as `[topic, payload]`.
    pub items_max: usize,
    /// A batch leaves once it holds this many bytes.
    pub bytes_max: usize,
    /// A batch leaves this long after its first item.
    pub delay: Duration,
}

impl BatchLimits {
    /// 10 items or 100 ms, as the audit asked for.
    pub const AUDIT: BatchLimits =
        BatchLimits { items_max: 10, bytes_max: 64 << 10, delay: Duration::from_millis(100) };
    /// Each item in a message of its own.
    pub const SINGLE: BatchLimits = BatchLimits { items_max: 1, bytes_max: 64 << 10, delay: Duration::ZERO };
}

impl Default for BatchLimits {
    /// 100 items, 64 KiB or 2 ms.
    fn default() -> Self {
        BatchLimits { items_max: 100, bytes_max: 64 << 10, delay: Duration::from_millis(2) }
    }
}

/// Two frames, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// `BATCH`, or the topic of a single message.
    pub topic: Bytes,
    /// The batch, or the payload of a single message.
    pub body: Bytes,
}

/// Gathers items into batches; pure.
#[derive(Debug)]
pub struct Batcher {
    limits: BatchLimits,
    items: BytesMut,
    count: u32,
    due: Option<Instant>,
}

impl Batcher {
    /// An empty one.
    pub fn new(limits: BatchLimits) -> Self {
        Batcher { limits, items: BytesMut::new(), count: 0, due: None }
    }

    /// Adds an item, whose `payload` is one MessagePack value; gives the batch if that filled it.
    pub fn push(&mut self, topic: &str, payload: &[u8], now: Instant) -> Option<Frames> {
        if self.limits.items_max <= 1 {
            let (topic, body) = (Bytes::copy_from_slice(topic.as_bytes()), Bytes::copy_from_slice(payload));
            return Some(Frames { topic, body });
        }
        let mut out = (&mut self.items).writer();
        let wrote = rmp::encode::write_array_len(&mut out, 2).and_then(|_| rmp::encode::write_str(&mut out, topic));
        wrote.expect("memory takes every write");
        self.items.put_slice(payload);
        self.count += 1;
        self.due.get_or_insert(now + self.limits.delay);
        let full = self.count as usize >= self.limits.items_max || self.items.len() >= self.limits.bytes_max;
        if full { self.flush() } else { None }
    }

    /// When the batch must leave, if there is one.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What has been gathered, if anything.
    pub fn flush(&mut self) -> Option<Frames> {
        self.due = None;
        if self.count == 0 {
            return None;
        }
        let mut body = BytesMut::with_capacity(self.items.len() + 5);
        rmp::encode::write_array_len(&mut (&mut body).writer(), self.count).expect("memory takes every write");
        body.put_slice(&self.items);
        self.items.clear();
        self.count = 0;
        Some(Frames { topic: Bytes::from_static(b"BATCH"), body: body.freeze() })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    type Items = Vec<(String, i64)>;

    pub(in crate::adapter::publisher) fn items(frames: &Frames) -> Vec<(String, i64)> {
        assert_eq!(&frames.topic[..], b"BATCH");
        rmp_serde::from_slice(&frames.body).expect("a batch")
    }

    pub(in crate::adapter::publisher) fn payload(value: i64) -> Vec<u8> {
        rmp_serde::to_vec(&value).expect("encodes")
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_leaves_full_in_the_order_of_its_items() {
        let mut batcher = Batcher::new(BatchLimits::default());
        let mut batches = Vec::new();
        for i in 0..250 {
            batches.extend(batcher.push(&format!("T{}", i % 3), &payload(i), Instant::now()));
        }
        batches.extend(batcher.flush());
        assert_eq!(batches.iter().map(|b| items(b).len()).collect::<Vec<_>>(), [100, 100, 50]);
        let all: Items = batches.iter().flat_map(items).collect();
        assert_eq!(all, (0..250).map(|i| (format!("T{}", i % 3), i)).collect::<Items>());
        assert_eq!(batcher.flush(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_leaves_by_size_and_is_due_after_its_first_item() {
        let mut batcher = Batcher::new(BatchLimits::default());
        assert_eq!(batcher.due(), None);
        let now = Instant::now();
        let long = rmp_serde::to_vec(&"x".repeat(40_000)).expect("encodes");
        assert_eq!(batcher.push("A", &long, now), None);
        assert_eq!(batcher.due(), Some(now + Duration::from_millis(2)));
        assert!(batcher.push("A", &long, now + Duration::from_millis(1)).is_some());
        assert_eq!(batcher.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_audit_s_limits_and_single_messages_can_be_chosen() {
        let mut batcher = Batcher::new(BatchLimits::AUDIT);
        let first = (1..=10).find_map(|i| batcher.push("A", &payload(i), Instant::now()).map(|b| (i, items(&b).len())));
        assert_eq!(first, Some((10, 10)));
        let single = Batcher::new(BatchLimits::SINGLE).push("A", &payload(7), Instant::now()).expect("at once");
        assert_eq!(single, Frames { topic: Bytes::from_static(b"A"), body: payload(7).into() });
    }
}
