//! All keys of one shard, by user, so that the replay of one user touches nobody else's.

use super::call::{CallId, Op};
use super::fault::Fault;
use super::machine::{Context, Effects, Join, Key, Leave};
use super::standing::Standing;
use crate::model::{Instrument, InstrumentRef, Mode, SessionId, StreamId, UserId};
use hashbrown::{Equivalent, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};

/// What a key is about, within one user.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyName {
    /// Which instrument.
    pub instrument: Instrument,
    /// Which mode of it.
    pub mode: Mode,
}

impl Hash for KeyName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef(self.instrument.as_ref(), self.mode).hash(state);
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.instrument, self.mode.label())
    }
}

#[derive(Hash)]
struct KeyRef<'a>(InstrumentRef<'a>, Mode);

impl Equivalent<KeyName> for KeyRef<'_> {
    fn equivalent(&self, key: &KeyName) -> bool {
        self.1 == key.mode && self.0 == key.instrument.as_ref()
    }
}

/// How many keys have how many references; kept up to date at each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefCounts {
    /// Sessions × keys: the references in all.
    pub active: u64,
    /// Keys with 1, 2-4, 5-16, 17-64, 65-256, 257+ references.
    pub keys: [u64; 6],
}

impl RefCounts {
    /// Labels of [`RefCounts::keys`].
    pub const LABELS: [&'static str; 6] = ["1", "2-4", "5-16", "17-64", "65-256", "257+"];

    /// Adds another shard's counts.
    pub fn add(&mut self, other: &RefCounts) {
        self.active += other.active;
        for (mine, theirs) in self.keys.iter_mut().zip(other.keys) {
            *mine += theirs;
        }
    }

    /// Keys held by at least two sessions ÷ keys held; 0 when there are none.
    pub fn shared_ratio(&self) -> f64 {
        let all: u64 = self.keys.iter().sum();
        if all == 0 { 0.0 } else { (all - self.keys[0]) as f64 / all as f64 }
    }

    fn moved(&mut self, before: usize, after: usize) {
        self.active = self.active + after as u64 - before as u64;
        if before > 0 {
            self.keys[Self::band(before)] -= 1;
        }
        if after > 0 {
            self.keys[Self::band(after)] += 1;
        }
    }

    fn band(refs: usize) -> usize {
        match refs {
            0..=1 => 0,
            2..=4 => 1,
            5..=16 => 2,
            17..=64 => 3,
            65..=256 => 4,
            _ => 5,
        }
    }
}

/// A look at one key.
#[derive(Clone, Copy, Debug)]
pub struct KeyView<'a> {
    /// Whose it is.
    pub user: UserId,
    /// What it is about.
    pub name: &'a KeyName,
    /// The stream it pins.
    pub stream: StreamId,
    /// Sessions that hold or await it.
    pub sessions: &'a [SessionId],
    /// Whether we believe that the broker has it.
    pub live: bool,
    /// Whether the broker may have it, or is being asked.
    pub may_be_at_broker: bool,
    /// Where it stands with the broker.
    pub standing: Standing,
    /// Price levels, as far as known.
    pub depth: u32,
}

#[derive(Debug)]
struct Entry<W> {
    key: Key<W>,
    stream: StreamId,
    scale: u8,
}

/// What a key's takers must know of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The stream the key pins.
    pub stream: StreamId,
    /// Decimal digits of its integer prices.
    pub scale: u8,
    /// Price levels, as far as known.
    pub depth: u32,
}

/// All keys of one shard. A key exists while somebody wants it or the broker may have it, and pins its stream for
/// as long: whoever calls must unpin the stream that a method says is over.
#[derive(Debug)]
pub struct KeyTable<W> {
    users: HashMap<UserId, HashMap<KeyName, Entry<W>, ahash::RandomState>, ahash::RandomState>,
    counts: RefCounts,
}

impl<W> Default for KeyTable<W> {
    fn default() -> Self {
        KeyTable { users: HashMap::default(), counts: RefCounts::default() }
    }
}

