//! What has been seen so far, as lines and as a table. Pure: time is an argument.

use crate::model::{Instrument, Micros};
use hdrhistogram::Histogram;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Latencies above count as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);
/// Rates are means over at least this long.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// All watched instruments.
pub(super) struct Board {
    rows: Vec<Row>,
    by_name: HashMap<String, usize>,
    all: Rate,
    /// Milliseconds, or microseconds when `fine`.
    latency: Histogram<u64>,
    /// Ticks carry the server's times in microseconds (MessagePack).
    fine: bool,
    began: Instant,
    /// Lines of the table on the screen.
    drawn: usize,
}

struct Row {
    name: String,
    first: Option<f64>,
    last: Option<f64>,
    seen: Option<Instant>,
    rate: Rate,
}

/// Counts, and knows how many there were in the last full window.
struct Rate {
    total: u64,
    total_at_mark: u64,
    mark: Instant,
    per_second: f64,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Rate { total: 0, total_at_mark: 0, mark: now, per_second: 0.0 }
    }

    fn refresh(&mut self, now: Instant) {
        let window = now.saturating_duration_since(self.mark);
        if window >= RATE_WINDOW {
            self.per_second = (self.total - self.total_at_mark) as f64 / window.as_secs_f64();
            (self.total_at_mark, self.mark) = (self.total, now);
        }
    }
}

impl Board {
    /// `fine`: latency in microseconds since the server read a tick, instead of milliseconds since its publisher made it.
    pub(super) fn new(instruments: &[Instrument], fine: bool, now: Instant) -> Self {
        let latency_max = if fine { LATENCY_MAX.as_micros() } else { LATENCY_MAX.as_millis() } as u64;
        let names: Vec<String> = instruments.iter().map(|i| format!("{:?}", i.as_ref())).collect();
        Board {
            by_name: names.iter().cloned().zip(0..).collect(),
            rows: names
                .into_iter()
                .map(|name| Row { name, first: None, last: None, seen: None, rate: Rate::new(now) })
                .collect(),
            all: Rate::new(now),
            latency: Histogram::new_with_bounds(1, latency_max, 3).expect("the bounds are valid"),
            fine,
            began: now,
            drawn: 0,
        }
    }

    /// Ticks seen.
    pub(super) fn ticks(&self) -> u64 {
        self.all.total
    }

    /// Notes a `market_data` message and gives the line that tells it; `None` when it is for something not watched.
    pub(super) fn tick(&mut self, message: &Value, now: Instant, clock: Micros) -> Option<String> {
        let text = |key: &str| message.get(key).and_then(Value::as_str).unwrap_or_default();
        let row = &mut self.rows[*self.by_name.get(&format!("{}:{}", text("exchange"), text("symbol")))?];
        let data = message.get("data").unwrap_or(&Value::Null);
        row.rate.total += 1;
        row.seen = Some(now);
        self.all.total += 1;
        if let Some(ltp) = number(data, "ltp") {
            row.first.get_or_insert(ltp);
            row.last = Some(ltp);
        }
        let mut line = line(&row.name, message, data, clock);
        if message.get("snapshot").and_then(Value::as_bool) == Some(true) {
            // Its age is not latency.
            line += " snapshot";
            return Some(line);
        }
        // A clock ahead of ours shows as no latency.
        let since = |key: &str| message.get(key).and_then(Value::as_u64).map(|t| clock.0.saturating_sub(t));
        let latency = if self.fine {
            since("t_recv")
        } else {
            number(data, "timestamp").map(|ms| clock.millis().saturating_sub(ms as u64))
        };
        if let Some(latency) = latency {
            let latency = latency.min(self.latency.high());
            self.latency.saturating_record(latency);
            let _ = write!(line, " latency={}", millis(latency, self.fine, ""));
        }
        if let (true, Some(sent)) = (self.fine, since("t_send")) {
            let _ = write!(line, " sent={}", millis(sent, true, ""));
        }
        Some(line)
    }

    /// The table in place of the one drawn before.
    pub(super) fn draw(&mut self, heading: &str, now: Instant) -> String {
        let mut screen = String::new();
        if self.drawn > 0 {
            let _ = write!(screen, "\x1b[{}A", self.drawn);
        }
        let table = self.table(heading, now);
        for line in &table {
            let _ = writeln!(screen, "\r{line}\x1b[K");
        }
        self.drawn = table.len();
        screen
    }

