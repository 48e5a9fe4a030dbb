//! One tick of a native feed, whatever the broker, and its payload as ingest takes it.
//!
//! In: what a decoder found; what the protocol or the mode does not give is `None`, never zero. Out: a bus topic and one
//! MessagePack map in rupees under the names that OpenAlgo's clients read, once, in the tick's own (highest) mode: the
//! server derives the lower ones. Promises: prices are exact ([`Price`]), times are milliseconds since the UNIX epoch,
//! `ltt` is the exchange's last trade or absent, never our clock. Pure: no clock, no I/O. Tests: at the end.

use crate::adapter::fields::{NO_FAIL, flag, float, int, levels, text};
use crate::model::LTP_UNCHANGED;
use crate::model::price::Decimal;
use crate::model::{InstrumentRef, Micros, Mode};
use rmp::encode as mp;

/// Levels of depth on each side, counted.
pub const LEVELS: usize = 5;

/// A price in 1e-7 rupee: `Price(8_325_250)` is 0.832525. Holds every price of every broker exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(pub i64);

impl Price {
    /// Decimal digits behind the point that a price can have.
    pub const PLACES: u8 = 7;

    /// A broker's integer of `places` decimal digits, e.g. 2 for paise. `None` above 7 places or outside the range.
    pub fn from_raw(raw: i64, places: u8) -> Option<Self> {
        let shift = Self::PLACES.checked_sub(places)?;
        raw.checked_mul(10i64.pow(shift.into())).map(Price)
    }

    /// A decimal number of rupees as its sender wrote it; `None` when it is none, or outside the range. Digits beyond the
    /// seventh are rounded, half away from zero.
    pub fn from_text(rupees: &str) -> Option<Self> {
        let (raw, _rounded) = Decimal::parse(rupees.as_bytes())?.scaled(Self::PLACES)?;
        Some(Price(raw))
    }

    /// The nearest float of rupees. Its shortest text is this price while that has at most 15 digits.
    pub fn rupees(self) -> f64 {
        self.0 as f64 / 1e7
    }
}

/// One price level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Price; 0 when the level is empty.
    pub price: Price,
    /// Shares or contracts.
    pub quantity: u64,
    /// Orders, counted.
    pub orders: u64,
}

/// Both sides of the book, best first; empty levels are all zero and come last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Buyers.
    pub bids: [Level; LEVELS],
    /// Sellers.
    pub asks: [Level; LEVELS],
}

/// One tick in its highest mode. Everything but the mode may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeTick {
    /// The highest mode that this tick has the fields of.
    pub mode: Mode,
    /// Last traded price; a tick without it serves quote and depth subscribers only.
    pub ltp: Option<Price>,
    /// The last price is repeated because only other fields have changed: last-price subscribers need not hear of it.
    pub ltp_unchanged: bool,
    /// First price of the day.
    pub open: Option<Price>,
    /// Highest price of the day.
    pub high: Option<Price>,
    /// Lowest price of the day.
    pub low: Option<Price>,
    /// The previous day's close.
    pub close: Option<Price>,
    /// Average traded price of the day.
    pub average_price: Option<Price>,
    /// Quantity of the last trade.
    pub last_quantity: Option<u64>,
    /// Quantity traded today.
    pub volume: Option<u64>,
    /// Quantity wanted by all buyers.
    pub total_buy_quantity: Option<u64>,
    /// Quantity offered by all sellers.
    pub total_sell_quantity: Option<u64>,
    /// Open interest.
    pub oi: Option<u64>,
    /// Highest open interest of the day.
    pub oi_day_high: Option<u64>,
    /// Lowest open interest of the day.
    pub oi_day_low: Option<u64>,
    /// Trading stops above.
    pub upper_circuit: Option<Price>,
    /// Trading stops below.
    pub lower_circuit: Option<Price>,
    /// Highest price of 52 weeks.
    pub week_52_high: Option<Price>,
    /// Lowest price of 52 weeks.
    pub week_52_low: Option<Price>,
    /// Time of the last trade, ms since the UNIX epoch.
    pub last_trade_ms: Option<u64>,
    /// The exchange's time of this tick, ms since the UNIX epoch.
    pub exchange_ms: Option<u64>,
    /// The book.
    pub depth: Option<Depth>,
}

