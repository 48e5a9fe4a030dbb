//! A worker's private delivery index: which of its sessions take which frame.
//!
//! In: enter and leave, on the worker's own thread. Out: the takers of one frame key. Promise: O(1) enter and leave whatever the
//! number of takers; no lock, since nobody else sees it. Tests: below.

use super::batch::FrameKey;
use hashbrown::HashMap;

/// One taker of a frame key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// The session's slot in its worker.
    pub slot: u32,
    /// It takes the key on terms of its own.
    pub special: bool,
    /// Ticks at or below this number were in its snapshot, or came before it subscribed.
    pub floor: u64,
}

/// Frame key → takers, and for each session where it stands in those lists.
#[derive(Debug, Default)]
pub struct Index {
    takers: HashMap<FrameKey, Vec<Taker>, ahash::RandomState>,
}

/// One session's places in the index; kept beside the session so that leaving is O(1).
pub type Places = HashMap<FrameKey, u32, ahash::RandomState>;

impl Index {
    /// The takers of `key`.
    pub fn takers(&self, key: FrameKey) -> &[Taker] {
        self.takers.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Adds a taker; true when it is the first one of `key` on this worker.
    pub fn enter(&mut self, key: FrameKey, taker: Taker, places: &mut Places) -> bool {
        let list = self.takers.entry(key).or_default();
        places.insert(key, list.len() as u32);
        list.push(taker);
        list.len() == 1
    }

    /// Removes the session whose `places` these are from `key`. The last taker moves into the gap: `moved` gets its slot and
    /// new place. Returns `Some(true)` when nobody is left, `None` when the session was not there.
    pub fn leave(&mut self, key: FrameKey, places: &mut Places, moved: impl FnOnce(u32, u32)) -> Option<bool> {
        let place = places.remove(&key)?;
        let list = self.takers.get_mut(&key).expect("a place stands in a list");
        list.swap_remove(place as usize);
        match list.get(place as usize) {
            Some(taker) => moved(taker.slot, place),
            None if list.is_empty() => {
                self.takers.remove(&key);
                return Some(true);
            }
            None => {}
        }
        Some(false)
    }

    /// Whether the taker of `key` at `place` has terms of its own.
    pub fn set_special(&mut self, key: FrameKey, place: u32, special: bool) {
        if let Some(taker) = self.takers.get_mut(&key).and_then(|list| list.get_mut(place as usize)) {
            taker.special = special;
        }
    }

    /// Frame keys that somebody takes.
    pub fn len(&self) -> usize {
        self.takers.len()
    }

    /// Whether nobody takes anything.
    pub fn is_empty(&self) -> bool {
        self.takers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BrokerId, Format, Mode, StreamId};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn key(n: u32) -> FrameKey {
        FrameKey::new(StreamId(n), Mode::Quote, Format::Json, BrokerId(1))
    }

    proptest! {
        #[test]
        fn the_index_equals_a_naive_one_and_empties(ops in proptest::collection::vec((0u32..6, 0u32..4, any::<bool>()), 0..200)) {
            let mut index = Index::default();
            let mut places: BTreeMap<u32, Places> = BTreeMap::new();
            let mut naive: BTreeSet<(u32, u32)> = BTreeSet::new();
            for (slot, stream, enter) in ops {
                let mut own = places.remove(&slot).unwrap_or_default();
                if enter && !own.contains_key(&key(stream)) {
                    let first = index.enter(key(stream), Taker { slot, special: false, floor: 0 }, &mut own);
                    prop_assert_eq!(first, !naive.iter().any(|&(_, s)| s == stream));
                    naive.insert((slot, stream));
                } else if !enter {
                    let gone = index.leave(key(stream), &mut own, |other, place| {
                        if let Some(held) = places.get_mut(&other) { held.insert(key(stream), place); }
                    });
                    prop_assert_eq!(gone.is_some(), naive.remove(&(slot, stream)));
                    prop_assert_eq!(gone == Some(true), gone.is_some() && !naive.iter().any(|&(_, s)| s == stream));
                }
                places.insert(slot, own);
                let seen: BTreeSet<_> = (0..4)
                    .flat_map(|s| index.takers(key(s)).iter().map(move |t| (t.slot, s)).collect::<Vec<_>>())
                    .collect();
                prop_assert_eq!(&seen, &naive);
                for (slot, own) in &places {
                    for (key, &place) in own {
                        prop_assert_eq!(index.takers(*key)[place as usize].slot, *slot);
                    }
                }
            }
        }
    }
}
