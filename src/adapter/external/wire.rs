//! The maps of the control channel (CONTRACTS 5): one MessagePack map a message, `v: 1`, unknown keys and ops ignored.
//!
//! Pure. In: what an adapter sent. Out: [`Said`], or why it cannot be used; and the bytes of what the server says. Promise:
//! no panic and no memory by a declared length, whatever the bytes; text is bounded. Tests: at the end; fuzz entry: [`read`].

use crate::adapter::CallError;
use crate::limits::{CONTROL_NAME_BYTES_MAX, CONTROL_TEXT_BYTES_MAX, PUBLISHES_MAX};
use crate::model::Mode;
use crate::shards::key::{FaultCode, KeyName};
use crate::wire::transcode;
use bytes::Bytes;
use rmp::encode;
use serde::Deserialize;

/// What an adapter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is there and wants a session.
    Hello(Hello),
    /// The answer to a call.
    Result {
        /// Of the call.
        session: u64,
        /// Of the call.
        id: u64,
        /// Success with the depth really given, or why not.
        outcome: Result<Option<u32>, CallError>,
    },
    /// Whether its broker is connected.
    Status {
        /// Its session.
        session: u64,
        /// After a false, true means "replay me".
        connected: bool,
        /// For the log.
        detail: String,
    },
    /// A sign of life.
    Heartbeat {
        /// Its session.
        session: u64,
    },
    /// An op that this server does not know.
    Unknown,
}

/// Who an adapter is and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its broker, lower case.
    pub broker: String,
    /// Whose feed it is; `None` serves all users of the broker.
    pub user: Option<String>,
    /// By [`Mode::index`].
    pub modes: [bool; 3],
    /// Instruments it can hold; 0 = unknown.
    pub capacity: u64,
    /// Where it binds its publishers.
    pub publishes: Vec<String>,
    /// What `adapters.secret` must be equal to.
    pub secret: Option<String>,
    /// It publishes each tick once, in its highest mode; see [`crate::model::SourceMessage::highest_only`].
    pub highest_only: bool,
}

/// Why a message cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not one MessagePack map, or its values have other types.
    #[error("not a map of the control channel")]
    Map,
    /// `v` is not 1.
    #[error("another version than 1")]
    Version,
    /// A name that is empty, too long or holds control characters, a mode that does not exist, or too many endpoints.
    #[error("a value out of its bounds")]
    Bounds,
}

impl Malformed {
    /// All of them.
    pub const ALL: [Malformed; 3] = [Malformed::Map, Malformed::Version, Malformed::Bounds];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Malformed::Map => "map",
            Malformed::Version => "version",
            Malformed::Bounds => "bounds",
        }
    }
}

/// Every key that some op has.
#[derive(Deserialize)]
struct Map {
    v: u64,
    op: String,
    session: Option<u64>,
    id: Option<u64>,
    status: Option<String>,
    message: Option<String>,
    code: Option<String>,
    actual_depth: Option<u32>,
    connected: Option<bool>,
    detail: Option<String>,
    broker: Option<String>,
    user: Option<String>,
    modes: Option<Vec<u64>>,
    capacity: Option<u64>,
    publishes: Option<Vec<String>>,
    secret: Option<String>,
    highest_only: Option<bool>,
}

/// Reads one message.
///
/// # Errors
/// [`Malformed`].
pub fn read(message: &[u8]) -> Result<Said, Malformed> {
    let json = transcode::to_json(message).map_err(|_| Malformed::Map)?;
    let map: Map = serde_json::from_slice(&json).map_err(|_| Malformed::Map)?;
    if map.v != 1 {
        return Err(Malformed::Version);
    }
    let session = map.session.ok_or(Malformed::Map);
    Ok(match &map.op[..] {
        "hello" => Said::Hello(hello(map)?),
        "result" => Said::Result { session: session?, id: map.id.ok_or(Malformed::Map)?, outcome: outcome(map)? },
        "status" => Said::Status {
            session: session?,
            connected: map.connected.ok_or(Malformed::Map)?,
            detail: text(map.detail.unwrap_or_default()),
        },
        "heartbeat" => Said::Heartbeat { session: session? },
        _ => Said::Unknown,
    })
}

