//! The Noren feeds of Flattrade and Shoonya, spoken by ourselves: JSON text, a snapshot and then changes.

pub mod decode;
pub mod merge;
