//! Every command the documentation shows is known to work: `HOW` says which test or step of `scripts/test.sh` runs it.
//!
//! A new command in a ```` ```sh ```` block fails here until it has its row. Command lines of tickcast are also parsed
//! by the program's own definition, so that a flag that was renamed fails too.

use clap::Parser;
use std::path::{Path, PathBuf};

/// What runs a command.
#[derive(Clone, Copy)]
enum How {
    /// (file, test): a test that runs this command.
    Test(&'static str, &'static str),
    /// A step of `scripts/test.sh` with this text.
    Step(&'static str),
}
use How::{Step, Test};

/// The largest picture, bytes: a clone should stay small.
const PICTURE_BYTES_MAX: u64 = 300_000;

/// Command (its first words; for tickcast: program and subcommand) → what runs it.
const HOW: &[(&str, How)] = &[
    ("tickcast", Test("commands.rs", "the_first_line_names_every_port_and_the_process")),
    ("tickcast serve", Test("commands.rs", "an_openalgo_database_and_its_env_file_are_all_a_server_needs")),
    ("tickcast check", Test("commands.rs", "check_prints_the_settings_with_where_each_came_from")),
    ("tickcast doctor", Test("doctor.rs", "on_a_healthy_machine_with_nothing_running_there_is_no_problem")),
    ("tickcast watch", Test("commands.rs", "watch_shows_live_ticks_of_the_simulated_market")),
    ("tickcast top", Test("top.rs", "once_shows_a_stalled_client_first_with_the_verdict_and_the_reason")),
    ("tickcast keys add", Test("commands.rs", "a_key_made_on_the_command_line_opens_the_server_until_it_is_revoked")),
    ("tickcast keys list", Test("commands.rs", "a_key_made_on_the_command_line_opens_the_server_until_it_is_revoked")),
    (
        "tickcast keys revoke",
        Test("commands.rs", "a_key_made_on_the_command_line_opens_the_server_until_it_is_revoked"),
    ),
    (
        "python examples/publish_zerodha.py",
        Test("e2e/zerodha.rs", "prices_of_synthetic_zerodha_packets_reach_sdk_2_unchanged"),
    ),
    (
        "python examples/msgpack_client.py",
        Test("e2e/msgpack.rs", "msgpack_python_reads_the_prices_that_were_published"),
    ),
    (
        "python examples/openalgo_bridge.py",
        Test("e2e/bridge.rs", "an_openalgo_adapter_class_serves_json_and_messagepack_clients_through_the_bridge"),
    ),
    (
        "python examples/register_publisher.py",
        Test(
            "e2e/discovery.rs",
            "the_python_example_registers_in_a_file_and_in_redis_slides_leaves_and_without_a_registry_says_what_is_in_use",
        ),
    ),
    (
        "cargo run --example register_publisher",
        Test("discovery.rs", "fifty_processes_that_register_at_once_all_get_a_port_and_are_all_heard"),
    ),
    ("install", Test("operations.rs", "every_command_of_the_operations_manual_runs_in_its_order")),
    ("mv", Test("operations.rs", "every_command_of_the_operations_manual_runs_in_its_order")),
    ("pip install pyzmq redis", Step("install -r tests/e2e/requirements.txt")),
    ("pip install websocket-client msgpack", Step("install -r tests/e2e/requirements.txt")),
    ("pip install pyzmq msgpack", Step("install -r tests/e2e/requirements.txt")),
    (
        "scripts/dashboards.py",
        Test("e2e/dashboards.rs", "every_panel_has_values_from_a_prometheus_that_scrapes_a_server_under_load"),
    ),
    (
        "prometheus",
        Test("e2e/dashboards.rs", "promtool_finds_nothing_in_configuration_and_rules_and_all_rule_tests_pass"),
    ),
    (
        "promtool",
        Test("e2e/dashboards.rs", "promtool_finds_nothing_in_configuration_and_rules_and_all_rule_tests_pass"),
    ),
    // As far as that goes without an engine.
    ("docker compose", Test("dashboards.rs", "the_compose_file_is_valid_and_mounts_what_is_there")),
    ("./scripts/test.sh", Test("docs.rs", "the_gate_is_the_script")),
    ("cargo bench", Step("cargo test --features e2e --bench '*'")),
    ("cargo build", Step("cargo build --release")),
    ("cargo test --workspace", Step("cargo test --workspace")),
    ("cargo test --features e2e", Step("cargo test --workspace --features tickcast/e2e")),
    ("cargo test --features shuttle --test model", Step("cargo test --features shuttle --test model")),
    ("cargo run --release -p loadtest", Test("../loadtest/tests/run.rs", "every_command_of_the_documentation_runs")),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `README.md`, `docs/*.md` and the README files of other folders.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "examples/README.md", "loadtest/README.md", "dashboards/README.md"]
        .iter()
        .map(|path| root().join(path))
        .filter(|path| path.exists())
        .collect();
    let docs = std::fs::read_dir(root().join("docs")).expect("docs");
    found
        .extend(docs.map(|entry| entry.expect("an entry").path()).filter(|p| p.extension().is_some_and(|e| e == "md")));
    found
}

/// Commands of the shell blocks in Markdown, one a line, continued lines joined.
fn commands(markdown: &str) -> Vec<String> {
    let (mut found, mut inside, mut joined) = (Vec::new(), false, String::new());
    for line in markdown.lines() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && matches!(language, "sh" | "bash" | "shell" | "console");
            continue;
        }
        if !inside {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => joined += part,
            None => {
                let whole = std::mem::take(&mut joined) + line;
                // What one command line chains are commands of their own; a comment is none.
                let code = whole.split(" #").next().unwrap_or_default();
                let parts = code.split(" && ").flat_map(|part| part.split(" | "));
                found.extend(
                    parts.map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('#')).map(String::from),
                );
            }
        }
    }
    found
}

