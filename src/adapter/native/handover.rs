//! From a feed to ingest: batches while there is room, the newest of each topic while there is none.
//!
//! In: ticks and order updates. Out: whole messages in the source's queue, scope fixed. Promises: ingest is never waited for; while
//! its queue is full a tick replaces an older one of its topic (counted), so what waits is bounded by what is subscribed;
//! orders are never merged and go first; when too many of them wait, the feed must end rather than lose one.

use super::metrics::NativeMetrics;
use super::tick::NativeTick;
use crate::adapter::publisher::{BatchLimits, Batcher, Frames};
use crate::model::{InstrumentRef, Micros, ScopeId, SourceMessage, SourceSender};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Order updates that may wait for ingest, counted.
const ORDERS_MAX: usize = 4096;
/// A message leaves once it holds so much; what a broker's message leaves over leaves at its end.
const LIMITS: BatchLimits = BatchLimits { items_max: 500, bytes_max: 256 << 10, delay: Duration::ZERO };

/// Too many orders wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OrdersFull;

pub(super) struct Handover {
    sender: SourceSender,
    scope: ScopeId,
    metrics: Arc<NativeMetrics>,
    batcher: Batcher,
    /// Full messages that ingest had no room for, oldest first; while there is one, ticks wait below.
    refused: VecDeque<SourceMessage>,
    orders: VecDeque<SourceMessage>,
    /// The newest of each topic and how many it has replaced, in the order in which topics came to wait.
    waiting: Vec<(String, Vec<u8>, u32)>,
    waits: HashMap<String, usize>,
    scratch: Vec<u8>,
}

