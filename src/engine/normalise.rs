//! From an adapter's payload to what subscribers of each mode get.
//!
//! In: one payload of a tick and whose it is. Out: JSON text with the adapter's own fields, JSON text with the canonical
//! fields of a lower mode, times, and numbers for encoders to come. Promise: [`decode`] checks the whole payload, so
//! whatever is written is valid JSON; it allocates nothing; raw prices become rupees by the table of [`Unit`] or not at
//! all, never by guessing. Knows no topics, sessions or clocks. Tests are in `normalise/tests.rs`.

mod keys;

use std::borrow::Cow;

use self::keys::{KEYS, Key, is_price_key};
pub use super::payload::{DecodeError, Number};
use super::payload::{Elements, Rescale, Span, Value, json, msgpack};
use crate::limits::TICK_PAYLOAD_BYTES_MAX;
use crate::model::{Encoding, Micros, Mode, price::Decimal};

/// Whose payload it is, which decides the unit of raw prices.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// OpenAlgo's name of the broker, any case, when it is known from topic or scope.
    pub broker: Option<&'a str>,
    /// `exchange` on the wire.
    pub venue: &'a str,
}

/// A payload that has been checked: spans into it, nothing copied.
#[derive(Clone, Debug)]
pub struct Decoded<'a> {
    payload: &'a [u8],
    encoding: Encoding,
    spans: [Span; KEYS],
    /// Tokens of JSON text that leave as `null`.
    nulls: json::Nulls,
    /// Raw prices are divided by 10 to this power; `None`: prices are in rupees.
    raw_places: Option<u8>,
}

/// A canonical field (CONTRACTS 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Last traded price.
    Ltp,
    /// Last trade time, in the adapter's unit.
    Ltt,
    /// The adapter's own clock, in the adapter's unit.
    Timestamp,
    /// First price of the day.
    Open,
    /// Highest price of the day.
    High,
    /// Lowest price of the day.
    Low,
    /// The previous day's close.
    Close,
    /// Quantity traded today.
    Volume,
    /// Quantity of the last trade.
    LastQuantity,
    /// Average traded price of the day.
    AveragePrice,
    /// Quantity wanted by all buyers.
    TotalBuyQuantity,
    /// Quantity offered by all sellers.
    TotalSellQuantity,
    /// Open interest.
    Oi,
}

/// The canonical fields of each lower mode, in the order they are written.
const LTP_FIELDS: [Field; 3] = [Field::Ltp, Field::Ltt, Field::Timestamp];
const QUOTE_FIELDS: [Field; 13] = [
    Field::Ltp,
    Field::Ltt,
    Field::Timestamp,
    Field::Open,
    Field::High,
    Field::Low,
    Field::Close,
    Field::Volume,
    Field::LastQuantity,
    Field::AveragePrice,
    Field::TotalBuyQuantity,
    Field::TotalSellQuantity,
    Field::Oi,
];

/// One price level of the depth.
#[derive(Clone, Copy, Debug)]
pub struct Level<'a> {
    level: Value<'a>,
    raw_places: Option<u8>,
}

/// Checks `payload` and finds its fields.
///
/// # Errors
/// Anything that is not one object within the limits, and [`DecodeError::UnknownUnit`] for raw prices of a broker or
/// exchange that the divisor table does not list.
pub fn decode<'a>(payload: &'a [u8], encoding: Encoding, unit: Unit<'_>) -> Result<Decoded<'a>, DecodeError> {
    if payload.len() > TICK_PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge);
    }
    let mut decoded =
        Decoded { payload, encoding, spans: [Span::default(); KEYS], nulls: json::Nulls::new(), raw_places: None };
    let spans = &mut decoded.spans;
    // A key that comes twice: the later one counts, as in Python and JavaScript.
    match encoding {
        Encoding::Json => {
            // Blanks around the object are not sent on.
            decoded.payload = payload.trim_ascii();
            json::scan(decoded.payload, &mut decoded.nulls, |key, escaped, span| {
                let key = if escaped { unescape(key) } else { Cow::Borrowed(key) };
                if let Some(key) = Key::of(&key) {
                    spans[key as usize] = span;
                }
            })?;
        }
        Encoding::MsgPack => msgpack::scan(payload, |key, span| {
            if let Some(key) = Key::of(key) {
                spans[key as usize] = span;
            }
        })?,
    }
    if decoded.has_raw_prices() {
        decoded.raw_places = Some(unit.places().ok_or(DecodeError::UnknownUnit)?);
    }
    Ok(decoded)
}

