//! JSON payloads: checked in one pass over the bytes, then handed on as they are.
//!
//! Stricter than Python where clients would choke (control characters, lone surrogates, numbers beyond `f64`), and as
//! tolerant where upstream publishes it: `NaN`, `Infinity`, `-Infinity` and overflowing numbers read as null.
//! The functions below [`scan`] and [`skip`] trust that a payload has been checked; on another they return nonsense, never
//! panic. Tests are in `tests.rs` of the parent.

use super::{DecodeError, Number, Rescale, Span};
use crate::limits::PAYLOAD_DEPTH_MAX;
use smallvec::SmallVec;
use std::borrow::Cow;

/// Where tokens stand that are not JSON and must leave as `null`.
pub type Nulls = SmallVec<[Span; 2]>;

const _: () = assert!(PAYLOAD_DEPTH_MAX < 64, "the kinds of open containers are the bits of one u64");

/// Bytes that end the plain part of a string: quote, backslash, control characters.
const STRING_STOPS: [bool; 256] = {
    let mut stops = [false; 256];
    let mut b = 0;
    while b < 0x20 {
        stops[b] = true;
        b += 1;
    }
    stops[b'"' as usize] = true;
    stops[b'\\' as usize] = true;
    stops
};

/// Checks the whole of `text`, which must be one object, and calls `field` with the raw key (between its quotes), whether
/// the key holds escapes, and the span of the value, for each of its own entries in order.
///
/// # Errors
/// Anything that is not one object in JSON, `NaN` and infinities aside.
pub fn scan<'a>(
    text: &'a [u8],
    nulls: &mut Nulls,
    mut field: impl FnMut(&'a [u8], bool, Span),
) -> Result<(), DecodeError> {
    std::str::from_utf8(text).map_err(|_| DecodeError::NotText)?;
    let mut at = skip_blanks(text, 0);
    if text.get(at) != Some(&b'{') {
        return Err(DecodeError::NotAnObject);
    }
    let mut depth = 0usize;
    // Bit n is set when the container at depth n + 1 is an object.
    let mut objects = 0u64;
    let mut key: (&[u8], bool) = (&[], false);
    let mut value_start = at;
    loop {
        // A value starts at `at`.
        if depth == 1 {
            value_start = at;
        }
        match *text.get(at).ok_or(DecodeError::Truncated)? {
            open @ (b'{' | b'[') => {
                if depth == PAYLOAD_DEPTH_MAX {
                    return Err(DecodeError::TooDeep);
                }
                let object = open == b'{';
                objects = objects & !(1 << depth) | u64::from(object) << depth;
                depth += 1;
                at = skip_blanks(text, at + 1);
                if text.get(at) != Some(&(open + 2)) {
                    if object {
                        at = read_key(text, at, depth == 1, &mut key)?;
                    }
                    continue;
                }
                at += 1;
                depth -= 1;
            }
            b'"' => at = string_end(text, at)?.0,
            _ => at = scalar(text, at, nulls)?,
        }
        // A value ended before `at`; close what closes, or go to the next value.
        loop {
            if depth == 1 {
                field(key.0, key.1, Span::new(value_start, at));
            }
            at = skip_blanks(text, at);
            if depth == 0 {
                return if at == text.len() { Ok(()) } else { Err(DecodeError::Trailing) };
            }
            let object = objects >> (depth - 1) & 1 == 1;
            match *text.get(at).ok_or(DecodeError::Truncated)? {
                b',' => {
                    at = skip_blanks(text, at + 1);
                    if object {
                        at = read_key(text, at, depth == 1, &mut key)?;
                    }
                    break;
                }
                b'}' if object => {}
                b']' if !object => {}
                _ => return Err(DecodeError::Syntax),
            }
            at += 1;
            depth -= 1;
        }
    }
}

/// Reads `"key" :` at `at`; returns where its value starts, and keeps the key when `keep`.
fn read_key<'a>(text: &'a [u8], at: usize, keep: bool, key: &mut (&'a [u8], bool)) -> Result<usize, DecodeError> {
    match text.get(at) {
        Some(b'"') => {}
        Some(_) => return Err(DecodeError::Syntax),
        None => return Err(DecodeError::Truncated),
    }
    let (end, escaped) = string_end(text, at)?;
    if keep {
        *key = (&text[at + 1..end - 1], escaped);
    }
    let at = skip_blanks(text, end);
    match text.get(at) {
        Some(b':') => Ok(skip_blanks(text, at + 1)),
        Some(_) => Err(DecodeError::Syntax),
        None => Err(DecodeError::Truncated),
    }
}

