//! The report for people, in the terminal.

use super::Report;
use crate::churn::Op;
use crate::rig::Figures;
use crate::scenario::published_rate;
use crate::storm::Step;
use std::fmt::Write;

/// One row: what it is, and how to read it off a measurement; `None`: left out when no run has it.
type Row = (&'static str, fn(&Figures) -> Option<String>);

const ROWS: [Row; 26] = [
    ("clients", |f| Some(f.clients.to_string())),
    ("latency p50, ms", |f| quantile(f, 0.5)),
    ("latency p90, ms", |f| quantile(f, 0.9)),
    ("latency p99, ms", |f| quantile(f, 0.99)),
    ("latency p99.9, ms", |f| quantile(f, 0.999)),
    ("latency max, ms", |f| (!f.ages.is_empty()).then(|| ms(f.ages.max()))),
    ("delivered", |f| Some(f.seen.delivered.to_string())),
    ("expected", |f| f.expected.map(|n| n.to_string())),
    ("delivered / expected", |f| f.delivered().map(|part| format!("{part:.6}"))),
    ("merged, as the server says", |f| some(f.seen.merged)),
    ("clients with the newest values", |f| f.published.as_ref().and(some(f.standing.up_to_date))),
    ("duplicates / out of order", |f| Some(format!("{} / {}", f.seen.duplicates, f.seen.reordered))),
    ("clients cut off", |f| some(f.seen.ended)),
    ("stalled clients got", |f| {
        (f.stalled_expected > 0).then(|| format!("{} of {}", f.seen.stalled, f.stalled_expected))
    }),
    ("stalled with newest values", |f| (f.stalled_expected > 0).then(|| f.standing.stalled_up_to_date.to_string())),
    ("published a second", |f| published_rate(f).map(|rate| format!("{rate:.0}"))),
    ("received a second", |f| Some(format!("{:.0}", f.seen.ticks as f64 / f.took.as_secs_f64().max(1e-9)))),
    ("bytes per tick", |f| f.bytes_per_tick().map(|n| format!("{n:.1}"))),
    ("ticks per read", |f| (f.seen.reads > 0).then(|| format!("{:.1}", f.seen.ticks as f64 / f.seen.reads as f64))),
    ("server CPU, s", |f| f.cpu.map(|cpu| format!("{:.2}", cpu.as_secs_f64()))),
    ("ticks per server cpu-second", |f| f.ticks_per_cpu_second().map(|n| format!("{n:.0}"))),
    ("server memory, MiB: idle", |f| f.rss[0].map(mib)),
    ("   with its clients", |f| f.rss[1].map(mib)),
    ("   at the end / at most", |f| Some(format!("{} / {}", mib(f.rss[2]?), mib(f.rss[3]?)))),
    ("generator: CPU / waited, s", |f| {
        let ours = || f.threads.iter().filter(|t| t.name.starts_with("lt-"));
        let (cpu, waited): (f64, f64) =
            (ours().map(|t| t.cpu.as_secs_f64()).sum(), ours().map(|t| t.waited.as_secs_f64()).sum());
        Some(format!("{cpu:.2} / {waited:.2}"))
    }),
    ("generator: late / round p99, ms", |f| {
        let late = f.published.as_ref().map_or_else(|| "-".into(), |p| ms(p.late.value_at_quantile(0.99)));
        Some(format!("{late} / {}", ms(f.seen.rounds.value_at_quantile(0.99))))
    }),
];

fn some(n: u64) -> Option<String> {
    (n > 0).then(|| n.to_string())
}

fn quantile(f: &Figures, q: f64) -> Option<String> {
    (!f.ages.is_empty()).then(|| ms(f.quantile(q)))
}

pub(crate) fn ms(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

pub(crate) fn write(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: &str| writeln!(out, "{}", text.trim_end()).expect("memory takes every write");
    line(&format!("{}: {}", report.scenario, settings(report)));
    if !report.runs.is_empty() {
        let head: String = report.runs.iter().map(|f| format!("{:>24}", f.name)).collect();
        line(&format!("{:<32}{head}", ""));
        for (name, cell) in ROWS {
            let cells: Vec<Option<String>> = report.runs.iter().map(cell).collect();
            if cells.iter().any(Option::is_some) {
                let cells: String = cells.iter().map(|c| format!("{:>24}", c.as_deref().unwrap_or("-"))).collect();
                line(&format!("{name:<32}{cells}"));
            }
        }
    }
    steps(report, &mut line);
    if let Some(times) = &report.times {
        line(&format!("{:<24}{:>10}{:>12}{:>12}{:>12}", "", "times", "p50, ms", "p99, ms", "audit, ms"));
        for (op, times) in &times.0 {
            let [p50, p99] =
                [0.5, 0.99].map(|q| if times.is_empty() { "-".into() } else { ms(times.value_at_quantile(q)) });
            let audit = Op::audit(*op).map_or_else(|| "-".into(), |ms| format!("{ms:.1}"));
            line(&format!("{:<24}{:>10}{p50:>12}{p99:>12}{audit:>12}", op.words(), times.len()));
        }
    }
    if let [Some(memory), descriptors] = report.drift {
        let descriptors = descriptors.map_or_else(|| "-".into(), |n| format!("{n:.1}"));
        line(&format!("drift per hour: memory {memory:.2} MiB, descriptors {descriptors}"));
    }
    for warning in &report.warnings {
        line(&format!("warning: {warning}"));
    }
    for check in &report.checks {
        let verdict = if check.passed { "passed" } else { "MISSED" };
        line(&format!("{verdict}: {} {} ({})", check.name, check.value, check.limit));
    }
    out
}

fn steps(report: &Report, line: &mut impl FnMut(&str)) {
    let Some((knee, limit)) = &report.knee else { return };
    line(&format!(
        "{:<6}{:>12}{:>14}{:>12}{:>12}{:>12}{:>10}{:>10}{:>10}",
        "", "rate", "published/s", "p50, ms", "p99, ms", "delivered", "CPU", "overload", ""
    ));
    for Step { way, rate, good, figures } in &report.steps {
        let f = figures;
        let cpu = f
            .cpu
            .map_or_else(|| "-".into(), |cpu| format!("{:.0} %", cpu.as_secs_f64() / f.span.as_secs_f64() * 100.0));
        line(&format!(
            "{:<6}{rate:>12.0}{:>14.0}{:>12}{:>12}{:>12}{cpu:>10}{:>10}{:>10}",
            way.word(),
            published_rate(f).unwrap_or_default(),
            ms(f.quantile(0.5)),
            ms(f.quantile(0.99)),
            f.delivered().map_or_else(|| "-".into(), |part| format!("{part:.4}")),
            f.overload.map_or_else(|| "-".into(), |level| format!("{level:.0}")),
            if *good { "" } else { "over" },
        ));
    }
    match knee {
        Some(rate) => line(&format!("knee: {rate:.0} ticks/s published with p99 at most {limit:?}")),
        None => line(&format!("knee: below the first rate, whose p99 is above {limit:?}")),
    }
}

fn settings(report: &Report) -> String {
    report.settings.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}
