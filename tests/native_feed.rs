//! A native feed in the whole server, against a stand-in broker: ticks, modes, quotas, orders, two users. Its connection and
//! credentials: `native_feed/connections.rs`, `native_feed/openalgo.rs`.

#[path = "native_feed/connections.rs"]
mod connections;
#[path = "kite/mod.rs"]
mod kite_vectors;
#[path = "native_feed/openalgo.rs"]
mod openalgo;
mod standin;
mod support;

use serde_json::{Value, json};
use standin::kite::{Kite, Seen};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use support::{Client, Server};
use tickcast::auth::sqlite::KeyFile;
use tickcast::config::settings::{AdapterKind, Broker, CredentialsFrom, KeyStoreSetting};
use tickcast::model::Class;

const KEY: &str = "kitekey-1234";
const TOKEN: &str = "first-token-5678";
/// Tokens of the instruments in [`symbols`].
const INFY: u32 = 408_065;
const SBIN: u32 = 779_521;

/// What one test has on disk; gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("native-feed-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn credentials(&self, token: &str) -> PathBuf {
        let path = self.0.join("credentials");
        std::fs::write(&path, format!("api_key={KEY}\naccess_token={token}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
        path
    }

    /// An instrument file with these (token, symbol) of NSE.
    fn symbols(&self, listed: &[(u32, String)]) -> PathBuf {
        let head = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange\n";
        let row = |(token, symbol): &(u32, String)| {
            format!("{token},{},{symbol},{symbol},0,,0,0.05,1,EQ,NSE,NSE\n", token >> 8)
        };
        let path = self.0.join("instruments.csv");
        std::fs::write(&path, head.to_owned() + &listed.iter().map(row).collect::<String>()).expect("written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct World {
    kite: Kite,
    server: Server,
    folder: Folder,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, &[(INFY, "INFY".to_owned()), (SBIN, "SBIN".to_owned())], |_| {})
    }

    /// The demo key's broker is called `bus`; here it is served by Zerodha's feed.
    fn with(name: &str, listed: &[(u32, String)], change: impl FnOnce(&mut Broker)) -> Self {
        let (folder, kite) = (Folder::new(name), Kite::start(KEY, TOKEN));
        let mut broker = Broker {
            kind: AdapterKind::Native(0),
            users: vec!["demo".into()],
            credentials: Some(CredentialsFrom::File(folder.credentials(TOKEN).display().to_string())),
            symbols: vec![folder.symbols(listed)],
            url: Some(kite.url.clone()),
            ..Default::default()
        };
        change(&mut broker);
        let server = Server::start(|settings| {
            settings.brokers.insert("bus".into(), broker);
            settings.limits.subscriptions_per_client = 5000;
            settings.adapters.linger = std::time::Duration::from_millis(100);
        });
        World { kite, server, folder }
    }

    /// The one feed, as `/feeds` shows it.
    fn feed(&self) -> Value {
        let feeds: Value = serde_json::from_str(&self.server.admin_get("/feeds").1).expect("JSON");
        feeds["feeds"][0].clone()
    }

    /// Waits until the broker holds exactly this.
    fn await_held(&self, wanted: &[(u32, &str)]) -> Seen {
        let wanted: BTreeMap<u32, String> = wanted.iter().map(|(token, mode)| (*token, (*mode).to_owned())).collect();
        self.kite.await_seen(|seen| seen.all() == wanted)
    }
}

fn ltp(tick: &Value) -> f64 {
    tick["data"]["ltp"].as_f64().unwrap_or_else(|| panic!("a price: {tick}"))
}

