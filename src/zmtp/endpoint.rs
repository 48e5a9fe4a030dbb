//! Endpoint strings, as ZeroMQ writes them: `tcp://host:port` and `ipc:///path`.
//!
//! Pure: nothing is resolved or opened here. Tests: at the end of this file.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path the kernel takes for a unix socket, bytes.
const IPC_PATH_BYTES_MAX: usize = 107;

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// We listen and peers connect to us.
    Bind,
    /// A peer listens and we connect to it, again and again.
    Connect,
}

/// Where a ZeroMQ socket is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `tcp://host:port`; IPv6 addresses without their brackets, `*` as `0.0.0.0`.
    Tcp {
        /// Name or address.
        host: String,
        /// 0 lets the kernel choose, for bind only.
        port: u16,
    },
    /// `ipc://path`.
    Ipc(PathBuf),
}

/// Why a string is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Neither `tcp://` nor `ipc://`.
    #[error("`{0}` is no endpoint: write tcp://HOST:PORT or ipc:///PATH")]
    Scheme(String),
    /// No host, or an IPv6 address without brackets.
    #[error("`{0}` names no host: write tcp://HOST:PORT, an IPv6 address in brackets")]
    Host(String),
    /// No port, or none from 0 to 65535.
    #[error("`{0}` has no port from 0 to 65535: write tcp://HOST:PORT")]
    Port(String),
    /// Empty, a wildcard, abstract, or longer than the kernel allows.
    #[error("`{0}` is no usable path: write ipc:///PATH with at most 107 bytes of path")]
    Path(String),
}

impl Endpoint {
    /// Whether only this machine can reach it: `ipc`, a loopback address or `localhost`.
    pub fn is_local(&self) -> bool {
        match self {
            Endpoint::Ipc(_) => true,
            Endpoint::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    /// Whether it stands for every address of this machine.
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Endpoint::Tcp { host, .. } if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("ipc://") {
            let usable = !path.is_empty()
                && path != "*"
                && !path.starts_with('@')
                && !path.contains('\0')
                && path.len() <= IPC_PATH_BYTES_MAX;
            return if usable { Ok(Endpoint::Ipc(path.into())) } else { Err(EndpointError::Path(text.into())) };
        }
        let Some(address) = text.strip_prefix("tcp://") else { return Err(EndpointError::Scheme(text.into())) };
        let Some((host, port)) = address.rsplit_once(':') else { return Err(EndpointError::Port(text.into())) };
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(EndpointError::Port(text.into()));
        }
        let port = port.parse().map_err(|_| EndpointError::Port(text.into()))?;
        let bare = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(EndpointError::Host(text.into())),
            None if host == "*" => "0.0.0.0",
            None => host,
        };
        let bracketed = host.starts_with('[');
        let bad = |c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c) || (c == ':' && !bracketed);
        if bare.is_empty() || bare.contains(bad) {
            return Err(EndpointError::Host(text.into()));
        }
        Ok(Endpoint::Tcp { host: bare.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Endpoint::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_and_print_the_same() {
        for text in ["tcp://127.0.0.1:5555", "tcp://localhost:0", "tcp://[::1]:65535", "ipc:///tmp/bus.sock"] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
        assert_eq!("tcp://*:5555".parse::<Endpoint>().expect("wildcard").to_string(), "tcp://0.0.0.0:5555");
    }

    #[test]
    fn what_is_no_endpoint_says_what_would_be_right() {
        for (text, part) in [
            ("", "tcp://HOST:PORT"),
            ("udp://127.0.0.1:1", "tcp://HOST:PORT"),
            ("tcp://127.0.0.1", "port"),
            ("tcp://127.0.0.1:", "port"),
            ("tcp://127.0.0.1:65536", "port"),
            ("tcp://127.0.0.1:+1", "port"),
            ("tcp://:5555", "host"),
            ("tcp://::1:5555", "host"),
            ("tcp://[::1:5555", "host"),
            ("tcp://[localhost]:5555", "host"),
            ("ipc://", "path"),
            ("ipc://*", "path"),
            ("ipc://@abstract", "path"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(format!("ipc:///{}", "x".repeat(107)).parse::<Endpoint>().is_err());
    }

    #[test]
    fn local_and_wildcard_addresses_are_told_apart() {
        let local = |t: &str| t.parse::<Endpoint>().expect(t).is_local();
        assert!(local("tcp://127.0.0.9:1") && local("tcp://LOCALHOST:1") && local("tcp://[::1]:1") && local("ipc://x"));
        assert!(!local("tcp://10.0.0.1:1") && !local("tcp://*:1") && !local("tcp://example.org:1"));
        assert!("tcp://[::]:1".parse::<Endpoint>().expect("any").is_wildcard());
        assert!(!"tcp://127.0.0.1:1".parse::<Endpoint>().expect("one").is_wildcard());
    }
}