    /// The next table is drawn below what was printed meanwhile.
    pub(super) fn scroll(&mut self) {
        self.drawn = 0;
    }

    fn table(&mut self, heading: &str, now: Instant) -> Vec<String> {
        let width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(6);
        let mut lines = vec![
            heading.to_owned(),
            format!(
                "{:width$}  {:>12}  {:>20}  {:>9}  {:>8}  {:>7}",
                "SYMBOL", "LTP", "CHANGE", "TICKS", "RATE/S", "AGE"
            ),
        ];
        for row in &mut self.rows {
            row.rate.refresh(now);
            let ltp = row.last.map_or_else(|| "-".to_owned(), |p| format!("{p:.2}"));
            let change = match (row.first, row.last) {
                (Some(first), Some(last)) if first != 0.0 => {
                    format!("{:+.2} ({:+.2}%)", last - first, 100.0 * (last - first) / first)
                }
                _ => "-".to_owned(),
            };
            let age = row.seen.map_or_else(|| "-".to_owned(), |at| age(now.saturating_duration_since(at)));
            let (ticks, rate) = (row.rate.total, row.rate.per_second);
            lines.push(format!("{:width$}  {ltp:>12}  {change:>20}  {ticks:>9}  {rate:>8.1}  {age:>7}", row.name));
        }
        self.all.refresh(now);
        lines.push(format!("{:.1} ticks/s  {}", self.all.per_second, self.latency()));
        lines
    }

    fn latency(&self) -> String {
        if self.latency.is_empty() {
            return "latency unknown (ticks carry no timestamp)".to_owned();
        }
        let at = |q| millis(self.latency.value_at_quantile(q), self.fine, " ");
        format!("latency p50 {}  p99 {}", at(0.5), at(0.99))
    }

    /// One line about the whole run.
    pub(super) fn summary(&self, now: Instant) -> String {
        let took = now.saturating_duration_since(self.began).as_secs_f64();
        let seen = self.rows.iter().filter(|r| r.seen.is_some()).count();
        let mean = if took > 0.0 { self.all.total as f64 / took } else { 0.0 };
        format!(
            "{} ticks of {seen} of {} symbols in {took:.1} s ({mean:.1}/s), {}",
            self.all.total,
            self.rows.len(),
            self.latency()
        )
    }
}

/// A finite number, also when it is written as text.
fn number(data: &Value, key: &str) -> Option<f64> {
    let value = data.get(key)?;
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|n: &f64| n.is_finite())
}

/// Milliseconds with their unit, with two digits more when `time` is in microseconds.
fn millis(time: u64, fine: bool, blank: &str) -> String {
    if fine { format!("{:.2}{blank}ms", time as f64 / 1000.0) } else { format!("{time}{blank}ms") }
}

fn line(name: &str, message: &Value, data: &Value, clock: Micros) -> String {
    let day_ms = clock.millis() % 86_400_000;
    let (h, m, s, ms) = (day_ms / 3_600_000, day_ms / 60_000 % 60, day_ms / 1000 % 60, day_ms % 1000);
    let mode = message.get("mode").and_then(Value::as_u64).and_then(crate::model::Mode::from_int);
    let mut line = format!("{h:02}:{m:02}:{s:02}.{ms:03}Z {name} {}", mode.map_or("?", |m| m.label()));
    for key in ["ltp", "open", "high", "low", "close", "volume", "oi"] {
        if let Some(n) = number(data, key) {
            let _ = write!(line, " {key}={n}");
        }
    }
    for (side, word) in [("buy", "bid"), ("sell", "ask")] {
        let best = data.get("depth").and_then(|d| d.get(side)).and_then(|levels| levels.get(0));
        if let Some((price, quantity)) = best.and_then(|b| Some((number(b, "price")?, number(b, "quantity")?))) {
            let _ = write!(line, " {word}={price}x{quantity}");
        }
    }
    line
}