/// One past the closing quote of the string whose opening quote is at `at`, and whether it holds escapes.
fn string_end(text: &[u8], at: usize) -> Result<(usize, bool), DecodeError> {
    let mut at = at + 1;
    let mut escaped = false;
    loop {
        while let Some(&b) = text.get(at)
            && !STRING_STOPS[usize::from(b)]
        {
            at += 1;
        }
        match text.get(at) {
            Some(b'"') => return Ok((at + 1, escaped)),
            Some(b'\\') => {
                at = escape(text, at)?;
                escaped = true;
            }
            Some(_) => return Err(DecodeError::Syntax),
            None => return Err(DecodeError::Truncated),
        }
    }
}

/// One past the escape whose backslash is at `at`; surrogates must come in pairs.
fn escape(text: &[u8], at: usize) -> Result<usize, DecodeError> {
    match text.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match hex4(text, at + 2)? {
            0xd800..0xdc00 => match (text.get(at + 6), text.get(at + 7)) {
                (Some(b'\\'), Some(b'u')) if (0xdc00..0xe000).contains(&hex4(text, at + 8)?) => Ok(at + 12),
                _ => Err(DecodeError::NotText),
            },
            0xdc00..0xe000 => Err(DecodeError::NotText),
            _ => Ok(at + 6),
        },
        Some(_) => Err(DecodeError::Syntax),
        None => Err(DecodeError::Truncated),
    }
}

fn hex4(text: &[u8], at: usize) -> Result<u32, DecodeError> {
    let digits = text.get(at..at + 4).ok_or(DecodeError::Truncated)?;
    digits.iter().try_fold(0, |n, &d| Some(n << 4 | char::from(d).to_digit(16)?)).ok_or(DecodeError::Syntax)
}

/// One past the number or word at `at`; what is not JSON is noted in `nulls`.
fn scalar(text: &[u8], at: usize, nulls: &mut Nulls) -> Result<usize, DecodeError> {
    let rest = &text[at..];
    for word in ["null", "true", "false"] {
        if rest.starts_with(word.as_bytes()) {
            return Ok(at + word.len());
        }
    }
    for word in ["NaN", "Infinity", "-Infinity"] {
        if rest.starts_with(word.as_bytes()) {
            nulls.push(Span::new(at, at + word.len()));
            return Ok(at + word.len());
        }
    }
    let len = number_len(rest).ok_or(DecodeError::Syntax)?;
    if !is_in_range(&rest[..len]) {
        nulls.push(Span::new(at, at + len));
    }
    Ok(at + len)
}

/// Bytes of the JSON number at the start of `text`, if there is one.
fn number_len(text: &[u8]) -> Option<usize> {
    let digits = |at: usize| text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    at += match text.get(at)? {
        b'0' => 1,
        b'1'..=b'9' => digits(at),
        _ => return None,
    };
    if text.get(at) == Some(&b'.') {
        at += 1 + Some(digits(at + 1)).filter(|&n| n > 0)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1 + usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        at += Some(digits(at)).filter(|&n| n > 0)?;
    }
    Some(at)
}

/// Whether all of `text` is one JSON number.
pub(crate) fn is_number(text: &[u8]) -> bool {
    number_len(text) == Some(text.len())
}

/// Whether a decimal text is within `f64`: Rust and Python clients refuse it, or read infinity, otherwise.
pub(crate) fn is_in_range(number: &[u8]) -> bool {
    // Without a power, 308 digits cannot overflow.
    if number.len() <= 308 && !number.iter().any(|b| matches!(b, b'e' | b'E')) {
        return true;
    }
    std::str::from_utf8(number).ok().and_then(|n| n.parse::<f64>().ok()).is_some_and(f64::is_finite)
}

/// The first byte at or after `at` that is no blank.
pub fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

