//! The bounded queue between one tick source and ingest; it lies below both of its ends.
//!
//! In: whole [`SourceMessage`]s from one connection or feed. Out: the same, in order, to the one ingest thread.
//! Promise: a push never waits and never exceeds the bound in messages, the source's bound in bytes or the budget all
//! sources share; the caller gets the message back and decides. An empty queue takes one message larger than its
//! bound, so that nothing waits for ever. Bytes are given back exactly once, whichever end is dropped first.
//! No lock: tokio's channel and atomics. Knows nothing of topics. Tests: at the end of this file.

use super::event::SourceMessage;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{Notify, mpsc};

/// Messages one source may have waiting, counted; bytes are usually met first.
pub const SOURCE_QUEUE_MESSAGES_MAX: usize = 8192;

/// Bytes that several queues may hold together.
#[derive(Debug)]
pub struct ByteBudget {
    max: usize,
    used: AtomicUsize,
    /// Tasks that wait for room; `freed` is only rung while there are any.
    waiting: AtomicUsize,
    freed: Notify,
}

impl ByteBudget {
    /// A budget of `max` bytes, none used.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(ByteBudget { max, used: AtomicUsize::new(0), waiting: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// Takes `bytes` if they fit; an unused budget takes one request larger than itself.
    pub fn try_take(&self, bytes: usize) -> bool {
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                self.fits(used, bytes).then(|| used.saturating_add(bytes))
            })
            .is_ok()
    }

    /// Gives back what [`ByteBudget::try_take`] took.
    pub fn give(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "more bytes were given back than taken");
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }

    /// Resolves when `bytes` more fit; another may take them first. Cancel-safe.
    pub async fn room(&self, bytes: usize) {
        let _waiting = BudgetWaiting::new(self);
        loop {
            let mut freed = pin!(self.freed.notified());
            // From here on `notify_waiters` reaches us, so nothing freed after the look below is missed.
            freed.as_mut().enable();
            if self.fits(self.used(), bytes) {
                return;
            }
            freed.await;
        }
    }

    /// Bytes taken now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Bytes in all.
    pub fn max(&self) -> usize {
        self.max
    }

    fn fits(&self, used: usize, bytes: usize) -> bool {
        used == 0 || used.saturating_add(bytes) <= self.max
    }
}

/// What both ends and every queued message share.
#[derive(Debug)]
struct Shared {
    budget: Arc<ByteBudget>,
    bytes_max: usize,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// The sender waits in `room`; the receiver then rings once the queue is half empty, not for every message.
    wants_room: AtomicBool,
    room: Notify,
    /// Market data of the source was lost since ingest looked last.
    lost: AtomicBool,
}

impl Shared {
    fn fits(&self, own: usize, bytes: usize) -> bool {
        own == 0 || own.saturating_add(bytes) <= self.bytes_max
    }

    fn half_empty(&self) -> bool {
        self.messages.load(Ordering::SeqCst) <= SOURCE_QUEUE_MESSAGES_MAX / 2
            && self.bytes.load(Ordering::SeqCst) <= self.bytes_max / 2
    }

    /// Whether a message of `bytes` should be tried now; stricter than `try_push`, so waiting on it cannot spin.
    fn has_room(&self, bytes: usize) -> bool {
        self.half_empty()
            && self.fits(self.bytes.load(Ordering::SeqCst), bytes)
            && self.budget.fits(self.budget.used(), bytes)
    }
}

/// The bytes of one queued message; given back when the message leaves the queue in whatever way.
#[derive(Debug)]
struct Charge {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.messages.fetch_sub(1, Ordering::SeqCst);
        self.shared.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        self.shared.budget.give(self.bytes);
        if self.shared.wants_room.load(Ordering::SeqCst) && self.shared.half_empty() {
            self.shared.room.notify_one();
        }
    }
}

/// The source's end; there is one.
#[derive(Debug)]
pub struct SourceSender {
    messages: mpsc::Sender<(SourceMessage, Charge)>,
    shared: Arc<Shared>,
    wake: Arc<Notify>,
}

/// Ingest's end; there is one.
#[derive(Debug)]
pub struct SourceReceiver {
    messages: mpsc::Receiver<(SourceMessage, Charge)>,
    shared: Arc<Shared>,
}

/// A queue of at most [`SOURCE_QUEUE_MESSAGES_MAX`] messages and `per_source_bytes` bytes, which also count towards
/// `budget`. `wake` is rung after each successful push.
pub fn source_queue(
    budget: &Arc<ByteBudget>,
    per_source_bytes: usize,
    wake: Arc<Notify>,
) -> (SourceSender, SourceReceiver) {
    let (tx, rx) = mpsc::channel(SOURCE_QUEUE_MESSAGES_MAX);
    let shared = Arc::new(Shared {
        budget: budget.clone(),
        bytes_max: per_source_bytes,
        messages: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        wants_room: AtomicBool::new(false),
        room: Notify::new(),
        lost: AtomicBool::new(false),
    });
    (SourceSender { messages: tx, shared: shared.clone(), wake }, SourceReceiver { messages: rx, shared })
}

