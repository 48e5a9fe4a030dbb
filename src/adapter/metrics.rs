//! Metrics of adapters and their calls. Labels are the brokers of settings and key store, which are what [`Brokers`] holds; any other
//! counts as `other`. Tests: below, `tests/adapter_lifecycle.rs`.

use super::supervisor::StateLabel;
use crate::limits::BROKERS_MAX;
use crate::model::Brokers;
use metrics::{
    Counter, Gauge, Histogram, Recorder, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram, with_local_recorder,
};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Edges of `tickcast_broker_call_seconds`.
pub const BROKER_CALL_BUCKETS: (&str, &[f64]) =
    ("tickcast_broker_call_seconds", &[0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);
/// Edges of `tickcast_adapter_start_seconds`.
pub const ADAPTER_START_BUCKETS: (&str, &[f64]) =
    ("tickcast_adapter_start_seconds", &[0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0]);

/// `op` label of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOp {
    /// First-in, replay or retry.
    Subscribe,
    /// Last-out or retry.
    Unsubscribe,
    /// A kept adapter is cleared.
    UnsubscribeAll,
}

impl CallOp {
    /// All of them, in the order of their labels.
    pub const ALL: [CallOp; 3] = [CallOp::Subscribe, CallOp::Unsubscribe, CallOp::UnsubscribeAll];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            CallOp::Subscribe => "subscribe",
            CallOp::Unsubscribe => "unsubscribe",
            CallOp::UnsubscribeAll => "unsubscribe_all",
        }
    }
}

/// `outcome` label of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Accepted.
    Success,
    /// The broker said no.
    Refused,
    /// Something broke.
    Failed,
    /// Not answered in time.
    Timeout,
}

impl CallOutcome {
    /// All of them.
    pub const ALL: [CallOutcome; 4] =
        [CallOutcome::Success, CallOutcome::Refused, CallOutcome::Failed, CallOutcome::Timeout];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            CallOutcome::Success => "success",
            CallOutcome::Refused => "refused",
            CallOutcome::Failed => "failed",
            CallOutcome::Timeout => "timeout",
        }
    }
}

struct PerBroker {
    calls: [[Counter; 4]; 3],
    call_seconds: [[Histogram; 4]; 3],
    start_success: Histogram,
    start_failed: Histogram,
    states: [Gauge; StateLabel::ALL.len()],
    connections: Gauge,
    silence: Gauge,
}

impl PerBroker {
    fn register(broker: &str) -> Self {
        let b = broker.to_owned();
        let start = |outcome: &'static str| histogram!("tickcast_adapter_start_seconds", "broker" => b.clone(), "outcome" => outcome);
        PerBroker {
            calls: CallOp::ALL.map(|op| {
                CallOutcome::ALL.map(|o| {
                    counter!("tickcast_broker_calls_total", "broker" => b.clone(), "op" => op.label(), "outcome" => o.label())
                })
            }),
            call_seconds: CallOp::ALL.map(|op| {
                CallOutcome::ALL.map(|o| {
                    histogram!("tickcast_broker_call_seconds", "broker" => b.clone(), "op" => op.label(), "outcome" => o.label())
                })
            }),
            start_success: start("success"),
            start_failed: start("failed"),
            states: StateLabel::ALL
                .map(|s| gauge!("tickcast_adapters", "broker" => b.clone(), "state" => s.label())),
            connections: gauge!("tickcast_adapter_connections", "broker" => b.clone()),
            silence: gauge!("tickcast_feed_silence_seconds", "broker" => b.clone()),
        }
    }
}

/// Handles for adapters and calls.
pub struct AdapterMetrics {
    names: Arc<Brokers>,
    /// By broker id. A broker has 200 series, and key stores and OpenAlgo's settings name dozens that nobody uses: made at first use.
    brokers: Box<[OnceLock<PerBroker>]>,
    other: PerBroker,
    recorder: Arc<dyn Recorder + Send + Sync>,
}

