//! Socket options and process limits: what the kernel has to be told, and what it tells of a connection.
//!
//! In: sockets and sizes. Out: sockets with our options set, the limits that are in force, `TCP_INFO`. The only file with
//! `unsafe`, each block with its reason. Knows nothing of HTTP, sessions or settings.
#![expect(
    unsafe_code,
    reason = "limits of the process, TCP_INFO, clock state and free space have no safe form in std or socket2"
)]

use super::tcp_info;
use crate::policy::diagnosis::Tcp;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Bytes that the kernel may hold unsent before the socket stops being writable. What waits beyond it waits in the
/// session's outbox, where it can be conflated.
const NOTSENT_LOWAT_BYTES: u32 = 16 << 10;
/// Idle time before the kernel probes a silent peer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between two probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Probes without an answer before the peer counts as gone.
const KEEPALIVE_PROBES: u32 = 3;
/// Bytes may stay unacknowledged this long. Above ping period plus ping timeout, so that a peer that merely does not
/// read is closed by us, with a reason, and not by the kernel.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = {
    let ping = crate::limits::PING_INTERVAL.as_secs() + crate::limits::PING_TIMEOUT.as_secs();
    assert!(USER_TIMEOUT.as_secs() > ping, "our ping timeout must come first");
};

/// A non-blocking listener with `SO_REUSEADDR`. `SO_SNDBUF` (when `send_buffer_bytes` is not 0) and
/// `TCP_NOTSENT_LOWAT` are set on it, since accepted sockets inherit them: without, a client that does not read lets the
/// kernel swallow megabytes before we notice.
///
/// # Errors
/// What the kernel answered; `AddrInUse` and `PermissionDenied` are the usual ones.
pub fn listen(addr: SocketAddr, backlog: i32, send_buffer_bytes: usize) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if send_buffer_bytes > 0 {
        socket.set_send_buffer_size(send_buffer_bytes)?;
    }
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Sets what an accepted client socket does not inherit everywhere: no Nagle delay, keepalive, `TCP_USER_TIMEOUT`.
///
/// # Errors
/// What the kernel answered, typically because the peer is gone already.
pub fn tune_client(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// What the kernel knows of a connection; `None` when the socket is no TCP socket or the kernel no Linux that we know.
pub fn tcp_info(socket: BorrowedFd<'_>) -> Option<Tcp> {
    let mut info = [0u8; tcp_info::BYTES];
    let mut len = info.len() as libc::socklen_t;
    let (fd, into) = (socket.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: `into` points to `len` bytes that outlive the call, which writes no more than `len` and sets it to what it wrote.
    let failed = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &mut len) } != 0;
    if failed {
        return None;
    }
    let mut queued: libc::c_int = 0;
    // SAFETY: for this request the third argument is a pointer to an int, which outlives the call.
    let known = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut queued) } == 0;
    tcp_info::read(info.get(..len as usize)?, u32::try_from(queued).ok().filter(|_| known))
}

