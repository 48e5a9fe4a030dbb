//! A running SUB with a hand-driven ingest, and publishers written by hand, for the tests of the bus.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use bytes::BytesMut;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::Arc;
use std::time::Duration;
use tickcast::bus::endpoints::{
    BusHandle, BusListeners, BusTasks, Config, EachItem, EndpointMetrics, EndpointSpec, Kind, Wiring,
};
use tickcast::model::{ByteBudget, ScopeId, SourceMessage, SourceReceiver};
use tickcast::zmtp::{Direction, Endpoint, parser};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// No test step takes this long; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn spec(direction: Direction, endpoint: &str) -> EndpointSpec {
    let endpoint = endpoint.parse().expect(endpoint);
    EndpointSpec { endpoint, direction, scope: ScopeId::SHARED, highest_only: false }
}

pub struct Rig {
    pub handle: BusHandle,
    tasks: Option<BusTasks>,
    pub budget: Arc<ByteBudget>,
    pub overflow_budget: Arc<ByteBudget>,
    pub sources: Vec<SourceReceiver>,
    new_sources: mpsc::Receiver<SourceReceiver>,
    wake: Arc<Notify>,
    prometheus: PrometheusHandle,
}

impl Rig {
    pub fn start(specs: &[EndpointSpec], config: Config) -> Rig {
        let recorder = PrometheusBuilder::new().build_recorder();
        let prometheus = recorder.handle();
        let metrics = metrics::with_local_recorder(&recorder, || Arc::new(EndpointMetrics::register(specs.len())));
        let (tx, new_sources) = mpsc::channel(64);
        let wake = Arc::new(Notify::new());
        let (budget, overflow_budget) = (ByteBudget::new(64 << 20), ByteBudget::new(64 << 20));
        let wiring = Wiring {
            budget: budget.clone(),
            overflow_budget: overflow_budget.clone(),
            wake: wake.clone(),
            sources: tx,
            explode: Arc::new(explode),
            metrics,
        };
        let listeners = BusListeners::bind(specs, config).expect("free endpoints");
        let (handle, tasks) = listeners.spawn(wiring).expect("a runtime");
        let tasks = Some(tasks);
        Rig { handle, tasks, budget, overflow_budget, sources: Vec::new(), new_sources, wake, prometheus }
    }

    pub fn bound() -> Rig {
        Rig::start(&[spec(Direction::Bind, "tcp://127.0.0.1:0")], quick())
    }

    pub async fn stop(&mut self) {
        self.tasks.take().expect("running").stop().await;
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.handle.statuses()[0].spec().endpoint
    }

    pub fn address(&self) -> String {
        self.endpoint().to_string().trim_start_matches("tcp://").to_owned()
    }

    /// The next message of any source, round-robin.
    pub async fn next(&mut self) -> SourceMessage {
        timeout(PATIENCE, async {
            loop {
                while let Ok(source) = self.new_sources.try_recv() {
                    self.sources.push(source);
                }
                let turn = usize::from(!self.sources.is_empty());
                self.sources.rotate_left(turn);
                if let Some(message) = self.sources.iter_mut().find_map(SourceReceiver::try_recv) {
                    return message;
                }
                self.sources.retain(|source| !source.is_closed());
                self.wake.notified().await;
            }
        })
        .await
        .expect("a message in time")
    }

    /// Everything that the first source still has, up to its end.
    pub async fn rest_of_first(&mut self) -> Vec<SourceMessage> {
        let source = &mut self.sources[0];
        let mut all = Vec::new();
        let end = async {
            while !source.is_closed() {
                all.extend(std::iter::from_fn(|| source.try_recv()));
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, end).await.expect("the source ends");
        all
    }

    pub async fn text(&mut self) -> String {
        let message = self.next().await;
        format!("{}={}", String::from_utf8_lossy(&message.topic), String::from_utf8_lossy(&message.body))
    }

    /// A counter or gauge by its whole name with labels; 0 when absent.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.prometheus.render();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    pub fn rejected(&self, cause: &str) -> f64 {
        self.metric(&format!("tickcast_bus_rejected_total{{cause=\"{cause}\"}}"))
    }
}

/// Short deadlines, so that tests of deadlines are short.
pub fn quick() -> Config {
    let mut config = Config::default();
    config.link.handshake = Duration::from_millis(500);
    config.backoff_first = Duration::from_millis(5);
    config.backoff_max = Duration::from_millis(20);
    config
}

/// `X_orders` is lossless, `BATCH` holds `topic=value` lines, all else is market data.
fn explode(message: &SourceMessage, each: &mut EachItem<'_>) {
    let mut one = |topic: &[u8], body: &[u8]| {
        each(if topic.ends_with(b"_orders") { Kind::Lossless } else { Kind::MarketData }, topic, body);
    };
    if &message.topic[..] != b"BATCH" {
        return one(&message.topic, &message.body);
    }
    for line in message.body.split(|b| *b == b'\n') {
        let at = line.iter().position(|b| *b == b'=').expect("topic=value");
        one(&line[..at], &line[at + 1..]);
    }
}

/// A publisher that speaks ZMTP by hand.
pub struct RawPub<S = TcpStream> {
    pub stream: S,
    out: BytesMut,
}

pub const PUB_READY: &[u8] = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB";

impl RawPub {
    pub async fn connect(address: &str, minor: u8) -> RawPub {
        RawPub::greet(TcpStream::connect(address).await.expect("a listener"), minor).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawPub<S> {
    /// The whole handshake, up to the subscription in the form that 3.`minor` knows.
    pub async fn greet(mut stream: S, minor: u8) -> RawPub<S> {
        let mut greeting = parser::greeting();
        greeting[11] = minor;
        stream.write_all(&greeting).await.expect("open");
        stream.write_all(PUB_READY).await.expect("open");
        let subscribe: &[u8] = if minor == 0 { b"\0\x01\x01" } else { b"\x04\x0a\x09SUBSCRIBE" };
        let mut got = vec![0; 64 + 27 + subscribe.len()];
        stream.read_exact(&mut got).await.expect("their handshake");
        assert_eq!(&got[64 + 27..], subscribe);
        RawPub { stream, out: BytesMut::new() }
    }

    pub async fn send(&mut self, topic: &str, body: &str) {
        parser::message(&[topic.as_bytes(), body.as_bytes()], &mut self.out);
        self.stream.write_all_buf(&mut self.out).await.expect("open");
    }

    /// PING with a context, and its PONG: everything sent before has been read.
    pub async fn ping(&mut self) {
        self.stream.write_all(b"\x04\x09\x04PING\0\0ok").await.expect("open");
        let mut pong = [0; 9];
        timeout(PATIENCE, self.stream.read_exact(&mut pong)).await.expect("in time").expect("open");
        assert_eq!(&pong, b"\x04\x07\x04PONGok");
    }
}

/// Reads until the far end closes or resets.
pub async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 4096];
    let end = async { while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {} };
    timeout(PATIENCE, end).await.expect("the connection ends");
}
