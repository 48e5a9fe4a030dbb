//! Writing: one attempt per touched session, and catching up of those whose socket was full.
//!
//! In: outboxes. Out: bytes. Promise: one `write` for all that a session has; what the kernel refuses becomes the rest of the
//! frame already begun plus one mark per key; a session behind is resumed by its own task when its socket is writable, so
//! it costs the others nothing.

mod lossless;
mod packed;

use super::held::HeldBatch;
use super::{Batches, Connection, Eviction, Inner, NewestTable, Sent, Worker, YIELD_AFTER, YIELD_WRITES};
use crate::engine::batch::{Frame, FrameKey, Kind};
use crate::engine::queue::TickReceiver;
use crate::engine::transport::Transport;
use crate::model::{Format, Micros, SessionId};
use crate::outbox::{Mark, Span};
use crate::policy::slow_consumer::{self, Verdict};
use packed::Packed;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// Bytes gathered for one write of a session that is catching up.
const RESUME_CHUNK_BYTES: usize = 64 << 10;
/// A scratch buffer that grew beyond this is given back after the flush.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;

/// Marks taken out of an outbox for one write attempt.
type Marked = Vec<(FrameKey, Mark)>;

/// What became of one write attempt.
enum Written {
    All,
    /// The kernel took this many bytes and refused the rest.
    Refused(usize),
}

impl Worker {
    /// Writes every session touched before the pass began once. Yields to the reactor now and then and takes up new batches
    /// meanwhile, so that sessions later in the pass get them with the same write.
    pub async fn flush_pass(self: &Rc<Self>, ticks: &mut TickReceiver) {
        let (mut pass, complete_before) = {
            let inner = self.inner.borrow();
            (inner.touched.begin(), inner.batches.next())
        };
        while !pass.is_done() {
            let slice = Instant::now();
            {
                let mut inner = self.inner.borrow_mut();
                let mut writes = 0;
                while writes < YIELD_WRITES
                    && let Some(slot) = inner.touched.next(&mut pass)
                {
                    writes += 1;
                    if let Some(connection) = inner.slots[slot as usize].connection.as_mut() {
                        connection.touched = false;
                        self.write(&mut inner, slot);
                    }
                    if writes % 16 == 0 && slice.elapsed() > YIELD_AFTER {
                        break;
                    }
                }
            }
            if !pass.is_done() {
                tokio::task::yield_now().await;
                self.take_up(ticks);
            }
        }
        let now = Instant::now();
        let mut inner = self.inner.borrow_mut();
        let done = (complete_before - inner.batches.first) as usize;
        for HeldBatch { batch, queued_at } in inner.batches.held.iter().take(done) {
            if batch.kind == Kind::Live {
                self.metrics.written(batch.read_at, batch.encoded_at, *queued_at, now);
            }
        }
        self.let_go(&mut inner, complete_before, now);
        if inner.scratch.capacity() > SCRATCH_BYTES_KEPT {
            inner.scratch = Vec::new();
        }
        self.tell_counters(&mut inner.sent);
    }

    pub(super) fn tell_counters(&self, sent: &mut Sent) {
        for format in Format::ALL.map(|f| f as usize) {
            if sent.bytes[format] > 0 {
                self.metrics.ticks_sent[format].increment(sent.ticks[format]);
                self.metrics.frames_sent[format].increment(sent.frames[format]);
                self.metrics.bytes_sent[format].increment(sent.bytes[format]);
            }
        }
        if sent.merged > 0 {
            self.metrics.merged_session.increment(sent.merged);
        }
        if sent.merged_by_rate > 0 {
            self.metrics.merged_rate.increment(sent.merged_by_rate);
        }
        *sent = Sent::default();
    }

