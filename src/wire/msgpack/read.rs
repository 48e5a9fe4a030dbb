//! Reading what the server sends to MessagePack clients.

use super::{SNAPSHOTS, TICKS};
use crate::model::{Micros, Mode, StreamId};
use crate::wire::transcode;

/// One binary frame of the server.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerFrame {
    /// A reply, error, notice or order update, with the JSON protocol's keys.
    Message(serde_json::Value),
    /// Live ticks of one flush.
    Ticks {
        /// The server's clock when it wrote them.
        t_send: Micros,
        /// In order.
        ticks: Vec<Received>,
    },
    /// Last values, sent at a subscribe.
    Snapshots {
        /// The server's clock when it wrote them.
        t_send: Micros,
        /// In order.
        ticks: Vec<Received>,
    },
    /// A kind of frame that this reader does not know; to be ignored.
    Unknown,
}

/// One tick. Prices are integers: divide by 10^scale of the subscribe acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The instrument, as the acknowledgement named it.
    pub id: StreamId,
    /// Subscribed mode, 1 to 3.
    pub mode: u8,
    /// Number within (instrument, mode); a gap = merged ticks.
    pub seq: u64,
    /// The venue's time; 0 when unknown.
    pub t_exch: Micros,
    /// When the server read the bus message.
    pub t_recv: Micros,
    /// Positional prices and counts behind the head, in the order of the mode; `None` where absent.
    pub numbers: Vec<Option<i128>>,
    /// Buyers, best first (mode 3).
    pub bids: Vec<Level>,
    /// Sellers, best first (mode 3).
    pub asks: Vec<Level>,
}

/// One price level; `None` where absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Price × 10^scale.
    pub price: Option<i64>,
    /// Quantity at this price.
    pub quantity: Option<u64>,
    /// Orders at this price.
    pub orders: Option<u64>,
}

impl Received {
    /// The last traded price × 10^scale.
    pub fn ltp(&self) -> Option<i64> {
        self.numbers.first().copied().flatten().and_then(|n| i64::try_from(n).ok())
    }
}

/// Why a frame could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The bytes end too early, or a length promises more than there is.
    #[error("the frame is cut short")]
    Short,
    /// Something else stands where this was expected.
    #[error("not the expected MessagePack type")]
    Type,
    /// The map of a message cannot be read.
    #[error("not a readable message")]
    Message,
}

/// Reads one binary frame's payload.
///
/// # Errors
/// [`ReadError`]; frames of unknown kinds are no error.
pub fn read(frame: &[u8]) -> Result<ServerFrame, ReadError> {
    let mut reader = Reader { rest: frame };
    Ok(match reader.kind()? {
        Kind::Message => {
            let start = reader.rest;
            reader.skip()?;
            let json = transcode::to_json(&start[..start.len() - reader.rest.len()]).map_err(|_| ReadError::Message)?;
            serde_json::from_slice(&json).map(ServerFrame::Message).map_err(|_| ReadError::Message)?
        }
        Kind::Ticks { snapshots, t_send, count } => {
            let mut ticks = Vec::new();
            for _ in 0..count {
                let mut tick = Received::default();
                reader.tick(&mut tick)?;
                ticks.push(tick);
            }
            if snapshots { ServerFrame::Snapshots { t_send, ticks } } else { ServerFrame::Ticks { t_send, ticks } }
        }
        Kind::Unknown => ServerFrame::Unknown,
    })
}

/// Reads a frame of ticks, live ones or snapshots, into `tick` one after the other, without allocating once that has grown. `Ok(false)`:
/// the frame is of another kind, and none of it was read.
///
/// # Errors
/// [`ReadError`], after the ticks before the fault.
pub fn each_tick(frame: &[u8], tick: &mut Received, mut take: impl FnMut(&Received)) -> Result<bool, ReadError> {
    let mut reader = Reader { rest: frame };
    let Kind::Ticks { count, .. } = reader.kind()? else { return Ok(false) };
    for _ in 0..count {
        reader.tick(tick)?;
        take(tick);
    }
    Ok(true)
}

/// What stands before a frame's content.
enum Kind {
    Message,
    Ticks { snapshots: bool, t_send: Micros, count: usize },
    Unknown,
}

