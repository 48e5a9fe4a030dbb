//! Publishers that register in a SQLite file, as processes of their own, killed and locked out, and a whole server that hears them.
//! With Redis: `tests/e2e/discovery.rs`.

mod process;
mod publishers;
mod support;

use process::{Folder, PATIENCE};
use publishers::{Publisher, assert_gapless, somewhere, within};
use rusqlite::{Connection, TransactionBehavior};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use support::dealer::AdapterProcess;
use support::world::Keys;
use support::{Client, Server};
use tickcast::adapter::discovery::{LEASE, watch::LOOK};
use tickcast::config::settings::{AdapterKind, Broker};

/// A killed publisher is forgotten within this, as the lease and the time between two looks promise. Tests wait longer: what they
/// show is that it is forgotten, and on a busy machine the kill alone can take a second.
const FORGOTTEN: Duration = Duration::from_secs(6);
const _: () = assert!(LEASE.as_millis() + LOOK.as_millis() < FORGOTTEN.as_millis());

#[test]
#[ignore = "a publisher that the other tests start"]
fn publisher_process() {
    publishers::publish();
}

/// A registry file and a server that watches it.
struct Rig {
    folder: Folder,
    server: Server,
}

impl Rig {
    fn new(name: &str, change: impl FnOnce(&mut tickcast::config::Settings)) -> Self {
        let folder = Folder::new(name);
        let server = Server::start(|settings| {
            settings.discovery.file = Some(folder.0.join("publishers.db"));
            change(settings);
        });
        Rig { folder, server }
    }

    /// Starts a publisher of `symbol` that registers there.
    fn publisher(&self, endpoint: &str, symbol: &str, more: &[&str]) -> Publisher {
        let file = format!("file={}", self.folder.path("publishers.db"));
        Publisher::start(&[&[endpoint, symbol, &file[..]], more].concat())
    }

    fn db(&self) -> Connection {
        let db = Connection::open(self.folder.path("publishers.db")).expect("the file is there");
        db.busy_timeout(Duration::from_secs(5)).expect("an option");
        db
    }

    fn rows(&self) -> i64 {
        self.db().query_row("SELECT count(*) FROM publishers", [], |row| row.get(0)).expect("a count")
    }

    fn leases(&self) -> f64 {
        self.server.metric("tickcast_discovery_leases", &["file"])
    }

    fn heard(&self, publishers: f64) {
        self.server.await_metric("tickcast_discovery_leases", &["file"], publishers);
        self.server.await_metric("tickcast_bus_peers", &["added"], publishers);
    }
}

fn tick_of(client: &mut Client, symbol: &str) -> u64 {
    client.json_where(|v| v["symbol"] == symbol)["data"]["ltp"].as_u64().expect("a whole price")
}

#[test]
fn two_publishers_are_found_a_killed_one_is_forgotten_within_6_seconds_and_its_port_is_free_for_the_next() {
    let rig = Rig::new("two", |_| {});
    let asked = somewhere();
    let mut first = rig.publisher(&asked, "A", &[]);
    let first_at = first.endpoint();
    // Asks for the same port, finds it in use, and registers the next free one.
    let mut second = rig.publisher(&first_at, "B", &[]);
    let second_at = second.endpoint();
    let port = |endpoint: &str| endpoint.rsplit(':').next().and_then(|p| p.parse::<u16>().ok()).expect("a port");
    assert!(port(&second_at) > port(&first_at), "{first_at} {second_at}");
    rig.heard(2.0);
    let mut client = rig.server.client();
    client.subscribe(&["A", "B"], 1);
    tick_of(&mut client, "A");
    tick_of(&mut client, "B");
    client.settled();

    let killed = Instant::now();
    first.process.kill();
    within(PATIENCE, killed, "the row is gone", || rig.rows() == 1);
    within(PATIENCE, killed, "the lease is gone", || rig.leases() == 1.0);
    rig.server.await_metric("tickcast_bus_peers", &["added"], 1.0);
    let meanwhile = client.settled();
    let last = assert_gapless(&meanwhile, "B");
    assert!(meanwhile.iter().filter(|t| t["symbol"] == "B").count() > 50, "it took some seconds");

    let mut third = rig.publisher(&first_at, "A", &[]);
    assert_eq!(third.endpoint(), first_at, "the dead one's port");
    rig.heard(2.0);
    assert!(tick_of(&mut client, "A") < 1000, "it counts from the beginning");
    assert!(tick_of(&mut client, "B") > last);

    // One that ends in order takes its row along.
    let begin = Instant::now();
    second.finish();
    assert_eq!(rig.rows(), 1);
    within(PATIENCE, begin, "it has left", || rig.leases() == 1.0);
}

