//! The console in a real Chromium: what a person sees and does, from the first look to a server that dies and comes back.
//!
//! Pictures are kept in `target/console/`. `UPDATE_DOCS=1` also renews the README's, which takes two minutes, since its plots show two.

use crate::process::{ANY_BUS, ANYWHERE, PATIENCE, Running, Server, root};
use crate::python::{Script, python};
use crate::support::{Client, Got, Publisher};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// What the plots show.
const WINDOW: Duration = Duration::from_secs(120);
const MSGPACK: &str = "Sec-WebSocket-Protocol: tickcast.v1.msgpack\r\n";

fn pictures() -> PathBuf {
    let folder = root().join("target/console");
    std::fs::create_dir_all(&folder).expect("a folder for pictures");
    folder
}

/// Chromium with one page.
struct Browser(Script);

impl Browser {
    fn start() -> Self {
        Browser(Script::start("browser.py", &["--pictures", pictures().to_str().expect("UTF-8")]))
    }

    /// Chromium showing the console of `server`.
    fn at(server: &Server) -> Self {
        let mut browser = Self::start();
        browser.open(server, json!({}));
        browser
    }

    /// A page that knows nothing of others; gives status and headers.
    fn open(&mut self, server: &Server, options: Value) -> Value {
        let mut command = json!({"op": "open", "url": format!("http://{}/", server.admin)});
        command.as_object_mut().expect("a map").extend(options.as_object().expect("a map").clone());
        self.ask(command)
    }

    fn ask(&mut self, command: Value) -> Value {
        self.try_ask(&command).unwrap_or_else(|message| {
            let text = self.try_ask(&json!({"op": "evaluate", "js": "document.body.innerText"}));
            panic!("{command}: {message}; the page shows {text:?}; {}", self.noticed())
        })
    }

    fn try_ask(&mut self, command: &Value) -> Result<Value, String> {
        self.0.tell(command);
        let line = self.0.process.line();
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not an event: {line}"));
        if event["event"] == "done" { Ok(event["result"].clone()) } else { Err(event["message"].to_string()) }
    }

    fn evaluate(&mut self, js: &str) -> Value {
        self.ask(json!({"op": "evaluate", "js": js}))
    }

    /// Waits until the expression is true, and gives what it is.
    fn wait(&mut self, js: &str) -> Value {
        self.ask(json!({"op": "wait", "js": js, "seconds": PATIENCE.as_secs()}))
    }

    /// Waits until the first element that fits `at` shows `text`.
    fn shows(&mut self, at: &str, text: &str) {
        let (at, text) = (json!(at), json!(text));
        self.wait(&format!("document.querySelector({at})?.innerText.replaceAll('\\u00a0', ' ').includes({text})"));
    }

    fn press(&mut self, key: &str) {
        self.ask(json!({"op": "press", "key": key}));
    }

    fn type_text(&mut self, text: &str) {
        self.ask(json!({"op": "type", "text": text}));
    }

    /// Presses Tab until the element with this id has the focus.
    fn tab_to(&mut self, id: &str) {
        let mut passed = Vec::new();
        for _ in 0..20 {
            self.press("Tab");
            let focused = self.evaluate("document.activeElement.id || document.activeElement.innerText");
            if focused == id {
                return;
            }
            passed.push(focused);
        }
        panic!("20 times Tab do not reach {id}: {passed:?}");
    }

    /// Subscribes through the form.
    fn subscribe(&mut self, symbols: &str, mode: &str) {
        self.evaluate(&format!("document.getElementById('mode').value = {}", json!(mode)));
        self.ask(json!({"op": "fill", "at": "#symbol", "text": symbols}));
        self.ask(json!({"op": "click", "at": "#subscribe button"}));
    }

    fn picture(&mut self, name: &str) {
        self.ask(json!({"op": "picture", "name": name}));
    }

    fn noticed(&mut self) -> Value {
        self.try_ask(&json!({"op": "noticed"})).expect("a list")
    }

