//! Angel's own library against our stand-in, so that the stand-in is known to speak the protocol.

use crate::python::Script;
use crate::standin::StandIn;
use crate::standin::angel::Angel;
use crate::standin::angel_orders::{AngelOrders, update};
use serde_json::{Value, json};

const JWT: &str = "jwt-of-the-day-1234";
const FEED: &str = "feed-of-the-day-5678";

fn library(angel: &StandIn<Angel>, feed_token: &str) -> Script {
    Script::start("angel.py", &["--url", &angel.url(), "--jwt", JWT, "--feed-token", feed_token])
}

#[test]
fn angel_s_own_library_takes_our_stand_in_for_angel() {
    let angel = StandIn::start(Angel::new(JWT, FEED));
    let mut library = library(&angel, FEED);
    library.event("connected");
    let mut ask = |op: &str, mode: u8, lists: Value| {
        library.tell(&json!({"op": op, "arguments": ["abcde12345", mode, lists]}));
    };
    ask(
        "subscribe",
        1,
        json!([{"exchangeType": 1, "tokens": ["2885", "99926000"]}, {"exchangeType": 13, "tokens": ["1234"]}]),
    );
    ask("subscribe", 3, json!([{"exchangeType": 1, "tokens": ["2885"]}, {"exchangeType": 2, "tokens": ["58662"]}]));
    let (ltp, snap) = ([(1, 1, "2885"), (1, 1, "99926000"), (1, 13, "1234")], [(3, 1, "2885"), (3, 2, "58662")]);
    angel.await_units(&[&ltp[..], &snap[..]].concat());
    let vectors: Value =
        serde_json::from_str(include_str!("../vectors/broker-feeds/angel/angel_synthetic.json")).expect("JSON");
    let mut compared = 0;
    for case in vectors["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        if !["ltp_nse", "ltp_index", "ltp_cds", "snap_nse", "snap_nfo_oi", "snap_sells_first"].contains(&name) {
            continue;
        }
        let hex = case["frame_hex"].as_str().expect("hex");
        let packet: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
        assert_eq!(angel.tick(&packet), 1, "{name}");
        assert_eq!(library.event("tick")["tick"], case["expected"]["tick"], "{name}");
        compared += 1;
    }
    assert_eq!(compared, 6);
    library
        .tell(&json!({"op": "unsubscribe", "arguments": ["abcde12345", 1, [{"exchangeType": 1, "tokens": ["2885"]}]]}));
    angel.await_units(&[&ltp[1..], &snap[..]].concat());
    library.finish();
}

#[test]
fn angel_s_own_library_is_refused_by_our_stand_in_as_by_angel() {
    let angel = StandIn::start(Angel::new(JWT, FEED));
    let mut library = library(&angel, "of-yesterday");
    let error = library.event("error");
    assert_eq!(error["kind"], "Max retry attempt reached", "{error}");
    assert_eq!(angel.with(|angel| angel.refused), 1);
}

#[test]
fn angel_s_own_library_takes_our_stand_in_for_its_server_of_order_updates() {
    let server = StandIn::start(AngelOrders::new(JWT));
    let library = |jwt: &str| {
        let bearer = format!("Bearer {jwt}");
        let args = ["--url", &server.url(), "--jwt", &bearer, "--feed-token", FEED, "--orders"];
        Script::start("angel.py", &args)
    };
    let mut right = library(JWT);
    right.event("connected");
    let message = |script: &mut Script| script.event("message")["message"].as_str().expect("text").to_owned();
    let greeting: Value = serde_json::from_str(&message(&mut right)).expect("JSON");
    assert_eq!(greeting["order-status"], "AB00");
    let order = json!({"orderid": "1", "tradingsymbol": "SBIN-EQ", "filledshares": "4"});
    assert_eq!(server.order("AB05", &order), 1);
    assert_eq!(message(&mut right), update("AB05", &order));
    right.finish();
    let mut wrong = library("of-yesterday");
    let error = wrong.event("error");
    assert!(error["text"].as_str().is_some_and(|text| text.contains("401")), "{error}");
    assert_eq!(server.with(|house| (house.accepted, house.refused)), (1, 1));
}
