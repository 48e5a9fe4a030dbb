//! Commands: a client's message becomes a [`Command`] here and nowhere else (protocol 1.2, 1.4 to 1.10, D13, D14).
//!
//! In: one message and its encoding. Out: a command whose every name, mode and option is checked, or a
//! [`CommandError`] that is the error frame to send. A bad entry of a list costs that entry only.
//! Promises: never panics, borrows while parsing (no tree of values), and everything that will be echoed is bounded,
//! so an acknowledgement stays near the size of its request. JSON keys may repeat: the last one counts, as in Python.
//! Knows nothing of sessions: whether a command is allowed now is decided there.
//! Tests: `command/tests.rs`.

mod fields;
mod options;
#[cfg(test)]
mod tests;

pub use options::{Delivery, MAX_RATE_MAX, MaxRate, Options};

use super::{error::ErrorCode, json::cut, transcode};
use crate::limits::{SYMBOL_BYTES_MAX, VENUE_BYTES_MAX};
use crate::model::{Format, Instrument, InstrumentRef, Mode};
use fields::{Fields, text, truthy};
use serde_json::value::RawValue;
use std::fmt;

/// Depth levels when none are asked for.
pub const DEPTH_DEFAULT: u32 = 5;
/// A `request_id`, `timestamp` or `_pingId`, bytes of JSON: it is echoed.
pub const ECHO_BYTES_MAX: usize = 4096;
/// A `depth` that is no integer, bytes of JSON: it is echoed once per entry.
pub const DEPTH_BYTES_MAX: usize = 32;

/// What a client wants.
pub enum Command {
    /// Log in.
    Authenticate {
        /// The key as sent; `None` when missing or empty.
        key: Option<String>,
    },
    /// Market data.
    Subscribe(SubscribeRequest),
    /// No more market data of some instruments.
    Unsubscribe(UnsubscribeRequest),
    /// No more market data at all.
    UnsubscribeAll {
        /// To echo.
        request_id: Option<Box<RawValue>>,
    },
    /// Order updates.
    SubscribeOrders {
        /// To echo.
        request_id: Option<Box<RawValue>>,
    },
    /// No more order updates.
    UnsubscribeOrders {
        /// To echo.
        request_id: Option<Box<RawValue>>,
    },
    /// Which broker, and how its adapter does.
    BrokerInfo,
    /// The brokers this server knows.
    SupportedBrokers,
    /// Are you there?
    Ping {
        /// To echo as `client_timestamp`.
        timestamp: Option<Box<RawValue>>,
        /// To echo as `_pingId`.
        ping_id: Option<Box<RawValue>>,
    },
}

impl Command {
    /// The action's canonical name, the value of the `action` metric label.
    pub const fn action(&self) -> &'static str {
        match self {
            Command::Authenticate { .. } => Action::Authenticate.label(),
            Command::Subscribe(_) => Action::Subscribe.label(),
            Command::Unsubscribe(_) => Action::Unsubscribe.label(),
            Command::UnsubscribeAll { .. } => Action::UnsubscribeAll.label(),
            Command::SubscribeOrders { .. } => Action::SubscribeOrders.label(),
            Command::UnsubscribeOrders { .. } => Action::UnsubscribeOrders.label(),
            Command::BrokerInfo => Action::BrokerInfo.label(),
            Command::SupportedBrokers => Action::SupportedBrokers.label(),
            Command::Ping { .. } => Action::Ping.label(),
        }
    }

    /// Whether the session must be authenticated.
    pub const fn needs_auth(&self) -> bool {
        !matches!(self, Command::Authenticate { .. } | Command::SupportedBrokers | Command::Ping { .. })
    }
}

impl fmt::Debug for Command {
    /// The action only: a command may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({})", self.action())
    }
}

/// Names of the actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Authenticate,
    Subscribe,
    Unsubscribe,
    UnsubscribeAll,
    SubscribeOrders,
    UnsubscribeOrders,
    BrokerInfo,
    SupportedBrokers,
    Ping,
}

