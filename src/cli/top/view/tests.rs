//! Screens from looks that a test makes up: figures, widths, colours, and what must not reach a terminal.

use super::*;
use serde_json::{Value, json};
use std::time::Duration;

fn metrics(seconds: u64) -> Metrics {
    let n = seconds * 1000;
    Metrics(format!(
        "tickcast_clients_connected{{format=\"json\"}} 900\ntickcast_clients_connected{{format=\"msgpack\"}} 100\n\
         tickcast_overload_level 0\ntickcast_ticks_received_total {}\ntickcast_ticks_sent_total{{format=\"json\"}} {}\n\
         tickcast_ticks_sent_total{{format=\"msgpack\"}} {n}\ntickcast_ticks_merged_total{{where=\"session\"}} 5\n\
         tickcast_broadcast_latency_seconds_bucket{{le=\"0.001\"}} {}\ntickcast_broadcast_latency_seconds_bucket{{le=\"0.005\"}} {}\n\
         tickcast_broadcast_latency_seconds_bucket{{le=\"+Inf\"}} {n}\n",
        20 * n,
        1000 * n,
        900 + n * 90 / 100,
        n
    ))
}

fn session(user: &str, lag: f64, verdict: Value) -> Value {
    json!({
        "session": "0-1-1", "user": user, "broker": "sim", "peer": "127.0.0.1:53210", "format": "json", "class": "normal", "worker": 1,
        "age_seconds": 60.0, "subscriptions": 50, "lag_seconds": lag, "outbox_bytes": 65_536, "merged": 1_234_567, "sent_frames": 9,
        "sent_bytes": 9, "tcp": {"rtt_seconds": 0.00012, "rtt_var_seconds": 0.0, "retransmits": 3, "unacked": 0,
            "delivery_rate_bytes": null, "notsent_bytes": 1, "send_queue_bytes": 16_384},
        "verdict": verdict, "why": "its receive window is closed: it has not been reading for 12.3 s",
    })
}

fn feed(user: &str, state: &str) -> Value {
    json!({"user": user, "broker": "angel", "state": state, "detail": "no tick for 34 s"})
}

/// A server seen at second 1 and at second 3.
fn view(colours: bool, sessions: Vec<Value>, feeds: Vec<Value>) -> View {
    let start = Instant::now();
    let mut view = View::new("127.0.0.1:9464", colours);
    for second in [1, 3] {
        let sessions = json!({"by": "lag", "total": 1000, "lagging": 1, "workers_missing": [], "sessions": sessions});
        view.seen(Look::read(
            start + Duration::from_secs(second),
            metrics(second),
            &sessions.to_string(),
            &json!({ "feeds": feeds }).to_string(),
            &json!({"state": "ready", "version": "0.1.0"}).to_string(),
        ));
    }
    view
}

