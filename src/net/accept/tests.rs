//! The front door over real loopback sockets; deadlines run on paused time.

use super::*;
use std::collections::VecDeque;
use std::io::{Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn head(more: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n{KEY}{more}\r\n"
    )
}

fn config() -> Config {
    Config {
        sessions: 100,
        sessions_per_ip: 100,
        handshakes_max: 32,
        handshake: Duration::from_secs(10),
        msgpack: true,
        overload: Default::default(),
    }
}

struct Running {
    addr: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    recorder: metrics_exporter_prometheus::PrometheusRecorder,
}

impl Running {
    /// Must be called within a `LocalSet`.
    fn start(config: Config) -> Self {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1024, 64 << 10).expect("bound");
        let addr = listener.local_addr().expect("address");
        let (sink, accepted) = mpsc::channel(64);
        let (stop, stopping) = watch::channel(false);
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let metrics = ::metrics::with_local_recorder(&recorder, Metrics::register);
        let sink = move |a| sink.try_send(a).expect("the test takes what it asked for");
        let served = tokio::task::spawn_local(async move {
            run(listener, config, metrics, stopping, sink).await.expect("registered");
        });
        Running { addr, accepted, stop, served, recorder }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("connected")
    }

    /// Sends `request` and returns everything up to the end of the stream.
    async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.write_all(request.as_bytes()).await.expect("sent");
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.expect("answered and closed");
        reply
    }

    async fn upgraded(&mut self) -> (TcpStream, Accepted) {
        let mut client = self.connect().await;
        client.write_all(head("").as_bytes()).await.expect("sent");
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
        (client, self.accepted.recv().await.expect("handed on"))
    }

    fn counted(&self, series: &str) -> bool {
        self.recorder.handle().render().lines().any(|l| l == series)
    }
}

async fn read_head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

#[tokio::test(flavor = "local")]
async fn an_upgrade_keeps_the_bytes_behind_the_request_and_the_socket_works_both_ways() {
    let mut door = Running::start(config());
    let before = Instant::now();
    let mut client = door.connect().await;
    let request = head("Sec-WebSocket-Protocol: chat, tickcast.v1.msgpack\r\n") + "\u{1}early bytes";
    client.write_all(request.as_bytes()).await.expect("sent");
    let reply = read_head(&mut client).await.to_ascii_lowercase();
    assert!(reply.starts_with("http/1.1 101 "), "{reply}");
    // The answer that RFC 6455 gives for its sample key.
    assert!(reply.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{reply}");
    assert!(reply.contains("sec-websocket-protocol: tickcast.v1.msgpack"), "{reply}");
    let accepted = door.accepted.recv().await.expect("handed on");
    assert_eq!(accepted.format, Format::MsgPack);
    assert_eq!(accepted.peer, client.local_addr().expect("address"));
    assert!(accepted.accepted_at >= before && accepted.accepted_at <= Instant::now());

    let mut early = accepted.early.to_vec();
    accepted.tcp.set_nonblocking(false).expect("was non-blocking");
    let mut server = accepted.tcp;
    while early.len() < 12 {
        let mut byte = [0];
        server.read_exact(&mut byte).expect("the rest is still in the socket");
        early.extend(byte);
    }
    assert_eq!(early, b"\x01early bytes");
    server.write_all(b"tick").expect("sent");
    let mut tick = [0; 4];
    client.read_exact(&mut tick).await.expect("read");
    assert_eq!(&tick, b"tick");
}

#[tokio::test(flavor = "local")]
async fn a_socket_is_handed_on_non_blocking() {
    let mut door = Running::start(config());
    let (_client, mut accepted) = door.upgraded().await;
    assert_eq!(accepted.tcp.read(&mut [0]).expect_err("nothing was sent").kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "local")]
async fn msgpack_that_is_not_served_becomes_json_without_an_echo() {
    let mut door = Running::start(Config { msgpack: false, ..config() });
    let mut client = door.connect().await;
    client.write_all(head("Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n").as_bytes()).await.expect("sent");
    let reply = read_head(&mut client).await.to_ascii_lowercase();
    assert!(reply.starts_with("http/1.1 101 ") && !reply.contains("sec-websocket-protocol"), "{reply}");
    assert_eq!(door.accepted.recv().await.expect("handed on").format, Format::Json);
}

#[tokio::test(flavor = "local")]
async fn a_browser_that_opens_the_port_is_told_what_it_is() {
    let door = Running::start(config());
    let reply = door.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 426 "), "{reply}");
    assert!(reply.contains("this is a WebSocket endpoint: ") && reply.contains("tickcast watch"), "{reply}");
    assert!(door.counted("tickcast_handshakes_refused_total{cause=\"not_websocket\"} 1"));
    let reply = door.ask("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 405 ") && reply.to_ascii_lowercase().contains("allow: get"), "{reply}");
}

