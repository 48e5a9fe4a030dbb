//! Zerodha's test vectors against our decoder: what its own Python library makes of the same bytes, except where we choose.
#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::{Value, json};
use tickcast::adapter::native::broker::{Broker, Event, Message};
use tickcast::adapter::native::tick::{Level, NativeTick, Price};
use tickcast::adapter::zerodha::Zerodha;
use tickcast::model::Mode;

/// The events of one case.
pub(crate) fn events(case: &Value) -> Vec<Event<u32>> {
    let mut out = Vec::new();
    let bytes = hex(case["frame_hex"].as_str().expect("a frame"));
    assert_eq!(Some(bytes.len() as u64), case["frame_len"].as_u64());
    Zerodha.decode(&mut (), Message::Binary(&bytes), &mut out);
    out
}

/// The ticks of one case, in the shape of the official library.
pub(crate) fn ticks(case: &Value) -> Vec<Value> {
    let tick = |event| match event {
        Event::Tick(token, tick) => Some(official(token, &tick)),
        _ => None,
    };
    events(case).into_iter().filter_map(tick).collect()
}

/// What the library made of it, without what it computes itself.
pub(crate) fn expected(case: &Value) -> Vec<Value> {
    let mut ticks = case["expected"]["ticks"].as_array().cloned().unwrap_or_default();
    for tick in &mut ticks {
        tick.as_object_mut().expect("a tick").remove("change");
    }
    ticks
}

/// The cases of a vector file.
pub(crate) fn cases(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).expect("JSON");
    file["cases"].as_array().expect("cases").clone()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn official(token: u32, tick: &NativeTick) -> Value {
    let rupees = |price: Option<Price>| price.expect("a price").rupees();
    let tradable = token & 0xff != 9;
    let full = tick.depth.is_some() || (tick.mode == Mode::Depth && !tradable);
    let mode = if full { "full" } else { ["ltp", "quote"][tick.mode.index()] };
    let mut value =
        json!({"tradable": tradable, "mode": mode, "instrument_token": token, "last_price": rupees(tick.ltp)});
    let map = value.as_object_mut().expect("made above");
    if tick.mode == Mode::Ltp {
        return value;
    }
    let ohlc = json!({"open": rupees(tick.open), "high": rupees(tick.high), "low": rupees(tick.low), "close": rupees(tick.close)});
    map.insert("ohlc".into(), ohlc);
    if tradable {
        map.insert("last_traded_quantity".into(), json!(tick.last_quantity));
        map.insert("average_traded_price".into(), json!(rupees(tick.average_price)));
        map.insert("volume_traded".into(), json!(tick.volume));
        map.insert("total_buy_quantity".into(), json!(tick.total_buy_quantity));
        map.insert("total_sell_quantity".into(), json!(tick.total_sell_quantity));
    }
    if full {
        // The library says 0 where there is no time.
        map.insert("exchange_timestamp".into(), json!(tick.exchange_ms.unwrap_or(0) / 1000));
    }
    if let Some(depth) = &tick.depth {
        map.insert("last_trade_time".into(), json!(tick.last_trade_ms.unwrap_or(0) / 1000));
        map.insert("oi".into(), json!(tick.oi));
        map.insert("oi_day_high".into(), json!(tick.oi_day_high));
        map.insert("oi_day_low".into(), json!(tick.oi_day_low));
        map.insert("depth".into(), json!({"buy": side(&depth.bids), "sell": side(&depth.asks)}));
    }
    value
}

fn side(levels: &[Level]) -> Vec<Value> {
    let level = |l: &Level| json!({"quantity": l.quantity, "price": l.price.rupees(), "orders": l.orders});
    levels.iter().map(level).collect()
}
