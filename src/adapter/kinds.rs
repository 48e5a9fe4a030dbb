//! The native brokers by name: the one place beside its own folder where a broker is written down.
//!
//! Settings, docs and the composition root learn from here which kinds there are, what each needs and how to make one.

use super::Adapter;
use super::angel::Angel;
use super::native::broker::{Broker, Limits};
use super::native::feed::{Account, NativeAdapter, Wiring};
use super::noren::{Flattrade, Shoonya};
use super::symbols::Dialect;
use super::zerodha::Zerodha;
use std::sync::Arc;

/// All of them, one line each.
pub const KINDS: [NativeKind; 4] = [
    NativeKind::of::<Zerodha>("zerodha"),
    NativeKind::of::<Angel>("angel"),
    NativeKind::of::<Flattrade>("flattrade"),
    NativeKind::of::<Shoonya>("shoonya"),
];

/// What is known of a native kind without making one.
#[derive(Clone, Copy)]
pub struct NativeKind {
    /// Name in settings.
    pub name: &'static str,
    /// Where the broker is, unless the settings say otherwise.
    pub url: &'static str,
    /// Where order updates come from, if not from there.
    pub order_url: Option<&'static str>,
    /// What its credentials must hold.
    pub credentials: &'static [&'static str],
    /// Whether OpenAlgo stores the API key with the token.
    pub key_in_token: bool,
    /// Whose instrument files it reads.
    pub dialect: Dialect,
    /// Its numbers.
    pub limits: fn() -> Limits,
    /// An adapter of one account, not connected.
    pub make: fn(Arc<Account>, Wiring) -> Box<dyn Adapter>,
}

impl NativeKind {
    const fn of<B: Broker + Default>(name: &'static str) -> Self {
        NativeKind {
            name,
            url: B::URL,
            order_url: B::ORDER_URL,
            credentials: B::CREDENTIALS,
            key_in_token: B::KEY_IN_TOKEN,
            dialect: B::DIALECT,
            limits: limits::<B>,
            make: make::<B>,
        }
    }
}

fn limits<B: Broker + Default>() -> Limits {
    B::default().limits()
}

fn make<B: Broker + Default>(account: Arc<Account>, wiring: Wiring) -> Box<dyn Adapter> {
    Box::new(NativeAdapter { broker: Arc::new(B::default()), account, wiring })
}
