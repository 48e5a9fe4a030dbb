//! Overload: how much to shed, judged by a few facts at each look, [`LOOK`] apart.
//!
//! In: [`Facts`]. Out: a [`Level`], and what each level does. The facts are about harm, not about effort: a worker that writes all
//! the time and keeps up serves everybody. Times are the *smallest* of a look's period, so that a burst or a hiccup, which leaves one
//! prompt batch, says nothing, and a standing queue says all. Promises: more harm never gives a lower level; one level up at a time,
//! after [`RISE_LOOKS`] bad looks in a row, so that each milder measure gets its chance; one down after [`FALL_LOOKS`] good ones; a
//! relapse doubles that patience, so that a measure which works is not taken back and forth. No clock. Tests: `overload/tests.rs`.

#[cfg(test)]
mod tests;

use crate::model::{Class, Level};
use std::time::Duration;

/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(250);
/// Bad looks in a row before the level rises: 1 s, longer than any scheduling hiccup of a healthy machine.
pub const RISE_LOOKS: u32 = 4;
/// Good looks in a row before the level falls: 5 s, so that what the level has cleared up is not undone at once.
pub const FALL_LOOKS: u32 = 20;
/// The same after many relapses: 1 minute.
pub const FALL_LOOKS_MAX: u32 = 240;
/// A level is left only when every fact is below its threshold times this.
const EXIT: f64 = 0.5;

/// What is looked at. Each is 0 when all is well.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts {
    /// From the bus read of a tick to the end of the flush that wrote it: the smallest since the last look, of the slowest worker.
    pub delay: Duration,
    /// How late a worker's timer fired: the same.
    pub loop_lag: Duration,
    /// Ticks that a full queue of ours merged, out of those offered to it, 0 to 1; of the worst queue. Sessions that are behind do
    /// not count: their slowness is their own.
    pub merged: f64,
    /// Bytes in all outboxes, out of those that may be.
    pub outboxes: f64,
    /// Bytes in all sources' queues, out of those that may be. One flooding source has an eighth at most, and so raises nothing.
    pub sources: f64,
}

/// One of the [`Facts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// [`Facts::delay`], seconds.
    Delay,
    /// [`Facts::loop_lag`], seconds.
    LoopLag,
    /// [`Facts::merged`].
    Merged,
    /// [`Facts::outboxes`].
    Outboxes,
    /// [`Facts::sources`].
    Sources,
}

impl Cause {
    /// Every fact.
    pub const ALL: [Cause; 5] = [Cause::Delay, Cause::LoopLag, Cause::Merged, Cause::Outboxes, Cause::Sources];

    /// For the log.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Delay => "delivery delay, seconds",
            Cause::LoopLag => "worker loop lag, seconds",
            Cause::Merged => "share of ticks merged by full queues",
            Cause::Outboxes => "share of fanout.outbox_bytes_total waiting",
            Cause::Sources => "share of bus.queue_bytes_max waiting",
        }
    }

    const fn value(self, facts: &Facts) -> f64 {
        match self {
            Cause::Delay => facts.delay.as_secs_f64(),
            Cause::LoopLag => facts.loop_lag.as_secs_f64(),
            Cause::Merged => facts.merged,
            Cause::Outboxes => facts.outboxes,
            Cause::Sources => facts.sources,
        }
    }

    /// From which value on the levels 1 to 4 are due.
    const fn thresholds(self) -> [f64; 4] {
        match self {
            // Twice the SlowBroadcast alert's edge, and then what a person sees; 10,000 full writes of one worker take 50 ms.
            Cause::Delay | Cause::LoopLag => [0.1, 0.25, 0.5, 1.0],
            // Any standing loss; then, as 1 - capacity / offered, one twentieth too much, twice and five times what can be taken.
            Cause::Merged => [0.01, 0.05, 0.5, 0.8],
            // Pacing frees no byte of them, so its level is passed through. At 1 the largest are closed whatever their class.
            Cause::Outboxes => [0.5, 0.5, 0.7, 0.9],
            Cause::Sources => [0.25, 0.5, 0.75, 0.9],
        }
    }

    /// The level that this fact asks for, with thresholds times `factor`.
    fn asks_for(self, facts: &Facts, factor: f64) -> Level {
        let value = self.value(facts);
        let met = self.thresholds().iter().filter(|from| value >= **from * factor).count();
        Level::ALL[met]
    }
}

