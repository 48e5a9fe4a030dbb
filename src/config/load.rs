//! Merges the sources in their order and collects every mistake.
//!
//! Later wins: built-in < OpenAlgo's variables < TOML < `TICKCAST_*` < flags. A mistake counts even where a later
//! source overrides it. What nobody set is then derived (`relations`), and the whole is checked.

use super::keys::{self, Key};
use super::settings::Settings;
use super::value::Raw;
use super::{relations, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// What the command line and the process were given.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--env-file`: an OpenAlgo `.env`.
    pub env_file: Option<PathBuf>,
    /// The environment; see [`process_env`].
    pub env: Vec<(String, String)>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--set section.key=value`, in order.
    pub set: Vec<String>,
}

/// The process environment. Values that are not UTF-8 are taken with replacement characters, so that they meet the
/// same checks as all others.
pub fn process_env() -> Vec<(String, String)> {
    let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// The effective settings and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// `section.key` -> origin, for every key that is not built in.
    pub origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of `section.key` came from.
    pub fn origin(&self, path: &str) -> &Origin {
        self.origins.get(path).unwrap_or(&Origin::BuiltIn)
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    BuiltIn,
    /// Nobody set it, but it follows from something else, which the text names.
    Derived(String),
    /// An environment variable.
    Variable(String),
    /// A variable in the `--env-file`.
    EnvFile {
        /// Variable.
        name: String,
        /// File.
        file: PathBuf,
        /// Line, 1-based.
        line: usize,
    },
    /// The `--config` file.
    File {
        /// File.
        file: PathBuf,
        /// Line, 1-based.
        line: usize,
    },
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built in"),
            Origin::Derived(why) => write!(f, "derived: {why}"),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::EnvFile { name, file, line } => write!(f, "{}:{line} ({name})", file.display()),
            Origin::File { file, line } => write!(f, "{}:{line}", file.display()),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One mistake: where it is, what is wrong, what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line`, a variable, a flag, or the keys concerned.
    pub place: String,
    /// The rest of the sentence.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Merges and checks all sources.
///
/// # Errors
/// Every mistake in them, in the order of the sources.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Problem>> {
    let mut draft = Draft::default();
    sources::read_all(sources, &mut draft);
    relations::derive(&mut draft);
    relations::check(&mut draft);
    if draft.problems.is_empty() {
        Ok(Loaded { settings: draft.settings, origins: draft.origins })
    } else {
        Err(draft.problems)
    }
}

/// Settings while they are being merged.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) settings: Settings,
    pub(super) origins: BTreeMap<String, Origin>,
    pub(super) problems: Vec<Problem>,
    /// Keys with a problem of their own; relations with them are not judged, for their value is not what was meant.
    pub(super) bad: BTreeSet<String>,
    /// The first OpenAlgo variable that is set: it says that real prices are meant.
    pub(super) openalgo_variable: Option<String>,
    /// Whether the file has a `[bus]` section, be it empty.
    pub(super) bus_section: bool,
    /// Why OpenAlgo's database cannot be the key store; a mistake unless a later source names a store.
    pub(super) database_problem: Option<(Origin, String)>,
}

impl Draft {
    /// Sets one key of the table, or notes why not.
    pub(super) fn set(&mut self, key: &Key, raw: &Raw, origin: Origin) {
        match (key.set)(&mut self.settings, raw) {
            Ok(()) => {
                self.origins.insert(key.path(), origin);
            }
            Err(right) => {
                let shown = if key.secret { "(secret)".to_string() } else { raw.shown() };
                self.problem(&origin, format!("{} = {shown}: {right}", key.path()));
                self.bad.insert(key.path());
            }
        }
    }

    /// Sets a key by its path; for values that the code makes itself.
    pub(super) fn set_path(&mut self, section: &str, name: &str, raw: &Raw, origin: Origin) {
        let key = keys::find(section, name).expect("the code names keys of the table");
        self.set(key, raw, origin);
    }

    /// Notes a mistake.
    pub(super) fn problem(&mut self, place: &Origin, message: impl Into<String>) {
        self.problems.push(Problem { place: place.to_string(), message: message.into() });
    }

    /// Whether any source set `path`.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.origins.contains_key(path) || self.bad.contains(path)
    }
}