    /// One attempt to write all that a session has; a session behind is left to its own task.
    pub(super) fn write(self: &Rc<Self>, inner: &mut Inner, slot: u32) {
        let Inner { slots, batches, newest, scratch, sent, t_send, .. } = inner;
        let generation = slots[slot as usize].generation;
        let Some(connection) = slots[slot as usize].connection.as_mut() else { return };
        if connection.outbox.is_behind()
            || (connection.outbox.control_is_empty() && connection.outbox.spans().is_empty())
        {
            return;
        }
        if connection.format == Format::MsgPack {
            *t_send = (*t_send).max(Micros::now());
        }
        let rules = (self.config.lossless, *t_send);
        let before = sent.of(connection.format);
        let written = write_all(connection, slot, batches, newest, scratch, sent, rules);
        connection.tally(before, sent);
        match written {
            Ok(Verdict::Keep) => {}
            Ok(Verdict::Full | Verdict::Stalled) => return self.evict(inner, slot, Eviction::Overflow),
            Err(error) => {
                tracing::debug!(%error, "socket write failed");
                connection.transport.shutdown();
                return self.evict(inner, slot, Eviction::Gone);
            }
        }
        if connection.outbox.is_behind() && !std::mem::replace(&mut connection.resuming, true) {
            let id = SessionId { worker: self.config.id, slot, generation };
            let transport = Rc::clone(&connection.transport);
            tokio::task::spawn_local(Rc::clone(self).resume_when_writable(id, transport));
        }
    }

    pub(super) async fn resume_when_writable(self: Rc<Self>, id: SessionId, transport: Rc<Transport>) {
        loop {
            let ready = transport.writable().await;
            let mut inner = self.inner.borrow_mut();
            let Inner { slots, newest, scratch, sent, t_send, .. } = &mut *inner;
            *t_send = (*t_send).max(Micros::now());
            let slot = &mut slots[id.slot as usize];
            let Some(connection) = slot.connection.as_mut().filter(|_| slot.generation == id.generation) else {
                return;
            };
            let before = sent.of(connection.format);
            let caught_up = ready.and_then(|()| catch_up(connection, newest, scratch, sent, *t_send));
            connection.tally(before, sent);
            match caught_up {
                Ok(true) => {
                    connection.resuming = false;
                    if let Some(since) = connection.outbox.catch_up() {
                        self.metrics.delivery_delay.record(since.elapsed().as_secs_f64());
                    }
                    return self.tell_counters(sent);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, "socket write failed");
                    connection.transport.shutdown();
                    return self.evict(&mut inner, id.slot, Eviction::Gone);
                }
            }
        }
    }
}

/// Writes control frames and spans of a session that is not behind; on refusal it falls behind.
fn write_all(
    connection: &mut Connection,
    slot: u32,
    batches: &Batches,
    newest: &mut NewestTable,
    scratch: &mut Vec<u8>,
    sent: &mut Sent,
    (lossless, t_send): (slow_consumer::Config, Micros),
) -> io::Result<Verdict> {
    let spans = connection.outbox.take_spans();
    let slab = |span: &Span| &batches.get(span.batch).slab[span.start as usize..span.end as usize];
    let mut packed = Packed::default();
    let bytes = match connection.format {
        // The whole run lies in the shared slab: no copy at all.
        Format::Json if spans.len() == 1 && connection.outbox.control_is_empty() => slab(&spans[0]),
        format => {
            scratch.clear();
            connection.outbox.control().for_each(|frame| scratch.extend_from_slice(frame));
            match format {
                Format::Json => spans.iter().for_each(|span| scratch.extend_from_slice(slab(span))),
                Format::MsgPack => {
                    let dressed = connection.lanes.as_ref().map_or(&[][..], |lanes| &lanes.dressed);
                    packed = packed::pack(&spans, batches, dressed, scratch, t_send);
                }
            }
            scratch.as_slice()
        }
    };
    let written = write_once(&connection.transport, bytes)?;
    let format = connection.format as usize;
    let mut left = match written {
        Written::All => {
            sent.bytes[format] += bytes.len() as u64;
            let ticks: u64 = spans.iter().map(|s| u64::from(s.frames)).sum();
            sent.ticks[format] += ticks;
            sent.frames[format] += if connection.format == Format::Json { ticks } else { packed.len() as u64 };
            while connection.outbox.pop_control().is_some() {
                sent.frames[format] += 1;
            }
            connection.outbox.reuse_spans(spans);
            connection.forget_dressed();
            return Ok(Verdict::Keep);
        }
        Written::Refused(n) => n,
    };
    sent.bytes[format] += left as u64;
    connection.outbox.fall_behind(Instant::now());
    let taken = left;
    // Control frames stand first: what is left over of ticks must not be taken for the rest of one.
    take_control(connection, &mut left, sent);
    // Ticks that stand in MessagePack frames the kernel took at least a byte of.
    let mut begun = packed.begin(connection, scratch, taken, sent);
    for span in &spans {
        let batch = batches.get(span.batch);
        for frame in batch.frames_within(span.start, span.end) {
            let frame_bytes = batch.bytes(frame);
            if begun > 0 {
                begun -= 1;
            } else if left > 0 && connection.format == Format::Json {
                connection.outbox.set_partial(&frame_bytes[left.min(frame_bytes.len())..]);
                left = left.saturating_sub(frame_bytes.len());
                sent.ticks[format] += 1;
                sent.frames[format] += 1;
            } else if connection.takes_every(frame.key) {
                let snapshot = batch.kind == Kind::Snapshots;
                let verdict = connection.outbox.push_every(frame.key, frame_bytes, snapshot, lossless);
                if verdict != Verdict::Keep {
                    return Ok(verdict);
                }
            } else if batch.kind == Kind::Snapshots {
                connection.outbox.mark_snapshot(frame.key, frame_bytes);
            } else {
                mark(connection, slot, frame, frame_bytes, newest, sent);
            }
        }
    }
    connection.forget_dressed();
    Ok(Verdict::Keep)
}

