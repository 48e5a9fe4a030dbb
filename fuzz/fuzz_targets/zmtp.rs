//! A ZMTP peer that says anything: greeting, READY, commands, frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tickcast::zmtp::parser::fuzz(bytes));
