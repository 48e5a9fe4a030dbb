//! `docs/METRICS.md` is made from what a running server shows: names, types, units, help, labels, their values, and edges.
//!
//! After a change: `UPDATE_DOCS=1 cargo test --test metrics_doc`. What a label may hold is checked here too: values come from
//! enums, or are said to come from the settings. Names and labels that others rely on stand in `PROMISED`.

mod exposition;

use exposition::{Metric, OPEN_LABELS, page, registered};
use std::collections::BTreeMap;
use std::fmt::Write;

const HEAD: &str = "# Metrics

<!-- Made from a running server: UPDATE_DOCS=1 cargo test --test metrics_doc -->

`GET /metrics` on the admin address (`127.0.0.1:9464`), Prometheus text format. Our names begin with `tickcast_`; what the system knows of
the process has the names of Prometheus' client libraries, `process_`. Units are base units, and every histogram is a classic one with
fixed edges. Counters start at 0 when the server starts. No label ever holds a symbol, a user, a key or an address.

Alert on what clients feel: `delivery_delay_seconds`, `sessions_lagging`, `bus_silence_seconds` while there are subscriptions, and
`subscription_drift`, which is 0 in a healthy server. `stage_seconds` says where broadcast latency comes from: the means of its three stages together
are about the mean of `broadcast_latency_seconds`.
";

/// Metrics that dashboards and alerts of others query: name without prefix, type, labels.
const PROMISED: &[(&str, &str, &[&str])] = &[
    ("lock_wait_seconds", "histogram", &["lock"]),
    ("lock_hold_seconds", "histogram", &["lock"]),
    ("lock_acquisitions_total", "counter", &["lock"]),
    ("lock_contended_total", "counter", &["lock"]),
    ("shard_lock_acquisitions_total", "counter", &["shard"]),
    ("shard_lock_contended_total", "counter", &["shard"]),
    ("shard_lock_wait_seconds_total", "counter", &["shard"]),
    ("shard_ticks_total", "counter", &["shard"]),
    ("shard_subscriptions", "gauge", &["shard"]),
    ("subscriptions_active", "gauge", &[]),
    ("subscription_references", "histogram", &[]),
    ("subscriptions_by_references", "gauge", &["refs"]),
    ("subscriptions_shared_ratio", "gauge", &[]),
    ("broker_calls_total", "counter", &["broker", "op", "outcome"]),
    ("subscription_errors_total", "counter", &["code"]),
    ("subscription_events_total", "counter", &["event"]),
    ("command_seconds", "histogram", &["action", "outcome"]),
    ("auth_seconds", "histogram", &["outcome"]),
    ("broker_call_seconds", "histogram", &["broker", "op", "outcome"]),
    ("adapter_start_seconds", "histogram", &["broker", "outcome"]),
    ("clients_connected", "gauge", &["format"]),
    ("sessions_unauthenticated", "gauge", &[]),
    ("sessions_closed_total", "counter", &["reason"]),
    ("ticks_sent_total", "counter", &["format"]),
    ("frames_sent_total", "counter", &["format"]),
    ("bytes_sent_total", "counter", &["format"]),
    ("bus_messages_total", "counter", &["kind"]),
    ("bus_rejected_total", "counter", &["cause"]),
    ("ticks_received_total", "counter", &[]),
    ("payloads_decoded_total", "counter", &[]),
    ("encodes_total", "counter", &["format", "mode"]),
    ("bus_peers", "gauge", &["endpoint"]),
    ("bus_silence_seconds", "gauge", &["endpoint"]),
    ("bus_connects_total", "counter", &["endpoint", "outcome"]),
    ("broadcast_latency_seconds", "histogram", &[]),
    ("delivery_delay_seconds", "histogram", &[]),
    ("outbox_bytes", "gauge", &[]),
    ("sessions_lagging", "gauge", &[]),
    ("tick_age_seconds", "histogram", &[]),
    ("ticks_merged_total", "counter", &["where"]),
    ("subscription_drift", "gauge", &["between"]),
    ("adapters", "gauge", &["broker", "state"]),
    ("adapter_connections", "gauge", &["broker"]),
    ("users_connected", "gauge", &[]),
    ("feed_silence_seconds", "gauge", &["broker"]),
    ("auth_failures_total", "counter", &["reason"]),
    ("worker_loop_lag_seconds", "histogram", &[]),
    ("overload_level", "gauge", &[]),
    ("sim_active", "gauge", &[]),
    ("price_rounded_total", "counter", &["exchange"]),
    ("clock_skew_total", "counter", &[]),
    ("build_info", "gauge", &["version"]),
];

/// Values that are promised with them; there may be more.
const PROMISED_VALUES: &[(&str, &str, &[&str])] = &[
    ("lock_wait_seconds", "lock", &["subscription", "user", "adapter"]),
    ("subscriptions_by_references", "refs", &["1", "2-4", "5-16", "17-64", "65-256", "257+"]),
    (
        "subscription_events_total",
        "event",
        &[
            "first_in",
            "joined",
            "left",
            "last_out",
            "duplicate",
            "not_held",
            "rolled_back",
            "limit_exceeded",
            "replayed",
        ],
    ),
    ("bus_messages_total", "kind", &["json", "msgpack", "batch", "order", "invalidate"]),
    ("clients_connected", "format", &["json", "msgpack"]),
    ("encodes_total", "mode", &["ltp", "quote", "depth"]),
];

