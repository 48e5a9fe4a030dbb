//! `tickcast doctor` as an operator runs it: with nothing running, with a server, and with each kind of trouble on the machine.
//!
//! A process of its own in every test. Single findings are tested where they are judged, `src/cli/doctor/judge/tests.rs`.

mod process;
mod support;

use process::{Folder, Running, Server, ready_fields, tickcast};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use support::world::{Keys, PEPPER};
use support::{Client, Publisher};
use tickcast::adapter::publisher::{BatchLimits, BatchPublisher, Config};
use tickcast::zmtp::Direction;

/// Nothing here depends on the machine's free ports or limits; later flags win.
const QUIET: &[&str] = &[
    "--set",
    "server.listen=127.0.0.1:0",
    "--set",
    "bus.bind=tcp://127.0.0.1:0",
    "--set",
    "adapters.default=sim",
    "--set",
    "limits.sessions=100",
];

/// What the doctor said.
struct Visit {
    code: i32,
    report: Value,
}

impl Visit {
    fn with(args: &[&str]) -> Self {
        Self::of(tickcast(&[&["doctor", "--json"], QUIET, args].concat(), &[]))
    }

    fn of(command: std::process::Command) -> Self {
        let mut process = Running::new(command);
        let code = process.wait(process::PATIENCE).code().expect("ended by itself");
        let (text, stderr) = (process.rest_of_stdout(), process.stderr());
        let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{stderr}"));
        Visit { code, report }
    }

    /// The texts of all findings of this level and kind.
    fn said(&self, level: &str, check: &str) -> Vec<String> {
        let findings = self.report["findings"].as_array().expect("findings").iter();
        let of_kind = findings.filter(|f| f["level"] == level && f["check"] == check);
        of_kind.map(|f| ["what", "why", "fix"].map(|key| f[key].as_str().unwrap_or_default()).join(" | ")).collect()
    }

    /// Exactly one problem, of this kind, with these words in it; the exit code says so.
    #[track_caller]
    fn has_one_problem(&self, check: &str, words: &[&str]) {
        let said = self.said("problem", check);
        assert_eq!((self.code, &self.report["problems"], said.len()), (1, &json!(1), 1), "{:#}", self.report);
        for word in words {
            assert!(said[0].contains(word), "{word} in {}", said[0]);
        }
    }
}

/// Addresses that somebody had a moment ago.
fn somewhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

/// A publisher that sends a tick every few milliseconds as long as it lives.
struct Market(Option<tokio::runtime::Runtime>);

