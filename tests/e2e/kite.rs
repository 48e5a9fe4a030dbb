//! Zerodha: its own library against our stand-in, so that the stand-in is known to speak the protocol; and the packets captured
//! from its feed through the program's native feed, price by price.

use crate::kite_vectors;
use crate::process::account::program_of;
use crate::process::{Folder, PATIENCE, Server, run};
use crate::python::Script;
use crate::standin::kite::{Kite, packet, packets};
use crate::zerodha::captured;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tickcast::cli::client::{Client, Message, Target};
use tickcast::wire::msgpack::{ServerFrame, read};

const KEY: &str = "kitekey-1234";
const TOKEN: &str = "token-of-the-day-5678";
const INFY: u32 = 408_065;
const NIFTY: u32 = 256_265;

fn library(kite: &Kite, token: &str) -> Script {
    Script::start("kite.py", &["--url", &kite.url, "--key", KEY, "--token", token])
}

#[test]
fn zerodha_s_own_library_takes_our_stand_in_for_zerodha() {
    let kite = Kite::start(KEY, TOKEN);
    let mut library = library(&kite, TOKEN);
    library.event("connected");
    library.tell(&json!({"op": "subscribe", "arguments": [[INFY, NIFTY]]}));
    let held = |modes: [(u32, &str); 2]| modes.map(|(token, mode)| (token, mode.to_owned())).into_iter().collect();
    let quote: BTreeMap<u32, String> = held([(INFY, "quote"), (NIFTY, "quote")]);
    kite.await_seen(|seen| seen.all() == quote);
    kite.price(INFY, 157_315);
    let tick = library.event("ticks")["ticks"][0].clone();
    assert_eq!(
        (&tick["mode"], &tick["last_price"], &tick["ohlc"]["low"]),
        (&json!("quote"), &json!(1573.15), &json!(1573.12))
    );
    library.tell(&json!({"op": "set_mode", "arguments": ["full", [INFY, NIFTY]]}));
    let full: BTreeMap<u32, String> = held([(INFY, "full"), (NIFTY, "full")]);
    kite.await_seen(|seen| seen.all() == full);
    kite.frame(packets(&[packet(INFY, "full", 157_320), packet(NIFTY, "full", 2_340_685)]));
    let ticks = library.event("ticks")["ticks"].clone();
    assert_eq!(
        (&ticks[0]["oi"], &ticks[0]["depth"]["sell"][4]),
        (&json!(55), &json!({"quantity": 50, "price": 1573.25, "orders": 5}))
    );
    assert_eq!((&ticks[1]["last_price"], &ticks[1]["tradable"]), (&json!(23_406.85), &json!(false)));
    let cases = kite_vectors::cases(include_str!("../vectors/broker-feeds/kite/kite_text.json"));
    kite.text(cases[0]["text"].as_str().expect("text"));
    assert_eq!(library.event("order")["order"], cases[0]["expected"]["events"][0]["data"]);
    library.tell(&json!({"op": "unsubscribe", "arguments": [[NIFTY]]}));
    kite.await_seen(|seen| seen.all().len() == 1);
    library.finish();
}

#[test]
fn zerodha_s_own_library_is_refused_by_our_stand_in_as_by_zerodha() {
    let kite = Kite::start(KEY, TOKEN);
    let mut library = library(&kite, "of-yesterday");
    let error = library.event("error");
    assert!(error["reason"].as_str().is_some_and(|reason| reason.contains("403")), "{error}");
    assert_eq!(kite.seen().refused, 1);
}

#[test]
fn every_captured_packet_gives_what_zerodha_s_own_library_made_of_it() {
    let text = std::fs::read_to_string(captured()).expect("the vectors");
    let cases = kite_vectors::cases(&text);
    for case in &cases {
        assert_eq!(kite_vectors::ticks(case), kite_vectors::expected(case), "{}", case["name"]);
    }
    assert_eq!(cases.len(), 6);
}

/// The program with asha's account at the stand-in, and asha's key.
fn program(folder: &Folder, kite: &Kite) -> (Server, String) {
    let head = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange\n";
    let row = |token: u32, symbol: &str| format!("{token},{},{symbol},{symbol},0,,0,0.05,1,EQ,NSE,NSE\n", token >> 8);
    let symbols = head.to_owned() + &row(INFY, "INFY") + &row(884_737, "TATAMOTORS");
    program_of(folder, "zerodha", &kite.url, &format!("api_key={KEY}\naccess_token={TOKEN}\n"), &symbols)
}

async fn client(server: &Server, key: &str, subprotocol: Option<&str>) -> Client {
    client_of(server, key, subprotocol, &[("INFY", "NSE"), ("TATAMOTORS", "NSE")], &[1, 2, 3]).await
}

