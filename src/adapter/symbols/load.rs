//! From files to one table: which form a file has, in which order files count, and what is said about them.
//!
//! A file's form is seen in its content, not its name: SQLite, gzip and zip by their first bytes, JSON by its bracket, CSV by
//! the columns it has. OpenAlgo's own list comes before a CSV export of it, and that before the broker's dump; a lower
//! kind is read only if no higher one gave instruments, so that names of two makers never mix. Blocks: run it on a thread
//! that may. Bounds: a file's text, its lines, the instruments of a table.

use super::csv::{Header, Rows};
use super::{Dialect, RowError, Summary, Table, angel, kite, noren, openalgo};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file's text after decompression, bytes; real ones have up to 50 MB.
const TEXT_BYTES_MAX: u64 = 1 << 30;
/// Members of a zip file, counted.
const MEMBERS_MAX: usize = 64;

/// Why a file gave no instruments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Nothing to load from.
    #[error("no symbol file is named; set brokers.NAME.symbols to {wanted}")]
    NoFile {
        /// What would do.
        wanted: &'static str,
    },
    /// It cannot be opened or read.
    #[error("cannot read {}: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's or SQLite's word.
        cause: String,
    },
    /// OpenAlgo is writing.
    #[error("{} is locked, as it is while OpenAlgo refills it; it is read again at the next connect", file.display())]
    Locked {
        /// The file.
        file: PathBuf,
    },
    /// No form known here.
    #[error("{} is no symbol file: {found}; wanted is {wanted}", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
        /// What it looks like.
        found: String,
        /// What would do.
        wanted: &'static str,
    },
    /// Every row was passed over, or there is none.
    #[error("{} gave no instruments of {}: {summary}", file.display(), dialect.label())]
    Empty {
        /// The file.
        file: PathBuf,
        /// Whose instruments were looked for.
        dialect: Dialect,
        /// What its rows were.
        summary: String,
    },
}

/// What a file holds, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Symtoken,
    Export,
    Dump,
}

/// How the text is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Sqlite,
    Plain,
    Gzip,
    Zip,
}

/// A table and what is to be said about where it came from.
#[derive(Debug)]
pub struct Loaded {
    /// At least one instrument.
    pub table: Table,
    /// The files it came from, each with what became of its rows.
    pub files: Vec<(PathBuf, Summary)>,
    /// Files that gave nothing.
    pub failed: Vec<LoadError>,
    /// Files left alone because a better kind was there.
    pub unused: Vec<PathBuf>,
}

/// Reads `files` of one broker.
///
/// # Errors
/// No file gave an instrument: the first file's reason. A file that fails beside one that does not is in
/// [`Loaded::failed`].
pub fn load(dialect: Dialect, files: &[PathBuf]) -> Result<Loaded, LoadError> {
    let mut failed = Vec::new();
    let mut known = Vec::new();
    for file in files {
        match examine(file, dialect) {
            Ok((kind, packing)) => known.push((kind, packing, file)),
            Err(error) => failed.push(error),
        }
    }
    known.sort_by_key(|(kind, ..)| *kind);
    let mut known = known.into_iter().peekable();
    while let Some(&(kind, ..)) = known.peek() {
        let mut table = Table::new(dialect);
        let mut read = Vec::new();
        while let Some((_, packing, file)) = known.next_if(|(next, ..)| *next == kind) {
            match read_file(file, packing, &mut table) {
                Ok(summary) => read.push((file.clone(), summary)),
                Err(error) => failed.push(error),
            }
        }
        if kind == Kind::Dump {
            noren::add_unlisted(&mut table);
        }
        if !table.is_empty() {
            table.shrink();
            return Ok(Loaded { table, files: read, failed, unused: known.map(|(_, _, file)| file.clone()).collect() });
        }
    }
    Err(failed.into_iter().next().unwrap_or(LoadError::NoFile { wanted: wanted(dialect) }))
}

