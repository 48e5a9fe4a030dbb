//! The tick side of `tickcast.v1.msgpack` (CONTRACTS 3.2): positional arrays, integer prices, nothing named.
//!
//! Writing: one tick's array, shared by all sessions of a frame key, and the head `[1, t_send, [` that each session's frame begins
//! with. Reading: [`read()`], the library that `watch`, `loadtest` and tests use. Promises: trailing nils are left off, integers are as short
//! as they can be; the reader takes any width, ignores fields and frames it does not know, and never believes a length.
//! Pure. Tests: `msgpack/tests.rs`, golden bytes and round trips.

mod read;
#[cfg(test)]
mod tests;

pub use read::{Level, ReadError, Received, ServerFrame, each_tick, price, read};

use crate::model::{Micros, Mode, StreamId};

/// First element of a frame of live ticks.
pub const TICKS: u8 = 1;
/// First element of a frame of snapshots.
pub const SNAPSHOTS: u8 = 2;
/// Most bytes of one frame's payload; ticks beyond go into the next one.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// The longest [`frame_head`], bytes.
pub const FRAME_HEAD_BYTES_MAX: usize = 1 + 1 + 9 + 5;

/// What every tick begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The instrument, as the subscribe acknowledgement named it.
    pub id: StreamId,
    /// The subscribed mode.
    pub mode: Mode,
    /// Number within (instrument, mode).
    pub seq: u64,
    /// The venue's time; 0 when unknown.
    pub t_exch: Micros,
    /// When the bus message was read.
    pub t_recv: Micros,
}

/// One positional field behind the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Absent.
    Nil,
    /// Price × 10^scale.
    Price(i64),
    /// Quantity, volume, open interest.
    Count(u64),
    /// One side of the depth: price × 10^scale, quantity, orders, best first.
    Levels(Vec<(Option<i64>, Option<u64>, Option<u64>)>),
}

impl From<Option<u64>> for Field {
    fn from(count: Option<u64>) -> Self {
        count.map_or(Field::Nil, Field::Count)
    }
}

/// Appends one tick.
pub fn tick(out: &mut Vec<u8>, head: Head, fields: &[Field]) {
    let given = fields.iter().rposition(|f| *f != Field::Nil).map_or(0, |last| last + 1);
    array(out, 5 + given);
    uint(out, u64::from(head.id.0));
    uint(out, u64::from(head.mode.int()));
    uint(out, head.seq);
    uint(out, head.t_exch.0);
    uint(out, head.t_recv.0);
    for field in &fields[..given] {
        match field {
            Field::Nil => out.push(0xc0),
            Field::Price(price) => int(out, *price),
            Field::Count(count) => uint(out, *count),
            Field::Levels(side) => levels(out, side),
        }
    }
}

/// Appends an LTP tick that [`tick`] has written, with the low and high of what was merged into it.
pub fn tick_with_range(out: &mut Vec<u8>, tick: &[u8], (low, high): (i64, i64)) {
    array(out, 8);
    out.extend_from_slice(&tick[1..]);
    if tick[0] == 0x95 {
        // Without a price.
        out.push(0xc0);
    }
    int(out, low);
    int(out, high);
}

/// Appends what stands before the ticks of one frame: `[kind, t_send, [` with `count` ticks to come.
pub fn frame_head(out: &mut Vec<u8>, kind: u8, t_send: Micros, count: usize) {
    out.push(0x93);
    uint(out, u64::from(kind));
    uint(out, t_send.0);
    array(out, count);
}

/// Levels that are all zero at the end are padding and left off.
fn levels(out: &mut Vec<u8>, side: &[(Option<i64>, Option<u64>, Option<u64>)]) {
    let empty = |l: &(Option<i64>, Option<u64>, Option<u64>)| {
        l.0.unwrap_or(0) == 0 && l.1.unwrap_or(0) == 0 && l.2.unwrap_or(0) == 0
    };
    let given = side.iter().rposition(|l| !empty(l)).map_or(0, |last| last + 1);
    array(out, given);
    for (price, quantity, orders) in &side[..given] {
        array(out, 3);
        match price {
            Some(price) => int(out, *price),
            None => out.push(0xc0),
        }
        for count in [quantity, orders] {
            match count {
                Some(count) => uint(out, *count),
                None => out.push(0xc0),
            }
        }
    }
}

fn array(out: &mut Vec<u8>, len: usize) {
    // Writing into a Vec cannot fail.
    let _ = rmp::encode::write_array_len(out, len as u32);
}

fn uint(out: &mut Vec<u8>, value: u64) {
    let _ = rmp::encode::write_uint(out, value);
}

fn int(out: &mut Vec<u8>, value: i64) {
    let _ = rmp::encode::write_sint(out, value);
}
