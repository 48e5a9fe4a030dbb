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
                let own = (key.mode() == self.mode || self.pass_through)
                    && (key.mode() != Mode::Ltp || self.payload.names_ltp());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::normalise::{self, Unit};
    use crate::model::{BrokerId, Encoding, StreamId};

    /// The `data` that a subscriber of `wanted` gets from a tick of mode `own`; `None` when nothing is sent.
    fn data(payload: &str, own: Mode, wanted: Mode, pass_through: bool) -> Option<serde_json::Value> {
        let unit = Unit { broker: None, venue: "NSE" };
        let payload = normalise::decode(payload.as_bytes(), Encoding::Json, unit).expect("valid");
        let instrument = InstrumentRef { venue: "NSE", symbol: "INFY" };
        let tick = Tick { instrument, mode: own, payload: &payload, pass_through };
        let mut out = Vec::new();
        let key = FrameKey::new(StreamId(1), wanted, Format::Json, BrokerId(0));
        tick.encode(&mut out, key, "angel", false).then(|| {
            let json = &out[out.iter().position(|b| *b == b'{').expect("an object")..];
            serde_json::from_slice::<serde_json::Value>(json).expect("valid JSON")["data"].clone()
        })
    }

    #[test]
    fn ltp_subscribers_always_find_an_ltp() {
        use Mode::{Depth, Ltp, Quote};
        for (payload, own, wanted, off, want) in [
            (r#"{"ltp":1,"x":2}"#, Ltp, Ltp, false, Some(r#"{"ltp":1,"x":2}"#)),
            (r#"{"last_price":1,"x":2}"#, Ltp, Ltp, false, Some(r#"{"ltp":1}"#)),
            (r#"{"last_price":1,"x":2}"#, Ltp, Ltp, true, Some(r#"{"ltp":1}"#)),
            (r#"{"x":2}"#, Ltp, Ltp, false, None),
            (r#"{"ltp":NaN}"#, Ltp, Ltp, false, None),
            (r#"{"x":2}"#, Quote, Quote, false, Some(r#"{"x":2}"#)),
            (r#"{"x":2}"#, Depth, Quote, false, None),
            (r#"{"ltp":1,"x":2}"#, Depth, Ltp, false, Some(r#"{"ltp":1}"#)),
            (r#"{"ltp":1,"x":2}"#, Depth, Ltp, true, Some(r#"{"ltp":1,"x":2}"#)),
            (r#"{"ltp":1}"#, Ltp, Quote, false, None),
        ] {
            let want = want.map(|w| serde_json::from_str::<serde_json::Value>(w).expect("valid"));
            assert_eq!(data(payload, own, wanted, off), want, "{payload} {own:?} for {wanted:?}");
        }
    }
}