/// The words of a command without prompt and variables; `cargo run --release --` is spelt `tickcast`.
fn words(command: &str) -> Vec<&str> {
    let is_variable = |word: &&str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && !name.contains(|c: char| c != '_' && !c.is_ascii_alphanumeric())
        })
    };
    let words: Vec<&str> = command.trim_start_matches("$ ").split_whitespace().skip_while(is_variable).collect();
    match words.as_slice() {
        ["cargo", "run", "--release"] => vec!["tickcast"],
        ["cargo", "run", "--release", "--", rest @ ..] => [&["tickcast"], rest].concat(),
        ["target/release/tickcast" | "./target/release/tickcast", rest @ ..] => [&["tickcast"], rest].concat(),
        _ => words,
    }
}

/// Program and subcommand of a tickcast command line.
fn subcommand<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let limit = if words.get(1) == Some(&"keys") { 3 } else { 2 };
    words.iter().take(limit).take_while(|word| !word.starts_with('-')).copied().collect()
}

/// What is wrong with a command, if anything.
fn complaint(command: &str, how: &[(&str, How)]) -> Option<String> {
    let words = words(command);
    let ours = words.first() == Some(&"tickcast");
    if ours && let Err(error) = tickcast::cli::Cli::try_parse_from(&words) {
        return Some(format!("`{command}` is refused by tickcast: {error}"));
    }
    let fits = |row: &str| {
        let row: Vec<&str> = row.split(' ').collect();
        if ours { subcommand(&words) == row } else { words.starts_with(&row) }
    };
    // Scripts and targets a command names must be there.
    for pair in words.windows(2).filter(|_| words.first() == Some(&"cargo")) {
        let folder = match pair[0] {
            "--bench" => "benches",
            "--test" => "tests",
            "--example" => "examples",
            _ => continue,
        };
        let file = format!("{folder}/{}.rs", pair[1]);
        if !root().join(&file).exists() {
            return Some(format!("`{command}`: there is no {file}"));
        }
    }
    (!how.iter().any(|(row, _)| fits(row))).then(|| format!("`{command}` has no row in HOW of tests/docs.rs"))
}

#[test]
fn every_command_in_the_documentation_is_run_by_a_test() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document");
        for command in commands(&text) {
            seen += 1;
            wrong.extend(complaint(&command, HOW).map(|complaint| format!("{}: {complaint}", document.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 4, "only {seen} commands found: is the reading of blocks broken?");
}

#[test]
fn every_picture_a_document_shows_is_there_and_small() {
    let mut seen = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document");
        for rest in text.split("\n![").skip(1) {
            let path = rest.split_once("](").and_then(|(_, rest)| rest.split(')').next()).expect("a path");
            let path = document.parent().expect("a folder").join(path);
            let bytes = std::fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len();
            assert!((10_000..=PICTURE_BYTES_MAX).contains(&bytes), "{}: {bytes} bytes", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 1, "no picture found: is the reading of links broken?");
}

#[test]
fn every_row_names_a_test_or_a_step_that_is_there() {
    let script = read("scripts/test.sh");
    for (command, how) in HOW {
        match how {
            Test(file, test) => {
                assert!(
                    read(format!("tests/{file}")).contains(&format!("\nfn {test}(")),
                    "{command}: {file} has no {test}"
                );
            }
            Step(text) => assert!(script.contains(text), "{command}: scripts/test.sh has no `{text}`"),
        }
    }
}

#[test]
fn the_gate_is_the_script() {
    assert_eq!(read(".ci/run"), "#!/usr/bin/env bash\nexec ./scripts/test.sh\n");
    for path in [".ci/run", "scripts/test.sh"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(root().join(path)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{path} can be run");
    }
}

#[test]
fn the_e2e_feature_changes_no_code() {
    // So that a run with it stands for one without.
    fn visit(folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                assert!(!text.contains(concat!("feature = \"", "e2e\"")), "{}", path.display());
            }
        }
    }
    visit(&root().join("src"));
    visit(&root().join("tests"));
}

#[test]
fn blocks_are_read_as_a_shell_would() {
    let text = "```sh\n# a comment\ncargo run \\\n  --release   # why\nA=1 B_2=x tickcast serve && tickcast check | head\n```\n\
                ```json\n{}\n```\n```\nnot a command\n```\n";
    let found = commands(text);
    assert_eq!(found, ["cargo run --release", "A=1 B_2=x tickcast serve", "tickcast check", "head"]);
    assert_eq!(words(&found[0]), ["tickcast"]);
    assert_eq!(words(&found[1]), ["tickcast", "serve"]);
    assert_eq!(words("cargo run --release -- watch X --mode ltp"), ["tickcast", "watch", "X", "--mode", "ltp"]);
    assert_eq!(words("tickcast --set a.b=1"), ["tickcast", "--set", "a.b=1"]);
}

#[test]
fn what_no_row_covers_or_no_program_takes_is_told() {
    for bad in [
        "frobnicate",
        "tickcast watch X --no-such-flag",
        "cargo run --release -- sevre",
        "cargo bench --bench nonesuch",
        "cargo run --release -p nonesuch",
    ] {
        assert!(complaint(bad, HOW).is_some(), "{bad}");
    }
    for good in ["cargo run --release", "tickcast keys add --store s --user u --broker b", "cargo bench --bench wire"] {
        assert_eq!(complaint(good, HOW), None);
    }
    assert!(complaint("cargo bench", &[]).is_some());
}