    /// The page complained of nothing, and asked only this server.
    fn assert_content(&mut self, server: &Server) {
        let noticed = self.noticed();
        assert_eq!(noticed["complaints"], json!([]));
        let ours = [format!("http://{}/", server.admin), format!("ws://{}/", server.ws)];
        let asked = noticed["asked"].as_array().expect("a list");
        let strange: Vec<_> =
            asked.iter().filter(|url| !ours.iter().any(|o| url.as_str().expect("text").starts_with(o))).collect();
        assert!(strange.is_empty() && asked.len() > 10, "{strange:?} of {} requests", asked.len());
    }
}

/// A server with the simulated market, as a newcomer starts it.
fn market() -> Server {
    let sim = ["--listen", "127.0.0.1:0", "--set", "adapters.default=sim", "--set", "sim.ticks_per_second=400"];
    Server::start(&[&sim, ANY_BUS].concat(), &[])
}

fn publisher(server: &Server) -> Publisher {
    Publisher::connect(server.bus.strip_prefix("tcp://").expect("a tcp bus"))
}

/// A client of the demo user that has asked for `symbols` and read nothing yet.
fn client(server: &Server, headers: &str, symbols: &[&str], mode: &str) -> Client {
    let (mut client, _) = Client::connect_to(server.ws, "/", headers);
    client.send(json!({"action": "authenticate", "api_key": "demo-key"}));
    let symbols: Vec<_> = symbols.iter().map(|s| json!({"symbol": s, "exchange": "NSE"})).collect();
    client.send(json!({"action": "subscribe", "symbols": symbols, "mode": mode}));
    client
}

/// Reads whatever comes until the connection ends.
fn read_on(mut client: Client) {
    std::thread::spawn(move || {
        loop {
            match client.next() {
                Got::Ping(payload) => client.frame(0x8a, &payload),
                Got::End | Got::Close(_) => break,
                _ => {}
            }
        }
    });
}

/// The pixels of both plots, in short.
const PIXELS: &str = "[...document.querySelectorAll('.canvas canvas')].map((c) => c.toDataURL().split('').reduce(
    (sum, letter) => (sum * 31 + letter.charCodeAt(0)) | 0, 7)).join()";
/// Every value of both kinds of browser storage, cookies and the address.
const KEPT: &str =
    "[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie, location.href].join()";

