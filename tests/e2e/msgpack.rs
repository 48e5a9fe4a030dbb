//! Our MessagePack frames read by msgpack-python: the example client shows what a publisher sent, price by price.

use crate::process::{PATIENCE, Running, Server, root};
use crate::python::{Publisher, python};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Command;

/// The example beside the server.
pub(crate) fn client(url: &str, args: &[&str]) -> Running {
    let mut command = Command::new(python());
    command.arg(root().join("examples/msgpack_client.py")).args(args).args(["--url", url]);
    Running::new(command)
}

/// Name and fields of one line.
fn fields(line: &str) -> (String, BTreeMap<String, String>) {
    let mut words = line.split(' ');
    let name = words.next().expect("a name").to_owned();
    let pairs = words.map(|word| word.split_once('=').unwrap_or((word, "")));
    (name, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

#[test]
fn msgpack_python_reads_the_prices_that_were_published() {
    let server = Server::anywhere(&[]);
    let mut publisher = Publisher::heard(&server);
    let mut shown = client(&server.url(), &["NSE:SBIN", "CDS:USDINR", "--mode", "1"]);
    assert_eq!(shown.line(), "subscribed 2 of 2");
    // What binary fractions get wrong, a rounding, a negative one, what fits no 32 bits; CDS has four digits.
    let prices = [("812.3", "812.30"), ("0.07", "0.07"), ("1573.155", "1573.16"), ("-37.63", "-37.63")];
    let prices = prices.into_iter().chain([("70368744177.29", "70368744177.29"), ("100000", "100000.00")]);
    let mut seq = None;
    for (n, (sent, want)) in prices.enumerate() {
        let form = ["json", "msgpack"][n % 2];
        publisher.send(form, "NSE_SBIN_LTP", &json!({"ltp": sent.parse::<f64>().expect("a number")}));
        let (name, got) = fields(&shown.line());
        assert_eq!((name.as_str(), got["ltp"].as_str(), got["merged"].as_str()), ("NSE:SBIN", want, "0"), "{sent}");
        let now: u64 = got["seq"].parse().expect("a number");
        assert!(seq.is_none_or(|before| now == before + 1), "{seq:?}, then {now}");
        seq = Some(now);
        assert!(got["latency"].strip_suffix("ms").and_then(|ms| ms.parse::<f64>().ok()).is_some_and(|ms| ms >= 0.0));
    }
    publisher.send("json", "CDS_USDINR_LTP", &json!({"ltp": 84.0725}));
    let (name, got) = fields(&shown.line());
    assert_eq!((name.as_str(), got["ltp"].as_str()), ("CDS:USDINR", "84.0725"));

    // A later client gets the last value at once, and knows it for a snapshot.
    let mut late = client(&server.url(), &["NSE:SBIN"]);
    assert_eq!(late.line(), "subscribed 1 of 1");
    let (_, got) = fields(&late.line());
    assert_eq!((got["ltp"].as_str(), got.contains_key("snapshot")), ("100000.00", true), "{got:?}");
    assert_eq!(got["seq"].parse().ok(), seq, "seq is one count, also in snapshots");
}

#[test]
fn msgpack_python_reads_every_field_of_a_depth() {
    let server = Server::anywhere(&[]);
    let mut publisher = Publisher::heard(&server);
    let mut shown = client(&server.url(), &["NSE:INFY", "--mode", "3"]);
    assert_eq!(shown.line(), "subscribed 1 of 1");
    let depth = json!({"ltp": 1573.7, "open": 1569.15, "high": 1575, "low": 1561.05, "close": 1567.8, "volume": 1_192_471,
        "last_quantity": 3, "average_price": 1570.33, "total_buy_quantity": 256_511, "total_sell_quantity": 360_503, "oi": 0,
        "depth": {"buy": [{"price": 1573.4, "quantity": 5, "orders": 1}, {"price": 1573.35, "quantity": 25, "orders": 2},
            {"price": 0, "quantity": 0, "orders": 0}], "sell": [{"price": 1573.7, "quantity": 172, "orders": 3}]}});
    publisher.send("msgpack", "NSE_INFY_DEPTH", &depth);
    let (name, got) = fields(&shown.line());
    assert_eq!(name, "NSE:INFY");
    for (field, want) in [
        ("ltp", "1573.70"),
        ("open", "1569.15"),
        ("high", "1575.00"),
        ("low", "1561.05"),
        ("close", "1567.80"),
        ("volume", "1192471"),
        ("last_quantity", "3"),
        ("average_price", "1570.33"),
        ("total_buy_quantity", "256511"),
        ("total_sell_quantity", "360503"),
        ("oi", "0"),
        ("bids", "1573.40x5,1573.35x25"),
        ("asks", "1573.70x172"),
    ] {
        assert_eq!(got[field], want, "{field} of {got:?}");
    }
}

#[test]
fn the_example_says_why_it_cannot_go_on() {
    let server = Server::anywhere(&[]);
    for (url, args, why) in [
        (server.url(), &["NSE:SBIN", "--key", "wrong"][..], "AUTHENTICATION_ERROR"),
        ("ws://127.0.0.1:1".into(), &["NSE:SBIN"], "refused"),
    ] {
        let mut client = client(&url, args);
        assert!(!client.wait(PATIENCE).success(), "{why}");
        let stderr = client.stderr();
        assert!(stderr.contains(why) && !stderr.contains("Traceback"), "{stderr}");
    }
}