/// Fuzz entry: whatever decodes is written as JSON that serde_json reads, in every mode.
pub fn fuzz_payload(bytes: &[u8]) {
    let Some((&first, payload)) = bytes.split_first() else { return };
    let encoding = if first & 1 == 0 { Encoding::Json } else { Encoding::MsgPack };
    let unit = Unit { broker: (first & 2 == 0).then_some("angel"), venue: if first & 4 == 0 { "NSE" } else { "CDS" } };
    let Ok(decoded) = decode(payload, encoding, unit) else { return };
    let mut out = Vec::new();
    let is_json = |text: &[u8]| assert!(serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok());
    decoded.write_json_own(&mut out);
    is_json(&out);
    for mode in Mode::ALL {
        out.clear();
        decoded.write_json_mode(mode, &mut out);
        is_json(&out);
    }
    let _ = (decoded.t_exch(), decoded.age_basis(), decoded.price_scaled(Field::Ltp, 2));
    for level in decoded.bids().chain(decoded.asks()) {
        let _ = (level.price_scaled(2), level.quantity(), level.orders());
    }
}

impl<'a> Decoded<'a> {
    /// Whether subscribers of `mode` can be served from this tick of mode `own`: LTP and lower modes only with a finite price
    /// (OpenAlgo's SDK relies on `data.ltp` there), quote and depth of its own mode always, a higher mode never.
    pub fn serves(&self, mode: Mode, own: Mode) -> bool {
        match mode.cmp(&own) {
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal if mode != Mode::Ltp => true,
            _ => self.number(Field::Ltp).is_some(),
        }
    }

    /// Whether the adapter calls its price `ltp`; if not, an LTP subscriber gets the canonical fields even of an LTP tick.
    pub fn names_ltp(&self) -> bool {
        !self.spans[Key::Ltp as usize].is_empty() || self.raw_places.is_some()
    }

    /// Appends the adapter's fields: JSON text byte for byte except that what is not JSON (NaN, infinities) is null,
    /// MessagePack as JSON. Raw prices leave in rupees, with an `ltp` put in front.
    pub fn write_json_own(&self, out: &mut Vec<u8>) {
        let mut prefix = Vec::new();
        let rescale = self.raw_places.map(|places| {
            prefix.extend_from_slice(b"\"ltp\":");
            self.write_field(Field::Ltp, &mut prefix);
            prefix.push(b',');
            Rescale { places, is_price: is_price_key, prefix: &prefix }
        });
        match (self.encoding, rescale) {
            (Encoding::Json, None) => json::write(self.payload, &self.nulls, out),
            (Encoding::Json, Some(rescale)) => json::write_rescaled(self.payload, &self.nulls, rescale, out),
            (Encoding::MsgPack, rescale) => {
                let written = msgpack::write_json(self.payload, rescale, out);
                debug_assert!(written.is_ok(), "a checked payload can be written");
            }
        }
    }

    /// Appends the canonical fields of a lower mode that are present, under their canonical names; for
    /// [`Mode::Depth`], which is never a lower mode, the adapter's own.
    pub fn write_json_mode(&self, mode: Mode, out: &mut Vec<u8>) {
        let fields: &[Field] = match mode {
            Mode::Ltp => &LTP_FIELDS,
            Mode::Quote => &QUOTE_FIELDS,
            Mode::Depth => return self.write_json_own(out),
        };
        let start = out.len();
        out.push(b'{');
        for &field in fields {
            let rewind = out.len();
            if rewind > start + 1 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(field.name().as_bytes());
            out.extend_from_slice(b"\":");
            if !self.write_field(field, out) {
                out.truncate(rewind);
            }
        }
        out.push(b'}');
    }

    /// The venue's time: the first usable of `exchange_timestamp`, `flattrade_timestamp`, `shoonya_timestamp`, `ltt`;
    /// 0 when none is.
    pub fn t_exch(&self) -> Micros {
        self.first_time(&[Key::ExchangeTimestamp, Key::FlattradeTimestamp, Key::ShoonyaTimestamp, Key::Ltt])
    }

