//! Dashboards and alerts in a real Prometheus that scrapes real servers, promtool over all rules, and Grafana's schema.
//!
//! Needs prometheus, promtool, node and the packages of `grafana/package.json`; `scripts/test.sh` brings them. The live alerts use the
//! text of `dashboards/rules` with its times cut down by [`shortened`]; nothing else of it is changed.

use crate::process::{Folder, Running, root};
use crate::support::packed::Packed;
use crate::support::world::Keys;
use crate::support::{Client, Got, Server, exchange};
use serde_json::{Value, json};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tickcast::config::settings::{AdapterKind, Broker};
use tickcast::model::Micros;
use tickcast::shards::ShardIndex;

/// Prometheus takes some 5 s to take up its first targets, and a busy machine some more.
const PATIENCE: Duration = Duration::from_secs(60);

/// `prometheus` or `promtool`.
fn tool(name: &str) -> PathBuf {
    let default = || root().join("target/e2e-prometheus/usr/bin");
    let folder = std::env::var_os("E2E_PROMETHEUS").map_or_else(default, PathBuf::from);
    if folder.join(name).exists() { folder.join(name) } else { name.into() }
}

/// Standard output and error of a program, and whether it was content.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/test.sh"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

fn promtool(args: &[&str]) -> (bool, String) {
    run(Command::new(tool("promtool")).args(args).current_dir(root().join("dashboards")))
}

#[test]
fn promtool_finds_nothing_in_configuration_and_rules_and_all_rule_tests_pass() {
    for args in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "rules/recording.yml", "rules/alerts.yml"],
        &["test", "rules", "rules/alerts.test.yml"],
    ] {
        let (content, text) = promtool(args);
        assert!(content, "{args:?}: {text}");
        assert!(text.contains("SUCCESS"), "{args:?}: {text}");
    }
}

#[test]
fn promtool_finds_nothing_in_the_metrics_of_a_server() {
    let server = Server::start(|_| {});
    let (status, page) = server.admin_get("/metrics");
    assert_eq!(status, 200);
    for (page, clean) in [(page.clone(), true), (page + "# TYPE a_total gauge\na_total 1\n", false)] {
        let folder = Folder::new("promtool");
        let file = std::fs::File::open(folder.file("metrics", &page)).expect("just written");
        let (content, text) = run(Command::new(tool("promtool")).args(["check", "metrics"]).stdin(file));
        assert_eq!((content, text.is_empty()), (clean, clean), "{text}");
    }
}

/// Where `@grafana/schema` and the compiler are.
fn grafana() -> PathBuf {
    let default = || root().join("target/e2e-grafana");
    let folder = std::env::var_os("E2E_GRAFANA").map_or_else(default, PathBuf::from);
    assert!(
        folder.join("node_modules/@grafana/schema").exists(),
        "nothing in {}: run scripts/test.sh",
        folder.display()
    );
    folder
}

/// Mistakes that the schema must find: a text in overview.json, and what stands there instead.
const MISTAKES: &[(&str, &str)] = &[
    ("\"schemaVersion\": 39", "\"schemaVersion\": \"39\""),
    ("\"type\": \"timeseries\"", "\"type\": \"graph\""),
    ("\"colorMode\": \"value\"", "\"colourMode\": \"value\""),
    ("\"mode\": \"palette-classic\"", "\"mode\": \"palette-clasic\""),
    ("\"placement\": \"bottom\"", "\"placement\": \"below\""),
    ("\"lineInterpolation\": \"linear\"", "\"lineInterpolation\": \"wavy\""),
    ("\"fillOpacity\"", "\"filOpacity\""),
    ("\"uid\": \"${datasource}\"", "\"uid\": \"prometheus\""),
    ("\"legendFormat\"", "\"legend\""),
    ("\"unit\": \"s\",", ""),
    ("\"includeAll\": true", "\"includeAll\": 1"),
];

