//! Sessions with ticks to write: higher classes first, nobody twice before everybody once.
//!
//! Starvation bound: a pass writes exactly the sessions that were touched when it began, so a session waits for at most one write of each
//! of them, however often sessions of a higher class tick meanwhile; those are in the next pass. Tests: below.

use crate::model::Class;
use std::collections::VecDeque;

/// Slots, first touched first within a class.
#[derive(Default)]
pub(super) struct Touched {
    by_class: [VecDeque<u32>; 3],
}

/// What one pass has yet to write, by class.
pub(super) struct Pass {
    left: [usize; 3],
}

impl Pass {
    /// Whether everybody has had a turn.
    pub(super) fn is_done(&self) -> bool {
        self.left == [0; 3]
    }
}

impl Touched {
    pub(super) fn push(&mut self, class: Class, slot: u32) {
        self.by_class[class as usize].push_back(slot);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_class.iter().all(VecDeque::is_empty)
    }

    /// A pass over all that are touched now.
    pub(super) fn begin(&self) -> Pass {
        Pass { left: [0, 1, 2].map(|class| self.by_class[class].len()) }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, pass: &mut Pass) -> Option<u32> {
        let class = pass.left.iter().position(|left| *left > 0)?;
        pass.left[class] -= 1;
        self.by_class[class].pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_classes_come_first_and_nobody_twice_before_everybody_once() {
        let mut touched = Touched::default();
        for (slot, class) in [(1, Class::Low), (2, Class::Normal), (3, Class::High), (4, Class::Low), (5, Class::High)]
        {
            touched.push(class, slot);
        }
        let mut pass = touched.begin();
        let mut served = Vec::new();
        while let Some(slot) = touched.next(&mut pass) {
            served.push(slot);
            // The greedy one ticks again at once, whenever it was served.
            if slot == 3 {
                touched.push(Class::High, 3);
            }
        }
        assert_eq!(served, [3, 5, 2, 1, 4]);
        assert!(pass.is_done() && !touched.is_empty());
        assert_eq!(touched.next(&mut touched.begin()), Some(3));
    }
}
