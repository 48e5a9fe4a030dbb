//! `docs/METRICS.md` is made from what a running server registers: names, types, help, labels and the labels' values.
//!
//! After a change: `UPDATE_DOCS=1 cargo test --test metrics_doc`. What a label may hold is checked here too: values come from
//! enums, or are said to come from the settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;
use tickcast::app::{App, Hooks};
use tickcast::config::Settings;
use tickcast::config::settings::{AdapterKind, Broker};

const HEAD: &str = "# Metrics

<!-- Made from a running server: UPDATE_DOCS=1 cargo test --test metrics_doc -->

`GET /metrics` on the admin address (`127.0.0.1:9464`), Prometheus text format. All names begin with `tickcast_`, units are base
units, and every histogram is a classic one with fixed edges. Counters start at 0 when the server starts. No label ever holds a symbol,
a user, a key or an address.

Alert on what clients feel: `delivery_delay_seconds`, `sessions_lagging`, `bus_silence_seconds` while there are subscriptions, and
`subscription_drift`, which is 0 in a healthy server.
";

/// Labels whose values depend on the settings, and what they are.
const OPEN_LABELS: &[(&str, &str)] = &[
    ("broker", "the brokers of settings and key store, else `other`"),
    ("shard", "0 up to `fanout.shards` − 1"),
    (
        "endpoint",
        "index of the endpoint: `bus.bind`, `bus.connect`, `bus.source` in that order; `added` for later ones",
    ),
    ("version", "of this build"),
];

#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// `{a="x",b="y"}` as pairs; no label of ours holds a quote or a comma.
fn labels(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let inner = text.trim_start_matches('{').trim_end_matches('}');
    inner.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name, value.trim_matches('"')))
}

fn registered(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and its help");
            metrics.entry(name.to_owned()).or_default().help = help.trim_end_matches('.').to_owned();
        } else if !line.is_empty() {
            let (series, _) = line.rsplit_once(' ').expect("a series and its value");
            let (name, tail) = series.split_at(series.find('{').unwrap_or(series.len()));
            let own = ["", "_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
                let name = name.strip_suffix(suffix)?;
                metrics.contains_key(name).then(|| name.to_owned())
            });
            let metric = metrics.get_mut(&own.unwrap_or_else(|| panic!("{name} has no TYPE"))).expect("found above");
            for (label, value) in labels(tail).filter(|(label, _)| *label != "le") {
                metric.labels.entry(label.to_owned()).or_default().insert(value.to_owned());
            }
        }
    }
    metrics
}

fn document(metrics: &BTreeMap<String, Metric>) -> String {
    let mut out = HEAD.to_owned();
    out.push_str("\n| metric | type | meaning | labels |\n| --- | --- | --- | --- |\n");
    for (name, metric) in metrics {
        let labels: Vec<String> = metric.labels.keys().map(|label| format!("`{label}`")).collect();
        writeln!(out, "| `{name}` | {} | {} | {} |", metric.kind, metric.help, labels.join(", ")).expect("to memory");
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
    out
}

#[test]
fn the_metrics_document_is_what_a_server_registers() {
    let mut settings = Settings::default();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    (settings.server.listen, settings.admin.listen) = (loopback, loopback);
    settings.bus.bind = vec!["tcp://127.0.0.1:0".into()];
    settings.adapters.control_bind = "tcp://127.0.0.1:0".into();
    // Native feeds have metrics only where there is one.
    let native = Broker { kind: AdapterKind::Native(0), ..Default::default() };
    settings.brokers.insert("zerodha".into(), native);
    let running = App::build(settings, Hooks::default()).and_then(App::spawn).expect("the server starts");
    let metrics = registered(&running.metrics());
    running.drain();
    assert!(metrics.len() > 30, "a running server registers everything: {}", metrics.len());
    for (name, metric) in &metrics {
        assert!(name.starts_with("tickcast_"), "{name}");
        assert!(!metric.help.is_empty(), "{name} has no help");
        assert_ne!(metric.kind, "summary", "{name} has no edges");
    }
    let made = document(&metrics);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
    if std::env::vars().any(|(name, _)| name == "UPDATE_DOCS") {
        std::fs::write(path, &made).expect("written");
    }
    let stands = std::fs::read_to_string(path).unwrap_or_default();
    assert!(made == stands, "docs/METRICS.md is not current: UPDATE_DOCS=1 cargo test --test metrics_doc\n{made}");
}
