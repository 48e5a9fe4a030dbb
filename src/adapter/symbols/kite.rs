//! Zerodha's instrument dump: one CSV of all exchanges.
//!
//! Only INDICES rows change their exchange; GLOBAL and NSEIX have indices alone. Options and futures are named by rule, the
//! rest keeps the broker's symbol.

use super::csv::{Fields, Header};
use super::{Row, RowError, Table, names};
use names::Right;

/// Columns that make a CSV this one.
pub(super) const COLUMNS: &[&str] = &["instrument_token", "tradingsymbol", "instrument_type", "segment", "exchange"];

/// (Kite's exchange, OpenAlgo's, OpenAlgo's for its indices).
const EXCHANGES: &[(&str, &str, &str)] = &[
    ("NSE", "NSE", "NSE_INDEX"),
    ("BSE", "BSE", "BSE_INDEX"),
    ("NFO", "NFO", ""),
    ("BFO", "BFO", ""),
    ("CDS", "CDS", "CDS_INDEX"),
    ("BCD", "BCD", ""),
    ("MCX", "MCX", "MCX_INDEX"),
    ("NCO", "NCO", ""),
    ("GLOBAL", "", "GLOBAL_INDEX"),
    ("NSEIX", "", "GLOBAL_INDEX"),
];

/// Where the columns are.
pub(super) struct Columns {
    token: usize,
    symbol: usize,
    kind: usize,
    segment: usize,
    exchange: usize,
    name: Option<usize>,
    expiry: Option<usize>,
    strike: Option<usize>,
    tick: Option<usize>,
}

impl Columns {
    pub(super) fn of(header: &Header) -> Option<Self> {
        Some(Columns {
            token: header.column(&["instrument_token"])?,
            symbol: header.column(&["tradingsymbol"])?,
            kind: header.column(&["instrument_type"])?,
            segment: header.column(&["segment"])?,
            exchange: header.column(&["exchange"])?,
            name: header.column(&["name"]),
            expiry: header.column(&["expiry"]),
            strike: header.column(&["strike"]),
            tick: header.column(&["tick_size"]),
        })
    }

    pub(super) fn take(&self, fields: Fields<'_>, table: &mut Table) -> Result<(), RowError> {
        let token = fields.needed(self.token, "instrument_token")?;
        let symbol = fields.needed(self.symbol, "tradingsymbol")?;
        let exchange = fields.needed(self.exchange, "exchange")?;
        let unknown = || RowError::Exchange(exchange.into());
        let (_, own, indices) = EXCHANGES.iter().find(|(kite, ..)| *kite == exchange).ok_or_else(unknown)?;
        let is_index = fields.at(self.segment) == "INDICES" || own.is_empty();
        let venue = if is_index { *indices } else { *own };
        if venue.is_empty() {
            return Err(unknown());
        }
        let symbol = match Right::parse(fields.at(self.kind)) {
            _ if is_index => names::index(symbol),
            None => symbol.to_owned(),
            Some(right) => self.derivative(fields, right)?,
        };
        let scale = names::scale(fields.of(self.tick), 0);
        table.insert(Row { venue, symbol: &symbol, exchange, token, scale })
    }

    fn derivative(&self, fields: Fields<'_>, right: Right) -> Result<String, RowError> {
        let name = Some(fields.of(self.name)).filter(|name| !name.is_empty()).ok_or(RowError::Missing("name"))?;
        named(name, fields.of(self.expiry), (fields.of(self.strike), 0), right)
    }
}

/// A derivative's symbol from the file's own texts; the strike with the powers of ten that the file adds.
pub(super) fn named(name: &str, expiry: &str, strike: (&str, u8), right: Right) -> Result<String, RowError> {
    let date = names::expiry(expiry).ok_or_else(|| RowError::Expiry(expiry.into()))?;
    let strike = match right {
        Right::Future => String::new(),
        _ => names::strike(strike.0, strike.1).ok_or_else(|| RowError::Strike(strike.0.into()))?,
    };
    Ok(names::derivative(name, &date, &strike, right))
}
