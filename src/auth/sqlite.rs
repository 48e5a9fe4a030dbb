//! tickcast's own key store: one SQLite file, written by `tickcast keys`, read by the server.
//!
//! A key is 256 random bits, so guessing it is hopeless and a slow hash would buy nothing: Argon2 protects secrets that
//! people choose. Keys are stored as SHA-256 of the store's salt and the key, looked up by index in microseconds; the
//! salt makes two stores' hashes of one key differ. Nothing is cached: a revoked key is refused at its next use.
//! Default rollback journal, so that a reader needs no right to write.

use super::{AuthError, Identity, KeyStore, key_id};
use crate::model::Class;
use rand::TryRng;
use rand::rngs::SysRng;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Marks the file as ours: "tick".
const APPLICATION_ID: i32 = 0x7469_636b;
const BUSY: Duration = Duration::from_secs(2);
/// A user's name, bytes.
pub const USER_BYTES_MAX: usize = 64;
/// A broker's name, bytes.
pub const BROKER_BYTES_MAX: usize = 32;

const SCHEMA: &str = "
CREATE TABLE store (salt BLOB NOT NULL);
CREATE TABLE keys (
  id INTEGER PRIMARY KEY AUTOINCREMENT, -- never given to another key, so that a revoke cannot hit a later one
  key_hash BLOB NOT NULL UNIQUE,
  user TEXT NOT NULL,
  broker TEXT NOT NULL,
  class TEXT NOT NULL,
  created_at INTEGER NOT NULL,          -- seconds since the UNIX epoch
  revoked_at INTEGER
);
CREATE INDEX keys_user ON keys (user);
";

/// Why the key store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No file there.
    #[error("{} does not exist; `tickcast keys add --store {} --user … --broker …` makes it", .0.display(), .0.display())]
    Missing(PathBuf),
    /// A file, but not ours.
    #[error("{} is not a tickcast key store; name the file that `tickcast keys add --store` made", .0.display())]
    NotAStore(PathBuf),
    /// SQLite's word.
    #[error("cannot use {}: {cause}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What failed.
        cause: String,
    },
    /// The user's name cannot be one.
    #[error("user {0:?}: write 1 to {USER_BYTES_MAX} bytes without blanks or control characters")]
    User(String),
    /// The broker's name cannot be one.
    #[error("broker {0:?}: write 1 to {BROKER_BYTES_MAX} letters, digits, _ or -")]
    Broker(String),
    /// A user has one broker.
    #[error(
        "user {user} already has a key for broker {broker}; a user has one broker: revoke that key first, or use another user name"
    )]
    OtherBroker {
        /// The user.
        user: String,
        /// The broker of the other keys.
        broker: String,
    },
    /// Nothing to revoke.
    #[error("no live key matches; `tickcast keys list` shows all")]
    NoSuchKey,
}

/// A line of `keys list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// For `revoke --id`.
    pub id: i64,
    /// First eight hex digits of the stored hash.
    pub fingerprint: String,
    /// Whose key it is.
    pub user: String,
    /// That user's broker.
    pub broker: String,
    /// The key's class.
    pub class: String,
    /// Seconds since the UNIX epoch.
    pub created_at: i64,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
}

/// Which keys to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// One, by its id.
    Id(i64),
    /// All of one user.
    User(String),
}

/// The key store, open for writing.
pub struct KeyFile {
    file: PathBuf,
    db: Connection,
    salt: Vec<u8>,
}

impl KeyFile {
    /// Opens `file`; makes it if `create`.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::NotAStore`] or [`StoreError::Unusable`].
    pub fn open(file: &Path, create: bool) -> Result<Self, StoreError> {
        let unusable = |cause: String| StoreError::Unusable { file: file.to_path_buf(), cause };
        if create && !file.exists() {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(file).map_err(|error| unusable(error.to_string()))?;
            let made =
                connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|mut db| make(&mut db).map_err(unusable));
            if let Err(error) = made {
                // Half a store would be refused as somebody else's file next time.
                let _ = std::fs::remove_file(file);
                return Err(error);
            }
        }
        let (db, salt) = open(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        Ok(KeyFile { file: file.to_path_buf(), db, salt })
    }

    fn unusable(&self, error: rusqlite::Error) -> StoreError {
        StoreError::Unusable { file: self.file.clone(), cause: error.to_string() }
    }

