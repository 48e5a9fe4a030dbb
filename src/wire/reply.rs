//! Replies, errors and notices as JSON payloads, with the protocol's keys in upstream's order.
//!
//! Each writer appends one JSON object to a `Vec`; [`frame()`] makes the WebSocket frame of it in the session's format:
//! JSON as text, MessagePack as `[0, map]` in a binary frame. A reply is rare, so MessagePack is transcoded from it.
//! What is echoed was bounded when it was parsed. Tests: `reply/tests.rs`.

#[cfg(test)]
mod tests;

use super::{
    command::{Depth, EntryError},
    error::ErrorCode,
    frame::{self, Opcode},
    json::{cut, integer, string},
    transcode,
};
use crate::limits::ACK_BYTES_MAX;
use crate::model::{FeedState, Format, InstrumentRef, Mode, StreamId};
use serde_json::value::RawValue;

/// One entry of a subscribe acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct AckEntry<'a> {
    /// As sent.
    pub symbol: &'a str,
    /// As sent.
    pub exchange: &'a str,
    /// How it went.
    pub outcome: AckOutcome<'a>,
}

/// How an entry of a subscribe went.
#[derive(Clone, Copy, Debug)]
pub enum AckOutcome<'a> {
    /// Subscribed.
    Success(Subscribed<'a>),
    /// The session holds it already.
    Duplicate(Subscribed<'a>),
    /// Not subscribed.
    Error {
        /// For humans; the adapter's words or ours.
        message: &'a str,
        /// Ours, when the fault is not the broker's.
        code: Option<ErrorCode>,
    },
}

/// What a subscription is.
#[derive(Clone, Copy, Debug)]
pub struct Subscribed<'a> {
    /// The mode subscribed.
    pub mode: Mode,
    /// The adapter's actual depth, else what was asked for.
    pub depth: &'a Depth,
    /// The instrument's number in MessagePack ticks.
    pub id: StreamId,
    /// Decimal places of its prices in MessagePack ticks.
    pub scale: u8,
}

impl<'a> From<&'a EntryError> for AckEntry<'a> {
    fn from(error: &'a EntryError) -> Self {
        let outcome = AckOutcome::Error { message: error.message, code: Some(error.code) };
        AckEntry { symbol: &error.symbol, exchange: &error.exchange, outcome }
    }
}

/// An entry of an unsubscribe that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedEntry<'a> {
    /// As sent.
    pub symbol: &'a str,
    /// As sent.
    pub exchange: &'a str,
    /// For humans.
    pub message: &'a str,
}

impl<'a> From<&'a EntryError> for FailedEntry<'a> {
    fn from(error: &'a EntryError) -> Self {
        FailedEntry { symbol: &error.symbol, exchange: &error.exchange, message: error.message }
    }
}

/// Message of a subscribe entry that the session holds already.
pub const ALREADY_SUBSCRIBED: &str = "Already subscribed";
/// Message of an unsubscribe entry that the session does not hold.
pub const NOT_SUBSCRIBED: &str = "Client is not subscribed to this symbol/exchange/mode";
/// Message of a `NOT_AUTHENTICATED` error.
pub const NOT_AUTHENTICATED: &str = "Not authenticated; send authenticate first";
/// Message of an `AUTHENTICATION_ERROR` when no key was sent; clients know it.
pub const KEY_REQUIRED: &str = "API key is required";
/// Message of an `AUTHENTICATION_ERROR` when the key is unknown; clients know it.
pub const KEY_INVALID: &str = "Invalid API key";

