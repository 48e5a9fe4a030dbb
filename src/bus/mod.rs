//! The bus: ticks, orders and invalidations in.
//!
//! `endpoints` reads ZeroMQ peers into per-source queues; `ingest` serves those queues, gives ticks their order and their bytes, and
//! hands batches to the workers; `frames` and `topic` read the bus's formats, pure.

pub mod endpoints;
pub mod frames;
pub mod topic;
