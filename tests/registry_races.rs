//! The audit's races (RC-001 … RC-006) and the promises of DESIGN 3, each interleaving forced with a scripted adapter
//! on paused time.

use metrics::NoopRecorder;
use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tickcast::adapter::metrics::AdapterMetrics;
use tickcast::adapter::scripted::{Play, Script};
use tickcast::adapter::supervisor::{Config as SupervisorConfig, Supervisors};
use tickcast::adapter::{CallError, Command, Report};
use tickcast::model::{Brokers, Instrument, InstrumentRef, Mode, ScopeId, SessionId, WorkerId};
use tickcast::registry::audit::{Auditor, Drift, Held};
use tickcast::registry::metrics::RegistryMetrics;
use tickcast::registry::{
    Config, Decision, FaultCode, Member, Outcome, Registry, ScopedSource, UnsubscribeDecision, Want,
};
use tickcast::shards::{Config as ShardsConfig, Shards};
use tokio::sync::mpsc;
use tokio::time::sleep;

struct World {
    script: Script,
    registry: Arc<Registry>,
    shards: Arc<Shards>,
}

fn world() -> World {
    world_with(SupervisorConfig::default(), Config::default())
}

fn world_with(supervisor: SupervisorConfig, config: Config) -> World {
    let script = Script::default();
    let shards = Arc::new(Shards::new(&ShardsConfig { shards: 8, seed: Some(7), ..ShardsConfig::default() }));
    let (adapter_metrics, metrics) =
        metrics::with_local_recorder(&NoopRecorder, || (AdapterMetrics::register([]), RegistryMetrics::register()));
    let runtime = tokio::runtime::Handle::current();
    let supervisors = Supervisors::new(supervisor, Arc::new(script.clone()), adapter_metrics, runtime);
    let registry = Registry::new(config, shards.clone(), Arc::new(Brokers::new()), supervisors, metrics);
    World { script, registry, shards }
}

fn session(n: u32) -> SessionId {
    SessionId { worker: WorkerId(0), slot: n, generation: 1 }
}

fn nse(symbol: &str) -> InstrumentRef<'_> {
    InstrumentRef { venue: "NSE", symbol }
}

/// A request under way: decisions and the queue its outcomes come through.
struct Asked {
    decisions: Vec<Decision>,
    outcomes: mpsc::Receiver<(u32, Outcome)>,
}

impl Asked {
    /// The depth of the one entry, or the code and text of its fault.
    async fn one(mut self) -> Result<u32, (FaultCode, String)> {
        match self.decisions.remove(0) {
            Decision::Joined { depth, .. } | Decision::Duplicate { depth, .. } => Ok(depth),
            Decision::Refused(fault) => Err((fault.code, fault.message.to_string())),
            Decision::Pending => match self.outcomes.recv().await.expect("a pending entry has an outcome").1 {
                Outcome::Subscribed { depth, .. } => Ok(depth),
                Outcome::Unsubscribed => panic!("not what was asked"),
                Outcome::Failed(fault) => Err((fault.code, fault.message.to_string())),
            },
        }
    }
}

impl World {
    async fn attach(&self, n: u32, user: &str) -> Member {
        self.registry.attach(session(n), user, Some("fake")).await.expect("the adapter connects")
    }

    fn ask(&self, member: &Member, n: u32, symbol: &str, mode: Mode, depth: u32) -> Asked {
        let (reply, outcomes) = mpsc::channel(1);
        let want = Want { instrument: nse(symbol), mode, depth };
        Asked { decisions: self.registry.subscribe(member, session(n), &[want], &reply), outcomes }
    }

    async fn subscribe(&self, member: &Member, n: u32, symbol: &str) -> Result<u32, (FaultCode, String)> {
        self.ask(member, n, symbol, Mode::Ltp, 5).one().await
    }

    fn ask_unsubscribe(
        &self,
        member: &Member,
        n: u32,
        symbol: &str,
    ) -> (UnsubscribeDecision, mpsc::Receiver<(u32, Outcome)>) {
        let (reply, outcomes) = mpsc::channel(1);
        let decisions = self.registry.unsubscribe(member, session(n), &[(nse(symbol), Mode::Ltp)], &reply);
        (decisions[0], outcomes)
    }

