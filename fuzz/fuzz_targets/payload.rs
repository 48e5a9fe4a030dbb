//! Payloads of ticks, JSON and MessagePack, through to what clients get.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tickcast::engine::normalise::fuzz_payload(bytes));
