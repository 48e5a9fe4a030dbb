//! Writing: one attempt per touched session, and catching up of those whose socket was full.
//!
//! In: outboxes. Out: bytes. Promise: one `write` for all that a session has; what the kernel refuses becomes the rest of the
//! frame already begun plus one mark per key; a session behind is resumed by its own task when its socket is writable, so
//! it costs the others nothing.

use super::{Batches, Connection, Eviction, Inner, NewestTable, Sent, Worker, YIELD_AFTER, YIELD_WRITES};
use crate::engine::batch::FrameKey;
use crate::engine::queue::TickReceiver;
use crate::engine::transport::Transport;
use crate::model::{Format, Micros, SessionId};
use crate::outbox::Span;
use crate::wire::{frame, msgpack};
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// Bytes gathered for one write of a session that is catching up.
const RESUME_CHUNK_BYTES: usize = 64 << 10;
/// A scratch buffer that grew beyond this is given back after the flush.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;
/// Ticks of one MessagePack frame, bytes.
const FRAME_TICKS_BYTES_MAX: usize = msgpack::FRAME_BYTES_MAX - msgpack::FRAME_HEAD_BYTES_MAX;

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
        let (mut left, complete_before) = {
            let inner = self.inner.borrow();
            (inner.touched.len(), inner.batches.next())
        };
        while left > 0 {
            let slice = Instant::now();
            {
                let mut inner = self.inner.borrow_mut();
                let mut writes = 0;
                while left > 0 && writes < YIELD_WRITES {
                    left -= 1;
                    writes += 1;
                    let Some(slot) = inner.touched.pop_front() else { break };
                    if let Some(connection) = inner.slots[slot as usize].connection.as_mut() {
                        connection.touched = false;
                        self.write(&mut inner, slot);
                    }
                    if writes % 16 == 0 && slice.elapsed() > YIELD_AFTER {
                        break;
                    }
                }
            }
            if left > 0 {
                tokio::task::yield_now().await;
                self.take_up(ticks);
            }
        }
        let now = Instant::now();
        let mut inner = self.inner.borrow_mut();
        let done = (complete_before - inner.batches.first) as usize;
        for batch in inner.batches.held.iter().take(done).filter(|b| b.workers != 0) {
            self.metrics.broadcast_latency.record(now.saturating_duration_since(batch.read_at).as_secs_f64());
        }
        inner.batches.release(complete_before);
        if inner.scratch.capacity() > SCRATCH_BYTES_KEPT {
            inner.scratch = Vec::new();
        }
        self.tell_counters(&mut inner.sent);
    }

    fn tell_counters(&self, sent: &mut Sent) {
        for format in Format::ALL.map(|f| f as usize) {
            if sent.frames[format] > 0 {
                self.metrics.ticks_sent[format].increment(sent.ticks[format]);
                self.metrics.frames_sent[format].increment(sent.frames[format]);
                self.metrics.bytes_sent[format].increment(sent.bytes[format]);
            }
        }
        if sent.merged > 0 {
            self.metrics.merged_session.increment(sent.merged);
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
        match write_all(connection, batches, newest, scratch, sent, *t_send) {
            Ok(()) => {}
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

    async fn resume_when_writable(self: Rc<Self>, id: SessionId, transport: Rc<Transport>) {
        loop {
            let ready = transport.writable().await;
            let mut inner = self.inner.borrow_mut();
            let Inner { slots, newest, scratch, sent, t_send, .. } = &mut *inner;
            *t_send = (*t_send).max(Micros::now());
            let slot = &mut slots[id.slot as usize];
            let Some(connection) = slot.connection.as_mut().filter(|_| slot.generation == id.generation) else {
                return;
            };
            match ready.and_then(|()| catch_up(connection, newest, scratch, sent, *t_send)) {
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
    batches: &Batches,
    newest: &mut NewestTable,
    scratch: &mut Vec<u8>,
    sent: &mut Sent,
    t_send: Micros,
) -> io::Result<()> {
    let spans = connection.outbox.take_spans();
    let slab = |span: &Span| &batches.get(span.batch).slab[span.start as usize..span.end as usize];
    let mut framed = Framed::default();
    let bytes = match connection.format {
        // The whole run lies in the shared slab: no copy at all.
        Format::Json if spans.len() == 1 && connection.outbox.control_is_empty() => slab(&spans[0]),
        format => {
            scratch.clear();
            connection.outbox.control().for_each(|frame| scratch.extend_from_slice(frame));
            match format {
                Format::Json => spans.iter().for_each(|span| scratch.extend_from_slice(slab(span))),
                Format::MsgPack => framed = frame_spans(&spans, batches, scratch, t_send),
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
            sent.frames[format] += if connection.format == Format::Json { ticks } else { framed.ends.len() as u64 };
            while connection.outbox.pop_control().is_some() {
                sent.frames[format] += 1;
            }
            return Ok(());
        }
        Written::Refused(n) => n,
    };
    sent.bytes[format] += left as u64;
    connection.outbox.fall_behind(Instant::now());
    let mut begun = 0;
    if connection.format == Format::MsgPack {
        begun = begin_framed(connection, &framed, scratch, left, sent);
    }
    take_control(connection, &mut left, sent);
    for frame in spans.iter().flat_map(|span| {
        batches.get(span.batch).frames_within(span.start, span.end).iter().map(move |f| (span.batch, f))
    }) {
        let (batch, frame) = frame;
        let frame_bytes = batches.get(batch).bytes(frame);
        if connection.format == Format::MsgPack && begun > 0 {
            begun -= 1;
        } else if connection.format == Format::Json && left > 0 {
            connection.outbox.set_partial(&frame_bytes[left.min(frame_bytes.len())..]);
            left = left.saturating_sub(frame_bytes.len());
            sent.ticks[format] += 1;
            sent.frames[format] += 1;
        } else if connection.outbox.mark(frame.key, frame.seq) {
            newest.hold(frame.key, frame.seq, frame_bytes);
        } else {
            newest.renew(frame.key, frame.seq, frame_bytes);
            sent.merged += 1;
        }
    }
    Ok(())
}

/// Where MessagePack frames stand in the scratch buffer.
#[derive(Default)]
struct Framed {
    /// First byte of the first frame.
    start: usize,
    /// Per frame: one past its last byte, and how many ticks it and those before it hold.
    ends: Vec<(usize, usize)>,
}

/// Appends MessagePack frames for `spans`: one per run of live ticks or of snapshots, split before it grows too large.
fn frame_spans(spans: &[Span], batches: &Batches, out: &mut Vec<u8>, t_send: Micros) -> Framed {
    let mut framed = Framed { start: out.len(), ends: Vec::new() };
    let (mut at, mut ticks) = (0, 0);
    while at < spans.len() {
        let kind = batches.get(spans[at].batch).snapshots;
        let run = spans[at..].iter().take_while(|span| batches.get(span.batch).snapshots == kind).count();
        let mut pieces: Vec<&[u8]> = Vec::new();
        let (mut bytes, mut count) = (0, 0);
        let mut close = |pieces: &mut Vec<&[u8]>, bytes: &mut usize, count: &mut usize| {
            if *count > 0 {
                ticks += *count;
                one_frame(out, kind, t_send, *count, *bytes, pieces);
                framed.ends.push((out.len(), ticks));
            }
            pieces.clear();
            (*bytes, *count) = (0, 0);
        };
        for span in &spans[at..at + run] {
            let batch = batches.get(span.batch);
            let len = (span.end - span.start) as usize;
            if bytes + len <= FRAME_TICKS_BYTES_MAX {
                pieces.push(&batch.slab[span.start as usize..span.end as usize]);
                (bytes, count) = (bytes + len, count + span.frames as usize);
                continue;
            }
            for tick in batch.frames_within(span.start, span.end) {
                let piece = batch.bytes(tick);
                if bytes + piece.len() > FRAME_TICKS_BYTES_MAX {
                    close(&mut pieces, &mut bytes, &mut count);
                }
                pieces.push(piece);
                (bytes, count) = (bytes + piece.len(), count + 1);
            }
        }
        close(&mut pieces, &mut bytes, &mut count);
        at += run;
    }
    framed
}

/// Appends one binary frame of `count` ticks whose arrays, `bytes` long together, are `pieces`.
fn one_frame(out: &mut Vec<u8>, snapshots: bool, t_send: Micros, count: usize, bytes: usize, pieces: &[&[u8]]) {
    let mut head = Vec::with_capacity(msgpack::FRAME_HEAD_BYTES_MAX);
    let kind = if snapshots { msgpack::SNAPSHOTS } else { msgpack::TICKS };
    msgpack::frame_head(&mut head, kind, t_send, count);
    let (header, len) = frame::header(frame::Opcode::Binary, head.len() + bytes);
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(&head);
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
}

/// After the kernel took `taken` bytes of `scratch`: keeps the rest of a MessagePack frame that was begun, and returns how many ticks are
/// thereby sent.
fn begin_framed(connection: &mut Connection, framed: &Framed, scratch: &[u8], taken: usize, sent: &mut Sent) -> usize {
    let format = connection.format as usize;
    let mut start = framed.start;
    let mut ticks = 0;
    for &(end, ticks_so_far) in &framed.ends {
        if taken <= start {
            break;
        }
        connection.outbox.set_partial(&scratch[taken.min(end)..end]);
        sent.frames[format] += 1;
        ticks = ticks_so_far;
        start = end;
    }
    sent.ticks[format] += ticks as u64;
    ticks
}

/// Writes the rest of the frame begun, then control frames, then the newest tick of each marked key. True when nothing is left.
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
        let ticks_start = scratch.len();
        let marked = gather_marked(connection, newest, scratch, t_send);
        if scratch.is_empty() {
            return Ok(true);
        }
        let mut left = match write_once(&connection.transport, scratch)? {
            Written::All => scratch.len(),
            Written::Refused(n) => n,
        };
        sent.bytes[format] += left as u64;
        let refused = left < scratch.len();
        if left > 0 {
            connection.outbox.progressed(Instant::now());
        }
        take_control(connection, &mut left, sent);
        if connection.format == Format::MsgPack && !marked.is_empty() {
            settle_framed(connection, newest, marked, (left, scratch.len() - ticks_start), scratch, sent);
        } else {
            settle_marked(connection, newest, marked, left, sent);
        }
        if refused {
            return Ok(false);
        }
    }
}

/// Appends the newest tick of marked keys to `scratch`, as long as it is short and all control frames are in it.
fn gather_marked(
    connection: &mut Connection,
    newest: &NewestTable,
    scratch: &mut Vec<u8>,
    t_send: Micros,
) -> Vec<FrameKey> {
    let mut marked = Vec::new();
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut len = scratch.len();
    while len < RESUME_CHUNK_BYTES
        && let Some(key) = connection.outbox.next_mark()
    {
        let bytes = &newest.kept.get(&key).expect("a marked key is kept").bytes;
        len += bytes.len();
        pieces.push(bytes);
        marked.push(key);
    }
    match connection.format {
        Format::Json => pieces.iter().for_each(|piece| scratch.extend_from_slice(piece)),
        Format::MsgPack if pieces.is_empty() => {}
        Format::MsgPack => {
            let bytes = pieces.iter().map(|piece| piece.len()).sum();
            one_frame(scratch, false, t_send, pieces.len(), bytes, &pieces);
        }
    }
    marked
}

/// The same for MessagePack, whose marked ticks make one frame, `len` bytes long at the end of `scratch`: begun, all of them are sent.
fn settle_framed(
    connection: &mut Connection,
    newest: &mut NewestTable,
    marked: Vec<FrameKey>,
    (left, len): (usize, usize),
    scratch: &[u8],
    sent: &mut Sent,
) {
    if left == 0 {
        for key in marked.into_iter().rev() {
            let seq = newest.kept.get(&key).expect("a marked key is kept until it is settled").seq;
            connection.outbox.return_mark(key, seq);
        }
        return;
    }
    connection.outbox.set_partial(&scratch[scratch.len() - (len - left)..]);
    sent.frames[connection.format as usize] += 1;
    sent.ticks[connection.format as usize] += marked.len() as u64;
    marked.into_iter().for_each(|key| newest.release(key));
}

/// After a write took `left` bytes of the marked frames: forgets the sent ones, keeps the rest of the one begun, marks the others again.
fn settle_marked(
    connection: &mut Connection,
    newest: &mut NewestTable,
    marked: Vec<FrameKey>,
    mut left: usize,
    sent: &mut Sent,
) {
    let format = connection.format as usize;
    let mut unsent = Vec::new();
    for key in marked {
        let kept = newest.kept.get(&key).expect("a marked key is kept until it is settled");
        if left == 0 {
            unsent.push((key, kept.seq));
            continue;
        }
        connection.outbox.set_partial(&kept.bytes[left.min(kept.bytes.len())..]);
        left = left.saturating_sub(kept.bytes.len());
        sent.ticks[format] += 1;
        sent.frames[format] += 1;
        newest.release(key);
    }
    for (key, seq) in unsent.into_iter().rev() {
        connection.outbox.return_mark(key, seq);
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
            // After a short write tokio knows that the socket is full: the next try returns without a system call.
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Refused(written)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Written::All)
}
