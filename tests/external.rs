//! External adapters through the whole server: calls over the control channel, ticks over the bus, death and return of a process.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use support::dealer::{AdapterProcess, Dealer};
use support::world::{Bound, Keys};
use support::{Client, Publisher, Server};
use tickcast::config::Settings;
use tickcast::config::settings::{AdapterKind, Broker, Secret};

/// angel is a broker whose adapters are processes.
fn external(settings: &mut Settings) {
    settings.brokers = BTreeMap::from([("angel".into(), Broker { kind: AdapterKind::External, ..Default::default() })]);
}

fn server(keys: &Keys) -> Server {
    Server::start(|s| {
        keys.set(s);
        external(s);
    })
}

fn entries(ack: &Value) -> Vec<(&str, &str)> {
    let each = ack["subscriptions"].as_array().expect("entries").iter();
    each.map(|e| (e["status"].as_str().expect("a status"), e["message"].as_str().unwrap_or_default())).collect()
}

fn subscribe(client: &mut Client, symbols: &[&str], mode: u8) -> Value {
    let symbols: Vec<_> = symbols.iter().map(|s| json!({"symbol": s, "exchange": "NSE"})).collect();
    client.request(json!({"action": "subscribe", "symbols": symbols, "mode": mode}))
}

/// Publishes prices counting from `from` until one reaches the client.
fn resume(client: &mut Client, publisher: &mut Publisher, symbol: &str, price: f64) {
    publisher.ltp(symbol, price);
    client.json_where(|v| v["symbol"] == symbol && v["data"]["ltp"] == price);
}

#[test]
fn a_process_takes_first_in_and_last_out_and_its_ticks_reach_the_client() {
    let keys = Keys::new(&[("asha", "angel")]);
    let server = server(&keys);
    let process = AdapterProcess::start(&server.control, &json!({"broker": "Angel", "user": null, "modes": [1, 2, 3]}));
    let (mut first, mut second) = (server.client_of("asha"), server.client_of("asha"));
    let ack = subscribe(&mut first, &["INFY", "BADSYM"], 1);
    assert_eq!(entries(&ack)[0].0, "success", "{ack}");
    assert_eq!(entries(&ack)[1], ("error", "BADSYM is not traded"), "the adapter's own words");
    second.subscribe(&["INFY"], 1);
    assert_eq!(process.log(), ["-*", "+INFY/1", "+BADSYM/1"], "one call for both clients");
    server.publisher().ltp("INFY", 1573.5);
    assert_eq!(
        (first.tick()["data"]["ltp"].clone(), second.tick()["data"]["ltp"].clone()),
        (json!(1573.5), json!(1573.5))
    );
    for client in [&mut first, &mut second] {
        let ack = client
            .request(json!({"action": "unsubscribe", "symbols": [{"symbol": "INFY", "exchange": "NSE", "mode": 1}]}));
        assert_eq!(ack["status"], "success", "{ack}");
    }
    assert_eq!(process.log(), ["-INFY/1"], "with the last one");
    assert_eq!(server.metric("tickcast_broker_calls_total", &["angel", "op=\"subscribe\"", "success"]), 1.0);
    assert_eq!(server.metric("tickcast_control_sessions", &[]), 1.0);
    drop((first, second));
    server.finish();
}

#[test]
fn the_depth_really_given_is_told_to_the_client() {
    let keys = Keys::new(&[("asha", "angel")]);
    let server = server(&keys);
    let _process = AdapterProcess::start(&server.control, &json!({"broker": "angel"}));
    let mut client = server.client_of("asha");
    let ask =
        json!({"action": "subscribe", "symbols": [{"symbol": "INFY", "exchange": "NSE"}], "mode": 3, "depth": 20});
    let ack = client.request(ask);
    assert_eq!(ack["subscriptions"][0]["depth"], json!(5), "{ack}");
}

