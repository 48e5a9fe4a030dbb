//! Fan-out of a 100-tick batch to 1, 100 and 1000 sessions over real loopback sockets: encode once, deliver, one write each.
//!
//! Timed: what ingest and one worker do (decode and encode the batch, put it into outboxes, write). Not timed: the clients' reading, which
//! happens between two rounds so that no socket fills. `cargo bench --bench fanout`.

mod rig;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rig::{Clients, SYMBOLS, TICKS, batch, key};
use std::time::{Duration, Instant};
use tickcast::model::Format;
use tickcast::policy::conflation::Terms;

struct Bench {
    clients: Clients,
    round: u64,
}

impl Bench {
    /// `sessions` clients, each of which takes every `stride`-th instrument from its own offset on.
    fn new(sessions: usize, stride: usize) -> Self {
        let keys: Vec<_> = (0..SYMBOLS).map(|n| key(n, Format::Json)).collect();
        Bench { clients: Clients::new(sessions, &keys, stride, Terms::default(), rig::recorded()), round: 0 }
    }

    fn round(&mut self) -> Duration {
        self.round += 1;
        let started = Instant::now();
        self.clients.deliver(batch(self.round, Format::Json));
        self.clients.flush();
        let took = started.elapsed();
        self.clients.read();
        took
    }
}

fn fanout(c: &mut Criterion) {
    for (name, stride) in [("all of 50 instruments", 1), ("every tenth instrument", 10)] {
        let mut group = c.benchmark_group(format!("fan-out of 100 ticks, {name}"));
        for sessions in [1, 100, 1000] {
            let mut bench = Bench::new(sessions, stride);
            group.throughput(Throughput::Elements(sessions as u64 * u64::from(TICKS) / stride as u64));
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
