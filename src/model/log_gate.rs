//! How often the same thing may be logged. A fault that repeats a thousand times a second is one fact: its first lines
//! are written, the rest are counted, and the next line that may be written says how many there were.
//!
//! `limited!` is for a call site; a [`LogGate`] of one's own is for what is told apart by more than its place (a
//! cause, a lock). Cost: two relaxed loads while closed. The clock is monotonic. Tests: at the end.

use super::time::uptime;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// After the first line of a gate, so many seconds pass before its count begins anew.
const WINDOW_SECS: u64 = 60;

/// Lets so many lines through a minute, and counts the others.
#[derive(Debug)]
pub struct LogGate {
    lines_max: u32,
    /// Second in which the window began, plus one (0 = never), in the upper half; lines written in it in the lower.
    window: AtomicU64,
    held_back: AtomicU64,
}

impl Default for LogGate {
    fn default() -> Self {
        LogGate::lines(1)
    }
}

impl LogGate {
    /// A gate for `lines_max` lines a minute.
    pub const fn lines(lines_max: u32) -> Self {
        LogGate { lines_max, window: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// Whether a line may be written now: how many were held back since the last one.
    pub fn open(&self) -> Option<u64> {
        self.open_at(uptime().as_secs())
    }

    fn open_at(&self, second: u64) -> Option<u64> {
        let next = |window: u64| {
            let (began, written) = (window >> 32, window & u64::from(u32::MAX));
            match began {
                0 => Some((second + 1) << 32 | 1),
                began if second + 1 >= began + WINDOW_SECS => Some((second + 1) << 32 | 1),
                _ if written < u64::from(self.lines_max) => Some(window + 1),
                _ => None,
            }
        };
        if self.window.fetch_update(Relaxed, Relaxed, next).is_ok() {
            return Some(self.held_back.swap(0, Relaxed));
        }
        self.held_back.fetch_add(1, Relaxed);
        None
    }
}

/// Logs at a level, so many lines a minute from this call site: `limited!(warn, 1, %error, "cannot accept")`. Further ones are
/// written at `debug`, and the next that may be written at its own level says how many those were.
macro_rules! limited {
    ($level:ident, $lines_max:expr, $($line:tt)+) => {{
        static GATE: $crate::model::LogGate = $crate::model::LogGate::lines($lines_max);
        match GATE.open() {
            Some(0) => tracing::$level!($($line)+),
            Some(held_back) => tracing::$level!(held_back, $($line)+),
            None => tracing::debug!($($line)+),
        }
    }};
}
pub(crate) use limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_minute_go_through_and_the_next_says_how_many_did_not() {
        let gate = LogGate::lines(2);
        let seen: Vec<_> = [5, 5, 5, 64, 65, 65, 66, 200].map(|second| gate.open_at(second)).to_vec();
        assert_eq!(seen, [Some(0), Some(0), None, None, Some(2), Some(0), None, Some(1)]);
    }

    #[test]
    fn the_first_second_of_a_process_is_a_time_like_any_other() {
        let gate = LogGate::default();
        assert_eq!([0, 0, 59, 60].map(|second| gate.open_at(second)), [Some(0), None, None, Some(2)]);
    }

    #[test]
    fn threads_together_write_no_more_than_one() {
        let gate = LogGate::lines(3);
        let written: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| gate.open_at(7).is_some()).count())).collect();
            threads.into_iter().map(|thread| thread.join().expect("counted")).sum()
        });
        assert_eq!((written, gate.open_at(67)), (3, Some(3997)));
    }
}