    async fn unsubscribe(&self, member: &Member, n: u32, symbol: &str) -> UnsubscribeDecision {
        let (decision, mut outcomes) = self.ask_unsubscribe(member, n, symbol);
        if decision == UnsubscribeDecision::Pending {
            assert_eq!(outcomes.recv().await, Some((0, Outcome::Unsubscribed)));
        }
        decision
    }

    /// References of a key, 0 when there is no such key.
    fn refs(&self, symbol: &str) -> usize {
        let shard = self.shards.shard_of(nse(symbol));
        self.shards.with(shard, |s| {
            s.keys.iter().filter(|k| k.name.instrument.as_ref() == nse(symbol)).map(|k| k.sessions.len()).sum()
        })
    }

    fn keys(&self) -> usize {
        self.shards.indexes().map(|i| self.shards.with(i, |s| s.keys.len())).sum()
    }

    fn pins(&self) -> usize {
        self.shards.usage().pins
    }

    /// Waits until the supervisor has done what is due now: paused time moves on only when every task is idle.
    async fn settle(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    async fn assert_empty(&self, user: &str) {
        assert_eq!((self.keys(), self.pins()), (0, 0), "keys and pins");
        assert_eq!(self.registry.user_id(user), None, "the user is forgotten");
        assert_eq!(self.script.alive(), 0, "no adapter is left");
        assert_eq!(self.registry.counts().active, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn rc_001_ten_clients_that_subscribe_at_once_cause_one_broker_call_and_count_ten() {
    let w = world();
    w.script.calls([Play::Hold]);
    let mut asked = Vec::new();
    let mut members = Vec::new();
    for n in 0..10 {
        members.push(w.attach(n, "asha").await);
    }
    for n in 0..10 {
        asked.push(w.ask(&members[0], n, "SBIN", Mode::Ltp, 5));
    }
    assert!(asked.iter().all(|a| a.decisions == [Decision::Pending]));
    w.script.until(|s| s.log().len() == 1).await;
    w.script.answer(w.script.call_ids()[0], Ok(Some(20))).await;
    for a in asked {
        assert_eq!(a.one().await, Ok(20), "all share the first one's depth");
    }
    assert_eq!(w.refs("SBIN"), 10);
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5"]);
    assert_eq!(w.subscribe(&members[0], 10, "SBIN").await, Ok(20), "an eleventh joins at once");
    assert_eq!(w.script.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn rc_001_a_first_in_during_the_last_outs_unsubscribe_waits_for_it_and_then_subscribes() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.attach(2, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.script.calls([Play::Hold]);
    let (decision, mut left) = w.ask_unsubscribe(&m, 1, "SBIN");
    assert_eq!(decision, UnsubscribeDecision::Pending);
    let joined = w.ask(&m, 2, "SBIN", Mode::Ltp, 5);
    assert_eq!(joined.decisions, [Decision::Pending]);
    w.script.until(|s| s.log().len() == 2).await;
    w.settle().await;
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5", "-NSE:SBIN/LTP"], "one call in flight a key");
    w.script.answer(w.script.call_ids()[1], Ok(None)).await;
    assert_eq!(left.recv().await, Some((0, Outcome::Unsubscribed)));
    assert_eq!(joined.one().await, Ok(5));
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5", "-NSE:SBIN/LTP", "+NSE:SBIN/LTP#5"]);
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/LTP"]);
}

#[tokio::test(start_paused = true)]
async fn rc_001_a_last_out_just_after_another_joined_calls_nobody() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.subscribe(&m, 2, "SBIN").await.expect("shared");
    assert_eq!(w.unsubscribe(&m, 1, "SBIN").await, UnsubscribeDecision::Left);
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5"]);
    assert_eq!(w.refs("SBIN"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_last_out_during_the_first_ins_subscribe_lets_it_finish_and_then_unsubscribes() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Hold]);
    let asked = w.ask(&m, 1, "SBIN", Mode::Ltp, 5);
    w.script.until(|s| s.log().len() == 1).await;
    w.registry.leave_all(&m, session(1), [(nse("SBIN"), Mode::Ltp)]);
    assert_eq!(w.refs("SBIN"), 0, "a session that leaves while its subscribe is pending holds nothing at once");
    assert_eq!(asked.one().await.map_err(|e| e.0), Err(FaultCode::Cancelled));
    assert_eq!(w.script.log().len(), 1);
    w.script.answer(w.script.call_ids()[0], Ok(None)).await;
    w.script.until(|s| s.log().len() == 2).await;
    w.settle().await;
    assert_eq!(w.script.at_broker(), Vec::<String>::new());
    assert_eq!((w.keys(), w.pins()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn rc_005_a_client_that_joins_a_pending_subscribe_keeps_it_when_the_first_one_leaves() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Hold]);
    let _first = w.ask(&m, 1, "SBIN", Mode::Ltp, 5);
    let second = w.ask(&m, 2, "SBIN", Mode::Ltp, 5);
    w.registry.leave_all(&m, session(1), [(nse("SBIN"), Mode::Ltp)]);
    w.script.until(|s| s.log().len() == 1).await;
    w.script.answer(w.script.call_ids()[0], Ok(None)).await;
    assert_eq!(second.one().await, Ok(5));
    assert_eq!(w.refs("SBIN"), 1);
    assert_eq!(w.script.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn rc_002_many_clients_of_one_user_at_once_start_one_adapter() {
    let w = world();
    w.script.connects([Play::Hold]);
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let registry = w.registry.clone();
            tokio::spawn(async move { registry.attach(session(n), "asha", Some("Fake")).await })
        })
        .collect();
    w.script.until(|s| s.seen().len() == 1).await;
    w.settle().await;
    w.script.connected().await;
    for task in tasks {
        task.await.expect("no panic").expect("attached");
    }
    assert_eq!((w.script.made(), w.script.alive_max()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn rc_002_a_hundred_rapid_attaches_and_detaches_leave_no_adapter() {
    for linger in [Duration::ZERO, Duration::from_secs(10)] {
        let w = world_with(SupervisorConfig { linger, ..SupervisorConfig::default() }, Config::default());
        for n in 0..100 {
            let m = w.attach(n, "asha").await;
            if n % 3 == 0 {
                w.subscribe(&m, n, "SBIN").await.expect("accepted");
                w.registry.leave_all(&m, session(n), [(nse("SBIN"), Mode::Ltp)]);
            }
            w.registry.detach(session(n), &m);
            if n % 7 == 0 {
                w.settle().await;
            }
        }
        if !linger.is_zero() {
            assert_eq!(w.script.made(), 1, "within the linger the adapter is used again");
        }
        sleep(linger + Duration::from_secs(1)).await;
        w.assert_empty("asha").await;
        assert_eq!(w.script.alive_max(), 1, "never two at once");
    }
}

#[tokio::test(start_paused = true)]
async fn rc_005_authenticating_during_the_linger_keeps_the_adapter() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.registry.detach(session(1), &m);
    sleep(Duration::from_secs(9)).await;
    w.attach(2, "asha").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!((w.script.made(), w.script.alive()), (1, 1));
    assert_eq!(w.registry.adapter_status(m.user), "connected");
}

#[tokio::test(start_paused = true)]
async fn rc_005_authenticating_during_the_disconnect_yields_a_live_adapter() {
    let w = world();
    // The connect, then the disconnect, which hangs.
    w.script.connects([Play::Accept, Play::Hold]);
    let m = w.attach(1, "asha").await;
    w.registry.detach(session(1), &m);
    w.script.until(|s| s.seen().iter().any(|seen| seen.command == Command::Disconnect)).await;
    let registry = w.registry.clone();
    let attach = tokio::spawn(async move { registry.attach(session(2), "asha", Some("fake")).await });
    w.settle().await;
    assert_eq!(w.script.made(), 1, "the next is made when the dying one is gone");
    w.script.report(Report::Disconnected).await;
    let m = attach.await.expect("no panic").expect("live");
    assert_eq!(w.subscribe(&m, 2, "SBIN").await, Ok(5));
    assert_eq!((w.script.made(), w.script.alive(), w.script.alive_max()), (2, 1, 1));
    assert!(w.script.seen().iter().any(|s| s.adapter == 2 && matches!(s.command, Command::Subscribe { .. })));
}

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
async fn rc_005_subscribing_while_another_session_is_cleaned_up_shares_or_renews_the_feed() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.attach(2, "asha").await;
    let symbols: Vec<String> = (0..40).map(|i| format!("S{i}")).collect();
    for s in &symbols {
        w.subscribe(&m, 1, s).await.expect("accepted");
    }
    let mut asked = Vec::new();
    for (i, s) in symbols.iter().enumerate() {
        // One before and one after the leave of each key.
        if i % 2 == 0 {
            asked.push(w.ask(&m, 2, s, Mode::Ltp, 5));
        }
        w.registry.leave_all(&m, session(1), [(nse(s), Mode::Ltp)]);
        if i % 2 == 1 {
            asked.push(w.ask(&m, 2, s, Mode::Ltp, 5));
        }
    }
    w.registry.detach(session(1), &m);
    for a in asked {
        assert_eq!(a.one().await, Ok(5));
    }
    w.settle().await;
    assert_eq!(w.script.at_broker().len(), 40);
    assert!(symbols.iter().all(|s| w.refs(s) == 1));
}

#[tokio::test(start_paused = true)]
async fn rc_006_unsubscribing_what_is_not_held_is_an_error_and_calls_nobody() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    assert_eq!(w.unsubscribe(&m, 1, "TCS").await, UnsubscribeDecision::NotHeld);
    assert_eq!(w.unsubscribe(&m, 2, "SBIN").await, UnsubscribeDecision::NotHeld);
    assert_eq!(w.unsubscribe(&m, 1, "SBIN").await, UnsubscribeDecision::Pending);
    assert_eq!(w.unsubscribe(&m, 1, "SBIN").await, UnsubscribeDecision::NotHeld);
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5", "-NSE:SBIN/LTP"]);
}

#[tokio::test(start_paused = true)]
async fn subscribing_twice_changes_nothing_and_calls_nobody() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    let again = w.ask(&m, 1, "SBIN", Mode::Ltp, 20);
    assert!(matches!(again.decisions[0], Decision::Duplicate { depth: 5, .. }));
    assert_eq!((w.refs("SBIN"), w.script.log().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscribe_is_rolled_back_with_the_adapters_own_words() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Refuse("Symbol BADX not found".into())]);
    let both = (w.ask(&m, 1, "BADX", Mode::Ltp, 5), w.ask(&m, 2, "BADX", Mode::Ltp, 5));
    let want = Err((FaultCode::Refused, "Symbol BADX not found".to_string()));
    assert_eq!((both.0.one().await, both.1.one().await), (want.clone(), want));
    sleep(Duration::from_secs(300)).await;
    assert_eq!((w.keys(), w.pins()), (0, 0));
    assert_eq!(w.script.log().len(), 1, "nobody wants it and the broker never had it: no further call");
}

#[tokio::test(start_paused = true)]
async fn a_subscribe_that_hangs_is_rolled_back_at_its_deadline_and_cleaned_up_at_the_broker() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Hold]);
    let from = tokio::time::Instant::now();
    let (code, text) = w.subscribe(&m, 1, "SBIN").await.expect_err("no answer");
    assert_eq!(from.elapsed(), Duration::from_secs(5));
    assert_eq!(code, FaultCode::Broker);
    assert!(text.contains("(ref "), "{text}");
    assert_eq!(w.refs("SBIN"), 0);
    w.script.until(|s| s.log().len() == 2).await;
    w.settle().await;
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5", "-NSE:SBIN/LTP"], "what is unknown is let go, with back-off");
    assert_eq!((w.keys(), w.pins()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_success_that_nobody_wants_is_answered_with_the_opposite_call() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Hold]);
    w.subscribe(&m, 1, "SBIN").await.expect_err("no answer");
    // The clean-up runs and succeeds before the late answer; the key is forgotten.
    w.script.until(|s| s.log().len() == 2).await;
    w.settle().await;
    assert_eq!(w.keys(), 0);
    w.script.answer(w.script.call_ids()[0], Ok(None)).await;
    assert_eq!(w.script.at_broker(), ["NSE:SBIN/LTP"]);
    w.script.until(|s| s.log().len() == 3).await;
    w.settle().await;
    assert_eq!(w.script.at_broker(), Vec::<String>::new(), "nothing leaks at the broker");
    assert_eq!((w.keys(), w.pins()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_success_that_somebody_wants_again_is_adopted() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Hold, Play::Hold]);
    w.subscribe(&m, 1, "SBIN").await.expect_err("no answer");
    let again = w.ask(&m, 2, "SBIN", Mode::Ltp, 5);
    w.script.until(|s| s.log().len() == 2).await;
    let ids = w.script.call_ids();
    w.script.answer(ids[0], Ok(Some(5))).await;
    assert_eq!(again.one().await, Ok(5), "without waiting for the newer call");
    w.script.answer(ids[1], Ok(Some(5))).await;
    w.settle().await;
    assert_eq!(w.script.log(), ["+NSE:SBIN/LTP#5", "+NSE:SBIN/LTP#5"]);
    assert_eq!((w.refs("SBIN"), w.script.at_broker().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failing_unsubscribe_is_reported_takes_effect_for_the_client_and_is_retried() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    w.script.calls([Play::Fail("socket closed".into()), Play::Fail("again".into())]);
    let (_, mut outcomes) = w.ask_unsubscribe(&m, 1, "SBIN");
    let (_, outcome) = outcomes.recv().await.expect("told");
    assert!(matches!(&outcome, Outcome::Failed(f) if f.code == FaultCode::Broker), "{outcome:?}");
    assert_eq!(w.refs("SBIN"), 0);
    w.script.until(|s| s.at_broker().is_empty()).await;
    w.settle().await;
    assert_eq!(w.script.log().len(), 4, "two failures, then success");
    assert_eq!(w.keys(), 0);
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
    assert!((5..20).contains(&w.script.made()), "{} logins in ten minutes", w.script.made());
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
    w.script.connects([Play::Refuse("bad totp".into()), Play::Fail("connection reset".into())]);
    let init = w.registry.attach(session(1), "asha", Some("fake")).await.expect_err("refused");
    assert_eq!(init.fault.code.code(), "BROKER_INIT_ERROR");
    assert!(init.fault.message.contains("bad totp") && init.fault.message.contains("(ref "), "{}", init.fault.message);
    let refused = w.subscribe(&init.member, 1, "SBIN").await.expect_err("no adapter");
    assert_eq!(refused.0, FaultCode::Broker);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(w.script.made(), 1, "nobody relies on it: the next attach is the retry");
    let connection = w.registry.attach(session(1), "asha", Some("fake")).await.expect_err("refused");
    assert_eq!(connection.fault.code.code(), "BROKER_CONNECTION_ERROR");
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
async fn the_auditor_reports_only_what_two_audits_in_a_row_see() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    let held = |symbols: &[&'static str]| {
        let keys: Vec<_> = symbols.iter().map(|s| (nse(s), Mode::Ltp)).collect();
        [Held { session: session(1), user: m.user, keys }]
    };
    let mut auditor = Auditor::default();
    assert_eq!(auditor.audit(&w.registry, held(&["SBIN"])), Drift::default());
    assert_eq!(auditor.audit(&w.registry, held(&["TCS"])), Drift::default(), "may be on its way");
    let drift = auditor.audit(&w.registry, held(&["TCS"]));
    assert_eq!(drift, Drift { session_registry: 1, registry_session: 1, registry_adapter: 0 });
}

/// Collects what `tracing` writes on this thread.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while held").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn rc_003_a_refused_failed_or_hanging_subscribe_logs_no_success_and_an_accepted_one_does() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let log = || String::from_utf8(captured.0.lock().expect("no panic while held").clone()).expect("text");
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Refuse("no".into()), Play::Fail("the true cause".into()), Play::Hold]);
    w.subscribe(&m, 1, "REFUSED").await.expect_err("refused");
    let (_, message) = w.subscribe(&m, 1, "FAILED").await.expect_err("failed");
    w.subscribe(&m, 1, "HANGS").await.expect_err("no answer");
    let text = log();
    for success in ["first-in", "joined", "accepted", "replayed"] {
        assert!(!text.contains(success), "{success} in\n{text}");
    }
    assert_eq!(text.matches("rolled back").count(), 3, "{text}");
    let id = message.split("(ref ").nth(1).and_then(|s| s.strip_suffix(')')).expect("a correlation id");
    let line = text.lines().find(|l| l.contains(id)).expect("the id is in the log");
    assert!(line.contains("the true cause"), "{line}");
    assert!(!message.contains("the true cause"));
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    assert!(log().contains("first-in"));
}

