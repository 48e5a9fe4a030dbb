//! The program itself, run small against a real tickcast (this package's example `server`, or `SERVER_BINARY`): every scenario, every
//! form of a report, every exit code, every command of the documentation.

mod support;

use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use support::{Foreign, Habit, Outcome, Scratch, Tickcast, loadtest, server, well_formed};

/// Twenty clients for a second.
const SMALL: &str = "--clients 20 --symbols 5 --universe 20 --rate 1000 --seconds 1 --warmup 0 --quiet";

fn spawned(scenario: &str, more: &str) -> Outcome {
    loadtest(&format!("{scenario} --spawn {} {SMALL} {more}", server()))
}

/// Runs it with --json and reads that.
fn figures(scenario: &str, more: &str) -> Value {
    let file = Scratch::new("json");
    let outcome = spawned(scenario, &format!("{more} --json {}", file.path()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    serde_json::from_str(&file.read()).expect("JSON")
}

#[test]
fn fanout_delivers_every_tick_and_says_so_in_table_json_and_page() {
    let (json, html) = (Scratch::new("json"), Scratch::new("html"));
    let outcome =
        spawned("fanout", &format!("--json {} --html {} --max-p99 30s --min-delivered 1.0", json.path(), html.path()));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for part in
        ["latency p99, ms", "delivered / expected                            1.000000", "ticks per server cpu-second"]
    {
        assert!(outcome.out.contains(part), "{part}: {}", outcome.out);
    }
    let value: Value = serde_json::from_str(&json.read()).expect("JSON");
    assert_eq!(
        (&value["schema"], &value["scenario"], &value["passed"]),
        (&"loadtest/1".into(), &"fanout".into(), &true.into())
    );
    let run = &value["runs"][0];
    // 1000 ticks over 20 symbols, 20 clients with 5 symbols each.
    assert_eq!((run["delivered"].as_u64(), run["expected"].as_u64()), (Some(5000), Some(5000)));
    assert_eq!(run["clients_up_to_date"], 20);
    for field in [
        "/latency_us/p50",
        "/latency_us/p99",
        "/latency_us/max",
        "/bytes_per_tick",
        "/server/cpu_seconds",
        "/server/rss_bytes/end",
        "/generator/round_us/p99",
        "/published/late_us/p99",
        "/series/0/ticks_per_second",
    ] {
        assert!(run.pointer(field).is_some_and(|v| v.as_f64().is_some_and(|n| n >= 0.0)), "{field}: {run:#}");
    }
    for fault in ["duplicates", "out_of_order", "not_asked_for", "unreadable", "clients_cut_off"] {
        assert_eq!(run["faults"][fault], 0, "{fault}");
    }
    let page = html.read();
    well_formed(&page);
    assert!(page.matches("<polyline").count() >= 4, "plots with lines");
    for foreign in ["http:", "https:", "src=", "href=", "url(", "<script", "<link", "@import"] {
        assert!(!page.contains(foreign), "the page fetches: {foreign}");
    }
}

#[test]
fn every_bus_format_mode_and_client_format_delivers_all() {
    let mut bytes = Vec::new();
    for more in [
        "--bus json --batch 4 --modes quote",
        "--bus msgpack --batch 4 --format msgpack --modes ltp=60,quote=30,depth=10 --pick zipf",
        "--bus batch --format msgpack --pick same",
        "--bus batch --format json --modes depth",
    ] {
        let value = figures("fanout", more);
        let run = &value["runs"][0];
        assert!(run["expected"].as_u64() > Some(1000), "{more}: {run:#}");
        assert_eq!(run["delivered"], run["expected"], "{more}");
        assert_eq!(run["clients_up_to_date"], 20, "{more}");
        assert_eq!(run["faults"]["unreadable"], 0, "{more}");
        bytes.push(run["bytes_per_tick"].as_f64().expect("bytes"));
    }
    assert!(bytes[2] < bytes[0] && bytes[0] < bytes[3], "MessagePack LTP, JSON quote, JSON depth: {bytes:?}");
}

#[test]
fn slow_compares_the_readers_with_and_without_stalled_ones() {
    let value = figures("slow", "--rate 4000 --stalled 20");
    let [all, some] = [&value["runs"][0], &value["runs"][1]];
    assert_eq!(some["name"], "20 % stalled");
    for run in [all, some] {
        assert_eq!(run["delivered"], run["expected"], "{run:#}");
        assert_eq!(run["clients_up_to_date"], 16);
    }
    let stalled = |run: &Value| (run["stalled"]["ticks"].as_u64(), run["stalled"]["expected"].as_u64());
    assert_eq!(stalled(all).0, stalled(all).1, "while they read they get everything");
    assert!(stalled(some).0 <= stalled(some).1 && stalled(some).1 == Some(4 * 5 * 200), "{:?}", stalled(some));
    assert_eq!(some["stalled"]["up_to_date"], 4, "the newest values reach them in the end");
}

#[test]
fn churn_times_every_operation_beside_the_audit() {
    let value = figures("churn", "--seconds 2 --users 2 --churners 2 --pause 5ms");
    let operations = value["operations"].as_array().expect("a list");
    assert_eq!(operations.len(), 7);
    for operation in operations {
        assert!(operation["times"].as_u64() > Some(0), "{operation}");
        let at = |name: &str| operation["us"][name].as_f64().expect("a time");
        assert!(at("p50") > 0.0 && at("p50") <= at("p99"), "{operation}");
    }
    assert_eq!(operations[4]["audit_ms"], 52.0);
    assert_eq!(operations[4]["times"], 2, "one first authentication for each user");
    assert_eq!(value["runs"][0]["delivered"], value["runs"][0]["expected"], "churn costs nobody a tick");
}

#[test]
fn storm_walks_up_past_the_knee_and_back() {
    let value = figures("storm", "--knee-p99 1us --factor 2 --max-p99 30s");
    let ways: Vec<&str> = value["steps"].as_array().expect("steps").iter().filter_map(|s| s["way"].as_str()).collect();
    assert_eq!(ways, ["up", "past", "back"]);
    assert_eq!(value["knee"]["ticks_per_second"], Value::Null);
    let outcome = spawned("storm", "--knee-p99 30s --factor 2 --steps 2 --min-knee 2001");
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.out.contains("knee: 2000 ticks/s") && outcome.out.contains("MISSED: knee"), "{}", outcome.out);
}

#[test]
fn soak_gives_the_drift_and_can_fail_by_it() {
    let value = figures("soak", "--seconds 2");
    assert!(value["drift_per_hour"]["rss_mib"].is_f64(), "{value:#}");
    let outcome = spawned("soak", "--seconds 2 --max-drift=-1000000");
    assert_eq!(outcome.code, 3, "{outcome:?}");
}

#[test]
fn a_missed_threshold_is_exit_code_3_and_wrong_usage_2() {
    let outcome = spawned("fanout", "--max-p99 1us");
    assert_eq!(outcome.code, 3);
    assert!(outcome.out.contains("MISSED: p99"), "{}", outcome.out);
    for usage in [
        "",
        "frobnicate",
        "fanout --clients 0",
        "fanout --modes tick=1",
        "fanout --feed external",
        "fanout --max-p99 50",
    ] {
        assert_eq!(loadtest(usage).code, 2, "{usage}");
    }
}

#[test]
fn what_cannot_run_says_what_to_do() {
    let tickcast = Tickcast::start(&["--set", "bus.bind=tcp://127.0.0.1:0", "--set", "adapters.default=bus"]);
    let free = {
        let gone = TcpListener::bind("127.0.0.1:0").expect("a port");
        gone.local_addr().expect("bound")
    };
    let there = format!("--url ws://{} {SMALL}", tickcast.ws);
    for (line, hints) in [
        (format!("fanout --url ws://{free} {SMALL}"), &["no server at", "--spawn"][..]),
        (format!("fanout {there} --connect tcp://{free}"), &["no bus at", "--connect", "--bind"]),
        (format!("fanout {there} --connect {} --key wrong", tickcast.bus), &["AUTHENTICATION_ERROR", "--key"]),
        (
            format!("fanout {there} --bind tcp://{}", tickcast.bus.trim_start_matches("tcp://")),
            &["somebody else listens there", "--bind"],
        ),
        (format!("fanout --spawn /no/such/tickcast {SMALL}"), &["/no/such/tickcast", "cargo build --release"]),
        (format!("fanout --spawn {} --set no.such=1 {SMALL}", server()), &["did not get ready", "no.such"]),
        (
            format!("fanout {there} --connect {} --html /no/such/folder/x", tickcast.bus),
            &["cannot write /no/such/folder/x"],
        ),
        (
            format!("fanout {there} --connect {} --symbols 2000 --universe 2000", tickcast.bus),
            &["subscribing", "LIMIT_EXCEEDED"],
        ),
    ] {
        let outcome = loadtest(&line);
        assert_eq!(outcome.code, 1, "{line}: {outcome:?}");
        for hint in hints {
            assert!(outcome.err.contains(hint), "{line}: {}", outcome.err);
        }
    }
}

#[test]
fn a_run_that_is_told_to_end_takes_its_server_with_it() {
    let line =
        format!("fanout --spawn {} {}", server(), SMALL.replace("--quiet", "").replace("--seconds 1", "--seconds 60"));
    let (outcome, server) = support::terminated(&line, "loadtest: fanout");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.err.contains("loadtest: interrupted"), "{}", outcome.err);
    assert!(!Path::new(&format!("/proc/{server}")).exists(), "the server {server} outlives us");
}

