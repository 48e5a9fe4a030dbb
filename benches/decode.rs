//! What one tick costs between the bus and the workers: scan, topic, price key, decode and write, per encoding and mode.
//! Times are per tick except for the scan of a whole batch of 100.
#![expect(clippy::unwrap_used, reason = "a bench fails loudly")]
#![allow(missing_docs, reason = "criterion's macros make public functions without docs")]

mod ticks;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use tickcast::bus::{
    frames::{self, BATCH},
    topic,
};
use tickcast::engine::normalise::{Unit, decode};
use tickcast::model::{Brokers, Encoding, Mode};
use ticks::{depth, quote};

const UNIT: Unit<'_> = Unit { broker: Some("zerodha"), venue: "NSE" };

fn topics(c: &mut Criterion) {
    let brokers = Brokers::new();
    brokers.intern("zerodha").unwrap();
    for (name, text) in [
        ("plain", "NSE_RELIANCE_QUOTE"),
        ("index", "NSE_INDEX_NIFTY_LTP"),
        ("option", "NFO_NIFTY25NOV2526000CE_DEPTH"),
        ("broker", "zerodha_NSE_RELIANCE_QUOTE"),
        ("unknown", "LSE_VODAFONE_LTP"),
    ] {
        c.bench_function(&format!("topic/{name}"), |b| {
            b.iter(|| topic::parse(black_box(text.as_bytes()), &brokers).is_ok())
        });
    }
}

fn scans(c: &mut Criterion) {
    for (name, tick) in [("quote", quote()), ("depth", depth())] {
        let batch: Value = (0..100).map(|n| json!([format!("NSE_SYMBOL{n}_QUOTE"), tick])).collect();
        for (encoding, body) in
            [("msgpack", rmp_serde::to_vec(&batch).unwrap()), ("json", serde_json::to_vec(&batch).unwrap())]
        {
            let mut group = c.benchmark_group("scan");
            group.throughput(Throughput::Elements(100));
            group.bench_function(format!("batch100/{name}/{encoding}"), |b| {
                b.iter_batched_ref(
                    || Vec::with_capacity(100),
                    |items| frames::scan(BATCH, black_box(&body), items, &mut |_| {}),
                    BatchSize::SmallInput,
                )
            });
        }
    }
}

fn ticks(c: &mut Criterion) {
    let mut out = Vec::with_capacity(8192);
    for (name, tick) in [("quote", quote()), ("depth", depth())] {
        for (label, encoding, payload) in [
            ("json", Encoding::Json, serde_json::to_vec(&tick).unwrap()),
            ("msgpack", Encoding::MsgPack, rmp_serde::to_vec(&tick).unwrap()),
        ] {
            let id = |what: &str| format!("{what}/{name}/{label}");
            let payload = payload.as_slice();
            c.bench_function(&id("has_ltp"), |b| b.iter(|| frames::has_ltp(black_box(payload), encoding)));
            c.bench_function(&id("decode"), |b| b.iter(|| decode(black_box(payload), encoding, UNIT).is_ok()));
            let mut writes = |what: &str, modes: &[Mode], own: bool| {
                c.bench_function(&id(what), |b| {
                    b.iter(|| {
                        out.clear();
                        let decoded = decode(black_box(payload), encoding, UNIT).unwrap();
                        if own {
                            decoded.write_json_own(&mut out);
                        }
                        for &mode in modes {
                            decoded.write_json_mode(mode, &mut out);
                        }
                        out.len()
                    })
                });
            };
            writes("decode_own", &[], true);
            writes("decode_ltp", &[Mode::Ltp], false);
            writes("decode_quote", &[Mode::Quote], false);
            // Lazy normalisation with every mode wanted, against `normalise = "off"`: own text for all.
            writes("lazy_all_modes", &[Mode::Ltp, Mode::Quote], true);
        }
        let payload = serde_json::to_vec(&tick).unwrap();
        let decoded = decode(&payload, Encoding::Json, UNIT).unwrap();
        c.bench_function(&format!("write_ltp/{name}/json"), |b| {
            b.iter(|| {
                out.clear();
                decoded.write_json_mode(Mode::Ltp, &mut out);
                out.len()
            })
        });
    }
}

criterion_group!(benches, topics, scans, ticks);
criterion_main!(benches);