impl NativeTick {
    /// A tick with nothing in it yet.
    pub const fn new(mode: Mode) -> Self {
        NativeTick {
            mode,
            ltp: None,
            ltp_unchanged: false,
            open: None,
            high: None,
            low: None,
            close: None,
            average_price: None,
            last_quantity: None,
            volume: None,
            total_buy_quantity: None,
            total_sell_quantity: None,
            oi: None,
            oi_day_high: None,
            oi_day_low: None,
            upper_circuit: None,
            lower_circuit: None,
            week_52_high: None,
            week_52_low: None,
            last_trade_ms: None,
            exchange_ms: None,
            depth: None,
        }
    }

    /// Last price less the previous close; none without both.
    pub fn price_change(&self) -> Option<Price> {
        self.ltp?.0.checked_sub(self.close?.0).map(Price)
    }

    /// [`NativeTick::price_change`] in percent of the previous close, to four digits; 0 when there was no close.
    pub fn price_change_percent(&self) -> Option<f64> {
        let (change, close) = (self.price_change()?, self.close?);
        if close.0 == 0 {
            return Some(0.0);
        }
        let (wide, close) = (i128::from(change.0) * 1_000_000, i128::from(close.0));
        let rest = (wide % close).unsigned_abs() * 2 >= close.unsigned_abs();
        let away = i128::from(rest) * wide.signum() * close.signum();
        Some((wide / close + away) as f64 / 1e4)
    }

    /// The bus topic under which this tick goes to ingest.
    pub fn topic(&self, instrument: InstrumentRef<'_>) -> String {
        format!("{}_{}_{}", instrument.venue, instrument.symbol, self.mode.topic())
    }

    /// Appends the payload: one MessagePack map with the fields that are there. `t_recv` is when its bytes were read.
    pub fn write(&self, out: &mut Vec<u8>, instrument: InstrumentRef<'_>, t_recv: Micros) {
        // The count of fields goes in front, and is known at the end: a map of 16-bit length has a fixed head.
        let head = out.len();
        out.extend_from_slice(&[0xde, 0, 0]);
        let mut map = Map { out, fields: 0 };
        map.field(|out| text(out, "symbol", instrument.symbol));
        map.field(|out| text(out, "exchange", instrument.venue));
        map.field(|out| int(out, "mode", self.mode.int().into()));
        map.price("ltp", self.ltp);
        if self.ltp_unchanged {
            map.field(|out| flag(out, LTP_UNCHANGED));
        }
        map.int("ltt", self.last_trade_ms);
        map.int("exchange_timestamp", self.exchange_ms);
        map.int("timestamp", Some(t_recv.millis()));
        map.price("open", self.open);
        map.price("high", self.high);
        map.price("low", self.low);
        map.price("close", self.close);
        map.price("price_change", self.price_change());
        map.float("price_change_percent", self.price_change_percent());
        map.int("volume", self.volume);
        // Both names are read by clients: the one of Zerodha's adapter and the one of Angel's.
        map.int("last_quantity", self.last_quantity);
        map.int("last_trade_quantity", self.last_quantity);
        map.price("average_price", self.average_price);
        map.int("total_buy_quantity", self.total_buy_quantity);
        map.int("total_sell_quantity", self.total_sell_quantity);
        map.int("oi", self.oi);
        map.int("open_interest", self.oi);
        map.int("oi_day_high", self.oi_day_high);
        map.int("oi_day_low", self.oi_day_low);
        map.price("upper_circuit", self.upper_circuit);
        map.price("lower_circuit", self.lower_circuit);
        map.price("52_week_high", self.week_52_high);
        map.price("52_week_low", self.week_52_low);
        if let Some(depth) = &self.depth {
            map.field(|out| {
                mp::write_str(out, "depth").expect(NO_FAIL);
                mp::write_map_len(out, 2).expect(NO_FAIL);
                levels(out, "buy", side(&depth.bids));
                levels(out, "sell", side(&depth.asks));
            });
            map.int("depth_level", Some(LEVELS as u64));
        }
        let fields = map.fields;
        out[head + 1..head + 3].copy_from_slice(&fields.to_be_bytes());
    }
}

/// Fuzz entries' check: whatever a decoder made of bytes, its payload is one MessagePack value.
pub(crate) fn check_written(tick: &NativeTick) {
    let mut out = Vec::new();
    tick.write(&mut out, InstrumentRef { venue: "NSE", symbol: "X" }, Micros(0));
    assert!(rmp_serde::from_slice::<serde::de::IgnoredAny>(&out).is_ok());
}

fn side(levels: &[Level; LEVELS]) -> impl ExactSizeIterator<Item = (f64, u64, u64)> {
    levels.iter().map(|level| (level.price.rupees(), level.quantity, level.orders))
}

