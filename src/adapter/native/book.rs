//! One broker's symbol table, shared by its users and read again when its files have changed.
//!
//! In: the files of the settings. Out: the table as it is now. A reload that fails leaves the old table in use, with a word
//! in the log. Blocks while it reads.

use crate::adapter::symbols::{Dialect, Stamp, Table, load};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

type Held = Option<(Stamp, Arc<Table>)>;

/// See the module header.
#[derive(Debug)]
pub struct Book {
    dialect: Dialect,
    files: Vec<PathBuf>,
    held: watch::Sender<Held>,
}

impl Book {
    /// Nothing is read yet.
    pub fn new(dialect: Dialect, files: Vec<PathBuf>) -> Self {
        Book { dialect, files, held: watch::Sender::new(None) }
    }

    /// The table as it was read last; waits for nothing.
    pub fn held(&self) -> Option<Arc<Table>> {
        self.held.borrow().as_ref().map(|(_, table)| Arc::clone(table))
    }

    /// The table, read now if the files have changed since. Two callers may both read; the later one's table stays.
    ///
    /// # Errors
    /// No table could be read, and there is none from before: the text says why.
    pub fn current(&self) -> Result<Arc<Table>, String> {
        let held = self.held.borrow().clone();
        let stamp = Stamp::of(&self.files);
        if let Some((seen, table)) = &held
            && *seen == stamp
        {
            return Ok(Arc::clone(table));
        }
        match (load(self.dialect, &self.files), held) {
            (Ok(loaded), _) => {
                let broker = self.dialect.label();
                for (file, summary) in &loaded.files {
                    tracing::info!(broker, file = %file.display(), "instruments read: {summary}");
                }
                for error in &loaded.failed {
                    tracing::warn!(broker, "a symbol file gave nothing: {error}");
                }
                let table = Arc::new(loaded.table);
                self.held.send_replace(Some((stamp, Arc::clone(&table))));
                Ok(table)
            }
            (Err(error), Some((_, table))) => {
                tracing::warn!(broker = self.dialect.label(), "the symbol files cannot be read again: {error}");
                Ok(table)
            }
            (Err(error), None) => Err(error.to_string()),
        }
    }
}
