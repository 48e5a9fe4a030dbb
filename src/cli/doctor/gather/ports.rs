//! Every address that `serve` would bind: free, the running server's, or whose.

use super::super::facts::{Holder, Port, PortState, Server};
use crate::config::Settings;
use crate::net::sys;
use crate::zmtp::Endpoint;
use crate::zmtp::listener::{self, BindCause};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// `SO_RCVBUF` of what is bound for a moment, bytes.
const RECEIVE_BYTES: usize = 64 << 10;

/// Tries each for a moment.
pub(super) fn look(settings: &Settings, server: Option<&Server>) -> Vec<Port> {
    let mut http = vec![("server.listen", settings.server.listen), ("admin.listen", settings.admin.listen)];
    http.extend(settings.admin.scrape_listen.map(|at| ("admin.scrape_listen", at)));
    let of_ours = |at: &str| server.is_some_and(|server| server.listeners.iter().any(|ours| ours == at));
    let mut ports: Vec<Port> = http
        .into_iter()
        .map(|(setting, at)| {
            let text = at.to_string();
            let state = if of_ours(&text) { PortState::Ours } else { bind(at) };
            Port { setting, at: text, number: number(at.port()), state }
        })
        .collect();
    let bus = settings.bus.bind.iter().map(|text| ("bus.bind", text));
    for (setting, text) in bus.chain([("adapters.control_bind", &settings.adapters.control_bind)]) {
        let Ok(endpoint) = text.parse::<Endpoint>() else { continue };
        let at = endpoint.to_string();
        let state = if of_ours(&at) { PortState::Ours } else { bind_endpoint(&endpoint) };
        let port = if let Endpoint::Tcp { port, .. } = endpoint { number(port) } else { None };
        ports.push(Port { setting, at, number: port, state });
    }
    ports
}

/// The pid of the running server, if we may see whose the WebSocket port is.
pub(super) fn server_pid(settings: &Settings, ports: &[Port]) -> Option<u32> {
    let ours = ports.iter().any(|port| port.setting == "server.listen" && port.state == PortState::Ours);
    ours.then(|| holder(settings.server.listen.port())).flatten().map(|holder| holder.pid)
}

fn number(port: u16) -> Option<u16> {
    Some(port).filter(|port| *port != 0)
}

fn bind(at: SocketAddr) -> PortState {
    match sys::listen(at, 1, 0) {
        Ok(_) => PortState::Free,
        Err(error) => refused(&error, Some(at.port())),
    }
}

fn bind_endpoint(endpoint: &Endpoint) -> PortState {
    let port = if let Endpoint::Tcp { port, .. } = endpoint { Some(*port) } else { None };
    match listener::bind(endpoint, RECEIVE_BYTES) {
        Ok(_) => PortState::Free,
        Err(BindCause::InUse) => PortState::Taken(port.and_then(holder)),
        Err(BindCause::Io(error)) => refused(&error, port),
        Err(cause) => PortState::Failed(cause.to_string()),
    }
}

fn refused(error: &io::Error, port: Option<u16>) -> PortState {
    match error.kind() {
        ErrorKind::AddrInUse => PortState::Taken(port.and_then(holder)),
        ErrorKind::PermissionDenied => PortState::Denied,
        ErrorKind::AddrNotAvailable => PortState::NoAddress,
        _ => PortState::Failed(error.to_string()),
    }
}

/// Who listens on a TCP port, if it is a process that we may look into.
fn holder(port: u16) -> Option<Holder> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for pid in processes {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let links = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        if links.into_iter().any(|link| link.to_str().is_some_and(|link| sockets.iter().any(|s| s == link))) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(Holder { pid, name: name.trim().to_owned() });
        }
    }
    None
}

/// Inodes of the sockets that listen on `port`, from the text of `/proc/net/tcp` or `tcp6`.
fn listening(table: &str, port: u16) -> Vec<String> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let local = columns.get(1)?.rsplit(':').next()?;
        let here = u16::from_str_radix(local, 16).ok()? == port && *columns.get(3)? == LISTENING;
        here.then(|| columns.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_table_of_sockets_gives_listeners_of_the_port_only() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:223D 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0\n   \
                     1: 0100007F:223D 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 12346 1 0 20 4 30 10 -1\n   \
                     2: 0100007F:223E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12347 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, 8765), ["12345"]);
        assert_eq!(listening(table, 8766), ["12347"]);
        assert!(listening(table, 1).is_empty() && listening("", 8765).is_empty());
    }

    #[test]
    fn a_port_that_this_very_process_holds_is_taken_by_it() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = held.local_addr().expect("bound");
        let PortState::Taken(Some(holder)) = bind(at) else { panic!("{:?}", bind(at)) };
        assert_eq!(holder.pid, std::process::id());
        drop(held);
        assert_eq!(bind(at), PortState::Free);
        assert_eq!(bind("192.0.2.1:0".parse().expect("an address of nobody")), PortState::NoAddress);
    }
}
