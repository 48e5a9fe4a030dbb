//! Market hours: whether an exchange is expected to tick now.
//!
//! In: an exchange and the time. Out: yes or no, by weekday and clock in India. Holidays are not known: a silent holiday looks like a
//! silent feed. An exchange that is not known counts as always open, since silence that is explained away hides a dead feed.

use crate::model::Micros;

/// Exchanges that open and close together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hours {
    /// Shares, their futures, options and indices.
    Equity,
    /// Currency derivatives.
    Currency,
    /// Commodities, into the evening.
    Commodity,
    /// Round the clock, or not known.
    Always,
}

/// India is ahead of UTC by, seconds.
const INDIA: u64 = 5 * 3600 + 1800;

impl Hours {
    /// All of them; the position is for tables.
    pub const ALL: [Hours; 4] = [Hours::Equity, Hours::Currency, Hours::Commodity, Hours::Always];

    /// The hours of an exchange.
    pub fn of(venue: &str) -> Self {
        match venue {
            "NSE" | "BSE" | "NFO" | "BFO" | "NSE_INDEX" | "BSE_INDEX" => Hours::Equity,
            "CDS" | "BCD" => Hours::Currency,
            "MCX" | "MCX_INDEX" | "NCDEX" | "NCO" => Hours::Commodity,
            _ => Hours::Always,
        }
    }

    /// Whether it ticks at `now`: Monday to Friday, from the opening of the session to its end.
    pub fn is_open(self, now: Micros) -> bool {
        let local = now.0 / 1_000_000 + INDIA;
        // Day 0 was a Thursday.
        let weekday = (local / 86_400 + 3) % 7;
        let minute = local % 86_400 / 60;
        let (from, to) = match self {
            Hours::Equity => (9 * 60 + 15, 15 * 60 + 30),
            Hours::Currency => (9 * 60, 17 * 60),
            Hours::Commodity => (9 * 60, 23 * 60 + 30),
            Hours::Always => return true,
        };
        weekday < 5 && (from..to).contains(&minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exchange_is_open_on_weekdays_in_its_hours_by_indian_time() {
        // Friday 2026-11-20 00:00 in India.
        let friday = 1_795_113_000;
        let at =
            |day: u64, hour: u64, minute: u64| Micros((friday + day * 86_400 + hour * 3600 + minute * 60) * 1_000_000);
        for (venue, day, hour, minute, open) in [
            ("NSE", 0, 9, 14, false),
            ("NSE", 0, 9, 15, true),
            ("NSE_INDEX", 0, 15, 29, true),
            ("NFO", 0, 15, 30, false),
            ("NSE", 1, 12, 0, false),
            ("NSE", 2, 12, 0, false),
            ("NSE", 3, 12, 0, true),
            ("CDS", 0, 16, 59, true),
            ("CDS", 0, 17, 0, false),
            ("MCX", 0, 23, 0, true),
            ("MCX", 0, 23, 30, false),
            ("MCX", 1, 12, 0, false),
            ("CRYPTO", 1, 3, 0, true),
            ("ELSEWHERE", 2, 3, 0, true),
        ] {
            assert_eq!(
                Hours::of(venue).is_open(at(day, hour, minute)),
                open,
                "{venue} on day {day} at {hour}:{minute}"
            );
        }
    }
}
