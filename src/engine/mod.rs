//! (written with its room)

pub mod normalise;
pub mod payload;
