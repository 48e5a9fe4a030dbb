//! What one session holds: its subscriptions by name, in the order in which they were made.
//!
//! Pure. In: names and modes from commands. Out: the keys to release, and what an unsubscribe without a mode means (D13).
//! Cost: 25 bytes a place; the names themselves are in [`Names`], once for all sessions of a worker.
//! The registry holds the truth about who wants what; this is the session's own copy, compared by the auditor. Tests: below.

use crate::engine::FrameKey;
use crate::model::{Instrument, InstrumentRef, Mode};
use crate::wire::command::ModeChoice;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::rc::Rc;

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    name: Rc<Instrument>,
    /// What it takes, under the user's broker name; both follow a change of the broker.
    pub(super) key: FrameKey,
    /// Place in the order of subscribing.
    order: u32,
    /// Digits after the point of its integer prices.
    pub(super) scale: u8,
    /// Notices asked for with it.
    notices: Notices,
}

/// Which notices a subscription asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notices {
    /// About the feed's state.
    pub(super) feed_status: bool,
    /// About the server's overload level.
    pub(super) overload: bool,
}

/// Subscriptions that ask for each notice.
#[derive(Debug, Default)]
struct Asking {
    feed_status: u32,
    overload: u32,
}

impl Asking {
    fn replace(&mut self, old: Notices, new: Notices) {
        self.feed_status = self.feed_status + u32::from(new.feed_status) - u32::from(old.feed_status);
        self.overload = self.overload + u32::from(new.overload) - u32::from(old.overload);
    }
}

impl Subscription {
    /// What is subscribed.
    pub(super) fn name(&self) -> (InstrumentRef<'_>, Mode) {
        (Instrument::as_ref(&self.name), self.key.mode())
    }
}

/// All subscriptions of one session.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: HashTable<Subscription>,
    hash: ahash::RandomState,
    next: u32,
    asking: Asking,
}

impl Held {
    /// Subscriptions held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Makes room for `more`, so that the table need not grow step by step.
    pub(super) fn reserve(&mut self, more: usize) {
        let hash = &self.hash;
        self.entries.reserve(more, |s| hash.hash_one(s.name()));
    }

    /// Adds a subscription, under a name from [`Names::intern`]. It is not held yet.
    pub(super) fn insert(&mut self, name: Rc<Instrument>, key: FrameKey, scale: u8) {
        let subscription = Subscription { name, key, order: self.next, scale, notices: Notices::default() };
        self.next = self.next.wrapping_add(1);
        let hash = &self.hash;
        self.entries.insert_unique(hash.hash_one(subscription.name()), subscription, |s| hash.hash_one(s.name()));
    }

    /// The subscription to `instrument` in `mode`.
    pub(super) fn find(&self, instrument: InstrumentRef<'_>, mode: Mode) -> Option<&Subscription> {
        let name = (instrument, mode);
        self.entries.find(self.hash.hash_one(name), |s| s.name() == name)
    }

    /// Removes one subscription.
    pub(super) fn remove(&mut self, instrument: InstrumentRef<'_>, mode: Mode) -> Option<Subscription> {
        let name = (instrument, mode);
        let found = self.entries.find_entry(self.hash.hash_one(name), |s| s.name() == name);
        let removed = found.ok()?.remove().0;
        self.asking.replace(removed.notices, Notices::default());
        Some(removed)
    }

    /// Replaces the notices that a held subscription asks for.
    pub(super) fn set_notices(&mut self, instrument: InstrumentRef<'_>, mode: Mode, notices: Notices) {
        let name = (instrument, mode);
        if let Some(held) = self.entries.find_mut(self.hash.hash_one(name), |s| s.name() == name) {
            self.asking.replace(std::mem::replace(&mut held.notices, notices), notices);
        }
    }

    /// The notices that some subscription asks for.
    pub(super) fn notices(&self) -> Notices {
        Notices { feed_status: self.asking.feed_status > 0, overload: self.asking.overload > 0 }
    }

    /// The subscription goes on under another frame key.
    pub(super) fn move_to(&mut self, instrument: InstrumentRef<'_>, mode: Mode, (key, scale): (FrameKey, u8)) {
        let name = (instrument, mode);
        if let Some(held) = self.entries.find_mut(self.hash.hash_one(name), |s| s.name() == name) {
            (held.key, held.scale) = (key, scale);
        }
    }

    /// The modes of `instrument` that an unsubscribe means: the one given; without any, Quote if it is held, else all that are held.
    /// Empty when none of them is held.
    pub(super) fn meant(&self, instrument: InstrumentRef<'_>, mode: ModeChoice) -> Vec<Mode> {
        let held = |m: &Mode| self.find(instrument, *m).is_some();
        match mode {
            ModeChoice::Given(mode) => Some(mode).filter(held).into_iter().collect(),
            ModeChoice::Unspecified if held(&Mode::Quote) => vec![Mode::Quote],
            ModeChoice::Unspecified => Mode::ALL.into_iter().filter(held).collect(),
        }
    }

