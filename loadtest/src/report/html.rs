//! The report as one page: plots as inline SVG, light and dark, nothing fetched from anywhere, no script.

use super::{Report, table};
use crate::rig::{Figures, Sample};
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
/// Room for the axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;
/// Lines of one plot at most; a storm has many steps.
const LINES_MAX: usize = 6;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5b6570;--page:#fff;--grid:#dfe3e8;
--c0:#0b62c4;--c1:#c2410c;--c2:#15803d;--c3:#7c3aed;--c4:#a16207;--c5:#be185d}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--dim:#9aa4ae;--page:#14171a;--grid:#30363c;
--c0:#6cb1ff;--c1:#ff9966;--c2:#6fd08c;--c3:#b79cff;--c4:#e3c04f;--c5:#ff8ec2}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:1360px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.2rem 0 .3rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1rem 2rem}
figure{margin:0}figcaption{font-weight:600}svg{width:100%;height:auto}
svg text{fill:var(--dim);font-size:12px}.grid{stroke:var(--grid)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
pre{overflow-x:auto;font-size:13px;line-height:1.45}.warn{color:var(--c1)}.bad{color:var(--c1);font-weight:600}.good{color:var(--c2)}
.key span{margin-right:1.2em;white-space:nowrap}.key i{display:inline-block;width:1.4em;height:3px;vertical-align:middle;margin-right:.4em}
";

/// A line of a plot.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// One plot.
struct Plot<'a> {
    title: &'a str,
    x: &'a str,
    lines: Vec<Line<'a>>,
    /// Marks of the x axis; evenly spread when there are none.
    marks: Vec<(f64, String)>,
}

pub(crate) fn write(report: &Report) -> String {
    let mut out = String::new();
    let title = format!("loadtest: {}", report.scenario);
    let mut put = |text: &str| out.push_str(text);
    put(&format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width\"/>\
         <title>{}</title><style>{STYLE}</style></head><body>\n<h1>{}</h1>\n",
        text(&title),
        text(&title)
    ));
    for check in &report.checks {
        let (class, word) = if check.passed { ("good", "passed") } else { ("bad", "missed") };
        put(&format!(
            "<p class=\"{class}\">{word}: {} {} ({})</p>\n",
            check.name,
            text(&check.value),
            text(&check.limit)
        ));
    }
    for warning in &report.warnings {
        put(&format!("<p class=\"warn\">Warning: {}</p>\n", text(warning)));
    }
    put("<div class=\"plots\">\n");
    for plot in plots(report) {
        put(&figure(&plot));
    }
    put("</div>\n<h2>Figures</h2>\n");
    put(&format!("<pre>{}</pre>\n", text(&table::write(report))));
    let machine: Vec<String> = report.machine.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    put(&format!("<h2>Machine</h2>\n<p>{}</p>\n", text(&machine.join("; "))));
    put("</body></html>\n");
    out
}

fn plots(report: &Report) -> Vec<Plot<'_>> {
    let all: Vec<&Figures> = report.figures().collect();
    // Of many steps those spread over all of them.
    let shown: Vec<&Figures> = match all.len() {
        n @ 0..=LINES_MAX => all[..n].to_vec(),
        n => (0..LINES_MAX).map(|i| all[i * (n - 1) / (LINES_MAX - 1)]).collect(),
    };
    let over_time = |title, get: fn(&Sample) -> Option<f64>| Plot {
        title,
        x: "seconds",
        lines: shown
            .iter()
            .map(|f| Line { name: &f.name, points: f.series.iter().filter_map(|s| Some((s.at, get(s)?))).collect() })
            .collect(),
        marks: Vec::new(),
    };
    let mut plots = vec![
        Plot {
            title: "Latency by percentile, ms",
            x: "percentile",
            lines: shown.iter().map(|f| Line { name: &f.name, points: percentiles(f) }).collect(),
            marks: [50.0, 90.0, 99.0, 99.9, 99.99].map(|p: f64| (nines(p / 100.0), format!("{p}"))).into(),
        },
        over_time("Throughput, ticks received a second", |s| Some(s.rate)),
        over_time("p99 over time, ms", |s| s.p99.map(|ns| ns as f64 / 1e6)),
        over_time("Server memory, MiB", |s| s.rss.map(|bytes| bytes as f64 / f64::from(1 << 20))),
        over_time("Server CPU, cores", |s| s.cpu),
    ];
    if report.scenario == "soak" {
        plots.push(over_time("Server descriptors", |s| s.fds.map(|n| n as f64)));
    }
    if !report.steps.is_empty() {
        let by_rate = |name, way: &[crate::storm::Way]| Line {
            name,
            points: report
                .steps
                .iter()
                .filter(|s| way.contains(&s.way))
                .map(|s| (s.rate / 1000.0, s.figures.quantile(0.99) as f64 / 1e6))
                .collect(),
        };
        use crate::storm::Way::{Back, Past, Up};
        plots.insert(
            0,
            Plot {
                title: "p99 by rate, ms",
                x: "thousand ticks a second",
                lines: vec![by_rate("up and past", &[Up, Past]), by_rate("back", &[Back])],
                marks: Vec::new(),
            },
        );
    }
    plots
}

