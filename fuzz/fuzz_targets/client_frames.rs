//! A WebSocket client that sends anything, in any portions; whatever the portions, the events are the same.
#![no_main]

use tickcast::wire::frame::{Input, Parser};

/// Events as text, up to the first violation.
fn events(bytes: &[u8], portion: usize) -> Vec<String> {
    let mut parser = Parser::new(4096);
    let mut seen = Vec::new();
    for chunk in bytes.chunks(portion.max(1)) {
        let mut chunk = chunk.to_vec();
        let mut input = Input::new(&mut chunk);
        loop {
            match parser.next(&mut input) {
                Ok(Some(event)) => seen.push(format!("{event:?}")),
                Ok(None) => break,
                Err(violation) => {
                    seen.push(format!("{violation:?}"));
                    return seen;
                }
            }
        }
    }
    seen
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&portion, bytes)) = bytes.split_first() else { return };
    assert_eq!(events(bytes, usize::MAX), events(bytes, usize::from(portion)));
});
