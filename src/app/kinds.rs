//! Which adapter serves which user: the settings' kinds and native accounts, made into adapters on demand.

use super::rooms::{owners, scope_of};
use crate::adapter::bus::BusAdapter;
use crate::adapter::external::Channel;
use crate::adapter::kinds::{KINDS, NativeKind};
use crate::adapter::native::book::Book;
use crate::adapter::native::feed::{Account, Wiring};
use crate::adapter::native::metrics::NativeMetrics;
use crate::adapter::symbols::Table;
use crate::adapter::{Adapter, AdapterFactory};
use crate::config::Settings;
use crate::config::settings::{AdapterKind, Broker};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The adapter kinds of the settings. `sim` has nobody to call either: its market ticks whatever is subscribed.
pub(super) struct Kinds {
    /// Native accounts, by broker, then user.
    accounts: HashMap<String, HashMap<String, (&'static NativeKind, Arc<Account>)>>,
    wiring: Wiring,
    /// The kinds that have no account, by broker; `default` serves everybody else.
    others: HashMap<String, AdapterKind>,
    default: AdapterKind,
    channel: Channel,
}

impl Kinds {
    /// Made under the server's recorder: accounts have metrics.
    pub(super) fn new(settings: &Settings, wiring: Wiring, channel: Channel) -> Self {
        let owners = owners(settings);
        let mut accounts = HashMap::new();
        let sources = settings.credential_sources();
        for (name, broker) in &settings.brokers {
            let AdapterKind::Native(index) = broker.kind else { continue };
            let kind = &KINDS[usize::from(index)];
            let limits = (kind.limits)();
            let book = Arc::new(Book::new(kind.dialect, broker.symbols.clone()));
            let metrics = Arc::new(NativeMetrics::register(name));
            let account = |user: &String| {
                let account = Account {
                    broker: name.clone(),
                    user: user.clone(),
                    url: broker.url.clone().unwrap_or_else(|| kind.url.to_owned()),
                    order_url: order_url(broker, kind),
                    credentials: sources.of(name, broker, user),
                    book: Arc::clone(&book),
                    per_connection: broker.symbols_per_connection.unwrap_or(limits.per_connection),
                    connections: broker.connections.unwrap_or(limits.connections),
                    scope: scope_of(&owners, name, user),
                    refused: AtomicU64::new(0),
                    metrics: Arc::clone(&metrics),
                };
                (user.clone(), (kind, Arc::new(account)))
            };
            accounts.insert(name.clone(), broker.users.iter().map(account).collect());
        }
        let others = settings.brokers.iter().map(|(name, broker)| (name.clone(), broker.kind)).collect();
        Kinds { accounts, wiring, others, default: settings.adapters.default, channel }
    }
}

/// A stand-in for the broker has no order updates unless the settings say where.
fn order_url(broker: &Broker, kind: &NativeKind) -> Option<String> {
    let own = || kind.order_url.filter(|_| broker.url.is_none()).map(str::to_owned);
    broker.order_url.clone().or_else(own)
}

impl AdapterFactory for Kinds {
    fn make(&self, broker: &str, user: &str) -> Result<Box<dyn Adapter>, String> {
        let Some(users) = self.accounts.get(broker) else {
            let kind = self.others.get(&broker.to_ascii_lowercase()).copied().unwrap_or(self.default);
            return Ok(match kind {
                AdapterKind::External => Box::new(self.channel.adapter(broker, user)),
                AdapterKind::Sim | AdapterKind::Bus | AdapterKind::Native(_) => Box::new(BusAdapter),
            });
        };
        match users.get(user) {
            Some((kind, account)) => Ok((kind.make)(Arc::clone(account), self.wiring.clone())),
            None => Err(format!("brokers.{broker}.users does not name {user}")),
        }
    }

    fn table(&self, broker: &str, user: &str) -> Option<Arc<Table>> {
        self.accounts.get(broker)?.get(user)?.1.book.held()
    }
}