impl Handover {
    pub(super) fn new(sender: SourceSender, scope: ScopeId, metrics: Arc<NativeMetrics>) -> Self {
        Handover {
            sender,
            scope,
            metrics,
            batcher: Batcher::new(LIMITS),
            refused: VecDeque::new(),
            orders: VecDeque::new(),
            waiting: Vec::new(),
            waits: HashMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Takes one tick; [`Handover::flush`] when the broker's message is over.
    pub(super) fn tick(&mut self, instrument: InstrumentRef<'_>, tick: &NativeTick, t_recv: Micros) {
        self.scratch.clear();
        let topic = tick.topic(instrument);
        let is_blocked = self.is_blocked();
        if is_blocked && tick.ltp_unchanged {
            // The one it may replace could have had a new price that nobody has heard of yet.
            NativeTick { ltp_unchanged: false, ..tick.clone() }.write(&mut self.scratch, instrument, t_recv);
        } else {
            tick.write(&mut self.scratch, instrument, t_recv);
        }
        if is_blocked {
            match self.waits.get(&topic) {
                Some(&at) => {
                    let (_, payload, merged) = &mut self.waiting[at];
                    payload.clone_from(&self.scratch);
                    *merged += 1;
                    self.metrics.merged.increment(1);
                }
                None => {
                    self.waits.insert(topic.clone(), self.waiting.len());
                    self.waiting.push((topic, self.scratch.clone(), 0));
                }
            }
            return;
        }
        if let Some(frames) = self.batcher.push(&topic, &self.scratch, Instant::now()) {
            self.push(frames, 0, t_recv);
        }
    }

    /// Takes one order update: `topic` and the JSON that clients get.
    ///
    /// # Errors
    /// [`OrdersFull`]: it was not taken.
    pub(super) fn order(&mut self, topic: String, json: Vec<u8>, t_recv: Micros) -> Result<(), OrdersFull> {
        self.flush(t_recv);
        if self.orders.len() >= ORDERS_MAX {
            return Err(OrdersFull);
        }
        let (topic, body) = (Bytes::from(topic), Bytes::from(json));
        self.orders.push_back(SourceMessage { topic, body, t_recv, scope: self.scope, merged: 0, highest_only: true });
        self.retry();
        Ok(())
    }

    /// Hands over what has been gathered.
    pub(super) fn flush(&mut self, t_recv: Micros) {
        if let Some(frames) = self.batcher.flush() {
            self.push(frames, 0, t_recv);
        }
    }

    /// Whether something waits for ingest.
    pub(super) fn is_blocked(&self) -> bool {
        !self.refused.is_empty() || !self.orders.is_empty() || !self.waiting.is_empty()
    }

    /// Resolves when it is worth calling [`Handover::retry`]; never while nothing waits, nor when ingest is gone.
    pub(super) async fn room(&self) {
        if self.sender.is_closed() {
            return std::future::pending().await;
        }
        match self.orders.front().or(self.refused.front()) {
            Some(message) => self.sender.room(message.len_bytes()).await,
            None if self.is_blocked() => self.sender.room(LIMITS.bytes_max).await,
            None => std::future::pending().await,
        }
    }

    /// Hands over what waits, as far as there is room.
    pub(super) fn retry(&mut self) {
        for queue in [&mut self.orders, &mut self.refused] {
            while let Some(message) = queue.pop_front() {
                if let Err(back) = self.sender.try_push(message) {
                    queue.push_front(back);
                    return;
                }
            }
        }
        if self.waiting.is_empty() {
            return;
        }
        self.waits.clear();
        let now = Micros::now();
        for (topic, payload, merged) in std::mem::take(&mut self.waiting) {
            if merged > 0 {
                // Alone, since a message says of one topic how many were merged.
                self.flush(now);
                self.push(Frames { topic: topic.into(), body: payload.into() }, merged, now);
            } else if let Some(frames) = self.batcher.push(&topic, &payload, Instant::now()) {
                self.push(frames, 0, now);
            }
        }
        self.flush(now);
    }

    fn push(&mut self, frames: Frames, merged: u32, t_recv: Micros) {
        let Frames { topic, body } = frames;
        let message = SourceMessage { topic, body, t_recv, scope: self.scope, merged, highest_only: true };
        // Never past one that is refused already.
        let refused = match self.refused.is_empty() {
            true => self.sender.try_push(message).err(),
            false => Some(message),
        };
        self.refused.extend(refused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::native::tick::Price;
    use crate::model::{ByteBudget, Mode, SourceReceiver, source_queue};

    fn parts(bytes: usize) -> (Handover, SourceReceiver) {
        let (tx, rx) = source_queue(&ByteBudget::new(bytes), bytes, Arc::default());
        (Handover::new(tx, ScopeId(7), Arc::new(NativeMetrics::register("zerodha"))), rx)
    }

    fn tick(handover: &mut Handover, symbol: &str, ltp: i64) {
        let tick = NativeTick { ltp: Some(Price(ltp * 10_000_000)), ..NativeTick::new(Mode::Ltp) };
        handover.tick(InstrumentRef { venue: "NSE", symbol }, &tick, Micros(1));
    }

    /// (topic, ltp) of every tick handed over so far, and the topics of orders.
    fn taken(rx: &mut SourceReceiver) -> Vec<(String, f64)> {
        let mut all = Vec::new();
        while let Some(message) = rx.try_recv() {
            assert_eq!((message.scope, message.highest_only), (ScopeId(7), true));
            if &message.topic[..] != b"BATCH" {
                let topic = String::from_utf8(message.topic.to_vec()).expect("text");
                let is_order = message.body.starts_with(b"{");
                assert_eq!(message.merged > 0, !is_order, "a tick goes alone when it has replaced others");
                let tick: serde_json::Value = match is_order {
                    true => serde_json::json!({"ltp": 0.0}),
                    false => rmp_serde::from_slice(&message.body).expect("a tick"),
                };
                all.push((topic, tick["ltp"].as_f64().expect("a price")));
                continue;
            }
            assert_eq!(message.merged, 0);
            let items: Vec<(String, serde_json::Value)> = rmp_serde::from_slice(&message.body).expect("a batch");
            all.extend(items.into_iter().map(|(topic, data)| (topic, data["ltp"].as_f64().expect("a price"))));
        }
        all
    }

    #[test]
    fn ticks_keep_their_order_and_none_is_merged_while_there_is_room() {
        let (mut handover, mut rx) = parts(1 << 20);
        for (symbol, ltp) in [("A", 1), ("B", 2), ("A", 3)] {
            tick(&mut handover, symbol, ltp);
        }
        assert!(taken(&mut rx).is_empty(), "they leave together");
        handover.flush(Micros(1));
        let expected = [("NSE_A_LTP", 1.0), ("NSE_B_LTP", 2.0), ("NSE_A_LTP", 3.0)].map(|(t, p)| (t.to_owned(), p));
        assert_eq!(taken(&mut rx), expected);
        assert!(!handover.is_blocked());
    }

    #[test]
    fn a_price_that_waits_is_still_news_when_a_tick_that_only_repeats_it_takes_its_place() {
        let (mut handover, mut rx) = parts(1);
        for ltp_unchanged in [false, false, true] {
            let tick = NativeTick { ltp: Some(Price(1)), ltp_unchanged, ..NativeTick::new(Mode::Quote) };
            handover.tick(InstrumentRef { venue: "NSE", symbol: "A" }, &tick, Micros(1));
            handover.flush(Micros(1));
        }
        let mut last = None;
        while handover.is_blocked() || rx.bytes_waiting() > 0 {
            while let Some(message) = rx.try_recv() {
                let items: Vec<(String, serde_json::Value)> = rmp_serde::from_slice(&message.body).expect("a batch");
                last = items.into_iter().last();
            }
            handover.retry();
        }
        assert_eq!(last.expect("it came").1.get("ltp_unchanged"), None);
    }

    #[test]
    fn while_ingest_is_full_the_newest_of_each_topic_waits_and_orders_are_all_kept_and_first() {
        let (mut handover, mut rx) = parts(1);
        tick(&mut handover, "A", 1);
        handover.flush(Micros(1));
        tick(&mut handover, "A", 2);
        handover.flush(Micros(1));
        assert!(handover.is_blocked(), "an empty queue took one, and one only");
        for ltp in 3..100 {
            tick(&mut handover, "A", ltp);
            tick(&mut handover, "B", ltp);
        }
        assert_eq!(handover.waiting.len(), 2);
        for n in 0..3 {
            assert_eq!(handover.order(format!("ZERODHA_asha_orders{n}"), b"{}".to_vec(), Micros(1)), Ok(()));
        }
        let mut all = Vec::new();
        while handover.is_blocked() || rx.bytes_waiting() > 0 {
            all.extend(taken(&mut rx));
            handover.retry();
        }
        let orders = (0..3).map(|n| (format!("ZERODHA_asha_orders{n}"), 0.0));
        let mut expected = vec![("NSE_A_LTP".to_owned(), 1.0)];
        expected.extend(orders);
        expected.extend([
            ("NSE_A_LTP".to_owned(), 2.0),
            ("NSE_A_LTP".to_owned(), 99.0),
            ("NSE_B_LTP".to_owned(), 99.0),
        ]);
        assert_eq!(all, expected);
    }

    #[test]
    fn an_order_too_many_is_refused_and_not_dropped_silently() {
        let (mut handover, _rx) = parts(1);
        let mut order = || handover.order("ZERODHA_asha_orders".to_owned(), b"{}".to_vec(), Micros(1));
        let taken = (0..=ORDERS_MAX).filter(|_| order().is_ok()).count();
        assert_eq!(taken, ORDERS_MAX + 1, "one is in the queue itself");
        assert_eq!(order(), Err(OrdersFull));
    }
}
