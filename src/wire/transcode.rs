//! JSON into MessagePack and back, for the rare messages that exist in both formats: commands and replies.
//!
//! Ticks never pass here. Hostile input is refused by counting what is left: a declared length reserves nothing, and
//! nesting is bounded.

use super::json;
use rmp::{Marker, encode};
use serde_json::Value;

/// Nesting accepted in a client's MessagePack, levels.
const DEPTH_MAX: u32 = 32;

/// Why bytes are not one MessagePack value that JSON can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end inside a value.
    #[error("the message ends inside a value")]
    Truncated,
    /// Bytes follow the value.
    #[error("bytes follow the value")]
    Trailing,
    /// More than 32 levels.
    #[error("the message is nested too deeply")]
    TooDeep,
    /// A string or binary value is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A marker that JSON has no word for, or a map key that is neither string nor integer.
    #[error("the message holds a value that JSON cannot express")]
    Unsupported,
}

/// One whole MessagePack value as JSON. Binary values are read as UTF-8 strings, integer keys become strings, floats
/// that JSON cannot hold become null.
///
/// # Errors
/// See [`Malformed`].
pub fn to_json(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader { rest: bytes };
    let mut out = Vec::with_capacity(bytes.len() * 2);
    reader.value(&mut out, 0)?;
    if reader.rest.is_empty() { Ok(out) } else { Err(Malformed::Trailing) }
}

/// One JSON text as MessagePack, with the smallest integers.
///
/// # Errors
/// When `text` is not one JSON value that `serde_json::Value` can hold; our own replies always are.
pub fn to_msgpack(text: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let value: Value = serde_json::from_slice(text)?;
    let mut out = Vec::with_capacity(text.len());
    write_value(&mut out, &value);
    Ok(out)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned big-endian number of `count` bytes.
    fn number(&mut self, count: usize) -> Result<u64, Malformed> {
        Ok(self.take(count)?.iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte)))
    }

    fn length(&mut self, count: usize) -> Result<usize, Malformed> {
        usize::try_from(self.number(count)?).map_err(|_| Malformed::Truncated)
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: u32) -> Result<(), Malformed> {
        match Marker::from_u8(self.take(1)?[0]) {
            Marker::Null => out.extend_from_slice(b"null"),
            Marker::True => out.extend_from_slice(b"true"),
            Marker::False => out.extend_from_slice(b"false"),
            Marker::F32 => float(out, f64::from(f32::from_bits(self.number(4)? as u32))),
            Marker::F64 => float(out, f64::from_bits(self.number(8)?)),
            Marker::FixArray(len) => self.array(out, usize::from(len), depth)?,
            Marker::Array16 => {
                let len = self.length(2)?;
                self.array(out, len, depth)?;
            }
            Marker::Array32 => {
                let len = self.length(4)?;
                self.array(out, len, depth)?;
            }
            Marker::FixMap(len) => self.map(out, usize::from(len), depth)?,
            Marker::Map16 => {
                let len = self.length(2)?;
                self.map(out, len, depth)?;
            }
            Marker::Map32 => {
                let len = self.length(4)?;
                self.map(out, len, depth)?;
            }
            marker => self.scalar(out, marker)?,
        }
        Ok(())
    }

    /// A string, binary value or integer.
    fn scalar(&mut self, out: &mut Vec<u8>, marker: Marker) -> Result<(), Malformed> {
        match marker {
            Marker::FixPos(n) => json::integer(out, n),
            Marker::FixNeg(n) => json::integer(out, n),
            Marker::U8 => json::integer(out, self.number(1)?),
            Marker::U16 => json::integer(out, self.number(2)?),
            Marker::U32 => json::integer(out, self.number(4)?),
            Marker::U64 => json::integer(out, self.number(8)?),
            Marker::I8 => json::integer(out, self.number(1)? as u8 as i8),
            Marker::I16 => json::integer(out, self.number(2)? as u16 as i16),
            Marker::I32 => json::integer(out, self.number(4)? as u32 as i32),
            Marker::I64 => json::integer(out, self.number(8)? as i64),
            Marker::FixStr(len) => self.text(out, usize::from(len))?,
            Marker::Str8 | Marker::Bin8 => {
                let len = self.length(1)?;
                self.text(out, len)?;
            }
            Marker::Str16 | Marker::Bin16 => {
                let len = self.length(2)?;
                self.text(out, len)?;
            }
            Marker::Str32 | Marker::Bin32 => {
                let len = self.length(4)?;
                self.text(out, len)?;
            }
            _ => return Err(Malformed::Unsupported),
        }
        Ok(())
    }

    fn text(&mut self, out: &mut Vec<u8>, len: usize) -> Result<(), Malformed> {
        json::string(out, std::str::from_utf8(self.take(len)?).map_err(|_| Malformed::NotUtf8)?);
        Ok(())
    }

    fn array(&mut self, out: &mut Vec<u8>, len: usize, depth: u32) -> Result<(), Malformed> {
        if depth == DEPTH_MAX {
            return Err(Malformed::TooDeep);
        }
        out.push(b'[');
        for i in 0..len {
            if i > 0 {
                out.push(b',');
            }
            self.value(out, depth + 1)?;
        }
        out.push(b']');
        Ok(())
    }

    fn map(&mut self, out: &mut Vec<u8>, len: usize, depth: u32) -> Result<(), Malformed> {
        if depth == DEPTH_MAX {
            return Err(Malformed::TooDeep);
        }
        out.push(b'{');
        for i in 0..len {
            if i > 0 {
                out.push(b',');
            }
            let key_at = out.len();
            let marker = Marker::from_u8(self.take(1)?[0]);
            self.scalar(out, marker)?;
            if out[key_at] != b'"' {
                out.insert(key_at, b'"');
                out.push(b'"');
            }
            out.push(b':');
            self.value(out, depth + 1)?;
        }
        out.push(b'}');
        Ok(())
    }
}

fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    // Writing to a `Vec` cannot fail; what it returns is the marker it chose.
    const VEC: &str = "a Vec takes all bytes";
    match value {
        Value::Null => encode::write_nil(out).expect(VEC),
        Value::Bool(flag) => encode::write_bool(out, *flag).expect(VEC),
        Value::Number(number) => {
            if let Some(n) = number.as_u64() {
                encode::write_uint(out, n).expect(VEC);
            } else if let Some(n) = number.as_i64() {
                encode::write_sint(out, n).expect(VEC);
            } else {
                encode::write_f64(out, number.as_f64().unwrap_or(f64::NAN)).expect(VEC);
            }
        }
        Value::String(text) => encode::write_str(out, text).expect(VEC),
        Value::Array(items) => {
            encode::write_array_len(out, items.len() as u32).expect(VEC);
            items.iter().for_each(|item| write_value(out, item));
        }
        Value::Object(map) => {
            encode::write_map_len(out, map.len() as u32).expect(VEC);
            for (key, item) in map {
                encode::write_str(out, key).expect(VEC);
                write_value(out, item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(bytes: &[u8]) -> Result<String, Malformed> {
        to_json(bytes).map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn every_marker_is_read() {
        for (bytes, want) in [
            (&[0xc0][..], "null"),
            (&[0xc3], "true"),
            (&[0x7f], "127"),
            (&[0xe0], "-32"),
            (&[0xcc, 200], "200"),
            (&[0xcd, 1, 0], "256"),
            (&[0xce, 0, 1, 0, 0], "65536"),
            (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "18446744073709551615"),
            (&[0xd0, 0x80], "-128"),
            (&[0xd1, 0xff, 0xfe], "-2"),
            (&[0xd2, 0xff, 0xff, 0xff, 0xff], "-1"),
            (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], "-9223372036854775808"),
            (&[0xca, 0x3f, 0x80, 0, 0], "1.0"),
            (&[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], "null"),
            (&[0xa2, b'h', b'"'], r#""h\"""#),
            (&[0xd9, 1, b'x'], r#""x""#),
            (&[0xc4, 1, b'y'], r#""y""#),
            (&[0x92, 1, 0x90], "[1,[]]"),
            (&[0xdc, 0, 1, 5], "[5]"),
            (&[0x82, 0xa1, b'a', 1, 7, 0x80], r#"{"a":1,"7":{}}"#),
            (&[0xde, 0, 1, 0xa1, b'a', 1], r#"{"a":1}"#),
        ] {
            assert_eq!(json(bytes).as_deref(), Ok(want), "{bytes:02x?}");
        }
    }

    #[test]
    fn malformed_values_are_refused_without_reserving_what_they_declare() {
        for (bytes, want) in [
            (&[][..], Malformed::Truncated),
            (&[0xdd, 0xff, 0xff, 0xff, 0xff], Malformed::Truncated),
            (&[0xdb, 0xff, 0xff, 0xff, 0xff, b'x'], Malformed::Truncated),
            (&[1, 2], Malformed::Trailing),
            (&[0xa1, 0xff], Malformed::NotUtf8),
            (&[0xd4, 1, 2], Malformed::Unsupported),
            (&[0xc1], Malformed::Unsupported),
            (&[0x81, 0xc0, 1], Malformed::Unsupported),
            (&[0x91; 100], Malformed::TooDeep),
        ] {
            assert_eq!(json(bytes), Err(want), "{bytes:02x?}");
        }
    }

    #[test]
    fn integers_take_their_smallest_width() {
        assert_eq!(to_msgpack(b"[0,200,-1,1.5,\"a\",null]").expect("JSON")[..6], [0x96, 0, 0xcc, 200, 0xff, 0xcb]);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9f64..1e9).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..20)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_goes_out_comes_back(value in value()) {
            let there = to_msgpack(value.to_string().as_bytes()).expect("JSON");
            let back: Value = serde_json::from_slice(&to_json(&there).expect("MessagePack")).expect("JSON");
            prop_assert_eq!(back, value);
        }

        #[test]
        fn random_bytes_never_panic_and_give_json_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(text) = to_json(&bytes) {
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok());
            }
        }
    }
}
