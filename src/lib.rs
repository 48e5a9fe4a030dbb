//! tickcast: market-data ticks from ZeroMQ to thousands of WebSocket clients.
// (map of the flow: written when the rooms stand)

pub mod adapter;
pub mod app;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod config;
pub mod engine;
pub mod limits;
pub mod model;
pub mod net;
pub mod outbox;
pub mod policy;
pub mod registry;
pub mod session;
pub mod shards;
pub mod wire;
pub mod zmtp;
