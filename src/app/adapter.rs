//! Composition root of an adapter process (`tickcast adapter`): settings in, one broker's feed behind the control channel out.
//!
//! The same adapters as in the server, made by the same factory; what they hand over goes to PUB sockets instead of ingest. Two
//! phases as there: [`AdapterProcess::open`] binds, [`AdapterProcess::run`] serves. Tests: `tests/adapter_process.rs`.

use super::kinds::Kinds;
use crate::adapter::bus::BusAdapter;
use crate::adapter::external::Channel;
use crate::adapter::kinds::KINDS;
use crate::adapter::native::feed::Wiring;
use crate::adapter::native::socket::Tls;
use crate::adapter::process::outlet::{Counts, Outlet, Place, TakeApart};
use crate::adapter::process::{self, End, Make, words::Card};
use crate::adapter::publisher::PublishError;
use crate::adapter::sim::{self, SimSwitch};
use crate::adapter::{Adapter, AdapterFactory};
use crate::bus::endpoints::Kind;
use crate::bus::explode::explode;
use crate::config::Settings;
use crate::config::settings::AdapterKind;
use crate::limits;
use crate::model::{Brokers, ByteBudget, SourceMessage, source_queue};
use crate::zmtp::{Direction, Endpoint};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Notify, mpsc, watch};

/// Adapters on their way to the sockets: one at a time, and its successor.
const NEW_SOURCES_MAX: usize = 4;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// [`AdapterKind::Sim`], or a native kind with its section in the settings.
    pub kind: AdapterKind,
    /// The broker's name, lower case.
    pub broker: String,
    /// Whose feed it is; `None` serves all users of the broker. Native kinds have one, named in the settings.
    pub user: Option<String>,
    /// The server's control channel.
    pub control: Endpoint,
    /// Where to publish.
    pub endpoint: Endpoint,
    /// Who listens there.
    pub direction: Direction,
    /// Sockets, counted.
    pub sockets: usize,
}

/// An adapter process whose sockets are bound.
pub struct AdapterProcess {
    plan: Plan,
    outlet: Outlet,
}

impl AdapterProcess {
    /// Binds, or begins to connect, on the current tokio runtime.
    ///
    /// # Errors
    /// An endpoint that is not local or cannot be bound.
    pub async fn open(plan: Plan) -> Result<Self, PublishError> {
        // Who else may hear them is told by the topic whose they are.
        let is_shared = plan.user.is_none() || plan.direction == Direction::Connect;
        let place = Place {
            endpoint: plan.endpoint.clone(),
            direction: plan.direction,
            sockets: plan.sockets,
            prefix: if is_shared { format!("{}_", plan.broker.to_ascii_uppercase()) } else { String::new() },
        };
        Ok(AdapterProcess { outlet: Outlet::open(place).await?, plan })
    }

    /// Where it publishes, with real ports.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.outlet.endpoints()
    }

    /// Serves until `stop`, then publishes what is left.
    pub async fn run(self, settings: &Settings, stop: impl Future<Output = ()>) -> End {
        let AdapterProcess { plan, outlet } = self;
        let (sources, new_sources) = mpsc::channel(NEW_SOURCES_MAX);
        let budget = ByteBudget::new(limits::SOURCE_QUEUE_BYTES_MAX);
        let wake = Arc::<Notify>::default();
        let wiring = Wiring { sources, budget, wake: wake.clone(), tls: Tls::public() };
        let card = Card {
            broker: plan.broker.clone(),
            user: plan.user.clone(),
            capacity: capacity(settings, &plan),
            publishes: match plan.direction {
                Direction::Bind => outlet.endpoints().iter().map(Endpoint::to_string).collect(),
                Direction::Connect => Vec::new(),
            },
            highest_only: true,
            secret: settings.adapters.secret.as_ref().map(|s| s.expose().to_owned()).filter(|s| !s.is_empty()),
        };
        let make = make(settings, &plan, wiring, outlet.counts()).await;
        let ((live, is_live), (end, ended)) = (watch::channel(false), watch::channel(false));
        let mut publishing = tokio::spawn(outlet.run(new_sources, wake, is_live, take_apart(), ended));
        let stop = async {
            tokio::select! {
                () = stop => {}
                // A process that publishes nothing and serves on would be worse than none.
                over = &mut publishing => unreachable!("it publishes until it is told to stop: {over:?}"),
            }
        };
        let why = process::run(card, plan.control.to_string(), make, live, stop).await;
        end.send_replace(true);
        if let Err(error) = publishing.await {
            tracing::error!(%error, "publishing did not end well");
        }
        why
    }
}

/// Instruments that the account can hold; 0 = unknown.
fn capacity(settings: &Settings, plan: &Plan) -> u64 {
    let AdapterKind::Native(index) = plan.kind else { return 0 };
    let limits = (KINDS[usize::from(index)].limits)();
    let broker = settings.brokers.get(&plan.broker);
    let per_connection = broker.and_then(|b| b.symbols_per_connection).unwrap_or(limits.per_connection);
    let connections = broker.and_then(|b| b.connections).unwrap_or(limits.connections);
    (per_connection * connections) as u64
}

/// How adapters of the plan are made; the simulated market begins to tick.
async fn make(settings: &Settings, plan: &Plan, wiring: Wiring, counts: Arc<Counts>) -> Make {
    if plan.kind == AdapterKind::Sim {
        simulate(settings, wiring, counts).await;
        return Box::new(|| Box::new(BusAdapter));
    }
    let (channel, _nobody_calls_external_ones_here) = Channel::new(0);
    let kinds = Kinds::new(settings, wiring, channel);
    let (broker, user) = (plan.broker.clone(), plan.user.clone().unwrap_or_default());
    Box::new(move || -> Box<dyn Adapter> {
        kinds.make(&broker, &user).expect("the plan names a user of the settings' native section")
    })
}

async fn simulate(settings: &Settings, wiring: Wiring, counts: Arc<Counts>) {
    let (sender, source) = source_queue(&wiring.budget, limits::SOURCE_QUEUE_BYTES_MAX, wiring.wake);
    // The other end is there, and has room for the first.
    let _ = wiring.sources.send(source).await;
    let config = sim::Config { ticks_per_second: settings.sim.ticks_per_second, seed: settings.sim.seed };
    tokio::spawn(sim::run(config, SimSwitch::default(), move |message| {
        if let Err(refused) = sender.try_push(message) {
            let ticks = rmp::decode::read_array_len(&mut &refused.body[..]).unwrap_or(0);
            counts.dropped.fetch_add(ticks.into(), Ordering::Relaxed);
        }
        !sender.is_closed()
    }));
}

/// How messages of a feed are taken apart: as ingest reads them.
pub fn take_apart() -> TakeApart {
    let explode = explode(Arc::new(Brokers::new()));
    Box::new(move |message: &SourceMessage, each| {
        explode(message, &mut |kind, topic, payload| each(kind == Kind::Lossless, topic, payload));
    })
}