fn hello(map: Map) -> Result<Hello, Malformed> {
    let named = |name: &String| {
        !name.is_empty() && name.len() <= CONTROL_NAME_BYTES_MAX && !name.chars().any(|c| c.is_control() || c == ' ')
    };
    let broker = map.broker.ok_or(Malformed::Map)?;
    let publishes = map.publishes.unwrap_or_default();
    if !named(&broker) || !map.user.iter().all(named) || publishes.len() > PUBLISHES_MAX {
        return Err(Malformed::Bounds);
    }
    let mut modes = [map.modes.is_none(); 3];
    for mode in map.modes.into_iter().flatten() {
        modes[Mode::from_int(mode).ok_or(Malformed::Bounds)?.index()] = true;
    }
    let (capacity, highest_only) = (map.capacity.unwrap_or(0), map.highest_only.unwrap_or(false));
    let (broker, user, secret) = (broker.to_ascii_lowercase(), map.user, map.secret);
    Ok(Hello { broker, user, modes, capacity, publishes, secret, highest_only })
}

fn outcome(map: Map) -> Result<Result<Option<u32>, CallError>, Malformed> {
    match map.status.as_deref() {
        Some("success") => Ok(Ok(map.actual_depth)),
        Some("error") => {
            let is_full = map.code.as_deref() == Some(FaultCode::Capacity.code());
            let words = map.message.filter(|m| !m.is_empty()).or(map.code);
            let words = text(words.unwrap_or_else(|| "The adapter refused".to_owned()));
            Ok(Err(if is_full { CallError::Full(words) } else { CallError::Refused(words) }))
        }
        _ => Err(Malformed::Map),
    }
}

/// Words of an adapter go to clients and logs: not endless, and on one line.
pub(in crate::adapter) fn text(mut words: String) -> String {
    if words.len() > CONTROL_TEXT_BYTES_MAX {
        let end = (0..=CONTROL_TEXT_BYTES_MAX).rev().find(|at| words.is_char_boundary(*at)).unwrap_or(0);
        words.truncate(end);
    }
    if words.contains(char::is_control) { words.replace(char::is_control, " ") } else { words }
}

/// `hello_required`.
pub fn hello_required() -> Bytes {
    Writer::new("hello_required", None, 0).done()
}

/// `welcome`.
pub fn welcome(session: u64) -> Bytes {
    Writer::new("welcome", Some(session), 0).done()
}

/// `heartbeat`.
pub fn heartbeat(session: u64) -> Bytes {
    Writer::new("heartbeat", Some(session), 0).done()
}

/// `disconnect`, with the additive key `reason`; without a session, it refuses a hello.
pub fn disconnect(session: Option<u64>, reason: &str) -> Bytes {
    Writer::new("disconnect", session, 1).text("reason", reason).done()
}

/// `subscribe`.
pub fn subscribe(session: u64, id: u64, name: &KeyName, depth: u32) -> Bytes {
    Writer::new("subscribe", Some(session), 5).uint("id", id).key(name).uint("depth", depth.into()).done()
}

/// `unsubscribe`.
pub fn unsubscribe(session: u64, id: u64, name: &KeyName) -> Bytes {
    Writer::new("unsubscribe", Some(session), 4).uint("id", id).key(name).done()
}

/// `unsubscribe_all`.
pub fn unsubscribe_all(session: u64, id: u64) -> Bytes {
    Writer::new("unsubscribe_all", Some(session), 1).uint("id", id).done()
}

/// One map, key by key. Writing to memory cannot fail.
pub(in crate::adapter) struct Writer(Vec<u8>);

