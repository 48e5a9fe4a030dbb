//! WebSocket frames (RFC 6455, server side): a strict incremental parser of what clients send, a writer of what we send.
//!
//! In: bytes as they arrive, in any portions. Out: [`Event`]s, or one [`Violation`] that names the goodbye.
//! Promises: state lives in [`Parser`], outside any future, so reading may be cancelled anywhere; a frame that arrived
//! whole is unmasked in place and lent out, and nothing is kept between frames, so an idle session holds no buffer;
//! memory grows with bytes that came, never with a declared length; a message stays within the limit.
//! Extensions are never negotiated, so RSV bits are always refused.
//! Tests: `frame/tests.rs` (RFC cases, random splits, a naive model).

#[cfg(test)]
mod tests;
mod writer;

pub use writer::{FrameStart, begin, close_frame, empty_close_frame, finish, header, ping_frame, pong_frame, write};

use super::close::CloseReason;
use std::ops::Range;

/// Largest payload of a control frame, bytes.
pub const CONTROL_BYTES_MAX: usize = 125;
/// Empty fragments accepted within one message, counted; they cost us work and carry nothing.
pub const EMPTY_FRAGMENTS_MAX: u8 = 64;
/// Longest header of a client's frame: two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// What a client said. Payloads are lent until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// To be answered with a pong of the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// An answer to our ping, or unsolicited.
    Pong(&'a [u8]),
    /// The client's goodbye; nothing after it is read.
    Close {
        /// The code it gave, a valid one.
        code: Option<u16>,
        /// Its text.
        reason: &'a str,
    },
}

/// How a client broke the protocol; the connection must be closed with [`Violation::close_reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A client's frame must be masked.
    Unmasked,
    /// A reserved bit was set without an extension.
    ReservedBits,
    /// An opcode that RFC 6455 does not define.
    Opcode,
    /// A control frame longer than 125 bytes.
    ControlTooLong,
    /// A control frame without FIN.
    ControlFragmented,
    /// A length in more bytes than needed, or with the top bit set.
    Length,
    /// A continuation without a beginning.
    OrphanContinuation,
    /// A new message inside an unfinished one.
    InterleavedMessage,
    /// More empty fragments than [`EMPTY_FRAGMENTS_MAX`].
    EmptyFragments,
    /// A close payload of one byte, or a code that must not be sent.
    CloseCode,
    /// Text or a close reason is not UTF-8.
    Utf8,
    /// The message would be larger than the limit.
    TooLarge,
}

impl Violation {
    /// The goodbye that fits.
    pub const fn close_reason(self) -> CloseReason {
        match self {
            Violation::Utf8 => CloseReason::InvalidUtf8,
            Violation::TooLarge => CloseReason::TooLarge,
            Violation::Unmasked
            | Violation::ReservedBits
            | Violation::Opcode
            | Violation::ControlTooLong
            | Violation::ControlFragmented
            | Violation::Length
            | Violation::OrphanContinuation
            | Violation::InterleavedMessage
            | Violation::EmptyFragments
            | Violation::CloseCode => CloseReason::Protocol,
        }
    }
}

/// Bytes that were read and not yet parsed. They are unmasked in place.
#[derive(Debug)]
pub struct Input<'b> {
    bytes: &'b mut [u8],
    at: usize,
}

impl<'b> Input<'b> {
    /// All of `bytes`.
    pub fn new(bytes: &'b mut [u8]) -> Self {
        Input { bytes, at: 0 }
    }

    /// What the parser has not taken yet.
    pub fn remaining(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
}

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// Goodbye.
    Close = 8,
    /// Are you there?
    Ping = 9,
    /// I am.
    Pong = 10,
}

/// What the current frame's payload belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A message that is one frame.
    Whole(Opcode),
    /// A piece of a fragmented message.
    Fragment { last: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reading a header.
    Head,
    /// Reading a payload; what came in earlier portions is in `buffer`.
    Payload(Part),
    /// `buffer` holds something that was lent out: drop it from `keep` on before going on.
    Lent,
    /// After a Close frame or a violation: input is discarded.
    Ended(Option<Violation>),
}

