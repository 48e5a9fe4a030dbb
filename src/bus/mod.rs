//! (written with its room)

pub mod endpoints;
