//! Decimal prices without float error.
//!
//! In: a number's text as its sender wrote it, an integer, or a float (through its shortest text, so that 1500.05 means
//! 1500.05). Out: an integer scaled by a power of ten, half away from zero, or plain JSON text.
//! Promise: exact up to 36 significant digits; never panics; cost is one pass over the digits, no allocation.
//! Knows nothing of brokers or formats. Tests are at the end.

/// Significant digits kept; more only say whether a result is inexact. 10^36 fits an `i128` with room to double it.
const DIGITS_MAX: u32 = 36;
/// Digits that surely fit a `u64`, the fast path of [`Decimal::parse`].
const DIGITS_FAST: u32 = 18;

/// `mantissa` × 10^`exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    mantissa: i128,
    exponent: i32,
    /// Digits other than zero were cut off beyond the 36th.
    cut: bool,
}

/// The decimal text `price` times 10^`scale`, half away from zero, and whether digits were lost; `None` when the text is
/// no finite decimal number or the result is outside `i64`.
pub fn price_text_to_scaled(price: &str, scale: u8) -> Option<(i64, bool)> {
    Decimal::parse(price.as_bytes())?.scaled(scale)
}

/// As [`price_text_to_scaled`], of the shortest text that reads back as `price`; `None` also for NaN and infinities.
pub fn price_to_scaled(price: f64, scale: u8) -> Option<(i64, bool)> {
    Decimal::from_f64(price)?.scaled(scale)
}

impl Decimal {
    /// Reads `[+-]digits[.digits][e[+-]digits]`, at least one digit, no blanks.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (negative, mut rest) = match text.first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let mut digits = Digits::default();
        let mut seen = digits.take(&mut rest, false);
        if let Some((b'.', fraction)) = rest.split_first() {
            rest = fraction;
            seen += digits.take(&mut rest, true);
        }
        if seen == 0 {
            return None;
        }
        let mut exponent = digits.exponent;
        if let Some((b'e' | b'E', power)) = rest.split_first() {
            exponent = exponent.saturating_add(parse_power(power)?);
        } else if !rest.is_empty() {
            return None;
        }
        let magnitude = digits.wide.unwrap_or(i128::from(digits.narrow));
        Some(Decimal { mantissa: if negative { -magnitude } else { magnitude }, exponent, cut: digits.cut })
    }

    /// An integer.
    pub fn from_int(value: i128) -> Self {
        Decimal { mantissa: value, exponent: 0, cut: false }
    }

    /// The shortest decimal that reads back as `value`; `None` for NaN and infinities.
    pub fn from_f64(value: f64) -> Option<Self> {
        value.is_finite().then(|| Self::parse(zmij::Buffer::new().format_finite(value).as_bytes()))?
    }

    /// As [`Decimal::from_f64`] for a 32-bit float: the shortest text for 32 bits, not the widened value.
    pub fn from_f32(value: f32) -> Option<Self> {
        value.is_finite().then(|| Self::parse(zmij::Buffer::new().format_finite(value).as_bytes()))?
    }

    /// This number divided by 10^`places`.
    pub fn shifted_down(self, places: u8) -> Self {
        Decimal { exponent: self.exponent.saturating_sub(i32::from(places)), ..self }
    }

    /// This number times 10^`scale` as an integer, half away from zero, and whether digits were lost; `None` outside
    /// `i64`.
    pub fn scaled(self, scale: u8) -> Option<(i64, bool)> {
        let (value, rounded) = self.scaled_wide(scale)?;
        Some((i64::try_from(value).ok()?, rounded))
    }

    /// As [`Decimal::scaled`], within `i128`.
    pub fn scaled_wide(self, scale: u8) -> Option<(i128, bool)> {
        let shift = self.exponent.saturating_add(i32::from(scale));
        if self.mantissa == 0 {
            return Some((0, self.cut));
        }
        if shift >= 0 {
            let factor = 10i128.checked_pow(shift.unsigned_abs())?;
            return Some((self.mantissa.checked_mul(factor)?, self.cut));
        }
        // A divisor beyond 10^38 dwarfs every mantissa: the result is 0.
        let Some(divisor) = 10i128.checked_pow(shift.unsigned_abs()) else { return Some((0, true)) };
        let (quotient, rest) = (self.mantissa / divisor, self.mantissa % divisor);
        // Digits cut off cannot lift a rest below one half to one half: the divisor is even.
        let away = i128::from(rest.unsigned_abs() >= divisor.unsigned_abs().div_ceil(2)) * self.mantissa.signum();
        Some((quotient + away, rest != 0 || self.cut))
    }

    /// Appends plain JSON text with at least one decimal, as Python prints a float: `1418.4`, `100.0`.
    pub fn write_json(self, out: &mut Vec<u8>) {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(self.mantissa.unsigned_abs()).as_bytes();
        if self.mantissa < 0 {
            out.push(b'-');
        }
        if self.mantissa == 0 {
            out.extend_from_slice(b"0.0");
        } else if !(-60..=60).contains(&self.exponent) {
            // Only a hostile number gets here; plain digits would be long, so it keeps its exponent.
            out.extend_from_slice(digits);
            out.push(b'e');
            out.extend_from_slice(itoa::Buffer::new().format(self.exponent).as_bytes());
        } else if self.exponent >= 0 {
            out.extend_from_slice(digits);
            out.extend(std::iter::repeat_n(b'0', self.exponent.unsigned_abs() as usize));
            out.extend_from_slice(b".0");
        } else {
            write_fraction(digits, self.exponent.unsigned_abs() as usize, out);
        }
    }
}

