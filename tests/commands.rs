//! The program as a user runs it: ready line, exit codes, signals, `check`, `keys`, `watch`, OpenAlgo's `.env` and keys.
//!
//! A process of its own in every test; what Python has to do with is in `e2e.rs`.

mod process;
mod support;

use process::{ANY_BUS, ANYWHERE, Folder, PATIENCE, Running, Server, ready_fields, run, tickcast};
use serde_json::json;
use std::net::TcpListener;
use std::time::Duration;
use support::{Client, Got, Publisher};

#[test]
fn the_first_line_names_every_port_and_the_process() {
    let server = Server::anywhere(&[]);
    let fields = ready_fields(&server.ready);
    assert!(server.ws.ip().is_loopback() && server.ws.port() != 0, "{}", server.ready);
    assert!(server.admin.ip().is_loopback() && server.admin.port() != 0, "{}", server.ready);
    assert!(server.bus.starts_with("tcp://127.0.0.1:") && !server.bus.ends_with(":0"), "{}", server.ready);
    let control = &fields["control"];
    assert!(control.starts_with("tcp://127.0.0.1:") && !control.ends_with(":0"), "{}", server.ready);
    assert_eq!(fields["pid"], server.process.id().to_string());
    let state: serde_json::Value = serde_json::from_str(&server.page("/readyz")).expect("JSON");
    assert_eq!((&state["ready"], &state["control"]), (&json!(true), &json!(control)), "{state}");
}

#[test]
fn the_banner_stands_on_stderr_with_addresses_adapter_key_and_a_command_to_try() {
    let server = Server::anywhere(&[]);
    let (url, admin, bus) = (server.url(), server.admin.to_string(), server.bus.clone());
    let control = ready_fields(&server.ready)["control"].clone();
    let stderr = server.stop();
    for part in [&url, &admin, &bus, &control, "bus", "demo-key", "tickcast watch RELIANCE --url"] {
        assert!(stderr.contains(part), "{part} in\n{stderr}");
    }
}

#[test]
fn sigterm_and_ctrl_c_tell_clients_and_end_with_0_within_5_seconds() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::anywhere(&[]);
        let mut client = client(&server, "demo-key");
        client.subscribe(&["INFY"], 1);
        server.process.signal(signal);
        let status = server.process.wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "SIG{signal}: {}", server.process.stderr());
        let end = client.until_close();
        assert!(matches!(end, Got::Close(Some((1001, _)))), "SIG{signal}: {end:?}");
        assert_eq!(server.process.rest_of_stdout(), "", "one line on stdout, no more");
    }
}

#[test]
fn a_busy_port_ends_with_3_and_names_the_port_and_the_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let at = format!("127.0.0.1:{port}");
    for (args, setting) in [
        (vec!["--listen", at.as_str()], "server.listen"),
        (vec!["--listen", "127.0.0.1:0", "--admin", at.as_str()], "admin.listen"),
        (vec!["--listen", "127.0.0.1:0", "--set", &format!("bus.bind=tcp://{at}")], "bus.bind"),
        (
            vec!["--listen", "127.0.0.1:0", "--set", &format!("adapters.control_bind=tcp://{at}")],
            "adapters.control_bind",
        ),
    ] {
        // Later flags win: nothing but the one port under test is fixed.
        let mut all = vec!["--set", "admin.listen=127.0.0.1:0", "--set", "bus.bind=tcp://127.0.0.1:0"];
        if setting == "admin.listen" {
            all.drain(..2);
        }
        if setting == "bus.bind" {
            all.truncate(2);
        }
        all.extend(args);
        let (code, stdout, stderr) = run(&all, &[]);
        assert_eq!(code, 3, "{all:?}: {stderr}");
        assert_eq!(stdout, "", "no ready line");
        assert!(stderr.contains(&at) && stderr.contains(setting), "{setting}: {stderr}");
    }
}

