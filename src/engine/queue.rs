//! Ingest → worker: a bounded queue of batches that ingest never waits for.
//!
//! In: `Arc<EncodedBatch>`, at most [`WORKER_QUEUE_BATCHES_MAX`] of them or `bytes_max` bytes. Full: [`TickSender`] keeps the
//! newest frame per key for that worker, counts what was replaced, and hands over one conflated batch as soon as there is room;
//! order per key holds, since nothing overtakes the backlog. Lossless messages have their own queue ([`Control`]).
//! Tests: below.

use super::batch::{EncodedBatch, FrameKey};
use super::xray::{Ask, Seen};
use crate::limits::WORKER_QUEUE_BATCHES_MAX;
use crate::model::{Instrument, Mode, SessionId};
use hashbrown::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot};

/// Makes the two ends; `room` is notified when a full queue has been emptied.
pub fn tick_queue(bytes_max: usize, room: Arc<Notify>) -> (TickSender, TickReceiver) {
    let (tx, rx) = mpsc::channel(WORKER_QUEUE_BATCHES_MAX);
    let shared = Arc::new(Shared { bytes: AtomicUsize::new(0), starved: AtomicBool::new(false), room });
    let sender = TickSender {
        tx,
        shared: Arc::clone(&shared),
        bytes_max,
        backlog: HashMap::default(),
        backlog_since: None,
        backlog_bytes: 0,
    };
    (sender, TickReceiver { rx, shared })
}

struct Shared {
    /// Bytes of the batches in the queue; a batch that several workers share counts once for each.
    bytes: AtomicUsize,
    /// Ingest holds a backlog and wants to hear of room.
    starved: AtomicBool,
    room: Arc<Notify>,
}

struct Kept {
    seq: u64,
    bytes: Box<[u8]>,
    /// Keeps the backlog in the order in which its keys were first refused.
    order: u64,
}

/// Ingest's end for one worker.
pub struct TickSender {
    tx: mpsc::Sender<Arc<EncodedBatch>>,
    shared: Arc<Shared>,
    bytes_max: usize,
    /// Newest frame per key that the worker had no room for; bounded by what is subscribed.
    backlog: HashMap<FrameKey, Kept, ahash::RandomState>,
    /// `t_recv`, `read_at` and `encoded_at` of the first batch in it.
    backlog_since: Option<(crate::model::Micros, Instant, Instant)>,
    /// What the backlog will be as a batch.
    backlog_bytes: usize,
}

impl TickSender {
    /// Queues `batch` for the worker whose bitmap bit is `bit`, or conflates it. Returns how many ticks were replaced by newer ones.
    pub fn push(&mut self, batch: &Arc<EncodedBatch>, bit: u64) -> u64 {
        self.retry(bit);
        if self.backlog.is_empty() && self.try_send(Arc::clone(batch)) {
            return 0;
        }
        let mut merged = 0;
        self.backlog_since.get_or_insert((batch.t_recv, batch.read_at, batch.encoded_at));
        for frame in batch.frames.iter().filter(|f| f.workers & bit != 0) {
            let order = self.backlog.len() as u64;
            let kept = Kept { seq: frame.seq, bytes: batch.bytes(frame).into(), order };
            self.backlog_bytes += EncodedBatch::frame_bytes(kept.bytes.len());
            match self.backlog.entry(frame.key) {
                hashbrown::hash_map::Entry::Occupied(mut held) => {
                    merged += 1;
                    let order = held.get().order;
                    self.backlog_bytes -= EncodedBatch::frame_bytes(held.get().bytes.len());
                    held.insert(Kept { order, ..kept });
                }
                hashbrown::hash_map::Entry::Vacant(free) => {
                    free.insert(kept);
                }
            }
        }
        self.shared.starved.store(true, Ordering::Release);
        // Either we see the room that the worker makes, or it sees the flag: neither side's write may pass its own read.
        fence(Ordering::SeqCst);
        // The worker may have emptied the queue between the refusal and the flag.
        self.retry(bit);
        merged
    }