impl Market {
    fn at(endpoint: &str, direction: Direction) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let config = Config {
            endpoint: endpoint.parse().expect("an endpoint"),
            direction,
            limits: BatchLimits::SINGLE,
            queue_bytes_max: 1 << 20,
        };
        let (publisher, task, _) = runtime.block_on(BatchPublisher::start(config)).expect("it starts");
        runtime.spawn(async move {
            let _task = task;
            loop {
                let payload = rmp_serde::to_vec_named(&json!({"ltp": 1.0})).expect("MessagePack");
                // One that finds no subscriber yet is followed by the next.
                let _ = publisher.publish("NSE_INFY_LTP", &payload);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Market(Some(runtime))
    }
}

impl Drop for Market {
    fn drop(&mut self) {
        self.0.take().expect("once").shutdown_background();
    }
}

#[test]
fn on_a_healthy_machine_with_nothing_running_there_is_no_problem() {
    let visit = Visit::with(&[]);
    assert_eq!((visit.code, &visit.report["problems"]), (0, &json!(0)), "{:#}", visit.report);
    assert_eq!(visit.said("ok", "ports").len(), 4, "{:#}", visit.report);
    assert!(visit.said("ok", "bus")[0].contains("simulated market"), "{:#}", visit.report);
    assert!(visit.said("warning", "keys")[0].contains("tickcast keys add"), "{:#}", visit.report);
    // The same in words, for people.
    let (code, stdout, stderr) = process::run(&[&["doctor"], QUIET].concat(), &[]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    for part in ["\nok       ports", "\nwarning  keys", "         fix", "\n0 problems, "] {
        assert!(stdout.contains(part), "{part} in\n{stdout}");
    }
}

#[test]
fn a_port_that_a_stranger_holds_is_named_with_its_process() {
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = stranger.local_addr().expect("bound").to_string();
    let pid = format!("(pid {})", std::process::id());
    let elsewhere = ["--admin", "127.0.0.1:0", "--set", "adapters.control_bind=tcp://127.0.0.1:0"];
    Visit::with(&[&elsewhere[..], &["--set", &format!("server.listen={at}")]].concat())
        .has_one_problem("ports", &["server.listen", &at, &pid, "--listen", "exit code 3"]);
}

#[test]
fn two_sides_that_both_bind_are_found_and_what_is_advised_mends_it() {
    let endpoint = format!("tcp://{}", somewhere());
    let _market = Market::at(&endpoint, Direction::Bind);
    let bind = format!("bus.bind={endpoint}");
    let visit = Visit::with(&["--set", &bind]);
    assert!(visit.said("problem", "ports")[0].contains("bus.bind"), "{:#}", visit.report);
    let said = visit.said("problem", "bus");
    assert!(said[0].contains("both sides bind"), "{:#}", visit.report);
    let connect = format!("bus.connect={endpoint}");
    assert!(said[0].contains(&format!("--set bus.bind= --set {connect}")), "{said:?}");
    let mended = Visit::with(&["--set", "bus.bind=", "--set", &connect]);
    assert_eq!(mended.code, 0, "{:#}", mended.report);
    assert!(mended.said("ok", "bus")[0].contains("a publisher is bound there"), "{:#}", mended.report);
    assert!(!mended.said("ok", "bus")[0].contains(" 0 messages"), "{:#}", mended.report);
}

#[test]
fn two_sides_that_both_connect_are_found_and_what_is_advised_mends_it() {
    let endpoint = format!("tcp://{}", somewhere());
    let _market = Market::at(&endpoint, Direction::Connect);
    let (bind, connect) = (format!("bus.bind={endpoint}"), format!("bus.connect={endpoint}"));
    let visit = Visit::with(&["--set", "bus.bind=", "--set", &connect]);
    visit.has_one_problem("bus", &["both sides connect", &format!("--set bus.connect= --set {bind}")]);
    let mended = Visit::with(&["--set", "bus.connect=", "--set", &bind]);
    assert_eq!(mended.code, 0, "{:#}", mended.report);
    assert!(mended.said("ok", "bus")[0].contains("1 publisher connected"), "{:#}", mended.report);
}

#[test]
fn another_receiver_on_the_bus_and_something_that_is_no_zeromq_are_told_apart() {
    let other = Server::anywhere(&[]);
    let visit = Visit::with(&["--set", &format!("bus.bind={}", other.bus)]);
    assert!(visit.said("problem", "bus")[0].contains("another ZeroMQ receiver"), "{:#}", visit.report);
    let visit = Visit::with(&["--set", "bus.bind=", "--set", &format!("bus.connect=tcp://{}", other.admin)]);
    visit.has_one_problem("bus", &["does not speak ZeroMQ"]);
    let visit = Visit::with(&["--set", "bus.bind=", "--set", &format!("bus.connect=tcp://{}", somewhere())]);
    assert_eq!(visit.code, 0, "{:#}", visit.report);
    assert!(visit.said("warning", "bus")[0].contains("nobody is bound there"), "{:#}", visit.report);
}

#[test]
fn a_key_store_that_cannot_be_read_or_has_no_key_says_how_to_make_one() {
    let folder = Folder::new("doctor-keys");
    let junk = folder.file("junk.db", "this is no database, however long one looks at it").display().to_string();
    Visit::with(&["--set", &format!("auth.store=sqlite:{junk}")])
        .has_one_problem("keys", &["junk.db", "exit code 4", "tickcast keys add --store"]);
    let store = folder.path("keys.db");
    let set = format!("auth.store=sqlite:{store}");
    assert_eq!(process::run(&["keys", "add", "--store", &store, "--user", "asha", "--broker", "sim"], &[]).0, 0);
    let visit = Visit::with(&["--set", &set]);
    assert!(visit.code == 0 && visit.said("ok", "keys")[0].contains("1 live keys"), "{:#}", visit.report);
    assert!(!visit.said("ok", "disk").is_empty(), "{:#}", visit.report);
    assert_eq!(process::run(&["keys", "revoke", "--store", &store, "--user", "asha"], &[]).0, 0);
    let visit = Visit::with(&["--set", &set]);
    assert!(visit.said("warning", "keys")[0].contains("holds no key"), "{:#}", visit.report);
}

#[test]
fn openalgos_database_is_read_as_the_server_reads_it_and_no_secret_is_shown() {
    let keys = Keys::new(&[("asha", "zerodha"), ("ravi", "angel")]);
    let set = format!("auth.store=openalgo:{}", keys.file());
    let args = [&["doctor", "--json"], QUIET, &["--set", &set]].concat();
    let visit = Visit::of(tickcast(&args, &[("API_KEY_PEPPER", PEPPER)]));
    assert_eq!(visit.code, 0, "{:#}", visit.report);
    assert!(visit.said("ok", "keys")[0].contains("holds 2 keys; the pepper is set"), "{:#}", visit.report);
    assert!(!visit.report.to_string().contains(PEPPER));
    keys.ruin();
    let visit = Visit::of(tickcast(&args, &[("API_KEY_PEPPER", PEPPER)]));
    visit.has_one_problem("keys", &["not an OpenAlgo database", "exit code 4"]);
    let visit = Visit::of(tickcast(&args, &[]));
    assert!(visit.code == 2 && visit.said("problem", "settings")[0].contains("API_KEY_PEPPER"), "{:#}", visit.report);
}

#[test]
fn an_ipc_endpoint_is_looked_at_and_left_as_it_was() {
    let folder = Folder::new("doctor-ipc");
    let endpoint = format!("ipc://{}", folder.path("bus"));
    let bind = format!("bus.bind={endpoint}");
    let visit = Visit::with(&["--set", &bind]);
    assert_eq!(visit.code, 0, "{:#}", visit.report);
    assert!(!folder.0.join("bus").exists(), "no socket file is left");
    let market = Market::at(&endpoint, Direction::Bind);
    let visit = Visit::with(&["--set", &bind]);
    assert!(visit.said("problem", "bus")[0].contains("both sides bind"), "{:#}", visit.report);
    assert!(folder.0.join("bus").exists(), "the publisher's socket file stays");
    drop(market);
}

#[test]
fn a_limit_of_open_files_below_what_the_sessions_need_is_a_problem() {
    let program = tickcast(&[], &[]).get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -n 600 && exec \"$0\" \"$@\"", &program.to_string_lossy(), "doctor", "--json"]);
    shell.args(QUIET).env_clear();
    Visit::of(shell).has_one_problem("descriptors", &["600 allowed here", "LimitNOFILE=612", "limits.sessions=88"]);
}

#[test]
fn a_running_server_is_asked_for_the_truth() {
    let server = Server::anywhere(&[]);
    let fields = ready_fields(&server.ready);
    let at =
        [("server.listen", "ws"), ("admin.listen", "admin"), ("bus.bind", "bus"), ("adapters.control_bind", "control")];
    let mut sets: Vec<String> = at.iter().map(|(setting, field)| format!("{setting}={}", fields[*field])).collect();
    sets.push("adapters.default=bus".into());
    let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();

    let visit = Visit::with(&args);
    assert_eq!(visit.code, 0, "{:#}", visit.report);
    let ports = visit.said("ok", "ports");
    assert!(ports.len() == 4 && ports.iter().all(|port| port.contains("the running server's")), "{ports:?}");
    assert!(visit.said("ok", "server")[0].contains("runs, state ready"), "{:#}", visit.report);
    assert!(
        visit.said("ok", "descriptors")[0].contains(&format!("(pid {})", server.process.id())),
        "{:#}",
        visit.report
    );
    assert!(visit.said("warning", "bus")[0].contains("no publisher connects"), "{:#}", visit.report);

    let mut client = Client::connect(server.ws);
    client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    client.subscribe(&["INFY"], 1);
    server.await_metric("tickcast_subscriptions_active", &[], 1.0);
    Visit::with(&args).has_one_problem("bus", &["while clients wait", "ZMQ_PUB_PORT"]);

    let mut publisher = Publisher::connect(server.bus.strip_prefix("tcp://").expect("tcp"));
    publisher.ltp("INFY", 1573.5);
    client.tick();
    server.await_metric("tickcast_bus_peers", &["\"0\""], 1.0);
    let visit = Visit::with(&args);
    assert!(visit.code == 0 && visit.said("ok", "bus")[0].contains("1 publisher connected"), "{:#}", visit.report);
}

#[test]
fn mistakes_in_the_settings_are_told_as_check_tells_them() {
    let (code, stdout, stderr) = process::run(&["doctor", "--set", "fanout.shards=3"], &[]);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains("power of two") && stderr.contains("1 mistake"), "{stderr}");
    let visit = Visit::with(&["--set", "fanout.shards=3", "--set", "fanout.nonsense=1"]);
    assert_eq!((visit.code, visit.said("problem", "settings").len()), (2, 2), "{:#}", visit.report);
    assert_eq!(process::run(&["doctor", "--no-such-flag"], &[]).0, 2, "usage");
}

