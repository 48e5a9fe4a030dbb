//! A registry with its shards, supervisors and a scripted adapter, for tests on paused time.

#![allow(dead_code, reason = "each test file uses its part")]

use metrics::{NoopRecorder, Recorder};
use std::sync::Arc;
use std::time::Duration;
use tickcast::adapter::metrics::AdapterMetrics;
use tickcast::adapter::scripted::Script;
use tickcast::adapter::supervisor::{Config as SupervisorConfig, Supervisors};
use tickcast::model::{Brokers, InstrumentRef, Mode, SessionId, WorkerId};
use tickcast::registry::metrics::RegistryMetrics;
use tickcast::registry::{Config, Decision, FaultCode, Member, Outcome, Registry, UnsubscribeDecision, Want};
use tickcast::shards::{Config as ShardsConfig, Shards};
use tokio::sync::mpsc;
use tokio::time::sleep;

pub(crate) struct World {
    pub(crate) script: Script,
    pub(crate) registry: Arc<Registry>,
    pub(crate) shards: Arc<Shards>,
}

pub(crate) fn world() -> World {
    world_with(SupervisorConfig::default(), Config::default())
}

pub(crate) fn world_with(supervisor: SupervisorConfig, config: Config) -> World {
    build(supervisor, config, Arc::new(NoopRecorder))
}

/// A world whose metrics go to this recorder.
pub(crate) fn world_on(recorder: impl Recorder + Send + Sync + 'static) -> World {
    build(SupervisorConfig::default(), Config::default(), Arc::new(recorder))
}

fn build(supervisor: SupervisorConfig, config: Config, recorder: Arc<dyn Recorder + Send + Sync>) -> World {
    let script = Script::default();
    let shards = Arc::new(Shards::new(&ShardsConfig { shards: 8, seed: Some(7), ..ShardsConfig::default() }));
    let brokers = Arc::new(Brokers::new());
    let metrics = metrics::with_local_recorder(&recorder, RegistryMetrics::register);
    let adapter_metrics = AdapterMetrics::register(brokers.clone(), [], recorder);
    let runtime = tokio::runtime::Handle::current();
    let supervisors = Supervisors::new(supervisor, Arc::new(script.clone()), adapter_metrics, runtime);
    let registry = Registry::new(config, shards.clone(), brokers, supervisors, metrics);
    World { script, registry, shards }
}

pub(crate) fn session(n: u32) -> SessionId {
    SessionId { worker: WorkerId(0), slot: n, generation: 1 }
}

pub(crate) fn nse(symbol: &str) -> InstrumentRef<'_> {
    InstrumentRef { venue: "NSE", symbol }
}

/// A request under way: decisions and the queue its outcomes come through.
pub(crate) struct Asked {
    pub(crate) decisions: Vec<Decision>,
    pub(crate) outcomes: mpsc::Receiver<(u32, Outcome)>,
}

impl Asked {
    /// The depth of the one entry, or the code and text of its fault.
    pub(crate) async fn one(mut self) -> Result<u32, (FaultCode, String)> {
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
    pub(crate) async fn attach(&self, n: u32, user: &str) -> Member {
        self.registry.attach(session(n), user, Some("fake")).await.expect("the adapter connects")
    }

    pub(crate) fn ask(&self, member: &Member, n: u32, symbol: &str, mode: Mode, depth: u32) -> Asked {
        let (reply, outcomes) = mpsc::channel(1);
        let want = Want { instrument: nse(symbol), mode, depth };
        Asked { decisions: self.registry.subscribe(member, session(n), &[want], &reply), outcomes }
    }

    pub(crate) async fn subscribe(&self, member: &Member, n: u32, symbol: &str) -> Result<u32, (FaultCode, String)> {
        self.ask(member, n, symbol, Mode::Ltp, 5).one().await
    }

    pub(crate) fn ask_unsubscribe(
        &self,
        member: &Member,
        n: u32,
        symbol: &str,
    ) -> (UnsubscribeDecision, mpsc::Receiver<(u32, Outcome)>) {
        let (reply, outcomes) = mpsc::channel(1);
        let decisions = self.registry.unsubscribe(member, session(n), &[(nse(symbol), Mode::Ltp)], &reply);
        (decisions[0], outcomes)
    }

    pub(crate) async fn unsubscribe(&self, member: &Member, n: u32, symbol: &str) -> UnsubscribeDecision {
        let (decision, mut outcomes) = self.ask_unsubscribe(member, n, symbol);
        if decision == UnsubscribeDecision::Pending {
            assert_eq!(outcomes.recv().await, Some((0, Outcome::Unsubscribed)));
        }
        decision
    }

    /// References of a key, 0 when there is no such key.
    pub(crate) fn refs(&self, symbol: &str) -> usize {
        let shard = self.shards.shard_of(nse(symbol));
        self.shards.with(shard, |s| {
            s.keys.iter().filter(|k| k.name.instrument.as_ref() == nse(symbol)).map(|k| k.sessions.len()).sum()
        })
    }

    pub(crate) fn keys(&self) -> usize {
        self.shards.indexes().map(|i| self.shards.with(i, |s| s.keys.len())).sum()
    }

    pub(crate) fn pins(&self) -> usize {
        self.shards.usage().pins
    }

    /// Waits until the supervisor has done what is due now: paused time moves on only when every task is idle.
    pub(crate) async fn settle(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    pub(crate) async fn assert_empty(&self, user: &str) {
        assert_eq!((self.keys(), self.pins()), (0, 0), "keys and pins");
        assert_eq!(self.registry.user_id(user), None, "the user is forgotten");
        assert_eq!(self.script.alive(), 0, "no adapter is left");
        assert_eq!(self.registry.counts().active, 0);
    }
}
