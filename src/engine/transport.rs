//! A session's socket behind one type, non-blocking both ways.
//!
//! Plain TCP today; TLS becomes a second variant (rustls driven as a pure machine), so nothing above asks which one it is.
//! Sockets stay on the worker that writes them: tokio remembers `WouldBlock` until the owning runtime turns its reactor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected client socket.
#[derive(Debug)]
pub enum Transport {
    /// Bytes go to the kernel as they are.
    Plain(TcpStream),
    /// A test says how many bytes are taken, and when.
    #[cfg(test)]
    Scripted(Script),
}

/// A socket that takes as many bytes as a test allows.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Script {
    room: std::cell::Cell<usize>,
    freed: tokio::sync::Notify,
    /// What has been taken.
    pub taken: std::cell::RefCell<Vec<u8>>,
}

#[cfg(test)]
impl Script {
    /// Lets `bytes` more in.
    pub fn allow(&self, bytes: usize) {
        self.room.set(self.room.get().saturating_add(bytes));
        self.freed.notify_one();
    }

    async fn writable(&self) {
        while self.room.get() == 0 {
            self.freed.notified().await;
        }
    }

    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(self.room.get());
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.set(self.room.get() - n);
        self.taken.borrow_mut().extend_from_slice(&buf[..n]);
        Ok(n)
    }
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

    /// The socket, for questions to the kernel.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Transport::Plain(tcp) => Some(tcp.as_fd()),
            #[cfg(test)]
            Transport::Scripted(_) => None,
        }
    }

    /// Waits until a read may make progress. Cancel-safe.
    ///
    /// # Errors
    /// The reactor is gone.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Transport::Plain(tcp) => tcp.readable().await,
            #[cfg(test)]
            Transport::Scripted(_) => std::future::pending().await,
        }
    }

    /// Waits until a write may make progress. Cancel-safe.
    ///
    /// # Errors
    /// The reactor is gone.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Transport::Plain(tcp) => tcp.writable().await,
            #[cfg(test)]
            Transport::Scripted(script) => {
                script.writable().await;
                Ok(())
            }
        }
    }

    /// Reads what is there; 0 = the peer has finished.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, else the socket's error.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(tcp) => tcp.try_read(buf),
            #[cfg(test)]
            Transport::Scripted(_) => Err(io::ErrorKind::WouldBlock.into()),
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
            #[cfg(test)]
            Transport::Scripted(script) => script.try_write(buf),
        }
    }

    /// Ends both directions; a reader wakes with end of file.
    pub fn shutdown(&self) {
        match self {
            // An error means that the peer has already gone.
            Transport::Plain(tcp) => drop(socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Both)),
            #[cfg(test)]
            Transport::Scripted(_) => {}
        }
    }

    /// Ends our direction only, so that what was written still arrives.
    pub fn shutdown_write(&self) {
        match self {
            Transport::Plain(tcp) => drop(socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Write)),
            #[cfg(test)]
            Transport::Scripted(_) => {}
        }
    }
}
