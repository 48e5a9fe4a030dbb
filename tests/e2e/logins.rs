//! Logins that OpenAlgo's own library has encrypted, read from a database that is being written.

use crate::process::Folder;
use crate::python::Script;
use serde_json::json;
use std::path::Path;
use tickcast::auth::login::BrokerLogins;

#[test]
fn what_python_s_cryptography_has_encrypted_is_read_at_each_login() {
    let folder = Folder::new("logins");
    let (file, pepper, salt) = (folder.path("openalgo.db"), "fedcba9876543210".repeat(4), "0123456789abcdef".repeat(4));
    let mut openalgo = Script::start("openalgo_db.py", &["--file", &file, "--pepper", &pepper, "--salt", &salt]);
    let logins = BrokerLogins::new(Path::new(&file), &pepper, Some(&salt));
    for token in
        ["kitekey:first", "kitekey:of-the-next-day", "a longer one, for several blocks of the cipher: ₹ 812.30"]
    {
        let login =
            json!({"user": "asha", "broker": "zerodha", "client": "AB1234", "token": token, "feed_token": "feed-1"});
        openalgo.tell(&login);
        openalgo.event("stored");
        let read = logins.read("asha", "zerodha").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((&*read.token, read.feed_token.as_deref()), (token, Some("feed-1")));
        assert_eq!(read.client.as_deref(), Some("AB1234"));
    }
    openalgo.finish();
}
