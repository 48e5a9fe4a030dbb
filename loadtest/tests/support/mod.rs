//! The program as a child, a tickcast to measure, a foreign server that is none, and what a page must look like.

use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tickcast::wire::frame::{Event, Input, Opcode, Parser, write};
use zeromq::{Socket, SocketRecv};

/// How a run of the program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

fn outcome(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Runs the program with these words.
pub(crate) fn loadtest(line: &str) -> Outcome {
    outcome(Command::new(env!("CARGO_BIN_EXE_loadtest")).args(line.split_whitespace()))
}

/// Runs it until it has said `words` on stderr, then sends SIGTERM: how it ended, and the process it had started.
pub(crate) fn terminated(line: &str, words: &str) -> (Outcome, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut said = String::new();
    while !said.contains(words) {
        assert!(stderr.read_line(&mut said).expect("text") > 0, "it ended: {said}");
    }
    let pid = child.id();
    let started = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    assert_eq!(shell(&format!("kill -TERM {pid}")).code, 0);
    stderr.read_to_string(&mut said).expect("text");
    let code = child.wait().expect("it ends").code().unwrap_or(-1);
    (Outcome { code, out: String::new(), err: said }, started.trim().to_owned())
}

/// Runs a line of shell.
pub(crate) fn shell(line: &str) -> Outcome {
    outcome(Command::new("sh").args(["-c", line]))
}

/// The tickcast to start: this package's example, which cargo builds with its tests, or another build.
pub(crate) fn server() -> String {
    if let Some(named) = std::env::var_os("SERVER_BINARY") {
        return named.to_string_lossy().into_owned();
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_loadtest")).parent().expect("a folder");
    folder.join("examples/server").to_str().expect("a path").to_owned()
}

/// A file of its own name, removed in the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(extension: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("loadtest-{}-{}.{extension}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Scratch(std::env::temp_dir().join(name))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a path")
    }

    pub(crate) fn read(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_else(|e| panic!("{}: {e}", self.path()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A running tickcast; killed when dropped.
pub(crate) struct Tickcast {
    child: Child,
    pub(crate) pid: u32,
    pub(crate) ws: String,
    pub(crate) admin: String,
    pub(crate) bus: String,
}

impl Tickcast {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = Command::new(server());
        command.env_clear().args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let field = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{name} in {line:?}")).to_owned()
        };
        Tickcast { pid: child.id(), ws: field("ws"), admin: field("admin"), bus: field("bus"), child }
    }
}

impl Drop for Tickcast {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a foreign server does with ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Habit {
    /// Each once, in order.
    Faithful,
    /// Every tenth twice.
    Repeats,
    /// Every tenth never.
    Loses,
    /// Every tenth of a symbol after its next one.
    Swaps,
}

type Clients = Arc<Mutex<Vec<(TcpStream, HashSet<String>)>>>;

/// A server of OpenAlgo's JSON protocol that is not tickcast: it connects its SUB to the publisher, passes each payload on to who has
/// subscribed to its symbol, and writes JSON as Python does. Its threads end with the test's process.
pub(crate) struct Foreign {
    pub(crate) ws: SocketAddr,
    /// Where the publisher is to bind.
    pub(crate) bus: String,
}

impl Foreign {
    pub(crate) fn start(habit: Habit) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let ws = listener.local_addr().expect("bound");
        // Free a moment ago: the program binds it, this server connects again and again.
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let bus = format!("tcp://127.0.0.1:{port}");
        let clients = Clients::default();
        let all = Arc::clone(&clients);
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                std::thread::spawn(move || serve(tcp, &all));
            }
        });
        let endpoint = bus.clone();
        std::thread::spawn(move || relay(&endpoint, &clients, habit));
        Foreign { ws, bus }
    }
}

/// Python's spacing.
fn spaced(value: &Value) -> String {
    value.to_string().replace("\":", "\": ").replace(",\"", ", \"")
}

fn send(tcp: &mut TcpStream, value: &Value) -> std::io::Result<()> {
    let mut out = Vec::new();
    write(&mut out, Opcode::Text, spaced(value).as_bytes());
    tcp.write_all(&out)
}

