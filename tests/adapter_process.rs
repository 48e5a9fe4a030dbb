//! `tickcast adapter` as a real process: its ports and exit codes, prices end to end, and what becomes of them when the server, the
//! process itself or its broker stops, dies or comes back. `IDLE_SECONDS` is how long nothing happens in the test of that.

#[path = "kite/mod.rs"]
mod kite_vectors;
mod process;
mod publishers;
mod standin;
mod support;

use process::{Folder, Running, tickcast};
use publishers::within;
use serde_json::{Value, json};
use standin::kite::Kite;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use support::process::resident;
use support::{Client, PATIENCE, Server};
use tickcast::adapter::process::outlet::{Outlet, Place};
use tickcast::config::Settings;
use tickcast::config::settings::{AdapterKind, Secret};
use tickcast::model::{ByteBudget, Micros, ScopeId, SourceMessage, source_queue};
use tickcast::zmtp::Direction;
use tokio::sync::{Notify, mpsc, watch};
use zeromq::{Socket, SocketRecv, SubSocket};

/// Ticks are back within this of a server that is.
const BACK: Duration = Duration::from_secs(3);
/// Restarts of the server under one adapter process.
const RESTARTS: usize = 20;
const KEY: &str = "kitekey-1234";
const TOKEN: &str = "first-token-5678";
const SECRET: &str = "s3cret-of-the-channel";
const INFY: u32 = 408_065;
const SBIN: u32 = 779_521;

/// A running adapter process; killed when dropped.
struct Adapter {
    process: Running,
    /// What it said when it was ready.
    ready: Vec<String>,
}

impl Adapter {
    fn start(words: &[&str], env: &[(&str, &str)], sockets: usize) -> Self {
        let mut process = Running::new(tickcast(&[&["adapter"], words].concat(), env));
        let ready = (0..sockets).map(|_| process.line()).collect();
        Adapter { process, ready }
    }

    /// The simulated market for all users of the broker `external`.
    fn simulated(control: &str, more: &[&str], env: &[(&str, &str)]) -> Self {
        Adapter::start(&[&["sim", "--broker", "external", "--control", control], more].concat(), env, 1)
    }

    fn rss(&self) -> usize {
        resident(&self.process.id().to_string())
    }

    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("a living child").count()
    }

    /// Ctrl-C; what it said on stderr.
    fn interrupt(mut self) -> String {
        self.process.signal("INT");
        let status = self.process.wait(Duration::from_secs(5));
        let stderr = self.process.stderr();
        assert_eq!(status.code(), Some(0), "{stderr}");
        stderr
    }
}

/// The demo user's account at a stand-in for Zerodha.
struct Account {
    folder: Folder,
    kite: Kite,
    env: Vec<(&'static str, String)>,
}

impl Account {
    fn new(name: &str, listed: &[(u32, String)]) -> Self {
        let (folder, kite) = (Folder::new(name), Kite::start(KEY, TOKEN));
        let credentials = folder.file("credentials", &format!("api_key={KEY}\naccess_token={TOKEN}\n"));
        std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).expect("ours");
        let head = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange\n";
        let row = |(token, symbol): &(u32, String)| {
            format!("{token},{},{symbol},{symbol},0,,0,0.05,1,EQ,NSE,NSE\n", token >> 8)
        };
        let rows: String = listed.iter().map(row).collect();
        let symbols = folder.file("instruments.csv", &(head.to_owned() + &rows));
        let env = vec![
            ("TICKCAST_BROKERS_EXTERNAL_CREDENTIALS", format!("file:{}", credentials.display())),
            ("TICKCAST_BROKERS_EXTERNAL_SYMBOLS", symbols.display().to_string()),
            ("TICKCAST_BROKERS_EXTERNAL_URL", kite.url.clone()),
            ("TICKCAST_ADAPTERS_SECRET", SECRET.to_owned()),
        ];
        Account { folder, kite, env }
    }

    fn two() -> [(u32, String); 2] {
        [(INFY, "INFY".to_owned()), (SBIN, "SBIN".to_owned())]
    }

