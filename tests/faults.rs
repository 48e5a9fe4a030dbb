//! What goes wrong between processes, done to real ones: `kill -9` of broker, adapter process and server, a stopped publisher, a network
//! that drops everything for seconds. Each time ticks resume within 3 s of the path being back, clients do nothing, the far end holds
//! exactly what is wanted, counters show it, and no descriptor stays. More of `kill -9`: `tests/discovery.rs`.

mod process;
mod publishers;
mod standin;
mod support;

#[path = "faults/brokers.rs"]
mod brokers;
#[path = "faults/bus.rs"]
mod bus;
#[path = "faults/control.rs"]
mod control;

use process::{Running, Server, again};
use publishers::within;
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use support::Client;

/// Ticks are back this soon after their way is.
const BACK: Duration = Duration::from_secs(3);
const CUT: Duration = Duration::from_secs(5);

fn client(server: &Server, key: &str) -> Client {
    let mut client = Client::connect(server.ws);
    let reply = client.request(json!({"action": "authenticate", "api_key": key}));
    assert_eq!(reply["type"], "auth", "{reply}");
    client
}

/// Lets a path be cut for so long.
fn rest(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Waits until a price that is said from now on reaches the client, which sends nothing but a ping: at most [`BACK`] from `since`.
fn ticks_resume(client: &mut Client, since: Instant, mut say: impl FnMut(i32)) {
    static PRICE: AtomicI32 = AtomicI32::new(100_000);
    let from = f64::from(PRICE.fetch_add(1, Ordering::SeqCst));
    let took = within(BACK, since, "ticks resume", || {
        say(PRICE.fetch_add(1, Ordering::SeqCst));
        let is_it = |tick: &Value| tick["data"]["ltp"].as_f64().is_some_and(|ltp| (ltp * 100.0).round() > from);
        client.settled().iter().any(is_it)
    });
    println!("ticks were back after {took:?}");
}

/// No more descriptors than before, once those of ended connections are closed.
fn nothing_is_left(server: &Server, before: usize) {
    server.await_that(&format!("{before} descriptors again"), || server.process.fds() <= before);
}

/// A child that takes orders line by line.
struct Child {
    process: Running,
    stdin: ChildStdin,
    /// What it said after `ready`.
    ready: String,
}

impl Child {
    fn start(name: &str, words: &[&str]) -> Self {
        let (process, stdin) = again(name, words);
        let mut child = Child { process, stdin, ready: String::new() };
        child.ready = child.answer("ready ");
        child
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the child lives");
    }

    /// The next line with `head` in it, without that.
    fn answer(&mut self, head: &str) -> String {
        loop {
            if let Some((_, rest)) = self.process.line().split_once(head) {
                return rest.to_owned();
            }
        }
    }

    fn held(&mut self) -> Value {
        self.tell("held");
        serde_json::from_str(&self.answer("held ")).expect("JSON")
    }
}

/// A path's end as an endpoint of the bus.
fn endpoint(at: SocketAddr) -> String {
    format!("tcp://{at}")
}

/// The address in `tcp://…`.
fn address(endpoint: &str) -> SocketAddr {
    endpoint.strip_prefix("tcp://").expect("tcp").parse().expect("an address")
}

/// A whole price.
fn price_of(tick: &Value) -> Option<u64> {
    tick["data"]["ltp"].as_f64().map(|price| price as u64)
}

/// Waits for another price of `symbol` than `last`, of a publisher that counts up: at most [`BACK`] from `since`. The newest.
fn counting_goes_on(client: &mut Client, since: Instant, symbol: &str, last: u64) -> u64 {
    let mut newest = last;
    within(BACK, since, "the publisher is heard", || {
        let ticks = client.settled();
        let mut prices = ticks.iter().filter(|t| t["symbol"] == symbol).filter_map(price_of);
        newest = prices.next_back().unwrap_or(newest);
        newest != last
    });
    newest
}
