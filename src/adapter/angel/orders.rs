//! The socket of order updates, which is Angel's own server beside that of the ticks: `smart-order-update` in its documents.
//!
//! In: a text message. Out: an order update in OpenAlgo's words, or what else it is. Pure; what is missing is empty or zero, as
//! OpenAlgo has it. The first message after the upgrade says that it stands, and is no order. Tests: at the end.

use crate::adapter::native::broker::{Event, Order};
use crate::adapter::symbols::{Dialect, Key, share};
use serde_json::{Map, Number, Value};

/// Where it is.
pub(super) const URL: &str = "wss://tns.angelone.in/smart-order-update";
/// `order-status` of the message that greets.
const STANDS: &str = "AB00";

/// Reads a message; `None` when it says nothing.
pub(super) fn read(text: &str) -> Option<Event<Key>> {
    let Ok(Value::Object(message)) = serde_json::from_str(text) else { return Some(Event::Damaged) };
    let part = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    match message.get("orderData") {
        _ if part("order-status") == STANDS => None,
        Some(Value::Object(data)) if !words(data, "orderid").is_empty() => {
            Some(Event::Order(order(part("order-status"), data)))
        }
        _ if !part("error-message").is_empty() => Some(Event::Notice(part("error-message").to_owned())),
        _ => Some(Event::Damaged),
    }
}

fn order(code: &str, data: &Map<String, Value>) -> Order<Key> {
    let text = |name: &str| words(data, name);
    let status = status(code, text("orderstatus"));
    let (filled, unfilled) = (whole(data, "filledshares"), whole(data, "unfilledshares"));
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("orderid", text("orderid").into());
    // The frame knows better when the token is listed.
    put("symbol", share(text("tradingsymbol"), &["-EQ", "-BE"]).into());
    put("exchange", text("exchange").into());
    put("action", text("transactiontype").into());
    put("quantity", whole(data, "quantity").into());
    put("price", price(data, "price"));
    put("trigger_price", price(data, "triggerprice"));
    put("pricetype", kind(text("ordertype")).into());
    put("product", product(text("producttype")).into());
    put("filled_quantity", filled.into());
    put("pending_quantity", if is_over(&status) { 0 } else { unfilled }.into());
    put("average_price", price(data, "averageprice"));
    // It holds all kinds of remarks.
    put("rejection_reason", if status == "rejected" { text("text") } else { "" }.into());
    put("order_status", status.into());
    Order { token: Key::named(Dialect::Angel, text("exchange"), text("symboltoken")), fields }
}

fn words<'a>(data: &'a Map<String, Value>, name: &str) -> &'a str {
    data.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A count, which is text.
fn whole(data: &Map<String, Value>, name: &str) -> u64 {
    match data.get(name) {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(value) => value.as_u64().unwrap_or(0),
        None => 0,
    }
}

/// A price, which is a number.
fn price(data: &Map<String, Value>, name: &str) -> Value {
    match data.get(name) {
        Some(Value::Number(number)) => Value::Number(number.clone()),
        Some(Value::String(text)) => {
            text.parse().ok().and_then(Number::from_f64).map_or_else(|| 0.into(), Value::Number)
        }
        _ => 0.into(),
    }
}

/// The documented codes; what is still worked on is open. The text where there is no code that we know.
fn status(code: &str, text: &str) -> String {
    let known = match code {
        "AB01" | "AB04" | "AB06" | "AB08" | "AB09" | "AB11" => "open",
        "AB02" | "AB07" => "cancelled",
        "AB03" => "rejected",
        "AB05" => "complete",
        "AB10" => "trigger pending",
        _ => return text.trim().to_ascii_lowercase(),
    };
    known.to_owned()
}

fn is_over(status: &str) -> bool {
    matches!(status, "cancelled" | "rejected" | "complete")
}

fn kind(text: &str) -> &str {
    match text {
        "STOPLOSS_LIMIT" => "SL",
        "STOPLOSS_MARKET" => "SL-M",
        other => other,
    }
}

fn product(text: &str) -> &str {
    match text {
        "DELIVERY" => "CNC",
        "CARRYFORWARD" => "NRML",
        "INTRADAY" => "MIS",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(code: &str, data: &Value) -> String {
        json!({"user-id": "A1", "status-code": "200", "order-status": code, "error-message": "", "orderData": data})
            .to_string()
    }

    fn order_of(text: &str) -> Order<Key> {
        match read(text) {
            Some(Event::Order(order)) => order,
            other => panic!("no order: {other:?}"),
        }
    }

    #[test]
    fn an_order_speaks_openalgos_words() {
        let order = order_of(&message(
            "AB03",
            &json!({"variety": "NORMAL", "ordertype": "STOPLOSS_LIMIT", "producttype": "DELIVERY", "price": 551.25,
                "triggerprice": 550, "quantity": "10", "tradingsymbol": "SBIN-EQ", "transactiontype": "BUY", "exchange": "NSE",
                "symboltoken": "3045", "averageprice": 0, "filledshares": "4", "unfilledshares": "6", "orderid": "1111111",
                "text": "Adapter is Logged Off", "status": "rejected", "orderstatus": "rejected"}),
        ));
        assert_eq!(order.token, Key::named(Dialect::Angel, "NSE", "3045"));
        let want = json!({"orderid": "1111111", "symbol": "SBIN", "exchange": "NSE", "action": "BUY", "quantity": 10,
            "price": 551.25, "trigger_price": 550, "pricetype": "SL", "product": "CNC", "order_status": "rejected",
            "filled_quantity": 4, "pending_quantity": 0, "average_price": 0, "rejection_reason": "Adapter is Logged Off"});
        assert_eq!(Value::Object(order.fields), want);
    }

    #[test]
    fn every_documented_code_has_its_word_and_an_unknown_one_its_text() {
        for (code, want) in [
            ("AB01", "open"),
            ("AB02", "cancelled"),
            ("AB03", "rejected"),
            ("AB04", "open"),
            ("AB05", "complete"),
            ("AB06", "open"),
            ("AB07", "cancelled"),
            ("AB08", "open"),
            ("AB09", "open"),
            ("AB10", "trigger pending"),
            ("AB11", "open"),
            ("AB99", "some new one"),
        ] {
            let data =
                json!({"orderid": "1", "orderstatus": " Some New One ", "text": "remark", "unfilledshares": "3"});
            let fields = order_of(&message(code, &data)).fields;
            assert_eq!(fields["order_status"], want, "{code}");
            assert_eq!(fields["pending_quantity"], if is_over(want) { 0 } else { 3 }, "{code}");
            assert_eq!(fields["rejection_reason"], if want == "rejected" { "remark" } else { "" }, "{code}");
        }
    }

    #[test]
    fn the_greeting_is_no_order_and_odd_messages_are_counted() {
        assert_eq!(read(&message(STANDS, &json!({"orderid": "", "price": 0}))), None);
        let trouble = json!({"status-code": "500", "order-status": "", "error-message": "try later", "orderData": {}});
        assert_eq!(read(&trouble.to_string()), Some(Event::Notice("try later".to_owned())));
        for odd in ["", "[]", "{}", r#"{"orderData":{"orderid":7}}"#, r#"{"orderData":[]}"#] {
            assert_eq!(read(odd), Some(Event::Damaged), "{odd}");
        }
        let fields = order_of(&message("AB05", &json!({"orderid": "1", "price": "NA", "quantity": -3}))).fields;
        assert_eq!((&fields["price"], &fields["quantity"], &fields["symbol"]), (&json!(0), &json!(0), &json!("")));
    }
}