    fn adapter(&self, control: &str, sockets: usize) -> Adapter {
        let count = sockets.to_string();
        let words = ["zerodha", "--broker", "external", "--user", "demo", "--control", control, "--sockets", &count];
        let env: Vec<(&str, &str)> = self.env.iter().map(|(name, value)| (*name, &value[..])).collect();
        Adapter::start(&words, &env, sockets)
    }

    fn await_held(&self, wanted: &[(u32, &str)]) {
        let wanted: BTreeMap<u32, String> = wanted.iter().map(|(token, mode)| (*token, (*mode).to_owned())).collect();
        self.kite.await_seen(|seen| seen.all() == wanted);
    }
}

/// A server in this process whose demo user's adapter is an adapter process that knows the secret.
fn server() -> Server {
    server_with(|_| {})
}

fn server_with(change: impl FnOnce(&mut Settings)) -> Server {
    Server::start(|settings| {
        change(settings);
        settings.adapters.default = AdapterKind::External;
        settings.adapters.secret = Some(Secret(SECRET.into()));
        settings.limits.subscriptions_per_client = 5000;
    })
}

/// A port that the kernel gives nobody by itself, so that it is still free after a restart.
fn steady_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 18_000 + (std::process::id() % 130) as u16 * 100 + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A server process that can be killed and started again with the same bus and control channel.
struct Restarted {
    bus: String,
    control: String,
}

impl Restarted {
    fn new() -> Self {
        let at = || format!("tcp://127.0.0.1:{}", steady_port());
        Restarted { bus: at(), control: at() }
    }

    fn start(&self) -> process::Server {
        let (bus, control) = (format!("bus.bind={}", self.bus), format!("adapters.control_bind={}", self.control));
        let kind = "adapters.default=external";
        process::Server::start(
            &["serve", "--listen", "127.0.0.1:0", "--set", &bus, "--set", &control, "--set", kind],
            &[],
        )
    }
}

/// A client of a server process that holds `symbol`.
fn subscribed(server: &process::Server, symbol: &str) -> Client {
    let mut client = Client::connect(server.ws);
    let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    assert_eq!((&reply["type"], &reply["status"]), (&json!("auth"), &json!("success")), "{reply}");
    client.subscribe(&[symbol], 1);
    client
}

/// The next tick that is no snapshot.
fn live_tick(client: &mut Client) -> Value {
    client.json_where(|v| v["type"] == "market_data" && v.get("snapshot").is_none())
}

#[test]
fn a_process_serves_its_market_until_ctrl_c_and_says_where_it_publishes() {
    let server = server();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let bind = format!("tcp://127.0.0.1:{port}");
    let words = ["sim", "--broker", "external", "--control", &server.control, "--bind", &bind, "--sockets", "3"];
    let adapter = Adapter::start(&words, &[("TICKCAST_ADAPTERS_SECRET", SECRET)], 3);
    let ports: Vec<u16> = adapter
        .ready
        .iter()
        .map(|line| line.strip_prefix("ACTUAL_ZMQ_PORT=").and_then(|n| n.parse().ok()).expect("a port"))
        .collect();
    assert!(ports[0] > port && ports.is_sorted_by(|a, b| a < b), "{port} is in use: {ports:?}");
    let mut client = server.client();
    client.subscribe(&["RELIANCE"], 1);
    client.subscribe(&["TCS"], 3);
    assert!(live_tick(&mut client)["data"]["ltp"].as_f64().is_some_and(|ltp| ltp > 0.0));
    server.await_metric("tickcast_bus_peers", &[], 3.0);
    assert_eq!(server.metric("tickcast_control_sessions", &[]), 1.0);
    let stderr = adapter.interrupt();
    assert!(stderr.contains("stopped") && !stderr.contains(SECRET), "{stderr}");
    server.await_metric("tickcast_control_sessions", &[], 0.0);
}

/// Words, variables, exit code, what stderr says.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);

