//! Connecting to an endpoint that a peer has bound.

use super::Endpoint;
use super::listener::Stream;
use std::io;
use tokio::net::{TcpSocket, UnixStream};

/// One attempt at each of the endpoint's addresses. `receive_buffer_bytes` 0 leaves the buffer to the kernel.
///
/// # Errors
/// What the system said of the last address.
pub async fn open(endpoint: &Endpoint, receive_buffer_bytes: usize) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Ipc(path) => UnixStream::connect(path).await.map(Stream::Ipc),
        Endpoint::Tcp { host, port } => {
            let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                if receive_buffer_bytes > 0 {
                    // Before connecting, for the window scale; best effort.
                    let bytes = u32::try_from(receive_buffer_bytes).unwrap_or(u32::MAX);
                    let _ = socket.set_recv_buffer_size(bytes);
                }
                match socket.connect(address).await {
                    // With nobody listening, the kernel may pick the very port we ask for and connect us to ourselves.
                    Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                        failed = io::ErrorKind::ConnectionRefused.into();
                    }
                    Ok(stream) => return Ok(Stream::Tcp(stream)),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }
    }
}