impl AdapterMetrics {
    /// Makes the handles for `expected` and `other` with this recorder; those of further `names` when they are used.
    pub fn register<'a>(
        names: Arc<Brokers>,
        expected: impl IntoIterator<Item = &'a str>,
        recorder: Arc<dyn Recorder + Send + Sync>,
    ) -> Self {
        let other = with_local_recorder(&recorder, || {
            describe();
            PerBroker::register("other")
        });
        let brokers = (0..BROKERS_MAX).map(|_| OnceLock::new()).collect();
        let metrics = AdapterMetrics { names, brokers, other, recorder };
        expected.into_iter().for_each(|broker| _ = metrics.of(broker));
        metrics
    }

    /// Counts one finished call.
    pub fn called(&self, broker: &str, op: CallOp, outcome: CallOutcome, took: Duration) {
        let per = self.of(broker);
        per.calls[op as usize][outcome as usize].increment(1);
        per.call_seconds[op as usize][outcome as usize].record(took.as_secs_f64());
    }

    /// Counts one start.
    pub fn started(&self, broker: &str, success: bool, took: Duration) {
        let per = self.of(broker);
        if success { &per.start_success } else { &per.start_failed }.record(took.as_secs_f64());
    }

    /// Sets the gauges from a look at all adapters: broker, state, and connections where the adapter tells them.
    pub fn observe<'a>(&self, adapters: impl Iterator<Item = (&'a str, StateLabel, Option<usize>)>) {
        let mut counts: HashMap<&str, ([u32; StateLabel::ALL.len()], usize)> = HashMap::new();
        for (broker, state, connections) in adapters {
            let (states, connected) = counts.entry(self.label(broker)).or_default();
            states[state as usize] += 1;
            *connected += connections.unwrap_or(usize::from(state.is_connected()));
        }
        for (broker, per) in self.all() {
            let (states, connected) = counts.get(broker).copied().unwrap_or_default();
            for (gauge, n) in per.states.iter().zip(states) {
                gauge.set(f64::from(n));
            }
            per.connections.set(connected as f64);
        }
    }

    /// Sets the gauge of the longest silence of each broker.
    pub fn observe_silence<'a>(&self, silences: impl Iterator<Item = (&'a str, Duration)>) {
        let mut longest: HashMap<&str, Duration> = HashMap::new();
        for (broker, silence) in silences {
            let held = longest.entry(self.label(broker)).or_default();
            *held = silence.max(*held);
        }
        for (broker, per) in self.all() {
            per.silence.set(longest.get(broker).copied().unwrap_or_default().as_secs_f64());
        }
    }

    /// The label of a broker, whose handles are there from now on.
    fn label(&self, broker: &str) -> &str {
        self.slot(broker).map_or("other", |(name, _)| name)
    }

    fn of(&self, broker: &str) -> &PerBroker {
        self.slot(broker).map_or(&self.other, |(_, per)| per)
    }

    fn slot(&self, broker: &str) -> Option<(&str, &PerBroker)> {
        let id = self.names.find(broker)?;
        let (name, slot) = (self.names.name(id), self.brokers.get(usize::from(id.0))?);
        Some((name, slot.get_or_init(|| with_local_recorder(&self.recorder, || PerBroker::register(name)))))
    }

    /// All brokers that have handles, by label.
    fn all(&self) -> impl Iterator<Item = (&str, &PerBroker)> {
        let used = self.names.iter().filter_map(|(id, name)| Some((name, self.brokers[usize::from(id.0)].get()?)));
        used.chain([("other", &self.other)])
    }
}

fn describe() {
    describe_counter!("tickcast_broker_calls_total", "Calls to adapters by operation and outcome");
    describe_histogram!("tickcast_broker_call_seconds", "Time from sending a call to its answer or deadline");
    describe_histogram!("tickcast_adapter_start_seconds", "Time an adapter took to connect, or to fail to");
    describe_gauge!(
        "tickcast_adapters",
        "Adapters by broker and state, at most one per user: degraded carries only part of what is wanted, reauthenticating waits for credentials that the broker accepts, down has no connection to its broker"
    );
    describe_gauge!(
        "tickcast_adapter_connections",
        "Connections to the broker that are up, of all its adapters; an adapter that does not tell them apart counts once"
    );
    describe_gauge!(
        "tickcast_feed_silence_seconds",
        "Longest time that expected ticks have been missing among the broker's feeds, connected or not; a heartbeat counts as one; 0 without any"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn a_broker_has_its_label_once_it_is_used_and_names_from_nowhere_are_other() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        let names = Arc::new(Brokers::new());
        names.intern("angel").unwrap();
        names.intern("listed").unwrap();
        let metrics = AdapterMetrics::register(Arc::clone(&names), ["angel"], Arc::new(recorder));
        assert!(page.render().contains("broker=\"angel\""));
        names.intern("Dhan").unwrap();
        for broker in ["dhan", "a name from nowhere"] {
            metrics.called(broker, CallOp::Subscribe, CallOutcome::Success, Duration::ZERO);
        }
        metrics.observe([("dhan", StateLabel::Live, Some(3)), ("nobody's", StateLabel::Live, None)].into_iter());
        let page = page.render();
        for (label, connections) in [("dhan", 3), ("other", 1)] {
            let call =
                format!("tickcast_broker_calls_total{{broker=\"{label}\",op=\"subscribe\",outcome=\"success\"}} 1\n");
            assert!(page.contains(&call), "{label}: {page}");
            assert!(page.contains(&format!("tickcast_adapters{{broker=\"{label}\",state=\"live\"}} 1\n")), "{page}");
            let connections = format!("tickcast_adapter_connections{{broker=\"{label}\"}} {connections}\n");
            assert!(page.contains(&connections), "{page}");
        }
        assert!(!page.contains("listed") && !page.contains("nowhere"), "{page}");
    }
}
