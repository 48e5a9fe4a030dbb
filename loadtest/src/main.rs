//! Load generator: starts a server, publishes ticks through the library's own publisher, receives them with many clients on one
//! thread, and reports what a client saw. See `README.md`.
//!
//! Two threads: the publisher's and everybody else's. All times are of one clock, so latency is exact on one machine.

mod client;
mod publish;
mod report;
mod run;
mod server;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// What can go wrong, in words.
type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// All clients take the same symbols; once with all healthy, once more with one further client that stops reading.
    Slow {
        #[command(flatten)]
        load: Load,
        /// Symbols that are published, and that each client takes.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        symbols: u32,
    },
    /// Each client takes some symbols of a universe.
    Fanout {
        #[command(flatten)]
        load: Load,
        /// Symbols that are published.
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        universe: u32,
        /// Symbols that each client takes; client n begins where client n - 1 ended.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        symbols: u32,
    },
}

/// What all scenarios share.
#[derive(Args, Clone)]
struct Load {
    /// Clients that read all the time.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    clients: u32,
    /// Ticks published a second, over all symbols.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long to publish.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Most ticks of one bus message; a batch leaves after 2 ms at the latest. 1 sends each alone.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// The server to start, on ports of its own.
    #[arg(long, value_name = "TICKCAST", default_value = "target/release/tickcast")]
    spawn: PathBuf,
    /// Also write the figures there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match scenario(&Cli::parse().scenario) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn scenario(scenario: &Scenario) -> Result<(), Failure> {
    let (name, load, plans) = match scenario {
        Scenario::Slow { load, symbols } => {
            let plan = |stalled| run::Plan { universe: *symbols, symbols: *symbols, stalled };
            ("slow", load, vec![("all healthy", plan(false)), ("one stalled", plan(true))])
        }
        Scenario::Fanout { load, universe, symbols } => {
            let plan = run::Plan { universe: *universe, symbols: (*symbols).min(*universe), stalled: false };
            ("fanout", load, vec![("fanout", plan)])
        }
    };
    let mut columns = Vec::new();
    for (column, plan) in plans {
        columns.push((column, run::run(load, &plan)?));
    }
    print!("{}", report::table(name, load, &columns));
    if let Some(file) = &load.json {
        std::fs::write(file, report::json(name, load, &columns)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}