#[test]
fn a_second_server_with_the_same_settings_ends_with_3_and_the_first_goes_on() {
    let first = Server::anywhere(&[]);
    let (at, admin) = (first.ws.to_string(), first.admin.to_string());
    let bus = format!("bus.bind={}", first.bus);
    let args = ["--listen", &at, "--admin", &admin, "--set", &bus, "--set", "adapters.default=bus"];
    let (code, stdout, stderr) = run(&args, &[]);
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
    assert!(stderr.contains(&at) && stderr.contains("server.listen"), "{stderr}");
    client(&first, "demo-key").subscribe(&["INFY"], 1);
}

#[test]
fn bad_settings_end_with_2_and_all_of_them_are_told_by_serve_and_by_check() {
    let folder = Folder::new("bad");
    let file = folder.file("t.toml", "[server]\nlissten = \"127.0.0.1:0\"\n[fanout]\nshards = 3\n");
    let file = file.to_str().expect("UTF-8");
    let env = [("TICKCAST_SIM_TICKS_PER_SECOND", "many")];
    for command in ["serve", "check"] {
        let (code, stdout, stderr) = run(&[command, "--config", file, "--set", "limits.nonsense=1"], &env);
        assert_eq!((code, stdout.as_str()), (2, ""), "{command}: {stderr}");
        for part in [
            "t.toml:2",
            "lissten",
            "listen",
            "t.toml:4",
            "shards",
            "TICKCAST_SIM_TICKS_PER_SECOND",
            "limits.nonsense",
            "4 mistakes",
        ] {
            assert!(stderr.contains(part), "{command}: {part} in\n{stderr}");
        }
    }
    assert_eq!(run(&["--no-such-flag"], &[]).0, 2, "usage");
    assert_eq!(run(&["watch"], &[]).0, 2, "usage");
}

#[test]
fn the_limit_of_open_files_is_raised_and_one_that_is_too_low_is_told_with_the_way_out() {
    let started_with = |limits: &str, sessions: &str| {
        let program = tickcast(&[], &[]).get_program().to_owned();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\""), &program.to_string_lossy()]);
        shell.args([ANYWHERE, ANY_BUS, &["--set", sessions]].concat()).env_clear();
        let mut process = Running::new(shell);
        process.line();
        process.signal("TERM");
        process.wait(PATIENCE);
        process.stderr()
    };
    let low = started_with("-Sn 500", "limits.sessions=100");
    assert!(low.contains("was raised") && low.contains("500"), "{low}");
    assert!(!low.contains("raise the hard limit"), "{low}");
    let too_low = started_with("-n 1000", "limits.sessions=1000");
    for part in ["limits.sessions = 1000", "the system allows 1000", "LimitNOFILE=", "--ulimit nofile="] {
        assert!(too_low.contains(part), "{part} in\n{too_low}");
    }
}

#[test]
fn the_demo_key_is_refused_on_a_listener_that_others_can_reach() {
    let (code, _, stderr) = run(&["--listen", "0.0.0.0:0"], &[]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("auth.store"), "{stderr}");
}

#[test]
fn a_key_store_that_cannot_be_used_ends_with_4() {
    let folder = Folder::new("nokeys");
    let junk = folder.file("junk.db", "this is no database, however long one looks at it").display().to_string();
    for (store, named) in
        [(format!("sqlite:{junk}"), "junk.db"), (format!("sqlite:{}", folder.path("none.db")), "none.db")]
    {
        let set = format!("auth.store={store}");
        let (code, stdout, stderr) = run(&[ANYWHERE, ANY_BUS, &["--set", &set]].concat(), &[]);
        assert_eq!((code, stdout.as_str()), (4, ""), "{store}: {stderr}");
        assert!(stderr.contains(named), "{stderr}");
    }
}

#[test]
fn check_prints_the_settings_with_where_each_came_from() {
    let (code, stdout, stderr) = run(&["check", "--set", "sim.seed=7"], &[("WEBSOCKET_PORT", "8766")]);
    assert_eq!(code, 0, "{stderr}");
    for (setting, origin) in [("seed = 7", "--set"), ("listen = \"127.0.0.1:8766\"", "WEBSOCKET_PORT")] {
        let line =
            stdout.lines().find(|line| line.contains(setting)).unwrap_or_else(|| panic!("{setting} in\n{stdout}"));
        assert!(line.contains(origin), "{line}");
    }
}

