//! What one tick costs on the bus, in bytes and CPU, by form and mode: `cargo bench --bench bus` (criterion: publisher and server apart),
//! and `cargo bench --bench bus -- bus-table` (both over a real socket, with bytes: the table in PERFORMANCE).
//!
//! Publisher: payload, batch, ZMTP frames, one `write` a message. Server: one `read` a message, our ZMTP parser, scan; then decode, which
//! only a tick that somebody wants pays. The payload is written from a value by serde, as a publisher in Rust would.
#![expect(clippy::unwrap_used, reason = "a bench fails loudly")]
#![allow(missing_docs, reason = "criterion's macros make public functions without docs")]

mod ticks;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group};
use serde_json::Value;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use tickcast::adapter::publisher::{BatchLimits, Batcher};
use tickcast::bus::frames;
use tickcast::engine::normalise::{Unit, decode};
use tickcast::zmtp::parser::{self, Event, Parser};

const UNIT: Unit<'_> = Unit { broker: None, venue: "NSE" };
/// Topics that ticks go round.
const SYMBOLS: usize = 100;

/// How a tick stands on the bus.
#[derive(Clone, Copy)]
struct Form {
    name: &'static str,
    json: bool,
    /// Ticks of one message.
    items: usize,
}

const FORMS: [Form; 4] = [
    Form { name: "JSON, single", json: true, items: 1 },
    Form { name: "MessagePack, single", json: false, items: 1 },
    Form { name: "BATCH of 10", json: false, items: 10 },
    Form { name: "BATCH of 100", json: false, items: 100 },
];

