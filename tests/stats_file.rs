//! OpenAlgo's stats file, as its Health page reads it: shape, numbers, and never half of one.

mod process;
mod support;

use process::Folder;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::world::{FakeBroker, Keys};
use support::{PATIENCE, Server};
use tickcast::app::Hooks;

/// A server that replaces the file at `path` every 5 ms.
fn server(path: &Path, change: impl FnOnce(&mut tickcast::config::Settings)) -> Server {
    let factory: Option<Arc<dyn tickcast::adapter::AdapterFactory>> = Some(Arc::new(FakeBroker::default()));
    let hooks = Hooks { factory, stats_every: Some(Duration::from_millis(5)), ..Default::default() };
    let set = |settings: &mut tickcast::config::Settings| {
        settings.admin.stats_file = Some(path.to_owned());
        change(settings);
    };
    Server::with_hooks(set, hooks)
}

/// Reads the file until it says all of `want`; whatever is read on the way must be whole.
fn await_stats(path: &Path, want: &Value) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            let stats: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
            if want.as_object().expect("an object").iter().all(|(key, value)| stats[key] == *value) {
                return stats;
            }
        }
        assert!(Instant::now() < deadline, "{:?} is not {want}", std::fs::read_to_string(path));
        std::thread::yield_now();
    }
}

#[test]
fn the_stats_file_counts_adapters_symbols_and_clients_with_one_broker_a_user() {
    let folder = Folder::new("stats-counts");
    let path = folder.0.join("ws_proxy_stats.json");
    let keys = Keys::new(&[("asha", "angel"), ("bela", "angel"), ("carl", "zerodha")]);
    let server = server(&path, |settings| keys.set(settings));
    let stats = await_stats(&path, &json!({"clients_connected": 0}));
    assert_eq!(
        support::world::keys(&stats),
        ["brokers", "clients_connected", "timestamp", "total_connections", "total_symbols"]
    );
    assert_eq!((&stats["total_connections"], &stats["total_symbols"]), (&json!(0), &json!(0)), "{stats}");

    let mut clients: Vec<_> = ["asha", "bela", "carl", "carl"].iter().map(|user| server.client_of(user)).collect();
    // Two users with the same symbol and mode count once; another mode counts again.
    clients[0].subscribe(&["INFY", "TCS"], 1);
    clients[1].subscribe(&["INFY"], 1);
    clients[2].subscribe(&["INFY"], 2);
    let want = json!({"total_connections": 3, "total_symbols": 3, "clients_connected": 4});
    let stats = await_stats(&path, &want);
    let mut brokers: Vec<_> = stats["brokers"].as_array().expect("a list").iter().map(|b| b.as_str()).collect();
    brokers.sort_unstable();
    assert_eq!(brokers, [Some("angel"), Some("angel"), Some("zerodha")]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let age = now - stats["timestamp"].as_f64().expect("seconds as a float");
    assert!((0.0..60.0).contains(&age), "readers ignore what is older than a minute: {age} s");

    drop(clients);
    await_stats(&path, &json!({"total_symbols": 0, "clients_connected": 0}));
    assert!(server.stop(), "a thread did not end in time");
    let left: Vec<_> = std::fs::read_dir(&folder.0).expect("ours").map(|e| e.expect("ours").file_name()).collect();
    assert_eq!(left, ["ws_proxy_stats.json"], "no draft is left behind");
}

#[test]
fn a_folder_that_is_missing_ends_nothing_and_is_tried_again() {
    let folder = Folder::new("stats-missing");
    let path = folder.0.join("later/ws_proxy_stats.json");
    let server = server(&path, |_| {});
    server.client();
    assert!(!path.exists());
    std::fs::create_dir(folder.0.join("later")).expect("made");
    await_stats(&path, &json!({"clients_connected": 0}));
}
