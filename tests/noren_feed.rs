//! The feeds of Flattrade and Shoonya in the whole server, against a stand-in: both logins, snapshots and changes, streams,
//! reconnects, new tokens, refusals, heartbeat, orders, and what stays when the last client goes.

#[path = "standin/account.rs"]
mod account;
mod standin;
mod support;

use account::Account;
use serde_json::{Value, json};
use standin::StandIn;
use standin::noren::Noren;
use support::{Client, Server};

const TOKEN: &str = "token-of-today-1234";
const SYMBOLS: [(&str, &str, &str, &str); 5] = [
    ("RELIANCE", "NSE", "NSE", "2885"),
    ("NTPC", "NSE", "NSE", "11630"),
    ("NIFTY", "NSE_INDEX", "NSE_INDEX", "26000"),
    ("NIFTY28OCT25FUT", "NFO", "NFO", "35001"),
    ("USDINR26NOV25FUT", "CDS", "CDS", "1234"),
];
/// The paths of the two generations, as the brokers have them.
const OAUTH: &str = "NorenWSAPI/";
const CLASSIC: &str = "NorenWSTP/";

struct World {
    noren: StandIn<Noren>,
    server: Server,
    account: Account,
}

impl World {
    fn new(name: &str) -> Self {
        Self::at("shoonya", OAUTH, name)
    }

    fn at(kind: &str, path: &str, name: &str) -> Self {
        Self::with(kind, path, name, |_| {})
    }

    fn with(kind: &str, path: &str, name: &str, change: impl FnOnce(&mut tickcast::config::Settings)) -> Self {
        let (account, noren) = (Account::new(&format!("{kind}-{name}")), StandIn::start(Noren::new("UID1", TOKEN)));
        account.credentials(&[("user_id", "UID1:::app-key"), ("access_token", TOKEN)]);
        let server = account.server(kind, noren.url(path), &SYMBOLS, change);
        World { noren, server, account }
    }

    /// A new token at the broker and here.
    fn renew(&self, token: &str) {
        self.account.credentials(&[("user_id", "UID1"), ("access_token", token)]);
        self.noren.with(|noren| noren.token = token.to_owned());
    }
}

fn subscribe(client: &mut Client, symbol: &str, exchange: &str, mode: u8) {
    let ack = client.request(json!({"action": "subscribe", "symbol": symbol, "exchange": exchange, "mode": mode}));
    assert!(ack.to_string().contains("success"), "{ack}");
}

