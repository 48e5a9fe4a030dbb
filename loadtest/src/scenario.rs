//! The scenarios from beginning to end: set up, measure, report, judge.
//!
//! In: the options. Out: the table on stdout, files where asked for, and whether every threshold was met.

use crate::cli::{Common, Feed, Scenario};
use crate::progress::Progress;
use crate::publish::Published;
use crate::report::{Check, Report, html, json, table};
use crate::rig::{Figures, Rig, Sample};
use crate::{Failure, churn, storm};
use std::time::Duration;

/// Ticks that a number of 32 bits can count.
const TICKS_MAX: u64 = crate::board::NUMBERS_MAX;
/// Of a soak, the part at the beginning in which memory still finds its size.
const SETTLING: f64 = 0.25;

fn common(scenario: &Scenario) -> &Common {
    match scenario {
        Scenario::Fanout { common }
        | Scenario::Storm { common, .. }
        | Scenario::Churn { common, .. }
        | Scenario::Slow { common, .. }
        | Scenario::Soak { common, .. } => common,
    }
}

/// What clap cannot see: options that contradict each other.
pub(crate) fn check(scenario: &Scenario) -> Result<(), String> {
    let common = common(scenario);
    let (server, load) = (&common.server, &common.load);
    if u64::from(load.rate) * u64::from(load.seconds) > TICKS_MAX {
        return Err(format!("--rate times --seconds is more than {TICKS_MAX} ticks: measure shorter or slower"));
    }
    if server.feed == Feed::External {
        if server.url.is_none() {
            return Err("--feed external needs the server that the feed publishes to: --url ws://HOST:PORT".into());
        }
        if matches!(scenario, Scenario::Storm { .. } | Scenario::Slow { .. }) {
            return Err("storm and slow publish themselves: leave --feed external away".into());
        }
        if load.instruments.is_none() {
            return Err("--feed external needs the feed's own names: --instruments NSE:INFY,NSE:SBIN,…".into());
        }
    }
    if let Scenario::Storm { storm, .. } = scenario
        && !(storm.factor > 1.0 && storm.factor <= 10.0)
    {
        return Err("--factor must be above 1 and at most 10".into());
    }
    if !(0.0..=10.0).contains(&load.zipf) {
        return Err("--zipf must be from 0 to 10".into());
    }
    Ok(())
}

/// Runs it; whether all thresholds were met.
pub(crate) fn run(scenario: &Scenario) -> Result<bool, Failure> {
    let common = common(scenario);
    let progress = Progress::new(common.output.quiet);
    let mut report = match scenario {
        Scenario::Fanout { .. } => fanout(common, &progress)?,
        Scenario::Storm { storm, .. } => storm::run(common, storm, &progress)?,
        Scenario::Churn { churn, .. } => churn::run(common, churn, &progress)?,
        Scenario::Slow { stalled, .. } => slow(common, *stalled, &progress)?,
        Scenario::Soak { max_drift, .. } => soak(common, *max_drift, &progress)?,
    };
    progress.clear();
    judge(common, &mut report);
    report.warn();
    print!("{}", table::write(&report));
    let write = |file: &std::path::Path, text: String| {
        std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))
    };
    if let Some(file) = &common.output.json {
        write(file, format!("{:#}\n", json::write(&report)))?;
    }
    if let Some(file) = &common.output.html {
        write(file, html::write(&report))?;
    }
    Ok(report.passed())
}

fn seconds(common: &Common) -> Duration {
    Duration::from_secs(u64::from(common.load.seconds))
}

fn fanout(common: &Common, progress: &Progress) -> Result<Report, Failure> {
    let rate = f64::from(common.load.rate);
    let mut rig = Rig::start(common, rate, 0, 0, progress)?;
    let mut figures = rig.measure("fanout", rate, seconds(common), progress)?;
    figures.standing = rig.finish();
    Ok(Report::new("fanout", common, vec![figures]))
}

/// The same load twice: with everybody reading, and with some that do not. Both times the latencies are those of the same clients.
fn slow(common: &Common, share: u32, progress: &Progress) -> Result<Report, Failure> {
    let rate = f64::from(common.load.rate);
    let mut runs = Vec::new();
    for stalled in [false, true] {
        let mut rig = Rig::start(common, rate, 0, share, progress)?;
        let name = if stalled { format!("{share} % stalled") } else { "all read".into() };
        rig.stall(stalled);
        let mut figures = rig.measure(&name, rate, seconds(common), progress)?;
        rig.stall(false);
        let before = figures.seen.stalled;
        figures.seen.stalled = before.max(rig.catch_up()?);
        figures.standing = rig.finish();
        runs.push(figures);
    }
    Ok(Report::new("slow", common, runs))
}

