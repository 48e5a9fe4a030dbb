//! ZeroMQ endpoints as settings write them: `tcp://HOST:PORT` and `ipc://PATH`.
//!
//! Pure; it resolves no names. The bus opens them, this room only knows which can be right.

use super::value::{parse_host, quote};
use std::net::IpAddr;

/// A checked endpoint, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint<'a> {
    /// Host (without brackets) and port.
    Tcp(&'a str, u16),
    /// Path of a UNIX socket.
    Ipc(&'a str),
}

/// `text` taken apart, or what would be right.
pub(super) fn parse(text: &str) -> Result<Endpoint<'_>, String> {
    let right = || format!("{} is no endpoint: write tcp://127.0.0.1:5555 or ipc:///path/to/socket", quote(text));
    if let Some(path) = text.strip_prefix("ipc://") {
        // 107 bytes is what Linux lets a socket's name have.
        // `*` and abstract names would be another endpoint at each start, or nobody's file.
        return if path.is_empty() || path.len() > 107 || path.starts_with(['*', '@']) {
            Err(right())
        } else {
            Ok(Endpoint::Ipc(path))
        };
    }
    let rest = text.strip_prefix("tcp://").ok_or_else(right)?;
    let (host, port) = rest.rsplit_once(':').ok_or_else(right)?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let looks_like_host = |c: char| c.is_ascii_alphanumeric() || "-._:*".contains(c);
    if host.is_empty() || !host.chars().all(looks_like_host) {
        return Err(right());
    }
    Ok(Endpoint::Tcp(host, port.parse().map_err(|_| right())?))
}

/// Whether we can bind it: the host is an address of this machine, not a name.
pub(super) fn check_bind(text: &str) -> Result<(), String> {
    match parse(text)? {
        Endpoint::Tcp(host, _) if parse_host(host).is_none() => {
            Err(format!("{} cannot be bound: write the host as an IP address, localhost or *", quote(text)))
        }
        _ => Ok(()),
    }
}

/// Whether we can connect to it.
pub(super) fn check_connect(text: &str) -> Result<(), String> {
    match parse(text)? {
        Endpoint::Tcp(_, 0) => Err(format!("{} has port 0: write the port the publisher binds", quote(text))),
        Endpoint::Tcp(..) if is_wildcard(text) => {
            Err(format!("{} is an address to bind: write the publisher's own, such as 127.0.0.1", quote(text)))
        }
        _ => Ok(()),
    }
}

/// Whether binding it would listen on every interface.
pub(super) fn is_wildcard(text: &str) -> bool {
    match parse(text) {
        Ok(Endpoint::Tcp(host, _)) => parse_host(host).is_some_and(|ip| IpAddr::is_unspecified(&ip)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_tcp_with_a_port_or_ipc_with_a_path() {
        for (text, bind, connect) in [
            ("tcp://127.0.0.1:5555", true, true),
            ("tcp://[::1]:5555", true, true),
            ("tcp://*:5555", true, false),
            ("tcp://0.0.0.0:5555", true, false),
            ("tcp://127.0.0.1:0", true, false),
            ("tcp://feed.local:5555", false, true),
            ("ipc:///tmp/bus", true, true),
            ("ipc://", false, false),
            ("ipc://@abstract", false, false),
            ("tcp://127.0.0.1", false, false),
            ("tcp://:5555", false, false),
            ("127.0.0.1:5555", false, false),
            ("tcp://a b:5555", false, false),
            ("udp://127.0.0.1:5555", false, false),
        ] {
            assert_eq!((check_bind(text).is_ok(), check_connect(text).is_ok()), (bind, connect), "{text}");
        }
    }

    #[test]
    fn every_spelling_of_all_interfaces_is_a_wildcard() {
        for (text, want) in [
            ("tcp://*:1", true),
            ("tcp://0.0.0.0:1", true),
            ("tcp://[::]:1", true),
            ("tcp://127.0.0.1:1", false),
            ("tcp://192.168.1.4:1", false),
            ("ipc:///x", false),
        ] {
            assert_eq!(is_wildcard(text), want, "{text}");
        }
    }
}