#[test]
fn a_client_gets_each_mode_s_fields_of_one_tick_and_the_broker_keeps_the_highest_mode() {
    let world = World::new("modes");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 1);
    world.await_held(&[(INFY, "ltp")]);
    client.subscribe(&["INFY"], 3);
    client.subscribe(&["INFY"], 2);
    world.await_held(&[(INFY, "full")]);
    world.kite.price(INFY, 157_315);
    let mut ticks: Vec<Value> = (0..3).map(|_| client.tick()).collect();
    ticks.sort_by_key(|tick| tick["mode"].as_u64());
    assert_eq!(ticks.iter().map(ltp).collect::<Vec<_>>(), [1573.15; 3]);
    let (quote, depth) = (&ticks[1]["data"], &ticks[2]["data"]);
    for (name, value) in
        [("open", 1573.14), ("high", 1573.17), ("low", 1573.12), ("close", 1573.11), ("average_price", 1573.1)]
    {
        assert_eq!((&quote[name], &depth[name]), (&json!(value), &json!(value)), "{name}");
    }
    assert_eq!(
        (&quote["volume"], &quote["oi"], &quote["ltt"]),
        (&json!(1000), &json!(55), &json!(1_700_000_000_000_u64))
    );
    assert_eq!(depth["depth"]["buy"][0], json!({"price": 1573.14, "quantity": 10, "orders": 1}));
    assert_eq!(depth["depth"]["sell"][4], json!({"price": 1573.2, "quantity": 50, "orders": 5}));
    assert!(ticks[0]["data"].get("volume").is_none() && quote.get("depth").is_none());
    assert!(client.settled().is_empty(), "one frame a mode");
}

#[test]
fn every_synthetic_packet_gives_its_price_in_json_and_messagepack() {
    let cases = kite_vectors::cases(include_str!("vectors/broker-feeds/kite/kite_synthetic.json"));
    let full: Vec<&Value> =
        cases.iter().filter(|case| case["name"].as_str().is_some_and(|name| name.starts_with("full_"))).collect();
    let tokens: BTreeMap<u32, String> = full
        .iter()
        .flat_map(|case| kite_vectors::ticks(case))
        .map(|tick| {
            let token = tick["instrument_token"].as_u64().expect("a token") as u32;
            (token, format!("TOK{token}"))
        })
        .collect();
    let listed: Vec<_> = tokens.clone().into_iter().collect();
    let world = World::with("vectors", &listed, |_| {});
    let symbols: Vec<&str> = listed.iter().map(|(_, symbol)| symbol.as_str()).collect();
    let mut json_client = world.server.client();
    json_client.subscribe(&symbols, 3);
    let (mut packed, _) = Client::connect_to(world.server.ws, "/", "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n");
    let ids = packed_subscribe(&mut packed, &symbols);
    for case in full {
        let expected = kite_vectors::expected(case);
        let bytes = kite_vectors::hex(case["frame_hex"].as_str().expect("hex"));
        world.kite.frame(bytes);
        for tick in expected {
            let symbol = format!("TOK{}", tick["instrument_token"]);
            let got = json_client.tick();
            assert_eq!(
                (&got["symbol"], &got["data"]["ltp"]),
                (&json!(symbol), &tick["last_price"]),
                "{}",
                case["name"]
            );
            for side in ["buy", "sell"] {
                assert_eq!(got["data"]["depth"][side], tick["depth"][side], "{} {side}", case["name"]);
            }
            assert_eq!(got["data"]["oi"], tick["oi"]);
            let (id, price, oi) = packed_tick(&mut packed);
            assert_eq!(ids.get(&id), Some(&symbol));
            let exact = tick["last_price"].as_f64().expect("a price");
            assert_eq!((price, oi), ((exact * 100.0).round() as i64, tick["oi"].as_u64().expect("a count")));
        }
    }
}

/// Authenticates and subscribes in depth; instrument ids to symbols.
fn packed_subscribe(client: &mut Client, symbols: &[&str]) -> BTreeMap<u64, String> {
    let symbols: Vec<_> = symbols.iter().map(|s| json!({"symbol": s, "exchange": "NSE"})).collect();
    client.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    client.send(json!({"action": "subscribe", "symbols": symbols, "mode": 3}));
    let entry = |e: &Value| (e["id"].as_u64().expect("an id"), e["symbol"].as_str().expect("a symbol").to_owned());
    packed_entries(client).iter().map(entry).collect()
}

/// The entries of the next acknowledgement.
fn packed_entries(client: &mut Client) -> Vec<Value> {
    loop {
        let support::Got::Binary(bytes) = client.next() else { continue };
        let frame: Value = rmp_serde::from_slice(&bytes).expect("MessagePack");
        if let Some(entries) = frame[1]["subscriptions"].as_array() {
            return entries.clone();
        }
    }
}

/// Id, price and open interest of the next tick.
fn packed_tick(client: &mut Client) -> (u64, i64, u64) {
    let tick = packed_fields(client);
    let field = |at: usize| tick[at].as_i64().expect("a number");
    (field(0) as u64, field(5), field(15) as u64)
}

