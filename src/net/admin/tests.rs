//! Routes and refusals, most of them without a socket, and the two listeners over loopback.

use super::*;
use crate::net::console::Facts;
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn readiness(state: State) -> Readiness {
    Readiness {
        state,
        accepting: true,
        listen: vec!["127.0.0.1:8765".into()],
        admin: "127.0.0.1:9464".into(),
        bus: vec!["tcp://127.0.0.1:5555".into()],
        control: "tcp://127.0.0.1:5655".into(),
        epoch: 7,
    }
}

fn state(life: State) -> AdminState {
    let recorder = PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || ::metrics::counter!("tickcast_ticks_received_total").increment(3));
    AdminState {
        exporter: recorder.handle(),
        metrics: Box::new(move || recorder.handle().render()),
        heartbeats: Heartbeats::new(["worker-0", "ingest"], Instant::now()),
        readiness: Box::new(move || readiness(life)),
        routes: vec![Route {
            path: "/sessions",
            about: "connected clients",
            answer: Answer::now(|query| Reply::json(format!("{{\"query\":\"{query}\"}}"))),
        }],
        console: Console::new(Facts { websocket: ([127, 0, 0, 1], 8765).into(), demo_key: None }),
        hosts: vec!["ops.example".into(), "ops.example:81".into()],
    }
}

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).header(HOST, "127.0.0.1:9464").body(()).expect("well-formed")
}

async fn body(response: Response<Full<Bytes>>) -> String {
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

async fn get(state: &AdminState, path: &str) -> Response<Full<Bytes>> {
    state.answer(&request(path), LOCAL, Reach::Everything, Instant::now()).await
}

#[tokio::test]
async fn metrics_are_rendered_in_the_text_format_and_no_header_opens_them_to_other_origins() {
    let response = get(&state(State::Ready), "/metrics").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    assert!(response.headers().keys().all(|k| !k.as_str().starts_with("access-control-")));
    assert!(body(response).await.contains("tickcast_ticks_received_total 3"));
}

#[tokio::test]
async fn readyz_is_200_only_while_clients_are_accepted_and_says_the_same_body_always() {
    for (life, name, status) in [
        (State::Starting, "starting", 503),
        (State::Ready, "ready", 200),
        (State::Degraded, "degraded", 200),
        (State::Draining, "draining", 503),
    ] {
        let response = get(&state(life), "/readyz").await;
        assert_eq!(response.status().as_u16(), status, "{name}");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let got: serde_json::Value = serde_json::from_str(&body(response).await).expect("JSON");
        let want = serde_json::json!({
            "ready": status == 200, "state": name, "listen": ["127.0.0.1:8765"], "admin": "127.0.0.1:9464",
            "bus": ["tcp://127.0.0.1:5555"], "control": "tcp://127.0.0.1:5655",
            "version": env!("CARGO_PKG_VERSION"), "epoch": 7
        });
        assert_eq!(got, want);
    }
}

#[test]
fn readyz_is_503_while_an_overload_lets_no_client_in() {
    let reply = Readiness { accepting: false, ..readiness(State::Degraded) }.reply();
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!((&body["ready"], &body["state"]), (&serde_json::json!(false), &serde_json::json!("degraded")));
}

#[tokio::test]
async fn healthz_names_the_loop_that_is_stuck() {
    let state = state(State::Ready);
    let start = Instant::now();
    let at = async |s| {
        let now = start + Duration::from_secs(s);
        state.answer(&request("/healthz"), LOCAL, Reach::Everything, now).await
    };
    assert_eq!(at(4).await.status(), StatusCode::OK);
    state.heartbeats.handle("worker-0").expect("named").beat(start + Duration::from_secs(9));
    let response = at(10).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body(response).await, "stuck for more than 5 s: ingest\n");
}

