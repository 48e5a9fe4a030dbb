//! The audit's broadcast storm: 10,000 bus messages a second for five seconds while subscriptions change all the while.
//!
//! Prices count each symbol's messages up, so a client sees what it missed: values of a subscription only grow, none comes before
//! its acknowledgement or after that of its end, and the last one arrives. Without a merge (counted) nothing may be missing at all.

mod support;

use bytes::BytesMut;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Client, Got, Server};
use tickcast::zmtp::parser;

const MESSAGES: usize = 50_000;
const PER_SECOND: usize = 10_000;
const SYMBOLS: usize = 50;
const CLIENTS: u64 = 12;
/// The price of every symbol after the storm.
const LAST: u64 = (MESSAGES / SYMBOLS + 1) as u64;
/// Messages written at once: one each millisecond.
const BURST: usize = PER_SECOND / 1000;

/// What one client holds and has seen.
struct Watcher {
    client: Client,
    /// Last price of each symbol held; 0 before the first.
    held: HashMap<String, u64>,
    ticks: usize,
    /// Prices that never came.
    missing: u64,
    commands: usize,
}

impl Watcher {
    fn new(client: Client) -> Self {
        Watcher { client, held: HashMap::new(), ticks: 0, missing: 0, commands: 0 }
    }

    /// Checks ticks until something else arrives, or `enough` ticks have.
    fn read(&mut self, enough: usize) -> Option<Value> {
        for _ in 0..enough {
            let value = match self.client.next() {
                Got::Json(value) => value,
                Got::Ping(payload) => {
                    self.client.frame(0x8a, &payload);
                    continue;
                }
                other => panic!("the server ended the connection: {other:?}"),
            };
            if value["type"] != "market_data" {
                return Some(value);
            }
            self.ticks += 1;
            let symbol = value["symbol"].as_str().expect("a symbol");
            let price = value["data"]["ltp"].as_f64().expect("a price") as u64;
            let last = self.held.get_mut(symbol).unwrap_or_else(|| panic!("a tick of what is not held: {value}"));
            assert!(price > *last, "{symbol}: {price} after {last}");
            if *last > 0 {
                self.missing += price - *last - 1;
            }
            *last = price;
        }
        None
    }

    fn command(&mut self, action: &str, symbol: &str) {
        self.client.send(json!({"action": action, "symbol": symbol, "exchange": "NSE", "mode": 1}));
        let reply = loop {
            if let Some(reply) = self.read(usize::MAX) {
                break reply;
            }
        };
        assert_eq!((&reply["type"], &reply["status"]), (&json!(action), &json!("success")), "{reply}");
        self.commands += 1;
    }

    /// Changes subscriptions until the storm is over, then waits for the last price of all that is held.
    fn run(&mut self, seed: u64, over: &AtomicBool) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let keep = format!("S{}", seed as usize % SYMBOLS);
        self.command("subscribe", &keep);
        self.held.insert(keep.clone(), 0);
        while !over.load(Ordering::Acquire) {
            let pause = rng.random_range(1..20);
            for _ in 0..pause {
                if !over.load(Ordering::Acquire) {
                    assert!(self.read(1).is_none(), "nothing but ticks is due");
                }
            }
            let symbol = format!("S{}", rng.random_range(0..SYMBOLS));
            if symbol == keep {
                continue;
            }
            if self.held.contains_key(&symbol) {
                self.command("unsubscribe", &symbol);
                self.held.remove(&symbol);
            } else if self.held.len() < 6 {
                self.command("subscribe", &symbol);
                // From its acknowledgement on: a tick before that one would have been refused above.
                self.held.insert(symbol, 0);
            }
        }
        while self.held.values().any(|price| *price < LAST) {
            assert!(self.read(1).is_none(), "nothing but ticks is due");
        }
        assert_eq!(self.client.settled(), Vec::<Value>::new(), "nothing comes after the last price");
    }
}

#[test]
fn in_a_broadcast_storm_every_client_gets_every_tick_of_its_instruments_or_the_merged_newest_one() {
    let server = Server::start(|s| (s.limits.commands_per_second, s.limits.commands_burst) = (1_000_000, 1_000_000));
    let mut publisher = server.publisher();
    let over = AtomicBool::new(false);
    let mut watchers: Vec<_> = (0..CLIENTS).map(|_| Watcher::new(server.client())).collect();
    std::thread::scope(|scope| {
        for (watcher, seed) in watchers.iter_mut().zip(0..) {
            let over = &over;
            scope.spawn(move || watcher.run(seed, over));
        }
        let started = Instant::now();
        for burst in 0..MESSAGES / BURST {
            let mut out = BytesMut::new();
            for n in burst * BURST..(burst + 1) * BURST {
                let topic = format!("NSE_S{}_LTP", n % SYMBOLS);
                let body = format!("{{\"ltp\":{}}}", n / SYMBOLS + 1);
                parser::message(&[topic.as_bytes(), body.as_bytes()], &mut out);
            }
            publisher.tcp.write_all(&out).expect("sent");
            let due = started + Duration::from_millis(burst as u64 + 1);
            std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        }
        over.store(true, Ordering::Release);
        // One more round: whoever waits for a tick right now gets it, and then sees that it is over.
        let last: Vec<_> = (0..SYMBOLS).map(|n| (format!("S{n}"), LAST as f64)).collect();
        publisher.batch(last.iter().map(|(symbol, price)| (symbol.as_str(), *price)));
    });
    assert_eq!(server.metric("tickcast_ticks_received_total", &[]) as usize, MESSAGES + SYMBOLS);
    let merged = server.metric("tickcast_ticks_merged_total", &[]);
    let (ticks, missing) = watchers.iter().fold((0, 0), |sum, w| (sum.0 + w.ticks, sum.1 + w.missing));
    let commands: usize = watchers.iter().map(|w| w.commands).sum();
    println!(
        "{ticks} ticks to {CLIENTS} clients, {commands} subscription changes, {missing} prices missing, {merged} merged"
    );
    assert!(merged > 0.0 || missing == 0, "{missing} prices are missing, but nothing was merged");
    assert!(commands > 200, "subscriptions changed {commands} times only");
    for (name, parts) in [
        ("tickcast_bus_rejected_total", &[][..]),
        ("tickcast_subscription_errors_total", &[]),
        ("tickcast_subscription_drift", &[]),
        ("tickcast_subscription_events_total", &["event=\"rolled_back\""]),
    ] {
        assert_eq!(server.metric(name, parts), 0.0, "{name}");
    }
    assert!(server.stop());
}
