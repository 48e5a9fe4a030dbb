//! Which shard holds an instrument: a keyed hash of (venue, symbol), so that nobody can choose names that all
//! fall into one shard. Scope is left out on purpose: all feeds of one instrument share a shard.
//!
//! Cost: one `ahash` of two short strings, about 10 ns. Tests: below (spread over realistic names).

use crate::model::InstrumentRef;
use ahash::RandomState;

/// A shard's position, 0-based; also its metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardIndex(pub u16);

/// The keyed hash and the number of shards it chooses from.
#[derive(Clone, Debug)]
pub struct ShardHash {
    state: RandomState,
    mask: u64,
}

impl ShardHash {
    /// A hash over `shards` shards. `seed` fixes the key, for tests that must repeat; `None` draws a random one.
    ///
    /// # Panics
    /// When `shards` is not a power of two between 1 and 32,768: settings are checked before anything is built.
    pub fn new(shards: usize, seed: Option<u64>) -> Self {
        assert!(shards.is_power_of_two() && shards <= 1 << 15, "the number of shards is a power of two up to 32,768");
        ShardHash { state: seeded(seed), mask: shards as u64 - 1 }
    }

    /// The shard of `instrument`.
    #[inline]
    pub fn shard_of(&self, instrument: InstrumentRef<'_>) -> ShardIndex {
        ShardIndex((self.state.hash_one(instrument) & self.mask) as u16)
    }
}

/// A hasher state: random, or fixed by `seed`.
pub(super) fn seeded(seed: Option<u64>) -> RandomState {
    match seed {
        Some(seed) => {
            RandomState::with_seeds(seed, !seed, seed.rotate_left(17), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        }
        None => RandomState::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts names per shard and checks that the fullest holds at most twice its even share.
    fn spread_of(names: &[(String, String)], shards: usize) {
        for seed in 0..20 {
            let hash = ShardHash::new(shards, Some(seed));
            let mut counts = vec![0usize; shards];
            for (venue, symbol) in names {
                counts[usize::from(hash.shard_of(InstrumentRef { venue, symbol }).0)] += 1;
            }
            let even = names.len() as f64 / shards as f64;
            let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!((*high as f64) <= 2.0 * even, "seed {seed}: fullest {high}, even share {even}");
            assert!((*low as f64) >= even / 2.0, "seed {seed}: emptiest {low}, even share {even}");
        }
    }

    #[test]
    fn five_hundred_share_names_spread_within_twice_of_even() {
        let first = ["TATA", "ADANI", "BAJAJ", "HDFC", "ICICI", "JSW", "INDIA", "BHARAT", "GUJ", "APOLLO"];
        let second = ["STEEL", "POWER", "FIN", "BANK", "AUTO", "GAS", "CHEM", "PORTS", "LIFE", "TYRE"];
        let tail = ["", "LTD", "-EQ", "-BE", "&M"];
        let mut names = Vec::new();
        for a in first {
            for b in second {
                for c in tail {
                    names.push(("NSE".to_owned(), format!("{a}{b}{c}")));
                }
            }
        }
        assert_eq!(names.len(), 500);
        spread_of(&names, 8);
    }

    #[test]
    fn an_option_chain_spreads_within_twice_of_even_over_64_shards() {
        let mut names = Vec::new();
        for (index, base, step) in [("NIFTY", 20_000, 50), ("BANKNIFTY", 45_000, 100), ("FINNIFTY", 19_000, 50)] {
            for expiry in ["25NOV26", "02DEC26", "30DEC26", "27JAN27"] {
                for strike in 0..200 {
                    for side in ["CE", "PE"] {
                        names.push(("NFO".to_owned(), format!("{index}{expiry}{}{side}", base + strike * step)));
                    }
                }
            }
        }
        assert_eq!(names.len(), 4800);
        spread_of(&names, 64);
    }

    #[test]
    fn venue_and_symbol_are_not_run_together() {
        let hash = ShardHash::new(1 << 15, Some(1));
        let a = hash.shard_of(InstrumentRef { venue: "NSE", symbol: "XABC" });
        let b = hash.shard_of(InstrumentRef { venue: "NSEX", symbol: "ABC" });
        assert_ne!(a, b);
    }
}
