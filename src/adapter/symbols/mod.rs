//! Symbol tables: what an OpenAlgo name is called at a broker, and which names a broker's key stands for.
//!
//! In: files of instruments (`load.rs`). Out: a [`Table`], made once and then only read, so it can be shared without a lock.
//! Promises: one broker's exchanges only (a row of an exchange its feed does not have is passed over and counted, never
//! taken for another); tokens are compared together with their exchange, since they repeat across exchanges; about 60 bytes
//! an instrument. A key may have several names: all are kept.
//! Knows nothing of sockets, subscriptions or users. Naming rules are in `names.rs`, the files' forms in one file each.

mod angel;
mod csv;
mod key;
mod kite;
pub mod load;
mod names;
mod noren;
mod openalgo;
mod summary;

pub use key::Key;
pub use load::{LoadError, Loaded, Stamp, load};
pub(crate) use names::share;
pub use summary::{RowError, Summary};

use crate::model::InstrumentRef;
use hashbrown::HashTable;

/// Instruments of one table, counted; all Indian exchanges together list about 200,000.
pub const INSTRUMENTS_MAX: usize = 2_000_000;
/// A broker's token, bytes: the width of the field in Angel's packets, the longest there is.
pub const TOKEN_BYTES_MAX: usize = 25;
/// Distinct OpenAlgo exchanges of one table, counted; an entry holds its number in a byte.
const VENUES_MAX: usize = 255;
/// Digits after the point beyond which a tick size is taken for noise.
const SCALE_MAX: u8 = 8;
/// No scale, or no next entry.
const NO_SCALE: u8 = u8::MAX;
const NO_ENTRY: u32 = u32::MAX;

/// Whose files and keys these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Zerodha: a u32 token says everything.
    Kite,
    /// Angel One: exchange type and token.
    Angel,
    /// Flattrade: exchange and token.
    Flattrade,
    /// Shoonya: exchange and token.
    Shoonya,
}

/// An exchange as one broker's feed names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedExchange {
    /// As in a Noren scrip; empty at Zerodha, whose tokens are unique.
    pub name: &'static str,
    /// Angel's exchange type; at the Noren brokers a number of ours.
    pub code: u8,
}

const fn exchange(name: &'static str, code: u8) -> FeedExchange {
    FeedExchange { name, code }
}

const KITE: &[FeedExchange] = &[exchange("", 0)];
/// 7 is called `ncx_fo`. Files that say NCDEX are not trusted to mean it: nobody has confirmed that the codes agree, and a
/// wrong guess shows the price of another instrument.
const ANGEL: &[FeedExchange] = &[
    exchange("NSE", 1),
    exchange("NFO", 2),
    exchange("BSE", 3),
    exchange("BFO", 4),
    exchange("MCX", 5),
    exchange("NCX", 7),
    exchange("CDS", 13),
];
const NOREN: &[FeedExchange] = &[
    exchange("NSE", 1),
    exchange("BSE", 2),
    exchange("NFO", 3),
    exchange("BFO", 4),
    exchange("CDS", 5),
    exchange("MCX", 6),
    exchange("NCX", 7),
];

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 4] = [Dialect::Kite, Dialect::Angel, Dialect::Flattrade, Dialect::Shoonya];

    /// The broker's name, as in settings.
    pub fn label(self) -> &'static str {
        match self {
            Dialect::Kite => "zerodha",
            Dialect::Angel => "angel",
            Dialect::Flattrade => "flattrade",
            Dialect::Shoonya => "shoonya",
        }
    }

    /// The exchanges that the broker's feed has.
    pub fn exchanges(self) -> &'static [FeedExchange] {
        match self {
            Dialect::Kite => KITE,
            Dialect::Angel => ANGEL,
            Dialect::Flattrade | Dialect::Shoonya => NOREN,
        }
    }

    /// The feed's exchange for the name in a file; indices trade nowhere but are fed by their exchange.
    pub fn exchange(self, name: &str) -> Option<FeedExchange> {
        let name = name.strip_suffix("_INDEX").unwrap_or(name);
        match self {
            Dialect::Kite => Some(KITE[0]),
            _ => self.exchanges().iter().find(|exchange| exchange.name == name).copied(),
        }
    }

    /// `token` in the form the feed uses, if it can be one. OpenAlgo writes Zerodha's as `instrument::::exchange`.
    fn token(self, token: &str) -> Option<&str> {
        let fits = |token: &&str| {
            (1..=TOKEN_BYTES_MAX).contains(&token.len())
                && token.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'|' | b'#' | b'"' | b':'))
        };
        match self {
            Dialect::Kite => {
                let token = token.split("::::").next()?;
                Some(token).filter(|token| token.parse::<u32>().is_ok_and(|n| n.to_string() == *token && n > 0))
            }
            _ => Some(token).filter(fits),
        }
    }
}

