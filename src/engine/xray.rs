//! X-ray: what is asked of a worker about its sessions, and what it answers.
//!
//! In: [`Ask`], by [`super::queue::Control::Sessions`]. Out: [`Seen`], the first of all sessions in the order asked for. Promises: at most
//! `top` rows leave a worker, and only their connections are looked up in the kernel; a look at all others costs a few fields each, a
//! few hundred at a time, so that ticks go on meanwhile. Tests: below, `tests/xray.rs`.

use crate::model::{Class, Format, SessionId};
use crate::policy::diagnosis::Tcp;
use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which sessions come first: those with most of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// For how long they have been behind.
    Lag,
    /// Bytes in their outbox.
    Bytes,
    /// Ticks merged because they were behind.
    Merged,
}

impl By {
    /// All of them, by name.
    pub const ALL: [(&'static str, By); 3] = [("lag", By::Lag), ("bytes", By::Bytes), ("merged", By::Merged)];
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// In which order.
    pub by: By,
    /// How many.
    pub top: usize,
}

/// What a worker knows of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Which one.
    pub id: SessionId,
    /// What it speaks.
    pub format: Format,
    /// How much it matters under overload.
    pub class: Class,
    /// For how long something has been left over; zero when nothing is.
    pub lag: Duration,
    /// Bytes that wait in its outbox.
    pub outbox_bytes: usize,
    /// Ticks merged because it was behind.
    pub merged: u64,
    /// Frames written to it.
    pub sent_frames: u64,
    /// Bytes that the kernel took for it.
    pub sent_bytes: u64,
}

impl Figures {
    /// What it is compared by: first what was asked for, then the rest, so that equals come in a sensible order.
    fn rank(&self, by: By) -> ([u64; 3], Reverse<SessionId>) {
        let (lag, bytes) = (self.lag.as_micros() as u64, self.outbox_bytes as u64);
        let figures = match by {
            By::Lag => [lag, bytes, self.merged],
            By::Bytes => [bytes, lag, self.merged],
            By::Merged => [self.merged, lag, bytes],
        };
        (figures, Reverse(self.id))
    }
}

/// One session, as a worker answers.
#[derive(Clone, Debug)]
pub struct SeenSession {
    /// What the engine knows.
    pub figures: Figures,
    /// Whose it is; `None` until a key has been verified.
    pub user: Option<Arc<str>>,
    /// The broker whose ticks it gets, as it is named to clients.
    pub broker: Option<String>,
    /// The far side.
    pub peer: SocketAddr,
    /// Since it was accepted.
    pub age: Duration,
    /// Keys it holds.
    pub subscriptions: usize,
    /// The kernel's view of its connection.
    pub tcp: Option<Tcp>,
}

/// A worker's answer.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Sessions that are not on their way out.
    pub total: usize,
    /// Those of them whose oldest unsent tick is older than 1 s.
    pub lagging: usize,
    /// How late the worker last came round.
    pub late_by: Duration,
    /// The first of them, in the order asked for.
    pub sessions: Vec<SeenSession>,
}

/// Puts the first `top` in order and drops the rest.
pub fn keep_first<T>(rows: &mut Vec<T>, Ask { by, top }: Ask, figures: impl Fn(&T) -> &Figures) {
    rows.sort_unstable_by_key(|row| Reverse(figures(row).rank(by)));
    rows.truncate(top);
}

/// A worker's look at its sessions, under way.
#[derive(Debug)]
pub struct Survey {
    ask: Ask,
    /// All lags are as of this moment.
    pub(super) now: Instant,
    total: usize,
    lagging: usize,
    first: Vec<Figures>,
}

impl Survey {
    /// Nothing has been seen yet.
    pub fn new(ask: Ask, now: Instant) -> Self {
        Survey { ask, now, total: 0, lagging: 0, first: Vec::new() }
    }

    /// One more session.
    pub(super) fn offer(&mut self, figures: Figures, lagging: bool) {
        self.total += 1;
        self.lagging += usize::from(lagging);
        self.first.push(figures);
        // Sorting once for every `top` that came costs each of them a few comparisons, and no more than twice `top` are kept.
        if self.first.len() >= 2 * self.ask.top.max(1) {
            keep_first(&mut self.first, self.ask, |figures| figures);
        }
    }

    /// Sessions seen, those that lag, and the first of them.
    pub fn finish(mut self) -> (usize, usize, Vec<Figures>) {
        keep_first(&mut self.first, self.ask, |figures| figures);
        (self.total, self.lagging, self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WorkerId;
    use proptest::prelude::*;

    fn figures(slot: u32, lag: u64, outbox_bytes: usize, merged: u64) -> Figures {
        Figures {
            id: SessionId { worker: WorkerId(0), slot, generation: 1 },
            format: Format::Json,
            class: Class::Normal,
            lag: Duration::from_millis(lag),
            outbox_bytes,
            merged,
            sent_frames: 0,
            sent_bytes: 0,
        }
    }

    fn first(all: &[Figures], by: By, top: usize) -> Vec<u32> {
        let mut survey = Survey::new(Ask { by, top }, Instant::now());
        all.iter().for_each(|one| survey.offer(*one, false));
        survey.finish().2.iter().map(|one| one.id.slot).collect()
    }

    #[test]
    fn those_with_most_of_what_was_asked_for_come_first_and_equals_by_the_rest() {
        let all = [
            figures(0, 5, 900, 1),
            figures(1, 9, 100, 1),
            figures(2, 0, 0, 70),
            figures(3, 0, 0, 70),
            figures(4, 9, 200, 0),
        ];
        assert_eq!(first(&all, By::Lag, 3), [4, 1, 0]);
        assert_eq!(first(&all, By::Bytes, 3), [0, 4, 1]);
        assert_eq!(first(&all, By::Merged, 3), [2, 3, 1]);
        assert_eq!(first(&all, By::Lag, 100).len(), 5);
        assert_eq!(first(&all, By::Lag, 0), [0u32; 0]);
    }

    proptest! {
        #[test]
        fn a_survey_finds_what_sorting_everything_would(lags in proptest::collection::vec(0u64..50, 0..200), top in 1usize..30) {
            let all: Vec<Figures> = lags.iter().zip(0..).map(|(lag, slot)| figures(slot, *lag, 0, 0)).collect();
            let mut sorted = all.clone();
            sorted.sort_by_key(|one| (Reverse(one.lag), one.id.slot));
            sorted.truncate(top);
            let wanted: Vec<u32> = sorted.iter().map(|one| one.id.slot).collect();
            prop_assert_eq!(first(&all, By::Lag, top), wanted);
        }
    }
}
