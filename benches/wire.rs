//! Client formats: the tick frame and the MessagePack tick (hot: once per tick, mode and label), a bulk subscribe, and reading frames.
//! Orders of magnitude (two shared cores under load, no LTO): 74 ns a tick frame, 1.7 ms for 5000 entries, 0.11 us to
//! read a 200-byte frame.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tickcast::model::{Format, InstrumentRef, Micros, Mode, StreamId};
use tickcast::wire::{command, frame, json, msgpack};

fn tick_frame(c: &mut Criterion) {
    let data = br#"{"ltp":812.3,"timestamp":1761367200123,"ltt":1761367199000}"#;
    let instrument = InstrumentRef { venue: "NSE", symbol: "SBIN" };
    let mut out = Vec::with_capacity(1 << 20);
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("tick_frame", |b| {
        b.iter(|| {
            out.clear();
            json::tick_frame(&mut out, black_box(instrument), Mode::Ltp, "angel", false, |out| {
                out.extend_from_slice(black_box(data));
            })
        });
    });
    let now = Micros(1_761_367_200_131_212);
    let head = msgpack::Head { id: StreamId(7), mode: Mode::Ltp, seq: 44, t_exch: now, t_recv: now };
    group.bench_function("tick_msgpack", |b| {
        b.iter(|| {
            out.clear();
            msgpack::tick(&mut out, black_box(head), black_box(&[msgpack::Field::Price(81_230)]));
        });
    });
    group.finish();
}

fn bulk_subscribe(c: &mut Criterion) {
    let entries: Vec<_> = (0..5000).map(|i| format!(r#"{{"symbol":"SYM{i}","exchange":"NSE"}}"#)).collect();
    let text = format!(r#"{{"action":"subscribe","mode":1,"depth":5,"symbols":[{}]}}"#, entries.join(","));
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(5000));
    group.bench_function("subscribe_5000", |b| {
        b.iter(|| command::parse(black_box(text.as_bytes()), false, Format::Json, 5000));
    });
    group.finish();
}

fn read_frame(c: &mut Criterion) {
    let mut bytes = vec![0x81, 0x80 | 126, 0, 200, 1, 2, 3, 4];
    bytes.extend((0..200).map(|i| b'x' ^ [1, 2, 3, 4][i % 4]));
    let mut parser = frame::Parser::new(1 << 20);
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("read_frame_200", |b| {
        b.iter_batched_ref(
            || bytes.clone(),
            |bytes| {
                let mut input = frame::Input::new(bytes);
                let is_text = matches!(parser.next(&mut input), Ok(Some(frame::Event::Text(_))));
                assert!(is_text);
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, tick_frame, bulk_subscribe, read_frame);
criterion_main!(benches);
