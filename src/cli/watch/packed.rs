//! MessagePack frames read as what the JSON protocol would have said, so that everything behind is the same for both.
//!
//! In: binary frames of one connection, in order. Out: replies as they are; ticks and snapshots as `market_data`, with the
//! instrument's name and prices divided by 10^scale as the subscribe acknowledgement gave them, and with `t_recv` and
//! `t_send` at the top level, microseconds. Ticks of ids that were not acknowledged are left out. Pure.

use crate::model::{Micros, Mode};
use crate::wire::msgpack::{Level, ReadError, Received, ServerFrame, read};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Fields behind the head by mode, and whether each is a price.
const LTP: &[(&str, bool)] = &[("ltp", true), ("low", true), ("high", true)];
/// Of Quote, and of Depth before its two sides.
const QUOTE: &[(&str, bool)] = &[
    ("ltp", true),
    ("volume", false),
    ("open", true),
    ("high", true),
    ("low", true),
    ("close", true),
    ("last_quantity", false),
    ("average_price", true),
    ("total_buy_quantity", false),
    ("total_sell_quantity", false),
    ("oi", false),
];

/// What the acknowledgements of one connection said.
#[derive(Debug, Default)]
pub(super) struct Packed {
    by_id: HashMap<u32, Known>,
}

#[derive(Debug)]
struct Known {
    symbol: String,
    exchange: String,
    scale: i32,
}

impl Packed {
    /// The messages in one binary frame.
    ///
    /// # Errors
    /// [`ReadError`] when it is no frame of the protocol.
    pub(super) fn messages(&mut self, frame: &[u8]) -> Result<Vec<Value>, ReadError> {
        Ok(match read(frame)? {
            ServerFrame::Message(message) => {
                self.learn(&message);
                vec![message]
            }
            ServerFrame::Ticks { t_send, ticks } => self.ticks(&ticks, t_send, false),
            ServerFrame::Snapshots { t_send, ticks } => self.ticks(&ticks, t_send, true),
            ServerFrame::Unknown => Vec::new(),
        })
    }

    fn learn(&mut self, message: &Value) {
        let entries = message.get("subscriptions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for entry in entries {
            let number = |key: &str| entry.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            if let (Some(id), Some(scale)) = (number("id"), number("scale").and_then(|s| i32::try_from(s).ok())) {
                self.by_id.insert(id, Known { symbol: text("symbol"), exchange: text("exchange"), scale });
            }
        }
    }

    fn ticks(&self, ticks: &[Received], t_send: Micros, snapshot: bool) -> Vec<Value> {
        ticks.iter().filter_map(|tick| Some(market_data(tick, self.by_id.get(&tick.id.0)?, t_send, snapshot))).collect()
    }
}

fn market_data(tick: &Received, known: &Known, t_send: Micros, snapshot: bool) -> Value {
    let price = |p: i128| p as f64 / 10f64.powi(known.scale);
    let mode = Mode::from_int(u64::from(tick.mode));
    let fields = match mode {
        Some(Mode::Ltp) => LTP,
        Some(Mode::Quote | Mode::Depth) => QUOTE,
        None => &[],
    };
    let mut data = Map::new();
    for (&(name, is_price), number) in fields.iter().zip(&tick.numbers) {
        if let Some(n) = *number {
            data.insert(name.into(), if is_price { json!(price(n)) } else { json!(u64::try_from(n).ok()) });
        }
    }
    if mode == Some(Mode::Depth) {
        let level =
            |l: &Level| json!({"price": l.price.map(|p| price(p.into())), "quantity": l.quantity, "orders": l.orders});
        let side = |levels: &[Level]| levels.iter().map(level).collect::<Vec<_>>();
        data.insert("depth".into(), json!({"buy": side(&tick.bids), "sell": side(&tick.asks)}));
    }
    let mut message = json!({"type": "market_data", "symbol": known.symbol, "exchange": known.exchange, "mode": tick.mode,
        "data": data, "t_recv": tick.t_recv.0, "t_send": t_send.0});
    if snapshot {
        message["snapshot"] = json!(true);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StreamId;
    use crate::wire::msgpack::{Field, Head, SNAPSHOTS, TICKS, frame_head, tick};

    fn packed() -> Packed {
        let mut packed = Packed::default();
        packed.learn(&json!({"type": "subscribe", "subscriptions": [
            {"symbol": "SBIN", "exchange": "NSE", "status": "success", "id": 7, "scale": 2},
            {"symbol": "BADX", "exchange": "NSE", "status": "error"},
            {"symbol": "EURUSD", "exchange": "CDS", "status": "warning", "id": 8, "scale": 4}]}));
        packed
    }

    fn frame(kind: u8, id: u32, mode: Mode, fields: &[Field]) -> Vec<u8> {
        let mut out = Vec::new();
        frame_head(&mut out, kind, Micros(90), 1);
        tick(&mut out, Head { id: StreamId(id), mode, seq: 1, t_exch: Micros(0), t_recv: Micros(80) }, fields);
        out
    }

    #[test]
    fn a_tick_has_its_name_and_decimal_prices_by_the_scale_of_its_acknowledgement() {
        let mut packed = packed();
        let got = packed.messages(&frame(TICKS, 7, Mode::Ltp, &[Field::Price(81_230)])).expect("readable");
        let want = json!({"type": "market_data", "symbol": "SBIN", "exchange": "NSE", "mode": 1, "data": {"ltp": 812.3},
            "t_recv": 80, "t_send": 90});
        assert_eq!(got, [want]);
        let got = packed.messages(&frame(SNAPSHOTS, 8, Mode::Ltp, &[Field::Price(-10_005)])).expect("readable");
        assert_eq!((&got[0]["data"]["ltp"], &got[0]["snapshot"]), (&json!(-1.0005), &json!(true)));
    }

    #[test]
    fn depth_has_every_field_by_name_and_what_is_absent_is_left_out() {
        let mut fields: Vec<Field> = (0..11)
            .map(|at| match at {
                1 | 6 | 8 | 9 | 10 => Field::Count(at),
                5 => Field::Nil,
                _ => Field::Price(at as i64 * 100),
            })
            .collect();
        fields.push(Field::Levels(vec![(Some(150), Some(2), None)]));
        fields.push(Field::Levels(vec![]));
        let got = packed().messages(&frame(TICKS, 7, Mode::Depth, &fields)).expect("readable");
        let want = json!({"ltp": 0.0, "volume": 1, "open": 2.0, "high": 3.0, "low": 4.0, "last_quantity": 6,
            "average_price": 7.0, "total_buy_quantity": 8, "total_sell_quantity": 9, "oi": 10,
            "depth": {"buy": [{"price": 1.5, "quantity": 2, "orders": null}], "sell": []}});
        assert_eq!(got[0]["data"], want);
    }

    #[test]
    fn unknown_ids_and_frames_are_left_out_and_garbage_is_an_error() {
        let mut packed = packed();
        assert_eq!(packed.messages(&frame(TICKS, 9, Mode::Ltp, &[])), Ok(vec![]));
        assert_eq!(packed.messages(&[0x92, 0x09, 0xc0]), Ok(vec![]));
        assert!(packed.messages(b"{}").is_err());
    }
}
