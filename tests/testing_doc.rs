//! `docs/TESTING.md` names every test of the audit, and every test it names in turn exists.

use std::path::Path;

/// Every test that the audits name, and the headings under which they ask for more.
const AUDIT: &[&str] = &[
    "test_concurrent_subscribe",
    "test_subscribe_during_cleanup",
    "test_rapid_auth_disconnect",
    "test_zmq_broadcast",
    "test_unsubscribe_invalid",
    "test_concurrent_subscribe_same_symbol",
    "test_subscribe_unsubscribe_race",
    "test_auth_cleanup_race",
    "test_zmq_broadcast_during_subscription_change",
    "test_adapter_initialization_concurrent",
    "test_reference_counting_accuracy",
    "test_rollback_on_broker_failure",
    "test_unsubscribe_non_existent",
    "test_full_lifecycle_multiple_clients",
    "test_stress_zmq_broadcasting",
    "test_memory_leak_detection",
    "test_broker_reconnection",
    "RC-001",
    "RC-002",
    "RC-003",
    "RC-004",
    "RC-005",
    "RC-006",
    "Multi-Instance Testing",
    "Load Testing",
    "Fault Tolerance Testing",
    "Coverage Report",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

/// First cells of all table rows, without their remarks.
fn rows(document: &str) -> impl Iterator<Item = (&str, &str)> {
    document.lines().filter_map(|line| line.strip_prefix("| ")).filter_map(|line| line.split_once(" | "))
}

fn is_row_for(cell: &str, name: &str) -> bool {
    let cell = cell.replace('`', "");
    cell.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn is_test(file: &str, function: &str) -> bool {
    let text = read(file);
    let at = text.find(&format!("fn {function}("));
    at.is_some_and(|at| {
        text[..at].rsplit("\n\n").next().is_some_and(|head| ["test]", "test("].iter().any(|t| head.contains(t)))
    })
}

/// (file, function) of all tests named in `document`.
fn named(document: &str) -> Vec<(String, &str)> {
    let spans = document.split('`').skip(1).step_by(2);
    spans.filter_map(|span| span.split_once(".rs::")).map(|(file, test)| (format!("{file}.rs"), test)).collect()
}

#[test]
fn every_test_of_the_audit_has_a_row_that_names_ours() {
    let document = read("docs/TESTING.md");
    for name in AUDIT {
        let row = rows(&document).find(|(cell, _)| is_row_for(cell, name));
        let (_, ours) = row.unwrap_or_else(|| panic!("TESTING.md has no row for {name}"));
        assert!(ours.contains('`'), "{name}: the row names neither test nor command: {ours}");
    }
}

#[test]
fn every_test_the_document_names_exists() {
    let document = read("docs/TESTING.md");
    let named = named(&document);
    assert!(named.len() > 60, "{} tests named", named.len());
    let missing: Vec<_> = named.iter().filter(|(file, test)| !is_test(file, test)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_command_the_document_gives_names_what_is_there() {
    let document = read("docs/TESTING.md");
    for command in document.split('`').skip(1).step_by(2).filter(|span| span.starts_with("cargo ")) {
        let words: Vec<&str> = command.split(' ').collect();
        for pair in words.windows(2) {
            let file = match pair[0] {
                "--test" => format!("tests/{}.rs", pair[1]),
                "--bench" => format!("benches/{}.rs", pair[1]),
                _ => continue,
            };
            assert!(!read(&file).is_empty(), "`{command}`: no {file}");
            // A filter must match something: cargo is content with none.
            if let [.., filter] = words[..]
                && pair[0] == "--test"
                && filter != pair[1]
            {
                assert!(read(&file).contains(&format!("fn {filter}")), "`{command}`: no test called so");
            }
        }
    }
}

#[test]
fn the_checks_can_fail() {
    assert!(is_row_for("`test_zmq_broadcast`: so", "test_zmq_broadcast"));
    assert!(!is_row_for("`test_zmq_broadcast_during_subscription_change`", "test_zmq_broadcast"));
    assert!(is_test("tests/tidy.rs", "the_tree_keeps_its_rules"));
    assert!(!is_test("tests/tidy.rs", "code_of") && !is_test("tests/tidy.rs", "gone"));
    assert_eq!(named("a `tests/x.rs::y` b `z`"), [("tests/x.rs".to_owned(), "y")]);
}