#[test]
fn too_few_descriptors_are_told_before_anything_starts() {
    let outcome =
        support::shell(&format!("ulimit -n 100; exec {} fanout --clients 500", env!("CARGO_BIN_EXE_loadtest")));
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.err.contains("564 open files") && outcome.err.contains("ulimit -n"), "{}", outcome.err);
}

#[test]
fn any_server_of_the_protocol_can_be_measured() {
    let foreign = Foreign::start(Habit::Faithful);
    let json = Scratch::new("json");
    let line = format!("fanout --url ws://{} --bind {} {SMALL} --json {}", foreign.ws, foreign.bus, json.path());
    let outcome = loadtest(&format!("{line} --bus json --batch 1 --modes quote --min-delivered 1"));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let value: Value = serde_json::from_str(&json.read()).expect("JSON");
    assert_eq!(value["runs"][0]["delivered"], 5000);
    assert!(value["runs"][0]["server"]["cpu_seconds"].is_null(), "nobody named its process");
}

#[test]
fn a_server_that_repeats_or_loses_ticks_is_found_out() {
    for (habit, said) in [
        (Habit::Repeats, "MISSED: duplicates"),
        (Habit::Loses, "MISSED: delivered"),
        (Habit::Swaps, "MISSED: out of order"),
    ] {
        let foreign = Foreign::start(habit);
        let line = format!("fanout --url ws://{} --bind {} {SMALL} --min-delivered 1", foreign.ws, foreign.bus);
        let outcome = loadtest(&format!("{line} --bus json --batch 1"));
        assert_eq!(outcome.code, 3, "{outcome:?}");
        assert!(outcome.out.contains(said), "{said}: {}", outcome.out);
    }
}

