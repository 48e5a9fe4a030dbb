//! The client's side of a WebSocket upgrade on an open stream, done here rather than by `fastwebsockets`, which throws away the
//! body in which a server says why it refuses.
//!
//! In: a stream, host, path and headers. Out: the upgraded stream, or the refusal. The HTTP connection is driven within the
//! call: nothing is spawned, and dropping it drops the stream. Used by native feeds and by the clients of `cli`.

use bytes::Bytes;
use fastwebsockets::handshake;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, RETRY_AFTER, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// The body of a refusal that is worth showing, bytes.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

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
    let mut request = Request::builder()
        .uri(path)
        .header(HOST, host)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header("Sec-WebSocket-Key", handshake::generate_key())
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

async fn refusal(response: Response<Incoming>) -> UpgradeError {
    let status = response.status();
    let retry_after =
        response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
    let said = response.headers().get("x-error-message").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let text = body.map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned());
    UpgradeError::Refused { status, text: said.unwrap_or(text), retry_after }
}
