//! The tree polices itself: layer order, file length, markers, locks, unsafe, headers, unbounded channels.
//!
//! Each rule is a function from a file's path and text to its findings, tried on a bad snippet below, so that it is
//! known to be able to fail. Scanning is by text, on code without its comments and strings: a rule that needs a
//! parser to be understood would not be kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rows of the layer order, top first. A module imports nothing from its own row or above.
const ROWS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app"],
    &["config"],
    &["net"],
    &["session"],
    &["bus", "registry"],
    &["adapter", "engine"],
    &["zmtp", "shards"],
    &["outbox", "auth"],
    &["wire", "policy"],
    &["model"],
    &["limits"],
];
/// (importer, imported, why): the only imports against the rows.
const LAYER_EXCEPTIONS: &[(&str, &str, &str)] = &[];
/// Lines of one file outside tests.
const FILE_LINES_MAX: usize = 500;
/// (path, why): files that may be longer.
const LONG_FILES: &[(&str, &str)] = &[];
/// Where lock types may be named.
const LOCK_FILES: &[&str] = &["src/shards/lock.rs"];
/// Where `unsafe` may stand.
const UNSAFE_FILES: &[&str] = &["src/net/sys.rs"];

/// One Rust source file: where it is and what it says.
struct Source {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
}

/// The module under `src` that a file belongs to: `net` for `src/net.rs` and `src/net/http.rs`.
fn room(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let room = rest.split('/').next()?;
    Some(room.strip_suffix(".rs").unwrap_or(room))
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/")
        || path.starts_with("benches/")
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
}

/// `text` with comments, strings and character literals blanked out; lines stay where they are.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let blank = |code: &mut Vec<u8>, part: &[u8]| code.extend(part.iter().map(|&b| if b == b'\n' { b } else { b' ' }));
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let len = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            comment_len(rest)
        } else if rest[0] == b'r' && !after_word && raw_string_len(rest).is_some() {
            raw_string_len(rest).unwrap_or(1)
        } else if rest[0] == b'"' {
            quoted_len(rest, b'"')
        } else if rest[0] == b'\'' && is_char_literal(rest) {
            quoted_len(rest, b'\'')
        } else {
            code.push(rest[0]);
            at += 1;
            continue;
        };
        blank(&mut code, &rest[..len]);
        at += len;
    }
    String::from_utf8(code).expect("whole characters were kept or blanked bytewise")
}

fn comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn raw_string_len(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = 2 + hashes;
    let found = rest[body..].windows(end.len()).position(|w| w == end);
    Some(found.map_or(rest.len(), |p| body + p + end.len()))
}

fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Tells `'a'` and `'\n'` from a lifetime.
fn is_char_literal(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(_) => std::str::from_utf8(&rest[1..rest.len().min(6)])
            .or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]))
            .is_ok_and(|s| s.chars().nth(1) == Some('\'')),
        None => false,
    }
}

/// The part of `code` before its unit tests. They come last in a file and may use whatever they like.
fn outside_tests(code: &str) -> &str {
    let tests = code.find("#[cfg(test)]\nmod tests {").or_else(|| code.find("#[cfg(test)]\npub(crate) mod tests {"));
    &code[..tests.unwrap_or(code.len())]
}

/// (1-based line, word) for each whole word of `code` that is one of `words`.
fn words<'a>(code: &'a str, words: &'a [&'a str]) -> impl Iterator<Item = (usize, &'a str)> + 'a {
    code.lines().zip(1..).flat_map(move |(line, n)| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| words.contains(w)).map(move |w| (n, w))
    })
}

/// Modules of this crate that `code` names: `crate::x`, and each of `crate::{x, y::z}`.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        if code[..start].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$')) {
            continue;
        }
        let line = 1 + code[..start].matches('\n').count();
        let rest = &code[start + "crate::".len()..];
        let word = |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(list) = rest.strip_prefix('{') else {
            found.push((line, word(rest)));
            continue;
        };
        let (mut depth, mut element) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push((line, word(&std::mem::take(&mut element)))),
                _ => {}
            }
            if c != ',' || depth > 0 {
                element.push(c);
            }
        }
        found.push((line, word(&element)));
    }
    found.retain(|(_, module)| !module.is_empty());
    found
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn layer_order(source: &Source) -> Vec<String> {
    let Some(importer) = room(&source.path).filter(|r| *r != "lib") else { return Vec::new() };
    if is_test_file(&source.path) {
        return Vec::new();
    }
    let Some(own) = row(importer) else {
        return vec![format!("{}: {importer} stands in no row", source.path)];
    };
    let code = code_of(&source.text);
    let mut findings = Vec::new();
    for (line, imported) in imports(outside_tests(&code)) {
        let excepted = LAYER_EXCEPTIONS.iter().any(|(from, to, _)| *from == importer && *to == imported);
        let Some(theirs) = row(&imported).filter(|_| imported != importer && !excepted) else { continue };
        if theirs <= own {
            let which = if theirs == own { "its sibling" } else { "from above," };
            findings.push(format!("{}:{line}: {importer} imports {which} {imported}", source.path));
        }
    }
    findings
}

