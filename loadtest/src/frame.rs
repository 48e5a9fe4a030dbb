//! The client's side of WebSocket and of OpenAlgo's protocol: frames out, frames in, requests, and the fast scan for a tick.
//!
//! Pure. A server's frame is not masked; a client's mask of zeros is a mask. Nothing here parses JSON: a tick is recognised by its
//! type near the beginning, and its price by name.

use memchr::memmem;
use serde_json::json;
use tickcast::model::{Format, Mode};

/// Where `"type": "market_data"` stands at the latest, bytes.
const TYPE_BYTES: usize = 80;
/// The upgrade's key; any 16 bytes do.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Name of the MessagePack subprotocol.
const MSGPACK: &str = "tickcast.v1.msgpack";

pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// The HTTP request for a WebSocket.
pub(crate) fn upgrade(host: &str, path: &str, format: Format) -> String {
    let protocol = match format {
        Format::MsgPack => format!("Sec-WebSocket-Protocol: {MSGPACK}\r\n"),
        Format::Json => String::new(),
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{protocol}\r\n"
    )
}

/// What the server made of it: nothing yet, the length of its head, or why not.
pub(crate) fn upgraded(bytes: &[u8], format: Format) -> Result<Option<usize>, String> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > 16 << 10 { Err("it answers no HTTP".into()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if !head.starts_with("HTTP/1.1 101") {
        let body = String::from_utf8_lossy(&bytes[end + 4..]).trim().to_owned();
        return Err(format!("it refuses the WebSocket: {} {body}", head.lines().next().unwrap_or_default()));
    }
    if format == Format::MsgPack && !head.to_ascii_lowercase().contains(MSGPACK) {
        return Err(format!("it does not speak {MSGPACK}; try --format json"));
    }
    Ok(Some(end + 4))
}

/// Appends a client's frame.
pub(crate) fn write(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match payload.len() {
        n @ ..=125 => out.push(0x80 | n as u8),
        n @ ..=65_535 => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
}

/// First byte and payload span of the frame that begins at `at`, once it is there whole.
pub(crate) fn next(buffer: &[u8], at: usize) -> Option<(u8, usize, usize)> {
    let (from, len) = match &buffer[at..] {
        [_, len @ ..=125, ..] => (at + 2, usize::from(*len)),
        [_, 126, a, b, ..] => (at + 4, usize::from(u16::from_be_bytes([*a, *b]))),
        [_, 127, rest @ ..] => (at + 10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
        _ => return None,
    };
    (buffer.len() >= from.checked_add(len)?).then(|| (buffer[at], from, from + len))
}

/// Whether a text message is a tick.
pub(crate) fn is_tick(body: &[u8]) -> bool {
    // As nearly every server begins; the search is for the others.
    body.starts_with(b"{\"type\":\"market_data\"")
        || body.starts_with(b"{\"type\": \"market_data\"")
        || is_tick_somewhere(body)
}

fn is_tick_somewhere(body: &[u8]) -> bool {
    memmem::find(&body[..body.len().min(TYPE_BYTES)], b"\"market_data\"").is_some()
}

/// What stands behind `name`, which is looked for first where it stood the last time.
pub(crate) fn after<'a>(body: &'a [u8], name: &[u8], hint: &mut usize) -> Option<&'a [u8]> {
    if !body.get(*hint..).is_some_and(|rest| rest.starts_with(name)) {
        *hint = memmem::find(body, name)?;
    }
    Some(body[*hint + name.len()..].trim_ascii_start())
}

/// Code and text of a Close frame.
pub(crate) fn goodbye(body: &[u8]) -> String {
    match body.split_first_chunk::<2>() {
        Some((code, text)) => {
            format!("the server closed: {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(text))
        }
        None => "the server closed".into(),
    }
}

pub(crate) fn authenticate(key: &str) -> String {
    json!({"action": "authenticate", "api_key": key}).to_string()
}

/// `action` is `subscribe` or `unsubscribe`; each entry as [`crate::ticks::Instrument::entry`] writes it.
pub(crate) fn request(action: &str, mode: Mode, entries: &[&str]) -> String {
    format!(r#"{{"action":"{action}","mode":{},"symbols":[{}]}}"#, mode.int(), entries.join(","))
}

/// What an answer refuses, in words; nothing when it grants.
pub(crate) fn refusal(answer: &serde_json::Value) -> Option<String> {
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().map(str::to_owned);
    match answer["status"].as_str() {
        Some("success") => None,
        Some("partial") => {
            let entries = answer["subscriptions"].as_array()?;
            let bad = entries.iter().find(|e| e["status"] == "error")?;
            let symbol = text(bad, "symbol").unwrap_or_default();
            Some(format!("{symbol}: {}", text(bad, "message").unwrap_or_else(|| bad.to_string())))
        }
        _ => match (text(answer, "code"), text(answer, "message")) {
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (_, message) => Some(message.unwrap_or_else(|| answer.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_three_lengths_are_found_once_they_are_whole() {
        for len in [0, 125, 126, 65_535, 65_536] {
            let mut frame = vec![TEXT];
            match len {
                ..=125 => frame.push(len as u8),
                126..=65_535 => frame.extend([&[126][..], &(len as u16).to_be_bytes()].concat()),
                _ => frame.extend([&[127][..], &(len as u64).to_be_bytes()].concat()),
            }
            let head = frame.len();
            frame.resize(head + len, b'x');
            assert_eq!(next(&frame, 0), Some((TEXT, head, head + len)));
            assert_eq!(next(&frame[..head + len - 1], 0), None);
            let mut ours = Vec::new();
            write(&mut ours, TEXT, &frame[head..]);
            assert_eq!(ours.len(), head + 4 + len);
            assert_eq!(ours[1] & 0x80, 0x80, "masked");
        }
        assert_eq!(next(&[TEXT, 127, 255, 255, 255, 255, 255, 255, 255, 255, 0], 0), None, "a length beyond memory");
    }

    #[test]
    fn a_tick_is_told_from_an_answer_that_also_names_ltp() {
        let tick = br#"{"type": "market_data", "symbol": "L00007", "data": {"ltp": 40.05}}"#;
        assert!(is_tick(tick));
        let mut hint = 0;
        for _ in 0..2 {
            assert_eq!(after(tick, b"\"ltp\":", &mut hint), Some(&b"40.05}}"[..]));
        }
        assert_eq!(after(b"{}", b"\"ltp\":", &mut hint), None);
        assert!(is_tick(br#"{"broker":"x","type":"market_data"}"#));
        assert!(!is_tick(br#"{"type":"auth","status":"success","supported_features":{"ltp":true}}"#));
    }

    #[test]
    fn an_upgrade_is_recognised_and_a_refusal_said_in_the_servers_words() {
        assert_eq!(upgraded(b"HTTP/1.1 101 Switching", Format::Json), Ok(None));
        assert_eq!(upgraded(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n\x81", Format::Json), Ok(Some(42)));
        let full = upgraded(b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull", Format::Json).expect_err("refused");
        assert!(full.contains("503") && full.contains("full"), "{full}");
        let plain = upgraded(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Format::MsgPack).expect_err("no subprotocol");
        assert!(plain.contains("--format json"), "{plain}");
    }

    #[test]
    fn refusals_name_the_code_or_the_symbol() {
        let said = |text: &str| refusal(&serde_json::from_str(text).expect("JSON"));
        assert_eq!(said(r#"{"type":"auth","status":"success"}"#), None);
        assert_eq!(said(r#"{"status":"error","code":"C","message":"m"}"#).as_deref(), Some("C: m"));
        let partial = r#"{"status":"partial","subscriptions":[{"status":"success"},{"status":"error","symbol":"X","message":"limit"}]}"#;
        assert_eq!(said(partial).as_deref(), Some("X: limit"));
    }
}
