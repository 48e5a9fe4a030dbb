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
            .with_thread_names(true)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).expect("the only one of this process");
        captured
    }

    /// The lines of the test that asks: its thread has its name, and everything of it runs there.
    fn text(&self) -> String {
        let all = String::from_utf8(self.0.lock().expect("no panic while held").clone()).expect("text");
        let thread = std::thread::current();
        let own = thread.name().expect("a test's thread has its name");
        all.lines().filter(|line| line.contains(own)).map(|line| line.replace(own, "") + "\n").collect()
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

#[tokio::test(start_paused = true)]
async fn references_of_a_flood_of_faults_are_all_in_the_log_and_only_the_first_hundred_of_a_minute_above_debug() {
    let log = Captured::start();
    let w = world();
    let m = w.attach(1, "asha").await;
    let mut references = Vec::new();
    for n in 0..150 {
        w.script.calls([Play::Fail("the broker is down".into())]);
        let (_, message) = w.subscribe(&m, 1, &format!("S{n}")).await.expect_err("failed");
        references
            .push(message.split("(ref ").nth(1).and_then(|s| s.strip_suffix(')')).expect("a reference").to_owned());
    }
    let text = log.text();
    let faults: Vec<&str> = text.lines().filter(|line| line.contains("broker fault")).collect();
    for reference in references {
        assert!(faults.iter().any(|line| line.contains(&reference)), "{reference}");
    }
    let warnings = faults.iter().filter(|line| line.contains(" WARN ")).count();
    assert!((90..=100).contains(&warnings), "{warnings}: the other test of this process may have written a few");
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
