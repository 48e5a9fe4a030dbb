//! Frames of the bus: a message's items as spans, and the side messages decoded.
//!
//! In: the two frames of one message. Out: (topic, payload) pairs in order, orders and invalidations. Promise: the scan
//! is a walk over markers without recursion or allocation but `out`; a length that claims more than is there is refused
//! by counting what is left; a bad item of a well-formed batch costs only itself. Payloads are only looked at here, not
//! decoded: `engine::normalise` does that when somebody wants the tick. Tests are in `frames/tests.rs`.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::topic::TopicError;
use crate::engine::payload::{
    DecodeError, Value, json,
    msgpack::{self, Head, Reader},
};
use crate::limits::{BATCH_ITEMS_MAX, TICK_PAYLOAD_BYTES_MAX};
use crate::model::{Encoding, LTP_UNCHANGED};

/// The topic of a batch.
pub const BATCH: &[u8] = b"BATCH";

/// One topic and its payload, borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// What it is about; read by [`super::topic::parse`].
    pub topic: &'a [u8],
    /// One object, unchecked beyond its first byte and its size.
    pub payload: &'a [u8],
    /// How to read the payload.
    pub encoding: Encoding,
}

/// The shape of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A topic and one JSON object.
    Json,
    /// A topic and one MessagePack map.
    MsgPack,
    /// Many pairs of topic and payload.
    Batch,
}

impl Kind {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Json => "json",
            Kind::MsgPack => "msgpack",
            Kind::Batch => "batch",
        }
    }
}

/// Why a message of the bus, or an item of it, was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cause {
    /// Not two frames.
    Parts,
    /// The second frame is neither a JSON object nor a MessagePack map (nor an array, in a batch).
    Encoding,
    /// A batch whose own structure is broken; none of it is used.
    Batch,
    /// More items than a batch may have; none of it is used.
    BatchItems,
    /// An item of a batch that is no pair of topic and object.
    Item,
    /// A payload beyond 64 KiB.
    PayloadBytes,
    /// A topic that is no market data, order or invalidation.
    Topic,
    /// An exchange or symbol that is too long or holds control characters.
    Instrument,
    /// A payload that is not what its first byte promised.
    Payload,
    /// A payload nested too deeply.
    PayloadDepth,
    /// Raw prices of a broker or exchange whose unit is not known.
    UnknownUnit,
    /// Too many instruments are known already.
    InstrumentLimit,
    /// An order without a user.
    OrderUser,
    /// An invalidation without a user.
    InvalidateUser,
}

impl Cause {
    /// All causes, for handles and docs.
    pub const ALL: [Cause; 14] = [
        Cause::Parts,
        Cause::Encoding,
        Cause::Batch,
        Cause::BatchItems,
        Cause::Item,
        Cause::PayloadBytes,
        Cause::Topic,
        Cause::Instrument,
        Cause::Payload,
        Cause::PayloadDepth,
        Cause::UnknownUnit,
        Cause::InstrumentLimit,
        Cause::OrderUser,
        Cause::InvalidateUser,
    ];

    /// Zero-based position in [`Cause::ALL`], for arrays of handles.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Parts => "parts",
            Cause::Encoding => "encoding",
            Cause::Batch => "batch",
            Cause::BatchItems => "batch_items",
            Cause::Item => "item",
            Cause::PayloadBytes => "payload_bytes",
            Cause::Topic => "topic",
            Cause::Instrument => "instrument",
            Cause::Payload => "payload",
            Cause::PayloadDepth => "payload_depth",
            Cause::UnknownUnit => "unknown_unit",
            Cause::InstrumentLimit => "instrument_limit",
            Cause::OrderUser => "order_user",
            Cause::InvalidateUser => "invalidate_user",
        }
    }
}

impl From<TopicError> for Cause {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Unacceptable => Cause::Instrument,
            TopicError::NotText | TopicError::NoMode | TopicError::NoInstrument => Cause::Topic,
        }
    }
}

impl From<DecodeError> for Cause {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooDeep => Cause::PayloadDepth,
            DecodeError::TooLarge => Cause::PayloadBytes,
            DecodeError::UnknownUnit => Cause::UnknownUnit,
            _ => Cause::Payload,
        }
    }
}

/// Appends the items of one message to `out`, in order. `rejected` hears of each bad item of a good batch.
///
/// # Errors
/// The message itself is unusable; `out` is then as it was, though `rejected` may have been called.
pub fn scan<'a>(
    topic: &'a [u8],
    body: &'a [u8],
    out: &mut Vec<Item<'a>>,
    rejected: &mut dyn FnMut(Cause),
) -> Result<Kind, Cause> {
    if topic == BATCH {
        let len = out.len();
        let done = match body.get(json::skip_blanks(body, 0)) {
            _ if body.first().is_some_and(|&b| is_array(b)) => scan_batch(body, out, rejected),
            Some(b'[') => scan_json_batch(body, out, rejected),
            _ => Err(Cause::Encoding),
        };
        return done.map(|()| Kind::Batch).inspect_err(|_| out.truncate(len));
    }
    let encoding = encoding_of(body).ok_or(Cause::Encoding)?;
    if body.len() > TICK_PAYLOAD_BYTES_MAX {
        return Err(Cause::PayloadBytes);
    }
    out.push(Item { topic, payload: body, encoding });
    Ok(match encoding {
        Encoding::Json => Kind::Json,
        Encoding::MsgPack => Kind::MsgPack,
    })
}

