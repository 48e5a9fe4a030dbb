//! What each overload level does, and the way back, with facts put in place of load: nothing here runs against a clock.
//!
//! Which facts make which level is tested beside `src/policy/overload.rs`; real load is `loadtest storm`.

mod support;

use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::world::keys;
use support::{Client, Got, Server};
use tickcast::app::{ForcedFacts, Hooks};
use tickcast::auth::sqlite::KeyFile;
use tickcast::config::Settings;
use tickcast::config::settings::KeyStoreSetting;
use tickcast::model::Class;
use tickcast::policy::overload::Facts;
use tickcast::wire::msgpack::{ServerFrame, read};

/// A server that believes what the test says of its load.
struct Loaded {
    server: Server,
    delay: Arc<Mutex<Duration>>,
}

impl Loaded {
    fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let delay = Arc::new(Mutex::new(Duration::ZERO));
        let believed = Arc::clone(&delay);
        let facts = move || Facts { delay: *believed.lock().expect("no test panics with it"), ..Facts::default() };
        let forced = ForcedFacts { facts: Arc::new(facts), every: Duration::from_millis(2) };
        let server = Server::with_hooks(change, Hooks { overload: Some(forced), ..Default::default() });
        Loaded { server, delay }
    }

    /// Makes `level` the one that the facts ask for, from above and from below, and waits for it.
    fn bring_to(&self, level: u8) {
        let falls = self.server.metric("tickcast_overload_level", &[]) > f64::from(level);
        // A level is left below half of what raises it.
        let ms = if falls { [0, 60, 150, 300] } else { [120, 300, 600, 2000] }[usize::from(level - u8::from(!falls))];
        *self.delay.lock().expect("no test panics with it") = Duration::from_millis(ms);
        self.server.await_metric("tickcast_overload_level", &[], f64::from(level));
    }
}

/// A key store with a key of each class, and a user for each key; removed when dropped.
struct Classes {
    file: PathBuf,
    keys: Vec<(Class, String)>,
}