/// Number of nines of a quantile: 0.9 is 1, 0.99 is 2.
fn nines(q: f64) -> f64 {
    -(1.0 - q).max(1e-5).log10()
}

fn percentiles(f: &Figures) -> Vec<(f64, f64)> {
    if f.ages.is_empty() {
        return Vec::new();
    }
    let steps = (0..=80).map(|n| f64::from(n) * 0.05);
    steps.map(|x| (x, f.quantile(1.0 - 10f64.powf(-x)) as f64 / 1e6)).collect()
}

fn figure(plot: &Plot<'_>) -> String {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|p| p.0).chain(plot.marks.iter().map(|m| m.0)).fold(0.0, f64::max).max(1e-9);
    let step = step(points().map(|p| p.1).fold(0.0, f64::max));
    let y_max = (points().map(|p| p.1).fold(0.0, f64::max) / step).ceil().max(1.0) * step;
    let x_of = |x: f64| LEFT + x / x_max * (WIDTH - LEFT - RIGHT);
    let y_of = |y: f64| HEIGHT - BOTTOM - y / y_max * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        text(plot.title),
        text(plot.title)
    );
    let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("memory takes every write");
    let mut y = 0.0;
    while y <= y_max + step / 2.0 {
        let at = y_of(y);
        put(format_args!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - RIGHT
        ));
        put(format_args!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, short(y)));
        y += step;
    }
    let even: Vec<(f64, String)> = (0..=5).map(|n| x_max * f64::from(n) / 5.0).map(|x| (x, short(x))).collect();
    for (x, name) in if plot.marks.is_empty() { &even } else { &plot.marks } {
        put(format_args!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>", x_of(*x), HEIGHT - 18.0));
    }
    put(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (WIDTH + LEFT) / 2.0,
        HEIGHT - 3.0,
        text(plot.x)
    ));
    for (n, line) in plot.lines.iter().enumerate().filter(|(_, line)| !line.points.is_empty()) {
        let path: String = line.points.iter().map(|p| format!("{:.1},{:.1} ", x_of(p.0), y_of(p.1))).collect();
        put(format_args!("<polyline class=\"line\" style=\"stroke:var(--c{n})\" points=\"{}\"/>", path.trim_end()));
    }
    if points().next().is_none() {
        put(format_args!("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">not known</text>", WIDTH / 2.0, HEIGHT / 2.0));
    }
    put(format_args!("</svg><div class=\"key\">"));
    for (n, line) in plot.lines.iter().enumerate() {
        put(format_args!("<span><i style=\"background:var(--c{n})\"></i>{}</span>", text(line.name)));
    }
    put(format_args!("</div></figure>\n"));
    out
}

/// A round distance of grid lines: some four to `max`.
fn step(max: f64) -> f64 {
    if max <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf((max / 4.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * unit).into_iter().find(|step| max / step <= 5.0).unwrap_or(10.0 * unit)
}

fn short(n: f64) -> String {
    match n {
        1e6.. => format!("{:.4}", n / 1e6).trim_end_matches('0').trim_end_matches('.').to_owned() + " M",
        1e4.. => format!("{:.2}", n / 1e3).trim_end_matches('0').trim_end_matches('.').to_owned() + " k",
        _ => {
            let text = format!("{n:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_lines_are_round_and_few() {
        for (max, want) in [(0.0, 1.0), (1.0, 0.2), (9.0, 2.0), (100.0, 20.0), (1234.0, 500.0)] {
            let got = step(max);
            assert!((got - want).abs() < 1e-9, "{max}: {got}");
        }
        for (n, want) in [(0.0, "0"), (0.25, "0.25"), (1500.0, "1500"), (25_000.0, "25 k"), (1.5e6, "1.5 M")] {
            assert_eq!(short(n), want);
        }
    }

    #[test]
    fn percentiles_are_spread_by_their_nines_and_text_cannot_become_markup() {
        assert!((nines(0.99) - 2.0).abs() < 1e-9);
        assert_eq!(text("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