fn modes() -> [(&'static str, Value); 3] {
    [("LTP", ticks::ltp()), ("QUOTE", ticks::quote()), ("DEPTH", ticks::depth())]
}

criterion_group!(benches, publishing, receiving);

fn main() {
    if std::env::args().any(|a| a == "bus-table") {
        bus_table();
    } else {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}

/// The publisher's side up to the bytes for the socket.
struct Publisher {
    form: Form,
    tick: Value,
    topics: Vec<String>,
    batcher: Batcher,
    payload: Vec<u8>,
    wire: BytesMut,
    at: usize,
}

impl Publisher {
    fn new(form: Form, mode: &str, tick: Value) -> Self {
        let limits = BatchLimits { items_max: form.items, bytes_max: 1 << 20, ..BatchLimits::default() };
        let topics = (0..SYMBOLS).map(|n| format!("NSE_SYMBOL{n:03}_{mode}")).collect();
        let (payload, wire) = (Vec::new(), BytesMut::new());
        Publisher { form, tick, topics, batcher: Batcher::new(limits), payload, wire, at: 0 }
    }

    /// The next message's bytes, of as many ticks as the form has.
    fn message(&mut self) -> &[u8] {
        self.wire.clear();
        for _ in 0..self.form.items {
            self.at += 1;
            self.payload.clear();
            match self.form.json {
                true => serde_json::to_writer(&mut self.payload, &self.tick).unwrap(),
                false => rmp_serde::encode::write_named(&mut self.payload, &self.tick).unwrap(),
            }
            let topic = &self.topics[self.at % SYMBOLS];
            if let Some(frames) = self.batcher.push(topic, &self.payload, tokio::time::Instant::now()) {
                parser::message(&[&frames.topic, &frames.body], &mut self.wire);
            }
        }
        assert!(!self.wire.is_empty(), "the last tick completes the message");
        &self.wire
    }
}

/// The server's side from the bytes of the socket.
struct Server {
    parser: Parser,
}

impl Server {
    /// Behind the handshake.
    fn new() -> Self {
        let mut parser = Parser::new(parser::Config::sub());
        let mut hello = BytesMut::from(&parser::greeting()[..]);
        hello.extend_from_slice(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB");
        parser.buffer().extend_from_slice(&hello);
        while parser.next_event().unwrap().is_some() {}
        assert!(parser.is_ready());
        Server { parser }
    }

    /// Ticks of the messages that are there whole, and the time that decoding them took.
    fn take(&mut self, decoded: &mut Duration) -> usize {
        let mut seen = 0;
        while let Some(event) = self.parser.next_event().unwrap() {
            let Event::Message(parts) = event else { continue };
            let mut items = Vec::with_capacity(128);
            frames::scan(&parts[0], &parts[1], &mut items, &mut |cause| panic!("{cause:?}")).unwrap();
            let began = Instant::now();
            for item in &items {
                black_box(decode(black_box(item.payload), item.encoding, UNIT).unwrap());
            }
            *decoded += began.elapsed();
            seen += items.len();
        }
        seen
    }
}

fn publishing(c: &mut Criterion) {
    for (mode, tick) in modes() {
        let mut group = c.benchmark_group(format!("publish/{mode}"));
        for form in FORMS {
            let mut publisher = Publisher::new(form, mode, tick.clone());
            group.throughput(Throughput::Elements(form.items as u64));
            group.bench_function(form.name, |b| b.iter(|| publisher.message().len()));
        }
    }
}

fn receiving(c: &mut Criterion) {
    for (mode, tick) in modes() {
        let mut group = c.benchmark_group(format!("receive, scan and decode/{mode}"));
        for form in FORMS {
            let message = Publisher::new(form, mode, tick.clone()).message().to_vec();
            let (mut server, mut decoded) = (Server::new(), Duration::ZERO);
            group.throughput(Throughput::Elements(form.items as u64));
            group.bench_function(form.name, |b| {
                b.iter(|| {
                    server.parser.buffer().extend_from_slice(black_box(&message));
                    server.take(&mut decoded)
                });
            });
        }
    }
}

/// What one tick came to.
#[derive(Clone, Copy, Default)]
struct Cost {
    bytes: f64,
    /// Nanoseconds.
    publish: f64,
    receive: f64,
    decode: f64,
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nodelay(true).unwrap();
    (near, listener.accept().unwrap().0)
}

/// One round: message after message over the socket, each written and then read by the same thread.
fn round(form: Form, mode: &str, tick: &Value, ticks: usize) -> Cost {
    let (mut near, mut far) = sockets();
    let mut publisher = Publisher::new(form, mode, tick.clone());
    let mut server = Server::new();
    let mut scratch = vec![0; 256 << 10];
    let (mut bytes, mut publish, mut receive, mut decoded) = (0, Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut done = 0;
    while done < ticks {
        let began = Instant::now();
        let message = publisher.message();
        near.write_all(message).unwrap();
        bytes += message.len();
        let written = Instant::now();
        publish += written - began;
        let mut seen = 0;
        while seen < form.items {
            let n = far.read(&mut scratch).unwrap();
            server.parser.buffer().extend_from_slice(&scratch[..n]);
            seen += server.take(&mut decoded);
        }
        receive += written.elapsed();
        done += seen;
    }
    let each = |time: Duration| time.as_nanos() as f64 / done as f64;
    Cost {
        bytes: bytes as f64 / done as f64,
        publish: each(publish),
        receive: each(receive - decoded),
        decode: each(decoded),
    }
}

/// Medians of interleaved rounds.
fn bus_table() {
    const ROUNDS: usize = 9;
    const TICKS: usize = 20_000;
    println!(
        "| mode | form | bytes | of JSON | publish, ns | receive and scan, ns | decode, ns | CPU of JSON, unwanted tick | wanted tick |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (mode, tick) in modes() {
        let mut rounds = vec![Vec::new(); FORMS.len()];
        for _ in 0..ROUNDS {
            for (costs, form) in rounds.iter_mut().zip(FORMS) {
                costs.push(round(form, mode, &tick, TICKS));
            }
        }
        let median = |costs: &[Cost], get: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = costs.iter().map(get).collect();
            values.sort_by(f64::total_cmp);
            values[ROUNDS / 2]
        };
        let costs = rounds.iter().map(|costs| Cost {
            bytes: median(costs, |c| c.bytes),
            publish: median(costs, |c| c.publish),
            receive: median(costs, |c| c.receive),
            decode: median(costs, |c| c.decode),
        });
        let costs: Vec<Cost> = costs.collect();
        for (form, cost) in FORMS.iter().zip(&costs) {
            let unwanted = |c: &Cost| c.publish + c.receive;
            let part = |get: &dyn Fn(&Cost) -> f64| get(cost) / get(&costs[0]) * 100.0;
            println!(
                "| {mode} | {} | {:.0} | {:.0} % | {:.0} | {:.0} | {:.0} | {:.0} % | {:.0} % |",
                form.name,
                cost.bytes,
                part(&|c| c.bytes),
                cost.publish,
                cost.receive,
                cost.decode,
                part(&unwanted),
                part(&|c| unwanted(c) + c.decode),
            );
        }
    }
}
