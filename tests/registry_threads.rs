//! The registry under real concurrency: worker threads that subscribe, leave and go while the control thread answers,
//! reconnects and replays. Whatever the interleaving, at the end the broker holds what is wanted, and then nothing.

use metrics::NoopRecorder;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tickcast::adapter::Report;
use tickcast::adapter::metrics::AdapterMetrics;
use tickcast::adapter::scripted::Script;
use tickcast::adapter::supervisor::{Config as SupervisorConfig, Supervisors};
use tickcast::model::{Brokers, InstrumentRef, Mode, ScopeId, SessionId, WorkerId};
use tickcast::registry::metrics::RegistryMetrics;
use tickcast::registry::{Config, Decision, Member, Outcome, Registry, ScopedSource, Want};
use tickcast::shards::{Config as ShardsConfig, Shards};
use tokio::sync::{mpsc, oneshot};

const WORKERS: u8 = 3;
const SYMBOLS: usize = 12;

fn instrument(symbol: &str) -> InstrumentRef<'_> {
    InstrumentRef { venue: "NSE", symbol }
}

fn block_on<F: Future>(f: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(f)
}

/// One session's life: comes, subscribes and leaves at random, stays with what it says it holds.
async fn live(registry: &Arc<Registry>, id: SessionId, seed: u64) -> (Member, Vec<String>) {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut member = registry.attach(id, "asha", Some("fake")).await.expect("live");
    let mut held: Vec<String> = Vec::new();
    for _ in 0..400 {
        let symbol = format!("S{}", rng.random_range(0..SYMBOLS));
        match rng.random_range(0..20) {
            0 => {
                registry.leave_all(&member, id, held.iter().map(|s| (instrument(s), Mode::Ltp)));
                held.clear();
                registry.detach(id, &member);
                member = registry.attach(id, "asha", Some("fake")).await.expect("live");
            }
            1..12 => {
                let (reply, mut outcomes) = mpsc::channel(1);
                let want = Want { instrument: instrument(&symbol), mode: Mode::Ltp, depth: 5 };
                match &registry.subscribe(&member, id, &[want], &reply)[0] {
                    Decision::Joined { .. } => held.push(symbol),
                    Decision::Pending if rng.random_bool(0.1) => {
                        // Goes away while its subscribe is pending.
                        registry.leave_all(&member, id, [(instrument(&symbol), Mode::Ltp)]);
                    }
                    Decision::Pending => match outcomes.recv().await {
                        Some((_, Outcome::Subscribed { .. })) => held.push(symbol),
                        other => panic!("the broker accepts everything: {other:?}"),
                    },
                    Decision::Duplicate { .. } => assert!(held.contains(&symbol)),
                    Decision::Refused(fault) => panic!("{fault:?}"),
                }
            }
            _ => {
                let at = held.iter().position(|s| *s == symbol);
                if let Some(at) = at {
                    held.swap_remove(at);
                    registry.leave_all(&member, id, [(instrument(&symbol), Mode::Ltp)]);
                }
            }
        }
    }
    (member, held)
}

/// A registry with a control thread like the server's.
struct World {
    script: Script,
    shards: Arc<Shards>,
    registry: Arc<Registry>,
    stop: oneshot::Sender<()>,
    control: JoinHandle<()>,
}

fn world(config: Config) -> World {
    let script = Script::default();
    let shards = Arc::new(Shards::new(&ShardsConfig { shards: 4, ..ShardsConfig::default() }));
    let brokers = Arc::new(Brokers::new());
    let adapter_metrics = AdapterMetrics::register(brokers.clone(), [], Arc::new(NoopRecorder));
    let metrics = metrics::with_local_recorder(&NoopRecorder, RegistryMetrics::register);
    let (stop, stopped) = oneshot::channel::<()>();
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let handle = control.handle().clone();
    let control = std::thread::spawn(move || control.block_on(async { drop(stopped.await) }));
    let supervisor = SupervisorConfig { linger: Duration::ZERO, ..SupervisorConfig::default() };
    let supervisors = Supervisors::new(supervisor, Arc::new(script.clone()), adapter_metrics, handle);
    let registry = Registry::new(config, shards.clone(), brokers, supervisors, metrics);
    World { script, shards, registry, stop, control }
}

