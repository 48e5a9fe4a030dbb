//! `tickcast serve`: start, say so, serve until told to stop, drain.

use super::{ServeArgs, check, exit, log};
use crate::app::{App, Hooks, Running, StartError};
use crate::config::settings::{KeyStoreSetting, LogFormat};
use crate::config::{self, Settings};
use crate::net::sys;
use std::io::{self, Write};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Open files beside those of sessions and publishers: runtimes, listeners, key store, admin connections.
const FILES_BESIDE: usize = 256;

/// Runs the server until Ctrl-C or SIGTERM; the exit code.
///
/// # Errors
/// Stdout or stderr cannot be written.
pub fn run(args: &ServeArgs, env: Vec<(String, String)>, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let settings = match config::load(&args.sources(env)) {
        Ok(loaded) => loaded.settings,
        Err(problems) => return check::report(&problems, err),
    };
    log::start(&settings.log);
    raise_file_limit(&settings);
    let end = match End::catch() {
        Ok(end) => end,
        Err(error) => {
            log::say(&settings.log, err, true, &format!("cannot start: signals cannot be caught: {error}"))?;
            return Ok(exit::RUNTIME);
        }
    };
    let running = match App::build(settings.clone(), Hooks::default()).and_then(App::spawn) {
        Ok(running) => running,
        Err(error) => {
            log::say(&settings.log, err, true, &error.to_string())?;
            return Ok(exit_code(&error));
        }
    };
    writeln!(out, "{}", running.addresses().ready_line())?;
    out.flush()?;
    match settings.log.format {
        LogFormat::Text => banner(&settings, &running, err)?,
        LogFormat::Json => started(&settings, &running),
    }
    end.wait();
    log::say(&settings.log, err, false, "draining (clients are told to reconnect) …")?;
    if running.drain() {
        log::say(&settings.log, err, false, "stopped")?;
    } else {
        log::say(&settings.log, err, true, "stopped; something was still busy after 5 s and was left behind")?;
    }
    Ok(exit::OK)
}

/// Open files of a server that is full.
pub(super) fn files_needed(settings: &Settings) -> u64 {
    (settings.limits.sessions + settings.limits.bus_peers + FILES_BESIDE) as u64
}

/// Each session needs an open file: as many as the system lets us have, and a word to the operator when that is too few.
fn raise_file_limit(settings: &Settings) {
    let limit = match sys::raise_file_limit() {
        Ok((before, limit)) if before < limit => {
            tracing::info!(before, limit, "the limit of open files was raised as far as the system allows");
            limit
        }
        Ok((_, limit)) => limit,
        Err(error) => return tracing::warn!(%error, "the limit of open files could not be raised"),
    };
    let (sessions, needed) = (settings.limits.sessions, files_needed(settings));
    if limit < needed {
        tracing::warn!(
            "limits.sessions = {sessions} needs {needed} open files, and the system allows {limit}: raise the hard limit (systemd: \
             LimitNOFILE={needed}; Docker: --ulimit nofile={needed}; a shell: ulimit -Hn {needed} as root), or lower limits.sessions"
        );
    }
}

fn exit_code(error: &StartError) -> u8 {
    match error {
        StartError::Bind { .. } => exit::BIND,
        StartError::KeyStore(_) => exit::KEY_STORE,
        StartError::Settings(_) => exit::SETTINGS,
        StartError::Runtime(_) => exit::RUNTIME,
    }
}

/// The banner as one event.
fn started(settings: &Settings, running: &Running) {
    let at = running.addresses();
    let (bus, adapter) = (at.bus.join(","), settings.adapters.default.label());
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, ws = %at.ws, admin = %at.admin, bus, control = at.control, adapter, "serving");
}

/// What a newcomer needs to see, in the first screen.
fn banner(settings: &Settings, running: &Running, err: &mut dyn Write) -> io::Result<()> {
    let at = running.addresses();
    let kind = settings.adapters.default.label();
    writeln!(err, "tickcast {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(err, "  clients  ws://{}", at.ws)?;
    writeln!(err, "  console  http://{}/ (and /metrics, /healthz, /readyz)", at.admin)?;
    writeln!(err, "  bus      {}", if at.bus.is_empty() { "none".to_owned() } else { at.bus.join(", ") })?;
    writeln!(err, "  control  {} (adapter processes)", at.control)?;
    match kind {
        "sim" => writeln!(err, "  adapter  sim: a simulated market, until the first real tick arrives on the bus")?,
        "external" => writeln!(err, "  adapter  external: adapter processes at the control channel")?,
        kind => writeln!(err, "  adapter  {kind}: ticks come from publishers on the bus")?,
    }
    match &settings.auth.store {
        KeyStoreSetting::Demo => {
            writeln!(err, "  key      demo-key (user demo, loopback only)")?;
            let symbols = if kind == "sim" { "RELIANCE NIFTY" } else { "RELIANCE" };
            let url = if at.ws.port() == 8765 { String::new() } else { format!(" --url ws://{}", at.ws) };
            writeln!(err, "  try      tickcast watch {symbols}{url}   (cargo run --release -- watch {symbols}{url})")?;
        }
        KeyStoreSetting::Sqlite(file) => {
            writeln!(err, "  key      from {} (tickcast keys add --store … --user … --broker …)", file.display())?;
            writeln!(err, "  try      tickcast watch RELIANCE --url ws://{} --key YOUR_KEY", at.ws)?;
        }
        KeyStoreSetting::OpenAlgo(file) => {
            writeln!(err, "  key      OpenAlgo's own, from {}", file.display())?;
            writeln!(err, "  try      tickcast watch RELIANCE --url ws://{} --key YOUR_OPENALGO_KEY", at.ws)?;
        }
    }
    writeln!(err, "  stop     Ctrl-C")?;
    err.flush()
}

/// Ctrl-C and SIGTERM, caught from the moment this is made: a signal that comes right behind the ready line drains too.
struct End {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    fn catch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(entered);
        Ok(End { runtime, interrupt, terminate })
    }

    /// Blocks until one of them comes.
    fn wait(mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
    }
}