#[test]
fn fifty_processes_that_register_at_once_all_get_a_port_and_are_all_heard() {
    let rig = Rig::new("fifty", |_| {});
    let asked = somewhere();
    let mut all: Vec<Publisher> = (0..50).map(|n| rig.publisher(&asked, &format!("S{n}"), &[])).collect();
    let mut endpoints: Vec<String> = all.iter_mut().map(Publisher::endpoint).collect();
    endpoints.sort();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 50, "each has a port of its own");
    rig.heard(50.0);
    let mut client = rig.server.client();
    let symbols: Vec<String> = (0..50).map(|n| format!("S{n}")).collect();
    client.subscribe(&symbols.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    for symbol in &symbols {
        tick_of(&mut client, symbol);
    }
    let killed = Instant::now();
    all.iter_mut().for_each(|publisher| publisher.process.kill());
    within(PATIENCE, killed, "all are forgotten", || rig.leases() == 0.0);
    assert_eq!(rig.rows(), 0);
    rig.server.await_metric("tickcast_bus_peers", &["added"], 0.0);
}

#[test]
fn a_locked_registry_ends_no_feed_and_who_came_meanwhile_is_found_afterwards() {
    let rig = Rig::new("locked", |_| {});
    let mut steady = rig.publisher(&somewhere(), "A", &[]);
    steady.endpoint();
    rig.heard(1.0);
    let mut client = rig.server.client();
    client.subscribe(&["A", "B"], 1);
    tick_of(&mut client, "A");
    let connects = rig.server.metric("tickcast_bus_connects_total", &["added"]);
    let mut db = rig.db();
    let lock = db.transaction_with_behavior(TransactionBehavior::Exclusive).expect("locked");
    let locked = Instant::now();
    let mut late = rig.publisher(&somewhere(), "B", &[]);
    // Longer than any lease: nobody can renew meanwhile.
    let failed = || rig.server.metric("tickcast_discovery_looks_total", &["file", "failed"]);
    within(Duration::from_secs(30), locked, "looks failed for 6 s", || locked.elapsed() > FORGOTTEN && failed() >= 3.0);
    assert_eq!(rig.leases(), 1.0);
    drop(lock);
    late.endpoint();
    rig.heard(2.0);
    tick_of(&mut client, "B");
    assert_gapless(&client.settled(), "A");
    let ready = rig.server.metric("tickcast_bus_connects_total", &["added", "\"ready\""]);
    assert_eq!((connects, ready), (1.0, 2.0), "nobody was connected to twice");
}

#[test]
fn the_socket_file_of_a_killed_publisher_is_removed_and_that_of_a_live_one_stays() {
    let rig = Rig::new("ipc", |_| {});
    let paths = [rig.folder.0.join("a"), rig.folder.0.join("b")];
    let [mut dead, live] = [0, 1].map(|n| {
        let mut publisher = rig.publisher(&format!("ipc://{}", paths[n].display()), "A", &[]);
        publisher.endpoint();
        publisher
    });
    rig.heard(2.0);
    let killed = Instant::now();
    dead.process.kill();
    assert!(paths[0].exists(), "nobody has cleared it yet");
    within(PATIENCE, killed, "its socket file is removed", || !paths[0].exists());
    within(PATIENCE, killed, "its lease is gone", || rig.leases() == 1.0);
    // Stopped for longer than its lease it is forgotten, too, but it lives: its socket stays, and it is found again.
    live.process.signal("STOP");
    rig.server.await_metric("tickcast_discovery_leases", &["file"], 0.0);
    assert!(paths[1].exists());
    live.process.signal("CONT");
    rig.heard(1.0);
    live.finish();
    assert!(!paths[1].exists(), "it took it along");
}

#[test]
fn ticks_of_a_lease_that_names_a_user_are_that_users_alone_and_it_falls_back_to_nobody_elses() {
    let keys = Keys::new(&[("asha", "angel"), ("ravi", "angel")]);
    let rig = Rig::new("user", |settings| keys.set(settings));
    let mut own = rig.publisher(&somewhere(), "A", &["broker=angel", "user=asha"]);
    own.endpoint();
    let mut shared = rig.publisher(&somewhere(), "B", &["broker=angel"]);
    shared.endpoint();
    rig.heard(2.0);
    let (mut asha, mut ravi) = (rig.server.client_of("asha"), rig.server.client_of("ravi"));
    asha.subscribe(&["A", "B"], 1);
    ravi.subscribe(&["A", "B"], 1);
    tick_of(&mut asha, "A");
    tick_of(&mut ravi, "B");
    own.finish();
    rig.heard(1.0);
    // Ravi has had more of B than Asha could have missed.
    let seen = tick_of(&mut ravi, "B");
    while tick_of(&mut ravi, "B") < seen + 10 {}
    assert!(asha.settled().iter().all(|tick| tick["symbol"] == "A"));
    assert!(ravi.settled().iter().all(|tick| tick["symbol"] == "B"));
}