#[test]
fn an_external_feed_is_only_listened_to() {
    let tickcast = Tickcast::start(&["--set", "sim.ticks_per_second=500"]);
    for format in ["json", "msgpack"] {
        let json = Scratch::new("json");
        let names = "--instruments NSE:RELIANCE,NSE:INFY --symbols 2 --pick same";
        let line = format!(
            "fanout --url ws://{} --feed external {SMALL} {names} --format {format} --json {}",
            tickcast.ws,
            json.path()
        );
        let outcome = loadtest(&line);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let value: Value = serde_json::from_str(&json.read()).expect("JSON");
        let run = &value["runs"][0];
        assert!(run["delivered"].as_u64() > Some(0), "{run:#}");
        assert!(run["expected"].is_null() && run["published"].is_null());
        assert!(run["latency_us"]["p50"].is_f64(), "from the ticks' own time");
    }
}

#[test]
fn every_command_of_the_documentation_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    let mut commands = Vec::new();
    for document in ["loadtest/README.md", "docs/PERFORMANCE.md", "README.md", "docs/TESTING.md", "docs/XRAY.md"] {
        let text = std::fs::read_to_string(root.join(document)).expect(document).replace("\\\n", " ");
        let found = text.split("cargo run --release -p loadtest -- ").skip(1);
        commands
            .extend(found.map(|rest| rest.split(['`', '\n', '#', '|']).next().unwrap_or_default().trim().to_owned()));
    }
    commands.retain(|command| !command.is_empty());
    commands.sort();
    commands.dedup();
    assert!(commands.len() >= 6, "{commands:?}");
    let tickcast = Tickcast::start(&["--set", "bus.bind=tcp://127.0.0.1:0", "--set", "adapters.default=bus"]);
    let foreign = Foreign::start(Habit::Faithful);
    let sim = Tickcast::start(&[]);
    let (json, html) = (Scratch::new("json"), Scratch::new("html"));
    for command in commands {
        // The same words, with less of everything, and with servers that are here. A later option replaces an earlier one.
        let mut line =
            format!("{command} {SMALL} --json {} --html {} --max-p99 60s --min-delivered 0", json.path(), html.path());
        let scenario = command.split(' ').next().unwrap_or_default();
        match scenario {
            "storm" => line += " --knee-p99 60s --steps 1 --min-knee 1",
            "soak" => line += " --max-drift 1e9",
            "churn" => line += " --users 1 --churners 1",
            _ => {}
        }
        if !command.contains("--url") {
            line += &format!(" --spawn {}", server());
        } else if command.contains("--feed external") {
            line += &format!(" --url ws://{} --key demo-key --pid {} --instruments NSE:RELIANCE", sim.ws, sim.pid);
            line = line.replace("--min-delivered 0", "");
        } else if command.contains("--bind") {
            line += &format!(" --url ws://{} --bind {} --key any --bus json", foreign.ws, foreign.bus);
        } else {
            line += &format!(
                " --url ws://{} --connect {} --key demo-key --pid {} --admin {}",
                tickcast.ws, tickcast.bus, tickcast.pid, tickcast.admin
            );
        }
        let outcome = loadtest(&line);
        assert_eq!(outcome.code, 0, "{command}\n{line}\n{outcome:?}");
        well_formed(&html.read());
    }
}
