//! OpenAlgo's key store, read-only: Argon2 over `api_keys`, broker from `auth`.
//!
//! Verifying costs 64 MiB and tens of milliseconds per stored key, so verdicts are remembered by the SHA-256 of the key. A
//! good one only as "this user, this stored hash", and the hash is read again at each use: a regenerated key dies at
//! once. A refused one for 5 minutes or until `api_keys` changes, so a new key works at once. Both are bounded.
//! No transaction stays open during Argon2; never `immutable` (OpenAlgo writes while we read); a replaced file is
//! opened anew. The pepper is used as text, as OpenAlgo does.

use super::service::OpenError;
use super::sqlite::{FileId, connect};
use super::{AuthError, Identity, KeyStore, key_id};
use crate::model::Class;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A refused key is not verified again for this long.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// Refused keys remembered.
const REFUSED_MAX: usize = 10_000;
/// Good keys remembered.
const VERIFIED_MAX: usize = 10_000;
/// Rows of `api_keys` read.
const ROWS_MAX: usize = 10_000;
/// A stored hash may ask for this much memory, KiB; OpenAlgo's ask for 64 MiB.
const ARGON2_KIB_MAX: u32 = 1 << 20;

const ADVICE: &str = "name OpenAlgo's database in auth.store (openalgo:/opt/openalgo/db/openalgo.db), and run tickcast as the user that \
                      owns it: SQLite also needs the -wal and -shm files beside it";

type KeyDigest = [u8; 32];

/// See the module.
pub(super) struct OpenAlgoStore {
    file: PathBuf,
    pepper: Arc<str>,
    open: Option<(FileId, Connection)>,
    verified: HashMap<KeyDigest, Verified>,
    refused: HashMap<KeyDigest, Instant>,
    /// `PRAGMA data_version` and digest of all rows when `refused` was last known to hold.
    rows_seen: Option<(i64, KeyDigest)>,
}

struct Verified {
    user: Arc<str>,
    stored_hash: String,
}

impl OpenAlgoStore {
    pub(super) fn open(file: &Path, pepper: Arc<str>) -> Result<Self, OpenError> {
        let mut store = OpenAlgoStore {
            file: file.to_path_buf(),
            pepper,
            open: None,
            verified: HashMap::new(),
            refused: HashMap::new(),
            rows_seen: None,
        };
        let failed = |cause| OpenError::OpenAlgo { file: file.to_path_buf(), cause, advice: ADVICE };
        let db = store.connection().map_err(failed)?;
        for columns in
            ["SELECT user_id, api_key_hash FROM api_keys LIMIT 1", "SELECT name, broker, is_revoked FROM auth LIMIT 1"]
        {
            let read = db.prepare(columns).and_then(|mut statement| statement.exists([]));
            read.map_err(|error| failed(format!("not an OpenAlgo database that can be read ({error})")))?;
        }
        Ok(store)
    }

    /// The connection, made again if the file is another than before.
    fn connection(&mut self) -> Result<&Connection, String> {
        let id = FileId::of(&self.file).ok_or("the file does not exist or cannot be reached")?;
        if self.open.as_ref().is_none_or(|(known, _)| *known != id) {
            self.rows_seen = None;
            self.refused.clear();
            let db = connect(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| error.to_string())?;
            self.open = Some((id, db));
        }
        Ok(&self.open.as_ref().expect("opened above").1)
    }

    fn ask(&mut self, api_key: &str, now: Instant) -> Result<Option<Identity>, String> {
        let digest: KeyDigest = Sha256::digest(api_key).into();
        if let Some(user) = self.verified_user(&digest)? {
            return self.identity(user, &digest).map(Some);
        }
        self.forget_refused_if_rows_changed()?;
        if self.refused.get(&digest).is_some_and(|until| now < *until) {
            return Ok(None);
        }
        let peppered = format!("{api_key}{}", self.pepper);
        let rows = rows(self.connection()?)?;
        let found = rows.into_iter().find(|(_, stored_hash)| matches(peppered.as_bytes(), stored_hash));
        let Some((user, stored_hash)) = found else {
            self.remember_refused(digest, now);
            return Ok(None);
        };
        let user: Arc<str> = user.into();
        if self.verified.len() >= VERIFIED_MAX {
            self.verified.clear();
        }
        self.verified.insert(digest, Verified { user: user.clone(), stored_hash });
        self.identity(user, &digest).map(Some)
    }

    /// The user of a key that was verified before, if that user's stored hash is still the same.
    fn verified_user(&mut self, digest: &KeyDigest) -> Result<Option<Arc<str>>, String> {
        let Some(verified) = self.verified.get(digest) else { return Ok(None) };
        let (user, stored_hash) = (verified.user.clone(), verified.stored_hash.clone());
        let select = "SELECT api_key_hash FROM api_keys WHERE user_id = ?1";
        let current = one(self.connection()?, select, &user, |row| text(row, 0))?.flatten();
        if current.as_deref() == Some(&*stored_hash) {
            return Ok(Some(user));
        }
        self.verified.remove(digest);
        Ok(None)
    }

    /// The broker is read at each use: it changes with each login at OpenAlgo.
    fn identity(&mut self, user: Arc<str>, digest: &KeyDigest) -> Result<Identity, String> {
        let broker = self.broker(&user)?;
        Ok(Identity { user, broker, class: Class::Normal, key_id: key_id(digest), demo: false })
    }

