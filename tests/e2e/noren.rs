//! Messages of Noren brokers, as their documents print them, through the program's native feed, price by price.

use crate::kite::{client_of, json_tick, packed_prices};
use crate::process::Folder;
use crate::process::account::program_of;
use crate::standin::StandIn;
use crate::standin::noren::Noren;
use crate::zerodha::captured;
use serde_json::Value;

/// Beside the captured packets of Zerodha, in a folder of its own or the same.
fn cases() -> Vec<Value> {
    let zerodha = captured();
    let folder = zerodha.parent().expect("a folder");
    let places = [folder.join("noren_captured.json"), folder.join("../noren/noren_captured.json")];
    let file = places.iter().find(|file| file.exists()).unwrap_or_else(|| panic!("none of {places:?}"));
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).expect("text")).expect("JSON");
    vectors["cases"].as_array().expect("cases").clone()
}

fn price(text: &Value) -> Option<f64> {
    text.as_str().map(|text| text.parse().expect("a number"))
}

#[test]
fn captured_packets_of_noren_brokers_reach_clients_with_their_prices_in_json_and_messagepack() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut compared = 0;
    for (case, broker) in cases().iter().zip(["shoonya", "flattrade"]) {
        let subscription = &case["openalgo_subscriptions"][0];
        let text = |name: &str| subscription[name].as_str().expect(name);
        let (symbol, exchange) = (text("symbol"), text("exchange"));
        let (theirs, token) = text("scrip").split_once('|').expect("a scrip");
        let noren = StandIn::start(Noren::new("UID1", "TOKEN"));
        let folder = Folder::new(&format!("noren-{broker}"));
        let symbols = format!("symbol,exchange,brexchange,token\n{symbol},{exchange},{theirs},{token}\n");
        let credentials = "user_id=UID1\naccess_token=TOKEN\n";
        let (server, key) = program_of(&folder, broker, &noren.url("NorenWSAPI/"), credentials, &symbols);
        let steps = case["steps"].as_array().expect("steps");
        // Quotes come by the one stream, depth by the other.
        let is_depth = steps[0]["merged_state"]["fields"]["t"] == "dk";
        let modes: &[u8] = if is_depth { &[1, 2, 3] } else { &[1, 2] };
        runtime.block_on(async {
            let mut clients = (
                client_of(&server, &key, None, &[(symbol, exchange)], modes).await,
                client_of(&server, &key, Some("tickcast.v1.msgpack"), &[(symbol, exchange)], modes).await,
            );
            server.await_metric("tickcast_subscriptions_active", &[], 2.0 * modes.len() as f64);
            let scrip = [text("scrip")];
            let (touchline, depth) = if is_depth { (&[][..], &scrip[..]) } else { (&scrip[..], &[][..]) };
            noren.await_scrips(touchline, depth);
            for step in steps {
                assert_eq!(noren.say(step["message"].as_str().expect("text")), 1, "{}", case["name"]);
                let fields = &step["merged_state"]["fields"];
                let ltp = price(&fields["lp"]).expect("a price");
                let mut got: Vec<Value> = Vec::new();
                while got.len() < modes.len() {
                    got.extend(json_tick(&mut clients.0).await);
                }
                got.sort_by_key(|tick| tick["mode"].as_u64());
                for tick in &got {
                    assert_eq!((tick["data"]["ltp"].as_f64(), &tick["broker"]), (Some(ltp), &broker.into()), "{tick}");
                }
                for (ours, theirs) in [
                    ("open", "o"),
                    ("high", "h"),
                    ("low", "l"),
                    ("close", "c"),
                    ("average_price", "ap"),
                    ("volume", "v"),
                ] {
                    let quote = &got[1]["data"][ours];
                    assert_eq!(quote.as_f64(), price(&fields[theirs]), "{ours} of {}", case["name"]);
                }
                let mut packed = 0;
                while packed < modes.len() {
                    for price in packed_prices(&mut clients.1).await {
                        assert_eq!(price, (ltp * 100.0).round() as i64);
                        packed += 1;
                    }
                }
                compared += 1;
            }
        });
        assert_eq!(server.metric("tickcast_native_damaged_total", &[]), 0.0);
    }
    assert_eq!(compared, 4);
}
