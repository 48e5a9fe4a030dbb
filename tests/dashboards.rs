//! Dashboards, rules and runbook against a running server and against each other: nothing is queried that is not there, and every
//! alert has its entry, its tests and its panel.
//!
//! What needs Prometheus, promtool or npm is in `tests/e2e/dashboards.rs`.

mod exposition;
#[path = "dashboards/promql.rs"]
mod promql;

use exposition::{Metric, OPEN_LABELS, page, registered};
use promql::{Query, read};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tickcast::policy::feed_health::SILENT_AFTER;

/// Alerts that others rely on, and how urgent each is.
const PROMISED: &[(&str, &str)] = &[
    ("AdapterLeak", "critical"),
    ("BusRejecting", "warning"),
    ("FeedSilent", "warning"),
    ("HighLockContention", "warning"),
    ("Overloaded", "warning"),
    ("SessionsLagging", "warning"),
    ("SlowBroadcast", "warning"),
    ("SubscriptionLeak", "critical"),
    ("TargetDown", "critical"),
];

/// What Prometheus itself provides: metric and its labels besides those of the target.
const OF_PROMETHEUS: &[(&str, &[&str])] = &[("up", &[]), ("ALERTS", &["alertname", "alertstate", "severity"])];

/// Labels that Prometheus puts on everything it scrapes.
const OF_TARGET: &[&str] = &["job", "instance"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

fn text(path: &str) -> String {
    let path = folder().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn str(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// All rules of a file.
fn rules(path: &str) -> Vec<Value> {
    let file = yaml(path);
    list(&file["groups"]).flat_map(|group| list(&group["rules"])).cloned().collect()
}

fn alerts() -> Vec<Value> {
    rules("rules/alerts.yml")
}

fn boards() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(folder().join("grafana")).expect("dashboards");
    let mut names: Vec<String> =
        files.map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    let board = |name: String| {
        let board = serde_json::from_str(&text(&format!("grafana/{name}"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, board)
    };
    names.into_iter().map(board).collect()
}

/// (where, panel) of all panels but rows.
fn panels() -> Vec<(String, Value)> {
    let of_board = |(name, board): (String, Value)| {
        let panels: Vec<Value> = list(&board["panels"]).filter(|panel| panel["type"] != "row").cloned().collect();
        panels.into_iter().map(move |panel| (format!("{name}: {}", str(&panel["title"])), panel))
    };
    boards().into_iter().flat_map(of_board).collect()
}

/// (where, expression) of everything that Prometheus is ever asked.
fn expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, panel) in panels() {
        found.extend(list(&panel["targets"]).map(|target| (at.clone(), str(&target["expr"]).to_owned())));
    }
    for (name, board) in boards() {
        let annotations = list(&board["annotations"]["list"]);
        found.extend(annotations.map(|annotation| (name.clone(), str(&annotation["expr"]).to_owned())));
        for variable in list(&board["templating"]["list"]).filter(|variable| variable["type"] == "query") {
            let query = str(&variable["query"]["query"]);
            let series = query.strip_prefix("label_values(").and_then(|rest| rest.rsplit_once(", "));
            let (series, label) = series.unwrap_or_else(|| panic!("{name}: not label_values: {query}"));
            assert!(OF_TARGET.contains(&label.trim_end_matches(')')), "{name}: {query}");
            found.push((name.clone(), series.to_owned()));
        }
    }
    for rule in alerts().into_iter().chain(rules("rules/recording.yml")) {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).expect("a name");
        found.push((name.to_owned(), str(&rule["expr"]).to_owned()));
    }
    found
}

/// The metric that a series belongs to: a histogram's buckets, sums and counts are its own.
fn owner<'a>(metrics: &'a BTreeMap<String, Metric>, series: &str) -> Option<&'a Metric> {
    if let Some(metric) = metrics.get(series) {
        return (metric.kind != "histogram").then_some(metric);
    }
    let name = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix))?;
    metrics.get(name).filter(|metric| metric.kind == "histogram")
}

