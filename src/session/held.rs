//! What one session holds: its subscriptions by name, in the order in which they were made.
//!
//! Pure. In: names and modes from commands. Out: the keys to release, and what an unsubscribe without a mode means (D13).
//! The registry holds the truth about who wants what; this is the session's own copy, compared by the auditor. Tests: below.

use crate::engine::FrameKey;
use crate::model::{Instrument, InstrumentRef, Mode};
use crate::shards::ShardIndex;
use crate::wire::command::ModeChoice;
use hashbrown::{Equivalent, HashMap};
use std::hash::{Hash, Hasher};

/// One subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// What it takes, under the user's broker name; both follow a change of the broker.
    pub(super) key: FrameKey,
    /// Digits after the point of its integer prices.
    pub(super) scale: u8,
    /// Where the stream lives.
    pub(super) shard: ShardIndex,
    /// Place in the order of subscribing.
    order: u64,
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key(Instrument, Mode);

struct KeyRef<'a>(InstrumentRef<'a>, Mode);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef(self.0.as_ref(), self.1).hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.0 == key.0.as_ref() && self.1 == key.1
    }
}

/// All subscriptions of one session.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: HashMap<Key, Subscription, ahash::RandomState>,
    next: u64,
    asking: Asking,
}

impl Held {
    /// Subscriptions held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a subscription.
    pub(super) fn insert(&mut self, instrument: Instrument, mode: Mode, subscription: (FrameKey, u8, ShardIndex)) {
        let (key, scale, shard) = subscription;
        let order = self.next;
        self.next += 1;
        self.entries
            .insert(Key(instrument, mode), Subscription { key, scale, shard, order, notices: Notices::default() });
    }

    /// The subscription to `instrument` in `mode`.
    pub(super) fn find(&self, instrument: InstrumentRef<'_>, mode: Mode) -> Option<&Subscription> {
        self.entries.get(&KeyRef(instrument, mode))
    }

    /// Removes one subscription.
    pub(super) fn remove(&mut self, instrument: InstrumentRef<'_>, mode: Mode) -> Option<Subscription> {
        let removed = self.entries.remove(&KeyRef(instrument, mode))?;
        self.asking.replace(removed.notices, Notices::default());
        Some(removed)
    }

    /// Replaces the notices that a held subscription asks for.
    pub(super) fn set_notices(&mut self, instrument: InstrumentRef<'_>, mode: Mode, notices: Notices) {
        if let Some(held) = self.entries.get_mut(&KeyRef(instrument, mode)) {
            self.asking.replace(std::mem::replace(&mut held.notices, notices), notices);
        }
    }

    /// The notices that some subscription asks for.
    pub(super) fn notices(&self) -> Notices {
        Notices { feed_status: self.asking.feed_status > 0, overload: self.asking.overload > 0 }
    }

    /// The subscription goes on under another frame key.
    pub(super) fn move_to(&mut self, instrument: InstrumentRef<'_>, mode: Mode, (key, scale): (FrameKey, u8)) {
        if let Some(held) = self.entries.get_mut(&KeyRef(instrument, mode)) {
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

    /// All subscriptions, in the order in which they were made.
    pub(super) fn in_order(&self) -> Vec<(Instrument, Mode, Subscription)> {
        let mut all: Vec<_> = self.entries.iter().map(|(Key(i, m), s)| (i.clone(), *m, *s)).collect();
        all.sort_unstable_by_key(|(_, _, s)| s.order);
        all
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries = HashMap::default();
        self.asking = Asking::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BrokerId, Format, StreamId};

    const SBIN: InstrumentRef<'_> = InstrumentRef { venue: "NSE", symbol: "SBIN" };

    fn key(stream: u32) -> FrameKey {
        FrameKey::new(StreamId(stream), Mode::Ltp, Format::Json, BrokerId(0))
    }

    fn held(modes: &[Mode]) -> Held {
        let mut held = Held::default();
        for (n, mode) in modes.iter().enumerate() {
            held.insert(SBIN.to_owned(), *mode, (key(n as u32), 2, ShardIndex(0)));
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
        held.clear();
        assert_eq!(held.notices(), Notices::default());
    }

    #[test]
    fn names_are_told_apart_where_venue_ends() {
        let mut held = held(&[Mode::Ltp]);
        let shifted = InstrumentRef { venue: "NSES", symbol: "BIN" };
        assert!(held.find(shifted, Mode::Ltp).is_none());
        held.insert(shifted.to_owned(), Mode::Ltp, (key(9), 2, ShardIndex(0)));
        assert_eq!(held.len(), 2);
        assert_eq!(held.in_order()[1].2.key, key(9));
        assert!(held.remove(SBIN, Mode::Ltp).is_some());
        assert!(held.find(SBIN, Mode::Ltp).is_none());
    }
}
