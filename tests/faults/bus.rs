//! Between publishers and the bus.

use crate::process::{Folder, Server};
use crate::publishers::{self, Publisher, somewhere};
use crate::support::Client;
use crate::support::path::{Healed, Path};
use crate::support::world::Bound;
use crate::{CUT, address, client, counting_goes_on, endpoint, nothing_is_left, price_of, rest, ticks_resume};
use std::time::{Duration, Instant};

#[test]
#[ignore = "a publisher that the other tests start"]
fn publisher_process() {
    publishers::publish();
}

/// A server that connects to a publisher, perhaps over a path, and a client of `A`.
fn heard(endpoint: &str) -> (Server, Client) {
    let server = Server::anywhere(&["--set", &format!("bus.connect={endpoint}")]);
    let mut client = client(&server, "demo-key");
    client.subscribe(&["A"], 1);
    server.await_metric("tickcast_bus_peers", &[], 1.0);
    (server, client)
}

#[test]
fn a_network_cut_between_publisher_and_bus_heals_by_itself_however_it_ends() {
    let scenario = |how| {
        let mut publisher = Publisher::start(&["tcp://127.0.0.1:0", "A"]);
        let path = Path::to(address(&publisher.endpoint()));
        let (server, mut client) = heard(&endpoint(path.at));
        let last = counting_goes_on(&mut client, Instant::now(), "A", 0);
        let fds = server.process.fds();
        path.cut();
        rest(CUT);
        client.settled();
        let since = Instant::now();
        path.heal(how);
        counting_goes_on(&mut client, since, "A", last);
        nothing_is_left(&server, fds);
        server.metric("tickcast_bus_connects_total", &["\"ready\""])
    };
    std::thread::scope(|scope| {
        let [goes_on, ended] = [Healed::GoesOn, Healed::Ended].map(|how| scope.spawn(move || scenario(how)));
        assert_eq!(goes_on.join().expect("recovered"), 1.0, "nothing was lost but time");
        assert_eq!(ended.join().expect("recovered"), 2.0);
    });
}

#[test]
fn a_publisher_whose_connection_a_router_has_forgotten_is_found_again_by_ping() {
    // One of ZMTP 3.1: those of 3.0 are left to TCP keepalive, which a path of this kind answers itself.
    let (bound, at) = Bound::new();
    let path = Path::to(address(&at));
    let server = Server::anywhere(&["--set", &format!("bus.connect={}", endpoint(path.at))]);
    let mut client = client(&server, "demo-key");
    client.subscribe(&["A"], 1);
    let mut publisher = bound.accept_pinged();
    publisher.ltp("A", 1.0);
    assert_eq!(client.tick()["data"]["ltp"], 1.0);
    let fds = server.process.fds();
    path.cut();
    rest(CUT);
    let since = Instant::now();
    path.heal(Healed::Forgotten);
    let mut publisher = bound.accept_pinged();
    ticks_resume(&mut client, since, |price| publisher.ltp("A", f64::from(price) / 100.0));
    server.await_metric("tickcast_bus_rejected_total", &["zmtp_silent"], 1.0);
    server.await_metric("tickcast_bus_peers", &[], 1.0);
    nothing_is_left(&server, fds);
}

#[test]
fn a_stopped_publisher_is_heard_again_when_it_goes_on_whether_it_registers_or_not() {
    /// Longer than the lease of one that registers, and than a peer may be silent.
    const STOPPED: Duration = Duration::from_secs(7);
    let connected = || {
        let mut publisher = Publisher::start(&["tcp://127.0.0.1:0", "A"]);
        let (server, client) = heard(&publisher.endpoint());
        (publisher, server, client, None)
    };
    let registered = || {
        let folder = Folder::new("stopped");
        let file = folder.path("publishers.db");
        let server = Server::anywhere(&["--set", &format!("discovery.file={file}")]);
        let mut publisher = Publisher::start(&[&somewhere(), "A", &format!("file={file}")]);
        publisher.endpoint();
        server.await_metric("tickcast_bus_peers", &["added"], 1.0);
        let mut client = client(&server, "demo-key");
        client.subscribe(&["A"], 1);
        (publisher, server, client, Some(folder))
    };
    let scenario = |made: (Publisher, Server, Client, Option<Folder>)| {
        let (publisher, server, mut client, folder) = made;
        let last = counting_goes_on(&mut client, Instant::now(), "A", 0);
        let fds = server.process.fds();
        publisher.process.signal("STOP");
        let stopped = Instant::now();
        if folder.is_some() {
            server.await_metric("tickcast_discovery_leases", &["file"], 0.0);
        }
        rest(STOPPED.saturating_sub(stopped.elapsed()));
        let last = client.settled().last().and_then(price_of).unwrap_or(last);
        let since = Instant::now();
        publisher.process.signal("CONT");
        counting_goes_on(&mut client, since, "A", last);
        nothing_is_left(&server, fds);
        publisher.finish();
    };
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| scenario(connected())), scope.spawn(|| scenario(registered()))];
        both.into_iter().for_each(|one| one.join().expect("recovered"));
    });
}