#[test]
fn what_is_wrong_is_told_with_its_exit_code() {
    let folder = Folder::new("ap-wrong");
    let file = format!("ipc://{}", folder.file("file", "").display());
    let taken: Vec<(&str, &str)> = vec![
        ("TICKCAST_BROKERS_ZERODHA_CREDENTIALS", "file:/nowhere"),
        ("TICKCAST_BROKERS_ZERODHA_SYMBOLS", "/nowhere.csv"),
        ("TICKCAST_BROKERS_ZERODHA_USERS", "asha,ravi"),
    ];
    let several = [("TICKCAST_BROKERS_ZERODHA_CREDENTIALS", "file:/nowhere/{user}"), taken[1], taken[2]];
    let cases: [Case<'_>; 9] = [
        (&["sim", "--set", "adapters.secret=abc"], &[], 2, "TICKCAST_ADAPTERS_SECRET"),
        (&["nse"], &[], 2, "possible values"),
        (&["zerodha"], &[], 2, "brokers.zerodha.users is missing"),
        (&["zerodha"], &several, 2, "choose one with --user"),
        (&["sim", "--bind", "tcp://*:5601"], &[], 2, "loopback or ipc"),
        (&["sim", "--bind", &file], &[], 3, "--bind"),
        (&["sim", "--bind", "5601"], &[], 2, "write tcp://HOST:PORT"),
        (&["sim", "--control", "tcp://127.0.0.1:0"], &[], 2, "--control"),
        (&["sim"], &[("TICKCAST_LOG_LEVL", "info")], 2, "TICKCAST_LOG_LEVEL"),
    ];
    for (words, env, code, says) in cases {
        let (ended, stdout, stderr) = process::run(&[&["adapter"], words].concat(), env);
        assert_eq!((ended, stdout.as_str()), (code, ""), "{words:?}: {stderr}");
        assert!(stderr.contains(says), "{words:?}: {stderr}");
    }
    let (code, help, _) = process::run(&["adapter", "--help"], &[]);
    for word in ["zerodha", "shoonya", "ACTUAL_ZMQ_PORT", "Exit codes", "TICKCAST_ADAPTERS_SECRET"] {
        assert!(code == 0 && help.contains(word), "{word}: {help}");
    }
}

#[test]
fn the_vector_prices_reach_a_client_in_order_through_three_sockets() {
    let cases = kite_vectors::cases(include_str!("vectors/broker-feeds/kite/kite_synthetic.json"));
    let full: Vec<&Value> =
        cases.iter().filter(|case| case["name"].as_str().is_some_and(|name| name.starts_with("full_"))).collect();
    let ticks = full.iter().flat_map(|case| kite_vectors::expected(case));
    let tokens: BTreeSet<u32> = ticks.map(|tick| tick["instrument_token"].as_u64().expect("a token") as u32).collect();
    let listed: Vec<(u32, String)> = tokens.iter().map(|token| (*token, format!("TOK{token}"))).collect();
    let account = Account::new("ap-vectors", &listed);
    let server = server();
    let _adapter = account.adapter(&server.control, 3);
    let mut client = server.client();
    let symbols: Vec<_> = listed.iter().map(|(_, s)| json!({"symbol": s, "exchange": "NSE"})).collect();
    let ack = client.request(json!({"action": "subscribe", "symbols": symbols, "mode": 3, "delivery": "every"}));
    assert_eq!(ack["status"], "success", "{ack}");
    // The same packets again and again, so that each instrument has a series whose order shows.
    let rounds = 20;
    for _ in 0..rounds {
        full.iter().for_each(|case| account.kite.frame(kite_vectors::hex(case["frame_hex"].as_str().expect("hex"))));
    }
    let mut wanted: BTreeMap<String, Vec<(Value, Value)>> = BTreeMap::new();
    for tick in (0..rounds).flat_map(|_| full.iter().flat_map(|case| kite_vectors::expected(case))) {
        let of = wanted.entry(format!("TOK{}", tick["instrument_token"])).or_default();
        of.push((tick["last_price"].clone(), tick["depth"]["buy"].clone()));
    }
    let mut got: BTreeMap<String, Vec<(Value, Value)>> = BTreeMap::new();
    for _ in 0..wanted.values().map(Vec::len).sum() {
        let tick = client.tick();
        let of = got.entry(tick["symbol"].as_str().expect("a symbol").to_owned()).or_default();
        of.push((tick["data"]["ltp"].clone(), tick["data"]["depth"]["buy"].clone()));
    }
    assert_eq!(got, wanted);
    assert!(client.settled().is_empty(), "each once");
    assert_eq!(server.metric("tickcast_bus_rejected_total", &[]), 0.0);
}

