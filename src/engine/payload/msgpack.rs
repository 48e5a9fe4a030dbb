//! MessagePack payloads: walked marker by marker, transcoded to JSON when a text is wanted.
//!
//! Integers keep being integers and floats floats (`1500.0`); NaN, infinities and extensions become null; bytes must be
//! UTF-8 and become text; keys that are scalars become text, as Python writes them. A length that claims more values than
//! bytes are left is refused before anything is done for it. Tests are in `tests.rs` of the parent.

use super::{DecodeError, Number, Rescale, Span};
use crate::limits::PAYLOAD_DEPTH_MAX;

/// The start of one value: scalars whole, containers by how many values follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Head<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    /// Text or bytes; not checked for UTF-8.
    Str(&'a [u8]),
    /// So many elements follow.
    Array(usize),
    /// So many keys and as many values follow.
    Map(usize),
    /// An extension, already passed.
    Ext,
}

/// A cursor over MessagePack bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.bytes[self.at..].get(..len).ok_or(DecodeError::Truncated)?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.bytes[self.at..].first_chunk().ok_or(DecodeError::Truncated)?;
        self.at += N;
        Ok(*taken)
    }

    fn len8(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u8::from_be_bytes(self.array()?)))
    }

    fn len16(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn len32(&mut self) -> Result<usize, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }

    /// Reads the next value's start.
    pub(crate) fn head(&mut self) -> Result<Head<'a>, DecodeError> {
        let [marker] = self.array()?;
        Ok(match marker {
            0x00..=0x7f => Head::Unsigned(marker.into()),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f))?,
            0x90..=0x9f => self.list(usize::from(marker & 0x0f))?,
            0xa0..=0xbf => Head::Str(self.take(usize::from(marker & 0x1f))?),
            0xc0 => Head::Nil,
            0xc1 => return Err(DecodeError::Syntax),
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xc4 | 0xd9 => {
                let len = self.len8()?;
                Head::Str(self.take(len)?)
            }
            0xc5 | 0xda => {
                let len = self.len16()?;
                Head::Str(self.take(len)?)
            }
            0xc6 | 0xdb => {
                let len = self.len32()?;
                Head::Str(self.take(len)?)
            }
            0xc7..=0xc9 | 0xd4..=0xd8 => self.ext(marker)?,
            0xca => Head::F32(f32::from_be_bytes(self.array()?)),
            0xcb => Head::F64(f64::from_be_bytes(self.array()?)),
            0xcc => Head::Unsigned(u8::from_be_bytes(self.array()?).into()),
            0xcd => Head::Unsigned(u16::from_be_bytes(self.array()?).into()),
            0xce => Head::Unsigned(u32::from_be_bytes(self.array()?).into()),
            0xcf => Head::Unsigned(u64::from_be_bytes(self.array()?)),
            0xd0 => Head::Signed(i8::from_be_bytes(self.array()?).into()),
            0xd1 => Head::Signed(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Head::Signed(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Head::Signed(i64::from_be_bytes(self.array()?)),
            0xdc => {
                let n = self.len16()?;
                self.list(n)?
            }
            0xdd => {
                let n = self.len32()?;
                self.list(n)?
            }
            0xde => {
                let n = self.len16()?;
                self.map(n)?
            }
            0xdf => {
                let n = self.len32()?;
                self.map(n)?
            }
            0xe0..=0xff => Head::Signed(i8::from_be_bytes([marker]).into()),
        })
    }

    /// Passes an extension: its length, its type byte, its data.
    fn ext(&mut self, marker: u8) -> Result<Head<'a>, DecodeError> {
        let len = match marker {
            0xc7 => self.len8()?,
            0xc8 => self.len16()?,
            0xc9 => self.len32()?,
            _ => 1 << (marker - 0xd4),
        };
        self.take(len.checked_add(1).ok_or(DecodeError::Truncated)?)?;
        Ok(Head::Ext)
    }

    fn list(&self, n: usize) -> Result<Head<'a>, DecodeError> {
        if n > self.left() { Err(DecodeError::Truncated) } else { Ok(Head::Array(n)) }
    }

    fn map(&self, n: usize) -> Result<Head<'a>, DecodeError> {
        if n > self.left() / 2 { Err(DecodeError::Truncated) } else { Ok(Head::Map(n)) }
    }

    /// Passes one value, structure only: neither text nor keys nor depth are checked. Work is bounded by the bytes left.
    pub(crate) fn skip(&mut self) -> Result<(), DecodeError> {
        let mut values = 1usize;
        while values > 0 {
            values -= 1;
            values += match self.head()? {
                Head::Array(n) => n,
                Head::Map(n) => 2 * n,
                _ => 0,
            };
            if values > self.left() {
                return Err(DecodeError::Truncated);
            }
        }
        Ok(())
    }

    /// Passes one value and checks all of it; `depth` containers are open around it.
    fn check(&mut self, depth: usize) -> Result<(), DecodeError> {
        let mut open = Open::new(depth);
        loop {
            let head = self.head()?;
            if open.is_key() {
                check_key(head)?;
            }
            match head {
                Head::Str(text) => {
                    std::str::from_utf8(text).map_err(|_| DecodeError::NotText)?;
                }
                Head::Array(n) => open.push(n, false)?,
                Head::Map(n) => open.push(2 * n, true)?,
                _ => {}
            }
            while open.is_level_done() {
                open.pop();
            }
            if !open.next() {
                return Ok(());
            }
        }
    }
}

