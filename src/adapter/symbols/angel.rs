//! Angel's scrip master: one JSON array of objects whose values are strings, read element by element.
//!
//! Strike and tick are in paise, those of currency options a further 100,000 times larger. NFO symbols have OpenAlgo's shape
//! already; those of CDS, MCX and BFO are built by rule. Memory: one element.

use super::names::Right;
use super::{Row, RowError, Summary, Table, kite, names};
use serde::Deserializer;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::io::Read;

/// Reads the array, row by row, into `table`; a syntax error ends it, and what came before stays.
pub(super) fn read(reader: impl Read, table: &mut Table, summary: &mut Summary) {
    let mut reader = serde_json::Deserializer::from_reader(reader);
    let mut elements = 0;
    let outcome = Elements { table, summary, elements: &mut elements }.deserialize(&mut reader);
    if let Err(error) = outcome.and_then(|()| reader.end()) {
        summary.row(elements + 1, Err(RowError::Damaged(error.to_string())));
    }
}

struct Elements<'a> {
    table: &'a mut Table,
    summary: &'a mut Summary,
    elements: &'a mut u64,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of instruments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<Value>()? {
            *self.elements += 1;
            self.summary.row(*self.elements, Scrip::of(&element).take(self.table));
        }
        Ok(())
    }
}

/// One element; a column that is missing or no text is empty.
struct Scrip<'a> {
    token: &'a str,
    symbol: &'a str,
    name: &'a str,
    expiry: &'a str,
    strike: &'a str,
    kind: &'a str,
    exchange: &'a str,
    tick: &'a str,
}

impl<'a> Scrip<'a> {
    fn of(element: &'a Value) -> Self {
        let text = |key| element.get(key).and_then(Value::as_str).map_or("", str::trim);
        Scrip {
            token: text("token"),
            symbol: text("symbol"),
            name: text("name"),
            expiry: text("expiry"),
            strike: text("strike"),
            kind: text("instrumenttype"),
            exchange: text("exch_seg"),
            tick: text("tick_size"),
        }
    }

    fn take(&self, table: &mut Table) -> Result<(), RowError> {
        let needed = |text: &str, name| if text.is_empty() { Err(RowError::Missing(name)) } else { Ok(()) };
        needed(self.token, "token")?;
        needed(self.symbol, "symbol")?;
        needed(self.exchange, "exch_seg")?;
        let exchange = plain(self.exchange);
        let is_index = self.kind == "AMXIDX";
        let (venue, symbol) = match exchange {
            "NSE" if is_index => ("NSE_INDEX", names::index(self.symbol)),
            "BSE" if is_index => ("BSE_INDEX", names::index(self.symbol)),
            "MCX" if is_index => ("MCX_INDEX", names::index(self.symbol)),
            "CDS" | "MCX" | "BFO" => (exchange, self.derivative(exchange)?),
            _ => (exchange, names::share(self.symbol, &["-EQ", "-BE", "-MF", "-SG"]).to_owned()),
        };
        // The unit of a currency tick is not documented.
        let scale = if exchange == "CDS" { None } else { names::scale(self.tick, 2) };
        table.insert(Row { venue, symbol: &symbol, exchange, token: self.token, scale })
    }

    fn derivative(&self, exchange: &str) -> Result<String, RowError> {
        let unknown = || RowError::Kind(self.symbol.into());
        let right = match self.kind {
            kind if kind.starts_with("FUT") => Right::Future,
            kind if kind.starts_with("OPT") => {
                let end = self.symbol.len().checked_sub(2).and_then(|at| self.symbol.get(at..));
                end.and_then(Right::parse).ok_or_else(unknown)?
            }
            _ => return Err(unknown()),
        };
        let places = if exchange == "CDS" { 7 } else { 2 };
        if self.name.is_empty() {
            return Err(RowError::Missing("name"));
        }
        kite::named(self.name, self.expiry, (self.strike, places), right)
    }
}

/// The short name of an exchange; the documentation's sample has the long ones.
fn plain(exchange: &str) -> &str {
    match exchange {
        "nse_cm" => "NSE",
        "nse_fo" => "NFO",
        "bse_cm" => "BSE",
        "bse_fo" => "BFO",
        "mcx_fo" => "MCX",
        "ncx_fo" => "NCX",
        "cde_fo" => "CDS",
        other => other,
    }
}
