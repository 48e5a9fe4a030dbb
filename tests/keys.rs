//! `tickcast keys`: the life of a key, and what is said when something is wrong.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use tickcast::cli::{KeysCommand, keys};

struct Store(PathBuf);

impl Store {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tickcast-keys-{name}-{}.db", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Store(path)
    }

    fn add(&self, user: &str, broker: &str) -> (u8, String, String) {
        let (user, broker) = (user.to_string(), broker.to_string());
        run(&KeysCommand::Add { store: self.0.clone(), user, broker, class: "high".into() })
    }

    fn list(&self) -> (u8, String, String) {
        run(&KeysCommand::List { store: self.0.clone() })
    }

    fn revoke(&self, id: Option<i64>, user: Option<&str>) -> (u8, String, String) {
        run(&KeysCommand::Revoke { store: self.0.clone(), id, user: user.map(String::from) })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn run(command: &KeysCommand) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = keys::run(command, &mut out, &mut err).unwrap();
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn is_in_file(file: &Path, needle: &str) -> bool {
    std::fs::read(file).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn a_new_key_stands_alone_on_the_last_line_and_is_stored_hashed() {
    let store = Store::new("add");
    let (code, out, err) = store.add("asha", "Angel");
    assert_eq!(code, 0, "{err}");
    let key = out.lines().last().unwrap();
    assert_eq!(key.len(), 64);
    assert!(key.chars().all(|c| c.is_ascii_hexdigit()), "{key}");
    assert!(!err.contains(key), "shown once, on stdout");
    assert!(is_in_file(&store.0, "asha") && !is_in_file(&store.0, key));
    let again = store.add("asha", "angel").1;
    assert_ne!(again.lines().last().unwrap(), key);
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&store.0).unwrap().permissions()) & 0o777,
        0o600
    );
}

#[test]
fn the_list_shows_every_key_but_not_itself() {
    let store = Store::new("list");
    let key = store.add("asha", "angel").1;
    store.add("ravi", "dhan");
    store.revoke(Some(1), None);
    let (code, out, _) = store.list();
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(
        lines[1].contains("asha")
            && lines[1].contains("angel")
            && lines[1].contains("high")
            && lines[1].contains("revoked")
    );
    assert!(lines[2].contains("ravi") && lines[2].ends_with("live"));
    assert!(!out.contains(&key.trim()[..16]));
}

#[test]
fn revoking_says_how_many_and_refuses_what_is_not_there() {
    let store = Store::new("revoke");
    store.add("asha", "angel");
    store.add("asha", "angel");
    assert_eq!(store.revoke(None, Some("asha")).1, "revoked 2 keys\n");
    for (code, out, err) in [store.revoke(None, Some("asha")), store.revoke(Some(1), None), store.revoke(Some(9), None)]
    {
        assert_eq!((code, &*out), (2, ""));
        assert!(err.contains("no live key matches"), "{err}");
    }
    assert_eq!(store.add("asha", "dhan").0, 0, "the keys of the other broker are revoked");
}

#[test]
fn a_user_has_one_broker() {
    let store = Store::new("one-broker");
    store.add("asha", "angel");
    let (code, out, err) = store.add("asha", "dhan");
    assert_eq!((code, &*out), (2, ""));
    assert!(err.contains("angel") && err.contains("revoke"), "{err}");
}

#[test]
fn wrong_names_are_refused() {
    let store = Store::new("names");
    for (user, broker) in
        [("", "a"), ("a b", "a"), ("a\n", "a"), (&"x".repeat(65), "a"), ("a", ""), ("a", "b c"), ("a", "é")]
    {
        let (code, out, err) = store.add(user, broker);
        assert_eq!((code, &*out), (2, ""), "{user:?} {broker:?}");
        assert!(err.contains("write 1 to"), "{err}");
    }
}

#[test]
fn a_missing_file_and_a_file_of_somebody_else_are_told_apart() {
    let store = Store::new("missing");
    for (code, out, err) in [store.list(), store.revoke(Some(1), None)] {
        assert_eq!((code, &*out), (4, ""));
        assert!(err.contains("does not exist") && err.contains("keys add"), "{err}");
    }
    assert!(!store.0.exists(), "only add makes a store");
    std::fs::write(&store.0, "these are no keys, and it is a text of some length, too").unwrap();
    for (code, out, err) in [store.list(), store.add("asha", "angel")] {
        assert_eq!((code, &*out), (4, ""));
        assert!(err.contains("not a tickcast key store"), "{err}");
    }
    let nowhere = Store("/nonexistent/keys.db".into());
    let (code, _, err) = nowhere.add("asha", "angel");
    assert!(code == 4 && err.contains("/nonexistent/keys.db"), "{err}");
}

#[test]
fn the_store_may_be_spelt_as_in_the_settings() {
    let store = Store::new("spelling");
    store.add("asha", "angel");
    let spelt = PathBuf::from(format!("sqlite:{}", store.0.display()));
    assert!(run(&KeysCommand::List { store: spelt }).1.contains("asha"));
}
