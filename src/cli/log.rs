//! Log lines on stderr: text for people or one JSON object a line, filtered by `log.level`.
//!
//! What the program says on stderr besides (banner, last words) goes through [`say`], so that a collector that reads
//! JSON meets nothing else. Mistakes in the settings are told before any of them is known, as text.

use crate::config::settings::{Log, LogFormat};
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Sends what is logged from now on to stderr.
pub(super) fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second server in one process, as in tests, logs through the first one's subscriber.
    let started = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if started.is_ok() && log.format == LogFormat::Json {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            tracing::error!(thread = thread.name(), "{panic}");
        }));
    }
}

/// A line of the program's own for whoever runs it, or (`fault`) the last one for whoever must find out why it ended.
pub(super) fn say(log: &Log, err: &mut dyn Write, fault: bool, text: &str) -> io::Result<()> {
    match (log.format, fault) {
        (LogFormat::Text, _) => writeln!(err, "tickcast: {text}")?,
        (LogFormat::Json, false) => tracing::info!("{text}"),
        (LogFormat::Json, true) => tracing::error!("{text}"),
    }
    Ok(())
}
