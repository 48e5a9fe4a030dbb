//! What `tickcast top` shows, from two looks at a server to lines of text. Pure: sizes and colours are arguments.
//!
//! Promises: no line is wider than the screen, 80 columns hold every table; what a server or client has named itself cannot move the cursor.
//! Tests: `view/tests.rs`.

#[cfg(test)]
mod tests;

use crate::cli::admin::Metrics;
use serde::Deserialize;
use std::time::Instant;

/// Feeds that are named; the rest is counted.
const FEEDS_NAMED: usize = 3;

/// What was seen at one moment.
pub(super) struct Look {
    at: Instant,
    metrics: Metrics,
    sessions: Sessions,
    feeds: Vec<Feed>,
    ready: Ready,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sessions {
    by: String,
    total: u64,
    lagging: u64,
    workers_missing: Vec<u64>,
    sessions: Vec<Session>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Session {
    user: Option<String>,
    peer: String,
    format: String,
    class: String,
    worker: u64,
    subscriptions: u64,
    lag_seconds: f64,
    outbox_bytes: f64,
    merged: f64,
    tcp: Option<Tcp>,
    verdict: Option<String>,
    why: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tcp {
    rtt_seconds: f64,
    retransmits: f64,
    send_queue_bytes: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Feeds {
    feeds: Vec<Feed>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Feed {
    user: String,
    broker: String,
    state: String,
    detail: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ready {
    state: String,
    version: String,
}

impl Look {
    /// Reads what the server said. What cannot be read is left out: an older or newer server shows what it has.
    pub(super) fn read(at: Instant, metrics: Metrics, sessions: &str, feeds: &str, ready: &str) -> Self {
        fn read<T: Default + for<'a> Deserialize<'a>>(text: &str) -> T {
            serde_json::from_str(text).unwrap_or_default()
        }
        Look { at, metrics, sessions: read(sessions), feeds: read::<Feeds>(feeds).feeds, ready: read(ready) }
    }
}

/// A colour, as the second half of its escape sequence.
#[derive(Clone, Copy)]
enum Colour {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Magenta = 35,
}

/// The last two looks, and how to show them.
pub(super) struct View {
    address: String,
    colours: bool,
    before: Option<Look>,
    now: Option<Look>,
    lost: Option<String>,
}

impl View {
    /// Nothing has been seen yet.
    pub(super) fn new(address: &str, colours: bool) -> Self {
        View { address: address.to_owned(), colours, before: None, now: None, lost: None }
    }

    /// The server has answered.
    pub(super) fn seen(&mut self, look: Look) {
        // What it counts may have begun anew while it was away.
        self.before = self.now.replace(look).filter(|_| self.lost.is_none());
        self.lost = None;
    }

    /// It has not.
    pub(super) fn lost(&mut self, why: &str) {
        self.lost = Some(format!("trying again: {why}"));
        self.before = None;
    }

    /// The screen.
    pub(super) fn lines(&self, columns: usize, rows: usize) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(now) = &self.now {
            lines.extend(self.header(now, columns));
            lines.push(String::new());
            lines.extend(self.table(now, columns));
        }
        if let Some(lost) = &self.lost {
            lines.insert(0, self.paint(Colour::Red, &fit(lost, columns)));
        }
        lines.truncate(rows);
        lines
    }

    fn header(&self, now: &Look, columns: usize) -> Vec<String> {
        let sum = |name: &str, part: &str| now.metrics.sum(name, part).unwrap_or(0.0);
        let clients = |format| count(sum("tickcast_clients_connected", format));
        let lagging = now.sessions.lagging;
        let level = now.metrics.sum("tickcast_overload_level", "").unwrap_or(0.0);
        let title = format!("tickcast {} at {}  {}", now.ready.version, self.address, now.ready.state);
        let people = format!(
            "clients  {} ({} json, {} msgpack)  lagging {}  overload level {level}",
            clients(""),
            clients("format=\"json\""),
            clients("format=\"msgpack\""),
            count(lagging as f64),
        );
        let ticks = format!(
            "ticks    in {}  out {}  merged {}  broadcast p99 {}",
            self.rate("tickcast_ticks_received_total"),
            self.rate("tickcast_ticks_sent_total"),
            self.rate("tickcast_ticks_merged_total"),
            self.p99("tickcast_broadcast_latency_seconds").map_or("-".into(), seconds),
        );
        let people_colour = (lagging > 0 || level > 0.0).then_some(Colour::Yellow);
        let mut lines = vec![
            self.paint(Colour::Bold, &fit(&title, columns)),
            self.maybe(people_colour, &fit(&people, columns)),
            fit(&ticks, columns),
        ];
        lines.extend(self.feeds(now, columns));
        if !now.sessions.workers_missing.is_empty() {
            let names: Vec<String> = now.sessions.workers_missing.iter().map(u64::to_string).collect();
            let text = format!("no answer from worker {}: its sessions are not in the table", names.join(", "));
            lines.push(self.paint(Colour::Red, &fit(&text, columns)));
        }
        lines
    }

    /// How many feeds are in which state, and the first of those that are not well, with the reason.
    fn feeds(&self, now: &Look, columns: usize) -> Vec<String> {
        let mut states: Vec<(&str, usize)> = Vec::new();
        for feed in &now.feeds {
            match states.iter_mut().find(|(state, _)| *state == feed.state) {
                Some((_, n)) => *n += 1,
                None => states.push((&feed.state, 1)),
            }
        }
        let summary: Vec<String> = states.iter().map(|(state, n)| format!("{n} {state}")).collect();
        let summary = if summary.is_empty() { "none".to_owned() } else { summary.join(", ") };
        let mut lines = vec![fit(&format!("feeds    {summary}"), columns)];
        let ill: Vec<&Feed> = now.feeds.iter().filter(|feed| matches!(&*feed.state, "stale" | "down")).collect();
        for feed in ill.iter().take(FEEDS_NAMED) {
            let Feed { user, broker, state, detail } = feed;
            let text = format!("         {user} at {broker} is {state}: {detail}");
            lines.push(self.paint(Colour::Red, &fit(&text, columns)));
        }
        if ill.len() > FEEDS_NAMED {
            lines.push(fit(&format!("         and {} more", ill.len() - FEEDS_NAMED), columns));
        }
        lines
    }

    fn table(&self, now: &Look, columns: usize) -> Vec<String> {
        let Sessions { by, total, sessions, .. } = &now.sessions;
        let about = format!("{} of {} sessions by {by}", count(sessions.len() as f64), count(*total as f64));
        let wide = columns >= WIDE_COLUMNS;
        let mut head = format!(
            "{:<12} {:<21} {:>5} {:>6} {:>7} {:>6} {:>6}",
            "USER", "PEER", "SUBS", "LAG", "OUTBOX", "MERGED", "RTT"
        );
        if wide {
            head += &format!(" {:>7} {:>5} {:>7} {:>6} {:>6}", "KERNEL", "RETR", "FORMAT", "CLASS", "WORKER");
        }
        head += " VERDICT";
        let mut lines = vec![fit(&about, columns), self.paint(Colour::Bold, &fit(&head, columns))];
        for session in sessions {
            let row = session.row(wide);
            let verdict = session.verdict.as_deref().unwrap_or("?");
            let colour = match verdict {
                "ok" => Colour::Green,
                "client" => Colour::Yellow,
                "network" => Colour::Magenta,
                _ => Colour::Red,
            };
            let row = fit(&format!("{row} "), columns);
            let room = columns - row.chars().count();
            lines.push(row + &self.paint(colour, &fit(verdict, room)));
            if verdict != "ok" {
                lines.push(self.paint(Colour::Dim, &fit(&format!("  {}", session.why), columns)));
            }
        }
        lines
    }

    /// Growth of a counter between the two looks.
    fn rate(&self, name: &str) -> String {
        let rate = self.since(|look| look.metrics.sum(name, ""));
        rate.map_or("-".into(), |(before, now, seconds)| format!("{}/s", count((now - before).max(0.0) / seconds)))
    }

    /// The 99th percentile of what a histogram took between the two looks.
    fn p99(&self, name: &str) -> Option<f64> {
        let (before, now, _) = self.since(|look| Some(look.metrics.buckets(name)))?;
        quantile(0.99, &before, &now)
    }

    fn since<T>(&self, what: impl Fn(&Look) -> Option<T>) -> Option<(T, T, f64)> {
        let (before, now) = (self.before.as_ref()?, self.now.as_ref()?);
        let time = now.at.saturating_duration_since(before.at).as_secs_f64();
        Some((what(before)?, what(now)?, time)).filter(|_| time > 0.0)
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
            false => text.to_owned(),
        }
    }

    fn maybe(&self, colour: Option<Colour>, text: &str) -> String {
        colour.map_or_else(|| text.to_owned(), |colour| self.paint(colour, text))
    }
}

/// From so many columns on there is room for what is interesting less often.
const WIDE_COLUMNS: usize = 112;

impl Session {
    fn row(&self, wide: bool) -> String {
        let rtt = self.tcp.as_ref().map_or("-".into(), |tcp| seconds(tcp.rtt_seconds));
        let lag = if self.lag_seconds > 0.0 { seconds(self.lag_seconds) } else { "-".into() };
        let mut row = format!(
            "{:<12} {:<21} {:>5} {lag:>6} {:>7} {:>6} {rtt:>6}",
            fit(self.user.as_deref().unwrap_or("(no key yet)"), 12),
            fit(&self.peer, 21),
            short(self.subscriptions as f64),
            short(self.outbox_bytes),
            short(self.merged),
        );
        if wide {
            let tcp = |what: fn(&Tcp) -> Option<f64>| self.tcp.as_ref().and_then(what).map_or("-".into(), short);
            row += &format!(
                " {:>7} {:>5} {:>7} {:>6} {:>6}",
                tcp(|tcp| tcp.send_queue_bytes),
                tcp(|tcp| Some(tcp.retransmits)),
                fit(&self.format, 7),
                fit(&self.class, 6),
                self.worker,
            );
        }
        row
    }
}

/// At most `columns` characters, none of which moves the cursor.
fn fit(text: &str, columns: usize) -> String {
    let clean = || text.chars().map(|c| if c.is_control() { '?' } else { c });
    if clean().count() <= columns {
        return clean().collect();
    }
    clean().take(columns.saturating_sub(1)).chain((columns > 0).then_some('…')).collect()
}

/// A whole number with its thousands set apart.
fn count(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number in at most five characters.
fn short(n: f64) -> String {
    match n {
        n if n < 10_000.0 => format!("{n:.0}"),
        n if n < 99_950.0 => format!("{:.1}k", n / 1e3),
        n if n < 999_500.0 => format!("{:.0}k", n / 1e3),
        n if n < 99.95e6 => format!("{:.1}M", n / 1e6),
        n if n < 999.5e6 => format!("{:.0}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

/// A time in at most six characters.
fn seconds(time: f64) -> String {
    match time {
        t if t < 0.000_999_5 => format!("{:.0}us", t * 1e6),
        t if t < 0.099_95 => format!("{:.1}ms", t * 1e3),
        t if t < 0.999_5 => format!("{:.0}ms", t * 1e3),
        t if t < 999.95 => format!("{t:.1}s"),
        t if t < 99.5 * 60.0 => format!("{:.0}m", t / 60.0),
        t => format!("{:.1}h", t / 3600.0),
    }
}

/// The value below which the share `q` of a histogram's samples between two looks lies, straight within a bucket as Prometheus has it.
/// `None` without samples; above the last edge, that edge.
fn quantile(q: f64, before: &[(f64, f64)], now: &[(f64, f64)]) -> Option<f64> {
    let earlier = |edge: f64| before.iter().find(|(other, _)| *other == edge).map_or(0.0, |(_, count)| *count);
    let grown: Vec<(f64, f64)> = now.iter().map(|(edge, count)| (*edge, count - earlier(*edge))).collect();
    let total = grown.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let rank = q * total;
    let mut below = (0.0, 0.0);
    for (edge, count) in grown {
        if count >= rank {
            let share = if count > below.1 { (rank - below.1) / (count - below.1) } else { 1.0 };
            return Some(if edge.is_finite() { below.0 + share * (edge - below.0) } else { below.0 });
        }
        below = (edge, count);
    }
    None
}
