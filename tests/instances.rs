//! Several servers on one machine: the audit's multi-instance check.

mod process;
mod support;

use process::{Folder, PATIENCE, Running, ready_fields, tickcast};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use support::world::Bound;
use support::{Client, Got, Publisher, Server};
use tickcast::adapter::publisher::{BatchLimits, BatchPublisher, Config, Publish};
use tickcast::zmtp::Direction;

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

/// The program, started with `WEBSOCKET_PORT` and one more variable and nothing else.
struct Instance {
    process: Running,
    ready: BTreeMap<String, String>,
    ws: SocketAddr,
}

impl Instance {
    /// On ports that nobody has; on others when somebody was faster, which it says by ending with 3.
    fn start(bus: impl Fn() -> (&'static str, String)) -> Self {
        for _ in 0..20 {
            let (ws, (name, value)) = (free_port(), bus());
            let variables = [("WEBSOCKET_PORT", &ws.to_string()[..]), (name, &value)];
            let mut process = Running::new(tickcast(&[], &variables));
            let Some(line) = process.line_within(PATIENCE) else {
                assert_eq!(process.wait(PATIENCE).code(), Some(3), "{}", process.stderr());
                continue;
            };
            let ready = ready_fields(&line);
            // Its other ports follow, so that two instances need no further word.
            let port = |base: u16| ws - 8765 + base;
            assert_eq!(ready["ws"], format!("127.0.0.1:{ws}"));
            assert_eq!(ready["admin"], format!("127.0.0.1:{}", port(9464)));
            assert_eq!(ready["control"], format!("tcp://127.0.0.1:{}", port(5655)));
            return Instance { process, ws: ready["ws"].parse().expect("an address"), ready };
        }
        panic!("no free ports");
    }

    /// A client that has subscribed to its market.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.ws);
        let reply = client.request(json!({"action": "authenticate", "api_key": "demo-key"}));
        assert_eq!(reply["status"], "success", "{reply}");
        client.subscribe(&["INFY", "END"], 1);
        client
    }
}

/// High enough for all that follow it.
fn free_port() -> u16 {
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    std::iter::repeat_with(port).find(|port| (10_000..64_000).contains(port)).expect("endless")
}

/// Sends each instance's market by its own publisher and sees that each client has its own only, also when the first instance
/// is killed.
fn never_mix(mut instances: [Instance; 2], mut send: impl FnMut(usize, &str, f64)) {
    let mut clients = [instances[0].client(), instances[1].client()];
    let mut round = |clients: &mut [Client], live: std::ops::Range<usize>, price: f64| {
        for at in live.clone() {
            send(at, "INFY", price + at as f64);
            send(at, "END", 0.0);
        }
        for at in live {
            let prices: Vec<_> = clients[at].ticks_before("END").iter().map(|t| t["data"]["ltp"].clone()).collect();
            assert_eq!(prices, [json!(price + at as f64)], "instance {at}");
        }
    };
    round(&mut clients, 0..2, 100.0);
    round(&mut clients, 0..2, 200.0);
    for client in &mut clients {
        assert!(client.settled().is_empty(), "nothing of the other's");
    }
    instances[0].process.kill();
    round(&mut clients, 1..2, 300.0);
    assert!(clients[1].settled().is_empty());
}

#[test]
fn two_programs_with_zmq_pub_port_and_the_publishers_that_bind_there_never_mix() {
    let bound = [Bound::new(), Bound::new()];
    let instances = [0, 1].map(|at| {
        let port = bound[at].1.rsplit(':').next().expect("a port").to_owned();
        Instance::start(|| ("ZMQ_PUB_PORT", port.clone()))
    });
    let mut publishers = bound.each_ref().map(|(bound, _)| bound.accept());
    for (instance, (_, endpoint)) in instances.iter().zip(&bound) {
        assert_eq!(&instance.ready["bus"], endpoint);
    }
    never_mix(instances, |at, symbol, price| publishers[at].ltp(symbol, price));
}

#[test]
fn two_programs_with_zmq_port_and_the_publishers_that_connect_there_never_mix() {
    let instances = [0, 1].map(|_| Instance::start(|| ("ZMQ_PORT", free_port().to_string())));
    let mut publishers =
        instances.each_ref().map(|i| Publisher::connect(i.ready["bus"].strip_prefix("tcp://").expect("tcp")));
    never_mix(instances, |at, symbol, price| publishers[at].ltp(symbol, price));
}

#[test]
fn two_programs_and_their_publishers_over_ipc_names_never_mix() {
    let folder = Folder::new("instances");
    let endpoints = ["first", "second"].map(|name| format!("ipc://{}", folder.path(name)));
    let instances = endpoints.each_ref().map(|endpoint| Instance::start(|| ("TICKCAST_BUS_BIND", endpoint.clone())));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let publishers = endpoints.each_ref().map(|endpoint| {
        let config = Config {
            endpoint: endpoint.parse().expect("an endpoint"),
            direction: Direction::Connect,
            limits: BatchLimits::default(),
            queue_bytes_max: 1 << 20,
        };
        runtime.block_on(BatchPublisher::start(config)).expect("it connects")
    });
    never_mix(instances, |at, symbol, price| {
        let payload = rmp_serde::to_vec_named(&json!({ "ltp": price })).expect("a map");
        assert_eq!(publishers[at].0.publish(&format!("NSE_{symbol}_LTP"), &payload), Publish::Queued);
    });
}
