//! A user's login at its broker, as OpenAlgo keeps it (table `auth`): read-only, and anew each time, since it is another each day.
//!
//! In: a user and the broker whose feed asks. Out: the broker's tokens, decrypted. Blocks for as long as SQLite does. Nothing
//! here is logged, and no error holds a token. Tests: `login/tests.rs`, `tests/native_feed.rs`.

#[cfg(test)]
mod tests;

use super::fernet::Fernet;
use super::openalgo::{is_revoked, text};
use super::sqlite::connect;
use rusqlite::{OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What a broker gave out at the login. Has no `Debug`: nobody shall see it.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerLogin {
    /// Its token, in the form in which OpenAlgo stores this broker's.
    pub token: String,
    /// Its second token, for feeds, if it has one.
    pub feed_token: Option<String>,
    /// Whom the broker knows the user as, if that is stored.
    pub client: Option<String>,
}

/// Why there is none. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Missing, locked for too long, or no OpenAlgo database.
    #[error("{file} cannot be read: {cause}", file = file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What SQLite said.
        cause: String,
    },
    /// Never logged in, or logged out.
    #[error("{user} is not logged in at OpenAlgo")]
    LoggedOut {
        /// Who.
        user: String,
    },
    /// The token there is for another broker.
    #[error("{user} is logged in at {there}, not at {here}")]
    OtherBroker {
        /// Who.
        user: String,
        /// Where OpenAlgo says that is.
        there: String,
        /// Whose feed asks.
        here: String,
    },
    /// Encrypted with another key, or damaged.
    #[error("{user}'s token cannot be decrypted: API_KEY_PEPPER and FERNET_SALT must be those of OpenAlgo's .env")]
    Undecryptable {
        /// Whose.
        user: String,
    },
}

/// OpenAlgo's database, as the source of its users' tokens.
pub struct BrokerLogins {
    file: PathBuf,
    pepper: String,
    salt: Option<String>,
    /// Derived when it is needed first.
    key: OnceLock<Fernet>,
}

impl BrokerLogins {
    /// Nothing is read yet.
    pub fn new(file: &Path, pepper: &str, salt: Option<&str>) -> Self {
        let (file, pepper, salt) = (file.to_path_buf(), pepper.to_owned(), salt.map(str::to_owned));
        BrokerLogins { file, pepper, salt, key: OnceLock::new() }
    }

    /// The login of now.
    ///
    /// # Errors
    /// [`LoginError`].
    pub fn read(&self, user: &str, broker: &str) -> Result<BrokerLogin, LoginError> {
        let (user, here) = (user.to_owned(), broker.to_owned());
        let Some(row) = self.row(&user)? else { return Err(LoginError::LoggedOut { user }) };
        if row.broker.as_deref().is_none_or(|there| there != broker) {
            let there = row.broker.unwrap_or_else(|| "no broker".to_owned());
            return Err(LoginError::OtherBroker { user, there, here });
        }
        let key = self.key.get_or_init(|| Fernet::derive(&self.pepper, self.salt.as_deref()));
        let decrypt = |token: &str| {
            let text = key.decrypt(token).filter(|text| !text.is_empty());
            text.ok_or_else(|| LoginError::Undecryptable { user: user.clone() })
        };
        let Some(token) = row.token else { return Err(LoginError::LoggedOut { user }) };
        let feed_token = row.feed_token.as_deref().map(decrypt).transpose()?;
        Ok(BrokerLogin { token: decrypt(&token)?, feed_token, client: row.client })
    }

    fn row(&self, user: &str) -> Result<Option<Row>, LoginError> {
        let unreadable = |cause| LoginError::Unreadable { file: self.file.clone(), cause };
        let db =
            connect(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| unreadable(error.to_string()))?;
        let select = "SELECT broker, auth, feed_token, user_id, is_revoked FROM auth WHERE name = ?1";
        let read = |row: &rusqlite::Row<'_>| {
            let broker = text(row, 0).map(|broker| broker.trim().to_ascii_lowercase());
            let (token, feed_token, client) = (text(row, 1), text(row, 2), text(row, 3));
            Ok((!is_revoked(row, 4)).then_some(Row { broker, token, feed_token, client }))
        };
        let row = db.query_row(select, [user], read).optional();
        Ok(row.map_err(|error| unreadable(error.to_string()))?.flatten())
    }
}

/// A row of `auth` that is not revoked.
struct Row {
    broker: Option<String>,
    token: Option<String>,
    feed_token: Option<String>,
    client: Option<String>,
}
