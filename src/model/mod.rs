//! The field's words as types: what a tick, a mode, an instrument and an identity are.
//!
//! Everything above imports this room; it imports nothing but `limits`. No I/O, and no clock except
//! in `time.rs`. Queue types that cross rooms live here too, below both of their ends.

pub mod event;
pub mod feed;
pub mod heartbeat;
pub mod id;
pub mod instrument;
pub mod log_gate;
pub mod mode;
pub mod overload;
pub mod price;
pub mod queue;
pub mod time;

pub use event::{Encoding, LTP_UNCHANGED, SourceMessage};
pub use feed::{FeedClock, FeedState};
pub use heartbeat::{Heartbeat, Heartbeats};
pub use id::{BrokerId, Brokers, ScopeId, SessionId, StreamId, UserId, WorkerId};
pub use instrument::{Instrument, InstrumentRef};
pub use log_gate::LogGate;
pub(crate) use log_gate::limited;
pub use mode::{Class, Format, Mode};
pub use overload::{Level, SharedLevel};
pub use queue::{ByteBudget, SourceReceiver, SourceSender, source_queue};
pub use time::Micros;
