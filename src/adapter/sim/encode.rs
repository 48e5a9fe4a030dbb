//! Simulated ticks as a publisher would send them: `BATCH` bodies, MessagePack, rupees.

use super::market::{Level, SimMarket, SimTick};
use crate::adapter::fields::{NO_FAIL, float, int, levels, text};
use crate::model::Micros;
use bytes::Bytes;
use rmp::encode as mp;

/// `[[topic, payload], …]` of the next `count` ticks.
pub(super) fn batch(market: &mut SimMarket, count: usize, now: Micros) -> Bytes {
    let mut out = Vec::with_capacity(count * 640);
    mp::write_array_len(&mut out, count as u32).expect(NO_FAIL);
    for _ in 0..count {
        let tick = market.tick(now);
        mp::write_array_len(&mut out, 2).expect(NO_FAIL);
        let topic = format!("{}_{}_{}", tick.listed.venue, tick.listed.symbol, tick.mode.topic());
        mp::write_str(&mut out, &topic).expect(NO_FAIL);
        payload(&mut out, &tick);
    }
    out.into()
}

fn payload(out: &mut Vec<u8>, tick: &SimTick) {
    let depth = tick.mode == crate::model::Mode::Depth;
    let fields = 16 + u32::from(tick.oi.is_some()) + u32::from(depth);
    mp::write_map_len(out, fields).expect(NO_FAIL);
    text(out, "symbol", tick.listed.symbol);
    text(out, "exchange", tick.listed.venue);
    text(out, "broker", "sim");
    int(out, "mode", u64::from(tick.mode.int()));
    price(out, "ltp", tick.ltp);
    int(out, "ltt", tick.at.millis());
    int(out, "timestamp", tick.at.millis());
    int(out, "volume", tick.volume);
    price(out, "open", tick.open);
    price(out, "high", tick.high);
    price(out, "low", tick.low);
    price(out, "close", tick.listed.close);
    int(out, "last_quantity", tick.last_quantity);
    price(out, "average_price", tick.average);
    int(out, "total_buy_quantity", tick.buy_quantity);
    int(out, "total_sell_quantity", tick.sell_quantity);
    if let Some(oi) = tick.oi {
        int(out, "oi", oi);
    }
    if depth {
        mp::write_str(out, "depth").expect(NO_FAIL);
        mp::write_map_len(out, 2).expect(NO_FAIL);
        levels(out, "buy", book(&tick.bids));
        levels(out, "sell", book(&tick.asks));
    }
}

fn book(levels: &[Level]) -> impl ExactSizeIterator<Item = (f64, u64, u64)> {
    levels.iter().map(|level| (rupees(level.price), level.quantity, level.orders))
}

fn price(out: &mut Vec<u8>, name: &str, paise: i64) {
    float(out, name, rupees(paise));
}

/// The bus's unit.
fn rupees(paise: i64) -> f64 {
    paise as f64 / 100.0
}
