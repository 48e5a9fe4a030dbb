//! A broker account's credentials: where they come from, and a holder that shows them to nobody.
//!
//! In: variables that `config` read at the start, or a file that only its owner can read or OpenAlgo's database, looked at anew
//! before every connect, so that a renewed token is used without a restart. Out: [`Credentials`], whose `Debug` shows names only, and a
//! [`Fingerprint`] that says whether they have changed. Nothing here is ever logged. Tests: at the end.

use crate::auth::login::{BrokerLogin, BrokerLogins, LoginError};
use crate::limits::CREDENTIALS_BYTES_MAX;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// Named secrets, e.g. `api_key`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, String>);

/// Tells credentials apart within this process without keeping them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

/// Where an account's credentials are.
#[derive(Clone)]
pub enum Source {
    /// Given at the start.
    Given(Credentials),
    /// `name=value` lines in a file of mode 0600 or stricter.
    File(PathBuf),
    /// What OpenAlgo has stored of the user's last login.
    OpenAlgo(OpenAlgoLogin),
}

/// One user's login at one broker, in OpenAlgo's database.
#[derive(Clone)]
pub struct OpenAlgoLogin {
    /// The database.
    pub logins: Arc<BrokerLogins>,
    /// OpenAlgo's name of the user.
    pub user: String,
    /// The broker's name there.
    pub broker: String,
    /// `BROKER_API_KEY`, which is not in the database.
    pub api_key: Option<String>,
}

impl OpenAlgoLogin {
    fn read(&self) -> Result<Credentials, LoginError> {
        let BrokerLogin { token, feed_token, client } = self.logins.read(&self.user, &self.broker)?;
        // Zerodha's is stored as `api_key:access_token`.
        let own_key = token.split_once(':').map(|(key, _)| key.to_owned());
        let named = [
            ("user_id", self.api_key.clone().or_else(|| client.clone())),
            ("api_key", own_key.or_else(|| self.api_key.clone())),
            ("access_token", Some(token)),
            ("feed_token", feed_token),
            ("client_code", client),
        ];
        Ok(Credentials::new(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))))
    }
}

/// Why there are none. Never holds a value.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Others could read or change them.
    #[error("{path} can be read or changed by others (mode {mode:03o}); run: chmod 600 {path}")]
    Permissions {
        /// Which file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Not there, no file, too large, not text.
    #[error("{path} cannot be read: {cause}")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A line that is no assignment.
    #[error("{path}:{line} is no name=value line")]
    Line {
        /// Which file.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// OpenAlgo has none.
    #[error(transparent)]
    OpenAlgo(#[from] LoginError),
}

impl Credentials {
    /// From names and values; names in any case.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Credentials(pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// It is missing or empty; the text says which.
    pub fn get(&self, name: &str) -> Result<&str, String> {
        let value = self.0.get(name).map(String::as_str).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("the credentials have no {name}"))
    }

    /// `text` with every value in it replaced: brokers and libraries repeat what they were sent.
    pub fn scrub(&self, text: String) -> String {
        let values = self.0.values().flat_map(|value| [value.as_str(), value.rsplit(':').next().unwrap_or_default()]);
        values.filter(|value| value.len() >= 4).fold(text, |text, value| text.replace(value, "…"))
    }

    /// Whether they are the ones seen before.
    pub fn fingerprint(&self) -> Fingerprint {
        static SEED: OnceLock<ahash::RandomState> = OnceLock::new();
        Fingerprint(SEED.get_or_init(ahash::RandomState::new).hash_one(&self.0))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Given(credentials) => f.debug_tuple("Given").field(credentials).finish(),
            Source::File(path) => f.debug_tuple("File").field(path).finish(),
            Source::OpenAlgo(login) => f.debug_tuple("OpenAlgo").field(&login.user).finish(),
        }
    }
}

impl Source {
    /// What is there now. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn read(&self) -> Result<Credentials, CredentialsError> {
        match self {
            Source::Given(credentials) => Ok(credentials.clone()),
            Source::File(path) => read_file(path),
            Source::OpenAlgo(login) => Ok(login.read()?),
        }
    }
}

fn read_file(path: &std::path::Path) -> Result<Credentials, CredentialsError> {
    let shown = || path.display().to_string();
    let unreadable = |cause| CredentialsError::Unreadable { path: shown(), cause };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // Of what was opened, not of what has that name by then.
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::Permissions { path: shown(), mode });
    }
    let mut text = String::new();
    let read = file.take(CREDENTIALS_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > CREDENTIALS_BYTES_MAX {
        return Err(unreadable(io::Error::other(format!("it has more than {CREDENTIALS_BYTES_MAX} bytes"))));
    }
    let mut pairs = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(CredentialsError::Line { path: shown(), line: at + 1 });
        };
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|&q| value.strip_prefix(q)?.strip_suffix(q));
        pairs.insert(name.trim().to_ascii_lowercase(), quoted.unwrap_or(value).to_owned());
    }
    Ok(Credentials(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    fn file(name: &str, mode: u32, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("credentials-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.expect("a file").write_all(text.as_bytes()).expect("room");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("ours");
        path
    }

    #[test]
    fn a_file_of_the_owner_alone_is_read_anew_each_time_and_shown_to_nobody() {
        let path = file("read", 0o600, "# Kite\nAPI_KEY = kitekey\naccess_token='tok=1'\n\n");
        let source = Source::File(path.clone());
        let first = source.read().expect("readable");
        assert_eq!((first.get("api_key"), first.get("access_token")), (Ok("kitekey"), Ok("tok=1")));
        assert_eq!(first.get("pin"), Err("the credentials have no pin".to_owned()));
        let shown = format!("{first:?} {source:?} {:?}", Source::Given(first.clone()));
        assert!(!shown.contains("kitekey") && !shown.contains("tok=1"), "{shown}");
        assert_eq!(first.scrub("no kitekey:tok=1 here".to_owned()), "no …:… here");
        std::fs::write(&path, "api_key=kitekey\naccess_token=two").expect("ours");
        let second = source.read().expect("readable");
        assert_ne!(first.fingerprint(), second.fingerprint());
        assert_eq!(second.fingerprint(), source.read().expect("readable").fingerprint());
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_so_is_what_is_none() {
        for mode in [0o640, 0o604, 0o660] {
            let path = file("open", mode, "api_key=secret");
            let error = Source::File(path.clone()).read().expect_err("not private").to_string();
            assert!(error.contains(&format!("mode {mode:03o}")) && error.contains("chmod 600"), "{error}");
            assert!(!error.contains("secret"));
            let _ = std::fs::remove_file(path);
        }
        let path = file("line", 0o400, "api_key=k\nsecret\n");
        let error = Source::File(path.clone()).read().expect_err("no assignment").to_string();
        assert!(error.ends_with(":2 is no name=value line") && !error.contains("secret"), "{error}");
        let _ = std::fs::remove_file(path);
        let path = file("large", 0o600, &"x=y\n".repeat(20_000));
        assert!(Source::File(path.clone()).read().expect_err("too large").to_string().contains("more than"));
        let _ = std::fs::remove_file(path);
        assert!(Source::File(std::env::temp_dir()).read().is_err(), "a folder");
        assert!(Source::File("/nowhere/at/all".into()).read().is_err());
    }
}
