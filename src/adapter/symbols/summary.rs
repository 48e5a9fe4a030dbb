//! What became of a file's rows: counted by cause, each with the first line where it happened, told in one text.

use std::collections::BTreeMap;
use std::fmt;

/// Evidence shown from a file, characters.
const EVIDENCE_MAX: usize = 40;

/// Why a row was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowError {
    /// A column that is needed is missing or empty in this row.
    Missing(&'static str),
    /// The feed has no such exchange.
    Exchange(String),
    /// No token of this broker.
    Token(String),
    /// No name that a client could ask for.
    Name(String),
    /// No date that is known here.
    Expiry(String),
    /// No price.
    Strike(String),
    /// Neither a future nor an option, though its exchange has nothing else.
    Kind(String),
    /// Another instrument has the name already.
    Taken(String),
    /// The same instrument under the same name.
    Again,
    /// Blank or made up: the broker's files hold such rows.
    Placeholder,
    /// Longer than a line may be, or not UTF-8.
    Unreadable,
    /// The table is full.
    Full,
    /// The file ends in the middle or is damaged from here on; what came before was kept.
    Damaged(String),
}

impl RowError {
    /// The cause without its evidence, and the evidence.
    fn parts(&self) -> (&'static str, &str) {
        match self {
            RowError::Missing(column) => ("a column missing or empty", column),
            RowError::Exchange(name) => ("an exchange that the feed does not have", name),
            RowError::Token(token) => ("no token of this broker", token),
            RowError::Name(name) => ("no usable name", name),
            RowError::Expiry(text) => ("no readable expiry", text),
            RowError::Strike(text) => ("no readable strike", text),
            RowError::Kind(text) => ("neither future nor option", text),
            RowError::Taken(name) => ("a name that another instrument has", name),
            RowError::Again => ("the same instrument again", ""),
            RowError::Placeholder => ("placeholders", ""),
            RowError::Unreadable => ("unreadable lines", ""),
            RowError::Full => ("the table is full", ""),
            RowError::Damaged(cause) => ("the file is damaged or ends early; what came before was kept", cause),
        }
    }

    /// Whether it is in the nature of the broker's files, and no reason to look at them.
    fn is_usual(&self) -> bool {
        matches!(self, RowError::Again | RowError::Placeholder)
    }
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    times: u64,
    line: u64,
    evidence: String,
    usual: bool,
}

/// What became of one file's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows that went in.
    pub taken: u64,
    causes: BTreeMap<&'static str, Seen>,
}

impl Summary {
    /// Counts one row; `line` from 1, of a JSON file the number of the element.
    pub(crate) fn row(&mut self, line: u64, outcome: Result<(), RowError>) {
        let Err(error) = outcome else {
            self.taken += 1;
            return;
        };
        let (cause, evidence) = error.parts();
        let seen = self.causes.entry(cause).or_insert_with(|| Seen {
            times: 0,
            line,
            evidence: evidence.chars().take(EVIDENCE_MAX).collect(),
            usual: error.is_usual(),
        });
        seen.times += 1;
    }

    /// Rows passed over that somebody should look at.
    pub fn errors(&self) -> u64 {
        self.causes.values().filter(|seen| !seen.usual).map(|seen| seen.times).sum()
    }

    /// Rows passed over for `error`'s cause, whatever the evidence.
    pub fn count(&self, error: &RowError) -> u64 {
        self.causes.get(error.parts().0).map_or(0, |seen| seen.times)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instruments", self.taken)?;
        for (n, (cause, seen)) in self.causes.iter().enumerate() {
            let Seen { times, line, evidence, .. } = seen;
            f.write_str(if n == 0 { "; passed over: " } else { ", " })?;
            write!(f, "{times} × {cause} (first at line {line}")?;
            if !evidence.is_empty() {
                write!(f, ": {evidence:?}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}
