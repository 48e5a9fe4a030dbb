//! Logins as OpenAlgo stores them, and what is no login.

use super::*;
use rusqlite::Connection;

const PEPPER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const SALT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Made as the tokens in `fernet.rs`: of `kitekey-1234:first-token-5678`, `kitekey-1234:of-the-next-day` and `feed-token-9`.
const TODAY: &str = "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD8imXqBgW24_-NvHfdhk_eE2WADNL0aWyQF-c0Ce3OI9FtisKLHYyCyJJ27hi09rpzI28RbC88Qeh7gsAeNEFsc=";
const TOMORROW: &str = "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD4GpFgHf5o7qpIMNb9mXi88tEtv1JO1Vjp7plSlnWXTzkBxM2azbBw2ZjVpwWFoVZhb1TZN63ZVIp7PLwy76nR8=";
const FEED: &str =
    "gAAAAABpVbkAAAECAwQFBgcICQoLDA0OD0uWGiyAKPFDeUSe2BOdGdKT51fcmETe7CJaq502FsiuhJN-IvrcnQwf1y00FzT50A==";

/// A database of OpenAlgo's shape, gone with its test.
struct Fixture {
    file: PathBuf,
    db: Connection,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let file = std::env::temp_dir().join(format!("tickcast-login-{name}-{}.db", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let db = Connection::open(&file).expect("a database");
        let schema = "CREATE TABLE auth (id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL UNIQUE, auth TEXT NOT NULL,
            feed_token TEXT, broker VARCHAR(20) NOT NULL, user_id VARCHAR(255), is_revoked BOOLEAN)";
        db.execute_batch(schema).expect("a schema");
        Fixture { file, db }
    }

    fn put(&self, user: &str, broker: &str, token: &str, feed: Option<&str>, revoked: Option<bool>) {
        let insert = "INSERT OR REPLACE INTO auth (name, broker, auth, feed_token, user_id, is_revoked) VALUES (?1, ?2, ?3, ?4, 'A123', ?5)";
        self.db.execute(insert, rusqlite::params![user, broker, token, feed, revoked]).expect("stored");
    }

    fn logins(&self) -> BrokerLogins {
        BrokerLogins::new(&self.file, PEPPER, Some(SALT))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn error(logins: &BrokerLogins, user: &str, broker: &str) -> String {
    logins.read(user, broker).err().expect("no login").to_string()
}

#[test]
fn the_login_of_now_is_read_each_time() {
    let fixture = Fixture::new("now");
    let logins = fixture.logins();
    fixture.put("asha", "Zerodha", TODAY, None, None);
    assert_eq!(logins.read("asha", "zerodha").expect("logged in").token, "kitekey-1234:first-token-5678");
    fixture.put("asha", "zerodha", TOMORROW, Some(FEED), Some(false));
    let login = logins.read("asha", "zerodha").expect("logged in");
    assert_eq!(login.token, "kitekey-1234:of-the-next-day");
    assert_eq!((login.feed_token.as_deref(), login.client.as_deref()), (Some("feed-token-9"), Some("A123")));
}

#[test]
fn what_is_no_login_is_said_to_be_so_without_a_secret() {
    let fixture = Fixture::new("none");
    let logins = fixture.logins();
    fixture.put("gone", "zerodha", TODAY, None, Some(true));
    fixture.put("ravi", "dhan", TODAY, None, None);
    // A placeholder, and what was stored under another pepper.
    fixture.put("samco", "samco", "pending", None, None);
    fixture.put("feed", "zerodha", TODAY, Some("damaged"), None);
    assert_eq!(error(&logins, "nobody", "zerodha"), "nobody is not logged in at OpenAlgo");
    assert_eq!(error(&logins, "gone", "zerodha"), "gone is not logged in at OpenAlgo");
    assert_eq!(error(&logins, "ravi", "zerodha"), "ravi is logged in at dhan, not at zerodha");
    for (user, broker) in [("samco", "samco"), ("feed", "zerodha")] {
        let said = error(&logins, user, broker);
        assert!(said.contains("API_KEY_PEPPER and FERNET_SALT"), "{said}");
        assert!(!said.contains("pending") && !said.contains("damaged") && !said.contains(PEPPER), "{said}");
    }
    let said = error(&BrokerLogins::new(Path::new("/nowhere/openalgo.db"), PEPPER, None), "asha", "zerodha");
    assert!(said.starts_with("/nowhere/openalgo.db cannot be read"), "{said}");
    fixture.db.execute_batch("DROP TABLE auth").expect("dropped");
    assert!(error(&logins, "ravi", "dhan").contains("cannot be read"));
}
