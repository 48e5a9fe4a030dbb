//! The X-ray's look at one worker's sessions: whose they are, and what the kernel says of those that were chosen.
//!
//! In: an ask of the admin server. Out: one answer. Promises: nothing waits for anything but its turn, which ticks get again and again; no
//! key and no secret is in the answer. Tests: `tests/xray.rs`.

use super::Sessions;
use super::state::{Phase, Session};
use crate::engine::xray::{Ask, Figures, Seen, SeenSession, Survey};
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::oneshot;

/// Rows made before ticks get their turn: two system calls each, together some 100 µs.
const ROWS_AT_ONCE: usize = 64;

impl Sessions {
    /// Answers one ask.
    pub(super) async fn xray(self: Rc<Self>, ask: Ask, reply: oneshot::Sender<Seen>) {
        if reply.is_closed() {
            // Nobody waits any more: it has stood in the queue for too long.
            return;
        }
        let now = Instant::now();
        let mut survey = Survey::new(ask, now);
        let mut next = self.worker.survey(&mut survey, 0);
        while let Some(from) = next {
            tokio::task::yield_now().await;
            next = self.worker.survey(&mut survey, from);
        }
        let (total, lagging, first) = survey.finish();
        let mut sessions = Vec::with_capacity(first.len());
        for some in first.chunks(ROWS_AT_ONCE) {
            for figures in some {
                let session = self.open.borrow().get(&figures.id).cloned();
                sessions.extend(session.map(|session| self.seen(&session, *figures, now)));
            }
            tokio::task::yield_now().await;
        }
        // Whoever asked may have given up.
        let _ = reply.send(Seen { total, lagging, late_by: self.worker.late_by(), sessions });
    }

    fn seen(&self, session: &Session, figures: Figures, now: Instant) -> SeenSession {
        let state = session.state.borrow();
        let broker = match &state.phase {
            Phase::Live { member: Some(member), .. } => Some(self.label(member.broker).to_owned()),
            _ => None,
        };
        SeenSession {
            figures,
            user: state.user().cloned(),
            broker,
            peer: session.peer,
            age: now.saturating_duration_since(session.accepted_at),
            subscriptions: state.held.len(),
            tcp: session.transport.socket().and_then(self.config.tcp_info),
        }
    }
}