impl Action {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "authenticate" | "auth" => Action::Authenticate,
            "subscribe" => Action::Subscribe,
            "unsubscribe" => Action::Unsubscribe,
            "unsubscribe_all" => Action::UnsubscribeAll,
            "subscribe_orders" => Action::SubscribeOrders,
            "unsubscribe_orders" => Action::UnsubscribeOrders,
            "get_broker_info" => Action::BrokerInfo,
            "get_supported_brokers" => Action::SupportedBrokers,
            "ping" => Action::Ping,
            _ => return None,
        })
    }

    const fn label(self) -> &'static str {
        match self {
            Action::Authenticate => "authenticate",
            Action::Subscribe => "subscribe",
            Action::Unsubscribe => "unsubscribe",
            Action::UnsubscribeAll => "unsubscribe_all",
            Action::SubscribeOrders => "subscribe_orders",
            Action::UnsubscribeOrders => "unsubscribe_orders",
            Action::BrokerInfo => "get_broker_info",
            Action::SupportedBrokers => "get_supported_brokers",
            Action::Ping => "ping",
        }
    }
}

/// A subscribe.
#[derive(Debug)]
pub struct SubscribeRequest {
    /// To echo.
    pub request_id: Option<Box<RawValue>>,
    /// One depth for all entries.
    pub depth: Depth,
    /// In request order; entries without symbol or exchange are already left out.
    pub entries: Vec<Result<Entry, EntryError>>,
}

/// One instrument to subscribe.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name, within the limits.
    pub instrument: Instrument,
    /// What kind of tick.
    pub mode: Mode,
    /// How it should be delivered.
    pub options: Options,
}

/// An unsubscribe.
#[derive(Debug)]
pub struct UnsubscribeRequest {
    /// To echo.
    pub request_id: Option<Box<RawValue>>,
    /// In request order; entries without symbol or exchange are already left out.
    pub entries: Vec<Result<UnsubscribeEntry, EntryError>>,
}

/// One instrument to unsubscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubscribeEntry {
    /// Its name, within the limits.
    pub instrument: Instrument,
    /// Which of its modes.
    pub mode: ModeChoice,
}

/// Which mode an unsubscribe means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeChoice {
    /// This one.
    Given(Mode),
    /// None was named: Quote if it is held, else every mode held of the instrument (D13).
    Unspecified,
}

/// An entry that cannot be carried out; the other entries still are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryError {
    /// As sent, cut to the limit.
    pub symbol: String,
    /// As sent, cut to the limit.
    pub exchange: String,
    /// What is wrong.
    pub code: ErrorCode,
    /// What is wrong, and what would be right.
    pub message: &'static str,
}

/// The depth that was asked for.
#[derive(Clone, Debug)]
pub enum Depth {
    /// So many levels.
    Levels(u32),
    /// Something that is no whole number; echoed verbatim, and [`DEPTH_DEFAULT`] for the adapter.
    Other(Box<RawValue>),
}

impl Depth {
    /// What the adapter gets.
    pub const fn levels(&self) -> u32 {
        match self {
            Depth::Levels(levels) => *levels,
            Depth::Other(_) => DEPTH_DEFAULT,
        }
    }
}

/// A message that is no command: the error frame to send.
#[derive(Debug)]
pub struct CommandError {
    /// What is wrong.
    pub code: ErrorCode,
    /// For humans.
    pub message: String,
    /// To echo.
    pub request_id: Option<Box<RawValue>>,
    /// The action was recognised and needs authentication: a session without it answers `NOT_AUTHENTICATED` instead.
    pub needs_auth: bool,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for CommandError {}

/// Reads one message. `format` is the session's; `binary` says which kind of WebSocket message it was: MessagePack
/// clients send MessagePack in binary ones, everything else is JSON. At most `entries_max` entries are accepted.
///
/// # Errors
/// A [`CommandError`] when the whole message is refused.
pub fn parse(payload: &[u8], binary: bool, format: Format, entries_max: usize) -> Result<Command, CommandError> {
    if binary && format == Format::MsgPack {
        let json = transcode::to_json(payload)
            .map_err(|why| refuse(ErrorCode::InvalidJson, format!("Invalid MessagePack message: {why}")))?;
        parse_json(&json, format, entries_max)
    } else {
        parse_json(payload, format, entries_max)
    }
}

fn parse_json(payload: &[u8], format: Format, entries_max: usize) -> Result<Command, CommandError> {
    let invalid = || refuse(ErrorCode::InvalidJson, "Invalid JSON message".into());
    let json = std::str::from_utf8(payload).map_err(|_| invalid())?;
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(json) else {
        // Either no JSON at all, or JSON that is no object.
        return Err(match serde_json::from_str::<serde::de::IgnoredAny>(json) {
            Ok(_) => refuse(ErrorCode::ServerError, "A message must be a JSON object".into()),
            Err(_) => invalid(),
        });
    };
    let name = [fields.action, fields.r#type].into_iter().find_map(truthy);
    let action = name.and_then(|raw| Action::from_name(&text(raw)?));
    let request_id = echo(fields.request_id).map_err(|message| refuse(ErrorCode::InvalidParameters, message))?;
    let Some(action) = action else {
        let shown = name.map_or("None".into(), |raw| text(raw).unwrap_or(raw.get().into()));
        let shown: String = shown.chars().take(64).collect();
        let message = format!("Invalid action: {shown}");
        return Err(CommandError { code: ErrorCode::InvalidAction, message, request_id, needs_auth: false });
    };
    Parser { fields, format, entries_max }.command(action, request_id)
}

fn refuse(code: ErrorCode, message: String) -> CommandError {
    CommandError { code, message, request_id: None, needs_auth: false }
}

/// A value to echo, owned; null is none.
fn echo(raw: Option<&RawValue>) -> Result<Option<Box<RawValue>>, String> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    if raw.get().len() > ECHO_BYTES_MAX {
        return Err(format!("request_id, timestamp and _pingId may be at most {ECHO_BYTES_MAX} bytes long"));
    }
    // What cannot be held as a value (1e999, half a surrogate pair, deep nesting) could not be put into a MessagePack
    // reply, and would break a browser.
    let nesting = raw.get().bytes().filter(|b| matches!(b, b'[' | b'{')).count();
    if nesting > 64 || serde_json::from_str::<serde_json::Value>(raw.get()).is_err() {
        return Err("request_id, timestamp and _pingId must be plain JSON values".into());
    }
    Ok(Some(raw.to_owned()))
}

/// Why a request as a whole is refused.
type Refusal = (ErrorCode, String);

struct Parser<'a> {
    fields: Fields<'a>,
    format: Format,
    entries_max: usize,
}