    /// Hands the backlog over if there is room. `bit` is the worker's bitmap bit.
    pub fn retry(&mut self, bit: u64) {
        let Some((t_recv, read_at, encoded_at)) = self.backlog_since else { return };
        // The same bound as for any batch, and before the backlog is taken apart: what is refused after that is lost.
        if self.tx.capacity() == 0 || !self.has_room(self.backlog_bytes) {
            return;
        }
        let mut kept: Vec<_> = self.backlog.drain().collect();
        kept.sort_unstable_by_key(|(_, k)| k.order);
        let mut batch = EncodedBatch::new(t_recv, read_at);
        batch.encoded_at = encoded_at;
        for (key, k) in kept {
            batch.push(key, k.seq, bit, |slab| slab.extend_from_slice(&k.bytes));
        }
        self.backlog_since = None;
        self.backlog_bytes = 0;
        self.shared.starved.store(false, Ordering::Release);
        let sent = self.try_send(Arc::new(batch));
        debug_assert!(sent, "room was seen above, and only this end pushes");
    }

    /// Whether ticks wait on this side for room.
    pub fn has_backlog(&self) -> bool {
        self.backlog_since.is_some()
    }

    /// Whether the queue takes `len` more bytes. An empty one takes any, else a batch larger than the bound could never pass.
    fn has_room(&self, len: usize) -> bool {
        let queued = self.shared.bytes.load(Ordering::Acquire);
        queued == 0 || queued + len <= self.bytes_max
    }

    fn try_send(&self, batch: Arc<EncodedBatch>) -> bool {
        let len = batch.len_bytes();
        if !self.has_room(len) {
            return false;
        }
        self.shared.bytes.fetch_add(len, Ordering::AcqRel);
        match self.tx.try_send(batch) {
            Ok(()) => true,
            Err(error) => {
                self.shared.bytes.fetch_sub(len, Ordering::AcqRel);
                // A closed queue swallows the batch: its worker has stopped.
                matches!(error, mpsc::error::TrySendError::Closed(_))
            }
        }
    }
}

/// The worker's end.
pub struct TickReceiver {
    rx: mpsc::Receiver<Arc<EncodedBatch>>,
    shared: Arc<Shared>,
}

impl TickReceiver {
    /// The next batch; `None` once ingest has stopped.
    pub async fn recv(&mut self) -> Option<Arc<EncodedBatch>> {
        let batch = self.rx.recv().await;
        self.taken(batch.as_deref());
        batch
    }

    /// The next batch if one is waiting.
    pub fn try_recv(&mut self) -> Option<Arc<EncodedBatch>> {
        let batch = self.rx.try_recv().ok();
        self.taken(batch.as_deref());
        batch
    }

    fn taken(&self, batch: Option<&EncodedBatch>) {
        if let Some(batch) = batch {
            self.shared.bytes.fetch_sub(batch.len_bytes(), Ordering::AcqRel);
            fence(Ordering::SeqCst);
            if self.shared.starved.load(Ordering::Acquire) {
                self.shared.room.notify_one();
            }
        }
    }
}

/// What the sessions of one worker believe to hold. Numbers only: names of all subscriptions would be megabytes.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// Fingerprints of the keys that sessions authenticated with.
    pub key_ids: Vec<u64>,
    /// What each session holds or has asked for, as the auditor's fingerprints.
    pub references: Vec<u64>,
}

/// One reference by name.
#[derive(Clone, Debug)]
pub struct HeldName {
    /// Who holds it.
    pub session: SessionId,
    /// Key-store name of the user.
    pub user: Arc<str>,
    /// What is held.
    pub instrument: Instrument,
    /// In which mode.
    pub mode: Mode,
}

