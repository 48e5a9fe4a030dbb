//! The control channel's way from its port to the one who answers. Runs on the control thread, beside the supervisors.

use crate::adapter::external::{self, metrics::ControlMetrics};
use crate::zmtp::listener::Bound;
use crate::zmtp::router;
use tokio::sync::mpsc;

/// What control peers said, on its way to the one who answers.
const CONTROL_EVENTS_MAX: usize = 1024;

/// The control channel, from its port to the one who answers.
pub(super) async fn control_channel(bound: Bound, config: router::Config, metrics: ControlMetrics) {
    let (events_tx, events) = mpsc::channel(CONTROL_EVENTS_MAX);
    let counts = metrics.clone();
    let refused = move |cause| counts.reject(cause);
    let served = async {
        if let Err(error) = router::serve(bound, config, events_tx, refused).await {
            tracing::error!(%error, "the control channel could not be served");
        }
    };
    tokio::join!(served, external::run(events, metrics));
}
