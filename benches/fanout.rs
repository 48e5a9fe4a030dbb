//! Fan-out of a 100-tick batch to 1, 100 and 1000 sessions over real loopback sockets: encode once, deliver, one write each.
//!
//! Timed: what ingest and one worker do (decode and encode the batch, put it into outboxes, write). Not timed: the clients' reading, which
//! happens between two rounds so that no socket fills. `cargo bench --bench fanout`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickcast::engine::encode::Tick;
use tickcast::engine::metrics::EngineMetrics;
use tickcast::engine::normalise::{self, Unit};
use tickcast::engine::queue::{TickReceiver, tick_queue};
use tickcast::engine::worker::Activate;
use tickcast::engine::{EncodedBatch, FrameKey, Transport, Worker, WorkerConfig};
use tickcast::model::{BrokerId, Encoding, Format, InstrumentRef, Micros, Mode, StreamId, WorkerId};
use tickcast::policy::conflation::Terms;
use tickcast::policy::slow_consumer;
use tokio::sync::Notify;

const TICKS: u32 = 100;
const SYMBOLS: u32 = 50;

fn key(symbol: u32) -> FrameKey {
    FrameKey::new(StreamId(symbol), Mode::Ltp, Format::Json, BrokerId(0))
}

/// What ingest makes of 100 LTP ticks of 50 instruments.
fn batch(round: u64) -> Arc<EncodedBatch> {
    let mut batch = EncodedBatch::new(Micros::now(), Instant::now());
    for n in 0..TICKS {
        let payload = format!(r#"{{"ltp":{}.05,"timestamp":1761367200123,"ltt":1761367199000}}"#, 1000 + n);
        let symbol = format!("SYMBOL{:02}", n % SYMBOLS);
        let unit = Unit { broker: None, venue: "NSE" };
        let decoded = normalise::decode(payload.as_bytes(), Encoding::Json, unit).expect("valid");
        let instrument = InstrumentRef { venue: "NSE", symbol: &symbol };
        let tick =
            Tick { instrument, mode: Mode::Ltp, payload: &decoded, t_recv: Micros(0), scale: 2, pass_through: false };
        batch.push(key(n % SYMBOLS), round, 1, |slab| {
            tick.encode(slab, key(n % SYMBOLS), round, "angel", false);
        });
    }
    Arc::new(batch)
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    local: tokio::task::LocalSet,
    worker: Rc<Worker>,
    idle: TickReceiver,
    far: Vec<TcpStream>,
    scratch: Vec<u8>,
    round: u64,
}

impl Bench {
    /// `sessions` clients, each of which takes every `stride`-th instrument from its own offset on.
    fn new(sessions: usize, stride: u32) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = metrics::with_local_recorder(&recorder, EngineMetrics::register);
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
                let id = worker.open(near, Format::Json);
                let takes = (0..SYMBOLS).filter(|s| (s + n as u32).is_multiple_of(stride));
                worker.activate(id, Some(bytes::Bytes::from_static(b"\x81\x02{}")), takes, |s| Activate {
                    key: key(s),
                    floor: 0,
                    snapshot: None,
                    terms: Terms::default(),
                });
                far.push(client);
            }
            far
        });
        Bench { runtime, local, worker, idle, far, scratch: vec![0; 1 << 16], round: 0 }
    }

    fn round(&mut self) -> Duration {
        self.round += 1;
        let started = Instant::now();
        self.worker.deliver(batch(self.round));
        self.local.block_on(&self.runtime, self.worker.flush_pass(&mut self.idle));
        let took = started.elapsed();
        for client in &mut self.far {
            loop {
                match client.read(&mut self.scratch) {
                    Ok(n) if n == self.scratch.len() => {}
                    Ok(_) => break,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        took
    }
}

fn fanout(c: &mut Criterion) {
    for (name, stride) in [("all of 50 instruments", 1), ("every tenth instrument", 10)] {
        let mut group = c.benchmark_group(format!("fan-out of 100 ticks, {name}"));
        for sessions in [1, 100, 1000] {
            let mut bench = Bench::new(sessions, stride);
            group.throughput(Throughput::Elements(sessions as u64 * u64::from(TICKS / stride)));
            group.bench_function(BenchmarkId::from_parameter(sessions), |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| bench.round()).sum());
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(4));
    targets = fanout
}
criterion_main!(benches);
