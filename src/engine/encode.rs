//! One tick for one kind of taker: the bytes that all sessions of one frame key share.
//!
//! In: a decoded payload and a frame key. Out: a complete WebSocket frame appended to a slab. Promise: a payload that cannot serve
//! the mode appends nothing. Pure. Tests: here for the choice of fields; shapes are tested in `wire` and `normalise`.

use super::batch::FrameKey;
use super::normalise::Decoded;
use crate::model::{Format, InstrumentRef, Mode};
use crate::wire::json;

/// What is the same for every frame made of one tick.
pub struct Tick<'a> {
    /// What ticked.
    pub instrument: InstrumentRef<'a>,
    /// The mode that the adapter published it in.
    pub mode: Mode,
    /// Its fields.
    pub payload: &'a Decoded<'a>,
    /// `normalise = "off"`: the adapter's fields for every mode.
    pub pass_through: bool,
}

impl Tick<'_> {
    /// Appends the frame for `key`, whose broker name is `label`; false when the tick cannot serve it.
    pub fn encode(&self, out: &mut Vec<u8>, key: FrameKey, label: &str, snapshot: bool) -> bool {
        if !self.payload.serves(key.mode(), self.mode) {
            return false;
        }
        match key.format() {
            Format::Json => {
                let own = key.mode() == self.mode || self.pass_through;
                json::tick_frame(out, self.instrument, key.mode(), label, snapshot, |data| {
                    if own {
                        self.payload.write_json_own(data);
                    } else {
                        self.payload.write_json_mode(key.mode(), data);
                    }
                });
                true
            }
            // The front door admits JSON sessions only until the MessagePack encoder stands here.
            Format::MsgPack => false,
        }
    }
}