/// A tick that the kernel refused becomes a mark.
fn mark(
    connection: &mut Connection,
    slot: u32,
    frame: &Frame,
    bytes: &[u8],
    newest: &mut NewestTable,
    sent: &mut Sent,
) {
    if connection.outbox.mark(frame.key) {
        newest.hold(frame.key, frame.seq, bytes);
    } else {
        newest.renew(frame.key, frame.seq, bytes);
        connection.merged_one(sent);
    }
    // Only now: what is held is newer, and its bytes must stay.
    connection.join_mark(slot, (frame.key, frame.seq), bytes, newest, sent);
}

/// Writes the rest of the frame begun, then control frames, then ticks that may not be merged, then the newest tick of each marked key.
/// True when nothing is left.
fn catch_up(
    connection: &mut Connection,
    newest: &mut NewestTable,
    scratch: &mut Vec<u8>,
    sent: &mut Sent,
    t_send: Micros,
) -> io::Result<bool> {
    let format = connection.format as usize;
    loop {
        while !connection.outbox.partial().is_empty() {
            let written = write_once(&connection.transport, connection.outbox.partial())?;
            let n = match written {
                Written::All => connection.outbox.partial().len(),
                Written::Refused(n) => n,
            };
            sent.bytes[format] += n as u64;
            connection.outbox.advance_partial(n);
            if n > 0 {
                connection.outbox.progressed(Instant::now());
            }
            if !connection.outbox.partial().is_empty() {
                return Ok(false);
            }
        }
        scratch.clear();
        for frame in connection.outbox.control() {
            scratch.extend_from_slice(frame);
            if scratch.len() >= RESUME_CHUNK_BYTES {
                break;
            }
        }
        let every_start = scratch.len();
        let every = lossless::gather(connection, scratch, t_send);
        let ticks_start = scratch.len();
        let marked = match lossless::is_last(connection, every) {
            true => gather_marked(connection, newest, scratch, t_send),
            false => Marked::new(),
        };
        if scratch.is_empty() {
            return Ok(true);
        }
        let mut left = match write_once(&connection.transport, scratch) {
            Ok(Written::All) => scratch.len(),
            Ok(Written::Refused(n)) => n,
            Err(error) => {
                // The marks go back, for whoever ends the session gives the worker's copies free by them.
                settle_marked(connection, newest, marked, 0, sent);
                return Err(error);
            }
        };
        sent.bytes[format] += left as u64;
        let refused = left < scratch.len();
        if left > 0 {
            connection.outbox.progressed(Instant::now());
        }
        take_control(connection, &mut left, sent);
        lossless::settle(connection, every, &scratch[every_start..ticks_start], &mut left, sent);
        match connection.format {
            Format::Json => settle_marked(connection, newest, marked, left, sent),
            Format::MsgPack => {
                let part = (left, scratch.len() - ticks_start);
                settle_packed(connection, newest, marked, part, scratch, sent);
            }
        }
        if refused {
            return Ok(false);
        }
    }
}