#[test]
fn a_newcomer_sees_the_simulated_market_move_and_the_page_asks_nobody_else() {
    let server = market();
    for (n, symbols) in [["RELIANCE", "INFY"], ["SBIN", "TCS"], ["ITC", "LT"]].iter().cycle().take(12).enumerate() {
        read_on(client(&server, if n % 3 == 0 { MSGPACK } else { "" }, symbols, "Quote"));
    }
    let mut browser = Browser::start();
    let answer = browser.open(&server, json!({}));
    let policy = answer["headers"]["content-security-policy"].as_str().expect("a policy");
    assert!(policy.contains("script-src 'self';") && policy.contains("style-src 'self';"), "{policy}");
    assert!(policy.contains(&format!("connect-src 'self' ws://{};", server.ws)), "{policy}");

    browser.shows("#state", "ready");
    browser.shows("#market", "simulated market");
    assert_eq!(browser.wait("document.getElementById('key').value"), "demo-key");
    browser.wait("document.querySelector('.chip')");
    browser.picture("first-look.png");
    browser.ask(json!({"op": "click", "at": ".chip"}));
    browser.shows("#stream", "Connected as demo");
    browser.subscribe("NSE:RELIANCE NSE:INFY", "Quote");
    browser.subscribe("NSE:SBIN", "Depth");
    for row in 1..=3 {
        browser.wait(&format!("/\\d\\.\\d\\d/.test(document.querySelectorAll('.figure')[{row}]?.innerText)"));
    }
    browser.wait("document.querySelectorAll('.ladder p b')[0]?.innerText.includes('.')");
    browser.shows("#hot", "NSE:RELIANCE Quote");
    browser.shows("#feeds .badge", "live");
    browser.shows("#sessions", "keeps up");
    browser.shows("#vitals", "13");
    browser.wait("document.querySelector('#locks tbody tr td:nth-child(5)').innerText.includes('µs')");

    // Figures, both plots and prices move.
    browser.wait("Number(document.querySelector('#throughput .legend b').innerText) > 100");
    browser.wait("/[0-9]/.test(document.querySelector('#latency .legend b').innerText)");
    let (pixels, spark) = (browser.evaluate(PIXELS), "document.querySelector('.sparkline .stroke').getAttribute('d')");
    let line = browser.evaluate(spark);
    browser.wait(&format!("({PIXELS}).split(',').every((plot, n) => plot !== {pixels}.split(',')[n])"));
    browser.wait(&format!("{spark} !== {line}"));
    let label = browser.evaluate("document.querySelector('#throughput .canvas').getAttribute('aria-label')");
    assert!(label.as_str().expect("text").starts_with("Throughput, last two minutes. Now: in "), "{label}");

    let kept = browser.evaluate(KEPT);
    assert!(!kept.as_str().expect("text").contains("demo-key"), "{kept}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let filled =
            json!({"op": "wait", "js": format!("performance.now() > {}", WINDOW.as_millis() + 5000), "seconds": 10});
        assert!((0..20).any(|_| browser.try_ask(&filled).is_ok()), "the page lives for two minutes");
        let path = browser.ask(json!({"op": "picture", "name": "readme.png", "until": "#live"}));
        std::fs::copy(path.as_str().expect("a path"), root().join("docs/images/console.png")).expect("copied");
    }
    browser.picture("light.png");
    browser.assert_content(&server);

    // What the policy forbids does not happen; the browser complains of it, so this comes last.
    browser.evaluate("(() => { const script = document.createElement('script'); script.append('window.ran = 1'); document.body.append(script); })()");
    let refused = browser.evaluate("fetch('http://127.0.0.1:1/').then(() => 'asked', (error) => error.message)");
    assert_eq!(browser.evaluate("window.ran === undefined"), true);
    let complaints = browser.noticed()["complaints"].to_string();
    assert!(complaints.contains("TrustedScript") && complaints.contains("connect-src"), "{refused} {complaints}");
}

#[test]
fn with_the_keyboard_alone_a_person_connects_subscribes_sees_published_prices_and_removes_them() {
    let server = Server::anywhere(&[]);
    let mut publisher = publisher(&server);
    let mut browser = Browser::at(&server);
    browser.wait("document.getElementById('key').value");
    browser.tab_to("key");
    // The focus can be seen.
    assert_eq!(browser.evaluate("getComputedStyle(document.activeElement).outlineStyle"), "solid");
    browser.press("Enter");
    browser.shows("#stream", "Connected as demo");
    assert_eq!(browser.evaluate("document.activeElement.id"), "symbol", "the focus goes on to the symbols");
    browser.type_text("SBIN");
    browser.press("Enter");
    browser.shows("#live-error", "lacks its exchange. Write EXCHANGE:SYMBOL, for example NSE:SBIN");
    browser.press("ControlOrMeta+A");
    browser.type_text("NSE:SBIN, CDS:USDINR");
    browser.press("Enter");
    server.await_metric("tickcast_subscriptions_active", &[], 2.0);
    assert_eq!(browser.evaluate("document.getElementById('live-error').hidden"), true);

    let price = |symbol: &str| format!("#ticks tr[data-symbol='{symbol}'] .figure");
    // A rounding, a negative one, and what no 32 bits hold; CDS has four digits.
    for (sent, shown) in
        [(812.3, "812.30"), (1573.155, "1,573.16"), (-37.63, "−37.63"), (70_368_744_177.29, "70,368,744,177.29")]
    {
        publisher.json("NSE_SBIN_QUOTE", &json!({"ltp": sent, "close": 800.0, "volume": 1_192_471}));
        browser.shows(&price("NSE:SBIN"), shown);
    }
    publisher.json("CDS_USDINR_QUOTE", &json!({"ltp": 84.0725}));
    browser.shows(&price("CDS:USDINR"), "84.0725");
    publisher.json("NSE_SBIN_QUOTE", &json!({"ltp": 790.0, "close": 800.0, "volume": 1_192_472}));
    browser.shows("#ticks tr[data-symbol='NSE:SBIN'] .change[data-move=down]", "−10.00\n−1.25 %");
    browser.shows("#ticks tr[data-symbol='NSE:SBIN']", "1,192,472");

    // From the symbols on: mode, the button, and then each row's.
    for _ in 0..3 {
        browser.press("Tab");
    }
    assert_eq!(browser.evaluate("document.activeElement.getAttribute('aria-label')"), "Remove NSE:SBIN");
    browser.press("Enter");
    server.await_metric("tickcast_subscriptions_active", &[], 1.0);
    assert_eq!(browser.evaluate("document.activeElement.getAttribute('aria-label')"), "Remove CDS:USDINR");
    browser.press("Enter");
    server.await_metric("tickcast_subscriptions_active", &[], 0.0);
    assert_eq!(browser.evaluate("document.activeElement.id"), "symbol");
    browser.assert_content(&server);
}

