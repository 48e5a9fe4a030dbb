//! OpenAlgo's database as a key store: its own hashes, changes while we run, damage.

use super::*;
use argon2::password_hash::CustomizedPasswordHasher;

const PEPPER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

const SCHEMA: &str = "
CREATE TABLE api_keys (id INTEGER PRIMARY KEY, user_id VARCHAR NOT NULL UNIQUE, api_key_hash TEXT,
  api_key_encrypted TEXT, created_at DATETIME, order_mode VARCHAR(20));
CREATE TABLE auth (id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL UNIQUE, auth TEXT, feed_token TEXT,
  broker VARCHAR(20), user_id VARCHAR(255), is_revoked BOOLEAN);
PRAGMA journal_mode = WAL;
";

/// An OpenAlgo database in a directory of its own, removed at the end.
struct Fixture {
    directory: PathBuf,
    db: Connection,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("tickcast-openalgo-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let db = Connection::open(directory.join("openalgo.db")).unwrap();
        db.execute_batch(SCHEMA).unwrap();
        Fixture { directory, db }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("openalgo.db")
    }

    fn store(&self) -> OpenAlgoStore {
        OpenAlgoStore::open(&self.file(), PEPPER.into()).unwrap()
    }

    fn key(&self, user: &str, key: &str) {
        let insert = "INSERT INTO api_keys (user_id, api_key_hash) VALUES (?1, ?2) ON CONFLICT (user_id) DO UPDATE SET api_key_hash = ?2";
        self.db.execute(insert, [user, &cheap_hash(key)]).unwrap();
    }