/// A key's stream and scale, and whether the key is gone (so that its pin must be given back).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The stream the key pins.
    pub stream: StreamId,
    /// Decimal digits of its integer prices.
    pub scale: u8,
    /// References left.
    pub refs: usize,
    /// The key is forgotten: unpin its stream.
    pub over: bool,
}

impl<W> KeyTable<W> {
    /// Whether `user` has this key (wanted, or being let go).
    pub fn has(&self, user: UserId, instrument: InstrumentRef<'_>, mode: Mode) -> bool {
        self.users.get(&user).is_some_and(|keys| keys.contains_key(&KeyRef(instrument, mode)))
    }

    /// Makes a key that pins `stream`, wanted by nobody yet. It must not exist.
    pub fn insert(&mut self, user: UserId, instrument: InstrumentRef<'_>, mode: Mode, stream: StreamId, scale: u8) {
        let name = KeyName { instrument: instrument.to_owned(), mode };
        let entry = Entry { key: Key::default(), stream, scale };
        let before = self.users.entry(user).or_default().insert(name, entry);
        debug_assert!(before.is_none(), "a key is made once");
    }

    /// The stream of a key; `None` if there is no such key.
    pub fn pin_of(&self, user: UserId, instrument: InstrumentRef<'_>, mode: Mode) -> Option<Pin> {
        let entry = self.users.get(&user)?.get(&KeyRef(instrument, mode))?;
        Some(Pin { stream: entry.stream, scale: entry.scale, depth: entry.key.known_depth() })
    }

    /// Gives keys of `user` other streams: those for which `f`, told the present one, answers with stream and scale.
    /// The pins are the caller's business.
    pub fn move_pins(&mut self, user: UserId, mut f: impl FnMut(&KeyName, StreamId) -> Option<(StreamId, u8)>) {
        for (name, entry) in self.users.get_mut(&user).into_iter().flatten() {
            if let Some((stream, scale)) = f(name, entry.stream) {
                (entry.stream, entry.scale) = (stream, scale);
            }
        }
    }