/// A map being written, which counts its fields.
struct Map<'a> {
    out: &'a mut Vec<u8>,
    fields: u16,
}

impl Map<'_> {
    fn field(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(self.out);
        self.fields += 1;
    }

    fn int(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.field(|out| int(out, name, value));
        }
    }

    fn float(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.field(|out| float(out, name, value));
        }
    }

    fn price(&mut self, name: &str, value: Option<Price>) {
        self.float(name, value.map(Price::rupees));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::normalise::{Field, Unit, decode};
    use crate::model::Encoding;

    const SBIN: InstrumentRef<'static> = InstrumentRef { venue: "NSE", symbol: "SBIN" };

    fn payload(tick: &NativeTick) -> Vec<u8> {
        let mut out = Vec::new();
        tick.write(&mut out, SBIN, Micros(1_700_000_000_123_456));
        out
    }

    fn json(tick: &NativeTick) -> serde_json::Value {
        rmp_serde::from_slice(&payload(tick)).expect("one MessagePack map")
    }

    #[test]
    fn prices_of_every_unit_are_exact() {
        assert_eq!(Price::from_raw(81_230, 2), Some(Price(8_123_000_000)));
        assert_eq!(Price::from_raw(832_525_000, 7).map(Price::rupees), Some(83.2525));
        assert_eq!(Price::from_raw(-5, 4).map(Price::rupees), Some(-0.0005));
        assert_eq!(Price::from_raw(1, 8), None);
        assert_eq!(Price::from_raw(i64::MAX, 2), None);
        assert_eq!(Price::from_text("812.30"), Some(Price(8_123_000_000)));
        assert_eq!(Price::from_text("0.00000015"), Some(Price(2)), "half away from zero");
        for bad in ["", "NA", "-", "1e30", "1,000"] {
            assert_eq!(Price::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_left_out_and_never_zero() {
        let tick = NativeTick { ltp: Some(Price(8_123_000_000)), ..NativeTick::new(Mode::Ltp) };
        let expected = serde_json::json!({
            "symbol": "SBIN", "exchange": "NSE", "mode": 1, "ltp": 812.3, "timestamp": 1_700_000_000_123_u64,
        });
        assert_eq!(json(&tick), expected);
        assert_eq!(tick.topic(SBIN), "NSE_SBIN_LTP");
    }

    #[test]
    fn a_full_tick_carries_the_names_that_clients_read_and_decodes_exactly() {
        let level = Level { price: Price(8_122_500_000), quantity: 10, orders: 2 };
        let mut depth = Depth::default();
        depth.bids[0] = level;
        let tick = NativeTick {
            ltp: Some(Price(8_123_000_000)),
            close: Some(Price(8_000_000_000)),
            last_quantity: Some(7),
            oi: Some(13_245_000),
            last_trade_ms: Some(1_700_000_000_000),
            depth: Some(depth),
            ..NativeTick::new(Mode::Depth)
        };
        let value = json(&tick);
        for (name, expected) in [("last_quantity", 7), ("last_trade_quantity", 7), ("oi", 13_245_000), ("mode", 3)] {
            assert_eq!(value[name], expected, "{name}");
        }
        assert_eq!((&value["price_change"], &value["price_change_percent"]), (&12.3.into(), &1.5375.into()));
        assert_eq!(value["depth"]["buy"][0], serde_json::json!({"price": 812.25, "quantity": 10, "orders": 2}));
        assert_eq!(value["depth"]["sell"].as_array().map(Vec::len), Some(5));
        let bytes = payload(&tick);
        let decoded = decode(&bytes, Encoding::MsgPack, Unit { broker: None, venue: "NSE" }).expect("a payload");
        assert_eq!(decoded.price_scaled(Field::Ltp, 7), Some((8_123_000_000, false)));
        assert_eq!(decoded.bids().next().and_then(|l| l.price_scaled(2)), Some((81_225, false)));
        assert_eq!(decoded.t_exch(), Micros(1_700_000_000_000_000));
    }

    #[test]
    fn change_is_against_the_previous_close_and_zero_without_one() {
        let tick = |ltp, close| NativeTick { ltp: Some(Price(ltp)), close, ..NativeTick::new(Mode::Quote) };
        assert_eq!(tick(5, None).price_change_percent(), None);
        assert_eq!(tick(5, Some(Price(0))).price_change_percent(), Some(0.0));
        assert_eq!(tick(2, Some(Price(3))).price_change_percent(), Some(-33.3333));
        assert_eq!(tick(i64::MIN, Some(Price(1))).price_change(), None);
    }
}
