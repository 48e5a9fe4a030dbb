//! A Noren broker's messages: one JSON object each, values as text, told apart by `t`.
//!
//! In: the text of one message. Out: what it says, with every value parsed or absent: `NA`, `-`, an empty text and what
//! is no number are absent, never zero; JSON numbers are taken too. Keys that are not listed are ignored.
//! Promises: never panics, prices exact, no state. What changes mean is `merge.rs`'s business.

use crate::adapter::native::tick::{LEVELS, Price};
use crate::model::Micros;
use crate::model::price::Decimal;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// Seconds that India's clocks are ahead of UTC.
const IST: i64 = 19_800;
const DAY: i64 = 86_400;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// The answer to the login: accepted, or refused with the broker's text.
    Login(Result<(), String>),
    /// The answer to a heartbeat, an unsubscribe or the order subscription.
    Acknowledged,
    /// Market data.
    Feed(Box<Feed<'a>>),
    /// An order update, as it came.
    Order(Map<String, Value>),
    /// A type that is not known here.
    Other,
}

/// Which of the two streams of an instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Last price, day and best level.
    Touchline,
    /// All that, and five levels.
    Depth,
}

/// Fields of one level that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelChange {
    /// Price.
    pub price: Option<Price>,
    /// Shares or contracts.
    pub quantity: Option<u64>,
    /// Orders, counted.
    pub orders: Option<u64>,
}

/// When the last trade was, in one of the forms that are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TradeTime {
    /// Seconds after midnight in India; the day is not said.
    OfDay(u32),
    /// ms since the UNIX epoch.
    At(u64),
}

/// Market data of one instrument: what came, parsed; the rest is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed<'a> {
    /// Which stream it is of.
    pub stream: Stream,
    /// Whether it is the snapshot that begins the stream.
    pub is_full: bool,
    /// Exchange; gateways may leave it out.
    pub exchange: Option<&'a str>,
    /// Token.
    pub token: &'a str,
    /// What it says.
    pub change: Change,
}

/// Fields that came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Last price.
    pub ltp: Option<Price>,
    /// Open of the day.
    pub open: Option<Price>,
    /// High of the day.
    pub high: Option<Price>,
    /// Low of the day.
    pub low: Option<Price>,
    /// Close of the day before.
    pub close: Option<Price>,
    /// Average traded price.
    pub average_price: Option<Price>,
    /// Upper circuit.
    pub upper_circuit: Option<Price>,
    /// Lower circuit.
    pub lower_circuit: Option<Price>,
    /// High of 52 weeks.
    pub week_52_high: Option<Price>,
    /// Low of 52 weeks.
    pub week_52_low: Option<Price>,
    /// Quantity of the last trade.
    pub last_quantity: Option<u64>,
    /// Volume of the day.
    pub volume: Option<u64>,
    /// All buyers.
    pub total_buy_quantity: Option<u64>,
    /// All sellers.
    pub total_sell_quantity: Option<u64>,
    /// Open interest: `oi`, not `toi`, which is the underlying's.
    pub oi: Option<u64>,
    /// Last trade.
    pub traded: Option<TradeTime>,
    /// The feed's time, ms since the UNIX epoch.
    pub feed_ms: Option<u64>,
    /// Buyers by level.
    pub bids: [LevelChange; LEVELS],
    /// Sellers by level.
    pub asks: [LevelChange; LEVELS],
}

