//! One source's way to ingest: its queue, and the overflow that the reader keeps when the queue is full.
//!
//! Promise: `message` never waits; order is kept unless the queue was full, and then per topic. Tests:
//! `overflow.rs` for the rules, `tests/bus_peers.rs` over sockets.

use super::metrics::{CAUSE_OVERFLOW, CAUSE_PARTS, EndpointMetrics};
use super::overflow::{Kept, Kind, Overflow};
use super::status::EndpointStatus;
use super::{Explode, Wiring};
use crate::model::{Micros, ScopeId, SourceMessage, SourceReceiver, SourceSender, source_queue};
use crate::zmtp::link::{LinkEnd, Sink};
use crate::zmtp::parser::Parts;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Messages below this many bytes are copied into the queue. A slice pins its whole 64 KiB read chunk, which the
/// budget does not see; and a chunk that nothing pins is read into again instead of being allocated anew.
const COPY_BYTES_BELOW: usize = 2048;

pub(super) struct Source {
    queue: SourceSender,
    overflow: Overflow,
    explode: Explode,
    scope: ScopeId,
    t_recv: Micros,
    status: Arc<EndpointStatus>,
    metrics: Arc<EndpointMetrics>,
}

impl Source {
    pub(super) fn new(wiring: &Wiring, per_source_bytes: usize, status: Arc<EndpointStatus>) -> (Self, SourceReceiver) {
        let scope = status.spec().scope;
        let (queue, receiver) = source_queue(&wiring.budget, per_source_bytes, wiring.wake.clone());
        let source = Source {
            queue,
            overflow: Overflow::new(scope, wiring.overflow_budget.clone(), per_source_bytes),
            explode: wiring.explode.clone(),
            scope,
            t_recv: Micros::default(),
            status,
            metrics: wiring.metrics.clone(),
        };
        (source, receiver)
    }

    /// Resolves when nothing waits in the overflow any more, or nobody takes it.
    pub(super) async fn drained(&mut self) {
        while !self.overflow.is_empty() && !self.queue.is_closed() {
            self.make_progress().await;
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.queue.is_closed()
    }

    fn spill(&mut self, message: &SourceMessage) -> ControlFlow<LinkEnd> {
        let (mut merged, mut dropped, mut flood) = (0, 0, false);
        let (overflow, t_recv) = (&mut self.overflow, message.t_recv);
        (self.explode)(message, &mut |kind: Kind, topic: &[u8], payload: &[u8]| match overflow
            .push(kind, topic, payload, t_recv)
        {
            Kept::Waiting => {}
            Kept::Merged => merged += 1,
            Kept::Dropped => dropped += 1,
            Kept::Flood => flood = true,
        });
        dropped += self.overflow.take_evicted();
        self.metrics.merged.increment(merged);
        if dropped > 0 {
            self.queue.note_loss();
        }
        if dropped > 0
            && let Some(held_back) = self.metrics.reject(CAUSE_OVERFLOW, dropped)
        {
            tracing::warn!(endpoint = %self.status.spec().endpoint, dropped, held_back, "ingest is behind; market data of a source is dropped");
        }
        if flood { ControlFlow::Break(LinkEnd::LosslessFlood) } else { ControlFlow::Continue(()) }
    }
}

impl Drop for Source {
    /// What still waits is lost: its peer has gone, and ingest took too long.
    fn drop(&mut self) {
        if !self.overflow.is_empty() {
            self.queue.note_loss();
        }
    }
}

impl Sink for Source {
    fn read_begins(&mut self) {
        self.t_recv = Micros::now();
    }

    fn message(&mut self, parts: Parts) -> ControlFlow<LinkEnd> {
        self.status.heard();
        let Ok([topic, body]) = parts.into_inner() else {
            if let Some(held_back) = self.metrics.reject(CAUSE_PARTS, 1) {
                tracing::warn!(endpoint = %self.status.spec().endpoint, held_back, "a bus message without topic and payload");
            }
            return ControlFlow::Continue(());
        };
        let mut message =
            SourceMessage { topic, body, t_recv: self.t_recv, scope: self.scope, merged: 0, highest_only: false };
        if self.queue.is_closed() {
            return ControlFlow::Break(LinkEnd::SinkGone);
        }
        // What waits in the overflow is older and must stay ahead.
        if !self.overflow.is_empty() {
            return self.spill(&message);
        }
        if message.len_bytes() < COPY_BYTES_BELOW {
            message.topic = Bytes::copy_from_slice(&message.topic);
            message.body = Bytes::copy_from_slice(&message.body);
        }
        match self.queue.try_push(message) {
            Ok(()) => ControlFlow::Continue(()),
            Err(message) => self.spill(&message),
        }
    }

    async fn make_progress(&mut self) {
        let first = self.overflow.front().filter(|_| !self.queue.is_closed());
        let Some(first) = first else { return std::future::pending().await };
        self.queue.room(first.len_bytes()).await;
        while let Some(message) = self.overflow.front() {
            if self.queue.try_push(message).is_err() {
                return;
            }
            self.overflow.pop_front();
        }
    }
}
