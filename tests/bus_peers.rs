//! Publishers that come, go, come late and overload: over tcp and ipc, bound and connected, ours and the crate's.

mod bus_support;

use bus_support::{RawPub, Rig, quick, spec};
use bytes::Bytes;
use std::time::Duration;
use tickcast::adapter::publisher::{self, BatchLimits, BatchPublisher, Publish};
use tickcast::bus::endpoints::{BindCause, BusListeners};
use tickcast::zmtp::Direction::{Bind, Connect};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

fn directory(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("tickcast-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).expect("a new directory");
    path
}

fn two_frames(topic: &str, body: &str) -> ZmqMessage {
    ZmqMessage::try_from(vec![Bytes::from(topic.to_owned()), Bytes::from(body.to_owned())]).expect("two frames")
}

#[tokio::test]
async fn publishers_of_both_versions_and_the_crate_s_arrive_in_order() {
    let mut rig = Rig::bound();
    let (mut old, mut new) = (RawPub::connect(&rig.address(), 0).await, RawPub::connect(&rig.address(), 1).await);
    let mut crates = PubSocket::new();
    crates.connect(&rig.endpoint().to_string()).await.expect("connected");
    // A PUB drops what it sends before it has read the subscription.
    let mut seen = String::new();
    while seen.is_empty() {
        crates.send(two_frames("C", "hello")).await.expect("sent");
        if let Ok(text) = tokio::time::timeout(Duration::from_millis(20), rig.text()).await {
            seen = text;
        }
    }
    for i in 0..500 {
        old.send("A", &i.to_string()).await;
        new.send("B", &i.to_string()).await;
        crates.send(two_frames("C", &i.to_string())).await.expect("sent");
        if i % 100 == 0 {
            new.ping().await;
        }
    }
    let mut next = [0; 3];
    while next != [500; 3] {
        let message = rig.next().await;
        if &message.body[..] == b"hello" {
            continue;
        }
        let at = usize::from(message.topic[0] - b'A');
        assert_eq!(message.body, next[at].to_string(), "topic {at}");
        next[at] += 1;
    }
    assert_eq!(rig.handle.statuses()[0].peers(), 3);
    assert_eq!(rig.metric("tickcast_bus_peers{endpoint=\"0\"}"), 3.0);
    rig.stop().await;
    assert_eq!(rig.metric("tickcast_bus_peers{endpoint=\"0\"}"), 0.0);
}

#[tokio::test]
async fn a_publisher_that_binds_late_and_restarts_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let mut rig = Rig::start(&[spec(Connect, &format!("tcp://{address}"))], quick());
    // Refused at least once before anybody listens.
    while rig.metric("tickcast_bus_connects_total{endpoint=\"0\",outcome=\"unreachable\"}") == 0.0 {
        tokio::task::yield_now().await;
    }
    for round in 0..3 {
        let listener = TcpListener::bind(address).await.expect("the port again");
        let mut publisher = RawPub::greet(listener.accept().await.expect("a SUB").0, 1).await;
        publisher.send("A", &round.to_string()).await;
        assert_eq!(rig.text().await, format!("A={round}"));
    }
    assert_eq!(rig.sources.len(), 1, "one endpoint is one source across reconnects");
    // One that accepts and says nothing, then one that says nonsense, then a good one.
    let listener = TcpListener::bind(address).await.expect("the port again");
    let (mute, _) = listener.accept().await.expect("a SUB");
    let (nonsense, _) = listener.accept().await.expect("again after the deadline");
    nonsense.try_write(b"SSH-2.0\r\n").expect("room");
    let mut publisher = RawPub::greet(listener.accept().await.expect("again").0, 0).await;
    publisher.send("A", "last").await;
    assert_eq!(rig.text().await, "A=last");
    assert_eq!((rig.rejected("zmtp_handshake_timeout"), rig.rejected("zmtp_signature")), (1.0, 1.0));
    drop(mute);
    rig.stop().await;
}

