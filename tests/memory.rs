//! Many clients on one machine: what an idle one costs the server in resident memory, and how soon all of them are in.
//!
//! In the test run 500 clients of each format; the figures of docs/PERFORMANCE.md, with 1000 and 10,000:
//! `CLIENTS=1000,10000 SERVER_BINARY=target/release/tickcast cargo test --test memory -- --nocapture`. The server is a process of its own, so its
//! memory is its alone; clients come from several addresses of loopback. Buffers in the kernel are not counted.

mod support;

use serde_json::{Value, json};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use support::Client;
use support::process::Process;
use tickcast::net::sys::raise_file_limit;

/// What each client subscribes to, and of how many.
const SUBSCRIPTIONS: usize = 50;
const UNIVERSE: usize = 500;
/// Threads that connect clients, and source addresses, one each.
const THREADS: usize = 8;
/// An idle client may cost this much; and when there are only a few, among whom what is there once is shared out.
const CLIENT_BYTES_MAX: usize = 8 << 10;
const CLIENT_BYTES_MAX_OF_FEW: usize = 12 << 10;
const MSGPACK: &str = "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n";

/// What the clients of one run cost.
struct Cost {
    rss_before: usize,
    rss_after: usize,
    connected: Duration,
    authenticated: Duration,
    subscribed: Duration,
}

/// Reads one frame and looks no further: decoding ten thousand acknowledgements would cost more than making them.
fn reply(client: &mut Client) {
    let mut head = [0; 2];
    client.tcp.read_exact(&mut head).expect("a reply");
    let mut length = [0; 8];
    let bytes = match head[1] {
        126 => &mut length[6..],
        127 => &mut length[..],
        short => return client.tcp.read_exact(&mut vec![0; usize::from(short)]).expect("its payload"),
    };
    client.tcp.read_exact(bytes).expect("its length");
    client.tcp.read_exact(&mut vec![0; u64::from_be_bytes(length) as usize]).expect("its payload");
}

/// All clients do the same, each thread for its own ones in turn.
fn all(clients: &mut [Vec<Client>], act: impl Fn(usize, &mut Client) + Sync) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for clients in clients {
            scope.spawn(|| clients.iter_mut().enumerate().for_each(|(n, client)| act(n, client)));
        }
    });
    started.elapsed()
}

/// Connects `count` clients that authenticate, subscribe, and then do nothing.
fn idle_clients(count: usize, headers: &'static str) -> Cost {
    let server = Process::start(&["limits.sessions=20000", "limits.ping_interval=0"]);
    // Once through everything, so that what is made once is not counted.
    let mut first = Client::connect_to(server.ws, "/", headers).0;
    first.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    reply(&mut first);
    server.await_metric("tickcast_clients_connected", &[], |n| n == 1.0);
    let rss_before = server.rss();
    let started = Instant::now();
    let mut clients: Vec<Vec<Client>> = std::thread::scope(|scope| {
        let connecting: Vec<_> = (0..THREADS)
            .map(|thread| {
                let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 10 + thread as u8));
                let share = count / THREADS + usize::from(thread < count % THREADS);
                scope.spawn(move || (0..share).map(|_| Client::connect_from(from, server.ws, headers)).collect())
            })
            .collect();
        connecting.into_iter().map(|thread| thread.join().expect("connected")).collect()
    });
    let connected = started.elapsed();
    let authenticated = all(&mut clients, |_, client| {
        client.send(json!({"action": "authenticate", "api_key": "demo-key"}));
        reply(client);
    });
    let subscribed = all(&mut clients, |n, client| {
        let symbols: Vec<Value> = (0..SUBSCRIPTIONS)
            .map(|i| json!({"symbol": format!("SYMBOL{}", (n * 7 + i * UNIVERSE / SUBSCRIPTIONS) % UNIVERSE), "exchange": "NSE"}))
            .collect();
        client.send(json!({"action": "subscribe", "symbols": symbols, "mode": 1}));
        reply(client);
    });
    server.await_metric("tickcast_subscriptions_active", &[], |n| n as usize == count * SUBSCRIPTIONS);
    server.await_metric("tickcast_clients_connected", &[], |n| n as usize == count + 1);
    Cost { rss_before, rss_after: server.rss(), connected, authenticated, subscribed }
}

#[test]
fn an_idle_client_with_fifty_subscriptions_costs_a_few_kilobytes() {
    raise_file_limit().expect("as many descriptors as we may have");
    let counts = std::env::var_os("CLIENTS").map_or_else(|| "500".into(), |n| n.into_string().expect("UTF-8"));
    for (format, headers) in [("JSON", ""), ("MessagePack", MSGPACK)] {
        for count in counts.split(',').map(|n| n.parse().expect("CLIENTS is numbers and commas")) {
            let cost = idle_clients(count, headers);
            let each = (cost.rss_after - cost.rss_before) / count;
            println!(
                "{count} {format} clients: RSS {} KiB before, {} KiB after, {each} bytes each; in {:.2} s connected, {:.2} s authenticated, {:.2} s subscribed",
                cost.rss_before >> 10,
                cost.rss_after >> 10,
                cost.connected.as_secs_f64(),
                cost.authenticated.as_secs_f64(),
                cost.subscribed.as_secs_f64(),
            );
            let most = if count < 1000 { CLIENT_BYTES_MAX_OF_FEW } else { CLIENT_BYTES_MAX };
            assert!(each <= most, "{count} {format} clients cost {each} bytes each");
        }
    }
}
