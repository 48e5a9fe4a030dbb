//! ZMTP 3.x as a pure incremental machine: bytes in through [`Parser::buffer`], events out of [`Parser::next_event`].
//!
//! Neutral to the role: SUB on the bus, ROUTER on the control channel; NULL mechanism only. What we send is built by
//! the free functions below. Promise: no panic, no allocation by a declared length (memory grows with bytes received
//! and stays below `message_bytes_max` plus one read), and the same events however the bytes were split. The first
//! violation is final. Parts are slices of the read buffer: copy what is kept long.
//! Knows no sockets, clocks or topics. Tests: `parser/tests.rs`; fuzz entry: [`fuzz`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

/// The parts of one message; two on the bus.
pub type Parts = SmallVec<[Bytes; 2]>;

/// Our greeting, bytes; a peer's is as long.
pub const GREETING_BYTES: usize = 64;
/// A command's body, bytes; READY is about 40, PING at most 23.
pub const COMMAND_BYTES_MAX: usize = 4096;
/// A PING's context, bytes, by the ZMTP 3.1 text.
pub const PING_CONTEXT_BYTES_MAX: usize = 16;

const READ_CHUNK_BYTES: usize = 64 * 1024;
const READ_ROOM_BYTES_MIN: usize = 4096;
const FLAG_MORE: u8 = 1;
const FLAG_LONG: u8 = 2;
const FLAG_COMMAND: u8 = 4;

/// What we are on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives from publishers.
    Sub,
    /// Talks to DEALERs, told apart by connection.
    Router,
}

impl Role {
    /// Our `Socket-Type`.
    pub const fn socket_type(self) -> &'static str {
        match self {
            Role::Sub => "SUB",
            Role::Router => "ROUTER",
        }
    }

    /// Whether a peer of this `Socket-Type` may talk to us.
    pub fn accepts(self, peer: &[u8]) -> bool {
        match self {
            Role::Sub => matches!(peer, b"PUB" | b"XPUB"),
            Role::Router => peer == b"DEALER",
        }
    }
}

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What we are.
    pub role: Role,
    /// One frame, bytes.
    pub frame_bytes_max: usize,
    /// One message, bytes over all parts.
    pub message_bytes_max: usize,
    /// Parts of one message, counted.
    pub parts_max: usize,
}

impl Config {
    /// The bus: the bounds of CONTRACTS 7.
    pub const fn sub() -> Self {
        Config {
            role: Role::Sub,
            frame_bytes_max: crate::limits::BUS_FRAME_BYTES_MAX,
            message_bytes_max: crate::limits::BUS_MESSAGE_BYTES_MAX,
            parts_max: crate::limits::BUS_PARTS_MAX,
        }
    }

    /// The control channel: small maps, one part each; a second part is read only to be counted as a mistake.
    pub const fn router() -> Self {
        Config {
            role: Role::Router,
            frame_bytes_max: crate::limits::CONTROL_MESSAGE_BYTES_MAX,
            message_bytes_max: crate::limits::CONTROL_MESSAGE_BYTES_MAX,
            parts_max: 2,
        }
    }
}

/// What the peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its greeting; `minor` 0 knows neither SUBSCRIBE nor PING. Answer with [`ready`].
    Greeting {
        /// Minor version: 3.`minor`.
        minor: u8,
    },
    /// Its READY, with a `Socket-Type` that fits ours. Messages may follow.
    Ready,
    /// A whole message.
    Message(Parts),
    /// Answer with [`pong`] and this context.
    Ping {
        /// At most [`PING_CONTEXT_BYTES_MAX`] bytes.
        context: Bytes,
    },
    /// The answer to a PING of ours.
    Pong,
}