/// The parser of one client's frames.
#[derive(Debug)]
pub struct Parser {
    /// Fragments of an unfinished message (the first `keep` bytes), then the unfinished frame's payload, both unmasked.
    buffer: Vec<u8>,
    keep: u32,
    /// Largest message, bytes.
    limit: u32,
    /// Payload bytes of the current frame still to come.
    missing: u32,
    /// The key, turned so that its first byte is for the next payload byte.
    mask: [u8; 4],
    head: [u8; HEAD_BYTES_MAX],
    head_len: u8,
    empty_fragments: u8,
    /// The kind of the unfinished fragmented message.
    message: Option<Opcode>,
    state: State,
}

/// Where a finished payload lies.
enum Place {
    Input(Range<usize>),
    Buffer(Range<usize>),
}

impl Parser {
    /// A parser at the start of a connection that takes messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Parser {
            buffer: Vec::new(),
            keep: 0,
            limit: clamp(limit),
            missing: 0,
            mask: [0; 4],
            head: [0; HEAD_BYTES_MAX],
            head_len: 0,
            empty_fragments: 0,
            message: None,
            state: State::Head,
        }
    }

    /// Changes the largest message, for frames whose header has not been read yet.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = clamp(limit);
    }

    /// The next event in `input`, or `None` when all of it has been taken; call until then, so that no buffer is held.
    ///
    /// # Errors
    /// The first [`Violation`]; it is repeated on every later call.
    pub fn next<'a>(&'a mut self, input: &'a mut Input<'_>) -> Result<Option<Event<'a>>, Violation> {
        let (opcode, place) = match self.advance(input) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(violation) => {
                self.end(Some(violation));
                return Err(violation);
            }
        };
        if opcode == Opcode::Close {
            // `buffer` is lent out below, so it stays until the parser is dropped or called again.
            self.state = State::Ended(None);
        }
        let payload = match place {
            Place::Input(range) => &input.bytes[range],
            Place::Buffer(range) => &self.buffer[range],
        };
        match event(opcode, payload) {
            Ok(event) => Ok(Some(event)),
            Err(violation) => {
                self.state = State::Ended(Some(violation));
                Err(violation)
            }
        }
    }

    /// Whether nothing is pending: no partial frame and no unfinished message.
    pub fn is_idle(&self) -> bool {
        self.state == State::Head && self.head_len == 0 && self.message.is_none()
    }

    /// Heap bytes held, for the session's memory budget.
    pub fn heap_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    fn end(&mut self, violation: Option<Violation>) {
        self.state = State::Ended(violation);
        self.buffer = Vec::new();
    }

    /// Takes input until a message or control frame is complete; says what it is and where its payload lies.
    fn advance(&mut self, input: &mut Input<'_>) -> Result<Option<(Opcode, Place)>, Violation> {
        loop {
            match self.state {
                State::Ended(violation) => {
                    input.at = input.bytes.len();
                    self.end(violation);
                    return violation.map_or(Ok(None), Err);
                }
                State::Lent => {
                    self.drop_lent();
                    self.state = State::Head;
                }
                State::Head => {
                    if !self.take_head(input)? {
                        return Ok(None);
                    }
                }
                State::Payload(part) => {
                    let Some(place) = self.take_payload(part, input) else { return Ok(None) };
                    match part {
                        Part::Whole(opcode) => return Ok(Some((opcode, place))),
                        Part::Fragment { last: false } => {
                            self.keep = clamp(self.buffer.len());
                            self.state = State::Head;
                        }
                        Part::Fragment { last: true } => {
                            let opcode = self.message.take().expect("a fragment belongs to a message");
                            self.keep = 0;
                            self.empty_fragments = 0;
                            return Ok(Some((opcode, Place::Buffer(0..self.buffer.len()))));
                        }
                    }
                }
            }
        }
    }

    fn drop_lent(&mut self) {
        self.buffer.truncate(self.keep as usize);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
    }

    /// Takes header bytes; true when the header is complete and `state` is `Payload`.
    fn take_head(&mut self, input: &mut Input<'_>) -> Result<bool, Violation> {
        loop {
            let have = usize::from(self.head_len);
            let need = if have < 2 { 2 } else { head_bytes(self.head[1]) };
            if have == need {
                break;
            }
            let take = (need - have).min(input.remaining().len());
            if take == 0 {
                return Ok(false);
            }
            self.head[have..have + take].copy_from_slice(&input.remaining()[..take]);
            input.at += take;
            self.head_len += take as u8;
            if have < 2 && have + take >= 2 {
                self.check_start()?;
            }
        }
        let head = &self.head[..usize::from(self.head_len)];
        let (length, mask) = head[2..].split_at(head.len() - 6);
        self.mask = [mask[0], mask[1], mask[2], mask[3]];
        let short = self.head[1] & 0x7f;
        let declared = length.iter().fold(0u64, |sum, &byte| (sum << 8) | u64::from(byte));
        let declared = match short {
            126 if declared < 126 => return Err(Violation::Length),
            127 if declared <= 0xffff || declared >> 63 != 0 => return Err(Violation::Length),
            126 | 127 => declared,
            short => u64::from(short),
        };
        self.begin_payload(declared)?;
        Ok(true)
    }

    /// Checks what the first two bytes of a header tell.
    fn check_start(&self) -> Result<(), Violation> {
        let [first, second, ..] = self.head;
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        match opcode {
            0 if self.message.is_none() => return Err(Violation::OrphanContinuation),
            1 | 2 if self.message.is_some() => return Err(Violation::InterleavedMessage),
            0..=2 => {}
            8..=10 if !fin => return Err(Violation::ControlFragmented),
            8..=10 if usize::from(second & 0x7f) > CONTROL_BYTES_MAX => return Err(Violation::ControlTooLong),
            8..=10 => {}
            _ => return Err(Violation::Opcode),
        }
        if second & 0x80 == 0 { Err(Violation::Unmasked) } else { Ok(()) }
    }

    /// Enters the payload of a frame of `declared` bytes whose start has been checked.
    fn begin_payload(&mut self, declared: u64) -> Result<(), Violation> {
        let (fin, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
        self.head_len = 0;
        let is_data = opcode <= 2;
        if is_data && u64::from(self.keep) + declared > u64::from(self.limit) {
            return Err(Violation::TooLarge);
        }
        if is_data && declared == 0 && !(fin && opcode != 0) {
            self.empty_fragments += 1;
            if self.empty_fragments > EMPTY_FRAGMENTS_MAX {
                return Err(Violation::EmptyFragments);
            }
        }
        let kind = match opcode {
            1 => Some(Opcode::Text),
            2 => Some(Opcode::Binary),
            8 => Some(Opcode::Close),
            9 => Some(Opcode::Ping),
            10 => Some(Opcode::Pong),
            _ => None,
        };
        let part = match kind {
            Some(kind) if fin => Part::Whole(kind),
            Some(kind) => {
                self.message = Some(kind);
                Part::Fragment { last: false }
            }
            None => Part::Fragment { last: fin },
        };
        self.missing = u32::try_from(declared).expect("control payloads and messages within the limit are small");
        self.state = State::Payload(part);
        Ok(())
    }

    /// Takes payload bytes; says where the payload lies once it is complete, and leaves `state` ready for what follows.
    fn take_payload(&mut self, part: Part, input: &mut Input<'_>) -> Option<Place> {
        let take = (self.missing as usize).min(input.remaining().len());
        let range = input.at..input.at + take;
        unmask(&mut input.bytes[range.clone()], &mut self.mask);
        input.at += take;
        self.missing -= take as u32;
        let done = self.missing == 0;
        let nothing_kept = self.buffer.len() == self.keep as usize;
        if done && nothing_kept && matches!(part, Part::Whole(_)) {
            self.state = State::Head;
            return Some(Place::Input(range));
        }
        self.buffer.extend_from_slice(&input.bytes[range]);
        if done {
            self.state = State::Lent;
        }
        done.then_some(Place::Buffer(self.keep as usize..self.buffer.len()))
    }
}

/// Header bytes of a client's frame whose second byte is `second`.
fn head_bytes(second: u8) -> usize {
    6 + match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

fn clamp(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// XORs `bytes` with `mask` and turns the mask to where the next portion starts.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let word = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let turn = bytes.len() % 4;
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let plain = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight")) ^ word;
        chunk.copy_from_slice(&plain.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(turn);
}

fn event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Violation::Utf8);
    Ok(match opcode {
        Opcode::Text => Event::Text(text(payload)?),
        Opcode::Binary => Event::Binary(payload),
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => match payload {
            [] => Event::Close { code: None, reason: "" },
            [_] => return Err(Violation::CloseCode),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !may_be_sent(code) {
                    return Err(Violation::CloseCode);
                }
                Event::Close { code: Some(code), reason: text(reason)? }
            }
        },
    })
}

/// Whether a Close frame may carry `code`: 1004, 1005, 1006, 1015 and everything unassigned may not.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