#[tokio::test]
async fn endpoints_can_be_added_and_removed_while_running() {
    let mut rig = Rig::bound();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("tcp://{}", listener.local_addr().expect("bound"));
    let (id, status) = rig.handle.add_connect(spec(Connect, &endpoint)).expect("running");
    let mut publisher = RawPub::greet(listener.accept().await.expect("a SUB").0, 1).await;
    publisher.send("A", "1").await;
    assert_eq!(rig.text().await, "A=1");
    assert_eq!(status.peers(), 1);
    rig.handle.remove(id).expect("running");
    bus_support::closed(&mut publisher.stream).await;
    assert_eq!(status.peers(), 0);
    rig.stop().await;
    assert!(rig.handle.add_connect(spec(Connect, &endpoint)).is_err());
}

#[tokio::test]
async fn ipc_works_both_ways_and_leaves_no_file() {
    let directory = directory("ipc");
    let (ours, theirs) = (directory.join("ours"), directory.join("theirs"));
    let specs =
        [spec(Bind, &format!("ipc://{}", ours.display())), spec(Connect, &format!("ipc://{}", theirs.display()))];
    let mut rig = Rig::start(&specs, quick());
    let listener = UnixListener::bind(&theirs).expect("a path");
    let mut bound = RawPub::greet(listener.accept().await.expect("a SUB").0, 1).await;
    let mut connected = RawPub::greet(UnixStream::connect(&ours).await.expect("listening"), 0).await;
    bound.send("A", "1").await;
    assert_eq!(rig.text().await, "A=1");
    connected.send("B", "2").await;
    assert_eq!(rig.text().await, "B=2");
    rig.stop().await;
    assert!(!ours.exists() && theirs.exists());
    let _ = std::fs::remove_dir_all(directory);
}

#[tokio::test]
async fn a_stale_ipc_file_is_replaced_but_a_live_one_and_a_plain_file_are_not() {
    let directory = directory("stale");
    let (stale, live, plain) = (directory.join("stale"), directory.join("live"), directory.join("plain"));
    drop(UnixListener::bind(&stale).expect("a path"));
    assert!(stale.exists());
    let _listener = UnixListener::bind(&live).expect("a path");
    std::fs::write(&plain, "precious").expect("written");
    let bind =
        |path: &std::path::Path| BusListeners::bind(&[spec(Bind, &format!("ipc://{}", path.display()))], quick());
    assert!(bind(&stale).is_ok());
    assert!(!stale.exists(), "removed when dropped");
    let error = bind(&live).expect_err("in use");
    assert!(matches!(error.cause, BindCause::InUse) && error.to_string().contains("live"), "{error}");
    assert!(matches!(bind(&plain).expect_err("no socket").cause, BindCause::NotASocket));
    assert_eq!(std::fs::read_to_string(&plain).expect("still there"), "precious");
    let _ = std::fs::remove_dir_all(directory);
}

#[tokio::test]
async fn a_taken_port_is_named_in_the_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("tcp://{}", taken.local_addr().expect("bound"));
    let error =
        BusListeners::bind(&[spec(Bind, "tcp://127.0.0.1:0"), spec(Bind, &endpoint)], quick()).expect_err("taken");
    assert_eq!(error.to_string(), format!("cannot bind {endpoint}: somebody else listens there"));
}

