//! The WebSocket upgrade as a decision: is this request one, and what is it answered?
//!
//! In: a request head. Out: the client's format, or a refusal whose body tells a person what to do. Any path and any
//! Origin are served and unknown extensions and subprotocols are passed over, as OpenAlgo's clients expect.
//! `fastwebsockets` makes the 101 itself, but checks neither method nor `Connection`, `Upgrade` or the key's length.
//! No I/O and no clock here; `accept` drives it.

use crate::model::Format;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;

/// The subprotocol that selects [`Format::MsgPack`].
pub const SUBPROTOCOL_MSGPACK: &str = "tickcast.v1.msgpack";
/// What a client that found us full is told to wait, seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

/// A request that may be upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How the session's frames are encoded.
    pub format: Format,
    /// The subprotocol to name in the 101, if any.
    pub subprotocol: Option<&'static str>,
}

/// A request that is not upgraded, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another method than GET.
    Method,
    /// Older than HTTP/1.1.
    HttpVersion,
    /// `Connection: Upgrade` or `Upgrade: websocket` is missing.
    NoUpgrade,
    /// `Sec-WebSocket-Version` is not 13.
    WebSocketVersion,
    /// `Sec-WebSocket-Key` is missing, doubled or not 16 bytes.
    Key,
    /// An upgrade request with a body, whose bytes could be taken for frames.
    Body,
    /// All sessions are taken; carries how many there may be.
    Full(usize),
    /// All sessions of that address are taken; carries how many it may have.
    AddressFull(usize),
    /// The server is about to stop.
    Draining,
    /// The server is overloaded and takes no new sessions for now.
    Overloaded,
}

/// Decides whether `request` may be upgraded. With `msgpack` false its subprotocol is passed over like an unknown one.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn inspect<B>(request: &Request<B>, msgpack: bool) -> Result<Offer, Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::HttpVersion);
    }
    if !lists(headers, CONNECTION.as_str(), "upgrade") || !lists(headers, UPGRADE.as_str(), "websocket") {
        return Err(Refusal::NoUpgrade);
    }
    if headers.get("sec-websocket-version").map(HeaderValue::as_bytes) != Some(b"13") {
        return Err(Refusal::WebSocketVersion);
    }
    let mut keys = headers.get_all("sec-websocket-key").iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return Err(Refusal::Key) };
    if !is_sixteen_bytes(key.as_bytes()) {
        return Err(Refusal::Key);
    }
    let has_body = headers.get(CONTENT_LENGTH).is_some_and(|v| v != "0") || headers.contains_key(TRANSFER_ENCODING);
    if has_body {
        return Err(Refusal::Body);
    }
    if msgpack && offers_exactly(headers, "sec-websocket-protocol", SUBPROTOCOL_MSGPACK) {
        return Ok(Offer { format: Format::MsgPack, subprotocol: Some(SUBPROTOCOL_MSGPACK) });
    }
    Ok(Offer { format: Format::Json, subprotocol: None })
}

/// The elements of a comma-separated header that may stand on several lines.
fn elements<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(|v| v.as_bytes().split(|&b| b == b',')).map(<[u8]>::trim_ascii)
}