fn vector(name: &str) -> Vec<String> {
    let vectors: Value =
        serde_json::from_str(include_str!("vectors/broker-feeds/noren/noren_synthetic.json")).expect("JSON");
    let case = vectors["cases"].as_array().expect("cases").iter().find(|case| case["name"] == name).expect(name);
    let steps = case["steps"].as_array().expect("steps");
    steps.iter().map(|step| step["message"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_depth_snapshot_and_its_changes_reach_the_client_as_whole_books() {
    let world = World::new("depth");
    let mut client = world.server.client();
    subscribe(&mut client, "NIFTY28OCT25FUT", "NFO", 3);
    world.noren.await_scrips(&[], &["NFO|35001"]);
    let steps = vector("depth_full_then_deltas");
    let data: Vec<Value> = steps
        .iter()
        .map(|text| {
            assert_eq!(world.noren.say(text), 1);
            client.tick()["data"].clone()
        })
        .collect();
    for (name, want) in [
        ("ltp", json!(25150.5)),
        ("open", json!(25100.0)),
        ("close", json!(25100.0)),
        ("average_price", json!(25140.2)),
        ("upper_circuit", json!(27610.0)),
        ("52_week_low", json!(21743.65)),
        ("total_buy_quantity", json!(500_000)),
        ("oi", json!(13_245_000)),
        ("ltt", json!(1_758_775_529_000_u64)),
        ("exchange_timestamp", json!(1_758_775_530_000_u64)),
    ] {
        assert_eq!(data[0][name], want, "{name}: {}", data[0]);
    }
    assert_eq!(data[0]["depth"]["buy"][4], json!({"price": 25149.75, "quantity": 375, "orders": 5}));
    assert_eq!((&data[1]["depth"]["buy"][0]["quantity"], &data[1]["ltp"]), (&json!(150), &json!(25150.5)));
    assert_eq!((&data[2]["ltp"], &data[2]["depth"]["sell"][0]["price"]), (&json!(25152.0), &json!(25152.05)));
    assert_eq!(data[3]["oi"], 13_245_075);
    assert_eq!(data[4]["depth"]["buy"][4], json!({"price": 0.0, "quantity": 0, "orders": 0}));
    assert_eq!(data[4]["depth"]["sell"], data[2]["depth"]["sell"], "the rest is as it was");
}

#[test]
fn a_change_of_the_book_alone_is_no_news_for_last_price_subscribers() {
    let world = World::new("news");
    let (mut quotes, mut prices) = (world.server.client(), world.server.client());
    subscribe(&mut quotes, "RELIANCE", "NSE", 2);
    subscribe(&mut prices, "RELIANCE", "NSE", 1);
    world.noren.await_scrips(&["NSE|2885"], &[]);
    let steps = vector("touchline_book_only_delta");
    for text in &steps {
        assert_eq!(world.noren.say(text), 1);
    }
    let quoted: Vec<Value> = (0..3).map(|_| quotes.tick()["data"].clone()).collect();
    assert!(quoted.iter().all(|data| data["ltp"] == 2950.5), "{quoted:?}");
    let times: Vec<Value> = (0..2).map(|_| prices.tick()["data"]["ltp"].clone()).collect();
    assert_eq!(times, [2950.5, 2950.5], "the snapshot, and the change with a new feed time");
    let rest = prices.settled();
    assert!(rest.iter().all(|v| v["type"] != "market_data"), "{rest:?}");
}

#[test]
fn before_its_snapshot_an_instrument_gives_a_last_price_only_and_odd_values_change_nothing() {
    let world = World::new("partial");
    let mut client = world.server.client();
    for mode in [1, 2] {
        subscribe(&mut client, "RELIANCE", "NSE", mode);
    }
    world.noren.await_scrips(&["NSE|2885"], &[]);
    for text in vector("non_numeric_values") {
        world.noren.say(&text);
    }
    world.noren.change("NSE|2885", json!({"lp": "2951.00"}));
    let mut last = Vec::new();
    while last.len() < 2 {
        let tick = client.tick();
        assert!(tick["data"]["ltp"] == 2950.5 || tick["data"]["ltp"] == 2951.0 || tick["mode"] == 2, "{tick}");
        assert_ne!(tick["data"]["ltp"], 0.0, "{tick}");
        if tick["data"]["ltp"] == 2951.0 {
            last.push(tick);
        }
    }
    let quote = last.iter().find(|tick| tick["mode"] == 2).expect("a quote");
    assert_eq!((&quote["data"]["volume"], &quote["data"]["open"]), (&json!(1_200_000), &json!(2935.0)));
}

#[test]
fn currency_and_index_are_named_as_clients_name_them_and_keep_their_digits() {
    let world = World::new("names");
    let mut client = world.server.client();
    subscribe(&mut client, "USDINR26NOV25FUT", "CDS", 1);
    subscribe(&mut client, "NIFTY", "NSE_INDEX", 1);
    world.noren.await_scrips(&["CDS|1234", "NSE|26000"], &[]);
    for (name, exchange, ltp) in [("cds_four_decimals", "CDS", 83.2525), ("index_touchline", "NSE_INDEX", 24865.45)] {
        world.noren.say(&vector(name)[0]);
        let tick = client.tick();
        assert_eq!((&tick["exchange"], &tick["data"]["ltp"]), (&json!(exchange), &json!(ltp)), "{tick}");
    }
}

#[test]
fn the_stream_follows_the_mode_and_the_new_one_begins_before_the_old_ends() {
    let world = World::new("streams");
    world.noren.change("NSE|2885", json!({"lp": "100.00", "c": "99.00", "bp1": "99.95", "bq1": "5", "bo1": "1"}));
    let mut watcher = world.server.client();
    watcher.subscribe(&["RELIANCE"], 1);
    world.noren.await_scrips(&["NSE|2885"], &[]);
    let mut other = world.server.client();
    other.subscribe(&["RELIANCE"], 3);
    world.noren.await_scrips(&[], &["NSE|2885"]);
    let book = other.tick();
    assert_eq!(book["data"]["depth"]["buy"][0], json!({"price": 99.95, "quantity": 5, "orders": 1}));
    other.request(json!({"action": "unsubscribe", "symbol": "RELIANCE", "exchange": "NSE", "mode": 3}));
    world.noren.await_scrips(&["NSE|2885"], &[]);
    let kinds: Vec<String> = world
        .noren
        .log()
        .iter()
        .filter_map(|text| serde_json::from_str::<Value>(text).ok())
        .filter(|message| message["k"] == "NSE|2885")
        .map(|message| message["t"].as_str().expect("a type").to_owned())
        .collect();
    assert_eq!(kinds, ["t", "d", "u", "t", "ud"]);
    world.noren.change("NSE|2885", json!({"lp": "101.00"}));
    let seen = watcher.json_where(|v| v["data"]["ltp"] == 101.0);
    assert_eq!(seen["mode"], 1);
}

#[test]
fn both_generations_of_the_login_are_spoken_and_orders_are_asked_for() {
    for (kind, path, first) in
        [("flattrade", "PiConnectWSTp/", "c"), ("shoonya", CLASSIC, "c"), ("flattrade", "PiConnectWSAPI/", "a")]
    {
        let world = World::at(kind, path, &format!("login-{first}-{}", path.len()));
        let mut client = world.server.client();
        client.subscribe(&["RELIANCE"], 1);
        world.noren.await_scrips(&["NSE|2885"], &[]);
        let log: Vec<Value> = world.noren.log().iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
        assert_eq!(log[0]["t"], first, "{kind} {path}");
        assert_eq!(log[1], json!({"t": "o", "actid": "UID1"}), "before anything else");
        assert_eq!(world.noren.with(|noren| noren.logins), 1);
    }
}

#[test]
fn an_order_update_reaches_the_user_in_openalgos_words() {
    let world = World::new("orders");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    client.request(json!({"action": "subscribe_orders"}));
    world.noren.await_house("the order stream", |noren| noren.sessions.values().any(|session| session.wants_orders));
    let told = world.noren.order(json!({"norenordno": "21120300001234", "uid": "UID1", "actid": "UID1", "exch": "NFO",
        "tsym": "NIFTY28OCT25F", "token": "35001", "qty": "75", "prc": "25150.50", "prd": "M", "status": "COMPLETE",
        "trantype": "S", "prctyp": "LMT", "fillshares": "75", "avgprc": "25150.55", "reporttype": "Fill"}));
    assert_eq!(told, 1);
    let want = json!({"type": "order_update", "user_id": "demo", "mode": "live", "broker": "bus", "orderid": "21120300001234",
        "symbol": "NIFTY28OCT25FUT", "exchange": "NFO", "action": "SELL", "quantity": 75, "price": 25150.5,
        "trigger_price": 0, "pricetype": "LIMIT", "product": "NRML", "order_status": "complete", "filled_quantity": 75,
        "pending_quantity": 0, "average_price": 25150.55, "rejection_reason": ""});
    assert_eq!(client.json_where(|v| v["type"] == "order_update"), want);
}

#[test]
fn after_cuts_ticks_resume_with_the_token_of_now_from_a_new_snapshot() {
    let world = World::new("cuts");
    world.noren.change("NSE|2885", json!({"lp": "100.00", "o": "98.00", "v": "10"}));
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 2);
    subscribe(&mut client, "NTPC", "NSE", 3);
    world.noren.await_scrips(&["NSE|2885"], &["NSE|11630"]);
    for round in 1..=3_u64 {
        world.renew(&format!("token-of-round-{round}"));
        world.noren.hang_up();
        // What happens while we are away is in the next snapshot.
        let volume = 10 + round;
        world.noren.change("NSE|2885", json!({"v": volume.to_string()}));
        world.noren.await_house("a new login", |noren| u64::from(noren.logins) == round + 1);
        world.noren.await_scrips(&["NSE|2885"], &["NSE|11630"]);
        let tick = client.json_where(|v| v["data"]["volume"] == volume);
        assert_eq!(tick["data"]["ltp"], 100.0, "{tick}");
    }
    assert_eq!(world.noren.with(|noren| noren.refused), 0, "never the token held before");
}

#[test]
fn shoonya_is_asked_once_with_a_refused_token_and_again_when_it_is_renewed() {
    let world = World::new("refused");
    world.noren.with(|noren| noren.token = "another".to_owned());
    for _ in 0..3 {
        let mut client = world.server.connect();
        let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
        assert_eq!(reply["code"], "BROKER_INIT_ERROR", "{reply}");
        assert!(!reply.to_string().contains(TOKEN), "{reply}");
    }
    assert_eq!(world.noren.with(|noren| noren.logins), 1);
    world.noren.await_house("our close, since the broker does not", |noren| noren.sessions.is_empty());
    world.renew("another");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.noren.change("NSE|2885", json!({"lp": "100.00"}));
    assert_eq!(client.json_where(|v| v["data"]["ltp"] == 100.0)["mode"], 1);
}

#[test]
fn flattrade_gets_the_same_token_again_when_it_refuses_a_reconnect() {
    let world = World::at("flattrade", "PiConnectWSAPI/", "cooldown");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.noren.await_scrips(&["NSE|2885"], &[]);
    world.noren.with(|noren| noren.cooldown = 2);
    world.noren.hang_up();
    world.noren.await_house("the third try", |noren| noren.logins == 4);
    world.noren.await_scrips(&["NSE|2885"], &[]);
    assert_eq!(world.noren.with(|noren| (noren.logins, noren.refused)), (4, 2), "within its three tries");
    world.noren.change("NSE|2885", json!({"lp": "100.00"}));
    assert_eq!(client.json_where(|v| v["data"]["ltp"] == 100.0)["mode"], 1);
}

#[test]
fn when_the_last_client_goes_a_keep_alive_broker_is_unsubscribed_from_and_stays_connected() {
    let world = World::with("shoonya", OAUTH, "keep-alive", |settings| {
        // The demo user's broker is called so here.
        settings.adapters.keep_alive.push("bus".into());
    });
    world.noren.change("NSE|2885", json!({"lp": "99.00"}));
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 2);
    subscribe(&mut client, "NTPC", "NSE", 3);
    world.noren.await_scrips(&["NSE|2885"], &["NSE|11630"]);
    drop(client);
    world.noren.await_scrips(&[], &[]);
    let mut next = world.server.client();
    next.subscribe(&["RELIANCE"], 2);
    world.noren.await_scrips(&["NSE|2885"], &[]);
    assert_eq!((world.noren.opened(), world.noren.with(|noren| noren.logins)), (1, 1), "the same socket all along");
    world.noren.change("NSE|2885", json!({"lp": "100.00"}));
    assert_eq!(next.json_where(|v| v["data"]["ltp"] == 100.0)["mode"], 2);
}

#[test]
fn a_heartbeat_is_sent_in_a_quiet_market_and_its_answer_is_no_tick() {
    let world = World::new("heartbeat");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.noren.await_house("a heartbeat", |noren| noren.heartbeats > 0);
    world.noren.change("NSE|2885", json!({"lp": "100.00"}));
    assert_eq!(client.tick()["data"]["ltp"], 100.0);
    assert_eq!((world.noren.opened(), world.server.metric("tickcast_native_damaged_total", &[])), (1, 0.0));
}

#[test]
fn a_broker_that_falls_silent_without_hanging_up_is_left_and_asked_again() {
    let world = World::new("silent");
    world.noren.change("NSE|2885", json!({"lp": "99.00"}));
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 2);
    world.noren.await_scrips(&["NSE|2885"], &[]);
    world.noren.set_silent(true);
    world.noren.await_house("a login in vain", |noren| noren.logins > 1);
    world.noren.set_silent(false);
    world.noren.hang_up();
    world.noren.await_scrips(&["NSE|2885"], &[]);
    world.noren.change("NSE|2885", json!({"lp": "100.00"}));
    assert_eq!(client.json_where(|v| v["data"]["ltp"] == 100.0)["mode"], 2);
    assert!(world.server.metric("tickcast_native_connects_total", &["\"lost\""]) >= 1.0);
}

#[test]
fn one_instrument_more_than_the_account_may_have_is_refused_by_name_and_fits_once_another_has_gone() {
    let world = World::with("flattrade", OAUTH, "quota", |settings| {
        settings.brokers.get_mut("bus").expect("the account's").symbols_per_connection = Some(2);
    });
    let mut client = world.server.client();
    subscribe(&mut client, "RELIANCE", "NSE", 2);
    subscribe(&mut client, "NIFTY28OCT25FUT", "NFO", 3);
    let one_more = json!({"action": "subscribe", "symbols": [{"symbol": "NTPC", "exchange": "NSE"}], "mode": 2});
    let entry = &client.request(one_more.clone())["subscriptions"][0];
    assert_eq!((&entry["status"], &entry["code"]), (&json!("error"), &json!("MAX_CAPACITY_REACHED")), "{entry}");
    world.noren.await_scrips(&["NSE|2885"], &["NFO|35001"]);
    client.request(json!({"action": "unsubscribe", "symbol": "RELIANCE", "exchange": "NSE", "mode": 2}));
    assert_eq!(client.request(one_more)["subscriptions"][0]["status"], "success");
    world.noren.await_scrips(&["NSE|11630"], &["NFO|35001"]);
}
