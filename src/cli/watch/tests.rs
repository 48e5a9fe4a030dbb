//! The command against a small scripted server behind the real front door.

use super::*;
use crate::model::{Mode, StreamId};
use crate::net::accept;
use crate::wire::msgpack::{self, Field, Head, SNAPSHOTS, TICKS};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use std::net::SocketAddr;
use tokio::sync::{mpsc, watch};

type Socket = WebSocket<tokio::net::TcpStream>;

struct Server {
    url: String,
    accepted: mpsc::Receiver<accept::Accepted>,
    _stop: watch::Sender<bool>,
    permits: Vec<accept::SessionPermit>,
}

impl Server {
    fn start() -> Self {
        Self::that_speaks(false)
    }

    fn that_speaks(msgpack: bool) -> Self {
        let listener = accept::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 16, 0).expect("bound");
        let url = format!("ws://{}", listener.local_addr().expect("address"));
        let (sink, accepted) = mpsc::channel(8);
        let (stop, stopping) = watch::channel(false);
        let config = accept::Config {
            sessions: 8,
            sessions_per_ip: 8,
            handshakes_max: 8,
            handshake: Duration::from_secs(10),
            msgpack,
            overload: Default::default(),
        };
        let metrics = crate::net::metrics::Metrics::register();
        tokio::task::spawn_local(accept::run(listener, config, metrics, stopping, move |a| {
            sink.try_send(a).expect("room");
        }));
        Server { url, accepted, _stop: stop, permits: Vec::new() }
    }

    async fn client(&mut self) -> Socket {
        let accepted = self.accepted.recv().await.expect("a client");
        self.permits.push(accepted.permit);
        let tcp = tokio::net::TcpStream::from_std(accepted.tcp).expect("registered");
        WebSocket::after_handshake(tcp, Role::Server)
    }

    /// Takes one client through authentication and subscription; gives its requests.
    async fn live_client(&mut self) -> (Socket, Value, Value) {
        let mut client = self.client().await;
        let authenticate = read(&mut client).await;
        send(&mut client, json!({"type": "auth", "status": "success", "broker": "sim", "user_id": "demo"})).await;
        let subscribe = read(&mut client).await;
        send(&mut client, json!({"type": "subscribe", "status": "success", "subscriptions": []})).await;
        (client, authenticate, subscribe)
    }
}

async fn read(client: &mut Socket) -> Value {
    let frame = client.read_frame().await.expect("a frame");
    assert_eq!(frame.opcode, OpCode::Text);
    serde_json::from_slice(&frame.payload).expect("JSON")
}

async fn send(client: &mut Socket, message: Value) {
    let text = message.to_string();
    client.write_frame(Frame::text(Payload::Borrowed(text.as_bytes()))).await.expect("sent");
}

/// A binary frame.
async fn send_bytes(client: &mut Socket, frame: &[u8]) {
    client.write_frame(Frame::binary(Payload::Borrowed(frame))).await.expect("sent");
}

/// `[0, map]`
async fn send_packed(client: &mut Socket, message: Value) {
    let map = crate::wire::transcode::to_msgpack(message.to_string().as_bytes()).expect("JSON");
    send_bytes(client, &[&[0x92, 0x00], &map[..]].concat()).await;
}

/// One LTP of the instrument `id`, price × 10^scale.
fn packed_tick(kind: u8, id: u32, price: i64) -> Vec<u8> {
    let now = Micros::now();
    let head = Head { id: StreamId(id), mode: Mode::Ltp, seq: 1, t_exch: Micros(0), t_recv: now };
    let mut frame = Vec::new();
    msgpack::frame_head(&mut frame, kind, now, 1);
    msgpack::tick(&mut frame, head, &[Field::Price(price)]);
    frame
}

fn tick(symbol: &str, exchange: &str, ltp: f64) -> Value {
    json!({"type": "market_data", "symbol": symbol, "exchange": exchange, "mode": 1,
           "data": {"ltp": ltp, "timestamp": Micros::now().millis()}, "broker": "sim"})
}

/// Runs the command beside `script`, with the lines of stdout and stderr.
async fn beside<F: Future<Output = ()>>(options: WatchOptions, terminal: bool, script: F) -> (u8, String, String) {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let watching = watch(options, &mut out, &mut notes, terminal, std::future::pending());
    let (code, ()) = tokio::join!(watching, script);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (code, text(out), text(notes))
}

fn options(server: &Server, symbols: &[&str]) -> WatchOptions {
    let symbols = symbols.iter().map(|s| (*s).to_owned()).collect();
    WatchOptions { symbols, url: server.url.clone(), ..WatchOptions::default() }
}

