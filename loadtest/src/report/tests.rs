//! The three forms of a report, of figures made up for it.

use super::*;
use crate::cli::{Cli, Scenario};
use crate::publish::Published;
use crate::rig::Sample;
use crate::stats::{Stats, histogram};
use clap::Parser;

fn figures(name: &str) -> Figures {
    let mut ages = histogram();
    (1..=1000u64).for_each(|n| ages.record(n * 100_000).expect("in bounds"));
    let mut late = histogram();
    late.record(50_000).expect("in bounds");
    let series = (0..20).map(|n| Sample {
        at: f64::from(n) * 0.25,
        rate: 1000.0,
        p99: Some(5_000_000),
        cpu: Some(0.5),
        rss: Some(20 << 20),
        fds: Some(30),
    });
    Figures {
        name: name.into(),
        clients: 10,
        ages,
        seen: Stats { delivered: 1000, ticks: 1000, bytes: 100_000, reads: 10, ..Stats::default() },
        expected: Some(1000),
        stalled_expected: 0,
        standing: Default::default(),
        published: Some(Published { ticks: vec![100], dropped: 0, late, took: Duration::from_secs(1) }),
        rate_wanted: 100.0,
        took: Duration::from_secs(1),
        span: Duration::from_secs(1),
        cpu: Some(Duration::from_millis(500)),
        rss: [Some(8 << 20), Some(9 << 20), Some(10 << 20), Some(10 << 20)],
        fds: Some(30),
        overload: None,
        threads: Vec::new(),
        series: series.collect(),
    }
}

fn report() -> Report {
    let Scenario::Fanout { common } = Cli::parse_from(["loadtest", "fanout"]).scenario else { panic!("fanout") };
    Report::new("fanout", &common, vec![figures("first"), figures("a < b")])
}

#[test]
fn the_table_names_what_was_measured_and_leaves_out_what_was_not() {
    let text = table::write(&report());
    for part in ["latency p99, ms", "99.", "delivered / expected", "1.000000", "ticks per server cpu-second", "2000"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("stalled"), "{text}");
    assert!(text.lines().all(|line| line == line.trim_end()));
}

#[test]
fn the_json_has_its_schema_and_units() {
    let value = json::write(&report());
    assert_eq!(value["schema"], json::SCHEMA);
    let run = &value["runs"][0];
    let p99 = run["latency_us"]["p99"].as_f64().expect("a number");
    assert!((98_900.0..99_200.0).contains(&p99), "{p99}");
    assert_eq!(run["delivered_ratio"], 1.0);
    assert_eq!(run["bytes_per_tick"], 100.0);
    assert_eq!(run["server"]["ticks_per_cpu_second"], 2000.0);
    assert_eq!(run["series"].as_array().expect("samples").len(), 20);
    assert_eq!(value["passed"], true);
}

#[test]
fn a_generator_that_could_not_keep_up_says_so() {
    let mut report = report();
    report.warn();
    assert_eq!(report.warnings, Vec::<String>::new());
    let run = &mut report.runs[0];
    let thread = |name: &str, cpu, waited| crate::proc::Thread {
        name: name.into(),
        cpu: Duration::from_millis(cpu),
        waited: Duration::from_millis(waited),
    };
    run.threads = vec![thread("lt-reader-0", 950, 200), thread("other", 1000, 1000)];
    run.rate_wanted = 200.0;
    run.seen.rounds.record(60_000_000).expect("in bounds");
    let published = run.published.as_mut().expect("published");
    published.dropped = 3;
    published.late.record_n(80_000_000, 100).expect("in bounds");
    report.warn();
    let all = report.warnings.join("\n");
    assert_eq!(report.warnings.len(), 6, "{all}");
    for part in [
        "95 % busy",
        "20 % of the time for a core",
        "a round of a reader thread",
        "late (p99)",
        "3 ticks found",
        "only 100 of 200",
    ] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
}

#[test]
fn the_page_is_well_formed_has_its_plots_and_fetches_nothing() {
    let mut report = report();
    report.checks.push(Check { name: "p99", limit: "at most 1ms".into(), value: "9 ms".into(), passed: false });
    let page = html::write(&report);
    assert!(page.starts_with("<!DOCTYPE html>"));
    for part in
        ["Latency by percentile", "Throughput", "Server memory", "prefers-color-scheme:dark", "a &lt; b", "missed: p99"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<svg").count(), 5);
    assert_eq!(page.matches("<polyline").count(), 10, "two runs in each plot");
    for points in page.split(" points=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').expect("two numbers");
            let [x, y] = [x, y].map(|n| n.parse::<f64>().expect("a number"));
            assert!((64.0..=640.0).contains(&x) && (12.0..=206.0).contains(&y), "{point} lies outside of the axes");
        }
    }
    for foreign in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(!report.passed());
}