/// Fuzz entry: the first byte says how much of the rest is the topic; items lie within the body and can be read further.
pub fn fuzz_frames(bytes: &[u8]) {
    let Some((&len, rest)) = bytes.split_first() else { return };
    // A length beyond the rest makes a batch, which is what there is most to find in.
    let (topic, body) = rest.split_at_checked(len.into()).unwrap_or((BATCH, rest));
    let mut items = Vec::new();
    let _ = scan(topic, body, &mut items, &mut |_| {});
    assert!(items.len() <= BATCH_ITEMS_MAX);
    for Item { payload, encoding, .. } in items {
        assert!(payload.len() <= TICK_PAYLOAD_BYTES_MAX);
        has_ltp(payload, encoding);
        if let Ok(order) = order(payload, encoding) {
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&order.json).is_ok());
        }
        let _ = invalidate(payload, encoding);
    }
}

fn is_array(first: u8) -> bool {
    matches!(first, 0x90..=0x9f | 0xdc | 0xdd)
}

/// How a single payload is encoded, by its first byte; blanks may stand before JSON.
fn encoding_of(payload: &[u8]) -> Option<Encoding> {
    match payload.first()? {
        0x80..=0x8f | 0xde | 0xdf => Some(Encoding::MsgPack),
        _ => (payload.get(json::skip_blanks(payload, 0)) == Some(&b'{')).then_some(Encoding::Json),
    }
}

fn scan_batch<'a>(body: &'a [u8], out: &mut Vec<Item<'a>>, rejected: &mut dyn FnMut(Cause)) -> Result<(), Cause> {
    let mut reader = Reader::new(body);
    let Ok(Head::Array(items)) = reader.head() else { return Err(Cause::Batch) };
    if items > BATCH_ITEMS_MAX {
        return Err(Cause::BatchItems);
    }
    for _ in 0..items {
        let start = reader;
        match pair(&mut reader) {
            Some(item) if item.payload.len() > TICK_PAYLOAD_BYTES_MAX => rejected(Cause::PayloadBytes),
            Some(item) => out.push(item),
            None => {
                // Not a pair we understand; if it is a value at all, the next item comes after it.
                reader = start;
                reader.skip().map_err(|_| Cause::Batch)?;
                rejected(Cause::Item);
            }
        }
    }
    if reader.at == body.len() { Ok(()) } else { Err(Cause::Batch) }
}

/// Reads `[topic, map]`.
fn pair<'a>(reader: &mut Reader<'a>) -> Option<Item<'a>> {
    let Ok(Head::Array(2)) = reader.head() else { return None };
    let Ok(Head::Str(topic)) = reader.head() else { return None };
    let rest = reader.rest();
    if encoding_of(rest) != Some(Encoding::MsgPack) {
        return None;
    }
    let start = reader.at;
    reader.skip().ok()?;
    Some(Item { topic, payload: rest.get(..reader.at - start)?, encoding: Encoding::MsgPack })
}

/// The same in JSON, which no publisher of either era sends but a script may.
fn scan_json_batch<'a>(body: &'a [u8], out: &mut Vec<Item<'a>>, rejected: &mut dyn FnMut(Cause)) -> Result<(), Cause> {
    let open = json::skip_blanks(body, 0);
    let mut at = json::skip_blanks(body, open + 1);
    let mut items = 0;
    while body.get(at) != Some(&b']') || items > 0 {
        items += 1;
        if items > BATCH_ITEMS_MAX {
            return Err(Cause::BatchItems);
        }
        let end = json::skip(body, at).ok_or(Cause::Batch)?;
        match json_pair(&body[at..end]) {
            Some(item) if item.payload.len() > TICK_PAYLOAD_BYTES_MAX => rejected(Cause::PayloadBytes),
            Some(item) => out.push(item),
            None => rejected(Cause::Item),
        }
        at = json::skip_blanks(body, end);
        match body.get(at) {
            Some(b',') => at = json::skip_blanks(body, at + 1),
            Some(b']') => break,
            _ => return Err(Cause::Batch),
        }
    }
    if json::skip_blanks(body, at + 1) == body.len() { Ok(()) } else { Err(Cause::Batch) }
}