/// What a query asks for that is not there.
fn complaints(query: &Query, metrics: &BTreeMap<String, Metric>, recorded: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<&str> = OF_TARGET.iter().copied().collect();
    for selector in &query.selectors {
        let name = selector.metric.as_str();
        if let Some((_, own)) = OF_PROMETHEUS.iter().find(|(metric, _)| *metric == name) {
            labels.extend(own.iter());
        } else if recorded.contains(name) {
            // What a recorded series is grouped by is its rule's business.
            labels.extend(["lock", "between", "broker"]);
        } else if let Some(metric) = owner(metrics, name) {
            labels.extend(metric.labels.keys().map(String::as_str));
            labels.extend(name.ends_with("_bucket").then_some("le"));
        } else {
            wrong.push(format!("no metric {name}"));
            continue;
        }
        for (label, value) in &selector.matchers {
            if !labels.contains(label.as_str()) {
                wrong.push(format!("{name} has no label {label}"));
            } else if let Some(metric) = owner(metrics, name) {
                let open = OF_TARGET.contains(&label.as_str()) || OPEN_LABELS.iter().any(|(open, _)| open == label);
                let known = |value: &str| match label.as_str() {
                    "le" => metric.edges.iter().any(|edge| edge == value),
                    label => metric.labels[label].contains(value),
                };
                let unknown = value.split('|').filter(|value| !open && !known(value));
                wrong.extend(unknown.map(|value| format!("{name}: {label} is never {value}")));
            }
        }
    }
    wrong
        .extend(query.labels.iter().filter(|l| !labels.contains(l.as_str())).map(|l| format!("nothing has label {l}")));
    wrong
}

fn recorded() -> BTreeSet<String> {
    rules("rules/recording.yml").iter().map(|rule| str(&rule["record"]).to_owned()).collect()
}

