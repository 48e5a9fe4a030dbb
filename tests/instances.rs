//! Several servers on one machine: the audit's multi-instance check.

mod support;

use serde_json::json;
use support::{Got, Publisher, Server};

#[test]
fn two_servers_side_by_side_keep_their_clients_ticks_and_metrics_apart() {
    let (first, second) = (Server::start(|_| {}), Server::start(|_| {}));
    assert_ne!((first.ws, first.admin, &first.bus), (second.ws, second.admin, &second.bus));
    let (mut a, mut b) = (first.client(), second.client());
    a.subscribe(&["INFY"], 1);
    b.subscribe(&["INFY"], 1);
    first.publisher().ltp("INFY", 1.0);
    second.publisher().ltp("INFY", 2.0);
    assert_eq!((&a.tick()["data"]["ltp"], &b.tick()["data"]["ltp"]), (&json!(1.0), &json!(2.0)));
    assert!(a.settled().is_empty() && b.settled().is_empty());
    for server in [&first, &second] {
        assert_eq!(server.metric("tickcast_ticks_received_total", &[]), 1.0);
        assert_eq!(server.metric("tickcast_clients_connected", &["json"]), 1.0);
    }
    // One that ends leaves the other alone.
    assert!(first.stop());
    assert!(matches!(a.until_close(), Got::Close(Some((1001, _)))));
    second.publisher().ltp("INFY", 3.0);
    assert_eq!(b.tick()["data"]["ltp"], json!(3.0));
}

#[test]
fn a_server_starts_again_at_once_on_the_ports_of_the_one_before() {
    let server = Server::start(|_| {});
    let (ws, admin, bus) = (server.ws, server.admin, server.bus.clone());
    let mut client = server.client();
    let mut publisher = server.publisher();
    client.subscribe(&["INFY"], 1);
    publisher.ltp("INFY", 1.0);
    client.tick();
    assert!(server.stop());
    let again = Server::start(|settings| {
        settings.server.listen = ws;
        settings.admin.listen = admin;
        settings.bus.bind = vec![bus.clone()];
    });
    assert_eq!((again.ws, again.admin, &again.bus), (ws, admin, &bus));
    let mut client = again.client();
    client.subscribe(&["INFY"], 1);
    Publisher::connect(bus.strip_prefix("tcp://").expect("tcp")).ltp("INFY", 2.0);
    assert_eq!(client.tick()["data"]["ltp"], json!(2.0));
}
