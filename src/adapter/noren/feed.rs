//! The protocol beside the ticks: how to connect, what to send, what messages mean.

use super::decode::{self, Message as Noted};
use super::merge::Book;
use super::orders;
use crate::adapter::native::broker::{Broker, Changes, Event, Limits, Message, Request};
use crate::adapter::native::credentials::Credentials;
use crate::adapter::symbols::{Dialect, FeedExchange, Key, Listing};
use crate::model::Mode;
use serde_json::json;
use std::marker::PhantomData;
use std::time::Duration;

/// What the two brokers differ in.
pub trait House: Send + Sync + 'static {
    /// Whose files.
    const DIALECT: Dialect;
    /// Of the current generation of its login.
    const URL: &'static str;
    /// Instruments in one message.
    const PER_MESSAGE: usize;
    /// Refused logins in a row before only new credentials help.
    const REFUSALS: u32;
}

/// Flattrade refuses a token that is good for a while after a close, so it is tried again.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlattradeHouse;

impl House for FlattradeHouse {
    const DIALECT: Dialect = Dialect::Flattrade;
    const URL: &'static str = "wss://piconnect.flattrade.in/PiConnectWSAPI/";
    const PER_MESSAGE: usize = 50;
    const REFUSALS: u32 = 3;
}

/// Shoonya's refusals are final.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShoonyaHouse;

impl House for ShoonyaHouse {
    const DIALECT: Dialect = Dialect::Shoonya;
    const URL: &'static str = "wss://api.shoonya.com/NorenWSAPI/";
    const PER_MESSAGE: usize = 100;
    const REFUSALS: u32 = 1;
}

/// One house's feed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noren<H>(PhantomData<H>);

/// Flattrade's feed.
pub type Flattrade = Noren<FlattradeHouse>;
/// Shoonya's feed.
pub type Shoonya = Noren<ShoonyaHouse>;

impl<H: House> Broker for Noren<H> {
    type Token = Key;
    type Session = Book;

    const DIALECT: Dialect = H::DIALECT;
    const URL: &'static str = H::URL;
    const CREDENTIALS: &'static [&'static str] = &["user_id", "access_token"];

    fn limits(&self) -> Limits {
        Limits {
            // Nobody documents a number; OpenAlgo allows as many over three connections. One connection a session is advised
            // (Flattrade) or demanded (Shoonya).
            per_connection: 3000,
            connections: 1,
            per_message: H::PER_MESSAGE,
            message_gap: Duration::from_millis(100),
            heartbeat: Some(Duration::from_secs(10)),
            // It answers heartbeats; of one that does not, a quiet market would look dead: be patient.
            silence: Duration::from_secs(60),
            login: Some(Duration::from_secs(12)),
            refusals: H::REFUSALS,
            same_again: H::REFUSALS > 1,
        }
    }

    fn token(&self, listing: Listing<'_>) -> Option<Key> {
        Key::new(H::DIALECT, listing.exchange.code, listing.token)
    }

    fn listing(&self, token: &Key) -> (FeedExchange, String) {
        token.listing(H::DIALECT)
    }

    fn request(&self, url: &str, credentials: &Credentials) -> Result<Request, String> {
        // OpenAlgo keeps the user before three colons and the application's key.
        let user = credentials.get("user_id")?;
        let user = user.split(":::").next().unwrap_or(user);
        let token = credentials.get("access_token")?;
        let first = match Generation::of(url) {
            Generation::Classic => json!({"t": "c", "uid": user, "actid": user, "susertoken": token, "source": "API"}),
            Generation::OAuth => json!({"t": "a", "uid": user, "actid": user, "accesstoken": token, "source": "API"}),
        };
        let then = json!({"t": "o", "actid": user}).to_string();
        Ok(Request { url: url.to_owned(), headers: Vec::new(), first: Some(first.to_string()), then: Some(then) })
    }

    fn heartbeat(&self) -> Option<&'static str> {
        Some(r#"{"t":"h"}"#)
    }

    fn wire_mode(&self, mode: Mode) -> Mode {
        mode.max(Mode::Quote)
    }

    fn messages(&self, changes: &Changes<Key>) -> Vec<String> {
        let mut out = Vec::new();
        let unsubscribe = changes.unsubscribe.iter().copied();
        let (begun, ended): (Vec<_>, Vec<_>) =
            changes.change.iter().map(|&(key, from, to)| ((key, to), (key, from))).unzip();
        scrips::<H>(unsubscribe, ("u", "ud"), &mut out);
        // The depth stream has all of the touchline: the new one first, and nobody misses anything.
        scrips::<H>(begun.into_iter().chain(changes.subscribe.iter().copied()), ("t", "d"), &mut out);
        scrips::<H>(ended.into_iter(), ("u", "ud"), &mut out);
        out
    }

    fn expect(&self, session: &mut Book, token: &Key) {
        session.add(*token);
    }

    fn forget(&self, session: &mut Book, token: &Key) {
        session.forget(token);
    }

    fn decode(&self, session: &mut Book, message: Message<'_>, out: &mut Vec<Event<Key>>) {
        let noted = match message {
            Message::Text(text) => decode::decode(text),
            Message::Binary(bytes) => std::str::from_utf8(bytes).ok().and_then(decode::decode),
        };
        match noted {
            None => out.push(Event::Damaged),
            Some(Noted::Login(Ok(()))) => out.push(Event::LoggedIn),
            Some(Noted::Login(Err(reason))) => out.push(Event::Refused(reason)),
            Some(Noted::Feed(feed)) => session.merge(H::DIALECT, &feed, |key, tick| out.push(Event::Tick(key, tick))),
            Some(Noted::Order(order)) => out.push(Event::Order(orders::read(H::DIALECT, &order))),
            Some(Noted::Acknowledged | Noted::Other) => {}
        }
    }
}