fn soak(common: &Common, max_drift: Option<f64>, progress: &Progress) -> Result<Report, Failure> {
    let rate = f64::from(common.load.rate);
    let mut rig = Rig::start(common, rate, 0, 0, progress)?;
    let mut figures = rig.measure("soak", rate, seconds(common), progress)?;
    figures.standing = rig.finish();
    let mut report = Report::new("soak", common, Vec::new());
    let of = |get: fn(&Sample) -> Option<u64>| drift(&figures.series, get);
    report.drift = [of(|s| s.rss).map(|bytes| bytes / f64::from(1 << 20)), of(|s| s.fds)];
    if let Some(limit) = max_drift {
        // Without samples there is nothing to pass.
        let drift = report.drift[0];
        report.checks.push(Check {
            name: "memory drift",
            limit: format!("at most {limit} MiB/h"),
            value: drift.map_or_else(|| "not known: give --pid".into(), |d| format!("{d:.2} MiB/h")),
            passed: drift.is_some_and(|drift| drift <= limit),
        });
    }
    report.runs.push(figures);
    Ok(report)
}

/// Slope of the best line through what follows the settling time, per hour.
fn drift(series: &[Sample], get: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
    let begin = series.last()?.at * SETTLING;
    let points: Vec<(f64, f64)> =
        series.iter().filter(|s| s.at >= begin).filter_map(|s| Some((s.at, get(s)? as f64))).collect();
    if points.len() < 3 {
        return None;
    }
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0 / n, sum.1 + p.1 / n));
    let (top, bottom) =
        points.iter().fold((0.0, 0.0), |sum, p| (sum.0 + (p.0 - x) * (p.1 - y), sum.1 + (p.0 - x).powi(2)));
    Some(top / bottom * 3600.0)
}

/// Compares the last run with the thresholds.
fn judge(common: &Common, report: &mut Report) {
    // Of a storm that is the last step back.
    let Some(figures) = report.figures().last() else { return };
    let mut checks = Vec::new();
    if let Some(limit) = common.output.max_p99 {
        let p99 = Duration::from_nanos(figures.quantile(0.99));
        checks.push(Check {
            name: "p99",
            limit: format!("at most {limit:?}"),
            value: if figures.ages.is_empty() { "no latencies".into() } else { format!("{p99:?}") },
            passed: !figures.ages.is_empty() && p99 <= limit,
        });
    }
    if let Some(limit) = common.output.min_delivered {
        let delivered = figures.delivered();
        checks.push(Check {
            name: "delivered",
            limit: format!("at least {limit}"),
            value: delivered.map_or_else(|| "not known with an external feed".into(), |d| format!("{d:.6}")),
            passed: delivered.is_some_and(|delivered| delivered >= limit),
        });
    }
    checks.extend(report.figures().flat_map(faults));
    report.checks.extend(checks);
}

/// What no run may show.
fn faults(figures: &Figures) -> Vec<Check> {
    let counts = [
        ("duplicates", figures.seen.duplicates),
        ("out of order", figures.seen.reordered),
        ("not asked for", figures.seen.strangers),
        ("clients cut off", figures.seen.ended),
    ];
    let bad = counts.into_iter().filter(|(_, count)| *count > 0);
    bad.map(|(name, count)| Check { name, limit: "none".into(), value: count.to_string(), passed: false }).collect()
}

/// What was published a second.
pub(crate) fn published_rate(figures: &Figures) -> Option<f64> {
    figures.published.as_ref().map(Published::rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn drift_is_the_slope_per_hour_after_the_settling_time() {
        let sample = |n: u32, rss| Sample { at: f64::from(n), rss: Some(rss), ..Sample::default() };
        // Grows fast for a quarter, then by 10 a second.
        let series: Vec<Sample> = (0..=100)
            .map(|n| sample(n, if n < 25 { u64::from(n) * 1000 } else { 30_000 + u64::from(n) * 10 }))
            .collect();
        let per_hour = drift(&series, |s| s.rss).expect("samples");
        assert!((per_hour - 36_000.0).abs() < 1.0, "{per_hour}");
        assert_eq!(drift(&series[..2], |s| s.rss), None);
        assert_eq!(drift(&series, |s| s.fds), None);
    }

    #[test]
    fn what_contradicts_itself_is_told_before_anything_starts() {
        for (line, hint) in [
            ("fanout --feed external", "--url"),
            ("fanout --feed external --url ws://h:1", "--instruments"),
            ("storm --feed external --url ws://h:1 --instruments NSE:A", "publish themselves"),
            ("storm --factor 1", "--factor"),
            ("fanout --rate 2000000 --seconds 604800", "--seconds"),
            ("fanout --zipf=-1", "--zipf"),
        ] {
            let cli = Cli::parse_from(std::iter::once("loadtest").chain(line.split(' ')));
            let said = check(&cli.scenario).expect_err(line);
            assert!(said.contains(hint), "{line}: {said}");
        }
    }
}
