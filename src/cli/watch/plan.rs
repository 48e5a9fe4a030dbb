//! What `watch` was asked for, checked: instruments, mode, format and target. Pure.

use super::WatchOptions;
use crate::cli::client::Target;
use crate::model::instrument::VENUES;
use crate::model::{Format, Instrument, InstrumentRef, Mode};

/// Indices that people look for on the exchange that publishes them.
const INDICES: [(&str, &[&str]); 2] = [
    ("NSE", &["NIFTY", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "NIFTYNXT50", "INDIAVIX"]),
    ("BSE", &["SENSEX", "BANKEX", "SENSEX50"]),
];

/// Settings of one run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) instruments: Vec<Instrument>,
    pub(super) mode: Mode,
    pub(super) format: Format,
    pub(super) target: Target,
    pub(super) url: String,
    pub(super) key: String,
    pub(super) count: Option<u64>,
    /// What was read differently from how it was typed.
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// # Errors
    /// What is wrong and what would be right.
    pub(super) fn new(options: WatchOptions) -> Result<Self, String> {
        let format = match options.format.as_str() {
            "json" => Format::Json,
            "msgpack" => Format::MsgPack,
            other => return Err(format!("--format {other}: expected json or msgpack")),
        };
        let mode = Mode::from_label(&options.mode)
            .ok_or_else(|| format!("--mode {}: expected ltp, quote or depth", options.mode))?;
        let target = Target::parse(&options.url).map_err(|e| e.to_string())?;
        if options.symbols.is_empty() {
            return Err("which symbols? For example: tickcast watch RELIANCE NIFTY".into());
        }
        let mut notes = Vec::new();
        let mut instruments = Vec::new();
        for typed in &options.symbols {
            let instrument = resolve(typed, &options.exchange, &mut notes)?;
            if !instruments.contains(&instrument) {
                instruments.push(instrument);
            }
        }
        let WatchOptions { url, key, count, .. } = options;
        Ok(Plan { instruments, mode, format, target, url, key, count, notes })
    }
}

/// `SYMBOL` is looked for on `exchange` in upper case, an index on its index segment; `EXCHANGE:SYMBOL` is taken as it is.
fn resolve(typed: &str, exchange: &str, notes: &mut Vec<String>) -> Result<Instrument, String> {
    let prefixed = typed.split_once(':').map(|(venue, symbol)| (venue.to_ascii_uppercase(), symbol.to_owned()));
    let (venue, symbol) = match prefixed {
        // Anything else before a colon is part of the symbol, as in Fyers' `TCS:50`.
        Some((venue, symbol)) if VENUES.contains(&venue.as_str()) => (venue, symbol),
        _ => {
            let (venue, symbol) = (exchange.to_ascii_uppercase(), typed.to_ascii_uppercase());
            let is_index = INDICES.iter().any(|(on, names)| *on == venue && names.contains(&symbol.as_str()));
            if is_index {
                notes.push(format!("{symbol} is an index: watching {venue}_INDEX:{symbol}"));
                (format!("{venue}_INDEX"), symbol)
            } else {
                (venue, symbol)
            }
        }
    };
    let instrument = InstrumentRef { venue: &venue, symbol: &symbol };
    if !instrument.is_acceptable() {
        return Err(format!("{typed:?}: expected SYMBOL or EXCHANGE:SYMBOL, at most 64 and 32 bytes"));
    }
    Ok(instrument.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut WatchOptions)) -> Result<Plan, String> {
        let mut options = WatchOptions { symbols: vec!["RELIANCE".into()], ..WatchOptions::default() };
        change(&mut options);
        Plan::new(options)
    }

    #[test]
    fn symbols_are_found_where_people_mean_them() {
        for (typed, exchange, want, notes) in [
            ("RELIANCE", "NSE", "NSE:RELIANCE", 0),
            ("reliance", "nse", "NSE:RELIANCE", 0),
            ("NIFTY", "NSE", "NSE_INDEX:NIFTY", 1),
            ("banknifty", "NSE", "NSE_INDEX:BANKNIFTY", 1),
            ("SENSEX", "BSE", "BSE_INDEX:SENSEX", 1),
            ("NIFTY", "NFO", "NFO:NIFTY", 0),
            ("mcx:Gold26", "NSE", "MCX:Gold26", 0),
            ("NSE:NIFTY", "NSE", "NSE:NIFTY", 0),
            ("TCS:50", "NSE", "NSE:TCS:50", 0),
        ] {
            let plan = plan(|o| {
                o.symbols = vec![typed.into()];
                o.exchange = exchange.into();
            })
            .expect(typed);
            assert_eq!(format!("{:?}", plan.instruments[0].as_ref()), want);
            assert_eq!(plan.notes.len(), notes, "{typed}");
        }
    }

    #[test]
    fn the_same_instrument_is_watched_once() {
        let plan = plan(|o| o.symbols = vec!["SBIN".into(), "NSE:SBIN".into()]).expect("fine");
        assert_eq!(plan.instruments.len(), 1);
    }

    #[test]
    fn each_mistake_is_told_with_what_would_be_right() {
        let check = |change: fn(&mut WatchOptions), words: &str| {
            let error = plan(change).expect_err(words);
            assert!(error.contains(words), "{error}");
        };
        check(|o| o.symbols.clear(), "tickcast watch RELIANCE");
        check(|o| o.symbols = vec!["NSE:".into()], "expected SYMBOL or EXCHANGE:SYMBOL");
        check(|o| o.mode = "full".into(), "ltp, quote or depth");
        check(|o| o.format = "xml".into(), "expected json or msgpack");
        check(|o| o.url = "wss://h".into(), "TLS");
    }
}
