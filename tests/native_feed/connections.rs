//! A native feed's connection and credentials: cuts, silence, refusals, new tokens, a broker that is away, the end.

use super::{INFY, KEY, SBIN, TOKEN, World, ltp};
use crate::support;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

#[test]
fn after_a_cut_ticks_resume_with_the_token_of_now_and_exactly_what_is_wanted_is_subscribed() {
    let world = World::new("cut");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 3);
    client.subscribe(&["SBIN"], 1);
    world.await_held(&[(INFY, "full"), (SBIN, "ltp")]);
    for round in 1..=3 {
        let token = format!("token-of-round-{round}");
        world.folder.credentials(&token);
        world.kite.accept(&token);
        world.kite.cut();
        world.kite.await_seen(|seen| seen.accepted == round + 1);
        let seen = world.await_held(&[(INFY, "full"), (SBIN, "ltp")]);
        assert_eq!(seen.tokens.last(), Some(&token), "never the token held before");
        world.kite.price(SBIN, 81_230 + round as i32);
        assert_eq!(ltp(&client.tick()), (81_230 + round as i32) as f64 / 100.0);
    }
    assert_eq!(world.kite.seen().refused, 0);
    world.server.await_metric("tickcast_native_connects_total", &["success"], 4.0);
    world.server.await_metric("tickcast_native_connections", &[], 1.0);
    client.request(json!({"action": "unsubscribe", "symbol": "INFY", "exchange": "NSE", "mode": 3}));
    world.await_held(&[(SBIN, "ltp")]);
}

#[test]
fn a_broker_that_falls_silent_is_left_and_asked_again() {
    let world = World::new("silent");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 1);
    world.await_held(&[(INFY, "ltp")]);
    world.kite.mute(true);
    world.kite.await_seen(|seen| seen.accepted == 2);
    world.await_held(&[(INFY, "ltp")]);
    world.kite.price(INFY, 100);
    assert_eq!(ltp(&client.tick()), 1.0);
}

#[test]
fn a_refused_token_is_said_to_be_so_sent_once_and_replaced_without_a_restart() {
    let world = World::new("refused");
    world.kite.accept("another");
    for _ in 0..3 {
        let mut client = world.server.connect();
        let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
        assert_eq!(reply["code"], "BROKER_INIT_ERROR", "{reply}");
        assert!(!reply.to_string().contains(TOKEN), "{reply}");
    }
    assert_eq!(world.kite.seen().tokens, [TOKEN], "the same token is not sent again");
    world.folder.credentials("another");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 1);
    world.await_held(&[(INFY, "ltp")]);
    world.kite.price(INFY, 12_345);
    assert_eq!(ltp(&client.tick()), 123.45);
}

#[test]
fn credentials_that_others_can_read_are_not_used_and_no_path_is_told() {
    let world = World::new("permissions");
    let file = world.folder.credentials(TOKEN);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let mut client = world.server.connect();
    let ask = json!({"action": "authenticate", "api_key": "demo-key"});
    let reply = client.request(ask.clone());
    assert_eq!(reply["code"], "BROKER_INIT_ERROR", "{reply}");
    assert!(!reply.to_string().contains("credentials\"") && !reply.to_string().contains("native-feed-"), "{reply}");
    assert!(world.kite.seen().tokens.is_empty(), "nothing was sent");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("ours");
    assert_eq!(client.request(ask)["type"], "auth");
}

#[test]
fn a_token_that_is_refused_while_clients_are_on_is_taken_up_once_it_is_renewed() {
    let world = World::new("rollover");
    let mut client = world.server.client();
    client.request(json!({"action": "subscribe", "symbol": "INFY", "exchange": "NSE", "mode": 2, "feed_status": true}));
    world.await_held(&[(INFY, "quote")]);
    world.kite.accept("of-the-next-day");
    world.kite.cut();
    world.kite.await_seen(|seen| seen.refused == 1);
    let told = client
        .json_where(|v| v["type"] == "feed_status" && v["detail"].as_str().is_some_and(|d| d.contains("credentials")));
    assert_eq!(told["state"], "down");
    world.server.await_metric("tickcast_adapters", &["\"reauthenticating\""], 1.0);
    world.folder.credentials("of-the-next-day");
    world.await_held(&[(INFY, "quote")]);
    world.server.await_metric("tickcast_adapters", &["\"live\""], 1.0);
    world.kite.price(INFY, 500);
    assert_eq!(ltp(&client.tick()), 5.0);
    let seen = world.kite.seen();
    assert_eq!((seen.refused, seen.tokens.len()), (1, 3), "{seen:?}");
}

