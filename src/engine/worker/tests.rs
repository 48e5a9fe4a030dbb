//! Delivery, order, conflation, eviction and memory of one worker, on real sockets.

use super::*;
use crate::engine::queue::{TickSender, tick_queue};
use crate::model::{BrokerId, Level, Micros, Mode, StreamId};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{TcpListener as StdListener, TcpStream as StdStream};

/// A frame body that says whose tick it is: `stream seq` and padding, in a real text frame.
fn frame_bytes(stream: u32, seq: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let body = format!("{stream} {seq} {}", "x".repeat(len));
    crate::wire::frame::write(&mut out, crate::wire::frame::Opcode::Text, body.as_bytes());
    out
}

fn key(stream: u32) -> FrameKey {
    FrameKey::new(StreamId(stream), Mode::Ltp, Format::Json, BrokerId(0))
}

fn batch(ticks: &[(u32, u64)], len: usize) -> Arc<EncodedBatch> {
    let mut batch = EncodedBatch::new(Micros(0), Instant::now());
    for &(stream, seq) in ticks {
        batch.push(key(stream), seq, 1, |slab| slab.extend_from_slice(&frame_bytes(stream, seq, len)));
    }
    Arc::new(batch)
}

/// Above anything a test queues but the one that is about it.
const OUTBOX_TOTAL: usize = 100 << 10;

/// A worker with small socket buffers on the server's side, so that a few kilobytes make a session fall behind.
struct Bench {
    worker: Rc<Worker>,
    listener: StdListener,
    ticks: TickSender,
}

struct Peer {
    id: SessionId,
    far: StdStream,
    buffer: Vec<u8>,
}

impl Bench {
    /// Runs `test` beside the delivery loop, in a `LocalSet`.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let config = WorkerConfig {
                id: WorkerId(0),
                flush_max_delay: Duration::from_millis(1),
                outbox_bytes_total: OUTBOX_TOTAL,
                workers: 1,
                lossless: slow_consumer::Config { bytes_max: 64 << 10, stall_max: Duration::from_secs(10) },
            };
            let worker = Worker::new(config, EngineMetrics::register(), Arc::default(), Arc::default());
            let (ticks, rx) = tick_queue(16 << 20, Arc::new(Notify::new()));
            tokio::task::spawn_local(Rc::clone(&worker).run(rx));
            test(Bench { worker, listener: StdListener::bind("127.0.0.1:0").unwrap(), ticks }).await;
        });
    }

    async fn connect(&self) -> Peer {
        let far = StdStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (near, _) = self.listener.accept().unwrap();
        socket2::SockRef::from(&near).set_send_buffer_size(8 << 10).unwrap();
        far.set_nonblocking(true).unwrap();
        let near = Rc::new(Transport::plain(near).unwrap());
        near.writable().await.unwrap();
        let id = self.worker.open(near, Format::Json);
        Peer { id, far, buffer: Vec::new() }
    }

    fn take(&self, peer: &Peer, streams: &[u32]) {
        let ack = Bytes::from(frame_bytes(0, 0, 0));
        self.worker.activate(peer.id, Some(ack), streams, |s| Activate {
            key: key(*s),
            floor: 0,
            snapshot: None,
            terms: Terms::default(),
        });
    }

    fn is_behind(&self, peer: &Peer) -> bool {
        self.worker.inner.borrow_mut().connection(peer.id).unwrap().outbox.is_behind()
    }

    /// Waits until the worker has delivered all that was pushed, without a clock: its loop only needs turns.
    async fn until(&self, mut done: impl FnMut() -> bool) {
        while !done() {
            tokio::task::yield_now().await;
        }
    }
}