    /// [`Key::join`]; the key must have been made.
    #[expect(clippy::too_many_arguments, reason = "a key's name and a join's parts, all different types")]
    pub fn join(
        &mut self,
        user: UserId,
        (instrument, mode): (InstrumentRef<'_>, Mode),
        session: SessionId,
        waiter: W,
        depth: u32,
        cx: &Context<'_>,
        fx: &mut Effects<W>,
    ) -> Option<(Join, Touched)> {
        self.touch(user, instrument, mode, |key| key.join(session, waiter, depth, cx, fx))
    }

    /// [`Key::leave`]; `None` if there is no such key.
    pub fn leave(
        &mut self,
        user: UserId,
        (instrument, mode): (InstrumentRef<'_>, Mode),
        session: SessionId,
        waiter: Option<W>,
        cx: &Context<'_>,
        fx: &mut Effects<W>,
    ) -> Option<(Leave, Touched)> {
        self.touch(user, instrument, mode, |key| key.leave(session, waiter, cx, fx))
    }

    /// [`Key::result`]; `None` if there is no such key or the call is not its.
    pub fn result(
        &mut self,
        user: UserId,
        name: &KeyName,
        call: CallId,
        outcome: Result<Option<u32>, Fault>,
        cx: &Context<'_>,
        fx: &mut Effects<W>,
    ) -> Option<Touched> {
        self.touch(user, name.instrument.as_ref(), name.mode, |key| key.result(call, outcome, cx, fx))
            .and_then(|(known, touched)| known.then_some(touched))
    }

    /// [`Key::timeout`]; `None` if there is no such key or the call is not its.
    pub fn timeout(
        &mut self,
        user: UserId,
        name: &KeyName,
        call: CallId,
        fault: Fault,
        cx: &Context<'_>,
        fx: &mut Effects<W>,
    ) -> Option<Touched> {
        self.touch(user, name.instrument.as_ref(), name.mode, |key| key.timeout(call, fault, cx, fx))
            .and_then(|(known, touched)| known.then_some(touched))
    }

    /// [`Key::late_success`]; a key that is gone must be made first.
    pub fn late_success(
        &mut self,
        user: UserId,
        name: &KeyName,
        (call, op, depth): (CallId, Op, Option<u32>),
        cx: &Context<'_>,
        fx: &mut Effects<W>,
    ) -> Option<Touched> {
        self.touch(user, name.instrument.as_ref(), name.mode, |key| key.late_success(call, op, depth, cx, fx))
            .map(|(_, touched)| touched)
    }

    /// [`Key::retry`] for every key of `user`. Each key that did something is handed to `act` with its effects;
    /// returns whether any key still waits for a retry. Costs a look at each key of the user.
    pub fn retry_user(
        &mut self,
        user: UserId,
        cx: &Context<'_>,
        act: impl FnMut(&KeyName, Touched, Effects<W>),
    ) -> bool {
        let mut waiting = false;
        self.each(user, act, |key, fx| waiting |= key.retry(cx, fx));
        waiting
    }

    /// [`Key::reset`] for every key of `user`.
    pub fn reset_user(
        &mut self,
        user: UserId,
        fresh: bool,
        cx: &Context<'_>,
        act: impl FnMut(&KeyName, Touched, Effects<W>),
    ) {
        self.each(user, act, |key, fx| key.reset(fresh, cx, fx));
    }

    /// All keys of the shard, in no order.
    pub fn iter(&self) -> impl Iterator<Item = KeyView<'_>> {
        self.users.iter().flat_map(|(user, keys)| {
            keys.iter().map(|(name, e)| KeyView {
                user: *user,
                name,
                stream: e.stream,
                sessions: e.key.sessions(),
                live: e.key.is_live(),
                may_be_at_broker: e.key.may_be_at_broker(),
                standing: e.key.standing(),
                depth: e.key.known_depth(),
            })
        })
    }

    /// Keys of the shard, counted.
    pub fn len(&self) -> usize {
        self.users.values().map(HashMap::len).sum()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// References by count.
    pub fn counts(&self) -> RefCounts {
        self.counts
    }

    fn touch<R>(
        &mut self,
        user: UserId,
        instrument: InstrumentRef<'_>,
        mode: Mode,
        f: impl FnOnce(&mut Key<W>) -> R,
    ) -> Option<(R, Touched)> {
        let keys = self.users.get_mut(&user)?;
        let entry = keys.get_mut(&KeyRef(instrument, mode))?;
        let before = entry.key.refs();
        let out = f(&mut entry.key);
        let (refs, over) = (entry.key.refs(), entry.key.is_over());
        let touched = Touched { stream: entry.stream, scale: entry.scale, refs, over };
        self.counts.moved(before, refs);
        if over {
            keys.remove(&KeyRef(instrument, mode));
            if keys.is_empty() {
                self.users.remove(&user);
            }
        }
        Some((out, touched))
    }

    fn each(
        &mut self,
        user: UserId,
        mut act: impl FnMut(&KeyName, Touched, Effects<W>),
        mut f: impl FnMut(&mut Key<W>, &mut Effects<W>),
    ) {
        let Some(keys) = self.users.get_mut(&user) else { return };
        let counts = &mut self.counts;
        keys.retain(|name, entry| {
            let before = entry.key.refs();
            let mut fx = Effects::default();
            f(&mut entry.key, &mut fx);
            let (refs, over) = (entry.key.refs(), entry.key.is_over());
            counts.moved(before, refs);
            if over || fx.call.is_some() || !fx.done.is_empty() || !fx.events.is_empty() {
                act(name, Touched { stream: entry.stream, scale: entry.scale, refs, over }, fx);
            }
            !over
        });
        if keys.is_empty() {
            self.users.remove(&user);
        }
    }
}
