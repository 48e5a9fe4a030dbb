//! The audit's races (RC-001 … RC-006) and the promises of DESIGN 3 about references, each interleaving forced with a
//! scripted adapter on paused time. What becomes of adapters is in `adapter_lifecycle.rs`; what is logged in `registry_logs.rs`.

mod world;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;
use tickcast::adapter::Command;
use tickcast::adapter::Report;
use tickcast::adapter::scripted::Play;
use tickcast::adapter::supervisor::Config as SupervisorConfig;
use tickcast::model::{Instrument, Mode};
use tickcast::registry::audit::{Auditor, Drift, fingerprint};
use tickcast::registry::{Config, Decision, FaultCode, Member, Outcome, UnsubscribeDecision};
use tokio::time::sleep;
use world::{nse, session, world, world_with};

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
async fn the_auditor_reports_only_what_two_audits_in_a_row_see() {
    let w = world();
    let m = w.attach(1, "asha").await;
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    let mut auditor = Auditor::default();
    let hash = auditor.hash().clone();
    let held = |symbols: &[&'static str]| -> Vec<u64> {
        symbols.iter().map(|s| fingerprint(&hash, m.user, (nse(s), Mode::Ltp), session(1))).collect()
    };
    assert_eq!(auditor.audit(&w.registry, held(&["SBIN"])), Drift::default());
    assert_eq!(auditor.audit(&w.registry, held(&["TCS"])), Drift::default(), "may be on its way");
    let drift = auditor.audit(&w.registry, held(&["TCS"]));
    assert_eq!(drift, Drift { session_registry: 1, registry_session: 1, registry_adapter: 0 });
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