#[test]
fn a_killed_process_is_noticed_and_its_successor_holds_exactly_what_is_wanted() {
    let account = Account::new("ap-killed", &Account::two());
    let server = server();
    let mut adapter = account.adapter(&server.control, 1);
    let mut client = server.client();
    client.subscribe(&["INFY", "SBIN"], 1);
    client.subscribe(&["INFY"], 3);
    account.await_held(&[(INFY, "full"), (SBIN, "ltp")]);
    account.kite.price(SBIN, 81_230);
    assert_eq!(client.tick()["data"]["ltp"], json!(812.3));

    adapter.process.kill();
    let killed = Instant::now();
    within(BACK, killed, "the feed is down", || server.metric("tickcast_adapters", &["external", "\"down\""]) == 1.0);
    server.await_metric("tickcast_control_sessions", &[], 0.0);
    server.await_metric("tickcast_bus_peers", &[], 0.0);
    // What is given back meanwhile is not asked for again.
    let gone =
        client.request(json!({"action": "unsubscribe", "symbols": [{"symbol": "SBIN", "exchange": "NSE", "mode": 1}]}));
    assert_eq!(gone["status"], "success", "{gone}");
    account.kite.await_seen(|seen| seen.held.is_empty());

    let adapter = account.adapter(&server.control, 1);
    account.await_held(&[(INFY, "full")]);
    account.kite.price(INFY, 157_315);
    // Depth and last price of one packet, as before, without a word of the client.
    let prices: Vec<Value> = (0..2).map(|_| client.tick()["data"]["ltp"].clone()).collect();
    assert_eq!(prices, [json!(1573.15), json!(1573.15)]);
    server.await_metric("tickcast_adapters", &["external", "\"live\""], 1.0);
    assert!(server.metric("tickcast_subscription_events_total", &["\"replayed\""]) >= 2.0);
    assert_eq!(account.kite.seen().accepted, 2, "one login each");

    // In the end the broker is told, not just hung up on.
    let stderr = adapter.interrupt();
    assert!(!stderr.contains(TOKEN) && !stderr.contains(SECRET), "{stderr}");
    account.kite.await_seen(|seen| seen.held.is_empty());
    assert!(account.folder.0.exists());
}

#[test]
fn a_renewed_token_is_taken_up_and_a_refused_login_is_told_to_the_client() {
    let account = Account::new("ap-token", &Account::two());
    let server = server();
    account.kite.accept("token-of-tomorrow");
    let _adapter = account.adapter(&server.control, 1);
    account.kite.await_seen(|seen| seen.refused == 1);
    let mut client = server.client();
    let ask = json!({"action": "subscribe", "symbols": [{"symbol": "INFY", "exchange": "NSE"}], "mode": 1});
    let ack = client.request(ask.clone());
    assert_eq!(ack["subscriptions"][0]["status"], "error", "{ack}");
    let renewed = format!("api_key={KEY}\naccess_token=token-of-tomorrow\n");
    account.folder.file("credentials", &renewed);
    account.kite.await_seen(|seen| seen.accepted == 1);
    let deadline = Instant::now() + PATIENCE;
    while client.request(ask.clone())["subscriptions"][0]["status"] != "success" {
        assert!(Instant::now() < deadline, "the login is back");
    }
    account.await_held(&[(INFY, "ltp")]);
    account.kite.price(INFY, 157_315);
    assert_eq!(client.tick()["data"]["ltp"], json!(1573.15));
    assert_eq!(account.kite.seen().refused, 1, "a refused token is not sent again");
}