#[tokio::test(flavor = "local")]
async fn ticks_are_one_line_each_and_the_count_ends_it() {
    let mut server = Server::start();
    let options = WatchOptions { count: Some(2), ..options(&server, &["SBIN", "NIFTY"]) };
    let script = async {
        let (mut client, authenticate, subscribe) = server.live_client().await;
        assert_eq!(authenticate, json!({"action": "authenticate", "api_key": "demo-key"}));
        assert_eq!(
            subscribe,
            json!({"action": "subscribe", "mode": "LTP", "request_id": "watch", "symbols": [
                {"symbol": "SBIN", "exchange": "NSE"}, {"symbol": "NIFTY", "exchange": "NSE_INDEX"}]})
        );
        for message in [tick("SBIN", "NSE", 812.5), tick("NIFTY", "NSE_INDEX", 26000.0), tick("SBIN", "NSE", 813.0)] {
            send(&mut client, message).await;
        }
        let end = client.read_frame().await.expect("a frame");
        assert_eq!((end.opcode, &end.payload[..2]), (OpCode::Close, &1000u16.to_be_bytes()[..]));
    };
    let (code, out, notes) = beside(options, false, script).await;
    assert_eq!(code, 0, "{notes}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[0].contains("NSE:SBIN LTP ltp=812.5 latency="), "{out}");
    assert!(lines[1].contains("NSE_INDEX:NIFTY LTP ltp=26000"), "{out}");
    assert!(notes.contains("NIFTY is an index: watching NSE_INDEX:NIFTY"), "{notes}");
    assert!(notes.contains("2 ticks of 2 of 2 symbols"), "{notes}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn it_comes_back_and_subscribes_again_when_the_server_goes_away() {
    let mut server = Server::start();
    let options = WatchOptions { count: Some(2), ..options(&server, &["SBIN"]) };
    let script = async {
        let (mut client, ..) = server.live_client().await;
        send(&mut client, tick("SBIN", "NSE", 1.0)).await;
        client.write_frame(Frame::close(1001, b"drain")).await.expect("sent");
        drop(client);
        let (client, ..) = server.live_client().await; // Killed without a goodbye.
        drop(client);
        let (mut client, ..) = server.live_client().await;
        send(&mut client, tick("SBIN", "NSE", 2.0)).await;
        let _end = client.read_frame().await;
    };
    let (code, out, notes) = beside(options, false, script).await;
    assert_eq!(code, 0, "{notes}");
    assert_eq!(out.lines().count(), 2);
    assert!(notes.contains("(1001 drain); connecting again in 0."), "{notes}");
    assert!(notes.contains("the connection was lost"), "{notes}");
}

#[tokio::test(flavor = "local")]
async fn a_wrong_key_ends_it_with_what_to_do() {
    let mut server = Server::start();
    let options = options(&server, &["SBIN"]);
    let script = async {
        let mut client = server.client().await;
        read(&mut client).await;
        send(&mut client, json!({"status": "error", "code": "AUTHENTICATION_ERROR", "message": "Invalid API key"}))
            .await;
    };
    let (code, out, notes) = beside(options, false, script).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(notes.contains("AUTHENTICATION_ERROR: Invalid API key. What to do: pass a valid key"), "{notes}");
}

#[tokio::test(flavor = "local")]
async fn refused_symbols_are_named_and_only_all_of_them_end_it() {
    let mut server = Server::start();
    let options = options(&server, &["SBIN", "BADX"]);
    let refused = |symbol: &str| json!({"symbol": symbol, "exchange": "NSE", "status": "error", "message": "unknown"});
    let script = async {
        let mut client = server.client().await;
        read(&mut client).await;
        send(&mut client, json!({"type": "auth", "status": "success"})).await;
        read(&mut client).await;
        let entries = [refused("SBIN"), refused("BADX")];
        send(&mut client, json!({"type": "subscribe", "status": "partial", "subscriptions": entries})).await;
    };
    let (code, _, notes) = beside(options, false, script).await;
    assert_eq!(code, 1);
    assert!(notes.contains("NSE:BADX: unknown") && notes.contains("refused every symbol"), "{notes}");
}

#[tokio::test(flavor = "local")]
async fn a_server_that_is_not_there_is_told_with_how_to_start_one() {
    // Bound and dropped: nobody listens there now.
    let gone = accept::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, 0).expect("bound").local_addr().expect("address");
    let options = WatchOptions { symbols: vec!["SBIN".into()], url: format!("ws://{gone}"), ..WatchOptions::default() };
    let (code, _, notes) = beside(options, false, async {}).await;
    assert_eq!(code, 1);
    assert!(notes.contains(&format!("cannot connect to {gone}")) && notes.contains("Is tickcast running?"), "{notes}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_silent_server_is_given_up_on() {
    let mut server = Server::start();
    let options = options(&server, &["SBIN"]);
    let (done, waiting) = tokio::sync::oneshot::channel::<()>();
    let script = async {
        let _client = server.client().await;
        let _never_sent = waiting.await;
    };
    let watching = async {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let code = watch(options, &mut out, &mut notes, false, std::future::pending()).await;
        drop(done);
        (code, String::from_utf8(notes).expect("text"))
    };
    let ((code, notes), ()) = tokio::join!(watching, script);
    assert_eq!(code, 1);
    assert!(notes.contains("did not answer within 15 s"), "{notes}");
}

#[tokio::test(flavor = "local")]
async fn in_a_terminal_there_is_a_table_and_ctrl_c_ends_with_a_summary() {
    let mut server = Server::start();
    let options = options(&server, &["SBIN"]);
    let (ctrl_c, pressed) = tokio::sync::oneshot::channel::<()>();
    let script = async {
        let (mut client, ..) = server.live_client().await;
        send(&mut client, tick("SBIN", "NSE", 812.5)).await;
        // A round trip: once the pong is here, the tick before it has been seen.
        client.write_frame(Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b"?"))).await.expect("sent");
        let pong = client.read_frame().await.expect("a frame");
        assert_eq!(pong.opcode, OpCode::Pong);
        ctrl_c.send(()).expect("watching");
        client
    };
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let stop = async { drop(pressed.await) };
    let watching = watch(options, &mut out, &mut notes, true, stop);
    let (code, _client) = tokio::join!(watching, script);
    let (out, notes) = (String::from_utf8(out).expect("text"), String::from_utf8(notes).expect("text"));
    assert_eq!(code, 0, "{notes}");
    assert!(out.contains("SYMBOL") && out.contains("812.50") && !out.contains("ltp="), "a table, no lines: {out}");
    assert!(notes.contains("1 ticks of 1 of 1 symbols"), "{notes}");
}

