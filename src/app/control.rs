//! The control channel's place in the server: from its port to the one who answers, and from a hello to ticks.
//!
//! In: settings, the bus's and the registry's handles. Out: endpoints added to and taken from the bus, scopes given to users.
//! Runs on the control thread, beside the supervisors. Tests: `tests/external.rs`.

use crate::adapter::external::machine::{self, Machine, Owner};
use crate::adapter::external::{self, Feeds, Inbox, metrics::ControlMetrics};
use crate::bus::endpoints::{AddedEndpoint, BusHandle, EndpointSpec, EndpointStatus};
use crate::config::Settings;
use crate::model::{Micros, ScopeId};
use crate::registry::Registry;
use crate::zmtp::listener::Bound;
use crate::zmtp::{Direction, Endpoint, router};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What control peers said, on its way to the one who answers.
const CONTROL_EVENTS_MAX: usize = 1024;

/// What the channel needs besides its port.
pub(super) struct ControlParts {
    pub(super) config: router::Config,
    pub(super) machine: machine::Config,
    pub(super) inbox: Inbox,
    pub(super) feeds: BusFeeds,
    pub(super) metrics: ControlMetrics,
}

/// Settings for the machine; `specs` are the bus's endpoints with their real ports.
pub(super) fn machine_config(settings: &Settings, specs: &[EndpointSpec]) -> machine::Config {
    let owner_of = |spec: &EndpointSpec| {
        let source =
            settings.bus.sources.iter().find(|s| s.endpoint.parse().is_ok_and(|e: Endpoint| e == spec.endpoint));
        source.map(|s| Owner { broker: s.broker.to_ascii_lowercase(), user: Some(s.user.clone()) })
    };
    machine::Config {
        secret: settings.adapters.secret.as_ref().map(|s| s.expose().to_owned()).filter(|s| !s.is_empty()),
        allow_public: settings.adapters.allow_public,
        sessions_from: Micros::now().0,
        call_wait: settings.adapters.call_timeout.mul_f64(0.8),
        taken: specs.iter().map(|spec| (spec.endpoint.clone(), owner_of(spec))).collect(),
        ..Default::default()
    }
}

/// Serves the channel until dropped.
pub(super) async fn control_channel(bound: Bound, parts: ControlParts) {
    let ControlParts { config, machine, inbox, feeds, metrics } = parts;
    let (events_tx, events) = mpsc::channel(CONTROL_EVENTS_MAX);
    let counts = metrics.clone();
    let refused = move |cause| counts.reject(cause);
    let served = async {
        if let Err(error) = router::serve(bound, config, events_tx, refused).await {
            tracing::error!(%error, "the control channel could not be served");
        }
    };
    tokio::join!(served, external::run(Machine::new(machine), events, inbox, Box::new(feeds), metrics));
}

/// Brings the ticks of adapter processes in over the bus.
pub(super) struct BusFeeds {
    bus: BusHandle,
    registry: Arc<Registry>,
    /// Scopes of `[[bus.source]]`, which stay whatever a hello says, and of hellos before.
    settled: HashMap<Owner, ScopeId>,
    given: HashMap<Owner, ScopeId>,
    next: u16,
    connected: HashMap<Owner, Vec<(Endpoint, AddedEndpoint, Arc<EndpointStatus>)>>,
}

impl BusFeeds {
    pub(super) fn new(bus: BusHandle, registry: Arc<Registry>, scoped: impl Iterator<Item = (ScopeId, Owner)>) -> Self {
        let settled: HashMap<Owner, ScopeId> = scoped.map(|(scope, owner)| (owner, scope)).collect();
        let next = settled.values().map(|scope| scope.0).max().unwrap_or(0) + 1;
        BusFeeds { bus, registry, settled, given: HashMap::new(), next, connected: HashMap::new() }
    }

    /// The scope of the owner's ticks; the machine bounds how many owners there are.
    fn scope(&mut self, owner: &Owner) -> ScopeId {
        if owner.user.is_none() {
            return ScopeId::SHARED;
        }
        if let Some(scope) = self.settled.get(owner).or_else(|| self.given.get(owner)) {
            return *scope;
        }
        let scope = ScopeId(self.next);
        self.next += 1;
        self.given.insert(owner.clone(), scope);
        scope
    }

    fn leave(&self, added: AddedEndpoint) {
        if self.bus.remove(added).is_err() {
            tracing::warn!("the bus could not leave an endpoint of an adapter process");
        }
    }
}

impl Feeds for BusFeeds {
    fn publishes(&mut self, owner: &Owner, endpoints: &[Endpoint]) {
        let scope = if endpoints.is_empty() { ScopeId::SHARED } else { self.scope(owner) };
        let before = self.connected.remove(owner).unwrap_or_default();
        // A connection that lives goes on; one that waits for its next attempt need not, for somebody is there now.
        let (kept, left): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|(endpoint, _, status)| endpoints.contains(endpoint) && status.peers() > 0);
        left.into_iter().for_each(|(_, added, _)| self.leave(added));
        let mut connected = kept;
        for endpoint in endpoints {
            if connected.iter().any(|(held, ..)| held == endpoint) {
                continue;
            }
            let spec = EndpointSpec { endpoint: endpoint.clone(), direction: Direction::Connect, scope };
            match self.bus.add_connect(spec) {
                Ok((added, status)) => connected.push((endpoint.clone(), added, status)),
                Err(error) => tracing::error!(%endpoint, %error, "an adapter process cannot be heard"),
            }
        }
        if !connected.is_empty() {
            self.connected.insert(owner.clone(), connected);
        }
        if let Some(user) = owner.user.as_deref().filter(|_| !self.settled.contains_key(owner)) {
            self.registry.set_source(&owner.broker, user, (!endpoints.is_empty()).then_some(scope));
        }
    }

    fn abandon(&mut self, owner: &Owner) {
        for (_, added, _) in self.connected.remove(owner).unwrap_or_default() {
            self.leave(added);
        }
    }
}
