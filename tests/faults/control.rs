//! Between adapter processes and the control channel.

use crate::process::{Server, words};
use crate::publishers::within;
use crate::support::dealer::AdapterProcess;
use crate::support::path::{Healed, Path};
use crate::support::world::Bound;
use crate::{BACK, CUT, Child, address, client, counting_goes_on, endpoint, nothing_is_left, rest};
use serde_json::json;
use std::io::BufRead;
use std::time::{Duration, Instant};

#[test]
#[ignore = "an adapter process that another test starts, at a given control channel"]
fn adapter_process() {
    let (bound, at) = Bound::new();
    let process = AdapterProcess::start(&words()[0], &json!({"broker": "external", "publishes": [at]}));
    println!("ready {at}");
    let ticking = std::thread::spawn(move || {
        let mut publisher = bound.accept();
        for price in 1_u32.. {
            publisher.ltp("A", f64::from(price));
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    for _held in std::io::stdin().lock().lines().map_while(Result::ok) {
        println!("held {}", json!(process.held()));
    }
    drop(ticking);
}

/// A server whose demo user is served by adapter processes.
fn served_by_processes() -> Server {
    Server::anywhere(&["--set", "adapters.default=external", "--set", "adapters.control_bind=tcp://127.0.0.1:0"])
}

#[test]
fn a_killed_adapter_process_is_served_anew_when_it_returns() {
    let server = served_by_processes();
    let mut adapter = Child::start("adapter_process", &[&server.control]);
    let mut client = client(&server, "demo-key");
    client.subscribe(&["A", "B"], 1);
    client.subscribe(&["A"], 2);
    let wanted = json!(["A/1", "A/2", "B/1"]);
    server.await_that("everything is held", || adapter.held() == wanted);
    counting_goes_on(&mut client, Instant::now(), "A", 0);
    let fds = server.process.fds();
    for _ in 0..3 {
        adapter.process.kill();
        server.await_metric("tickcast_control_sessions", &[], 0.0);
        server.await_metric("tickcast_adapters", &["external", "\"down\""], 1.0);
        client.settled();
        adapter = Child::start("adapter_process", &[&server.control]);
        counting_goes_on(&mut client, Instant::now(), "A", 0);
        server.await_that("exactly the same is held", || adapter.held() == wanted);
        server.await_metric("tickcast_adapters", &["external", "\"live\""], 1.0);
        nothing_is_left(&server, fds);
    }
    assert!(server.metric("tickcast_subscription_events_total", &["\"replayed\""]) >= 9.0);
}

#[test]
fn a_network_cut_between_adapter_process_and_control_channel_heals_by_itself_however_long_it_is() {
    // Shorter and longer than a process may be silent.
    let scenario = |time: Duration| {
        let server = served_by_processes();
        let path = Path::to(address(&server.control));
        let adapter = AdapterProcess::start(&endpoint(path.at), &json!({"broker": "external"}));
        let mut client = client(&server, "demo-key");
        client.subscribe(&["A"], 1);
        let fds = server.process.fds();
        path.cut();
        rest(time);
        let since = Instant::now();
        path.heal(Healed::GoesOn);
        client.send(json!({"action": "subscribe", "symbol": "B", "exchange": "NSE", "mode": 1}));
        within(BACK, since, &format!("both are held after {time:?}"), || adapter.held() == ["A/1", "B/1"]);
        let ack = client.json_where(|v| v["type"] == "subscribe");
        assert_eq!(ack["subscriptions"][0]["status"], "success", "{ack}");
        server.await_metric("tickcast_adapters", &["external", "\"live\""], 1.0);
        nothing_is_left(&server, fds);
        server.metric("tickcast_control_rejected_total", &["\"silent\""])
    };
    std::thread::scope(|scope| {
        let [short, long] = [CUT, Duration::from_secs(8)].map(|time| scope.spawn(move || scenario(time)));
        short.join().expect("recovered");
        assert!(long.join().expect("recovered") >= 1.0, "it was taken for dead");
    });
}
