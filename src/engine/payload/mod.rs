//! Payloads of the bus as spans: JSON and MessagePack read by hand, nothing decoded until somebody asks.
//!
//! In: one payload. Out: the spans of its top-level fields, found while the whole payload is checked; values, numbers and
//! entries of a checked payload; JSON text of it. Promise: no recursion, no allocation per field, nesting at most
//! `PAYLOAD_DEPTH_MAX`, one pass to check and one to write. Knows no field names: `normalise` does.
//! Tests are in `tests.rs`.

pub mod json;
pub mod msgpack;

use crate::model::{Encoding, price::Decimal};

/// Why a payload cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Ends inside a value, or claims more than is there.
    #[error("the payload ends inside a value")]
    Truncated,
    /// Breaks the grammar of its encoding.
    #[error("the payload breaks the grammar of its encoding")]
    Syntax,
    /// Text that is not UTF-8.
    #[error("the payload holds text that is not UTF-8")]
    NotText,
    /// Nested deeper than [`crate::limits::PAYLOAD_DEPTH_MAX`].
    #[error("the payload is nested too deeply")]
    TooDeep,
    /// Bytes after the value.
    #[error("the payload goes on after its value")]
    Trailing,
    /// Not an object.
    #[error("the payload is not an object")]
    NotAnObject,
    /// Larger than [`crate::limits::TICK_PAYLOAD_BYTES_MAX`].
    #[error("the payload is too large")]
    TooLarge,
    /// Raw prices whose unit is not known.
    #[error("the payload's prices are in an unknown unit")]
    UnknownUnit,
}

/// Bytes `start..end` of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte; 0 only in the empty span.
    pub end: u32,
}

impl Span {
    /// The span of two offsets into a payload, which is at most `TICK_PAYLOAD_BYTES_MAX` long.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Span { start: start as u32, end: end as u32 }
    }

    /// Whether it covers nothing, as no value does.
    pub fn is_empty(self) -> bool {
        self.end == 0
    }

    /// The bytes it covers.
    pub fn of(self, payload: &[u8]) -> &[u8] {
        payload.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// How raw prices become rupees while a payload is written.
#[derive(Clone, Copy)]
pub struct Rescale<'a> {
    /// Prices are divided by 10 to this power.
    pub places: u8,
    /// Whether a value under this key, at any depth, is a price.
    pub is_price: fn(&[u8]) -> bool,
    /// JSON text put in front of the first field, with its comma.
    pub prefix: &'a [u8],
}

/// One value of a checked payload.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// Its bytes, without blanks around them; empty when there is no value.
    pub bytes: &'a [u8],
    /// How to read them.
    pub encoding: Encoding,
}

impl<'a> Value<'a> {
    /// The number it is, or the number its text is; `None` for everything else, NaN and infinities included.
    pub fn number(self) -> Option<Number<'a>> {
        match self.encoding {
            Encoding::Json => json::number(self.bytes),
            Encoding::MsgPack => msgpack::number(self.bytes),
        }
    }

    /// The text it is, unescaped.
    pub fn text(self) -> Option<std::borrow::Cow<'a, str>> {
        match self.encoding {
            Encoding::Json => json::text(self.bytes),
            Encoding::MsgPack => msgpack::text(self.bytes).map(std::borrow::Cow::Borrowed),
        }
    }

    /// The newest value under `key` (plain ASCII) when it is an object that has it.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let bytes = match self.encoding {
            Encoding::Json => json::get(self.bytes, key.as_bytes()),
            Encoding::MsgPack => msgpack::get(self.bytes, key.as_bytes()),
        }?;
        Some(Value { bytes, encoding: self.encoding })
    }

    /// Its elements when it is an array; none otherwise.
    pub fn elements(self) -> Elements<'a> {
        let inner = match self.encoding {
            Encoding::Json => ElementsOf::Json(json::Elements::new(self.bytes)),
            Encoding::MsgPack => ElementsOf::MsgPack(msgpack::Elements::new(self.bytes)),
        };
        Elements { inner }
    }
}

/// The elements of an array.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    inner: ElementsOf<'a>,
}

#[derive(Clone, Debug)]
enum ElementsOf<'a> {
    Json(json::Elements<'a>),
    MsgPack(msgpack::Elements<'a>),
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let (bytes, encoding) = match &mut self.inner {
            ElementsOf::Json(elements) => (elements.next()?, Encoding::Json),
            ElementsOf::MsgPack(elements) => (elements.next()?, Encoding::MsgPack),
        };
        Some(Value { bytes, encoding })
    }
}

/// A finite number as its sender wrote it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number<'a> {
    /// Decimal text: a JSON number, or text that reads as one.
    Text(&'a str),
    /// A MessagePack unsigned integer.
    Unsigned(u64),
    /// A MessagePack signed integer.
    Signed(i64),
    /// A MessagePack 32-bit float.
    F32(f32),
    /// A MessagePack 64-bit float.
    F64(f64),
}

impl<'a> Number<'a> {
    /// The number a text is, blanks around it ignored; `None` when it is none, or outside the range of `f64`.
    pub(crate) fn from_text(text: &'a [u8]) -> Option<Self> {
        let text = text.trim_ascii();
        Decimal::parse(text)?;
        let text = std::str::from_utf8(text).ok()?;
        json::is_in_range(text.as_bytes()).then_some(Number::Text(text))
    }

    /// Exactly this number, up to 36 significant digits.
    pub fn decimal(self) -> Option<Decimal> {
        match self {
            Number::Text(text) => Decimal::parse(text.as_bytes()),
            Number::Unsigned(n) => Some(Decimal::from_int(n.into())),
            Number::Signed(n) => Some(Decimal::from_int(n.into())),
            Number::F32(n) => Decimal::from_f32(n),
            Number::F64(n) => Decimal::from_f64(n),
        }
    }

    /// The nearest float.
    pub fn f64(self) -> f64 {
        match self {
            Number::Text(text) => text.parse().unwrap_or(f64::NAN),
            Number::Unsigned(n) => n as f64,
            Number::Signed(n) => n as f64,
            Number::F32(n) => n.into(),
            Number::F64(n) => n,
        }
    }

    /// As a count, half away from zero; `None` when negative or out of range.
    pub fn u64(self) -> Option<u64> {
        match self {
            Number::Unsigned(n) => Some(n),
            Number::Signed(n) => n.try_into().ok(),
            _ => self.decimal()?.scaled_wide(0)?.0.try_into().ok(),
        }
    }

    /// Whether its sender wrote an integer.
    pub fn is_integer(self) -> bool {
        match self {
            Number::Text(text) => !text.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')),
            Number::Unsigned(_) | Number::Signed(_) => true,
            Number::F32(_) | Number::F64(_) => false,
        }
    }

    /// Appends it as JSON: its own text when that is JSON, integers as integers, floats as floats (`1500.0`).
    pub fn write_json(self, out: &mut Vec<u8>) {
        match self {
            Number::Text(text) if json::is_number(text.as_bytes()) => out.extend_from_slice(text.as_bytes()),
            Number::Text(_) => {
                if let Some(decimal) = self.decimal() {
                    decimal.write_json(out);
                }
            }
            Number::Unsigned(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
            Number::Signed(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
            Number::F32(n) => out.extend_from_slice(zmij::Buffer::new().format_finite(n).as_bytes()),
            Number::F64(n) => out.extend_from_slice(zmij::Buffer::new().format_finite(n).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests;
