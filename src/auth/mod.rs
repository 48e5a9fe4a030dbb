//! Who a client is: key stores behind one trait, on threads of their own.
//!
//! In: an API key and the address it came from. Out: an [`Identity`], or why not. [`open`] checks the store at start;
//! [`Opened::start`] runs it on two threads, each with its own connection and caches, so there is no lock and a slow
//! Argon2 never stalls a worker. Promises: at most two verifications at once, a bounded queue before them (full =
//! [`AuthFailure::Busy`]), bounded caches, no key is kept or logged, only its SHA-256.
//! Beside them [`login`]: what a user's broker gave out, for native feeds of OpenAlgo's users.
//! It knows nothing of sessions, sockets or adapters. Tests: in the files, `tests/keys.rs`.

mod demo;
mod fernet;
pub mod login;
pub mod metrics;
mod openalgo;
pub mod rate;
mod service;
pub mod sqlite;

pub use metrics::AuthMetrics;
pub use service::{AuthConfig, AuthFailure, AuthPool, AuthService, OpenError, Opened, StoreConfig, open};

use crate::model::Class;
use std::sync::Arc;

/// The key of the `demo` store.
pub const DEMO_KEY: &str = "demo-key";
/// The user of the `demo` store.
pub const DEMO_USER: &str = "demo";

/// Whose key it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name, as in topics and replies.
    pub user: Arc<str>,
    /// The user's broker, lower case; `None` = the key is right but no broker is logged in (`BROKER_ERROR`).
    pub broker: Option<Arc<str>>,
    /// How much this key's sessions matter under overload.
    pub class: Class,
    /// Stable fingerprint of the key, for limits and logs; says nothing about the key.
    pub key_id: u64,
    /// Whether it is the key that everybody knows.
    pub demo: bool,
}

/// Why a store did not vouch for a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No such key.
    #[error("no such key")]
    Invalid,
    /// The store could not be asked; for the log, not for clients.
    #[error("key store unavailable: {0}")]
    Unavailable(String),
}

/// Where API keys are checked. Blocking; each auth thread owns one, with a connection and caches of its own.
pub trait KeyStore: Send {
    /// Whose key it is.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] if nobody's, [`AuthError::Unavailable`] if that cannot be told now.
    fn verify(&mut self, api_key: &str) -> Result<Identity, AuthError>;

    /// The broker that `user` is logged in at now; `None` = none, or no such user.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] if that cannot be told now.
    fn broker_of(&mut self, user: &str) -> Result<Option<Arc<str>>, AuthError>;

    /// Whether the key with this [`Identity::key_id`], which was right before, still is; true when that cannot be told from the id.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] if the store cannot be asked now.
    fn still_valid(&mut self, key_id: u64) -> Result<bool, AuthError>;

    /// How many keys are good now.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] if the store cannot be asked now.
    fn count(&mut self) -> Result<usize, AuthError>;

    /// Forgets what it remembers about refused keys. What it remembers about good ones is checked at each use anyway.
    fn invalidate(&mut self);
}

/// Fingerprint of a key from its digest.
fn key_id(digest: &[u8; 32]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("eight of 32 bytes"))
}
