//! Topics of the bus: what a message is about, from its first frame alone.
//!
//! In: the topic's bytes. Out: market data of one instrument and mode, an order, an invalidation, or something to ignore;
//! both eras of OpenAlgo topics, with and without a broker in front. Promise: one pass, no allocation, tens of
//! nanoseconds; names that come out are within the limits. Knows no payloads. Tests are in `topic/tests.rs`.

use memchr::{memchr_iter, memrchr};

use crate::model::{Brokers, InstrumentRef, Mode};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// Market data.
    Tick {
        /// Broker in front of the exchange, in the topic's own case.
        broker: Option<&'a str>,
        /// What is traded.
        instrument: InstrumentRef<'a>,
        /// The publisher's mode.
        mode: Mode,
    },
    /// Order updates; the user is in the payload.
    Orders,
    /// Caches of a user are void; the user is in the payload.
    Invalidate,
    /// Positions and margins, which have no subscribers.
    Ignored,
}

/// Why a topic is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Not UTF-8.
    #[error("the topic is not UTF-8")]
    NotText,
    /// The last part names no mode, or there is only one part.
    #[error("the topic does not end in LTP, QUOTE or DEPTH")]
    NoMode,
    /// Exchange or symbol is missing.
    #[error("the topic lacks an exchange or a symbol")]
    NoInstrument,
    /// Exchange or symbol is too long or holds control characters.
    #[error("the topic's exchange or symbol is too long or holds control characters")]
    Unacceptable,
}

/// Brokers OpenAlgo has shipped (`VALID_BROKERS` of its sample settings, all releases), in lower case. Others are known
/// once they are named in settings or key store.
pub const OPENALGO_BROKERS: [&str; 38] = [
    "aliceblue",
    "angel",
    "arrow",
    "compositedge",
    "definedge",
    "deltaexchange",
    "dhan",
    "dhan_sandbox",
    "firstock",
    "fivepaisa",
    "fivepaisaxts",
    "flattrade",
    "fyers",
    "groww",
    "hdfcsecurities",
    "hdfcsky",
    "ibulls",
    "iifl",
    "iiflcapital",
    "indmoney",
    "jainam",
    "jainampro",
    "jainamxts",
    "kotak",
    "motilal",
    "mstock",
    "nubra",
    "paytm",
    "pocketful",
    "rmoney",
    "samco",
    "shoonya",
    "tradejini",
    "tradesmart",
    "upstox",
    "wisdom",
    "zebu",
    "zerodha",
];

/// Underscores a broker's name may hold.
const BROKER_UNDERSCORES_MAX: usize = 3;

/// Reads a topic, testing in the order upstream does: invalidations, orders, what is ignored, market data.
///
/// # Errors
/// A topic that is none of these; it costs its message and nothing else.
pub fn parse<'a>(topic: &'a [u8], brokers: &Brokers) -> Result<Topic<'a>, TopicError> {
    if topic.starts_with(b"CACHE_INVALIDATE") {
        return Ok(Topic::Invalidate);
    }
    let cut = memrchr(b'_', topic).ok_or(TopicError::NoMode)?;
    let mode = match &topic[cut + 1..] {
        b"orders" => return Ok(Topic::Orders),
        b"positions" | b"margins" => return Ok(Topic::Ignored),
        last => mode(last).ok_or(TopicError::NoMode)?,
    };
    let name = std::str::from_utf8(&topic[..cut]).map_err(|_| TopicError::NotText)?;
    let (broker, instrument) = split(name, brokers).ok_or(TopicError::NoInstrument)?;
    if instrument.venue.is_empty() || instrument.symbol.is_empty() {
        return Err(TopicError::NoInstrument);
    }
    if !is_acceptable(instrument) {
        return Err(TopicError::Unacceptable);
    }
    Ok(Topic::Tick { broker, instrument, mode })
}

/// Fuzz entry: whatever comes out is within the limits and re-reads the same.
pub fn fuzz_topic(bytes: &[u8]) {
    let brokers = Brokers::new();
    if let Ok(Topic::Tick { instrument, .. }) = parse(bytes, &brokers) {
        assert!(instrument.is_acceptable());
    }
}

fn mode(last: &[u8]) -> Option<Mode> {
    Mode::ALL.into_iter().find(|m| m.topic().as_bytes().eq_ignore_ascii_case(last))
}

/// Broker and instrument of everything in front of the mode. A known exchange wins over a broker of the same name, and the
/// longest broker name over shorter ones.
fn split<'a>(name: &'a str, brokers: &Brokers) -> Option<(Option<&'a str>, InstrumentRef<'a>)> {
    if let Some(instrument) = known(name) {
        return Some((None, instrument));
    }
    let mut cuts = [0; BROKER_UNDERSCORES_MAX + 1];
    let mut found = 0;
    for (slot, at) in cuts.iter_mut().zip(memchr_iter(b'_', name.as_bytes())) {
        *slot = at;
        found += 1;
    }
    for &at in cuts[..found].iter().rev() {
        let broker = &name[..at];
        if let Some(instrument) = known(&name[at + 1..])
            && is_broker(broker, brokers)
        {
            return Some((Some(broker), instrument));
        }
    }
    // An exchange we do not know: its name has no underscore, as upstream reads it.
    let (venue, symbol) = name.split_once('_')?;
    Some((None, InstrumentRef { venue, symbol }))
}

/// The instrument when `name` starts with a known exchange, those of two parts first.
fn known(name: &str) -> Option<InstrumentRef<'_>> {
    let (first, rest) = name.split_once('_')?;
    let (single, has_index) = match first.as_bytes() {
        b"NSE" | b"BSE" | b"MCX" | b"CDS" => (true, true),
        // No broker's topic is one part `GLOBAL`: it is only ever an index.
        b"GLOBAL" => (false, true),
        b"NFO" | b"BFO" | b"BCD" | b"NCDEX" | b"NCO" | b"CRYPTO" => (true, false),
        _ => return None,
    };
    if has_index && let Some(symbol) = rest.strip_prefix("INDEX_") {
        return Some(InstrumentRef { venue: &name[..first.len() + "_INDEX".len()], symbol });
    }
    single.then_some(InstrumentRef { venue: first, symbol: rest })
}

fn is_broker(name: &str, brokers: &Brokers) -> bool {
    OPENALGO_BROKERS.iter().any(|known| known.eq_ignore_ascii_case(name)) || brokers.find(name).is_some()
}

/// [`InstrumentRef::is_acceptable`], without decoding characters when all of them are ASCII.
fn is_acceptable(instrument: InstrumentRef<'_>) -> bool {
    let plain = |s: &str| s.bytes().all(|b| (0x20..0x7f).contains(&b));
    if plain(instrument.venue) && plain(instrument.symbol) {
        return instrument.venue.len() <= crate::limits::VENUE_BYTES_MAX
            && instrument.symbol.len() <= crate::limits::SYMBOL_BYTES_MAX;
    }
    instrument.is_acceptable()
}

#[cfg(test)]
mod tests;
