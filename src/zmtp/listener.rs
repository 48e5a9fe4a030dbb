//! Binding: the first phase, before any runtime: ports are taken, nothing runs yet. Then accepting, on one.
//!
//! A stale ipc file is unlinked after checking that no one listens on it; ours is removed at drop if it is still ours.
//! Tests: `tests/bus_peers.rs`.

use super::Endpoint;
use crate::limits::BUS_PING_AFTER;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, ErrorKind};
use std::net::ToSocketAddrs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Connections the kernel completes before we accept them.
const BACKLOG: i32 = 128;
/// After a failed `accept`: long enough not to spin while files are exhausted.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(75);

/// An endpoint that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind {endpoint}: {cause}")]
pub struct BindError {
    /// Which.
    pub endpoint: Endpoint,
    /// Why.
    pub cause: BindCause,
}

/// Why an endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindCause {
    /// Somebody listens there.
    #[error("somebody else listens there")]
    InUse,
    /// The path is a file, but no socket; it is left alone.
    #[error("the path exists and is no socket")]
    NotASocket,
    /// The host has no address.
    #[error("the host name has no address ({0})")]
    Resolve(io::Error),
    /// What the system said.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A bound endpoint, not blocking, not yet on any runtime.
#[derive(Debug)]
pub enum Bound {
    /// Listens on a port.
    Tcp(std::net::TcpListener),
    /// Listens on a path, with the file that goes when it is dropped.
    Ipc(UnixListener, IpcFile),
}

/// Binds, and gives the endpoint with its real port.
///
/// # Errors
/// Why it could not be bound.
pub fn bind(endpoint: &Endpoint, receive_buffer_bytes: usize) -> Result<(Bound, Endpoint), BindCause> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let listener = bind_tcp(host, *port, receive_buffer_bytes)?;
            let port = listener.local_addr()?.port();
            Ok((Bound::Tcp(listener), Endpoint::Tcp { host: host.clone(), port }))
        }
        Endpoint::Ipc(path) => {
            let listener = bind_ipc(path)?;
            listener.set_nonblocking(true)?;
            Ok((Bound::Ipc(listener, IpcFile::of(path)?), endpoint.clone()))
        }
    }
}

fn bind_tcp(host: &str, port: u16, receive_buffer_bytes: usize) -> Result<std::net::TcpListener, BindCause> {
    let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs().map_err(BindCause::Resolve)? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // On Linux this allows a restart beside connections in TIME_WAIT, never a second listener.
        socket.set_reuse_address(true)?;
        // Before `listen`, so that accepted sockets inherit it and agree on a window scale that fits; best effort.
        let _ = socket.set_recv_buffer_size(receive_buffer_bytes);
        match socket.bind(&address.into()).and_then(|()| socket.listen(BACKLOG)) {
            Ok(()) => {
                socket.set_nonblocking(true)?;
                return Ok(socket.into());
            }
            Err(error) => failed = error,
        }
    }
    Err(if failed.kind() == ErrorKind::AddrInUse { BindCause::InUse } else { failed.into() })
}

fn bind_ipc(path: &Path) -> Result<UnixListener, BindCause> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        result => return Ok(result?),
    }
    remove_stale(path)?;
    Ok(UnixListener::bind(path)?)
}

/// Removes the socket file of a process that is gone.
///
/// # Errors
/// [`BindCause::InUse`] when somebody may listen there, [`BindCause::NotASocket`], or what the system said.
pub fn remove_stale(path: &Path) -> Result<(), BindCause> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(BindCause::NotASocket);
    }
    // Not blocking: a live listener with a full backlog would keep us waiting.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        // A connection, a full backlog or a lack of rights: somebody may be there.
        _ => return Err(BindCause::InUse),
    }
    Ok(std::fs::remove_file(path)?)
}

/// A bound endpoint on a runtime.
#[derive(Debug)]
pub enum Listener {
    /// On a port.
    Tcp(TcpListener),
    /// On a path, with the file that goes when it is dropped.
    Ipc(tokio::net::UnixListener, IpcFile),
}

/// One accepted or made connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a UNIX socket.
    Ipc(UnixStream),
}

impl Listener {
    /// Takes it over on the current runtime.
    ///
    /// # Errors
    /// The runtime refuses.
    pub fn adopt(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
            Bound::Ipc(listener, file) => Listener::Ipc(tokio::net::UnixListener::from_std(listener)?, file),
        })
    }

    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// What the kernel said; wait for [`ACCEPT_PAUSE`] before trying again.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Ipc(listener, _) => listener.accept().await.map(|(stream, _)| Stream::Ipc(stream)),
        }
    }
}

/// Keepalive finds dead peers of ZMTP 3.0, which know no PING, as fast as PING does others: 2 s idle, then four probes 1 s apart.
///
/// # Errors
/// The kernel refuses an option.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(BUS_PING_AFTER).with_interval(Duration::from_secs(1)).with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The socket file of a bound ipc endpoint.
#[derive(Debug)]
pub struct IpcFile {
    path: PathBuf,
    id: (u64, u64),
}

impl IpcFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(IpcFile { path: path.to_owned(), id: file_id(path)? })
    }
}

impl Drop for IpcFile {
    fn drop(&mut self) {
        // Somebody may have replaced it by its own since.
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
