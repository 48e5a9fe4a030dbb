//! The pool against a broker that keeps score: quotas, one mode a token, no gap, and nothing left behind.

use super::*;
use Mode::{Depth, Ltp, Quote};
use proptest::prelude::*;

fn pool(per_connection: usize, connections: usize) -> Pool<u32> {
    let mut pool = Pool::new(per_connection, connections);
    (0..connections).for_each(|row| pool.up(row));
    pool
}

/// Stopped, changed, started.
type Taken = (Vec<(u32, Mode)>, Vec<(u32, Mode, Mode)>, Vec<(u32, Mode)>);

fn taken(pool: &mut Pool<u32>, row: usize) -> Taken {
    let Changes { unsubscribe, change, subscribe } = pool.take(row, usize::MAX);
    assert!(!pool.is_due(row));
    (unsubscribe, change, subscribe)
}

#[test]
fn the_highest_mode_wanted_is_on_the_wire_and_a_change_of_it_is_one_step() {
    let mut pool = pool(10, 1);
    pool.want(&1, Ltp).expect("room");
    assert_eq!(taken(&mut pool, 0), (vec![], vec![], vec![(1, Ltp)]));
    pool.want(&1, Depth).expect("it has a seat");
    pool.want(&1, Quote).expect("it has a seat");
    assert_eq!(taken(&mut pool, 0), (vec![], vec![(1, Ltp, Depth)], vec![]));
    assert!(pool.is_sent(&1, Quote) && pool.is_sent(&1, Depth));
    assert_eq!(pool.release(&1, Quote), Some(false));
    assert!(!pool.is_due(0), "depth is still wanted");
    assert_eq!(pool.release(&1, Depth), Some(false));
    assert_eq!(taken(&mut pool, 0), (vec![], vec![(1, Depth, Ltp)], vec![]), "a downgrade stops nothing");
    assert_eq!(pool.release(&1, Ltp), Some(true));
    assert_eq!(taken(&mut pool, 0), (vec![(1, Ltp)], vec![], vec![]));
    assert_eq!((pool.release(&1, Ltp), pool.usage()), (None, (0, 10)));
}

#[test]
fn what_was_let_go_before_it_was_sent_is_never_sent_and_what_comes_back_was_never_gone() {
    let mut pool = pool(10, 1);
    pool.want(&1, Ltp).expect("room");
    pool.release(&1, Ltp);
    assert!(!pool.is_due(0));
    pool.want(&1, Quote).expect("room");
    taken(&mut pool, 0);
    pool.release(&1, Quote);
    assert!(pool.is_due(0));
    pool.want(&1, Quote).expect("room");
    assert!(!pool.is_due(0), "it is on the wire as it is wanted");
}

#[test]
fn connections_fill_one_after_the_other_until_all_are_full() {
    let mut pool = pool(2, 3);
    let rows: Vec<_> = (0..7).map(|token| pool.want(&token, Ltp)).collect();
    assert_eq!(rows, [Ok(0), Ok(0), Ok(1), Ok(1), Ok(2), Ok(2), Err(Full)]);
    assert_eq!(pool.usage(), (6, 0));
    assert_eq!(pool.want(&0, Depth), Ok(0), "another mode of one that is there needs no room");
    (0..3).for_each(|row| drop(taken(&mut pool, row)));
    pool.release(&2, Ltp);
    assert_eq!(pool.want(&7, Ltp), Ok(1), "the free seat, wherever it is");
    assert_eq!(taken(&mut pool, 1), (vec![(2, Ltp)], vec![], vec![(7, Ltp)]), "the old one leaves first");
    pool.release(&0, Ltp);
    pool.release(&0, Depth);
    pool.want(&8, Ltp).expect("room");
    pool.release(&3, Ltp);
    assert_eq!(pool.want(&0, Ltp), Ok(1), "its old connection is full, another is not");
}

#[test]
fn a_connection_that_is_back_gets_everything_that_is_wanted_by_now_and_nothing_else() {
    let mut pool = pool(10, 1);
    pool.want(&1, Ltp).expect("room");
    pool.want(&2, Quote).expect("room");
    taken(&mut pool, 0);
    pool.down(0);
    pool.release(&1, Ltp);
    pool.want(&2, Depth).expect("a seat");
    pool.want(&3, Ltp).expect("room");
    assert!(!pool.is_due(0) && !pool.is_sent(&2, Quote), "nothing is on the wire");
    pool.up(0);
    assert_eq!(taken(&mut pool, 0), (vec![], vec![], vec![(2, Depth), (3, Ltp)]));
}