/// Raises the soft limit of open files to the hard one; what was in force before, and what is now. Ten thousand sessions need ten
/// thousand descriptors, and the usual soft limit is 1024.
///
/// # Errors
/// What the kernel answered; the limit is then what it was.
pub fn raise_file_limit() -> io::Result<(u64, u64)> {
    let before = file_limit()?;
    if before.rlim_cur < before.rlim_max {
        let wanted = libc::rlimit { rlim_cur: before.rlim_max, rlim_max: before.rlim_max };
        // SAFETY: `wanted` is a valid rlimit that outlives the call, which only reads it.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((before.rlim_cur, file_limit()?.rlim_cur))
}

fn file_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call, which only writes it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

/// What the kernel says of its wall clock.
#[derive(Clone, Copy, Debug)]
pub struct ClockState {
    /// Whether a time service keeps it in step.
    pub synchronised: bool,
    /// The most it may be wrong by.
    pub max_error: Duration,
}

/// Asks the kernel, and changes nothing; `None` where that is not allowed.
pub fn clock_state() -> Option<ClockState> {
    let mut state = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: `state` is valid memory of the right type that outlives the call; all zeroes is a valid timex and, with no
    // mode set, asks for a reading.
    let answer = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    // SAFETY: zeroed above, and every bit pattern is a valid timex: it holds integers only.
    let state = unsafe { state.assume_init() };
    (answer >= 0).then(|| ClockState {
        synchronised: answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0,
        max_error: Duration::from_micros(u64::try_from(state.maxerror).unwrap_or_default()),
    })
}

/// Bytes that we may still write below this folder.
///
/// # Errors
/// What the system said; a path with a zero byte is `InvalidInput`.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` ends with a zero byte and `stats` is memory of the right type; both outlive the call.
    if unsafe { libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above and filled in by the call; it holds integers only.
    let stats = unsafe { stats.assume_init() };
    Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn accepted_sockets_inherit_the_send_buffer_and_get_the_rest() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), 16, 64 << 10).expect("bound");
        let _client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        listener.set_nonblocking(false).expect("blocking");
        let (server, _) = listener.accept().expect("accepted");
        tune_client(&server).expect("tuned");
        let socket = SockRef::from(&server);
        // Linux doubles what was asked for, to pay for its own bookkeeping.
        assert_eq!(socket.send_buffer_size().expect("size"), 128 << 10);
        assert_eq!(socket.tcp_notsent_lowat().expect("lowat"), NOTSENT_LOWAT_BYTES);
        assert!(socket.tcp_nodelay().expect("nodelay"));
        assert!(socket.keepalive().expect("keepalive"));
        assert_eq!(socket.tcp_user_timeout().expect("timeout"), Some(USER_TIMEOUT));
    }

    #[test]
    fn the_kernel_says_what_waits_for_a_client_that_does_not_read() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), 16, 64 << 10).expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        listener.set_nonblocking(false).expect("blocking");
        let (mut server, _) = listener.accept().expect("accepted");
        let fresh = tcp_info(server.as_fd()).expect("a TCP socket of Linux");
        assert_eq!((fresh.send_queue, fresh.notsent, fresh.unacked), (Some(0), Some(0), 0));
        assert!(fresh.segment >= 536 && fresh.window.is_some_and(|window| window > 0), "{fresh:?}");
        server.set_nonblocking(true).expect("non-blocking");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // Until the client's window is closed; the kernel learns of it a moment after it has refused more.
        loop {
            while std::io::Write::write(&mut server, &[0; 4096]).is_ok() {}
            let full = tcp_info(server.as_fd()).expect("as before");
            if full.window == Some(0) && full.notsent > Some(0) && full.send_queue >= full.notsent {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{full:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        drop(client);
        let (other, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(tcp_info(other.as_fd()), None, "no TCP socket");
    }

    #[test]
    fn a_listener_can_be_bound_again_right_after_a_connection_ended() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = listen(any, 16, 0).expect("bound");
        let addr = first.local_addr().expect("address");
        let client = TcpStream::connect(addr).expect("connected");
        first.set_nonblocking(false).expect("blocking");
        drop(first.accept().expect("accepted"));
        drop(first);
        drop(client);
        listen(addr, 16, 0).expect("bound again in spite of TIME_WAIT");
    }

    #[test]
    fn raising_the_file_limit_brings_it_to_the_hard_one() {
        let (_, limit) = raise_file_limit().expect("raised");
        assert_eq!(limit, file_limit().expect("known").rlim_max);
        assert_eq!(raise_file_limit().expect("again"), (limit, limit));
    }

    #[test]
    fn the_clock_and_the_disk_are_known() {
        assert!(clock_state().is_none_or(|state| state.max_error < Duration::from_secs(1 << 20)));
        assert!(free_bytes(Path::new("/")).expect("a disk") > 0);
        assert_eq!(
            free_bytes(Path::new("/nowhere/at/all")).expect_err("nothing there").kind(),
            io::ErrorKind::NotFound
        );
    }
}