/// The last traded price of one tick's array, without reading the rest.
pub fn price(tick: &[u8]) -> Option<i64> {
    let mut reader = Reader { rest: tick };
    let given = reader.array().ok()?;
    for _ in 0..5 {
        reader.number().ok()?;
    }
    if given < 6 { None } else { reader.number().ok()?.and_then(|price| i64::try_from(price).ok()) }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Length of an array; refused when it promises more elements than bytes are left.
    fn array(&mut self) -> Result<usize, ReadError> {
        let [marker] = self.take()?;
        let len = match marker {
            0x90..=0x9f => usize::from(marker & 0x0f),
            0xdc => usize::from(u16::from_be_bytes(self.take()?)),
            0xdd => u32::from_be_bytes(self.take()?) as usize,
            _ => return Err(ReadError::Type),
        };
        if len > self.rest.len() { Err(ReadError::Short) } else { Ok(len) }
    }

    /// An integer of any width, or nil.
    fn number(&mut self) -> Result<Option<i128>, ReadError> {
        let [marker] = self.take()?;
        Ok(Some(match marker {
            0xc0 => return Ok(None),
            0x00..=0x7f => i128::from(marker),
            0xe0..=0xff => i128::from(marker as i8),
            0xcc => i128::from(u8::from_be_bytes(self.take()?)),
            0xcd => i128::from(u16::from_be_bytes(self.take()?)),
            0xce => i128::from(u32::from_be_bytes(self.take()?)),
            0xcf => i128::from(u64::from_be_bytes(self.take()?)),
            0xd0 => i128::from(i8::from_be_bytes(self.take()?)),
            0xd1 => i128::from(i16::from_be_bytes(self.take()?)),
            0xd2 => i128::from(i32::from_be_bytes(self.take()?)),
            0xd3 => i128::from(i64::from_be_bytes(self.take()?)),
            _ => return Err(ReadError::Type),
        }))
    }

    fn count(&mut self) -> Result<Option<u64>, ReadError> {
        self.number()?.map(|n| u64::try_from(n).map_err(|_| ReadError::Type)).transpose()
    }

    fn kind(&mut self) -> Result<Kind, ReadError> {
        let parts = self.array()?;
        if parts == 0 {
            return Ok(Kind::Unknown);
        }
        let Some(kind) = self.number()? else { return Ok(Kind::Unknown) };
        Ok(match u8::try_from(kind) {
            Ok(0) if parts >= 2 => Kind::Message,
            Ok(kind @ (TICKS | SNAPSHOTS)) if parts >= 3 => {
                let t_send = Micros(self.count()?.unwrap_or(0));
                Kind::Ticks { snapshots: kind == SNAPSHOTS, t_send, count: self.array()? }
            }
            _ => Kind::Unknown,
        })
    }

    /// Reads a tick over what `tick` held.
    fn tick(&mut self, tick: &mut Received) -> Result<(), ReadError> {
        let len = self.array()?;
        if len < 5 {
            return Err(ReadError::Type);
        }
        let id = self.count()?.and_then(|id| u32::try_from(id).ok()).ok_or(ReadError::Type)?;
        let mode = self.count()?.and_then(|m| u8::try_from(m).ok()).ok_or(ReadError::Type)?;
        (tick.id, tick.mode) = (StreamId(id), mode);
        tick.numbers.clear();
        tick.bids.clear();
        tick.asks.clear();
        tick.seq = self.count()?.unwrap_or(0);
        tick.t_exch = Micros(self.count()?.unwrap_or(0));
        tick.t_recv = Micros(self.count()?.unwrap_or(0));
        // What stands behind the fields of the mode is for later readers.
        let (numbers, sides) = match Mode::from_int(u64::from(mode)) {
            Some(Mode::Ltp) => (3, 0),
            Some(Mode::Quote) => (11, 0),
            Some(Mode::Depth) => (11, 2),
            None => (0, 0),
        };
        for at in 0..len - 5 {
            if at < numbers {
                let number = self.number()?;
                tick.numbers.push(number);
            } else if at < numbers + sides {
                self.levels(if at == numbers { &mut tick.bids } else { &mut tick.asks })?;
            } else {
                self.skip()?;
            }
        }
        Ok(())
    }

    fn levels(&mut self, side: &mut Vec<Level>) -> Result<(), ReadError> {
        if self.rest.first() == Some(&0xc0) {
            self.rest = &self.rest[1..];
            return Ok(());
        }
        for _ in 0..self.array()? {
            side.push(self.level()?);
        }
        Ok(())
    }

    fn level(&mut self) -> Result<Level, ReadError> {
        let len = self.array()?;
        let mut level = Level::default();
        for at in 0..len {
            match at {
                0 => level.price = self.number()?.and_then(|n| i64::try_from(n).ok()),
                1 => level.quantity = self.count()?,
                2 => level.orders = self.count()?,
                _ => self.skip()?,
            }
        }
        Ok(level)
    }

    /// Passes one value over, without recursion: hostile nesting costs nothing.
    fn skip(&mut self) -> Result<(), ReadError> {
        let mut left = 1usize;
        while left > 0 {
            let [marker] = self.take()?;
            let bytes = match marker {
                0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 0,
                0x80..=0x8f => {
                    left += 2 * usize::from(marker & 0x0f);
                    0
                }
                0x90..=0x9f => {
                    left += usize::from(marker & 0x0f);
                    0
                }
                0xa0..=0xbf => usize::from(marker & 0x1f),
                0xc4 | 0xd9 => usize::from(u8::from_be_bytes(self.take()?)),
                0xc5 | 0xda => usize::from(u16::from_be_bytes(self.take()?)),
                0xc6 | 0xdb => u32::from_be_bytes(self.take()?) as usize,
                0xc7 => 1 + usize::from(u8::from_be_bytes(self.take()?)),
                0xc8 => 1 + usize::from(u16::from_be_bytes(self.take()?)),
                0xc9 => 1 + u32::from_be_bytes(self.take()?) as usize,
                0xcc | 0xd0 => 1,
                0xcd | 0xd1 => 2,
                0xce | 0xd2 | 0xca => 4,
                0xcf | 0xd3 | 0xcb => 8,
                0xd4..=0xd8 => 1 + (1 << (marker - 0xd4)),
                0xdc => {
                    left += usize::from(u16::from_be_bytes(self.take()?));
                    0
                }
                0xdd => {
                    left += u32::from_be_bytes(self.take()?) as usize;
                    0
                }
                0xde => {
                    left += 2 * usize::from(u16::from_be_bytes(self.take()?));
                    0
                }
                0xdf => {
                    left += 2 * u32::from_be_bytes(self.take()?) as usize;
                    0
                }
                0xc1 => return Err(ReadError::Type),
            };
            self.rest = self.rest.get(bytes..).ok_or(ReadError::Short)?;
            left -= 1;
            // Each value is at least a byte.
            if left > self.rest.len() {
                return Err(ReadError::Short);
            }
        }
        Ok(())
    }
}
