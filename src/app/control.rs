//! The control channel's place in the server: from its port to the one who answers, and from a hello, or a registered
//! publisher, to ticks.
//!
//! In: settings, the bus's and the registry's handles, leases. Out: endpoints added to and taken from the bus, scopes given to
//! users. Promise: an endpoint is connected to once, for one owner. Runs on the control thread, beside the supervisors.
//! Tests: `tests/external.rs`, `tests/discovery.rs`.

use crate::adapter::discovery::{self, Place, watch::Leases};
use crate::adapter::external::machine::{self, Machine, Owner};
use crate::adapter::external::{self, Feeds, Inbox, metrics::ControlMetrics};
use crate::bus::endpoints::{AddedEndpoint, BusHandle, EndpointSpec, EndpointStatus};
use crate::config::Settings;
use crate::limits;
use crate::model::{Micros, ScopeId, limited};
use crate::registry::Registry;
use crate::zmtp::listener::Bound;
use crate::zmtp::{Direction, Endpoint, router};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

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

/// Serves the channel, and follows the registries of publishers, until dropped.
pub(super) async fn control_channel(bound: Bound, parts: ControlParts, registered: Vec<watch::Receiver<Leases>>) {
    let ControlParts { config, machine, inbox, feeds, metrics } = parts;
    let (events_tx, events) = mpsc::channel(CONTROL_EVENTS_MAX);
    let counts = metrics.clone();
    let refused = move |cause| counts.reject(cause);
    let served = async {
        if let Err(error) = router::serve(bound, config, events_tx, refused).await {
            tracing::error!(%error, "the control channel could not be served");
        }
    };
    let feeds = Rc::new(RefCell::new(feeds));
    let mut followed = JoinSet::new();
    for (at, leases) in registered.into_iter().enumerate() {
        followed.spawn_local(follow(Origin::Registry(at), leases, Rc::clone(&feeds)));
    }
    tokio::join!(served, external::run(Machine::new(machine), events, inbox, Hellos(feeds), metrics));
}

/// Takes over every change of a registry's leases.
async fn follow(origin: Origin, mut leases: watch::Receiver<Leases>, feeds: Rc<RefCell<BusFeeds>>) {
    while leases.changed().await.is_ok() {
        let now = leases.borrow_and_update().clone();
        feeds.borrow_mut().leased(origin, now);
    }
}

/// Settings for those who watch registries: the endpoints that are the settings' business.
pub(super) fn watch_config(settings: &Settings, specs: &[EndpointSpec]) -> discovery::watch::Config {
    let taken = specs.iter().map(|spec| spec.endpoint.clone()).collect();
    discovery::watch::Config { allow_public: settings.bus.allow_public, taken }
}

/// The registries of the settings, in the order of [`Place::LABELS`].
pub(super) fn places(settings: &Settings) -> [Option<Place>; 2] {
    [settings.discovery.file.clone().map(Place::File), settings.discovery.redis.clone().map(Place::Redis)]
}

/// Who says that an endpoint's ticks are an owner's. The first in this order is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// A hello on the control channel.
    Hello,
    /// A registry of `[discovery]`, by its place in the settings.
    Registry(usize),
}

/// Brings the ticks of adapter processes and registered publishers in over the bus.
pub(super) struct BusFeeds {
    bus: BusHandle,
    registry: Arc<Registry>,
    /// Scopes of `[[bus.source]]`, which stay whatever a hello says, and of hellos and leases before.
    settled: HashMap<Owner, ScopeId>,
    given: HashMap<Owner, ScopeId>,
    next: u16,
    claims: BTreeMap<Origin, Leases>,
    connected: HashMap<Endpoint, (Owner, AddedEndpoint, Arc<EndpointStatus>)>,
}

impl BusFeeds {
    pub(super) fn new(bus: BusHandle, registry: Arc<Registry>, scoped: impl Iterator<Item = (ScopeId, Owner)>) -> Self {
        let settled: HashMap<Owner, ScopeId> = scoped.map(|(scope, owner)| (owner, scope)).collect();
        let next = settled.values().map(|scope| scope.0).max().unwrap_or(0) + 1;
        let (given, claims, connected) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        BusFeeds { bus, registry, settled, given, next, claims, connected }
    }

