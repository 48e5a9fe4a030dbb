//! What supervisors tell the registry: each input goes to the key's machine under its shard's lock.

use super::{Fault, Outcome, Registry};
use crate::adapter::supervisor::{Desired, Handle, Owner};
use crate::model::{StreamId, UserId};
use crate::shards::key::{CallId, Context, Effects, KeyName, KeyTable, Op, Told, Touched};

impl Outcome {
    /// What a waiter of a key on this stream hears.
    pub(super) fn of(told: Told, stream: StreamId, scale: u8) -> Self {
        match told {
            Told::Live { depth } => Outcome::Subscribed { stream, scale, depth },
            Told::Gone => Outcome::Unsubscribed,
            Told::Failed(fault) => Outcome::Failed(fault),
        }
    }
}

impl Registry {
    /// Feeds one input to a key and gives its pin back if it is over.
    pub(super) fn feed(
        &self,
        name: &KeyName,
        handle: Option<&Handle>,
        input: impl FnOnce(&mut KeyTable, &Context<'_>) -> Option<Touched>,
    ) -> Option<Touched> {
        let now = tokio::time::Instant::now().into_std();
        self.shards.with(self.shards.shard_of(name.instrument.as_ref()), |shard| {
            let generation = handle.map_or(0, Handle::generation);
            let cx = Context { now, generation, calls: self.supervisors.call_ids() };
            let touched = input(&mut shard.keys, &cx)?;
            if touched.over {
                shard.streams.unpin(touched.stream);
            }
            Some(touched)
        })
    }
}

impl Owner for Registry {
    fn desired(&self, user: UserId) -> Option<Desired> {
        let sessions = self.users.with(|users| users.sessions(user))?;
        self.links.with(|links| {
            let link = links.get(user)?;
            Some(Desired { broker: link.broker.clone(), sessions, ticket: link.ticket, rebuild: link.rebuild })
        })
    }

    fn answered(&self, user: UserId, name: &KeyName, call: CallId, outcome: Result<Option<u32>, Fault>) {
        let handle = self.links.with(|links| links.handle(user));
        let mut fx = Effects::default();
        let fed = self.feed(name, handle.as_deref(), |keys, cx| keys.result(user, name, call, outcome, cx, &mut fx));
        if let Some(touched) = fed {
            self.act(user, handle.as_deref(), name.clone(), touched, fx);
        }
    }

    fn timed_out(&self, user: UserId, name: &KeyName, call: CallId, fault: Fault) {
        let handle = self.links.with(|links| links.handle(user));
        let mut fx = Effects::default();
        let fed = self.feed(name, handle.as_deref(), |keys, cx| keys.timeout(user, name, call, fault, cx, &mut fx));
        if let Some(touched) = fed {
            self.act(user, handle.as_deref(), name.clone(), touched, fx);
        }
    }

    fn late_success(&self, user: UserId, name: &KeyName, call: CallId, op: Op, depth: Option<u32>) {
        let handle = self.links.with(|links| links.handle(user));
        let mut fx = Effects::default();
        let instrument = name.instrument.as_ref();
        let now = tokio::time::Instant::now().into_std();
        let touched = self.shards.with(self.shards.shard_of(instrument), |shard| {
            if !shard.keys.has(user, instrument, name.mode) {
                if op == Op::Unsubscribe {
                    return None;
                }
                // The broker has a feed that nobody wants: the key comes back to life until the broker has let go.
                // Somebody may join it before that.
                let scope = handle.as_deref()?.scope();
                let pinned = shard.streams.pin(scope, instrument).ok()?;
                shard.keys.insert(user, instrument, name.mode, pinned.stream, pinned.scale);
            }
            let generation = handle.as_deref().map_or(0, Handle::generation);
            let cx = Context { now, generation, calls: self.supervisors.call_ids() };
            let touched = shard.keys.late_success(user, name, (call, op, depth), &cx, &mut fx)?;
            if touched.over {
                shard.streams.unpin(touched.stream);
            }
            Some(touched)
        });
        if let Some(touched) = touched {
            self.act(user, handle.as_deref(), name.clone(), touched, fx);
        }
    }

    fn reset(&self, user: UserId, fresh: bool) {
        self.sweep(user, |keys, cx, found| {
            keys.reset_user(user, fresh, cx, |name, touched, fx| found.push((name.clone(), touched, fx)));
            false
        });
    }

    fn retry(&self, user: UserId) -> bool {
        self.sweep(user, |keys, cx, found| {
            keys.retry_user(user, cx, |name, touched, fx| found.push((name.clone(), touched, fx)))
        })
    }

    fn retire(&self, user: UserId, ticket: u64) -> bool {
        let retired = self.links.with(|links| links.retire(user, ticket));
        if retired {
            // Somebody who attached in between holds a session here, and makes a supervisor of their own.
            self.users.with(|users| users.forget_idle(user));
            tracing::debug!(user = user.0, "adapter retired");
        }
        retired
    }
}

type Found = Vec<(KeyName, Touched, Effects<crate::shards::key::Waiter>)>;

impl Registry {
    /// Visits the user's keys shard by shard; acts on what came of each shard after its lock was given back.
    fn sweep(&self, user: UserId, mut visit: impl FnMut(&mut KeyTable, &Context<'_>, &mut Found) -> bool) -> bool {
        let handle = self.links.with(|links| links.handle(user));
        let Some(handle) = handle else { return false };
        let now = tokio::time::Instant::now().into_std();
        let mut any = false;
        for index in self.shards.indexes() {
            let mut found = Found::new();
            self.shards.with(index, |shard| {
                let cx = Context { now, generation: handle.generation(), calls: self.supervisors.call_ids() };
                any |= visit(&mut shard.keys, &cx, &mut found);
                for (_, touched, _) in found.iter().filter(|(_, t, _)| t.over) {
                    shard.streams.unpin(touched.stream);
                }
            });
            for (name, touched, fx) in found {
                self.act(user, Some(&handle), name, touched, fx);
            }
        }
        any
    }
}
