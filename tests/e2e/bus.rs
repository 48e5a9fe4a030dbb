//! pyzmq publishers on either side of the connection, killed and back, on ipc, and two servers beside each other.

use crate::process::{ANYWHERE, Folder, Running, Server, tickcast};
use crate::publishers::within;
use crate::python::{Generation, Publisher, Sdk, nse};
use crate::support::Client;
use serde_json::json;
use std::time::{Duration, Instant};

/// An SDK client that watches INFY.
fn watcher(server: &Server) -> Sdk {
    let before = server.metric("tickcast_subscriptions_active", &[]);
    let mut sdk = Sdk::connected(Generation::Two, server);
    sdk.subscribe(1, &[nse("INFY")]);
    server.await_metric("tickcast_subscriptions_active", &[], before + 1.0);
    sdk
}

/// A port that nobody has now; for the side that starts first.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

#[test]
fn a_publisher_that_connects_is_heard_also_with_heartbeats() {
    let server = Server::anywhere(&[]);
    let mut sdk = watcher(&server);
    let mut publisher = Publisher::start("--connect", &server.bus, &["--heartbeat", "50"]);
    publisher.until_heard(&server);
    publisher.ltp("INFY", 1573.15);
    assert_eq!(sdk.callback(1).1["ltp"], 1573.15);
    // libzmq drops a peer that does not answer its PING within 10 intervals; the connection must be the same later.
    let connects = server.metric("tickcast_bus_connects_total", &[]);
    let later = Instant::now() + Duration::from_millis(800);
    server.await_that("twice the heartbeat's patience has passed", || Instant::now() > later);
    publisher.ltp("INFY", 1574.0);
    assert_eq!(sdk.callback(1).1["ltp"], 1574.0);
    assert_eq!(server.metric("tickcast_bus_connects_total", &[]), connects, "the same connection");
    publisher.script.finish();
    server.await_metric("tickcast_bus_peers", &[], 0.0);
}

#[test]
fn a_publisher_that_binds_is_reached_through_zmq_pub_port() {
    let mut publisher = Publisher::start("--bind", "tcp://127.0.0.1:0", &[]);
    let port = publisher.endpoint.rsplit(':').next().expect("a port").to_owned();
    let server = Server::start(ANYWHERE, &[("ZMQ_PUB_PORT", &port)]);
    assert!(server.ready.contains(&port), "{}", server.ready);
    let mut sdk = watcher(&server);
    publisher.until_heard(&server);
    publisher.send("msgpack", "NSE_INFY_LTP", &json!({"ltp": 1573.15}));
    assert_eq!(sdk.callback(1).1["ltp"], 1573.15);
}

#[test]
fn a_publisher_killed_with_sigkill_costs_nothing_and_is_heard_again_when_it_is_back() {
    // Both directions: it binds and we reconnect; it connects and we accept again.
    let first = Publisher::start("--bind", "tcp://127.0.0.1:0", &[]);
    let bound = first.endpoint.clone();
    let server = Server::anywhere(&["--set", &format!("bus.connect={bound}")]);
    let bind = server.bus.split(',').next().expect("a bound endpoint").to_owned();
    let mut sdk = watcher(&server);
    let mut steady = Publisher::start("--connect", &bind, &[]);
    steady.until_heard(&server);
    drop(first);
    server.await_metric("tickcast_bus_peers", &[], 1.0);
    let mut price = 100.0;
    for (side, endpoint) in [("--bind", &bound), ("--connect", &bind)] {
        for _ in 0..2 {
            let mut publisher = Publisher::start(side, endpoint, &[]);
            publisher.until_heard(&server);
            price += 0.05;
            publisher.ltp("INFY", price);
            assert_eq!(sdk.callback(1).1["ltp"], price, "{side}");
            publisher.script.process.kill();
            server.await_metric("tickcast_bus_peers", &[], 1.0);
            price += 0.05;
            steady.ltp("INFY", price);
            assert_eq!(sdk.callback(1).1["ltp"], price, "others flow on");
        }
    }
    assert_eq!(server.metric("tickcast_bus_rejected_total", &[]), 0.0);
}

