//! Metrics of the bus side. What is counted per tick is gathered in plain integers and told to the recorder once a pass.

use super::age;
use crate::bus::frames::{Cause, Kind};
use crate::engine::metrics as engine;
use crate::model::instrument::VENUES;
use crate::model::{Format, LogGate, Micros, Mode};
use crate::shards::Ingested;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::time::Duration;

/// Edges of `tickcast_tick_age_seconds`, seconds.
pub const TICK_AGE_BUCKETS: (&str, &[f64]) =
    ("tickcast_tick_age_seconds", &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0]);

/// Handles and per-pass sums of the ingest thread.
pub struct IngestMetrics {
    json: Counter,
    msgpack: Counter,
    batch: Counter,
    /// `tickcast_bus_messages_total{kind="order"}`
    pub orders: Counter,
    /// `tickcast_bus_messages_total{kind="invalidate"}`
    pub invalidates: Counter,
    /// `tickcast_ticks_received_total`
    pub ticks_received: Counter,
    /// `tickcast_ticks_merged_total{where="worker"}`
    pub merged_worker: Counter,
    /// `tickcast_sim_active`
    pub sim_active: Gauge,
    payloads_decoded: Counter,
    encodes: [[Counter; 2]; 3],
    clock_skew: Counter,
    /// By venue, in the order of [`VENUES`]; the last one is every other.
    price_rounded: Vec<Counter>,
    tick_age: Histogram,
    /// `tickcast_stage_seconds{stage="encode"}`
    encode_seconds: Histogram,
    rejected: Vec<(Counter, LogGate)>,
    pending: Pending,
}

#[derive(Default)]
struct Pending {
    decoded: u64,
    encoded: [[u64; 2]; 3],
    skewed: u64,
    /// One sample a pass, of its last decoded tick: ages of neighbours are nearly equal, and a sample costs more than the decode.
    age: Option<f64>,
}

impl IngestMetrics {
    /// Makes the handles with the current recorder.
    pub fn register() -> Self {
        describe_counter!(
            "tickcast_bus_messages_total",
            "Bus messages by kind; orders and invalidations also count when they are items of a batch"
        );
        describe_counter!("tickcast_bus_rejected_total", "Bus messages, items or peers refused, by cause");
        describe_counter!("tickcast_ticks_received_total", "Market-data ticks received from all sources");
        describe_counter!("tickcast_payloads_decoded_total", "Tick payloads decoded because somebody wanted them");
        describe_counter!(
            "tickcast_encodes_total",
            "Frames encoded, once for all their takers, by mode and client format"
        );
        describe_counter!("tickcast_clock_skew_total", "Ticks whose time was ahead of our clock");
        describe_counter!(
            "tickcast_price_rounded_total",
            "Prices that had more digits than their instrument's scale (MessagePack), by exchange"
        );
        describe_histogram!("tickcast_tick_age_seconds", "Age of ticks at their receipt; one sample per ingest pass");
        describe_gauge!("tickcast_sim_active", "1 while the simulated market runs");
        let kind = |kind: &'static str| counter!("tickcast_bus_messages_total", "kind" => kind);
        let encodes = Mode::ALL.map(|mode| {
            Format::ALL.map(|format| {
                counter!("tickcast_encodes_total", "mode" => mode.label().to_ascii_lowercase(), "format" => format.label())
            })
        });
        let rejected = Cause::ALL
            .iter()
            .map(|c| (counter!("tickcast_bus_rejected_total", "cause" => c.label()), LogGate::default()))
            .collect();
        IngestMetrics {
            json: kind("json"),
            msgpack: kind("msgpack"),
            batch: kind("batch"),
            orders: kind("order"),
            invalidates: kind("invalidate"),
            ticks_received: counter!("tickcast_ticks_received_total"),
            merged_worker: counter!("tickcast_ticks_merged_total", "where" => "worker"),
            sim_active: gauge!("tickcast_sim_active"),
            payloads_decoded: counter!("tickcast_payloads_decoded_total"),
            encodes,
            clock_skew: counter!("tickcast_clock_skew_total"),
            price_rounded: VENUES
                .iter()
                .chain(&["other"])
                .map(|venue| counter!("tickcast_price_rounded_total", "exchange" => *venue))
                .collect(),
            tick_age: histogram!("tickcast_tick_age_seconds"),
            encode_seconds: engine::stage("encode"),
            rejected,
            pending: Pending::default(),
        }
    }

    pub(super) fn message(&self, kind: Kind) {
        match kind {
            Kind::Json => &self.json,
            Kind::MsgPack => &self.msgpack,
            Kind::Batch => &self.batch,
        }
        .increment(1);
    }

    /// Counts a refusal, and logs it at most once a minute per cause.
    pub(super) fn reject(&mut self, cause: Cause) {
        let (counter, gate) = &mut self.rejected[cause.index()];
        counter.increment(1);
        if let Some(held_back) = gate.open() {
            tracing::info!(
                cause = cause.label(),
                held_back,
                "bus data refused (further ones of this cause are only counted for a minute)"
            );
        }
    }

    pub(super) fn ingested(&mut self, seen: &Ingested) {
        for _ in 0..seen.refused {
            self.reject(Cause::InstrumentLimit);
        }
    }

    pub(super) fn decoded(&mut self, basis: Micros, t_recv: Micros) {
        self.pending.decoded += 1;
        if basis.0 != 0 {
            let (seconds, ahead) = age(basis, t_recv);
            self.pending.age = Some(seconds);
            self.pending.skewed += u64::from(ahead);
        }
    }

    /// One frame was encoded, with so many prices rounded to their scale.
    pub(super) fn encoded(&mut self, mode: Mode, format: Format, venue: &str, rounded: u32) {
        self.pending.encoded[mode.index()][format as usize] += 1;
        if rounded > 0 {
            let at = VENUES.iter().position(|v| *v == venue).unwrap_or(VENUES.len());
            self.price_rounded[at].increment(u64::from(rounded));
        }
    }

    /// All frames of a pass stand, so long after its oldest message was read.
    pub(super) fn batch_encoded(&self, took: Duration) {
        self.encode_seconds.record(took.as_secs_f64());
    }

    /// Tells the recorder what the pass has gathered.
    pub(super) fn tell(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if pending.decoded > 0 {
            self.payloads_decoded.increment(pending.decoded);
        }
        if pending.skewed > 0 {
            self.clock_skew.increment(pending.skewed);
        }
        if let Some(age) = pending.age {
            self.tick_age.record(age);
        }
        for (mode, formats) in pending.encoded.iter().enumerate() {
            for (format, &n) in formats.iter().enumerate().filter(|(_, n)| **n > 0) {
                self.encodes[mode][format].increment(n);
            }
        }
    }
}
