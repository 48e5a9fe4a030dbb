//! One connection, SUB or ROUTER, over a socket: the thin shell around `parser.rs`.
//!
//! In: a connected stream's two halves, and what a [`Sink`] has to send. Out: whole messages to the sink, in order. Promise:
//! the handshake ends in time both ways; a silent 3.1 peer is found by PING (a quiet market is not dead: any byte counts as
//! life, and peers of 3.0, which know no PING, are left to TCP keepalive); reading stops only while a sink says so; what we
//! have to send is bounded. Every future in here may be dropped at any await. Tests: at the end, `tests/zmtp_hostile.rs`.

use super::parser::{self, Config as ParserConfig, Event, Parser, Parts, Role, Violation};
use bytes::BytesMut;
use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

/// Answers (PONGs) that a peer may leave unread, bytes.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;

/// Woken later than this we were stalled ourselves, and what the peer sent meanwhile is still to be read.
const LATE: Duration = Duration::from_millis(500);

/// Bounds and periods of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Frames and messages.
    pub parser: ParserConfig,
    /// Greeting and READY, ours and the peer's.
    pub handshake: Duration,
    /// A 3.1 peer that has sent nothing for this long gets a PING.
    pub ping_after: Duration,
    /// A 3.1 peer that sends nothing for this long after our PING is dead.
    pub silence_max: Duration,
}

impl Config {
    /// SUB with the bounds of CONTRACTS 7.
    pub const fn sub() -> Self {
        Config {
            parser: ParserConfig::sub(),
            handshake: crate::limits::BUS_HANDSHAKE,
            ping_after: crate::limits::BUS_PING_AFTER,
            silence_max: crate::limits::BUS_PING_TIMEOUT,
        }
    }

