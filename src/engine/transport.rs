//! A session's socket behind one type, non-blocking both ways.
//!
//! Plain TCP today; TLS becomes a second variant (rustls driven as a pure machine), so nothing above asks which one it is.
//! Sockets stay on the worker that writes them: tokio remembers `WouldBlock` until the owning runtime turns its reactor.

use std::io;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected client socket.
#[derive(Debug)]
pub enum Transport {
    /// Bytes go to the kernel as they are.
    Plain(TcpStream),
}

impl Transport {
    /// Registers a connected, non-blocking socket with the current runtime.
    ///
    /// # Errors
    /// The reactor refuses the descriptor.
    pub fn plain(tcp: std::net::TcpStream) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Transport::Plain(TcpStream::from_std(tcp)?))
    }

    /// Waits until a read may make progress. Cancel-safe.
    ///
    /// # Errors
    /// The reactor is gone.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Transport::Plain(tcp) => tcp.readable().await,
        }
    }

    /// Waits until a write may make progress. Cancel-safe.
    ///
    /// # Errors
    /// The reactor is gone.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Transport::Plain(tcp) => tcp.writable().await,
        }
    }

    /// Reads what is there; 0 = the peer has finished.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, else the socket's error.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(tcp) => tcp.try_read(buf),
        }
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits, else the socket's error.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            // Not through the reactor's record of the socket, which is a cache miss a write: only a full one concerns it.
            Transport::Plain(tcp) => match socket2::SockRef::from(tcp).send_with_flags(buf, libc::MSG_NOSIGNAL) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tcp.try_io(Interest::WRITABLE, || Err(error))
                }
                written => written,
            },
        }
    }

    /// Ends both directions; a reader wakes with end of file.
    pub fn shutdown(&self) {
        match self {
            // An error means that the peer has already gone.
            Transport::Plain(tcp) => drop(socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Both)),
        }
    }

    /// Ends our direction only, so that what was written still arrives.
    pub fn shutdown_write(&self) {
        match self {
            Transport::Plain(tcp) => drop(socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Write)),
        }
    }
}