#[test]
fn dashboards_are_what_grafanas_schema_allows() {
    let packages = grafana();
    // Below the packages, where the compiler finds them.
    let folder = packages.join("boards");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, board: &str| {
        let text = format!("import type {{ Board }} from \"./board\";\nexport const board: Board = {board};\n");
        std::fs::write(folder.join(format!("{name}.ts")), text).expect("written");
    };
    std::fs::copy(root().join("tests/e2e/grafana/board.ts"), folder.join("board.ts")).expect("copied");
    let read = |path: &Path| std::fs::read_to_string(path).expect("a dashboard");
    let boards = std::fs::read_dir(root().join("dashboards/grafana")).expect("dashboards");
    for path in boards.map(|entry| entry.expect("an entry").path()) {
        write(&format!("good_{}", path.file_stem().expect("a name").display()), &read(&path));
    }
    let overview = read(&root().join("dashboards/grafana/overview.json"));
    for (n, (right, wrong)) in MISTAKES.iter().enumerate() {
        assert!(overview.contains(right), "overview.json has no {right}");
        write(&format!("bad_{n}"), &overview.replacen(right, wrong, 1));
    }
    let names: Vec<String> = std::fs::read_dir(&folder)
        .expect("files")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    let flags =
        ["--noEmit", "--strict", "--skipLibCheck", "--pretty", "false", "--module", "nodenext", "--target", "es2022"];
    let compiler = packages.join("node_modules/typescript/bin/tsc");
    let (_, found) = run(Command::new("node").arg(compiler).args(flags).args(&names).current_dir(&folder));
    let wrong: Vec<&str> =
        found.lines().filter(|line| !line.starts_with([' ', '\t']) && !line.starts_with("bad_")).collect();
    assert!(wrong.is_empty() && names.len() > MISTAKES.len() + 2, "{}", wrong.join("\n"));
    for (n, mistake) in MISTAKES.iter().enumerate() {
        assert!(found.contains(&format!("bad_{n}.ts(")), "not found: {mistake:?}");
    }
}

/// The user's command, and what it prints.
fn dashboards(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(root().join("scripts/dashboards.py"));
    run(command.args(args).env("PROMETHEUS", tool("prometheus")).stdin(Stdio::null()))
}

const SYMBOLS: usize = 20;

fn symbols() -> Vec<String> {
    (0..SYMBOLS).map(|n| format!("S{n}")).collect()
}

/// Ends the threads of a test that fails, too: its scope waits for them.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads until the connection ends.
fn read_on(mut client: Client) {
    while client.next() != Got::End {}
}

