//! Collecting the facts: the only part of the doctor that touches files, sockets and the kernel.
//!
//! In: checked settings. Out: [`Facts`]. Promises: nothing is changed; every question has a deadline.

mod bus;
mod ports;
mod server;
mod stores;
mod system;

use super::facts::Facts;
use crate::config::Loaded;
use std::io;
use std::time::Duration;

/// How long the bus is listened to. Publishers try again after 0.1 s (ZeroMQ's default) to 2 s (ours).
pub(super) const LISTEN: Duration = Duration::from_secs(3);
/// Nobody gets longer for one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Looks at everything once.
///
/// # Errors
/// The system gives no runtime.
pub(super) fn gather(loaded: &Loaded) -> io::Result<Facts> {
    let settings = &loaded.settings;
    let began = system::both_clocks();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = runtime.block_on(server::ask(settings));
    let ports = ports::look(settings, server.as_ref());
    let bus = runtime.block_on(bus::look(settings, server.as_ref(), &ports));
    Ok(Facts {
        files: system::open_files(ports::server_pid(settings, &ports)),
        kernel: system::kernel(),
        ports,
        bus,
        clock: system::clock(began),
        keys: stores::keys(settings),
        disks: stores::disks(settings),
        registries: stores::registries(settings),
        accounts: stores::accounts(settings),
        symbols: stores::symbols(settings),
        secrets: stores::secrets(loaded),
        server,
    })
}
