//! tickcast: market-data ticks from ZeroMQ to thousands of WebSocket clients.
//!
//! ```text
//! publishers ─► zmtp ─► bus ─► ingest ─► engine workers ─► outbox ─► sockets      a tick
//!                                │ ▲
//!                          shards (locked: who wants it, last value)
//!                                ▲ │
//! clients ─► net ─► session ─► registry ─► adapter supervisor ─► brokers          a subscription
//! ```
//!
//! `app` composes it; `config`, `auth`, `wire`, `policy`, `model` and `limits` serve all of it; `cli` is the command line. Calls go
//! down the rows of `docs/ARCHITECTURE.md` only. Read first: [`app::App::build`], [`engine::Worker::deliver`] and
//! `carry_out` in `session/commands.rs`.

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
