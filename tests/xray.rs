//! Slow clients and what is subscribed, as the admin server and `tickcast top` show them: real sockets, real kernel.
//!
//! The law of the verdicts is tested beside `src/policy/diagnosis.rs`. A bad network cannot be had on loopback without root (`tc netem`), so
//! that verdict is tested there only.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::world::{Keys, keys, stops};
use support::{Client, PATIENCE, Publisher, Server};
use tickcast::adapter::scripted::{Play, Script};
use tickcast::app::Hooks;
use tickcast::config::Settings;
use tickcast::config::settings::BusSource;
use tickcast::limits::XRAY_WAIT;
use tickcast::model::{InstrumentRef, Mode, SessionId};
use tickcast::net::sys::raise_file_limit;
use tickcast::shards::key::{CallIds, Context, Effects, Waiter};

/// Small buffers, so that a client that does not read is behind soon; no pings, so that it stays.
fn small(settings: &mut Settings) {
    settings.fanout.send_buffer_bytes = 16 << 10;
    settings.limits.ping_interval = Duration::ZERO;
}

fn get(server: &Server, path: &str) -> Value {
    let (status, body) = server.admin_get(path);
    assert_eq!(status, 200, "{path}: {body}");
    assert!(!body.contains("demo-key"), "no key ever appears: {body}");
    serde_json::from_str(&body).expect("JSON")
}

fn sessions(report: &Value) -> &Vec<Value> {
    report["sessions"].as_array().expect("rows")
}

/// Publishes until `look` finds what it looks for. What the clients get beyond it they may read or not.
fn publish_until<T>(publisher: &mut Publisher, symbols: &[&str], mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut next = 1;
    loop {
        publisher.batch_counting(symbols, next..next + 2000);
        next += 2000;
        if let Some(found) = look() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(20));
        assert!(Instant::now() < deadline, "published {next} ticks in vain");
    }
}

/// The row of this client.
fn row_of<'a>(report: &'a Value, client: &Client) -> Option<&'a Value> {
    let address = client.tcp.local_addr().expect("connected").to_string();
    sessions(report).iter().find(|row| row["peer"] == address.as_str())
}

const SYMBOLS: [&str; 4] = ["A", "B", "C", "D"];

#[test]
fn a_client_that_does_not_read_is_first_in_every_order_and_the_verdict_says_so() {
    let server = Server::start(small);
    let mut publisher = server.publisher();
    let (mut stalled, mut healthy) = (server.client(), server.client());
    stalled.subscribe(&SYMBOLS, 1);
    healthy.subscribe(&["OTHER"], 1);
    let nobody = server.connect();
    let report = publish_until(&mut publisher, &SYMBOLS, || {
        let report = get(&server, "/sessions?top=5");
        let verdict = |client| Some(&row_of(&report, client)?["verdict"]);
        // A machine that is busy with other things makes its worker late now and then: that would be us.
        let found = report["lagging"] == 1 && verdict(&stalled)? == "client" && verdict(&healthy)? == "ok";
        found.then_some(report)
    });
    assert_eq!(keys(&report), ["by", "lagging", "sessions", "total", "workers_missing"]);
    assert_eq!((&report["by"], &report["total"], &report["workers_missing"]), (&json!("lag"), &json!(3), &json!([])));
    let row = row_of(&report, &stalled).expect("its row");
    assert_eq!(row, &sessions(&report)[0], "it comes first");
    let mut wanted = vec![
        "session",
        "user",
        "broker",
        "peer",
        "format",
        "class",
        "worker",
        "age_seconds",
        "subscriptions",
        "lag_seconds",
        "outbox_bytes",
        "merged",
        "sent_frames",
        "sent_bytes",
        "tcp",
        "verdict",
        "why",
    ];
    wanted.sort_unstable();
    assert_eq!(keys(row), wanted);
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
    assert_eq!((&row["user"], &row["broker"], &row["format"]), (&json!("demo"), &json!("bus"), &json!("json")));
    assert_eq!((&row["class"], &row["subscriptions"]), (&json!("normal"), &json!(SYMBOLS.len())));
    assert!(number("lag_seconds") > 1.0 && number("age_seconds") > number("lag_seconds") && number("merged") > 0.0);
    assert!(row["why"].as_str().is_some_and(|why| why.contains("not been reading for")), "{row}");
    let mut wanted = vec![
        "rtt_seconds",
        "rtt_var_seconds",
        "retransmits",
        "unacked",
        "delivery_rate_bytes",
        "notsent_bytes",
        "send_queue_bytes",
    ];
    wanted.sort_unstable();
    assert_eq!(keys(&row["tcp"]), wanted);
    assert!(row["tcp"]["notsent_bytes"].as_u64() > Some(0) && row["tcp"]["rtt_seconds"].as_f64() > Some(0.0), "{row}");
    let other = row_of(&report, &healthy).expect("its row");
    assert_eq!((&other["verdict"], &other["merged"], &other["lag_seconds"]), (&json!("ok"), &json!(0), &json!(0.0)));
    let stranger = row_of(&report, &nobody).expect("its row");
    assert_eq!(
        (&stranger["user"], &stranger["broker"], &stranger["subscriptions"]),
        (&json!(null), &json!(null), &json!(0))
    );
    for by in ["lag", "bytes", "merged"] {
        let report = get(&server, &format!("/sessions?by={by}&top=1"));
        assert_eq!((&report["by"], sessions(&report).len()), (&json!(by), 1));
        assert_eq!(row_of(&report, &stalled).map(|row| &row["session"]), Some(&row["session"]), "by {by}");
    }
    // Nothing of it is lost by the look: it reads again, and is well.
    while get(&server, "/sessions")["lagging"] != 0 {
        stalled.next();
    }
}