    /// ROUTER with the bounds of the control channel. Whether an adapter process lives its heartbeats say; a connection that comes
    /// back is kept, so that nobody has to connect again.
    pub const fn router() -> Self {
        Config {
            parser: ParserConfig::router(),
            ping_after: Duration::from_secs(10),
            silence_max: Duration::from_secs(20),
            ..Config::sub()
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkEnd {
    /// The peer broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// No greeting and READY in time.
    #[error("no greeting and READY in time")]
    HandshakeTimeout,
    /// The peer left before its READY.
    #[error("the peer left during the handshake")]
    HandshakeClosed,
    /// No byte after our PING.
    #[error("no byte after a PING")]
    Silent,
    /// The peer asks for answers and does not read them.
    #[error("the peer does not read our answers")]
    AnswersUnread,
    /// The sink refuses this peer's messages.
    #[error("more lossless messages than may wait")]
    LosslessFlood,
    /// The sink's reader is gone.
    #[error("nobody takes the messages any more")]
    SinkGone,
    /// The peer left.
    #[error("the peer left")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Metric labels of the [`LinkEnd`]s that are a peer's fault, [`Violation`]s apart.
pub const FAULT_LABELS: [&str; 5] =
    ["zmtp_handshake_timeout", "zmtp_handshake_closed", "zmtp_silent", "zmtp_answers_unread", "lossless_flood"];

impl LinkEnd {
    /// Metric label if the peer is to blame, else `None`: peers come and go.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            LinkEnd::Violation(violation) => Some(violation.label()),
            LinkEnd::HandshakeTimeout => Some(FAULT_LABELS[0]),
            LinkEnd::HandshakeClosed => Some(FAULT_LABELS[1]),
            LinkEnd::Silent => Some(FAULT_LABELS[2]),
            LinkEnd::AnswersUnread => Some(FAULT_LABELS[3]),
            LinkEnd::LosslessFlood => Some(FAULT_LABELS[4]),
            LinkEnd::SinkGone | LinkEnd::Closed | LinkEnd::Io(_) => None,
        }
    }
}

/// Takes the messages of one connection; must never wait in `message`.
pub trait Sink {
    /// One read brought messages; they follow.
    fn read_begins(&mut self);

    /// A whole message. `Break` ends the connection.
    fn message(&mut self, parts: Parts) -> ControlFlow<LinkEnd>;

    /// Moves on what had to wait; pending for ever when nothing does. Cancel-safe: it is dropped at each read.
    fn make_progress(&mut self) -> impl Future<Output = ()> + Send;

    /// Whether more may be read now; asked again after each progress.
    fn has_room(&self) -> bool {
        true
    }

    /// After a progress: appends what is to be sent, as frames. `Break` ends the connection.
    fn outgoing(&mut self, _out: &mut BytesMut) -> ControlFlow<LinkEnd> {
        ControlFlow::Continue(())
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Link<R, W> {
    reader: R,
    writer: W,
    parser: Parser,
    answers: BytesMut,
    minor: u8,
    config: Config,
}

/// Greets, exchanges READY and, as SUB, subscribes to everything.
///
/// # Errors
/// The reason why the peer was refused or lost.
pub async fn handshake<R, W>(reader: R, writer: W, config: Config) -> Result<Link<R, W>, LinkEnd>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    timeout(config.handshake, greet(reader, writer, config)).await.unwrap_or(Err(LinkEnd::HandshakeTimeout))
}

async fn greet<R, W>(mut reader: R, mut writer: W, config: Config) -> Result<Link<R, W>, LinkEnd>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut parser = Parser::new(config.parser);
    let mut answers = BytesMut::new();
    let mut minor = 0;
    writer.write_all(&parser::greeting()).await?;
    loop {
        match parser.next_event()? {
            Some(Event::Greeting { minor: theirs }) => {
                minor = theirs;
                parser::ready(config.parser.role, &mut answers);
                writer.write_all_buf(&mut answers).await?;
            }
            Some(Event::Ready) => {
                if config.parser.role == Role::Sub {
                    parser::subscribe(minor, b"", &mut answers);
                }
                writer.write_all_buf(&mut answers).await?;
                return Ok(Link { reader, writer, parser, answers, minor, config });
            }
            // The machine lets nothing else through before READY.
            Some(Event::Message(_) | Event::Ping { .. } | Event::Pong) => return Err(Violation::NotReady.into()),
            None => {
                if reader.read_buf(parser.buffer()).await? == 0 {
                    return Err(LinkEnd::HandshakeClosed);
                }
            }
        }
    }
}

/// When a peer is asked for a sign of life, and when it is given up.
#[derive(Clone, Copy, Debug)]
enum Life {
    Heard {
        ask_at: Instant,
    },
    Asked {
        dead_at: Instant,
    },
    /// A 3.0 peer: TCP keepalive has to do.
    Unknown,
}

impl<R, W> Link<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// Minor version the peer announced.
    pub fn minor(&self) -> u8 {
        self.minor
    }

    /// Hands messages to `sink` until the connection ends.
    pub async fn run<K: Sink>(mut self, sink: &mut K) -> LinkEnd {
        let mut life = self.heard();
        // Messages may have come in the same read as READY.
        sink.read_begins();
        if let ControlFlow::Break(end) = self.events(sink) {
            return end;
        }
        loop {
            tokio::select! {
                read = self.reader.read_buf(self.parser.buffer()), if sink.has_room() => match read {
                    Ok(0) => return LinkEnd::Closed,
                    Err(error) => return LinkEnd::Io(error),
                    Ok(_) => {
                        life = self.heard();
                        sink.read_begins();
                        if let ControlFlow::Break(end) = self.events(sink) {
                            return end;
                        }
                    }
                },
                written = self.writer.write_buf(&mut self.answers), if !self.answers.is_empty() => match written {
                    Ok(_) => {}
                    Err(error) => return LinkEnd::Io(error),
                },
                () = sink.make_progress(), if self.answers.len() < ANSWERS_BYTES_MAX => {
                    if let ControlFlow::Break(end) = sink.outgoing(&mut self.answers) {
                        return end;
                    }
                }
                () = due(life) => match life {
                    Life::Asked { dead_at } if dead_at.elapsed() <= LATE => return LinkEnd::Silent,
                    Life::Heard { .. } | Life::Asked { .. } | Life::Unknown => {
                        parser::ping(&mut self.answers);
                        life = Life::Asked { dead_at: Instant::now() + self.config.silence_max };
                    }
                },
            }
        }
    }

    fn heard(&self) -> Life {
        match self.minor {
            0 => Life::Unknown,
            _ => Life::Heard { ask_at: Instant::now() + self.config.ping_after },
        }
    }

    fn events<K: Sink>(&mut self, sink: &mut K) -> ControlFlow<LinkEnd> {
        loop {
            match self.parser.next_event() {
                Ok(Some(Event::Message(parts))) => sink.message(parts)?,
                Ok(Some(Event::Ping { context })) => {
                    if self.answers.len() >= ANSWERS_BYTES_MAX {
                        return ControlFlow::Break(LinkEnd::AnswersUnread);
                    }
                    parser::pong(&context, &mut self.answers);
                }
                Ok(Some(Event::Pong | Event::Greeting { .. } | Event::Ready)) => {}
                Ok(None) => return ControlFlow::Continue(()),
                Err(violation) => return ControlFlow::Break(violation.into()),
            }
        }
    }
}

async fn due(life: Life) {
    match life {
        Life::Heard { ask_at: at } | Life::Asked { dead_at: at } => tokio::time::sleep_until(at).await,
        Life::Unknown => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

    #[derive(Default)]
    struct Collect(Vec<Parts>);

    impl Sink for Collect {
        fn read_begins(&mut self) {}
        fn message(&mut self, parts: Parts) -> ControlFlow<LinkEnd> {
            self.0.push(parts);
            ControlFlow::Continue(())
        }
        async fn make_progress(&mut self) {
            std::future::pending().await
        }
    }

    type TestLink = Link<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

    async fn shake(minor: u8) -> (TestLink, DuplexStream) {
        let (ours, mut theirs) = duplex(1 << 16);
        let (reader, writer) = split(ours);
        let mut hello = BytesMut::from(&parser::greeting()[..]);
        hello[11] = minor;
        hello.extend_from_slice(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB");
        // 0x19 is 25: the name and its length, then the property of 19 bytes.
        theirs.write_all(&hello).await.expect("room in the pipe");
        (handshake(reader, writer, Config::sub()).await.expect("a good peer"), theirs)
    }

    async fn read_handshake(theirs: &mut DuplexStream, subscribe: &[u8]) {
        let mut got = vec![0; 64 + 27 + subscribe.len()];
        theirs.read_exact(&mut got).await.expect("our side");
        assert_eq!(&got[64 + 27..], subscribe);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_peer_of_3_1_is_asked_and_then_given_up() {
        let (link, mut theirs) = shake(1).await;
        let started = Instant::now();
        let mut sink = Collect::default();
        let end = link.run(&mut sink).await;
        assert!(matches!(end, LinkEnd::Silent), "{end}");
        assert_eq!(started.elapsed(), Duration::from_secs(6));
        read_handshake(&mut theirs, b"\x04\x0a\x09SUBSCRIBE").await;
        let mut ping = [0; 9];
        theirs.read_exact(&mut ping).await.expect("a ping");
        assert_eq!(&ping, b"\x04\x07\x04PING\0\0");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_stalled_itself_asks_again_before_it_gives_a_peer_up() {
        let (link, mut theirs) = shake(1).await;
        let mut sink = Collect::default();
        let mut run = std::pin::pin!(link.run(&mut sink));
        assert!(timeout(Duration::from_secs(5), &mut run).await.is_err(), "it has asked");
        // Nothing of ours runs for a minute, in which the answer comes.
        read_handshake(&mut theirs, b"\x04\x0a\x09SUBSCRIBE").await;
        tokio::time::advance(Duration::from_secs(60)).await;
        theirs.write_all(b"\x04\x05\x04PONG").await.expect("room");
        assert!(timeout(Duration::from_secs(5), &mut run).await.is_err(), "it lives");
        let started = Instant::now();
        let end = run.await;
        assert!(matches!(end, LinkEnd::Silent) && started.elapsed() <= Duration::from_secs(6), "{end}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_peer_of_3_0_is_never_asked() {
        let (link, mut theirs) = shake(0).await;
        let mut sink = Collect::default();
        let quiet = timeout(Duration::from_secs(3600), link.run(&mut sink)).await;
        assert!(quiet.is_err(), "the link outlived an hour of silence");
        read_handshake(&mut theirs, b"\0\x01\x01").await;
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await.expect("end");
        assert!(rest.is_empty(), "{rest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_pings_lives_for_ever() {
        let (link, mut theirs) = shake(1).await;
        let mut sink = Collect::default();
        let peer = async {
            read_handshake(&mut theirs, b"\x04\x0a\x09SUBSCRIBE").await;
            for _ in 0..10 {
                let mut ping = [0; 9];
                theirs.read_exact(&mut ping).await.expect("a ping");
                theirs.write_all(b"\x04\x05\x04PONG").await.expect("room");
            }
            theirs.write_all(b"\x04\x09\x04PING\0\0hi\x01\x01t\0\x01b").await.expect("room");
            let mut pong = [0; 9];
            theirs.read_exact(&mut pong).await.expect("a pong");
            assert_eq!(&pong, b"\x04\x07\x04PONGhi");
            drop(theirs);
        };
        let (end, ()) = tokio::join!(link.run(&mut sink), peer);
        assert!(matches!(end, LinkEnd::Closed), "{end}");
        assert_eq!(sink.0.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_floods_pings_and_reads_nothing_is_dropped() {
        let (link, mut theirs) = shake(1).await;
        let flood = async {
            let frame = [&b"\x04\x17\x04PING\0\0"[..], &[b'x'; 16]].concat();
            while theirs.write_all(&frame).await.is_ok() {}
        };
        let mut sink = Collect::default();
        tokio::select! {
            end = link.run(&mut sink) => assert!(matches!(end, LinkEnd::AnswersUnread), "{end}"),
            () = flood => panic!("the peer was dropped without a reason"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_greeting_ends_with_the_deadline() {
        let (ours, mut theirs) = duplex(1024);
        let (reader, writer) = split(ours);
        theirs.write_all(&parser::greeting()[..30]).await.expect("room");
        let started = Instant::now();
        let end = handshake(reader, writer, Config::sub()).await.expect_err("no handshake");
        assert!(matches!(end, LinkEnd::HandshakeTimeout), "{end}");
        assert_eq!(started.elapsed(), Duration::from_secs(3));
    }
}