#[test]
fn whatever_the_interleaving_the_broker_ends_up_with_what_is_wanted_and_then_with_nothing() {
    let World { script, shards, registry, stop, control } = world(Config::default());
    // One more session that stays, so that the adapter of the end is the one that is looked at.
    let keeper = SessionId { worker: WorkerId(9), slot: 0, generation: 0 };
    let kept = block_on(registry.attach(keeper, "asha", Some("fake"))).expect("live");
    let workers: Vec<_> = (0..WORKERS)
        .map(|w| {
            let (registry, script) = (registry.clone(), script.clone());
            std::thread::spawn(move || {
                block_on(async {
                    let mut ends = Vec::new();
                    for slot in 0..4 {
                        let id = SessionId { worker: WorkerId(w), slot, generation: 0 };
                        ends.push((id, live(&registry, id, u64::from(w) * 100 + u64::from(slot)).await));
                        script.report(Report::Restored).await;
                    }
                    ends
                })
            })
        })
        .collect();
    let ends: Vec<_> = workers.into_iter().flat_map(|w| w.join().expect("no panic")).collect();
    let mut wanted: Vec<String> = ends.iter().flat_map(|(_, (_, held))| held).map(|s| format!("NSE:{s}/LTP")).collect();
    wanted.sort();
    wanted.dedup();
    let patience = Duration::from_secs(30);
    let settled = block_on(async { tokio::time::timeout(patience, script.until(|s| s.at_broker() == wanted)).await });
    assert!(settled.is_ok(), "the broker has {:?}, wanted is {wanted:?}", script.at_broker());
    let references: usize = ends.iter().map(|(_, (_, held))| held.len()).sum();
    assert_eq!(registry.counts().active, references as u64);
    for (id, (member, held)) in &ends {
        registry.leave_all(member, *id, held.iter().map(|s| (instrument(s), Mode::Ltp)));
        registry.detach(*id, member);
    }
    registry.detach(keeper, &kept);
    let empty = block_on(async { tokio::time::timeout(patience, script.until(|s| s.alive() == 0)).await });
    assert!(empty.is_ok(), "no adapter is left");
    assert_eq!(script.alive_max(), 1);
    assert_eq!(registry.counts().active, 0);
    drop(stop);
    control.join().expect("no panic");
    assert_eq!(shards.usage().pins, 0, "every pin was given back");
}

/// Subscribes and leaves at random without waiting for anybody.
fn come_and_go(registry: &Registry, member: &Member, id: SessionId, seed: u64) {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    for _ in 0..3000 {
        let symbol = format!("S{}", rng.random_range(0..SYMBOLS));
        if rng.random_bool(0.5) {
            let (reply, _outcomes) = mpsc::channel(1);
            let want = Want { instrument: instrument(&symbol), mode: Mode::Ltp, depth: 5 };
            let decision = &registry.subscribe(member, id, &[want], &reply)[0];
            assert!(!matches!(decision, Decision::Refused(_)), "{decision:?}");
        } else {
            registry.leave_all(member, id, [(instrument(&symbol), Mode::Ltp)]);
        }
    }
}

#[test]
fn while_the_broker_changes_again_and_again_every_key_ends_up_in_the_scope_of_the_last_one() {
    let own = ScopedSource { scope: ScopeId(1), broker: "dhan".into(), user: "asha".into() };
    let World { script, shards, registry, stop, control } = world(Config { sources: vec![own], ..Config::default() });
    let workers = 0..WORKERS;
    let members: Vec<_> = workers
        .map(|w| {
            let id = SessionId { worker: WorkerId(w), slot: 0, generation: 0 };
            (id, block_on(registry.attach(id, "asha", Some("angel"))).expect("live"))
        })
        .collect();
    std::thread::scope(|threads| {
        for (id, member) in &members {
            let registry = &registry;
            threads.spawn(move || come_and_go(registry, member, *id, u64::from(id.worker.0)));
        }
        for changes in [["dhan", "angel"], ["angel", "dhan"]] {
            let registry = &registry;
            threads.spawn(move || {
                for n in 0..200 {
                    registry.invalidate("asha", Some(changes[n % 2]));
                }
            });
        }
    });
    let wanted = registry.source(members[0].1.user).expect("attached").scope;
    assert_ne!(registry.counts().active, 0, "something is held");
    for index in shards.indexes() {
        shards.with(index, |shard| {
            for key in shard.keys.iter() {
                assert_eq!(shard.streams.stream(key.stream).map(|(held, _)| held), Some(wanted), "{:?}", key.name);
            }
        });
    }
    for (id, member) in &members {
        let symbols: Vec<_> = (0..SYMBOLS).map(|n| format!("S{n}")).collect();
        registry.leave_all(member, *id, symbols.iter().map(|s| (instrument(s), Mode::Ltp)));
        registry.detach(*id, member);
    }
    let patience = Duration::from_secs(30);
    let empty = block_on(async { tokio::time::timeout(patience, script.until(|s| s.alive() == 0)).await });
    assert!(empty.is_ok(), "no adapter is left");
    drop(stop);
    control.join().expect("no panic");
    assert_eq!(registry.counts().active, 0);
    assert_eq!(shards.usage().pins, 0, "every pin was given back");
}
