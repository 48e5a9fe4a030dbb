//! The bridge example: an adapter class of OpenAlgo's shape behind it, its ticks at clients, its death and return.

use crate::msgpack::client as msgpack_client;
use crate::process::{ANY_BUS, Running, Server, ready_fields, root};
use crate::python::python;
use crate::support::Client;
use serde_json::{Value, json};
use std::process::Command;

fn server(control: &str) -> Server {
    let control = format!("adapters.control_bind={control}");
    let args = ["--listen", "127.0.0.1:0", "--set", "adapters.default=external", "--set", &control];
    Server::start(&[&args, ANY_BUS].concat(), &[])
}

const ANYWHERE: &str = "tcp://127.0.0.1:0";

fn bridge(server: &Server) -> Running {
    let mut command = Command::new(python());
    let control = &ready_fields(&server.ready)["control"];
    command.arg(root().join("examples/openalgo_bridge.py")).arg("--path").arg(root().join("tests/e2e"));
    command.args(["--adapter", "fake_adapter:FakeWebSocketAdapter", "--broker", "external", "--user", "demo"]);
    Running::new({
        command.args(["--control", control]);
        command
    })
}

/// The next event of this name.
fn event(bridge: &mut Running, name: &str) -> Value {
    loop {
        let event: Value = serde_json::from_str(&bridge.line()).expect("an event");
        if event["event"] == name {
            return event;
        }
    }
}

/// Reads on until the adapter holds exactly this.
fn until_held(bridge: &mut Running, want: &[&str]) {
    while event(bridge, "held")["held"] != json!(want) {}
}

fn client(server: &Server) -> Client {
    let mut client = Client::connect(server.ws);
    let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    assert_eq!(reply["status"], "success", "{reply}");
    client
}

/// Ticks of `symbol` that count up, from the first one after a return to 1.
fn counts_again(client: &mut Client, symbol: &str) {
    let price =
        |client: &mut Client| client.json_where(|v| v["symbol"] == symbol)["data"]["ltp"].as_f64().expect("ltp");
    let mut last = f64::MAX;
    loop {
        let now = price(client);
        if now < last && last < f64::MAX {
            break;
        }
        last = now;
    }
    let (a, b) = (price(client), price(client));
    assert!(a < b, "{a} {b}");
}

#[test]
fn an_openalgo_adapter_class_serves_json_and_messagepack_clients_through_the_bridge() {
    let server = server(ANYWHERE);
    let mut first = bridge(&server);
    assert_eq!(event(&mut first, "initialize")["user"], "demo");
    event(&mut first, "connect");
    let mut client = client(&server);
    let symbols = json!([{"symbol": "INFY", "exchange": "NSE"}, {"symbol": "BADSYM", "exchange": "NSE"}]);
    let ack = client.request(json!({"action": "subscribe", "symbols": symbols, "mode": 1}));
    assert_eq!(ack["subscriptions"][0]["status"], "success", "{ack}");
    assert_eq!(ack["subscriptions"][1]["message"], "BADSYM is not traded", "{ack}");
    let tick = client.tick();
    assert_eq!((&tick["symbol"], &tick["broker"]), (&json!("INFY"), &json!("external")), "{tick}");
    assert_eq!(tick["data"]["ltp"].as_f64().map(f64::fract), Some(0.25));
    let mut packed = msgpack_client(&server.url(), &["NSE:TCS", "--mode", "2"]);
    assert_eq!(packed.line(), "subscribed 1 of 1");
    let line = packed.line();
    assert!(line.starts_with("NSE:TCS ") && line.contains(".25"), "{line}");
    until_held(&mut first, &["INFY/1", "TCS/2"]);

    // kill -9 and return: nobody does anything, the broker has what is wanted, and ticks count from 1 again.
    first.kill();
    let mut second = bridge(&server);
    until_held(&mut second, &["INFY/1", "TCS/2"]);
    counts_again(&mut client, "INFY");
    packed.line();
    packed.kill();
    drop(packed);
    until_held(&mut second, &["INFY/1"]);
    let gone =
        client.request(json!({"action": "unsubscribe", "symbols": [{"symbol": "INFY", "exchange": "NSE", "mode": 1}]}));
    assert_eq!(gone["status"], "success", "{gone}");
    until_held(&mut second, &[]);
}

#[test]
fn the_bridge_says_hello_to_a_server_that_was_killed_and_is_back() {
    let mut first = server(ANYWHERE);
    let control = ready_fields(&first.ready)["control"].clone();
    let mut bridge = bridge(&first);
    event(&mut bridge, "connect");
    let mut before = client(&first);
    before.subscribe(&["INFY", "TCS"], 1);
    before.tick();
    until_held(&mut bridge, &["INFY/1", "TCS/1"]);
    first.process.kill();
    let second = server(&control);
    let mut after = client(&second);
    after.subscribe(&["INFY"], 1);
    after.tick();
    // What only the server that is no more wanted has been let go.
    until_held(&mut bridge, &["INFY/1"]);
}