impl Classes {
    fn new(name: &str) -> Self {
        let file = std::env::temp_dir().join(format!("tickcast-overload-{name}-{}.db", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let mut store = KeyFile::open(&file, true).expect("a new store");
        let mut key = |class: Class| (class, store.add(class.label(), "bus", class).expect("a key"));
        let keys = vec![key(Class::High), key(Class::Normal), key(Class::Low)];
        Classes { file, keys }
    }

    fn set(&self, settings: &mut Settings) {
        settings.auth.store = KeyStoreSetting::Sqlite(self.file.clone());
    }

    fn client(&self, server: &Server, class: Class) -> Client {
        let (_, key) = self.keys.iter().find(|(c, _)| *c == class).expect("each class has a key");
        let mut client = server.connect();
        let reply = client.request(json!({"action": "authenticate", "api_key": key}));
        assert_eq!(reply["type"], "auth", "{reply}");
        client
    }
}

impl Drop for Classes {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn ask(symbol: &str, more: Value) -> Value {
    let mut request = json!({"action": "subscribe", "symbol": symbol, "exchange": "NSE", "mode": 1});
    let more = more.as_object().expect("an object").clone();
    request.as_object_mut().expect("an object").extend(more);
    request
}

#[test]
fn each_change_of_level_is_told_to_those_who_asked_and_to_nobody_else() {
    let loaded = Loaded::start(|_| {});
    let (mut told, mut untold) = (loaded.server.client(), loaded.server.client());
    told.request(ask("A", json!({"overload": true})));
    untold.request(ask("A", json!({})));
    let protocol = "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n";
    let (mut packed, _) = Client::connect_to(loaded.server.ws, "/", protocol);
    packed.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    packed.send(ask("A", json!({"overload": true})));
    let mut message = move || loop {
        match packed.next() {
            Got::Binary(payload) => match read(&payload).expect("a readable frame") {
                ServerFrame::Message(message) => return message,
                other => panic!("{other:?} though nothing ticks"),
            },
            Got::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((&message()["type"], &message()["type"]), (&json!("auth"), &json!("subscribe")));
    for level in [1, 2, 3, 4, 3, 2, 1, 0, 1, 0] {
        loaded.bring_to(level);
        let want = json!({"type": "overload", "level": level});
        assert_eq!(told.json(), want);
        assert_eq!(message(), want);
    }
    assert!(untold.settled().is_empty());
    // Who asks while a level is in force is told it; who gives up what it asked with hears no more.
    for level in [1, 2] {
        loaded.bring_to(level);
        assert_eq!(told.json()["level"], level);
    }
    let ack = untold.request(ask("A", json!({"overload": true})));
    assert_eq!(ack["subscriptions"][0]["status"], "warning", "{ack}");
    // A repeat replaces the options. Its worker may be about to hear of level 2 itself.
    while untold.json() != json!({"type": "overload", "level": 2}) {}
    told.request(json!({"action": "unsubscribe_all"}));
    for level in [1, 0] {
        loaded.bring_to(level);
        assert_eq!(untold.json()["level"], level);
    }
    assert!(told.settled().is_empty());
}

#[test]
fn at_level_two_ticks_merge_to_a_lower_rate_by_class_and_every_is_spared_until_the_level_falls() {
    let classes = Classes::new("conflated");
    let loaded = Loaded::start(|s| classes.set(s));
    let [mut high, mut normal, mut low] =
        [Class::High, Class::Normal, Class::Low].map(|class| classes.client(&loaded.server, class));
    let mut every = classes.client(&loaded.server, Class::Low);
    every.request(ask("A", json!({"delivery": "every"})));
    // So that each hears of the level when it is in force for it.
    for client in [&mut high, &mut normal, &mut low] {
        client.request(ask("A", json!({"overload": true})));
    }
    let mut publisher = loaded.server.publisher();
    let mut burst = |first: usize| publisher.batch_counting(&["A"], first..first + 100);
    let prices = |client: &mut Client, last: usize| -> Vec<usize> {
        let mut seen = Vec::new();
        while seen.last() != Some(&last) {
            seen.push(client.tick()["data"]["ltp"].as_f64().expect("a price") as usize);
        }
        seen
    };
    let in_force = |client: &mut Client, level: u8| {
        client.json_where(|v| *v == json!({"type": "overload", "level": level}));
    };
    loaded.bring_to(1);
    for client in [&mut high, &mut normal, &mut low] {
        in_force(client, 1);
    }
    burst(1);
    for client in [&mut high, &mut normal, &mut low, &mut every] {
        assert_eq!(prices(client, 100).len(), 100, "longer pacing merges nothing");
    }
    loaded.bring_to(2);
    for client in [&mut high, &mut normal, &mut low] {
        in_force(client, 2);
    }
    burst(101);
    for client in [&mut high, &mut every] {
        assert_eq!(
            prices(client, 200).len(),
            100,
            "high is spared at this level, and what was promised every tick always"
        );
    }
    for client in [&mut normal, &mut low] {
        assert_eq!(prices(client, 200), [101, 200], "the first at once, then the newest");
    }
    loaded.bring_to(1);
    for client in [&mut normal, &mut low] {
        in_force(client, 1);
    }
    burst(201);
    for client in [&mut normal, &mut low] {
        assert_eq!(prices(client, 300).len(), 100);
    }
}

#[test]
fn at_level_three_class_low_keeps_what_it_holds_and_gets_no_more_until_the_level_falls() {
    let classes = Classes::new("held");
    let loaded = Loaded::start(|s| classes.set(s));
    let [mut high, mut normal, mut low] =
        [Class::High, Class::Normal, Class::Low].map(|class| classes.client(&loaded.server, class));
    low.subscribe(&["A"], 1);
    loaded.bring_to(2);
    low.subscribe(&["B"], 1);
    loaded.bring_to(3);
    high.subscribe(&["A", "C"], 1);
    normal.subscribe(&["A", "C"], 1);
    let symbols = json!([{"symbol": "A", "exchange": "NSE"}, {"symbol": "C", "exchange": "NSE"}]);
    let ack = low.request(json!({"action": "subscribe", "symbols": symbols, "mode": 1, "request_id": 7}));
    assert_eq!((&ack["status"], &ack["request_id"]), (&json!("partial"), &json!(7)), "{ack}");
    let entry = |n: usize| &ack["subscriptions"][n];
    assert_eq!(entry(0)["status"], "warning", "held, whatever the level");
    assert_eq!((&entry(1)["status"], &entry(1)["code"]), (&json!("error"), &json!("LIMIT_EXCEEDED")));
    assert_eq!(keys(entry(1)), ["broker", "code", "exchange", "message", "status", "symbol"]);
    assert!(entry(1)["message"].as_str().is_some_and(|m| m.contains("overloaded")), "{ack}");
    loaded.server.publisher().batch([("A", 1.0), ("C", 2.0)]);
    assert_eq!(low.tick()["symbol"], "A");
    assert_eq!((high.tick()["symbol"].clone(), high.tick()["symbol"].clone()), (json!("A"), json!("C")));
    assert!(low.settled().is_empty());
    loaded.bring_to(2);
    low.subscribe(&["C"], 1);
}

#[test]
fn at_level_four_new_sessions_get_503_and_old_ones_go_on_until_the_level_falls() {
    let loaded = Loaded::start(|_| {});
    let server = &loaded.server;
    let (mut client, mut publisher) = (server.client(), server.publisher());
    loaded.bring_to(3);
    client.subscribe(&["A"], 1);
    let ready = |want: bool, state: &str| {
        let (status, body) = server.admin_get("/readyz");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (status, &body["ready"], &body["state"]),
            (if want { 200 } else { 503 }, &json!(want), &json!(state))
        );
    };
    ready(true, "degraded");
    loaded.bring_to(4);
    let head = server.refused_upgrade();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\nretry-after: 5\r\n"), "{head}");
    server.await_metric("tickcast_handshakes_refused_total", &["cause=\"overloaded\""], 1.0);
    ready(false, "degraded");
    assert_eq!(server.admin_get("/healthz").0, 200, "overloaded, not stuck");
    publisher.ltp("A", 1.0);
    assert_eq!(client.tick()["data"]["ltp"], 1.0);
    loaded.bring_to(3);
    drop(server.client());
    loaded.bring_to(0);
    ready(true, "ready");
}

#[test]
fn at_level_four_the_slowest_of_class_low_is_closed_with_4408_and_nobody_else() {
    let classes = Classes::new("shed");
    let loaded = Loaded::start(|s| {
        classes.set(s);
        s.fanout.send_buffer_bytes = 4096;
        s.limits.ping_interval = Duration::ZERO;
    });
    let (server, mut publisher) = (&loaded.server, loaded.server.publisher());
    let [mut slow_low, mut slow_normal] = [Class::Low, Class::Normal].map(|class| {
        let client = classes.client(server, class);
        // Small enough to fill soon, large enough for the kernel to hear at once that it is read again.
        socket2::SockRef::from(&client.tcp).set_recv_buffer_size(64 << 10).expect("an option");
        client
    });
    let mut reading_low = classes.client(server, Class::Low);
    slow_low.subscribe(&["A"], 1);
    slow_normal.subscribe(&["A"], 1);
    reading_low.subscribe(&["B"], 1);
    let filler = "x".repeat(30_000);
    let mut price = 0;
    while server.metric("tickcast_sessions_lagging", &[]) < 2.0 {
        price += 1;
        publisher.json("NSE_A_LTP", &json!({"ltp": price, "filler": filler}));
        server.await_metric("tickcast_ticks_received_total", &[], f64::from(price));
    }
    loaded.bring_to(3);
    assert_eq!(server.metric("tickcast_sessions_closed_total", &["reason=\"shed\""]), 0.0);
    loaded.bring_to(4);
    // It must not catch up before it is chosen.
    server.await_metric("tickcast_sessions_closed_total", &["reason=\"shed\""], 1.0);
    assert_eq!(slow_low.until_close(), Got::Close(Some((4408, "too slow: server overloaded".into()))));
    publisher.ltp("B", 7.0);
    assert_eq!(reading_low.tick()["data"]["ltp"], 7.0, "class low, but not slow");
    assert_eq!(server.metric("tickcast_sessions_closed_total", &["reason=\"shed\""]), 1.0);
    loaded.bring_to(0);
    assert!(matches!(slow_normal.next(), Got::Json(_)), "slow, but not of class low");
}
