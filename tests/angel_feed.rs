//! Angel's feed in the whole server, against a stand-in: login, vector prices, modes, reconnects, new tokens, quota, heartbeat.

#[path = "standin/account.rs"]
mod account;
mod standin;
mod support;

use account::Account;
use serde_json::{Value, json};
use standin::StandIn;
use standin::angel::Angel;
use support::{Client, Server};

const JWT: &str = "jwt-of-today-1234";
const FEED: &str = "feed-of-today-5678";
const SYMBOLS: [(&str, &str, &str, &str); 6] = [
    ("RELIANCE", "NSE", "NSE", "2885"),
    ("RELIANCE", "BSE", "BSE", "2885"),
    ("NIFTY", "NSE_INDEX", "NSE", "99926000"),
    ("GOLD05APR24FUT", "MCX", "MCX", "234230"),
    ("USDINR27MAR24FUT", "CDS", "CDS", "1234"),
    ("NIFTY28MAR2425000CE", "NFO", "NFO", "58662"),
];

struct World {
    angel: StandIn<Angel>,
    server: Server,
    account: Account,
}

fn credentials<'a>(jwt: &'a str, feed_token: &'a str) -> [(&'a str, &'a str); 4] {
    [("access_token", jwt), ("api_key", "key"), ("client_code", "A1"), ("feed_token", feed_token)]
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, &SYMBOLS)
    }

    fn with(name: &str, symbols: &[(&str, &str, &str, &str)]) -> Self {
        let (account, angel) = (Account::new(&format!("angel-{name}")), StandIn::start(Angel::new(JWT, FEED)));
        account.credentials(&credentials(JWT, FEED));
        let server = account.server("angel", angel.url(), symbols, |settings| {
            settings.limits.subscriptions_per_client = 10_000;
            settings.adapters.linger = std::time::Duration::from_millis(100);
        });
        World { angel, server, account }
    }

    /// New credentials at the broker and here.
    fn renew(&self, jwt: &str) {
        self.account.credentials(&credentials(jwt, FEED));
        self.angel.with(|angel| angel.right.insert("authorization", jwt.to_owned()));
    }
}

fn subscribe(client: &mut Client, names: &[(&str, &str)], mode: u8) -> Value {
    let symbols: Vec<_> =
        names.iter().map(|(symbol, exchange)| json!({"symbol": symbol, "exchange": exchange})).collect();
    client.request(json!({"action": "subscribe", "symbols": symbols, "mode": mode}))
}

fn cases() -> Vec<Value> {
    let vectors: Value =
        serde_json::from_str(include_str!("vectors/broker-feeds/angel/angel_synthetic.json")).expect("JSON");
    vectors["cases"].as_array().expect("cases").clone()
}

/// A synthetic vector's bytes and what Angel's own library makes of them.
fn vector(name: &str) -> (Vec<u8>, Value) {
    let cases = cases();
    let case = cases.iter().find(|case| case["name"] == name).expect(name);
    let hex = case["frame_hex"].as_str().expect("a packet");
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
    (bytes, case["expected"]["tick"].clone())
}

/// A last price packet of RELIANCE.
fn ltp_packet(paise: i64) -> Vec<u8> {
    let (mut packet, _) = vector("ltp_nse");
    packet[43..51].copy_from_slice(&paise.to_le_bytes());
    packet
}

#[test]
fn vector_prices_reach_clients_in_json_and_integers_in_messagepack() {
    let world = World::new("vectors");
    let names: Vec<_> = SYMBOLS.iter().map(|(symbol, exchange, ..)| (*symbol, *exchange)).collect();
    let (mut json_client, mut packed) = (world.server.client(), packed_client(&world.server));
    subscribe(&mut json_client, &names, 3);
    let scales = packed_subscribe(&mut packed, &names, 3);
    world.angel.await_units(&[
        (3, 1, "2885"),
        (3, 3, "2885"),
        (3, 1, "99926000"),
        (3, 5, "234230"),
        (3, 13, "1234"),
        (3, 2, "58662"),
    ]);
    for name in
        ["snap_nse", "snap_nfo_oi", "snap_sells_first", "snap_interleaved", "snap_index", "snap_orders_above_i16"]
    {
        let (packet, want) = vector(name);
        assert_eq!(world.angel.tick(&packet), 1, "{name}");
        let (got, packed) = (json_client.tick(), packed_tick(&mut packed));
        let rupees = |field: &str| json!(want[field].as_i64().expect("paise") as f64 / 100.0);
        for (ours, theirs) in [
            ("ltp", "last_traded_price"),
            ("open", "open_price_of_the_day"),
            ("high", "high_price_of_the_day"),
            ("low", "low_price_of_the_day"),
            ("close", "closed_price"),
            ("average_price", "average_traded_price"),
            ("upper_circuit", "upper_circuit_limit"),
            ("52_week_low", "52_week_low_price"),
        ] {
            assert_eq!(got["data"][ours], rupees(theirs), "{ours} of {name}: {got}");
        }
        assert_eq!(got["data"]["oi"], want["open_interest"], "{name}");
        for (side, theirs) in [("buy", "best_5_buy_data"), ("sell", "best_5_sell_data")] {
            for (level, theirs) in want[theirs].as_array().expect("levels").iter().enumerate() {
                let price = theirs["price"].as_i64().expect("paise") as f64 / 100.0;
                let want = json!({"price": price, "quantity": theirs["quantity"], "orders": theirs["no of orders"]});
                assert_eq!(got["data"]["depth"][side][level], want, "{side} {level} of {name}");
            }
        }
        let scale = scales.iter().find(|(id, _)| *id == packed[0]).expect("acknowledged").1;
        assert_eq!((packed[5].as_i64(), scale), (want["last_traded_price"].as_i64(), 2), "{name}");
    }
}

