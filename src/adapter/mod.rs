//! (written with its room)

pub mod publisher;