/// Writes `digits` with the last `places` (at least 1) behind the point, without zeros at the end beyond the first.
fn write_fraction(digits: &[u8], places: usize, out: &mut Vec<u8>) {
    if digits.len() > places {
        let (whole, fraction) = digits.split_at(digits.len() - places);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', places - digits.len()));
        out.extend_from_slice(digits);
    }
    while out.ends_with(b"0") && out[out.len() - 2] != b'.' {
        out.pop();
    }
}

/// Digits gathered so far; `narrow` until they outgrow it, then `wide`.
#[derive(Default)]
struct Digits {
    narrow: u64,
    wide: Option<i128>,
    /// Significant digits taken.
    count: u32,
    exponent: i32,
    cut: bool,
}

impl Digits {
    /// Takes the digits at the start of `rest`; returns how many there were.
    fn take(&mut self, rest: &mut &[u8], fraction: bool) -> usize {
        let mut n = 0;
        for &c in rest.iter() {
            let digit = c.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            n += 1;
            if self.count >= DIGITS_MAX {
                self.cut |= digit != 0;
                self.exponent = self.exponent.saturating_add(i32::from(!fraction));
                continue;
            }
            self.count += u32::from(self.count > 0 || digit != 0);
            self.exponent = self.exponent.saturating_sub(i32::from(fraction));
            if self.count <= DIGITS_FAST {
                self.narrow = self.narrow * 10 + u64::from(digit);
            } else {
                self.wide = Some(self.wide.unwrap_or(i128::from(self.narrow)) * 10 + i128::from(digit));
            }
        }
        *rest = &rest[n..];
        n
    }
}

/// The power after `e`; magnitudes beyond a million stay there, where every result is 0 or out of range.
fn parse_power(text: &[u8]) -> Option<i32> {
    let (sign, digits) = match text.first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(sign * digits.iter().fold(0i32, |n, d| (n * 10 + i32::from(d - b'0')).min(1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_scaled_exactly_and_half_goes_away_from_zero() {
        for (text, scale, want) in [
            ("1500.05", 2, Some((150_005, false))),
            ("1500.05", 4, Some((15_000_500, false))),
            ("67123", 2, Some((6_712_300, false))),
            ("0.005", 2, Some((1, true))),
            ("-0.005", 2, Some((-1, true))),
            ("0.0049999999999999999999999999999999999999999999", 2, Some((0, true))),
            ("0.00500000000000000000000000000000000000000001", 2, Some((1, true))),
            ("1.005", 2, Some((101, true))),
            ("-1.005", 2, Some((-101, true))),
            ("811.4500122070312", 2, Some((81_145, true))),
            ("83.2525", 4, Some((832_525, false))),
            ("1e3", 2, Some((100_000, false))),
            ("1.5E-3", 8, Some((150_000, false))),
            ("0", 2, Some((0, false))),
            ("0e999999999999", 2, Some((0, false))),
            ("1e-999999999999", 2, Some((0, true))),
            ("9223372036854775807", 0, Some((i64::MAX, false))),
            ("-9223372036854775808", 0, Some((i64::MIN, false))),
            ("9223372036854775808", 0, None),
            ("92233720368547758.07", 2, Some((i64::MAX, false))),
            ("92233720368547758.08", 2, None),
            ("1e999", 2, None),
            ("00012.50", 2, Some((1250, false))),
            ("+7", 0, Some((7, false))),
            (".5", 1, Some((5, false))),
        ] {
            assert_eq!(price_text_to_scaled(text, scale), want, "{text} at {scale}");
        }
    }

    #[test]
    fn what_is_no_decimal_number_has_no_scaled_value() {
        for text in ["", "-", ".", "1e", "1e+", "1,5", " 1", "1 ", "NaN", "Infinity", "0x10", "1.2.3", "--1", "1e1.5"] {
            assert_eq!(price_text_to_scaled(text, 2), None, "{text:?}");
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert_eq!(price_to_scaled(value, 2), None, "{value}");
        }
    }

    #[test]
    fn every_price_of_two_decimals_survives_the_float_it_travelled_in() {
        for paise in (0..200_000_000i64).step_by(997) {
            let price: f64 = format!("{}.{:02}", paise / 100, paise % 100).parse().unwrap();
            assert_eq!(price_to_scaled(price, 2), Some((paise, false)), "{price}");
            assert_eq!(price_to_scaled(-price, 2), Some((-paise, false)), "-{price}");
        }
    }

    #[test]
    fn a_shifted_integer_prints_like_a_float_in_rupees() {
        for (paise, places, want) in [
            (141_840, 2, "1418.4"),
            (10_000, 2, "100.0"),
            (0, 2, "0.0"),
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (832_525_000, 7, "83.2525"),
            (7, 0, "7.0"),
        ] {
            let mut out = Vec::new();
            Decimal::from_int(paise).shifted_down(places).write_json(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }
}
