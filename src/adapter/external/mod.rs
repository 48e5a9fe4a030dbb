//! The control channel: adapters as processes of their own, in any language (CONTRACTS 5).
//!
//! In: messages of connected peers, from the ROUTER. Out: one MessagePack map per answer. Whoever speaks without a session is
//! asked to say hello. Tests: `tests/control.rs`.

pub mod metrics;

use self::metrics::ControlMetrics;
use crate::zmtp::router::{Event, Peer, PeerId};
use bytes::Bytes;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// `{v: 1, op: "hello_required"}`.
const HELLO_REQUIRED: Bytes = Bytes::from_static(b"\x82\xa1v\x01\xa2op\xaehello_required");

/// Answers peers until the queue closes.
pub async fn run(mut events: mpsc::Receiver<Event>, metrics: ControlMetrics) {
    let mut peers: HashMap<PeerId, Peer> = HashMap::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Joined(id, peer) => {
                peers.insert(id, peer);
            }
            Event::Message(id, _) => {
                if peers.get(&id).is_some_and(|peer| !peer.send(HELLO_REQUIRED)) {
                    metrics.reject(metrics::CAUSE_UNREAD);
                    peers.remove(&id);
                }
            }
            Event::Left(id) => {
                peers.remove(&id);
            }
        }
        metrics.peers.set(peers.len() as f64);
    }
}
