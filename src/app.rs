//! Composition root: settings in, a running server out.
//!
//! Two phases: [`App::build`] binds every port and wires every queue while nothing runs yet; [`App::spawn`] starts the threads;
//! [`Running::drain`] ends them. Threads: workers, ingest, bus, front door, control, upkeep, admin, and the auth pool. Nobody else makes
//! queues between rooms or maps settings to a room's own configuration. Tests build the same App on port 0.

mod admin;
mod build;
mod control;
mod door;
mod kinds;
mod overload;
mod parts;
mod process;
mod query;
mod rooms;
mod stats_file;
mod upkeep;
mod xray;

pub use build::{App, Hooks, StartError};
pub use overload::ForcedFacts;

use crate::engine::queue::Control;
use crate::net::admin::State;
use crate::shards::Shards;
use crate::shards::metrics::LockHistograms;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Where a started server can be reached; ports are the real ones.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// WebSocket.
    pub ws: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
    /// Bus endpoints that we bind or connect to.
    pub bus: Vec<String>,
    /// Control channel endpoint.
    pub control: String,
}

impl Addresses {
    /// The first line on stdout: other programs wait for it and read the ports from it.
    pub fn ready_line(&self) -> String {
        let bus = if self.bus.is_empty() { "none".to_owned() } else { self.bus.join(",") };
        let Addresses { ws, admin, control, .. } = self;
        format!("tickcast ready ws={ws} admin={admin} bus={bus} control={control} pid={}", std::process::id())
    }
}

/// Where the server is in its life, shared by its threads.
#[derive(Clone, Default)]
struct Life(Arc<AtomicU8>);

impl Life {
    fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Release);
    }

    fn get(&self) -> State {
        [State::Starting, State::Ready, State::Degraded, State::Draining][usize::from(self.0.load(Ordering::Acquire))]
    }
}

/// A server whose threads run.
pub struct Running {
    addresses: Addresses,
    life: Life,
    workers: Vec<(mpsc::Sender<Control>, JoinHandle<()>)>,
    /// Stops the front door first of all.
    door: watch::Sender<bool>,
    /// Stops everything that is not a worker.
    rest: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    metrics: MetricsPage,
    shards: Arc<Shards>,
}

impl Running {
    /// Where the server can be reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The metrics text, as `/metrics` shows it.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// The shards, so that tests can hold one's lock while the rest must go on.
    pub fn shards(&self) -> &Arc<Shards> {
        &self.shards
    }

    /// Stops accepting, says goodbye to every client (1001), lets what is queued go out, and joins all threads. False when something was
    /// still busy after [`crate::limits::DRAIN`]; it is left behind.
    pub fn drain(self) -> bool {
        let deadline = Instant::now() + crate::limits::DRAIN;
        self.life.set(State::Draining);
        self.door.send_replace(true);
        for (control, _) in &self.workers {
            // The others' ends of a full queue live longer than its worker: only this message ends it.
            while let Err(mpsc::error::TrySendError::Full(_)) = control.try_send(Control::Drain) {
                if Instant::now() >= deadline {
                    break;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        let (controls, workers): (Vec<_>, Vec<_>) = self.workers.into_iter().unzip();
        drop(controls);
        let mut clean = workers.into_iter().all(|worker| join(worker, deadline));
        self.rest.send_replace(true);
        clean &= self.threads.into_iter().all(|thread| join(thread, deadline));
        clean
    }
}

/// What `/metrics` shows: the exporter's page, the locks' times, which it does not hold, and what the system says of the process.
#[derive(Clone)]
struct MetricsPage {
    exporter: metrics_exporter_prometheus::PrometheusHandle,
    locks: LockHistograms,
}

impl MetricsPage {
    fn render(&self) -> String {
        let mut text = self.exporter.render();
        self.locks.render(&mut text);
        process::render(&mut text);
        text
    }
}

/// Joins a thread unless the deadline passes first.
fn join(thread: JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    thread.join().is_ok()
}