fn lists(headers: &HeaderMap, name: &str, wanted: &str) -> bool {
    elements(headers, name).any(|e| e.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Subprotocol names are case-sensitive, unlike the tokens of `Connection` and `Upgrade`.
fn offers_exactly(headers: &HeaderMap, name: &str, wanted: &str) -> bool {
    elements(headers, name).any(|e| e == wanted.as_bytes())
}

/// Whether `key` is base64 of 16 bytes: 22 digits and two fillers. The last digit's four spare bits may be anything, as
/// most decoders do not look at them either.
fn is_sixteen_bytes(key: &[u8]) -> bool {
    let digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(digit) && key.ends_with(b"==")
}

impl Refusal {
    /// Status, headers and a body for the person who reads it.
    pub fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.text())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Refusal::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("GET"));
            }
            // RFC 9110 wants every 426 to say what to upgrade to.
            Refusal::HttpVersion | Refusal::NoUpgrade | Refusal::WebSocketVersion => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
                headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
            }
            Refusal::Full(_) | Refusal::AddressFull(_) | Refusal::Draining | Refusal::Overloaded => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Refusal::Key | Refusal::Body => {}
        }
        response
    }

    fn status(self) -> StatusCode {
        match self {
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::HttpVersion | Refusal::NoUpgrade | Refusal::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Refusal::Key | Refusal::Body => StatusCode::BAD_REQUEST,
            Refusal::Full(_) | Refusal::AddressFull(_) | Refusal::Draining | Refusal::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn text(self) -> String {
        let what = match self {
            Refusal::Method => "only GET is upgraded".to_owned(),
            Refusal::HttpVersion => "the upgrade needs HTTP/1.1".to_owned(),
            Refusal::NoUpgrade => "the request lacks `Connection: Upgrade` and `Upgrade: websocket`. Open it with a \
                 WebSocket client, for example `tickcast watch RELIANCE`; if a proxy stands between, it must pass both \
                 headers on. Metrics and health are served at the admin address (default port 9464)"
                .to_owned(),
            Refusal::WebSocketVersion => "`Sec-WebSocket-Version` must be 13".to_owned(),
            Refusal::Key => "`Sec-WebSocket-Key` must be given once and be 16 bytes in base64".to_owned(),
            Refusal::Body => "an upgrade request carries no body".to_owned(),
            Refusal::Full(max) => {
                return format!(
                    "this server is full: all {max} sessions are open (setting limits.sessions). Try again in \
                     {RETRY_AFTER_SECONDS} s.\n"
                );
            }
            Refusal::AddressFull(max) => {
                return format!(
                    "your address has all {max} sessions open that it may have (setting limits.sessions_per_ip). Close \
                     some, or try again in {RETRY_AFTER_SECONDS} s.\n"
                );
            }
            Refusal::Draining => {
                return format!("this server is stopping. Try again in {RETRY_AFTER_SECONDS} s.\n");
            }
            Refusal::Overloaded => {
                return format!("this server is overloaded. Try again in {RETRY_AFTER_SECONDS} s or later.\n");
            }
        };
        format!("this is a WebSocket endpoint: {what}.\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl FnOnce(&mut Request<()>)) -> Request<()> {
        let mut request = Request::builder()
            .uri("/any/path?at=all")
            .header("host", "127.0.0.1:8765")
            .header("origin", "https://elsewhere.example")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", KEY)
            .header("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")
            .body(())
            .expect("well-formed");
        change(&mut request);
        request
    }

    fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Request<()>) {
        move |r| {
            r.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }

    #[test]
    fn any_path_origin_and_extension_is_upgraded_as_json() {
        let offer = inspect(&request(|_| {}), true).expect("upgraded");
        assert_eq!(offer, Offer { format: Format::Json, subprotocol: None });
    }

    #[test]
    fn each_broken_request_gets_its_own_refusal() {
        let check = |request: Request<()>, refusal: Refusal, status: u16| {
            assert_eq!(inspect(&request, true), Err(refusal));
            assert_eq!(refusal.response().status().as_u16(), status);
            assert!(refusal.text().starts_with("this is a WebSocket endpoint: "), "{}", refusal.text());
        };
        check(request(|r| *r.method_mut() = Method::POST), Refusal::Method, 405);
        check(request(|r| *r.version_mut() = Version::HTTP_10), Refusal::HttpVersion, 426);
        check(request(set("connection", "keep-alive")), Refusal::NoUpgrade, 426);
        check(request(set("upgrade", "h2c")), Refusal::NoUpgrade, 426);
        check(request(set("sec-websocket-version", "8")), Refusal::WebSocketVersion, 426);
        check(request(set("sec-websocket-key", "c2hvcnQ=")), Refusal::Key, 400);
        check(request(set("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZ!==")), Refusal::Key, 400);
        check(request(|r| drop(r.headers_mut().remove("sec-websocket-key"))), Refusal::Key, 400);
        check(
            request(|r| assert!(r.headers_mut().append("sec-websocket-key", HeaderValue::from_static(KEY)))),
            Refusal::Key,
            400,
        );
        check(request(set("content-length", "5")), Refusal::Body, 400);
        check(request(set("transfer-encoding", "chunked")), Refusal::Body, 400);
    }

    #[test]
    fn a_full_server_says_when_to_come_back_and_which_setting_it_was() {
        for (refusal, setting) in [
            (Refusal::Full(7), "all 7 sessions are open (setting limits.sessions)"),
            (Refusal::AddressFull(2), "limits.sessions_per_ip"),
            (Refusal::Draining, "stopping"),
            (Refusal::Overloaded, "overloaded"),
        ] {
            let response = refusal.response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[RETRY_AFTER], "5");
            assert!(refusal.text().contains(setting), "{}", refusal.text());
        }
    }

    #[test]
    fn msgpack_is_echoed_only_when_it_is_offered_by_its_exact_name_and_served() {
        let offered = |protocols| request(set("sec-websocket-protocol", protocols));
        let json = Offer { format: Format::Json, subprotocol: None };
        let msgpack = Offer { format: Format::MsgPack, subprotocol: Some("tickcast.v1.msgpack") };
        for (protocols, served, want) in [
            ("tickcast.v1.msgpack", true, msgpack),
            ("chat,  tickcast.v1.msgpack", true, msgpack),
            ("tickcast.v1.msgpack", false, json),
            ("TICKCAST.V1.MSGPACK", true, json),
            ("tickcast.v2.msgpack, chat", true, json),
        ] {
            assert_eq!(inspect(&offered(protocols), served), Ok(want), "{protocols} {served}");
        }
    }
}
