//! What travels between rooms: messages from tick sources on their way to ingest.

use super::{id::ScopeId, time::Micros};
use bytes::Bytes;

/// How a payload's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// UTF-8 JSON text, `NaN` and `Infinity` tolerated.
    Json,
    /// One MessagePack value.
    MsgPack,
}

/// One whole message from a tick source: the two frames of the bus (CONTRACTS 4.1), single or `BATCH`.
/// In-process sources (`sim`, native feeds) hand over the same shape, so there is one path for all ticks.
#[derive(Clone, Debug)]
pub struct SourceMessage {
    /// First frame: a topic, or `BATCH`.
    pub topic: Bytes,
    /// Second frame: payload or batch.
    pub body: Bytes,
    /// Our clock when the last byte was read; one reading per message.
    pub t_recv: Micros,
    /// Whose feed it is; fixed for a source.
    pub scope: ScopeId,
    /// Older ticks of its topic that it has replaced while the queue to ingest was full.
    pub merged: u32,
    /// The source sends each tick once, in its highest mode: lower modes are always made from it. A publisher may send a
    /// tick in several modes instead; then copies are made only of modes it does not send.
    pub highest_only: bool,
}

impl SourceMessage {
    /// Payload bytes, for queue budgets.
    pub fn len_bytes(&self) -> usize {
        self.topic.len() + self.body.len()
    }
}

/// Name of a field that a native feed adds to a tick that only repeats its last price.
pub const LTP_UNCHANGED: &str = "ltp_unchanged";