fn check_key(head: Head<'_>) -> Result<(), DecodeError> {
    match head {
        Head::Array(_) | Head::Map(_) | Head::Ext => Err(DecodeError::Syntax),
        Head::F32(n) if !n.is_finite() => Err(DecodeError::Syntax),
        Head::F64(n) if !n.is_finite() => Err(DecodeError::Syntax),
        _ => Ok(()),
    }
}

/// The containers open around a position: values still to come in each, and which are maps.
struct Open {
    values: [u32; PAYLOAD_DEPTH_MAX + 1],
    maps: u64,
    level: usize,
    level_max: usize,
}

impl Open {
    fn new(depth: usize) -> Self {
        Open {
            values: [0; PAYLOAD_DEPTH_MAX + 1],
            maps: 0,
            level: 0,
            level_max: PAYLOAD_DEPTH_MAX.saturating_sub(depth),
        }
    }

    fn push(&mut self, values: usize, map: bool) -> Result<(), DecodeError> {
        if self.level >= self.level_max {
            return Err(DecodeError::TooDeep);
        }
        self.level += 1;
        // A payload is far below 4 GiB, and no container claims more values than bytes are left.
        self.values[self.level] = u32::try_from(values).map_err(|_| DecodeError::TooLarge)?;
        self.maps = self.maps & !(1 << self.level) | u64::from(map) << self.level;
        Ok(())
    }

    fn is_map(&self) -> bool {
        self.maps >> self.level & 1 == 1
    }

    /// Whether the innermost container has no more values to come; the outermost level has no container.
    fn is_level_done(&self) -> bool {
        self.level > 0 && self.values[self.level] == 0
    }

    fn pop(&mut self) {
        self.level -= 1;
    }

    /// Steps to the next value of the innermost container; false when nothing is open.
    fn next(&mut self) -> bool {
        if self.level == 0 {
            return false;
        }
        self.values[self.level] -= 1;
        true
    }

    /// Whether the value stepped to is a key: keys and values alternate, and after a key an odd number is left.
    fn is_key(&self) -> bool {
        self.is_map() && self.values[self.level] % 2 == 1
    }
}

/// Checks the whole of `bytes`, which must be one map, and calls `field` with the key (empty unless it is text) and the
/// span of the value for each of its own entries in order.
///
/// # Errors
/// Anything that is not one map in MessagePack.
pub fn scan<'a>(bytes: &'a [u8], mut field: impl FnMut(&'a [u8], Span)) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    let Head::Map(entries) = reader.head()? else { return Err(DecodeError::NotAnObject) };
    for _ in 0..entries {
        let key = reader.head()?;
        check_key(key)?;
        let key = if let Head::Str(key) = key { key } else { &[] };
        std::str::from_utf8(key).map_err(|_| DecodeError::NotText)?;
        let start = reader.at;
        reader.check(1)?;
        field(key, Span::new(start, reader.at));
    }
    if reader.left() > 0 { Err(DecodeError::Trailing) } else { Ok(()) }
}

/// Appends the value as JSON, prices rescaled when `rescale` is given.
///
/// # Errors
/// What [`scan`] refuses; `out` is then as long as it was.
pub fn write_json(bytes: &[u8], rescale: Option<Rescale<'_>>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let len = out.len();
    let done = transcode(bytes, rescale, out);
    if done.is_err() {
        out.truncate(len);
    }
    done
}