/// An instrument as its broker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing<'a> {
    /// Where it is fed.
    pub exchange: FeedExchange,
    /// The broker's number for it, unique on that exchange.
    pub token: &'a str,
    /// Digits after the point of its prices, when the file says.
    pub scale: Option<u8>,
}

/// One row of a file, checked when it goes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    venue: &'a str,
    symbol: &'a str,
    /// The broker's name of the exchange.
    exchange: &'a str,
    token: &'a str,
    scale: Option<u8>,
}

/// 20 bytes; texts lie in [`Table::text`].
#[derive(Clone, Copy)]
struct Entry {
    symbol_at: u32,
    token_at: u32,
    /// The next entry of the same key, [`NO_ENTRY`] at the end.
    next: u32,
    symbol_len: u8,
    token_len: u8,
    /// Index in [`Table::venues`].
    venue: u8,
    /// Index in [`Dialect::exchanges`].
    exchange: u8,
    scale: u8,
}

/// One broker's instruments.
pub struct Table {
    dialect: Dialect,
    venues: Vec<Box<str>>,
    text: String,
    entries: Vec<Entry>,
    /// Entries by (venue, symbol).
    names: HashTable<u32>,
    /// First entry of each (exchange, token).
    keys: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl Table {
    fn new(dialect: Dialect) -> Self {
        Table {
            dialect,
            venues: Vec::new(),
            text: String::new(),
            entries: Vec::new(),
            names: HashTable::new(),
            keys: HashTable::new(),
            hasher: ahash::RandomState::new(),
        }
    }

    /// Whose instruments these are.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Instruments, by their names.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory held, bytes, without allocator overhead.
    pub fn bytes(&self) -> usize {
        // A hash table keeps one control byte a bucket, and buckets are a power of two at most 7/8 full.
        let buckets = |table: &HashTable<u32>| (table.capacity() * 8 / 7) * 5;
        self.text.capacity() + self.entries.capacity() * size_of::<Entry>() + buckets(&self.names) + buckets(&self.keys)
    }

    /// What `name` is at the broker.
    pub fn find(&self, name: InstrumentRef<'_>) -> Option<Listing<'_>> {
        let hash = self.hasher.hash_one((name.venue, name.symbol));
        let at = self.names.find(hash, |&at| self.name(at) == name)?;
        let entry = &self.entries[*at as usize];
        Some(Listing {
            exchange: self.dialect.exchanges()[usize::from(entry.exchange)],
            token: self.token(*at),
            scale: Some(entry.scale).filter(|scale| *scale != NO_SCALE),
        })
    }

    /// All names of a broker's key, in the order of the files; none if it is unknown.
    pub fn names_of<'a>(&'a self, exchange: FeedExchange, token: &str) -> impl Iterator<Item = InstrumentRef<'a>> + 'a {
        let index = self.dialect.exchanges().iter().position(|known| *known == exchange);
        let first = index.and_then(|index| self.first_of(index as u8, token));
        let next = |at: &u32| Some(self.entries[*at as usize].next).filter(|next| *next != NO_ENTRY);
        std::iter::successors(first, next).map(|at| self.name(at))
    }

    fn first_of(&self, exchange: u8, token: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((exchange, token));
        let same = |&at: &u32| self.entries[at as usize].exchange == exchange && self.token(at) == token;
        self.keys.find(hash, same).copied()
    }

    fn name(&self, at: u32) -> InstrumentRef<'_> {
        let entry = &self.entries[at as usize];
        let symbol = &self.text[entry.symbol_at as usize..][..usize::from(entry.symbol_len)];
        InstrumentRef { venue: &self.venues[usize::from(entry.venue)], symbol }
    }

