//! Registered publishers as processes of their own: the test binary started again, as `examples/register_publisher.rs`.
//!
//! Each test file that uses it has the ignored test [`CHILD`], which calls [`publish`].
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

#[path = "../../examples/register_publisher.rs"]
mod example;

use crate::process::{self, PATIENCE, Running};
use serde_json::Value;
use std::process::ChildStdin;
use std::time::{Duration, Instant};

/// The ignored test that is a publisher; in a module of one file's.
pub const CHILD: &str = "publisher_process";

/// What the child does: publishes until it is killed or its stdin ends.
pub fn publish() {
    example::told(example::run(process::words()));
}

/// A publisher process, perhaps not ready yet; killed when dropped.
pub struct Publisher {
    pub process: Running,
    stdin: Option<ChildStdin>,
}

impl Publisher {
    /// Starts one with the words of the example.
    pub fn start(words: &[&str]) -> Self {
        let (process, stdin) = process::again(CHILD, words);
        Publisher { process, stdin: Some(stdin) }
    }

    /// Where it publishes, once it has registered.
    pub fn endpoint(&mut self) -> String {
        loop {
            let line = self.process.line();
            if let Some((_, endpoint)) = line.split_once("ready ") {
                return endpoint.to_owned();
            }
        }
    }

    /// Ends it in order.
    pub fn finish(mut self) {
        drop(self.stdin.take());
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{}", self.process.stderr());
    }
}

/// `tcp://127.0.0.1:PORT` with a port that nobody has now; for publishers, who slide when it is taken meanwhile.
pub fn somewhere() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    // Room above it for those that slide.
    format!("tcp://127.0.0.1:{}", port.min(65_000))
}

/// Waits for `holds` for at most `limit` from `since`, and gives how long it took from then.
pub fn within(limit: Duration, since: Instant, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    while !holds() {
        assert!(since.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    since.elapsed()
}

/// The prices of `symbol` among these ticks, each one more than the one before.
pub fn assert_gapless<'a>(ticks: impl IntoIterator<Item = &'a Value>, symbol: &str) -> u64 {
    let mut last = None;
    for tick in ticks.into_iter().filter(|tick| tick["symbol"] == symbol) {
        let price = tick["data"]["ltp"].as_u64().expect("a whole price");
        assert!(last.is_none_or(|last| price == last + 1), "{symbol}: {price} after {last:?}");
        last = Some(price);
    }
    last.unwrap_or_else(|| panic!("no tick of {symbol}"))
}
