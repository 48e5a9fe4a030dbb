//! What one source has sent and its full queue would not take: the newest value per topic, and lossless messages in
//! their order.
//!
//! Pure but for the byte budget it shares with other sources. Promise: bytes stay within the source's bound and that
//! budget. A topic keeps the place of its first waiting value, so that a busy topic cannot starve itself; beyond the
//! bound the least recently updated topic goes. Lossless messages leave first and are never merged or evicted.
//! Payloads are copied: nothing here pins a read buffer. Tests: at the end of this file.

use crate::model::{ByteBudget, Micros, ScopeId, SourceMessage};
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Whether messages of a topic replace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole-state ticks: the newest wins.
    MarketData,
    /// Orders and invalidations: each counts, in order.
    Lossless,
}

/// What an entry costs beside its topic and payload, bytes: table slot, two deque entries, allocator headers.
const ENTRY_BYTES: usize = 192;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Kept {
    /// It waits.
    Waiting,
    /// It waits in the place of an older one.
    Merged,
    /// Market data for which there was no room.
    Dropped,
    /// A lossless message for which there was no room: its source must go.
    Flood,
}

#[derive(Debug)]
struct Newest {
    payload: Bytes,
    t_recv: Micros,
    /// Names this entry in `order`: a topic that was evicted and came back has another.
    entry: u64,
    /// The entry's last place in `recent`.
    updated: u64,
    /// Older values that it has replaced.
    merged: u32,
}

#[derive(Debug)]
pub(super) struct Overflow {
    scope: ScopeId,
    budget: Arc<ByteBudget>,
    bytes_max: usize,
    bytes: usize,
    lossless: VecDeque<SourceMessage>,
    topics: HashMap<Bytes, Newest, ahash::RandomState>,
    /// (entry, topic), oldest first; an evicted entry's line is skipped when met.
    order: VecDeque<(u64, Bytes)>,
    /// (updated, topic), least recent first; lines that a later update made void are skipped when met.
    recent: VecDeque<(u64, Bytes)>,
    clock: u64,
    evicted: u64,
}

impl Overflow {
    pub(super) fn new(scope: ScopeId, budget: Arc<ByteBudget>, bytes_max: usize) -> Self {
        Overflow {
            scope,
            budget,
            bytes_max,
            bytes: 0,
            lossless: VecDeque::new(),
            topics: HashMap::default(),
            order: VecDeque::new(),
            recent: VecDeque::new(),
            clock: 0,
            evicted: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lossless.is_empty() && self.topics.is_empty()
    }

    /// Topics evicted since the last call.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    pub(super) fn push(&mut self, kind: Kind, topic: &[u8], payload: &[u8], t_recv: Micros) -> Kept {
        match kind {
            Kind::Lossless => self.push_lossless(topic, payload, t_recv),
            Kind::MarketData => {
                let merged = self.remove_for_update(topic);
                let need = cost(topic.len(), payload.len());
                if !self.make_room(need) {
                    self.trim_order();
                    return Kept::Dropped;
                }
                self.clock += 1;
                let updated = self.clock;
                let (topic, entry, merged) = merged.unwrap_or_else(|| (Bytes::copy_from_slice(topic), updated, 0));
                if entry == updated {
                    self.order.push_back((entry, topic.clone()));
                }
                self.recent.push_back((updated, topic.clone()));
                self.topics
                    .insert(topic, Newest { payload: Bytes::copy_from_slice(payload), t_recv, entry, updated, merged });
                self.trim_recent();
                if entry == updated { Kept::Waiting } else { Kept::Merged }
            }
        }
    }

    /// The message that leaves next, without taking it.
    pub(super) fn front(&mut self) -> Option<SourceMessage> {
        if let Some(message) = self.lossless.front() {
            return Some(message.clone());
        }
        while let Some((entry, topic)) = self.order.front() {
            match self.topics.get(topic) {
                Some(newest) if newest.entry == *entry => {
                    return Some(SourceMessage {
                        topic: topic.clone(),
                        body: newest.payload.clone(),
                        t_recv: newest.t_recv,
                        scope: self.scope,
                        merged: newest.merged,
                        highest_only: false,
                    });
                }
                _ => self.order.pop_front(),
            };
        }
        None
    }

    /// Takes away what [`Overflow::front`] showed.
    pub(super) fn pop_front(&mut self) {
        if let Some(message) = self.lossless.pop_front() {
            self.release(cost(message.topic.len(), message.body.len()));
        } else if let Some((_, topic)) = self.order.pop_front() {
            self.remove(&topic);
        }
    }