/// Id and price of the next tick.
fn packed_ltp(client: &mut Client) -> (u64, i64) {
    let tick = packed_fields(client);
    (tick[0].as_u64().expect("an id"), tick[5].as_i64().expect("a price"))
}

/// The next tick, which is alone in its frame.
fn packed_fields(client: &mut Client) -> Value {
    loop {
        match client.next() {
            support::Got::Binary(bytes) => {
                let frame: Value = rmp_serde::from_slice(&bytes).expect("MessagePack");
                if frame[0] == 1 {
                    assert_eq!(frame[2].as_array().map(Vec::len), Some(1));
                    return frame[2][0].clone();
                }
            }
            support::Got::Ping(payload) => client.frame(0x8a, &payload),
            other => panic!("wanted a tick, got {other:?}"),
        }
    }
}

#[test]
fn a_tick_size_in_the_brokers_file_gives_messagepack_clients_the_digits_that_prices_have() {
    // Segment 3 (currency): prices come in ten-millionths, and CDS has four digits unless the file says more.
    const USDINR: u32 = (1234 << 8) + 3;
    let world = World::with("digits", &[(INFY, "INFY".to_owned())], |broker| {
        let row = format!("{USDINR},1234,USDINR24MARFUT,USDINR,0,2024-03-26,0,0.00025,1,FUT,CDS-FUT,CDS\n");
        let file = &broker.symbols[0];
        let listed = std::fs::read_to_string(file).expect("written") + &row;
        std::fs::write(file, listed).expect("written");
    });
    let (mut packed, _) = Client::connect_to(world.server.ws, "/", "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n");
    packed.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    let symbols = json!([{"symbol": "USDINR26MAR24FUT", "exchange": "CDS"}, {"symbol": "INFY", "exchange": "NSE"}]);
    packed.send(json!({"action": "subscribe", "symbols": symbols, "mode": 1}));
    let entries = packed_entries(&mut packed);
    assert_eq!((&entries[0]["scale"], &entries[1]["scale"]), (&json!(5), &json!(2)), "{entries:?}");
    world.await_held(&[(INFY, "ltp"), (USDINR, "ltp")]);
    world.kite.price(USDINR, 833_612_500);
    assert_eq!(packed_ltp(&mut packed), (entries[0]["id"].as_u64().expect("an id"), 8_336_125));
    let mut json_client = world.server.client();
    json_client.request(json!({"action": "subscribe", "symbols": symbols, "mode": 1, "snapshot": false}));
    world.kite.price(USDINR, 833_610_000);
    assert_eq!(ltp(&json_client.tick()), 83.361);
    assert_eq!(world.server.metric("tickcast_price_rounded_total", &["CDS"]), 0.0);
}

#[test]
fn three_thousand_symbols_fill_three_connections_and_one_more_is_refused_by_name() {
    let listed: Vec<(u32, String)> = (0..3001).map(|n| ((n << 8) + 257, format!("SYM{n}"))).collect();
    let world = World::with("quota", &listed, |broker| broker.symbols_per_connection = Some(1000));
    let mut client = world.server.client();
    let symbols: Vec<&str> = listed.iter().map(|(_, symbol)| symbol.as_str()).collect();
    client.subscribe(&symbols[..3000], 1);
    let seen = world.kite.await_seen(|seen| seen.all().len() == 3000);
    assert_eq!(seen.held.values().map(BTreeMap::len).collect::<Vec<_>>(), [1000, 1000, 1000]);
    world.server.await_metric("tickcast_native_capacity_left", &[], 0.0);
    world.server.await_metric("tickcast_native_connections", &[], 3.0);
    world.server.await_metric("tickcast_adapter_connections", &["\"bus\""], 3.0);
    let feed = world.feed();
    assert_eq!((&feed["connections"], &feed["capacity_left"]), (&json!(3), &json!(0)), "{feed}");
    let last = json!([{"symbol": symbols[3000], "exchange": "NSE"}]);
    let ask = json!({"action": "subscribe", "symbols": last, "mode": 1});
    let entry = &client.request(ask.clone())["subscriptions"][0];
    assert_eq!((&entry["status"], &entry["code"]), (&json!("error"), &json!("MAX_CAPACITY_REACHED")), "{entry}");
    for (token, _) in &listed[..3000] {
        world.kite.price(*token, 100);
    }
    let mut ticked: Vec<String> =
        (0..3000).map(|_| client.tick()["symbol"].as_str().expect("a symbol").to_owned()).collect();
    ticked.sort();
    ticked.dedup();
    assert_eq!(ticked.len(), 3000, "each ticks, whichever connection it is on");
    client.request(json!({"action": "unsubscribe", "symbol": symbols[1500], "exchange": "NSE", "mode": 1}));
    assert_eq!(client.request(ask)["subscriptions"][0]["status"], "success");
    let seen = world.kite.await_seen(|seen| seen.all().contains_key(&listed[3000].0) && seen.all().len() == 3000);
    assert!(seen.held.values().all(|held| held.len() == 1000), "never more than the quota");
}

