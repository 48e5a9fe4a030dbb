//! OpenAlgo's own list: the `symtoken` table of its database, or a CSV with the same columns.
//!
//! It alone has OpenAlgo's names, so nothing is renamed here. The table holds one broker's contracts at a time, is emptied and
//! filled again each day, and may be locked meanwhile; it is opened read-only, and only the columns used are asked for.

use super::csv::{Fields, Header};
use super::{LoadError, Row, RowError, Summary, Table, names};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// Columns that make a CSV this one.
pub(super) const COLUMNS: &[&str] = &["symbol", "exchange", "brexchange", "token"];

/// How long a lock of OpenAlgo's is waited for.
const BUSY: Duration = Duration::from_millis(500);

const SELECT: &str = "SELECT rowid, symbol, exchange, brexchange, token, tick_size FROM symtoken ORDER BY rowid";

/// Where the columns of the CSV are.
pub(super) struct Columns {
    symbol: usize,
    venue: usize,
    exchange: usize,
    token: usize,
    tick: Option<usize>,
}

impl Columns {
    pub(super) fn of(header: &Header) -> Option<Self> {
        Some(Columns {
            symbol: header.column(&["symbol"])?,
            venue: header.column(&["exchange"])?,
            exchange: header.column(&["brexchange"])?,
            token: header.column(&["token"])?,
            tick: header.column(&["tick_size"]),
        })
    }

    pub(super) fn take(&self, fields: Fields<'_>, table: &mut Table) -> Result<(), RowError> {
        insert(
            table,
            fields.needed(self.symbol, "symbol")?,
            fields.needed(self.venue, "exchange")?,
            fields.at(self.exchange),
            fields.needed(self.token, "token")?,
            names::scale(fields.of(self.tick), 0),
        )
    }
}

fn insert(
    table: &mut Table,
    symbol: &str,
    venue: &str,
    exchange: &str,
    token: &str,
    scale: Option<u8>,
) -> Result<(), RowError> {
    let exchange = if exchange.is_empty() { venue } else { exchange };
    table.insert(Row { venue, symbol, exchange, token, scale })
}

/// Takes in the `symtoken` table of `file`.
pub(super) fn read(file: &Path, table: &mut Table, summary: &mut Summary) -> Result<(), LoadError> {
    let failed = |error: rusqlite::Error| {
        let busy = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked];
        if error.sqlite_error_code().is_some_and(|code| busy.contains(&code)) {
            return LoadError::Locked { file: file.into() };
        }
        LoadError::Unreadable { file: file.into(), cause: error.to_string() }
    };
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .and_then(|db| db.busy_timeout(BUSY).map(|()| db))
        .map_err(failed)?;
    let mut statement = db.prepare(SELECT).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let line = row.get::<_, i64>(0).map_err(failed)?.unsigned_abs();
        summary.row(line, take(row, table));
    }
    Ok(())
}

fn take(row: &rusqlite::Row<'_>, table: &mut Table) -> Result<(), RowError> {
    let text = |column: usize, name: &'static str| match row.get_ref(column) {
        Ok(ValueRef::Text(bytes)) if !bytes.trim_ascii().is_empty() => {
            std::str::from_utf8(bytes).map(|text| text.trim().to_owned()).map_err(|_| RowError::Unreadable)
        }
        // SQLite keeps a number a number where the column's type lets it.
        Ok(ValueRef::Integer(number)) => Ok(number.to_string()),
        _ => Err(RowError::Missing(name)),
    };
    let scale = match row.get_ref(5) {
        Ok(ValueRef::Real(tick)) => names::scale(&tick.to_string(), 0),
        Ok(ValueRef::Integer(tick)) => names::scale(&tick.to_string(), 0),
        Ok(ValueRef::Text(tick)) => std::str::from_utf8(tick).ok().and_then(|tick| names::scale(tick, 0)),
        _ => None,
    };
    let exchange = text(3, "brexchange").unwrap_or_default();
    insert(table, &text(1, "symbol")?, &text(2, "exchange")?, &exchange, &text(4, "token")?, scale)
}
