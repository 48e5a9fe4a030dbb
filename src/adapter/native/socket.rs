//! The socket of one connection to a broker: opens it, reads whole messages, writes text. Decides nothing.
//!
//! In: a [`Request`] and what is to be sent, over bounded queues. Out: what happened, each with the number of the attempt, so that
//! late words of a socket that was given up are recognised. Promises: pings are answered while reading; a message has at
//! most [`MESSAGE_BYTES_MAX`] bytes however it is cut up; when its queue closes it says goodbye and ends; nothing it says
//! holds the request. A reader that is not fetched from stops reading, which TCP tells the broker. Tests: `socket/tests.rs`.

use super::broker::Request;
use super::upgrade::{UpgradeError, upgrade};
use crate::model::Micros;
use fastwebsockets::{
    Frame, OpCode, Payload, Role, WebSocketError, WebSocketRead, WebSocketWrite, after_handshake_split,
};
use hyper::Uri;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// One message of a broker, bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Control frames to be answered while the writer is busy, counted; a broker that sends more is not waited for.
const ANSWERS_MAX: usize = 16;

/// How `wss://` connections are trusted: the usual public roots.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// With Mozilla's roots.
    pub fn public() -> Self {
        Self::with(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    /// With these roots.
    fn with(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has suites for TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Tls(Arc::new(config))
    }
}

/// What is to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A text message.
    Text(String),
    /// A ping.
    Ping,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) struct Said {
    /// Which connection of the account.
    pub(super) row: usize,
    /// Which attempt.
    pub(super) life: u64,
    pub(super) what: What,
}

/// See [`Said`].
#[derive(Debug)]
pub(super) enum What {
    /// Upgraded, and the first message is written.
    Opened,
    /// A text message.
    Text(Micros, String),
    /// A binary message.
    Binary(Micros, Vec<u8>),
    /// A ping, or a piece of a message.
    Heard,
    /// A pong.
    Pong,
    /// The upgrade was answered otherwise.
    Refused { status: u16, text: String },
    /// Not opened, or over.
    Lost(String),
}

/// The queue to the owner, and who is speaking.
#[derive(Clone)]
pub(super) struct Voice {
    pub(super) row: usize,
    pub(super) life: u64,
    pub(super) said: mpsc::Sender<Said>,
}

impl Voice {
    /// Whether the owner still listens.
    async fn say(&self, what: What) -> bool {
        self.said.send(Said { row: self.row, life: self.life, what }).await.is_ok()
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

type Reader = WebSocketRead<ReadHalf<TokioIo<Upgraded>>>;
type Writer = WebSocketWrite<WriteHalf<TokioIo<Upgraded>>>;

/// The life of one attempt.
pub(super) async fn run(request: Request, tls: Tls, out: mpsc::Receiver<Outgoing>, voice: Voice) {
    let over = match open(&request, &tls).await {
        Err(OpenError::Upgrade(UpgradeError::Refused { status, text, .. })) => {
            What::Refused { status: status.as_u16(), text }
        }
        Err(error) => What::Lost(error.to_string()),
        Ok((mut reader, mut writer)) => {
            reader.set_max_message_size(MESSAGE_BYTES_MAX);
            let first = match &request.first {
                Some(first) => writer.write_frame(text_frame(first)).await,
                None => Ok(()),
            };
            match first {
                Err(error) => What::Lost(error.to_string()),
                Ok(()) if !voice.say(What::Opened).await => return,
                Ok(()) => What::Lost(converse(reader, writer, out, &voice).await),
            }
        }
    };
    voice.say(over).await;
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the URL must be ws://host[:port][/path] or wss://…")]
    Url,
    #[error("cannot connect to {address}: {cause}")]
    Connect { address: String, cause: io::Error },
    #[error("no TLS with {address}: {cause}")]
    Tls { address: String, cause: io::Error },
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
}

/// Host, port and whether TLS is spoken; `None` when that is no WebSocket URL.
pub fn address(url: &str) -> Option<(String, u16, bool, Uri)> {
    let uri: Uri = url.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "ws" => false,
        "wss" => true,
        _ => return None,
    };
    let host = uri.host().filter(|host| !host.is_empty())?.to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Some((host, port, tls, uri))
}

async fn open(request: &Request, tls: &Tls) -> Result<(Reader, Writer), OpenError> {
    let (host, port, secure, uri) = address(&request.url).ok_or(OpenError::Url)?;
    // Name resolution takes IPv6 without brackets; the header wants them.
    let bare = host.trim_matches(['[', ']']);
    let shown = || format!("{host}:{port}");
    let tcp = TcpStream::connect((bare, port)).await;
    let tcp = tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp));
    let tcp = tcp.map_err(|cause| OpenError::Connect { address: shown(), cause })?;
    let io: Box<dyn Io> = if secure {
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| OpenError::Url)?;
        let stream = TlsConnector::from(tls.0.clone()).connect(name, tcp).await;
        Box::new(stream.map_err(|cause| OpenError::Tls { address: shown(), cause })?)
    } else {
        Box::new(tcp)
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let header = match (port, secure) {
        (80, false) | (443, true) => host.clone(),
        _ => shown(),
    };
    let (stream, _) = upgrade(io, &header, path, &headers).await?;
    let (read, write) = tokio::io::split(stream);
    Ok(after_handshake_split(read, write, Role::Client))
}

