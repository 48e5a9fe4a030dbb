//! Python processes: the SDK, a publisher, the example.

use crate::process::{PATIENCE, Running, Server, root};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The prepared Python.
pub(crate) fn python() -> PathBuf {
    let default = || root().join("target/e2e-venv/bin/python");
    let path = std::env::var_os("E2E_PYTHON").map_or_else(default, PathBuf::from);
    assert!(path.exists(), "no {}: run scripts/test.sh, which makes it, or set E2E_PYTHON", path.display());
    path
}

/// Where the 2.0.x wheel was unpacked.
fn wheel() -> PathBuf {
    let default = || root().join("target/e2e-sdk2");
    let path = std::env::var_os("E2E_SDK2").map_or_else(default, PathBuf::from);
    let feed = path.join("openalgo/feed.py");
    assert!(feed.exists(), "no {}: run scripts/test.sh, which makes it, or set E2E_SDK2", feed.display());
    path
}

/// A script that takes commands and tells events, one JSON object a line.
pub(crate) struct Script {
    pub(crate) process: Running,
    stdin: Option<ChildStdin>,
    /// Events set aside while looking for another.
    aside: Vec<Value>,
    pub(crate) ready: Value,
}

impl Script {
    pub(crate) fn start(script: &str, args: &[&str]) -> Self {
        let mut command = Command::new(python());
        command.arg(root().join("tests/e2e").join(script)).args(args).stdin(Stdio::piped());
        let mut process = Running::new(command);
        let stdin = Some(process.stdin());
        let mut script = Script { process, stdin, aside: Vec::new(), ready: Value::Null };
        script.ready = script.event("ready");
        script
    }

    pub(crate) fn tell(&mut self, command: &Value) {
        writeln!(self.stdin.as_ref().expect("open"), "{command}").expect("the script lives");
    }

    /// The next event of this name; others are kept.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.event_within(name, PATIENCE).unwrap_or_else(|| {
            self.process.kill();
            panic!("no event {name}; aside: {:?}; stderr:\n{}", self.aside, self.process.stderr())
        })
    }

    pub(crate) fn event_within(&mut self, name: &str, patience: Duration) -> Option<Value> {
        if let Some(at) = self.aside.iter().position(|event| event["event"] == name) {
            return Some(self.aside.remove(at));
        }
        let deadline = Instant::now() + patience;
        loop {
            let line = self.process.line_within(deadline.saturating_duration_since(Instant::now()))?;
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not an event: {line}"));
            if event["event"] == name {
                return Some(event);
            }
            self.aside.push(event);
        }
    }

    /// The next callback of this name for `symbol`; others are kept.
    pub(crate) fn callback_of(&mut self, name: &str, symbol: &str) -> Value {
        let is_it = |event: &Value| event["event"] == name && event["message"]["symbol"] == symbol;
        if let Some(at) = self.aside.iter().position(is_it) {
            return self.aside.remove(at);
        }
        loop {
            let line = self.process.line();
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not an event: {line}"));
            if is_it(&event) {
                return event;
            }
            self.aside.push(event);
        }
    }

    /// Events of this name that have come already.
    pub(crate) fn kept(&mut self, name: &str) -> Vec<Value> {
        let (found, rest) = std::mem::take(&mut self.aside).into_iter().partition(|event| event["event"] == name);
        self.aside = rest;
        found
    }

    /// Ends the script by the end of its stdin.
    pub(crate) fn finish(mut self) {
        drop(self.stdin.take());
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{}", self.process.stderr());
    }
}

/// Which SDK.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Generation {
    /// As pip installs it: one frame a symbol, no reconnect.
    Installed,
    /// The feed module of 2.0.x from its wheel: bulk frames, pings, reconnects and replays.
    Two,
}

/// A strategy on the SDK.
pub(crate) struct Sdk(pub(crate) Script);