fn file_length(source: &Source) -> Vec<String> {
    if is_test_file(&source.path) || LONG_FILES.iter().any(|(path, _)| *path == source.path) {
        return Vec::new();
    }
    let lines = outside_tests(&source.text).lines().count();
    if lines > FILE_LINES_MAX { vec![format!("{}: {lines} lines", source.path)] } else { Vec::new() }
}

fn leftover_markers(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    let macros = ["todo", "unimplemented", "dbg"];
    let called = |line: usize, word: &str| {
        code.lines().nth(line - 1).is_some_and(|l| l.replace(char::is_whitespace, "").contains(&format!("{word}!")))
    };
    let mut findings: Vec<String> = words(&code, &macros)
        .filter(|&(line, word)| called(line, word))
        .map(|(line, word)| format!("{}:{line}: {word}!", source.path))
        .collect();
    // Put together here so that this file does not find itself.
    let notes = [concat!("FIX", "ME"), concat!("X", "XX"), concat!("TO", "DO")];
    findings.extend(words(&source.text, &notes).map(|(line, word)| format!("{}:{line}: {word}", source.path)));
    findings
}

fn locks(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || is_test_file(&source.path) || LOCK_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let code = code_of(&source.text);
    let found = words(outside_tests(&code), &["Mutex", "RwLock", "parking_lot"]);
    found.map(|(line, word)| format!("{}:{line}: {word}", source.path)).collect()
}

fn unsafe_code(source: &Source) -> Vec<String> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let code = code_of(&source.text);
    words(&code, &["unsafe"]).map(|(line, _)| format!("{}:{line}: unsafe", source.path)).collect()
}

/// Each unsafe block says why it is sound, right above.
fn unsafe_reasons(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    let lines: Vec<&str> = source.text.lines().collect();
    let reasoned = |line: usize| lines[line.saturating_sub(4)..line].iter().any(|l| l.contains("// SAFETY:"));
    let found = words(&code, &["unsafe"]).filter(|&(line, _)| !reasoned(line));
    found.map(|(line, _)| format!("{}:{line}: unsafe without a SAFETY comment", source.path)).collect()
}

fn headers(source: &Source) -> Vec<String> {
    let first = source.text.lines().next().unwrap_or_default();
    let says = first.strip_prefix("//!").is_some_and(|text| !text.trim().is_empty());
    if says { Vec::new() } else { vec![format!("{}: no //! header", source.path)] }
}

fn unbounded_channels(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    let names = ["unbounded", "unbounded_channel", "UnboundedSender", "UnboundedReceiver"];
    let mut findings: Vec<String> =
        words(&code, &names).map(|(line, word)| format!("{}:{line}: {word}", source.path)).collect();
    for (line, n) in code.lines().zip(1..) {
        // Of std's two, `sync_channel` is the bounded one; tokio's `channel` always takes a bound.
        let named = line.contains("std::sync::mpsc") && words(line, &["channel"]).next().is_some();
        if named || line.contains("mpsc::channel()") {
            findings.push(format!("{}:{n}: std::sync::mpsc::channel", source.path));
        }
    }
    findings
}

/// The tree is read by people who know nothing of how it was written.
fn foreign_words(source: &Source) -> Vec<String> {
    let lower = source.text.to_lowercase();
    let foreign = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "wt"),
        concat!("sub", "agent"),
        concat!("work", "place"),
        concat!("lan", "guage model"),
        concat!("chat", "gpt"),
        concat!("clau", "de"),
        concat!("anthro", "pic"),
    ];
    let mut findings = Vec::new();
    for (line, n) in lower.lines().zip(1..) {
        findings.extend(foreign.iter().filter(|w| line.contains(**w)).map(|w| format!("{}:{n}: {w}", source.path)));
    }
    findings
}

type Rule = fn(&Source) -> Vec<String>;

