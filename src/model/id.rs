//! Newtypes for everything that is counted or addressed, so that no two of them can be confused.

use std::fmt;
use std::sync::OnceLock;

/// One connected client: a slot of one worker, with a generation so that a message for a closed
/// session is recognised when its slot has been given to somebody else. Shown as worker, slot and
/// generation: `0-17-3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// The worker that owns the session.
    pub worker: WorkerId,
    /// Slot in that worker's table.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.worker.0, self.slot, self.generation)
    }
}

/// A delivery thread, 0-based; at most [`crate::limits::WORKERS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u8);

/// A user who has authenticated at least once in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u32);

/// An interned broker name; see [`Brokers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerId(pub u16);

/// Whose feed a stream belongs to: [`ScopeId::SHARED`], or one user's own source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeId(pub u16);

impl ScopeId {
    /// The bus that no single user owns.
    pub const SHARED: ScopeId = ScopeId(0);
}

/// One (scope, instrument), never given to another within the life of the process (an epoch). It is the
/// `id` that MessagePack clients see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Broker names seen in settings and key store, interned to small integers without a lock. Append-only: there are
/// never more names than an operator has typed.
pub struct Brokers {
    names: Box<[OnceLock<Box<str>>]>,
}

impl Brokers {
    /// An empty table.
    pub fn new() -> Self {
        Brokers { names: (0..crate::limits::BROKERS_MAX).map(|_| OnceLock::new()).collect() }
    }

    /// The id of `name` (kept in lower case), or `None` when the table is full.
    pub fn intern(&self, name: &str) -> Option<BrokerId> {
        for (i, slot) in self.names.iter().enumerate() {
            // Two threads may race for a free slot; the loser sees the winner's name and compares it.
            let held = slot.get_or_init(|| name.to_ascii_lowercase().into_boxed_str());
            if held.eq_ignore_ascii_case(name) {
                return Some(BrokerId(i as u16));
            }
        }
        None
    }

    /// The id of a name that has been interned, in any case.
    pub fn find(&self, name: &str) -> Option<BrokerId> {
        self.iter().find(|(_, held)| held.eq_ignore_ascii_case(name)).map(|(id, _)| id)
    }

    /// The name behind `id`, in lower case.
    pub fn name(&self, id: BrokerId) -> &str {
        self.names.get(usize::from(id.0)).and_then(OnceLock::get).map_or("unknown", |n| n)
    }

    /// All names interned so far.
    pub fn iter(&self) -> impl Iterator<Item = (BrokerId, &str)> {
        self.names.iter().map_while(|s| s.get()).enumerate().map(|(i, n)| (BrokerId(i as u16), &**n))
    }
}

impl Default for Brokers {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_name_is_one_id_in_any_case() {
        let brokers = Brokers::new();
        let a = brokers.intern("Zerodha").expect("room");
        let b = brokers.intern("angel").expect("room");
        assert_ne!(a, b);
        assert_eq!(brokers.intern("ZERODHA"), Some(a));
        assert_eq!(brokers.find("AnGel"), Some(b));
        assert_eq!(brokers.find("dhan"), None);
        assert_eq!(brokers.name(a), "zerodha");
    }
}