impl Peer {
    /// Reads what has arrived; whole frames as (stream, seq).
    fn read(&mut self) -> Vec<(u32, u64)> {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = self.far.read(&mut chunk) {
            self.buffer.extend_from_slice(&chunk[..n]);
        }
        let mut seen = Vec::new();
        loop {
            let (head, len) = match self.buffer.as_slice() {
                [_, len @ 0..=125, ..] => (2, usize::from(*len)),
                [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
                _ => return seen,
            };
            if self.buffer.len() < head + len {
                return seen;
            }
            let body: Vec<u8> = self.buffer.drain(..head + len).skip(head).collect();
            let text = String::from_utf8(body).expect("a whole frame, not one cut and glued");
            let mut words = text.split(' ');
            let mut word = || words.next().unwrap().parse().unwrap();
            seen.push((word() as u32, word()));
        }
    }

    /// Reads until `done` says so.
    async fn read_until(&mut self, mut done: impl FnMut(&[(u32, u64)]) -> bool) -> Vec<(u32, u64)> {
        let mut seen = Vec::new();
        while !done(&seen) {
            tokio::task::yield_now().await;
            seen.extend(self.read());
        }
        seen
    }
}

#[test]
fn ticks_arrive_in_order_behind_the_acknowledgement() {
    Bench::run(|mut bench| async move {
        let mut peer = bench.connect().await;
        bench.take(&peer, &[1, 2]);
        for seq in 1..=20 {
            bench.ticks.push(&batch(&[(1, seq), (9, seq), (2, seq)], 10), 1);
        }
        let seen = peer.read_until(|seen| seen.len() >= 41).await;
        let want: Vec<_> = std::iter::once((0, 0)).chain((1..=20).flat_map(|seq| [(1, seq), (2, seq)])).collect();
        assert_eq!(seen, want);
    });
}

#[test]
fn a_session_that_stops_reading_delays_nobody_and_gets_the_newest_when_it_reads_again() {
    Bench::run(|mut bench| async move {
        let mut healthy = bench.connect().await;
        let mut stalled = bench.connect().await;
        bench.take(&healthy, &[1, 2, 3]);
        bench.take(&stalled, &[1, 2, 3]);
        healthy.read_until(|seen| seen == [(0, 0)]).await;
        let mut last = 0;
        // Far more than both kernel buffers hold.
        for seq in 1..=6000 {
            bench.ticks.push(&batch(&[(1, seq), (2, seq), (3, seq)], 600), 1);
            let seen = healthy.read_until(|seen| seen.contains(&(3, seq))).await;
            assert_eq!(seen, [(1, seq), (2, seq), (3, seq)]);
            last = seq;
        }
        assert!(bench.is_behind(&stalled));
        {
            let inner = bench.worker.inner.borrow();
            assert_eq!(inner.newest.kept.len(), 3, "one copy a key, however many ticks were missed");
            assert!(inner.batches.held.is_empty(), "no slab outlives its flush");
        }
        let seen = stalled.read_until(|seen| [1, 2, 3].iter().all(|s| seen.contains(&(*s, last)))).await;
        let mut newest = BTreeMap::new();
        for (stream, seq) in seen {
            let before = newest.insert(stream, seq);
            assert!(before.is_none_or(|b| b < seq), "stream {stream} went from {before:?} to {seq}");
        }
        bench.until(|| !bench.is_behind(&stalled)).await;
        assert!(bench.worker.inner.borrow().newest.kept.is_empty());
    });
}

#[test]
fn control_frames_are_never_merged_and_go_before_ticks_when_the_socket_frees() {
    Bench::run(|mut bench| async move {
        let mut peer = bench.connect().await;
        bench.take(&peer, &[1]);
        let mut seq = 0;
        while !bench.is_behind(&peer) {
            seq += 1;
            bench.ticks.push(&batch(&[(1, seq)], 1000), 1);
            tokio::task::yield_now().await;
        }
        for n in 1..=5 {
            bench.worker.send(peer.id, frame_bytes(77, n, 0).into());
            seq += 1;
            bench.ticks.push(&batch(&[(1, seq)], 1000), 1);
        }
        let last = seq;
        let seen = peer.read_until(|seen| seen.contains(&(1, last))).await;
        let control: Vec<_> = seen.iter().filter(|(s, _)| *s == 77).map(|(_, n)| *n).collect();
        assert_eq!(control, [1, 2, 3, 4, 5]);
        let at = |tick| seen.iter().position(|t| *t == tick).unwrap();
        assert!(at((77, 5)) < at((1, last)), "the marked tick waits for the control lane");
    });
}

#[test]
fn no_tick_follows_a_deactivation_even_while_behind() {
    Bench::run(|mut bench| async move {
        let mut peer = bench.connect().await;
        bench.take(&peer, &[1, 2]);
        let mut seq = 0;
        while !bench.is_behind(&peer) {
            seq += 1;
            bench.ticks.push(&batch(&[(1, seq), (2, seq)], 1000), 1);
            tokio::task::yield_now().await;
        }
        let mut unwanted = Vec::new();
        bench.worker.deactivate(peer.id, &[key(1)], |key| unwanted.push(key));
        assert_eq!(unwanted, [key(1)]);
        bench.worker.send(peer.id, frame_bytes(77, 1, 0).into());
        seq += 1;
        bench.ticks.push(&batch(&[(1, seq), (2, seq)], 10), 1);
        let last = seq;
        let seen = peer.read_until(|seen| seen.contains(&(2, last))).await;
        let ack = seen.iter().position(|t| *t == (77, 1)).unwrap();
        assert!(seen[ack..].iter().all(|(stream, _)| *stream != 1), "{:?}", &seen[ack..]);
    });
}

#[test]
fn a_full_lossless_lane_evicts_the_session() {
    Bench::run(|bench| async move {
        let peer = bench.connect().await;
        for n in 0..1000 {
            bench.worker.send(peer.id, frame_bytes(77, n, 8000).into());
        }
        let (id, why) = bench.worker.next_eviction().await;
        assert_eq!((id, why), (peer.id, Eviction::Overflow));
        assert!(bench.worker.inner.borrow_mut().connection(peer.id).unwrap().outbox.bytes() <= (64 << 10) + 16_000);
    });
}

#[test]
fn a_message_for_a_closed_session_is_ignored_when_its_slot_has_a_new_owner() {
    Bench::run(|mut bench| async move {
        let old = bench.connect().await;
        bench.take(&old, &[1]);
        bench.worker.remove(old.id, |_| {});
        let mut new = bench.connect().await;
        assert_eq!((new.id.slot, new.id.generation), (old.id.slot, old.id.generation + 1));
        bench.worker.send(old.id, frame_bytes(66, 1, 0).into());
        bench.take(&old, &[5]);
        bench.take(&new, &[2]);
        bench.ticks.push(&batch(&[(1, 1), (5, 1), (2, 1)], 10), 1);
        let seen = new.read_until(|seen| seen.contains(&(2, 1))).await;
        assert_eq!(seen, [(0, 0), (2, 1)]);
        assert_eq!(bench.worker.len(), (1, 1));
    });
}

#[test]
fn a_snapshot_precedes_ticks_and_ticks_at_its_floor_are_skipped() {
    Bench::run(|mut bench| async move {
        let mut peer = bench.connect().await;
        let snapshot = || Some(frame_bytes(1, 7, 0));
        bench.worker.activate(peer.id, Some(frame_bytes(0, 0, 0).into()), [1], |s| Activate {
            key: key(s),
            floor: 7,
            snapshot: snapshot(),
            terms: Terms::default(),
        });
        bench.ticks.push(&batch(&[(1, 6), (1, 7), (1, 8)], 10), 1);
        let seen = peer.read_until(|seen| seen.contains(&(1, 8))).await;
        assert_eq!(seen, [(0, 0), (1, 7), (1, 8)]);
    });
}

#[test]
fn the_largest_outboxes_go_first_and_only_as_many_as_must() {
    Bench::run(|bench| async move {
        let peers = [bench.connect().await, bench.connect().await, bench.connect().await];
        for (peer, len) in peers.iter().zip([30_000, 60_000, 50_000]) {
            let mut inner = bench.worker.inner.borrow_mut();
            let outbox = &mut inner.connection(peer.id).unwrap().outbox;
            outbox.fall_behind(Instant::now());
            outbox.push_goodbye(vec![0; len].into());
        }
        for _ in 0..2 {
            bench.worker.sweep(Instant::now(), Duration::ZERO);
        }
        assert_eq!(bench.worker.next_eviction().await, (peers[1].id, Eviction::Shed));
        assert!(bench.worker.inner.borrow().evictions.is_empty(), "one was enough, though its bytes are still there");
    });
}

#[test]
fn the_low_class_is_shed_first_however_little_it_holds() {
    Bench::run(|bench| async move {
        let peers = [bench.connect().await, bench.connect().await];
        bench.worker.set_class(peers[0].id, Class::Low);
        for (peer, len) in peers.iter().zip([50_000, 60_000]) {
            let mut inner = bench.worker.inner.borrow_mut();
            let outbox = &mut inner.connection(peer.id).unwrap().outbox;
            outbox.fall_behind(Instant::now());
            outbox.push_goodbye(vec![0; len].into());
        }
        bench.worker.sweep(Instant::now(), Duration::ZERO);
        assert_eq!(bench.worker.next_eviction().await, (peers[0].id, Eviction::Shed));
        assert!(bench.worker.inner.borrow().evictions.is_empty());
    });
}

#[test]
fn a_lane_that_begins_to_fill_has_its_time_from_then_on() {
    Bench::run(|bench| async move {
        let peer = bench.connect().await;
        let long_ago = Instant::now().checked_sub(Duration::from_secs(9)).unwrap();
        bench.worker.inner.borrow_mut().connection(peer.id).unwrap().outbox.fall_behind(long_ago);
        bench.worker.send(peer.id, frame_bytes(77, 1, 0).into());
        bench.worker.sweep(Instant::now() + Duration::from_secs(5), Duration::ZERO);
        assert!(bench.worker.inner.borrow().evictions.is_empty());
        bench.worker.sweep(Instant::now() + Duration::from_secs(11), Duration::ZERO);
        assert_eq!(bench.worker.next_eviction().await, (peer.id, Eviction::Stalled));
    });
}

#[test]
fn a_stalled_lossless_lane_is_given_up() {
    Bench::run(|bench| async move {
        let peer = bench.connect().await;
        while !bench.is_behind(&peer) {
            bench.worker.send(peer.id, frame_bytes(77, 1, 4000).into());
        }
        // One more, so that something lossless waits behind the frame begun.
        bench.worker.send(peer.id, frame_bytes(77, 2, 0).into());
        bench.worker.sweep(Instant::now(), Duration::ZERO);
        bench.worker.sweep(Instant::now() + Duration::from_secs(11), Duration::ZERO);
        assert_eq!(bench.worker.next_eviction().await, (peer.id, Eviction::Stalled));
        assert!(bench.worker.stats().outbox_bytes.load(Ordering::Relaxed) > 0);
    });
}

#[test]
fn a_snapshot_for_one_session_reaches_no_other_that_is_behind_on_its_key() {
    Bench::run(|mut bench| async move {
        let (mut old, new) = (bench.connect().await, bench.connect().await);
        bench.take(&old, &[1]);
        let mut seq = 0;
        while !bench.is_behind(&old) {
            seq += 1;
            bench.ticks.push(&batch(&[(1, seq)], 1000), 1);
            tokio::task::yield_now().await;
        }
        seq += 1;
        bench.worker.deliver(batch(&[(1, seq)], 1000));
        bench.worker.inner.borrow_mut().connection(new.id).unwrap().outbox.fall_behind(Instant::now());
        // Ingest is further than this worker: the snapshot holds a tick that still stands in the worker's queue.
        bench.worker.activate(new.id, Some(frame_bytes(0, 0, 0).into()), [1], |s| Activate {
            key: key(s),
            floor: seq + 2,
            snapshot: Some(frame_bytes(1, seq + 2, 0)),
            terms: Terms::default(),
        });
        let seen = old.read_until(|seen| seen.contains(&(1, seq))).await;
        assert_eq!(seen.last(), Some(&(1, seq)), "the newest that the worker has seen, and not the other's snapshot");
    });
}

#[test]
fn a_write_that_fails_while_catching_up_leaves_no_copies_behind() {
    Bench::run(|bench| async move {
        let peer = bench.connect().await;
        bench.take(&peer, &[1, 2]);
        let transport = {
            let mut inner = bench.worker.inner.borrow_mut();
            let connection = inner.connection(peer.id).unwrap();
            connection.outbox.fall_behind(Instant::now());
            connection.resuming = true;
            Rc::clone(&connection.transport)
        };
        bench.worker.deliver(batch(&[(1, 1), (2, 1)], 10));
        assert_eq!(bench.worker.inner.borrow().newest.kept.len(), 2);
        transport.shutdown();
        Rc::clone(&bench.worker).resume_when_writable(peer.id, transport).await;
        assert_eq!(bench.worker.next_eviction().await, (peer.id, Eviction::Gone));
        bench.worker.remove(peer.id, |_| {});
        assert!(bench.worker.inner.borrow().newest.kept.is_empty());
    });
}

#[test]
fn overload_lengthens_the_rest_between_flushes_and_samples_say_how_the_worker_keeps_up() {
    Bench::run(async |mut bench| {
        let load = &bench.worker.stats().load;
        let peer = bench.connect().await;
        bench.take(&peer, &[1]);
        assert_eq!(load.take().delay, None, "an acknowledgement is no delivery");
        let late = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let mut old = EncodedBatch::new(Micros(0), late);
        old.push(key(1), 1, 1, |slab| slab.extend_from_slice(&frame_bytes(1, 1, 0)));
        bench.ticks.push(&Arc::new(old), 1);
        let mut seen = None;
        bench
            .until(|| {
                seen = seen.or(load.take().delay);
                seen.is_some()
            })
            .await;
        assert!(seen.is_some_and(|delay| delay >= Duration::from_secs(3)), "{seen:?}");
        bench.worker.sweep(Instant::now(), Duration::from_millis(7));
        assert_eq!((load.take().lag, load.take().in_hand), (Some(Duration::from_millis(7)), 0));
        for (level, ms) in [(Level::Paced, 4), (Level::Refusing, 4), (Level::Normal, 1)] {
            bench.worker.set_overload(level);
            assert_eq!(bench.worker.max_delay.get(), Duration::from_millis(ms), "{level:?}");
        }
    });
}
