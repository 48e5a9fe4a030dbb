//! Slow consumer: when a session that does not read is given up.
//!
//! Only the lossless lane (replies, errors, orders, `every` ticks, what a partial write left over) can evict a session:
//! ticks that may be merged never do. In: bytes and times. Out: a [`Verdict`] that the queue's owner must use.

use std::time::{Duration, Instant};

/// Bounds of one session's lossless lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes that may wait (setting `fanout.outbox_bytes_max`).
    pub bytes_max: usize,
    /// Bytes may wait this long without one of them being taken by the kernel.
    pub stall_max: Duration,
}

/// Whether the session stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Within its bounds.
    Keep,
    /// More bytes would wait than may.
    Full,
    /// Nothing was taken for too long.
    Stalled,
}

/// Whether `adding` bytes may join `waiting` bytes. An empty lane takes one message of any size, so that no legitimate
/// reply can be impossible to send.
pub fn on_push(config: Config, waiting: usize, adding: usize) -> Verdict {
    if waiting == 0 || waiting.saturating_add(adding) <= config.bytes_max { Verdict::Keep } else { Verdict::Full }
}

/// Whether a lane holding `waiting` bytes that last got rid of some (or began to fill) at `progress` is stalled.
pub fn on_tick(config: Config, waiting: usize, progress: Instant, now: Instant) -> Verdict {
    let stalled = waiting > 0 && now.saturating_duration_since(progress) >= config.stall_max;
    if stalled { Verdict::Stalled } else { Verdict::Keep }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { bytes_max: 100, stall_max: Duration::from_secs(10) };

    #[test]
    fn the_lane_is_full_past_its_bytes_except_for_one_message_into_an_empty_lane() {
        for (waiting, adding, want) in [
            (0, 1, Verdict::Keep),
            (0, 5000, Verdict::Keep),
            (1, 99, Verdict::Keep),
            (1, 100, Verdict::Full),
            (5000, 1, Verdict::Full),
            (1, usize::MAX, Verdict::Full),
        ] {
            assert_eq!(on_push(CONFIG, waiting, adding), want, "{waiting} + {adding}");
        }
    }

    #[test]
    fn ten_seconds_without_progress_stall_a_lane_that_has_something_waiting() {
        let start = Instant::now();
        for (waiting, seconds, want) in
            [(1, 9, Verdict::Keep), (1, 10, Verdict::Stalled), (0, 10, Verdict::Keep), (1, 0, Verdict::Keep)]
        {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(on_tick(CONFIG, waiting, start, now), want, "{waiting} bytes for {seconds} s");
        }
    }
}
