//! Quiet or dead as data: the state of a user's feed as notices, as `/feeds`, as a metric, and as what decides on snapshots.
//!
//! Which facts make which state is tested beside `src/policy/feed_health.rs`; here each state is brought about through the whole server.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::world::keys;
use support::{Client, Got, PATIENCE, Server};
use tickcast::adapter::Report;
use tickcast::adapter::scripted::{Play, Script};
use tickcast::app::Hooks;
use tickcast::config::settings::AdapterKind;
use tickcast::session::feeds::FeedTimes;
use tickcast::wire::msgpack::{ServerFrame, read};

/// Looks often; `silent` and `peerless` are how soon a feed counts as that.
fn hooks(silent: Option<Duration>, peerless: Option<Duration>) -> Hooks {
    let usual = FeedTimes::default();
    let times = FeedTimes {
        every: Duration::from_millis(5),
        silent_after: silent.unwrap_or(usual.silent_after),
        peerless_after: peerless.unwrap_or(usual.peerless_after),
    };
    Hooks { feed_times: Some(times), ..Default::default() }
}

fn ask(client: &mut Client, symbol: &str, exchange: &str) -> Value {
    let request =
        json!({"action": "subscribe", "symbol": symbol, "exchange": exchange, "mode": 1, "feed_status": true});
    let ack = client.request(request);
    assert_eq!(ack["subscriptions"][0]["status"], "success", "{ack}");
    ack
}