#[test]
fn every_packet_of_each_mode_gives_its_price_in_json_and_messagepack() {
    let mut compared = [0; 3];
    for mode in 1..=3_u8 {
        let world = World::new(&format!("every-{mode}"));
        let names: Vec<_> = SYMBOLS.iter().map(|(symbol, exchange, ..)| (*symbol, *exchange)).collect();
        let (mut json_client, mut packed) = (world.server.client(), packed_client(&world.server));
        subscribe(&mut json_client, &names, mode);
        let scales = packed_subscribe(&mut packed, &names, mode);
        world.angel.await_house("all of them", |angel| angel.units().len() == SYMBOLS.len());
        for case in cases() {
            let (name, tick) = (case["name"].as_str().expect("a name"), &case["expected"]["tick"]);
            let (Some(raw), Some(exchange)) = (tick["last_traded_price"].as_i64(), tick["exchange_type"].as_u64())
            else {
                continue;
            };
            // Packets of other modes and instruments go to nobody here.
            if tick["subscription_mode"] != mode || world.angel.tick(&vector(name).0) == 0 {
                continue;
            }
            let divisor = if exchange == 13 { 1e7 } else { 100.0 };
            assert_eq!(json_client.tick()["data"]["ltp"], json!(raw as f64 / divisor), "{name}");
            let packed = packed_tick(&mut packed);
            let scale = scales.iter().find(|(id, _)| *id == packed[0]).expect("acknowledged").1;
            let exact = (raw as f64 / divisor * 10_f64.powi(scale as i32)).round();
            assert_eq!(packed[5].as_f64(), Some(exact), "{name}");
            compared[usize::from(mode) - 1] += 1;
        }
    }
    assert_eq!(compared, [9, 6, 9]);
}

fn packed_client(server: &Server) -> Client {
    let (mut client, _) = Client::connect_to(server.ws, "/", "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n");
    client.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    client
}

/// (id, scale) of each entry.
fn packed_subscribe(client: &mut Client, names: &[(&str, &str)], mode: u8) -> Vec<(Value, u64)> {
    let symbols: Vec<_> =
        names.iter().map(|(symbol, exchange)| json!({"symbol": symbol, "exchange": exchange})).collect();
    client.send(json!({"action": "subscribe", "symbols": symbols, "mode": mode}));
    loop {
        let frame = packed(client);
        if let Some(entries) = frame[1]["subscriptions"].as_array() {
            return entries.iter().map(|e| (e["id"].clone(), e["scale"].as_u64().expect("a scale"))).collect();
        }
    }
}

fn packed(client: &mut Client) -> Value {
    loop {
        match client.next() {
            support::Got::Binary(bytes) => return rmp_serde::from_slice(&bytes).expect("MessagePack"),
            support::Got::Ping(payload) => client.frame(0x8a, &payload),
            other => panic!("wanted a frame, got {other:?}"),
        }
    }
}

fn packed_tick(client: &mut Client) -> Value {
    loop {
        let frame = packed(client);
        if frame[0] == 1 {
            return frame[2][0].clone();
        }
    }
}

#[test]
fn equal_tokens_of_two_exchanges_and_the_currency_divisor_are_right_at_the_client() {
    let world = World::new("exchanges");
    let mut client = world.server.client();
    subscribe(&mut client, &[("RELIANCE", "NSE"), ("RELIANCE", "BSE"), ("USDINR27MAR24FUT", "CDS")], 1);
    world.angel.await_units(&[(1, 1, "2885"), (1, 3, "2885"), (1, 13, "1234")]);
    let mut bse = ltp_packet(141_900);
    bse[1] = 3;
    for (packet, exchange, ltp) in
        [(ltp_packet(141_840), "NSE", 1418.4), (bse, "BSE", 1419.0), (vector("ltp_cds").0, "CDS", 83.2525)]
    {
        assert_eq!(world.angel.tick(&packet), 1);
        let tick = client.tick();
        assert_eq!((&tick["exchange"], &tick["data"]["ltp"]), (&json!(exchange), &json!(ltp)), "{tick}");
    }
}

