//! (written with its room)
