//! Angel's packets, through to the payload.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tickcast::adapter::angel::decode::fuzz_packet(bytes));