/// One past the value at `at`, by quotes and brackets alone: cheap, exact on valid JSON, and harmless on other bytes.
pub fn skip(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match *text.get(at)? {
            b'"' => at = string_skip(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' if depth > 0 => {
                at += 1;
                continue;
            }
            _ => {
                let stop =
                    |b: &u8| matches!(b, b',' | b':' | b'}' | b']' | b'{' | b'[' | b'"') || b.is_ascii_whitespace();
                let len = text[at..].iter().position(stop).unwrap_or(text.len() - at);
                if len == 0 {
                    return None;
                }
                at += len;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// One past the string at `at`, escapes unchecked.
fn string_skip(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The number a checked value is.
pub(crate) fn number(value: &[u8]) -> Option<Number<'_>> {
    match value.first()? {
        b'-' | b'0'..=b'9' => {
            let text = std::str::from_utf8(value).ok()?;
            (is_number(value) && is_in_range(value)).then_some(Number::Text(text))
        }
        b'"' => Number::from_text(value.get(1..value.len() - 1)?),
        _ => None,
    }
}

/// The text a checked value is.
pub(crate) fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        return serde_json::from_slice::<String>(value).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// The last value under `key` of a checked object.
pub(crate) fn get<'a>(value: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    if value.first() != Some(&b'{') {
        return None;
    }
    let mut found = None;
    let mut at = skip_blanks(value, 1);
    while value.get(at) == Some(&b'"') {
        let key_end = string_skip(value, at)?;
        let is_wanted = value.get(at + 1..key_end - 1) == Some(key);
        let start = skip_blanks(value, skip_blanks(value, key_end) + 1);
        let end = skip(value, start)?;
        if is_wanted {
            found = value.get(start..end);
        }
        at = skip_blanks(value, skip_blanks(value, end) + 1);
    }
    found
}

/// The elements of a checked array; none of anything else.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    value: &'a [u8],
    at: usize,
}

impl<'a> Elements<'a> {
    pub(crate) fn new(value: &'a [u8]) -> Self {
        let at = if value.first() == Some(&b'[') { 1 } else { value.len() };
        Elements { value, at }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = skip_blanks(self.value, self.at);
        let end = skip(self.value, start)?;
        self.at = skip_blanks(self.value, end) + 1;
        self.value.get(start..end)
    }
}

/// Appends a checked payload with `nulls` (of the same scan) as `null`, all else byte for byte.
pub fn write(text: &[u8], nulls: &[Span], out: &mut Vec<u8>) {
    out.reserve(text.len());
    let mut from = 0;
    for null in nulls {
        out.extend_from_slice(&text[from..null.start as usize]);
        out.extend_from_slice(b"null");
        from = null.end as usize;
    }
    out.extend_from_slice(&text[from..]);
}

/// Appends a checked, non-empty object with its prices rescaled; numbers that are no prices and all else stay as they are.
pub fn write_rescaled(text: &[u8], nulls: &[Span], rescale: Rescale<'_>, out: &mut Vec<u8>) {
    let mut nulls = nulls.iter();
    let mut null = nulls.next();
    let mut key: Option<&[u8]> = None;
    let mut at = 0;
    let mut first = true;
    while at < text.len() {
        let start = at;
        let is_price = key.is_some_and(rescale.is_price);
        match text[at] {
            _ if null.is_some_and(|n| n.start as usize == at) => {
                at = null.map_or(text.len(), |n| n.end as usize);
                null = nulls.next();
                key = None;
                out.extend_from_slice(b"null");
                continue;
            }
            b'"' => {
                at = string_skip(text, at).unwrap_or(text.len());
                if text.get(skip_blanks(text, at)) == Some(&b':') {
                    key = text.get(start + 1..at - 1);
                } else if is_price && let Some(price) = number(&text[start..at]).and_then(Number::decimal) {
                    key = None;
                    out.push(b'"');
                    price.shifted_down(rescale.places).write_json(out);
                    out.push(b'"');
                    continue;
                }
            }
            b'-' | b'0'..=b'9' => {
                at += number_len(&text[at..]).unwrap_or(1);
                if is_price && let Some(price) = number(&text[start..at]).and_then(Number::decimal) {
                    key = None;
                    price.shifted_down(rescale.places).write_json(out);
                    continue;
                }
            }
            b'{' | b'[' | b',' => {
                key = None;
                at += 1;
            }
            _ => at += 1,
        }
        out.extend_from_slice(&text[start..at]);
        if first && text[start] == b'{' {
            first = false;
            out.extend_from_slice(rescale.prefix);
        }
    }
}
