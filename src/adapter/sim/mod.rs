//! Kind `sim`: a simulated market, so that the first command shows live ticks.
//!
//! [`SimMarket`] is pure: a seed and the times it is asked at give the same ticks always. [`run`] paces it and hands
//! bus-shaped messages (`BATCH`, topics without a broker, scope shared) to a sink, as if a publisher had sent them.
//! Promises: instruments take turns, so each ticks every few seconds; prices are multiples of the tick size within 10 % of
//! the previous close; volume never falls; low ≤ ltp ≤ high; bids below asks.
//! [`SimSwitch::stop`] ends it for the whole process, for good: simulated and real prices are never mixed.
//! The adapter of a user on broker `sim` is [`super::bus::BusAdapter`]: there is nobody to call.

mod encode;
mod instruments;
mod market;
#[cfg(test)]
mod tests;

pub use instruments::{INSTRUMENTS, Kind, Listed};
pub use market::{Level, SimMarket, SimTick};

use crate::limits::BATCH_ITEMS_MAX;
use crate::model::{Micros, ScopeId, SourceMessage};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the market is asked for ticks.
pub const STEP: Duration = Duration::from_millis(20);
/// After a stall, at most the ticks of this long are made up for.
const CATCH_UP: Duration = Duration::from_millis(200);

/// Settings of the simulated market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ticks per second over all instruments; 0 = none.
    pub ticks_per_second: u32,
    /// Seed of the random walk.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { ticks_per_second: 200, seed: 1 }
    }
}

/// Stops the simulated market of this process, once and for good. Clones share the switch.
#[derive(Clone, Debug, Default)]
pub struct SimSwitch(Arc<Switch>);

#[derive(Debug, Default)]
struct Switch {
    stopped: AtomicBool,
    wake: Notify,
}

impl SimSwitch {
    /// Stops it. `true` the first time, for the one warning that says so. Cheap; any thread.
    pub fn stop(&self) -> bool {
        let first = !self.0.stopped.swap(true, Ordering::AcqRel);
        if first {
            self.0.wake.notify_one();
        }
        first
    }

    /// Whether it has been stopped.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }
}

/// Emits the market until the switch is thrown or `sink` returns `false`. Nothing is emitted after the switch.
pub async fn run(config: Config, switch: SimSwitch, mut sink: impl FnMut(SourceMessage) -> bool) {
    if config.ticks_per_second == 0 {
        return;
    }
    let mut market = SimMarket::new(config.seed, Micros::now());
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = Instant::now();
    // Ticks owed, in fractions of a tick.
    let mut owed = 0.0;
    loop {
        tokio::select! {
            biased;
            () = switch.0.wake.notified() => return,
            _ = steps.tick() => {}
        }
        let elapsed = last.elapsed().min(CATCH_UP);
        last = Instant::now();
        owed += elapsed.as_secs_f64() * f64::from(config.ticks_per_second);
        let count = (owed as usize).min(BATCH_ITEMS_MAX);
        owed -= count as f64;
        if switch.is_stopped() {
            return;
        }
        if count > 0 && !sink(batch(&mut market, count, Micros::now())) {
            return;
        }
    }
}

/// The next `count` ticks as one bus message.
pub fn batch(market: &mut SimMarket, count: usize, now: Micros) -> SourceMessage {
    let body = encode::batch(market, count, now);
    SourceMessage {
        topic: Bytes::from_static(b"BATCH"),
        body,
        t_recv: now,
        scope: ScopeId::SHARED,
        merged: 0,
        highest_only: false,
    }
}
