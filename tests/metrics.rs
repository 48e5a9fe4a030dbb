//! Metrics of a whole server that say something of others: latency by stage beside the whole, what the auditor finds, and that no name of
//! a user, symbol, key or address gets into a label.

mod support;

use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::Server;
use support::world::{FakeBroker, Keys};
use tickcast::app::Hooks;
use tickcast::model::{InstrumentRef, Mode, SessionId, UserId};
use tickcast::shards::key::{CallIds, Context, Effects, Waiter};
use tokio::sync::mpsc;

#[test]
fn the_stages_of_a_tick_add_up_to_its_broadcast_latency() {
    let server = Server::start(|settings| settings.server.workers = 1);
    let mut client = server.client();
    let mut publisher = server.publisher();
    client.subscribe(&["INFY"], 1);
    publisher.ltp("UNWANTED", 1.0);
    for n in 1..=20 {
        publisher.ltp("INFY", f64::from(n));
        client.tick();
    }
    // The last flush is told after its bytes are out.
    server.await_metric("tickcast_broadcast_latency_seconds_count", &[], 20.0);
    let mut sum = 0.0;
    for stage in ["encode", "queue", "flush"] {
        let part = [&*format!("stage=\"{stage}\"")];
        assert_eq!(server.metric("tickcast_stage_seconds_count", &part), 20.0, "{stage}");
        let took = server.metric("tickcast_stage_seconds_sum", &part);
        assert!(took > 0.0, "{stage} took no time");
        sum += took;
    }
    let whole = server.metric("tickcast_broadcast_latency_seconds_sum", &[]);
    assert!((sum - whole).abs() < 1e-6, "stages {sum} s, the whole {whole} s");
}

#[test]
fn leaks_between_sessions_registry_and_adapters_show_as_drift() {
    let hooks = Hooks { audit_every: Some(Duration::from_millis(20)), ..Default::default() };
    let server = Server::with_hooks(|_| {}, hooks);
    let mut client = server.client();
    client.subscribe(&["INFY"], 1);
    let drift = |between: &str| server.metric("tickcast_subscription_drift", &[&format!("between=\"{between}\"")]);
    let kinds = ["session_registry", "registry_session", "registry_adapter"];
    assert_eq!(kinds.map(drift), [0.0; 3]);

    let infy = (InstrumentRef { venue: "NSE", symbol: "INFY" }, Mode::Ltp);
    server.shards().with(server.shards().shard_of(infy.0), |shard| {
        let (user, stream, real) = {
            let key = shard.keys.iter().next().expect("the client's");
            (key.user, key.stream, key.sessions[0])
        };
        let calls = CallIds::default();
        let cx = Context { now: Instant::now(), generation: 0, calls: &calls };
        let waiter = Waiter { entry: 0, reply: mpsc::channel(1).0 };
        let mut effects = Effects::default();
        // A session that is gone is still counted,
        let ghost = SessionId { generation: real.generation + 1, ..real };
        shard.keys.join(user, infy, ghost, waiter, 5, &cx, &mut effects).expect("the key is there");
        // one that is there is not any more,
        shard.keys.leave(user, infy, real, None, &cx, &mut effects).expect("the key is there");
        // and a user without an adapter has a key.
        shard.keys.insert(UserId(user.0 + 1), infy.0, infy.1, stream, 2);
    });
    for between in kinds {
        server.await_metric("tickcast_subscription_drift", &[&format!("between=\"{between}\"")], 1.0);
    }
}

#[test]
fn whatever_happens_no_label_names_a_symbol_a_user_a_key_or_an_address() {
    let keys = Keys::new(&[("asha", "angel"), ("bela", "zerodha")]);
    let server = Server::with_factory(Arc::new(FakeBroker::default()), |settings| keys.set(settings));
    // Without values, and without the one label whose values come from the key store.
    let series = || -> BTreeSet<String> {
        let (_, page) = server.admin_get("/metrics");
        let series = page.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series);
        series.filter(|series| !series.contains("broker=\"")).map(str::to_owned).collect()
    };
    let at_rest = series();
    let (mut asha, mut bela) = (server.client_of("asha"), server.client_of("bela"));
    let mut publisher = server.publisher();
    asha.subscribe(&["INFY"], 1);
    bela.subscribe(&["INFY"], 2);
    asha.request(json!({"action": "subscribe", "symbol": "BADNAME", "exchange": "NSE", "mode": 1}));
    asha.request(json!({"action": "no such action"}));
    server.connect().login("mallory");
    publisher.ltp("INFY", 1.5);
    asha.tick();
    publisher.send("NSE_INFY_LTP", b"{");
    publisher.send("no topic", b"{}");
    server.await_metric("tickcast_bus_rejected_total", &["cause=\"topic\""], 1.0);
    drop(bela);
    server.await_metric("tickcast_clients_connected", &[], 1.0);
    assert_eq!(series().difference(&at_rest).collect::<Vec<_>>(), Vec::<&String>::new(), "series that came later");

    let (_, page) = server.admin_get("/metrics");
    assert!(page.contains("broker=\"angel\"") && page.contains("broker=\"zerodha\""), "{page}");
    for name in ["INFY", "BADNAME", "asha", "bela", "mallory", "key-", "127.0.0.1"] {
        assert!(!page.contains(name), "{name}");
    }
}