/// What a peer did wrong; its connection is closed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The first bytes are no ZMTP signature.
    #[error("the greeting is not ZMTP")]
    Signature,
    /// Major version below 3.
    #[error("ZMTP older than 3.0")]
    Version,
    /// Anything but NULL: PLAIN, CURVE, GSSAPI.
    #[error("a security mechanism other than NULL")]
    Mechanism,
    /// Reserved flag bits, or a command with MORE.
    #[error("impossible frame flags")]
    Flags,
    /// Declared frame length above the bound.
    #[error("a frame larger than the bound")]
    FrameTooLarge,
    /// Sum of the parts above the bound.
    #[error("a message larger than the bound")]
    MessageTooLarge,
    /// More parts than the bound.
    #[error("a message of too many parts")]
    TooManyParts,
    /// A message or another command where READY was due.
    #[error("no READY after the greeting")]
    NotReady,
    /// A command that cannot be read, or larger than its bound.
    #[error("a malformed command")]
    Command,
    /// A `Socket-Type` that does not go with ours, or none.
    #[error("a socket type that does not fit")]
    SocketType,
    /// The peer sent ERROR.
    #[error("the peer refused the handshake")]
    Refused,
}

impl Violation {
    /// Every violation.
    pub const ALL: [Violation; 11] = [
        Violation::Signature,
        Violation::Version,
        Violation::Mechanism,
        Violation::Flags,
        Violation::FrameTooLarge,
        Violation::MessageTooLarge,
        Violation::TooManyParts,
        Violation::NotReady,
        Violation::Command,
        Violation::SocketType,
        Violation::Refused,
    ];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Violation::Signature => "zmtp_signature",
            Violation::Version => "zmtp_version",
            Violation::Mechanism => "zmtp_mechanism",
            Violation::Flags => "zmtp_flags",
            Violation::FrameTooLarge => "zmtp_frame_too_large",
            Violation::MessageTooLarge => "zmtp_message_too_large",
            Violation::TooManyParts => "zmtp_too_many_parts",
            Violation::NotReady => "zmtp_not_ready",
            Violation::Command => "zmtp_command",
            Violation::SocketType => "zmtp_socket_type",
            Violation::Refused => "zmtp_refused",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    AwaitingReady,
    Traffic,
    Failed(Violation),
}

/// One connection's receiving half.
#[derive(Debug)]
pub struct Parser {
    config: Config,
    state: State,
    buffer: BytesMut,
    /// Parts of the message that is not complete yet, and their bytes.
    parts: Parts,
    parts_bytes: usize,
}

impl Parser {
    /// A connection on which nothing has been received.
    pub fn new(config: Config) -> Self {
        Parser { config, state: State::Greeting, buffer: BytesMut::new(), parts: Parts::new(), parts_bytes: 0 }
    }

    /// Where received bytes are appended; has room for at least 4 KiB. Call [`Parser::next_event`] until it gives
    /// `None` before reading again.
    pub fn buffer(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < READ_ROOM_BYTES_MIN {
            self.buffer.reserve(READ_CHUNK_BYTES);
        }
        &mut self.buffer
    }

    /// Whether the peer's READY has been read.
    pub fn is_ready(&self) -> bool {
        self.state == State::Traffic
    }

    /// The next event, or `None` until more bytes are there.
    ///
    /// # Errors
    /// The peer's first violation, again at each further call.
    pub fn next_event(&mut self) -> Result<Option<Event>, Violation> {
        let result = match self.state {
            State::Greeting => self.greeting(),
            State::AwaitingReady | State::Traffic => self.frames(),
            State::Failed(violation) => return Err(violation),
        };
        if let Err(violation) = result {
            self.state = State::Failed(violation);
            self.buffer = BytesMut::new();
            self.parts = Parts::new();
        }
        result
    }