impl Writer {
    /// `v`, `op`, `session` if there is one, and room for `more` keys.
    pub(in crate::adapter) fn new(op: &str, session: Option<u64>, more: u32) -> Self {
        let mut out = Vec::with_capacity(96);
        encode::write_map_len(&mut out, 2 + u32::from(session.is_some()) + more).expect("to memory");
        let writer = Writer(out).uint("v", 1).text("op", op);
        match session {
            Some(session) => writer.uint("session", session),
            None => writer,
        }
    }

    pub(in crate::adapter) fn uint(mut self, key: &str, value: u64) -> Self {
        encode::write_str(&mut self.0, key).expect("to memory");
        encode::write_uint(&mut self.0, value).expect("to memory");
        self
    }

    pub(in crate::adapter) fn text(mut self, key: &str, value: &str) -> Self {
        encode::write_str(&mut self.0, key).expect("to memory");
        encode::write_str(&mut self.0, value).expect("to memory");
        self
    }

    pub(in crate::adapter) fn flag(mut self, key: &str, value: bool) -> Self {
        encode::write_str(&mut self.0, key).expect("to memory");
        encode::write_bool(&mut self.0, value).expect("to memory");
        self
    }

    pub(in crate::adapter) fn uints(mut self, key: &str, values: &[u64]) -> Self {
        encode::write_str(&mut self.0, key).expect("to memory");
        encode::write_array_len(&mut self.0, values.len() as u32).expect("to memory");
        for value in values {
            encode::write_uint(&mut self.0, *value).expect("to memory");
        }
        self
    }

    pub(in crate::adapter) fn texts(mut self, key: &str, values: &[String]) -> Self {
        encode::write_str(&mut self.0, key).expect("to memory");
        encode::write_array_len(&mut self.0, values.len() as u32).expect("to memory");
        for value in values {
            encode::write_str(&mut self.0, value).expect("to memory");
        }
        self
    }

    fn key(self, name: &KeyName) -> Self {
        let (symbol, exchange) = (name.instrument.symbol(), name.instrument.venue());
        self.text("symbol", symbol).text("exchange", exchange).uint("mode", name.mode.int().into())
    }

