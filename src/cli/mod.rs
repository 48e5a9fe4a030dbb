//! The command line: one file a subcommand. No subcommand means `serve`, whose flags are valid at top level too.

pub mod admin;
pub mod check;
pub mod client;
pub mod doctor;
pub mod keys;
mod log;
pub mod serve;
pub mod watch;

use crate::config;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Exit codes (CONTRACTS 1).
pub mod exit {
    /// Done, or drained.
    pub const OK: u8 = 0;
    /// A failure while running.
    pub const RUNTIME: u8 = 1;
    /// Usage or settings.
    pub const SETTINGS: u8 = 2;
    /// A port could not be bound.
    pub const BIND: u8 = 3;
    /// The key store cannot be used.
    pub const KEY_STORE: u8 = 4;
}

/// Market-data ticks from ZeroMQ to thousands of WebSocket clients.
#[derive(Clone, Debug, Parser)]
#[command(name = "tickcast", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

impl Cli {
    /// What is to be done.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

/// A subcommand.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the server (also without a subcommand).
    Serve(ServeArgs),
    /// Check the settings and print the effective ones with where each came from.
    Check(ServeArgs),
    /// Make, list and revoke API keys of a SQLite key store.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Check the machine, the settings and a running server, and say the fix for each finding.
    Doctor(DoctorArgs),
    /// Show live ticks in the terminal, with rate and latency.
    Watch(WatchArgs),
}

/// Where `serve` and `check` take settings from.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Settings in TOML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// OpenAlgo's .env.
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// WebSocket address, e.g. 127.0.0.1:8765.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Admin address, e.g. 127.0.0.1:9464.
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<String>,
    /// Any setting; may be repeated.
    #[arg(long, value_name = "section.key=value")]
    pub set: Vec<String>,
}

impl ServeArgs {
    /// The sources of settings: these flags over the environment `env` ([`config::process_env`]).
    pub fn sources(&self, env: Vec<(String, String)>) -> config::Sources {
        config::Sources {
            file: self.config.clone(),
            env_file: self.env_file.clone(),
            env,
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            set: self.set.clone(),
        }
    }
}

/// `tickcast doctor`
#[derive(Args, Clone, Debug, Default)]
pub struct DoctorArgs {
    /// As those of the server it is about.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `tickcast keys …`
#[derive(Clone, Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key; it is printed alone on the last line of stdout, and shown only this once.
    Add {
        /// The key store; made if it does not exist.
        #[arg(long, value_name = "FILE")]
        store: PathBuf,
        /// Whose key it is.
        #[arg(long)]
        user: String,
        /// The user's broker.
        #[arg(long)]
        broker: String,
        /// How much its sessions matter under overload.
        #[arg(long, default_value = "normal", value_parser = ["high", "normal", "low"])]
        class: String,
    },
    /// List all keys (never the keys themselves).
    List {
        /// The key store.
        #[arg(long, value_name = "FILE")]
        store: PathBuf,
    },
    /// Revoke one key, or all of a user.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Revoke {
        /// The key store.
        #[arg(long, value_name = "FILE")]
        store: PathBuf,
        /// The key's id, as `keys list` shows it.
        #[arg(long, group = "which")]
        id: Option<i64>,
        /// All keys of this user.
        #[arg(long, group = "which")]
        user: Option<String>,
    },
}

/// `tickcast watch …`
#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Symbols, e.g. RELIANCE INFY.
    #[arg(required = true, value_name = "SYMBOL")]
    pub symbols: Vec<String>,
    /// Where they trade.
    #[arg(long, default_value = "NSE")]
    pub exchange: String,
    /// What to subscribe to.
    #[arg(long, default_value = "ltp", value_parser = ["ltp", "quote", "depth"], ignore_case = true)]
    pub mode: String,
    /// Wire format.
    #[arg(long, default_value = "json", value_parser = ["json", "msgpack"])]
    pub format: String,
    /// The server.
    #[arg(long, default_value = "ws://127.0.0.1:8765")]
    pub url: String,
    /// API key.
    #[arg(long, default_value = crate::auth::DEMO_KEY)]
    pub key: String,
    /// Stop after this many ticks; 0 = never.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(std::iter::once("tickcast").chain(words.split_whitespace())).map(Cli::into_command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_subcommand_is_serve_with_its_flags() {
        for words in ["", "serve"] {
            let Ok(Command::Serve(args)) = parse(words) else { panic!("{words:?}") };
            assert_eq!(args.listen, None);
        }
        for words in
            ["--listen 127.0.0.1:1 --set a.b=1 --set c.d=2", "serve --listen 127.0.0.1:1 --set a.b=1 --set c.d=2"]
        {
            let Ok(Command::Serve(args)) = parse(words) else { panic!("{words:?}") };
            assert_eq!((args.listen.as_deref(), args.set.len()), (Some("127.0.0.1:1"), 2));
        }
    }

    #[test]
    fn watch_has_the_first_minutes_defaults() {
        let Ok(Command::Watch(args)) = parse("watch RELIANCE INFY") else { panic!() };
        assert_eq!(args.symbols, ["RELIANCE", "INFY"]);
        let rest = (&*args.exchange, &*args.mode, &*args.format, &*args.url, &*args.key, args.count);
        assert_eq!(rest, ("NSE", "ltp", "json", "ws://127.0.0.1:8765", "demo-key", 0));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for words in [
            "sevre",
            "--lissten x",
            "watch",
            "watch X --mode tick",
            "keys",
            "keys revoke --store s",
            "keys revoke --store s --id 1 --user u",
            "keys add --store s --user u",
            "keys add --store s --user u --broker b --class urgent",
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
