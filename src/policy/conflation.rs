//! Conflation: what of one subscription's ticks may be merged, when a held one is due, and what a merged one says of those it replaced.
//!
//! In: the terms of a subscription, moments, sequence numbers, prices. Out: verdicts. Promises: the first tick goes at once; never two
//! within one interval; a held tick is due in the first slot of 10 ms at or after its interval's end, so nothing is held for longer than
//! interval plus slot; a gap is seen whatever caused it. State, queues and clocks are the engine's. Tests: below, and with the real
//! outbox behind a socket that refuses bytes in `engine/worker/conflation_tests.rs`.

use std::time::Duration;

/// Held ticks are looked at this often; the resolution of `max_rate`.
pub const SLOT: Duration = Duration::from_millis(10);
const SLOT_MICROS: u64 = SLOT.as_micros() as u64;

/// How one subscription wants its ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// None may be merged or dropped.
    pub every: bool,
    /// At least this long from one tick to the next.
    pub interval: Option<Duration>,
    /// A merged tick tells low and high of what it replaced.
    pub range: bool,
}

impl Terms {
    /// Whether it is as everybody has it who asked for nothing.
    pub fn is_plain(self) -> bool {
        self == Terms::default()
    }

    /// The interval that holds now: the longer of its own and the one that overload imposes on its class. `every` is never held.
    pub fn interval_now(self, imposed: Option<Duration>) -> Option<Duration> {
        if self.every { None } else { self.interval.max(imposed) }
    }
}

/// Microseconds since some beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// A multiple of [`SLOT`] since the same beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u64);

impl Moment {
    /// The slot that has begun last.
    pub fn slot(self) -> Slot {
        Slot(self.0 / SLOT_MICROS)
    }

    /// The first slot that begins at or after this moment.
    fn next_slot(self) -> Slot {
        Slot(self.0.div_ceil(SLOT_MICROS))
    }
}

impl Slot {
    /// When it begins, counted from the beginning.
    pub fn starts(self) -> Duration {
        Duration::from_micros(self.0.saturating_mul(SLOT_MICROS))
    }
}

/// What becomes of a tick that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It goes now; one that was held is merged into it.
    Send,
    /// It is held until then at the latest; one that was held before is merged into it.
    Hold(Slot),
}

/// When a subscription got its last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    last: Option<Moment>,
}

impl Pace {
    /// Whether a tick that comes at `now` may go.
    pub fn on_tick(self, now: Moment, interval: Option<Duration>) -> Verdict {
        let (Some(last), Some(interval)) = (self.last, interval) else { return Verdict::Send };
        let due = Moment(last.0.saturating_add(interval.as_micros() as u64));
        if now >= due { Verdict::Send } else { Verdict::Hold(due.next_slot()) }
    }

    /// A tick has gone.
    pub fn sent(&mut self, now: Moment) {
        self.last = Some(now);
    }
}

/// Whether tick `seq` follows `last` without a gap; nothing is known before the first one.
pub fn follows(last: Option<u64>, seq: u64) -> bool {
    last.is_none_or(|last| seq == last + 1)
}

/// Low and high of the ticks that were merged into one, itself among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    ticks: u32,
    range: Option<(i64, i64)>,
}

impl Merged {
    /// One more tick; one without a price widens nothing.
    pub fn add(&mut self, price: Option<i64>) {
        self.join(Merged { ticks: 1, range: price.map(|p| (p, p)) });
    }

    /// Ticks that had been merged elsewhere.
    pub fn join(&mut self, other: Merged) {
        self.ticks = self.ticks.saturating_add(other.ticks);
        self.range = match (self.range, other.range) {
            (Some((low, high)), Some((l, h))) => Some((low.min(l), high.max(h))),
            (one, other) => one.or(other),
        };
    }