#[test]
fn stopped_publishers_are_given_up_and_heard_again_within_three_seconds_when_they_go_on() {
    let bound = Publisher::start("--bind", "tcp://127.0.0.1:0", &[]);
    let server = Server::anywhere(&["--set", &format!("bus.connect={}", bound.endpoint)]);
    let bind = server.bus.split(',').next().expect("a bound endpoint").to_owned();
    let mut both = [bound, Publisher::start("--connect", &bind, &[])];
    server.await_metric("tickcast_bus_peers", &[], 2.0);
    let mut client = Client::connect(server.ws);
    client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
    client.subscribe(&["S0", "S1"], 1);
    let fds = server.process.fds();
    both.iter().for_each(|publisher| publisher.script.process.signal("STOP"));
    server.await_metric("tickcast_bus_rejected_total", &["zmtp_silent"], 2.0);
    let since = Instant::now();
    both.iter().for_each(|publisher| publisher.script.process.signal("CONT"));
    for (n, publisher) in both.iter_mut().enumerate() {
        let symbol = format!("S{n}");
        within(Duration::from_secs(3), since, &symbol, || {
            publisher.ltp(&symbol, 1573.15);
            client.settled().iter().any(|tick| tick["symbol"] == symbol.as_str())
        });
    }
    server.await_metric("tickcast_bus_peers", &[], 2.0);
    server.await_that("the descriptors of before", || server.process.fds() <= fds);
}

#[test]
fn a_publisher_that_was_there_before_the_server_is_heard() {
    let bus = format!("tcp://127.0.0.1:{}", free_port());
    let mut publisher = Publisher::start("--connect", &bus, &["--heartbeat", "100"]);
    publisher.ltp("INFY", 1.0);
    let server = Server::start(&[ANYWHERE, &["--set", &format!("bus.bind={bus}")]].concat(), &[]);
    let mut sdk = watcher(&server);
    publisher.until_heard(&server);
    publisher.ltp("INFY", 1573.15);
    assert_eq!(sdk.callback(1).1["ltp"], 1573.15);
}

#[test]
fn ipc_endpoints_work_in_both_directions_and_a_stale_file_is_taken_over() {
    let folder = Folder::new("ipc");
    let (ours, theirs) = (format!("ipc://{}", folder.path("a")), format!("ipc://{}", folder.path("b")));
    let sets = [format!("bus.bind={ours}"), format!("bus.connect={theirs}")];
    let args = [ANYWHERE, &["--set", &sets[0], "--set", &sets[1]]].concat();
    let mut killed = Server::start(&args, &[]);
    killed.process.kill();
    let server = Server::start(&args, &[]);
    let mut sdk = watcher(&server);
    for (side, endpoint, price) in [("--connect", &ours, 1573.15), ("--bind", &theirs, 1573.2)] {
        let mut publisher = Publisher::start(side, endpoint, &[]);
        publisher.until_heard(&server);
        publisher.ltp("INFY", price);
        assert_eq!(sdk.callback(1).1["ltp"], price, "{side} {endpoint}");
        publisher.script.finish();
    }
}

#[test]
fn two_servers_told_apart_by_openalgos_two_ports_never_see_each_others_ticks() {
    let publishers = [(); 2].map(|()| Publisher::start("--bind", "tcp://127.0.0.1:0", &[]));
    let mut pairs = publishers.map(|publisher| {
        let port = publisher.endpoint.rsplit(':').next().expect("a port").to_owned();
        // Nothing but the two variables; the other ports follow WEBSOCKET_PORT, so 0 stands for each of its own.
        let server = Server::start(&[], &[("WEBSOCKET_PORT", "0"), ("ZMQ_PUB_PORT", &port)]);
        let sdk = watcher(&server);
        (publisher, server, sdk)
    });
    for (publisher, server, _) in &mut pairs {
        publisher.until_heard(server);
    }
    for (index, (publisher, ..)) in pairs.iter_mut().enumerate() {
        for tick in 0..50 {
            publisher.ltp("INFY", f64::from(1000 * (index as u32 + 1) + tick));
        }
    }
    for (index, (_, _, sdk)) in pairs.iter_mut().enumerate() {
        for tick in 0..50 {
            assert_eq!(sdk.callback(1).1["ltp"], f64::from(1000 * (index as u32 + 1) + tick), "server {index}");
        }
    }
}

#[test]
fn watch_shows_what_a_publisher_sends() {
    let server = Server::anywhere(&[]);
    let mut publisher = Publisher::heard(&server);
    let mut watch = Running::new(tickcast(&["watch", "INFY", "--url", &server.url(), "--count", "2"], &[]));
    server.await_metric("tickcast_subscriptions_active", &[], 1.0);
    publisher.ltp("INFY", 1573.15);
    assert!(watch.line().contains("1573.15"));
    publisher.ltp("INFY", 1573.2);
    let second = watch.line();
    assert!(second.contains("INFY") && second.contains("1573.2"), "{second}");
    assert_eq!(watch.wait(crate::process::PATIENCE).code(), Some(0));
}