/// A client that has asked for (symbol, exchange) in `modes`.
pub(crate) async fn client_of(
    server: &Server,
    key: &str,
    subprotocol: Option<&str>,
    names: &[(&str, &str)],
    modes: &[u8],
) -> Client {
    let target = Target::parse(&server.url()).expect("a URL");
    let mut client = Client::connect(&target, subprotocol).await.expect("connected");
    client.send(&json!({"action": "authenticate", "api_key": key}).to_string()).await.expect("sent");
    for mode in modes {
        let name = |(symbol, exchange): &(&str, &str)| json!({"symbol": symbol, "exchange": exchange});
        let symbols: Vec<Value> = names.iter().map(name).collect();
        let ask = json!({"action": "subscribe", "symbols": symbols, "mode": mode});
        client.send(&ask.to_string()).await.expect("sent");
    }
    client
}

#[test]
fn captured_packets_reach_clients_of_the_native_feed_with_their_prices_in_json_and_messagepack() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (folder, kite) = (Folder::new("kite"), Kite::start(KEY, TOKEN));
    let (server, key) = program(&folder, &kite);
    let text = std::fs::read_to_string(captured()).expect("the vectors");
    runtime.block_on(async {
        let mut json_client = client(&server, &key, None).await;
        let mut packed_client = client(&server, &key, Some("tickcast.v1.msgpack")).await;
        server.await_metric("tickcast_subscriptions_active", &[], 12.0);
        kite.await_seen(|seen| seen.all().len() == 2 && seen.all().values().all(|mode| mode == "full"));
        for case in kite_vectors::cases(&text) {
            kite.frame(kite_vectors::hex(case["frame_hex"].as_str().expect("hex")));
            for tick in kite_vectors::expected(&case) {
                let modes = ["ltp", "quote", "full"].iter().position(|mode| tick["mode"] == *mode).expect("a mode") + 1;
                let mut got: Vec<Value> = Vec::new();
                while got.len() < modes {
                    got.extend(json_tick(&mut json_client).await);
                }
                got.sort_by_key(|tick| tick["mode"].as_u64());
                for (at, frame) in got.iter().enumerate() {
                    assert_eq!(
                        (&frame["mode"], &frame["data"]["ltp"]),
                        (&json!(at + 1), &tick["last_price"]),
                        "{}",
                        case["name"]
                    );
                    assert_eq!(frame["broker"], "zerodha");
                }
                for (frame, side) in got.get(2).into_iter().flat_map(|frame| [(frame, "buy"), (frame, "sell")]) {
                    assert_eq!(frame["data"]["depth"][side], tick["depth"][side], "{}", case["name"]);
                }
                if let Some(quote) = got.get(1) {
                    for (name, value) in tick["ohlc"].as_object().expect("prices") {
                        assert_eq!(&quote["data"][name], value, "{name} of {}", case["name"]);
                    }
                    assert_eq!(quote["data"]["volume"], tick["volume_traded"]);
                }
                let exact = (tick["last_price"].as_f64().expect("a price") * 100.0).round() as i64;
                let mut packed = 0;
                while packed < modes {
                    for price in packed_prices(&mut packed_client).await {
                        assert_eq!(price, exact, "{}", case["name"]);
                        packed += 1;
                    }
                }
            }
        }
    });
    assert_eq!(server.metric("tickcast_native_damaged_total", &[]), 1.0, "the packet of the old protocol");
}

async fn next(client: &mut Client) -> Message {
    tokio::time::timeout(PATIENCE, client.next()).await.expect("something came").expect("the connection stands")
}

pub(crate) async fn json_tick(client: &mut Client) -> Option<Value> {
    let Message::Text(text) = next(client).await else { panic!("JSON") };
    let message: Value = serde_json::from_str(&text).expect("JSON");
    assert_ne!(message["status"], "error", "{message}");
    (message["type"] == "market_data").then_some(message)
}

pub(crate) async fn packed_prices(client: &mut Client) -> Vec<i64> {
    let Message::Binary(bytes) = next(client).await else { panic!("MessagePack") };
    match read(&bytes).expect("a readable frame") {
        ServerFrame::Ticks { ticks, .. } => ticks.iter().map(|tick| tick.ltp().expect("a price")).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn no_secret_of_an_account_is_in_logs_metrics_or_settings() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (folder, kite) = (Folder::new("kite-secrets"), Kite::start(KEY, "another"));
    let (server, key) = program(&folder, &kite);
    runtime.block_on(async {
        let mut refused = client(&server, &key, None).await;
        loop {
            let Message::Text(text) = next(&mut refused).await else { panic!("JSON") };
            assert!(!text.contains(TOKEN) && !text.contains(KEY), "{text}");
            if text.contains("BROKER_INIT_ERROR") {
                break;
            }
        }
        kite.accept(TOKEN);
    });
    assert!(kite.seen().tokens.contains(&TOKEN.to_owned()), "it was sent to the broker");
    let config = folder.path("tickcast.toml");
    let (code, printed, _) = run(&["check", "--config", &config], &[]);
    assert_eq!(code, 0);
    let metrics = server.page("/metrics");
    let logs = server.stop();
    assert!(logs.contains("403"), "{logs}");
    for text in [&printed, &metrics, &logs] {
        assert!(!text.contains(TOKEN) && !text.contains(KEY), "{text}");
    }
}