    /// Makes a key for `user`: 64 hex digits from the operating system's generator. It cannot be had again.
    ///
    /// # Errors
    /// [`StoreError::User`], [`StoreError::Broker`], [`StoreError::OtherBroker`], [`StoreError::Unusable`].
    pub fn add(&mut self, user: &str, broker: &str, class: Class) -> Result<String, StoreError> {
        if user.is_empty() || user.len() > USER_BYTES_MAX || user.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(StoreError::User(user.into()));
        }
        let broker = broker.to_ascii_lowercase();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if broker.is_empty() || broker.len() > BROKER_BYTES_MAX || !broker.chars().all(fits) {
            return Err(StoreError::Broker(broker));
        }
        let key = random_key().map_err(|cause| StoreError::Unusable { file: self.file.clone(), cause })?;
        match self.insert(user, &broker, class, &hash(&self.salt, &key)) {
            Ok(None) => Ok(key),
            Ok(Some(other)) => Err(StoreError::OtherBroker { user: user.into(), broker: other }),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// `Some(broker)` = refused, for the user's live keys name that broker.
    fn insert(&mut self, user: &str, broker: &str, class: Class, hash: &[u8]) -> rusqlite::Result<Option<String>> {
        let step = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let other = "SELECT broker FROM keys WHERE user = ?1 AND broker <> ?2 AND revoked_at IS NULL LIMIT 1";
        let other: Option<String> = step.query_row(other, params![user, broker], |row| row.get(0)).optional()?;
        if other.is_none() {
            let insert = "INSERT INTO keys (key_hash, user, broker, class, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";
            step.execute(insert, params![hash, user, broker, class.label(), now()])?;
            step.commit()?;
        }
        Ok(other)
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unusable`].
    pub fn list(&self) -> Result<Vec<KeyRow>, StoreError> {
        let all = || -> rusqlite::Result<Vec<KeyRow>> {
            let select = "SELECT id, substr(hex(key_hash), 1, 8), user, broker, class, created_at, revoked_at FROM keys ORDER BY id";
            let mut statement = self.db.prepare(select)?;
            let rows = statement.query_map([], |row| {
                Ok(KeyRow {
                    id: row.get(0)?,
                    fingerprint: row.get::<_, String>(1)?.to_lowercase(),
                    user: row.get(2)?,
                    broker: row.get(3)?,
                    class: row.get(4)?,
                    created_at: row.get(5)?,
                    revoked_at: row.get(6)?,
                })
            })?;
            rows.collect()
        };
        all().map_err(|error| self.unusable(error))
    }

    /// Revokes live keys and counts them.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`] if there was none, [`StoreError::Unusable`].
    pub fn revoke(&mut self, which: &Which) -> Result<usize, StoreError> {
        let revoked = match which {
            Which::Id(id) => self
                .db
                .execute("UPDATE keys SET revoked_at = ?1 WHERE id = ?2 AND revoked_at IS NULL", params![now(), id]),
            Which::User(user) => self.db.execute(
                "UPDATE keys SET revoked_at = ?1 WHERE user = ?2 AND revoked_at IS NULL",
                params![now(), user],
            ),
        };
        match revoked {
            Ok(0) => Err(StoreError::NoSuchKey),
            Ok(count) => Ok(count),
            Err(error) => Err(self.unusable(error)),
        }
    }
}

/// The key store, open for the server.
pub(super) struct SqliteStore {
    file: PathBuf,
    open: Option<(FileId, Connection, Vec<u8>)>,
}

impl SqliteStore {
    pub(super) fn open(file: &Path) -> Result<Self, StoreError> {
        let mut store = SqliteStore { file: file.to_path_buf(), open: None };
        store.connection()?;
        Ok(store)
    }

