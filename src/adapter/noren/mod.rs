//! Flattrade and Shoonya: two houses of one protocol, Noren, as a [`Broker`](super::native::broker::Broker). The first message
//! is the login; a stream begins with a snapshot, changes follow; texts only.
//!
//! Last prices and quotes are one stream, depth is another that has all of it; one of the two is held an instrument. Orders
//! come on the same socket. Pure, like [`decode`] and [`merge`]; sockets and clocks are the frame's (`native`).

pub mod decode;
mod feed;
pub mod merge;
mod orders;

pub use feed::{Flattrade, House, Noren, Shoonya};
