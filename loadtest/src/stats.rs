//! Counts and latencies of one reader thread, and their sum over all.

use hdrhistogram::Histogram;

/// Reasons kept, counted; the rest is a number.
const REASONS_MAX: usize = 5;

/// Latencies, nanoseconds: 1 µs to 100 s in three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1000, 100_000_000_000, 3).expect("sound bounds")
}

/// What has been seen. Everything but the two histograms only grows; those hold what came since they were last taken.
#[derive(Clone)]
pub(crate) struct Stats {
    /// Clients whose subscribes are acknowledged.
    pub(crate) live: u64,
    /// Clients that have received a tick.
    pub(crate) reached: u64,
    /// Clients that were cut off, or never got in.
    pub(crate) ended: u64,
    /// Why, for some of them.
    pub(crate) reasons: Vec<String>,
    /// Ticks that count, at healthy clients.
    pub(crate) delivered: u64,
    /// The same at clients that stalled.
    pub(crate) stalled: u64,
    /// All ticks, bytes, WebSocket frames and reads, of everybody.
    pub(crate) ticks: u64,
    pub(crate) bytes: u64,
    pub(crate) frames: u64,
    pub(crate) reads: u64,
    /// The same tick once more.
    pub(crate) duplicates: u64,
    /// A tick behind a newer one of its symbol.
    pub(crate) reordered: u64,
    /// Gaps in the server's `seq` (MessagePack): ticks that it says it merged.
    pub(crate) merged: u64,
    /// Ticks of symbols that the client had not asked for.
    pub(crate) strangers: u64,
    /// Frames that are neither tick nor answer.
    pub(crate) unreadable: u64,
    /// Ages of ticks that count, at healthy clients.
    pub(crate) ages: Histogram<u64>,
    /// How long one round of the reader took: as long may a tick have waited in it.
    pub(crate) rounds: Histogram<u64>,
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            live: 0,
            reached: 0,
            ended: 0,
            reasons: Vec::new(),
            delivered: 0,
            stalled: 0,
            ticks: 0,
            bytes: 0,
            frames: 0,
            reads: 0,
            duplicates: 0,
            reordered: 0,
            merged: 0,
            strangers: 0,
            unreadable: 0,
            ages: histogram(),
            rounds: histogram(),
        }
    }
}

impl Stats {
    /// Notes that a client has ended.
    pub(crate) fn end(&mut self, why: String) {
        self.ended += 1;
        if self.reasons.len() < REASONS_MAX && !self.reasons.contains(&why) {
            self.reasons.push(why);
        }
    }

    /// Adds what `other` has seen, and takes its histograms' content.
    pub(crate) fn absorb(&mut self, other: &mut Stats) {
        for why in &other.reasons {
            if self.reasons.len() < REASONS_MAX && !self.reasons.contains(why) {
                self.reasons.push(why.clone());
            }
        }
        let mut add = |get: fn(&mut Stats) -> &mut u64| *get(self) += *get(other);
        for get in COUNTS {
            add(get);
        }
        self.ages.add(&other.ages).expect("the same bounds");
        self.rounds.add(&other.rounds).expect("the same bounds");
        other.ages.reset();
        other.rounds.reset();
    }

    /// What came on top of `before`; histograms stay.
    pub(crate) fn since(mut self, before: &Stats) -> Stats {
        let mut before = before.clone();
        for get in COUNTS {
            let now = get(&mut self);
            *now = now.saturating_sub(*get(&mut before));
        }
        self
    }
}

const COUNTS: [fn(&mut Stats) -> &mut u64; 14] = [
    |s| &mut s.live,
    |s| &mut s.reached,
    |s| &mut s.ended,
    |s| &mut s.delivered,
    |s| &mut s.stalled,
    |s| &mut s.ticks,
    |s| &mut s.bytes,
    |s| &mut s.frames,
    |s| &mut s.reads,
    |s| &mut s.duplicates,
    |s| &mut s.reordered,
    |s| &mut s.merged,
    |s| &mut s.strangers,
    |s| &mut s.unreadable,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_add_counts_and_take_histograms_once() {
        let mut thread = Stats { delivered: 5, ..Stats::default() };
        thread.ages.record_n(2000, 5).expect("in bounds");
        thread.end("gone".into());
        let mut sum = Stats::default();
        sum.absorb(&mut thread);
        sum.absorb(&mut Stats { delivered: 7, ..Stats::default() });
        assert_eq!((sum.delivered, sum.ages.len(), sum.ended, sum.reasons.len()), (12, 5, 1, 1));
        assert_eq!((thread.delivered, thread.ages.len()), (5, 0), "its ages are taken, its counts stay");
        let later = Stats { delivered: 20, ..Stats::default() };
        assert_eq!(later.since(&thread).delivered, 15);
    }
}