/// Edges that alerts compare with; every histogram of seconds has them.
const EXACT_EDGES: [&str; 3] = ["0.001", "0.05", "0.1"];

/// What the system knows of the process.
const PROCESS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

/// By the end of a metric's name.
fn unit(name: &str) -> &'static str {
    let units = [("seconds", "s"), ("bytes", "bytes"), ("ratio", "0 to 1"), ("info", "")];
    let stem = name.trim_end_matches("_total");
    units.iter().find(|(end, _)| stem.ends_with(end)).map_or("count", |(_, unit)| unit)
}

fn document(metrics: &BTreeMap<String, Metric>) -> String {
    let mut out = HEAD.to_owned();
    out.push_str("\n| metric | type | unit | meaning | labels |\n| --- | --- | --- | --- | --- |\n");
    for (name, metric) in metrics {
        let labels: Vec<String> = metric.labels.keys().map(|label| format!("`{label}`")).collect();
        let (kind, unit, help) = (&metric.kind, unit(name), &metric.help);
        writeln!(out, "| `{name}` | {kind} | {unit} | {help} | {} |", labels.join(", ")).expect("to memory");
    }
    out.push_str("\n## Values of labels\n\n| label | of | values |\n| --- | --- | --- |\n");
    for (label, what) in OPEN_LABELS {
        writeln!(out, "| `{label}` | all | {what} |").expect("to memory");
    }
    let mut closed: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for (name, metric) in metrics {
        for (label, values) in metric.labels.iter().filter(|(l, _)| OPEN_LABELS.iter().all(|(open, _)| open != l)) {
            let values = values.iter().map(String::as_str).collect();
            closed.entry((label, values)).or_default().push(name.trim_start_matches("tickcast_"));
        }
    }
    for ((label, values), names) in closed {
        let code = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        writeln!(out, "| `{label}` | {} | {} |", code(&names), code(&values)).expect("to memory");
    }
    out.push_str("\n## Edges of histograms\n\n| of | `le` |\n| --- | --- |\n");
    for (name, metric) in metrics.iter().filter(|(_, metric)| !metric.edges.is_empty()) {
        writeln!(out, "| `{}` | {} |", name.trim_start_matches("tickcast_"), metric.edges.join(", "))
            .expect("to memory");
    }
    out
}

#[test]
fn a_running_server_shows_every_promised_metric_with_its_labels_and_edges() {
    let metrics = registered(&page());
    for (name, kind, labels) in PROMISED {
        let metric = metrics.get(&format!("tickcast_{name}")).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(metric.kind, *kind, "{name}");
        assert_eq!(metric.labels.keys().collect::<Vec<_>>(), *labels, "{name}");
    }
    for (name, label, values) in PROMISED_VALUES {
        let there = &metrics[&format!("tickcast_{name}")].labels[*label];
        assert!(values.iter().all(|value| there.contains(*value)), "{name}: {there:?}");
    }
    for (name, metric) in metrics.iter().filter(|(_, metric)| metric.kind == "histogram") {
        let edges: Vec<f64> = metric.edges.iter().map(|edge| edge.parse().expect("a number")).collect();
        assert!(edges.is_sorted() && edges.last() == Some(&f64::INFINITY), "{name}: {edges:?}");
        if name.ends_with("_seconds") {
            assert!(EXACT_EDGES.iter().all(|edge| metric.edges.iter().any(|e| e == edge)), "{name}: {edges:?}");
        }
    }
    for lock in ["tickcast_lock_wait_seconds", "tickcast_lock_hold_seconds"] {
        let edges = &metrics[lock].edges;
        let ends = (edges[0].as_str(), edges[edges.len() - 2].as_str());
        assert_eq!(ends, ("0.00000025", "1"), "from 250 ns to 1 s");
    }
    let process: Vec<_> = metrics.keys().filter(|name| name.starts_with("process_")).collect();
    assert_eq!(process, PROCESS);
}

#[test]
fn the_metrics_document_is_what_a_server_registers() {
    let metrics = registered(&page());
    for (name, metric) in &metrics {
        assert!(name.starts_with("tickcast_") || name.starts_with("process_"), "{name}");
        assert!(!metric.help.is_empty(), "{name} has no help");
        assert_ne!(metric.kind, "summary", "{name} has no edges");
        assert_eq!(metric.kind == "counter", name.ends_with("_total"), "{name} is a {}", metric.kind);
    }
    let made = document(&metrics);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
    if std::env::vars().any(|(name, _)| name == "UPDATE_DOCS") {
        std::fs::write(path, &made).expect("written");
    }
    let stands = std::fs::read_to_string(path).unwrap_or_default();
    assert!(made == stands, "docs/METRICS.md is not current: UPDATE_DOCS=1 cargo test --test metrics_doc\n{made}");
}
