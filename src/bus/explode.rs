//! Taking a message apart for a reader whose queue to ingest is full: what may be conflated, and what must be kept.

use super::endpoints::{Explode, Kind};
use super::frames;
use super::topic::{self, Topic};
use crate::model::Brokers;
use std::sync::Arc;

/// Tells market data (conflated per topic) from orders and invalidations (kept, in order). What cannot be read, or is ignored anyway, is
/// left out: ingest would have dropped it.
pub fn explode(brokers: Arc<Brokers>) -> Explode {
    Arc::new(move |message, each| {
        let mut items = Vec::new();
        if frames::scan(&message.topic, &message.body, &mut items, &mut |_| {}).is_err() {
            return;
        }
        for item in items {
            let kind = match topic::parse(item.topic, &brokers) {
                Ok(Topic::Tick { .. }) => Kind::MarketData,
                Ok(Topic::Orders | Topic::Invalidate) => Kind::Lossless,
                Ok(Topic::Ignored) | Err(_) => continue,
            };
            each(kind, item.topic, item.payload);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Micros, ScopeId, SourceMessage};
    use bytes::Bytes;

    #[test]
    fn ticks_may_be_conflated_orders_and_invalidations_are_kept_and_the_rest_is_left_out() {
        let body =
            br#"[["NSE_INFY_LTP",{"ltp":1}],["DHAN_asha_orders",{"user_id":"asha"}],["x_positions",{}],["nonsense",{}],
            ["CACHE_INVALIDATE_ALL_asha",{"user_id":"asha"}]]"#;
        let message = SourceMessage {
            topic: Bytes::from_static(b"BATCH"),
            body: Bytes::from_static(body),
            t_recv: Micros(1),
            scope: ScopeId::SHARED,
            merged: 0,
            highest_only: false,
        };
        let mut seen = Vec::new();
        explode(Arc::new(Brokers::new()))(&message, &mut |kind, topic, _| {
            seen.push((kind == Kind::Lossless, String::from_utf8_lossy(topic).into_owned()));
        });
        let want = [(false, "NSE_INFY_LTP"), (true, "DHAN_asha_orders"), (true, "CACHE_INVALIDATE_ALL_asha")];
        assert_eq!(seen, want.map(|(lossless, topic)| (lossless, topic.to_owned())));
    }
}