#[test]
fn a_feed_of_which_one_connection_is_down_says_how_many_are_up_and_that_it_is_degraded() {
    let listed = [(INFY, "INFY".to_owned()), (SBIN, "SBIN".to_owned())];
    let world = World::with("degraded", &listed, |broker| broker.symbols_per_connection = Some(1));
    let mut client = world.server.client();
    client.subscribe(&["INFY", "SBIN"], 1);
    world.await_held(&[(INFY, "ltp"), (SBIN, "ltp")]);
    world.server.await_metric("tickcast_adapter_connections", &["\"bus\""], 2.0);
    let feed = world.feed();
    assert_eq!(
        (&feed["adapter"], &feed["connections"], &feed["capacity_left"]),
        (&json!("live"), &json!(2), &json!(1))
    );
    // It cannot come back with the token that there is.
    world.kite.accept("another");
    world.kite.cut_holder(SBIN);
    world.server.await_metric("tickcast_adapters", &["\"degraded\""], 1.0);
    world.server.await_metric("tickcast_adapter_connections", &["\"bus\""], 1.0);
    let feed = world.feed();
    assert_eq!((&feed["adapter"], &feed["connections"]), (&json!("degraded"), &json!(1)), "{feed}");
    assert!(feed["detail"].as_str().is_some_and(|detail| detail.contains("not carried now")), "{feed}");
    world.kite.price(INFY, 700);
    assert_eq!(ltp(&client.tick()), 7.0, "the other goes on");
    world.folder.credentials("another");
    world.await_held(&[(INFY, "ltp"), (SBIN, "ltp")]);
    world.server.await_metric("tickcast_adapters", &["\"live\""], 1.0);
    assert_eq!(world.feed()["connections"], 2);
}

#[test]
fn when_the_last_client_has_gone_the_connection_is_closed_and_nothing_is_left() {
    let world = World::new("linger");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 1);
    world.await_held(&[(INFY, "ltp")]);
    drop(client);
    world.kite.await_seen(|seen| seen.held.is_empty() && seen.accepted == 1);
    world.server.await_metric("tickcast_native_connections", &[], 0.0);
    world.server.await_metric("tickcast_native_capacity_left", &[], 0.0);
    world.server.await_metric("tickcast_subscriptions_active", &[], 0.0);
}

#[test]
fn while_the_broker_is_away_clients_stay_and_ticks_resume_within_three_seconds_of_its_return() {
    let world = World::new("away");
    let mut client = world.server.client();
    client.subscribe(&["INFY"], 1);
    world.await_held(&[(INFY, "ltp")]);
    world.kite.away(true);
    let came = world.kite.came();
    // At least three attempts, so that the back-off has grown.
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while world.kite.came() < came + 4 {
        assert!(std::time::Instant::now() < deadline, "it goes on trying");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    let back = std::time::Instant::now();
    world.kite.away(false);
    world.await_held(&[(INFY, "ltp")]);
    assert!(back.elapsed() < std::time::Duration::from_secs(3), "{:?}", back.elapsed());
    world.kite.price(INFY, 4_200);
    assert_eq!(ltp(&client.tick()), 42.0);
}

#[test]
fn a_client_that_asked_hears_that_the_broker_is_gone_and_that_it_is_back() {
    let world = World::new("status");
    let mut client = world.server.client();
    client.send(json!({"action": "subscribe", "symbol": "INFY", "exchange": "NSE", "mode": 1, "feed_status": true}));
    let mut told = |wanted: &str| client.json_where(|v| v["type"] == "feed_status" && v["state"] == wanted);
    // Before any tick: one that came before the acknowledgement would make it live from the start, of which nothing is told.
    told("quiet");
    world.await_held(&[(INFY, "ltp")]);
    world.kite.price(INFY, 100);
    told("live");
    world.kite.away(true);
    told("down");
    world.kite.away(false);
    told("recovered");
    world.await_held(&[(INFY, "ltp")]);
    world.kite.price(INFY, 101);
    told("live");
    let (status, body) = world.server.admin_get("/feeds");
    assert!(status == 200 && !body.contains(KEY) && !body.contains(TOKEN), "{body}");
    let feeds: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(feeds["feeds"][0]["capacity_left"], 8999, "{body}");
}