    fn token(&self, at: u32) -> &str {
        let entry = &self.entries[at as usize];
        &self.text[entry.token_at as usize..][..usize::from(entry.token_len)]
    }

    /// Takes a row in. A name that is there already keeps its first meaning.
    fn insert(&mut self, row: Row<'_>) -> Result<(), RowError> {
        let name = InstrumentRef { venue: row.venue, symbol: row.symbol };
        if !name.is_acceptable() {
            return Err(RowError::Name(format!("{name:?}")));
        }
        let exchange = self.dialect.exchange(row.exchange).ok_or_else(|| RowError::Exchange(row.exchange.into()))?;
        let token = self.dialect.token(row.token).ok_or_else(|| RowError::Token(row.token.into()))?;
        if let Some(known) = self.find(name) {
            let again = known.exchange == exchange && known.token == token;
            return Err(if again { RowError::Again } else { RowError::Taken(format!("{name:?}")) });
        }
        if self.entries.len() >= INSTRUMENTS_MAX {
            return Err(RowError::Full);
        }
        let venue = self.venue(row.venue).ok_or(RowError::Full)?;
        let exchange = self.dialect.exchanges().iter().position(|known| *known == exchange).expect("found there") as u8;
        let at = self.entries.len() as u32;
        let same_key = self.first_of(exchange, token);
        let token_at = match same_key {
            Some(first) => self.entries[first as usize].token_at,
            None => self.add_text(token),
        };
        let symbol_at = self.add_text(row.symbol);
        self.entries.push(Entry {
            symbol_at,
            token_at,
            next: NO_ENTRY,
            symbol_len: row.symbol.len() as u8,
            token_len: token.len() as u8,
            venue,
            exchange,
            scale: row.scale.filter(|scale| *scale <= SCALE_MAX).unwrap_or(NO_SCALE),
        });
        self.enter(at, same_key);
        Ok(())
    }

    /// Makes the entry findable; `same_key` is the first entry of its key, if it is not that itself.
    fn enter(&mut self, at: u32, same_key: Option<u32>) {
        let Table { venues, text, entries, names, keys, hasher, .. } = self;
        let entry_name = |at: &u32| {
            let entry = &entries[*at as usize];
            let symbol = &text[entry.symbol_at as usize..][..usize::from(entry.symbol_len)];
            hasher.hash_one((&*venues[usize::from(entry.venue)], symbol))
        };
        names.insert_unique(entry_name(&at), at, entry_name);
        if let Some(first) = same_key {
            let mut last = first as usize;
            while entries[last].next != NO_ENTRY {
                last = entries[last].next as usize;
            }
            entries[last].next = at;
            return;
        }
        let entry_key = |at: &u32| {
            let entry = &entries[*at as usize];
            hasher.hash_one((entry.exchange, &text[entry.token_at as usize..][..usize::from(entry.token_len)]))
        };
        keys.insert_unique(entry_key(&at), at, entry_key);
    }

    /// Offsets fit: the texts of [`INSTRUMENTS_MAX`] instruments stay far below 4 GiB.
    fn add_text(&mut self, text: &str) -> u32 {
        let at = self.text.len() as u32;
        self.text.push_str(text);
        at
    }

    fn venue(&mut self, venue: &str) -> Option<u8> {
        let known = self.venues.iter().position(|known| **known == *venue);
        let index = known.or_else(|| {
            (self.venues.len() < VENUES_MAX).then(|| {
                self.venues.push(venue.into());
                self.venues.len() - 1
            })
        });
        index.map(|index| index as u8)
    }

    /// Gives back what growing left over.
    fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
    }
}

const _: () = assert!(
    INSTRUMENTS_MAX * (crate::limits::SYMBOL_BYTES_MAX + TOKEN_BYTES_MAX) < u32::MAX as usize,
    "a text's place must fit a u32"
);
const _: () = assert!(crate::limits::SYMBOL_BYTES_MAX < 256, "a symbol's length must fit a byte");

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} instruments of {}", self.len(), self.dialect.label())
    }
}

#[cfg(test)]
mod tests;