#[test]
fn two_variables_give_a_second_server_every_port_of_its_own() {
    for bus in ["ZMQ_PUB_PORT", "ZMQ_PORT"] {
        let (code, text, stderr) = run(&["check"], &[("WEBSOCKET_PORT", "8766"), (bus, "5556")]);
        assert_eq!(code, 0, "{stderr}");
        for port in ["127.0.0.1:8766", "127.0.0.1:9465", "127.0.0.1:5656", "127.0.0.1:5556"] {
            assert!(text.contains(port), "{bus}: {port} in\n{text}");
        }
        for first in ["127.0.0.1:8765", "127.0.0.1:9464", "127.0.0.1:5655", "127.0.0.1:5555"] {
            assert!(!text.contains(first), "{bus}: {first} in\n{text}");
        }
    }
}

#[test]
fn a_key_made_on_the_command_line_opens_the_server_until_it_is_revoked() {
    let folder = Folder::new("keys");
    let store = folder.path("keys.db");
    let (code, stdout, stderr) = run(&["keys", "add", "--store", &store, "--user", "asha", "--broker", "bus"], &[]);
    assert_eq!(code, 0, "{stderr}");
    let key = stdout.lines().last().expect("a key").to_owned();
    let server = Server::anywhere(&["--set", &format!("auth.store=sqlite:{store}")]);
    let mut first = Client::connect(server.ws);
    let reply = first.request(json!({"action": "authenticate", "api_key": key}));
    assert_eq!(
        (&reply["status"], &reply["user_id"], &reply["broker"]),
        (&json!("success"), &json!("asha"), &json!("bus"))
    );
    first.subscribe(&["INFY"], 1);
    let mut wrong = Client::connect(server.ws);
    let reply = wrong.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    assert_eq!(reply["code"], "AUTHENTICATION_ERROR", "the demo key is gone once there is a store: {reply}");
    let (code, listed, _) = run(&["keys", "list", "--store", &store], &[]);
    assert!(code == 0 && listed.contains("asha") && !listed.contains(&key), "{listed}");
    assert_eq!(run(&["keys", "revoke", "--store", &store, "--user", "asha"], &[]).0, 0);
    let mut late = Client::connect(server.ws);
    let reply = late.request(json!({"action": "authenticate", "api_key": key}));
    assert_eq!(reply["code"], "AUTHENTICATION_ERROR", "{reply}");
}

/// Appendix B of the protocol: key, pepper and their Argon2 hash.
const KEY_BLOCK: &str = "0123456789abcdef";
const PEPPER_BLOCK: &str = "fedcba9876543210";
const HASH: &str = "$argon2id$v=19$m=65536,t=3,p=4$CTsPkHi4afMi9rHo/wgatQ$GhqbIDv4SrpeWertupWWoGeBayMFQkwGJAHURh29RP4";

fn openalgo_database(folder: &Folder) -> String {
    std::fs::create_dir_all(folder.0.join("db")).expect("a folder");
    let path = folder.path("db/openalgo.db");
    let database = rusqlite::Connection::open(&path).expect("a database");
    database
        .execute_batch(&format!(
            "CREATE TABLE api_keys (id INTEGER PRIMARY KEY, user_id VARCHAR NOT NULL UNIQUE, api_key_hash TEXT NOT NULL,
               api_key_encrypted TEXT NOT NULL, created_at DATETIME, order_mode VARCHAR(20));
             CREATE TABLE auth (id INTEGER PRIMARY KEY, name VARCHAR(255) NOT NULL UNIQUE, auth TEXT NOT NULL,
               feed_token TEXT, broker VARCHAR(20) NOT NULL, user_id VARCHAR(255), is_revoked BOOLEAN);
             INSERT INTO api_keys (user_id, api_key_hash, api_key_encrypted) VALUES ('asha', '{HASH}', 'x');
             INSERT INTO auth (name, auth, broker, user_id) VALUES ('asha', 'x', 'zerodha', 'ZX1234');"
        ))
        .expect("OpenAlgo's schema");
    path
}

