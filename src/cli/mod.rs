//! (written with its room)
pub mod client;
pub mod watch;
