//! `tickcast adapter KIND`: one broker's feed as a process of its own.

use super::signals::Signals;
use super::{AdapterArgs, check, exit, log};
use crate::adapter::kinds::KINDS;
use crate::adapter::process::End;
use crate::adapter::publisher::PublishError;
use crate::app::adapter::{AdapterProcess, Plan};
use crate::config::settings::{AdapterKind, LogFormat};
use crate::config::{self, Settings};
use crate::zmtp::{Direction, Endpoint};
use std::io::{self, Write};

/// What `--help` says after the flags.
pub(super) const HELP: &str = "\
The account is that of the settings: [brokers.NAME] in --config, or TICKCAST_BROKERS_<NAME>_USERS, _CREDENTIALS, _SYMBOLS and so on.
Credentials come from the file or the variables named there, and the server's secret from adapters.secret
(TICKCAST_ADAPTERS_SECRET); none of them is ever a flag. The server needs kind = \"external\" for this broker.

Once bound it prints ACTUAL_ZMQ_PORT=N, a line for each socket.

Exit codes: 0 stopped by Ctrl-C or SIGTERM, 1 failed or replaced by another process for the same broker and user,
2 usage or settings, 3 no port could be bound.

  tickcast adapter zerodha --config tickcast.toml --user asha
  tickcast adapter sim --broker external      (with: tickcast serve --set adapters.default=external)";

/// Every KIND.
pub(super) fn kinds() -> Vec<&'static str> {
    std::iter::once(AdapterKind::Sim.label()).chain(KINDS.iter().map(|kind| kind.name)).collect()
}

/// Runs the adapter until Ctrl-C or SIGTERM; the exit code.
///
/// # Errors
/// Stdout or stderr cannot be written.
pub fn run(args: &AdapterArgs, env: Vec<(String, String)>, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    // Everybody on this machine can read a command line.
    if args.set.iter().any(|set| set.trim_start().starts_with("adapters.secret")) {
        writeln!(err, "tickcast: adapters.secret is not taken from a flag: use TICKCAST_ADAPTERS_SECRET or --config")?;
        return Ok(exit::SETTINGS);
    }
    let settings = match config::load(&sources(args, env)) {
        Ok(loaded) => loaded.settings,
        Err(problems) => return check::report(&problems, err),
    };
    let plan = match plan(args, &settings) {
        Ok(plan) => plan,
        Err(mistake) => {
            writeln!(err, "tickcast: {mistake}")?;
            return Ok(exit::SETTINGS);
        }
    };
    log::start(&settings.log);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::say(&settings.log, err, true, &format!("cannot start: {error}"))?;
            return Ok(exit::RUNTIME);
        }
    };
    runtime.block_on(serve_until_stopped(plan, &settings, out, err))
}

async fn serve_until_stopped(
    plan: Plan,
    settings: &Settings,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let mut signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            log::say(&settings.log, err, true, &format!("cannot start: signals cannot be caught: {error}"))?;
            return Ok(exit::RUNTIME);
        }
    };
    let process = match AdapterProcess::open(plan.clone()).await {
        Ok(process) => process,
        Err(error) => {
            log::say(&settings.log, err, true, &format!("{error}; choose another endpoint with --bind"))?;
            return Ok(if matches!(error, PublishError::NotLocal(_)) { exit::SETTINGS } else { exit::BIND });
        }
    };
    let publishes: Vec<String> = process.endpoints().iter().map(Endpoint::to_string).collect();
    for endpoint in process.endpoints() {
        match (plan.direction, endpoint) {
            (Direction::Bind, Endpoint::Tcp { port, .. }) => writeln!(out, "ACTUAL_ZMQ_PORT={port}")?,
            _ => writeln!(out, "ACTUAL_ZMQ_ENDPOINT={endpoint}")?,
        }
    }
    out.flush()?;
    let whose = plan.user.as_ref().map_or_else(|| "all users".to_owned(), |user| format!("user {user}"));
    let does = if plan.direction == Direction::Bind { "publishes at" } else { "publishes to" };
    let (kind, endpoints) = (plan.kind.label(), publishes.join(", "));
    if settings.log.format == LogFormat::Text {
        writeln!(err, "tickcast adapter {kind}: broker {}, {whose}", plan.broker)?;
        writeln!(err, "  {does} {endpoints}")?;
        writeln!(err, "  control  {}", plan.control)?;
        writeln!(err, "  stop     Ctrl-C")?;
    } else {
        tracing::info!(kind, broker = plan.broker, %whose, endpoints, control = %plan.control, "adapter started");
    }
    match process.run(settings, signals.wait()).await {
        End::Stopped => {
            log::say(&settings.log, err, false, "stopped")?;
            Ok(exit::OK)
        }
        End::Replaced => {
            let (broker, user) = (&plan.broker, plan.user.as_deref().unwrap_or("all users"));
            let text = format!("another adapter process serves {broker} for {user} now; this one ends");
            log::say(&settings.log, err, true, &text)?;
            Ok(exit::RUNTIME)
        }
    }
}

/// The settings with what the flags say of the broker over them.
fn sources(args: &AdapterArgs, env: Vec<(String, String)>) -> config::Sources {
    let mut set = args.set.clone();
    if args.kind != AdapterKind::Sim.label() {
        let broker = broker(args);
        set.push(format!("brokers.{broker}.kind={}", args.kind));
        set.extend(args.user.as_ref().map(|user| format!("brokers.{broker}.users={user}")));
    }
    config::Sources { file: args.config.clone(), env_file: args.env_file.clone(), env, set, ..Default::default() }
}

fn broker(args: &AdapterArgs) -> String {
    args.broker.as_ref().unwrap_or(&args.kind).to_ascii_lowercase()
}

/// What is to be run, or what is wrong and what would be right.
fn plan(args: &AdapterArgs, settings: &Settings) -> Result<Plan, String> {
    let broker = broker(args);
    let native = KINDS.iter().position(|kind| kind.name == args.kind);
    let user = match native.and_then(|_| settings.brokers.get(&broker)) {
        None => args.user.clone(),
        Some(section) => match &section.users[..] {
            [user] => Some(user.clone()),
            users => {
                let users = users.join(", ");
                return Err(format!("brokers.{broker}.users names several ({users}): choose one with --user"));
            }
        },
    };
    let endpoint = |flag: &str, text: &str| text.parse().map_err(|error| format!("{flag}: {error}"));
    let (direction, publishes) = match &args.connect {
        Some(connect) => (Direction::Connect, endpoint("--connect", connect)?),
        None => (Direction::Bind, endpoint("--bind", &args.bind)?),
    };
    let control = match &args.control {
        Some(control) => endpoint("--control", control)?,
        None => reachable(endpoint("adapters.control_bind", &settings.adapters.control_bind)?),
    };
    if matches!(control, Endpoint::Tcp { port: 0, .. }) {
        return Err(format!("{control} is no port to connect to: name the server's control channel with --control"));
    }
    let kind = native.map_or(AdapterKind::Sim, |index| AdapterKind::Native(index as u8));
    Ok(Plan { kind, broker, user, control, endpoint: publishes, direction, sockets: args.sockets.into() })
}

/// Where what listens everywhere is reached from here.
fn reachable(endpoint: Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tcp { port, .. } if endpoint.is_wildcard() => Endpoint::Tcp { host: "127.0.0.1".into(), port },
        other => other,
    }
}