/// All rules, each with a snippet that breaks it and the path under which it does.
const RULES: &[(&str, Rule, &str, &str)] = &[
    ("layer order", layer_order, "src/wire/json.rs", "use crate::net::sys;"),
    ("file length", file_length, "src/wire/json.rs", LONG_SNIPPET),
    ("leftover markers", leftover_markers, "src/wire/json.rs", "fn f() { todo!() }"),
    ("locks", locks, "src/engine/worker.rs", "use std::sync::Mutex;"),
    ("unsafe", unsafe_code, "src/engine/worker.rs", "fn f() { unsafe { g() } }"),
    ("unsafe reasons", unsafe_reasons, "src/net/sys.rs", "fn f() { unsafe { g() } }"),
    ("headers", headers, "src/wire/json.rs", "use std::fmt;"),
    ("unbounded channels", unbounded_channels, "src/bus/mod.rs", "let (a, b) = mpsc::unbounded_channel();"),
    ("foreign words", foreign_words, "src/bus/mod.rs", concat!("// found in /wo", "rk/somewhere")),
];

/// 501 lines.
const LONG_SNIPPET: &str = {
    const BYTES: [u8; 2 * (FILE_LINES_MAX + 1)] = {
        let mut bytes = [b';'; 2 * (FILE_LINES_MAX + 1)];
        let mut n = 0;
        while n <= FILE_LINES_MAX {
            bytes[2 * n + 1] = b'\n';
            n += 1;
        }
        bytes
    };
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => panic!("ASCII only"),
    }
};

/// Every .rs file that belongs to the repository.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> =
        ["src", "tests", "benches", "loadtest", "fuzz", "examples"].iter().map(|f| root.join(f)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("readable").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
                sources.push(Source { path: name, text: std::fs::read_to_string(&path).expect("UTF-8") });
            }
        }
    }
    sources
}

#[test]
fn the_tree_keeps_its_rules() {
    let sources = sources();
    assert!(sources.iter().any(|s| s.path == "src/lib.rs"), "the sources were not found");
    let mut findings: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, rule, ..) in RULES {
        findings.entry(name).or_default().extend(sources.iter().flat_map(rule));
    }
    findings.retain(|_, found| !found.is_empty());
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn every_rule_can_fail_and_finds_nothing_in_a_clean_file() {
    for (name, rule, path, bad) in RULES {
        let found = rule(&Source { path: (*path).into(), text: (*bad).into() });
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let clean =
            "//! Room: what it is for.\n\nuse crate::limits;\n\nfn f() -> &'static str {\n    \"unsafe Mutex\"\n}\n";
        let found = rule(&Source { path: (*path).into(), text: clean.into() });
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}

#[test]
fn imports_are_found_in_lists_and_paths_but_not_in_words_or_tests() {
    let check = |path: &str, text: &str, want: &[&str]| {
        let found = layer_order(&Source { path: path.into(), text: text.into() });
        assert_eq!(found.len(), want.len(), "{text}: {found:?}");
        for (found, want) in found.iter().zip(want) {
            assert!(found.ends_with(want), "{found} does not end with {want}");
        }
    };
    check("src/bus/mod.rs", "use crate::{model::{Mode, Micros}, registry::Key, limits};", &["its sibling registry"]);
    check("src/engine/worker.rs", "fn f() { crate::session::start() }", &["from above, session"]);
    check("src/engine/worker.rs", "use crate::adapter::Link;\nuse crate::engine::index;", &["its sibling adapter"]);
    check("src/engine/worker.rs", "use crate::{shards, outbox, wire, policy, model, limits};", &[]);
    check("src/engine/worker.rs", "// crate::net is above\nlet s = \"crate::net\";", &[]);
    check("src/engine/worker.rs", "#[cfg(test)]\nmod tests {\n    use crate::net::sys;\n}\n", &[]);
    check("src/engine/tests.rs", "use crate::net::sys;", &[]);
    check("src/main.rs", "use crate::app;", &[]);
    check("src/stranger.rs", "", &["stands in no row"]);
}

#[test]
fn comments_strings_and_characters_are_no_code_but_lifetimes_are() {
    for (text, want) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("f(\"x\\\"y\") g", "f(      ) g"),
        ("r#\"a\"b\"# c", "         c"),
        ("for_r\"x\"", "for_r   "),
        ("'a' '\\'' &'a str 'static", "         &'a str 'static"),
        ("'é' x", "     x"),
    ] {
        assert_eq!(code_of(text), want, "{text}");
    }
}

#[test]
fn each_exception_says_why_and_is_still_needed() {
    let sources = sources();
    for (from, to, why) in LAYER_EXCEPTIONS {
        assert!(!why.is_empty());
        let needed = sources
            .iter()
            .any(|s| room(&s.path) == Some(from) && imports(&code_of(&s.text)).iter().any(|(_, module)| module == to));
        assert!(needed, "{from} no longer imports {to}");
    }
    for (path, why) in LONG_FILES {
        assert!(!why.is_empty());
        let long = sources.iter().any(|s| s.path == *path && outside_tests(&s.text).lines().count() > FILE_LINES_MAX);
        assert!(long, "{path} is no longer long");
    }
}