fn age(age: Duration) -> String {
    match age.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms => format!("{:.1} s", ms as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InstrumentRef;
    use serde_json::json;

    fn board(now: Instant) -> Board {
        let names = [("NSE", "SBIN"), ("NSE_INDEX", "NIFTY")];
        let instruments = names.map(|(venue, symbol)| InstrumentRef { venue, symbol }.to_owned());
        Board::new(&instruments, false, now)
    }

    fn tick(ltp: f64, timestamp: Value) -> Value {
        json!({"type": "market_data", "symbol": "SBIN", "exchange": "NSE", "mode": 1,
               "data": {"ltp": ltp, "timestamp": timestamp}, "broker": "sim"})
    }

    /// 2026-11-21 10:20:30.456 UTC.
    const CLOCK: Micros = Micros(1_795_256_430_456_000);

    #[test]
    fn a_tick_is_one_line_with_what_it_carries() {
        let mut board = board(Instant::now());
        let got = board.tick(&tick(812.5, json!(1_795_256_430_450u64)), Instant::now(), CLOCK);
        assert_eq!(got.as_deref(), Some("10:20:30.456Z NSE:SBIN LTP ltp=812.5 latency=6ms"));
        let depth = json!({"symbol": "NIFTY", "exchange": "NSE_INDEX", "mode": 3, "data": {"ltp": "1.5", "volume": 7,
            "depth": {"buy": [{"price": 1.4, "quantity": 10}], "sell": []}}});
        let got = board.tick(&depth, Instant::now(), CLOCK);
        assert_eq!(got.as_deref(), Some("10:20:30.456Z NSE_INDEX:NIFTY Depth ltp=1.5 volume=7 bid=1.4x10"));
        let other = json!({"symbol": "TCS", "exchange": "NSE", "mode": 1, "data": {"ltp": 1}});
        assert_eq!(board.tick(&other, Instant::now(), CLOCK), None);
        assert_eq!(board.ticks(), 2);
    }

    #[test]
    fn the_servers_own_times_give_a_fine_latency_and_a_snapshot_none() {
        let now = Instant::now();
        let mut board = Board { fine: true, ..board(now) };
        let mut message = tick(812.5, Value::Null);
        (message["t_recv"], message["t_send"]) = (json!(CLOCK.0 - 1_310), json!(CLOCK.0 - 250));
        let got = board.tick(&message, now, CLOCK);
        assert_eq!(got.as_deref(), Some("10:20:30.456Z NSE:SBIN LTP ltp=812.5 latency=1.31ms sent=0.25ms"));
        assert_eq!(board.latency(), "latency p50 1.31 ms  p99 1.31 ms");
        (message["snapshot"], message["t_recv"]) = (json!(true), json!(1));
        let got = board.tick(&message, now, CLOCK);
        assert_eq!(got.as_deref(), Some("10:20:30.456Z NSE:SBIN LTP ltp=812.5 snapshot"));
        assert_eq!((board.ticks(), board.latency().as_str()), (2, "latency p50 1.31 ms  p99 1.31 ms"));
    }

    #[test]
    fn the_table_shows_change_since_the_start_rate_age_and_latency() {
        let start = Instant::now();
        let mut board = board(start);
        for (n, ltp) in [(1, 100.0), (2, 101.0), (3, 102.0), (4, 98.0)] {
            board.tick(&tick(ltp, json!("1795256430446")), start + Duration::from_millis(500 * n), CLOCK);
        }
        let table = board.table("heading", start + Duration::from_millis(2050));
        assert_eq!(table.len(), 5);
        for part in ["NSE:SBIN", "98.00", "-2.00 (-2.00%)", " 4 ", "2.0", "50 ms"] {
            assert!(table[2].contains(part), "{part} in {}", table[2]);
        }
        assert!(table[3].starts_with("NSE_INDEX:NIFTY") && table[3].ends_with('-'), "{}", table[3]);
        assert_eq!(table[4], "2.0 ticks/s  latency p50 10 ms  p99 10 ms");
        assert_eq!(
            board.summary(start + Duration::from_secs(2)),
            "4 ticks of 1 of 2 symbols in 2.0 s (2.0/s), latency p50 10 ms  p99 10 ms"
        );
    }

    #[test]
    fn a_clock_ahead_of_ours_counts_as_no_latency() {
        let mut board = board(Instant::now());
        board.tick(&tick(1.0, json!(1_795_256_999_999u64)), Instant::now(), CLOCK);
        assert_eq!(board.latency(), "latency p50 0 ms  p99 0 ms");
    }

    #[test]
    fn the_table_is_drawn_over_the_one_before_unless_something_was_printed() {
        let now = Instant::now();
        let mut board = board(now);
        assert!(!board.draw("heading", now).contains("\x1b[5A"));
        assert!(board.draw("heading", now).starts_with("\x1b[5A"));
        board.scroll();
        assert!(!board.draw("heading", now).contains("\x1b[5A"));
    }
}
