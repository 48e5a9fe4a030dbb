//! Which connection carries which instrument, and in which mode: pure.
//!
//! In: instruments wanted and let go, per mode; connections that came and went. Out: [`Changes`] for one connection at a
//! time. Promises: an instrument sits on one connection, in the highest mode wanted of it, whatever else is wanted; raising
//! or lowering its mode is one change, never a stop and a start; no connection holds more than its quota on the wire, not
//! even between two messages; what was let go before it was sent is never sent. Tests: `pool/tests.rs`.

#[cfg(test)]
mod tests;

use super::broker::Changes;
use crate::model::Mode;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// There is no room for one more instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module header.
#[derive(Debug)]
pub struct Pool<T> {
    per_connection: usize,
    /// What somebody wants.
    seats: HashMap<T, Seat>,
    rows: Vec<Row<T>>,
}

/// An instrument's place.
#[derive(Debug)]
struct Seat {
    row: usize,
    /// Names that want it, by [`Mode::index`].
    wanted: [u32; 3],
    /// The mode on the wire.
    sent: Option<Mode>,
}

/// A connection's place.
#[derive(Debug)]
struct Row<T> {
    up: bool,
    /// Seats on it.
    used: usize,
    /// Seats there can be: the quota, or less if the broker has said so.
    capacity: usize,
    /// On the wire in that mode, but nobody wants them any more. These go first.
    leaving: BTreeMap<T, Mode>,
    /// To be started or changed.
    changing: BTreeSet<T>,
}

impl Seat {
    fn highest(&self) -> Option<Mode> {
        Mode::ALL.into_iter().rev().find(|mode| self.wanted[mode.index()] > 0)
    }
}

impl<T: Clone + Eq + Hash + Ord> Pool<T> {
    /// Room for `connections` of `per_connection` instruments each, at least one of both.
    pub fn new(per_connection: usize, connections: usize) -> Self {
        let per_connection = per_connection.max(1);
        let row = || Row {
            up: false,
            used: 0,
            capacity: per_connection,
            leaving: BTreeMap::new(),
            changing: BTreeSet::new(),
        };
        Pool { per_connection, seats: HashMap::new(), rows: (0..connections.max(1)).map(|_| row()).collect() }
    }

    /// One more name wants `token` in `mode` (as it is on the wire). The connection that will carry it.
    ///
    /// # Errors
    /// [`Full`]; nothing has changed.
    pub fn want(&mut self, token: &T, mode: Mode) -> Result<usize, Full> {
        if !self.seats.contains_key(token) {
            // One that is still on the wire stays where it is, if there is room again.
            let held =
                (0..self.rows.len()).find(|&row| self.has_room(row) && self.rows[row].leaving.contains_key(token));
            let row = held.or_else(|| (0..self.rows.len()).find(|&row| self.has_room(row))).ok_or(Full)?;
            self.rows[row].used += 1;
            let sent = self.rows[row].leaving.remove(token);
            self.seats.insert(token.clone(), Seat { row, wanted: [0; 3], sent });
        }
        let seat = self.seats.get_mut(token).expect("it has a seat by now");
        seat.wanted[mode.index()] += 1;
        let row = seat.row;
        self.settle(token);
        Ok(row)
    }

    /// One name less wants `token` in `mode`. `None` when none did; else whether nobody wants it in any mode now.
    pub fn release(&mut self, token: &T, mode: Mode) -> Option<bool> {
        let seat = self.seats.get_mut(token)?;
        seat.wanted[mode.index()] = seat.wanted[mode.index()].checked_sub(1)?;
        if seat.highest().is_some() {
            self.settle(token);
            return Some(false);
        }
        let Seat { row, sent, .. } = self.seats.remove(token).expect("it was there");
        let row = &mut self.rows[row];
        row.used -= 1;
        row.changing.remove(token);
        row.leaving.extend(sent.map(|mode| (token.clone(), mode)));
        Some(true)
    }

