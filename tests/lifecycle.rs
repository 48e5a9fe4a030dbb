//! Clients from connect to disconnect: a hundred at once, a thousand one after the other, and all at the adapter's first moment.

mod support;

use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::process::Process;
use support::{Client, Got, PATIENCE, Server};
use tickcast::adapter::scripted::{Play, Script};

/// Waits until `done` holds.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never came true");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn a_hundred_clients_connect_authenticate_subscribe_receive_unsubscribe_and_leave() {
    let script = Script::default();
    let server = Server::with_factory(Arc::new(script.clone()), |s| s.adapters.linger = Duration::ZERO);
    let mut publisher = server.publisher();
    let mut clients: Vec<_> = (0..100).map(|_| server.client()).collect();
    server.await_metric("tickcast_clients_connected", &[], 100.0);
    let own: Vec<String> = (0..100).map(|n| format!("OWN{n}")).collect();
    for (client, own) in clients.iter_mut().zip(&own) {
        client.subscribe(&["SHARED", own], 1);
    }
    server.await_metric("tickcast_subscriptions_active", &[], 200.0);
    assert_eq!(script.at_broker().len(), 101, "one call for what all share");
    publisher.ltp("SHARED", 1.5);
    for (n, own) in own.iter().enumerate() {
        publisher.ltp(own, n as f64);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let shared = client.tick();
        assert_eq!((&shared["symbol"], &shared["data"]["ltp"]), (&json!("SHARED"), &json!(1.5)), "{shared}");
        let own = client.tick();
        assert_eq!((&own["symbol"], &own["data"]["ltp"]), (&json!(format!("OWN{n}")), &json!(n as f64)), "{own}");
    }
    for client in &mut clients {
        let ack = client.request(json!({"action": "unsubscribe", "symbol": "SHARED", "exchange": "NSE", "mode": 1}));
        assert_eq!(ack["status"], "success", "{ack}");
    }
    publisher.ltp("SHARED", 2.5);
    publisher.ltp("OWN0", 9.0);
    assert_eq!(clients[0].tick()["symbol"], "OWN0", "the bus has taken both");
    for client in &mut clients {
        assert!(client.settled().is_empty(), "a tick after its unsubscribe");
    }
    // Half say goodbye, half just go.
    for (n, mut client) in clients.into_iter().enumerate() {
        if n % 2 == 0 {
            client.frame(0x88, &1000u16.to_be_bytes());
            assert!(matches!(client.until_close(), Got::Close(_)), "the server answers a goodbye");
        }
    }
    server.await_metric("tickcast_clients_connected", &[], 0.0);
    server.await_metric("tickcast_subscriptions_active", &[], 0.0);
    eventually("no adapter is left", || script.alive() == 0);
    assert_eq!((script.made(), script.alive_max()), (1, 1));
    assert!(server.stop());
}

/// One life: connect, authenticate, subscribe to two symbols of ever new names, and go in one of three ways.
fn cycle(server: &Process, n: usize) {
    let mut client = Client::connect(server.ws);
    let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    assert_eq!(reply["type"], "auth", "{reply}");
    client.subscribe(&["SHARED", &format!("OWN{:06}", n % 500)], 1);
    match n % 3 {
        0 => {
            client.frame(0x88, &1000u16.to_be_bytes());
            client.until_close();
        }
        1 => client.raw(b"\x81"),
        _ => {}
    }
}

fn nobody_is_left(server: &Process) {
    for name in ["tickcast_clients_connected", "tickcast_sessions_unauthenticated", "tickcast_subscriptions_active"] {
        server.await_metric(name, &[], |n| n == 0.0);
    }
}

/// The server is a process of its own, so that memory and descriptors are its alone. 500 cycles fill what is kept by intent (500
/// names' last values, slots, buffers, the allocator's arenas); after them a thousand more may add 1 MiB of noise: keeping one
/// session each would add more than 4 KiB a cycle. Sixteen rounds of 500 added 64 KiB at first and 4 at last.
#[test]
fn a_thousand_connection_cycles_leave_no_session_subscription_descriptor_or_memory_behind() {
    let server = Process::start(&[]);
    (0..500).for_each(|n| cycle(&server, n));
    nobody_is_left(&server);
    let (rss, fds) = (server.rss(), server.fds());
    (0..1000).for_each(|n| cycle(&server, n));
    nobody_is_left(&server);
    eventually("all descriptors are closed", || server.fds() <= fds);
    let after = server.rss();
    println!("{} KiB after 500 cycles, {} KiB after 1500; {fds} descriptors", rss >> 10, after >> 10);
    assert!(after < rss + (1 << 20), "resident memory grew from {rss} to {after} bytes");
}

#[test]
fn authenticating_and_disconnecting_a_hundred_times_in_a_row_leaves_no_adapter() {
    let script = Script::default();
    let server = Server::with_factory(Arc::new(script.clone()), |s| s.adapters.linger = Duration::ZERO);
    for n in 0..100 {
        let mut client = server.connect();
        client.send(json!({"action": "authenticate", "api_key": "demo-key"}));
        // Some leave before they are answered.
        if n % 2 == 0 {
            assert_eq!(client.json()["type"], "auth");
        }
    }
    server.await_metric("tickcast_clients_connected", &[], 0.0);
    server.await_metric("tickcast_sessions_unauthenticated", &[], 0.0);
    eventually("no adapter is left", || script.alive() == 0);
    assert_eq!(script.alive_max(), 1, "never two at once");
    server.await_metric("tickcast_users_connected", &[], 0.0);
    let mut last = server.client();
    last.subscribe(&["SBIN"], 1);
    assert_eq!((script.alive(), script.at_broker()), (1, vec!["NSE:SBIN/LTP".to_owned()]));
}

#[test]
fn many_clients_of_one_user_at_once_start_one_adapter() {
    let script = Script::default();
    script.connects([Play::Hold]);
    let server = Server::with_factory(Arc::new(script.clone()), |_| {});
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    }
    // All keys are verified, and all wait for the one adapter that is still connecting.
    server.await_metric("tickcast_clients_connected", &[], 50.0);
    eventually("an adapter is told to connect", || script.seen().len() == 1);
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(script.connected());
    for client in &mut clients {
        let reply = client.json();
        assert_eq!((&reply["type"], &reply["status"]), (&json!("auth"), &json!("success")), "{reply}");
    }
    assert_eq!((script.made(), script.alive_max()), (1, 1));
}