/// Ticks with the time of now, one batch each 10 ms.
fn publish_until(stop: &AtomicBool, server: SocketAddr) {
    let mut publisher = crate::support::Publisher::connect(&server.to_string());
    let names = symbols();
    for price in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let data = json!({"ltp": price, "timestamp": Micros::now().millis()});
        let items: Vec<_> = names.iter().map(|name| json!([format!("NSE_{name}_LTP"), data])).collect();
        publisher.json("BATCH", &Value::Array(items));
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A user who comes, subscribes, and leaves again, over and over: adapters start, references come and go.
fn come_and_go_until(stop: &AtomicBool, server: SocketAddr) {
    let names = symbols();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::connect(server);
        assert_eq!(client.login("bela")["type"], "auth");
        client.subscribe(&names, 1);
        client.tick();
        client.request(json!({"action": "unsubscribe_all"}));
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Half a second without reading, then time enough to catch up.
fn dawdle(mut client: Client) {
    loop {
        std::thread::park_timeout(Duration::from_millis(500));
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            if client.next() == Got::End {
                return;
            }
        }
    }
}

#[test]
fn every_panel_has_values_from_a_prometheus_that_scrapes_a_server_under_load() {
    let keys = Keys::new(&[("asha", "bus"), ("bela", "bus")]);
    let server = Server::start(|s| {
        keys.set(s);
        s.adapters.linger = Duration::ZERO;
        s.fanout.send_buffer_bytes = 16 << 10;
        // Native feeds have metrics only where there is one.
        s.brokers.insert("zerodha".into(), Broker { kind: AdapterKind::Native(0), ..Default::default() });
    });
    let names = symbols();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let subscribed = || {
        let mut client = server.client_of("asha");
        client.subscribe(&names, 1);
        client
    };
    let (json, slow) = (subscribed(), subscribed().narrow());
    let mut packed = Packed::connect_with(&server, "key-asha");
    names.iter().for_each(|name| _ = packed.subscribe(name, 1));
    let ends: Vec<TcpStream> =
        [&json, &slow, &packed.client].map(|client| client.tcp.try_clone().expect("a handle")).into();
    let (ws, admin) = (server.ws, server.admin.to_string());
    let bus = server.bus.strip_prefix("tcp://").and_then(|at| at.parse().ok()).expect("a tcp bus");
    let stop = AtomicBool::new(false);
    let (content, table) = std::thread::scope(|scope| {
        scope.spawn(|| publish_until(&stop, bus));
        scope.spawn(|| come_and_go_until(&stop, ws));
        scope.spawn(|| read_on(json));
        scope.spawn(|| read_on(packed.client));
        scope.spawn(|| dawdle(slow));
        let _stop = SetOnDrop(&stop);
        let found = dashboards(&[&admin, "--seconds", "8", "--strict"]);
        ends.iter().for_each(|tcp| _ = tcp.shutdown(Shutdown::Both));
        found
    });
    assert!(content, "{table}");
    println!("{table}");
    // The numbers are of this load.
    for (panel, want) in [("Servers", "up"), ("Keys by references", "by 2-4: 20"), ("Clients by format", "msgpack: 1")]
    {
        let row =
            table.lines().find(|line| line.trim_start().starts_with(panel)).unwrap_or_else(|| panic!("no {panel}"));
        assert!(row.contains(want), "{row}");
    }
}

#[test]
fn a_panel_without_a_value_is_told_and_so_is_a_server_that_is_not_there() {
    let server = Server::start(|_| {});
    let (content, table) = dashboards(&[&server.admin.to_string(), "--seconds", "1", "--strict"]);
    assert!(!content && table.contains("no value: "), "{table}");
    let missing = table.rsplit("no value: ").next().expect("a list");
    assert!(missing.contains("overview / Broadcast latency;"), "{missing}");
    assert!(!missing.contains("overview / Servers"), "{missing}");
    let gone = server.admin.to_string();
    server.stop();
    let (content, text) = dashboards(&[&gone]);
    assert!(!content && text.contains("is tickcast running"), "{text}");
}

/// Times of the rules and what they become: the windows still hold several scrapes.
const SHORTER: &[(&str, &str)] =
    &[("[5m]", "[8s]"), ("[1m]", "[4s]"), ("for: 1m", "for: 1s"), ("for: 2m", "for: 2s"), ("for: 30s", "for: 1s")];

/// The rules with less time, and 2 s instead of 30 until a feed is silent.
fn shortened(rules: &str) -> String {
    SHORTER
        .iter()
        .chain(&[("silence_seconds) > 30", "silence_seconds) > 2")])
        .fold(rules.into(), |text: String, (long, short)| text.replace(long, short))
}

/// A Prometheus with the shortened rules, scraping twice a second.
struct Prometheus {
    _process: Running,
    _folder: Folder,
    at: SocketAddr,
}

impl Prometheus {
    fn start(servers: &[SocketAddr]) -> Self {
        let folder = Folder::new("prometheus");
        std::fs::create_dir(folder.path("rules")).expect("a folder");
        let file = |name: &str| std::fs::read_to_string(root().join("dashboards").join(name)).expect("a file");
        for name in ["rules/recording.yml", "rules/alerts.yml"] {
            let (long, short) = (file(name), shortened(&file(name)));
            assert!(long != short && !short.contains("> 30"), "{name}: its times are written otherwise now");
            folder.file(name, &short);
        }
        let targets: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        let config = file("prometheus.yml").replace("[\"127.0.0.1:9464\"]", &json!(targets).to_string());
        let config = folder.file("prometheus.yml", &config.replace("_interval: 5s", "_interval: 500ms"));
        // Its log, which names the port, goes to stderr.
        let start = format!(
            "exec {} --config.file={} --storage.tsdb.path={} --web.listen-address=127.0.0.1:0 2>&1",
            tool("prometheus").display(),
            config.display(),
            folder.path("data")
        );
        let mut command = Command::new("sh");
        command.args(["-c", &start]);
        let mut process = Running::new(command);
        let at = loop {
            let line = process.line();
            if let Some(address) = line.split("msg=\"Listening on\" address=").nth(1) {
                break address.trim().parse().expect("an address");
            }
        };
        Prometheus { _process: process, _folder: folder, at }
    }

    /// (alert, server) of all alerts that fire.
    fn firing(&self) -> Vec<(String, String)> {
        // HTTP 1.0, so that the answer comes in one piece.
        let answer = exchange(self.at, "GET /api/v1/alerts HTTP/1.0\r\n\r\n");
        let body = answer.split_once("\r\n\r\n").expect("a head and a body").1;
        let Ok(body) = serde_json::from_str::<Value>(body) else { return Vec::new() };
        let alerts = body["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let text = |alert: &Value, label: &str| alert["labels"][label].as_str().unwrap_or_default().to_owned();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| (text(alert, "alertname"), text(alert, "instance"))).collect()
    }

    /// Waits until `alert` fires for `server`, and checks that it fires for no other.
    fn await_firing(&self, alert: &str, server: SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        let wanted = [server.to_string()];
        loop {
            let all = self.firing();
            let of: Vec<_> = all.iter().filter(|(name, _)| name == alert).map(|(_, server)| server).collect();
            if of == wanted.each_ref() {
                return;
            }
            assert!(of.is_empty(), "{alert} fires for {of:?}, not only for {wanted:?}");
            assert!(Instant::now() < deadline, "{alert} does not fire; these do: {all:?}");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn await_quiet(&self, alert: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.firing().iter().any(|(name, _)| name == alert) {
            assert!(Instant::now() < deadline, "{alert} goes on firing");
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
}

/// Holds the one shard's lock while each tick waits for it, longer than an alert allows a lock or a broadcast to take.
fn stall_until(stop: &AtomicBool, server: &Server, mut client: Client) {
    let mut publisher = server.publisher();
    while !stop.load(Ordering::Relaxed) {
        server.shards().with(ShardIndex(0), |_| {
            publisher.ltp("A", 1.0);
            std::thread::park_timeout(Duration::from_millis(200));
        });
        client.tick();
    }
}

#[test]
fn slow_broadcast_feed_silent_and_sessions_lagging_fire_live_for_the_server_they_are_about() {
    let slow = Server::start(|s| s.fanout.shards = 1);
    let silent = Server::start(|_| {});
    let lagging = Server::start(|s| {
        s.fanout.send_buffer_bytes = 16 << 10;
        s.limits.ping_interval = Duration::ZERO;
    });
    // A market that never closes: one tick, and no more.
    let mut feed = silent.publisher();
    let mut waiting = silent.client();
    let bitcoin = json!({"action": "subscribe", "symbol": "BTC", "exchange": "CRYPTO", "mode": 1});
    assert_eq!(waiting.request(bitcoin)["status"], "success");
    feed.json("CRYPTO_BTC_LTP", &json!({"ltp": 1.5}));
    waiting.tick();
    // A client that does not read, beside one that does.
    let mut stalled = lagging.client().narrow();
    stalled.subscribe(&["S"], 1);
    let mut ticks = lagging.publisher();
    let deadline = Instant::now() + PATIENCE;
    while lagging.metric("tickcast_sessions_lagging", &[]) != 1.0 {
        assert!(Instant::now() < deadline, "the client is never behind");
        ticks.batch_counting(&["S"], 1..1000);
    }
    let prometheus = Prometheus::start(&[slow.admin, silent.admin, lagging.admin]);
    let mut reading = slow.client();
    reading.subscribe(&["A"], 1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = SetOnDrop(&stop);
        scope.spawn(|| stall_until(&stop, &slow, reading));
        prometheus.await_firing("SlowBroadcast", slow.admin);
        prometheus.await_firing("HighLockContention", slow.admin);
        prometheus.await_firing("FeedSilent", silent.admin);
        prometheus.await_firing("SessionsLagging", lagging.admin);
    });
    // What was wrong is mended: the alert ends.
    drop(stalled);
    prometheus.await_quiet("SessionsLagging");
    prometheus.await_quiet("SlowBroadcast");
    let gone = lagging.admin;
    lagging.stop();
    prometheus.await_firing("TargetDown", gone);
}