/// The next notice about the feed: its state and detail.
fn notice(client: &mut Client) -> (String, String) {
    let notice = client.json_where(|v| v["type"] == "feed_status");
    assert_eq!(keys(&notice), ["broker", "detail", "since", "state", "type"]);
    assert_eq!(notice["broker"], "bus");
    assert!(notice["since"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{notice}");
    let text = |key: &str| notice[key].as_str().expect("text").to_owned();
    (text("state"), text("detail"))
}

fn await_silence(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    while server.metric("tickcast_feed_silence_seconds", &["broker=\"bus\""]) == 0.0 {
        assert!(Instant::now() < deadline, "the metric does not show the silence");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn feed_of(server: &Server) -> Value {
    let (status, body) = server.admin_get("/feeds");
    assert_eq!(status, 200);
    assert!(!body.contains("key"), "no secret ever appears: {body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["feeds"].as_array().map(Vec::len), Some(1), "{body}");
    body["feeds"][0].clone()
}

#[test]
fn each_state_of_the_feed_is_told_to_those_who_asked_and_to_nobody_else() {
    let script = Script::default();
    let server = Server::with_hooks(|_| {}, Hooks { factory: Some(Arc::new(script.clone())), ..hooks(None, None) });
    let mut publisher = server.publisher();
    let (mut told, mut untold) = (server.client(), server.client());
    untold.subscribe(&["A"], 1);
    ask(&mut told, "A", "NSE");
    assert_eq!(notice(&mut told).0, "quiet", "nothing has ticked yet");
    publisher.ltp("A", 1.0);
    assert_eq!(notice(&mut told).0, "live");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // The adapter dies, and its successor hangs while it connects.
    script.connects([Play::Hold]);
    runtime.block_on(script.report(Report::Lost { reason: "a test".into() }));
    assert_eq!(notice(&mut told), ("down".into(), "the adapter is connecting".into()));
    // Who asks now is told at once, in its own format.
    let (mut packed, _) = Client::connect_to(server.ws, "/", "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n");
    packed.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    packed.send(json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1, "feed_status": true}));
    let mut message = || loop {
        match packed.next() {
            Got::Binary(payload) => match read(&payload).expect("a readable frame") {
                ServerFrame::Message(message) if message["type"] == "feed_status" => return message["state"].clone(),
                _ => {}
            },
            Got::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(message(), "down");
    assert_eq!((&feed_of(&server)["state"], &feed_of(&server)["adapter"]), (&json!("down"), &json!("connecting")));
    runtime.block_on(script.connected());
    assert_eq!(notice(&mut told).0, "recovered");
    assert_eq!(message(), "recovered");
    runtime.block_on(script.until(|s| s.at_broker().len() == 1));
    publisher.ltp("A", 2.0);
    assert_eq!(notice(&mut told).0, "live");
    assert_eq!(message(), "live");
    // Asking again while it is live tells nothing; who gave up what it asked with hears no more.
    ask(&mut told, "B", "NSE");
    told.request(json!({"action": "unsubscribe_all"}));
    script.connects([Play::Hold]);
    runtime.block_on(script.report(Report::Lost { reason: "a test".into() }));
    assert_eq!(message(), "down");
    let others = told.settled();
    assert!(others.iter().all(|v| v["type"] == "market_data"), "{others:?}");
    let others = untold.settled();
    assert!(others.iter().all(|v| v["type"] == "market_data"), "{others:?}");
}

#[test]
fn a_bus_without_a_publisher_is_down_and_recovers_with_the_next_one() {
    let server = Server::with_hooks(|_| {}, hooks(None, Some(Duration::ZERO)));
    let mut client = server.client();
    ask(&mut client, "A", "NSE");
    let (state, detail) = notice(&mut client);
    assert_eq!((state.as_str(), detail.as_str()), ("down", "no publisher is connected to the bus"));
    // A market that never closes: its silence is counted although nobody is there to break it.
    client.request(json!({"action": "subscribe", "symbol": "BTC", "exchange": "CRYPTO", "mode": 1}));
    await_silence(&server);
    let publisher = server.publisher();
    assert_eq!(notice(&mut client).0, "quiet", "the first of all is no recovery");
    drop(publisher);
    assert_eq!(notice(&mut client).0, "down");
    let mut publisher = server.publisher();
    assert_eq!(notice(&mut client).0, "recovered");
    publisher.ltp("A", 1.0);
    assert_eq!(notice(&mut client).0, "live");
}

#[test]
fn a_silent_feed_of_a_market_that_never_closes_is_stale_and_its_values_are_shown_only_to_who_asks() {
    // Any silence counts.
    let server = Server::with_hooks(|_| {}, hooks(Some(Duration::ZERO), None));
    let mut publisher = server.publisher();
    let mut client = server.client();
    ask(&mut client, "BTC", "CRYPTO");
    let (mut state, mut detail) = notice(&mut client);
    if state == "quiet" {
        // The look before the broker had answered.
        (state, detail) = notice(&mut client);
    }
    assert_eq!((state.as_str(), detail.as_str()), ("stale", "no tick yet, though some are expected"));
    publisher.json("CRYPTO_BTC_LTP", &json!({"ltp": 1.5}));
    assert_eq!(client.tick()["data"]["ltp"], 1.5);
    for (wish, count) in [(json!(null), 0), (json!(true), 1)] {
        let mut other = server.client();
        other.request(
            json!({"action": "subscribe", "symbol": "BTC", "exchange": "CRYPTO", "mode": 1, "snapshot": wish}),
        );
        assert_eq!(other.settled().len(), count, "{wish}");
    }
    await_silence(&server);
    let feed = feed_of(&server);
    assert_eq!((&feed["state"], &feed["subscriptions"]), (&json!("stale"), &json!(1)), "{feed}");
    assert!(feed["silence_seconds"].as_f64().is_some_and(|s| s > 0.0), "{feed}");
    client.request(json!({"action": "unsubscribe_all"}));
    drop(client);
    server.finish();
}

#[test]
fn feeds_shows_who_receives_what_from_where() {
    let server = Server::with_hooks(|s| s.adapters.default = AdapterKind::Sim, hooks(None, None));
    let mut client = server.client();
    client.subscribe(&["RELIANCE"], 1);
    client.tick();
    let feed = feed_of(&server);
    let want =
        ["adapter", "broker", "capacity_left", "connections", "detail", "heartbeat_seconds", "kind", "silence_seconds"];
    assert_eq!(keys(&feed)[..want.len()], want);
    assert_eq!(keys(&feed)[want.len()..], ["since", "state", "subscriptions", "user"]);
    for (key, value) in [
        ("user", json!("demo")),
        ("broker", json!("sim")),
        ("kind", json!("sim")),
        ("state", json!("live")),
        ("adapter", json!("live")),
        ("subscriptions", json!(1)),
        ("connections", json!(1)),
        ("capacity_left", json!(null)),
        ("heartbeat_seconds", json!(null)),
    ] {
        assert_eq!(feed[key], value, "{key} of {feed}");
    }
    // The first real tick ends the simulated market: from then on the bus must have a publisher.
    let mut publisher = server.publisher();
    publisher.ltp("RELIANCE", 1.0);
    server.await_metric("tickcast_sim_active", &[], 0.0);
    assert_eq!(feed_of(&server)["kind"], "bus");
}