    /// All subscriptions, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.entries.iter()
    }

    /// All subscriptions, in the order in which they were made.
    pub(super) fn in_order(&self) -> Vec<Subscription> {
        let mut all: Vec<_> = self.iter().cloned().collect();
        all.sort_unstable_by_key(|s| s.order);
        all
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<Subscription> {
        let all = self.in_order();
        self.entries = HashTable::new();
        self.asking = Asking::default();
        all
    }
}

/// The names under which sessions of one worker hold subscriptions, each once. Bounded by twice what is held.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: HashTable<Rc<Instrument>>,
    hash: ahash::RandomState,
    /// When there are this many names, those that nobody holds are taken out.
    sweep_at: usize,
}

/// Names that are kept without a thought for whether somebody holds them.
const NAMES_KEPT: usize = 1024;

impl Names {
    /// The shared copy of a name.
    pub(super) fn intern(&mut self, name: InstrumentRef<'_>) -> Rc<Instrument> {
        let Names { names, hash, sweep_at } = self;
        if names.len() >= (*sweep_at).max(NAMES_KEPT) {
            names.retain(|name| Rc::strong_count(name) > 1);
            // Twice what is left, so that a sweep is paid for by the names that came since the last.
            *sweep_at = 2 * names.len();
        }
        let same = |kept: &Rc<Instrument>| Instrument::as_ref(kept) == name;
        match names.entry(hash.hash_one(name), same, |kept| hash.hash_one(Instrument::as_ref(kept))) {
            Entry::Occupied(kept) => Rc::clone(kept.get()),
            Entry::Vacant(free) => Rc::clone(free.insert(Rc::new(name.to_owned())).get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BrokerId, Format, StreamId};

    const SBIN: InstrumentRef<'_> = InstrumentRef { venue: "NSE", symbol: "SBIN" };

    fn key(stream: u32, mode: Mode) -> FrameKey {
        FrameKey::new(StreamId(stream), mode, Format::Json, BrokerId(0))
    }

    fn held(modes: &[Mode]) -> Held {
        let mut held = Held::default();
        for (n, mode) in modes.iter().enumerate() {
            held.insert(Rc::new(SBIN.to_owned()), key(n as u32, *mode), 2);
        }
        held
    }

    #[test]
    fn an_unsubscribe_without_a_mode_means_quote_or_else_whatever_is_held() {
        for (holds, choice, want) in [
            (&[Mode::Ltp, Mode::Quote][..], ModeChoice::Unspecified, &[Mode::Quote][..]),
            (&[Mode::Ltp, Mode::Depth], ModeChoice::Unspecified, &[Mode::Ltp, Mode::Depth]),
            (&[], ModeChoice::Unspecified, &[]),
            (&[Mode::Ltp], ModeChoice::Given(Mode::Depth), &[]),
            (&[Mode::Ltp, Mode::Depth], ModeChoice::Given(Mode::Depth), &[Mode::Depth]),
        ] {
            assert_eq!(held(holds).meant(SBIN, choice), want, "{holds:?} {choice:?}");
        }
    }

    #[test]
    fn notices_are_due_while_a_subscription_asks_for_them() {
        let mut held = held(&[Mode::Ltp, Mode::Quote]);
        assert_eq!(held.notices(), Notices::default());
        let (both, one) =
            (Notices { feed_status: true, overload: true }, Notices { feed_status: false, overload: true });
        held.set_notices(SBIN, Mode::Ltp, both);
        held.set_notices(SBIN, Mode::Quote, both);
        held.set_notices(SBIN, Mode::Ltp, one);
        assert_eq!(held.notices(), both);
        held.remove(SBIN, Mode::Quote);
        assert_eq!(held.notices(), one, "new options have replaced the old ones");
        held.set_notices(SBIN, Mode::Depth, both);
        assert_eq!(held.notices(), one, "nobody holds it");
        held.take();
        assert_eq!(held.notices(), Notices::default());
    }

    #[test]
    fn names_are_told_apart_where_venue_ends() {
        let mut held = held(&[Mode::Ltp]);
        let shifted = InstrumentRef { venue: "NSES", symbol: "BIN" };
        assert!(held.find(shifted, Mode::Ltp).is_none());
        held.insert(Rc::new(shifted.to_owned()), key(9, Mode::Ltp), 2);
        assert_eq!(held.len(), 2);
        assert_eq!(held.in_order()[1].key, key(9, Mode::Ltp));
        assert!(held.remove(SBIN, Mode::Ltp).is_some());
        assert!(held.find(SBIN, Mode::Ltp).is_none());
    }

    #[test]
    fn a_name_is_kept_once_and_forgotten_when_nobody_holds_it() {
        let mut names = Names::default();
        let held = names.intern(SBIN);
        for n in 0..3 * NAMES_KEPT {
            assert!(Rc::ptr_eq(&held, &names.intern(SBIN)));
            names.intern(InstrumentRef { venue: "NSE", symbol: &n.to_string() });
            assert!(names.names.len() <= NAMES_KEPT);
        }
    }

    #[test]
    fn a_subscription_takes_24_bytes_beside_its_name() {
        assert_eq!(size_of::<Subscription>(), 24);
    }
}
