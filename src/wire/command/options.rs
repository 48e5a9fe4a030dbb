//! The additive options of a subscription (CONTRACTS 3.1): an entry's own value wins over the request's.

use super::fields::{Fields, text};
use crate::model::{Format, Mode};
use serde_json::value::RawValue;
use std::time::Duration;

/// Ticks per second that `max_rate` may ask for at most.
pub const MAX_RATE_MAX: f64 = 1000.0;

/// How one subscription is to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Whether the last value is sent at once; `None`: the format's rule.
    pub snapshot: Option<bool>,
    /// At most so many ticks per second.
    pub max_rate: Option<MaxRate>,
    /// Whether ticks may be merged.
    pub delivery: Delivery,
    /// Low and high of merged ticks (MessagePack, LTP).
    pub range: bool,
    /// Notices about the feed's state.
    pub feed_status: bool,
    /// Notices about the server's overload level.
    pub overload: bool,
}

/// Whether ticks may be merged while a session is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// To the newest.
    #[default]
    Latest,
    /// Never.
    Every,
}

/// Ticks per second, above 0 and at most [`MAX_RATE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxRate(f64);

impl MaxRate {
    /// `None` when out of range.
    pub fn new(per_second: f64) -> Option<Self> {
        (per_second > 0.0 && per_second <= MAX_RATE_MAX).then_some(MaxRate(per_second))
    }

    /// As asked for.
    pub const fn per_second(self) -> f64 {
        self.0
    }

    /// Time from one tick to the next: 1 ms at least, a day at most.
    pub fn interval(self) -> Duration {
        Duration::from_secs_f64((1.0 / self.0).clamp(0.001, 86_400.0))
    }
}

const NOT_BOOL: &str = "snapshot, range, feed_status and overload must be true or false";

pub(super) fn parse(
    entry: &Fields<'_>,
    request: &Fields<'_>,
    mode: Mode,
    format: Format,
) -> Result<Options, &'static str> {
    let options = Options {
        snapshot: flag(entry.snapshot, request.snapshot)?,
        max_rate: match given(entry.max_rate, request.max_rate) {
            Some(raw) => Some(max_rate(raw)?),
            None => None,
        },
        delivery: match given(entry.delivery, request.delivery) {
            Some(raw) => delivery(raw)?,
            None => Delivery::Latest,
        },
        range: flag(entry.range, request.range)?.unwrap_or(false),
        feed_status: flag(entry.feed_status, request.feed_status)?.unwrap_or(false),
        overload: flag(entry.overload, request.overload)?.unwrap_or(false),
    };
    match options {
        Options { max_rate: Some(_), delivery: Delivery::Every, .. } => Err("max_rate cannot go with delivery every"),
        Options { range: true, delivery: Delivery::Every, .. } => Err("range cannot go with delivery every"),
        Options { range: true, .. } if mode != Mode::Ltp => Err("range is for mode LTP only"),
        Options { range: true, .. } if format != Format::MsgPack => Err("range needs the MessagePack subprotocol"),
        _ => Ok(options),
    }
}

/// The entry's value, else the request's; null counts as not given.
fn given<'a>(own: Option<&'a RawValue>, request: Option<&'a RawValue>) -> Option<&'a RawValue> {
    let is_given = |raw: &&RawValue| raw.get() != "null";
    own.filter(is_given).or(request.filter(is_given))
}

fn flag(own: Option<&RawValue>, request: Option<&RawValue>) -> Result<Option<bool>, &'static str> {
    match given(own, request).map(RawValue::get) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(NOT_BOOL),
    }
}

fn max_rate(raw: &RawValue) -> Result<MaxRate, &'static str> {
    let rate = serde_json::from_str(raw.get()).ok().and_then(MaxRate::new);
    rate.ok_or("max_rate must be a number above 0 and at most 1000 (ticks per second)")
}

fn delivery(raw: &RawValue) -> Result<Delivery, &'static str> {
    match text(raw).as_deref() {
        Some("latest") => Ok(Delivery::Latest),
        Some("every") => Ok(Delivery::Every),
        _ => Err("delivery must be latest or every"),
    }
}
