//! A WebSocket client for `watch`, load tests and tests: `fastwebsockets` over one plain TCP connection.
//!
//! In: a `ws://` URL and text to send. Out: whole messages, or why the server said goodbye. Frames are masked as
//! RFC 6455 wants; pings are answered while reading. The upgrade is the native feeds' own.
//! `next` is not cancel-safe: a dropped future loses its place in the stream, so keep it alive across a `select!`.

use crate::adapter::native::upgrade::{UpgradeError, upgrade};
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, Role, WebSocket, WebSocketError};
use hyper::Uri;
use hyper::header::SEC_WEBSOCKET_PROTOCOL;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// One frame from the server, bytes; an acknowledgement may have 1 MiB.
const FRAME_BYTES_MAX: usize = 16 << 20;
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
    /// The server refused the upgrade, or the HTTP exchange failed.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
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
    /// Connects and upgrades, offering `subprotocol` if there is one.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::TimedOut`] or [`ClientError::Upgrade`].
    pub async fn connect(target: &Target, subprotocol: Option<&str>) -> Result<Self, ClientError> {
        let connected = tokio::time::timeout(CONNECT, Self::open(target, subprotocol)).await;
        connected.unwrap_or_else(|_| Err(ClientError::TimedOut { address: target.address.clone() }))
    }

    async fn open(target: &Target, subprotocol: Option<&str>) -> Result<Self, ClientError> {
        let no_connection = |source| ClientError::Connect { address: target.address.clone(), source };
        let tcp = TcpStream::connect(&target.address).await.map_err(no_connection)?;
        tcp.set_nodelay(true).map_err(no_connection)?;
        let path = target.uri.path_and_query().map_or("/", |p| p.as_str());
        let offered: Vec<_> = subprotocol.map(|name| (SEC_WEBSOCKET_PROTOCOL.as_str(), name)).into_iter().collect();
        let (stream, headers) = upgrade(tcp, &target.address, path, &offered).await?;
        let subprotocol = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut ws = WebSocket::after_handshake(stream, Role::Client);
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