/// Tells whether files changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(u64, SystemTime)>>);

impl Stamp {
    /// The files as they are now. SQLite's log counts too: a refill may only be there yet.
    pub fn of(files: &[PathBuf]) -> Self {
        let one = |file: &Path| std::fs::metadata(file).ok().and_then(|meta| Some((meta.len(), meta.modified().ok()?)));
        let log = |file: &PathBuf| {
            let mut name = file.clone().into_os_string();
            name.push("-wal");
            PathBuf::from(name)
        };
        Stamp(files.iter().flat_map(|file| [one(file), one(&log(file))]).collect())
    }
}

fn wanted(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Kite => {
            "OpenAlgo's database, a CSV export of its symtoken table, or Zerodha's instruments as CSV or CSV.gz"
        }
        Dialect::Angel => "OpenAlgo's database, a CSV export of its symtoken table, or Angel's OpenAPIScripMaster.json",
        Dialect::Flattrade | Dialect::Shoonya => {
            "OpenAlgo's database, a CSV export of its symtoken table, or the broker's symbol files as text or zip"
        }
    }
}

fn examine(file: &Path, dialect: Dialect) -> Result<(Kind, Packing), LoadError> {
    let packing = packing(file).map_err(|error| unreadable(file, error))?;
    if packing == Packing::Sqlite {
        return Ok((Kind::Symtoken, packing));
    }
    let mut first = None;
    each_text(file, packing, &mut |name, text| {
        if first.is_none() {
            first = Some(Form::of(text, name, dialect)?);
        }
        Ok(())
    })
    .map_err(|error| unreadable(file, error))?;
    match first {
        Some(Form::Unknown(found)) => Err(LoadError::Unknown { file: file.into(), found, wanted: wanted(dialect) }),
        Some(Form::Rows(_, Columns::Export(_))) => Ok((Kind::Export, packing)),
        Some(_) => Ok((Kind::Dump, packing)),
        None => {
            Err(LoadError::Unknown { file: file.into(), found: "an empty archive".into(), wanted: wanted(dialect) })
        }
    }
}

fn unreadable(file: &Path, error: io::Error) -> LoadError {
    LoadError::Unreadable { file: file.into(), cause: error.to_string() }
}

fn packing(file: &Path) -> io::Result<Packing> {
    let mut magic = Vec::new();
    File::open(file)?.take(16).read_to_end(&mut magic)?;
    Ok(match &magic[..] {
        b"SQLite format 3\0" => Packing::Sqlite,
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [b'P', b'K', 3, 4, ..] => Packing::Zip,
        _ => Packing::Plain,
    })
}

/// Calls `use_text` with each text of the file: one, or one a member of a zip.
fn each_text(
    file: &Path,
    packing: Packing,
    use_text: &mut dyn FnMut(&str, &mut dyn BufRead) -> io::Result<()>,
) -> io::Result<()> {
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let source = File::open(file)?;
    match packing {
        Packing::Gzip => use_text(&name, &mut BufReader::new(MultiGzDecoder::new(source).take(TEXT_BYTES_MAX))),
        Packing::Zip => {
            let mut archive = zip::ZipArchive::new(BufReader::new(source)).map_err(io::Error::other)?;
            for index in 0..archive.len().min(MEMBERS_MAX) {
                let member = archive.by_index(index).map_err(io::Error::other)?;
                if member.is_dir() {
                    continue;
                }
                let path = member.name().map_err(io::Error::other)?.into_owned();
                let name = path.rsplit('/').next().unwrap_or_default();
                use_text(name, &mut BufReader::new(member.take(TEXT_BYTES_MAX)))?;
            }
            Ok(())
        }
        Packing::Plain | Packing::Sqlite => use_text(&name, &mut BufReader::new(source.take(TEXT_BYTES_MAX))),
    }
}

/// What a text is; of rows the header has been read then.
enum Form {
    Json,
    /// The header's line, and what follows from it.
    Rows(u64, Columns),
    Unknown(String),
}