    /// Low and high, if anything was merged at all.
    pub fn range(self) -> Option<(i64, i64)> {
        self.range.filter(|_| self.ticks > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_tick_goes_at_once_and_the_next_when_the_interval_is_over() {
        let (mut pace, interval) = (Pace::default(), Some(ms(25)));
        assert_eq!(pace.on_tick(Moment(3), interval), Verdict::Send);
        pace.sent(Moment(3));
        assert_eq!(pace.on_tick(Moment(25_002), interval), Verdict::Hold(Slot(3)), "due at 25.003 ms, so at 30 ms");
        assert_eq!(pace.on_tick(Moment(25_003), interval), Verdict::Send);
        assert_eq!(pace.on_tick(Moment(4), None), Verdict::Send);
        assert_eq!(Slot(3).starts(), ms(30));
    }

    #[test]
    fn the_longer_interval_holds_and_every_is_never_held() {
        let latest = Terms { interval: Some(ms(100)), ..Terms::default() };
        assert_eq!(latest.interval_now(None), Some(ms(100)));
        assert_eq!(latest.interval_now(Some(ms(250))), Some(ms(250)));
        assert_eq!(latest.interval_now(Some(ms(50))), Some(ms(100)));
        assert_eq!(Terms::default().interval_now(Some(ms(50))), Some(ms(50)));
        assert_eq!(Terms { every: true, ..Terms::default() }.interval_now(Some(ms(50))), None);
        assert!(Terms::default().is_plain() && !latest.is_plain());
    }

    #[test]
    fn only_the_next_number_follows() {
        assert!(follows(None, 9) && follows(Some(8), 9));
        assert!(!follows(Some(7), 9) && !follows(Some(9), 9));
    }

    #[test]
    fn a_range_is_told_only_of_merged_ticks() {
        let mut merged = Merged::default();
        merged.add(Some(5));
        assert_eq!(merged.range(), None, "nothing was merged");
        merged.add(Some(-2));
        merged.add(None);
        assert_eq!(merged.range(), Some((-2, 5)));
    }

    proptest! {
        /// The engine in one line: send, hold or replace; a slot's end sends what is held.
        #[test]
        fn at_most_one_tick_an_interval_and_the_newest_always_in_time(
            gaps in prop::collection::vec(0u64..40_000, 1..200),
            interval in 1_000u64..300_000,
        ) {
            let limit = Some(Duration::from_micros(interval));
            let (mut pace, mut now, mut held) = (Pace::default(), 0, None::<(usize, Slot)>);
            let mut sent: Vec<(u64, usize)> = Vec::new();
            let end = |now: u64, held: &mut Option<(usize, Slot)>, pace: &mut Pace, sent: &mut Vec<(u64, usize)>| {
                if let Some((tick, slot)) = held.filter(|(_, slot)| *slot <= Moment(now).slot()) {
                    let at = slot.starts().as_micros() as u64;
                    pace.sent(Moment(at));
                    sent.push((at, tick));
                    *held = None;
                }
            };
            for (tick, gap) in gaps.iter().enumerate() {
                now += gap;
                end(now, &mut held, &mut pace, &mut sent);
                match pace.on_tick(Moment(now), limit) {
                    Verdict::Send => {
                        held = None;
                        pace.sent(Moment(now));
                        sent.push((now, tick));
                    }
                    Verdict::Hold(slot) => {
                        let last = sent.last().expect("the first one goes at once").0;
                        prop_assert!(slot.starts().as_micros() as u64 <= last + interval + SLOT_MICROS);
                        held = Some((tick, slot));
                    }
                }
            }
            end(now + interval + SLOT_MICROS, &mut held, &mut pace, &mut sent);
            prop_assert!(sent.windows(2).all(|w| w[1].0 >= w[0].0 + interval && w[1].1 > w[0].1));
            prop_assert_eq!(sent.last().expect("one at least").1, gaps.len() - 1, "the newest came in the end");
        }

        #[test]
        fn a_range_does_not_depend_on_where_ticks_were_merged(prices in prop::collection::vec(any::<i64>(), 2..50), cut in 0usize..50) {
            let all = |prices: &[i64]| {
                let mut merged = Merged::default();
                prices.iter().for_each(|p| merged.add(Some(*p)));
                merged
            };
            let cut = cut.min(prices.len());
            let mut joined = all(&prices[..cut]);
            joined.join(all(&prices[cut..]));
            prop_assert_eq!(joined, all(&prices));
            let (low, high) = (*prices.iter().min().expect("two"), *prices.iter().max().expect("two"));
            prop_assert_eq!(joined.range(), Some((low, high)));
        }
    }
}