impl SourceSender {
    /// Queues `message`, or hands it back when the queue is full in messages or bytes, or ingest is gone.
    ///
    /// # Errors
    /// The message itself, unchanged.
    pub fn try_push(&self, message: SourceMessage) -> Result<(), SourceMessage> {
        let Ok(permit) = self.messages.try_reserve() else { return Err(message) };
        let bytes = message.len_bytes();
        // Only this end adds, so the sum cannot grow between the look and the addition.
        if !self.shared.fits(self.shared.bytes.load(Ordering::SeqCst), bytes) || !self.shared.budget.try_take(bytes) {
            return Err(message);
        }
        self.shared.messages.fetch_add(1, Ordering::SeqCst);
        self.shared.bytes.fetch_add(bytes, Ordering::SeqCst);
        permit.send((message, Charge { shared: self.shared.clone(), bytes }));
        self.wake.notify_one();
        Ok(())
    }

    /// Resolves when the queue is at most half full and `bytes` more fit it and the shared budget, or when ingest is
    /// gone. Another source may still take the budget first; then the next push fails and one waits again. Cancel-safe.
    pub async fn room(&self, bytes: usize) {
        let budget = &self.shared.budget;
        let _waiting = Waiting::new(&self.shared);
        loop {
            let mut freed = pin!(budget.freed.notified());
            // From here on `notify_waiters` reaches us, so nothing freed after the look below is missed.
            freed.as_mut().enable();
            if self.is_closed() || self.shared.has_room(bytes) {
                return;
            }
            tokio::select! {
                () = self.shared.room.notified() => {}
                () = freed => {}
                () = self.messages.closed() => return,
            }
        }
    }

    /// Market data that was read has been lost on its way to the queue.
    pub fn note_loss(&self) {
        self.shared.lost.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Whether ingest's end is gone.
    pub fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }

    /// Payload bytes waiting.
    pub fn bytes_waiting(&self) -> usize {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

/// Marks the sender as waiting for as long as the future lives, cancelled or not.
struct Waiting<'a> {
    shared: &'a Shared,
    _budget: BudgetWaiting<'a>,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.wants_room.store(true, Ordering::SeqCst);
        Waiting { shared, _budget: BudgetWaiting::new(&shared.budget) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.wants_room.store(false, Ordering::SeqCst);
    }
}

/// The same for the budget alone.
struct BudgetWaiting<'a>(&'a ByteBudget);

impl<'a> BudgetWaiting<'a> {
    fn new(budget: &'a ByteBudget) -> Self {
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        BudgetWaiting(budget)
    }
}

impl Drop for BudgetWaiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SourceReceiver {
    /// The next message, if one is waiting.
    pub fn try_recv(&mut self) -> Option<SourceMessage> {
        self.messages.try_recv().ok().map(|(message, _charge)| message)
    }

    /// Whether the source has lost market data since this was asked last.
    pub fn take_loss(&self) -> bool {
        self.shared.lost.load(Ordering::SeqCst) && self.shared.lost.swap(false, Ordering::SeqCst)
    }

    /// Whether the source is gone and everything it sent has been taken.
    pub fn is_closed(&self) -> bool {
        self.messages.is_closed() && self.messages.is_empty()
    }

    /// Whether the source is gone; messages may still wait. Its successor's messages are newer than these.
    pub fn is_abandoned(&self) -> bool {
        self.messages.is_closed()
    }