#[test]
fn a_stalled_client_is_named_with_the_reason_and_a_feed_whose_publisher_left_turns_red() {
    let server = Server::anywhere(&["--set", "fanout.send_buffer_bytes=16KiB"]);
    let mut publisher = publisher(&server);
    let names: Vec<String> = (0..50).map(|n| format!("S{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut browser = Browser::at(&server);
    browser.subscribe("NSE:S0 NSE:S1", "LTP");
    let stalled = client(&server, "", &names, "LTP");
    server.await_metric("tickcast_subscriptions_active", &[], 52.0);
    let peer = stalled.tcp.local_addr().expect("connected");
    let deadline = Instant::now() + PATIENCE;
    let mut from = 1;
    let found = format!("document.querySelector('#sessions tr.lagging')?.innerText.includes('{peer}')");
    while browser.evaluate(&found) != true {
        assert!(Instant::now() < deadline, "never in the list: {}", server.page("/sessions?top=20&by=lag"));
        publisher.batch_counting(&names, from..from + 2000);
        from += 2000;
    }
    browser.shows("#sessions tr.lagging .badge", "client does not read");
    browser.shows("#vitals [data-tone=bad]", "Lagging\n1");
    browser.picture("stalled-client.png");
    // It alone: the page's own session keeps up.
    assert_eq!(browser.evaluate("document.querySelectorAll('#sessions tr.lagging').length"), 1);

    browser.shows("#feeds .badge[data-tone=good]", "live");
    drop(publisher);
    browser.shows("#feeds tr[data-state=down] .badge", "down");
    browser.shows("#feeds tr[data-state=down]", "no publisher is connected to the bus");
    browser.shows("#stream", "is down: no publisher");
    let colour = browser.evaluate("getComputedStyle(document.querySelector('#feeds .badge')).color");
    let parts: Vec<u32> =
        colour.as_str().expect("text").split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    assert!(parts[0] > 150 && parts[1] < 80 && parts[2] < 80, "{colour} is not red");
    browser.picture("feed-down.png");
    drop(stalled);
}

#[test]
fn at_400_pixels_nothing_scrolls_sideways_in_light_and_dark_and_motion_can_be_refused() {
    let server = market();
    let mut browser = Browser::start();
    for scheme in ["light", "dark"] {
        browser.open(&server, json!({"width": 400, "scheme": scheme, "motion": "reduce"}));
        browser.wait("document.querySelector('.chip')");
        browser.subscribe("NSE_INDEX:BANKNIFTY NSE:RELIANCE", "Quote");
        browser.subscribe("NSE:SBIN", "Depth");
        browser.wait("document.querySelectorAll('.figure[data-move]').length === 3");
        browser.shows("#sessions", "keeps up");
        assert_eq!(browser.evaluate("document.documentElement.scrollWidth"), 400);
        // Nor is anything cut off inside a card.
        let cut = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.firstElementChild.id)";
        assert_eq!(browser.evaluate(cut), json!([]));
        assert_eq!(browser.evaluate("document.getAnimations().length"), 0);
        let dark = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 60";
        assert_eq!(browser.evaluate(dark), scheme == "dark");
        browser.picture(&format!("narrow-{scheme}.png"));
    }
    // The choice of a person counts more than the system's, and holds for the next visit.
    let dark = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 60";
    browser.ask(json!({"op": "click", "at": "#theme"}));
    assert_eq!(browser.evaluate(dark), false);
    browser.ask(json!({"op": "reload"}));
    browser.shows("#state", "ready");
    assert_eq!(browser.evaluate(dark), false);
    browser.open(&server, json!({"scheme": "dark"}));
    browser.wait("document.querySelector('.chip')");
    browser.subscribe("NSE_INDEX:NIFTY NSE:RELIANCE NSE:INFY", "Quote");
    browser.wait("document.querySelectorAll('.figure[data-move]').length === 3");
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth"), 1280);
    browser.wait("document.querySelector('#hot tbody td:nth-child(3)').innerText !== '–'");
    browser.picture("dark.png");
    browser.assert_content(&server);
}

#[test]
fn a_wrong_key_is_told_and_a_killed_server_is_found_again_with_everything_resubscribed() {
    let server = Server::anywhere(&[]);
    let mut browser = Browser::at(&server);
    browser.wait("document.getElementById('key').value");
    browser.ask(json!({"op": "fill", "at": "#key", "text": "wrong"}));
    browser.press("Enter");
    browser.shows("#live-error", "Check the key; tickcast keys add makes a new one.");
    browser.picture("wrong-key.png");
    assert_eq!(browser.evaluate("document.activeElement.id"), "key");
    browser.ask(json!({"op": "fill", "at": "#key", "text": "demo-key"}));
    browser.press("Enter");
    browser.shows("#stream", "Connected as demo");
    browser.subscribe("NSE:SBIN", "LTP");
    publisher(&server).ltp("SBIN", 812.3);
    browser.shows("#ticks .figure", "812.30");

    let (ws, admin, bus) = (server.ws.to_string(), server.admin.to_string(), server.bus.clone());
    // Without a goodbye: as after a crash.
    drop(server);
    browser.shows("#trouble", "tickcast does not answer at");
    browser.shows("#stream", "Trying again in");
    browser.picture("no-answer.png");
    assert_eq!(browser.evaluate("document.querySelector('#ticks').classList.contains('stale')"), true);
    let bind = format!("bus.bind={bus}");
    let again = Server::start(&[ANYWHERE, &["--listen", &ws, "--admin", &admin, "--set", &bind]].concat()[2..], &[]);
    again.await_metric("tickcast_subscriptions_active", &[], 1.0);
    publisher(&again).ltp("SBIN", 815.0);
    browser.shows("#ticks .figure", "815.00");
    browser.shows("#state", "ready");
    assert_eq!(browser.evaluate("document.getElementById('trouble').hidden"), true);
}

#[test]
fn the_page_s_modules_pass_their_own_tests() {
    // Playwright brings a Node along.
    let find = "import playwright, pathlib; print(pathlib.Path(playwright.__file__).parent / 'driver' / 'node')";
    let mut found = Command::new(python());
    found.args(["-c", find]);
    let node = Running::new(found).line();
    let mut command = Command::new(node);
    command.current_dir(root()).args(["--test", "tests/console/*.test.mjs"]);
    let mut run = Running::new(command);
    let status = run.wait(PATIENCE);
    let told = run.rest_of_stdout();
    assert!(status.success() && told.contains("fail 0") && !told.contains("tests 0"), "{told}{}", run.stderr());
}
