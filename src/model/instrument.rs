//! What is traded: a venue (the `exchange` on the wire) and a symbol.

use crate::limits::{SYMBOL_BYTES_MAX, VENUE_BYTES_MAX};
use std::fmt;

/// The exchange codes of OpenAlgo's protocol. Others work too; these are the ones a metric label or a prefix may name.
pub const VENUES: [&str; 14] = [
    "NSE",
    "NFO",
    "CDS",
    "BSE",
    "BFO",
    "BCD",
    "MCX",
    "NCDEX",
    "NCO",
    "CRYPTO",
    "NSE_INDEX",
    "BSE_INDEX",
    "MCX_INDEX",
    "GLOBAL_INDEX",
];

/// A borrowed instrument name, as found in a topic or a command. Compared byte for byte, case-sensitively.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstrumentRef<'a> {
    /// `exchange` on the wire, e.g. `NSE` or `NSE_INDEX`.
    pub venue: &'a str,
    /// Symbol on that venue; may hold `_`, `-`, `&`, `:`.
    pub symbol: &'a str,
}

impl InstrumentRef<'_> {
    /// Whether both names are within the limits: not empty, at most 32 and 64 bytes, no control characters.
    pub fn is_acceptable(&self) -> bool {
        let fits = |s: &str, max| !s.is_empty() && s.len() <= max && !s.chars().any(char::is_control);
        fits(self.venue, VENUE_BYTES_MAX) && fits(self.symbol, SYMBOL_BYTES_MAX)
    }

    /// An owned copy.
    pub fn to_owned(&self) -> Instrument {
        let mut text = String::with_capacity(self.venue.len() + self.symbol.len());
        text.push_str(self.venue);
        text.push_str(self.symbol);
        Instrument { venue_len: self.venue.len() as u8, text: text.into_boxed_str() }
    }
}

impl fmt::Debug for InstrumentRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.venue, self.symbol)
    }
}

/// An owned instrument name in one allocation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Instrument {
    text: Box<str>,
    venue_len: u8,
}

impl Instrument {
    /// The borrowed view.
    pub fn as_ref(&self) -> InstrumentRef<'_> {
        let (venue, symbol) = self.text.split_at(usize::from(self.venue_len));
        InstrumentRef { venue, symbol }
    }

    /// `exchange` on the wire.
    pub fn venue(&self) -> &str {
        self.as_ref().venue
    }

    /// Symbol on that venue.
    pub fn symbol(&self) -> &str {
        self.as_ref().symbol
    }
}

impl fmt::Debug for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}