    /// A connection is ready and carries nothing yet.
    pub fn up(&mut self, row: usize) {
        self.down(row);
        self.rows[row].up = true;
        self.rows[row].capacity = self.per_connection;
        let here = self.seats.iter().filter(|(_, seat)| seat.row == row);
        self.rows[row].changing = here.map(|(token, _)| token.clone()).collect();
    }

    /// A connection is gone, and all it carried with it; what is wanted of it waits.
    pub fn down(&mut self, row: usize) {
        self.rows[row].up = false;
        self.rows[row].leaving.clear();
        self.rows[row].changing.clear();
        self.seats.values_mut().filter(|seat| seat.row == row).for_each(|seat| seat.sent = None);
    }

    /// The broker says that a connection has no room for `tokens`: it carries the others only, until it is up anew, and these
    /// move where there is room. How many found none, and stay where they are.
    pub fn move_away(&mut self, row: usize, tokens: &[T]) -> usize {
        let is_here = |token: &&T| self.seats.get(token).is_some_and(|seat| seat.row == row);
        let mut here: Vec<&T> = tokens.iter().filter(is_here).collect();
        self.rows[row].capacity = self.rows[row].used - here.len();
        while let Some(token) = here.last()
            && let Some(to) = (0..self.rows.len()).find(|&to| to != row && self.has_room(to))
        {
            let seat = self.seats.get_mut(*token).expect("it is here");
            let sent = seat.sent.take();
            seat.row = to;
            let from = &mut self.rows[row];
            from.used -= 1;
            from.changing.remove(*token);
            // Part of the request may have been taken after all.
            from.leaving.extend(sent.map(|mode| ((*token).clone(), mode)));
            self.rows[to].used += 1;
            self.settle(token);
            here.pop();
        }
        here.len()
    }

    /// The next changes of a connection that is up, at most `max` instruments, taken as sent.
    pub fn take(&mut self, row: usize, max: usize) -> Changes<T> {
        let mut changes = Changes::default();
        let Row { leaving, changing, .. } = &mut self.rows[row];
        while changes.len() < max
            && let Some(left) = leaving.pop_first()
        {
            changes.unsubscribe.push(left);
        }
        while changes.len() < max
            && let Some(token) = changing.pop_first()
        {
            let seat = self.seats.get_mut(&token).expect("what changes has a seat");
            let Some(wanted) = seat.highest() else { continue };
            match seat.sent.replace(wanted) {
                None => changes.subscribe.push((token, wanted)),
                Some(sent) if sent != wanted => changes.change.push((token, sent, wanted)),
                Some(_) => {}
            }
        }
        changes
    }

    /// Whether [`Pool::take`] has something to give.
    pub fn is_due(&self, row: usize) -> bool {
        !self.rows[row].leaving.is_empty() || !self.rows[row].changing.is_empty()
    }

    /// Whether a connection is needed: somebody wants an instrument of it.
    pub fn is_used(&self, row: usize) -> bool {
        self.rows[row].used > 0
    }

    /// Whether `token` is on the wire in at least `mode`.
    pub fn is_sent(&self, token: &T, mode: Mode) -> bool {
        self.seats.get(token).and_then(|seat| seat.sent).is_some_and(|sent| sent >= mode)
    }

    /// The connection of an instrument that somebody wants.
    pub fn row_of(&self, token: &T) -> Option<usize> {
        self.seats.get(token).map(|seat| seat.row)
    }

    /// Places for connections.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Instruments that somebody wants, and how many more could be had.
    pub fn usage(&self) -> (usize, usize) {
        let used: usize = self.rows.iter().map(|row| row.used).sum();
        let left = self.rows.iter().map(|row| row.capacity.saturating_sub(row.used)).sum();
        (used, left)
    }

    fn has_room(&self, row: usize) -> bool {
        self.rows[row].used < self.rows[row].capacity
    }

    /// Notes whether what is wanted differs from what was sent.
    fn settle(&mut self, token: &T) {
        let Some(seat) = self.seats.get(token) else { return };
        let row = &mut self.rows[seat.row];
        if row.up && seat.highest() != seat.sent {
            row.changing.insert(token.clone());
        } else {
            row.changing.remove(token);
        }
    }
}
