//! An adapter process that sends anything over the control channel.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Refusing is fine; panicking, or believing a length, is not.
    let _ = tickcast::adapter::external::wire::read(bytes);
});
