//! Angel One: SmartStream (WebSocket 2.0) as a [`Broker`](super::native::broker::Broker). The upgrade's headers are the login;
//! ticks are binary, one packet a message; requests are JSON without an acknowledgement.
//!
//! Each (instrument, mode) is a stream and a unit of quota of its own, so one mode an instrument is held, the highest wanted,
//! and a few units are kept free to change a mode without a gap. Orders come on another socket (`orders`).
//! Pure, like [`decode`]; sockets and clocks are the frame's (`native`).

pub mod decode;
mod feed;
mod orders;

pub use feed::Angel;
