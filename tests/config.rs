//! Settings from every source: who wins, what is derived, and how mistakes are told.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;
use std::time::Duration;
use tickcast::cli::{ServeArgs, check};
use tickcast::config::settings::{AdapterKind, KeyStoreSetting};
use tickcast::config::{Loaded, Sources, load, settings_markdown};

/// A directory of its own for one test's files, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tickcast-config-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn env(variables: &[(&str, &str)]) -> Sources {
    let env = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Sources { env, ..Sources::default() }
}

fn set(assignments: &[&str]) -> Sources {
    Sources { set: assignments.iter().map(|a| a.to_string()).collect(), ..Sources::default() }
}

fn good(sources: &Sources) -> Loaded {
    load(sources).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn problems(sources: &Sources) -> Vec<String> {
    load(sources).expect_err("there are mistakes").iter().map(ToString::to_string).collect()
}

/// The settings have one mistake, whose text has all of `parts`.
#[track_caller]
fn one_mistake(sources: &Sources, parts: &[&str]) {
    let problems = problems(sources);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    for part in parts {
        assert!(problems[0].contains(part), "{part:?} is missing in {:?}", problems[0]);
    }
}

/// Each in a directory of its own, so that one test can have several.
fn toml_sources(directory: &Directory, text: &str) -> Sources {
    let own = directory.0.join(std::fs::read_dir(&directory.0).unwrap().count().to_string());
    std::fs::create_dir(&own).unwrap();
    let file = own.join("t.toml");
    std::fs::write(&file, text).unwrap();
    Sources { file: Some(file), ..Sources::default() }
}

#[test]
fn nothing_configured_is_the_first_minute() {
    let s = good(&Sources::default()).settings;
    assert_eq!(s, tickcast::config::Settings::default());
    assert_eq!(s.server.listen.to_string(), "127.0.0.1:8765");
    assert_eq!(s.admin.listen.to_string(), "127.0.0.1:9464");
    assert_eq!(s.adapters.control_bind, "tcp://127.0.0.1:5655");
    assert_eq!(s.bus.bind, ["tcp://127.0.0.1:5555"]);
    assert_eq!((s.adapters.default, s.auth.store), (AdapterKind::Sim, KeyStoreSetting::Demo));
}

#[test]
fn later_sources_win_and_each_value_knows_its_origin() {
    let directory = Directory::new("precedence");
    let mut sources = Sources {
        env_file: Some(
            directory.file(".env", "\nWS_AUTH_GRACE_SECONDS='1'\nWS_PING_INTERVAL=1\nWEBSOCKET_PORT=1000\n"),
        ),
        file: Some(
            directory.file("t.toml", "[limits]\nping_interval = \"2s\"\nping_timeout = \"2s\"\nhandshake = \"2s\"\n"),
        ),
        ..env(&[
            ("WEBSOCKET_PORT", "9001"),
            ("TICKCAST_LIMITS_PING_TIMEOUT", "3s"),
            ("TICKCAST_LIMITS_HANDSHAKE", "3s"),
        ])
    };
    sources.set = vec!["limits.handshake=4s".into()];
    let loaded = good(&sources);
    let limits = &loaded.settings.limits;
    for (path, value, want, origin) in [
        ("limits.auth_deadline", limits.auth_deadline, 1, ".env:2 (WS_AUTH_GRACE_SECONDS)"),
        ("limits.ping_interval", limits.ping_interval, 2, "t.toml:2"),
        ("limits.ping_timeout", limits.ping_timeout, 3, "variable TICKCAST_LIMITS_PING_TIMEOUT"),
        ("limits.handshake", limits.handshake, 4, "--set"),
        ("limits.lossless_stall", limits.lossless_stall, 10, "built in"),
    ] {
        assert_eq!(value, Duration::from_secs(want), "{path}");
        let shown = loaded.origin(path).to_string();
        assert!(shown.ends_with(origin), "{path} came from {shown}");
    }
    assert_eq!(loaded.settings.server.listen.port(), 9001, "the environment wins over the env file");
    sources.listen = Some("127.0.0.1:9002".into());
    assert_eq!(good(&sources).settings.server.listen.port(), 9002);
}

#[test]
fn admin_and_control_ports_follow_the_listen_port() {
    for (port, admin, control) in [("8766", 9465, 5656), ("0", 0, 0), ("3111", 3810, 1)] {
        let s = good(&env(&[("WEBSOCKET_PORT", port)])).settings;
        assert_eq!(
            (s.admin.listen.port(), s.adapters.control_bind),
            (admin, format!("tcp://127.0.0.1:{control}")),
            "{port}"
        );
    }
    one_mistake(&env(&[("WEBSOCKET_PORT", "3110")]), &["WEBSOCKET_PORT", "adapters.control_bind", "set"]);
    one_mistake(&env(&[("WEBSOCKET_PORT", "65000")]), &["admin.listen", "--admin"]);
    good(&Sources { admin: Some("127.0.0.1:9464".into()), ..env(&[("WEBSOCKET_PORT", "65000")]) });
}

#[test]
fn openalgos_variables_decide_the_direction_of_the_bus() {
    let none: [&str; 0] = [];
    for (variables, bind, connect) in [
        (vec![("ZMQ_PORT", "5600")], vec!["tcp://127.0.0.1:5600"], vec![]),
        (vec![("ZMQ_PUB_PORT", "5601"), ("ZMQ_PORT", "5600")], vec![], vec!["tcp://127.0.0.1:5601"]),
        (vec![("ACTUAL_ZMQ_PORT", "5602"), ("ZMQ_PUB_PORT", "5601")], vec![], vec!["tcp://127.0.0.1:5602"]),
        (vec![("ZMQ_HOST", "10.0.0.7"), ("ZMQ_PUB_PORT", "5601")], vec![], vec!["tcp://10.0.0.7:5601"]),
        (vec![("ZMQ_HOST", "0.0.0.0"), ("ZMQ_PUB_PORT", "5601")], vec![], vec!["tcp://127.0.0.1:5601"]),
        (vec![("ZMQ_HOST", "10.0.0.7")], vec!["tcp://10.0.0.7:5555"], vec![]),
        (vec![("ZMQ_PORT", "")], vec!["tcp://127.0.0.1:5555"], vec![]),
    ] {
        let s = good(&env(&variables)).settings;
        assert_eq!(
            (s.bus.bind, s.bus.connect),
            (bind.iter().map(|b| b.to_string()).collect(), connect.iter().map(|c: &&str| c.to_string()).collect()),
            "{variables:?}"
        );
    }
    let sources =
        Sources { set: vec!["bus.bind=tcp://127.0.0.1:1,ipc:///tmp/x".into()], ..env(&[("ZMQ_PUB_PORT", "5601")]) };
    let s = good(&sources).settings;
    assert_eq!(s.bus.bind, ["tcp://127.0.0.1:1", "ipc:///tmp/x"], "explicit lists override");
    assert_eq!(good(&set(&["bus.bind="])).settings.bus.bind, none);
}

#[test]
fn anything_real_turns_the_simulated_market_off() {
    let directory = Directory::new("real");
    for sources in [
        env(&[("VALID_BROKERS", "angel,dhan")]),
        env(&[("WEBSOCKET_PORT", "8766")]),
        env(&[("TICKCAST_BUS_QUEUE_BYTES_MAX", "32MiB")]),
        set(&["auth.store=sqlite:keys.db"]),
        set(&["brokers.angel.kind=bus"]),
        set(&["discovery.file=publishers.db"]),
        set(&["discovery.redis=redis://127.0.0.1"]),
        toml_sources(&directory, "[bus]\n"),
        toml_sources(&directory, "[[bus.source]]\nendpoint = 'tcp://127.0.0.1:1'\nbroker = 'angel'\nuser = 'asha'\n"),
    ] {
        let loaded = good(&sources);
        assert_eq!(loaded.settings.adapters.default, AdapterKind::Bus, "{sources:?}");
        assert!(loaded.origin("adapters.default").to_string().starts_with("derived"));
    }
    for sources in [
        env(&[("VALID_BROKERS", ""), ("DATABASE_URL", "postgres://a/b"), ("PATH", "/bin")]),
        set(&["server.listen=127.0.0.1:0", "limits.sessions=10"]),
    ] {
        assert_eq!(good(&sources).settings.adapters.default, AdapterKind::Sim, "{sources:?}");
    }
    let asked_for = Sources { set: vec!["adapters.default=sim".into()], ..env(&[("ZMQ_PORT", "5555")]) };
    assert_eq!(good(&asked_for).settings.adapters.default, AdapterKind::Sim);
}

#[test]
fn the_demo_users_broker_is_the_default_adapter_kind() {
    for (variables, want) in [(&[][..], "Demo(sim)"), (&[("WEBSOCKET_PORT", "8766")], "Demo(bus)")] {
        assert_eq!(format!("{:?}", good(&env(variables)).settings.auth_config().store), want);
    }
}

#[test]
fn an_openalgo_env_file_brings_its_key_store_and_its_stats_file() {
    let directory = Directory::new("openalgo");
    let text = format!(
        "DATABASE_URL = 'sqlite:///db/openalgo.db' # main\nAPI_KEY_PEPPER='{}'\nWS_PROXY_STATS_FILE=log/stats.json\n",
        "ab".repeat(32)
    );
    let file = directory.file(".env", &text);
    let loaded = good(&Sources { env_file: Some(file.clone()), ..Sources::default() });
    assert_eq!(loaded.settings.auth.store, KeyStoreSetting::OpenAlgo(directory.0.join("db/openalgo.db")));
    assert_eq!(loaded.settings.admin.stats_file, Some(directory.0.join("log/stats.json")));
    for (variable, want) in [("log/stats.json", Some("log/stats.json")), ("", None)] {
        let settings = good(&env(&[("WS_PROXY_STATS_FILE", variable)])).settings;
        assert_eq!(settings.admin.stats_file.as_deref(), want.map(std::path::Path::new));
    }
    let auth = format!("{:?}", loaded.settings.auth_config());
    assert!(auth.contains("openalgo.db") && !auth.contains("abab"), "{auth}");
    assert!(!loaded.to_string().contains("abab") && !format!("{loaded:?}").contains("abab"), "the pepper is a secret");
    let chosen = Sources { env_file: Some(file), set: vec!["auth.store=demo".into()], ..Sources::default() };
    assert_eq!(good(&chosen).settings.auth.store, KeyStoreSetting::Demo);

    let pepper = "ab".repeat(32);
    let postgres = env(&[("DATABASE_URL", "postgresql://u:hunter2@h/db"), ("API_KEY_PEPPER", &pepper)]);
    one_mistake(&postgres, &["variable DATABASE_URL", "SQLite", "tickcast keys add"]);
    assert!(!problems(&postgres)[0].contains("hunter2"));
    good(&Sources { set: vec!["auth.store=sqlite:keys.db".into()], ..postgres });
    one_mistake(&set(&["auth.store=openalgo:x.db"]), &["--set", "API_KEY_PEPPER", "--env-file"]);
    one_mistake(&set(&["auth.store=openalgo:x.db", "auth.pepper=short"]), &["5 characters", "32"]);
}

#[test]
fn every_mistake_is_told_at_once_with_its_place_and_what_would_be_right() {
    let directory = Directory::new("mistakes");
    let text = "\
[server]
listen = \"nowhere\"
lissten = \"127.0.0.1:1\"
[fanout]
shards = 48
flush_max_delay = 5
[limmits]
sessions = 1
[scale]
NSE = 99
[bus]
bind = [\"tcp://127.0.0.1:5555\", 7]
[[bus.source]]
endpoint = \"tcp://127.0.0.1:5601\"
user = \"asha\"
[brokers.angel]
kind = \"nobody\"
";
    let mut sources = toml_sources(&directory, text);
    sources.env =
        env(&[("TICKCAST_LIMITS_SESSION", "5"), ("ZMQ_PORT", "many"), ("TICKCAST_ADMIN_ALLOW_PUBLIC", "maybe")]).env;
    sources.set = vec!["limits.ping_timeout=1".into(), "nonsense".into(), "server.shards=4".into()];
    sources.admin = Some("localhost".into());
    let got = problems(&sources);
    for want in [
        &["ZMQ_PORT", "\"many\"", "port"][..],
        &["t.toml:2", "server.listen", "\"nowhere\"", "IP:PORT"],
        &["t.toml:3", "server.lissten", "nearest is server.listen"],
        &["t.toml:5", "48", "32 or 64"],
        &["t.toml:6", "fanout.flush_max_delay = 5", "unit"],
        &["t.toml:7", "\"limmits\"", "[limits]"],
        &["t.toml:10", "scale.NSE = 99", "0 to 12"],
        &["t.toml:12", "bus.bind", "7 is not"],
        &["t.toml:14", "no broker"],
        &[
            "t.toml:17",
            "brokers.angel.kind",
            "\"nobody\"",
            "\"sim\" or \"bus\" or \"external\" or \"zerodha\" or \"angel\"",
        ],
        &["TICKCAST_LIMITS_SESSION:", "nearest is TICKCAST_LIMITS_SESSIONS"],
        &["TICKCAST_ADMIN_ALLOW_PUBLIC", "\"maybe\"", "true or false"],
        &["--admin", "\"localhost\"", "IP:PORT"],
        &["--set", "limits.ping_timeout", "unit"],
        &["--set", "nonsense", "section.key=value"],
        &["--set", "server.shards", "nearest is fanout.shards"],
    ] {
        let found = got.iter().any(|problem| want.iter().all(|part| problem.contains(part)));
        assert!(found, "{want:?} is missing in\n{}", got.join("\n"));
    }
    assert_eq!(got.len(), 16, "{}", got.join("\n"));
}

#[test]
fn broken_toml_and_missing_files_are_mistakes_with_a_place() {
    let directory = Directory::new("broken");
    one_mistake(&toml_sources(&directory, "[server]\n\nlisten = \n"), &["t.toml:3", "not TOML"]);
    one_mistake(
        &Sources { file: Some("/nonexistent/t.toml".into()), ..Sources::default() },
        &["--config", "/nonexistent/t.toml"],
    );
    one_mistake(&Sources { env_file: Some("/nonexistent/.env".into()), ..Sources::default() }, &["--env-file"]);
    let sources = Sources { env_file: Some(directory.file(".env", "A=1\nB='x\n")), ..Sources::default() };
    one_mistake(&sources, &[".env:2", "never closed"]);
}

#[test]
fn what_would_open_the_server_to_the_network_needs_a_word() {
    one_mistake(&set(&["server.listen=0.0.0.0:8765"]), &["demo", "keys add", "sqlite:"]);
    good(&set(&["server.listen=0.0.0.0:8765", "auth.store=sqlite:keys.db"]));
    for (bind, section) in [
        ("bus.bind=tcp://*:5555", "bus"),
        ("admin.listen=0.0.0.0:9464", "admin"),
        ("admin.scrape_listen=[::]:9999", "admin"),
        ("adapters.control_bind=tcp://0.0.0.0:5655", "adapters"),
    ] {
        one_mistake(&set(&[bind]), &["every interface", &format!("{section}.allow_public = true")]);
    }
    good(&set(&["bus.bind=tcp://*:5555", "bus.allow_public=true"]));
    one_mistake(&set(&["adapters.allow_public=true"]), &["adapters.secret"]);
    good(&set(&["adapters.allow_public=true", "adapters.secret=s3cret", "adapters.control_bind=tcp://*:5655"]));
}

#[test]
fn settings_that_contradict_each_other_are_mistakes() {
    for (assignments, parts) in [
        (&["admin.listen=127.0.0.1:8765"][..], ["admin.listen", "server.listen"]),
        (&["bus.bind=tcp://127.0.0.1:5655"], ["bus.bind", "adapters.control_bind"]),
        (&["bus.queue_bytes_max=8MiB"], ["bus_message_bytes_max", "bus.queue_bytes_max"]),
        (&["limits.bus_message_bytes_max=1MiB"], ["bus_frame_bytes_max", "bus_message_bytes_max"]),
        (&["limits.message_bytes_max=32KiB"], ["message_bytes_max_unauthenticated", "message_bytes_max"]),
        (&["limits.sessions=10", "limits.sessions_per_ip=20"], ["sessions_per_ip (20)", "sessions (10)"]),
        (
            &["fanout.outbox_bytes_max=64MiB", "fanout.outbox_bytes_total=32MiB"],
            ["outbox_bytes_max", "outbox_bytes_total"],
        ),
    ] {
        one_mistake(&set(assignments), &parts);
    }
    assert_eq!(good(&set(&["limits.sessions=10"])).settings.limits.sessions_per_user, 10);
    let directory = Directory::new("contradict");
    let source =
        |user: &str| format!("[[bus.source]]\nendpoint = 'tcp://127.0.0.1:1'\nbroker = 'a'\nuser = '{user}'\n");
    one_mistake(
        &toml_sources(&directory, &(source("asha") + &source("ravi"))),
        &["t.toml:6", "another [[bus.source]]"],
    );
    let names = "[[bus.source]]\nendpoint = 'tcp://127.0.0.1:0'\nbroker = 'a b'\nuser = 'a b'\n";
    let told = problems(&toml_sources(&directory, names));
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(
        told[0].contains("t.toml:2") && told[1].contains("no broker name") && told[2].contains("no user"),
        "{told:#?}"
    );
    let both = format!("bus.connect = ['tcp://127.0.0.1:1']\n{}", source("asha"));
    one_mistake(&toml_sources(&directory, &both), &["bus.connect", "everybody"]);
}

#[test]
fn a_relation_with_a_value_that_is_already_wrong_is_not_judged() {
    one_mistake(&set(&["server.listen=0.0.0.0:x"]), &["server.listen"]);
    one_mistake(&set(&["limits.message_bytes_max=lots"]), &["limits.message_bytes_max"]);
}

#[test]
fn what_check_prints_reads_back_as_the_same_settings() {
    let directory = Directory::new("roundtrip");
    let text = "\
server = { workers = 3, listen = \"127.0.0.1:9000\", close_style = \"drop\" }
bus.connect = [\"tcp://feed.local:5556\"]
[[bus.source]]
endpoint = \"ipc:///tmp/a \\\"b\\\"\"
broker = \"Angel\"
user = \"asha\"
[brokers.Angel]
kind = \"bus\"
[brokers.zerodha]
kind = \"zerodha\"
users = [\"asha\", \"ravi\"]
credentials = \"file:/run/keys/{user}\"
symbols = [\"instruments.csv\"]
url = \"ws://127.0.0.1:9000\"
symbols_per_connection = 1000
connections = 2
[scale]
\"NSE\" = 3
[limits]
message_bytes_max = 70000
ping_interval = \"1500ms\"
[auth]
store = \"sqlite:my keys.db\"
[log]
level = \"info,tickcast::bus=debug\"
";
    let loaded = good(&toml_sources(&directory, text));
    assert_eq!(loaded.settings.bus.sources[0].broker, "angel");
    let printed = loaded.to_string();
    let again = good(&toml_sources(&directory, &printed));
    assert_eq!(again.settings, loaded.settings, "{printed}");
}

#[test]
fn variables_reach_lists_brokers_and_scales() {
    let s = good(&env(&[
        ("TICKCAST_BUS_CONNECT", "tcp://127.0.0.1:1, tcp://127.0.0.1:2"),
        ("TICKCAST_BROKERS_MY_BROKER_KIND", "bus"),
        ("TICKCAST_SCALE_NSE_INDEX", "4"),
        ("TICKCAST_SERVER_SUPPORTED_BROKERS", ""),
    ]))
    .settings;
    assert_eq!(s.bus.connect, ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]);
    assert_eq!(s.brokers["my_broker"].kind, AdapterKind::Bus);
    assert_eq!(s.scale["NSE_INDEX"], 4);
    assert!(s.server.supported_brokers.is_empty());
    one_mistake(&env(&[("TICKCAST_BROKERS_ANGEL_KNID", "bus")]), &["brokers.angel.knid", "brokers.angel.kind"]);
}

#[test]
fn check_prints_settings_with_origins_or_all_mistakes_and_their_number() {
    let run = |args: &ServeArgs| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check::run(args, Vec::new(), &mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let mut args = ServeArgs { set: vec!["adapters.secret=hunter2".into()], ..ServeArgs::default() };
    let (code, out, err) = run(&args);
    assert_eq!((code, &*err), (0, ""));
    let line = |start: &str| out.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{out}"));
    assert!(line("secret").contains("\"(secret)\"") && line("secret").ends_with("# --set"));
    assert!(line("shards").ends_with("# built in"));
    assert!(!out.contains("hunter2"));
    args.set = vec!["fanout.shards=3".into(), "x=1".into()];
    let (code, out, err) = run(&args);
    assert_eq!((code, &*out, err.lines().count()), (2, "", 3));
    assert!(err.ends_with("2 mistakes in the settings\n"), "{err}");
}

#[test]
fn the_settings_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SETTINGS.md");
    let want = settings_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &want).unwrap();
    }
    let have = std::fs::read_to_string(path).unwrap_or_default();
    assert!(have == want, "docs/SETTINGS.md is stale: UPDATE_DOCS=1 cargo test --test config");
}

#[test]
fn a_native_feed_takes_its_tokens_from_openalgos_database_when_that_is_the_key_store() {
    let directory = Directory::new("logins");
    let section = |kind: &str| {
        let text = format!(
            "[brokers.b]\nkind = \"{kind}\"\nusers = [\"asha\"]\nsymbols = [\"i\"]\ncredentials = \"openalgo\""
        );
        toml_sources(&directory, &text)
    };
    one_mistake(&section("zerodha"), &["t.toml:5", "auth.store"]);
    let (pepper, salt) = ("ab".repeat(32), "cd".repeat(32));
    let variables = [("DATABASE_URL", "sqlite:////o.db"), ("API_KEY_PEPPER", &*pepper), ("FERNET_SALT", &*salt)];
    let sources =
        |kind: &str, more: &[(&str, &str)]| Sources { env: env(&[&variables[..], more].concat()).env, ..section(kind) };
    good(&sources("zerodha", &[]));
    one_mistake(&sources("shoonya", &[]), &["t.toml:5", "BROKER_API_KEY"]);
    let loaded = good(&sources("shoonya", &[("BROKER_API_KEY", "FN123:::uvwxyz")]));
    let shown = format!("{loaded} {:?}", loaded.settings);
    assert!(shown.contains("openalgo"), "{shown}");
    for secret in ["abab", "cdcd", "FN123", "uvwxyz"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn a_native_broker_says_what_it_lacks_and_never_shows_a_secret() {
    let directory = Directory::new("native");
    let section = |lines: &str| toml_sources(&directory, &format!("[brokers.zerodha]\nkind = \"zerodha\"\n{lines}"));
    let got = problems(&section(""));
    for missing in ["users", "symbols", "credentials"] {
        assert!(got.iter().any(|p| p.contains(&format!("brokers.zerodha.{missing} is missing"))), "{got:?}");
    }
    let base = "users = [\"asha\"]\nsymbols = [\"i.csv\"]\n";
    let with = |more: &str| section(&format!("{base}{more}"));
    one_mistake(&with("credentials = \"my-secret-token\""), &["t.toml:5", "(not shown)", "file:/path"]);
    one_mistake(&with("credentials = \"file:x\"\nurl = \"http://h\""), &["t.toml:6", "brokers.zerodha.url", "wss://"]);
    one_mistake(
        &with("credentials = \"file:x\"\norder_url = \"ws://h\""),
        &["t.toml:6", "zerodha sends order updates with its ticks"],
    );
    one_mistake(&with("credentials = \"file:x\"\nconnections = 4"), &["t.toml:6", "connections = 4", "at most 3"]);
    one_mistake(
        &with("credentials = \"file:x\"\nconections = 1"),
        &["t.toml:6", "nearest is brokers.zerodha.connections"],
    );
    let two = "users = [\"asha\", \"ravi\"]\nsymbols = [\"i.csv\"]\n";
    one_mistake(&section(&format!("{two}credentials = \"file:x\"")), &["t.toml:5", "{user}"]);
    one_mistake(&section(&format!("{two}credentials = \"env:KITE\"")), &["t.toml:5", "several users"]);
    let mut from_env = with("credentials = \"env:KITE\"");
    from_env.env = env(&[("KITE_API_KEY", "key-abcd")]).env;
    one_mistake(&from_env, &["t.toml:5", "KITE_ACCESS_TOKEN is not set"]);
    from_env.env = env(&[("KITE_API_KEY", "key-abcd"), ("KITE_ACCESS_TOKEN", "token-efgh")]).env;
    let loaded = good(&from_env);
    let shown = format!("{loaded} {:?}", loaded.settings);
    assert!(shown.contains("env:KITE") && !shown.contains("key-abcd") && !shown.contains("token-efgh"), "{shown}");
    let bus = toml_sources(&directory, "[brokers.angel]\nkind = \"bus\"\nurl = \"ws://h\"");
    one_mistake(&bus, &["t.toml:3", "brokers.angel.url is for native kinds"]);
    let none = toml_sources(&directory, "[brokers.angel]\nusers = [\"a\"]");
    one_mistake(&none, &["t.toml:2", "[brokers.angel] needs kind"]);
    let clash = with(
        "credentials = \"file:x\"\n[[bus.source]]\nendpoint = \"tcp://127.0.0.1:1\"\nbroker = \"zerodha\"\nuser = \"asha\"",
    );
    one_mistake(&clash, &["t.toml:3", "[[bus.source]] of zerodha"]);
    let s = good(&env(&[
        ("TICKCAST_BROKERS_MY_BROKER_KIND", "zerodha"),
        ("TICKCAST_BROKERS_MY_BROKER_USERS", "asha"),
        ("TICKCAST_BROKERS_MY_BROKER_SYMBOLS", "a.csv,b.csv"),
        ("TICKCAST_BROKERS_MY_BROKER_SYMBOLS_PER_CONNECTION", "7"),
        ("TICKCAST_BROKERS_MY_BROKER_CREDENTIALS", "file:x"),
    ]));
    let broker = &s.settings.brokers["my_broker"];
    assert_eq!((broker.kind.label(), broker.symbols.len(), broker.symbols_per_connection), ("zerodha", 2, Some(7)));
}
