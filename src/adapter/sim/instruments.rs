//! What the simulated market lists: NIFTY 50 shares, two indexes, some index options. Prices are plausible, not real.

/// What kind of instrument it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A share: five levels of depth.
    Share,
    /// An index: no volume, no depth.
    Index,
    /// An option: depth and open interest.
    Option,
}

/// One listed instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `exchange`.
    pub venue: &'static str,
    /// OpenAlgo's symbol.
    pub symbol: &'static str,
    /// Previous close, paise.
    pub close: i64,
    /// Kind.
    pub kind: Kind,
}

const fn share(symbol: &'static str, rupees: i64) -> Listed {
    Listed { venue: "NSE", symbol, close: rupees * 100, kind: Kind::Share }
}

const fn index(symbol: &'static str, rupees: i64) -> Listed {
    Listed { venue: "NSE_INDEX", symbol, close: rupees * 100, kind: Kind::Index }
}

const fn option(symbol: &'static str, rupees: i64) -> Listed {
    Listed { venue: "NFO", symbol, close: rupees * 100, kind: Kind::Option }
}

/// Everything listed.
pub const INSTRUMENTS: [Listed; 62] = [
    index("NIFTY", 26000),
    index("BANKNIFTY", 58800),
    share("RELIANCE", 1540),
    share("TCS", 3140),
    share("HDFCBANK", 998),
    share("ICICIBANK", 1380),
    share("INFY", 1535),
    share("SBIN", 978),
    share("BHARTIARTL", 2150),
    share("ITC", 405),
    share("LT", 4025),
    share("AXISBANK", 1275),
    share("KOTAKBANK", 2095),
    share("HINDUNILVR", 2430),
    share("BAJFINANCE", 1010),
    share("MARUTI", 15980),
    share("M&M", 3740),
    share("SUNPHARMA", 1785),
    share("TITAN", 3900),
    share("ULTRACEMCO", 11720),
    share("NTPC", 327),
    share("POWERGRID", 277),
    share("ONGC", 247),
    share("TATASTEEL", 171),
    share("TMPV", 361),
    share("JSWSTEEL", 1160),
    share("HINDALCO", 785),
    share("ADANIENT", 2430),
    share("ADANIPORTS", 1495),
    share("ASIANPAINT", 2880),
    share("NESTLEIND", 1265),
    share("BAJAJFINSV", 2080),
    share("BAJAJ-AUTO", 8950),
    share("EICHERMOT", 7150),
    share("HCLTECH", 1610),
    share("TECHM", 1460),
    share("WIPRO", 244),
    share("COALINDIA", 378),
    share("GRASIM", 2735),
    share("CIPLA", 1515),
    share("DRREDDY", 1240),
    share("APOLLOHOSP", 7450),
    share("MAXHEALTH", 1165),
    share("TATACONSUM", 1180),
    share("TRENT", 4390),
    share("ETERNAL", 303),
    share("JIOFIN", 304),
    share("SHRIRAMFIN", 835),
    share("SBILIFE", 2030),
    share("HDFCLIFE", 762),
    share("BEL", 418),
    share("INDIGO", 5830),
    option("NIFTY28NOV2525800CE", 285),
    option("NIFTY28NOV2525900CE", 211),
    option("NIFTY28NOV2526000CE", 148),
    option("NIFTY28NOV2526100CE", 97),
    option("NIFTY28NOV2526200CE", 60),
    option("NIFTY28NOV2525800PE", 63),
    option("NIFTY28NOV2525900PE", 90),
    option("NIFTY28NOV2526000PE", 127),
    option("NIFTY28NOV2526100PE", 176),
    option("NIFTY28NOV2526200PE", 239),
];
