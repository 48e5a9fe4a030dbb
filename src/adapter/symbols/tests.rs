//! Tests of the symbol tables: each file form plain and packed, what is passed over, order of preference, size.

use super::*;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("symbols-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let file = self.0.join(name);
        std::fs::write(&file, bytes).expect("a file");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/symbols").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(vector(name)).expect("a vector")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(bytes).expect("memory");
    packed.finish().expect("memory")
}

fn zipped(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut packed = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        packed.start_file(*name, zip::write::SimpleFileOptions::default()).expect("a member");
        packed.write_all(bytes).expect("memory");
    }
    packed.finish().expect("memory").into_inner()
}

/// What a name is: feed exchange, type code, token, scale.
fn found<'a>(table: &'a Table, venue: &str, symbol: &str) -> Option<(&'static str, u8, &'a str, Option<u8>)> {
    let listing = table.find(InstrumentRef { venue, symbol })?;
    Some((listing.exchange.name, listing.exchange.code, listing.token, listing.scale))
}

fn names(table: &Table, exchange: &str, token: &str) -> Vec<String> {
    let exchange = table.dialect().exchange(exchange).expect("an exchange of the feed");
    table.names_of(exchange, token).map(|name| format!("{name:?}")).collect()
}

fn loaded(dialect: Dialect, files: &[PathBuf]) -> Loaded {
    load(dialect, files).expect("instruments")
}

fn kite(loaded: &Loaded) {
    let table = &loaded.table;
    for (venue, symbol, token, scale) in [
        ("NSE", "INFY", "408065", Some(2)),
        ("BSE", "BAJFINANCE", "128008708", Some(2)),
        ("NSE_INDEX", "NIFTY", "256265", None),
        ("NSE_INDEX", "BANKNIFTY", "260105", None),
        ("BSE_INDEX", "SENSEX", "265", None),
        ("NFO", "NIFTY28MAR24FUT", "15599874", Some(2)),
        ("NFO", "NIFTY28MAR2420000CE", "10366466", Some(2)),
        ("CDS", "USDINR27MAR2483.25PE", "412675", Some(4)),
        ("GLOBAL_INDEX", "GIFTNIFTY", "291849", Some(1)),
    ] {
        assert_eq!(found(table, venue, symbol), Some(("", 0, token, scale)), "{venue}:{symbol}");
        assert_eq!(names(table, "", token), [format!("{venue}:{symbol}")]);
    }
    assert_eq!(table.len(), 9);
    let summary = &loaded.files[0].1;
    for (error, line) in [
        (RowError::Token("not-a-number".into()), 11),
        (RowError::Exchange("XYZ".into()), 12),
        (RowError::Expiry("someday".into()), 13),
        (RowError::Strike(String::new()), 14),
        (RowError::Taken("NSE:INFY".into()), 16),
        (RowError::Missing("tradingsymbol"), 17),
    ] {
        assert_eq!(summary.count(&error), 1, "{error:?} in {summary}");
        assert!(summary.to_string().contains(&format!("(first at line {line}")), "{line}: {summary}");
    }
    assert_eq!((summary.taken, summary.errors(), summary.count(&RowError::Again)), (9, 6, 1));
}

#[test]
fn zerodhas_dump_is_read_plain_and_as_gzip() {
    let folder = Folder::new("kite");
    kite(&loaded(Dialect::Kite, &[vector("kite.csv")]));
    kite(&loaded(Dialect::Kite, &[folder.file("instruments", &gzip(&read("kite.csv")))]));
}

