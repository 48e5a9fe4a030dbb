//! Native feeds: what all brokers that we speak to ourselves share. A broker is a folder beside this one.
//!
//! [`tick::NativeTick`] is what every decoder makes of its broker's packets, and what the server is given.
//! Knows no broker, session or reference.

pub mod tick;