#[tokio::test(flavor = "local")]
async fn a_full_server_answers_503_and_has_room_again_when_a_permit_is_dropped() {
    let mut door = Running::start(Config { sessions: 1, ..config() });
    let (_client, accepted) = door.upgraded().await;
    let reply = door.ask(&head("")).await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.to_ascii_lowercase().contains("retry-after: 5\r\n"), "{reply}");
    assert!(reply.contains("all 1 sessions are open (setting limits.sessions)"), "{reply}");
    assert!(door.counted("tickcast_handshakes_refused_total{cause=\"full\"} 1"));
    // Permits are dropped by workers.
    std::thread::spawn(move || drop(accepted)).join().expect("dropped");
    door.upgraded().await;
}

#[tokio::test(flavor = "local")]
async fn one_address_cannot_take_more_than_its_share() {
    let mut door = Running::start(Config { sessions_per_ip: 2, ..config() });
    let (_a, first) = door.upgraded().await;
    let (_b, _second) = door.upgraded().await;
    assert!(door.ask(&head("")).await.contains("(setting limits.sessions_per_ip)"));
    assert!(door.counted("tickcast_handshakes_refused_total{cause=\"address_full\"} 1"));
    drop(first);
    door.upgraded().await;
}

#[test]
fn permits_count_ipv6_by_network_and_forget_addresses_without_sessions() {
    let permits = Permits::new(1000, 1);
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let v6 = permits.take(ip("2001:db8:1:2::1")).expect("room");
    assert_eq!(permits.take(ip("2001:db8:1:2:ffff::9")).err(), Some(Refusal::AddressFull(1)));
    let _other = permits.take(ip("2001:db8:1:3::1")).expect("another network");
    let _v4 = permits.take(ip("10.0.0.1")).expect("room");
    assert_eq!(permits.take(ip("::ffff:10.0.0.1")).err(), Some(Refusal::AddressFull(1)));
    drop(v6);
    for n in 0..10_000u32 {
        drop(permits.take(IpAddr::from((n + 0x0b00_0000).to_be_bytes())).expect("room"));
    }
    assert!(permits.by_address.borrow().len() <= ADDRESSES_KEPT + 1, "{}", permits.by_address.borrow().len());
    assert_eq!(permits.all.load(Ordering::Relaxed), 2);
    assert_eq!(permits.take(ip("10.0.0.1")).err(), Some(Refusal::AddressFull(1)), "a sweep keeps who has sessions");
}

/// With time paused and nothing else to do, tokio moves on to the next deadline by itself.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_request_line_that_never_ends_is_cut_at_the_deadline() {
    let door = Running::start(config());
    let mut client = door.connect().await;
    client.write_all(b"GET /").await.expect("sent");
    let began = tokio::time::Instant::now();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("closed");
    assert!(rest.is_empty());
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(9) && took <= Duration::from_secs(11), "{took:?}");
    assert!(door.counted("tickcast_handshakes_refused_total{cause=\"too_slow\"} 1"));
}

/// The loris sends a header line every second, which must not move the deadline.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_slow_loris_is_cut_at_the_deadline_and_meanwhile_others_get_in() {
    let mut door = Running::start(config());
    let mut loris = door.connect().await;
    loris.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
    let began = tokio::time::Instant::now();
    let mut end = [0];
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            read = loris.read(&mut end) => {
                assert!(matches!(read, Ok(0) | Err(_)), "cut without an answer");
                break;
            }
            _ = tick.tick() => {
                let _may_be_cut = loris.write_all(b"X-Slow: yes\r\n").await;
                assert!(began.elapsed() < Duration::from_secs(12), "never cut");
            }
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
    door.upgraded().await;
}

#[tokio::test(flavor = "local")]
async fn a_huge_head_is_refused_without_being_kept() {
    let door = Running::start(config());
    for request in [
        head(&format!("X-Huge: {}\r\n", "x".repeat(HEAD_BYTES_MAX))),
        head(&"X-Many: 1\r\n".repeat(HEADERS_MAX)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * HEAD_BYTES_MAX)),
    ] {
        let mut client = door.connect().await;
        // The server may answer and close before it has been sent everything.
        let _may_be_cut = client.write_all(request.as_bytes()).await;
        let mut reply = Vec::new();
        let _may_be_reset = client.read_to_end(&mut reply).await;
        let reply = String::from_utf8_lossy(&reply).into_owned();
        assert!(
            reply.is_empty() || reply.starts_with("HTTP/1.1 431 ") || reply.starts_with("HTTP/1.1 414 "),
            "{reply}"
        );
    }
    assert!(door.counted("tickcast_handshakes_refused_total{cause=\"malformed\"} 3"));
}

