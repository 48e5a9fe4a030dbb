//! Figures as a table for people and as JSON for programs.

use crate::Load;
use crate::run::Figures;
use serde_json::{Value, json};
use std::fmt::Write;

/// A scenario's measurements, by name.
type Columns<'a> = [(&'a str, Figures)];

/// One row: what it is, and how to read it off a measurement.
type Row = (&'static str, fn(&Figures) -> String);

const ROWS: [Row; 11] = [
    ("latency p50, ms", |f| ms(f.ages.value_at_quantile(0.5))),
    ("latency p99, ms", |f| ms(f.ages.value_at_quantile(0.99))),
    ("latency p99.9, ms", |f| ms(f.ages.value_at_quantile(0.999))),
    ("latency max, ms", |f| ms(f.ages.max())),
    ("delivered", |f| f.delivered.to_string()),
    ("expected", |f| f.expected.to_string()),
    ("clients with newest values", |f| f.up_to_date.to_string()),
    ("published a second", |f| format!("{:.0}", rate(f))),
    ("server CPU, s", |f| format!("{:.2}", f.cpu.as_secs_f64())),
    ("server RSS, MiB", |f| format!("{:.1}", f.rss as f64 / f64::from(1 << 20))),
    ("stalled client got", |f| match &f.stalled {
        Some(s) => format!("{} of {}{}", s.ticks, s.expected, if s.up_to_date { ", newest" } else { ", NOT newest" }),
        None => "-".to_owned(),
    }),
];

pub(crate) fn table(scenario: &str, load: &Load, columns: &Columns<'_>) -> String {
    let mut out = String::new();
    let Load { clients, rate, seconds, batch, .. } = load;
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("memory takes every write");
    line(format_args!("{scenario}: {clients} clients, {rate} ticks/s for {seconds} s, batches of {batch}"));
    let head: String = columns.iter().map(|(name, _)| format!("{name:>24}")).collect();
    line(format_args!("{:<28}{head}", ""));
    for (name, cell) in ROWS {
        let cells: String = columns.iter().map(|(_, figures)| format!("{:>24}", cell(figures))).collect();
        line(format_args!("{name:<28}{cells}"));
    }
    out
}

pub(crate) fn json(scenario: &str, load: &Load, columns: &Columns<'_>) -> String {
    let runs: Vec<Value> = columns.iter().map(|(name, figures)| one(name, figures)).collect();
    let all = json!({
        "scenario": scenario, "clients": load.clients, "rate": load.rate, "seconds": load.seconds, "batch": load.batch,
        "runs": runs,
    });
    format!("{all:#}\n")
}

fn one(name: &str, f: &Figures) -> Value {
    let us = |q| f.ages.value_at_quantile(q) as f64 / 1e3;
    json!({
        "name": name,
        "latency_us": {"p50": us(0.5), "p90": us(0.9), "p99": us(0.99), "p999": us(0.999), "max": f.ages.max() as f64 / 1e3},
        "delivered": f.delivered, "expected": f.expected, "clients_up_to_date": f.up_to_date,
        "published": f.published.ticks.iter().sum::<u64>(), "publisher_dropped": f.published.dropped,
        "published_per_second": rate(f),
        "server_cpu_seconds": f.cpu.as_secs_f64(), "server_rss_bytes": f.rss,
        "stalled": f.stalled.as_ref().map(|s| json!({"ticks": s.ticks, "expected": s.expected, "up_to_date": s.up_to_date})),
    })
}

fn rate(f: &Figures) -> f64 {
    f.published.ticks.iter().sum::<u64>() as f64 / f.published.took.as_secs_f64().max(1e-9)
}

fn ms(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}
