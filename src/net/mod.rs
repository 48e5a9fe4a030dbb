//! The front door and the back office: everything that listens on TCP for HTTP.
//!
//! `accept` takes connections, bounds them and hands upgraded sockets to a sink; `http` is the pure part of the
//! WebSocket upgrade; `admin` serves `/metrics` and health, `console` the page for people, both to who calls us by a name
//! that `host` knows; `sys` sets socket options and limits and asks the kernel about a connection (`tcp_info` reads its
//! answer); `metrics` counts.
//! No tick passes through here: after the 101 a socket belongs to the worker that the sink chose.

pub mod accept;
pub mod admin;
pub mod console;
mod host;
pub mod http;
pub mod metrics;
pub mod sys;
mod tcp_info;

pub use accept::{Accepted, SessionPermit};
