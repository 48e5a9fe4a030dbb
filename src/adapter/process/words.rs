//! The adapter's side of the control channel's maps (CONTRACTS 5): what it says, and what it is told.
//!
//! Pure. In: one message of the server. Out: [`Told`], or `None` when it cannot be used; and the bytes of what we say. The server's
//! side is `external/wire.rs`; the two read each other in the tests at the end.

use crate::adapter::CallError;
use crate::adapter::external::wire::{Writer, text};
use crate::model::{InstrumentRef, Mode};
use crate::shards::key::{FaultCode, KeyName};
use crate::wire::transcode;
use bytes::Bytes;
use serde::Deserialize;

/// Price levels when a subscribe names none.
const DEPTH: u32 = 5;

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The hello is accepted.
    Welcome {
        /// Its session.
        session: u64,
    },
    /// Start a feed.
    Subscribe {
        /// Its session.
        session: u64,
        /// Goes into the result.
        id: u64,
        /// What; `None` when it names nothing that can exist.
        name: Option<KeyName>,
        /// Price levels asked for.
        depth: u32,
    },
    /// Stop a feed.
    Unsubscribe {
        /// Its session.
        session: u64,
        /// Goes into the result.
        id: u64,
        /// What; `None` when it names nothing that can exist.
        name: Option<KeyName>,
    },
    /// Stop all feeds.
    UnsubscribeAll {
        /// Its session.
        session: u64,
        /// Goes into the result.
        id: u64,
    },
    /// The session is over; without one, a hello is refused.
    Disconnect {
        /// Which.
        session: Option<u64>,
        /// Why.
        reason: String,
    },
    /// Say hello.
    HelloRequired,
    /// A sign of life.
    Heartbeat,
}

#[derive(Deserialize)]
struct Map {
    v: u64,
    op: String,
    session: Option<u64>,
    id: Option<u64>,
    symbol: Option<String>,
    exchange: Option<String>,
    mode: Option<u64>,
    depth: Option<u32>,
    reason: Option<String>,
}

/// Reads one message; `None`: it cannot be used, or is an op that we do not know.
pub fn read(message: &[u8]) -> Option<Told> {
    let map: Map = serde_json::from_slice(&transcode::to_json(message).ok()?).ok()?;
    if map.v != 1 {
        return None;
    }
    Some(match &map.op[..] {
        "welcome" => Told::Welcome { session: map.session? },
        "subscribe" => {
            Told::Subscribe { session: map.session?, id: map.id?, depth: map.depth.unwrap_or(DEPTH), name: name(&map) }
        }
        "unsubscribe" => Told::Unsubscribe { session: map.session?, id: map.id?, name: name(&map) },
        "unsubscribe_all" => Told::UnsubscribeAll { session: map.session?, id: map.id? },
        "disconnect" => Told::Disconnect { session: map.session, reason: text(map.reason.unwrap_or_default()) },
        "hello_required" => Told::HelloRequired,
        "heartbeat" => Told::Heartbeat,
        _ => return None,
    })
}

fn name(map: &Map) -> Option<KeyName> {
    let instrument = InstrumentRef { venue: map.exchange.as_deref()?, symbol: map.symbol.as_deref()? };
    let mode = Mode::from_int(map.mode?)?;
    instrument.is_acceptable().then(|| KeyName { instrument: instrument.to_owned(), mode })
}

/// What a hello says of this process.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// Broker.
    pub broker: String,
    /// Whose feed it is; `None` serves all users of the broker.
    pub user: Option<String>,
    /// Instruments it can hold; 0 = unknown.
    pub capacity: u64,
    /// What it has bound.
    pub publishes: Vec<String>,
    /// What `adapters.secret` of the server must be equal to.
    pub secret: Option<String>,
    /// Each tick is published once, in the highest mode that is wanted.
    pub highest_only: bool,
}

/// `hello`.
pub fn hello(card: &Card) -> Bytes {
    let more = 5 + u32::from(card.user.is_some()) + u32::from(card.secret.is_some());
    let modes = Mode::ALL.map(|mode| u64::from(mode.int()));
    let mut hello = Writer::new("hello", None, more).text("broker", &card.broker).uint("capacity", card.capacity);
    hello = hello.uints("modes", &modes).texts("publishes", &card.publishes);
    hello = hello.flag("highest_only", card.highest_only);
    if let Some(user) = &card.user {
        hello = hello.text("user", user);
    }
    if let Some(secret) = &card.secret {
        hello = hello.text("secret", secret);
    }
    hello.done()
}

