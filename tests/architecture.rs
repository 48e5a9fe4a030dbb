//! The documents name tests, files and functions: each must be there. A promise whose test was renamed or lost is found here.

use std::path::Path;

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// What stands between single backticks, outside of fenced blocks.
fn code_spans(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    outside.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// `path.rs::function` references of a document that name no test.
fn missing_tests(document: &str) -> (usize, Vec<String>) {
    let named: Vec<_> = code_spans(document).into_iter().filter_map(|span| span.split_once(".rs::")).collect();
    let missing = named.iter().filter(|(file, function)| {
        let text = read(&format!("{file}.rs")).unwrap_or_default();
        let found = text.find(&format!("fn {function}("));
        // The attribute stands right above, or above other attributes.
        !found.is_some_and(|at| {
            text[..at].rsplit("\n\n").next().is_some_and(|head| ["test]", "test("].iter().any(|t| head.contains(t)))
        })
    });
    (named.len(), missing.map(|(file, function)| format!("{file}.rs::{function}")).collect())
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let document = read("docs/ARCHITECTURE.md").expect("the document");
    let (named, missing) = missing_tests(&document);
    assert!(named > 25, "{named} tests named");
    assert!(missing.is_empty(), "named in ARCHITECTURE.md but not in the tree: {missing:#?}");
    let invariants =
        document.split("## 5. Invariants").nth(1).and_then(|t| t.split("\n## ").next()).expect("section 5");
    let entries: Vec<&str> = invariants.split("\n\n").filter(|p| p.trim_start().starts_with("1. ")).collect();
    let [list] = entries[..] else { panic!("one list of invariants") };
    for n in 1.. {
        let Some(at) = list.find(&format!("{n}. ")) else { break };
        let end = list.find(&format!("\n{}. ", n + 1)).unwrap_or(list.len());
        assert!(list[at..end].contains(".rs::"), "invariant {n} names no test");
    }
}

#[test]
fn every_file_named_in_the_documents_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in ["docs/ARCHITECTURE.md", "docs/PERFORMANCE.md", "README.md"] {
        let text = read(document).expect(document);
        let folders = ["src/", "tests/", "benches/", "docs/", "scripts/", "examples/"];
        for span in code_spans(&text) {
            let path = span.split("::").next().unwrap_or(span);
            if folders.iter().any(|f| path.starts_with(f)) && !path.contains(['<', ' ', '*']) {
                assert!(root.join(path).exists(), "{document} names {path}");
            }
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or(link);
            if path.is_empty() || path.starts_with("http") {
                continue;
            }
            let folder = root.join(document);
            assert!(folder.parent().expect("a folder").join(path).exists(), "{document} links to {path}");
        }
    }
}

#[test]
fn the_checks_can_fail() {
    let (named, missing) = missing_tests("`tests/tidy.rs::the_tree_keeps_its_rules` `tests/tidy.rs::no_such_test`");
    assert_eq!((named, missing.len()), (2, 1));
    // A function that is no test does not count.
    assert_eq!(missing_tests("`tests/tidy.rs::code_of`").1.len(), 1);
    assert_eq!(code_spans("a `b` c\n```sh\n`x`\n```\n`d`"), ["b", "d"]);
}