#[test]
fn angels_scrip_master_keeps_equal_tokens_of_two_exchanges_apart() {
    let loaded = loaded(Dialect::Angel, &[vector("angel.json")]);
    let table = &loaded.table;
    for (venue, symbol, want) in [
        ("NSE", "SBIN", ("NSE", 1, "3045", Some(2))),
        ("NSE", "STOCK", ("NSE", 1, "5290", Some(2))),
        ("NSE_INDEX", "NIFTY", ("NSE", 1, "99926000", None)),
        ("BSE_INDEX", "SENSEX", ("BSE", 3, "99919000", None)),
        ("NFO", "NIFTY28MAR2420000CE", ("NFO", 2, "40494", Some(2))),
        ("BFO", "SENSEX19MAR2473000CE", ("BFO", 4, "3045", Some(2))),
        ("CDS", "USDINR27MAR2483.25PE", ("CDS", 13, "1612", None)),
        ("MCX", "GOLD05APR24FUT", ("MCX", 5, "234230", Some(0))),
    ] {
        assert_eq!(found(table, venue, symbol), Some(want), "{venue}:{symbol}");
    }
    assert_eq!(table.len(), 8);
    assert_eq!(names(table, "NSE", "3045"), ["NSE:SBIN"]);
    assert_eq!(names(table, "BFO", "3045"), ["BFO:SENSEX19MAR2473000CE"]);
    let summary = &loaded.files[0].1;
    // Upstream would have asked NSE for the commodity's token.
    assert_eq!(summary.count(&RowError::Exchange(String::new())), 1, "{summary}");
    assert!(summary.to_string().contains("(first at line 8: \"NCDEX\")"), "{summary}");
    assert_eq!(summary.count(&RowError::Missing("")), 4, "a numeric token and three that are no objects: {summary}");
}

#[test]
fn what_came_before_a_damage_is_kept_and_the_damage_told() {
    let folder = Folder::new("damaged");
    let json = read("angel.json");
    let cut = folder.file("cut.json", &json[..json.len() - 200]);
    let cut = loaded(Dialect::Angel, &[cut]);
    assert_eq!(cut.table.len(), 7);
    assert_eq!(cut.files[0].1.count(&RowError::Damaged(String::new())), 1, "{}", cut.files[0].1);

    let packed = gzip(&read("kite.csv"));
    let cut = folder.file("cut.csv.gz", &packed[..packed.len() - 60]);
    let cut = loaded(Dialect::Kite, &[cut]);
    assert!(!cut.table.is_empty());
    assert_eq!(cut.files[0].1.count(&RowError::Damaged(String::new())), 1, "{}", cut.files[0].1);
}

#[test]
fn shoonyas_files_are_read_as_text_and_zip_and_get_the_indices_they_lack() {
    let names_in_zip: Vec<_> = ["NSE", "NFO", "CDS"].map(|name| format!("shoonya_{name}_symbols.txt")).into();
    let folder = Folder::new("shoonya");
    let members: Vec<_> = names_in_zip.iter().map(|name| (name.as_str(), read(name))).collect();
    let members: Vec<_> = members.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let one_zip = loaded(Dialect::Shoonya, &[folder.file("all.zip", &zipped(&members))]);
    let apart: Vec<_> = names_in_zip.iter().map(|name| vector(name)).collect();
    let apart = loaded(Dialect::Shoonya, &apart);
    for Loaded { table, .. } in [&one_zip, &apart] {
        for (venue, symbol, want) in [
            ("NSE", "ACC", ("NSE", 1, "22", Some(2))),
            ("NSE", "BAJAJ-AUTO", ("NSE", 1, "16669", Some(2))),
            ("NSE", "ICICIBANK", ("NSE", 1, "4963", Some(2))),
            ("NSE_INDEX", "NIFTY", ("NSE", 1, "26000", Some(2))),
            ("NSE_INDEX", "BANKNIFTY", ("NSE", 1, "26009", Some(2))),
            ("BSE_INDEX", "SENSEX", ("BSE", 2, "1", None)),
            ("BSE_INDEX", "BANKEX", ("BSE", 2, "12", None)),
            ("NFO", "NIFTY28MAR2420000CE", ("NFO", 3, "40494", Some(2))),
            ("NFO", "NIFTY28MAR24FUT", ("NFO", 3, "60936", Some(2))),
            ("NFO", "ACC28MAR242512.5PE", ("NFO", 3, "22", Some(2))),
            ("CDS", "USDINR27MAR2483.25PE", ("CDS", 5, "1612", Some(4))),
        ] {
            assert_eq!(found(table, venue, symbol), Some(want), "{venue}:{symbol}");
        }
        assert_eq!(table.len(), 11);
        assert_eq!(names(table, "NSE", "22"), ["NSE:ACC"]);
        assert_eq!(names(table, "NFO", "22"), ["NFO:ACC28MAR242512.5PE"]);
    }
    let summary = &one_zip.files[0].1;
    assert_eq!(
        (summary.count(&RowError::Placeholder), summary.count(&RowError::Kind(String::new()))),
        (2, 1),
        "{summary}"
    );
}