#[test]
fn a_killed_process_is_replayed_when_it_returns_and_the_client_does_nothing() {
    let keys = Keys::new(&[("asha", "angel")]);
    let server = server(&keys);
    let (bound, endpoint) = Bound::new();
    let hello = json!({"broker": "angel", "user": "asha", "publishes": [endpoint]});
    let process = AdapterProcess::start(&server.control, &hello);
    let mut publisher = bound.accept();
    let mut client = server.client_of("asha");
    client.subscribe(&["INFY", "SBIN"], 1);
    client.subscribe(&["INFY"], 2);
    resume(&mut client, &mut publisher, "INFY", 1.0);
    drop((process, publisher, bound));
    server.await_metric("tickcast_adapters", &["angel", "\"down\""], 1.0);
    // What is given back meanwhile is not asked for again, what is new waits for the process.
    let gone =
        client.request(json!({"action": "unsubscribe", "symbols": [{"symbol": "SBIN", "exchange": "NSE", "mode": 1}]}));
    assert_eq!(gone["status"], "success", "{gone}");
    client.send(json!({"action": "subscribe", "symbols": [{"symbol": "TCS", "exchange": "NSE"}], "mode": 1}));
    let (bound, endpoint) = Bound::new();
    let hello = json!({"broker": "angel", "user": "asha", "publishes": [endpoint]});
    let process = AdapterProcess::start(&server.control, &hello);
    let ack = client.json_where(|v| v["type"] == "subscribe");
    assert_eq!(entries(&ack)[0].0, "success", "{ack}");
    process.await_held(&["INFY/1", "INFY/2", "TCS/1"]);
    resume(&mut client, &mut bound.accept(), "INFY", 2.0);
    server.await_metric("tickcast_adapters", &["angel", "\"live\""], 1.0);
    assert_eq!(server.metric("tickcast_subscriptions_active", &[]), 3.0);
    assert!(server.metric("tickcast_subscription_events_total", &["\"replayed\""]) >= 2.0);
}

#[test]
fn a_process_whose_connection_is_cut_says_hello_again_and_is_replayed() {
    let keys = Keys::new(&[("asha", "angel")]);
    let server = server(&keys);
    let mut client = server.client_of("asha");
    let first = AdapterProcess::start(&server.control, &json!({"broker": "angel", "user": "asha"}));
    client.subscribe(&["INFY"], 1);
    // The second hello replaces the first, which is told to go.
    let second = AdapterProcess::start(&server.control, &json!({"broker": "angel", "user": "asha"}));
    second.await_held(&["INFY/1"]);
    assert_eq!(first.await_disconnect(), "replaced");
    first.await_held(&[]);
    assert_eq!(server.metric("tickcast_control_rejected_total", &["replaced"]), 1.0);
    // The end of the first costs the second nothing.
    drop(first);
    server.await_metric("tickcast_control_peers", &[], 1.0);
    client.subscribe(&["TCS"], 1);
    second.await_held(&["INFY/1", "TCS/1"]);
}

#[test]
fn a_broker_connection_that_comes_back_is_replayed_on_the_same_session() {
    let keys = Keys::new(&[("asha", "angel")]);
    let server = server(&keys);
    let process = AdapterProcess::start(&server.control, &json!({"broker": "angel"}));
    let mut client = server.client_of("asha");
    client.subscribe(&["INFY"], 3);
    process.status(false);
    server.await_metric("tickcast_adapters", &["angel", "\"down\""], 1.0);
    process.await_held(&[]);
    process.status(true);
    process.await_held(&["INFY/3"]);
    server.await_metric("tickcast_adapters", &["angel", "\"live\""], 1.0);
}

#[test]
fn two_users_processes_of_one_broker_never_mix_their_calls_or_their_ticks() {
    let keys = Keys::new(&[("asha", "angel"), ("ravi", "angel"), ("mira", "angel")]);
    let server = server(&keys);
    let mut clients: Vec<Client> = Vec::new();
    // asha is there before her process, ravi comes after his; mira has none and is served by everybody's.
    clients.push(server.client_of("asha"));
    let (asha_feed, asha_at) = Bound::new();
    let (ravi_feed, ravi_at) = Bound::new();
    let asha =
        AdapterProcess::start(&server.control, &json!({"broker": "angel", "user": "asha", "publishes": [asha_at]}));
    let ravi =
        AdapterProcess::start(&server.control, &json!({"broker": "angel", "user": "ravi", "publishes": [ravi_at]}));
    let shared = AdapterProcess::start(&server.control, &json!({"broker": "angel"}));
    clients.push(server.client_of("ravi"));
    clients.push(server.client_of("mira"));
    for (client, own) in clients.iter_mut().zip(["A", "B", "C"]) {
        client.subscribe(&["INFY", own, "END"], 1);
    }
    asha.await_held(&["A/1", "END/1", "INFY/1"]);
    ravi.await_held(&["B/1", "END/1", "INFY/1"]);
    shared.await_held(&["C/1", "END/1", "INFY/1"]);
    for (feed, price) in
        [(&mut asha_feed.accept(), 1.0), (&mut ravi_feed.accept(), 2.0), (&mut server.publisher(), 3.0)]
    {
        feed.ltp("INFY", price);
        feed.ltp("END", price);
    }
    for (client, price) in clients.iter_mut().zip([1.0, 2.0, 3.0]) {
        let ticks = client.ticks_before("END");
        let prices: Vec<_> = ticks.iter().map(|t| t["data"]["ltp"].clone()).collect();
        assert_eq!(prices, [json!(price)], "each sees its own feed only");
        assert!(client.settled().is_empty());
    }
}

