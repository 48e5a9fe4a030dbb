//! The bus: ticks, orders and invalidations in.
//!
//! `endpoints` reads ZeroMQ peers into per-source queues; `ingest` serves those queues, gives ticks their order and their bytes, and
//! hands batches to the workers; `frames` and `topic` read the bus's formats, pure; `explode` lets a full queue conflate.

pub mod endpoints;
pub mod explode;
pub mod frames;
pub mod ingest;
pub mod topic;
