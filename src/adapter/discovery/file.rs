//! The registry as a SQLite file: one table, WAL, one short write transaction for each call.
//!
//! Also a look takes the write lock: while somebody else holds it nobody can renew, and a look must fail rather than find
//! leases run out. A file that was replaced is opened anew. Tests: at the end, `tests/discovery.rs`.

use super::{CLEARED, millis, wall_millis};
use super::{
    ENDPOINT_BYTES_MAX, Entry, LEASE, LEASE_MAX, Look, PATIENCE, ROWS_MAX, Registry, RegistryError, Row, Whose,
};
use crate::auth::sqlite::FileId;
use crate::limits::CONTROL_NAME_BYTES_MAX;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Documented in docs/PROTOCOL.md; publishers in other languages write it.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS publishers (
  endpoint TEXT PRIMARY KEY, broker TEXT, user TEXT, pid INTEGER, expires_at INTEGER NOT NULL)";
const RENEW: &str = "INSERT INTO publishers (endpoint, broker, user, pid, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
  ON CONFLICT (endpoint) DO UPDATE SET broker = ?2, user = ?3, pid = ?4, expires_at = ?5";

pub(super) struct FileRegistry {
    path: PathBuf,
    open: Option<(FileId, Connection)>,
}

impl FileRegistry {
    pub(super) fn new(path: PathBuf) -> Self {
        FileRegistry { path, open: None }
    }

    /// Carries out one transaction that has the write lock from its beginning.
    fn write<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, RegistryError> {
        let done = self.connection().and_then(|db| {
            let step = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&step)?;
            step.commit()?;
            Ok(done)
        });
        done.map_err(|error| {
            self.open = None;
            RegistryError(format!("{}: {error}", self.path.display()))
        })
    }

    fn connection(&mut self) -> rusqlite::Result<&mut Connection> {
        let now = FileId::of(&self.path);
        if self.open.as_ref().map(|(id, _)| *id) != now || now.is_none() {
            self.open = None;
            // Whoever can write it can publish prices. Made by another process at the same moment is as good.
            let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path);
            let db = Connection::open_with_flags(
                &self.path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            db.busy_timeout(PATIENCE)?;
            let _: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            db.pragma_update(None, "synchronous", "NORMAL")?;
            db.execute_batch(SCHEMA)?;
            let id = FileId::of(&self.path).ok_or_else(|| rusqlite::Error::InvalidPath(self.path.clone()))?;
            self.open = Some((id, db));
        }
        Ok(&mut self.open.as_mut().expect("opened above").1)
    }
}

impl Registry for FileRegistry {
    fn look(&mut self) -> Result<Look, RegistryError> {
        let now = wall_millis();
        self.write(|step| {
            let mut look = Look::default();
            let dead =
                "DELETE FROM publishers WHERE typeof(expires_at) = 'integer' AND expires_at <= ?1 RETURNING endpoint";
            let mut dead = step.prepare_cached(dead)?;
            let mut rows = dead.query([now])?;
            while let Some(row) = rows.next()? {
                if let Some(endpoint) =
                    short_text(row.get_ref(0)?, ENDPOINT_BYTES_MAX).filter(|_| look.dead.len() < ROWS_MAX)
                {
                    look.dead.push(endpoint);
                }
            }
            let held = "SELECT endpoint, broker, user, expires_at, rowid FROM publishers ORDER BY rowid LIMIT ?1";
            let mut held = step.prepare_cached(held)?;
            let mut rows = held.query([ROWS_MAX as i64])?;
            while let Some(row) = rows.next()? {
                let number: i64 = row.get(4)?;
                look.rows.push(read(row, now)?.ok_or_else(|| format!("row {number}")));
            }
            Ok(look)
        })
    }

    fn is_anothers(&mut self, entry: &Entry) -> Result<bool, RegistryError> {
        let (endpoint, since) = (entry.endpoint.to_string(), wall_millis() - millis(CLEARED));
        let held = "SELECT broker, user FROM publishers WHERE endpoint = ?1 AND expires_at > ?2";
        self.write(|step| {
            let mut held = step.prepare_cached(held)?;
            let mut rows = held.query(params![endpoint, since])?;
            let Some(row) = rows.next()? else { return Ok(false) };
            let text = |at| -> rusqlite::Result<Option<String>> {
                Ok(row.get_ref(at)?.as_str_or_null().unwrap_or_default().map(str::to_owned))
            };
            let whose = Whose { broker: text(0)?, user: text(1)? };
            Ok(!entry.whose.shares_with(&whose))
        })
    }

    fn renew(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let (endpoint, pid) = (entry.endpoint.to_string(), std::process::id());
        let Whose { broker, user } = &entry.whose;
        self.write(|step| {
            // Not before the lock is had: waiting for it must not shorten the lease.
            let expires_at = wall_millis() + millis(LEASE);
            step.prepare_cached(RENEW)?.execute(params![endpoint, broker, user, pid, expires_at]).map(drop)
        })
    }

    fn leave(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let (endpoint, pid) = (entry.endpoint.to_string(), std::process::id());
        let leave = "DELETE FROM publishers WHERE endpoint = ?1 AND pid = ?2";
        self.write(|step| step.prepare_cached(leave)?.execute(params![endpoint, pid]).map(drop))
    }
}

