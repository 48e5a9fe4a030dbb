//! Zerodha's binary messages, through to the payload.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tickcast::adapter::zerodha::decode::fuzz_message(bytes));
