//! The store of the first minute: one key that everybody knows. Settings allow it on loopback only.

use super::{AuthError, DEMO_KEY, DEMO_USER, Identity, KeyStore, key_id};
use crate::model::Class;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Accepts [`DEMO_KEY`].
pub(super) struct DemoStore {
    identity: Identity,
}

impl DemoStore {
    /// `broker` is the label of the default adapter kind.
    pub(super) fn new(broker: Arc<str>) -> Self {
        let key_id = key_id(&Sha256::digest(DEMO_KEY).into());
        let identity =
            Identity { user: DEMO_USER.into(), broker: Some(broker), class: Class::Normal, key_id, demo: true };
        DemoStore { identity }
    }
}

impl KeyStore for DemoStore {
    fn verify(&mut self, api_key: &str) -> Result<Identity, AuthError> {
        if api_key == DEMO_KEY { Ok(self.identity.clone()) } else { Err(AuthError::Invalid) }
    }

    fn broker_of(&mut self, user: &str) -> Result<Option<Arc<str>>, AuthError> {
        Ok(self.identity.broker.clone().filter(|_| user == DEMO_USER))
    }

    fn still_valid(&mut self, _key_id: u64) -> Result<bool, AuthError> {
        Ok(true)
    }

    fn count(&mut self) -> Result<usize, AuthError> {
        Ok(1)
    }

    fn invalidate(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_demo_key_opens_the_demo_store() {
        let mut store = DemoStore::new("sim".into());
        let identity = store.verify("demo-key").unwrap();
        assert_eq!((&*identity.user, identity.broker.as_deref(), identity.demo), ("demo", Some("sim"), true));
        for wrong in ["", "demo", "demo-key ", "DEMO-KEY"] {
            assert_eq!(store.verify(wrong), Err(AuthError::Invalid), "{wrong:?}");
        }
    }
}
