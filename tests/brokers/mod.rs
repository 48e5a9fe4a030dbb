//! Stand-ins for brokers: they speak the real protocol on loopback, and do on request what brokers do on bad days.

pub mod angel;
pub mod kite;
pub mod noren;
pub mod server;
