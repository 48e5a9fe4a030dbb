//! Discovery by a real Redis server, killed and back, and the Python example with both registries.

use crate::process::{Folder, PATIENCE, Running, root};
use crate::publishers::{Publisher, assert_gapless, somewhere, within};
use crate::python::python;
use crate::support::{Client, Server};
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A killed publisher is forgotten within this.
const FORGOTTEN: Duration = Duration::from_secs(6);

#[test]
#[ignore = "a publisher that the other tests start"]
fn publisher_process() {
    crate::publishers::publish();
}

/// A redis-server that keeps nothing on disk; killed when dropped.
struct Redis {
    port: u16,
    process: Running,
}

impl Redis {
    /// On a port below those that the kernel gives away, so that it is still free for the next after this one's death.
    fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let ports = || 20_000 + (std::process::id() * 7 + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        (0..20).find_map(|_| Self::on(ports() as u16)).expect("redis-server starts on one of twenty ports")
    }

    fn on(port: u16) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
        command.args(["--requirepass", "s3:cret"]);
        let mut process = Running::new(command);
        while let Some(line) = process.line_within(PATIENCE) {
            if line.contains("Ready to accept connections") {
                return Some(Redis { port, process });
            }
        }
        None
    }

    fn url(&self) -> String {
        format!("redis://:s3%3Acret@127.0.0.1:{}/2", self.port)
    }

    fn word(&self) -> String {
        format!("redis={}", self.url())
    }
}

fn server_at(redis: &Redis) -> Server {
    let url = redis.url().parse().expect("a URL");
    Server::start(|settings| settings.discovery.redis = Some(url))
}

/// So many are registered in Redis, and so many heard in all.
fn heard(server: &Server, leases: f64, peers: f64) {
    server.await_metric("tickcast_discovery_leases", &["redis"], leases);
    server.await_metric("tickcast_bus_peers", &["added"], peers);
}

fn leases(server: &Server) -> f64 {
    server.metric("tickcast_discovery_leases", &["redis"])
}

fn tick_of(client: &mut Client, symbol: &str) -> u64 {
    client.json_where(|v| v["symbol"] == symbol)["data"]["ltp"].as_u64().expect("a whole price")
}

#[test]
fn publishers_in_redis_are_found_and_a_killed_one_is_forgotten_within_6_seconds_and_replaced_on_its_port() {
    let redis = Redis::start();
    let server = server_at(&redis);
    let mut first = Publisher::start(&[&somewhere(), "A", &redis.word()]);
    let at = first.endpoint();
    let mut second = Publisher::start(&[&at, "B", &redis.word()]);
    assert_ne!(second.endpoint(), at, "it takes the next free port");
    heard(&server, 2.0, 2.0);
    let mut client = server.client();
    client.subscribe(&["A", "B"], 1);
    tick_of(&mut client, "A");
    tick_of(&mut client, "B");
    client.settled();
    let killed = Instant::now();
    first.process.kill();
    within(PATIENCE, killed, "the lease is gone", || leases(&server) == 1.0);
    server.await_metric("tickcast_bus_peers", &["added"], 1.0);
    assert_gapless(&client.settled(), "B");
    let mut third = Publisher::start(&[&at, "A", &redis.word()]);
    assert_eq!(third.endpoint(), at, "the dead one's port");
    heard(&server, 2.0, 2.0);
    tick_of(&mut client, "A");
    let begin = Instant::now();
    second.finish();
    within(PATIENCE, begin, "it has left", || leases(&server) == 1.0);
}

