//! Messages of clients in both formats.
#![no_main]

use tickcast::model::Format;
use tickcast::wire::command::parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for format in Format::ALL {
        for binary in [false, true] {
            // What is refused is refused with words; nothing panics.
            if let Err(error) = parse(bytes, binary, format, 100) {
                assert!(!error.message.is_empty());
            }
        }
    }
});
