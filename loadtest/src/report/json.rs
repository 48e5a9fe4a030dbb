//! The report for programs. Its shape is described in README.md and marked with [`SCHEMA`], which changes when a name does.

use super::Report;
use crate::rig::{Figures, Sample};
use crate::scenario::published_rate;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

pub(crate) const SCHEMA: &str = "loadtest/1";
/// Points of a latency curve.
pub(crate) const QUANTILES: [(&str, f64); 8] = [
    ("p10", 0.1),
    ("p50", 0.5),
    ("p75", 0.75),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p999", 0.999),
    ("p9999", 0.9999),
    ("max", 1.0),
];

pub(crate) fn write(report: &Report) -> Value {
    let named = |list: &[(&str, String)]| list.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect::<Map<_, _>>();
    let mut all = json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "scenario": report.scenario,
        "settings": named(&report.settings),
        "machine": named(&report.machine),
        "runs": report.runs.iter().map(one).collect::<Vec<_>>(),
        "warnings": report.warnings,
        "passed": report.passed(),
        "checks": report.checks.iter().map(|c| json!({
            "name": c.name, "limit": c.limit, "value": c.value, "passed": c.passed,
        })).collect::<Vec<_>>(),
    });
    if let Some((knee, limit)) = &report.knee {
        all["knee"] = json!({"ticks_per_second": knee, "p99_limit_us": limit.as_micros() as u64});
        let steps = report.steps.iter().map(|step| {
            let mut value = one(&step.figures);
            value["way"] = json!(step.way.word());
            value["rate"] = json!(step.rate);
            value["good"] = json!(step.good);
            value
        });
        all["steps"] = steps.collect();
    }
    if let Some(times) = &report.times {
        let rows = times.0.iter().map(|(op, times)| {
            json!({"operation": op.words(), "times": times.len(), "us": latency(times), "audit_ms": op.audit()})
        });
        all["operations"] = rows.collect();
    }
    if report.drift[0].is_some() {
        all["drift_per_hour"] = json!({"rss_mib": report.drift[0], "descriptors": report.drift[1]});
    }
    all
}

/// Quantiles in microseconds; null when there is none.
fn latency(times: &Histogram<u64>) -> Value {
    if times.is_empty() {
        return Value::Null;
    }
    QUANTILES.iter().map(|(name, q)| ((*name).to_owned(), json!(times.value_at_quantile(*q) as f64 / 1e3))).collect()
}

fn one(f: &Figures) -> Value {
    json!({
        "name": f.name,
        "clients": f.clients,
        "seconds": f.took.as_secs_f64(),
        "latency_us": latency(&f.ages),
        "delivered": f.seen.delivered,
        "expected": f.expected,
        "delivered_ratio": f.delivered(),
        "clients_up_to_date": f.standing.up_to_date,
        "stalled": {"ticks": f.seen.stalled, "expected": f.stalled_expected, "up_to_date": f.standing.stalled_up_to_date},
        "faults": {
            "duplicates": f.seen.duplicates, "out_of_order": f.seen.reordered, "not_asked_for": f.seen.strangers,
            "unreadable": f.seen.unreadable, "clients_cut_off": f.seen.ended, "reasons": f.seen.reasons,
        },
        "merged": f.seen.merged,
        "received": {"ticks": f.seen.ticks, "bytes": f.seen.bytes, "frames": f.seen.frames, "reads": f.seen.reads},
        "bytes_per_tick": f.bytes_per_tick(),
        "published": f.published.as_ref().map(|p| json!({
            "ticks": p.total(), "dropped": p.dropped, "per_second": published_rate(f), "wanted_per_second": f.rate_wanted,
            "late_us": latency(&p.late),
        })),
        "server": {
            "cpu_seconds": f.cpu.map(|cpu| cpu.as_secs_f64()), "ticks_per_cpu_second": f.ticks_per_cpu_second(),
            "rss_bytes": {"idle": f.rss[0], "with_clients": f.rss[1], "end": f.rss[2], "max": f.rss[3]},
            "descriptors": f.fds, "overload_level": f.overload,
        },
        "generator": {
            "round_us": latency(&f.seen.rounds),
            "threads": f.threads.iter().map(|t| json!({
                "name": t.name, "cpu_seconds": t.cpu.as_secs_f64(), "waited_seconds": t.waited.as_secs_f64(),
            })).collect::<Vec<_>>(),
        },
        "series": f.series.iter().map(sample).collect::<Vec<_>>(),
    })
}

fn sample(s: &Sample) -> Value {
    json!({
        "at": s.at, "ticks_per_second": s.rate, "p99_us": s.p99.map(|ns| ns as f64 / 1e3), "cpu": s.cpu, "rss_bytes": s.rss,
        "descriptors": s.fds,
    })
}
