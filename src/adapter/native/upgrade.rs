//! The client's side of a WebSocket upgrade on an open stream, done here rather than by `fastwebsockets`, which throws away the
//! body in which a server says why it refuses.
//!
//! In: a stream, host, path and headers. Out: the upgraded stream, or the refusal. The HTTP connection is driven within the
//! call: nothing is spawned, and dropping it drops the stream. Used by native feeds and by the clients of `cli`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fastwebsockets::handshake;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// The body of a refusal that is worth showing, bytes.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// What the server joins to our key, to prove that it speaks WebSocket (RFC 6455, 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why the stream was not upgraded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
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
    /// The path or a header cannot be sent. Which one is not said: it may be a secret.
    #[error("the request cannot be sent as HTTP")]
    Request,
    /// It answered 101 without the proof that it has read our key: a cache, or a server that is none of WebSocket's.
    #[error("the server answered 101 without the Sec-WebSocket-Accept that belongs to our key")]
    Accept,
    /// The HTTP exchange failed.
    #[error("the upgrade failed: {0}")]
    Http(#[from] hyper::Error),
}

/// Upgrades `io`. The answer's headers come with it.
///
/// # Errors
/// [`UpgradeError`].
pub async fn upgrade<S>(
    io: S,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(TokioIo<Upgraded>, HeaderMap), UpgradeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let key = handshake::generate_key();
    let mut request = Request::builder()
        .uri(path)
        .header(HOST, host)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header("Sec-WebSocket-Key", &key)
        .header("Sec-WebSocket-Version", "13");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| UpgradeError::Request)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let mut connection = pin!(connection.with_upgrades());
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let headers = response.headers().clone();
        if headers.get(SEC_WEBSOCKET_ACCEPT).is_none_or(|given| given.as_bytes() != accept(&key).as_bytes()) {
            return Err(UpgradeError::Accept);
        }
        Ok((TokioIo::new(hyper::upgrade::on(response).await?), headers))
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // It ends when the stream has been handed over, or when it broke: the exchange then knows which.
        _ = &mut connection => exchange.await,
    }
}

/// The proof that the server owes for `key`.
pub(super) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

async fn refusal(response: Response<Incoming>) -> UpgradeError {
    let status = response.status();
    let retry_after =
        response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
    let said = response.headers().get("x-error-message").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text = body.map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned());
    UpgradeError::Refused { status, text: said.unwrap_or(text), retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn the_proof_is_that_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    /// A server that answers 101 with this line added.
    async fn answered(line: &str) -> Result<(TokioIo<Upgraded>, HeaderMap), UpgradeError> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{line}\r\n");
        let server = async move {
            assert!(theirs.read(&mut [0; 4096]).await.expect("a request") > 0);
            theirs.write_all(answer.as_bytes()).await.expect("sent");
            theirs
        };
        tokio::join!(upgrade(ours, "host", "/", &[]), server).0
    }

    #[tokio::test]
    async fn a_101_without_the_proof_for_this_key_is_refused() {
        for line in ["", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"] {
            assert!(matches!(answered(line).await, Err(UpgradeError::Accept)), "{line:?}");
        }
    }
}