    /// Payload bytes waiting.
    pub fn bytes_waiting(&self) -> usize {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{id::ScopeId, time::Micros};
    use super::*;
    use bytes::Bytes;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    fn message(bytes: usize) -> SourceMessage {
        SourceMessage {
            topic: Bytes::new(),
            body: Bytes::from(vec![b'x'; bytes]),
            t_recv: Micros(1),
            scope: ScopeId::SHARED,
            merged: 0,
            highest_only: false,
        }
    }

    fn ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn bytes_are_bounded_per_source_and_in_all() {
        let budget = ByteBudget::new(150);
        let (a, mut a_out) = source_queue(&budget, 100, Arc::default());
        let (b, b_out) = source_queue(&budget, 100, Arc::default());
        assert!(a.try_push(message(60)).is_ok());
        assert_eq!(a.try_push(message(60)).expect_err("over the source's bound").body.len(), 60);
        assert!(b.try_push(message(90)).is_ok());
        assert!(a.try_push(message(10)).is_err(), "over the shared bound");
        assert_eq!(budget.used(), 150);
        assert_eq!(a_out.try_recv().expect("queued").body.len(), 60);
        assert_eq!((budget.used(), a_out.bytes_waiting()), (90, 0));
        drop(b_out);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_empty_queue_takes_one_message_larger_than_its_bound() {
        let budget = ByteBudget::new(10);
        let (tx, mut rx) = source_queue(&budget, 5, Arc::default());
        assert!(tx.try_push(message(50)).is_ok());
        assert!(tx.try_push(message(1)).is_err());
        assert!(rx.try_recv().is_some());
        assert_eq!(budget.used(), 0);
        assert!(tx.try_push(message(1)).is_ok());
    }

    #[test]
    fn the_message_count_is_bounded() {
        let budget = ByteBudget::new(1 << 30);
        let (tx, mut rx) = source_queue(&budget, 1 << 30, Arc::default());
        for _ in 0..SOURCE_QUEUE_MESSAGES_MAX {
            assert!(tx.try_push(message(1)).is_ok());
        }
        assert!(tx.try_push(message(1)).is_err());
        assert!(rx.try_recv().is_some());
        assert!(tx.try_push(message(1)).is_ok());
    }

    #[test]
    fn either_end_gives_its_bytes_back_when_dropped() {
        let budget = ByteBudget::new(1000);
        let (tx, rx) = source_queue(&budget, 1000, Arc::default());
        assert!(tx.try_push(message(10)).is_ok());
        drop(rx);
        assert!(tx.is_closed());
        assert!(tx.try_push(message(10)).is_err());
        assert_eq!(budget.used(), 0);

        let (tx, mut rx) = source_queue(&budget, 1000, Arc::default());
        assert!(tx.try_push(message(10)).is_ok());
        drop(tx);
        assert!(rx.is_abandoned() && !rx.is_closed(), "what was sent can still be read");
        assert!(rx.try_recv().is_some());
        assert!(rx.is_closed());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_push_wakes_ingest() {
        let wake = Arc::new(Notify::new());
        let (tx, _rx) = source_queue(&ByteBudget::new(1000), 1000, wake.clone());
        assert!(!ready(wake.notified()));
        assert!(tx.try_push(message(10)).is_ok());
        assert!(ready(wake.notified()));
    }

    #[tokio::test]
    async fn room_resolves_once_the_queue_is_half_empty() {
        let (tx, mut rx) = source_queue(&ByteBudget::new(1000), 100, Arc::default());
        for _ in 0..10 {
            assert!(tx.try_push(message(10)).is_ok());
        }
        let mut room = Box::pin(tx.room(10));
        let waker = Waker::noop();
        assert!(room.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        for _ in 0..4 {
            rx.try_recv().expect("queued");
        }
        assert!(room.as_mut().poll(&mut Context::from_waker(waker)).is_pending(), "six of ten still wait");
        rx.try_recv().expect("queued");
        room.await;
        assert!(tx.try_push(message(10)).is_ok());
    }

    #[tokio::test]
    async fn room_notices_bytes_that_another_source_gave_back() {
        let budget = ByteBudget::new(100);
        let (full, mut full_out) = source_queue(&budget, 100, Arc::default());
        let (tx, _rx) = source_queue(&budget, 100, Arc::default());
        assert!(full.try_push(message(95)).is_ok());
        assert!(tx.try_push(message(10)).is_err());
        let waiter = async {
            tx.room(10).await;
            assert!(tx.try_push(message(10)).is_ok());
        };
        let reader = async {
            tokio::task::yield_now().await;
            full_out.try_recv().expect("queued");
        };
        tokio::join!(waiter, reader);
    }

    #[tokio::test]
    async fn room_ends_when_ingest_is_gone() {
        let (tx, rx) = source_queue(&ByteBudget::new(100), 100, Arc::default());
        assert!(tx.try_push(message(100)).is_ok());
        let closer = async {
            tokio::task::yield_now().await;
            drop(rx);
        };
        tokio::join!(tx.room(10), closer);
        assert!(tx.is_closed());
    }

    #[tokio::test]
    async fn two_threads_lose_no_message_and_no_wake_up() {
        let budget = ByteBudget::new(4000);
        let (tx, mut rx) = source_queue(&budget, 3000, Arc::default());
        let reader = std::thread::spawn(move || {
            let mut sizes = Vec::new();
            while !rx.is_closed() {
                match rx.try_recv() {
                    Some(message) => sizes.push(message.body.len()),
                    None => std::thread::yield_now(),
                }
            }
            sizes
        });
        let sizes = || (0..20_000).map(|i| (i * 37) % 400);
        for bytes in sizes() {
            let mut waiting = message(bytes);
            while let Err(back) = tx.try_push(waiting) {
                tx.room(back.len_bytes()).await;
                waiting = back;
            }
        }
        drop(tx);
        assert!(sizes().eq(reader.join().expect("no panic")));
        assert_eq!(budget.used(), 0);
    }
}