#[test]
fn an_endpoint_that_an_adapter_process_names_for_its_user_is_no_longer_everybodys() {
    let keys = Keys::new(&[("asha", "angel"), ("ravi", "angel")]);
    let rig = Rig::new("hello", |settings| {
        keys.set(settings);
        settings.brokers = BTreeMap::from([("angel".into(), Broker { kind: AdapterKind::Bus, ..Default::default() })]);
    });
    let mut publisher = rig.publisher(&somewhere(), "A", &[]);
    let endpoint = publisher.endpoint();
    rig.heard(1.0);
    let (mut asha, mut ravi) = (rig.server.client_of("asha"), rig.server.client_of("ravi"));
    asha.subscribe(&["A"], 1);
    ravi.subscribe(&["A"], 1);
    tick_of(&mut asha, "A");
    tick_of(&mut ravi, "A");
    let hello = json!({"broker": "angel", "user": "asha", "publishes": [endpoint]});
    let process = AdapterProcess::start(&rig.server.control, &hello);
    rig.server.await_metric("tickcast_bus_connects_total", &["added", "\"ready\""], 2.0);
    rig.heard(1.0);
    let from = tick_of(&mut asha, "A");
    while tick_of(&mut asha, "A") < from + 10 {}
    ravi.settled();
    while tick_of(&mut asha, "A") < from + 30 {}
    assert_eq!(ravi.settled(), [] as [serde_json::Value; 0], "it is hers alone");
    drop(process);
}

#[test]
fn the_port_of_a_killed_users_publisher_goes_to_no_other_user_while_the_server_may_connect_there() {
    let keys = Keys::new(&[("asha", "angel"), ("ravi", "angel")]);
    let rig = Rig::new("cross", |settings| keys.set(settings));
    let mut ashas = rig.publisher(&somewhere(), "A", &["broker=angel", "user=asha"]);
    let at = ashas.endpoint();
    rig.heard(1.0);
    let (mut asha, mut ravi) = (rig.server.client_of("asha"), rig.server.client_of("ravi"));
    asha.subscribe(&["A", "B"], 1);
    ravi.subscribe(&["B"], 1);
    tick_of(&mut asha, "A");
    ashas.process.kill();
    let mut ravis = rig.publisher(&at, "B", &["broker=angel", "user=ravi"]);
    assert_ne!(ravis.endpoint(), at, "it is free, but asha's");
    let mut again = rig.publisher(&at, "A", &["broker=Angel", "user=asha"]);
    assert_eq!(again.endpoint(), at, "she has it back at once");
    let first = tick_of(&mut ravi, "B");
    while tick_of(&mut ravi, "B") < first + 50 {}
    assert!(asha.settled().iter().all(|tick| tick["symbol"] == "A"));
}

#[test]
fn rows_that_cannot_be_used_are_counted_and_ignored() {
    let rig = Rig::new("rows", |_| {});
    let mut good = rig.publisher(&somewhere(), "A", &[]);
    good.endpoint();
    rig.heard(1.0);
    let values = [
        "('tcp://10.9.8.7:5555', NULL, NULL, 1, unixepoch() * 1000 + 3000)".to_owned(),
        format!("('{}', NULL, NULL, 1, unixepoch() * 1000 + 3000)", rig.server.bus),
        "('tcp://127.0.0.1:1', NULL, NULL, 1, 'for ever')".to_owned(),
    ];
    for values in values {
        rig.db().execute(&format!("INSERT INTO publishers VALUES {values}"), []).expect("written");
    }
    for cause in ["endpoint", "taken", "malformed"] {
        rig.server.await_metric("tickcast_discovery_rejected_total", &[&format!("\"{cause}\"")], 1.0);
    }
    assert_eq!(rig.leases(), 1.0);
}

#[test]
fn one_that_does_not_register_never_slides_but_says_which_port_is_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("tcp://{}", taken.local_addr().expect("bound"));
    let mut publisher = Publisher::start(&[&endpoint, "A"]);
    let status = publisher.process.wait(PATIENCE);
    let said = publisher.process.stderr();
    assert_eq!(status.code(), Some(3), "{said}");
    let clear = format!("cannot bind {endpoint}: somebody else listens there");
    assert!(said.contains(&clear) && said.contains("registers"), "{said}");
}
