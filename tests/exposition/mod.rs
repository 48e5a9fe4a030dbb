//! A metrics page as data: what a server with one of everything shows, and which metrics, labels, values and edges stand there.
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tickcast::app::{App, Hooks};
use tickcast::config::Settings;
use tickcast::config::settings::{AdapterKind, Broker};

/// Labels whose values depend on the settings, and what they are.
pub const OPEN_LABELS: &[(&str, &str)] = &[
    ("broker", "the brokers of the settings, those of the key store once they are used, else `other`"),
    ("shard", "0 up to `fanout.shards` − 1"),
    (
        "endpoint",
        "index of the endpoint: `bus.bind`, `bus.connect`, `bus.source` in that order; `added` for later ones",
    ),
    ("version", "of this build"),
];

/// One metric of a page.
#[derive(Default)]
pub struct Metric {
    pub kind: String,
    pub help: String,
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// Upper edges of a histogram, ascending, as written.
    pub edges: Vec<String>,
}

/// `{a="x",b="y"}` as pairs; no label of ours holds a quote or a comma.
fn labels(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let inner = text.trim_start_matches('{').trim_end_matches('}');
    inner.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name, value.trim_matches('"')))
}

/// The metrics of a page by name.
pub fn registered(text: &str) -> BTreeMap<String, Metric> {
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
            for (label, value) in labels(tail) {
                if label != "le" {
                    metric.labels.entry(label.to_owned()).or_default().insert(value.to_owned());
                } else if !metric.edges.iter().any(|edge| edge == value) {
                    metric.edges.push(value.to_owned());
                }
            }
        }
    }
    metrics
}

/// The metrics page of a server with one of everything.
pub fn page() -> String {
    let mut settings = Settings::default();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    (settings.server.listen, settings.admin.listen) = (loopback, loopback);
    settings.bus.bind = vec!["tcp://127.0.0.1:0".into()];
    settings.adapters.control_bind = "tcp://127.0.0.1:0".into();
    // Native feeds have metrics only where there is one.
    let native = Broker { kind: AdapterKind::Native(0), ..Default::default() };
    settings.brokers.insert("zerodha".into(), native);
    let running = App::build(settings, Hooks::default()).and_then(App::spawn).expect("the server starts");
    let page = running.metrics();
    running.drain();
    page
}