fn json_pair(item: &[u8]) -> Option<Item<'_>> {
    let mut elements = json::Elements::new(item);
    let (topic, payload) = (elements.next()?, elements.next()?);
    // A topic with escapes is none of ours: exchanges and symbols need none.
    let topic = topic.strip_prefix(b"\"")?.strip_suffix(b"\"").filter(|topic| !topic.contains(&b'\\'))?;
    let is_pair = elements.next().is_none() && payload.first() == Some(&b'{');
    is_pair.then_some(Item { topic, payload, encoding: Encoding::Json })
}

/// Whether a payload names a price that can serve lower modes: a scan for the keys `ltp`, `last_price` and
/// `last_traded_price`, at any depth, without decoding. Decoding may still find no finite number there.
pub fn has_ltp(payload: &[u8], encoding: Encoding) -> bool {
    static NAMES: LazyLock<[Finder<'static>; 3]> =
        LazyLock::new(|| ["ltp", "last_price", "last_traded_price"].map(Finder::new));
    NAMES.iter().any(|name| has_key(name, payload, encoding))
}

/// Whether a native feed says that this payload only repeats its last price.
pub fn repeats_ltp(payload: &[u8], encoding: Encoding) -> bool {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(LTP_UNCHANGED));
    has_key(&NAME, payload, encoding)
}

fn has_key(name: &Finder<'_>, payload: &[u8], encoding: Encoding) -> bool {
    let len = name.needle().len();
    name.find_iter(payload).any(|at| match encoding {
        Encoding::Json => {
            at > 0
                && payload[at - 1] == b'"'
                && payload.get(at + len) == Some(&b'"')
                && payload.get(json::skip_blanks(payload, at + len + 1)) == Some(&b':')
        }
        // The byte before is the marker of a short text, or the length of a longer form.
        Encoding::MsgPack => {
            at > 0 && (usize::from(payload[at - 1]) == 0xa0 | len || usize::from(payload[at - 1]) == len)
        }
    })
}

/// An order update for one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whose order it is.
    pub user_id: String,
    /// What that user's clients get.
    pub json: Vec<u8>,
}

/// Reads an order update; clients get JSON as it came, blanks around it and what is not JSON aside.
///
/// # Errors
/// [`Cause::OrderUser`] without a `user_id`, else what is wrong with the payload.
pub fn order(payload: &[u8], encoding: Encoding) -> Result<Order, Cause> {
    let mut json = Vec::new();
    let payload = checked(payload, encoding, &mut json)?;
    let user_id = user(payload).ok_or(Cause::OrderUser)?;
    Ok(Order { user_id, json })
}

/// Which caches of a user are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidateKind {
    /// Credentials.
    Auth,
    /// The feed.
    Feed,
    /// Everything.
    All,
}

/// Caches of one user are void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidate {
    /// Whose caches.
    pub user: String,
    /// Which of them.
    pub kind: InvalidateKind,
}

/// Reads an invalidation; a missing or unknown `cache_type` means everything, which is safe.
///
/// # Errors
/// [`Cause::InvalidateUser`] without a `user_id`, else what is wrong with the payload.
pub fn invalidate(payload: &[u8], encoding: Encoding) -> Result<Invalidate, Cause> {
    let mut json = Vec::new();
    let payload = checked(payload, encoding, &mut json)?;
    let user = user(payload).ok_or(Cause::InvalidateUser)?;
    let kind = match payload.get("cache_type").and_then(Value::text) {
        Some(kind) if kind.eq_ignore_ascii_case("auth") => InvalidateKind::Auth,
        Some(kind) if kind.eq_ignore_ascii_case("feed") => InvalidateKind::Feed,
        _ => InvalidateKind::All,
    };
    Ok(Invalidate { user, kind })
}

/// Checks the payload and appends it as JSON.
fn checked<'a>(payload: &'a [u8], encoding: Encoding, out: &mut Vec<u8>) -> Result<Value<'a>, Cause> {
    if payload.len() > TICK_PAYLOAD_BYTES_MAX {
        return Err(Cause::PayloadBytes);
    }
    let payload = if encoding == Encoding::Json { payload.trim_ascii() } else { payload };
    match encoding {
        Encoding::Json => {
            let mut nulls = json::Nulls::new();
            json::scan(payload, &mut nulls, |_, _, _| {})?;
            json::write(payload, &nulls, out);
        }
        Encoding::MsgPack => {
            msgpack::scan(payload, |_, _| {})?;
            msgpack::write_json(payload, None, out)?;
        }
    }
    Ok(Value { bytes: payload, encoding })
}

/// The user named in a payload; a number is taken by its text.
fn user(payload: Value<'_>) -> Option<String> {
    let value = payload.get("user_id")?;
    let user = match value.text() {
        Some(text) => text.into_owned(),
        None => {
            let mut text = Vec::new();
            value.number()?.write_json(&mut text);
            String::from_utf8(text).ok()?
        }
    };
    (!user.is_empty()).then_some(user)
}

#[cfg(test)]
mod tests;
