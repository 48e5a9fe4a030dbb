//! Load generator: drives thousands of clients against tickcast or any server of the OpenAlgo protocol, publishes the ticks itself,
//! and reports what the clients saw, what the server used, and what the generator itself could not keep up with. See `README.md`.
//!
//! Threads: one keeps the publisher's time, one owns the bus socket, a few hold the clients, and the main one looks on. All times are of
//! one clock, so latency is exact on one machine.

mod board;
mod churn;
mod cli;
mod client;
mod frame;
mod interrupt;
mod picks;
mod proc;
mod progress;
mod publish;
mod readers;
mod report;
mod rig;
mod scenario;
mod stats;
mod storm;
mod target;
mod ticks;

use clap::Parser;
use std::process::ExitCode;

/// What can go wrong, in words.
type Failure = Box<dyn std::error::Error>;

/// Exit codes; clap's own for wrong usage is 2.
const COULD_NOT_RUN: u8 = 1;
const USAGE: u8 = 2;
const MISSED: u8 = 3;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if let Err(why) = scenario::check(&cli.scenario) {
        eprintln!("loadtest: {why}");
        return ExitCode::from(USAGE);
    }
    match interrupt::listen().and_then(|()| scenario::run(&cli.scenario)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(MISSED),
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
