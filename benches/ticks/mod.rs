//! Payloads as OpenAlgo's adapters publish them, for the benches that read ticks.

use serde_json::{Value, json};

/// A price and its times.
#[allow(dead_code, reason = "each bench uses its part")]
pub(crate) fn ltp() -> Value {
    json!({"symbol": "RELIANCE", "exchange": "NSE", "mode": "ltp", "ltp": 1418.4, "ltt": 1761367199000u64,
        "timestamp": 1761367200123u64})
}

/// A quote: prices of the day, volumes.
pub(crate) fn quote() -> Value {
    json!({"symbol": "RELIANCE", "exchange": "NSE", "mode": "quote", "ltp": 1418.4, "ltt": 1761367199000u64,
        "timestamp": 1761367200123u64, "volume": 5123456, "last_quantity": 25, "average_price": 1415.12,
        "total_buy_quantity": 854321, "total_sell_quantity": 912345, "open": 1410.0, "high": 1425.0, "low": 1405.05,
        "close": 1412.0})
}

/// A quote and five levels a side.
pub(crate) fn depth() -> Value {
    let mut tick = quote();
    let side: Vec<Value> =
        (0..5).map(|n| json!({"price": 1418.4 + f64::from(n) * 0.05, "quantity": 100 * n, "orders": n})).collect();
    tick["depth"] = json!({"buy": side, "sell": side});
    tick["oi"] = json!(0);
    tick
}
