//! A server that sends anything to our MessagePack reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Refusing is fine; panicking, or believing a length, is not.
    let _ = tickcast::wire::msgpack::read(bytes);
});
