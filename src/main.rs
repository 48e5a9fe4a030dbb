//! argv, exit code; everything else is the library's.

use clap::Parser;
use std::io::{stderr, stdout};
use std::process::ExitCode;
use tickcast::cli::{self, Cli, Command};
use tickcast::config::process_env;

pub(crate) fn main() -> ExitCode {
    let (mut out, mut err) = (stdout(), stderr());
    let code = match Cli::parse().into_command() {
        Command::Serve(args) => cli::serve::run(&args, process_env(), &mut out, &mut err),
        Command::Check(args) => cli::check::run(&args, process_env(), &mut out, &mut err),
        Command::Doctor(args) => cli::doctor::run(&args, process_env(), &mut out, &mut err),
        Command::Keys(command) => cli::keys::run(&command, &mut out, &mut err),
        Command::Top(args) => Ok(cli::top::run(&args)),
        Command::Watch(args) => Ok(cli::watch::run(args.into())),
    };
    // A closed pipe on stdout (`tickcast check | head`) is no failure worth words.
    ExitCode::from(code.unwrap_or(cli::exit::RUNTIME))
}
