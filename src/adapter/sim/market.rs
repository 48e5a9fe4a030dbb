//! The random walk.

use super::instruments::{INSTRUMENTS, Kind, Listed};
use crate::model::{Micros, Mode};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Smallest price step, paise.
pub(super) const TICK_SIZE: i64 = 5;
/// Levels of depth on each side.
pub(super) const LEVELS: usize = 5;

/// One price level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Paise.
    pub price: i64,
    /// Shares or contracts.
    pub quantity: u64,
    /// Orders, counted.
    pub orders: u64,
}

/// One tick in its instrument's highest mode. Prices in paise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimTick {
    /// What ticks.
    pub listed: Listed,
    /// `Depth`, for an index `Quote`.
    pub mode: Mode,
    /// Trade and publish time.
    pub at: Micros,
    /// Last traded price.
    pub ltp: i64,
    /// First price.
    pub open: i64,
    /// Highest price.
    pub high: i64,
    /// Lowest price.
    pub low: i64,
    /// Average traded price.
    pub average: i64,
    /// Traded so far; 0 for an index.
    pub volume: u64,
    /// Traded last.
    pub last_quantity: u64,
    /// All waiting to buy.
    pub buy_quantity: u64,
    /// All waiting to sell.
    pub sell_quantity: u64,
    /// Open interest; options only.
    pub oi: Option<u64>,
    /// Best first; all zero for an index.
    pub bids: [Level; LEVELS],
    /// Best first; all zero for an index.
    pub asks: [Level; LEVELS],
}

struct Book {
    listed: Listed,
    ltp: i64,
    open: i64,
    high: i64,
    low: i64,
    volume: u64,
    /// Price × quantity traded, for the average.
    turnover: u128,
    oi: u64,
}

/// All books and the dice.
pub struct SimMarket {
    dice: SmallRng,
    books: Vec<Book>,
    next: usize,
    /// Times never go back.
    last: Micros,
}

impl SimMarket {
    /// A market that opens at `now`.
    pub fn new(seed: u64, now: Micros) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let books = INSTRUMENTS.iter().map(|listed| Book::open(*listed, &mut dice)).collect();
        SimMarket { dice, books, next: 0, last: now }
    }

    /// The next tick. Instruments take turns.
    pub fn tick(&mut self, now: Micros) -> SimTick {
        self.last = self.last.max(now);
        let book = &mut self.books[self.next];
        self.next = (self.next + 1) % INSTRUMENTS.len();
        book.trade(&mut self.dice, self.last)
    }
}

impl Book {
    fn open(listed: Listed, dice: &mut SmallRng) -> Self {
        // Opens within half a percent of the previous close.
        let gap = listed.close / 200;
        let open = round(listed.close + dice.random_range(-gap..=gap));
        let traded = listed.kind != Kind::Index;
        let volume = if traded { dice.random_range(10_000..500_000) } else { 0 };
        let oi = if listed.kind == Kind::Option { dice.random_range(1_000..90_000) * 75 } else { 0 };
        let turnover = open as u128 * u128::from(volume);
        Book { listed, ltp: open, open, high: open, low: open, volume, turnover, oi }
    }

    fn trade(&mut self, dice: &mut SmallRng, at: Micros) -> SimTick {
        self.walk(dice);
        let lot = if self.listed.kind == Kind::Option { 75 } else { 1 };
        let traded = self.listed.kind != Kind::Index;
        let last_quantity = if traded { dice.random_range(1..200) * lot } else { 0 };
        self.volume += last_quantity;
        self.turnover += self.ltp as u128 * u128::from(last_quantity);
        if self.listed.kind == Kind::Option {
            let change: i64 = dice.random_range(-3..=3) * 75;
            self.oi = self.oi.saturating_add_signed(change);
        }
        let (bids, asks) = if traded { self.depth(dice, lot) } else { Default::default() };
        let sum = |levels: &[Level]| levels.iter().map(|l| l.quantity).sum::<u64>();
        let average = if self.volume == 0 { self.ltp } else { (self.turnover / u128::from(self.volume)) as i64 };
        SimTick {
            listed: self.listed,
            mode: if traded { Mode::Depth } else { Mode::Quote },
            at,
            ltp: self.ltp,
            open: self.open,
            high: self.high,
            low: self.low,
            average,
            volume: self.volume,
            last_quantity,
            buy_quantity: sum(&bids) * 40,
            sell_quantity: sum(&asks) * 40,
            oi: (self.listed.kind == Kind::Option).then_some(self.oi),
            bids,
            asks,
        }
    }

    /// One step: about 2 hundredths of a percent either way, drawn back towards the close, within 10 % of it.
    fn walk(&mut self, dice: &mut SmallRng) {
        let close = self.listed.close;
        let reach = (close / 5_000).max(TICK_SIZE);
        let pull = (close - self.ltp) / 400;
        let step = dice.random_range(-reach..=reach) + pull;
        let band = close / 10;
        self.ltp = round((self.ltp + step).clamp(close - band, close + band)).max(TICK_SIZE);
        self.high = self.high.max(self.ltp);
        self.low = self.low.min(self.ltp);
    }

    fn depth(&self, dice: &mut SmallRng, lot: u64) -> ([Level; LEVELS], [Level; LEVELS]) {
        // The trade was at the bid or at the ask.
        let at_bid = dice.random_bool(0.5);
        let best_bid = if at_bid { self.ltp } else { self.ltp - TICK_SIZE };
        let mut side = |sign: i64, best: i64| {
            std::array::from_fn(|i| {
                let orders = dice.random_range(1..30);
                // An option near zero may have no room for five bids.
                let price = best + sign * TICK_SIZE * i as i64;
                let quantity = orders * dice.random_range(1..60) * lot;
                if price > 0 { Level { price, quantity, orders } } else { Level::default() }
            })
        };
        let bids = side(-1, best_bid);
        let asks = side(1, best_bid + TICK_SIZE);
        (bids, asks)
    }
}

/// The nearest multiple of the tick size.
fn round(paise: i64) -> i64 {
    (paise + TICK_SIZE / 2).div_euclid(TICK_SIZE) * TICK_SIZE
}