    /// What the tick's age is counted from: the venue's time unless that is the last trade's, else the adapter's
    /// `timestamp`; 0 when neither is usable.
    pub fn age_basis(&self) -> Micros {
        self.first_time(&[Key::ExchangeTimestamp, Key::FlattradeTimestamp, Key::ShoonyaTimestamp, Key::Timestamp])
    }

    /// The field's number as its sender wrote it (raw prices still raw): the first alias that holds a finite one.
    pub fn number(&self, field: Field) -> Option<Number<'a>> {
        let mut keys = field.keys();
        if field == Field::Ltp && self.raw_places.is_some() {
            keys = &[Key::LastTradedPrice];
        }
        keys.iter().find_map(|&key| self.value(key)?.number())
    }

    /// The field as the nearest float, prices in rupees.
    pub fn f64(&self, field: Field) -> Option<f64> {
        let number = self.number(field)?;
        match self.raw_places.filter(|_| field.is_price()) {
            Some(places) => Some(number.f64() / 10f64.powi(places.into())),
            None => Some(number.f64()),
        }
    }

    /// The field as a count; `None` when absent or negative.
    pub fn u64(&self, field: Field) -> Option<u64> {
        self.number(field)?.u64()
    }

    /// A price times 10^`scale`, half away from zero, and whether digits were lost; `None` when absent or outside `i64`.
    pub fn price_scaled(&self, field: Field, scale: u8) -> Option<(i64, bool)> {
        rupees(self.number(field)?, self.raw_places.filter(|_| field.is_price()))?.scaled(scale)
    }

    /// Price levels of the buyers, best first, padding included; empty without depth.
    pub fn bids(&self) -> impl Iterator<Item = Level<'a>> + use<'a> {
        self.side("buy", Key::Bids)
    }

    /// Price levels of the sellers, best first, padding included; empty without depth.
    pub fn asks(&self) -> impl Iterator<Item = Level<'a>> + use<'a> {
        self.side("sell", Key::Asks)
    }

    fn side(&self, name: &str, alias: Key) -> impl Iterator<Item = Level<'a>> + use<'a> {
        let side = self.value(Key::Depth).and_then(|depth| depth.get(name)).or_else(|| self.value(alias));
        let levels = side.unwrap_or(Value { bytes: &[], encoding: self.encoding });
        let raw_places = self.raw_places;
        Elements::map(levels.elements(), move |level| Level { level, raw_places })
    }

    fn value(&self, key: Key) -> Option<Value<'a>> {
        let span = self.spans[key as usize];
        (!span.is_empty()).then(|| Value { bytes: span.of(self.payload), encoding: self.encoding })
    }

    /// Raw prices are those of a payload without `ltp` but with an integer `last_traded_price`.
    fn has_raw_prices(&self) -> bool {
        self.value(Key::Ltp).is_none()
            && self.value(Key::LastTradedPrice).and_then(Value::number).is_some_and(Number::is_integer)
    }

    /// Appends the value of a canonical field; false, and nothing appended, when there is none to send.
    fn write_field(&self, field: Field, out: &mut Vec<u8>) -> bool {
        let Some(number) = self.number(field) else { return self.write_time_text(field, out) };
        match self.raw_places.filter(|_| field.is_price()) {
            None => number.write_json(out),
            Some(places) => match rupees(number, Some(places)) {
                Some(price) => price.write_json(out),
                None => return false,
            },
        }
        true
    }

    /// Times that are text and no number ("10:15:00") are still what the adapter knows.
    fn write_time_text(&self, field: Field, out: &mut Vec<u8>) -> bool {
        let key = match field {
            Field::Ltt => Key::Ltt,
            Field::Timestamp => Key::Timestamp,
            _ => return false,
        };
        let Some(value) = self.value(key).filter(|value| value.text().is_some()) else { return false };
        match self.encoding {
            Encoding::Json => out.extend_from_slice(value.bytes),
            Encoding::MsgPack => return msgpack::write_json(value.bytes, None, out).is_ok(),
        }
        true
    }

    fn first_time(&self, keys: &[Key]) -> Micros {
        keys.iter().find_map(|&key| micros(self.value(key)?.number()?)).unwrap_or_default()
    }
}