#[tokio::test]
async fn when_ingest_stalls_ticks_are_conflated_orders_kept_and_memory_bounded() {
    let mut config = quick();
    config.per_source_bytes = 128 << 10;
    let mut rig = Rig::start(&[spec(Bind, "tcp://127.0.0.1:0")], config);
    let mut publisher = RawPub::connect(&rig.address(), 1).await;
    let padding = "x".repeat(200);
    // 20,000 ticks of 100 instruments, 200 orders among them, some in batches; nobody takes anything meanwhile.
    for i in 0..20_000 {
        publisher.send(&format!("T{}", i % 100), &format!("{i} {padding}")).await;
        if i % 100 == 50 {
            let order = i / 100;
            publisher.send("BATCH", &format!("U_orders={order}\nT7=batch {order}")).await;
        }
    }
    publisher.ping().await;
    assert!(rig.budget.used() <= 128 << 10);
    assert!(rig.overflow_budget.used() <= 128 << 10, "{}", rig.overflow_budget.used());
    assert!(rig.metric("tickcast_ticks_merged_total{where=\"source\"}") > 10_000.0);
    assert_eq!(rig.rejected("source_overflow"), 0.0);
    // Once ingest goes on, all orders come in order, and of each topic the newest value comes last.
    publisher.send("END", "").await;
    let (mut orders, mut newest) = (0, std::collections::BTreeMap::new());
    loop {
        let message = rig.next().await;
        let body = String::from_utf8(message.body.to_vec()).expect("text");
        match &message.topic[..] {
            b"END" => break,
            b"U_orders" => {
                assert_eq!(body, orders.to_string());
                orders += 1;
            }
            b"BATCH" => {
                assert!(body.starts_with(&format!("U_orders={orders}\n")), "{body} {orders}");
                orders += 1;
            }
            topic => drop(newest.insert(topic.to_vec(), body)),
        }
    }
    assert_eq!(orders, 200);
    for topic in 0..100 {
        let value = &newest[format!("T{topic}").as_bytes()];
        let expected = if topic == 7 { "batch 199".to_owned() } else { format!("{} {padding}", 19_900 + topic) };
        assert_eq!(*value, expected, "T{topic}");
    }
    rig.stop().await;
    assert_eq!(rig.overflow_budget.used(), 0);
}

#[tokio::test]
async fn a_flood_of_orders_that_nobody_takes_ends_its_sender_and_keeps_what_it_took() {
    let mut config = quick();
    config.per_source_bytes = 32 << 10;
    let mut rig = Rig::start(&[spec(Bind, "tcp://127.0.0.1:0")], config);
    let mut publisher = RawPub::connect(&rig.address(), 1).await;
    let mut bytes = bytes::BytesMut::new();
    for i in 0..10_000 {
        tickcast::zmtp::parser::message(&[b"U_orders", format!("{i}").as_bytes()], &mut bytes);
    }
    let _ = tokio::io::AsyncWriteExt::write_all(&mut publisher.stream, &bytes).await;
    bus_support::closed(&mut publisher.stream).await;
    assert_eq!(rig.rejected("lossless_flood"), 1.0);
    // What was taken before the end still arrives, in order, and then the source is over.
    assert_eq!(rig.next().await.body, "0");
    let rest = rig.rest_of_first().await;
    for (i, message) in rest.iter().enumerate() {
        assert_eq!(message.body, (i + 1).to_string());
    }
    assert!(rest.len() > 1000, "{}", rest.len());
    rig.stop().await;
}

fn publishing(endpoint: &str, direction: tickcast::zmtp::Direction) -> publisher::Config {
    let endpoint = endpoint.parse().expect(endpoint);
    publisher::Config { endpoint, direction, limits: BatchLimits::default(), queue_bytes_max: 1 << 20 }
}

/// The items of all batches until `last` has come.
async fn items_until(rig: &mut Rig, last: i64) -> Vec<i64> {
    let mut values = Vec::new();
    while values.last() != Some(&last) {
        let message = rig.next().await;
        assert_eq!(&message.topic[..], b"BATCH");
        let items: Vec<(String, i64)> = rmp_serde::from_slice(&message.body).expect("a batch");
        values.extend(items.into_iter().map(|(_, value)| value));
    }
    values
}

