//! What runs beside the tick path: gauges, the auditor and warnings about a silent bus on a thread of their own, since they wait
//! for every shard in turn; invalidations on the control thread.

use crate::auth::AuthService;
use crate::bus::endpoints::{EndpointStatus, Quiet, QuietWarning, quiet};
use crate::bus::frames::Invalidate;
use crate::engine::metrics::WorkerStats;
use crate::engine::queue::Control;
use crate::limits;
use crate::model::limited;
use crate::registry::Registry;
use crate::registry::audit::{Auditor, BETWEEN, Disagreement, Findings};
use crate::shards::{self, Shards};
use metrics::{Gauge, describe_gauge, gauge};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Gauges are set this often.
const GAUGES: Duration = Duration::from_secs(1);
/// The auditor looks, and revoked keys are looked for, this often.
pub(super) const AUDIT: Duration = Duration::from_secs(10);
/// An audit that takes longer is given up.
const AUDIT_WAIT: Duration = Duration::from_secs(2);
/// An endpoint that clients wait for may be silent this long before a warning.
const QUIET_AFTER: Duration = Duration::from_secs(10);

/// Gauges that are sums over workers.
pub(super) struct WorkerGauges {
    outbox_bytes: Gauge,
    lagging: Gauge,
}

impl WorkerGauges {
    /// Makes the handles with the current recorder.
    pub(super) fn register() -> Self {
        describe_gauge!("tickcast_outbox_bytes", "Bytes waiting in all sessions' outboxes");
        describe_gauge!("tickcast_sessions_lagging", "Sessions whose oldest unsent tick is older than 1 s");
        WorkerGauges { outbox_bytes: gauge!("tickcast_outbox_bytes"), lagging: gauge!("tickcast_sessions_lagging") }
    }
}

/// What the upkeep looks at.
pub(super) struct Upkeep {
    pub(super) auth: AuthService,
    pub(super) registry: Arc<Registry>,
    pub(super) shards: Arc<Shards>,
    pub(super) lock_metrics: shards::metrics::Metrics,
    pub(super) gauges: WorkerGauges,
    pub(super) audit_every: Duration,
    pub(super) workers: Vec<(Arc<WorkerStats>, mpsc::Sender<Control>)>,
    /// For whoever wants to know what the auditor found.
    pub(super) findings: watch::Sender<Option<Arc<Findings>>>,
    pub(super) endpoints: Vec<Arc<EndpointStatus>>,
    /// Whether silence of the bus is expected: the simulated market runs instead.
    pub(super) sim_runs: Box<dyn Fn() -> bool + Send>,
}

impl Upkeep {
    /// Runs for ever; its thread drops it at the end.
    pub(super) async fn run(mut self) {
        let mut auditor = Auditor::default();
        let mut gauges = tokio::time::interval(GAUGES);
        let mut audit = tokio::time::interval(self.audit_every);
        let mut watch = QuietWatch::default();
        loop {
            tokio::select! {
                _ = gauges.tick() => {
                    self.publish();
                    self.warn_of_silence(&mut watch);
                }
                _ = audit.tick() => {
                    // A worker that stands still gives no word; the gauges must go on, and the next audit will do.
                    let _ = tokio::time::timeout(AUDIT_WAIT, self.audit(&mut auditor)).await;
                }
            }
        }
    }

    fn publish(&mut self) {
        self.registry.observe();
        self.lock_metrics.publish(&self.shards);
        let sum = |f: fn(&WorkerStats) -> usize| self.workers.iter().map(|(s, _)| f(s)).sum::<usize>() as f64;
        self.gauges.outbox_bytes.set(sum(|s| s.outbox_bytes.load(Ordering::Relaxed)));
        self.gauges.lagging.set(sum(|s| s.lagging.load(Ordering::Relaxed)));
    }

