//! Invented names cost nothing for long: topics of a publisher, and symbols that a client subscribes to and drops.
//!
//! In the test run a tenth: 500,000 topics and 100,000 symbols against a limit of 20,000 instruments. The full counts, 5 million and
//! 1 million against the default limit of 200,000: `FULL=1 cargo test --release --test floods -- --nocapture`.
//! Both are the same test: memory is measured once the instruments' limit has been met twice over (until then it may grow, by
//! intent), and again at the end. The server is a process of its own, so that its memory is its alone.

mod support;

use bytes::BytesMut;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;
use support::process::Process;
use support::{Client, PATIENCE};
use tickcast::zmtp::parser;

/// What may come and go between two measurements, whatever the count: a hash table that doubles once because of its tombstones, the
/// allocator's arenas, and histogram samples, which are kept until the recorder is drained every few seconds (so the faster the flood,
/// the more). Steps of 1 to 16 MiB were seen after 60,000 names, 1 MiB after 600,000. The full run would find 42 bytes kept for a name.
const NOISE_BYTES: usize = 24 << 20;
/// Items of one BATCH, and entries of one request.
const BATCH: usize = 1000;

struct Scale {
    topics: usize,
    symbols: usize,
    instruments: usize,
}

fn scale() -> Scale {
    if std::env::var_os("FULL").is_some() {
        Scale { topics: 5_000_000, symbols: 1_000_000, instruments: 200_000 }
    } else {
        Scale { topics: 500_000, symbols: 100_000, instruments: 20_000 }
    }
}

fn server(scale: &Scale) -> Process {
    let instruments = format!("limits.instruments={}", scale.instruments);
    Process::start(&[&instruments, "limits.commands_per_second=1000000", "limits.commands_burst=1000000"])
}

/// Calls `step` with the first number of each batch and says what memory did from two times the limit on.
fn flat_memory(what: &str, server: &Process, count: usize, instruments: usize, mut step: impl FnMut(usize)) {
    let started = Instant::now();
    let first = server.rss();
    let settled_at = (2 * instruments).next_multiple_of(BATCH);
    assert!(settled_at < count, "there is something left to measure");
    (0..settled_at).step_by(BATCH).for_each(&mut step);
    let settled = server.rss();
    let middle = (settled_at + (count - settled_at) / 2).next_multiple_of(BATCH);
    (settled_at..middle).step_by(BATCH).for_each(&mut step);
    let halfway = server.rss();
    (middle..count).step_by(BATCH).for_each(&mut step);
    let last = server.rss();
    println!(
        "{count} {what}: RSS {} KiB at the start, {} KiB after {settled_at}, {} KiB after {middle}, {} KiB at the end; {:.1} s",
        first >> 10,
        settled >> 10,
        halfway >> 10,
        last >> 10,
        started.elapsed().as_secs_f64()
    );
    assert!(last < settled + NOISE_BYTES, "resident memory grew from {settled} to {last} bytes");
}

#[test]
fn a_publisher_that_invents_topics_leaves_memory_flat() {
    let scale = scale();
    let server = server(&scale);
    let mut publisher = server.publisher();
    let mut body = String::new();
    flat_memory("topics", &server, scale.topics, scale.instruments, |first| {
        body.clear();
        for n in first..first + BATCH {
            let before = if n == first { '[' } else { ',' };
            write!(body, "{before}[\"NSE_INVENTED{n:08}_LTP\",{{\"ltp\":{n}}}]").expect("memory takes every write");
        }
        body.push(']');
        let mut out = BytesMut::new();
        parser::message(&[b"BATCH", body.as_bytes()], &mut out);
        publisher.tcp.write_all(&out).expect("sent");
        // The source's queue is bounded too; not to overflow it is part of the load, not of what is shown.
        let sent = first + BATCH;
        if sent.is_multiple_of(20 * BATCH) || sent == scale.topics {
            server.await_metric("tickcast_ticks_received_total", &[], |n| n as usize == sent);
        }
    });
    assert_eq!(server.metric("tickcast_bus_rejected_total", &[]), 0.0, "all of them were taken");
    server.await_metric("tickcast_shard_ticks_total", &[], |n| n as usize == scale.topics);
    // The newest are known, the oldest forgotten.
    let mut client = authenticated(&server);
    let (newest, oldest) = (format!("INVENTED{:08}", scale.topics - 1), format!("INVENTED{:08}", 0));
    client.subscribe(&[&newest, &oldest], 1);
    let ticks = client.settled();
    assert_eq!(ticks.iter().map(|t| t["symbol"].as_str().expect("a symbol")).collect::<Vec<_>>(), [&newest]);
}

#[test]
fn a_client_that_subscribes_to_invented_symbols_and_drops_them_leaves_memory_flat() {
    let scale = scale();
    let server = server(&scale);
    let mut client = authenticated(&server);
    flat_memory("symbols", &server, scale.symbols, scale.instruments, |first| {
        let symbols: Vec<Value> =
            (first..first + BATCH).map(|n| json!({"symbol": format!("INVENTED{n:08}"), "exchange": "NSE"})).collect();
        for action in ["subscribe", "unsubscribe"] {
            let ack = client.request(json!({"action": action, "symbols": symbols, "mode": 1}));
            assert_eq!((&ack["type"], &ack["status"]), (&json!(action), &json!("success")), "{ack}");
        }
    });
    for name in ["tickcast_subscriptions_active", "tickcast_shard_subscriptions"] {
        server.await_metric(name, &[], |n| n == 0.0);
    }
    assert_eq!(server.metric("tickcast_subscription_errors_total", &[]), 0.0);
}

fn authenticated(server: &Process) -> Client {
    let mut client = Client::connect(server.ws);
    client.tcp.set_read_timeout(Some(6 * PATIENCE)).expect("a timeout");
    let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    assert_eq!(reply["type"], "auth", "{reply}");
    client
}