#[test]
fn a_change_of_mode_costs_a_subscriber_of_the_last_price_no_tick() {
    let account = Account::new("ap-modes", &Account::two());
    let server = server();
    let _adapter = account.adapter(&server.control, 2);
    let (mut plain, mut deep) = (server.client(), server.client());
    plain.subscribe(&["INFY"], 1);
    account.await_held(&[(INFY, "ltp")]);
    let mut price = 157_000;
    let mut next = |plain: &mut Client| {
        price += 5;
        account.kite.price(INFY, price);
        assert_eq!(plain.tick()["data"]["ltp"], json!(f64::from(price) / 100.0));
    };
    for _ in 0..3 {
        (0..20).for_each(|_| next(&mut plain));
        deep.subscribe(&["INFY"], 3);
        account.await_held(&[(INFY, "full")]);
        // The first packets in the higher mode serve the lower one too.
        (0..20).for_each(|_| next(&mut plain));
        deep.request(json!({"action": "unsubscribe", "symbols": [{"symbol": "INFY", "exchange": "NSE", "mode": 3}]}));
        account.await_held(&[(INFY, "ltp")]);
    }
}

#[test]
fn when_the_last_client_has_gone_it_logs_out_and_for_the_next_one_it_logs_in_again() {
    let account = Account::new("ap-linger", &Account::two());
    let folder = Folder::new("ap-control");
    let server = server_with(|settings| {
        settings.adapters.linger = Duration::ZERO;
        settings.adapters.control_bind = format!("ipc://{}", folder.path("control"));
    });
    let adapter = account.adapter(&server.control, 1);
    for login in 1..=3 {
        let mut client = server.client();
        client.subscribe(&["INFY"], 1);
        account.await_held(&[(INFY, "ltp")]);
        account.kite.price(INFY, 157_315);
        assert_eq!(client.tick()["data"]["ltp"], json!(1573.15));
        drop(client);
        account.kite.await_seen(|seen| seen.held.is_empty() && seen.accepted == login);
    }
    assert!(adapter.interrupt().contains("logging out until"));
}

#[test]
fn a_second_process_for_one_user_takes_over_and_the_first_ends() {
    let account = Account::new("ap-second", &Account::two());
    let server = server();
    let mut first = account.adapter(&server.control, 1);
    let mut client = server.client();
    client.subscribe(&["INFY"], 1);
    account.await_held(&[(INFY, "ltp")]);
    let _second = account.adapter(&server.control, 1);
    let status = first.process.wait(PATIENCE);
    let stderr = first.process.stderr();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("another adapter process serves external for demo"), "{stderr}");
    account.await_held(&[(INFY, "ltp")]);
    account.kite.price(INFY, 157_315);
    assert_eq!(client.tick()["data"]["ltp"], json!(1573.15));
    assert_eq!(server.metric("tickcast_control_sessions", &[]), 1.0);
}

#[test]
fn ticks_are_back_within_three_seconds_of_a_killed_server_s_return_again_and_again() {
    let place = Restarted::new();
    let mut server = place.start();
    let adapter = Adapter::simulated(&place.control, &[], &[("TICKCAST_LOG_LEVEL", "warn")]);
    live_tick(&mut subscribed(&server, "RELIANCE"));
    let (rss, files) = (adapter.rss(), adapter.files());
    let mut waits = Vec::new();
    for _ in 0..RESTARTS {
        server.process.kill();
        server = place.start();
        let ready = Instant::now();
        live_tick(&mut subscribed(&server, "RELIANCE"));
        waits.push(ready.elapsed());
    }
    println!("back after {waits:?}");
    assert!(waits.iter().all(|wait| *wait < BACK), "{waits:?}");
    let (grown, more) = (adapter.rss().saturating_sub(rss), adapter.files().saturating_sub(files));
    assert!(grown < 32 << 20 && more < 8, "{grown} bytes, {more} files");
    let stderr = adapter.interrupt();
    assert!(!stderr.contains("panic"), "{stderr}");
}

#[test]
fn on_the_server_s_own_bus_ticks_are_back_as_soon() {
    let place = Restarted::new();
    let mut server = place.start();
    let adapter = Adapter::simulated(&place.control, &["--connect", &place.bus], &[]);
    assert_eq!(adapter.ready, [format!("ACTUAL_ZMQ_ENDPOINT={}", place.bus)]);
    live_tick(&mut subscribed(&server, "RELIANCE"));
    for _ in 0..RESTARTS {
        server.process.kill();
        server = place.start();
        let ready = Instant::now();
        live_tick(&mut subscribed(&server, "RELIANCE"));
        assert!(ready.elapsed() < BACK, "{:?}", ready.elapsed());
    }
}

