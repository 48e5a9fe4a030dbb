//! Ticks that may not be merged, of a session that catches up: first in, first out, after control frames and before all other ticks.
//!
//! JSON ticks are frames of their own; MessagePack ones share a frame as long as they are of one kind, and a frame begun is sent.

use super::super::{Connection, Sent};
use super::{RESUME_CHUNK_BYTES, packed};
use crate::model::{Format, Micros};

/// Appends what fits one write to `scratch`, which holds the control frames; how many ticks that were.
pub(super) fn gather(connection: &Connection, scratch: &mut Vec<u8>, t_send: Micros) -> usize {
    let mut pieces: Vec<&[u8]> = Vec::new();
    let (mut len, mut snapshots) = (scratch.len(), None);
    for (entry, tick) in connection.outbox.every() {
        let mixed = connection.format == Format::MsgPack && *snapshots.get_or_insert(entry.snapshot) != entry.snapshot;
        if mixed || len >= RESUME_CHUNK_BYTES {
            break;
        }
        len += tick.len();
        pieces.push(tick);
    }
    match connection.format {
        Format::Json => pieces.iter().for_each(|piece| scratch.extend_from_slice(piece)),
        Format::MsgPack if pieces.is_empty() => {}
        Format::MsgPack => packed::one_frame(scratch, snapshots == Some(true), t_send, pieces.len(), &pieces),
    }
    pieces.len()
}

/// Whether nothing of the lossless lane waits behind the first `gathered` ticks.
pub(super) fn is_last(connection: &Connection, gathered: usize) -> bool {
    connection.outbox.every().nth(gathered).is_none()
}

/// After the kernel took `left` bytes of `bytes`, which are the gathered ticks: removes those sent and keeps the rest of the one begun.
pub(super) fn settle(connection: &mut Connection, gathered: usize, bytes: &[u8], left: &mut usize, sent: &mut Sent) {
    let format = connection.format as usize;
    if connection.format == Format::MsgPack && *left > 0 && gathered > 0 {
        connection.outbox.set_partial(&bytes[(*left).min(bytes.len())..]);
        (0..gathered).for_each(|_| connection.outbox.pop_every());
        sent.frames[format] += 1;
        sent.ticks[format] += gathered as u64;
        *left = left.saturating_sub(bytes.len());
        return;
    }
    let mut rest = bytes;
    for _ in 0..gathered {
        let Some(len) = connection.outbox.every().next().map(|(entry, _)| entry.len as usize) else { return };
        if *left == 0 {
            return;
        }
        let (tick, after) = rest.split_at(len);
        connection.outbox.set_partial(&tick[(*left).min(len)..]);
        connection.outbox.pop_every();
        sent.frames[format] += 1;
        sent.ticks[format] += 1;
        *left = left.saturating_sub(len);
        rest = after;
    }
}
