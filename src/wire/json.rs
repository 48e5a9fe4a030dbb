//! JSON on its way out: strings, and the `market_data` frame.
//!
//! [`tick_frame`] runs once per (stream, mode, format, broker label) and tick, whatever the number of clients, so it
//! only appends ready pieces. The key order is the protocol's (section 2.1). Bench: `benches/wire.rs`.

use super::frame;
use crate::model::{InstrumentRef, Mode};
use std::ops::Range;

/// Appends one complete unmasked WebSocket text frame with a tick and returns where it lies in `out`. `data` must append
/// one JSON value. Snapshots carry `"snapshot":true` as their last key.
pub fn tick_frame(
    out: &mut Vec<u8>,
    instrument: InstrumentRef<'_>,
    mode: Mode,
    broker: &str,
    snapshot: bool,
    data: impl FnOnce(&mut Vec<u8>),
) -> Range<usize> {
    let start = frame::begin(out);
    out.extend_from_slice(b"{\"type\":\"market_data\",\"symbol\":");
    string(out, instrument.symbol);
    out.extend_from_slice(b",\"exchange\":");
    string(out, instrument.venue);
    out.extend_from_slice(match mode {
        Mode::Ltp => b",\"mode\":1,\"data\":",
        Mode::Quote => b",\"mode\":2,\"data\":",
        Mode::Depth => b",\"mode\":3,\"data\":",
    });
    data(out);
    out.extend_from_slice(b",\"broker\":");
    string(out, broker);
    out.extend_from_slice(if snapshot { b",\"snapshot\":true}" } else { b"}" });
    frame::finish(out, start, frame::Opcode::Text)
}

/// Appends `text` as a JSON string, quotes included. Characters beyond ASCII stay as they are.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..i]);
        copied = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// As much of `text` as fits `bytes_max`, cut between characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Appends a whole number.
pub fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tick_frame_has_the_protocols_keys_in_their_order() {
        let mut out = b"before".to_vec();
        let instrument = InstrumentRef { venue: "NSE", symbol: "M&M-\"x\"" };
        let data = br#"{"ltp":812.3,"timestamp":1761367200123,"ltt":1761367199000}"#;
        for (mode, snapshot, tail) in [(Mode::Ltp, false, ""), (Mode::Depth, true, ",\"snapshot\":true")] {
            let span = tick_frame(&mut out, instrument, mode, "angel", snapshot, |out| out.extend_from_slice(data));
            assert_eq!(span.end, out.len());
            let want = format!(
                "{{\"type\":\"market_data\",\"symbol\":\"M&M-\\\"x\\\"\",\"exchange\":\"NSE\",\"mode\":{},\"data\":{},\"broker\":\"angel\"{tail}}}",
                mode.int(),
                String::from_utf8_lossy(data)
            );
            let frame = &out[span];
            assert_eq!(&frame[..4], [0x81, 126, (want.len() >> 8) as u8, want.len() as u8]);
            assert_eq!(String::from_utf8_lossy(&frame[4..]), want);
        }
        assert_eq!(&out[..6], b"before");
    }

    proptest! {
        #[test]
        fn any_string_survives(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        }

        #[test]
        fn a_cut_string_is_the_longest_beginning_that_fits(text in any::<String>(), max in 0usize..40) {
            let got = cut(&text, max);
            prop_assert!(text.starts_with(got) && got.len() <= max);
            let next = text[got.len()..].chars().next();
            prop_assert!(next.is_none_or(|next| got.len() + next.len_utf8() > max));
        }
    }
}
