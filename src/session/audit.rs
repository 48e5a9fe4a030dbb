//! What the sessions of one worker hold, as the auditor asks for it: by fingerprint, and by name where that turned out wrong.
//!
//! A few sessions at a time, since ticks go on meanwhile. Tests: `tests/revocation.rs`, `tests/xray.rs`.

use super::Sessions;
use super::held::Subscription;
use super::state::Phase;
use crate::auth::Identity;
use crate::engine::queue::{HeldName, Holdings};
use crate::model::{InstrumentRef, Mode, SessionId};
use crate::registry::audit::fingerprint;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Sessions whose holdings are told before others get their turn.
const AT_ONCE: usize = 64;

/// One reference of one session: its fingerprint, and what it is about.
type Reference<'a> = (u64, (InstrumentRef<'a>, Mode));

impl Sessions {
    /// Tells what each session of this worker holds, and has asked for.
    pub(super) async fn holdings(self: Rc<Self>, hash: ahash::RandomState, reply: oneshot::Sender<Holdings>) {
        let mut holdings = Holdings::default();
        self.each_session(&hash, |_, identity, references| {
            holdings.key_ids.push(identity.key_id);
            holdings.references.extend(references.map(|(fingerprint, _)| fingerprint));
        })
        .await;
        // The auditor may have given up.
        let _ = reply.send(holdings);
    }

    /// Tells the names behind some of these fingerprints.
    pub(super) async fn named(
        self: Rc<Self>,
        hash: ahash::RandomState,
        wanted: Arc<HashSet<u64>>,
        reply: oneshot::Sender<Vec<HeldName>>,
    ) {
        let mut names = Vec::new();
        self.each_session(&hash, |session, identity, references| {
            let found = references.filter(|(fingerprint, _)| wanted.contains(fingerprint));
            names.extend(found.map(|(_, (instrument, mode))| HeldName {
                session,
                user: Arc::clone(&identity.user),
                instrument: instrument.to_owned(),
                mode,
            }));
        })
        .await;
        // The auditor may have given up.
        let _ = reply.send(names);
    }

    async fn each_session(
        &self,
        hash: &ahash::RandomState,
        mut visit: impl FnMut(SessionId, &Identity, &mut dyn Iterator<Item = Reference<'_>>),
    ) {
        let all: Vec<_> = self.open.borrow().keys().copied().collect();
        for some in all.chunks(AT_ONCE) {
            for session in some.iter().filter_map(|id| self.open.borrow().get(id).cloned()) {
                let state = session.state.borrow();
                let Phase::Live { identity, member: Some(member) } = &state.phase else { continue };
                let pending = state.pending.iter().map(|(i, m)| (i.as_ref(), *m));
                let names = state.held.iter().map(Subscription::name).chain(pending);
                let mut references = names.map(|name| (fingerprint(hash, member.user, name, session.id), name));
                visit(session.id, identity, &mut references);
            }
            tokio::task::yield_now().await;
        }
    }
}