#[test]
fn every_metric_label_and_value_that_a_panel_or_a_rule_asks_for_is_there() {
    let (metrics, recorded) = (registered(&page()), recorded());
    let all = expressions();
    assert!(all.len() > 100, "only {} expressions found", all.len());
    let mut wrong = Vec::new();
    for (at, expression) in all {
        let query = read(&expression);
        assert!(!query.selectors.is_empty(), "{at}: {expression} asks for nothing");
        wrong.extend(complaints(&query, &metrics, &recorded).into_iter().map(|what| format!("{at}: {what}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_not_there_is_told() {
    let (metrics, recorded) = (registered(&page()), recorded());
    let told = |expression: &str| complaints(&read(expression), &metrics, &recorded);
    for (expression, want) in [
        ("rate(tickcast_tick_sent_total[1m])", "no metric tickcast_tick_sent_total"),
        ("tickcast_lock_wait_seconds > 1", "no metric tickcast_lock_wait_seconds"),
        ("instance:tickcast_gone:sum", "no metric instance:tickcast_gone:sum"),
        ("tickcast_outbox_bytes{lock=\"user\"}", "tickcast_outbox_bytes has no label lock"),
        ("tickcast_adapters{state=~\"live|dead\"}", "tickcast_adapters: state is never dead"),
        ("tickcast_lock_wait_seconds_bucket{le=\"0.2\"}", "tickcast_lock_wait_seconds_bucket: le is never 0.2"),
        ("sum by (formt) (tickcast_clients_connected)", "nothing has label formt"),
    ] {
        assert_eq!(told(expression), [want], "{expression}");
    }
    assert_eq!(told("sum by (job, state) (tickcast_adapters{broker=\"x\", job=~\"$job\"}) > on (job) up"), [""; 0]);
}

/// The heading's anchor, as renderers of Markdown make it.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

#[test]
fn every_alert_has_its_runbook_entry_and_every_entry_its_alert() {
    let runbook = text("../docs/RUNBOOK.md");
    let entries: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut named = BTreeSet::new();
    let alerts = alerts();
    for alert in &alerts {
        let name = str(&alert["alert"]);
        assert!(entries.contains(name), "{name} has no entry in docs/RUNBOOK.md");
        let url = str(&alert["annotations"]["runbook_url"]);
        assert_eq!(url, format!("docs/RUNBOOK.md#{}", anchor(name)), "{name}");
        named.insert(name);
        // The entry says at once how urgent it is.
        let severity = str(&alert["labels"]["severity"]);
        let entry = runbook.split(&format!("\n## {name}\n\n")).nth(1).expect("an entry with a text");
        let urgency = format!("**{}{}.**", severity[..1].to_uppercase(), &severity[1..]);
        assert!(entry.starts_with(&urgency), "{name} is {severity}");
        if let Some(reason) = alert["labels"]["reason"].as_str() {
            let entry = entry.split("\n## ").next().expect("a first part");
            assert!(entry.contains(reason), "{name} does not explain reason {reason}");
        }
    }
    let without: Vec<_> = entries.difference(&named).collect();
    assert!(without.is_empty(), "entries without an alert: {without:?}");
}

#[test]
fn every_promised_alert_is_there_and_says_what_it_saw() {
    let severities: BTreeMap<String, String> = alerts()
        .iter()
        .map(|alert| (str(&alert["alert"]).to_owned(), str(&alert["labels"]["severity"]).to_owned()))
        .collect();
    let promised = PROMISED.iter().map(|(name, severity)| ((*name).to_owned(), (*severity).to_owned())).collect();
    assert_eq!(severities, promised);
    for alert in alerts() {
        let name = str(&alert["alert"]);
        assert!(str(&alert["annotations"]["description"]).contains("$value"), "{name} does not say what it saw");
        assert!(!str(&alert["annotations"]["summary"]).is_empty(), "{name}");
    }
}

#[test]
fn a_feed_is_silent_for_the_alert_when_it_is_for_the_clients() {
    let alerts = alerts();
    let limit = alerts.iter().find(|alert| alert["labels"]["reason"] == "silent").map(limit).expect("the alert");
    assert_eq!(Duration::from_secs_f64(limit), SILENT_AFTER);
}

/// What an alert's expression compares with last; where that is another series, their difference with 0.
fn limit(alert: &Value) -> f64 {
    let mut numbers = str(&alert["expr"]).split_whitespace().filter_map(|word| word.parse().ok());
    numbers.next_back().unwrap_or(0.0)
}

#[test]
fn every_alert_is_tried_firing_and_still() {
    let tests = yaml("rules/alerts.test.yml");
    let mut tried: BTreeSet<(String, String, bool)> = BTreeSet::new();
    for case in list(&tests["tests"]).flat_map(|test| list(&test["alert_rule_test"])) {
        let name = str(&case["alertname"]);
        let expected = case["exp_alerts"].as_array().unwrap_or_else(|| panic!("{name}: no exp_alerts"));
        for alert in expected {
            let reason = alert["exp_labels"]["reason"].as_str().unwrap_or_default();
            tried.insert((name.to_owned(), reason.to_owned(), true));
        }
        if expected.is_empty() {
            tried.insert((name.to_owned(), String::new(), false));
        }
    }
    for alert in alerts() {
        let name = str(&alert["alert"]).to_owned();
        let reason = alert["labels"]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(tried.contains(&(name.clone(), reason.clone(), true)), "{name} {reason} is never tried firing");
        assert!(tried.contains(&(name.clone(), String::new(), false)), "{name} is never tried still");
    }
}

/// Upper steps of a panel's colours.
fn thresholds(panel: &Value) -> Vec<f64> {
    list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]).filter_map(|step| step["value"].as_f64()).collect()
}

#[test]
fn every_alert_has_a_panel_with_its_limit() {
    let panels = panels();
    for alert in alerts() {
        let (name, limit) = (str(&alert["alert"]), limit(&alert));
        let named = format!("lert {name}");
        let of_alert = panels.iter().filter(|(_, panel)| str(&panel["description"]).contains(&named));
        // A count above 0 is one that has reached 1.
        let shown =
            |panel: &Value| thresholds(panel).iter().any(|step| *step == limit || (limit == 0.0 && *step == 1.0));
        assert!(of_alert.clone().any(|(_, panel)| shown(panel)), "{name}: no panel has a step at {limit}");
    }
    // And no panel names an alert that is gone.
    for (at, panel) in &panels {
        for word in str(&panel["description"]).split("lert ").skip(1) {
            let name = word.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            assert!(PROMISED.iter().any(|(alert, _)| *alert == name), "{at} names alert {name}");
        }
    }
}

#[test]
fn every_dashboard_has_its_variables_and_every_query_heeds_them() {
    let mut uids = BTreeSet::new();
    for (name, board) in boards() {
        assert!(uids.insert(str(&board["uid"]).to_owned()), "{name}: its uid is taken");
        let variables: Vec<&str> = list(&board["templating"]["list"]).map(|variable| str(&variable["name"])).collect();
        assert_eq!(variables, ["datasource", "job", "instance"], "{name}");
        let ids: BTreeSet<i64> = list(&board["panels"]).filter_map(|panel| panel["id"].as_i64()).collect();
        assert_eq!(Some(ids.len()), board["panels"].as_array().map(Vec::len), "{name}: ids are given twice");
    }
    for (at, panel) in panels() {
        for target in list(&panel["targets"]) {
            for selector in read(str(&target["expr"])).selectors {
                let heeds =
                    |label: &str| selector.matchers.iter().any(|(l, v)| l == label && *v == format!("${label}"));
                // A share over all servers of a job is of no instance.
                let of_job = selector.metric.starts_with("job:");
                assert!(heeds("job") && (of_job || heeds("instance")), "{at}: {} ignores a variable", selector.metric);
            }
        }
        let overrides = list(&panel["fieldConfig"]["overrides"]).flat_map(|o| list(&o["properties"]));
        overrides.for_each(|property| assert_eq!(property["id"], "color", "{at}: check this override too"));
    }
}

#[test]
fn panels_are_described_fit_the_grid_and_do_not_overlap() {
    for (name, board) in boards() {
        let mut taken: BTreeMap<(i64, i64), String> = BTreeMap::new();
        let mut row = None;
        for panel in list(&board["panels"]) {
            let title = str(&panel["title"]);
            let side =
                |key: &str| panel["gridPos"][key].as_i64().unwrap_or_else(|| panic!("{name}: {title}: no {key}"));
            let (x, y, w, h) = (side("x"), side("y"), side("w"), side("h"));
            assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {title} leaves the grid");
            for cell in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
                let other = taken.insert(cell, title.to_owned());
                assert!(other.is_none(), "{name}: {title} covers {other:?}");
            }
            if panel["type"] == "row" {
                row = Some(title);
                continue;
            }
            assert!(str(&panel["description"]).ends_with('.'), "{name}: {title} is not described");
            assert!(row.is_some() || panel["type"] == "stat", "{name}: figures stand at the top, {title} is none");
        }
        assert!(row.is_some(), "{name} has no rows");
    }
}

/// Left and right of each volume of a service.
fn mounts(compose: &Value, service: &str) -> Vec<(String, String)> {
    let split = |volume: &Value| {
        let mut parts = str(volume).split(':').map(str::to_owned);
        (parts.next().expect("a source"), parts.next().expect("a path"))
    };
    list(&compose["services"][service]["volumes"]).map(split).collect()
}

#[test]
fn the_compose_file_is_valid_and_mounts_what_is_there() {
    let parsed: Result<compose_spec::Compose, _> = serde_yaml::from_str(&text("compose.yml"));
    parsed.expect("the Compose specification knows every key").validate_all().expect("what it refers to is there");
    let compose = yaml("compose.yml");
    for (source, path) in ["prometheus", "grafana"].iter().flat_map(|service| mounts(&compose, service)) {
        let known = !source.starts_with('.') && compose["volumes"].get(&source).is_some();
        assert!(known || folder().join(&source).exists(), "{source} at {path} is not there");
    }
    // The same files at the places where their programs look.
    let mounted = |service: &str, source: &str| {
        let found = mounts(&compose, service).into_iter().find(|(from, _)| from == source);
        found.unwrap_or_else(|| panic!("{service} has no {source}")).1
    };
    let config = mounted("prometheus", "./prometheus.yml");
    let command: Vec<&str> = list(&compose["services"]["prometheus"]["command"]).map(str).collect();
    assert!(command.contains(&format!("--config.file={config}").as_str()), "{command:?}");
    let beside = config.strip_suffix("/prometheus.yml").expect("its name");
    assert_eq!(mounted("prometheus", "./rules"), format!("{beside}/rules"), "rule files are named from there");
    let provider = yaml("provisioning/dashboards/tickcast.yml");
    assert_eq!(str(&provider["providers"][0]["options"]["path"]), mounted("grafana", "./grafana"));
    let dockerfile = str(&compose["services"]["tickcast"]["build"]["dockerfile"]).to_owned();
    assert!(folder().join("..").join(&dockerfile).exists(), "{dockerfile}");
}

#[test]
fn prometheus_scrapes_where_a_server_listens_and_grafana_asks_where_prometheus_does() {
    let config = yaml("prometheus.yml");
    let job = &config["scrape_configs"][0];
    let admin = tickcast::config::Settings::default().admin.listen.to_string();
    assert_eq!((str(&job["job_name"]), str(&job["static_configs"][0]["targets"][0])), ("tickcast", admin.as_str()));
    for file in list(&config["rule_files"]) {
        assert!(folder().join(str(file)).exists(), "{file}");
    }
    let source = &yaml("provisioning/datasources/prometheus.yml")["datasources"][0];
    assert_eq!(source["jsonData"]["timeInterval"], config["global"]["scrape_interval"]);
    let listens = text("compose.yml").contains("--web.listen-address=127.0.0.1:9090");
    assert!(listens && str(&source["url"]) == "http://127.0.0.1:9090");
}

#[test]
fn the_dockerfile_copies_what_cargo_needs() {
    let ignore = text("Dockerfile.dockerignore");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for path in &kept {
        assert!(folder().join("..").join(path).exists(), "{path} is gone");
    }
    // Cargo looks for every member and every target that Cargo.toml names.
    let manifest = text("../Cargo.toml");
    for (word, needed) in [("[[bench]]", "benches"), ("[[test]]", "tests"), ("\"loadtest\"", "loadtest")] {
        assert!(!manifest.contains(word) || kept.contains(&needed), "{needed} is left out of the image's sources");
    }
}
