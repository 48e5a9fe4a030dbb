//! What is subscribed, stream by stream, for `/subscriptions`.
//!
//! In: the tables. Out: the streams with most references or ticks. Cost: a look at every key, one shard's lock after the other, each
//! held for some 50 ns a key and for copying the names of what may be shown; so off the tick path, and on a thread that may wait for a
//! lock. Not one instant. Tests: `tests/xray.rs`.

use super::Registry;
use crate::model::{Instrument, Mode, ScopeId, StreamId, UserId};
use crate::shards::Shard;
use crate::shards::key::Standing;
use hashbrown::HashMap;
use std::cmp::Reverse;

/// Which streams come first: those with most of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Sessions that hold it.
    References,
    /// Ticks so far.
    Ticks,
}

impl By {
    /// All of them, by name.
    pub const ALL: [(&'static str, By); 2] = [("references", By::References), ("ticks", By::Ticks)];
}

/// One stream in one mode, over all users who share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamView {
    /// What is subscribed.
    pub instrument: Instrument,
    /// In which mode.
    pub mode: Mode,
    /// Whose ticks: `shared`, or `broker/user`.
    pub scope: String,
    /// Sessions that hold or await it.
    pub references: usize,
    /// Where it stands with the broker; of several users the worst off.
    pub standing: Standing,
    /// The most price levels that somebody gets, as far as known.
    pub depth: u32,
    /// Ticks so far that served the mode.
    pub ticks: u64,
}

/// What is subscribed.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamsView {
    /// References in all.
    pub active: u64,
    /// As `tickcast_subscriptions_shared_ratio`.
    pub shared_ratio: f64,
    /// The first streams.
    pub streams: Vec<StreamView>,
}

/// A stream in one mode, before it is known whether it is shown.
#[derive(Clone, Copy)]
struct Row {
    stream: StreamId,
    mode: Mode,
    /// One of its users; of a stream that is not shared, the only one.
    user: UserId,
    references: usize,
    standing: Standing,
    depth: u32,
    ticks: u64,
}

impl Row {
    fn rank(&self, by: By) -> (Reverse<u64>, Reverse<u64>, StreamId, Mode) {
        let (references, ticks) = (self.references as u64, self.ticks);
        let (first, then) = match by {
            By::References => (references, ticks),
            By::Ticks => (ticks, references),
        };
        (Reverse(first), Reverse(then), self.stream, self.mode)
    }
}

impl Registry {
    /// The first `top` streams that somebody has subscribed to.
    pub fn streams(&self, by: By, top: usize) -> StreamsView {
        let mut first: Vec<(Row, ScopeId, Instrument)> = Vec::new();
        for index in self.shards.indexes() {
            first.extend(self.shards.with(index, |shard| rows(shard, by, top)));
            first.sort_unstable_by_key(|(row, ..)| row.rank(by));
            first.truncate(top);
        }
        let counts = self.counts();
        let streams = first.into_iter().map(|(row, scope, instrument)| StreamView {
            instrument,
            mode: row.mode,
            scope: self.scope_name(scope, row.user),
            references: row.references,
            standing: row.standing,
            depth: row.depth,
            ticks: row.ticks,
        });
        StreamsView { active: counts.active, shared_ratio: counts.shared_ratio(), streams: streams.collect() }
    }

    fn scope_name(&self, scope: ScopeId, user: UserId) -> String {
        if scope == ScopeId::SHARED {
            return "shared".into();
        }
        let broker = self.links.with(|links| links.get(user).and_then(|link| link.broker.clone()));
        format!("{}/{}", broker.as_deref().unwrap_or("none"), self.user_name(user))
    }

    /// The user's name, or its number when it has gone.
    pub(super) fn user_name(&self, user: UserId) -> String {
        self.users.with(|users| users.name(user)).map_or_else(|| format!("#{}", user.0), |name| name.to_string())
    }
}

/// The first rows of one shard, with what only it knows of them.
fn rows(shard: &Shard, by: By, top: usize) -> Vec<(Row, ScopeId, Instrument)> {
    let mut by_stream: HashMap<(StreamId, Mode), Row, ahash::RandomState> = HashMap::default();
    for key in shard.keys.iter() {
        let (stream, mode, references) = (key.stream, key.name.mode, key.sessions.len());
        let new = || Row {
            stream,
            mode,
            user: key.user,
            references: 0,
            standing: Standing::Live,
            depth: 0,
            ticks: shard.streams.ticks(stream, mode),
        };
        let row = by_stream.entry((stream, mode)).or_insert_with(new);
        row.references += references;
        row.standing = row.standing.max(key.standing);
        row.depth = row.depth.max(key.depth);
    }
    let mut rows: Vec<Row> = by_stream.into_values().collect();
    if rows.len() > top {
        rows.select_nth_unstable_by_key(top, |row| row.rank(by));
        rows.truncate(top);
    }
    let named = |row: Row| shard.streams.stream(row.stream).map(|(scope, name)| (row, scope, name.to_owned()));
    rows.into_iter().filter_map(named).collect()
}