#[tokio::test]
async fn our_publisher_connects_again_after_the_server_restarted() {
    let mut rig = Rig::bound();
    let endpoint = rig.endpoint().to_string();
    let (publisher, task, _) = BatchPublisher::start(publishing(&endpoint, Connect)).await.expect("started");
    for i in 0..250i64 {
        assert_eq!(publisher.publish("NSE_INFY_LTP", &rmp_serde::to_vec(&i).expect("encodes")), Publish::Queued);
    }
    assert_eq!(items_until(&mut rig, 249).await, (0..250).collect::<Vec<_>>());
    rig.stop().await;
    drop(rig);
    let mut rig = Rig::start(&[spec(Bind, &endpoint)], quick());
    // The crate drops what is sent before it has noticed; so publish until something arrives.
    let (mut next, mut arrived) = (1000i64, None);
    while arrived.is_none() {
        let _ = publisher.publish("NSE_INFY_LTP", &rmp_serde::to_vec(&next).expect("encodes"));
        next += 1;
        arrived = tokio::time::timeout(Duration::from_millis(10), rig.next()).await.ok();
    }
    // What waits at shutdown is sent.
    for i in 5000..5050i64 {
        assert_eq!(publisher.publish("NSE_INFY_LTP", &rmp_serde::to_vec(&i).expect("encodes")), Publish::Queued);
    }
    task.shutdown().await;
    let values = items_until(&mut rig, 5049).await;
    assert!(values.ends_with(&(5000..5050).collect::<Vec<_>>()) && values.is_sorted(), "{values:?}");
    assert_eq!(publisher.dropped(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn our_publisher_binds_and_the_server_connects() {
    let (publisher, task, real) =
        BatchPublisher::start(publishing("tcp://127.0.0.1:0", Bind)).await.expect("a free port");
    let mut rig = Rig::start(&[spec(Connect, &real.to_string())], quick());
    let mut arrived = None;
    while arrived.is_none() {
        // A PUB drops what it publishes before somebody is there.
        assert_eq!(publisher.publish("NSE_INFY_LTP", b"\x01"), Publish::Queued);
        arrived = tokio::time::timeout(Duration::from_millis(20), rig.next()).await.ok();
    }
    for i in 0..10i64 {
        assert_eq!(
            publisher.publish("NSE_INFY_LTP", &rmp_serde::to_vec(&(100 + i)).expect("encodes")),
            Publish::Queued
        );
    }
    assert!(items_until(&mut rig, 109).await.ends_with(&(100..110).collect::<Vec<_>>()));
    task.shutdown().await;
    rig.stop().await;
}

#[tokio::test]
async fn what_a_bound_publisher_is_given_first_waits_for_its_subscriber() {
    let (publisher, task, real) =
        BatchPublisher::start(publishing("tcp://127.0.0.1:0", Bind)).await.expect("a free port");
    for i in 0..10i64 {
        assert_eq!(publisher.publish("NSE_INFY_LTP", &rmp_serde::to_vec(&i).expect("encodes")), Publish::Queued);
    }
    let mut rig = Rig::start(&[spec(Connect, &real.to_string())], quick());
    assert_eq!(items_until(&mut rig, 9).await, (0..10).collect::<Vec<_>>());
    task.shutdown().await;
    rig.stop().await;
}

#[tokio::test]
async fn a_subscriber_that_stops_reading_bounds_what_is_kept_and_is_hung_up_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (publisher, task, real) =
        BatchPublisher::start(publishing("tcp://127.0.0.1:0", Bind)).await.expect("a free port");
    let address = real.to_string();
    let mut stream = tokio::net::TcpStream::connect(&address["tcp://".len()..]).await.expect("it listens");
    stream.write_all(&tickcast::zmtp::parser::greeting()).await.expect("sent");
    stream.write_all(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB").await.expect("sent");
    // Everything, in the form of ZMTP 3.0.
    stream.write_all(b"\0\x01\x01").await.expect("sent");
    let payload = rmp_serde::to_vec(&"x".repeat(60_000)).expect("encodes");
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_secs(2), publisher.room(payload.len())).await.is_ok() {
        assert_eq!(publisher.publish("NSE_INFY_LTP", &payload), Publish::Queued);
        taken += payload.len();
        assert!(taken < 64 << 20, "nothing bounds it");
    }
    assert!(taken > 4 << 20, "{taken}");
    assert_eq!(publisher.publish("NSE_INFY_LTP", &payload), Publish::Dropped);
    assert_eq!(publisher.dropped(), 1);
    // Once it is hung up on there is room again, and somebody who reads is served.
    let patience = publisher::STALL + Duration::from_secs(10);
    tokio::time::timeout(patience, publisher.room(payload.len())).await.expect("room again");
    let mut rig = Rig::start(&[spec(Connect, &address)], quick());
    assert_eq!(&rig.next().await.topic[..], b"BATCH");
    let mut rest = Vec::new();
    let _it_ends = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.expect("the end");
    task.shutdown().await;
    rig.stop().await;
}
