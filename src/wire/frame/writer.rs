//! Our side of the wire: whole unmasked frames, the same bytes for every client.
//!
//! [`begin`] and [`finish`] let a payload be written straight into its frame; only short and very long ones are moved.
//! Tests: beside the parser's.

use super::{CONTROL_BYTES_MAX, Opcode};
use crate::wire::json::cut;
use std::ops::Range;

/// A frame that [`begin`] started and [`finish`] ends.
#[derive(Debug)]
#[must_use]
pub struct FrameStart(usize);

/// Bytes that [`begin`] keeps free for the header: enough for payloads of 126 to 65,535 bytes, as ticks mostly are.
const HEAD_KEPT: usize = 4;

/// Starts an unmasked frame at the end of `out`; the caller then appends its payload.
pub fn begin(out: &mut Vec<u8>) -> FrameStart {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_KEPT]);
    FrameStart(start)
}

/// Ends the frame begun at `start`: everything since is its payload. Returns where the frame lies in `out`. Payloads
/// shorter than 126 or longer than 65,535 bytes are moved to fit their header.
pub fn finish(out: &mut Vec<u8>, start: FrameStart, opcode: Opcode) -> Range<usize> {
    let FrameStart(start) = start;
    let len = out.len() - start - HEAD_KEPT;
    let (head, head_len) = header(opcode, len);
    let end = start + head_len + len;
    if head_len > HEAD_KEPT {
        out.resize(end, 0);
    }
    if head_len != HEAD_KEPT {
        out.copy_within(start + HEAD_KEPT..start + HEAD_KEPT + len, start + head_len);
        out.truncate(end);
    }
    out[start..start + head_len].copy_from_slice(&head[..head_len]);
    start..end
}

/// The header of a whole unmasked frame of `len` payload bytes: the bytes and how many of them count.
pub fn header(opcode: Opcode, len: usize) -> ([u8; 10], usize) {
    let mut head = [0; 10];
    head[0] = 0x80 | opcode as u8;
    let head_len = match len {
        0..=125 => {
            head[1] = len as u8;
            2
        }
        126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    (head, head_len)
}

/// Appends a whole unmasked frame.
pub fn write(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let (head, head_len) = header(opcode, payload.len());
    out.reserve(head_len + payload.len());
    out.extend_from_slice(&head[..head_len]);
    out.extend_from_slice(payload);
}

/// A Close frame; `reason` is cut to 123 bytes at a character.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = cut(reason, CONTROL_BYTES_MAX - 2);
    let mut out = Vec::with_capacity(4 + reason.len());
    out.extend_from_slice(&[0x80 | Opcode::Close as u8, 2 + reason.len() as u8]);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
    out
}

/// A Close frame without a code, the echo of one.
pub fn empty_close_frame() -> Vec<u8> {
    vec![0x80 | Opcode::Close as u8, 0]
}

/// A Ping frame; `payload` is cut to 125 bytes.
pub fn ping_frame(payload: &[u8]) -> Vec<u8> {
    control_frame(Opcode::Ping, payload)
}

/// A Pong frame; `payload` is cut to 125 bytes.
pub fn pong_frame(payload: &[u8]) -> Vec<u8> {
    control_frame(Opcode::Pong, payload)
}

fn control_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    let mut out = Vec::with_capacity(2 + payload.len());
    write(&mut out, opcode, payload);
    out
}