fn transcode(bytes: &[u8], rescale: Option<Rescale<'_>>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.reserve(bytes.len() * 3 / 2);
    let mut reader = Reader::new(bytes);
    let mut open = Open::new(0);
    let mut is_price = false;
    loop {
        let head = reader.head()?;
        if open.is_key() {
            write_key(head, out)?;
            is_price = match (rescale, head) {
                (Some(rescale), Head::Str(key)) => (rescale.is_price)(key),
                _ => false,
            };
        } else {
            match head {
                Head::Array(n) => {
                    open.push(n, false)?;
                    out.push(b'[');
                }
                Head::Map(n) => {
                    open.push(2 * n, true)?;
                    out.push(b'{');
                    if open.level == 1
                        && let Some(rescale) = rescale
                    {
                        out.extend_from_slice(rescale.prefix);
                    }
                }
                scalar => write_scalar(scalar, rescale.filter(|_| is_price), out)?,
            }
            is_price = false;
        }
        let mut closed = !matches!(head, Head::Array(_) | Head::Map(_));
        while open.is_level_done() {
            out.push(if open.is_map() { b'}' } else { b']' });
            open.pop();
            closed = true;
        }
        let separator = if open.is_key() { b':' } else { b',' };
        if !open.next() {
            break;
        }
        if closed {
            out.push(separator);
        }
    }
    if reader.left() > 0 { Err(DecodeError::Trailing) } else { Ok(()) }
}

fn write_key(head: Head<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    check_key(head)?;
    if let Head::Str(_) = head {
        return write_scalar(head, None, out);
    }
    out.push(b'"');
    write_scalar(head, None, out)?;
    out.push(b'"');
    Ok(())
}

fn write_scalar(head: Head<'_>, rescale: Option<Rescale<'_>>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    if let Some(rescale) = rescale
        && let Some(price) = number_of(head).and_then(Number::decimal)
    {
        // Text stays text, as in JSON.
        let quote: &[u8] = if let Head::Str(_) = head { b"\"" } else { b"" };
        out.extend_from_slice(quote);
        price.shifted_down(rescale.places).write_json(out);
        out.extend_from_slice(quote);
        return Ok(());
    }
    match head {
        Head::Bool(true) => out.extend_from_slice(b"true"),
        Head::Bool(false) => out.extend_from_slice(b"false"),
        Head::Str(text) => write_text(text, out)?,
        head => match number_of(head) {
            Some(number) => number.write_json(out),
            None => out.extend_from_slice(b"null"),
        },
    }
    Ok(())
}

/// Appends `text` as a JSON string; what is not ASCII stays as it is.
fn write_text(text: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    // Without an early exit this becomes vector code; nearly all text of ticks is plain.
    let is_plain = !text.iter().fold(false, |odd, &b| odd | !(0x20..0x80).contains(&b) | (b == b'"') | (b == b'\\'));
    if is_plain {
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        return Ok(());
    }
    let mut rest = std::str::from_utf8(text).map_err(|_| DecodeError::NotText)?.as_bytes();
    out.push(b'"');
    while let Some(at) = rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', b]),
            b => {
                let hex = |n: u8| b"0123456789abcdef"[usize::from(n)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(b >> 4), hex(b & 0x0f)]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
    Ok(())
}

fn number_of(head: Head<'_>) -> Option<Number<'_>> {
    match head {
        Head::Unsigned(n) => Some(Number::Unsigned(n)),
        Head::Signed(n) => Some(Number::Signed(n)),
        Head::F32(n) => n.is_finite().then_some(Number::F32(n)),
        Head::F64(n) => n.is_finite().then_some(Number::F64(n)),
        Head::Str(text) => Number::from_text(text),
        _ => None,
    }
}

/// The number a value is.
pub(crate) fn number(value: &[u8]) -> Option<Number<'_>> {
    number_of(Reader::new(value).head().ok()?)
}

/// The text a value is.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    match Reader::new(value).head().ok()? {
        Head::Str(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// The last value under `key` of a map.
pub(crate) fn get<'a>(value: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut reader = Reader::new(value);
    let Head::Map(entries) = reader.head().ok()? else { return None };
    let mut found = None;
    for _ in 0..entries {
        let is_wanted = reader.head().ok()? == Head::Str(key);
        let start = reader.at;
        reader.skip().ok()?;
        if is_wanted {
            found = value.get(start..reader.at);
        }
    }
    found
}

/// The elements of an array; none of anything else.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Elements<'a> {
    pub(crate) fn new(value: &'a [u8]) -> Self {
        let mut reader = Reader::new(value);
        let left = if let Ok(Head::Array(n)) = reader.head() { n } else { 0 };
        Elements { reader, left }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let start = self.reader.at;
        self.reader.skip().ok()?;
        self.reader.bytes.get(start..self.reader.at)
    }
}
