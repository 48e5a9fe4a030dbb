//! One tick for one kind of taker: the bytes that all sessions of one frame key share.
//!
//! In: a decoded payload and a frame key. Out: for JSON a complete WebSocket frame, for MessagePack the tick's array (its frame's
//! head is per session), appended to a slab. Promise: a payload that cannot serve the mode appends nothing. Pure. Tests: below; shapes
//! are tested in `wire` and `normalise`.

use super::batch::FrameKey;
use super::normalise::{Decoded, Field, Level};
use crate::model::{Format, InstrumentRef, Micros, Mode};
use crate::wire::{json, msgpack};

/// What is the same for every frame made of one tick.
pub struct Tick<'a> {
    /// What ticked.
    pub instrument: InstrumentRef<'a>,
    /// The mode that the adapter published it in.
    pub mode: Mode,
    /// Its fields.
    pub payload: &'a Decoded<'a>,
    /// When its message was read.
    pub t_recv: Micros,
    /// Digits after the point of the stream's integer prices (MessagePack).
    pub scale: u8,
    /// `normalise = "off"`: the adapter's fields for every mode (JSON).
    pub pass_through: bool,
}

/// What became of a tick for one kind of taker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// The payload cannot serve the mode; nothing was appended.
    Nothing,
    /// Appended; so many prices lost digits to the scale.
    Frame {
        /// Prices that were rounded.
        rounded: u32,
    },
}

impl Tick<'_> {
    /// Appends the tick for `key`, as number `seq` of its (stream, mode); `label` is the broker's name.
    pub fn encode(&self, out: &mut Vec<u8>, key: FrameKey, seq: u64, label: &str, snapshot: bool) -> Encoded {
        if !self.payload.serves(key.mode(), self.mode) {
            return Encoded::Nothing;
        }
        match key.format() {
            Format::Json => {
                let adapters = key.mode() == self.mode || self.pass_through;
                let own = adapters && (key.mode() != Mode::Ltp || self.payload.names_ltp());
                json::tick_frame(out, self.instrument, key.mode(), label, snapshot, |data| {
                    if own {
                        self.payload.write_json_own(data);
                    } else {
                        self.payload.write_json_mode(key.mode(), data);
                    }
                });
                Encoded::Frame { rounded: 0 }
            }
            Format::MsgPack => Encoded::Frame { rounded: self.msgpack(out, key, seq) },
        }
    }

    /// The positional array of CONTRACTS 3.2; returns how many prices were rounded.
    fn msgpack(&self, out: &mut Vec<u8>, key: FrameKey, seq: u64) -> u32 {
        let mut rounded = 0;
        let mut scaled = |price: Option<(i64, bool)>| {
            price.map(|(price, lost)| {
                rounded += u32::from(lost);
                price
            })
        };
        let mut price = |field| {
            scaled(self.payload.price_scaled(field, self.scale)).map_or(msgpack::Field::Nil, msgpack::Field::Price)
        };
        let count = |field| msgpack::Field::from(self.payload.u64(field));
        let ltp = price(Field::Ltp);
        let mut fields: Vec<msgpack::Field> = match key.mode() {
            Mode::Ltp => vec![ltp],
            Mode::Quote | Mode::Depth => vec![
                ltp,
                count(Field::Volume),
                price(Field::Open),
                price(Field::High),
                price(Field::Low),
                price(Field::Close),
                count(Field::LastQuantity),
                price(Field::AveragePrice),
                count(Field::TotalBuyQuantity),
                count(Field::TotalSellQuantity),
                count(Field::Oi),
            ],
        };
        if key.mode() == Mode::Depth {
            let mut level = |l: Level<'_>| (scaled(l.price_scaled(self.scale)), l.quantity(), l.orders());
            fields.push(msgpack::Field::Levels(self.payload.bids().map(&mut level).collect()));
            fields.push(msgpack::Field::Levels(self.payload.asks().map(&mut level).collect()));
        }
        let head = msgpack::Head {
            id: key.stream(),
            mode: key.mode(),
            seq,
            t_exch: self.payload.t_exch(),
            t_recv: self.t_recv,
        };
        msgpack::tick(out, head, &fields);
        rounded
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
        let tick = Tick { instrument, mode: own, payload: &payload, t_recv: Micros(9), scale: 2, pass_through };
        let mut out = Vec::new();
        let key = FrameKey::new(StreamId(1), wanted, Format::Json, BrokerId(0));
        if tick.encode(&mut out, key, 1, "angel", false) == Encoded::Nothing {
            return None;
        }
        let json = &out[out.iter().position(|b| *b == b'{').expect("an object")..];
        Some(serde_json::from_slice::<serde_json::Value>(json).expect("valid JSON")["data"].clone())
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

    /// The tick that a MessagePack subscriber of `wanted` reads, and how many prices were rounded.
    fn received(payload: &str, own: Mode, wanted: Mode, scale: u8) -> (msgpack::Received, u32) {
        let unit = Unit { broker: None, venue: "NSE" };
        let payload = normalise::decode(payload.as_bytes(), Encoding::Json, unit).expect("valid");
        let instrument = InstrumentRef { venue: "NSE", symbol: "INFY" };
        let tick = Tick { instrument, mode: own, payload: &payload, t_recv: Micros(9), scale, pass_through: false };
        let key = FrameKey::new(StreamId(7), wanted, Format::MsgPack, BrokerId(0));
        let mut frame = Vec::new();
        msgpack::frame_head(&mut frame, msgpack::TICKS, Micros(10), 1);
        let Encoded::Frame { rounded } = tick.encode(&mut frame, key, 3, "angel", false) else { panic!("served") };
        let Ok(msgpack::ServerFrame::Ticks { mut ticks, .. }) = msgpack::read(&frame) else { panic!("readable") };
        (ticks.remove(0), rounded)
    }

    #[test]
    fn messagepack_prices_are_scaled_integers_and_absent_fields_nil() {
        let payload = r#"{"ltp":1500.055,"volume":10,"high":"1501.5","close":-2.5,"oi":null,"exchange_timestamp":1761367200,
            "depth":{"buy":[{"price":1500,"quantity":5,"orders":2},{"price":0,"quantity":0,"orders":0}],"sell":[]}}"#;
        let (tick, rounded) = received(payload, Mode::Depth, Mode::Depth, 2);
        assert_eq!((tick.id, tick.mode, tick.seq, tick.t_recv), (StreamId(7), 3, 3, Micros(9)));
        assert_eq!(tick.t_exch, Micros(1_761_367_200_000_000));
        let want = [Some(150_006), Some(10), None, Some(150_150), None, Some(-250), None, None, None, None, None];
        assert_eq!((tick.numbers.as_slice(), rounded), (&want[..], 1), "half away from zero, once");
        assert_eq!(tick.bids, [msgpack::Level { price: Some(150_000), quantity: Some(5), orders: Some(2) }]);
        let (ltp, rounded) = received(payload, Mode::Depth, Mode::Ltp, 3);
        assert_eq!((ltp.numbers, rounded, ltp.bids.len()), (vec![Some(1_500_055)], 0, 0));
    }
}
