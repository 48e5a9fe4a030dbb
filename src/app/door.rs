//! From the front door to a worker: each upgraded socket goes to the worker with fewest sessions.

use crate::engine::metrics::WorkerStats;
use crate::net::accept::{self, Accepted};
use crate::session::NewSession;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, watch};

/// The front door hands each socket to the worker with fewest sessions.
pub(super) async fn front_door(
    listener: TcpListener,
    config: accept::Config,
    metrics: crate::net::metrics::Metrics,
    stop: watch::Receiver<bool>,
    desks: Vec<(Arc<WorkerStats>, mpsc::Sender<NewSession>)>,
) {
    let sink = move |accepted: Accepted| {
        let chosen =
            desks.iter().min_by_key(|(stats, desk)| (desk.is_closed(), stats.sessions.load(Ordering::Relaxed)));
        let (stats, desk) = chosen.expect("at least one worker");
        stats.sessions.fetch_add(1, Ordering::Relaxed);
        let load = LoadGuard(Arc::clone(stats));
        let new = NewSession {
            tcp: accepted.tcp,
            early: accepted.early,
            peer: accepted.peer,
            format: accepted.format,
            accepted_at: accepted.accepted_at,
            permit: Box::new((accepted.permit, load)),
        };
        if desk.try_send(new).is_err() {
            tracing::warn!("a worker takes no more arrivals; a connection was dropped");
        }
    };
    if let Err(error) = accept::run(listener, config, metrics, stop, sink).await {
        tracing::error!(%error, "the front door could not be opened");
    }
}

/// Counts a session towards its worker's load as long as it lives.
struct LoadGuard(Arc<WorkerStats>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
