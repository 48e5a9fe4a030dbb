//! The tickcast binary, built by this package's tests for themselves, so that they need no other build.

#[path = "../../src/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