#[test]
fn missing_credentials_and_registries_are_named_and_no_secret_is_shown() {
    let folder = Folder::new("doctor-secrets");
    let credentials = folder.file("kite", "api_key = kite-api-key-77aa\n");
    std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let config = folder.file(
        "t.toml",
        &format!(
            "[adapters]\nsecret = \"adapter-secret-4411\"\n[discovery]\nfile = \"{}\"\nredis = \"redis://u:redis-password-31@127.0.0.1:1/0\"\n\
             [brokers.zerodha]\nkind = \"zerodha\"\nusers = [\"asha\"]\ncredentials = \"file:{}\"\nsymbols = [\"{}\"]\n",
            folder.path("publishers.db"),
            credentials.display(),
            folder.path("none.csv")
        ),
    );
    let visit = Visit::with(&["--config", config.to_str().expect("UTF-8")]);
    assert_eq!((visit.code, &visit.report["problems"]), (1, &json!(3)), "{:#}", visit.report);
    assert!(visit.said("problem", "credentials")[0].contains("lacks access_token"), "{:#}", visit.report);
    assert!(visit.said("problem", "symbols")[0].contains("none.csv"), "{:#}", visit.report);
    assert!(visit.said("problem", "discovery")[0].contains("127.0.0.1:1"), "{:#}", visit.report);
    assert!(visit.said("ok", "discovery")[0].contains("the server makes it"), "{:#}", visit.report);
    assert!(!std::path::Path::new(&folder.path("publishers.db")).exists(), "the doctor makes nothing");
    assert!(
        !visit.said("warning", "secrets").is_empty(),
        "the file with the secret can be read by all: {:#}",
        visit.report
    );
    for secret in ["adapter-secret-4411", "redis-password-31", "kite-api-key-77aa"] {
        assert!(!visit.report.to_string().contains(secret), "{secret} in {:#}", visit.report);
    }
}
