//! Native feeds: what all brokers that we speak to ourselves share. A broker is a folder beside this one.
//!
//! [`broker::Broker`] is what a broker must say about its protocol; [`tick::NativeTick`] is what its decoder makes. [`link`] and
//! [`pool`] decide, without a socket, when to connect and which connection carries what; [`feed`] does it.
//! Knows no broker, session or reference.

pub mod book;
pub mod broker;
pub mod credentials;
pub mod feed;
mod handover;
pub mod link;
pub mod metrics;
mod orders;
pub mod pool;
pub mod socket;
pub mod tick;
pub mod upgrade;
