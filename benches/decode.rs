//! What one tick costs between the bus and the workers: scan, topic, price key, decode and write, per encoding and mode.
//! Times are per tick except for the scan of a whole batch of 100.
#![expect(clippy::unwrap_used, reason = "a bench fails loudly")]
#![allow(missing_docs, reason = "criterion's macros make public functions without docs")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use tickcast::bus::{
    frames::{self, BATCH},
    topic,
};
use tickcast::engine::normalise::{Unit, decode};
use tickcast::model::{Brokers, Encoding, Mode};

const UNIT: Unit<'_> = Unit { broker: Some("zerodha"), venue: "NSE" };

fn quote() -> Value {
    json!({"symbol": "RELIANCE", "exchange": "NSE", "mode": "quote", "ltp": 1418.4, "ltt": 1761367199000u64,
        "timestamp": 1761367200123u64, "volume": 5123456, "last_quantity": 25, "average_price": 1415.12,
        "total_buy_quantity": 854321, "total_sell_quantity": 912345, "open": 1410.0, "high": 1425.0, "low": 1405.05,
        "close": 1412.0})
}

fn depth() -> Value {
    let mut tick = quote();
    let side: Vec<Value> =
        (0..5).map(|n| json!({"price": 1418.4 + f64::from(n) * 0.05, "quantity": 100 * n, "orders": n})).collect();
    tick["depth"] = json!({"buy": side, "sell": side});
    tick["oi"] = json!(0);
    tick
}

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