    fn broker(&mut self, user: &str) -> Result<Option<Arc<str>>, String> {
        let select = "SELECT broker, is_revoked FROM auth WHERE name = ?1";
        let row = one(self.connection()?, select, user, |row| text(row, 0).filter(|_| !is_revoked(row, 1)))?;
        let broker = row.flatten().map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
        Ok(broker.map(Arc::from))
    }

    /// `data_version` says whether anybody wrote anything, for the price of one page; only then the rows are read.
    fn forget_refused_if_rows_changed(&mut self) -> Result<(), String> {
        let db = self.connection()?;
        let version = db.query_row("PRAGMA data_version", [], |row| row.get(0)).map_err(|error| error.to_string())?;
        if self.rows_seen.is_some_and(|(seen, _)| seen == version) {
            return Ok(());
        }
        let mut all = Sha256::new();
        for (user, stored_hash) in rows(self.connection()?)? {
            all.update(user.as_bytes());
            all.update([0]);
            all.update(stored_hash.as_bytes());
            all.update([0]);
        }
        let rows: KeyDigest = all.finalize().into();
        if self.rows_seen.is_none_or(|(_, seen)| seen != rows) {
            self.refused.clear();
        }
        self.rows_seen = Some((version, rows));
        Ok(())
    }

    fn remember_refused(&mut self, digest: KeyDigest, now: Instant) {
        if self.refused.len() >= REFUSED_MAX {
            self.refused.retain(|_, until| now < *until);
        }
        // Still full: a flood of keys. The oldest verdicts are no better than the newest, so all go.
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        self.refused.insert(digest, now + REFUSED_FOR);
    }
}

impl KeyStore for OpenAlgoStore {
    fn verify(&mut self, api_key: &str) -> Result<Identity, AuthError> {
        match self.ask(api_key, Instant::now()) {
            Ok(Some(identity)) => Ok(identity),
            Ok(None) => Err(AuthError::Invalid),
            Err(cause) => {
                // The next attempt starts with a new connection.
                self.open = None;
                Err(AuthError::Unavailable(format!("{}: {cause}", self.file.display())))
            }
        }
    }

    fn broker_of(&mut self, user: &str) -> Result<Option<Arc<str>>, AuthError> {
        self.broker(user).map_err(|cause| {
            self.open = None;
            AuthError::Unavailable(format!("{}: {cause}", self.file.display()))
        })
    }

    fn still_valid(&mut self, key_id: u64) -> Result<bool, AuthError> {
        let Some(digest) = self.verified.keys().find(|digest| super::key_id(digest) == key_id).copied() else {
            return Ok(true);
        };
        self.verified_user(&digest).map(|user| user.is_some()).map_err(|cause| {
            self.open = None;
            AuthError::Unavailable(format!("{}: {cause}", self.file.display()))
        })
    }

    fn count(&mut self) -> Result<usize, AuthError> {
        let rows = self.connection().and_then(rows);
        rows.map(|rows| rows.len()).map_err(|cause| {
            self.open = None;
            AuthError::Unavailable(format!("{}: {cause}", self.file.display()))
        })
    }

    fn invalidate(&mut self) {
        self.refused.clear();
    }
}

/// All (user, stored hash) that can be a key. Rows that are NULL or not UTF-8 cannot.
fn rows(db: &Connection) -> Result<Vec<(String, String)>, String> {
    let read = || -> rusqlite::Result<Vec<_>> {
        let mut statement = db.prepare_cached("SELECT user_id, api_key_hash FROM api_keys ORDER BY rowid LIMIT ?1")?;
        let rows = statement.query_map([ROWS_MAX as i64], |row| Ok(text(row, 0).zip(text(row, 1))))?;
        rows.filter_map(Result::transpose).collect()
    };
    read().map_err(|error| error.to_string())
}

fn one<T>(db: &Connection, select: &str, user: &str, read: impl Fn(&Row<'_>) -> T) -> Result<Option<T>, String> {
    let row = db.prepare_cached(select).and_then(|mut s| s.query_row([user], |row| Ok(read(row))).optional());
    row.map_err(|error| error.to_string())
}

/// NULL is not revoked; anything that is not 0 is.
pub(super) fn is_revoked(row: &Row<'_>, column: usize) -> bool {
    match row.get_ref(column) {
        Ok(ValueRef::Null | ValueRef::Integer(0)) => false,
        Ok(ValueRef::Text(word)) => !matches!(word, b"0" | b"" | b"false" | b"FALSE"),
        _ => true,
    }
}

pub(super) fn text(row: &Row<'_>, column: usize) -> Option<String> {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes)) => String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.is_empty()),
        _ => None,
    }
}

/// Whether `stored_hash`, a PHC string with its own parameters, is of `peppered`. A damaged one is of nothing.
fn matches(peppered: &[u8], stored_hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(stored_hash) else { return false };
    let affordable = Params::try_from(&hash).is_ok_and(|params| params.m_cost() <= ARGON2_KIB_MAX);
    affordable && Argon2::default().verify_password(peppered, &hash).is_ok()
}

#[cfg(test)]
#[path = "openalgo_tests.rs"]
mod tests;