#[tokio::test(start_paused = true)]
async fn reference_counts_stay_exact_under_seeded_churn() {
    for seed in 1..=8 {
        churn(seed).await;
    }
}

/// Clients come, go, subscribe and unsubscribe while the broker accepts, refuses and fails in turn; at the end the
/// counts, the broker and the sessions' own books agree, and nothing is left when all have gone.
async fn churn(seed: u64) {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let w = world();
    let mut members: Vec<Option<Member>> = vec![None; 12];
    let mut books: Vec<HashSet<Instrument>> = vec![HashSet::new(); 12];
    for _ in 0..1500 {
        let n = rng.random_range(0..12usize);
        let symbol = format!("S{}", rng.random_range(0..9));
        match rng.random_range(0..20) {
            0 => {
                if let Some(m) = members[n].take() {
                    let keys: Vec<_> = books[n].drain().collect();
                    w.registry.leave_all(&m, session(n as u32), keys.iter().map(|k| (k.as_ref(), Mode::Ltp)));
                    w.registry.detach(session(n as u32), &m);
                }
            }
            1 => sleep(Duration::from_millis(rng.random_range(0..3000))).await,
            2 => w.script.calls([Play::Refuse("no".into())]),
            3 => w.script.calls([Play::Fail("broken".into())]),
            k => {
                let m = match &members[n] {
                    Some(m) => m.clone(),
                    None => w.attach(n as u32, "asha").await,
                };
                members[n] = Some(m.clone());
                if k < 13 {
                    if w.subscribe(&m, n as u32, &symbol).await.is_ok() {
                        books[n].insert(nse(&symbol).to_owned());
                    }
                } else {
                    let held = books[n].remove(&nse(&symbol).to_owned());
                    let (decision, mut outcomes) = w.ask_unsubscribe(&m, n as u32, &symbol);
                    assert_eq!(decision != UnsubscribeDecision::NotHeld, held, "seed {seed}");
                    if decision == UnsubscribeDecision::Pending {
                        outcomes.recv().await.expect("told");
                    }
                }
            }
        }
        for s in 0..9 {
            let symbol = format!("S{s}");
            let held = books.iter().filter(|b| b.contains(&nse(&symbol).to_owned())).count();
            assert_eq!(w.refs(&symbol), held, "seed {seed}");
        }
    }
    w.script.clear();
    sleep(Duration::from_secs(300)).await;
    let wanted: BTreeSet<String> = books.iter().flatten().map(|i| format!("{i:?}/LTP")).collect();
    assert_eq!(w.script.at_broker(), wanted.into_iter().collect::<Vec<_>>(), "seed {seed}");
    for (n, m) in members.iter().enumerate() {
        if let Some(m) = m {
            w.registry.leave_all(m, session(n as u32), books[n].iter().map(|k| (k.as_ref(), Mode::Ltp)));
            w.registry.detach(session(n as u32), m);
        }
    }
    sleep(Duration::from_secs(300)).await;
    w.assert_empty("asha").await;
}