/// One client: upgrade, then commands until it leaves.
fn serve(mut tcp: TcpStream, all: &Clients) {
    let mut buffer = vec![0; 64 << 10];
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match tcp.read(&mut buffer) {
            Ok(n @ 1..) => head.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    if tcp.write_all(answer).is_err() {
        return;
    }
    let mut parser = Parser::new(1 << 20);
    while let Ok(n @ 1..) = tcp.read(&mut buffer) {
        let mut input = Input::new(&mut buffer[..n]);
        while let Ok(Some(event)) = parser.next(&mut input) {
            let Event::Text(text) = event else { continue };
            let command: Value = serde_json::from_str(text).expect("JSON");
            let answer = match command["action"].as_str() {
                Some("authenticate") => {
                    json!({"type": "auth", "status": "success", "supported_features": {"ltp": true}})
                }
                Some("subscribe") => {
                    let symbols = command["symbols"].as_array().expect("a list");
                    let names: HashSet<String> =
                        symbols.iter().map(|s| s["symbol"].as_str().expect("a name").to_owned()).collect();
                    all.lock().expect("clients").push((tcp.try_clone().expect("a handle"), names));
                    json!({"type": "subscribe", "status": "success", "subscriptions": []})
                }
                other => panic!("{other:?}"),
            };
            send(&mut tcp, &answer).expect("sent");
        }
    }
}

/// The bus: everything that is published, to everybody who wants it.
fn relay(endpoint: &str, clients: &Clients, habit: Habit) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut sub = zeromq::SubSocket::new();
        while sub.connect(endpoint).await.is_err() {}
        sub.subscribe("").await.expect("subscribed");
        let mut held: Option<(String, Value)> = None;
        let mut count = 0;
        while let Ok(message) = sub.recv().await {
            let [topic, payload] = [0, 1].map(|n| message.get(n).expect("two frames"));
            let topic = String::from_utf8_lossy(topic);
            let symbol = topic.split('_').nth(1).expect("a symbol").to_owned();
            let data: Value = serde_json::from_slice(payload).expect("JSON");
            let tick = json!({"type": "market_data", "symbol": symbol, "exchange": "NSE", "mode": 1, "data": data});
            count += 1;
            let mut clients = clients.lock().expect("clients");
            let mut pass = |symbol: &str, tick: &Value| {
                clients.retain_mut(|(tcp, names)| !names.contains(symbol) || send(tcp, tick).is_ok());
            };
            match habit {
                Habit::Loses if count % 10 == 0 => {}
                Habit::Swaps if held.is_none() && count % 10 == 0 => held = Some((symbol, tick)),
                _ => {
                    pass(&symbol, &tick);
                    if habit == Habit::Repeats && count % 10 == 0 {
                        pass(&symbol, &tick);
                    }
                    if held.as_ref().is_some_and(|(held, _)| *held == symbol) {
                        let (symbol, tick) = held.take().expect("just seen");
                        pass(&symbol, &tick);
                    }
                }
            }
        }
    });
}

/// Fails when tags are not closed in order, attributes not quoted, or characters not escaped.
pub(crate) fn well_formed(page: &str) {
    let mut open: Vec<String> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        assert!(
            !rest[..at].contains('>') || open.last().is_some_and(|t| t == "style"),
            "a bare > in {:?}",
            &rest[..at]
        );
        let end = at + rest[at..].find('>').expect("an open tag");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed out of order");
            continue;
        }
        let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()), "<{tag}>");
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        // Every second part lies between quotes; what stands before one ends with `=`.
        let outside: Vec<&str> = tag.split('"').step_by(2).collect();
        let (last, before) = outside.split_last().expect("a part");
        let quoted = before.iter().all(|part| part.ends_with('=') && part.matches('=').count() == 1);
        assert!(quoted && !last.contains('='), "an attribute without quotes: <{tag}>");
        if !tag.ends_with('/') {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    assert!(page.contains("<svg") && page.contains("<polyline"), "no plot");
}
