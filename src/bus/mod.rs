//! (written with its room)

pub mod frames;
pub mod topic;