    /// The scope of the owner's ticks, which it keeps. The machine bounds owners with a hello; of the others, who come by a
    /// registry, some are refused when there have been too many.
    fn scope(&mut self, owner: &Owner, origin: Origin) -> Option<ScopeId> {
        if owner.user.is_none() {
            return Some(ScopeId::SHARED);
        }
        if let Some(scope) = self.settled.get(owner).or_else(|| self.given.get(owner)) {
            return Some(*scope);
        }
        if origin != Origin::Hello && self.given.len() >= limits::CONTROL_OWNERS_MAX {
            return None;
        }
        let scope = ScopeId(self.next);
        self.next += 1;
        self.given.insert(owner.clone(), scope);
        Some(scope)
    }

    /// The leases of one registry are exactly these from now on.
    fn leased(&mut self, origin: Origin, leases: Leases) {
        self.claims.insert(origin, leases);
        self.connect();
        // Who has had a feed of its own keeps its scope: it must not fall back to another's prices unnoticed.
        for (owner, _) in self.claims.get(&origin).cloned().unwrap_or_default() {
            self.set_source(&owner, true);
        }
    }

    /// Makes the bus's added endpoints those that are claimed.
    fn connect(&mut self) {
        let mut wanted: Vec<(Origin, Owner, Endpoint)> = Vec::new();
        for (origin, claims) in &self.claims {
            for (owner, endpoint) in claims {
                match wanted.iter().find(|(.., other)| other == endpoint) {
                    None => wanted.push((*origin, owner.clone(), endpoint.clone())),
                    Some((_, other, _)) if other == owner => {}
                    Some(_) => {
                        limited!(warn, 10, %endpoint, "a registered publisher is not used: its endpoint is another's")
                    }
                }
            }
        }
        let gone: Vec<Endpoint> = self.connected.keys().cloned().collect();
        for endpoint in gone {
            let owner = wanted.iter().find(|(.., e)| *e == endpoint).map(|(_, owner, _)| owner);
            if owner != self.connected.get(&endpoint).map(|(owner, ..)| owner) {
                self.leave(&endpoint);
            }
        }
        for (origin, owner, endpoint) in wanted {
            if self.connected.contains_key(&endpoint) {
                continue;
            }
            let Some(scope) = self.scope(&owner, origin) else {
                limited!(error, 10, %endpoint, "too many users have had a publisher; this one is not used");
                continue;
            };
            let spec = EndpointSpec { endpoint: endpoint.clone(), direction: Direction::Connect, scope };
            match self.bus.add_connect(spec) {
                Ok((added, status)) => _ = self.connected.insert(endpoint, (owner, added, status)),
                Err(error) => limited!(error, 10, %endpoint, %error, "a publisher cannot be heard"),
            }
        }
    }

    fn leave(&mut self, endpoint: &Endpoint) {
        let Some((_, added, _)) = self.connected.remove(endpoint) else { return };
        if self.bus.remove(added).is_err() {
            tracing::warn!(%endpoint, "the bus could not leave a publisher's endpoint");
        }
    }

    /// A user's ticks come from its own scope alone, or from everybody's.
    fn set_source(&self, owner: &Owner, own: bool) {
        if let Some(user) = owner.user.as_deref().filter(|_| !self.settled.contains_key(owner)) {
            let scope = self.given.get(owner).copied().filter(|_| own);
            self.registry.set_source(&owner.broker, user, scope);
        }
    }
}

/// The control channel's end of the feeds.
struct Hellos(Rc<RefCell<BusFeeds>>);

impl Feeds for Hellos {
    fn publishes(&mut self, owner: &Owner, endpoints: &[Endpoint]) {
        let mut feeds = self.0.borrow_mut();
        // A connection that lives goes on; one that waits for its next attempt need not, for somebody is there now.
        for endpoint in endpoints {
            if feeds.connected.get(endpoint).is_some_and(|(.., status)| status.peers() == 0) {
                feeds.leave(endpoint);
            }
        }
        let claims = feeds.claims.entry(Origin::Hello).or_default();
        claims.retain(|(other, _)| other != owner);
        claims.extend(endpoints.iter().map(|endpoint| (owner.clone(), endpoint.clone())));
        feeds.connect();
        let own = feeds.claims.values().flatten().any(|(other, _)| other == owner);
        feeds.set_source(owner, own);
    }

    fn abandon(&mut self, owner: &Owner) {
        let mut feeds = self.0.borrow_mut();
        feeds.claims.entry(Origin::Hello).or_default().retain(|(other, _)| other != owner);
        feeds.connect();
    }
}
