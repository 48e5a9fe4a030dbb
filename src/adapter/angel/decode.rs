//! Angel's market-data packets: little endian, one a message, every field of its mode in it.
//!
//! In: the bytes of one binary message. Out: whose tick it is, and the tick; or why not. Bytes beyond the packet are ignored.
//! Promises: never panics, prices exact, no time of ours. What the protocol calls dummy (change of open interest) is not
//! read. Tests: `decode/tests.rs` with every vector; fuzzed as `angel`.

#[cfg(test)]
mod tests;

use crate::adapter::native::tick::{Depth, LEVELS, Level, NativeTick, Price, check_written};
use crate::adapter::symbols::{Dialect, Key};
use crate::model::{Micros, Mode};

/// Lengths of the packets, bytes.
const LTP: usize = 51;
const QUOTE: usize = 123;
const SNAP: usize = 379;
const DEPTH_20: usize = 443;

/// The token's field.
const TOKEN: std::ops::Range<usize> = 2..27;
/// Currency: its prices are in 1e-7 rupee.
const CURRENCY: u8 = 13;
/// Records of the best five, bytes each.
const RECORD: usize = 20;
/// Records of depth 20, bytes each.
const RECORD_20: usize = 10;

/// Why a packet gives no tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter than its mode's packet.
    #[error("a packet of mode {mode} has {len} bytes")]
    Short {
        /// The mode it says, 0 if it says none.
        mode: u8,
        /// Its length, bytes.
        len: usize,
    },
    /// The protocol has no such mode.
    #[error("unknown mode {0}")]
    Mode(u8),
    /// No exchange and token that a subscription of ours can have.
    #[error("unknown instrument on exchange {0}")]
    Instrument(u8),
}

/// Reads one packet.
///
/// # Errors
/// [`DecodeError`]: the packet is to be counted and dropped.
pub fn decode(packet: &[u8]) -> Result<(Key, NativeTick), DecodeError> {
    let short = |mode| DecodeError::Short { mode, len: packet.len() };
    let &[mode, exchange, ..] = packet else { return Err(short(0)) };
    let (len, kind) = match mode {
        1 => (LTP, Mode::Ltp),
        2 => (QUOTE, Mode::Quote),
        3 => (SNAP, Mode::Depth),
        4 => (DEPTH_20, Mode::Depth),
        _ => return Err(DecodeError::Mode(mode)),
    };
    if packet.len() < len {
        return Err(short(mode));
    }
    let token = packet[TOKEN].split(|&c| c == 0).next().and_then(|token| std::str::from_utf8(token).ok());
    let key = token.and_then(|token| Key::new(Dialect::Angel, exchange, token));
    let key = key.ok_or(DecodeError::Instrument(exchange))?;
    let fields = Fields { packet, places: if exchange == CURRENCY { 7 } else { 2 } };
    let mut tick = NativeTick::new(kind);
    if mode == 4 {
        fields.depth_20(&mut tick);
        return Ok((key, tick));
    }
    fields.ltp(&mut tick);
    if mode >= 2 {
        fields.quote(&mut tick);
    }
    if mode == 3 {
        fields.snap(&mut tick);
    }
    Ok((key, tick))
}

/// Fuzz entry: a packet that is read is long enough, and its tick can be written.
pub fn fuzz_packet(bytes: &[u8]) {
    if let Ok((_, tick)) = decode(bytes) {
        assert!(bytes.len() >= LTP);
        check_written(&tick);
    }
}

/// A packet that is long enough, and the decimal digits of its prices.
struct Fields<'a> {
    packet: &'a [u8],
    places: u8,
}

impl Fields<'_> {
    fn ltp(&self, tick: &mut NativeTick) {
        tick.exchange_ms = self.count(35).filter(|&ms| ms > 0);
        tick.ltp = self.price(43);
    }

    fn quote(&self, tick: &mut NativeTick) {
        tick.last_quantity = self.count(51);
        tick.average_price = self.price(59);
        tick.volume = self.count(67);
        tick.total_buy_quantity = self.total(75);
        tick.total_sell_quantity = self.total(83);
        tick.open = self.price(91);
        tick.high = self.price(99);
        tick.low = self.price(107);
        tick.close = self.price(115);
    }

    fn snap(&self, tick: &mut NativeTick) {
        // The unit is not documented; examples are in seconds.
        tick.last_trade_ms = Micros::of_unknown_unit(i128::from(self.i64(123)) * 1_000_000).map(Micros::millis);
        tick.oi = self.count(131);
        tick.depth = Some(self.best_five());
        tick.upper_circuit = self.price(347);
        tick.lower_circuit = self.price(355);
        tick.week_52_high = self.price(363);
        tick.week_52_low = self.price(371);
    }

    /// By flag, 0 = sell; if that does not give five of each, the first five are the buyers.
    fn best_five(&self) -> Depth {
        let records: [usize; 2 * LEVELS] = std::array::from_fn(|n| 147 + n * RECORD);
        let (mut sides, mut filled) = ([[Level::default(); LEVELS]; 2], [0; 2]);
        for at in records {
            let side = usize::from(self.u16(at) == 0);
            if let Some(level) = sides[side].get_mut(filled[side]) {
                *level = self.level(at);
            }
            filled[side] += 1;
        }
        if filled != [LEVELS; 2] {
            sides = [0, LEVELS].map(|first| std::array::from_fn(|n| self.level(records[first + n])));
        }
        let [bids, asks] = sides;
        Depth { bids, asks }
    }

    fn level(&self, at: usize) -> Level {
        let price = self.price(at + 10).unwrap_or_default();
        Level { price, quantity: self.count(at + 2).unwrap_or(0), orders: self.u16(at + 18).into() }
    }

    /// The best five of the twenty.
    fn depth_20(&self, tick: &mut NativeTick) {
        tick.exchange_ms = self.count(27).filter(|&ms| ms > 0);
        let side = |start: usize| {
            std::array::from_fn(|n| {
                let at = start + n * RECORD_20;
                Level {
                    price: Price::from_raw(self.i32(at + 4).into(), self.places).unwrap_or_default(),
                    quantity: self.i32(at).try_into().unwrap_or(0),
                    orders: self.u16(at + 8).into(),
                }
            })
        };
        tick.depth = Some(Depth { bids: side(43), asks: side(243) });
    }

    fn price(&self, at: usize) -> Option<Price> {
        Price::from_raw(self.i64(at), self.places)
    }

    /// A number that cannot be negative.
    fn count(&self, at: usize) -> Option<u64> {
        self.i64(at).try_into().ok()
    }

    /// A float that stands for a number of shares.
    fn total(&self, at: usize) -> Option<u64> {
        let total = f64::from_le_bytes(self.bytes(at));
        (0.0..9e18).contains(&total).then(|| total.round() as u64)
    }

    fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.bytes(at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.bytes(at))
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.packet[at..at + N].try_into().expect("as many as the range has")
    }
}