#[test]
fn a_stopped_server_costs_the_process_no_memory_and_what_is_lost_is_counted() {
    let place = Restarted::new();
    let server = place.start();
    // About fourteen megabytes a second.
    let busy = ["--set", "sim.ticks_per_second=20000"];
    let adapter = Adapter::simulated(&place.control, &busy, &[("NO_COLOR", "1")]);
    let mut client = subscribed(&server, "RELIANCE");
    live_tick(&mut client);
    let rss = adapter.rss();
    server.process.signal("STOP");
    std::thread::park_timeout(Duration::from_secs(7));
    let grown = adapter.rss().saturating_sub(rss);
    server.process.signal("CONT");
    assert!(grown < 40 << 20, "{grown} bytes");
    live_tick(&mut client);
    let stderr = adapter.interrupt();
    let last = stderr.lines().find(|line| line.contains("ticks in all")).expect("the sum");
    let dropped = last.split("dropped=").nth(1).and_then(|n| n.trim().parse::<u64>().ok()).expect("a count");
    assert!(dropped > 0, "so much was there that a bound was met: {last}");
}

#[test]
fn ticks_are_back_when_a_stopped_server_goes_on_whether_it_was_missed_or_not() {
    let place = Restarted::new();
    let server = place.start();
    let _adapter = Adapter::simulated(&place.control, &["--set", "sim.ticks_per_second=1000"], &[]);
    let mut client = subscribed(&server, "RELIANCE");
    live_tick(&mut client);
    for stopped in [Duration::from_secs(1), Duration::from_secs(9)] {
        server.process.signal("STOP");
        std::thread::park_timeout(stopped);
        server.process.signal("CONT");
        let (on, clock) = (Instant::now(), Micros::now().millis());
        // The first of those that were made since.
        loop {
            let tick = live_tick(&mut client);
            if tick["data"]["timestamp"].as_u64().is_some_and(|at| at >= clock) {
                break;
            }
        }
        println!("back after {:?}", on.elapsed());
        assert!(on.elapsed() < BACK, "{:?} after {stopped:?}", on.elapsed());
    }
    // The client's subscription stood all the while, and is held once.
    server.await_metric("tickcast_control_sessions", &[], 1.0);
    assert_eq!(server.metric("tickcast_subscriptions_active", &[]), 1.0);
}

#[test]
fn a_long_time_without_a_tick_or_a_call_ends_nothing() {
    let account = Account::new("ap-idle", &Account::two());
    let server = server();
    let adapter = account.adapter(&server.control, 2);
    let mut client = server.client();
    client.subscribe(&["INFY"], 1);
    account.await_held(&[(INFY, "ltp")]);
    account.kite.price(INFY, 157_310);
    assert_eq!(client.tick()["data"]["ltp"], json!(1573.1));
    let rss = adapter.rss();
    // That nothing happens is the point; the client answers the server's pings meanwhile.
    let seconds = std::env::var_os("IDLE_SECONDS").and_then(|text| text.to_str()?.parse().ok()).unwrap_or(15);
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        std::thread::park_timeout(Duration::from_secs(5));
        assert!(client.settled().is_empty());
    }
    let asked = Instant::now();
    account.kite.price(INFY, 157_315);
    assert_eq!(client.tick()["data"]["ltp"], json!(1573.15));
    assert!(asked.elapsed() < BACK);
    assert_eq!((account.kite.seen().accepted, server.metric("tickcast_control_rejected_total", &[])), (1, 0.0));
    assert_eq!(server.metric("tickcast_subscription_events_total", &["\"replayed\""]), 0.0);
    assert!(adapter.rss().saturating_sub(rss) < 16 << 20);
}

