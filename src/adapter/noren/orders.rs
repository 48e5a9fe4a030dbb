//! Order updates of the Noren brokers in OpenAlgo's words. Pure; what is missing is empty or zero, as OpenAlgo has it.

use crate::adapter::native::broker::Order;
use crate::adapter::symbols::{Dialect, Key};
use serde_json::{Map, Number, Value};

/// Reads an `om` message.
pub(super) fn read(dialect: Dialect, message: &Map<String, Value>) -> Order<Key> {
    let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    let whole = |name: &str| text(name).parse::<u64>().unwrap_or(0);
    let price = |name: &str| text(name).parse().ok().and_then(Number::from_f64).map_or_else(|| 0.into(), Value::Number);
    let (quantity, filled) = (whole("qty"), whole("fillshares"));
    let is_over = matches!(status(text("status")).as_str(), "complete" | "rejected" | "cancelled");
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("orderid", text("norenordno").into());
    put("symbol", text("tsym").into());
    put("exchange", text("exch").into());
    put("action", side(text("trantype")).into());
    put("quantity", quantity.into());
    put("price", price("prc"));
    put("trigger_price", price("trgprc"));
    put("pricetype", kind(text("prctyp")).into());
    // Both names are seen.
    put("product", product(if text("prd").is_empty() { text("pcode") } else { text("prd") }).into());
    put("order_status", status(text("status")).into());
    put("filled_quantity", filled.into());
    put("pending_quantity", if is_over { 0 } else { quantity.saturating_sub(filled) }.into());
    put("average_price", price("avgprc"));
    put("rejection_reason", text("rejreason").into());
    Order { token: Key::named(dialect, text("exch"), text("token")), fields }
}

fn side(text: &str) -> &str {
    match text {
        "B" => "BUY",
        "S" => "SELL",
        other => other,
    }
}

fn kind(text: &str) -> &str {
    match text {
        "MKT" => "MARKET",
        "LMT" => "LIMIT",
        "SL-LMT" => "SL",
        "SL-MKT" => "SL-M",
        other => other,
    }
}

fn product(text: &str) -> &str {
    match text {
        "C" => "CNC",
        "M" => "NRML",
        "I" => "MIS",
        other => other,
    }
}

fn status(text: &str) -> String {
    match text.to_ascii_uppercase().as_str() {
        "CANCELED" => "cancelled".to_owned(),
        "TRIGGER_PENDING" => "trigger pending".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(message: &Value) -> Value {
        Value::Object(read(Dialect::Shoonya, message.as_object().expect("an object")).fields)
    }

    #[test]
    fn an_order_speaks_openalgos_words() {
        let message = json!({"t": "om", "norenordno": "21120300001234", "uid": "UID1", "actid": "UID1", "exch": "NSE",
            "tsym": "ACC-EQ", "qty": "10", "prc": "2345.60", "prd": "I", "status": "OPEN", "reporttype": "New",
            "trantype": "B", "prctyp": "LMT", "ret": "DAY", "fillshares": "4", "avgprc": "2345.55"});
        let want = json!({"orderid": "21120300001234", "symbol": "ACC-EQ", "exchange": "NSE", "action": "BUY",
            "quantity": 10, "price": 2345.6, "trigger_price": 0, "pricetype": "LIMIT", "product": "MIS",
            "order_status": "open", "filled_quantity": 4, "pending_quantity": 6, "average_price": 2345.55,
            "rejection_reason": ""});
        assert_eq!(fields(&message), want);
    }

    #[test]
    fn what_is_over_has_nothing_pending_and_odd_values_are_zero() {
        let message = json!({"t": "om", "norenordno": "1", "exch": "NFO", "token": "35001", "qty": "75", "prc": "NA",
            "pcode": "M", "status": "CANCELED", "trantype": "S", "prctyp": "SL-MKT", "rejreason": "No funds"});
        let order = read(Dialect::Flattrade, message.as_object().expect("an object"));
        assert_eq!(order.token, Key::named(Dialect::Flattrade, "NFO", "35001"));
        let value = Value::Object(order.fields);
        for (name, want) in [
            ("pending_quantity", json!(0)),
            ("price", json!(0)),
            ("order_status", json!("cancelled")),
            ("pricetype", json!("SL-M")),
            ("product", json!("NRML")),
            ("action", json!("SELL")),
            ("rejection_reason", json!("No funds")),
        ] {
            assert_eq!(value[name], want, "{name}");
        }
        assert_eq!(fields(&json!({}))["orderid"], "");
    }
}
