//! ZMTP 3.x, hardened: the receiving side of ZeroMQ, for the bus (SUB) and the control channel (ROUTER).
//!
//! `parser.rs` is the pure machine (bytes in, events out), `link.rs` drives one connection of it over a socket,
//! `endpoint.rs` reads endpoint strings, `listener.rs` binds them, `connect.rs` connects to them. We do not let the `zeromq` crate receive: any
//! peer can abort the process with one frame header there. One connection's fault closes that connection only.

pub mod connect;
pub mod endpoint;
pub mod link;
pub mod listener;
pub mod parser;
pub mod router;

pub use endpoint::{Direction, Endpoint, EndpointError};