#[tokio::test(flavor = "local")]
async fn when_draining_handshakes_under_way_get_503_and_new_connections_none() {
    let mut door = Running::start(config());
    let (_client, _accepted) = door.upgraded().await;
    let mut pending = door.connect().await;
    pending.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.expect("sent");
    let mut seen = door.upgraded().await; // Accepted after `pending`, so that one is under way too.
    door.stop.send(true).expect("serving");
    while TcpStream::connect(door.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let rest = format!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}\r\n");
    pending.write_all(rest.as_bytes()).await.expect("sent");
    let mut reply = String::new();
    pending.read_to_string(&mut reply).await.expect("answered and closed");
    assert!(reply.starts_with("HTTP/1.1 503 ") && reply.contains("stopping"), "{reply}");
    door.served.await.expect("returned");
    // Sessions that were handed on are not the door's business.
    seen.1.tcp.write_all(b"tick").expect("still open");
    let mut tick = [0; 4];
    seen.0.read_exact(&mut tick).await.expect("read");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_silent_handshake_does_not_hold_up_the_drain() {
    let mut door = Running::start(config());
    let _silent = door.connect().await;
    door.upgraded().await;
    let began = tokio::time::Instant::now();
    door.stop.send(true).expect("serving");
    door.served.await.expect("returned");
    assert!(began.elapsed() <= 2 * DRAIN_WAIT, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn connections_before_the_upgrade_are_bounded_and_the_next_waits_its_turn() {
    let mut door = Running::start(Config { handshakes_max: 2, ..config() });
    let _silent = [door.connect().await, door.connect().await];
    let began = tokio::time::Instant::now();
    door.upgraded().await;
    assert!(began.elapsed() >= Duration::from_secs(9), "got in while both slots were taken: {:?}", began.elapsed());
}

/// Fails as often as it is told, as accept(2) does when descriptors have run out, then works.
struct Failing {
    errors: VecDeque<i32>,
    listener: TcpListener,
}

impl Accept for Failing {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match self.errors.pop_front() {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => self.listener.accept().await,
        }
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn accept_errors_are_waited_out_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("address");
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let metrics = ::metrics::with_local_recorder(&recorder, Metrics::register);
    let (sink, mut accepted) = mpsc::channel(1);
    let (_stop, stopping) = watch::channel(false);
    let errors = VecDeque::from([libc::EMFILE, libc::ENFILE, libc::ECONNABORTED]);
    let began = tokio::time::Instant::now();
    tokio::task::spawn_local(serve(Failing { errors, listener }, config(), metrics, stopping, move |a| {
        sink.try_send(a).expect("room");
    }));
    let mut client = TcpStream::connect(addr).await.expect("connected");
    client.write_all(head("").as_bytes()).await.expect("sent");
    accepted.recv().await.expect("handed on after all");
    assert!(began.elapsed() >= 3 * ACCEPT_PAUSE, "{:?}", began.elapsed());
    assert!(recorder.handle().render().lines().any(|l| l == "tickcast_accept_errors_total 3"));
}

#[tokio::test(flavor = "local")]
async fn a_thousand_connects_and_drops_leave_no_descriptors_and_no_permits() {
    let mut door = Running::start(Config { sessions: 2, sessions_per_ip: 2, ..config() });
    // Sockets of this server only: other tests run beside this one.
    let port = format!(":{:04X}", door.addr.port());
    let open = || {
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("readable");
        let inodes: Vec<String> = table
            .lines()
            .skip(1)
            .filter_map(|l| {
                let columns: Vec<&str> = l.split_whitespace().collect();
                (columns[1].ends_with(&port) && columns[9] != "0").then(|| format!("socket:[{}]", columns[9]))
            })
            .collect();
        let fds = std::fs::read_dir("/proc/self/fd").expect("readable");
        let targets: Vec<_> = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).collect();
        inodes.iter().filter(|i| targets.iter().any(|t| t.to_str() == Some(i))).count()
    };
    assert_eq!(open(), 1, "the listener");
    for n in 0..1000 {
        match n % 4 {
            0 => drop(door.connect().await),
            1 => door.connect().await.write_all(b"GET / HT").await.expect("sent"),
            2 => assert!(door.ask("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 ")),
            _ => drop(door.upgraded().await),
        }
    }
    // The last of them may still be on their way out; the drain waits for all.
    door.upgraded().await;
    door.stop.send(true).expect("serving");
    door.served.await.expect("returned");
    assert_eq!(open(), 0);
}
