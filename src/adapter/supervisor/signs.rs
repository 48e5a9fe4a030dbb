//! What an adapter shows of its health: what its broker holds for us, and when the broker last gave a sign of life.
//!
//! In: answers and heartbeats, on the control thread. Out: counters that anybody reads. What is held is exact: a repeated success counts
//! once, and a new generation starts from nothing. Knows nothing of what the signs mean.

use crate::policy::market_hours::Hours;
use crate::shards::key::{KeyName, Op};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Read by anybody.
#[derive(Debug)]
pub struct Signs {
    origin: Instant,
    /// Milliseconds since `origin`, and one; 0 before the first.
    heartbeat: AtomicU64,
    held: [AtomicUsize; Hours::ALL.len()],
    /// Instruments that could still be subscribed; [`UNKNOWN`] when nobody says.
    capacity: AtomicUsize,
    /// Connections to the broker; [`UNKNOWN`] when nobody says.
    connections: AtomicUsize,
}

const UNKNOWN: usize = usize::MAX;

impl Signs {
    pub(super) fn new() -> Self {
        Signs {
            origin: Instant::now(),
            heartbeat: AtomicU64::new(0),
            held: Default::default(),
            capacity: AtomicUsize::new(UNKNOWN),
            connections: AtomicUsize::new(UNKNOWN),
        }
    }

    pub(super) fn beat(&self) {
        self.heartbeat.store(self.origin.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    /// Another adapter: nothing is known of it.
    pub(super) fn forget(&self) {
        self.heartbeat.store(0, Relaxed);
        self.capacity.store(UNKNOWN, Relaxed);
        self.connections.store(UNKNOWN, Relaxed);
    }

    pub(super) fn set_capacity(&self, left: usize) {
        self.capacity.store(left, Relaxed);
    }

    pub(super) fn set_connections(&self, up: usize) {
        self.connections.store(up, Relaxed);
    }

    /// Connections to the broker that carry ticks, if the adapter says.
    pub fn connections(&self) -> Option<usize> {
        Some(self.connections.load(Relaxed)).filter(|up| *up != UNKNOWN)
    }

    /// Instruments that could still be subscribed, if the adapter says.
    pub fn capacity(&self) -> Option<usize> {
        Some(self.capacity.load(Relaxed)).filter(|left| *left != UNKNOWN)
    }

    /// Since the broker's last heartbeat; `None` when this connection has had none.
    pub fn heartbeat(&self) -> Option<Duration> {
        let at = self.heartbeat.load(Relaxed);
        (at > 0).then(|| Duration::from_millis((self.origin.elapsed().as_millis() as u64 + 1).saturating_sub(at)))
    }

    /// Keys (instrument × mode) that the broker holds, by the hours of their exchange.
    pub fn held(&self) -> impl Iterator<Item = (Hours, usize)> {
        Hours::ALL.into_iter().zip(&self.held).map(|(hours, held)| (hours, held.load(Relaxed)))
    }
}

/// What the broker holds, as the supervisor knows it.
#[derive(Default)]
pub(super) struct AtBroker(HashSet<KeyName>);

impl AtBroker {
    /// The broker has carried a call out.
    pub(super) fn done(&mut self, signs: &Signs, op: Op, name: &KeyName) {
        let held = &signs.held[Hours::of(name.instrument.venue()) as usize];
        let changed = match op {
            Op::Subscribe => self.0.insert(name.clone()),
            Op::Unsubscribe => self.0.remove(name),
        };
        match (op, changed) {
            (Op::Subscribe, true) => held.fetch_add(1, Relaxed),
            (Op::Unsubscribe, true) => held.fetch_sub(1, Relaxed),
            (_, false) => 0,
        };
    }

    /// The broker holds nothing any more.
    pub(super) fn cleared(&mut self, signs: &Signs) {
        self.0.clear();
        signs.held.iter().for_each(|held| held.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Instrument, InstrumentRef, Mode};

    #[tokio::test(start_paused = true)]
    async fn what_the_broker_holds_is_counted_once_by_the_hours_of_its_exchange() {
        let (signs, mut at_broker) = (Signs::new(), AtBroker::default());
        let key = |venue, symbol, mode| {
            let instrument: Instrument = InstrumentRef { venue, symbol }.to_owned();
            KeyName { instrument, mode }
        };
        let counts = || signs.held().map(|(_, n)| n).collect::<Vec<_>>();
        for _ in 0..2 {
            at_broker.done(&signs, Op::Subscribe, &key("NSE", "SBIN", Mode::Ltp));
        }
        at_broker.done(&signs, Op::Subscribe, &key("NFO", "X", Mode::Ltp));
        at_broker.done(&signs, Op::Subscribe, &key("CRYPTO", "BTC", Mode::Quote));
        at_broker.done(&signs, Op::Unsubscribe, &key("MCX", "GOLD", Mode::Ltp));
        assert_eq!(counts(), [2, 0, 0, 1]);
        at_broker.done(&signs, Op::Unsubscribe, &key("NSE", "SBIN", Mode::Ltp));
        assert_eq!(counts(), [1, 0, 0, 1]);
        at_broker.cleared(&signs);
        assert_eq!(counts(), [0, 0, 0, 0]);
        assert_eq!(signs.heartbeat(), None);
        signs.beat();
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(signs.heartbeat(), Some(Duration::from_secs(4)));
    }
}
