//! What a broker's native feeds count, over all its users.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Handles of one broker.
pub struct NativeMetrics {
    /// Connections that carry ticks.
    pub(super) connections: Gauge,
    /// Instruments that could still be subscribed.
    pub(super) capacity: Gauge,
    /// Connections that became ready.
    pub(super) opened: Counter,
    /// Connections lost, and attempts that failed.
    pub(super) lost: Counter,
    /// Attempts whose credentials were refused.
    pub(super) refused: Counter,
    /// Messages or parts of them that could not be read.
    pub(super) damaged: Counter,
    /// Sockets of order updates that stand.
    pub(super) order_streams: Gauge,
    /// Ticks replaced by newer ones while ingest was busy.
    pub(super) merged: Counter,
}

impl NativeMetrics {
    /// Makes the handles of this broker (lower case).
    pub fn register(broker: &str) -> Self {
        describe_gauge!("tickcast_native_connections", "Connections of native feeds to their broker that carry ticks");
        describe_gauge!("tickcast_native_capacity_left", "Instruments that native feeds in use could still subscribe");
        describe_gauge!("tickcast_native_order_streams", "Sockets of their own for order updates that stand");
        describe_counter!("tickcast_native_connects_total", "Connections of native feeds by what came of them");
        describe_counter!(
            "tickcast_native_damaged_total",
            "Messages of a broker, or parts of them, that could not be read"
        );
        let b = broker.to_owned();
        let connects = |outcome: &'static str| counter!("tickcast_native_connects_total", "broker" => b.clone(), "outcome" => outcome);
        NativeMetrics {
            connections: gauge!("tickcast_native_connections", "broker" => b.clone()),
            capacity: gauge!("tickcast_native_capacity_left", "broker" => b.clone()),
            order_streams: gauge!("tickcast_native_order_streams", "broker" => b.clone()),
            opened: connects("success"),
            lost: connects("lost"),
            refused: connects("refused"),
            damaged: counter!("tickcast_native_damaged_total", "broker" => b.clone()),
            merged: counter!("tickcast_ticks_merged_total", "where" => "source"),
        }
    }
}
