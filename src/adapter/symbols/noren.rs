//! The files of Flattrade and Shoonya: one CSV an exchange, columns by name, in two spellings.
//!
//! Flattrade's may lack the exchange, which their names then tell. Shoonya's hold rows with blank names and, for currency,
//! tokens up to 100 that are no contracts; and they lack the two indices of BSE that everybody wants.

use super::csv::{Fields, Header};
use super::names::Right;
use super::{Dialect, Row, RowError, Table, kite, names};

/// Columns that make a CSV one of these.
pub(super) const COLUMNS: &[&str] = &["token", "symbol", "tradingsymbol", "instrument"];

/// Highest token of the currency rows that are no contracts.
const CURRENCY_PLACEHOLDERS: u32 = 100;
/// (symbol, token) on BSE that Shoonya feeds but does not list.
const UNLISTED: [(&str, &str); 2] = [("SENSEX", "1"), ("BANKEX", "12")];

/// Where the columns are.
pub(super) struct Columns {
    token: usize,
    name: usize,
    symbol: usize,
    instrument: usize,
    /// Or else the exchange of the whole file.
    exchange: Result<usize, &'static str>,
    expiry: Option<usize>,
    right: Option<usize>,
    strike: Option<usize>,
    tick: Option<usize>,
    precision: Option<usize>,
}

impl Columns {
    /// `file` is the file's name, or a zip member's. `None`: no such header, or nothing names the exchange.
    pub(super) fn of(header: &Header, file: &str) -> Option<Self> {
        Some(Columns {
            token: header.column(&["token"])?,
            name: header.column(&["symbol"])?,
            symbol: header.column(&["tradingsymbol"])?,
            instrument: header.column(&["instrument"])?,
            exchange: header.column(&["exchange"]).map_or_else(|| exchange_of(file).map(Err), |at| Some(Ok(at)))?,
            expiry: header.column(&["expiry"]),
            right: header.column(&["optiontype"]),
            strike: header.column(&["strike", "strikeprice"]),
            tick: header.column(&["ticksize"]),
            precision: header.column(&["precision"]),
        })
    }

    pub(super) fn take(&self, fields: Fields<'_>, table: &mut Table) -> Result<(), RowError> {
        let exchange = match self.exchange {
            Ok(column) => fields.needed(column, "Exchange")?,
            Err(whole) => whole,
        };
        let (token, symbol) = (fields.at(self.token), fields.at(self.symbol));
        let number = token.parse::<u32>();
        let low = exchange == "CDS" && number.is_ok_and(|token| token <= CURRENCY_PLACEHOLDERS);
        if symbol.is_empty() || low {
            return Err(RowError::Placeholder);
        }
        let instrument = fields.at(self.instrument);
        let cash = matches!(exchange, "NSE" | "BSE");
        let is_index = cash && matches!(instrument, "INDEX" | "UNDIND");
        let (venue, symbol) = match exchange {
            "NSE" if is_index => ("NSE_INDEX", names::index(symbol)),
            "BSE" if is_index => ("BSE_INDEX", names::index(symbol)),
            _ if cash => (exchange, names::share(symbol, &["-EQ", "-BE"]).to_owned()),
            _ => (exchange, self.derivative(fields)?),
        };
        let scale = self.scale(fields, exchange, table.dialect());
        table.insert(Row { venue, symbol: &symbol, exchange, token, scale })
    }

    fn derivative(&self, fields: Fields<'_>) -> Result<String, RowError> {
        let right = Right::parse(fields.of(self.right));
        let right = right.ok_or_else(|| RowError::Kind(fields.at(self.symbol).into()))?;
        let name = Some(fields.at(self.name)).filter(|name| !name.is_empty()).ok_or(RowError::Placeholder)?;
        kite::named(name, fields.of(self.expiry), (fields.of(self.strike), 0), right)
    }

    /// Shoonya's NSE file has the tick in paise.
    fn scale(&self, fields: Fields<'_>, exchange: &str, dialect: Dialect) -> Option<u8> {
        let places = if dialect == Dialect::Shoonya && exchange == "NSE" { 2 } else { 0 };
        fields.of(self.precision).parse().ok().or_else(|| names::scale(fields.of(self.tick), places))
    }
}

/// Adds the indices that the broker feeds but does not list; call it after the files.
pub(super) fn add_unlisted(table: &mut Table) {
    if table.dialect() != Dialect::Shoonya || table.is_empty() {
        return;
    }
    for (symbol, token) in UNLISTED {
        // A file that lists it after all wins.
        let _ = table.insert(Row { venue: "BSE_INDEX", symbol, exchange: "BSE", token, scale: None });
    }
}

/// The exchange that Flattrade's file names stand for, and the plain exchange names.
fn exchange_of(file: &str) -> Option<&'static str> {
    let file = file.to_ascii_lowercase();
    let starts = [("nse", "NSE"), ("bse", "BSE"), ("nfo", "NFO"), ("bfo", "BFO"), ("cds", "CDS"), ("mcx", "MCX")];
    let more = [("currency", "CDS"), ("commodity", "MCX"), ("ncx", "NCX")];
    starts.iter().chain(&more).find(|(start, _)| file.starts_with(start)).map(|(_, exchange)| *exchange)
}
