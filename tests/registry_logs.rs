//! What the registry logs (RC-003): a refused, failed or hanging subscribe never logs success; and what a slow lock logs.
//!
//! A binary of its own with one subscriber for the whole process: `tracing` caches per call site whether anybody listens, for all
//! threads together, so subscribers of single tests beside tests without one lose lines now and then.

mod world;

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tickcast::adapter::scripted::Play;
use tickcast::shards::lock::{LockName, TimedLock};
use world::world;

/// Collects what `tracing` writes in this process.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// What all tests of this process share.
    fn start() -> Self {
        static SHARED: OnceLock<Captured> = OnceLock::new();
        SHARED.get_or_init(Captured::subscribe).clone()
    }

    fn subscribe() -> Self {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("the only one of this process");
        captured
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic while held").clone()).expect("text")
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while held").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn rc_003_a_refused_failed_or_hanging_subscribe_logs_no_success_and_an_accepted_one_does() {
    let log = Captured::start();
    let w = world();
    let m = w.attach(1, "asha").await;
    w.script.calls([Play::Refuse("no".into()), Play::Fail("the true cause".into()), Play::Hold]);
    w.subscribe(&m, 1, "REFUSED").await.expect_err("refused");
    let (_, message) = w.subscribe(&m, 1, "FAILED").await.expect_err("failed");
    w.subscribe(&m, 1, "HANGS").await.expect_err("no answer");
    let text = log.text();
    for success in ["first-in", "joined", "accepted", "replayed"] {
        assert!(!text.contains(success), "{success} in\n{text}");
    }
    assert_eq!(text.matches("rolled back").count(), 3, "{text}");
    let id = message.split("(ref ").nth(1).and_then(|s| s.strip_suffix(')')).expect("a correlation id");
    let line = text.lines().find(|l| l.contains(id)).expect("the id is in the log");
    assert!(line.contains("the true cause"), "{line}");
    assert!(!message.contains("the true cause"));
    w.subscribe(&m, 1, "SBIN").await.expect("accepted");
    assert!(log.text().contains("first-in"));
}

#[test]
fn a_lock_held_over_its_limit_is_named_with_shard_times_and_call_site_once_a_minute() {
    let log = Captured::start();
    let lock = TimedLock::new(LockName::Subscription, Some(17), Duration::from_millis(1), ());
    for _ in 0..3 {
        lock.with(|()| {
            let from = Instant::now();
            while from.elapsed() < Duration::from_millis(2) {
                std::hint::spin_loop();
            }
        });
    }
    let text = log.text();
    let lines: Vec<&str> =
        text.lines().filter(|line| line.contains("a lock was waited for or held for long")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    for part in ["WARN", "lock=\"subscription\"", "shard=17", "wait=0ns", " hold=", "site=tests/registry_logs.rs:"] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
}
