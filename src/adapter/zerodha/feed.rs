//! The protocol beside the ticks: how to connect, what to send, what text messages mean.

use super::decode;
use crate::adapter::native::broker::{Broker, Changes, Event, Limits, Message, Order, Request};
use crate::adapter::native::credentials::Credentials;
use crate::adapter::symbols::{Dialect, FeedExchange, Listing};
use crate::model::Mode;
use crate::policy::refusal::is_auth_error;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Zerodha's feed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Zerodha;

/// Modes on the wire.
fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Ltp => "ltp",
        Mode::Quote => "quote",
        Mode::Depth => "full",
    }
}

impl Broker for Zerodha {
    type Token = u32;
    type Session = ();

    const DIALECT: Dialect = Dialect::Kite;
    const URL: &'static str = "wss://ws.kite.trade";
    const CREDENTIALS: &'static [&'static str] = &["api_key", "access_token"];
    const KEY_IN_TOKEN: bool = true;

    fn limits(&self) -> Limits {
        Limits {
            per_connection: 3000,
            connections: 3,
            // The size is not documented; the libraries send everything in one message, OpenAlgo 200.
            per_message: 500,
            message_gap: Duration::from_millis(20),
            heartbeat: None,
            // A byte comes every couple of seconds when nothing else does.
            silence: Duration::from_secs(10),
            login: None,
            refusals: 3,
            same_again: false,
        }
    }

    fn token(&self, listing: Listing<'_>) -> Option<u32> {
        listing.token.parse().ok()
    }

    fn listing(&self, token: &u32) -> (FeedExchange, String) {
        (Dialect::Kite.exchanges()[0], token.to_string())
    }

    fn request(&self, url: &str, credentials: &Credentials) -> Result<Request, String> {
        let (key, token) = (credentials.get("api_key")?, credentials.get("access_token")?);
        // OpenAlgo keeps it as `api_key:access_token`.
        let token = token.rsplit(':').next().unwrap_or(token);
        let url = match (url.contains('?'), url.splitn(4, '/').count()) {
            (true, _) => format!("{url}&"),
            (false, 4..) => format!("{url}?"),
            (false, _) => format!("{url}/?"),
        };
        let url = format!("{url}api_key={}&access_token={}", escaped(key), escaped(token));
        Ok(Request { url, headers: vec![("X-Kite-Version", "3".to_owned())], first: None, then: None })
    }

    fn messages(&self, changes: &Changes<u32>) -> Vec<String> {
        let mut out = Vec::new();
        if !changes.unsubscribe.is_empty() {
            let tokens: Vec<u32> = changes.unsubscribe.iter().map(|(token, _)| *token).collect();
            out.push(json!({"a": "unsubscribe", "v": tokens}).to_string());
        }
        if !changes.subscribe.is_empty() {
            let tokens: Vec<u32> = changes.subscribe.iter().map(|(token, _)| *token).collect();
            out.push(json!({"a": "subscribe", "v": tokens}).to_string());
        }
        let changed = changes.change.iter().map(|&(token, _, to)| (token, to));
        let mut modes: BTreeMap<Mode, Vec<u32>> = BTreeMap::new();
        for (token, mode) in changed.chain(changes.subscribe.iter().copied()) {
            modes.entry(mode).or_default().push(token);
        }
        out.extend(modes.iter().map(|(&mode, tokens)| json!({"a": "mode", "v": [name(mode), tokens]}).to_string()));
        out
    }

    fn decode(&self, _session: &mut (), message: Message<'_>, out: &mut Vec<Event<u32>>) {
        match message {
            Message::Binary(bytes) => decode::message(bytes, out),
            Message::Text(text) => out.extend(notice(text)),
        }
    }
}

/// A text message; what is no notice we know is ignored, whatever it is.
fn notice(text: &str) -> Option<Event<u32>> {
    let Ok(Value::Object(mut notice)) = serde_json::from_str(text) else { return None };
    let data = notice.remove("data")?;
    match (notice.get("type")?.as_str()?, data) {
        ("order", Value::Object(data)) => Some(Event::Order(order(&data))),
        ("error", Value::String(text)) if is_refusal(&text) => Some(Event::Refused(text)),
        ("error" | "message", Value::String(text)) => Some(Event::Notice(text)),
        _ => None,
    }
}