    /// Asks every worker what its sessions hold and compares that with the registry.
    async fn audit(&self, auditor: &mut Auditor) {
        let (mut key_ids, mut held) = (Vec::new(), Vec::new());
        for (_, control) in &self.workers {
            let (reply, answer) = oneshot::channel();
            if control.try_send(Control::Audit { hash: auditor.hash().clone(), reply }).is_ok() {
                match answer.await {
                    Ok(answer) => {
                        key_ids.extend(answer.key_ids);
                        held.extend(answer.references);
                    }
                    // The worker drains: nothing can be compared any more.
                    Err(_) => return,
                }
            } else {
                return;
            }
        }
        self.end_revoked(key_ids).await;
        let drift = auditor.audit(&self.registry, held);
        let mut named = Vec::new();
        if drift.counts().iter().any(|n| *n > 0) {
            tracing::error!(
                ?drift,
                "sessions, registry and adapters disagree; please report this and what /subscriptions?drift=1 says"
            );
            named = auditor.named(&self.registry, limits::DRIFT_NAMES_MAX);
            named.extend(self.unknown_to_registry(auditor).await);
        }
        self.findings.send_replace(Some(Arc::new(Findings { at: Instant::now(), drift, named })));
    }

    /// What sessions believe to hold and the registry does not know, by name: the sessions know it.
    async fn unknown_to_registry(&self, auditor: &Auditor) -> Vec<Disagreement> {
        let references = auditor.unknown_to_registry(limits::DRIFT_NAMES_MAX);
        let mut named = Vec::new();
        if references.is_empty() {
            return named;
        }
        for (_, control) in &self.workers {
            let (reply, answer) = oneshot::channel();
            let asked = Control::Named { hash: auditor.hash().clone(), references: Arc::clone(&references), reply };
            if control.try_send(asked).is_err() {
                continue;
            }
            named.extend(answer.await.unwrap_or_default().into_iter().map(|held| Disagreement {
                between: BETWEEN[0],
                user: held.user.to_string(),
                session: Some(held.session),
                key: Some((held.instrument, held.mode)),
            }));
        }
        named
    }

    /// Ends the sessions of keys that were revoked or replaced since they authenticated.
    async fn end_revoked(&self, mut keys: Vec<u64>) {
        keys.sort_unstable();
        keys.dedup();
        match self.auth.revoked(keys).await {
            Ok(revoked) if revoked.is_empty() => {}
            Ok(revoked) => {
                tracing::info!(keys = revoked.len(), "keys were revoked: their sessions are closed");
                let revoked: Arc<[u64]> = revoked.into();
                for (_, control) in &self.workers {
                    // A worker whose queue is full is told by the next audit.
                    let _ = control.try_send(Control::Revoked(revoked.clone()));
                }
            }
            Err(error) => limited!(warn, 1, ?error, "the key store cannot be read; live sessions go on"),
        }
    }

    fn warn_of_silence(&self, watch: &mut QuietWatch) {
        let subscribed = self.workers.iter().any(|(s, _)| s.subscriptions.load(Ordering::Relaxed) > 0);
        if !subscribed || (self.sim_runs)() {
            *watch = QuietWatch::default();
            return;
        }
        let since = *watch.subscribed_since.get_or_insert_with(Instant::now);
        watch.warned.resize(self.endpoints.len(), None);
        for (endpoint, warned) in self.endpoints.iter().zip(&mut watch.warned) {
            let found = quiet(endpoint.seen(), Some(since.elapsed()), QUIET_AFTER);
            if let Some(quiet) = found.filter(|_| found != *warned) {
                let spec = endpoint.spec();
                let warning =
                    QuietWarning { endpoint: &spec.endpoint, direction: spec.direction, quiet, after: QUIET_AFTER };
                tracing::warn!("{warning}");
            }
            *warned = found;
        }
    }
}

/// Since when clients wait, and what has been warned of.
#[derive(Default)]
struct QuietWatch {
    subscribed_since: Option<Instant>,
    warned: Vec<Option<Quiet>>,
}

/// Cache invalidations from the bus: forget, look the broker up again, rebuild the adapter and replay.
pub(super) async fn invalidate(mut queue: mpsc::Receiver<Invalidate>, auth: AuthService, registry: Arc<Registry>) {
    while let Some(Invalidate { user, kind }) = queue.recv().await {
        auth.invalidate();
        match auth.broker_of(&user).await {
            Ok(broker) => {
                tracing::info!(
                    user,
                    ?kind,
                    broker = broker.as_deref().unwrap_or("none"),
                    "credentials changed: adapter is rebuilt"
                );
                registry.invalidate(&user, broker.as_deref());
            }
            Err(error) => {
                // The message comes once: the adapter reads its credentials anew all the same.
                tracing::warn!(user, ?error, "credentials changed, but the key store cannot say at which broker");
                registry.refresh(&user);
            }
        }
    }
}
