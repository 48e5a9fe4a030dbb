//! OpenAlgo's stats file: what its Health page shows of a WebSocket proxy that is a process of its own.
//!
//! In: the registry's tables, the workers' counts. Out: one JSON object at `admin.stats_file`, replaced whole every 10 s, so that a
//! reader never sees half of one; readers take a file older than a minute for a dead proxy. A disk that hangs or is full delays nobody
//! and costs one warning. Runs on the upkeep thread, writes on one of its own. Tests: `tests/stats_file.rs`.

use crate::engine::metrics::WorkerStats;
use crate::model::Micros;
use crate::registry::Registry;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fs, io};

/// Between two versions.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// What is written, and where.
pub(super) struct StatsFile {
    /// `None`: nothing is written.
    pub(super) path: Option<PathBuf>,
    pub(super) every: Duration,
    pub(super) registry: Arc<Registry>,
    pub(super) workers: Vec<Arc<WorkerStats>>,
}

impl StatsFile {
    /// Runs for ever; its thread drops it at the end.
    pub(super) async fn run(self) {
        let Some(path) = self.path.clone() else { return };
        let mut periods = tokio::time::interval(self.every);
        periods.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            periods.tick().await;
            let (to, text) = (path.clone(), self.snapshot());
            let written = tokio::task::spawn_blocking(move || replace(&to, &text)).await;
            let written = written.unwrap_or_else(|fault| Err(io::Error::other(fault)));
            match &written {
                Err(error) if !fails => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "the stats file (admin.stats_file) cannot be written; trying on");
                }
                Ok(()) if fails => tracing::info!(path = %path.display(), "the stats file is written again"),
                _ => {}
            }
            fails = written.is_err();
        }
    }

    fn snapshot(&self) -> String {
        let feeds = self.registry.feeds();
        // A user without an adapter has no connection to show.
        let adapters = feeds.iter().filter(|feed| feed.state.label().is_some());
        let brokers: Vec<&str> = adapters.map(|feed| &*feed.broker).collect();
        let sessions: usize = self.workers.iter().map(|stats| stats.sessions.load(Ordering::Relaxed)).sum();
        serde_json::json!({
            "timestamp": Micros::now().0 as f64 / 1e6,
            "total_connections": brokers.len(),
            "total_symbols": self.registry.distinct_keys(),
            "clients_connected": sessions,
            "brokers": brokers,
        })
        .to_string()
    }
}

/// Puts a new file in the place of the old one in one step.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut draft = name.to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(draft);
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)).inspect_err(|_| {
        // What is half written is no use to anybody.
        let _ = fs::remove_file(&draft);
    })
}