#[test]
fn flattrades_files_may_lack_the_exchange_if_their_names_tell_it() {
    let files = ["NSE_Equity.csv", "Nfo_Index_Derivatives.csv"].map(vector);
    let Loaded { table, .. } = loaded(Dialect::Flattrade, &files);
    assert_eq!(found(&table, "NSE", "ACC"), Some(("NSE", 1, "22", None)));
    assert_eq!(found(&table, "NSE_INDEX", "NIFTY"), Some(("NSE", 1, "26000", None)));
    assert_eq!(found(&table, "NFO", "NIFTY28MAR2420000CE"), Some(("NFO", 3, "40494", None)));
    assert_eq!(found(&table, "BSE_INDEX", "SENSEX"), None, "only Shoonya is known to feed it unlisted");
    let folder = Folder::new("flattrade");
    let nameless = folder.file("equity.csv", &read("NSE_Equity.csv"));
    let error = load(Dialect::Flattrade, &[nameless]).expect_err("no exchange").to_string();
    assert!(error.contains("its name does not begin with an exchange"), "{error}");
}

/// A database as OpenAlgo makes it, without the newer column unless `newer`.
fn database(file: &Path, newer: bool, rows: &[(&str, &str, &str, &str, f64)]) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(file).expect("a database");
    let more = if newer { ", contract_value FLOAT" } else { "" };
    db.execute_batch(&format!(
        "CREATE TABLE symtoken (id INTEGER PRIMARY KEY, symbol VARCHAR NOT NULL, brsymbol VARCHAR NOT NULL, name VARCHAR,
         exchange VARCHAR, brexchange VARCHAR, token VARCHAR, expiry VARCHAR, strike FLOAT, lotsize INTEGER,
         instrumenttype VARCHAR, tick_size FLOAT{more})"
    ))
    .expect("a table");
    for (symbol, exchange, brexchange, token, tick) in rows {
        db.execute(
            "INSERT INTO symtoken (symbol, brsymbol, exchange, brexchange, token, tick_size) VALUES (?1, ?1, ?2, ?3, ?4, ?5)",
            rusqlite::params![symbol, exchange, brexchange, token, tick],
        )
        .expect("a row");
    }
    db
}