impl Parser<'_> {
    fn command(&self, action: Action, request_id: Option<Box<RawValue>>) -> Result<Command, CommandError> {
        self.make(action, &request_id).map_err(|(code, message)| CommandError {
            code,
            message,
            request_id,
            needs_auth: matches!(action, Action::Subscribe | Action::Unsubscribe),
        })
    }

    fn make(&self, action: Action, request_id: &Option<Box<RawValue>>) -> Result<Command, Refusal> {
        let fields = &self.fields;
        let request_id = request_id.clone();
        let echo = |raw| echo(raw).map_err(|message| (ErrorCode::InvalidParameters, message));
        Ok(match action {
            Action::Authenticate => {
                let key = [fields.api_key, fields.apikey].into_iter().find_map(truthy).and_then(text);
                Command::Authenticate { key: key.map(Into::into) }
            }
            Action::Subscribe => {
                let (depth, entries) = self.subscribe()?;
                Command::Subscribe(SubscribeRequest { request_id, depth, entries })
            }
            Action::Unsubscribe => {
                Command::Unsubscribe(UnsubscribeRequest { request_id, entries: self.unsubscribe()? })
            }
            Action::UnsubscribeAll => Command::UnsubscribeAll { request_id },
            Action::SubscribeOrders => Command::SubscribeOrders { request_id },
            Action::UnsubscribeOrders => Command::UnsubscribeOrders { request_id },
            Action::BrokerInfo => Command::BrokerInfo,
            Action::SupportedBrokers => Command::SupportedBrokers,
            Action::Ping => Command::Ping { timestamp: echo(fields.timestamp)?, ping_id: echo(fields.ping_id)? },
        })
    }

    fn subscribe(&self) -> Result<(Depth, Vec<Result<Entry, EntryError>>), Refusal> {
        let mode = mode(self.fields.mode).map_err(|()| (ErrorCode::InvalidMode, BAD_MODE.to_owned()))?;
        let mode = mode.unwrap_or(Mode::Quote);
        let depth = depth(self.fields.depth.or(self.fields.depth_level))?;
        let defaults = &self.fields;
        let format = self.format;
        let entries = self.entries("At least one symbol must be specified", |entry, instrument| {
            let own = self::mode(entry.mode).map_err(|()| (ErrorCode::InvalidMode, BAD_MODE))?;
            let mode = own.unwrap_or(mode);
            let options = options::parse(entry, defaults, mode, format)
                .map_err(|message| (ErrorCode::InvalidParameters, message))?;
            Ok(Entry { instrument: instrument.to_owned(), mode, options })
        })?;
        Ok((depth, entries))
    }

    fn unsubscribe(&self) -> Result<Vec<Result<UnsubscribeEntry, EntryError>>, Refusal> {
        let default = mode(self.fields.mode);
        if default.is_err() && !self.fields.has_list() {
            return Err((ErrorCode::InvalidMode, BAD_MODE.to_owned()));
        }
        self.entries("Name at least one symbol, or use unsubscribe_all", |entry, instrument| {
            let own = mode(entry.mode).map_err(|()| (ErrorCode::InvalidMode, BAD_MODE))?;
            let mode = match own {
                Some(mode) => Some(mode),
                None => default.map_err(|()| (ErrorCode::InvalidMode, BAD_MODE))?,
            };
            let mode = mode.map_or(ModeChoice::Unspecified, ModeChoice::Given);
            Ok(UnsubscribeEntry { instrument: instrument.to_owned(), mode })
        })
    }

    /// The entries of the list, or of the top-level form, each made by `make`.
    fn entries<T>(
        &self,
        none: &str,
        make: impl Fn(&Fields<'_>, InstrumentRef<'_>) -> Result<T, (ErrorCode, &'static str)>,
    ) -> Result<Vec<Result<T, EntryError>>, Refusal> {
        let invalid = |message: &str| (ErrorCode::InvalidParameters, message.to_owned());
        if let Some(list) = self.fields.list() {
            let mut made = Vec::new();
            let count = fields::each(list, self.entries_max, |entry| made.extend(one(&entry, &make)))
                .map_err(|_| invalid("symbols must be an array of objects with symbol and exchange"))?;
            if count > self.entries_max {
                let message =
                    format!("{count} symbols in one request; at most {} fit, please split it", self.entries_max);
                return Err((ErrorCode::LimitExceeded, message));
            }
            return Ok(made);
        }
        let top = one(&self.fields, &make).ok_or_else(|| invalid(none))?;
        Ok(vec![top])
    }
}