enum Columns {
    Export(openalgo::Columns),
    Kite(kite::Columns),
    Noren(noren::Columns),
}

impl Form {
    fn of(text: &mut dyn BufRead, name: &str, dialect: Dialect) -> io::Result<Self> {
        if text.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            text.consume(3);
        }
        let start = text.fill_buf()?.trim_ascii_start();
        if start.first().is_some_and(|c| matches!(c, b'[' | b'{')) {
            let angel = dialect == Dialect::Angel && start[0] == b'[';
            return Ok(if angel { Form::Json } else { Form::Unknown("JSON".into()) });
        }
        let mut rows = Rows::after(text, 0);
        let Some((line, fields)) = rows.next()? else { return Ok(Form::Unknown("it is empty".into())) };
        let Ok(fields) = fields else { return Ok(Form::Unknown("its first line is no header".into())) };
        let columns = Columns::of(&Header::new(fields), name, dialect);
        Ok(columns.map_or_else(Form::Unknown, |columns| Form::Rows(line, columns)))
    }
}

impl Columns {
    fn of(header: &Header, name: &str, dialect: Dialect) -> Result<Self, String> {
        if header.has(openalgo::COLUMNS) {
            return openalgo::Columns::of(header).map(Columns::Export).ok_or_else(String::new);
        }
        match dialect {
            Dialect::Kite if header.has(kite::COLUMNS) => {
                kite::Columns::of(header).map(Columns::Kite).ok_or_else(String::new)
            }
            Dialect::Flattrade | Dialect::Shoonya if header.has(noren::COLUMNS) => {
                let nameless = || "it has no Exchange column, and its name does not begin with an exchange".to_owned();
                noren::Columns::of(header, name).map(Columns::Noren).ok_or_else(nameless)
            }
            _ if header.has(kite::COLUMNS) => Err("it is Zerodha's".into()),
            _ if header.has(noren::COLUMNS) => Err("it is Flattrade's or Shoonya's".into()),
            _ => Err("its first line has none of the columns known here".into()),
        }
    }
}

fn read_file(file: &Path, packing: Packing, table: &mut Table) -> Result<Summary, LoadError> {
    let mut summary = Summary::default();
    if packing == Packing::Sqlite {
        openalgo::read(file, table, &mut summary)?;
    } else {
        let outcome = each_text(file, packing, &mut |name, text| {
            read_text(text, name, table, &mut summary);
            Ok(())
        });
        if let Err(error) = outcome {
            summary.row(0, Err(RowError::Damaged(error.to_string())));
        }
    }
    if summary.taken == 0 {
        let dialect = table.dialect();
        return Err(LoadError::Empty { file: file.into(), dialect, summary: summary.to_string() });
    }
    Ok(summary)
}

fn read_text(text: &mut dyn BufRead, name: &str, table: &mut Table, summary: &mut Summary) {
    let damaged = |summary: &mut Summary, line: u64, cause: String| {
        summary.row(line, Err(RowError::Damaged(cause)));
    };
    let (header, columns) = match Form::of(text, name, table.dialect()) {
        Ok(Form::Json) => return angel::read(text, table, summary),
        Ok(Form::Rows(line, columns)) => (line, columns),
        Ok(Form::Unknown(found)) => return damaged(summary, 1, found),
        Err(error) => return damaged(summary, 1, error.to_string()),
    };
    let mut rows = Rows::after(text, header);
    loop {
        let line = rows.line() + 1;
        match rows.next() {
            Ok(None) => return,
            Ok(Some((line, fields))) => {
                let outcome = fields.and_then(|fields| match &columns {
                    Columns::Export(columns) => columns.take(fields, table),
                    Columns::Kite(columns) => columns.take(fields, table),
                    Columns::Noren(columns) => columns.take(fields, table),
                });
                summary.row(line, outcome);
            }
            Err(error) => return damaged(summary, line, error.to_string()),
        }
    }
}