#[test]
fn a_take_is_never_larger_than_asked_for() {
    let mut pool = pool(100, 1);
    (0..25).for_each(|token| assert_eq!(pool.want(&token, Ltp), Ok(0)));
    let sizes: Vec<_> = (0..4).map(|_| pool.take(0, 10).len()).collect();
    assert_eq!(sizes, [10, 10, 5, 0]);
}

/// What a broker holds, told by changes alone.
#[derive(Default)]
struct Scorer(HashMap<u32, Mode>);

impl Scorer {
    fn told(&mut self, changes: Changes<u32>, quota: usize) {
        for (token, mode) in changes.unsubscribe {
            assert_eq!(self.0.remove(&token), Some(mode), "only what is there is stopped");
        }
        for (token, from, to) in changes.change {
            assert_eq!(self.0.insert(token, to), Some(from), "only what is there is changed");
        }
        for (token, mode) in changes.subscribe {
            assert_eq!(self.0.insert(token, mode), None, "nothing is started twice");
            assert!(self.0.len() <= quota, "the quota holds at every moment");
        }
    }
}

proptest! {
    #[test]
    fn the_broker_ends_up_with_exactly_what_is_wanted(
        steps in prop::collection::vec((0u8..6, 0u32..8, 0usize..3, 0usize..2), 1..200),
    ) {
        let mut pool = pool(3, 2);
        let mut brokers = [Scorer::default(), Scorer::default()];
        let mut wanted: HashMap<(u32, Mode), u32> = HashMap::new();
        for (what, token, mode, row) in steps {
            let mode = Mode::ALL[mode];
            match what {
                0 | 1 => if pool.want(&token, mode).is_ok() {
                    *wanted.entry((token, mode)).or_default() += 1;
                },
                2 | 3 => {
                    let held = wanted.get_mut(&(token, mode)).filter(|n| **n > 0);
                    prop_assert_eq!(pool.release(&token, mode).is_some(), held.is_some());
                    if let Some(n) = wanted.get_mut(&(token, mode)) { *n = n.saturating_sub(1) }
                }
                4 => brokers[row].told(pool.take(row, 2), 3),
                _ => {
                    pool.up(row);
                    brokers[row] = Scorer::default();
                }
            }
        }
        for (row, broker) in brokers.iter_mut().enumerate() {
            while pool.is_due(row) {
                broker.told(pool.take(row, 2), 3);
            }
        }
        let mut expected: HashMap<u32, Mode> = HashMap::new();
        for ((token, mode), _) in wanted.into_iter().filter(|(_, n)| *n > 0) {
            let highest = expected.entry(token).or_insert(mode);
            *highest = mode.max(*highest);
        }
        let mut got = std::mem::take(&mut brokers[0].0);
        for (token, mode) in std::mem::take(&mut brokers[1].0) {
            prop_assert_eq!(got.insert(token, mode), None, "one connection a token");
        }
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn what_a_connection_has_no_room_for_moves_on_and_the_rest_waits_where_it_is() {
    let mut pool = pool(4, 2);
    for token in 0..4 {
        pool.want(&token, Ltp).expect("room");
    }
    pool.want(&4, Ltp).expect("room on the other");
    (0..2).for_each(|row| drop(taken(&mut pool, row)));
    assert_eq!(pool.move_away(0, &[2, 3, 4, 9]), 0, "two of them are here");
    assert_eq!(taken(&mut pool, 0), (vec![(2, Ltp), (3, Ltp)], vec![], vec![]));
    assert_eq!(taken(&mut pool, 1), (vec![], vec![], vec![(2, Ltp), (3, Ltp)]));
    assert_eq!(pool.usage(), (5, 1), "the first carries two and no more");
    assert_eq!(pool.move_away(0, &[0, 1]), 1, "one found room");
    assert_eq!(pool.usage(), (5, 0));
    pool.up(0);
    assert_eq!(pool.usage(), (5, 3), "a new connection may have its whole quota");
}
