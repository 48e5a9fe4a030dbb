//! The protocol beside the ticks: how to connect, what to send, what text messages mean.

use super::{decode, orders};
use crate::adapter::native::broker::{Broker, Changes, Event, Limits, Message, Request};
use crate::adapter::native::credentials::Credentials;
use crate::adapter::symbols::{Dialect, FeedExchange, Key, Listing};
use crate::model::Mode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Units of quota, (instrument, mode) pairs, of one connection.
const QUOTA: usize = 1000;
/// Units kept free: while modes change, both are on the wire. Not more instruments change in one go.
const SPARE: usize = 20;

/// Angel's feed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Angel;

impl Broker for Angel {
    type Token = Key;
    type Session = ();

    const DIALECT: Dialect = Dialect::Angel;
    const URL: &'static str = "wss://smartapisocket.angelone.in/smart-stream";
    const CREDENTIALS: &'static [&'static str] = &["access_token", "api_key", "client_code", "feed_token"];
    const ORDER_URL: Option<&'static str> = Some(orders::URL);
    const HAS_MARKS: bool = true;

    fn limits(&self) -> Limits {
        Limits {
            per_connection: QUOTA - SPARE,
            connections: 3,
            per_message: SPARE,
            message_gap: Duration::from_millis(10),
            // The documents want one every 30 s at least; their own libraries send every 10 s.
            heartbeat: Some(Duration::from_secs(10)),
            silence: Duration::from_secs(25),
            login: None,
            refusals: 1,
            same_again: false,
        }
    }

    fn token(&self, listing: Listing<'_>) -> Option<Key> {
        Key::new(Dialect::Angel, listing.exchange.code, listing.token)
    }

    fn listing(&self, token: &Key) -> (FeedExchange, String) {
        token.listing(Dialect::Angel)
    }

    fn request(&self, url: &str, credentials: &Credentials) -> Result<Request, String> {
        let header = |name, credential| Ok::<_, String>((name, credentials.get(credential)?.to_owned()));
        let headers = vec![
            // With `Bearer ` or without: both are accepted, as the login gives it out.
            header("Authorization", "access_token")?,
            header("x-api-key", "api_key")?,
            header("x-client-code", "client_code")?,
            header("x-feed-token", "feed_token")?,
        ];
        Ok(Request { url: url.to_owned(), headers, first: None, then: None })
    }

    fn order_request(&self, url: &str, credentials: &Credentials) -> Result<Request, String> {
        let mut request = self.request(url, credentials)?;
        for (_, token) in request.headers.iter_mut().filter(|(name, _)| *name == "Authorization") {
            // Here the documents want the word, whether the login gave it out or not.
            *token = format!("Bearer {}", token.trim_start_matches("Bearer "));
        }
        Ok(request)
    }

    fn decode_order(&self, message: Message<'_>) -> Option<Event<Key>> {
        match message {
            Message::Text("pong") | Message::Binary(_) => None,
            Message::Text(text) => orders::read(text),
        }
    }

    fn heartbeat(&self) -> Option<&'static str> {
        Some("ping")
    }

    fn messages(&self, changes: &Changes<Key>) -> Vec<String> {
        let mut out = Vec::new();
        request(Action::Unsubscribe, changes.unsubscribe.iter().copied(), &mut out);
        request(Action::Subscribe, changes.change.iter().map(|&(key, _, to)| (key, to)), &mut out);
        request(Action::Unsubscribe, changes.change.iter().map(|&(key, from, _)| (key, from)), &mut out);
        request(Action::Subscribe, changes.subscribe.iter().copied(), &mut out);
        out
    }

    fn decode(&self, _session: &mut (), message: Message<'_>, out: &mut Vec<Event<Key>>) {
        match message {
            Message::Binary(packet) => out.push(match decode::decode(packet) {
                Ok((key, tick)) => Event::Tick(key, tick),
                Err(_) => Event::Damaged,
            }),
            Message::Text("pong") => {}
            Message::Text(text) => out.push(notice(text)),
        }
    }
}

#[derive(Clone, Copy)]
enum Action {
    Unsubscribe = 0,
    Subscribe = 1,
}

/// One message a mode, in it one list an exchange.
fn request(action: Action, keys: impl Iterator<Item = (Key, Mode)>, out: &mut Vec<String>) {
    let mut modes: BTreeMap<Mode, BTreeMap<u8, Vec<Key>>> = BTreeMap::new();
    for (key, mode) in keys {
        modes.entry(mode).or_default().entry(key.exchange()).or_default().push(key);
    }
    for (mode, exchanges) in modes {
        let tokens = |keys: &[Key]| keys.iter().map(|key| key.token().to_owned()).collect::<Vec<_>>();
        let lists: Vec<Value> =
            exchanges.iter().map(|(code, keys)| json!({"exchangeType": code, "tokens": tokens(keys)})).collect();
        let params = json!({"mode": mode.int(), "tokenList": lists});
        let mark = mark(&params.to_string());
        out.push(json!({"correlationID": mark, "action": action as u8, "params": params}).to_string());
    }
}

/// What comes back in errors, to tell which request was meant: ten letters and digits, as the documents ask, of its text.
fn mark(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:010x}", hash & 0xff_ffff_ffff)
}

