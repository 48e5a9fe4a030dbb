//! `tickcast check`: the effective settings with their origins, or every mistake at once.

use super::{ServeArgs, exit};
use crate::config::{self, Problem};
use std::io::{self, Write};

/// Prints the settings to `out`, or the mistakes to `err`; the exit code.
///
/// # Errors
/// When `out` or `err` cannot be written.
pub fn run(args: &ServeArgs, env: Vec<(String, String)>, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match config::load(&args.sources(env)) {
        Ok(loaded) => {
            write!(out, "{loaded}")?;
            out.flush()?;
            Ok(exit::OK)
        }
        Err(problems) => report(&problems, err),
    }
}

/// Prints what is wrong with the settings; the exit code. `serve` says it the same way.
///
/// # Errors
/// When `err` cannot be written.
pub fn report(problems: &[Problem], err: &mut dyn Write) -> io::Result<u8> {
    for problem in problems {
        writeln!(err, "tickcast: {problem}")?;
    }
    let count = problems.len();
    writeln!(err, "tickcast: {count} mistake{} in the settings", if count == 1 { "" } else { "s" })?;
    Ok(exit::SETTINGS)
}