#[test]
fn openalgos_table_is_read_with_and_without_its_newer_column_and_keeps_all_names_of_a_token() {
    let folder = Folder::new("symtoken");
    for newer in [false, true] {
        let file = folder.0.join(format!("openalgo-{newer}.db"));
        let rows = [
            ("INFY", "NSE", "NSE", "408065::::1594", 0.05),
            ("NIFTY", "NSE_INDEX", "NSE", "256265::::1001", 0.0),
            ("NIFTY50", "NSE_INDEX", "NSE", "256265::::1001", 0.0),
            ("USDINR27MAR24FUT", "CDS", "CDS", "412675::::1612", 0.0025),
            ("OTHER", "NSE", "NSE", "1594x", 0.05),
        ];
        let db = database(&file, newer, &rows);
        db.execute("INSERT INTO symtoken (symbol, brsymbol) VALUES ('HALF', 'HALF')", []).expect("a row");
        let loaded = loaded(Dialect::Kite, &[file]);
        let table = &loaded.table;
        assert_eq!(found(table, "NSE", "INFY"), Some(("", 0, "408065", Some(2))));
        assert_eq!(found(table, "CDS", "USDINR27MAR24FUT"), Some(("", 0, "412675", Some(4))));
        assert_eq!(names(table, "", "256265"), ["NSE_INDEX:NIFTY", "NSE_INDEX:NIFTY50"]);
        let summary = &loaded.files[0].1;
        assert_eq!((summary.taken, summary.errors()), (4, 2), "{summary}");
        assert!(summary.to_string().contains("line 5: \"1594x\""), "{summary}");
    }
}

#[test]
fn a_locked_or_empty_or_foreign_database_says_so_and_a_lower_kind_serves_meanwhile() {
    let folder = Folder::new("locked");
    let file = folder.0.join("openalgo.db");
    let db = database(&file, false, &[]);
    let files = [vector("NSE_Equity.csv"), file.clone()];

    let empty = loaded(Dialect::Flattrade, &files);
    assert_eq!(empty.table.len(), 2);
    assert!(empty.failed[0].to_string().contains("gave no instruments of flattrade: 0 instruments"), "{empty:?}");

    db.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
    let locked = loaded(Dialect::Flattrade, &files);
    assert!(matches!(&locked.failed[..], [LoadError::Locked { .. }]), "{locked:?}");
    let alone = load(Dialect::Flattrade, &files[1..]).expect_err("locked");
    assert!(alone.to_string().contains("is locked, as it is while OpenAlgo refills it"), "{alone}");
    db.execute_batch("ROLLBACK; DROP TABLE symtoken").expect("no lock");

    let other = load(Dialect::Flattrade, &files[1..]).expect_err("no such table");
    assert!(other.to_string().contains("no such table: symtoken"), "{other}");
}

#[test]
fn openalgos_names_come_first_then_the_export_then_the_brokers_dump() {
    let folder = Folder::new("order");
    let file = folder.0.join("openalgo.db");
    let db = database(&file, false, &[("FROMTABLE", "NSE", "NSE", "22", 0.05)]);
    let files = [vector("NSE_Equity.csv"), vector("symtoken.csv"), file];

    let first = loaded(Dialect::Flattrade, &files);
    assert_eq!(names(&first.table, "NSE", "22"), ["NSE:FROMTABLE"]);
    assert_eq!(first.unused, [vector("symtoken.csv"), vector("NSE_Equity.csv")]);

    db.execute_batch("DELETE FROM symtoken").expect("no rows");
    let second = loaded(Dialect::Flattrade, &files);
    assert_eq!(names(&second.table, "NSE", "22"), ["NSE:ACC", "NSE:ACCOLD"]);
    assert_eq!(names(&second.table, "NFO", "22"), ["NFO:NIFTY28MAR2420000CE"], "tokens repeat across exchanges");
    assert_eq!(found(&second.table, "NSE_INDEX", "NIFTY"), Some(("NSE", 1, "26000", None)));
    let summary = &second.files[0].1;
    assert_eq!((summary.count(&RowError::Exchange(String::new())), summary.errors()), (1, 2), "{summary}");

    let third = loaded(Dialect::Flattrade, &files[..1]);
    assert_eq!(names(&third.table, "NSE", "22"), ["NSE:ACC"]);
}