/// Lossless messages to one worker; the queue holds [`crate::limits::WORKER_CONTROL_MAX`].
#[derive(Debug)]
pub enum Control {
    /// An order update, encoded once for all sessions of `user` that asked for orders.
    Order {
        /// Key-store name of the user.
        user: Arc<str>,
        /// The bus payload as JSON text, unframed.
        json: bytes::Bytes,
    },
    /// Order updates of `user` were lost for want of room: sessions that asked for them are closed, 4408.
    OrderGap {
        /// Key-store name of the user.
        user: Arc<str>,
    },
    /// Order updates of more users were lost than anybody kept count of: every session that asked for orders is closed, 4408.
    OrderGapAll,
    /// Ticks were lost before they got a number, of nobody knows which instruments: sessions that were promised every tick are closed, 4408.
    TicksLost,
    /// What each session holds is asked for, for the auditor.
    Audit {
        /// Makes the auditor's fingerprints.
        hash: ahash::RandomState,
        /// Where the answer goes.
        reply: oneshot::Sender<Holdings>,
    },
    /// The names behind some references are asked for, for the auditor.
    Named {
        /// What made its fingerprints.
        hash: ahash::RandomState,
        /// Fingerprints of the references.
        references: Arc<HashSet<u64>>,
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<HeldName>>,
    },
    /// The admin server asks about sessions.
    Sessions {
        /// Which of them.
        ask: Ask,
        /// Where the answer goes.
        reply: oneshot::Sender<Seen>,
    },
    /// These keys, by fingerprint, have been revoked: their sessions end, 4403.
    Revoked(Arc<[u64]>),
    /// Stop accepting, say goodbye to every session, end.
    Drain,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BrokerId, Format, Micros, Mode, StreamId};

    fn key(n: u32) -> FrameKey {
        FrameKey::new(StreamId(n), Mode::Ltp, Format::Json, BrokerId(0))
    }

    fn batch(ticks: &[(u32, u64)]) -> Arc<EncodedBatch> {
        let mut batch = EncodedBatch::new(Micros(1), Instant::now());
        for &(stream, seq) in ticks {
            batch.push(key(stream), seq, 1, |slab| slab.extend_from_slice(&seq.to_le_bytes()));
        }
        Arc::new(batch)
    }

    fn drain(rx: &mut TickReceiver) -> Vec<(u32, u64)> {
        let mut seen = Vec::new();
        while let Some(batch) = rx.try_recv() {
            seen.extend(batch.frames.iter().map(|f| (f.key.stream().0, f.seq)));
        }
        seen
    }

    #[test]
    fn a_full_queue_keeps_the_newest_tick_of_each_stream_and_counts_the_rest() {
        let (mut tx, mut rx) = tick_queue(usize::MAX, Arc::new(Notify::new()));
        let mut merged = 0;
        for seq in 0..(WORKER_QUEUE_BATCHES_MAX as u64 + 10) {
            merged += tx.push(&batch(&[(1, seq), (2, seq)]), 1);
        }
        assert!(tx.has_backlog());
        assert_eq!(merged, 2 * 9, "ten refused ticks a stream: one kept, nine merged");
        let seen = drain(&mut rx);
        assert_eq!(seen.len(), 2 * WORKER_QUEUE_BATCHES_MAX);
        tx.retry(1);
        let newest = WORKER_QUEUE_BATCHES_MAX as u64 + 9;
        assert_eq!(drain(&mut rx), [(1, newest), (2, newest)]);
        assert!(!tx.has_backlog());
    }

    #[test]
    fn nothing_overtakes_the_backlog() {
        let (mut tx, mut rx) = tick_queue(1, Arc::new(Notify::new()));
        assert_eq!(tx.push(&batch(&[(1, 1)]), 1), 0, "an empty queue takes any batch");
        tx.push(&batch(&[(1, 2)]), 1);
        assert_eq!(drain(&mut rx), [(1, 1)]);
        tx.push(&batch(&[(1, 3)]), 1);
        tx.retry(1);
        let mut seen = drain(&mut rx);
        tx.retry(1);
        seen.extend(drain(&mut rx));
        assert_eq!(seen, [(1, 2), (1, 3)]);
    }

    #[test]
    fn a_backlog_that_does_not_fit_yet_waits_and_is_not_lost() {
        let one = batch(&[(1, 1)]).len_bytes();
        let (mut tx, mut rx) = tick_queue(2 * one, Arc::new(Notify::new()));
        tx.push(&batch(&[(1, 1)]), 1);
        // Room for one more frame, not for two.
        tx.push(&batch(&[(1, 2), (2, 2)]), 1);
        tx.retry(1);
        assert!(tx.has_backlog());
        let mut seen = drain(&mut rx);
        tx.retry(1);
        seen.extend(drain(&mut rx));
        assert_eq!(seen, [(1, 1), (1, 2), (2, 2)]);
    }

    #[tokio::test]
    async fn a_starved_sender_hears_of_room() {
        let room = Arc::new(Notify::new());
        let (mut tx, mut rx) = tick_queue(1, Arc::clone(&room));
        tx.push(&batch(&[(1, 1)]), 1);
        tx.push(&batch(&[(1, 2)]), 1);
        let heard = room.notified();
        assert!(rx.try_recv().is_some());
        heard.await;
        tx.retry(1);
        assert_eq!(drain(&mut rx), [(1, 2)]);
    }
}