#[tokio::test]
async fn added_routes_get_their_query_and_unknown_paths_get_the_list() {
    let state = state(State::Ready);
    assert_eq!(body(get(&state, "/sessions?top=20&by=lag").await).await, r#"{"query":"top=20&by=lag"}"#);
    let response = get(&state, "/sessionss").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let list = body(response).await;
    assert!(list.contains("/metrics") && list.contains("/sessions        connected clients"), "{list}");
}

#[tokio::test]
async fn the_console_is_at_the_root_and_its_files_and_every_other_answer_are_shown_and_read_by_us_alone() {
    let state = state(State::Ready);
    let home = get(&state, "/").await;
    assert_eq!(home.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = home.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
    assert!(policy.contains("connect-src 'self' ws://127.0.0.1:8765;"), "{policy}");
    assert!(body(home).await.contains("<title>tickcast</title>"));
    for path in ["/", "/console.json", "/console/main.mjs", "/metrics", "/sessions", "/nothing"] {
        let response = get(&state, path).await;
        let headers = response.headers();
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(headers[REFERRER_POLICY], "no-referrer", "{path}");
        assert_eq!(headers["cross-origin-resource-policy"], "same-origin", "{path}");
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{path}");
        let kept = if ["/", "/console/main.mjs"].contains(&path) { "no-cache" } else { "no-store" };
        assert_eq!(headers[CACHE_CONTROL], kept, "{path}");
    }
}

#[tokio::test]
async fn the_scrape_listener_serves_metrics_and_health_only() {
    let state = state(State::Ready);
    let at = async |path| state.answer(&request(path), LOCAL, Reach::ScrapeOnly, Instant::now()).await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(at(path).await.status(), StatusCode::OK, "{path}");
    }
    for path in ["/sessions", "/", "/console.json", "/console/main.mjs"] {
        assert_eq!(at(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    assert!(!body(at("/").await).await.contains("/sessions"), "what it does not serve it does not list");
}

#[tokio::test]
async fn other_methods_are_405_and_name_the_one_that_works() {
    let state = state(State::Ready);
    for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
        let mut request = request("/metrics");
        *request.method_mut() = method;
        let response = state.answer(&request, LOCAL, Reach::Everything, Instant::now()).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[ALLOW], "GET");
    }
}

#[tokio::test]
async fn only_our_own_names_are_served() {
    let state = state(State::Ready);
    let status = async |hosts: &[&str], uri: &str, local: &str| {
        let mut request = Request::builder().uri(uri).body(()).expect("well-formed");
        for host in hosts {
            request.headers_mut().append(HOST, HeaderValue::from_str(host).expect("a value"));
        }
        let local = local.parse().expect("an address");
        state.answer(&request, local, Reach::Everything, Instant::now()).await.status().as_u16()
    };
    for (host, local) in [
        ("127.0.0.1:9464", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("LocalHost:9464", "::1"),
        ("[::1]:9464", "::1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("10.1.2.3:9464", "10.1.2.3"),
        ("ops.example", "10.1.2.3"),
        ("OPS.example:9999", "10.1.2.3"),
    ] {
        assert_eq!(status(&[host], "/healthz", local).await, 200, "{host} at {local}");
    }
    for (host, local) in [
        ("evil.example", "127.0.0.1"),
        ("127.0.0.1.evil.example", "127.0.0.1"),
        ("localhost.evil.example", "127.0.0.1"),
        ("10.1.2.4", "10.1.2.3"),
        ("127.0.0.1", "10.1.2.3"),
        ("", "127.0.0.1"),
        ("[::1", "::1"),
    ] {
        assert_eq!(status(&[host], "/healthz", local).await, 421, "{host} at {local}");
    }
    assert_eq!(status(&[], "/healthz", "127.0.0.1").await, 421, "no host at all");
    assert_eq!(status(&["localhost", "evil.example"], "/healthz", "127.0.0.1").await, 421, "two hosts");
    assert_eq!(status(&["localhost"], "http://evil.example/healthz", "127.0.0.1").await, 421, "the URI names another");
}

async fn ask(addr: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(addr).await.expect("connected");
    client.write_all(request.as_bytes()).await.expect("sent");
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.expect("answered and closed");
    reply
}

fn bound() -> (std::net::TcpListener, SocketAddr) {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
    let addr = listener.local_addr().expect("address");
    (listener, addr)
}

#[tokio::test(flavor = "local")]
async fn both_listeners_serve_over_tcp_until_the_stop() {
    let ((admin, admin_addr), (scrape, scrape_addr)) = (bound(), bound());
    let (stop, stopping) = watch::channel(false);
    let served = tokio::task::spawn_local(run(admin, Some(scrape), state(State::Ready), stopping));
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(ask(admin_addr, &get("/sessions")).await.starts_with("HTTP/1.1 200 "));
    assert!(ask(scrape_addr, &get("/metrics")).await.contains("tickcast_ticks_received_total 3"));
    assert!(ask(scrape_addr, &get("/sessions")).await.starts_with("HTTP/1.1 404 "));
    stop.send(true).expect("serving");
    served.await.expect("joined").expect("registered");
    assert!(TcpStream::connect(admin_addr).await.is_err());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn silent_connections_are_bounded_and_cut_so_that_the_next_scrape_gets_in() {
    let (admin, addr) = bound();
    let (_stop, stopping) = watch::channel(false);
    tokio::task::spawn_local(run(admin, None, state(State::Ready), stopping));
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(addr).await.expect("connected"));
    }
    let began = tokio::time::Instant::now();
    let reply = ask(addr, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    let took = began.elapsed();
    assert!(took >= EXCHANGE - Duration::from_secs(1) && took <= EXCHANGE + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn histograms_are_drained_four_times_a_second_while_nobody_scrapes() {
    let mut drained = 0;
    let _ended = tokio::time::timeout(Duration::from_millis(900), upkeep(|| drained += 1)).await;
    assert_eq!(drained, 4, "at 0, 250, 500 and 750 ms");
}

#[tokio::test(flavor = "local")]
async fn an_answer_that_waits_for_others_holds_up_no_other_request() {
    let (asked, answers) = watch::channel(0);
    let mut state = state(State::Ready);
    let waits = move |_: &str| {
        let mut answers = answers.clone();
        async move {
            let word = answers.wait_for(|n| *n == 7).await.expect("the test answers");
            Reply::json(word.to_string())
        }
    };
    state.routes.push(Route { path: "/slow", about: "waits", answer: Answer::later(waits) });
    let (admin, addr) = bound();
    let (_stop, stopping) = watch::channel(false);
    tokio::task::spawn_local(run(admin, None, state, stopping));
    let slow = tokio::task::spawn_local(ask(addr, "GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    while asked.receiver_count() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(ask(addr, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    asked.send(7).expect("somebody waits");
    assert!(slow.await.expect("joined").ends_with("\r\n\r\n7"));
}
