//! OpenAlgo's names from a broker's columns.
//!
//! A future is name, expiry as `28MAR24`, `FUT`; an option has strike and `CE` or `PE` instead. Indices lose blanks and
//! hyphens and become upper case; a few have names of their own. Pure; every function says `None` to what it does not know.

use crate::model::price::Decimal;

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// Indices whose OpenAlgo name is not their own; the brokers spell them in these ways. The full lists are long and change,
/// which is why OpenAlgo's table comes first.
const INDICES: &[(&str, &str)] = &[
    ("NIFTY50", "NIFTY"),
    ("NIFTYINDEX", "NIFTY"),
    ("NIFTYBANK", "BANKNIFTY"),
    ("NIFTYFIN", "FINNIFTY"),
    ("NIFTYFINSERVICE", "FINNIFTY"),
    ("NIFTYFINANCIALSERVICES", "FINNIFTY"),
    ("NIFTYNEXT50", "NIFTYNXT50"),
    ("NIFTYMIDSELECT", "MIDCPNIFTY"),
    ("NIFTYMIDCAPSELECT", "MIDCPNIFTY"),
    ("SNSX50", "SENSEX50"),
];

/// An index's OpenAlgo symbol.
pub(super) fn index(name: &str) -> String {
    let plain: String = name.chars().filter(|c| !matches!(c, ' ' | '-')).collect::<String>().to_ascii_uppercase();
    INDICES.iter().find(|(broker, _)| *broker == plain).map_or(plain, |(_, own)| (*own).to_owned())
}

/// A share's OpenAlgo symbol: without the series, if it is one of `series`.
pub(super) fn share<'a>(symbol: &'a str, series: &[&str]) -> &'a str {
    series.iter().find_map(|series| symbol.strip_suffix(series)).unwrap_or(symbol)
}

/// What a derivative is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Future,
    Call,
    Put,
}

impl Right {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "FUT" | "XX" => Some(Right::Future),
            "CE" => Some(Right::Call),
            "PE" => Some(Right::Put),
            _ => None,
        }
    }
}

/// A derivative's OpenAlgo symbol; `expiry` from [`expiry`], `strike` from [`strike`], unused for a future.
pub(super) fn derivative(name: &str, expiry: &str, strike: &str, right: Right) -> String {
    match right {
        Right::Future => format!("{name}{expiry}FUT"),
        Right::Call => format!("{name}{expiry}{strike}CE"),
        Right::Put => format!("{name}{expiry}{strike}PE"),
    }
}

/// `28MAR24` from `2024-03-28` (Kite), `28MAR2024` (Angel) or `28-Mar-2024` (Noren).
pub(super) fn expiry(text: &str) -> Option<String> {
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    let (day, month, year) = match parts[..] {
        [year, month, day] if year.len() == 4 && digits(month) => {
            (day, (*MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?).to_owned(), year)
        }
        [day, month, year] => (day, month.to_ascii_uppercase(), year),
        [all] if all.len() == 9 && all.is_ascii() => (&all[..2], all[2..5].to_ascii_uppercase(), &all[5..]),
        _ => return None,
    };
    let fits = day.len() == 2 && digits(day) && matches!(year.len(), 2 | 4) && digits(year);
    let known = MONTHS.contains(&month.as_str()) && (1..=31).contains(&day.parse::<u8>().ok()?);
    (fits && known).then(|| format!("{day}{month}{}", &year[year.len() - 2..]))
}

/// A strike as OpenAlgo writes it, without a needless `.0`; `places` says by which power of ten the file has it larger.
pub(super) fn strike(text: &str, places: u8) -> Option<String> {
    let value = Decimal::parse(text.as_bytes())?.shifted_down(places);
    value.scaled(4).filter(|(scaled, rounded)| *scaled > 0 && !rounded)?;
    let mut out = Vec::new();
    value.write_json(&mut out);
    let text = String::from_utf8(out).expect("digits");
    Some(text.strip_suffix(".0").map(str::to_owned).unwrap_or(text))
}

/// Digits after the point of prices that move by `tick`, which the file has larger by `places` powers of ten; `None` if it
/// is no positive number.
pub(super) fn scale(tick: &str, places: u8) -> Option<u8> {
    let value = Decimal::parse(tick.as_bytes())?.shifted_down(places);
    (0..=super::SCALE_MAX).find(|scale| value.scaled(*scale).is_some_and(|(scaled, rounded)| scaled > 0 && !rounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries_of_all_brokers_become_the_same() {
        for text in ["2024-03-28", "28MAR2024", "28-MAR-2024", "28-Mar-24"] {
            assert_eq!(expiry(text).as_deref(), Some("28MAR24"), "{text}");
        }
        for text in
            ["", "2024-13-01", "2024-00-01", "32MAR2024", "28MÄR2024", "28-XYZ-2024", "8-MAR-2024", "1-2-3-4", "-"]
        {
            assert_eq!(expiry(text), None, "{text}");
        }
    }

    #[test]
    fn strikes_lose_what_the_file_adds_and_keep_what_the_market_has() {
        for (text, places, want) in [
            ("20000.000000", 0, Some("20000")),
            ("2000000.000000", 2, Some("20000")),
            ("832500000.000000", 7, Some("83.25")),
            ("72.5", 0, Some("72.5")),
            ("-1.000000", 2, None),
            ("0", 0, None),
            ("", 0, None),
            ("1e99", 0, None),
        ] {
            assert_eq!(strike(text, places).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_tick_size_says_how_many_digits_prices_have() {
        let cases = [("0.05", 0, 2), ("5.000000", 2, 2), ("0.0025", 0, 4), ("1", 0, 0), ("100", 2, 0), ("0.5", 0, 1)];
        for (tick, places, want) in cases {
            assert_eq!(scale(tick, places), Some(want), "{tick}");
        }
        for tick in ["", "0", "-1", "x", "1e-99"] {
            assert_eq!(scale(tick, 0), None, "{tick}");
        }
    }

    #[test]
    fn indices_and_shares_get_the_names_clients_use() {
        for (broker, own) in [
            ("NIFTY 50", "NIFTY"),
            ("Nifty Bank", "BANKNIFTY"),
            ("NIFTY FIN SERVICE", "FINNIFTY"),
            ("INDIA VIX", "INDIAVIX"),
            ("Nifty GS 10Yr", "NIFTYGS10YR"),
            ("SENSEX", "SENSEX"),
            ("SNSX50", "SENSEX50"),
        ] {
            assert_eq!(index(broker), own);
        }
        assert_eq!(share("SBIN-EQ", &["-EQ", "-BE"]), "SBIN");
        assert_eq!(share("BAJAJ-AUTO", &["-EQ", "-BE"]), "BAJAJ-AUTO", "only the series goes, and only at the end");
    }
}
