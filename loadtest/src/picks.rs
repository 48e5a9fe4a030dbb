//! Which symbols a client takes: the same for all, random, or by a Zipf law. Seeded, so that a run can be repeated.
//!
//! Pure. Out: sorted symbol numbers, each once.

use crate::cli::{Load, Pick};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Draws choices of symbols for one client after another.
pub(crate) struct Picker {
    pick: Pick,
    rng: StdRng,
    universe: u32,
    symbols: u32,
    /// Zipf: the sum of weights up to and including each symbol.
    sums: Vec<f64>,
}

impl Picker {
    pub(crate) fn new(load: &Load, universe: u32) -> Self {
        let mut sum = 0.0;
        let sums = match load.pick {
            Pick::Zipf => (1..=universe)
                .map(|rank| {
                    sum += f64::from(rank).powf(-load.zipf);
                    sum
                })
                .collect(),
            _ => Vec::new(),
        };
        let symbols = load.symbols.min(universe);
        Picker { pick: load.pick, rng: StdRng::seed_from_u64(load.seed), universe, symbols, sums }
    }

    /// The next client's symbols, sorted.
    pub(crate) fn next(&mut self) -> Vec<u32> {
        if self.pick == Pick::Same || self.symbols == self.universe {
            return (0..self.symbols).collect();
        }
        let mut taken = vec![false; self.universe as usize];
        let mut chosen = Vec::with_capacity(self.symbols as usize);
        let mut tries = 0;
        while chosen.len() < self.symbols as usize {
            tries += 1;
            let at = match self.pick {
                // So many misses: what is left is rare, and the most popular of it comes next.
                _ if tries > 50 * self.symbols => taken.iter().position(|t| !t).unwrap_or_default(),
                Pick::Zipf => self.zipf(),
                _ => self.rng.random_range(0..self.universe) as usize,
            };
            if !std::mem::replace(&mut taken[at], true) {
                chosen.push(at as u32);
            }
        }
        chosen.sort_unstable();
        chosen
    }

    fn zipf(&mut self) -> usize {
        let total = self.sums.last().copied().unwrap_or_default();
        let at = self.rng.random::<f64>() * total;
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Scenario};
    use clap::Parser;

    fn load(words: &str) -> Load {
        let line = format!("loadtest fanout {words}");
        let Scenario::Fanout { common } = Cli::parse_from(line.split_whitespace()).scenario else { panic!("fanout") };
        common.load
    }

    fn choices(words: &str, clients: usize) -> Vec<Vec<u32>> {
        let load = load(words);
        let mut picker = Picker::new(&load, load.universe);
        (0..clients).map(|_| picker.next()).collect()
    }

    #[test]
    fn each_symbol_is_taken_once_and_all_lie_in_the_universe() {
        for pick in ["same", "random", "zipf"] {
            for words in ["--symbols 7 --universe 10", "--symbols 50 --universe 1000", "--symbols 9 --universe 4"] {
                for chosen in choices(&format!("--pick {pick} {words}"), 20) {
                    let load = load(words);
                    assert_eq!(chosen.len(), load.symbols.min(load.universe) as usize);
                    assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]), "{chosen:?}");
                    assert!(*chosen.last().expect("some") < load.universe);
                }
            }
        }
    }

    #[test]
    fn a_seed_repeats_the_choice_and_another_changes_it() {
        let first = choices("--pick random --seed 7", 10);
        assert_eq!(first, choices("--pick random --seed 7", 10));
        assert_ne!(first, choices("--pick random --seed 8", 10));
        assert_ne!(first[0], first[1]);
        let same = choices("--pick same", 2);
        assert_eq!(same[0], same[1]);
    }

    #[test]
    fn zipf_prefers_the_first_symbols_as_its_law_says() {
        let mut counts = vec![0; 100];
        for chosen in choices("--pick zipf --symbols 1 --universe 100 --zipf 1", 20_000) {
            counts[chosen[0] as usize] += 1;
        }
        // Harmonic number of 100 is 5.187: the first gets 19.3 %, the second half of that.
        assert!((3500..4250).contains(&counts[0]), "{}", counts[0]);
        assert!((1650..2250).contains(&counts[1]), "{}", counts[1]);
        assert!(counts[99] < 150, "{}", counts[99]);
    }
}
