//! The two halves of the tick path for benches to drive by hand, each on this thread: ingest with one source and one worker's queue,
//! and one worker with sessions on real loopback sockets.
#![allow(dead_code, reason = "each bench uses its part")]

use bytes::Bytes;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use serde_json::json;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickcast::bus::frames::BATCH;
use tickcast::bus::ingest::{Ingest, IngestConfig, IngestMetrics, WorkerEnd};
use tickcast::engine::encode::Tick;
use tickcast::engine::metrics::{EngineMetrics, STAGE_BUCKETS};
use tickcast::engine::normalise::{self, Unit};
use tickcast::engine::queue::{Control, TickReceiver, tick_queue};
use tickcast::engine::worker::Activate;
use tickcast::engine::{EncodedBatch, FrameKey, Transport, Worker, WorkerConfig};
use tickcast::model::{
    BrokerId, Brokers, ByteBudget, Encoding, FeedClock, Format, Heartbeats, InstrumentRef, Micros, Mode, ScopeId,
    SessionId, SourceMessage, SourceSender, StreamId, WorkerId, source_queue,
};
use tickcast::policy::conflation::Terms;
use tickcast::policy::slow_consumer;
use tickcast::shards::{self, Interest, Shards};
use tokio::sync::{Notify, mpsc};

/// Ticks of a batch.
pub(crate) const TICKS: u32 = 100;
/// Instruments they are of.
pub(crate) const SYMBOLS: u32 = 50;

/// A recorder like a server's: without edges a histogram would be a summary, and cost several times as much.
pub(crate) fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().set_buckets(STAGE_BUCKETS.1).expect("there are edges").build_recorder()
}

/// Metrics that go to one.
pub(crate) fn recorded() -> EngineMetrics {
    metrics::with_local_recorder(&recorder(), EngineMetrics::register)
}

fn symbol(n: u32) -> String {
    format!("SYMBOL{:02}", n % SYMBOLS)
}

/// The key of the `n`th instrument where there is no ingest to give it one.
pub(crate) fn key(n: u32, format: Format) -> FrameKey {
    FrameKey::new(StreamId(n % SYMBOLS), Mode::Ltp, format, BrokerId(0))
}

/// 100 LTP ticks of 50 instruments: symbol and JSON.
pub(crate) fn payloads() -> Vec<(String, String)> {
    let tick = |n| format!(r#"{{"ltp":{}.05,"timestamp":1761367200123,"ltt":1761367199000}}"#, 1000 + n);
    (0..TICKS).map(|n| (symbol(n), tick(n))).collect()
}

/// What ingest makes of them.
pub(crate) fn batch(round: u64, format: Format) -> Arc<EncodedBatch> {
    encoded(&payloads(), round, format)
}

/// Decodes and encodes these ticks.
pub(crate) fn encoded(payloads: &[(String, String)], round: u64, format: Format) -> Arc<EncodedBatch> {
    let mut batch = EncodedBatch::new(Micros::now(), Instant::now());
    for ((symbol, payload), n) in payloads.iter().zip(0..) {
        let unit = Unit { broker: None, venue: "NSE" };
        let decoded = normalise::decode(payload.as_bytes(), Encoding::Json, unit).expect("valid");
        let instrument = InstrumentRef { venue: "NSE", symbol };
        let tick =
            Tick { instrument, mode: Mode::Ltp, payload: &decoded, t_recv: Micros(0), scale: 2, pass_through: false };
        let key = key(n, format);
        batch.push(key, round, 1, |slab| {
            tick.encode(slab, key, round, "angel", false);
        });
    }
    Arc::new(batch)
}

/// The same as it comes from the bus, MessagePack in one BATCH.
pub(crate) fn bus_batch() -> Bytes {
    let item = |n: u32| {
        let ltp = f64::from(1000 + n) + 0.05;
        let tick = json!({"ltp": ltp, "timestamp": 1_761_367_200_123_u64, "ltt": 1_761_367_199_000_u64});
        json!([format!("NSE_{}_LTP", symbol(n)), tick])
    };
    rmp_serde::to_vec(&(0..TICKS).map(item).collect::<Vec<_>>()).expect("to memory").into()
}

/// Ingest, one source before it, and the queue of one worker behind it.
pub(crate) struct Feed {
    runtime: tokio::runtime::Runtime,
    local: tokio::task::LocalSet,
    source: SourceSender,
    ticks: TickReceiver,
    body: Bytes,
    shards: Arc<Shards>,
    brokers: Arc<Brokers>,
    /// What ingest would send on, and where it would hear of more.
    _ends: (mpsc::Receiver<Control>, mpsc::Sender<tickcast::model::SourceReceiver>),
}

impl Feed {
    /// Ingest with these metrics; nobody wants anything yet.
    pub(crate) fn new(metrics: IngestMetrics) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // The same shards in each run: how many a batch touches is how many locks it takes.
        let config = shards::Config { seed: Some(7), ..shards::Config::default() };
        let (shards, brokers) = (Arc::new(Shards::new(&config)), Arc::new(Brokers::new()));
        let wake = Arc::new(Notify::new());
        let (worker, ticks) = tick_queue(16 << 20, Arc::clone(&wake));
        let (control, orders) = mpsc::channel(1);
        let (invalidate, _) = mpsc::channel(1);
        let clock = Arc::new(FeedClock::new(Instant::now()));
        let ingest = Ingest::new(
            IngestConfig { pass_through: false, sim_label: None, clock },
            Arc::clone(&shards),
            Arc::clone(&brokers),
            metrics,
            vec![WorkerEnd { ticks: worker, control, stats: Arc::default() }],
            None,
            invalidate,
        );
        let (source, receiver) = source_queue(&ByteBudget::new(64 << 20), 8 << 20, Arc::clone(&wake));
        let (sources, new_sources) = mpsc::channel(1);
        sources.try_send(receiver).expect("room");
        let heartbeat = Heartbeats::new(["ingest"], Instant::now()).handle("ingest").expect("named");
        let local = tokio::task::LocalSet::new();
        local.spawn_local(ingest.run(new_sources, wake, heartbeat));
        Feed { runtime, local, source, ticks, body: bus_batch(), shards, brokers, _ends: (orders, sources) }
    }

    /// Makes the worker want all instruments; their keys.
    pub(crate) fn want_all(&self, format: Format) -> Vec<FrameKey> {
        let label = self.brokers.intern("angel").expect("room");
        let want = |n| {
            let name = symbol(n);
            let instrument = InstrumentRef { venue: "NSE", symbol: &name };
            let shard = self.shards.shard_of(instrument);
            let pinned = self.shards.with(shard, |s| s.streams.pin(ScopeId::SHARED, instrument)).expect("room");
            let interest = Interest { worker: WorkerId(0), mode: Mode::Ltp, format, label };
            self.shards.activate(shard, pinned.stream, interest).expect("pinned");
            FrameKey::new(pinned.stream, Mode::Ltp, format, label)
        };
        (0..SYMBOLS).map(want).collect()
    }

    /// A batch comes in from the bus.
    pub(crate) fn push(&self) {
        let message = SourceMessage {
            topic: Bytes::from_static(BATCH),
            body: self.body.clone(),
            t_recv: Micros::now(),
            scope: ScopeId::SHARED,
            merged: 0,
            highest_only: false,
        };
        assert!(self.source.try_push(message).is_ok(), "room for a batch");
    }

    /// Runs ingest until it has handed a batch over.
    pub(crate) fn take(&mut self) -> Arc<EncodedBatch> {
        self.local.block_on(&self.runtime, self.ticks.recv()).expect("ingest runs")
    }

    /// Runs ingest until it waits for more.
    pub(crate) fn settle(&mut self) {
        self.local.block_on(&self.runtime, async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        });
    }
}