    fn push_lossless(&mut self, topic: &[u8], payload: &[u8], t_recv: Micros) -> Kept {
        if !self.make_room(cost(topic.len(), payload.len())) {
            return Kept::Flood;
        }
        self.lossless.push_back(SourceMessage {
            topic: Bytes::copy_from_slice(topic),
            body: Bytes::copy_from_slice(payload),
            t_recv,
            scope: self.scope,
            merged: 0,
            highest_only: false,
        });
        Kept::Waiting
    }

    /// Takes the topic's older value out, keeping its place in `order`: its name and entry, and how many are merged with it.
    fn remove_for_update(&mut self, topic: &[u8]) -> Option<(Bytes, u64, u32)> {
        let (topic, old) = self.topics.remove_entry(topic)?;
        self.release(cost(topic.len(), old.payload.len()));
        Some((topic, old.entry, old.merged.saturating_add(1)))
    }

    /// Takes `need` bytes, evicting topics as far as needed.
    fn make_room(&mut self, need: usize) -> bool {
        if need > self.bytes_max {
            return false;
        }
        while self.bytes + need > self.bytes_max || !self.budget.try_take(need) {
            if !self.evict() {
                return false;
            }
        }
        self.bytes += need;
        true
    }

    /// Drops the least recently updated topic; `false` if there is none.
    fn evict(&mut self) -> bool {
        while let Some((updated, topic)) = self.recent.pop_front() {
            if self.topics.get(&topic).is_some_and(|newest| newest.updated == updated) {
                self.remove(&topic);
                self.evicted += 1;
                self.trim_order();
                return true;
            }
        }
        false
    }

    fn remove(&mut self, topic: &Bytes) {
        if let Some(old) = self.topics.remove(topic) {
            self.release(cost(topic.len(), old.payload.len()));
        }
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.give(bytes);
    }

    /// Void lines never outnumber live ones for long, so both deques stay in proportion to the topics.
    fn trim_recent(&mut self) {
        if self.recent.len() > 2 * self.topics.len() + 64 {
            let topics = &self.topics;
            self.recent.retain(|(updated, topic)| topics.get(topic).is_some_and(|newest| newest.updated == *updated));
        }
    }

    fn trim_order(&mut self) {
        if self.order.len() > 2 * self.topics.len() + 64 {
            let topics = &self.topics;
            self.order.retain(|(entry, topic)| topics.get(topic).is_some_and(|newest| newest.entry == *entry));
        }
    }
}

impl Drop for Overflow {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

const fn cost(topic: usize, payload: usize) -> usize {
    topic + payload + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn overflow(bytes_max: usize) -> (Overflow, Arc<ByteBudget>) {
        let budget = ByteBudget::new(1 << 20);
        (Overflow::new(ScopeId(3), budget.clone(), bytes_max), budget)
    }

    fn drain(overflow: &mut Overflow) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(message) = overflow.front() {
            overflow.pop_front();
            let text = |b: &Bytes| String::from_utf8(b.to_vec()).expect("text");
            out.push(format!("{}={}@{}", text(&message.topic), text(&message.body), message.t_recv.0));
        }
        out
    }