    pub(in crate::adapter) fn done(self) -> Bytes {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InstrumentRef;
    use serde_json::{Value, json};

    fn say(map: &Value) -> Result<Said, Malformed> {
        read(&rmp_serde::to_vec(map).expect("MessagePack"))
    }

    #[test]
    fn a_hello_is_read_with_its_defaults_and_unknown_keys_are_ignored() {
        let whole = json!({"v": 1, "op": "hello", "broker": "Angel", "user": "asha", "modes": [1, 3], "capacity": 50,
            "publishes": ["tcp://127.0.0.1:5601"], "secret": "s", "highest_only": true, "colour": {"red": [1]}});
        let hello = Hello {
            broker: "angel".into(),
            user: Some("asha".into()),
            modes: [true, false, true],
            capacity: 50,
            publishes: vec!["tcp://127.0.0.1:5601".into()],
            secret: Some("s".into()),
            highest_only: true,
        };
        assert_eq!(say(&whole), Ok(Said::Hello(hello)));
        let Ok(Said::Hello(least)) = say(&json!({"v": 1, "op": "hello", "broker": "x", "user": null})) else {
            panic!()
        };
        assert_eq!((least.user, least.modes, least.capacity, least.publishes.len()), (None, [true; 3], 0, 0));
        assert!(!least.highest_only);
    }

    #[test]
    fn what_cannot_be_used_is_told_apart() {
        let many = vec!["tcp://127.0.0.1:1"; PUBLISHES_MAX + 1];
        for (map, why) in [
            (json!([1]), Malformed::Map),
            (json!({"v": 1}), Malformed::Map),
            (json!({"op": "heartbeat", "session": 1}), Malformed::Map),
            (json!({"v": 2, "op": "heartbeat", "session": 1}), Malformed::Version),
            (json!({"v": 1, "op": "heartbeat"}), Malformed::Map),
            (json!({"v": 1, "op": "heartbeat", "session": "one"}), Malformed::Map),
            (json!({"v": 1, "op": "hello"}), Malformed::Map),
            (json!({"v": 1, "op": "hello", "broker": ""}), Malformed::Bounds),
            (json!({"v": 1, "op": "hello", "broker": "x".repeat(65)}), Malformed::Bounds),
            (json!({"v": 1, "op": "hello", "broker": "x", "user": "a\nb"}), Malformed::Bounds),
            (json!({"v": 1, "op": "hello", "broker": "x", "modes": [4]}), Malformed::Bounds),
            (json!({"v": 1, "op": "hello", "broker": "x", "publishes": many}), Malformed::Bounds),
            (json!({"v": 1, "op": "result", "session": 1, "id": 1, "status": "perhaps"}), Malformed::Map),
            (json!({"v": 1, "op": "result", "session": 1, "id": -1, "status": "success"}), Malformed::Map),
            (json!({"v": 1, "op": "status", "session": 1}), Malformed::Map),
        ] {
            assert_eq!(say(&map), Err(why), "{map}");
        }
        assert_eq!(read(b""), Err(Malformed::Map));
        assert_eq!(read(b"\xdf\xff\xff\xff\xff"), Err(Malformed::Map));
        assert_eq!(say(&json!({"v": 1, "op": "sing"})), Ok(Said::Unknown));
    }

    #[test]
    fn an_adapters_words_reach_clients_in_one_line_of_bounded_length() {
        let long = "é".repeat(CONTROL_TEXT_BYTES_MAX);
        for (message, want) in [("no\nsuch symbol", "no such symbol".to_owned()), (&long, long[..400].to_owned())] {
            let map = json!({"v": 1, "op": "result", "session": 1, "id": 7, "status": "error", "message": message});
            let outcome = Err(CallError::Refused(want));
            assert_eq!(say(&map), Ok(Said::Result { session: 1, id: 7, outcome }));
        }
        let coded =
            json!({"v": 1, "op": "result", "session": 1, "id": 7, "status": "error", "code": "SYMBOL_NOT_FOUND"});
        let outcome = Err(CallError::Refused("SYMBOL_NOT_FOUND".into()));
        assert_eq!(say(&coded), Ok(Said::Result { session: 1, id: 7, outcome }));
    }

    #[test]
    fn what_the_server_says_is_what_the_contract_lists() {
        let name = KeyName { instrument: InstrumentRef { venue: "NSE", symbol: "INFY" }.to_owned(), mode: Mode::Depth };
        let key = json!({"symbol": "INFY", "exchange": "NSE", "mode": 3});
        let merged = |base: Value, more: &Value| {
            let mut base = base;
            base.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
            base
        };
        for (bytes, want) in [
            (hello_required(), json!({"v": 1, "op": "hello_required"})),
            (welcome(300), json!({"v": 1, "op": "welcome", "session": 300})),
            (heartbeat(300), json!({"v": 1, "op": "heartbeat", "session": 300})),
            (
                disconnect(Some(300), "replaced"),
                json!({"v": 1, "op": "disconnect", "session": 300, "reason": "replaced"}),
            ),
            (
                subscribe(300, 9, &name, 20),
                merged(json!({"v": 1, "op": "subscribe", "session": 300, "id": 9, "depth": 20}), &key),
            ),
            (unsubscribe(300, 9, &name), merged(json!({"v": 1, "op": "unsubscribe", "session": 300, "id": 9}), &key)),
            (unsubscribe_all(300, 9), json!({"v": 1, "op": "unsubscribe_all", "session": 300, "id": 9})),
        ] {
            assert_eq!(rmp_serde::from_slice::<Value>(&bytes).expect("MessagePack"), want);
        }
    }
}
