//! A publisher that sends anything: topics, single frames, batches, orders, invalidations.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tickcast::bus::topic::fuzz_topic(bytes);
    tickcast::bus::frames::fuzz_frames(bytes);
});
