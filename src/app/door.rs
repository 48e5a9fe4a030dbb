//! From the front door to a worker: each upgraded socket goes to the worker with fewest sessions.

use crate::engine::metrics::WorkerStats;
use crate::model::limited;
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
    desks: Vec<Desk<NewSession>>,
) {
    let sink = move |accepted: Accepted| {
        let (desk, load) = choose(&desks);
        let new = NewSession {
            tcp: accepted.tcp,
            early: accepted.early,
            peer: accepted.peer,
            format: accepted.format,
            accepted_at: accepted.accepted_at,
            permit: Box::new((accepted.permit, load)),
        };
        if desk.try_send(new).is_err() {
            limited!(warn, 1, "a worker takes no more arrivals; a connection was dropped");
        }
    };
    if let Err(error) = accept::run(listener, config, metrics, stop, sink).await {
        tracing::error!(%error, "the front door could not be opened");
    }
}

/// A worker's load, and where its sessions are handed in.
pub(super) type Desk<T> = (Arc<WorkerStats>, mpsc::Sender<T>);

/// The desk of the worker with fewest sessions, and the place of one more.
fn choose<T>(desks: &[Desk<T>]) -> (&mpsc::Sender<T>, LoadGuard) {
    let chosen = desks.iter().min_by_key(|(stats, desk)| (desk.is_closed(), stats.sessions.load(Ordering::Relaxed)));
    let (stats, desk) = chosen.expect("at least one worker");
    stats.sessions.fetch_add(1, Ordering::Relaxed);
    (desk, LoadGuard(Arc::clone(stats)))
}

/// Counts a session towards its worker's load as long as it lives.
struct LoadGuard(Arc<WorkerStats>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_spread_evenly_and_fill_up_what_closures_leave() {
        let (desks, mut arrivals): (Vec<Desk<()>>, Vec<_>) =
            (0..3).map(|_| mpsc::channel(1)).map(|(desk, arrivals)| ((Arc::default(), desk), arrivals)).unzip();
        let loads =
            |desks: &[Desk<()>]| desks.iter().map(|(s, _)| s.sessions.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let mut places: Vec<_> = (0..9).map(|_| choose(&desks).1).collect();
        assert_eq!(loads(&desks), [3, 3, 3]);
        places.retain(|place| !Arc::ptr_eq(&place.0, &desks[1].0));
        assert_eq!(loads(&desks), [3, 0, 3]);
        places.extend((0..3).map(|_| choose(&desks).1));
        assert_eq!(loads(&desks), [3, 3, 3], "the next ones fill the gap");
        places.extend((0..3).map(|_| choose(&desks).1));
        assert_eq!(loads(&desks), [4, 4, 4]);
        arrivals.remove(0).close();
        places.extend((0..4).map(|_| choose(&desks).1));
        assert_eq!(loads(&desks), [4, 6, 6], "a worker that takes no more is passed over");
        drop(places);
        assert_eq!(loads(&desks), [0, 0, 0]);
    }
}
