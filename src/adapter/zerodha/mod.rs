//! Zerodha: Kite ticker v3 as a broker of the frame. The upgrade is the login; ticks are binary, notices and orders are text.
//!
//! One mode a token is on the wire, the last `mode` wins in both directions; there is no acknowledgement of anything, and a
//! token that does not exist is silent. Pure, like `decode`; sockets and clocks are the frame's (`native`).

pub mod decode;
mod feed;

pub use feed::Zerodha;
