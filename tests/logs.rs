//! What the program writes on stderr: no secret at any level, JSON when asked, repeats held back, one line per session's end.
//!
//! A process of its own in every test, since all that it writes is looked at.

mod process;
mod standin;
mod support;

use process::{ANY_BUS, ANYWHERE, Folder, Server};
use serde_json::{Value, json};
use standin::kite::Kite;
use std::os::unix::fs::PermissionsExt;
use support::dealer::{AdapterProcess, Dealer};
use support::world::{Keys, PEPPER};
use support::{Client, Publisher};

const INFY: u32 = 408_065;

fn authenticate(at: std::net::SocketAddr, key: &str) -> (Client, Value) {
    let mut client = Client::connect(at);
    let reply = client.request(json!({"action": "authenticate", "api_key": key}));
    (client, reply)
}

/// The event of a JSON log with this message.
fn event<'a>(events: &'a [Value], message: &str) -> &'a Value {
    events.iter().find(|e| e["message"] == message).unwrap_or_else(|| panic!("no {message:?} in {events:#?}"))
}

fn events(stderr: &str) -> Vec<Value> {
    stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn no_secret_stands_in_any_output_at_trace_level() {
    let folder = Folder::new("secrets");
    let keys = Keys::new(&[("asha", "zerodha"), ("ravi", "angel")]);
    let kite = Kite::start("kite-api-key-77aa", "first-access-token-5678");
    let credentials = folder.file("kite", "api_key=kite-api-key-77aa\naccess_token=first-access-token-5678\n");
    std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let symbols = folder.file(
        "instruments.csv",
        &format!(
            "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange\n\
             {INFY},{},INFY,INFY,0,,0,0.05,1,EQ,NSE,NSE\n",
            INFY >> 8
        ),
    );
    let config = folder.file(
        "t.toml",
        &format!(
            "[auth]\nstore = \"openalgo:{}\"\n[log]\nlevel = \"trace\"\n\
             [discovery]\nredis = \"redis://tickcast:redis-password-31@127.0.0.1:1/0\"\n\
             [adapters]\nlinger = \"0s\"\n[brokers.angel]\nkind = \"external\"\n\
             [brokers.zerodha]\nkind = \"zerodha\"\nusers = [\"asha\"]\ncredentials = \"file:{}\"\nsymbols = [\"{}\"]\nurl = \"{}\"\n",
            keys.file(),
            credentials.display(),
            symbols.display(),
            kite.url
        ),
    );
    let config = config.to_str().expect("UTF-8");
    let secrets =
        ["adapter-secret-4411", PEPPER, "key-asha", "key-ravi", "kite-api-key-77aa", "first-access-token-5678"];
    let env = [("TICKCAST_ADAPTERS_SECRET", secrets[0]), ("TICKCAST_AUTH_PEPPER", PEPPER)];
    let args = [&["serve"], ANYWHERE, ANY_BUS, &["--config", config]].concat();
    let server = Server::start(&args, &env);

    // Good keys, wrong ones, one in a message that is no JSON, one in the URL where a newcomer may put it.
    let (mut asha, reply) = authenticate(server.ws, "key-asha");
    assert_eq!(reply["status"], "success", "{reply}");
    let (mut wrong, reply) = authenticate(server.ws, "mistyped-key-9911");
    assert_eq!(reply["code"], "AUTHENTICATION_ERROR", "{reply}");
    wrong.text(r#"{"action": "authenticate", "api_key": "unterminated-key-22"#);
    assert_eq!(wrong.json()["code"], "INVALID_JSON");
    drop(Client::connect_to(server.ws, "/?api_key=key-in-the-url-33", "Authorization: Bearer bearer-44\r\n"));

    // A native feed: login, ticks, a cut, a token that is refused.
    asha.subscribe(&["INFY"], 1);
    kite.await_seen(|seen| seen.all().contains_key(&INFY));
    kite.price(INFY, 157_350);
    assert_eq!(asha.tick()["data"]["ltp"], json!(1573.5));
    kite.accept("second-access-token-9012");
    kite.cut();
    server.await_metric("tickcast_native_connects_total", &["refused"], 1.0);

    // Adapter processes with the wrong secret and with the right one.
    let control = process::ready_fields(&server.ready)["control"].clone();
    let mut stranger = Dealer::connect(&control);
    stranger
        .send(json!({"v": 1, "op": "hello", "broker": "angel", "user": null, "modes": [1], "secret": "guessed-55"}));
    assert_eq!(stranger.next()["op"], "disconnect");
    let hello = json!({"broker": "angel", "user": null, "modes": [1, 2, 3], "secret": secrets[0]});
    let adapter = AdapterProcess::start(&control, &hello);
    let (mut ravi, _) = authenticate(server.ws, "key-ravi");
    ravi.subscribe(&["SBIN"], 1);
    adapter.await_held(&["SBIN/1"]);

    let pages = ["/metrics", "/feeds", "/readyz", "/healthz", "/"].map(|path| server.page(path)).concat();
    let checked = process::run(&["check", "--config", config], &env);
    let stderr = server.stop();
    for part in ["DEBUG", "session ended", "the broker answered 403", "hello is refused", "first-in"] {
        assert!(stderr.contains(part), "the log was looked at: {part} in\n{stderr}");
    }
    let clients = ["mistyped-key-9911", "unterminated-key-22", "key-in-the-url-33", "bearer-44", "guessed-55"];
    let others = ["redis-password-31", "second-access-token-9012"];
    for secret in secrets.iter().chain(&clients).chain(&others) {
        for (place, text) in [("the log", &stderr), ("a page", &pages), ("check", &checked.1), ("check", &checked.2)] {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} in {place}: {line:?}");
        }
    }
}

#[test]
fn as_json_every_line_is_an_object_from_the_start_to_the_drain() {
    // The variable reaches it as a file or flag does.
    let server = Server::start(&[ANYWHERE, ANY_BUS].concat(), &[("TICKCAST_LOG_FORMAT", "json")]);
    let ws = server.ws.to_string();
    let stderr = server.stop();
    let events = events(&stderr);
    assert_eq!(event(&events, "serving")["ws"], json!(ws));
    assert_eq!(event(&events, "stopped")["level"], "INFO");
    for event in &events {
        for key in ["timestamp", "level", "message", "target"] {
            assert!(event[key].is_string(), "{key} in {event}");
        }
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("bound").to_string();
    let (code, _, stderr) = process::run(&["--listen", &at, "--set", "log.format=json"], &[]);
    assert_eq!(code, 3, "{stderr}");
    let last: Value = serde_json::from_str(stderr.lines().last().expect("a line")).expect("JSON");
    assert!(last["level"] == "ERROR" && last["message"].as_str().expect("text").contains(&at), "{last}");
}

#[test]
fn a_session_s_end_is_one_line_at_debug_with_reason_age_and_what_it_got() {
    let settings = ["--set", "log.format=json", "--set", "log.level=info,tickcast::session=debug"];
    let server = Server::anywhere(&settings);
    let (mut client, _) = authenticate(server.ws, "demo-key");
    client.subscribe(&["INFY"], 1);
    let mut publisher = Publisher::connect(server.bus.strip_prefix("tcp://").expect("tcp"));
    for price in [1.0, 2.0, 3.0] {
        publisher.ltp("INFY", price);
        client.json_where(|v| v["data"]["ltp"] == price);
    }
    drop(client);
    server.await_metric("tickcast_sessions_closed_total", &["peer_gone"], 1.0);
    let (_stays, _) = authenticate(server.ws, "demo-key");
    let stderr = server.stop();
    let ends: Vec<Value> = events(&stderr).into_iter().filter(|e| e["message"] == "session ended").collect();
    assert_eq!(ends.len(), 2, "{ends:#?}");
    let first = &ends[0];
    assert_eq!(
        (&first["level"], &first["reason"], &first["subscriptions"]),
        (&json!("DEBUG"), &json!("peer_gone"), &json!(1))
    );
    assert_eq!((&first["ticks"], &first["merged"]), (&json!(3), &json!(0)), "{first}");
    assert!(first["bytes"].as_u64() > Some(300) && first["age"].is_string(), "{first}");
    assert_eq!((&ends[1]["reason"], &ends[1]["ticks"]), (&json!("going_away"), &json!(0)));
}

#[test]
fn a_fault_that_repeats_is_logged_once_and_counted() {
    let server = Server::anywhere(&[]);
    let mut publisher = Publisher::connect(server.bus.strip_prefix("tcp://").expect("tcp"));
    for _ in 0..500 {
        publisher.send("NSE_INFY_LTP", b"no JSON at all");
        publisher.send("what", b"{\"ltp\": 1}");
    }
    server.await_metric("tickcast_bus_rejected_total", &[], 1000.0);
    let stderr = server.stop();
    assert_eq!(stderr.matches("bus data refused").count(), 2, "one of each cause:\n{stderr}");
}