    fn broker(&self, user: &str, broker: &str, revoked: Option<bool>) {
        let insert = "INSERT OR REPLACE INTO auth (name, broker, is_revoked) VALUES (?1, ?2, ?3)";
        self.db.execute(insert, rusqlite::params![user, broker, revoked]).unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// As OpenAlgo's, but with the least memory and time, so that tests need no seconds.
fn cheap_hash(key: &str) -> String {
    let params = Params::new(8, 1, 1, None).unwrap();
    let peppered = format!("{key}{PEPPER}");
    let hash = Argon2::default().hash_password_customized(peppered.as_bytes(), b"a salt of 16 by.", None, None, params);
    hash.unwrap().to_string()
}

#[test]
fn a_hash_made_by_openalgo_verifies() {
    let hash = "$argon2id$v=19$m=65536,t=3,p=4$CTsPkHi4afMi9rHo/wgatQ$GhqbIDv4SrpeWertupWWoGeBayMFQkwGJAHURh29RP4";
    let key = "0123456789abcdef".repeat(4);
    assert!(matches(format!("{key}{PEPPER}").as_bytes(), hash));
    assert!(!matches(key.as_bytes(), hash), "the pepper belongs to it");
}

#[test]
fn damaged_and_extravagant_hashes_match_nothing() {
    for hash in [
        "",
        "x",
        "$argon2id$",
        "$argon2id$v=19$m=4194304,t=3,p=4$CTsPkHi4afMi9rHo/wgatQ$GhqbIDv4SrpeWertupWWoGeBayMFQkwGJAHURh29RP4",
    ] {
        assert!(!matches(b"key", hash), "{hash:?}");
    }
}

#[test]
fn the_key_names_the_user_and_the_login_names_the_broker() {
    let fixture = Fixture::new("join");
    for (user, broker, revoked) in
        [("asha", "Angel", Some(false)), ("ravi", "dhan", None), ("gone", "dhan", Some(true))]
    {
        fixture.key(user, &format!("key of {user}"));
        fixture.broker(user, broker, revoked);
    }
    fixture.key("new", "key of new");
    let mut store = fixture.store();
    for (user, want) in [("asha", Some("angel")), ("ravi", Some("dhan")), ("gone", None), ("new", None)] {
        let identity = store.verify(&format!("key of {user}")).unwrap();
        assert_eq!((&*identity.user, identity.broker.as_deref()), (user, want));
    }
    assert_eq!(store.verify("key of nobody"), Err(AuthError::Invalid));
}

#[test]
fn a_regenerated_key_dies_at_once_and_the_new_one_works_at_once() {
    let fixture = Fixture::new("regenerated");
    fixture.key("asha", "old");
    let mut store = fixture.store();
    assert!(store.verify("old").is_ok());
    assert_eq!(store.verify("new"), Err(AuthError::Invalid));
    assert_eq!((store.verified.len(), store.refused.len()), (1, 1));
    fixture.key("asha", "new");
    assert_eq!(store.verify("old"), Err(AuthError::Invalid));
    assert!(store.verify("new").is_ok(), "the refusal is older than the row");
}

#[test]
fn a_remembered_key_costs_no_second_argon2() {
    let fixture = Fixture::new("cached");
    fixture.key("asha", "key");
    let mut store = fixture.store();
    let identity = store.verify("key").unwrap();
    // With another pepper Argon2 would refuse: only the memory can still vouch for the key.
    store.pepper = "other".into();
    assert_eq!(store.verify("key"), Ok(identity));
}

#[test]
fn a_refused_key_is_remembered_through_unrelated_writes_until_invalidated_or_5_minutes_old() {
    let fixture = Fixture::new("refused");
    fixture.key("asha", "key");
    let mut store = fixture.store();
    store.pepper = "other".into();
    let start = Instant::now();
    assert_eq!(store.ask("key", start), Ok(None));
    store.pepper = PEPPER.into();
    fixture.broker("asha", "dhan", None);
    assert_eq!(store.ask("key", start + REFUSED_FOR - Duration::from_secs(1)), Ok(None), "from memory");
    assert!(store.ask("key", start + REFUSED_FOR).unwrap().is_some());
    store.verified.clear();
    store.pepper = "other".into();
    assert_eq!(store.ask("key", start + REFUSED_FOR), Ok(None));
    store.pepper = PEPPER.into();
    store.invalidate();
    assert!(store.ask("key", start + REFUSED_FOR).unwrap().is_some());
}

#[test]
fn the_memory_of_refused_keys_is_bounded() {
    let fixture = Fixture::new("bounded");
    let mut store = fixture.store();
    let start = Instant::now();
    for n in 0..3 * REFUSED_MAX {
        assert_eq!(store.ask(&format!("guess {n}"), start), Ok(None));
    }
    assert!(store.refused.len() <= REFUSED_MAX);
}

#[test]
fn a_replaced_database_is_opened_anew_and_a_missing_one_is_unavailable() {
    let (old, new) = (Fixture::new("replaced-old"), Fixture::new("replaced-new"));
    old.key("asha", "old");
    new.key("asha", "new");
    new.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;").unwrap();
    let mut store = old.store();
    assert!(store.verify("old").is_ok());
    for leftover in ["openalgo.db-wal", "openalgo.db-shm"] {
        let _ = std::fs::remove_file(old.directory.join(leftover));
    }
    std::fs::rename(new.file(), old.file()).unwrap();
    assert!(store.verify("new").is_ok());
    assert_eq!(store.verify("old"), Err(AuthError::Invalid));
    std::fs::remove_file(old.file()).unwrap();
    assert!(matches!(store.verify("new"), Err(AuthError::Unavailable(_))));
}

#[test]
fn null_and_broken_columns_are_skipped() {
    let fixture = Fixture::new("broken");
    fixture.db.execute_batch("INSERT INTO api_keys (user_id, api_key_hash) VALUES ('null', NULL), (x'ff', 'x'), ('blob', x'00ff'), ('text', CAST(x'ff' AS TEXT))").unwrap();
    fixture.key("asha", "key");
    fixture
        .db
        .execute_batch("INSERT INTO auth (name, broker, is_revoked) VALUES ('asha', CAST(x'ff' AS TEXT), 0)")
        .unwrap();
    let identity = fixture.store().verify("key").unwrap();
    assert_eq!((&*identity.user, identity.broker), ("asha", None));
}

#[test]
fn what_is_not_openalgos_database_is_refused_at_start_with_advice() {
    let fixture = Fixture::new("open");
    for file in ["missing.db", "text.db", "other.db"] {
        let path = fixture.directory.join(file);
        match file {
            "text.db" => std::fs::write(&path, "not a database, only some words that are long enough").unwrap(),
            "other.db" => Connection::open(&path).unwrap().execute_batch("CREATE TABLE x (y)").unwrap(),
            _ => {}
        }
        let error = OpenAlgoStore::open(&path, PEPPER.into()).err().expect(file).to_string();
        assert!(error.contains(file) && error.contains("auth.store"), "{error}");
    }
    assert!(!fixture.directory.join("missing.db").exists(), "read-only makes nothing");
}
