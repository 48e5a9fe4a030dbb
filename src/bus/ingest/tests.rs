//! Ingest from whole messages to encoded batches: order, laziness, scopes, floods.

use super::*;
use crate::engine::queue::{TickReceiver, tick_queue};
use crate::model::queue::{ByteBudget, SourceSender, source_queue};
use crate::model::{Format, InstrumentRef, Mode, StreamId, WorkerId};
use crate::shards::{self, Interest};
use bytes::Bytes;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

const RELIANCE: InstrumentRef<'_> = InstrumentRef { venue: "NSE", symbol: "RELIANCE" };
const DEPTH: &str = r#"{"ltp":10.5,"volume":7,"depth":{"buy":[],"sell":[]},"extra":1}"#;

struct Bench {
    ingest: Ingest,
    shards: Arc<Shards>,
    ticks: TickReceiver,
    control: mpsc::Receiver<Control>,
    invalidations: mpsc::Receiver<frames::Invalidate>,
    metrics: PrometheusHandle,
    brokers: Arc<Brokers>,
}

fn message(topic: &str, body: &str, scope: ScopeId) -> SourceMessage {
    let (topic, body) = (Bytes::copy_from_slice(topic.as_bytes()), Bytes::copy_from_slice(body.as_bytes()));
    SourceMessage { topic, body, t_recv: Micros::now(), scope, merged: 0, highest_only: false }
}

fn shared(topic: &str, body: &str) -> SourceMessage {
    message(topic, body, ScopeId::SHARED)
}

fn source() -> (SourceSender, SourceReceiver) {
    source_queue(&ByteBudget::new(1 << 20), 1 << 20, Arc::new(Notify::new()))
}