/// The two forms of the first message. The URL says which: the classic ones end in `TP`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Generation {
    Classic,
    OAuth,
}

impl Generation {
    fn of(url: &str) -> Self {
        let path = url.split(['?', '#']).next().unwrap_or(url).trim_end_matches('/').to_ascii_lowercase();
        if path.ends_with("wstp") { Generation::Classic } else { Generation::OAuth }
    }
}

/// One message a stream: `kinds` are those of touchline and depth.
fn scrips<H: House>(keys: impl Iterator<Item = (Key, Mode)>, kinds: (&str, &str), out: &mut Vec<String>) {
    let mut lists = [String::new(), String::new()];
    for (key, mode) in keys {
        let list = &mut lists[usize::from(mode == Mode::Depth)];
        if !list.is_empty() {
            list.push('#');
        }
        let (exchange, token) = key.listing(H::DIALECT);
        list.push_str(&format!("{}|{token}", exchange.name));
    }
    for (kind, list) in [kinds.0, kinds.1].into_iter().zip(lists) {
        if !list.is_empty() {
            out.push(json!({"t": kind, "k": list}).to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn key(exchange: &str, token: &str) -> Key {
        Key::named(Dialect::Shoonya, exchange, token).expect("a key")
    }

    fn credentials() -> Credentials {
        let pairs = [("user_id", "UID1:::key"), ("access_token", "TOKEN")];
        Credentials::new(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())))
    }

    /// What the two generations of the brokers' library send.
    fn vector(name: &str, generation: &str) -> Vec<Value> {
        let vectors = include_str!("../../../tests/vectors/broker-feeds/noren/noren_outgoing.json");
        let vectors: Value = serde_json::from_str(vectors).expect("JSON");
        let cases = vectors["cases"].as_array().expect("cases");
        let case = cases.iter().find(|case| case["name"] == name).expect(name);
        case[generation].as_array().expect("messages").iter().map(|text| json(text.as_str().expect("text"))).collect()
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn the_first_message_is_that_of_the_generation_the_url_names() {
        for (url, generation) in [
            ("wss://piconnect.flattrade.in/PiConnectWSTp/", "sdk_0_0_22"),
            ("wss://api.shoonya.com/NorenWSTP", "sdk_0_0_22"),
            (FlattradeHouse::URL, "sdk_0_0_37"),
            (ShoonyaHouse::URL, "sdk_0_0_37"),
            ("ws://127.0.0.1:1", "sdk_0_0_37"),
        ] {
            let request = Shoonya::default().request(url, &credentials()).expect("complete");
            assert_eq!([json(&request.first.expect("a login"))], *vector("connect", generation), "{url}");
            assert_eq!(request.url, url, "no secret in it");
            assert!(request.headers.is_empty());
            let mut orders = vector("subscribe_orders", generation);
            orders[0]["actid"] = "UID1".into();
            assert_eq!([json(&request.then.expect("orders"))], *orders);
        }
    }

    #[test]
    fn requests_are_those_of_the_brokers_library() {
        let list = |scrips: &[(&str, &str)], mode| scrips.iter().map(|(e, token)| (key(e, token), mode)).collect();
        let subscribe = |subscribe| Changes { subscribe, ..Changes::default() };
        let unsubscribe = |unsubscribe| Changes { unsubscribe, ..Changes::default() };
        let (one, two) = ([("NSE", "22")], [("NSE", "22"), ("BSE", "508123")]);
        for (name, changes) in [
            ("subscribe_touchline_one", subscribe(list(&one, Mode::Quote))),
            ("subscribe_touchline_many", subscribe(list(&two, Mode::Quote))),
            ("subscribe_depth", subscribe(list(&[("NSE", "22"), ("NFO", "35001")], Mode::Depth))),
            ("subscribe_raw_feed_type_d", subscribe(list(&[("NSE", "11630")], Mode::Depth))),
            ("unsubscribe_touchline", unsubscribe(list(&two, Mode::Quote))),
            ("unsubscribe_depth", unsubscribe(list(&one, Mode::Depth))),
        ] {
            let sent: Vec<Value> = Flattrade::default().messages(&changes).iter().map(|text| json(text)).collect();
            assert_eq!(sent, vector(name, "sdk_0_0_37"), "{name}");
        }
    }

    #[test]
    fn a_change_of_stream_begins_the_new_one_first() {
        let changes = Changes {
            unsubscribe: vec![(key("NSE", "1"), Mode::Depth)],
            change: vec![
                (key("NSE", "2"), Mode::Quote, Mode::Depth),
                (key("NSE", "3"), Mode::Depth, Mode::Quote),
                (key("MCX", "4"), Mode::Quote, Mode::Depth),
            ],
            subscribe: vec![(key("NSE", "5"), Mode::Quote)],
        };
        let sent = Shoonya::default().messages(&changes);
        let want = [
            r#"{"t":"ud","k":"NSE|1"}"#,
            r#"{"t":"t","k":"NSE|3#NSE|5"}"#,
            r#"{"t":"d","k":"NSE|2#MCX|4"}"#,
            r#"{"t":"u","k":"NSE|2#MCX|4"}"#,
            r#"{"t":"ud","k":"NSE|3"}"#,
        ];
        assert_eq!(sent, want);
        assert_eq!(Shoonya::default().wire_mode(Mode::Ltp), Mode::Quote, "there is no stream of last prices alone");
    }

    #[test]
    fn messages_become_events_and_the_session_serves_what_is_subscribed_only() {
        let broker = Flattrade::default();
        let mut session = Book::default();
        let read = |session: &mut Book, text: &str| {
            let mut out = Vec::new();
            broker.decode(session, Message::Text(text), &mut out);
            out
        };
        assert_eq!(read(&mut session, r#"{"t":"ak","s":"OK"}"#), [Event::LoggedIn]);
        let refused = read(&mut session, r#"{"t":"ck","s":"NOT_OK","emsg":"Invalid Session Key"}"#);
        assert_eq!(refused, [Event::Refused("Invalid Session Key".to_owned())]);
        assert_eq!(read(&mut session, r#"{"t":"hk"}"#), []);
        assert_eq!(read(&mut session, "hello"), [Event::Damaged]);
        let tick = r#"{"t":"tk","e":"NSE","tk":"22","lp":"2345.60"}"#;
        assert_eq!(read(&mut session, tick), []);
        broker.expect(&mut session, &key("NSE", "22"));
        assert_eq!(read(&mut session, tick).len(), 1);
        broker.forget(&mut session, &key("NSE", "22"));
        assert_eq!(read(&mut session, tick), []);
    }
}
