//! The example publisher sends Zerodha's packets in all three forms; the SDK's callbacks get exactly their prices.

use crate::process::{Folder, PATIENCE, Running, Server, root};
use crate::python::{Generation, Sdk, python};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// (mode, symbol) -> what its callback must get, in order.
type Expected = BTreeMap<(u8, String), Vec<Value>>;

pub(crate) fn captured() -> PathBuf {
    let default = || root().join("../shared/vectors/broker-feeds/kite");
    let folder = std::env::var_os("E2E_CAPTURED_VECTORS").map_or_else(default, PathBuf::from);
    let file = folder.join("kite_captured.json");
    assert!(file.exists(), "no {}: set E2E_CAPTURED_VECTORS to the folder of kite_captured.json", file.display());
    file
}

/// The ticks of Zerodha's own library, in order. Read here anew, so that the example's reading is checked too.
fn ticks(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("the vectors");
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    let ticks = |case: &Value| case["expected"]["ticks"].as_array().cloned().unwrap_or_default();
    cases["cases"].as_array().expect("cases").iter().flat_map(ticks).collect()
}

fn instrument(tick: &Value) -> (String, String) {
    let token = tick["instrument_token"].as_u64().expect("a token");
    let exchange = match token & 0xff {
        2 => "NFO",
        3 => "CDS",
        6 => "BCD",
        7 | 8 => "MCX",
        9 => "NSE_INDEX",
        12 => "NCO",
        _ => "NSE",
    };
    let symbol = match token {
        408065 => "INFY".to_owned(),
        884737 => "TATAMOTORS".to_owned(),
        256265 => "NIFTY".to_owned(),
        token => format!("TOK{token}"),
    };
    (exchange.into(), symbol)
}

fn expected(ticks: &[Value], rounds: usize) -> Expected {
    let mut all = Expected::new();
    for tick in std::iter::repeat_n(ticks, rounds).flatten() {
        let symbol = instrument(tick).1;
        let ltp = &tick["last_price"];
        let mut want = |mode: u8, value: Value| all.entry((mode, symbol.clone())).or_default().push(value);
        want(1, json!({"ltp": ltp}));
        if tick["mode"] != "ltp" {
            let volume = if tick["tradable"] == true { tick["volume_traded"].clone() } else { json!(0) };
            let [open, high, low, close] = ["open", "high", "low", "close"].map(|name| &tick["ohlc"][name]);
            want(2, json!({"ltp": ltp, "open": open, "high": high, "low": low, "close": close, "volume": volume}));
        }
        if let Some(depth) = tick.get("depth") {
            want(3, json!({"ltp": ltp, "depth": depth}));
        }
    }
    all
}

/// The example, run to its end.
fn publish(args: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(python());
    command.arg(root().join("examples/publish_zerodha.py")).args(args).env_remove("TICKCAST_VECTORS");
    let mut example = Running::new(command);
    let status = example.wait(2 * PATIENCE);
    (status.success(), example.rest_of_stdout(), example.stderr())
}

/// Publishes what the example is told to (its own vectors, if nothing) and compares every callback, price by price.
fn the_same_prices(generation: Generation, told: &[&str], file: &Path) {
    let ticks = ticks(file);
    let mut instruments: Vec<_> = ticks.iter().map(instrument).collect();
    instruments.sort();
    instruments.dedup();
    let server = Server::anywhere(&[]);
    let mut sdk = Sdk::connected(generation, &server);
    for mode in [1, 2, 3] {
        sdk.subscribe(mode, &instruments);
    }
    server.await_metric("tickcast_subscriptions_active", &[], 3.0 * instruments.len() as f64);

    let (done, _, stderr) = publish(&[&["--connect", &server.bus, "--interval", "0.02"], told].concat());
    assert!(done, "{stderr}");

    // JSON, MessagePack and BATCH: everything three times.
    for ((mode, symbol), wants) in expected(&ticks, 3) {
        let mut got = Vec::new();
        while got.len() < wants.len() {
            got.push(next_of(&mut sdk, mode, &symbol));
        }
        for (index, (got, want)) in got.iter().zip(&wants).enumerate() {
            for (field, value) in want.as_object().expect("fields") {
                assert_eq!(&got[field], value, "{field} of mode {mode} {symbol}, tick {index}: {got}");
            }
        }
    }
    for mode in [1, 2, 3] {
        let rest = sdk.0.kept(crate::python::callback_name(mode));
        assert_eq!(rest, Vec::<Value>::new(), "more callbacks of mode {mode} than ticks");
    }
    for kind in ["json", "msgpack", "batch"] {
        assert!(server.metric("tickcast_bus_messages_total", &[&format!("\"{kind}\"")]) > 0.0, "{kind}");
    }
    assert_eq!(server.metric("tickcast_bus_rejected_total", &[]), 0.0);
    assert_eq!(server.metric("tickcast_ticks_merged_total", &[]), 0.0, "the SDK kept up");
}

fn next_of(sdk: &mut Sdk, mode: u8, symbol: &str) -> Value {
    sdk.0.callback_of(crate::python::callback_name(mode), symbol)["message"]["data"].clone()
}

#[test]
fn prices_of_captured_zerodha_packets_reach_the_installed_sdk_unchanged() {
    let file = captured();
    the_same_prices(Generation::Installed, &[file.to_str().expect("UTF-8")], &file);
}

#[test]
fn prices_of_captured_zerodha_packets_reach_sdk_2_unchanged() {
    let file = captured();
    the_same_prices(Generation::Two, &[file.to_str().expect("UTF-8")], &file);
}

#[test]
fn prices_of_synthetic_zerodha_packets_reach_sdk_2_unchanged() {
    let file = root().join("tests/vectors/broker-feeds/kite/kite_synthetic.json");
    the_same_prices(Generation::Two, &[], &file);
}

#[test]
fn the_example_binds_when_told_to_sends_one_form_only_and_says_when_nobody_listens() {
    let folder = Folder::new("example");
    let endpoint = format!("ipc://{}", folder.path("bus"));
    let (done, _, stderr) = publish(&["--bind", &endpoint, "--wait", "0.1"]);
    assert!(!done && stderr.contains("nobody subscribed") && stderr.contains("ZMQ_PUB_PORT"), "{stderr}");
    let server = Server::anywhere(&["--set", &format!("bus.connect={endpoint}")]);
    let (done, stdout, stderr) = publish(&["--bind", &endpoint, "--form", "msgpack", "--interval", "0"]);
    assert!(done, "{stderr}");
    let sent: f64 = stdout.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{stdout}"));
    server.await_metric("tickcast_bus_messages_total", &["msgpack"], sent);
    assert_eq!(server.metric("tickcast_bus_messages_total", &[]), sent, "no other form");
}