#[test]
fn what_sessions_were_sent_adds_up_to_the_counters() {
    let server = Server::start(small);
    let mut publisher = server.publisher();
    let mut json_client = server.client();
    let (mut packed, _) = Client::connect_to(server.ws, "/", "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n");
    packed.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    packed.next();
    let subscribe =
        json!({"action": "subscribe", "mode": 1, "symbols": SYMBOLS.map(|s| json!({"symbol": s, "exchange": "NSE"}))});
    packed.send(subscribe);
    packed.next();
    json_client.subscribe(&SYMBOLS, 1);
    publish_until(&mut publisher, &SYMBOLS, || (get(&server, "/sessions")["lagging"] == 2).then_some(()));
    // Nothing more is published: what was is written, marked or merged soon, and the counters are told.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = get(&server, "/sessions");
        let sum = |key: &str| sessions(&report).iter().map(|row| row[key].as_f64().expect("a number")).sum::<f64>();
        let told = |name: &str, parts: &[&str]| server.metric(name, parts);
        let (ours, counters) = (
            [sum("sent_frames"), sum("sent_bytes"), sum("merged")],
            [
                told("tickcast_frames_sent_total", &[]),
                told("tickcast_bytes_sent_total", &[]),
                told("tickcast_ticks_merged_total", &["where=\"session\""]),
            ],
        );
        if ours == counters && ours.iter().all(|n| *n > 0.0) {
            break;
        }
        assert!(Instant::now() < deadline, "{ours:?} sent by session, {counters:?} in all");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn bad_parameters_are_answered_with_what_is_allowed() {
    let server = Server::start(small);
    for (path, part) in [
        ("/sessions?top=0", "from 1 to 1000"),
        ("/sessions?by=name", "one of lag, bytes, merged"),
        ("/sessions?key=demo-key", "there is no parameter"),
        ("/sessions?top=1&top=2", "given twice"),
        ("/subscriptions?by=lag", "one of references, ticks"),
        ("/subscriptions?drift=yes", "one of 0, 1"),
    ] {
        let (status, body) = server.admin_get(path);
        let usage = path.split('?').next().expect("a path");
        assert_eq!(status, 400, "{path}");
        assert!(body.contains(part) && body.contains(&format!("Allowed: {usage}?top=1..1000&by=")), "{path}: {body}");
    }
}

#[test]
fn a_worker_that_stands_still_costs_its_own_rows_only() {
    let (stop, mut stopped) = stops();
    let hooks = Hooks { before_command: Some(stop), ..Default::default() };
    let server = Server::with_hooks(|s| s.server.workers = 2, hooks);
    let (mut one, two) = (server.client(), server.client());
    let report = get(&server, "/sessions");
    let worker = |client| row_of(&report, client).and_then(|row| row["worker"].as_u64()).expect("its worker");
    let stuck = worker(&one);
    assert_ne!(stuck, worker(&two), "sessions spread");
    stopped.stop(&mut one);
    let look = || {
        let report = get(&server, "/sessions");
        assert_eq!(report["workers_missing"], json!([stuck]));
        assert!(row_of(&report, &two).is_some() && row_of(&report, &one).is_none(), "{report}");
    };
    let asked = Instant::now();
    look();
    assert!(asked.elapsed() >= XRAY_WAIT, "it was given its time");
    // From then on it owes an answer, and nobody waits for it again.
    let asked = Instant::now();
    (0..10).for_each(|_| look());
    assert!(asked.elapsed() < 10 * XRAY_WAIT, "{:?}", asked.elapsed());
    stopped.let_go();
    one.json_where(|v| v["type"] == "broker_info");
    let report = get(&server, "/sessions");
    assert_eq!((&report["workers_missing"], &report["total"]), (&json!([]), &json!(2)), "it answers again");
}

#[test]
fn a_worker_that_stands_still_does_not_stop_the_gauges() {
    let (stop, mut stopped) = stops();
    let audit_every = Some(Duration::from_millis(20));
    let hooks = Hooks { before_command: Some(stop), audit_every, ..Default::default() };
    let server = Server::with_hooks(|s| s.server.workers = 2, hooks);
    let (mut one, mut two) = (server.client(), server.client());
    stopped.stop(&mut one);
    two.subscribe(&SYMBOLS, 1);
    server.await_metric("tickcast_subscriptions_active", &[], SYMBOLS.len() as f64);
    stopped.let_go();
    one.json_where(|v| v["type"] == "broker_info");
}

#[test]
fn a_thousand_sessions_are_looked_at_and_as_many_shown_as_asked_for() {
    raise_file_limit().expect("as many descriptors as we may have");
    let server = Server::start(|s| {
        small(s);
        s.limits.sessions_per_ip = 2000;
    });
    let clients: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    let deadline = Instant::now() + PATIENCE;
    while get(&server, "/sessions?top=1")["total"] != 1000 {
        assert!(Instant::now() < deadline, "they have all been upgraded, and belong to workers soon");
    }
    let asked = Instant::now();
    let report = get(&server, "/sessions?top=1000&by=bytes");
    println!("1000 sessions, all shown: {:?}", asked.elapsed());
    let by_name: BTreeMap<&str, &Value> =
        sessions(&report).iter().map(|row| (row["session"].as_str().expect("a name"), row)).collect();
    assert_eq!(by_name.len(), clients.len(), "each once");
    assert!(by_name.values().all(|row| row["tcp"]["rtt_seconds"].is_number()));
    let asked = Instant::now();
    assert_eq!(sessions(&get(&server, "/sessions")).len(), 20);
    println!("1000 sessions, 20 shown: {:?}", asked.elapsed());
}

#[test]
fn subscriptions_are_shown_stream_by_stream() {
    let users = Keys::new(&[("asha", "angel"), ("ben", "angel"), ("cleo", "kite")]);
    let server = Server::start(|s| {
        users.set(s);
        // Nobody is there; what counts is whose ticks would come from there.
        let endpoint = "tcp://127.0.0.1:9".into();
        s.bus.sources.push(BusSource { endpoint, broker: "angel".into(), user: "asha".into() });
    });
    let mut publisher = server.publisher();
    let mut clients = ["asha", "ben", "cleo"].map(|user| {
        let mut client = server.connect();
        assert_eq!(client.login(user)["type"], "auth");
        client.subscribe(&["A"], 1);
        client
    });
    clients[2].subscribe(&["B"], 2);
    clients[2].subscribe(&["A"], 3);
    publisher.json("NSE_B_QUOTE", &json!({"ltp": 1.0}));
    publisher.json("NSE_B_QUOTE", &json!({"ltp": 2.0}));
    publisher.ltp("A", 7.0);
    assert_eq!(clients[1].tick()["data"]["ltp"], 7.0);
    let row = |symbol: &str, mode: u8, scope: &str, references: u64, ticks: u64| {
        json!({
            "exchange": "NSE", "symbol": symbol, "mode": mode, "scope": scope, "references": references, "state": "live",
            "depth": 5, "ticks": ticks,
        })
    };
    let report = get(&server, "/subscriptions");
    assert_eq!(keys(&report), ["active", "shared_ratio", "streams"]);
    let rows = report["streams"].as_array().expect("rows");
    assert_eq!(report["active"], 5);
    assert_eq!(rows[0], row("A", 1, "shared", 2, 1), "two users share it");
    assert_eq!(rows.len(), 4);
    for wanted in [row("A", 1, "angel/asha", 1, 0), row("A", 3, "shared", 1, 0), row("B", 2, "shared", 1, 2)] {
        assert!(rows.contains(&wanted), "{wanted} in {report}");
    }
    let report = get(&server, "/subscriptions?top=1&by=ticks");
    assert_eq!(report["streams"], json!([row("B", 2, "shared", 1, 2)]));
    // Two sessions of one user: shared as the gauge has it.
    let mut again = server.connect();
    again.login("asha");
    again.subscribe(&["A"], 1);
    let report = get(&server, "/subscriptions");
    server.await_metric("tickcast_subscriptions_active", &[], 6.0);
    assert_eq!(report["shared_ratio"].as_f64(), Some(server.metric("tickcast_subscriptions_shared_ratio", &[])));
    assert!(report["shared_ratio"].as_f64() > Some(0.0));
}

#[test]
fn a_stream_that_the_broker_has_not_answered_for_says_so() {
    let script = Script::default();
    let server = Server::with_factory(Arc::new(script.clone()), |_| {});
    let mut client = server.client();
    script.calls([Play::Hold]);
    client.send(json!({"action": "subscribe", "symbol": "A", "exchange": "NSE", "mode": 1}));
    let deadline = Instant::now() + PATIENCE;
    let state = |wanted: &str| {
        while get(&server, "/subscriptions")["streams"][0]["state"] != wanted {
            assert!(Instant::now() < deadline, "it never was {wanted}");
        }
    };
    state("subscribing");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // The key is asked for before the adapter has heard of it.
    let call = loop {
        if let Some(call) = script.call_ids().first() {
            break *call;
        }
        assert!(Instant::now() < deadline, "the adapter was not called");
        std::thread::yield_now();
    };
    runtime.block_on(script.answer(call, Ok(Some(5))));
    state("live");
    script.calls([Play::Hold]);
    client.send(json!({"action": "unsubscribe", "symbol": "A", "exchange": "NSE", "mode": 1}));
    state("unsubscribing");
    assert_eq!(get(&server, "/subscriptions")["streams"][0]["references"], 0);
}

#[test]
fn what_the_auditor_finds_different_is_named() {
    let hooks = Hooks { audit_every: Some(Duration::from_millis(20)), ..Default::default() };
    let server = Server::with_hooks(|_| {}, hooks);
    let mut client = server.client();
    client.subscribe(&["A", "B"], 1);
    let deadline = Instant::now() + PATIENCE;
    let drift_when = |wanted: [u64; 3]| loop {
        let report = get(&server, "/subscriptions?drift=1");
        let drift = &report["drift"];
        let counts = ["session_registry", "registry_session", "registry_adapter"].map(|key| drift[key].as_u64());
        if counts == wanted.map(Some) {
            return drift.clone();
        }
        assert!(Instant::now() < deadline, "{report}");
    };
    let clean = drift_when([0, 0, 0]);
    assert_eq!(clean["found"], json!([]));
    assert!(clean["audited_seconds_ago"].as_f64().is_some_and(|s| s < 10.0), "{clean}");
    // Behind the registry's back: B is counted for a session that has never been, and A no longer for the one that holds it.
    let shards = server.shards();
    let forget = |symbol: &str, ghost: bool| {
        let name = InstrumentRef { venue: "NSE", symbol };
        shards.with(shards.shard_of(name), |shard| {
            let key = shard.keys.iter().find(|key| key.name.instrument.as_ref() == name).expect("it is held");
            let (user, holder) = (key.user, key.sessions[0]);
            let other = SessionId { slot: 4711, ..holder };
            let calls = CallIds::default();
            let cx = Context { now: Instant::now(), generation: 0, calls: &calls };
            let waiter = Waiter { entry: 0, reply: tokio::sync::mpsc::channel(1).0 };
            let mut fx = Effects::default();
            let joined = shard.keys.join(user, (name, Mode::Ltp), other, waiter, 5, &cx, &mut fx);
            assert!(joined.is_some());
            if !ghost {
                // Another session keeps the key alive.
                assert!(shard.keys.leave(user, (name, Mode::Ltp), holder, None, &cx, &mut fx).is_some());
            }
            (holder.to_string(), other.to_string())
        })
    };
    let ((holder, ghost), _) = (forget("A", false), forget("B", true));
    let drift = drift_when([1, 2, 0]);
    let entry = |between: &str, session: &str, symbol: &str| json!({"between": between, "user": "demo", "session": session, "exchange": "NSE", "symbol": symbol, "mode": 1});
    let found = drift["found"].as_array().expect("entries");
    for wanted in [
        entry("session_registry", &holder, "A"),
        entry("registry_session", &ghost, "A"),
        entry("registry_session", &ghost, "B"),
    ] {
        assert!(found.contains(&wanted), "{wanted} in {drift}");
    }
    assert_eq!(found.len(), 3, "{drift}");
    assert!(get(&server, "/subscriptions").get("drift").is_none(), "only who asks is told");
}
