//! The settings as the rooms below want them.

use super::settings::{KeyStoreSetting, Settings};
use crate::auth::{AuthConfig, StoreConfig};

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
}
