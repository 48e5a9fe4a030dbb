//! Client formats, pure: bytes in, types out, and back. No clocks, channels, locks or I/O.
//!
//! - [`frame`]: WebSocket frames of clients (strict incremental parser) and ours (writer).
//! - [`close`]: one reason type for every goodbye. [`error`]: the codes of error frames.
//! - [`command`]: a client's message as a [`command::Command`]. [`reply`]: what we answer.
//! - [`json`]: strings, and the `market_data` frame. [`transcode`]: JSON into MessagePack and back.
//!
//! User documentation is `docs/PROTOCOL.md`; tests keep its tables equal to the enums here.

pub mod close;
pub mod command;
pub mod error;
pub mod frame;
pub mod json;
pub mod msgpack;
pub mod reply;
pub mod transcode;

#[cfg(test)]
mod docs_tests;
