//! A running server, asked at its admin address.

use super::super::facts::{Metrics, Server};
use super::ANSWER;
use crate::config::Settings;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

/// The longest answer that is read, bytes; a page of metrics has some hundred kB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The server at the settings' admin address, if a tickcast answers there.
pub(super) fn ask(settings: &Settings) -> Option<Server> {
    let admin = settings.admin.listen;
    let (_, body) = get(admin, "/readyz").ok()?;
    let said: serde_json::Value = serde_json::from_str(&body).ok()?;
    let text = |key: &str| said[key].as_str().map(str::to_owned);
    let many = |key: &str| said[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned));
    let mut listeners: Vec<String> = many("listen").chain(many("bus")).collect();
    listeners.extend([text("admin")?, text("control")?]);
    // The second listener is not in the answer; the same process answers there.
    if let Some(scrape) = settings.admin.scrape_listen
        && let Ok((_, same)) = get(scrape, "/readyz")
        && serde_json::from_str::<serde_json::Value>(&same).is_ok_and(|other| other["epoch"] == said["epoch"])
    {
        listeners.push(scrape.to_string());
    }
    let stuck = match get(admin, "/healthz") {
        Ok((200, _)) => None,
        Ok((_, body)) => Some(body.trim().to_owned()),
        Err(error) => Some(format!("/healthz does not answer ({error})")),
    };
    let metrics = get(admin, "/metrics").map(|(_, text)| Metrics(text)).unwrap_or_default();
    let (version, state, ready) = (text("version")?, text("state")?, said["ready"].as_bool()?);
    Some(Server { version, state, ready, listeners, stuck, metrics })
}

/// Status and body of one GET.
fn get(at: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let here = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let at = SocketAddr::new(here, at.port());
    let mut tcp = TcpStream::connect_timeout(&at, ANSWER)?;
    tcp.set_read_timeout(Some(ANSWER))?;
    tcp.set_write_timeout(Some(ANSWER))?;
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let other = || io::Error::from(io::ErrorKind::InvalidData);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(other)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(other)?;
    Ok((status, body.to_owned()))
}
