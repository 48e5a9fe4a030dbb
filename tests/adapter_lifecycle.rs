//! One adapter a user: started, lost, replaced, kept, replayed; with a scripted adapter on paused time.

mod world;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;
use tickcast::adapter::scripted::Play;
use tickcast::adapter::supervisor::{Config as SupervisorConfig, State};
use tickcast::adapter::{CallError, Command, Report};
use tickcast::model::{Mode, ScopeId};
use tickcast::registry::{Config, Decision, FaultCode, Member, Outcome, ScopedSource, Want};
use tokio::sync::mpsc;
use tokio::time::sleep;
use world::{nse, session, world, world_on, world_with};

#[tokio::test(start_paused = true)]
async fn a_disconnect_that_hangs_is_cut_off() {
    let w = world();
    w.script.connects([Play::Accept, Play::Hold]);
    let m = w.attach(1, "asha").await;
    w.registry.detach(session(1), &m);
    sleep(Duration::from_secs(20)).await;
    w.assert_empty("asha").await;
}

#[tokio::test(start_paused = true)]
async fn a_replaced_adapter_replays_exactly_the_wanted_set_in_mode_and_depth() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.ask(&m, 1, "SBIN", Mode::Depth, 20).one().await.expect("accepted");
    w.ask(&m, 1, "SBIN", Mode::Ltp, 5).one().await.expect("accepted");
    w.ask(&m, 2, "TCS", Mode::Quote, 5).one().await.expect("accepted");
    w.subscribe(&m, 1, "GONE").await.expect("accepted");
    w.unsubscribe(&m, 1, "GONE").await;
    w.script.calls([Play::Die]);
    // A call that was in flight when the adapter died is made again, and its waiter hears of that one.
    assert_eq!(w.subscribe(&m, 1, "INFY").await, Ok(5));
    w.settle().await;
    assert_eq!(w.script.made(), 2);
    let replayed: BTreeSet<String> =
        w.script.seen().iter().filter(|s| s.adapter == 2).filter_map(|s| command_text(&s.command)).collect();
    let want = ["+NSE:INFY/LTP#5", "+NSE:SBIN/Depth#20", "+NSE:SBIN/LTP#5", "+NSE:TCS/Quote#5"];
    assert_eq!(replayed, want.map(String::from).into());
    let before = w.script.log().len();
    w.script.report(Report::Restored).await;
    w.script.until(|s| s.log().len() == before + 4).await;
    w.settle().await;
    assert_eq!(w.script.log().len(), before + 4, "a broker reconnection replays each once");
}