#[test]
fn a_redis_that_dies_and_comes_back_empty_ends_no_feed() {
    let mut redis = Redis::start();
    let server = server_at(&redis);
    let mut steady = Publisher::start(&[&somewhere(), "A", &redis.word()]);
    steady.endpoint();
    heard(&server, 1.0, 1.0);
    let mut client = server.client();
    client.subscribe(&["A", "B"], 1);
    tick_of(&mut client, "A");
    client.settled();
    redis.process.kill();
    let down = Instant::now();
    let looks = |outcome| server.metric("tickcast_discovery_looks_total", &["redis", outcome]);
    within(Duration::from_secs(30), down, "it was down for 6 s", || {
        down.elapsed() > FORGOTTEN && looks("failed") >= 3.0
    });
    assert_eq!(leases(&server), 1.0);
    let mut redis = Redis::on(redis.port).expect("its port is free again");
    let mut late = Publisher::start(&[&somewhere(), "B", &redis.word()]);
    late.endpoint();
    heard(&server, 2.0, 2.0);
    tick_of(&mut client, "B");
    // Long past any grace both still hold.
    let found = looks("found");
    within(Duration::from_secs(30), Instant::now(), "many looks", || looks("found") >= found + 12.0);
    assert_eq!(leases(&server), 2.0);
    assert_gapless(&client.settled(), "A");
    assert_eq!(server.metric("tickcast_bus_connects_total", &["added", "\"ready\""]), 2.0, "nobody was left");
    // A server that answers but takes no writes lets keys run out: that ends nobody either.
    let mut cli = Command::new("redis-cli");
    cli.args(["--no-auth-warning", "-a", "s3:cret", "-p", &redis.port.to_string()]);
    assert!(cli.args(["config", "set", "min-replicas-to-write", "1"]).status().expect("redis-cli").success());
    let (begin, failed) = (Instant::now(), looks("failed"));
    within(Duration::from_secs(30), begin, "6 s", || begin.elapsed() > FORGOTTEN && looks("failed") >= failed + 3.0);
    assert_eq!(leases(&server), 2.0);
    redis.process.kill();
}

#[test]
fn fifty_processes_register_in_redis_at_once() {
    let redis = Redis::start();
    let server = server_at(&redis);
    let asked = somewhere();
    let mut all: Vec<_> = (0..50).map(|n| Publisher::start(&[&asked, &format!("S{n}"), &redis.word()])).collect();
    all.iter_mut().for_each(|publisher| _ = publisher.endpoint());
    heard(&server, 50.0, 50.0);
    let killed = Instant::now();
    all.iter_mut().for_each(|publisher| publisher.process.kill());
    within(PATIENCE, killed, "all are forgotten", || leases(&server) == 0.0);
}

/// The example, ready.
fn example(port: u16, words: &[&str]) -> (Running, String) {
    let mut command = Command::new(python());
    command.arg(root().join("examples/register_publisher.py")).args(words).args(["--port", &port.to_string()]);
    let mut process = Running::new(command);
    let line = process.line();
    let endpoint = line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line}")).to_owned();
    (process, endpoint)
}

#[test]
fn the_python_example_registers_in_a_file_and_in_redis_slides_leaves_and_without_a_registry_says_what_is_in_use() {
    let (redis, folder) = (Redis::start(), Folder::new("python"));
    let file = folder.path("publishers.db");
    let url = redis.url().parse().expect("a URL");
    let server = Server::start(|settings| {
        settings.discovery.redis = Some(url);
        settings.discovery.file = Some(file.clone().into());
    });
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let (mut one, one_at) = example(port, &["A", "--file", &file]);
    let (mut two, two_at) = example(port, &["B", "--redis", &redis.url()]);
    assert!(one_at != two_at && !one_at.ends_with(&format!(":{port}")), "{one_at} {two_at}");
    server.await_metric("tickcast_discovery_leases", &["file"], 1.0);
    heard(&server, 1.0, 2.0);
    let mut client = server.client();
    client.subscribe(&["A", "B"], 1);
    tick_of(&mut client, "A");
    tick_of(&mut client, "B");
    let killed = Instant::now();
    one.kill();
    within(PATIENCE, killed, "it is forgotten", || server.metric("tickcast_discovery_leases", &["file"]) == 0.0);
    let begin = Instant::now();
    two.signal("TERM");
    within(PATIENCE, begin, "it has left", || leases(&server) == 0.0);
    assert!(two.wait(PATIENCE).success(), "{}", two.stderr());
    let mut command = Command::new(python());
    command.arg(root().join("examples/register_publisher.py")).args(["A", "--port", &port.to_string()]);
    let mut alone = Running::new(command);
    assert!(!alone.wait(PATIENCE).success());
    let said = alone.stderr();
    assert!(said.contains(&format!("port {port} is in use")), "{said}");
}
