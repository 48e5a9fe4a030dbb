//! Zerodha's binary messages: big endian, many packets in one, each a whole snapshot. Pure.
//!
//! In: one message. Out: a tick for each packet that is one, in order. Promises: exact prices, each segment with its own
//! divisor; a packet of unknown length costs itself, one that claims more than is there ends the message, and what came
//! before is kept; no allocation but `out`, no panic on any bytes. Every choice where the known implementations differ stands
//! beside the tests, `tests/zerodha_vectors.rs`; fuzzed as `kite`.

use crate::adapter::native::broker::Event;
use crate::adapter::native::tick::{Depth, LEVELS, Level, NativeTick, Price, check_written};
use crate::model::Mode;

/// Shorter messages are the server's heartbeat: a length cannot be read from them.
const MESSAGE_BYTES_MIN: usize = 4;
/// Bytes of one price level; the last two are padding.
const LEVEL_BYTES: usize = 12;

/// Reads one binary message. `packet_len` of each packet decides what it is.
pub fn message(bytes: &[u8], out: &mut Vec<Event<u32>>) {
    if bytes.len() < MESSAGE_BYTES_MIN {
        return;
    }
    let (count, mut rest) = (u16_at(bytes, 0), &bytes[2..]);
    for _ in 0..count {
        let packet = rest.split_first_chunk::<2>().and_then(|(len, after)| {
            let (packet, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            rest = after;
            Some(packet)
        });
        let Some(packet) = packet else {
            out.push(Event::Damaged);
            return;
        };
        out.push(match tick(packet) {
            Some((token, tick)) => Event::Tick(token, tick),
            None => Event::Damaged,
        });
    }
}

/// Fuzz entry: what comes out can be written, and is at most one event a declared packet.
pub fn fuzz_message(bytes: &[u8]) {
    let mut events = Vec::new();
    message(bytes, &mut events);
    assert!(events.len() <= bytes.len() / 2 + 1);
    for event in &events {
        if let Event::Tick(_, tick) = event {
            check_written(tick);
        }
    }
}

/// Decimal digits of the prices of a token's segment, its low byte. Segments that nobody documents have two.
pub fn places(token: u32) -> u8 {
    match token & 0xff {
        // CDS
        3 => 7,
        // BCD, NCO
        6 | 12 => 4,
        _ => 2,
    }
}

/// A packet's token and tick; `None` when its length is none of the protocol's.
fn tick(packet: &[u8]) -> Option<(u32, NativeTick)> {
    let mode = match packet.len() {
        8 => Mode::Ltp,
        28 | 44 => Mode::Quote,
        // An index has no book: its full packet serves whoever wants depth without one.
        32 | 184 => Mode::Depth,
        _ => return None,
    };
    let token = u32_at(packet, 0);
    let places = places(token);
    let price = |at| Price::from_raw(i64::from(u32_at(packet, at) as i32), places);
    let count = |at| Some(u64::from(u32_at(packet, at)));
    let mut tick = NativeTick { ltp: price(4), ..NativeTick::new(mode) };
    match packet.len() {
        28 | 32 => {
            (tick.high, tick.low, tick.open, tick.close) = (price(8), price(12), price(16), price(20));
            if packet.len() == 32 {
                tick.exchange_ms = millis(packet, 28);
            }
        }
        44 | 184 => {
            tick.last_quantity = count(8);
            tick.average_price = price(12);
            (tick.volume, tick.total_buy_quantity, tick.total_sell_quantity) = (count(16), count(20), count(24));
            (tick.open, tick.high, tick.low, tick.close) = (price(28), price(32), price(36), price(40));
            if packet.len() == 184 {
                tick.last_trade_ms = millis(packet, 44);
                (tick.oi, tick.oi_day_high, tick.oi_day_low) = (count(48), count(52), count(56));
                tick.exchange_ms = millis(packet, 60);
                tick.depth = Some(Depth { bids: levels(packet, 64, places), asks: levels(packet, 124, places) });
            }
        }
        _ => {}
    }
    Some((token, tick))
}

fn levels(packet: &[u8], at: usize, places: u8) -> [Level; LEVELS] {
    std::array::from_fn(|n| {
        let at = at + n * LEVEL_BYTES;
        let price = Price::from_raw(i64::from(u32_at(packet, at + 4) as i32), places).unwrap_or_default();
        Level { price, quantity: u32_at(packet, at).into(), orders: u16_at(packet, at + 8).into() }
    })
}

/// Epoch seconds as milliseconds; 0 is no time.
fn millis(packet: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32_at(packet, at)) * 1000).filter(|&ms| ms > 0)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
