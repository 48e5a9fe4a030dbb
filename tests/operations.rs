//! docs/OPERATIONS.md in practice: its commands run one after the other below a folder that stands for `/`, and the files it names hold
//! what it says of them.

mod process;

use clap::Parser;
use process::{Folder, root};
use std::process::Command;
use tickcast::cli::{Cli, Command as Parsed};
use tickcast::config::Settings;

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The commands of all shell blocks, in their order.
fn commands() -> Vec<String> {
    let document = read("docs/OPERATIONS.md");
    let blocks = document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_command_of_the_operations_manual_runs_in_its_order() {
    let folder = Folder::new("operations");
    let program = env!("CARGO_BIN_EXE_tickcast");
    let settings_elsewhere = [
        ("TICKCAST_SERVER_LISTEN", "127.0.0.1:0"),
        ("TICKCAST_BUS_BIND", "tcp://127.0.0.1:0"),
        // What is asked of the machine must not depend on the machine.
        ("TICKCAST_LIMITS_SESSIONS", "100"),
    ];
    let mut ran = 0;
    for command in commands() {
        // These have steps and tests of their own, and take minutes.
        if command.starts_with("cargo ") {
            continue;
        }
        let here = ["/etc/", "/var/", "/usr/local/bin/"].iter().fold(command.clone(), |text, place| {
            text.replace(&format!(" {place}"), &format!(" {}{place}", folder.0.display()))
        });
        let here = here.replace("target/release/tickcast", program);
        std::fs::create_dir_all(folder.0.join("var/lib/tickcast")).expect("what systemd makes");
        let mut path = std::ffi::OsString::from(folder.path("usr/local/bin") + ":");
        path.push(std::env::var_os("PATH").expect("a path"));
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &here]).current_dir(root()).env_clear().env("PATH", path);
        if command.contains("--config") {
            let store = format!("sqlite:{}", folder.path("var/lib/tickcast/keys.db"));
            shell.envs(settings_elsewhere).env("TICKCAST_AUTH_STORE", store);
        }
        let done = shell.output().expect("a shell");
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{command}\n{out}\n{err}");
        if command.contains("keys list --store /var/backups") {
            assert!(out.contains("asha"), "the copy holds the key: {out}");
        }
        if command.contains("WEBSOCKET_PORT=8766") {
            assert!(out.contains("127.0.0.1:9465") && out.contains("127.0.0.1:5556"), "{out}");
        }
        ran += 1;
    }
    assert!(ran >= 12, "only {ran} commands ran: is the reading of blocks broken?");
    assert!(!folder.0.join("usr/local/bin/tickcast.before").exists(), "rolled back");
    assert!(folder.0.join("usr/local/bin/tickcast").exists());
}

/// The value of a line `name=value` of the unit.
fn unit(name: &str) -> Vec<String> {
    let unit = read("examples/deploy/tickcast.service");
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)).collect()
}

#[test]
fn the_unit_starts_a_server_that_exists_with_enough_files_memory_and_time() {
    let words = unit("ExecStart")[0].replace("/usr/local/bin/", "");
    let cli = Cli::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{words}: {error}"));
    assert!(matches!(cli.into_command(), Parsed::Serve(args) if args.config.is_some()));
    let limits = Settings::default().limits;
    let files: usize = unit("LimitNOFILE")[0].parse().expect("a number");
    assert!(files >= limits.sessions + limits.bus_peers + 256, "{files}");
    let settings = Settings::default();
    let worst = settings.fanout.outbox_bytes_total
        + limits.last_value_bytes_max
        + 2 * settings.bus.queue_bytes_max
        + 16 * settings.fanout.worker_queue_bytes_max
        + limits.sessions * 16_000;
    assert_eq!(unit("MemoryMax"), ["2G"]);
    assert!(worst < 2 << 30, "{worst} bytes in the worst case, on 16 cores");
    let stop: u64 = unit("TimeoutStopSec")[0].strip_suffix('s').and_then(|s| s.parse().ok()).expect("seconds");
    assert!(stop > tickcast::limits::DRAIN.as_secs(), "SIGKILL must not come before the drain's end");
    assert_eq!(unit("RestartPreventExitStatus"), ["2 4"]);
}

#[test]
fn the_example_settings_are_sound_and_listen_for_this_machine_only() {
    let file = root().join("examples/deploy/tickcast.toml");
    let (code, stdout, stderr) = process::run(&["check", "--config", file.to_str().expect("UTF-8")], &[]);
    assert_eq!(code, 0, "{stderr}");
    for line in stdout.lines().filter(|line| line.contains("listen = \"") || line.contains("bind = ")) {
        assert!(line.contains("127.0.0.1") || line.contains("\"\""), "{line}");
    }
}

#[test]
fn every_metric_the_manual_names_is_one_that_a_server_has() {
    let (manual, metrics) = (read("docs/OPERATIONS.md"), read("docs/METRICS.md"));
    let named: Vec<&str> = manual.split('`').skip(1).step_by(2).filter(|span| span.starts_with("tickcast_")).collect();
    assert!(named.len() > 20, "{named:?}");
    for span in named {
        let name = span.split('{').next().unwrap_or(span);
        assert!(metrics.contains(&format!("`{name}`")), "{name}");
    }
}