/// One worker, and clients that are connected to it.
pub(crate) struct Clients {
    runtime: tokio::runtime::Runtime,
    local: tokio::task::LocalSet,
    worker: Rc<Worker>,
    idle: TickReceiver,
    far: Vec<(SessionId, TcpStream)>,
    scratch: Vec<u8>,
}

impl Clients {
    /// `sessions` clients, each of which takes every `stride`-th of `keys` from its own offset on, on these terms.
    pub(crate) fn new(sessions: usize, keys: &[FrameKey], stride: usize, terms: Terms, metrics: EngineMetrics) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        let config = WorkerConfig {
            id: WorkerId(0),
            flush_max_delay: Duration::from_millis(5),
            outbox_bytes_total: 1 << 30,
            workers: 1,
            lossless: slow_consumer::Config { bytes_max: 1 << 20, stall_max: Duration::from_secs(10) },
        };
        let worker = Worker::new(config, metrics, Arc::default(), Arc::default());
        let (_, idle) = tick_queue(1 << 20, Arc::new(Notify::new()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let far = local.block_on(&runtime, async {
            let mut far = Vec::new();
            for n in 0..sessions {
                let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
                client.set_nonblocking(true).expect("an option");
                let (near, _) = listener.accept().expect("accepted");
                near.set_nodelay(true).expect("an option");
                let near = Rc::new(Transport::plain(near).expect("registered"));
                near.writable().await.expect("open");
                let id = worker.open(near, keys[0].format());
                let takes =
                    keys.iter().enumerate().filter(|(s, _)| (s + n).is_multiple_of(stride)).map(|(_, key)| *key);
                let ack = Bytes::from_static(b"\x81\x02{}");
                worker.activate(id, Some(ack), takes, |key| Activate { key, floor: 0, snapshot: None, terms });
                far.push((id, client));
            }
            far
        });
        Clients { runtime, local, worker, idle, far, scratch: vec![0; 1 << 16] }
    }

    /// Puts a batch into the outboxes.
    pub(crate) fn deliver(&self, batch: Arc<EncodedBatch>) {
        // Held ticks count on the runtime's clock.
        let _entered = self.runtime.enter();
        self.worker.deliver(batch);
    }

    /// Writes what stands in the outboxes.
    pub(crate) fn flush(&mut self) {
        self.local.block_on(&self.runtime, self.worker.flush_pass(&mut self.idle));
    }

    /// The clients read what there is, so that no socket fills.
    pub(crate) fn read(&mut self) {
        for (_, client) in &mut self.far {
            loop {
                match client.read(&mut self.scratch) {
                    Ok(n) if n == self.scratch.len() => {}
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Whether every session's socket has refused bytes.
    pub(crate) fn are_behind(&self) -> bool {
        self.far.iter().all(|(id, _)| self.worker.behind_since(*id).is_some())
    }
}