/// `None`: no row that can be used.
fn read(row: &rusqlite::Row<'_>, now: i64) -> rusqlite::Result<Option<Row>> {
    let name = |at| -> rusqlite::Result<Option<Option<String>>> {
        Ok(match row.get_ref(at)? {
            ValueRef::Null => Some(None),
            value => short_text(value, CONTROL_NAME_BYTES_MAX).map(Some),
        })
    };
    let endpoint = short_text(row.get_ref(0)?, ENDPOINT_BYTES_MAX);
    let (broker, user) = (name(1)?, name(2)?);
    let sound = matches!(row.get_ref(3)?, ValueRef::Integer(until) if until - now <= millis(LEASE_MAX));
    let (Some(endpoint), Some(broker), Some(user), true) = (endpoint, broker, user, sound) else { return Ok(None) };
    Ok(Some(Row { endpoint, whose: Whose { broker, user } }))
}

/// Text of at most so many bytes. SQLite's columns hold whatever was written.
fn short_text(value: ValueRef<'_>, bytes_max: usize) -> Option<String> {
    let text = value.as_str().ok()?;
    (text.len() <= bytes_max).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct File(PathBuf);

    impl File {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("tc-registry-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir(&folder).expect("a folder");
            File(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("registry.db")
        }

        fn registry(&self) -> FileRegistry {
            FileRegistry::new(self.path())
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn entry(endpoint: &str) -> Entry {
        let whose = Whose { broker: Some("angel".into()), user: None };
        Entry { endpoint: endpoint.parse().expect("an endpoint"), whose }
    }

    fn found(look: &Look) -> Vec<&str> {
        look.rows.iter().map(|row| row.as_ref().map_or("bad", |row| &row.endpoint[..])).collect()
    }

    #[test]
    fn entries_are_found_until_they_leave_and_only_their_owner_takes_them_out() {
        use std::os::unix::fs::PermissionsExt;
        let file = File::new("leave");
        let (mut server, mut publisher) = (file.registry(), file.registry());
        assert_eq!(found(&server.look().expect("a new file")), [""; 0]);
        let (a, b) = (entry("tcp://127.0.0.1:5601"), entry("ipc:///tmp/b"));
        publisher.renew(&a).expect("registered");
        publisher.renew(&b).expect("registered");
        publisher.renew(&a).expect("renewed");
        assert_eq!(found(&server.look().expect("read")), ["tcp://127.0.0.1:5601", "ipc:///tmp/b"]);
        publisher.leave(&a).expect("left");
        Connection::open(file.path()).expect("open").execute("UPDATE publishers SET pid = 1", []).expect("another's");
        publisher.leave(&b).expect("nothing to do");
        assert_eq!(found(&server.look().expect("read")), ["ipc:///tmp/b"]);
        let mode = std::fs::metadata(file.path()).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "prices are not for everybody to write");
    }

    #[test]
    fn a_lease_that_ran_out_is_taken_out_and_rows_of_any_other_kind_are_told_apart() {
        let file = File::new("rows");
        let mut server = file.registry();
        server.look().expect("made");
        let db = Connection::open(file.path()).expect("open");
        for values in [
            "('tcp://127.0.0.1:1', NULL, NULL, 1, 5)",
            "('tcp://127.0.0.1:2', NULL, NULL, 1, 'soon')",
            "('tcp://127.0.0.1:3', NULL, NULL, 1, 9000000000000)",
            "(x'ff', NULL, NULL, 1, unixepoch() * 1000 + 3000)",
            "('tcp://127.0.0.1:5', x'07', NULL, 1, unixepoch() * 1000 + 3000)",
            "('tcp://127.0.0.1:6', 'angel', 'asha', NULL, unixepoch() * 1000 + 3000)",
        ] {
            db.execute(&format!("INSERT INTO publishers VALUES {values}"), []).expect("written");
        }
        let look = server.look().expect("read");
        assert_eq!(found(&look), ["bad", "bad", "bad", "bad", "tcp://127.0.0.1:6"]);
        assert_eq!(look.dead, ["tcp://127.0.0.1:1"]);
        assert!(server.look().expect("read").dead.is_empty(), "once");
    }

    #[test]
    fn a_locked_file_fails_a_look_and_a_replaced_one_is_opened_anew() {
        let file = File::new("locked");
        let mut registry = file.registry();
        registry.renew(&entry("ipc:///tmp/a")).expect("registered");
        let mut db = Connection::open(file.path()).expect("open");
        let lock = db.transaction_with_behavior(TransactionBehavior::Immediate).expect("locked");
        let error = registry.look().expect_err("nobody can renew now");
        assert!(error.to_string().contains("locked"), "{error}");
        drop(lock);
        assert_eq!(found(&registry.look().expect("read")).len(), 1);
        std::fs::rename(file.path(), file.0.join("old.db")).expect("moved");
        assert_eq!(found(&registry.look().expect("another file")).len(), 0);
        std::fs::remove_file(file.path()).expect("removed");
        std::fs::create_dir(file.path()).expect("no file");
        assert!(registry.look().is_err());
    }
}