/// The level that the facts ask for, and which of them asks loudest.
fn asked(facts: &Facts, factor: f64) -> (Level, Cause) {
    let all = Cause::ALL.map(|cause| (cause.asks_for(facts, factor), cause));
    // The first of equals: what clients feel stands before how full something is.
    all.into_iter().reduce(|worst, next| if next.0 > worst.0 { next } else { worst }).expect("there are facts")
}

/// A change of level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// What it was.
    pub from: Level,
    /// What it is.
    pub to: Level,
    /// The fact that asked loudest at this look, and its value. When the level falls, what is left of the trouble.
    pub cause: (Cause, f64),
}

/// The level and what it takes to leave it.
#[derive(Clone, Debug)]
pub struct Overload {
    level: Level,
    /// Looks in a row that asked for more.
    bad: u32,
    /// Looks in a row at which the level was no longer due.
    good: u32,
    /// Good looks wanted before the level falls.
    patience: u32,
    /// Looks since the level last fell; `None` before it ever did.
    since_fall: Option<u32>,
}

impl Default for Overload {
    fn default() -> Self {
        Overload { level: Level::Normal, bad: 0, good: 0, patience: FALL_LOOKS, since_fall: None }
    }
}

impl Overload {
    /// The level in force.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes one look into account.
    pub fn look(&mut self, facts: &Facts) -> Option<Change> {
        let (wanted, cause) = asked(facts, 1.0);
        let (due, _) = asked(facts, EXIT);
        self.since_fall = self.since_fall.map(|looks| looks.saturating_add(1));
        self.bad = if wanted > self.level { self.bad + 1 } else { 0 };
        self.good = if due < self.level { self.good + 1 } else { 0 };
        let from = self.level;
        if self.bad >= RISE_LOOKS {
            let relapsed = self.since_fall.is_some_and(|looks| looks < 2 * self.patience);
            if relapsed {
                self.patience = (2 * self.patience).min(FALL_LOOKS_MAX);
            }
            self.level = self.level.up().expect("a level was wanted above this one");
        } else if self.good >= self.patience {
            self.level = self.level.down();
            self.since_fall = Some(0);
        } else if self.level == Level::Normal && self.since_fall.is_some_and(|looks| looks >= FALL_LOOKS_MAX) {
            self.patience = FALL_LOOKS;
        }
        if self.level == from {
            return None;
        }
        (self.bad, self.good) = (0, 0);
        Some(Change { from, to: self.level, cause: (cause, cause.value(facts)) })
    }
}

/// By how much the longest rest between two flushes is multiplied. Four times the default is 20 ms: up to four times as many ticks a
/// write, and still below what a person sees.
pub const fn pacing_factor(level: Level) -> u32 {
    match level {
        Level::Normal => 1,
        _ => 4,
    }
}

/// The shortest time between two ticks of one (instrument, mode) for sessions of `class` whose ticks may be merged: 250 ms, 500 ms, 1 s,
/// a step harsher with each level from 2 on and with each class below high.
pub const fn conflation(level: Level, class: Class) -> Option<Duration> {
    let steps = match level {
        Level::Normal | Level::Paced => return None,
        Level::Conflated => 0,
        Level::Held => 1,
        Level::Refusing => 2,
    } + match class {
        Class::High => 0,
        Class::Normal => 1,
        Class::Low => 2,
    };
    match steps {
        0 => None,
        1 => Some(Duration::from_millis(250)),
        2 => Some(Duration::from_millis(500)),
        _ => Some(Duration::from_secs(1)),
    }
}

/// Whether keys of this class may subscribe to more.
pub fn takes_subscriptions(level: Level, class: Class) -> bool {
    level < Level::Held || class != Class::Low
}

/// Whether new sessions are let in.
pub fn takes_sessions(level: Level) -> bool {
    level < Level::Refusing
}

/// How many of `slow` sessions of class low are closed now; asked once a second. A tenth, so that they do not all come back at once.
pub fn evictions(level: Level, slow: usize) -> usize {
    if level < Level::Refusing { 0 } else { slow.div_ceil(10) }
}