/// Reads one message; `None` when it is no JSON object with a `t`, or market data without a token.
pub fn decode(text: &str) -> Option<Message<'_>> {
    let raw: Raw<'_> = serde_json::from_str(text).ok()?;
    let feed = |stream, is_full| {
        let token = raw.token.filter(|token| !token.is_empty())?;
        let exchange = raw.exchange.filter(|exchange| !exchange.is_empty());
        Some(Message::Feed(Box::new(Feed { stream, is_full, exchange, token, change: raw.change.clone() })))
    };
    match raw.kind? {
        "tk" => feed(Stream::Touchline, true),
        "tf" => feed(Stream::Touchline, false),
        "dk" => feed(Stream::Depth, true),
        "df" => feed(Stream::Depth, false),
        "ck" | "ak" => Some(Message::Login(match raw.status {
            Some(status) if status.eq_ignore_ascii_case("ok") => Ok(()),
            status => Err(refusal(text).or(status.map(str::to_owned)).unwrap_or_default()),
        })),
        "h" | "hk" | "uk" | "udk" | "uok" | "ok" => Some(Message::Acknowledged),
        "om" => serde_json::from_str(text).ok().map(Message::Order),
        _ => Some(Message::Other),
    }
}

/// `emsg` of a refused login.
fn refusal(text: &str) -> Option<String> {
    let object: Map<String, Value> = serde_json::from_str(text).ok()?;
    object.get("emsg").and_then(Value::as_str).map(str::to_owned)
}

/// What may stand in a message, before its type is known.
#[derive(Default)]
struct Raw<'a> {
    kind: Option<&'a str>,
    status: Option<&'a str>,
    exchange: Option<&'a str>,
    token: Option<&'a str>,
    change: Change,
}

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
        let mut raw = Raw::default();
        while let Some(key) = map.next_key::<&str>()? {
            let value = bare(map.next_value::<&RawValue>()?.get());
            match key {
                "t" => raw.kind = Some(value),
                "s" => raw.status = Some(value),
                "e" => raw.exchange = Some(value),
                "tk" => raw.token = Some(value),
                _ => raw.change.set(key, value),
            }
        }
        Ok(raw)
    }
}

/// A value without its quotes. No value of a feed has an escape; one with it parses as nothing.
fn bare(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value).trim()
}

impl Change {
    fn set(&mut self, key: &str, value: &str) {
        let price = || Price::from_text(value);
        match key {
            "lp" => self.ltp = price(),
            "o" => self.open = price(),
            "h" => self.high = price(),
            "l" => self.low = price(),
            "c" => self.close = price(),
            "ap" => self.average_price = price(),
            "uc" => self.upper_circuit = price(),
            "lc" => self.lower_circuit = price(),
            "52h" => self.week_52_high = price(),
            "52l" => self.week_52_low = price(),
            "ltq" => self.last_quantity = count(value),
            "v" => self.volume = count(value),
            "tbq" => self.total_buy_quantity = count(value),
            "tsq" => self.total_sell_quantity = count(value),
            "oi" => self.oi = count(value),
            "ltt" => self.traded = trade_time(value),
            "ft" => self.feed_ms = epoch_ms(value),
            _ => self.set_level(key, value),
        }
    }

    fn set_level(&mut self, key: &str, value: &str) {
        let &[side, field, number @ b'1'..=b'5'] = key.as_bytes() else { return };
        let levels = match side {
            b'b' => &mut self.bids,
            b's' => &mut self.asks,
            _ => return,
        };
        let level = &mut levels[usize::from(number - b'1')];
        match field {
            b'p' => level.price = Price::from_text(value),
            b'q' => level.quantity = count(value),
            b'o' => level.orders = count(value),
            _ => {}
        }
    }
}

/// A whole number that is not negative; `75.00` is one.
fn count(value: &str) -> Option<u64> {
    let (count, rounded) = Decimal::parse(value.as_bytes())?.scaled(0)?;
    u64::try_from(count).ok().filter(|_| !rounded)
}

fn epoch_ms(value: &str) -> Option<u64> {
    let (millionths, _) = Decimal::parse(value.as_bytes())?.scaled_wide(6)?;
    Micros::of_unknown_unit(millionths).map(Micros::millis)
}

