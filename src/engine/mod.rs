//! The fan-out engine: workers own sessions, sockets and a private delivery index; ticks are encoded once.
//!
//! In: [`batch::EncodedBatch`]es over a bounded queue. Out: bytes on sockets, one write per touched session and flush.
//! Promise: no lock and no task switch per client and tick; a session whose socket is full delays no other.

pub mod batch;
pub mod encode;
pub mod index;
pub mod load;
pub mod metrics;
pub mod normalise;
pub mod payload;
pub mod queue;
pub mod transport;
pub mod worker;
pub mod xray;

pub use batch::{EncodedBatch, Frame, FrameKey};
pub use transport::Transport;
pub use worker::{Worker, WorkerConfig};