/// A text message that is no `pong`: an error of a request, in words.
fn notice(text: &str) -> Event<Key> {
    let Ok(error) = serde_json::from_str::<Value>(text) else { return Event::Damaged };
    let part = |name| error.get(name).and_then(Value::as_str);
    match (part("errorCode"), part("errorMessage")) {
        (Some("E1002"), _) => Event::Overfull(part("correlationID").unwrap_or("?").to_owned()),
        (Some(code), Some(message)) => Event::Notice(format!("{code} {message}")),
        _ => Event::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(exchange: u8, token: &str) -> Key {
        Key::new(Dialect::Angel, exchange, token).expect("a key")
    }

    fn sent(changes: &Changes<Key>) -> Vec<Value> {
        Angel.messages(changes).iter().map(|text| plain(text)).collect()
    }

    /// A message without its correlation id, which must be as the documents want it if it is there.
    fn plain(text: &str) -> Value {
        let mut message: Value = serde_json::from_str(text).expect("JSON");
        if let Some(id) = message.as_object_mut().expect("an object").remove("correlationID") {
            let id = id.as_str().expect("text").to_owned();
            assert!(id.len() == 10 && id.bytes().all(|c| c.is_ascii_alphanumeric()), "{id}");
        }
        message
    }

    /// What Angel's own library sent.
    fn vector(name: &str) -> Vec<Value> {
        let vectors = include_str!("../../../tests/vectors/broker-feeds/angel/angel_outgoing.json");
        let vectors: Value = serde_json::from_str(vectors).expect("JSON");
        let cases = vectors["cases"].as_array().expect("cases");
        let case = cases.iter().find(|case| case["name"] == name).expect(name);
        case["sent"].as_array().expect("messages").iter().map(|text| plain(text.as_str().expect("text"))).collect()
    }

    #[test]
    fn requests_are_those_of_angels_own_library() {
        let ltp = |keys: &[(u8, &str)], mode| keys.iter().map(|&(code, token)| (key(code, token), mode)).collect();
        let subscribe = |subscribe| Changes { subscribe, ..Changes::default() };
        for (name, changes) in [
            ("subscribe_ltp_two_exchanges", subscribe(ltp(&[(1, "10626"), (5, "234230"), (1, "5290")], Mode::Ltp))),
            ("subscribe_quote", subscribe(ltp(&[(1, "2885")], Mode::Quote))),
            ("subscribe_snap", subscribe(ltp(&[(2, "58662")], Mode::Depth))),
            ("unsubscribe_ltp", Changes { unsubscribe: ltp(&[(1, "2885")], Mode::Ltp), ..Changes::default() }),
            // After a reconnect everything wanted is sent anew, by mode.
            (
                "resubscribe_after_two_modes",
                subscribe(vec![(key(2, "9"), Mode::Depth), (key(1, "1"), Mode::Ltp), (key(1, "2"), Mode::Ltp)]),
            ),
        ] {
            assert_eq!(sent(&changes), vector(name), "{name}");
        }
        // Depth 20 is never asked for, so its two refusals in the library have no counterpart here; and what breaks the
        // library's own resubscribe is kept by the frame, not by messages sent.
        assert!(sent(&Changes::default()).is_empty());
    }

    #[test]
    fn a_change_of_mode_leaves_no_gap_and_never_needs_more_than_the_spare_units() {
        let keys: Vec<Key> = (0..Angel.limits().per_message).map(|n| key(1, &n.to_string())).collect();
        let change = keys.iter().map(|&key| (key, Mode::Ltp, Mode::Depth)).collect();
        let mut held: Vec<(String, u64)> = keys.iter().map(|key| (key.token().to_owned(), 1)).collect();
        for message in sent(&Changes { change, ..Changes::default() }) {
            let mode = message["params"]["mode"].as_u64().expect("a mode");
            for token in message["params"]["tokenList"][0]["tokens"].as_array().expect("tokens") {
                let unit = (token.as_str().expect("text").to_owned(), mode);
                match message["action"].as_u64() {
                    Some(1) => held.push(unit),
                    _ => held.retain(|held| *held != unit),
                }
            }
            assert!(held.len() <= keys.len() + SPARE);
            assert!(keys.iter().all(|key| held.iter().any(|(token, _)| token == key.token())), "a gap");
        }
        assert!(held.len() == keys.len() && held.iter().all(|(_, mode)| *mode == 3));
    }

    #[test]
    fn the_headers_carry_all_four_credentials_and_debug_none() {
        let pairs = [("access_token", "Bearer j.w.t"), ("api_key", "k"), ("client_code", "A1"), ("feed_token", "f")];
        let credentials = Credentials::new(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())));
        let request = Angel.request(Angel::URL, &credentials).expect("complete");
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let want =
            [("Authorization", "Bearer j.w.t"), ("x-api-key", "k"), ("x-client-code", "A1"), ("x-feed-token", "f")];
        assert_eq!(headers, want);
        assert_eq!((request.url.as_str(), request.first.as_deref()), (Angel::URL, None));
        assert_eq!(format!("{request:?}"), "Request(secret)");
        let half = Credentials::new([("access_token".to_owned(), "j".to_owned())]);
        assert_eq!(Angel.request("ws://h", &half), Err("the credentials have no api_key".to_owned()));
    }

    #[test]
    fn texts_are_a_pong_or_an_error_and_never_a_tick() {
        let read = |text| {
            let mut out = Vec::new();
            Angel.decode(&mut (), Message::Text(text), &mut out);
            out
        };
        assert_eq!(read("pong"), []);
        let error = r#"{"correlationID": "x", "errorCode": "E1002", "errorMessage": "Subscription Limit Exceeded"}"#;
        assert_eq!(read(error), [Event::Overfull("x".to_owned())]);
        let error = error.replace("E1002", "E1001");
        assert_eq!(read(&error), [Event::Notice("E1001 Subscription Limit Exceeded".to_owned())]);
        assert_eq!(read("hello"), [Event::Damaged]);
        assert_eq!(read("{}"), [Event::Damaged]);
    }
}