#[test]
fn a_screen_says_how_the_server_is_and_who_is_slow_and_why() {
    let sessions = vec![session("asha", 12.34, json!("client")), session("ben", 0.0, json!("ok"))];
    let lines = view(false, sessions, vec![feed("asha", "live"), feed("ben", "stale")]).lines(80, 50);
    let wanted = [
        "tickcast 0.1.0 at 127.0.0.1:9464  ready",
        "clients  1,000 (900 json, 100 msgpack)  lagging 1  overload level 0",
        "ticks    in 20,000/s  out 1,001,000/s  merged 0/s  broadcast p99 4.6ms",
        "feeds    1 live, 1 stale",
        "         ben at angel is stale: no tick for 34 s",
        "",
        "2 of 1,000 sessions by lag",
        "USER         PEER                   SUBS    LAG  OUTBOX MERGED    RTT VERDICT",
        "asha         127.0.0.1:53210          50  12.3s   65.5k   1.2M  120us client",
        "  its receive window is closed: it has not been reading for 12.3 s",
        "ben          127.0.0.1:53210          50      -   65.5k   1.2M  120us ok",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn no_line_is_wider_than_the_screen_nor_are_there_more_than_it_has() {
    let long = "a user whose name is much longer than any column of the table";
    let mut nobody = session(long, 1e9, json!("network"));
    nobody["peer"] = json!("[2001:db8:1111:2222:3333:4444:5555:6666]:65535");
    nobody["why"] = json!("for a reason that takes more than a line to tell ".repeat(9));
    for columns in [20, 80, 100, 112, 200] {
        let view = view(false, vec![nobody.clone(); 5], (0..9).map(|_| feed(long, "down")).collect());
        for line in view.lines(columns, usize::MAX) {
            assert!(line.chars().count() <= columns, "{} > {columns}: {line}", line.chars().count());
        }
        assert_eq!(view.lines(columns, 7).len(), 7);
    }
}

#[test]
fn a_wide_screen_shows_what_the_kernel_holds() {
    let lines = view(false, vec![session("asha", 12.34, json!("client"))], Vec::new()).lines(120, 50);
    let (head, row) = (&lines[6], &lines[7]);
    assert!(head.ends_with(" KERNEL  RETR  FORMAT  CLASS WORKER VERDICT"), "{head}");
    assert!(row.ends_with("  16.4k     3    json normal      1 client"), "{row}");
}

#[test]
fn colours_are_there_only_when_wanted_and_add_nothing_to_the_text() {
    let make = |colours| view(colours, vec![session("asha", 12.34, json!("client"))], vec![feed("asha", "down")]);
    let (plain, coloured) = (make(false).lines(80, 50).join("\n"), make(true).lines(80, 50).join("\n"));
    assert!(!plain.contains('\x1b') && coloured.contains("\x1b[33mclient\x1b[0m"), "{coloured:?}");
    let mut stripped = String::new();
    for (n, part) in coloured.split('\x1b').enumerate() {
        stripped += if n == 0 { part } else { part.split_once('m').expect("a colour").1 };
    }
    assert_eq!(stripped, plain);
}

#[test]
fn names_cannot_move_the_cursor_or_start_a_line() {
    let evil = session("\x1b[2J\nroot", 1.0, json!("\x1b[0m"));
    for line in view(false, vec![evil], vec![feed("\r\x07", "stale")]).lines(80, 50) {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn a_server_that_is_gone_is_told_above_what_was_last_seen_and_rates_begin_anew() {
    let mut view = view(false, vec![session("asha", 0.0, json!("ok"))], Vec::new());
    view.lost("cannot reach the admin port");
    let lines = view.lines(80, 50);
    assert_eq!(lines[0], "trying again: cannot reach the admin port");
    assert_eq!(lines[1], "tickcast 0.1.0 at 127.0.0.1:9464  ready");
    view.seen(Look::read(Instant::now(), metrics(1), "{}", "not JSON", "{\"state\":\"draining\"}"));
    let lines = view.lines(80, 50);
    assert_eq!(lines[0], "tickcast  at 127.0.0.1:9464  draining");
    view.lost("gone");
    view.seen(Look::read(Instant::now(), metrics(1), "{}", "{}", "{}"));
    assert_eq!(view.lines(80, 50)[2], "ticks    in -  out -  merged -  broadcast p99 -");
}

#[test]
fn a_worker_without_an_answer_and_a_verdict_that_nobody_knows_are_shown() {
    let mut view = view(false, Vec::new(), Vec::new());
    let sessions =
        json!({"by": "lag", "total": 1, "workers_missing": [0, 2], "sessions": [session("asha", 1.0, json!(null))]});
    view.seen(Look::read(Instant::now(), metrics(1), &sessions.to_string(), "{}", "{}"));
    let screen = view.lines(80, 50).join("\n");
    assert!(screen.contains("no answer from worker 0, 2: its sessions are not in the table"), "{screen}");
    assert!(screen.contains("120us ?\n  its receive window"), "{screen}");
}

#[test]
fn numbers_and_times_fit_their_columns() {
    for (n, want) in [
        (0.0, "0"),
        (9999.4, "9999"),
        (9999.9, "10000"),
        (10_000.0, "10.0k"),
        (99_949.0, "99.9k"),
        (99_951.0, "100k"),
        (999_499.0, "999k"),
        (999_501.0, "1.0M"),
        (250e6, "250M"),
        (4e9, "4.0G"),
    ] {
        assert_eq!(short(n), want);
    }
    for (time, want) in [
        (0.0, "0us"),
        (0.00012, "120us"),
        (0.0025, "2.5ms"),
        (0.25, "250ms"),
        (1.0, "1.0s"),
        (999.9, "999.9s"),
        (1000.0, "17m"),
        (90_000.0, "25.0h"),
    ] {
        assert_eq!(seconds(time), want);
    }
    for (n, want) in [(0.0, "0"), (999.0, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
        assert_eq!(count(n), want);
    }
}

#[test]
fn a_quantile_is_of_what_came_between_two_looks() {
    let edges = |counts: [f64; 3]| [(0.1, counts[0]), (0.2, counts[1]), (f64::INFINITY, counts[2])];
    let old = edges([1000.0, 1000.0, 1000.0]);
    assert_eq!(quantile(0.5, &old, &edges([1000.0, 1100.0, 1100.0])), Some(0.15000000000000002));
    assert_eq!(quantile(0.99, &old, &edges([1000.0, 1000.0, 1001.0])), Some(0.2), "above the last edge, that edge");
    assert_eq!(quantile(0.99, &old, &old), None, "nothing came");
    assert_eq!(quantile(0.99, &[], &[]), None);
    assert_eq!(quantile(1.0, &[], &edges([5.0, 5.0, 5.0])), Some(0.1));
}
