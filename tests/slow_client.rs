//! One client that stops reading delays nobody, costs bounded memory, and gets newest values when it reads again.
//!
//! 2000 ticks a second to 51 clients. The others' latency with and without it is `cargo run --release -p loadtest -- slow`.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{Client, Got, PATIENCE, Server, process::resident};
use tickcast::app::{ForcedFacts, Hooks};
use tickcast::config::Settings;
use tickcast::policy::overload::Facts;

const HEALTHY: usize = 50;
const SYMBOLS: usize = 20;
const TICKS: usize = 10_000;
const PER_SECOND: usize = 2000;
/// Ticks of one burst: one each 10 ms.
const BURST: usize = PER_SECOND / 100;
/// Ticks that a healthy client of this test may lack before the publisher waits for it: the test is about the one that stalls,
/// not about how fast fifty readers are on a busy machine. They fit into `send_buffer_bytes`, so no healthy one falls behind.
const SLACK: usize = 60;

fn symbols() -> Vec<String> {
    (0..SYMBOLS).map(|n| format!("S{n}")).collect()
}

/// Reads all ticks and checks that none is missing: prices count up over all symbols.
fn read_all(client: &mut Client, seen: &AtomicUsize) {
    for wanted in 1..=TICKS {
        let tick = match client.next() {
            Got::Json(tick) => tick,
            other => panic!("{other:?} instead of tick {wanted}"),
        };
        assert_eq!(tick["data"]["ltp"], json!(wanted), "a tick is missing: {tick}");
        seen.store(wanted, Ordering::Release);
    }
}

#[test]
fn a_client_that_stops_reading_costs_fifty_others_no_tick_and_gets_the_newest_values_later() {
    let change = |s: &mut Settings| {
        s.fanout.send_buffer_bytes = 16 << 10;
        s.limits.ping_interval = Duration::ZERO;
    };
    // A machine that is busy with other things would be an overload, in which everybody's ticks merge.
    let calm = ForcedFacts { facts: Arc::new(Facts::default), every: Duration::from_secs(1) };
    let server = Server::with_hooks(change, Hooks { overload: Some(calm), ..Default::default() });
    let mut publisher = server.publisher();
    let names = symbols();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let subscribed = || {
        let mut client = server.client();
        client.subscribe(&names, 1);
        client
    };
    let mut stalled = subscribed();
    let mut healthy: Vec<_> = (0..HEALTHY).map(|_| subscribed()).collect();
    let seen: Vec<AtomicUsize> = (0..HEALTHY).map(|_| AtomicUsize::new(0)).collect();
    let before = resident("self");
    std::thread::scope(|scope| {
        for (client, seen) in healthy.iter_mut().zip(&seen) {
            scope.spawn(move || read_all(client, seen));
        }
        let started = Instant::now();
        for burst in 0..TICKS / BURST {
            let first = burst * BURST + 1;
            publisher.batch_counting(&names, first..first + BURST);
            let due = started + Duration::from_millis(10 * (burst as u64 + 1));
            std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
            let patience = Instant::now() + PATIENCE;
            while seen.iter().any(|n| n.load(Ordering::Acquire) + SLACK < first) {
                assert!(Instant::now() < patience, "the others stand still at tick {first}");
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    });
    // It has been behind for long, yet what waits for it is small: one mark a symbol, and what the kernel would not take of one write.
    let merged = server.metric("tickcast_ticks_merged_total", &["where=\"session\""]);
    assert!(merged > 1000.0, "only {merged} ticks were merged: it never fell behind");
    server.await_metric("tickcast_sessions_lagging", &[], 1.0);
    let waiting = server.metric("tickcast_outbox_bytes", &[]);
    assert!(waiting < 65536.0, "{waiting} bytes wait for the one that does not read");
    let grown = resident("self").saturating_sub(before);
    // Server and 51 clients together: thread stacks and read buffers of the test make nearly all of it.
    assert!(grown < 64 << 20, "resident memory grew by {grown} bytes");
    let (got, newest) = catch_up(&mut stalled);
    println!("{got} of {TICKS} ticks reached the stalled client, {merged} were merged, {waiting} bytes waited");
    assert!(got < TICKS, "it got everything: it was never behind");
    let last: Vec<usize> = (0..SYMBOLS).map(|n| TICKS - SYMBOLS + 1 + n).collect();
    assert_eq!(newest, last, "the newest value of every symbol");
    assert!(stalled.settled().is_empty());
    server.await_metric("tickcast_sessions_lagging", &[], 0.0);
    server.await_metric("tickcast_outbox_bytes", &[], 0.0);
    publisher.batch_counting(&names, TICKS + 1..TICKS + 2);
    assert_eq!(stalled.tick()["data"]["ltp"], json!(TICKS + 1), "and live again");
}

/// Reads until the newest price of each symbol has come: how many ticks that took, and those prices by symbol.
fn catch_up(client: &mut Client) -> (usize, Vec<usize>) {
    let mut newest = vec![0; SYMBOLS];
    let mut got = 0;
    while newest.iter().any(|price| *price <= TICKS - SYMBOLS) {
        let tick: Value = client.tick();
        got += 1;
        let number = |text: &str| text[1..].parse::<usize>().expect("a number");
        let symbol = number(tick["symbol"].as_str().expect("a symbol"));
        let price = tick["data"]["ltp"].as_f64().expect("a price") as usize;
        assert!(price > newest[symbol], "{price} after {}", newest[symbol]);
        newest[symbol] = price;
    }
    (got, newest)
}