    #[test]
    fn the_newest_value_of_a_topic_leaves_in_the_place_of_its_first() {
        let (mut waiting, budget) = overflow(1 << 16);
        assert_eq!(waiting.push(Kind::MarketData, b"A", b"1", Micros(1)), Kept::Waiting);
        assert_eq!(waiting.push(Kind::MarketData, b"B", b"2", Micros(2)), Kept::Waiting);
        assert_eq!(waiting.push(Kind::MarketData, b"A", b"33", Micros(3)), Kept::Merged);
        assert_eq!(waiting.front().map(|message| message.merged), Some(1));
        assert_eq!(drain(&mut waiting), ["A=33@3", "B=2@2"]);
        assert!(waiting.is_empty());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn lossless_messages_leave_first_all_of_them_in_order() {
        let (mut waiting, _) = overflow(1 << 16);
        assert_eq!(waiting.push(Kind::MarketData, b"A", b"1", Micros(1)), Kept::Waiting);
        for i in 2..5u64 {
            let kept = waiting.push(Kind::Lossless, b"X_orders", i.to_string().as_bytes(), Micros(i));
            assert_eq!(kept, Kept::Waiting);
        }
        assert_eq!(drain(&mut waiting), ["X_orders=2@2", "X_orders=3@3", "X_orders=4@4", "A=1@1"]);
    }

    #[test]
    fn beyond_the_bound_the_least_recently_updated_topic_goes() {
        let (mut waiting, budget) = overflow(3 * (ENTRY_BYTES + 2));
        for topic in [b"A", b"B", b"C", b"A"] {
            let _ = waiting.push(Kind::MarketData, topic, b"1", Micros(1));
        }
        assert_eq!(waiting.push(Kind::MarketData, b"D", b"1", Micros(2)), Kept::Waiting);
        assert_eq!(waiting.take_evicted(), 1);
        assert!(budget.used() <= 3 * (ENTRY_BYTES + 2));
        assert_eq!(drain(&mut waiting), ["A=1@1", "C=1@1", "D=1@2"]);
    }

    #[test]
    fn lossless_messages_push_market_data_out_and_then_are_too_many() {
        let (mut waiting, _) = overflow(2 * (ENTRY_BYTES + 2));
        let _ = waiting.push(Kind::MarketData, b"A", b"1", Micros(1));
        let _ = waiting.push(Kind::MarketData, b"B", b"1", Micros(1));
        assert_eq!(waiting.push(Kind::Lossless, b"o", b"1", Micros(2)), Kept::Waiting);
        assert_eq!(waiting.push(Kind::Lossless, b"o", b"2", Micros(3)), Kept::Waiting);
        assert_eq!(waiting.take_evicted(), 2);
        assert_eq!(waiting.push(Kind::Lossless, b"o", b"3", Micros(4)), Kept::Flood);
        assert_eq!(waiting.push(Kind::MarketData, b"C", b"1", Micros(5)), Kept::Dropped);
        assert_eq!(drain(&mut waiting), ["o=1@2", "o=2@3"]);
    }

    #[test]
    fn the_shared_budget_bounds_it_too_and_gets_everything_back() {
        let budget = ByteBudget::new(2 * ENTRY_BYTES);
        let mut a = Overflow::new(ScopeId(1), budget.clone(), 1 << 20);
        let mut b = Overflow::new(ScopeId(2), budget.clone(), 1 << 20);
        assert_eq!(a.push(Kind::MarketData, b"A", b"1", Micros(1)), Kept::Waiting);
        assert_eq!(b.push(Kind::MarketData, b"B", b"1", Micros(1)), Kept::Dropped, "nothing of its own to evict");
        drop(a);
        assert_eq!(b.push(Kind::MarketData, b"B", b"1", Micros(1)), Kept::Waiting);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_busy_topic_does_not_grow_the_books() {
        let (mut waiting, _) = overflow(1 << 16);
        for i in 0..10_000u64 {
            let _ = waiting.push(Kind::MarketData, if i % 2 == 0 { b"A" } else { b"B" }, b"1", Micros(i));
        }
        assert!(waiting.recent.len() <= 100 && waiting.order.len() == 2);
        // A topic evicted and come back again and again leaves no trail either.
        let (mut waiting, _) = overflow(ENTRY_BYTES + 10);
        for i in 0..10_000u64 {
            let _ = waiting.push(Kind::MarketData, if i % 2 == 0 { b"A" } else { b"B" }, b"1", Micros(i));
        }
        assert!(waiting.recent.len() <= 100 && waiting.order.len() <= 100);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Kind, u8, usize),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        let push = |kind, topics, bytes| (0..topics, 0..bytes).prop_map(move |(t, b)| Step::Push(kind, t, b));
        prop_oneof![6 => push(Kind::MarketData, 8u8, 500usize), 1 => push(Kind::Lossless, 2, 100), 3 => Just(Step::Pop)]
    }

    proptest! {
        /// Against a plain list: what leaves is the newest of its topic, no topic leaves twice without a push between,
        /// lossless messages leave in order, and no byte beyond the bound is ever held.
        #[test]
        fn whatever_is_pushed_the_newest_leaves_and_the_bound_holds(steps in prop::collection::vec(step(), 0..300)) {
            let (mut waiting, budget) = overflow(2500);
            let mut newest = std::collections::HashMap::new();
            let mut lossless = VecDeque::new();
            for (now, step) in steps.into_iter().enumerate() {
                let now = Micros(now as u64);
                match step {
                    Step::Push(kind, topic, bytes) => {
                        let kept = waiting.push(kind, &[topic], &vec![0; bytes], now);
                        match (kind, kept) {
                            (Kind::MarketData, Kept::Waiting | Kept::Merged) => drop(newest.insert(topic, now)),
                            (Kind::MarketData, _) => drop(newest.remove(&topic)),
                            (Kind::Lossless, Kept::Waiting) => lossless.push_back(now),
                            (Kind::Lossless, kept) => prop_assert_eq!(kept, Kept::Flood),
                        }
                    }
                    Step::Pop => {
                        let Some(message) = waiting.front() else { continue };
                        waiting.pop_front();
                        match lossless.pop_front() {
                            Some(first) => prop_assert_eq!(message.t_recv, first),
                            None => prop_assert_eq!(newest.remove(&message.topic[0]), Some(message.t_recv)),
                        }
                    }
                }
                prop_assert!(budget.used() <= 2500);
                prop_assert_eq!(waiting.is_empty(), waiting.front().is_none());
            }
            drop(waiting);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