impl Bench {
    fn new(sim: Option<SimEnd>) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shards = Arc::new(Shards::new(&shards::Config::default()));
        let brokers = Arc::new(Brokers::new());
        let (tx, ticks) = tick_queue(1 << 20, Arc::new(Notify::new()));
        let (control_tx, control) = mpsc::channel(2);
        let (invalidate_tx, invalidations) = mpsc::channel(1);
        let ingest = ::metrics::with_local_recorder(&recorder, || {
            Ingest::new(
                IngestConfig {
                    pass_through: false,
                    sim_label: brokers.intern("sim"),
                    clock: Arc::new(crate::model::FeedClock::new(Instant::now())),
                },
                Arc::clone(&shards),
                Arc::clone(&brokers),
                IngestMetrics::register(),
                vec![WorkerEnd { ticks: tx, control: control_tx, stats: Arc::default() }],
                sim,
                invalidate_tx,
            )
        });
        Bench { ingest, shards, ticks, control, invalidations, metrics: recorder.handle(), brokers }
    }

    /// Makes worker 0 want `instrument` as a user of `broker` would; returns the stream.
    fn want(&self, scope: ScopeId, mode: Mode, broker: &str) -> StreamId {
        let shard = self.shards.shard_of(RELIANCE);
        let stream = self.shards.with(shard, |s| s.streams.pin(scope, RELIANCE)).unwrap().stream;
        let label = self.brokers.intern(broker).unwrap();
        let interest = Interest { worker: WorkerId(0), mode, format: Format::Json, label };
        self.shards.activate(shard, stream, interest).unwrap();
        stream
    }

    /// What the worker got: (stream, mode, JSON).
    fn delivered(&mut self) -> Vec<(StreamId, Mode, serde_json::Value)> {
        let mut seen = Vec::new();
        while let Some(batch) = self.ticks.try_recv() {
            for frame in &batch.frames {
                let bytes = batch.bytes(frame);
                let json = &bytes[bytes.iter().position(|b| *b == b'{').unwrap()..];
                seen.push((frame.key.stream(), frame.key.mode(), serde_json::from_slice(json).unwrap()));
            }
        }
        seen
    }

    /// Sum of all series of a counter.
    fn count(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let lines = text.lines().filter(|l| l.starts_with(name) && !l.starts_with('#'));
        lines.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

#[test]
fn what_nobody_wants_is_neither_decoded_nor_encoded() {
    let mut bench = Bench::new(None);
    bench.ingest.pass(&[shared("NSE_RELIANCE_DEPTH", DEPTH), shared("NSE_RELIANCE_LTP", r#"{"ltp":1}"#)]);
    assert_eq!(bench.count("tickcast_ticks_received_total"), 2.0);
    assert_eq!(bench.count("tickcast_payloads_decoded_total"), 0.0);
    assert_eq!(bench.count("tickcast_encodes_total"), 0.0);
}

#[test]
fn one_ltp_subscriber_of_a_depth_stream_builds_ltp_only() {
    let mut bench = Bench::new(None);
    let stream = bench.want(ScopeId::SHARED, Mode::Ltp, "angel");
    bench.ingest.pass(&[shared("NSE_RELIANCE_DEPTH", DEPTH)]);
    let seen = bench.delivered();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].0, seen[0].1), (stream, Mode::Ltp));
    assert_eq!(
        seen[0].2,
        serde_json::json!({"type":"market_data","symbol":"RELIANCE","exchange":"NSE","mode":1,"data":{"ltp":10.5},"broker":"angel"})
    );
    assert_eq!(bench.count("tickcast_encodes_total"), 1.0);
    assert_eq!(bench.count("tickcast_encodes_total{mode=\"ltp\",format=\"json\"}"), 1.0);
}

#[test]
fn a_subscriber_of_the_ticks_own_mode_gets_the_adapters_fields() {
    let mut bench = Bench::new(None);
    bench.want(ScopeId::SHARED, Mode::Depth, "angel");
    bench.ingest.pass(&[shared("NSE_RELIANCE_DEPTH", DEPTH)]);
    assert_eq!(bench.delivered()[0].2["data"], serde_json::from_str::<serde_json::Value>(DEPTH).unwrap());
}

#[test]
fn two_users_feeds_of_one_instrument_never_cross() {
    let mut bench = Bench::new(None);
    let a = bench.want(ScopeId(1), Mode::Ltp, "angel");
    let b = bench.want(ScopeId(2), Mode::Ltp, "angel");
    assert_ne!(a, b);
    bench.ingest.pass(&[
        message("NSE_RELIANCE_LTP", r#"{"ltp":1}"#, ScopeId(1)),
        message("NSE_RELIANCE_LTP", r#"{"ltp":2}"#, ScopeId(2)),
        shared("NSE_RELIANCE_LTP", r#"{"ltp":3}"#),
    ]);
    let seen: Vec<_> = bench.delivered().into_iter().map(|(s, _, j)| (s, j["data"]["ltp"].clone())).collect();
    assert_eq!(seen, [(a, 1.into()), (b, 2.into())]);
}

#[test]
fn a_brokers_prefix_reaches_that_brokers_users_only() {
    let mut bench = Bench::new(None);
    bench.want(ScopeId::SHARED, Mode::Ltp, "angel");
    bench.want(ScopeId::SHARED, Mode::Ltp, "zerodha");
    bench
        .ingest
        .pass(&[shared("ZERODHA_NSE_RELIANCE_LTP", r#"{"ltp":1}"#), shared("dhan_NSE_RELIANCE_LTP", r#"{"ltp":2}"#)]);
    let seen: Vec<_> =
        bench.delivered().into_iter().map(|(_, _, j)| (j["broker"].clone(), j["data"]["ltp"].clone())).collect();
    assert_eq!(seen, [("zerodha".into(), 1.into())]);
}

#[test]
fn the_order_of_a_batch_is_kept_across_shards() {
    let mut bench = Bench::new(None);
    let symbols: Vec<String> = (0..50).map(|n| format!("S{n}")).collect();
    let label = bench.brokers.intern("angel").unwrap();
    for symbol in &symbols {
        let name = InstrumentRef { venue: "NSE", symbol };
        let shard = bench.shards.shard_of(name);
        let stream = bench.shards.with(shard, |s| s.streams.pin(ScopeId::SHARED, name)).unwrap().stream;
        let interest = Interest { worker: WorkerId(0), mode: Mode::Ltp, format: Format::Json, label };
        bench.shards.activate(shard, stream, interest).unwrap();
    }
    let items: Vec<_> =
        (0..200).map(|n| serde_json::json!([format!("NSE_{}_LTP", symbols[n * 7 % 50]), {"ltp": n}])).collect();
    let body = serde_json::to_string(&items).unwrap();
    bench.ingest.pass(&[shared("BATCH", &body)]);
    let seen: Vec<_> = bench.delivered().into_iter().map(|(_, _, j)| j["data"]["ltp"].as_u64().unwrap()).collect();
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
}

#[test]
fn bad_messages_cost_themselves_only_and_are_counted_by_cause() {
    let mut bench = Bench::new(None);
    bench.want(ScopeId::SHARED, Mode::Ltp, "angel");
    bench.ingest.pass(&[
        shared("NSE_RELIANCE_LTP", "not json"),
        shared("DEBUG_MARKET_DATA", "{}"),
        shared("NSE_RELIANCE_LTP", r#"{"ltp":1"#),
        shared("NSE_RELIANCE_LTP", r#"{"ltp":2}"#),
    ]);
    let seen = bench.delivered();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].2["data"]["ltp"], 2);
    assert_eq!(bench.count("tickcast_bus_rejected_total"), 3.0);
}

#[tokio::test]
async fn the_first_real_tick_ends_the_simulated_market_and_erases_its_prices() {
    let (sim_tx, sim_rx) = source();
    let stopped = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    let stop = Box::new(move || flag.store(true, std::sync::atomic::Ordering::SeqCst));
    let mut bench = Bench::new(Some(SimEnd { source: sim_rx, stop }));
    bench.want(ScopeId::SHARED, Mode::Ltp, "sim");
    let mut messages = Vec::new();
    sim_tx.try_push(shared("NSE_RELIANCE_LTP", r#"{"ltp":111}"#)).unwrap();
    bench.ingest.take_up(&mut messages);
    bench.ingest.pass(&messages);
    assert_eq!(bench.delivered()[0].2["broker"], "sim");
    assert_eq!(bench.count("tickcast_sim_active"), 1.0);

    sim_tx.try_push(shared("NSE_RELIANCE_LTP", r#"{"ltp":222}"#)).unwrap();
    let (real_tx, real_rx) = source();
    bench.ingest.sources.push(real_rx);
    real_tx.try_push(shared("NSE_INFY_LTP", r#"{"ltp":5}"#)).unwrap();
    for _ in 0..3 {
        messages.clear();
        bench.ingest.take_up(&mut messages);
        bench.ingest.pass(&messages);
    }
    assert!(stopped.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(bench.count("tickcast_sim_active"), 0.0);
    assert!(bench.delivered().is_empty(), "no simulated tick after the first real one");
    let shard = bench.shards.shard_of(RELIANCE);
    let stream = bench.shards.with(shard, |s| s.streams.pin(ScopeId::SHARED, RELIANCE)).unwrap().stream;
    let label = bench.brokers.find("sim").unwrap();
    let interest = Interest { worker: WorkerId(0), mode: Mode::Ltp, format: Format::Json, label };
    assert_eq!(bench.shards.activate(shard, stream, interest).unwrap().last, None);
}

#[test]
fn orders_reach_the_workers_and_a_loss_is_told_before_any_later_one() {
    let mut bench = Bench::new(None);
    let order = |n: u32| {
        shared("UPSTOX_asha_orders", &format!(r#"{{"type":"order_update","user_id":"asha","orderid":"{n}"}}"#))
    };
    bench.ingest.pass(&[order(1), order(2), order(3)]);
    let mut seen = Vec::new();
    while let Ok(message) = bench.control.try_recv() {
        seen.push(message);
    }
    assert!(matches!(&seen[..], [Control::Order { .. }, Control::Order { .. }]), "the queue holds two");
    bench.ingest.pass(&[order(4)]);
    bench.ingest.retry_workers();
    assert!(matches!(bench.control.try_recv(), Ok(Control::OrderGap { user }) if &*user == "asha"));
}

#[test]
fn when_more_users_lose_orders_than_are_counted_all_are_told() {
    let mut bench = Bench::new(None);
    let order = |user: usize| {
        shared("UPSTOX_x_orders", &format!(r#"{{"type":"order_update","user_id":"user{user}","orderid":"1"}}"#))
    };
    let orders: Vec<_> = (0..2 + ORDER_GAPS_MAX + 1).map(order).collect();
    bench.ingest.pass(&orders);
    for _ in 0..2 {
        assert!(matches!(bench.control.try_recv(), Ok(Control::Order { .. })));
    }
    bench.ingest.retry_workers();
    assert!(matches!(bench.control.try_recv(), Ok(Control::OrderGapAll)));
    assert!(bench.control.try_recv().is_err(), "nobody is told twice");
}

#[test]
fn invalidations_wait_for_the_control_thread_and_the_same_one_twice_is_one() {
    let mut bench = Bench::new(None);
    let void = |user: &str| {
        shared("CACHE_INVALIDATE_ALL_x", &format!(r#"{{"action":"invalidate","user_id":"{user}","cache_type":"ALL"}}"#))
    };
    bench.ingest.pass(&[void("a"), void("b"), void("c"), void("c")]);
    let mut users = Vec::new();
    for _ in 0..4 {
        users.extend(bench.invalidations.try_recv().map(|i| i.user));
        bench.ingest.hand_over_invalidates();
    }
    assert_eq!(users, ["a", "b", "c"]);
}

#[test]
fn sources_are_served_in_turn() {
    let mut bench = Bench::new(None);
    let ends: Vec<_> = (0..3)
        .map(|n| {
            let (tx, rx) = source();
            bench.ingest.sources.push(rx);
            for _ in 0..(if n == 0 { 4 } else { 1 }) {
                tx.try_push(shared(&format!("NSE_S{n}_LTP"), "{}")).unwrap();
            }
            tx
        })
        .collect();
    let mut messages = Vec::new();
    bench.ingest.take_up(&mut messages);
    let first: std::collections::BTreeSet<_> = messages[..3].iter().map(|m| m.topic.clone()).collect();
    assert_eq!(first.len(), 3, "a flooding source does not go first thrice");
    assert_eq!(messages.len(), 6);
    drop(ends);
}

#[test]
fn what_a_full_source_merged_is_a_gap_and_what_it_lost_is_told_to_every_worker() {
    let mut bench = Bench::new(None);
    bench.want(ScopeId::SHARED, Mode::Ltp, "angel");
    let merged = SourceMessage { merged: 4, ..shared("NSE_RELIANCE_LTP", r#"{"ltp":2}"#) };
    bench.ingest.pass(&[shared("NSE_RELIANCE_LTP", r#"{"ltp":1}"#), merged]);
    let batch = bench.ticks.try_recv().unwrap();
    assert_eq!(batch.frames.iter().map(|f| f.seq).collect::<Vec<_>>(), [1, 6]);
    let (sender, receiver) = source();
    bench.ingest.sources.push(receiver);
    sender.note_loss();
    bench.ingest.take_up(&mut Vec::new());
    bench.ingest.retry_workers();
    assert!(matches!(bench.control.try_recv(), Ok(Control::TicksLost)));
    bench.ingest.take_up(&mut Vec::new());
    bench.ingest.retry_workers();
    assert!(bench.control.try_recv().is_err(), "told once");
}
