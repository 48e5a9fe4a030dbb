//! `tickcast keys`: makes, lists and revokes API keys of a SQLite key store.

use super::{KeysCommand, exit};
use crate::auth::sqlite::{KeyFile, KeyRow, StoreError, Which};
use crate::model::Class;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Does what `command` says; the exit code.
///
/// # Errors
/// When `out` or `err` cannot be written.
pub fn run(command: &KeysCommand, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let done = match command {
        KeysCommand::Add { store, user, broker, class } => add(store, user, broker, class, err),
        KeysCommand::List { store } => open(store, false).and_then(|keys| keys.list()).map(|rows| table(&rows)),
        KeysCommand::Revoke { store, id, user } => revoke(store, *id, user.as_deref()),
    };
    match done {
        Ok(text) => {
            out.write_all(text.as_bytes())?;
            out.flush()?;
            Ok(exit::OK)
        }
        Err(error) => {
            writeln!(err, "tickcast: {error}")?;
            Ok(match error {
                StoreError::Missing(_) | StoreError::NotAStore(_) | StoreError::Unusable { .. } => exit::KEY_STORE,
                _ => exit::SETTINGS,
            })
        }
    }
}

/// The path, also as `auth.store` spells it.
fn open(store: &Path, create: bool) -> Result<KeyFile, StoreError> {
    let path = store.to_str().and_then(|text| text.strip_prefix("sqlite:")).map(PathBuf::from);
    KeyFile::open(path.as_deref().unwrap_or(store), create)
}

fn add(store: &Path, user: &str, broker: &str, class: &str, err: &mut dyn Write) -> Result<String, StoreError> {
    let class = Class::from_label(class).expect("clap lets only the three labels through");
    let key = open(store, true)?.add(user, broker, class)?;
    // To stderr, so that `$(tickcast keys add …)` is the key and nothing else. A closed stderr must not cost the key.
    let _ = writeln!(
        err,
        "key for user {user}, broker {broker}, class {}; it is stored hashed and cannot be shown again:",
        class.label()
    );
    Ok(format!("{key}\n"))
}

fn revoke(store: &Path, id: Option<i64>, user: Option<&str>) -> Result<String, StoreError> {
    let which = match (id, user) {
        (Some(id), _) => Which::Id(id),
        (None, user) => Which::User(user.expect("clap wants one of the two").into()),
    };
    let count = open(store, false)?.revoke(&which)?;
    Ok(format!("revoked {count} key{}\n", if count == 1 { "" } else { "s" }))
}

fn table(rows: &[KeyRow]) -> String {
    let mut out = format!(
        "{:>4}  {:8}  {:20}  {:12}  {:6}  {:20}  state\n",
        "id", "hash", "user", "broker", "class", "created (UTC)"
    );
    for row in rows {
        let state = row.revoked_at.map_or("live".into(), |at| format!("revoked {}", utc(at)));
        let created = utc(row.created_at);
        let KeyRow { id, fingerprint, user, broker, class, .. } = row;
        out.push_str(&format!("{id:>4}  {fingerprint:8}  {user:20}  {broker:12}  {class:6}  {created:20}  {state}\n"));
    }
    out
}

/// `2026-11-21T22:10:00Z`, by the civil-from-days arithmetic of the proleptic Gregorian calendar.
fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_761_367_200, "2025-10-25T04:40:00Z"),
        ] {
            assert_eq!(utc(seconds), want);
        }
    }
}
