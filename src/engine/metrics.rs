//! Metrics of delivery. Counters are added to once per flush, never per tick.

use super::load::Load;
use crate::model::Format;
use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;

/// Edges of `tickcast_broadcast_latency_seconds`, seconds; 0.05 is the SlowBroadcast alert's.
pub const BROADCAST_LATENCY_BUCKETS: (&str, &[f64]) = (
    "tickcast_broadcast_latency_seconds",
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
);
/// Edges of `tickcast_stage_seconds`: the same, so that a stage can be laid beside the whole.
pub const STAGE_BUCKETS: (&str, &[f64]) = ("tickcast_stage_seconds", BROADCAST_LATENCY_BUCKETS.1);
/// Edges of `tickcast_delivery_delay_seconds`, seconds.
pub const DELIVERY_DELAY_BUCKETS: (&str, &[f64]) =
    ("tickcast_delivery_delay_seconds", &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]);
/// Edges of `tickcast_worker_loop_lag_seconds`, seconds.
pub const LOOP_LAG_BUCKETS: (&str, &[f64]) =
    ("tickcast_worker_loop_lag_seconds", &[0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]);

/// Handles of one worker.
#[derive(Clone)]
pub struct EngineMetrics {
    /// `tickcast_ticks_sent_total{format}`
    pub ticks_sent: [Counter; 2],
    /// `tickcast_frames_sent_total{format}`
    pub frames_sent: [Counter; 2],
    /// `tickcast_bytes_sent_total{format}`
    pub bytes_sent: [Counter; 2],
    /// `tickcast_ticks_merged_total{where="session"}`
    pub merged_session: Counter,
    /// `tickcast_ticks_merged_total{where="max_rate"}`
    pub merged_rate: Counter,
    /// `tickcast_broadcast_latency_seconds`
    broadcast_latency: Histogram,
    /// `tickcast_stage_seconds{stage="queue"}`
    queue_seconds: Histogram,
    /// `tickcast_stage_seconds{stage="flush"}`
    flush_seconds: Histogram,
    /// `tickcast_delivery_delay_seconds`
    pub delivery_delay: Histogram,
    /// `tickcast_worker_loop_lag_seconds`
    pub loop_lag: Histogram,
}

impl EngineMetrics {
    /// Makes the handles with the current recorder.
    pub fn register() -> Self {
        describe_counter!("tickcast_ticks_sent_total", "Ticks written to clients, by client format");
        describe_counter!("tickcast_frames_sent_total", "WebSocket frames written to clients, by client format");
        describe_counter!("tickcast_bytes_sent_total", "Bytes written to clients' sockets, by client format");
        describe_counter!(
            "tickcast_ticks_merged_total",
            "Ticks replaced by a newer one before delivery, by the queue that was full (source, worker), because the session was behind (session) or over its rate (max_rate)"
        );
        describe_histogram!(
            "tickcast_broadcast_latency_seconds",
            "From the bus read of a batch to the end of the flush in which every session of one worker that was not behind was written"
        );
        describe_histogram!(
            "tickcast_stage_seconds",
            "The parts of broadcast latency: encode (bus read until the frames stand, one sample per ingest pass), queue (until they stand in the outboxes of one worker's sessions, pacing included), flush (until the kernel has them)"
        );
        describe_histogram!(
            "tickcast_delivery_delay_seconds",
            "How long a session that fell behind needed until nothing was left over"
        );
        describe_histogram!("tickcast_worker_loop_lag_seconds", "How late a worker's periodic timer fired");
        let by_format = |name: &'static str| Format::ALL.map(|f| counter!(name, "format" => f.label()));
        EngineMetrics {
            ticks_sent: by_format("tickcast_ticks_sent_total"),
            frames_sent: by_format("tickcast_frames_sent_total"),
            bytes_sent: by_format("tickcast_bytes_sent_total"),
            merged_session: counter!("tickcast_ticks_merged_total", "where" => "session"),
            merged_rate: counter!("tickcast_ticks_merged_total", "where" => "max_rate"),
            broadcast_latency: histogram!("tickcast_broadcast_latency_seconds"),
            queue_seconds: stage("queue"),
            flush_seconds: stage("flush"),
            delivery_delay: histogram!("tickcast_delivery_delay_seconds"),
            loop_lag: histogram!("tickcast_worker_loop_lag_seconds"),
        }
    }

    /// Every session of the worker that was not behind has been written the batch with these times.
    pub(super) fn written(&self, read_at: Instant, encoded_at: Instant, queued_at: Instant, now: Instant) {
        let seconds = |from, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        self.broadcast_latency.record(seconds(read_at, now));
        self.queue_seconds.record(seconds(encoded_at, queued_at));
        self.flush_seconds.record(seconds(queued_at, now));
    }
}

/// The handle of one stage: `encode` is ingest's, `queue` and `flush` are the workers'.
pub fn stage(stage: &'static str) -> Histogram {
    histogram!("tickcast_stage_seconds", "stage" => stage)
}

/// What one worker knows of itself, read by the front door (sessions) and by whoever publishes gauges.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Sessions that this worker owns, and those on their way to it.
    pub sessions: AtomicUsize,
    /// Bytes waiting in outboxes.
    pub outbox_bytes: AtomicUsize,
    /// Sessions whose oldest unsent tick is older than 1 s.
    pub lagging: AtomicUsize,
    /// (session × instrument × mode) in the delivery index.
    pub subscriptions: AtomicUsize,
    /// Batches delivered.
    pub batches: AtomicU64,
    /// How it keeps up.
    pub load: Load,
}