/// Reads and writes until either ends; why.
async fn converse(reader: Reader, writer: Writer, out: mpsc::Receiver<Outgoing>, voice: &Voice) -> String {
    let (answers, answered) = mpsc::channel(ANSWERS_MAX);
    tokio::select! {
        reason = read(reader, answers, voice) => reason,
        reason = write(writer, out, answered) => reason,
    }
}

type Answer = (OpCode, Vec<u8>);

async fn read(mut reader: Reader, answers: mpsc::Sender<Answer>, voice: &Voice) -> String {
    // A message that came in pieces, so far.
    let mut partial: Option<(OpCode, Vec<u8>)> = None;
    let mut answer = |frame: Frame<'_>| {
        let _ = answers.try_send((frame.opcode, frame.payload.to_vec()));
        std::future::ready(Ok::<(), io::Error>(()))
    };
    loop {
        let frame = match reader.read_frame(&mut answer).await {
            Ok(frame) => frame,
            Err(WebSocketError::UnexpectedEOF | WebSocketError::ConnectionClosed) => {
                return "the broker hung up".into();
            }
            Err(error) => return error.to_string(),
        };
        let now = Micros::now();
        let what = match frame.opcode {
            OpCode::Ping => What::Heard,
            OpCode::Pong => What::Pong,
            OpCode::Close => return closing(&frame.payload),
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                let (opcode, bytes) = match (partial.take(), frame.opcode) {
                    (None, OpCode::Continuation) => return "the broker continued what it had not begun".into(),
                    (None, opcode) => (opcode, frame.payload.to_vec()),
                    (Some((opcode, mut bytes)), OpCode::Continuation) => {
                        bytes.extend_from_slice(&frame.payload);
                        (opcode, bytes)
                    }
                    (Some(_), _) => return "the broker broke a message off".into(),
                };
                if bytes.len() > MESSAGE_BYTES_MAX {
                    return format!("a message of more than {MESSAGE_BYTES_MAX} bytes");
                }
                match (frame.fin, opcode) {
                    (false, _) => {
                        partial = Some((opcode, bytes));
                        What::Heard
                    }
                    (true, OpCode::Text) => What::Text(now, String::from_utf8_lossy(&bytes).into_owned()),
                    (true, _) => What::Binary(now, bytes),
                }
            }
        };
        if !voice.say(what).await {
            return String::new();
        }
    }
}

/// What a Close frame says, for the log.
fn closing(payload: &[u8]) -> String {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => {
            let reason: String = String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).collect();
            format!("the broker closed with {} {reason}", u16::from_be_bytes(*code)).trim_end().to_owned()
        }
        None => "the broker closed".to_owned(),
    }
}

async fn write(mut writer: Writer, mut out: mpsc::Receiver<Outgoing>, mut answers: mpsc::Receiver<Answer>) -> String {
    loop {
        let written = tokio::select! {
            biased;
            Some((opcode, payload)) = answers.recv() => {
                let frame = Frame::new(true, opcode, None, Payload::Owned(payload));
                writer.write_frame(frame).await
            }
            next = out.recv() => match next {
                Some(Outgoing::Text(text)) => writer.write_frame(text_frame(&text)).await,
                Some(Outgoing::Ping) => writer.write_frame(Frame::new(true, OpCode::Ping, None, Payload::Owned(Vec::new()))).await,
                None => {
                    let _peer_may_be_gone = writer.write_frame(Frame::close(1000, b"")).await;
                    return String::new();
                }
            },
        };
        if let Err(error) = written {
            return error.to_string();
        }
    }
}

/// The payload is copied: masking changes it in place.
fn text_frame(text: &str) -> Frame<'static> {
    Frame::text(Payload::Owned(text.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests;