/// `result`.
pub fn result(session: u64, id: u64, outcome: &Result<Option<u32>, CallError>) -> Bytes {
    let begin = |more: u32| Writer::new("result", Some(session), 2 + more).uint("id", id);
    let failed = |message: &str, code: FaultCode| {
        let message = text(message.to_owned());
        begin(2).text("status", "error").text("message", &message).text("code", code.code()).done()
    };
    match outcome {
        Ok(None) => begin(0).text("status", "success").done(),
        Ok(Some(depth)) => begin(1).text("status", "success").uint("actual_depth", u64::from(*depth)).done(),
        Err(CallError::Refused(message)) => failed(message, FaultCode::Refused),
        Err(CallError::Full(message)) => failed(message, FaultCode::Capacity),
        // The true cause is in our log; clients are told no more.
        Err(CallError::Failed(_)) => failed("The broker cannot be reached now", FaultCode::BrokerConnection),
    }
}

/// `status`.
pub fn status(session: u64, connected: bool, detail: &str) -> Bytes {
    let status = Writer::new("status", Some(session), 2).flag("connected", connected);
    status.text("detail", &text(detail.to_owned())).done()
}

/// `heartbeat`.
pub use crate::adapter::external::wire::heartbeat;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::external::wire::{self, Hello, Said};

    fn nse(symbol: &str, mode: Mode) -> KeyName {
        KeyName { instrument: InstrumentRef { venue: "NSE", symbol }.to_owned(), mode }
    }

    #[test]
    fn the_server_reads_what_we_say() {
        let mut card = Card { broker: "Angel".into(), capacity: 2940, ..Card::default() };
        card.publishes = vec!["tcp://127.0.0.1:5601".into(), "ipc:///tmp/x".into()];
        let mut want = Hello {
            broker: "angel".into(),
            user: None,
            modes: [true; 3],
            capacity: 2940,
            publishes: card.publishes.clone(),
            secret: None,
            highest_only: false,
        };
        assert_eq!(wire::read(&hello(&card)), Ok(Said::Hello(want.clone())));
        (card.user, card.secret, card.highest_only) = (Some("asha".into()), Some("s3cret".into()), true);
        (want.user, want.secret, want.highest_only) = (card.user.clone(), card.secret.clone(), true);
        assert_eq!(wire::read(&hello(&card)), Ok(Said::Hello(want)));
        assert_eq!(
            wire::read(&status(7, false, "gone\nagain")),
            Ok(Said::Status { session: 7, connected: false, detail: "gone again".into() })
        );
        assert_eq!(wire::read(&heartbeat(7)), Ok(Said::Heartbeat { session: 7 }));
        let refused = CallError::Refused("not listed".into());
        let full = CallError::Full("no room".into());
        let told = CallError::Refused("The broker cannot be reached now".into());
        for (outcome, want) in [
            (Ok(None), Ok(None)),
            (Ok(Some(5)), Ok(Some(5))),
            (Err(refused.clone()), Err(refused)),
            (Err(full.clone()), Err(full)),
            (Err(CallError::Failed("token abc".into())), Err(told)),
        ] {
            assert_eq!(wire::read(&result(7, 9, &outcome)), Ok(Said::Result { session: 7, id: 9, outcome: want }));
        }
    }

    #[test]
    fn we_read_what_the_server_says() {
        let name = nse("INFY", Mode::Depth);
        for (bytes, told) in [
            (wire::welcome(300), Told::Welcome { session: 300 }),
            (wire::hello_required(), Told::HelloRequired),
            (wire::heartbeat(300), Told::Heartbeat),
            (
                wire::subscribe(300, 9, &name, 20),
                Told::Subscribe { session: 300, id: 9, name: Some(name.clone()), depth: 20 },
            ),
            (wire::unsubscribe(300, 9, &name), Told::Unsubscribe { session: 300, id: 9, name: Some(name) }),
            (wire::unsubscribe_all(300, 9), Told::UnsubscribeAll { session: 300, id: 9 }),
            (
                wire::disconnect(Some(300), "replaced"),
                Told::Disconnect { session: Some(300), reason: "replaced".into() },
            ),
            (wire::disconnect(None, "no"), Told::Disconnect { session: None, reason: "no".into() }),
        ] {
            assert_eq!(read(&bytes), Some(told));
        }
    }

    #[test]
    fn what_cannot_be_used_is_nothing_and_a_call_for_nothing_keeps_its_id() {
        let say = |map: serde_json::Value| read(&rmp_serde::to_vec(&map).expect("MessagePack"));
        use serde_json::json;
        for map in [json!([1]), json!({"v": 2, "op": "heartbeat"}), json!({"v": 1, "op": "sing"}), json!({"v": 1})] {
            assert_eq!(say(map), None);
        }
        assert_eq!(read(b"\xdf\xff\xff\xff\xff"), None);
        let subscribe =
            json!({"v": 1, "op": "subscribe", "session": 1, "id": 2, "symbol": "", "exchange": "NSE", "mode": 9});
        assert_eq!(say(subscribe), Some(Told::Subscribe { session: 1, id: 2, name: None, depth: DEPTH }));
    }
}