impl<'a> Level<'a> {
    /// The price times 10^`scale`, half away from zero, and whether digits were lost.
    pub fn price_scaled(&self, scale: u8) -> Option<(i64, bool)> {
        rupees(self.level.get("price")?.number()?, self.raw_places)?.scaled(scale)
    }

    /// Quantity at this price; `None` when absent or negative.
    pub fn quantity(&self) -> Option<u64> {
        self.level.get("quantity")?.number()?.u64()
    }

    /// Orders at this price; `None` when absent or negative.
    pub fn orders(&self) -> Option<u64> {
        self.level.get("orders")?.number()?.u64()
    }
}

fn rupees(number: Number<'_>, raw_places: Option<u8>) -> Option<Decimal> {
    Some(number.decimal()?.shifted_down(raw_places.unwrap_or(0)))
}

/// A time of unstated unit by its size, see [`Micros::of_unknown_unit`].
fn micros(time: Number<'_>) -> Option<Micros> {
    // In millionths of the sender's unit, so that Python's float seconds keep their fraction.
    Micros::of_unknown_unit(time.decimal()?.scaled_wide(6)?.0)
}

impl Unit<'_> {
    /// The divisor table, as powers of ten; `None` for what no broker's documents state.
    fn places(self) -> Option<u8> {
        let broker = self.broker?;
        let equity_like = matches!(
            self.venue,
            "NSE" | "NFO" | "BSE" | "BFO" | "MCX" | "NSE_INDEX" | "BSE_INDEX" | "MCX_INDEX" | "CDS_INDEX"
        );
        if broker.eq_ignore_ascii_case("zerodha") {
            return match self.venue {
                "CDS" => Some(7),
                "BCD" | "NCO" => Some(4),
                _ => equity_like.then_some(2),
            };
        }
        if broker.eq_ignore_ascii_case("angel") {
            return match self.venue {
                "CDS" => Some(7),
                "NCDEX" | "NCO" => Some(2),
                _ => equity_like.then_some(2),
            };
        }
        None
    }
}

impl Field {
    /// The name it is sent under.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Ltp => "ltp",
            Field::Ltt => "ltt",
            Field::Timestamp => "timestamp",
            Field::Open => "open",
            Field::High => "high",
            Field::Low => "low",
            Field::Close => "close",
            Field::Volume => "volume",
            Field::LastQuantity => "last_quantity",
            Field::AveragePrice => "average_price",
            Field::TotalBuyQuantity => "total_buy_quantity",
            Field::TotalSellQuantity => "total_sell_quantity",
            Field::Oi => "oi",
        }
    }

    /// Whether it is a price, which raw payloads give in the broker's unit.
    pub const fn is_price(self) -> bool {
        matches!(self, Field::Ltp | Field::Open | Field::High | Field::Low | Field::Close | Field::AveragePrice)
    }

    /// Its names at the adapters; the first one present wins.
    const fn keys(self) -> &'static [Key] {
        match self {
            Field::Ltp => &[Key::Ltp, Key::LastPrice],
            Field::Ltt => &[Key::Ltt],
            Field::Timestamp => &[Key::Timestamp],
            Field::Open => &[Key::Open],
            Field::High => &[Key::High],
            Field::Low => &[Key::Low],
            Field::Close => &[Key::Close, Key::Cp],
            Field::Volume => &[Key::Volume, Key::VolumeTraded],
            Field::LastQuantity => &[Key::LastQuantity, Key::LastTradeQuantity, Key::LastTradedQuantity, Key::Ltq],
            Field::AveragePrice => &[Key::AveragePrice, Key::AvgTradePrice, Key::AverageTradedPrice, Key::Atp],
            Field::TotalBuyQuantity => &[Key::TotalBuyQuantity, Key::TotalBuyQty],
            Field::TotalSellQuantity => &[Key::TotalSellQuantity, Key::TotalSellQty],
            Field::Oi => &[Key::Oi, Key::OpenInterest],
        }
    }
}

/// The text of a key that holds escapes.
fn unescape(key: &[u8]) -> Cow<'_, [u8]> {
    let quoted = [b"\"", key, b"\""].concat();
    match serde_json::from_slice::<String>(&quoted) {
        Ok(text) => Cow::Owned(text.into_bytes()),
        Err(_) => Cow::Borrowed(key),
    }
}

#[cfg(test)]
mod tests;
