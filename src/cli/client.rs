//! A WebSocket client for `watch`, load tests and tests: `fastwebsockets` over one plain TCP connection.
//!
//! In: a `ws://` URL and text to send. Out: whole messages, or why the server said goodbye. Frames are masked as
//! RFC 6455 wants; pings are answered while reading. The handshake is done here rather than by the crate, which throws
//! away the body in which a server says why it refuses.
//! `next` is not cancel-safe: a dropped future loses its place in the stream, so keep it alive across a `select!`.

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, Role, WebSocket, WebSocketError, handshake};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode, Uri, body::Incoming};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// One frame from the server, bytes; an acknowledgement may have 1 MiB.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// The body of a refusal that is worth showing, bytes.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// Connecting and the upgrade together may take this long.
const CONNECT: Duration = Duration::from_secs(10);

/// One whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// The server's Close frame; nothing follows.
    Closed {
        /// Close code; 1005 when the frame had none.
        code: u16,
        /// Text for people, often empty.
        reason: String,
    },
}

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is not one we can open.
    #[error("{url} is no address to watch: {why}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No TCP connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server answered something else than 101.
    #[error("the server answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its body, shortened.
        text: String,
        /// `Retry-After`, seconds.
        retry_after: Option<u64>,
    },
    /// The HTTP exchange failed.
    #[error("the upgrade failed: {0}")]
    Http(#[from] hyper::Error),
    /// Connecting took too long.
    #[error("{address} did not answer within {} s", CONNECT.as_secs())]
    TimedOut {
        /// Host and port.
        address: String,
    },
    /// The connection broke, or the server broke the protocol.
    #[error("the connection was lost: {0}")]
    Lost(#[from] WebSocketError),
}

/// Where to connect: a checked `ws://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    address: String,
}

impl Target {
    /// Reads `ws://host[:port][/path]`; `host:port` alone means the same.
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let bad = |why| ClientError::Url { url: url.to_owned(), why };
        let full = if url.contains("://") { url.to_owned() } else { format!("ws://{url}") };
        let uri: Uri = full.parse().map_err(|_| bad("it is not a URL like ws://127.0.0.1:8765"))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(bad("this client does not speak TLS; give the ws:// address behind the proxy")),
            _ => return Err(bad("it must begin with ws://")),
        }
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| bad("it names no host"))?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Target { uri, address })
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// An open connection.
pub struct Client {
    ws: FragmentCollector<TokioIo<Upgraded>>,
    subprotocol: Option<String>,
}

impl Client {
    /// Connects and upgrades, offering `subprotocol` if there is one. Needs a runtime that runs spawned tasks.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::TimedOut`], [`ClientError::Refused`] or [`ClientError::Http`].
    pub async fn connect(target: &Target, subprotocol: Option<&str>) -> Result<Self, ClientError> {
        let connected = tokio::time::timeout(CONNECT, Self::upgrade(target, subprotocol)).await;
        connected.unwrap_or_else(|_| Err(ClientError::TimedOut { address: target.address.clone() }))
    }

    async fn upgrade(target: &Target, subprotocol: Option<&str>) -> Result<Self, ClientError> {
        let no_connection = |source| ClientError::Connect { address: target.address.clone(), source };
        let tcp = TcpStream::connect(&target.address).await.map_err(no_connection)?;
        tcp.set_nodelay(true).map_err(no_connection)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        // It ends with the upgrade, or with the connection; its error is also the request's.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .uri(target.uri.path_and_query().map_or("/", |p| p.as_str()))
            .header(HOST, &target.address)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header("Sec-WebSocket-Key", handshake::generate_key())
            .header("Sec-WebSocket-Version", "13");
        if let Some(name) = subprotocol {
            request = request.header(SEC_WEBSOCKET_PROTOCOL, name);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a checked URL and fixed headers make a request");
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let subprotocol =
            response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut ws = WebSocket::after_handshake(TokioIo::new(hyper::upgrade::on(response).await?), Role::Client);
        ws.set_max_message_size(FRAME_BYTES_MAX);
        Ok(Client { ws: FragmentCollector::new(ws), subprotocol })
    }

    /// The subprotocol that the server chose.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Sends one text message.
    ///
    /// # Errors
    /// [`ClientError::Lost`].
    pub async fn send(&mut self, text: &str) -> Result<(), ClientError> {
        Ok(self.ws.write_frame(Frame::text(Payload::Borrowed(text.as_bytes()))).await?)
    }

    /// The next message; pings are answered meanwhile. Not cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the connection ended without a Close frame.
    pub async fn next(&mut self) -> Result<Message, ClientError> {
        loop {
            let frame = self.ws.read_frame().await?;
            match frame.opcode {
                OpCode::Text => return Ok(Message::Text(String::from_utf8_lossy(&frame.payload).into_owned())),
                OpCode::Binary => return Ok(Message::Binary(frame.payload.to_vec())),
                OpCode::Close => {
                    let (code, reason) = match frame.payload.split_first_chunk::<2>() {
                        Some((code, reason)) => (u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into()),
                        None => (1005, String::new()),
                    };
                    return Ok(Message::Closed { code, reason });
                }
                OpCode::Ping | OpCode::Pong | OpCode::Continuation => {}
            }
        }
    }

    /// Sends a Close frame with 1000 and gives the connection up.
    pub async fn close(mut self) {
        let _peer_may_be_gone = self.ws.write_frame(Frame::close(1000, b"")).await;
    }
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    let retry_after =
        response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text = body.map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned());
    ClientError::Refused { status, text, retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_checked_before_anything_is_opened() {
        for (url, address, path) in [
            ("ws://127.0.0.1:8765", "127.0.0.1:8765", "/"),
            ("localhost:8765", "localhost:8765", "/"),
            ("ws://[::1]:8765/ws?x=1", "[::1]:8765", "/ws?x=1"),
            ("ws://example", "example:80", "/"),
        ] {
            let target = Target::parse(url).expect(url);
            assert_eq!(target.address(), address);
            assert_eq!(target.uri.path_and_query().map_or("/", |p| p.as_str()), path);
        }
        for (url, why) in
            [("wss://h", "TLS"), ("http://h", "must begin with ws://"), ("ws://", "ws://"), ("a b", "not a URL")]
        {
            let error = Target::parse(url).expect_err(url).to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