/// Authentication succeeded.
pub fn auth_success(out: &mut Vec<u8>, broker: &str, user: &str, epoch: u64) {
    out.extend_from_slice(br#"{"type":"auth","status":"success","message":"Authentication successful","broker":"#);
    string(out, broker);
    out.extend_from_slice(br#","user_id":"#);
    string(out, user);
    out.extend_from_slice(br#","supported_features":{"ltp":true,"quote":true,"depth":true},"epoch":"#);
    integer(out, epoch);
    out.push(b'}');
}

/// Acknowledges a subscribe: `partial` as soon as one entry is an error, else `success`. `format` is the session's:
/// only MessagePack acknowledgements carry `id` and `scale`.
pub fn subscribe_ack(
    out: &mut Vec<u8>,
    format: Format,
    broker: &str,
    entries: &[AckEntry<'_>],
    request_id: Option<&RawValue>,
) {
    within_ack_bytes_max(out, |out, message_max| {
        write_subscribe_ack(out, format, broker, entries, request_id, message_max);
    });
}

fn write_subscribe_ack(
    out: &mut Vec<u8>,
    format: Format,
    broker: &str,
    entries: &[AckEntry<'_>],
    request_id: Option<&RawValue>,
    message_max: usize,
) {
    let partial = entries.iter().any(|entry| matches!(entry.outcome, AckOutcome::Error { .. }));
    out.extend_from_slice(br#"{"type":"subscribe","status":"#);
    string(out, if partial { "partial" } else { "success" });
    out.extend_from_slice(br#","subscriptions":["#);
    list(out, entries, |out, entry| ack_entry(out, format, broker, entry, message_max));
    out.extend_from_slice(br#"],"message":"Subscription processing complete","broker":"#);
    string(out, broker);
    end(out, request_id);
}

fn ack_entry(out: &mut Vec<u8>, format: Format, broker: &str, entry: &AckEntry<'_>, message_max: usize) {
    named(out, entry.symbol, entry.exchange);
    match entry.outcome {
        AckOutcome::Success(held) => {
            out.extend_from_slice(br#","status":"success""#);
            subscribed(out, format, held);
        }
        AckOutcome::Duplicate(held) => {
            out.extend_from_slice(br#","status":"warning""#);
            key_string(out, "message", ALREADY_SUBSCRIBED);
            subscribed(out, format, held);
        }
        AckOutcome::Error { message, code } => {
            out.extend_from_slice(br#","status":"error""#);
            if let Some(code) = code {
                key_string(out, "code", code.as_str());
            }
            key_string(out, "message", cut(message, message_max));
        }
    }
    key_string(out, "broker", broker);
    out.push(b'}');
}

fn subscribed(out: &mut Vec<u8>, format: Format, held: Subscribed<'_>) {
    key_string(out, "mode", held.mode.label());
    out.extend_from_slice(br#","depth":"#);
    match held.depth {
        Depth::Levels(levels) => integer(out, *levels),
        Depth::Other(raw) => out.extend_from_slice(raw.get().as_bytes()),
    }
    if format == Format::MsgPack {
        out.extend_from_slice(br#","id":"#);
        integer(out, held.id.0);
        out.extend_from_slice(br#","scale":"#);
        integer(out, held.scale);
    }
}

/// Acknowledges an unsubscribe or `unsubscribe_all`: `success` when nothing failed, `partial` when something did and
/// something did not, else `error`. `unsubscribe_all` lists an instrument once per mode held.
pub fn unsubscribe_ack(
    out: &mut Vec<u8>,
    broker: &str,
    successful: &[InstrumentRef<'_>],
    failed: &[FailedEntry<'_>],
    request_id: Option<&RawValue>,
) {
    within_ack_bytes_max(out, |out, message_max| {
        write_unsubscribe_ack(out, broker, successful, failed, request_id, message_max);
    });
}

fn write_unsubscribe_ack(
    out: &mut Vec<u8>,
    broker: &str,
    successful: &[InstrumentRef<'_>],
    failed: &[FailedEntry<'_>],
    request_id: Option<&RawValue>,
    message_max: usize,
) {
    let status = match (successful.is_empty(), failed.is_empty()) {
        (_, true) => "success",
        (false, false) => "partial",
        (true, false) => "error",
    };
    out.extend_from_slice(br#"{"type":"unsubscribe","status":"#);
    string(out, status);
    out.extend_from_slice(br#","message":"Unsubscription processing complete","successful":["#);
    list(out, successful, |out, instrument| {
        named(out, instrument.symbol, instrument.venue);
        out.extend_from_slice(br#","status":"success""#);
        key_string(out, "broker", broker);
        out.push(b'}');
    });
    out.extend_from_slice(br#"],"failed":["#);
    list(out, failed, |out, entry| {
        named(out, entry.symbol, entry.exchange);
        out.extend_from_slice(br#","status":"error""#);
        key_string(out, "message", cut(entry.message, message_max));
        key_string(out, "broker", broker);
        out.push(b'}');
    });
    out.push(b']');
    key_string(out, "broker", broker);
    end(out, request_id);
}

/// Acknowledges `subscribe_orders`.
pub fn orders_subscribed(out: &mut Vec<u8>, request_id: Option<&RawValue>) {
    out.extend_from_slice(br#"{"type":"subscribe_orders","status":"success","message":"Subscribed to order updates""#);
    end(out, request_id);
}

/// Acknowledges `unsubscribe_orders`.
pub fn orders_unsubscribed(out: &mut Vec<u8>, request_id: Option<&RawValue>) {
    out.extend_from_slice(
        br#"{"type":"unsubscribe_orders","status":"success","message":"Unsubscribed from order updates""#,
    );
    end(out, request_id);
}

/// Answers `get_broker_info`; `adapter_status` is `connected`, `disconnected` or the adapter's own word.
pub fn broker_info(out: &mut Vec<u8>, broker: &str, adapter_status: &str, user: &str) {
    out.extend_from_slice(br#"{"type":"broker_info","status":"success""#);
    key_string(out, "broker", broker);
    key_string(out, "adapter_status", adapter_status);
    key_string(out, "user_id", user);
    out.push(b'}');
}

/// Answers `get_supported_brokers`.
pub fn supported_brokers(out: &mut Vec<u8>, brokers: &[&str]) {
    out.extend_from_slice(br#"{"type":"supported_brokers","status":"success","brokers":["#);
    list(out, brokers, |out, broker| string(out, broker));
    out.extend_from_slice(br#"],"count":"#);
    integer(out, brokers.len());
    out.push(b'}');
}

/// Answers `ping`; `server_ms` is our clock in milliseconds since the UNIX epoch.
pub fn pong(out: &mut Vec<u8>, server_ms: u64, timestamp: Option<&RawValue>, ping_id: Option<&RawValue>) {
    out.extend_from_slice(br#"{"type":"pong","status":"success","server_timestamp":"#);
    integer(out, server_ms);
    for (key, raw) in [("client_timestamp", timestamp), ("_pingId", ping_id)] {
        if let Some(raw) = raw {
            key_raw(out, key, raw);
        }
    }
    out.push(b'}');
}

/// An error frame: no `type`, and `request_id` only when the request had one.
pub fn error(out: &mut Vec<u8>, code: ErrorCode, message: &str, request_id: Option<&RawValue>) {
    out.extend_from_slice(br#"{"status":"error""#);
    key_string(out, "code", code.as_str());
    key_string(out, "message", message);
    end(out, request_id);
}

/// The notice that a broker's feed changed its state; `since_ms` in milliseconds since the UNIX epoch.
pub fn feed_status(out: &mut Vec<u8>, broker: &str, state: FeedState, since_ms: u64, detail: &str) {
    out.extend_from_slice(br#"{"type":"feed_status""#);
    key_string(out, "broker", broker);
    key_string(out, "state", state.as_str());
    out.extend_from_slice(br#","since":"#);
    integer(out, since_ms);
    key_string(out, "detail", detail);
    out.push(b'}');
}

/// The notice that the server's overload level changed.
pub fn overload(out: &mut Vec<u8>, level: u8) {
    out.extend_from_slice(br#"{"type":"overload","level":"#);
    integer(out, level);
    out.push(b'}');
}

/// The WebSocket frame of a JSON payload in the session's format. A payload that MessagePack cannot hold (an order
/// update that is no JSON) goes out as the JSON text it is.
pub fn frame(format: Format, payload: &[u8]) -> Vec<u8> {
    match format {
        Format::Json => frame_text(payload),
        Format::MsgPack => frame_msgpack(payload).unwrap_or_else(|_| frame_text(payload)),
    }
}

/// A text frame.
pub fn frame_text(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    frame::write(&mut out, Opcode::Text, payload);
    out
}

/// A binary frame `[0, map]`.
///
/// # Errors
/// When `payload` is not one JSON value.
pub fn frame_msgpack(payload: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let map = transcode::to_msgpack(payload)?;
    let mut out = Vec::with_capacity(map.len() + 12);
    let start = frame::begin(&mut out);
    out.extend_from_slice(&[0x92, 0]);
    out.extend_from_slice(&map);
    frame::finish(&mut out, start, Opcode::Binary);
    Ok(out)
}

/// Writes an acknowledgement with the longest entry messages with which it stays within [`ACK_BYTES_MAX`]: a client that
/// refuses a larger one would lose what succeeded, too. Thousands of entries that all failed may come without reasons.
fn within_ack_bytes_max(out: &mut Vec<u8>, write: impl Fn(&mut Vec<u8>, usize)) {
    let start = out.len();
    for message_max in [usize::MAX, 24, 0] {
        out.truncate(start);
        write(out, message_max);
        if out.len() - start <= ACK_BYTES_MAX {
            return;
        }
    }
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}

/// Opens an entry.
fn named(out: &mut Vec<u8>, symbol: &str, exchange: &str) {
    out.extend_from_slice(br#"{"symbol":"#);
    string(out, symbol);
    key_string(out, "exchange", exchange);
}

fn key_string(out: &mut Vec<u8>, key: &str, value: &str) {
    out.push(b',');
    string(out, key);
    out.push(b':');
    string(out, value);
}

fn key_raw(out: &mut Vec<u8>, key: &str, raw: &RawValue) {
    out.push(b',');
    string(out, key);
    out.push(b':');
    out.extend_from_slice(raw.get().as_bytes());
}

fn end(out: &mut Vec<u8>, request_id: Option<&RawValue>) {
    if let Some(raw) = request_id {
        key_raw(out, "request_id", raw);
    }
    out.push(b'}');
}