#[test]
fn a_hello_needs_the_secret_when_there_is_one() {
    let server = Server::start(|s| {
        external(s);
        s.adapters.secret = Some(Secret("s3cret".into()));
    });
    let mut dealer = Dealer::connect(&server.control);
    dealer.send(json!({"v": 1, "op": "hello", "broker": "angel", "secret": "guess"}));
    let refused = dealer.recv();
    assert_eq!((&refused["op"], refused.get("session")), (&json!("disconnect"), None), "{refused}");
    dealer.send(json!({"v": 1, "op": "hello", "broker": "angel", "secret": "s3cret"}));
    assert_eq!(dealer.recv()["op"], "welcome");
    assert_eq!(server.metric("tickcast_control_rejected_total", &["hello_secret"]), 1.0);
}

#[test]
fn a_full_adapter_refuses_by_entry_and_the_rest_goes_on() {
    let keys = Keys::new(&[("asha", "angel")]);
    let server = server(&keys);
    let process = AdapterProcess::start(&server.control, &json!({"broker": "angel", "capacity": 2}));
    let mut client = server.client_of("asha");
    let ack = subscribe(&mut client, &["A", "B", "C"], 1);
    let statuses: Vec<_> = entries(&ack).iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, ["success", "success", "error"], "{ack}");
    assert!(entries(&ack)[2].1.contains("MAX_CAPACITY_REACHED"), "{ack}");
    process.await_held(&["A/1", "B/1"]);
}

#[test]
fn after_the_linger_the_process_is_told_to_log_out_and_comes_back_for_the_next_client() {
    let keys = Keys::new(&[("asha", "angel")]);
    let server = Server::start(|s| {
        keys.set(s);
        external(s);
        s.adapters.linger = Duration::ZERO;
    });
    let process = AdapterProcess::start(&server.control, &json!({"broker": "angel", "user": "asha"}));
    let mut client = server.client_of("asha");
    client.subscribe(&["INFY"], 1);
    drop(client);
    // What it was told, not the gauge: the process's next heartbeat brings a new hello, so the gauge is 0 for a moment only.
    process.await_disconnect();
    let mut client = server.client_of("asha");
    client.subscribe(&["TCS"], 1);
    process.await_held(&["TCS/1"]);
}

#[test]
fn two_servers_and_their_adapter_processes_never_mix_calls_or_ticks() {
    let keys = Keys::new(&[("asha", "angel")]);
    let servers = [server(&keys), server(&keys)];
    assert_ne!(servers[0].control, servers[1].control);
    let feeds = [Bound::new(), Bound::new()];
    let processes: Vec<_> = servers
        .iter()
        .zip(&feeds)
        .map(|(s, (_, at))| {
            AdapterProcess::start(&s.control, &json!({"broker": "angel", "user": "asha", "publishes": [at]}))
        })
        .collect();
    let mut clients: Vec<_> = servers.iter().map(|s| s.client_of("asha")).collect();
    clients[0].subscribe(&["INFY", "A"], 1);
    clients[1].subscribe(&["INFY", "B"], 1);
    processes[0].await_held(&["A/1", "INFY/1"]);
    processes[1].await_held(&["B/1", "INFY/1"]);
    for (n, (client, (feed, _))) in clients.iter_mut().zip(&feeds).enumerate() {
        feed.accept().ltp("INFY", n as f64);
        assert_eq!(client.tick()["data"]["ltp"], json!(n as f64));
        assert!(client.settled().is_empty());
    }
    for server in &servers {
        assert_eq!(server.metric("tickcast_ticks_received_total", &[]), 1.0);
        assert_eq!(server.metric("tickcast_control_sessions", &[]), 1.0);
    }
    // One that ends leaves the other alone.
    let [first, second] = servers;
    assert!(first.stop());
    clients[1].subscribe(&["C"], 1);
    processes[1].await_held(&["B/1", "C/1", "INFY/1"]);
    drop(second);
}