#[tokio::test(flavor = "local")]
async fn messagepack_is_offered_and_shown_with_names_decimal_prices_and_snapshots() {
    let mut server = Server::that_speaks(true);
    let options =
        WatchOptions { format: "msgpack".into(), count: Some(3), ..options(&server, &["SBIN", "CDS:EURUSD"]) };
    let script = async {
        let mut client = server.client().await;
        assert_eq!(read(&mut client).await, json!({"action": "authenticate", "api_key": "demo-key"}));
        send_packed(&mut client, json!({"type": "auth", "status": "success"})).await;
        assert_eq!(read(&mut client).await["symbols"][1], json!({"symbol": "EURUSD", "exchange": "CDS"}));
        let entry = |symbol: &str, exchange: &str, id: u32, scale: u8| json!({"symbol": symbol, "exchange": exchange, "status": "success", "id": id, "scale": scale});
        let entries = [entry("SBIN", "NSE", 4, 2), entry("EURUSD", "CDS", 9, 4)];
        send_packed(&mut client, json!({"type": "subscribe", "status": "success", "subscriptions": entries})).await;
        for frame in [packed_tick(SNAPSHOTS, 4, 81_205), packed_tick(TICKS, 9, 10_825), packed_tick(TICKS, 4, 81_210)] {
            send_bytes(&mut client, &frame).await;
        }
        let _end = client.read_frame().await;
    };
    let (code, out, notes) = beside(options, false, script).await;
    assert_eq!(code, 0, "{notes}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[0].ends_with("NSE:SBIN LTP ltp=812.05 snapshot"), "{out}");
    assert!(lines[1].contains("CDS:EURUSD LTP ltp=1.0825 latency=") && lines[1].contains("ms sent="), "{out}");
    assert!(lines[2].contains("NSE:SBIN LTP ltp=812.1 latency="), "{out}");
    assert!(notes.contains("3 ticks of 2 of 2 symbols"), "{notes}");
}

#[tokio::test(flavor = "local")]
async fn a_server_without_messagepack_is_told_at_once() {
    let server = Server::start();
    let options = WatchOptions { format: "msgpack".into(), ..options(&server, &["SBIN"]) };
    let (code, out, notes) = beside(options, false, async {}).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(notes.contains("did not accept the subprotocol tickcast.v1.msgpack"), "{notes}");
    assert!(notes.contains("use --format json"), "{notes}");
}

#[tokio::test(flavor = "local")]
async fn a_frame_that_is_no_messagepack_ends_it_with_the_reason() {
    let mut server = Server::that_speaks(true);
    let options = WatchOptions { format: "msgpack".into(), ..options(&server, &["SBIN"]) };
    let script = async {
        let mut client = server.client().await;
        read(&mut client).await;
        send_bytes(&mut client, b"{}").await;
    };
    let (code, _, notes) = beside(options, false, script).await;
    assert_eq!(code, 1);
    assert!(notes.contains("a frame that cannot be read"), "{notes}");
}

#[tokio::test]
async fn bad_options_are_exit_2_before_anything_is_opened() {
    let options = WatchOptions { symbols: vec!["SBIN".into()], format: "xml".into(), ..WatchOptions::default() };
    let (code, _, notes) = beside(options, false, async {}).await;
    assert_eq!(code, 2);
    assert!(notes.contains("json or msgpack"), "{notes}");
}

#[test]
fn a_revoked_key_ends_it_while_a_restart_does_not() {
    assert!(matches!(goodbye(4403, ""), End::Failed(_)));
    for code in [1000, 1001, 1005, 1011, 1012, 4408] {
        assert!(matches!(goodbye(code, ""), End::Lost(_)), "{code}");
    }
}