#[test]
fn damaged_packets_and_notices_are_counted_and_cost_nothing_else() {
    let world = World::new("damaged");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.angel.await_units(&[(1, 1, "2885")]);
    let all = || world.angel.with(|angel| angel.held.keys().copied().collect::<Vec<_>>());
    let damaged = ["truncated_50", "one_byte", "empty", "unknown_mode_9", "unknown_exchange_99", "truncated_snap_200"];
    for name in damaged {
        world.angel.send(all(), &standin::Out::Binary(vector(name).0));
    }
    world.angel.send(all(), &standin::Out::Text(r#"{"errorCode":"E1001","errorMessage":"x"}"#.into()));
    world.angel.tick(&ltp_packet(100));
    assert_eq!(client.tick()["data"]["ltp"], 1.0);
    world.server.await_metric("tickcast_native_damaged_total", &[], damaged.len() as f64);
    assert_eq!(world.angel.opened(), 1);
}

#[test]
fn a_mode_is_raised_and_lowered_without_a_gap_and_the_broker_holds_one_unit_an_instrument() {
    let world = World::new("modes");
    let mut watcher = world.server.client();
    watcher.subscribe(&["RELIANCE"], 1);
    world.angel.await_units(&[(1, 1, "2885")]);
    let mut other = world.server.client();
    other.subscribe(&["RELIANCE"], 3);
    world.angel.await_units(&[(3, 1, "2885")]);
    other.request(json!({"action": "unsubscribe", "symbol": "RELIANCE", "exchange": "NSE", "mode": 3}));
    world.angel.await_units(&[(1, 1, "2885")]);
    let actions: Vec<(u64, u64)> = world
        .angel
        .log()
        .iter()
        .filter_map(|text| serde_json::from_str::<Value>(text).ok())
        .filter_map(|m| Some((m["action"].as_u64()?, m["params"]["mode"].as_u64()?)))
        .collect();
    assert_eq!(actions, [(1, 1), (1, 3), (0, 1), (1, 1), (0, 3)], "the new mode comes first each time");
    world.angel.tick(&ltp_packet(12_345));
    assert_eq!(watcher.tick()["data"]["ltp"], 123.45);
}

#[test]
fn after_cuts_and_silence_ticks_resume_with_the_token_of_now_and_exactly_what_is_wanted() {
    let world = World::new("cuts");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 3);
    subscribe(&mut client, &[("NIFTY", "NSE_INDEX")], 1);
    let wanted = [(3, 1, "2885"), (1, 1, "99926000")];
    world.angel.await_units(&wanted);
    for round in 1..=3 {
        world.renew(&format!("jwt-of-round-{round}"));
        world.angel.hang_up();
        world.angel.await_house("a new connection", |_| world_opened(&world) == round + 1);
        world.angel.await_units(&wanted);
        let (mut packet, _) = vector("snap_nse");
        packet[43..51].copy_from_slice(&(141_840 + round as i64).to_le_bytes());
        world.angel.tick(&packet);
        assert_eq!(client.tick()["data"]["ltp"], (141_840 + round as i64) as f64 / 100.0);
    }
    assert_eq!(world.angel.with(|angel| angel.refused), 0);
    world.angel.set_away(true);
    world.angel.set_away(false);
    world.angel.await_units(&wanted);
}

fn world_opened(world: &World) -> u64 {
    world.angel.opened()
}

#[test]
fn a_refused_login_names_the_bad_header_is_not_repeated_and_heals_with_new_credentials() {
    let world = World::new("refused");
    world.angel.with(|angel| angel.right.insert("x-feed-token", "another".to_owned()));
    for _ in 0..3 {
        let mut client = world.server.connect();
        let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
        assert_eq!(reply["code"], "BROKER_INIT_ERROR", "{reply}");
        let text = reply.to_string();
        assert!(!text.contains(JWT) && !text.contains(FEED), "{reply}");
    }
    assert_eq!(world.angel.with(|angel| angel.refused), 1, "refused credentials are not sent again");
    world.account.credentials(&credentials(JWT, "another"));
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.angel.await_units(&[(1, 1, "2885")]);
    world.angel.tick(&ltp_packet(100));
    assert_eq!(client.tick()["data"]["ltp"], 1.0);
}

#[test]
fn three_connections_carry_what_fits_within_the_quota_even_while_modes_change_and_one_more_is_refused() {
    let tokens: Vec<String> = (0..2941).map(|n| n.to_string()).collect();
    let symbols: Vec<String> = (0..2941).map(|n| format!("SYM{n}")).collect();
    let rows: Vec<_> = symbols.iter().zip(&tokens).map(|(s, t)| (s.as_str(), "NSE", "NSE", t.as_str())).collect();
    let world = World::with("quota", &rows);
    let mut client = world.server.client();
    let names: Vec<&str> = symbols.iter().map(String::as_str).collect();
    client.subscribe(&names[..2940], 1);
    world.angel.await_house("2940 units", |angel| angel.units().len() == 2940);
    let ask = json!({"action": "subscribe", "symbols": [{"symbol": names[2940], "exchange": "NSE"}], "mode": 1});
    let entry = &client.request(ask)["subscriptions"][0];
    assert_eq!((&entry["status"], &entry["code"]), (&json!("error"), &json!("MAX_CAPACITY_REACHED")), "{entry}");
    client.subscribe(&names[..2940], 3);
    let all_deep = |angel: &mut Angel| angel.units().len() == 2940 && angel.units().iter().all(|(mode, ..)| *mode == 3);
    world.angel.await_house("all of them in depth", all_deep);
    world.angel.with(|angel| {
        assert_eq!(angel.held.len(), 3);
        assert!(angel.most <= angel.quota, "{} units at once", angel.most);
    });
    let said = world.angel.log().iter().filter(|text| text.contains("E1002")).count();
    assert_eq!(said, 0);
}

#[test]
fn what_the_broker_says_is_too_much_for_a_connection_moves_to_another_and_ticks_there() {
    let tokens: Vec<String> = (100..190).map(|n| n.to_string()).collect();
    let symbols: Vec<String> = tokens.iter().map(|token| format!("SYM{token}")).collect();
    let rows: Vec<_> = symbols.iter().zip(&tokens).map(|(s, t)| (s.as_str(), "NSE", "NSE", t.as_str())).collect();
    let world = World::with("overfull", &rows);
    // Not what the documents say.
    world.angel.with(|angel| angel.quota = 50);
    let mut client = world.server.client();
    client.subscribe(&symbols.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    world.angel.await_house("all of them somewhere", |angel| angel.units().len() == 90);
    world.angel.with(|angel| {
        assert!(angel.held.len() > 1 && angel.most <= 50);
        assert_eq!(angel.held.values().map(std::collections::BTreeSet::len).sum::<usize>(), 90, "none of them twice");
    });
    for token in &tokens {
        let mut packet = ltp_packet(token.parse().expect("a number"));
        packet[2..6].copy_from_slice(format!("{token:\0<4}").as_bytes());
        assert_eq!(world.angel.tick(&packet), 1, "{token}");
        let tick = client.tick();
        assert_eq!(tick["symbol"], format!("SYM{token}"), "{tick}");
    }
}

#[test]
fn a_ping_is_sent_in_a_quiet_market_and_its_answer_is_no_tick() {
    let world = World::new("ping");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.angel.await_house("a ping", |angel| angel.pings > 0);
    world.angel.tick(&ltp_packet(100));
    assert_eq!(client.tick()["data"]["ltp"], 1.0);
    assert_eq!((world.angel.opened(), world.server.metric("tickcast_native_damaged_total", &[])), (1, 0.0));
}

#[test]
fn a_broker_that_falls_silent_without_hanging_up_is_left_and_asked_again() {
    let world = World::new("silent");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.angel.await_units(&[(1, 1, "2885")]);
    world.angel.set_silent(true);
    world.angel.await_house("a new connection", |_| world_opened(&world) > 1);
    world.angel.set_silent(false);
    let asked = |angel: &mut Angel| angel.newest().is_some_and(|held| held.contains(&(1, 1, "2885".to_owned())));
    world.angel.await_house("what is wanted", asked);
    world.angel.tick(&ltp_packet(100));
    assert_eq!(client.tick()["data"]["ltp"], 1.0);
    assert!(world.server.metric("tickcast_native_connects_total", &["\"lost\""]) >= 1.0);
}

#[test]
fn when_the_last_client_has_gone_the_connection_ends_and_nothing_is_left() {
    let world = World::new("linger");
    let mut client = world.server.client();
    client.subscribe(&["RELIANCE"], 1);
    world.angel.await_units(&[(1, 1, "2885")]);
    drop(client);
    world.angel.await_house("the end", |angel| angel.held.is_empty());
    assert_eq!(world.angel.opened(), 1);
    world.server.await_metric("tickcast_native_connections", &[], 0.0);
}