#[test]
fn a_file_of_another_kind_is_named_for_what_it_is() {
    let folder = Folder::new("foreign");
    for (dialect, file, want) in [
        (Dialect::Angel, vector("kite.csv"), "it is Zerodha's"),
        (Dialect::Kite, vector("NSE_Equity.csv"), "it is Flattrade's or Shoonya's"),
        (Dialect::Kite, vector("angel.json"), "JSON"),
        (Dialect::Kite, folder.file("empty", b""), "it is empty"),
        (Dialect::Kite, folder.file("text", b"hello\nworld\n"), "none of the columns known here"),
        (Dialect::Kite, folder.file("bad.zip", b"PK\x03\x04rest"), "cannot read"),
        (Dialect::Kite, folder.file("none.zip", &zipped(&[])), "none of the columns known here"),
        (Dialect::Kite, folder.0.join("missing"), "cannot read"),
        (
            Dialect::Kite,
            folder.file("header", b"instrument_token,tradingsymbol,instrument_type,segment,exchange"),
            "gave no",
        ),
    ] {
        let error = load(dialect, &[file]).expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    assert!(load(Dialect::Angel, &[]).expect_err("nothing").to_string().contains("OpenAPIScripMaster.json"));
}

#[test]
fn a_table_of_all_exchanges_takes_about_60_bytes_an_instrument_and_finds_each() {
    let mut table = Table::new(Dialect::Angel);
    let symbol = |n: u32| format!("NIFTY28MAR24{n}CE");
    const N: u32 = 200_000;
    for n in 0..N {
        let row = Row { venue: "NFO", symbol: &symbol(n), exchange: "NFO", token: &n.to_string(), scale: Some(2) };
        table.insert(row).expect("a new one");
    }
    table.shrink();
    let each = table.bytes() as f64 / f64::from(N);
    assert!(each < 70.0, "{each} bytes an instrument");
    for n in (0..N).step_by(997) {
        assert_eq!(found(&table, "NFO", &symbol(n)), Some(("NFO", 2, n.to_string().as_str(), Some(2))));
        assert_eq!(names(&table, "NFO", &n.to_string()), [format!("NFO:{}", symbol(n))]);
    }
    assert_eq!(found(&table, "NSE", &symbol(1)), None);
    assert_eq!(names(&table, "NSE", "1"), Vec::<String>::new());
}

#[test]
fn what_no_client_could_ask_for_or_no_packet_could_carry_stays_out() {
    let mut table = Table::new(Dialect::Angel);
    let long = "x".repeat(65);
    let row = |venue, symbol, exchange, token| Row { venue, symbol, exchange, token, scale: None };
    for (row, want) in [
        (row("NSE", long.as_str(), "NSE", "1"), RowError::Name(format!("NSE:{long}"))),
        (row("NSE", "A\tB", "NSE", "1"), RowError::Name("NSE:A\tB".into())),
        (row("NSE", "A", "XNSE", "1"), RowError::Exchange("XNSE".into())),
        (row("NSE", "A", "NSE", "1|2"), RowError::Token("1|2".into())),
        (row("NSE", "A", "NSE", "12345678901234567890123456"), RowError::Token("12345678901234567890123456".into())),
        (row("NSE", "A", "NSE", ""), RowError::Token(String::new())),
    ] {
        assert_eq!(table.insert(row), Err(want));
    }
    let mut kite = Table::new(Dialect::Kite);
    for token in ["0", "-1", "4294967296", "007", "::::5", "x"] {
        let refused = kite.insert(row("NSE", "A", "NSE", token));
        assert!(matches!(refused, Err(RowError::Token(_))), "{token}: {refused:?}");
    }
    assert!(table.is_empty() && kite.is_empty());
}

#[test]
fn a_stamp_changes_with_the_file_and_with_its_log() {
    let folder = Folder::new("stamp");
    let file = folder.file("a.db", b"one");
    let files = [file];
    let first = Stamp::of(&files);
    assert_eq!(Stamp::of(&files), first);
    folder.file("a.db-wal", b"log");
    let second = Stamp::of(&files);
    assert_ne!(second, first);
    folder.file("a.db", b"other");
    assert_ne!(Stamp::of(&files), second);
}