#[test]
fn raising_and_lowering_modes_on_three_connections_costs_an_ltp_subscriber_no_tick() {
    let listed = [(INFY, "INFY"), (SBIN, "SBIN"), (340_481, "HDFC")].map(|(token, symbol)| (token, symbol.to_owned()));
    let world = World::with("updown", &listed, |broker| broker.symbols_per_connection = Some(1));
    let symbols: Vec<&str> = listed.iter().map(|(_, symbol)| symbol.as_str()).collect();
    let all = |mode: &'static str| listed.each_ref().map(|(token, _)| (*token, mode));
    let mut watcher = world.server.client();
    watcher.subscribe(&symbols, 1);
    let seen = world.await_held(&all("ltp"));
    assert_eq!(seen.held.len(), 3, "each has a connection of its own");
    let mut other = world.server.client();
    let names: Vec<Value> = symbols.iter().map(|symbol| json!({"symbol": symbol, "exchange": "NSE"})).collect();
    let (mut sent, mut ticks) = (0, Vec::new());
    let mut some = |kite: &Kite| {
        for _ in 0..25 {
            sent += 1;
            listed.iter().for_each(|(token, _)| kite.price(*token, sent));
        }
        // A client that does not read gets the newest only.
        ticks.extend(watcher.settled());
    };
    for mode in [3, 2, 3, 3, 2] {
        some(&world.kite);
        other.send(json!({"action": "subscribe", "symbols": names, "mode": mode}));
        some(&world.kite);
        other.json_where(|v| v["type"] == "subscribe");
        world.await_held(&all(if mode == 3 { "full" } else { "quote" }));
        some(&world.kite);
        let held: Vec<Value> =
            symbols.iter().map(|symbol| json!({"symbol": symbol, "exchange": "NSE", "mode": mode})).collect();
        other.send(json!({"action": "unsubscribe", "symbols": held}));
        some(&world.kite);
        other.json_where(|v| v["type"] == "unsubscribe");
        world.await_held(&all("ltp"));
        some(&world.kite);
    }
    while ticks.len() < 3 * sent as usize {
        ticks.push(watcher.tick());
    }
    let mut prices: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for tick in &ticks {
        let of = prices.entry(tick["symbol"].as_str().expect("a symbol").to_owned()).or_default();
        of.push((ltp(tick) * 100.0).round() as i64);
    }
    for symbol in &symbols {
        assert_eq!(prices[*symbol], (1..=i64::from(sent)).collect::<Vec<_>>(), "{symbol}: each once, in order");
    }
    assert!(world.kite.messages().iter().all(|text| !text.contains("unsubscribe")), "the feeds never stopped");
}

#[test]
fn an_order_postback_reaches_the_account_s_user_in_openalgo_s_words() {
    let world = World::new("orders");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 1);
    client.request(json!({"action": "subscribe_orders"}));
    let cases = kite_vectors::cases(include_str!("vectors/broker-feeds/kite/kite_text.json"));
    for case in &cases {
        world.kite.text(case["text"].as_str().expect("text"));
        if case["name"] == "text_order_postback" {
            let update = client.json_where(|v| v["type"] == "order_update");
            let expected = json!({"type": "order_update", "user_id": "demo", "mode": "live", "broker": "bus",
                "orderid": "220303000308932", "symbol": "SBIN", "exchange": "NSE", "action": "BUY", "quantity": 1, "price": 0,
                "trigger_price": 0, "pricetype": "MARKET", "product": "CNC", "order_status": "complete",
                "filled_quantity": 1, "pending_quantity": 0, "average_price": 470, "rejection_reason": ""});
            assert_eq!(update, expected);
            break;
        }
    }
}

