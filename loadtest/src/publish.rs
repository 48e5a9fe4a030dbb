//! The publisher's thread: ticks whose last price is the nanosecond at which they were published.
//!
//! In: where, what, how fast. Out: how many ticks each symbol got, and each one's last. Before the measurement it sends probes
//! (price 0) until told that every client has seen one: a publisher cannot know when a subscription has arrived.

use crate::Failure;
use std::time::{Duration, Instant};
use tickcast::adapter::publisher::{BatchLimits, BatchPublisher, Config, Publish};
use tickcast::zmtp::Direction;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

/// How often probes are sent.
const PROBE_PERIOD: Duration = Duration::from_millis(50);
/// Ticks are due this often; each time as many as the rate demands.
const PERIOD: Duration = Duration::from_millis(1);

pub(crate) struct Plan {
    pub(crate) endpoint: String,
    /// All times count from here.
    pub(crate) epoch: Instant,
    pub(crate) universe: u32,
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
    pub(crate) batch: u32,
}

/// What was published, by symbol.
pub(crate) struct Published {
    pub(crate) ticks: Vec<u64>,
    pub(crate) last: Vec<u64>,
    pub(crate) dropped: u64,
    pub(crate) took: Duration,
}

/// Probes until `go`, then publishes as planned.
pub(crate) async fn run(plan: Plan, mut go: oneshot::Receiver<()>) -> Result<Published, String> {
    let limits = BatchLimits { items_max: plan.batch as usize, ..BatchLimits::default() };
    let endpoint = plan.endpoint.parse().map_err(|e| format!("{}: {e}", plan.endpoint))?;
    let config = Config { endpoint, direction: Direction::Connect, limits, queue_bytes_max: 64 << 20 };
    let (publisher, task, _) = BatchPublisher::start(config).await.map_err(|e| e.to_string())?;
    let topics: Vec<String> = (0..plan.universe).map(|n| format!("NSE_{}_LTP", symbol(n))).collect();
    let mut probes = interval(PROBE_PERIOD);
    loop {
        tokio::select! {
            told = &mut go => match told {
                Ok(()) => break,
                Err(_) => return Err("the clients gave up".into()),
            },
            _ = probes.tick() => {
                for topic in &topics {
                    let _lost_probe = publisher.publish(topic, &payload(0));
                }
            }
        }
    }
    let mut published =
        Published { ticks: vec![0; topics.len()], last: vec![0; topics.len()], dropped: 0, took: Duration::ZERO };
    let total = u64::from(plan.rate) * u64::from(plan.seconds);
    let mut due = interval(PERIOD);
    due.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let started = Instant::now();
    let mut sent = 0;
    while sent < total {
        due.tick().await;
        let until = (started.elapsed().as_nanos() * u128::from(plan.rate) / 1_000_000_000) as u64;
        for n in sent..until.min(total) {
            let at = (n % topics.len() as u64) as usize;
            let now = plan.epoch.elapsed().as_nanos() as u64;
            if publisher.publish(&topics[at], &payload(now)) == Publish::Queued {
                published.ticks[at] += 1;
                published.last[at] = now;
            }
        }
        sent = sent.max(until.min(total));
    }
    published.took = started.elapsed();
    published.dropped = publisher.dropped();
    task.shutdown().await;
    Ok(published)
}

/// Runs it on a thread with a runtime of its own; the answer comes through the channel.
pub(crate) fn spawn(
    plan: Plan,
    go: oneshot::Receiver<()>,
) -> Result<oneshot::Receiver<Result<Published, String>>, Failure> {
    let (done, answer) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("publisher".into()).spawn(move || {
        // Nobody waits any more when the clients have failed.
        let _ = done.send(runtime.block_on(run(plan, go)));
    })?;
    Ok(answer)
}

/// The name of symbol `n`.
pub(crate) fn symbol(n: u32) -> String {
    format!("L{n:05}")
}

/// The MessagePack map `{"ltp": ns}`.
fn payload(ns: u64) -> [u8; 14] {
    let mut out = *b"\x81\xa3ltp\xcf\0\0\0\0\0\0\0\0";
    out[6..].copy_from_slice(&ns.to_be_bytes());
    out
}
