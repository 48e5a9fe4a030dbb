//! The settings as the rooms below want them.

use super::brokers::USER_MARK;
use super::settings::{Auth, Broker, CredentialsFrom, KeyStoreSetting, Secret, Settings};
use crate::adapter::native::credentials::{OpenAlgoLogin, Source};
use crate::auth::login::BrokerLogins;
use crate::auth::{AuthConfig, StoreConfig};
use std::sync::Arc;

impl Settings {
    /// What the auth room is told.
    pub fn auth_config(&self) -> AuthConfig {
        let store = match &self.auth.store {
            // The demo user's broker is what serves everybody without a section of their own.
            KeyStoreSetting::Demo => StoreConfig::Demo { broker: self.adapters.default.label().into() },
            KeyStoreSetting::Sqlite(file) => StoreConfig::Sqlite(file.clone()),
            KeyStoreSetting::OpenAlgo(file) => {
                let pepper = self.auth.pepper.as_ref().map_or("", |pepper| pepper.expose());
                StoreConfig::OpenAlgo { file: file.clone(), pepper: pepper.into() }
            }
        };
        AuthConfig { store, failures_per_ip_per_minute: self.limits.auth_failures_per_ip_per_minute }
    }

    /// Where users' credentials at brokers are.
    pub fn credential_sources(&self) -> CredentialSources {
        let Auth { store, pepper, fernet_salt, broker_api_key } = &self.auth;
        let exposed = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let pepper = exposed(pepper).unwrap_or_default();
        let logins = match store {
            KeyStoreSetting::OpenAlgo(file) => {
                Some(Arc::new(BrokerLogins::new(file, &pepper, exposed(fernet_salt).as_deref())))
            }
            KeyStoreSetting::Demo | KeyStoreSetting::Sqlite(_) => None,
        };
        CredentialSources { logins, api_key: exposed(broker_api_key) }
    }
}

/// See [`Settings::credential_sources`]; OpenAlgo's key is derived at most once.
pub struct CredentialSources {
    logins: Option<Arc<BrokerLogins>>,
    api_key: Option<String>,
}

impl CredentialSources {
    /// Where those of one user are, at the broker of section `name`.
    pub fn of(&self, name: &str, broker: &Broker, user: &str) -> Source {
        match (&broker.credentials, &self.logins) {
            (Some(CredentialsFrom::File(path)), _) => Source::File(path.replace(USER_MARK, user).into()),
            (Some(CredentialsFrom::Env { given, .. }), _) => Source::Given(given.clone()),
            (Some(CredentialsFrom::OpenAlgo), Some(logins)) => {
                let (logins, api_key) = (Arc::clone(logins), self.api_key.clone());
                Source::OpenAlgo(OpenAlgoLogin { logins, user: user.to_owned(), broker: name.to_owned(), api_key })
            }
            // The settings are checked; without credentials every connect fails and says so.
            (Some(CredentialsFrom::OpenAlgo) | None, _) => Source::Given(Default::default()),
        }
    }
}