#[test]
fn a_symbol_that_the_broker_does_not_list_is_an_entry_error_and_the_others_go_on() {
    let world = World::new("unlisted");
    let mut client = world.server.client();
    let symbols = json!([{"symbol": "NOSUCH", "exchange": "NSE"}, {"symbol": "INFY", "exchange": "NSE"}]);
    let ack = client.request(json!({"action": "subscribe", "symbols": symbols, "mode": 1}));
    let outcomes: Vec<&Value> =
        ack["subscriptions"].as_array().expect("entries").iter().map(|e| &e["status"]).collect();
    assert_eq!(outcomes, ["error", "success"], "{ack}");
    assert!(ack.to_string().contains("does not list NSE:NOSUCH"), "{ack}");
}

#[test]
fn bytes_that_no_broker_sends_cost_a_message_and_never_the_feed() {
    let world = World::new("bytes");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 1);
    world.await_held(&[(INFY, "ltp")]);
    let junk = [vec![0xff; 9], vec![0, 1, 0, 200, 1], vec![0xff, 0xff, 0, 0, 0, 0], vec![0; 65_536]];
    for bytes in &junk {
        world.kite.frame(bytes.clone());
    }
    for text in ["", "[1,2]", "{\"type\":\"order\",\"data\":{}}", "{\"type\":7,\"data\":{}}", "\u{0}"] {
        world.kite.text(text);
    }
    world.kite.price(INFY, 777);
    assert_eq!(ltp(&client.tick()), 7.77);
    assert_eq!(world.kite.seen().accepted, 1, "the connection stood");
    assert!(world.server.metric("tickcast_native_damaged_total", &[]) >= 3.0);
    // Larger than any message may be: this connection is given up, and another one made.
    world.kite.frame(vec![0; 5 << 20]);
    world.kite.await_seen(|seen| seen.accepted == 2);
    world.await_held(&[(INFY, "ltp")]);
    world.kite.price(INFY, 778);
    assert_eq!(ltp(&client.tick()), 7.78);
}

#[test]
fn two_users_have_a_feed_each_and_never_see_each_other_s_prices_or_orders() {
    let folder = Folder::new("two");
    let (asha, ravi) = (Kite::start(KEY, "token-of-asha"), Kite::start(KEY, "token-of-ravi"));
    let store = folder.0.join("keys.db");
    let mut keys = KeyFile::open(&store, true).expect("a store");
    let key_of = [("asha", "zerodha"), ("ravi", "kite2")]
        .map(|(user, broker)| keys.add(user, broker, Class::Normal).expect("a key"));
    let broker = |kite: &Kite, user: &str, token: &str| {
        let path = folder.0.join(user);
        std::fs::write(&path, format!("api_key={KEY}\naccess_token={token}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
        Broker {
            kind: AdapterKind::Native(0),
            users: vec![user.to_owned()],
            credentials: Some(CredentialsFrom::File(folder.0.join("{user}").display().to_string())),
            symbols: vec![folder.symbols(&[(INFY, "INFY".to_owned())])],
            url: Some(kite.url.clone()),
            ..Default::default()
        }
    };
    let brokers =
        [("zerodha", broker(&asha, "asha", "token-of-asha")), ("kite2", broker(&ravi, "ravi", "token-of-ravi"))];
    let server = Server::start(|settings| {
        settings.auth.store = KeyStoreSetting::Sqlite(store);
        settings.brokers.extend(brokers.map(|(name, broker)| (name.to_owned(), broker)));
    });
    let mut clients = key_of.map(|key| {
        let mut client = server.connect();
        let reply = client.request(json!({"action": "authenticate", "api_key": key}));
        assert_eq!(reply["type"], "auth", "{reply}");
        client.subscribe(&["INFY"], 2);
        client.request(json!({"action": "subscribe_orders"}));
        client
    });
    for (kite, price) in [(&asha, 100), (&ravi, 900)] {
        kite.await_seen(|seen| seen.all().len() == 1);
        kite.price(INFY, price);
    }
    let order = kite_vectors::cases(include_str!("vectors/broker-feeds/kite/kite_text.json"))[0]["text"].clone();
    asha.text(order.as_str().expect("text"));
    assert_eq!((ltp(&clients[0].tick()), ltp(&clients[1].tick())), (1.0, 9.0));
    assert_eq!(clients[0].json_where(|v| v["type"] == "order_update")["user_id"], "asha");
    for client in &mut clients {
        assert_eq!(client.settled(), Vec::<Value>::new(), "nothing of the other");
    }
}