const BAD_MODE: &str = "Invalid mode: use 1, 2 or 3, or LTP, Quote or Depth";
const BAD_NAME: &str = "symbol and exchange must be strings of at most 64 and 32 bytes without control characters";

/// One entry; `None` when symbol or exchange is missing.
fn one<T>(
    entry: &Fields<'_>,
    make: impl Fn(&Fields<'_>, InstrumentRef<'_>) -> Result<T, (ErrorCode, &'static str)>,
) -> Option<Result<T, EntryError>> {
    let (raw_symbol, raw_exchange) = (truthy(entry.symbol)?, truthy(entry.exchange)?);
    let failed = |symbol: &str, exchange: &str, code, message| EntryError {
        symbol: cut(symbol, SYMBOL_BYTES_MAX).into(),
        exchange: cut(exchange, VENUE_BYTES_MAX).into(),
        code,
        message,
    };
    let (Some(symbol), Some(venue)) = (text(raw_symbol), text(raw_exchange)) else {
        let error = failed(raw_symbol.get(), raw_exchange.get(), ErrorCode::InvalidParameters, BAD_NAME);
        return Some(Err(error));
    };
    let instrument = InstrumentRef { venue: &venue, symbol: &symbol };
    if !instrument.is_acceptable() {
        return Some(Err(failed(&symbol, &venue, ErrorCode::InvalidParameters, BAD_NAME)));
    }
    Some(make(entry, instrument).map_err(|(code, message)| failed(&symbol, &venue, code, message)))
}

/// A mode if one is given: the integers 1 to 3, or a label in any case. `"1"`, null, booleans and floats are refused.
fn mode(raw: Option<&RawValue>) -> Result<Option<Mode>, ()> {
    let Some(raw) = raw else { return Ok(None) };
    let mode = match raw.get() {
        "1" => Some(Mode::Ltp),
        "2" => Some(Mode::Quote),
        "3" => Some(Mode::Depth),
        _ => text(raw).and_then(|label| Mode::from_label(&label)),
    };
    mode.map(Some).ok_or(())
}

fn depth(raw: Option<&RawValue>) -> Result<Depth, Refusal> {
    let Some(raw) = raw else { return Ok(Depth::Levels(DEPTH_DEFAULT)) };
    if let Ok(levels) = serde_json::from_str::<u32>(raw.get()) {
        return Ok(Depth::Levels(levels));
    }
    let small = raw.get().len() <= DEPTH_BYTES_MAX;
    if small && serde_json::from_str::<serde_json::Value>(raw.get()).is_ok() {
        return Ok(Depth::Other(raw.to_owned()));
    }
    Err((ErrorCode::InvalidParameters, "depth must be a number of levels, e.g. 5 or 20".into()))
}
