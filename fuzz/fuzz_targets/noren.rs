//! A Noren connection's messages, through to the payload.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tickcast::adapter::noren::merge::fuzz_messages(bytes));
