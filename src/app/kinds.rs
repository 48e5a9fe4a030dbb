//! Which adapter serves which user: the settings' kinds and native accounts, made into adapters on demand.

use super::rooms::{owners, scope_of};
use crate::adapter::bus::BusAdapter;
use crate::adapter::external::Channel;
use crate::adapter::kinds::{KINDS, NativeKind};
use crate::adapter::native::book::Book;
use crate::adapter::native::credentials::{OpenAlgoLogin, Source};
use crate::adapter::native::feed::{Account, Wiring};
use crate::adapter::native::metrics::NativeMetrics;
use crate::adapter::symbols::Table;
use crate::adapter::{Adapter, AdapterFactory};
use crate::auth::login::BrokerLogins;
use crate::config::Settings;
use crate::config::settings::{AdapterKind, Auth, CredentialsFrom, KeyStoreSetting, Secret};
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
        let logins = Logins::new(settings);
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
                    credentials: source(broker.credentials.as_ref(), &logins, name, user),
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

/// What is needed to read users' logins from OpenAlgo's database.
struct Logins {
    logins: Option<Arc<BrokerLogins>>,
    api_key: Option<String>,
}

impl Logins {
    fn new(settings: &Settings) -> Self {
        let Auth { store, pepper, fernet_salt, broker_api_key } = &settings.auth;
        let exposed = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let pepper = exposed(pepper).unwrap_or_default();
        let logins = match store {
            KeyStoreSetting::OpenAlgo(file) => {
                Some(Arc::new(BrokerLogins::new(file, &pepper, exposed(fernet_salt).as_deref())))
            }
            KeyStoreSetting::Demo | KeyStoreSetting::Sqlite(_) => None,
        };
        Logins { logins, api_key: exposed(broker_api_key) }
    }
}

fn source(from: Option<&CredentialsFrom>, Logins { logins, api_key }: &Logins, broker: &str, user: &str) -> Source {
    match (from, logins) {
        (Some(CredentialsFrom::File(path)), _) => Source::File(path.replace("{user}", user).into()),
        (Some(CredentialsFrom::Env { given, .. }), _) => Source::Given(given.clone()),
        (Some(CredentialsFrom::OpenAlgo), Some(logins)) => {
            let (logins, api_key) = (Arc::clone(logins), api_key.clone());
            Source::OpenAlgo(OpenAlgoLogin { logins, user: user.to_owned(), broker: broker.to_owned(), api_key })
        }
        // The settings are checked; without credentials every connect fails and says so.
        (Some(CredentialsFrom::OpenAlgo) | None, _) => Source::Given(Default::default()),
    }
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