#[tokio::test]
async fn the_hash_of_an_instrument_picks_the_socket_so_order_holds_and_the_last_batch_leaves_at_the_end() {
    let folder = Folder::new("ap-hash");
    let endpoint = format!("ipc://{}", folder.path("feed")).parse().expect("an endpoint");
    let place = Place { endpoint, direction: Direction::Bind, sockets: 4, prefix: String::new() };
    let outlet = Outlet::open(place).await.expect("bound");
    let endpoints: Vec<String> = outlet.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(endpoints.iter().collect::<BTreeSet<_>>().len(), 4);
    let mut subscribers = Vec::new();
    for endpoint in &endpoints {
        let mut socket = SubSocket::new();
        socket.connect(endpoint).await.expect("it listens");
        socket.subscribe("").await.expect("everything");
        subscribers.push(socket);
    }
    let counts = outlet.counts();
    let ((sources, new), wake) = (mpsc::channel(1), Arc::new(Notify::new()));
    let (sender, source) = source_queue(&ByteBudget::new(8 << 20), 8 << 20, wake.clone());
    let ((live, is_live), (end, ended)) = (watch::channel(true), watch::channel(false));
    sources.send(source).await.expect("room");
    let take_apart = tickcast::app::adapter::take_apart();
    let running = tokio::spawn(outlet.run(new, wake, is_live, take_apart, ended));
    // 40 instruments in two modes, prices counting up over both; an order in between.
    let (rounds, instruments) = (50u64, 40);
    let message = |topic: &str, body: Vec<u8>| SourceMessage {
        topic: topic.to_owned().into(),
        body: body.into(),
        t_recv: Micros::now(),
        scope: ScopeId::SHARED,
        merged: 0,
        highest_only: true,
    };
    let hand_over = |round: u64| {
        let mode = ["LTP", "DEPTH"][(round % 2) as usize];
        let items: Vec<_> = (0..instruments).map(|n| json!([format!("NSE_S{n}_{mode}"), {"ltp": round}])).collect();
        sender.try_push(message("BATCH", rmp_serde::to_vec(&items).expect("encodes"))).expect("room");
    };
    hand_over(0);
    let (mut prices, mut sockets): (BTreeMap<String, Vec<u64>>, BTreeMap<String, usize>) = Default::default();
    let (mut orders, mut left, mut ending) = (0, rounds * instruments + 1, false);
    let all = async {
        while left > 0 {
            if !ending && prices.len() as u64 == instruments {
                // All subscribers are there. The rest, and at once the word to end: what was handed over by then still leaves.
                ending = true;
                (1..rounds).for_each(hand_over);
                sender.try_push(message("ZERODHA_asha_orders", b"{\"orderid\":1}".to_vec())).expect("room");
                end.send_replace(true);
            }
            for (at, socket) in subscribers.iter_mut().enumerate() {
                let Ok(Ok(message)) = tokio::time::timeout(Duration::from_millis(20), socket.recv()).await else {
                    continue;
                };
                let (topic, body) = (message.get(0).expect("a topic"), message.get(1).expect("a body"));
                if &topic[..] != b"BATCH" {
                    assert_eq!((&topic[..], &body[..]), (&b"ZERODHA_asha_orders"[..], &b"{\"orderid\":1}"[..]));
                    (orders, left) = (orders + 1, left - 1);
                    continue;
                }
                let items: Vec<(String, Value)> = rmp_serde::from_slice(body).expect("a batch");
                for (topic, tick) in items {
                    let price = tick["ltp"].as_u64().expect("a price");
                    let instrument = topic.rsplit_once('_').expect("a mode").0.to_owned();
                    assert_eq!(*sockets.entry(instrument.clone()).or_insert(at), at, "{topic} came from two sockets");
                    prices.entry(instrument).or_default().push(price);
                    left -= 1;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("all of it");
    assert_eq!(orders, 1);
    assert!(prices.values().all(|of| of.iter().copied().eq(0..rounds)), "{prices:?}");
    assert_eq!(sockets.values().collect::<BTreeSet<_>>().len(), 4, "all sockets are used");
    running.await.expect("ends");
    assert_eq!(counts.published.load(Ordering::Relaxed), rounds * instruments + 1);
    drop(live);
}