/// Appends the newest tick of marked keys to `scratch`, as long as it is short and all control frames are in it.
fn gather_marked(connection: &mut Connection, newest: &NewestTable, scratch: &mut Vec<u8>, t_send: Micros) -> Marked {
    let mut marked: Marked = Vec::new();
    let mut len = scratch.len();
    while len < RESUME_CHUNK_BYTES
        && let Some((key, mark)) = connection.outbox.next_mark()
    {
        let is_snapshot = |mark: &Mark| matches!(mark, Mark::Own(_));
        let mixed = marked.last().is_some_and(|(_, last)| is_snapshot(last) != is_snapshot(&mark));
        if connection.format == Format::MsgPack && mixed {
            // One frame holds live ticks or snapshots.
            connection.outbox.return_mark(key, mark);
            break;
        }
        len += newest.due(key, &mark).len();
        marked.push((key, mark));
    }
    let dressed: Vec<Option<Vec<u8>>> = match &connection.lanes {
        Some(lanes) => marked.iter().map(|(key, mark)| lanes.dress(*key, mark, newest)).collect(),
        None => Vec::new(),
    };
    let own = |n: usize| dressed.get(n).and_then(Option::as_deref);
    let pieces = marked.iter().enumerate().map(|(n, (key, mark))| own(n).unwrap_or_else(|| newest.due(*key, mark)));
    let pieces: Vec<&[u8]> = pieces.collect();
    match connection.format {
        Format::Json => pieces.iter().for_each(|piece| scratch.extend_from_slice(piece)),
        Format::MsgPack if pieces.is_empty() => {}
        Format::MsgPack => {
            let snapshots = matches!(marked[0].1, Mark::Own(_));
            packed::one_frame(scratch, snapshots, t_send, pieces.len(), &pieces);
        }
    }
    marked
}

/// The same as [`settle_marked`] for MessagePack, whose marked ticks make one frame, the last `len` bytes of `scratch`: begun, all of
/// them are sent.
fn settle_packed(
    connection: &mut Connection,
    newest: &mut NewestTable,
    marked: Marked,
    (left, len): (usize, usize),
    scratch: &[u8],
    sent: &mut Sent,
) {
    if left == 0 || marked.is_empty() {
        return settle_marked(connection, newest, marked, 0, sent);
    }
    connection.outbox.set_partial(&scratch[scratch.len() - (len - left)..]);
    sent.frames[connection.format as usize] += 1;
    sent.ticks[connection.format as usize] += marked.len() as u64;
    for (key, mark) in marked {
        connection.mark_sent(key, newest);
        if mark == Mark::Tick {
            newest.release(key);
        }
    }
}

/// After a write took `left` bytes of the marked frames: forgets the sent ones, keeps the rest of the one begun, marks the others again.
fn settle_marked(
    connection: &mut Connection,
    newest: &mut NewestTable,
    marked: Marked,
    mut left: usize,
    sent: &mut Sent,
) {
    let format = connection.format as usize;
    let mut unsent = Vec::new();
    for (key, mark) in marked {
        if left == 0 {
            unsent.push((key, mark));
            continue;
        }
        let bytes = newest.due(key, &mark);
        connection.outbox.set_partial(&bytes[left.min(bytes.len())..]);
        left = left.saturating_sub(bytes.len());
        sent.ticks[format] += 1;
        sent.frames[format] += 1;
        connection.mark_sent(key, newest);
        if mark == Mark::Tick {
            newest.release(key);
        }
    }
    for (key, mark) in unsent.into_iter().rev() {
        connection.outbox.return_mark(key, mark);
    }
}

/// After a write took `left` bytes: removes the control frames that went out whole, and begins the one that went out in part.
fn take_control(connection: &mut Connection, left: &mut usize, sent: &mut Sent) {
    while *left > 0
        && let Some(frame) = connection.outbox.pop_control()
    {
        sent.frames[connection.format as usize] += 1;
        connection.outbox.set_partial(&frame[(*left).min(frame.len())..]);
        *left = left.saturating_sub(frame.len());
    }
}

fn write_once(transport: &Transport, bytes: &[u8]) -> io::Result<Written> {
    let mut written = 0;
    while written < bytes.len() {
        match transport.try_write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Refused(written)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Written::All)
}
