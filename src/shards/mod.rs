//! (written with its room)

pub mod key;
