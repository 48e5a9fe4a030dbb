//! What the admin server shows, gathered from the rooms.
//!
//! In: handles of everything that is shown. Out: [`AdminState`], made on the admin thread, since it need not be shared.

use super::{Addresses, Life, MetricsPage, xray};
use crate::engine::queue::Control;
use crate::model::{Heartbeats, Level, SharedLevel};
use crate::net::admin::{AdminState, Answer, Readiness, Reply, Route, State};
use crate::net::console::{Console, Facts};
use crate::policy::overload;
use crate::registry::Registry;
use crate::registry::audit::Findings;
use crate::session::feeds::Feeds;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// The parts of [`AdminState`] on their way to its thread.
pub(super) struct AdminParts {
    pub(super) hosts: Vec<String>,
    /// The key that the console offers, if everybody knows it.
    pub(super) demo_key: Option<&'static str>,
    pub(super) metrics: MetricsPage,
    pub(super) heartbeats: Arc<Heartbeats>,
    pub(super) addresses: Addresses,
    pub(super) life: Life,
    pub(super) overload: Arc<SharedLevel>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) epoch: u64,
    /// The workers' queues.
    pub(super) workers: Vec<mpsc::Sender<Control>>,
    pub(super) registry: Arc<Registry>,
    /// What the auditor found last.
    pub(super) findings: watch::Receiver<Option<Arc<Findings>>>,
}

impl AdminParts {
    /// The state, on the thread that will serve it.
    pub(super) fn open(self) -> AdminState {
        let AdminParts {
            hosts,
            demo_key,
            metrics,
            heartbeats,
            addresses,
            life,
            overload,
            feeds,
            epoch,
            workers,
            registry,
            findings,
        } = self;
        let console = Console::new(Facts { websocket: addresses.ws, demo_key });
        let readiness = Box::new(move || {
            let level = overload.get();
            Readiness {
                // Longer pacing takes nothing from anybody.
                state: match life.get() {
                    State::Ready if level >= Level::Conflated => State::Degraded,
                    state => state,
                },
                accepting: overload::takes_sessions(level),
                listen: vec![addresses.ws.to_string()],
                admin: addresses.admin.to_string(),
                bus: addresses.bus.clone(),
                control: addresses.control.clone(),
                epoch,
            }
        });
        let feeds = Route {
            path: "/feeds",
            about: "each user's feed: state, silence, subscriptions",
            answer: Answer::now(move |_| {
                let body = serde_json::json!({ "feeds": feeds.report() });
                Reply::json(body.to_string())
            }),
        };
        AdminState {
            exporter: metrics.exporter.clone(),
            metrics: Box::new(move || metrics.render()),
            heartbeats,
            readiness,
            routes: vec![feeds, xray::sessions(workers), xray::subscriptions(registry, findings)],
            console,
            hosts,
        }
    }
}