fn command_text(command: &Command) -> Option<String> {
    match command {
        Command::Subscribe { name, depth, .. } => Some(format!("+{name:?}#{depth}")),
        Command::Unsubscribe { name, .. } => Some(format!("-{name:?}")),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_replay_keeps_the_references_and_is_tried_again() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.script.calls([Play::Refuse("not now".into()), Play::Fail("nor now".into())]);
    w.script.report(Report::Restored).await;
    w.script.until(|s| s.log().len() == 2).await;
    w.settle().await;
    assert_eq!(w.refs("SBIN"), 1);
    w.script.until(|s| s.log().len() == 4).await;
    w.settle().await;
    let live = w.shards.with(w.shards.shard_of(nse("SBIN")), |s| s.keys.iter().all(|k| k.live));
    assert!(live);
    assert_eq!(w.refs("SBIN"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_dies_after_each_login_is_replaced_with_back_off() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.otherwise(Play::Die);
    let _asked = w.ask(&m, 1, "SBIN", Mode::Ltp, 5);
    sleep(Duration::from_secs(600)).await;
    w.attach(1, "asha").await;
    // About one in two seconds for two minutes, then ever fewer.
    assert!((60..90).contains(&w.script.made()), "{} logins in ten minutes", w.script.made());
    assert_eq!(w.script.alive_max(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_adapter_that_cannot_log_in_again_is_tried_until_it_can_and_new_subscribes_are_refused_meanwhile() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.script.connects([Play::Fail("down".into()), Play::Fail("down".into()), Play::Fail("down".into())]);
    w.script.report(Report::Lost { reason: "socket closed".into() }).await;
    w.settle().await;
    assert_eq!(w.subscribe(&m, 1, "TCS").await.map_err(|e| e.0), Err(FaultCode::Broker));
    assert_eq!(w.registry.adapter_status(m.user), "disconnected");
    w.script.until(|s| s.at_broker() == ["NSE:SBIN/LTP"]).await;
    w.settle().await;
    assert_eq!((w.script.made(), w.refs("SBIN")), (5, 1));
    assert_eq!(w.registry.adapter_status(m.user), "connected");
}

#[tokio::test(start_paused = true)]
async fn answers_of_an_old_generation_are_ignored() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Hold, Play::Hold]);
    let asked = w.ask(&m, 1, "SBIN", Mode::Ltp, 5);
    w.script.until(|s| s.log().len() == 1).await;
    w.script.report(Report::Restored).await;
    w.script.until(|s| s.log().len() == 2).await;
    let ids = w.script.call_ids();
    w.script.answer(ids[0], Err(CallError::Refused("old".into()))).await;
    w.settle().await;
    w.script.answer(ids[1], Ok(None)).await;
    assert_eq!(asked.one().await, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn new_credentials_rebuild_the_adapter_and_replay_while_clients_stay() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.registry.invalidate("asha", Some("fake"));
    w.script.until(|s| s.log().len() == 2).await;
    w.settle().await;
    assert_eq!((w.script.made(), w.script.alive_max()), (2, 1));
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/LTP"]);
    w.registry.invalidate("asha", None);
    w.settle().await;
    let revoked = w.subscribe(&m, 1, "TCS").await.expect_err("no broker");
    assert_eq!(revoked.0, FaultCode::Broker);
    assert_eq!(w.refs("SBIN"), 1, "clients keep what they hold");
    w.attach(1, "asha").await;
    w.settle().await;
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/LTP"]);
}

#[tokio::test(start_paused = true)]
async fn new_credentials_are_read_even_when_nobody_can_say_at_which_broker() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.registry.refresh("asha");
    w.registry.refresh("nobody");
    w.script.until(|s| s.log().len() == 2).await;
    w.settle().await;
    assert_eq!((w.script.made(), w.script.alive_max()), (2, 1));
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/LTP"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_tells_of_refused_credentials_makes_the_adapter_anew_once_and_is_made_again() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.ask(&m, 1, "SBIN", Mode::Depth, 20).one().await.expect("accepted");
    w.script.calls([Play::Fail("HTTP 403: Token expired".into())]);
    assert_eq!(w.subscribe(&m, 1, "TCS").await, Ok(5), "the waiter hears of the second call");
    w.settle().await;
    assert_eq!((w.script.made(), w.script.alive_max()), (2, 1));
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/Depth", "NSE:TCS/LTP"]);
    // A broker that says so whatever the credentials does not make us log in again and again.
    w.script.calls([Play::Refuse("Access denied".into())]);
    let denied = w.subscribe(&m, 1, "INFY").await.expect_err("refused");
    assert_eq!(denied, (FaultCode::Refused, "Access denied".to_owned()));
    assert_eq!(w.script.made(), 2);
    sleep(Duration::from_secs(60)).await;
    w.script.calls([Play::Refuse("Access denied".into())]);
    assert_eq!(w.subscribe(&m, 1, "INFY").await, Ok(5));
    assert_eq!(w.script.made(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_for_its_credentials_is_made_anew_and_replayed() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.script.connects([Play::Accept, Play::Hold]);
    w.script.report(Report::Down { reason: "the broker says: session expired".into() }).await;
    w.script.until(|s| s.made() == 2).await;
    w.settle().await;
    let stands = |w: &world::World| w.registry.adapters().remove(0).2;
    assert_eq!(stands(&w), State::Reauthenticating { takes_calls: false });
    assert_eq!(w.registry.adapter_status(m.user), "connecting");
    w.script.connected().await;
    w.script.until(|s| s.at_broker() == ["NSE:SBIN/LTP"]).await;
    w.settle().await;
    assert_eq!(stands(&w), State::Live);
    // One that reads its credentials by itself is left alone.
    w.script.report(Report::Reauthenticating { reason: "403".into() }).await;
    w.settle().await;
    assert_eq!(stands(&w), State::Reauthenticating { takes_calls: true });
    assert_eq!(w.registry.adapter_status(m.user), "disconnected");
    w.script.report(Report::Restored).await;
    w.settle().await;
    assert_eq!((stands(&w), w.script.made()), (State::Live, 2));
    // What is wanted and not carried is said, too.
    w.script.calls([Play::Refuse("not now".into())]);
    w.script.report(Report::Restored).await;
    w.settle().await;
    assert_eq!(stands(&w), State::Degraded);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(stands(&w), State::Live);
}

#[tokio::test(start_paused = true)]
async fn a_changed_broker_replaces_the_adapter_and_replays() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    let m = w.registry.attach(session(1), "asha", Some("other")).await.expect("live");
    w.settle().await;
    let last = w.script.seen().pop().expect("replayed");
    assert_eq!((last.adapter, last.broker.as_str()), (2, "other"));
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/LTP"]);
    assert_eq!(w.script.alive_max(), 1);
    w.registry.leave_all(&m, session(1), [(nse("SBIN"), Mode::Ltp)]);
    w.registry.detach(session(1), &m);
    sleep(Duration::from_secs(11)).await;
    w.assert_empty("asha").await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_broker_is_cleared_and_stays_and_serves_the_next_client_without_a_new_login() {
    let keep_alive = HashSet::from(["fake".to_string()]);
    let w = world_with(SupervisorConfig { keep_alive, ..SupervisorConfig::default() }, Config::default());
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.registry.leave_all(&m, session(1), [(nse("SBIN"), Mode::Ltp)]);
    w.registry.detach(session(1), &m);
    w.script.calls([Play::Accept, Play::Fail("busy".into())]);
    w.script.until(|s| s.log().iter().filter(|l| *l == "-*").count() == 2).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5", "-NSE:SBIN/LTP", "-*", "-*"], "a failed clearing is tried again");
    assert_eq!((w.script.made(), w.script.alive(), w.keys()), (1, 1, 0));
    let m = w.attach(2, "asha").await;
    assert_eq!(w.subscribe(&m, 2, "TCS").await, Ok(5));
    assert_eq!(w.script.made(), 1);
}

#[tokio::test(start_paused = true)]
async fn subscribing_while_a_kept_adapter_is_cleared_waits_for_it_and_is_not_swept_away() {
    let keep_alive = HashSet::from(["fake".to_string()]);
    let w = world_with(SupervisorConfig { keep_alive, ..SupervisorConfig::default() }, Config::default());
    let m = w.attach(1, "asha").await;
    w.registry.detach(session(1), &m);
    w.script.calls([Play::Hold]);
    w.script.until(|s| s.log() == ["-*"]).await;
    let registry = w.registry.clone();
    let attach = tokio::spawn(async move { registry.attach(session(2), "asha", Some("fake")).await });
    w.settle().await;
    let asked = w.ask(&m, 2, "SBIN", Mode::Ltp, 5);
    w.settle().await;
    assert_eq!(w.script.log(), ["-*"]);
    w.script.answer(w.script.call_ids()[0], Ok(None)).await;
    attach.await.expect("no panic").expect("live");
    assert_eq!(asked.one().await, Ok(5));
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/LTP"]);
}

#[tokio::test(start_paused = true)]
async fn hard_broker_errors_reach_the_client_with_their_reason_and_attaching_again_retries() {
    let w = world();
    let reset = || Play::Fail("connection reset".into());
    w.script.connects([Play::Refuse("bad totp".into()), reset(), reset()]);
    let init = w.registry.attach(session(1), "asha", Some("fake")).await.expect_err("refused");
    assert_eq!(init.fault.code.code(), "BROKER_INIT_ERROR");
    assert!(init.fault.message.contains("bad totp") && init.fault.message.contains("(ref "), "{}", init.fault.message);
    let refused = w.subscribe(&init.member, 1, "SBIN").await.expect_err("no adapter");
    assert_eq!(refused.0, FaultCode::Broker);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(w.script.made(), 1, "nobody relies on it: the next attach is the retry");
    let connection = w.registry.attach(session(1), "asha", Some("fake")).await.expect_err("refused");
    assert_eq!(connection.fault.code.code(), "BROKER_CONNECTION_ERROR");
    assert_eq!(w.script.made(), 3, "a connection that fails is tried once more");
    let m = w.attach(1, "asha").await;
    assert_eq!(w.subscribe(&m, 1, "SBIN").await, Ok(5));
    w.registry.leave_all(&m, session(1), [(nse("SBIN"), Mode::Ltp)]);
    w.registry.detach(session(1), &m);
    w.script.refuse_broker("nope");
    let none = w.registry.attach(session(2), "bela", Some("nope")).await.expect_err("no kind");
    assert_eq!(none.fault.code.code(), "BROKER_ERROR");
    let none = w.registry.attach(session(3), "cyra", None).await.expect_err("no broker");
    assert_eq!(none.fault.code.code(), "BROKER_ERROR");
    w.registry.detach(session(3), &none.member);
    let bela = w.registry.user_id("bela").expect("attached");
    let member = Member { user: bela, ..none.member };
    w.registry.detach(session(2), &member);
    sleep(Duration::from_secs(11)).await;
    for user in ["asha", "bela", "cyra"] {
        w.assert_empty(user).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_hangs_lets_authenticate_answer_after_three_seconds_and_subscribes_queue() {
    let w = world();
    w.script.connects([Play::Hold]);
    let from = tokio::time::Instant::now();
    let m = w.attach(1, "asha").await;
    assert_eq!(from.elapsed(), Duration::from_secs(3));
    assert_eq!(w.registry.adapter_status(m.user), "connecting");
    let asked = w.ask(&m, 1, "SBIN", Mode::Ltp, 5);
    assert_eq!(asked.decisions, [Decision::Pending]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(w.script.log().len(), 0);
    w.script.connected().await;
    assert_eq!(asked.one().await, Ok(5));
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5"]);
}

#[tokio::test(start_paused = true)]
async fn a_queued_subscribe_is_given_up_at_its_deadline_and_leaves_nothing_to_clean_up() {
    let w = world();
    w.script.connects([Play::Hold]);
    let m = w.attach(1, "asha").await;
    let (code, _) = w.subscribe(&m, 1, "SBIN").await.expect_err("not connected");
    assert_eq!(code, FaultCode::Broker);
    assert_eq!((w.keys(), w.pins()), (0, 0));
    w.script.connected().await;
    w.settle().await;
    assert_eq!(w.script.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn pending_calls_are_bounded_and_the_surplus_is_refused() {
    let supervisor = SupervisorConfig { calls_max: 3, ..SupervisorConfig::default() };
    let w = world_with(supervisor, Config::default());
    let m = w.attach(1, "asha").await;
    w.script.otherwise(Play::Hold);
    let (reply, mut outcomes) = mpsc::channel(5);
    let names: Vec<String> = (0..5).map(|i| format!("S{i}")).collect();
    let wants: Vec<_> = names.iter().map(|s| Want { instrument: nse(s), mode: Mode::Ltp, depth: 5 }).collect();
    let decisions = w.registry.subscribe(&m, session(1), &wants, &reply);
    assert!(decisions.iter().all(|d| *d == Decision::Pending));
    for entry in [3, 4] {
        let (at, outcome) = outcomes.recv().await.expect("refused at once");
        assert_eq!(at, entry);
        assert!(matches!(outcome, Outcome::Failed(f) if f.code.code() == "LIMIT_EXCEEDED"));
    }
    w.settle().await;
    assert_eq!(w.script.log().len(), 3);
    assert_eq!(w.keys(), 3);
}

#[tokio::test(start_paused = true)]
async fn calls_for_different_keys_run_concurrently() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Hold]);
    let slow = w.ask(&m, 1, "SLOW", Mode::Ltp, 5);
    w.script.until(|s| s.log().len() == 1).await;
    assert_eq!(w.subscribe(&m, 1, "FAST").await, Ok(5));
    w.script.answer(w.script.call_ids()[0], Ok(None)).await;
    assert_eq!(slow.one().await, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn a_user_with_a_scoped_source_receives_that_scope_and_others_receive_the_shared_one() {
    let source = ScopedSource { scope: ScopeId(3), broker: "fake".into(), user: "asha".into() };
    let w = world_with(SupervisorConfig::default(), Config { sources: vec![source], ..Config::default() });
    assert_eq!(w.attach(1, "asha").await.scope, ScopeId(3));
    assert_eq!(w.attach(2, "bela").await.scope, ScopeId::SHARED);
    let other = w.registry.attach(session(3), "asha", Some("other")).await.expect("live");
    assert_eq!(other.scope, ScopeId::SHARED);
}

#[tokio::test(start_paused = true)]
async fn attaching_a_session_again_counts_it_once() {
    let w = world();
    let m = w.attach(1, "asha").await;
    assert_eq!(w.attach(1, "asha").await, m);
    w.registry.detach(session(1), &m);
    w.registry.detach(session(1), &m);
    sleep(Duration::from_secs(11)).await;
    w.assert_empty("asha").await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_closes_while_it_authenticates_counts_for_nothing() {
    let w = world();
    w.script.connects([Play::Hold]);
    let registry = w.registry.clone();
    let attach = tokio::spawn(async move { registry.attach(session(1), "asha", Some("fake")).await });
    w.script.until(|s| s.alive() == 1).await;
    attach.abort();
    sleep(Duration::from_secs(30)).await;
    w.assert_empty("asha").await;
    // A session that was attached before stays so when it gives up its second attach.
    let m = w.attach(1, "asha").await;
    let again = w.registry.attach(session(1), "asha", Some("other"));
    assert!(tokio::time::timeout(Duration::ZERO, again).await.is_err());
    sleep(Duration::from_secs(30)).await;
    assert_eq!(w.script.alive(), 1);
    w.registry.detach(session(1), &m);
    sleep(Duration::from_secs(30)).await;
    w.assert_empty("asha").await;
}

#[tokio::test(start_paused = true)]
async fn the_gauges_and_counters_say_what_is_there() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let w = world_on(recorder);
    let m = w.attach(1, "asha").await;
    w.registry.attach(session(2), "bela", Some("elsewhere")).await.expect("live");
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.subscribe(&m, 3, "SBIN").await.expect("shared");
    w.subscribe(&m, 1, "TCS").await.expect("accepted");
    w.script.calls([Play::Refuse("no".into())]);
    w.subscribe(&m, 1, "BADX").await.expect_err("refused");
    w.registry.observe();
    let text = rendered.render();
    for line in [
        "tickcast_subscriptions_active 3",
        "tickcast_subscriptions_by_references{refs=\"1\"} 1",
        "tickcast_subscriptions_by_references{refs=\"2-4\"} 1",
        "tickcast_subscriptions_shared_ratio 0.5",
        "tickcast_users_connected 2",
        "tickcast_adapters{broker=\"fake\",state=\"live\"} 1",
        "tickcast_adapters{broker=\"elsewhere\",state=\"live\"} 1",
        "tickcast_adapter_connections{broker=\"fake\"} 1",
        "tickcast_broker_calls_total{broker=\"fake\",op=\"subscribe\",outcome=\"success\"} 2",
        "tickcast_broker_calls_total{broker=\"fake\",op=\"subscribe\",outcome=\"refused\"} 1",
        "tickcast_subscription_events_total{event=\"first_in\"} 2",
        "tickcast_subscription_events_total{event=\"joined\"} 1",
        "tickcast_subscription_events_total{event=\"rolled_back\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}