#[test]
fn an_openalgo_database_and_its_env_file_are_all_a_server_needs() {
    let folder = Folder::new("oa");
    let database = openalgo_database(&folder);
    let (key, pepper) = (KEY_BLOCK.repeat(4), PEPPER_BLOCK.repeat(4));
    let env = folder.file(
        ".env",
        &format!(
            "# OpenAlgo\nDATABASE_URL = 'sqlite:///{database}'\nAPI_KEY_PEPPER = \"{pepper}\"  # a comment\n\
             WEBSOCKET_HOST='127.0.0.1'\nWEBSOCKET_PORT='0'\nZMQ_HOST='127.0.0.1'\nZMQ_PORT='0'\n\
             VALID_BROKERS='angel,zerodha'\nFLASK_PORT='5000'\n"
        ),
    );
    let server = Server::start(&["serve", "--env-file", env.to_str().expect("UTF-8")], &[]);
    let mut client = Client::connect(server.ws);
    let brokers = client.request(json!({"action": "get_supported_brokers"}));
    assert_eq!(brokers["brokers"], json!(["angel", "zerodha"]), "{brokers}");
    let reply = client.request(json!({"action": "authenticate", "api_key": key}));
    assert_eq!((&reply["user_id"], &reply["broker"]), (&json!("asha"), &json!("zerodha")), "{reply}");
    client.subscribe(&["INFY"], 1);
    let mut publisher = Publisher::connect(server.bus.strip_prefix("tcp://").expect("tcp"));
    publisher.ltp("INFY", 1573.15);
    let tick = client.tick();
    assert_eq!((&tick["data"]["ltp"], &tick["broker"]), (&json!(1573.15), &json!("zerodha")), "{tick}");

    let mut wrong = Client::connect(server.ws);
    let reply = wrong.request(json!({"action": "authenticate", "api_key": KEY_BLOCK}));
    assert_eq!(reply["code"], "AUTHENTICATION_ERROR", "{reply}");
    // Logged out at the broker: the key is good, but there is no broker.
    let open = rusqlite::Connection::open(&database).expect("a database");
    open.execute("UPDATE auth SET is_revoked = 1", []).expect("revoked");
    let mut revoked = Client::connect(server.ws);
    let reply = revoked.request(json!({"action": "authenticate", "api_key": key}));
    assert_eq!(reply["code"], "BROKER_ERROR", "{reply}");
    let stderr = server.stop();
    assert!(!stderr.contains(&key) && !stderr.contains(&pepper), "no secret in the log:\n{stderr}");
}

#[test]
fn watch_shows_live_ticks_of_the_simulated_market() {
    let server = Server::anywhere(&["--set", "adapters.default=sim"]);
    for format in ["json", "msgpack"] {
        let (url, words) = (server.url(), ["watch", "RELIANCE", "NIFTY", "--count", "10"]);
        let mut watch = Running::new(tickcast(&[&words[..], &["--url", &url, "--format", format]].concat(), &[]));
        let status = watch.wait(process::PATIENCE);
        let (stdout, stderr) = (watch.rest_of_stdout(), watch.stderr());
        assert_eq!(status.code(), Some(0), "{format}: {stderr}");
        assert_eq!(stdout.lines().count(), 10, "{format}: {stdout}");
        assert!(stdout.contains("RELIANCE LTP ltp=") && stdout.contains("NIFTY LTP ltp="), "{stdout}\n{stderr}");
        assert!(server.metric("tickcast_ticks_sent_total", &[&format!("\"{format}\"")]) > 0.0, "{format}");
    }
}

#[test]
fn watch_says_what_to_do_when_nobody_is_there_or_the_key_is_wrong() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let (code, _, stderr) = run(&["watch", "RELIANCE", "--url", &format!("ws://{nobody}")], &[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("Is tickcast running?"), "{stderr}");
    let server = Server::anywhere(&[]);
    let (code, _, stderr) = run(&["watch", "RELIANCE", "--url", &server.url(), "--key", "wrong"], &[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("--key"), "{stderr}");
}

fn client(server: &Server, key: &str) -> Client {
    let mut client = Client::connect(server.ws);
    let reply = client.request(json!({"action": "authenticate", "api_key": key}));
    assert_eq!(reply["type"], "auth", "{reply}");
    client
}