/// `10:15:29`, `25-09-2025 10:15:29` or a number of seconds.
fn trade_time(value: &str) -> Option<TradeTime> {
    if !value.contains(':') {
        return epoch_ms(value).map(TradeTime::At);
    }
    let Some((date, time)) = value.split_once(' ') else {
        return seconds_of_day(value).map(TradeTime::OfDay);
    };
    let seconds = days_since_epoch(date)? * DAY + i64::from(seconds_of_day(time)?) - IST;
    u64::try_from(seconds).ok().map(|seconds| TradeTime::At(seconds * 1000))
}

fn seconds_of_day(time: &str) -> Option<u32> {
    let mut parts = time.split(':');
    let mut part = |below: u32| parts.next().and_then(two_digits).filter(|&n| n < below);
    let seconds = part(24)? * 3600 + part(60)? * 60 + part(60)?;
    parts.next().is_none().then_some(seconds)
}

fn two_digits(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.len() <= 2 && text.bytes().all(|c| c.is_ascii_digit()))
}

/// Days from 1970-01-01 to `DD-MM-YYYY`.
fn days_since_epoch(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let day = i64::from(parts.next().and_then(two_digits).filter(|day| (1..=31).contains(day))?);
    let month = i64::from(parts.next().and_then(two_digits).filter(|month| (1..=12).contains(month))?);
    let year: i64 = parts.next().filter(|year| year.len() == 4)?.parse().ok().filter(|year| (1970..).contains(year))?;
    if parts.next().is_some() {
        return None;
    }
    // Years begin in March here, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1;
    Some(days - 719_468)
}

impl TradeTime {
    /// ms since the UNIX epoch. A time of day lies on India's day of `feed_ms`, or the day before if it would be more than
    /// a minute after it; without a feed time nothing is known.
    pub fn ms(self, feed_ms: Option<u64>) -> Option<u64> {
        let of_day = match self {
            TradeTime::At(ms) => return Some(ms),
            TradeTime::OfDay(seconds) => i64::from(seconds),
        };
        let now = i64::try_from(feed_ms? / 1000).ok()?;
        let midnight = (now + IST).div_euclid(DAY) * DAY - IST;
        let today = midnight + of_day;
        let seconds = if today > now + 60 { today - DAY } else { today };
        u64::try_from(seconds).ok().map(|seconds| seconds * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_trades_are_read_in_every_form_that_is_seen() {
        // 2025-09-25 10:15:32 in India.
        let feed = Some(1_758_775_532_000);
        for (text, want) in [
            ("10:15:29", Some(1_758_775_529_000)),
            ("10:15:33", Some(1_758_775_533_000)),
            ("23:59:59", Some(1_758_738_599_000)),
            ("25-09-2025 10:15:29", Some(1_758_775_529_000)),
            ("01-01-1970 05:30:00", Some(0)),
            ("29-02-2024 00:00:00", Some(1_709_145_000_000)),
            ("1758775529", Some(1_758_775_529_000)),
            ("1758775529123", Some(1_758_775_529_123)),
            ("NA", None),
            ("", None),
            ("0", None),
            ("24:00:00", None),
            ("1:2", None),
            ("31-13-2024 00:00:00", None),
            ("+1:00:00", None),
        ] {
            assert_eq!(trade_time(text).and_then(|time| time.ms(feed)), want, "{text}");
        }
        assert_eq!(trade_time("10:15:29").and_then(|time| time.ms(None)), None);
    }

    #[test]
    fn what_is_no_message_is_nothing_and_what_is_unknown_is_other() {
        for text in [
            "hello",
            "",
            "[]",
            "{\"e\":\"NSE\"}",
            "{\"t\":\"tf\",\"e\":\"NSE\"}",
            "{\"t\":\"tf\",\"tk\":\"\"}",
            "null",
            "{\"t\":",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode("{\"t\":\"zz\"}"), Some(Message::Other));
        assert_eq!(decode("{\"t\":{\"a\":[1]}}"), Some(Message::Other));
    }
}