    /// Each byte is judged as soon as it is there, so that a wrong peer is refused before it has sent all 64.
    fn greeting(&mut self) -> Result<Option<Event>, Violation> {
        let held = &self.buffer[..];
        let at = |i: usize| held.get(i).copied();
        if at(0).is_some_and(|b| b != 0xff) || at(9).is_some_and(|b| b & 1 == 0) {
            return Err(Violation::Signature);
        }
        if at(10).is_some_and(|major| major < 3) {
            return Err(Violation::Version);
        }
        let mechanism = &held[held.len().min(12)..held.len().min(32)];
        if mechanism != &b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..mechanism.len()] {
            return Err(Violation::Mechanism);
        }
        if held.len() < GREETING_BYTES {
            return Ok(None);
        }
        // A peer of a later major version speaks 3.1 to us, who announce that.
        let minor = if held[10] > 3 { 1 } else { held[11] };
        self.buffer.advance(GREETING_BYTES);
        self.state = State::AwaitingReady;
        Ok(Some(Event::Greeting { minor }))
    }

    fn frames(&mut self) -> Result<Option<Event>, Violation> {
        while let Some((flags, body)) = self.frame()? {
            let event = if flags & FLAG_COMMAND != 0 { self.command(body)? } else { self.part(flags, body)? };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// The next whole frame. Its declared length is judged before its body is waited for.
    fn frame(&mut self) -> Result<Option<(u8, Bytes)>, Violation> {
        let Some(&flags) = self.buffer.first() else { return Ok(None) };
        if flags & !(FLAG_MORE | FLAG_LONG | FLAG_COMMAND) != 0 || flags & (FLAG_COMMAND | FLAG_MORE) == 5 {
            return Err(Violation::Flags);
        }
        if self.state == State::AwaitingReady && flags & FLAG_COMMAND == 0 {
            return Err(Violation::NotReady);
        }
        let (length, header) = if flags & FLAG_LONG == 0 {
            let Some(&length) = self.buffer.get(1) else { return Ok(None) };
            (u64::from(length), 2)
        } else {
            let Some(length) = self.buffer.get(1..9) else { return Ok(None) };
            (u64::from_be_bytes(length.try_into().expect("eight bytes")), 9)
        };
        self.judge_length(flags, length)?;
        let length = usize::try_from(length).map_err(|_| Violation::FrameTooLarge)?;
        if self.buffer.len() - header < length {
            return Ok(None);
        }
        self.buffer.advance(header);
        Ok(Some((flags, self.buffer.split_to(length).freeze())))
    }

    fn judge_length(&self, flags: u8, length: u64) -> Result<(), Violation> {
        if flags & FLAG_COMMAND != 0 {
            return if length > COMMAND_BYTES_MAX as u64 { Err(Violation::Command) } else { Ok(()) };
        }
        if length > self.config.frame_bytes_max as u64 {
            return Err(Violation::FrameTooLarge);
        }
        if self.parts_bytes as u64 + length > self.config.message_bytes_max as u64 {
            return Err(Violation::MessageTooLarge);
        }
        // The part that this frame is, plus one more if it promises one.
        let parts = self.parts.len() + 1 + usize::from(flags & FLAG_MORE);
        if parts > self.config.parts_max { Err(Violation::TooManyParts) } else { Ok(()) }
    }

    fn part(&mut self, flags: u8, body: Bytes) -> Result<Option<Event>, Violation> {
        self.parts_bytes += body.len();
        self.parts.push(body);
        if flags & FLAG_MORE != 0 {
            return Ok(None);
        }
        self.parts_bytes = 0;
        Ok(Some(Event::Message(std::mem::take(&mut self.parts))))
    }

    /// Commands may stand between the parts of a message: libzmq's heartbeat timer does not look.
    fn command(&mut self, mut body: Bytes) -> Result<Option<Event>, Violation> {
        let name_length = usize::from(*body.first().ok_or(Violation::Command)?);
        if name_length == 0 || body.len() < 1 + name_length {
            return Err(Violation::Command);
        }
        let name = body.slice(1..1 + name_length);
        body.advance(1 + name_length);
        match &name[..] {
            b"ERROR" => Err(Violation::Refused),
            b"READY" if self.state == State::AwaitingReady => {
                self.check_ready(&body)?;
                self.state = State::Traffic;
                Ok(Some(Event::Ready))
            }
            _ if self.state == State::AwaitingReady => Err(Violation::NotReady),
            b"PING" => {
                // Two bytes of time-to-live come first; our own silence rule is stricter than any of them needs.
                if body.len() < 2 || body.len() - 2 > PING_CONTEXT_BYTES_MAX {
                    return Err(Violation::Command);
                }
                body.advance(2);
                Ok(Some(Event::Ping { context: body }))
            }
            b"PONG" => Ok(Some(Event::Pong)),
            _ => Ok(None),
        }
    }

    /// READY's properties: 1-byte name length, name, 4-byte value length, value. Names compare in any case; all but
    /// `Socket-Type` are ignored, `Identity` too: we tell peers apart by connection.
    fn check_ready(&self, mut rest: &[u8]) -> Result<(), Violation> {
        let mut socket_type = None;
        while !rest.is_empty() {
            let (name, after) = take(&rest[1..], usize::from(rest[0]))?;
            let (length, after) = take(after, 4)?;
            let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            let (value, after) = take(after, length)?;
            if name.eq_ignore_ascii_case(b"Socket-Type") {
                socket_type = Some(value);
            }
            rest = after;
        }
        if socket_type.is_some_and(|value| self.config.role.accepts(value)) {
            Ok(())
        } else {
            Err(Violation::SocketType)
        }
    }
}

fn take(bytes: &[u8], length: usize) -> Result<(&[u8], &[u8]), Violation> {
    bytes.split_at_checked(length).ok_or(Violation::Command)
}

/// Our greeting: ZMTP 3.1, NULL, not as server. Sent at once, without waiting for the peer's.
pub fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = 3;
    bytes[11] = 1;
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// Our READY.
pub fn ready(role: Role, out: &mut BytesMut) {
    let value = role.socket_type().as_bytes();
    let mut body = BytesMut::new();
    body.put_u8(11);
    body.put_slice(b"Socket-Type");
    body.put_u32(value.len() as u32);
    body.put_slice(value);
    command(b"READY", &body, out);
}

/// A wish for all topics that begin with `prefix`, in the form that a peer of 3.`minor` knows.
pub fn subscribe(minor: u8, prefix: &[u8], out: &mut BytesMut) {
    if minor >= 1 {
        command(b"SUBSCRIBE", prefix, out);
    } else {
        let mut body = BytesMut::with_capacity(1 + prefix.len());
        body.put_u8(1);
        body.put_slice(prefix);
        frame(0, &body, out);
    }
}

/// A PING without time-to-live or context; only for peers that announced 3.1.
pub fn ping(out: &mut BytesMut) {
    command(b"PING", &[0, 0], out);
}

/// The answer to [`Event::Ping`].
pub fn pong(context: &[u8], out: &mut BytesMut) {
    command(b"PONG", context, out);
}

/// One message of the given parts, as ROUTER and test peers send it.
pub fn message(parts: &[&[u8]], out: &mut BytesMut) {
    for (i, part) in parts.iter().enumerate() {
        frame(if i + 1 < parts.len() { FLAG_MORE } else { 0 }, part, out);
    }
}

fn command(name: &[u8], data: &[u8], out: &mut BytesMut) {
    let mut body = BytesMut::with_capacity(1 + name.len() + data.len());
    body.put_u8(name.len() as u8);
    body.put_slice(name);
    body.put_slice(data);
    frame(FLAG_COMMAND, &body, out);
}

fn frame(flags: u8, body: &[u8], out: &mut BytesMut) {
    match u8::try_from(body.len()) {
        Ok(length) => {
            out.put_u8(flags);
            out.put_u8(length);
        }
        Err(_) => {
            out.put_u8(flags | FLAG_LONG);
            out.put_u64(body.len() as u64);
        }
    }
    out.put_slice(body);
}

/// Fuzz entry: the first byte chooses role and split, the rest is what a peer sends. Panics only on a broken promise.
pub fn fuzz(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Sub } else { Role::Router };
    let config = Config { role, frame_bytes_max: 1024, message_bytes_max: 1500, parts_max: 3 };
    let split = usize::from(choice >> 1).max(1);
    let whole = run(config, data, data.len().max(1));
    assert_eq!(whole, run(config, data, split), "events depend on how the bytes were split");
}

/// All events of `data` fed in pieces of `split` bytes, with the violation that ended them.
fn run(config: Config, data: &[u8], split: usize) -> (Vec<Event>, Option<Violation>) {
    let mut parser = Parser::new(config);
    let mut events = Vec::new();
    for piece in data.chunks(split) {
        parser.buffer().extend_from_slice(piece);
        loop {
            match parser.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
    }
    (events, None)
}

#[cfg(test)]
mod tests;