impl Sdk {
    /// A connected and authenticated SDK with the demo key.
    pub(crate) fn connected(generation: Generation, server: &Server) -> Self {
        let url = server.url();
        let wheel = (generation == Generation::Two).then(|| wheel().display().to_string());
        let mut args = vec!["--url", &url, "--key", "demo-key"];
        args.extend(wheel.iter().flat_map(|path| ["--wheel", path]));
        let mut sdk = Sdk(Script::start("sdk.py", &args));
        let source = sdk.0.ready["source"].as_str().expect("a path").to_owned();
        assert_eq!(source.contains("e2e-sdk2"), generation == Generation::Two, "the feed module comes from {source}");
        assert_eq!(sdk.call(json!({"op": "connect"})), json!(true));
        sdk
    }

    /// Calls the SDK and gives what it returned.
    pub(crate) fn call(&mut self, command: Value) -> Value {
        self.0.tell(&command);
        let done = self.0.event("done");
        assert_eq!(done["op"], command["op"]);
        done["result"].clone()
    }

    pub(crate) fn subscribe(&mut self, mode: u8, instruments: &[(String, String)]) {
        assert_eq!(self.call(op("subscribe", mode, instruments)), json!(true));
    }

    pub(crate) fn unsubscribe(&mut self, mode: u8, instruments: &[(String, String)]) {
        assert_eq!(self.call(op("unsubscribe", mode, instruments)), json!(true));
    }

    /// The next callback of `mode`: symbol and data.
    pub(crate) fn callback(&mut self, mode: u8) -> (String, Value) {
        let event = self.0.event(callback_name(mode));
        let message = &event["message"];
        assert_eq!(message["mode"], mode, "{message}");
        (message["symbol"].as_str().expect("a symbol").to_owned(), message["data"].clone())
    }
}

pub(crate) fn callback_name(mode: u8) -> &'static str {
    ["ltp", "quote", "depth"][usize::from(mode) - 1]
}

fn op(name: &str, mode: u8, instruments: &[(String, String)]) -> Value {
    let instruments: Vec<_> = instruments.iter().map(|(e, s)| json!({"exchange": e, "symbol": s})).collect();
    json!({"op": name, "mode": mode, "instruments": instruments})
}

/// An instrument on NSE.
pub(crate) fn nse(symbol: &str) -> (String, String) {
    ("NSE".into(), symbol.into())
}

/// A pyzmq PUB socket.
pub(crate) struct Publisher {
    pub(crate) script: Script,
    pub(crate) endpoint: String,
}

impl Publisher {
    /// `side` is `--bind` or `--connect`.
    pub(crate) fn start(side: &str, endpoint: &str, more: &[&str]) -> Self {
        let script = Script::start("publisher.py", &[&[side, endpoint], more].concat());
        let endpoint = script.ready["endpoint"].as_str().expect("an endpoint").to_owned();
        Publisher { script, endpoint }
    }

    /// Connected to the server's bus, and heard.
    pub(crate) fn heard(server: &Server) -> Self {
        let mut publisher = Self::start("--connect", &server.bus, &[]);
        publisher.until_heard(server);
        publisher
    }

    pub(crate) fn send(&mut self, form: &str, topic: &str, data: &Value) {
        self.script.tell(&json!({"form": form, "topic": topic, "data": data}));
    }

    pub(crate) fn ltp(&mut self, symbol: &str, price: f64) {
        self.send("json", &format!("NSE_{symbol}_LTP"), &json!({"ltp": price, "timestamp": 1_761_367_200_123_u64}));
    }

    /// A PUB socket drops what it sends before it is subscribed: sends ticks nobody wants until one is counted.
    pub(crate) fn until_heard(&mut self, server: &Server) {
        let before = server.metric("tickcast_ticks_received_total", &[]);
        server.await_that("the publisher is heard", || {
            self.ltp("PROBE", 1.0);
            server.metric("tickcast_ticks_received_total", &[]) > before
        });
    }
}