    /// The connection, made again if the file is another than before.
    fn connection(&mut self) -> Result<(&Connection, &[u8]), StoreError> {
        let id = FileId::of(&self.file).ok_or_else(|| StoreError::Missing(self.file.clone()))?;
        if self.open.as_ref().is_none_or(|(known, ..)| *known != id) {
            let (db, salt) = open(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            self.open = Some((id, db, salt));
        }
        let (_, db, salt) = self.open.as_ref().expect("opened above");
        Ok((db, salt))
    }
}

impl SqliteStore {
    /// The first column of the first row, if there is one.
    fn one<T: rusqlite::types::FromSql>(
        &mut self,
        select: &str,
        parameter: impl rusqlite::ToSql,
    ) -> Result<Option<T>, AuthError> {
        let unavailable = |error: StoreError| AuthError::Unavailable(error.to_string());
        let (db, _) = self.connection().map_err(unavailable)?;
        let row = db.prepare_cached(select).and_then(|mut s| s.query_row([parameter], |row| row.get(0)).optional());
        row.map_err(|error| {
            // The next attempt starts with a new connection.
            self.open = None;
            unavailable(StoreError::Unusable { file: self.file.clone(), cause: error.to_string() })
        })
    }
}

impl KeyStore for SqliteStore {
    fn verify(&mut self, api_key: &str) -> Result<Identity, AuthError> {
        let unavailable = |error: StoreError| AuthError::Unavailable(error.to_string());
        let (db, salt) = self.connection().map_err(unavailable)?;
        let hash = hash(salt, api_key);
        let select = "SELECT user, broker, class FROM keys WHERE key_hash = ?1 AND revoked_at IS NULL";
        let row = db.prepare_cached(select).and_then(|mut statement| {
            let fields = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_row([&hash[..]], fields).optional()
        });
        match row {
            Ok(None) => Err(AuthError::Invalid),
            Ok(Some((user, broker, class))) => {
                let (user, broker, class): (String, String, String) = (user, broker, class);
                let class = Class::from_label(&class).unwrap_or_default();
                Ok(Identity {
                    user: user.into(),
                    broker: Some(broker.into()),
                    class,
                    key_id: key_id(&hash),
                    demo: false,
                })
            }
            Err(error) => {
                let file = self.file.clone();
                // The next attempt starts with a new connection.
                self.open = None;
                Err(unavailable(StoreError::Unusable { file, cause: error.to_string() }))
            }
        }
    }

    fn broker_of(&mut self, user: &str) -> Result<Option<Arc<str>>, AuthError> {
        let select = "SELECT broker FROM keys WHERE user = ?1 AND revoked_at IS NULL LIMIT 1";
        let broker: Option<String> = self.one(select, user)?;
        Ok(broker.map(Arc::from))
    }

    fn still_valid(&mut self, key_id: u64) -> Result<bool, AuthError> {
        let select = "SELECT 1 FROM keys WHERE substr(key_hash, 1, 8) = ?1 AND revoked_at IS NULL LIMIT 1";
        let found: Option<i64> = self.one(select, key_id.to_be_bytes().as_slice())?;
        Ok(found.is_some())
    }

    fn count(&mut self) -> Result<usize, AuthError> {
        let live: Option<i64> = self.one("SELECT count(*) FROM keys WHERE revoked_at IS ?1", rusqlite::types::Null)?;
        Ok(live.and_then(|n| usize::try_from(n).ok()).unwrap_or_default())
    }

    fn invalidate(&mut self) {}
}

/// Which file a path names, so that a replaced one is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    pub(crate) fn of(file: &Path) -> Option<Self> {
        let meta = std::fs::metadata(file).ok()?;
        Some(FileId(std::os::unix::fs::MetadataExt::dev(&meta), std::os::unix::fs::MetadataExt::ino(&meta)))
    }
}

/// A connection with a deadline for locks held by others. No flag makes a file.
pub(super) fn connect(file: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let open = || {
        let db = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(BUSY)?;
        Ok(db)
    };
    open().map_err(|error: rusqlite::Error| StoreError::Unusable { file: file.to_path_buf(), cause: error.to_string() })
}

fn open(file: &Path, access: OpenFlags) -> Result<(Connection, Vec<u8>), StoreError> {
    if !file.exists() {
        return Err(StoreError::Missing(file.to_path_buf()));
    }
    let db = connect(file, access)?;
    let not_ours = |_| StoreError::NotAStore(file.to_path_buf());
    let id: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(not_ours)?;
    if id != APPLICATION_ID {
        return Err(StoreError::NotAStore(file.to_path_buf()));
    }
    let salt = db.query_row("SELECT salt FROM store", [], |row| row.get(0)).map_err(not_ours)?;
    Ok((db, salt))
}

fn make(db: &mut Connection) -> Result<(), String> {
    let mut salt = [0; 32];
    SysRng.try_fill_bytes(&mut salt).map_err(|error| error.to_string())?;
    let make = |db: &mut Connection| {
        let step = db.transaction()?;
        step.execute_batch(SCHEMA)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.execute("INSERT INTO store (salt) VALUES (?1)", [&salt[..]])?;
        step.commit()
    };
    make(db).map_err(|error: rusqlite::Error| error.to_string())
}

fn hash(salt: &[u8], key: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(key).finalize().into()
}

fn random_key() -> Result<String, String> {
    let mut bytes = [0_u8; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