fn is_refusal(text: &str) -> bool {
    is_auth_error(text) || text.contains("api_key") || text.contains("access_token")
}

/// A postback in OpenAlgo's words.
fn order(data: &Map<String, Value>) -> Order<u32> {
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| data.get(name).filter(|v| v.is_number()).cloned().unwrap_or_else(|| 0.into());
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("orderid", text("order_id").into());
    put("symbol", text("tradingsymbol").into());
    put("exchange", text("exchange").into());
    put("action", text("transaction_type").into());
    put("quantity", number("quantity"));
    put("price", number("price"));
    put("trigger_price", number("trigger_price"));
    put("pricetype", text("order_type").into());
    put("product", text("product").into());
    put("order_status", text("status").to_ascii_lowercase().into());
    put("filled_quantity", number("filled_quantity"));
    put("pending_quantity", number("pending_quantity"));
    put("average_price", number("average_price"));
    put("rejection_reason", text("status_message").into());
    let token = data.get("instrument_token").and_then(Value::as_u64).and_then(|token| u32::try_from(token).ok());
    Order { token: token.filter(|&token| token > 0), fields }
}

/// A value of a query string.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_carries_the_credentials_and_debug_does_not() {
        let pairs = [("API_KEY", "k y"), ("access_token", "k y:tok&en")];
        let credentials = Credentials::new(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())));
        let of = |url| Zerodha.request(url, &credentials).expect("complete").url;
        assert_eq!(of("wss://ws.kite.trade"), "wss://ws.kite.trade/?api_key=k%20y&access_token=tok%26en");
        assert_eq!(of("ws://127.0.0.1:1/feed"), "ws://127.0.0.1:1/feed?api_key=k%20y&access_token=tok%26en");
        assert_eq!(of("ws://h/?uid=1"), "ws://h/?uid=1&api_key=k%20y&access_token=tok%26en");
        assert_eq!(format!("{:?}", Zerodha.request("ws://h", &credentials).expect("complete")), "Request(secret)");
        let half = Credentials::new([("api_key".to_owned(), "k".to_owned())]);
        assert_eq!(Zerodha.request("ws://h", &half), Err("the credentials have no access_token".to_owned()));
    }

    #[test]
    fn what_is_new_is_subscribed_and_then_put_into_its_mode_and_tokens_are_numbers() {
        let changes = Changes {
            unsubscribe: vec![(7, Mode::Quote)],
            change: vec![(8, Mode::Ltp, Mode::Depth), (9, Mode::Depth, Mode::Ltp)],
            subscribe: vec![(408_065, Mode::Ltp), (884_737, Mode::Depth)],
        };
        assert_eq!(
            Zerodha.messages(&changes),
            [
                r#"{"a":"unsubscribe","v":[7]}"#,
                r#"{"a":"subscribe","v":[408065,884737]}"#,
                r#"{"a":"mode","v":["ltp",[9,408065]]}"#,
                r#"{"a":"mode","v":["full",[8,884737]]}"#,
            ]
        );
        assert!(Zerodha.messages(&Changes::default()).is_empty());
    }

    #[test]
    fn a_rejected_order_says_why_in_openalgo_s_words() {
        let text = r#"{"type":"order","data":{"order_id":"1","status":"REJECTED","status_message":"No funds",
            "tradingsymbol":"NIFTY 50","exchange":"NSE","transaction_type":"SELL","order_type":"SL-M","product":"MIS",
            "quantity":10,"price":811.5,"trigger_price":810,"filled_quantity":0,"pending_quantity":10,
            "average_price":null,"instrument_token":0}}"#;
        let Some(Event::Order(order)) = notice(text) else { panic!("an order") };
        assert_eq!(order.token, None);
        let expected = json!({"orderid": "1", "symbol": "NIFTY 50", "exchange": "NSE", "action": "SELL", "quantity": 10,
            "price": 811.5, "trigger_price": 810, "pricetype": "SL-M", "product": "MIS", "order_status": "rejected",
            "filled_quantity": 0, "pending_quantity": 10, "average_price": 0, "rejection_reason": "No funds"});
        assert_eq!(Value::Object(order.fields), expected);
    }
}
