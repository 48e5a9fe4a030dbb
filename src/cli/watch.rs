//! `tickcast watch`: live ticks in the terminal, from any server that speaks the client protocol.
//!
//! In: [`WatchOptions`]. Out: one line a tick when stdout is no terminal, a table in place when it is, notes and errors
//! with what to do on stderr, an exit code: 0 ended as asked, 1 the server refused or was never there, 2 bad options.
//! Once it has been connected it comes back by itself, with growing pauses, when the server goes away.
//! `plan` checks the options, `packed` reads MessagePack as its JSON, `board` keeps what was seen; all are pure. Tests:
//! `watch/tests.rs`.

mod board;
mod packed;
mod plan;

use super::client::{Client, ClientError, Message};
use crate::adapter::native::upgrade::UpgradeError;
use crate::model::{Format, Micros};
use crate::net::http::SUBPROTOCOL_MSGPACK;
use board::Board;
use packed::Packed;
use plan::Plan;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::pin::Pin;
use std::time::{Duration, Instant};

/// The table is drawn anew this often.
const REDRAW: Duration = Duration::from_millis(250);
/// The server has this long to answer `authenticate` and `subscribe`; an adapter call may take 5 s of it.
const ANSWER: Duration = Duration::from_secs(15);
/// The first pause before connecting again; each further one is twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest pause before connecting again.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Ties our subscribe to its acknowledgement.
const REQUEST_ID: &str = "watch";

/// What `tickcast watch` was asked for, as typed.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// `SYMBOL` or `EXCHANGE:SYMBOL`, at least one.
    pub symbols: Vec<String>,
    /// Exchange of the symbols that name none.
    pub exchange: String,
    /// `ltp`, `quote` or `depth`.
    pub mode: String,
    /// `json` or `msgpack`.
    pub format: String,
    /// `ws://host:port`.
    pub url: String,
    /// API key.
    pub key: String,
    /// End after this many ticks.
    pub count: Option<u64>,
}

impl Default for WatchOptions {
    fn default() -> Self {
        WatchOptions {
            symbols: Vec::new(),
            exchange: "NSE".into(),
            mode: "ltp".into(),
            format: "json".into(),
            url: "ws://127.0.0.1:8765".into(),
            key: "demo-key".into(),
            count: None,
        }
    }
}

impl From<super::WatchArgs> for WatchOptions {
    fn from(args: super::WatchArgs) -> Self {
        WatchOptions {
            symbols: args.symbols,
            exchange: args.exchange,
            mode: args.mode,
            format: args.format,
            url: args.url,
            key: args.key,
            count: Some(args.count).filter(|count| *count > 0),
        }
    }
}

/// Runs the command to its end on the calling thread and gives the exit code.
pub fn run(options: WatchOptions) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tickcast watch: cannot start: {error}");
            return 1;
        }
    };
    let terminal = io::stdout().is_terminal();
    let stop = async {
        // Without a handler Ctrl-C still ends the process, merely without a summary.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = runtime.block_on(watch(options, &mut io::stdout(), &mut io::stderr(), terminal, stop));
    // A name lookup may still hold a thread.
    runtime.shutdown_background();
    ended
}

/// As [`run`], with its surroundings as arguments: ticks go to `out`, everything else to `notes`, and it ends when
/// `stop` does.
pub async fn watch(
    options: WatchOptions,
    out: &mut dyn Write,
    notes: &mut dyn Write,
    terminal: bool,
    stop: impl Future<Output = ()>,
) -> u8 {
    let plan = match Plan::new(options) {
        Ok(plan) => plan,
        Err(mistake) => {
            let _ = writeln!(notes, "tickcast watch: {mistake}");
            return 2;
        }
    };
    let board = Board::new(&plan.instruments, plan.format == Format::MsgPack, Instant::now());
    let mut viewer = Viewer { plan, board, out, notes, terminal };
    for note in std::mem::take(&mut viewer.plan.notes) {
        viewer.note(&note);
    }
    let stop = std::pin::pin!(stop);
    let end = viewer.stay_connected(stop).await;
    let summary = viewer.board.summary(Instant::now());
    match end {
        End::AsAsked => {
            if terminal {
                // Best effort: the summary below says the rest.
                let _ = viewer.redraw();
            }
            viewer.note(&summary);
            0
        }
        // Whoever read our output has enough of it.
        End::NobodyReads => 0,
        End::Failed(why) => {
            viewer.note(&why);
            1
        }
        End::Lost(why) => {
            viewer.note(&format!("{why}. Is tickcast running? `tickcast` starts it with a simulated market"));
            1
        }
    }
}

/// How one connection ended.
#[derive(Debug)]
enum End {
    /// Ctrl-C, or as many ticks as were asked for.
    AsAsked,
    /// The output was closed.
    NobodyReads,
    /// It would be the same the next time.
    Failed(String),
    /// The next time may be better.
    Lost(String),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Upgrade(UpgradeError::Refused { status, .. }) if !status.is_server_error() => {
                End::Failed(error.to_string())
            }
            error => End::Lost(error.to_string()),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => End::NobodyReads,
            _ => End::Failed(format!("cannot write: {error}")),
        }
    }
}

struct Viewer<'a> {
    plan: Plan,
    board: Board,
    out: &'a mut dyn Write,
    notes: &'a mut dyn Write,
    terminal: bool,
}

/// Where one connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Authenticating,
    Subscribing,
    Live,
}

impl Viewer<'_> {
    async fn stay_connected<F: Future<Output = ()>>(&mut self, mut stop: Pin<&mut F>) -> End {
        let mut been_live = false;
        let mut pause = RETRY_FIRST;
        loop {
            let mut step = Step::Authenticating;
            let why = match self.connection(stop.as_mut(), &mut step).await {
                Ok(never) => match never {},
                Err(End::Lost(why)) => why,
                Err(end) => return end,
            };
            if step == Step::Live {
                (been_live, pause) = (true, RETRY_FIRST);
            }
            if !been_live {
                return End::Lost(why);
            }
            // Up to a quarter more, so that many watchers do not come back at once.
            let pause_now = pause.mul_f64(1.0 + rand::random::<f64>() / 4.0);
            self.note(&format!("{why}; connecting again in {:.1} s", pause_now.as_secs_f64()));
            tokio::select! {
                biased;
                () = stop.as_mut() => return End::AsAsked,
                () = tokio::time::sleep(pause_now) => pause = (2 * pause).min(RETRY_MAX),
            }
        }
    }

    /// One connection, from the first byte to its end.
    async fn connection<F: Future<Output = ()>>(
        &mut self,
        mut stop: Pin<&mut F>,
        step: &mut Step,
    ) -> Result<std::convert::Infallible, End> {
        let offered = (self.plan.format == Format::MsgPack).then_some(SUBPROTOCOL_MSGPACK);
        let mut client = tokio::select! {
            biased;
            () = stop.as_mut() => return Err(End::AsAsked),
            connected = Client::connect(&self.plan.target, offered) => connected?,
        };
        if client.subprotocol() != offered {
            return Err(other_subprotocol(client.subprotocol()));
        }
        // Ids and scales hold for one connection.
        let mut packed = offered.map(|_| Packed::default());
        client.send(&json!({"action": "authenticate", "api_key": self.plan.key}).to_string()).await?;
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let answer_by = tokio::time::sleep(ANSWER);
        tokio::pin!(answer_by);
        loop {
            let message = {
                // Kept alive while other arms run: reading is not cancel-safe.
                let next = client.next();
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        biased;
                        () = stop.as_mut() => break None,
                        () = &mut answer_by, if *step != Step::Live => {
                            return Err(End::Lost(format!("the server did not answer within {} s", ANSWER.as_secs())));
                        }
                        _ = redraw.tick(), if self.terminal && *step == Step::Live => self.redraw()?,
                        message = &mut next => break Some(message?),
                    }
                }
            };
            let Some(message) = message else {
                client.close().await;
                return Err(End::AsAsked);
            };
            for message in messages(message, packed.as_mut())? {
                let before = *step;
                *step = self.message(&message, before)?;
                if (before, *step) == (Step::Authenticating, Step::Subscribing) {
                    client.send(&self.subscribe()).await?;
                }
            }
            if self.plan.count.is_some_and(|count| self.board.ticks() >= count) {
                client.close().await;
                return Err(End::AsAsked);
            }
        }
    }

    fn subscribe(&self) -> String {
        let entry = |i: &crate::model::Instrument| json!({"symbol": i.symbol(), "exchange": i.venue()});
        let symbols: Vec<Value> = self.plan.instruments.iter().map(entry).collect();
        json!({
            "action": "subscribe", "mode": self.plan.mode.label(), "symbols": symbols, "request_id": REQUEST_ID
        })
        .to_string()
    }

    /// What one message from the server means; the step after it.
    fn message(&mut self, message: &Value, step: Step) -> Result<Step, End> {
        let text = |key: &str| message.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "market_data" => {
                self.tick(message)?;
                Ok(step)
            }
            "auth" if step == Step::Authenticating && text("status") == "success" => Ok(Step::Subscribing),
            "subscribe" if step == Step::Subscribing => {
                self.acknowledged(message)?;
                Ok(Step::Live)
            }
            "feed_status" => {
                self.note(&format!("feed {} is {} {}", text("broker"), text("state"), text("detail")));
                Ok(step)
            }
            _ if text("status") == "error" => {
                let told = advise(text("code"), text("message"));
                if step != Step::Live {
                    return Err(End::Failed(told));
                }
                self.note(&told);
                Ok(step)
            }
            _ => Ok(step),
        }
    }

    fn acknowledged(&mut self, message: &Value) -> Result<(), End> {
        let entries = message.get("subscriptions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut refused = 0;
        for entry in entries {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            if text("status") == "error" {
                refused += 1;
                self.note(&format!("{}:{}: {}", text("exchange"), text("symbol"), text("message")));
            }
        }
        if refused > 0 && refused == entries.len() {
            return Err(End::Failed("the server refused every symbol; check their spelling and exchange".into()));
        }
        Ok(())
    }

    fn tick(&mut self, message: &Value) -> Result<(), End> {
        if self.plan.count.is_some_and(|count| self.board.ticks() >= count) {
            return Ok(());
        }
        let line = self.board.tick(message, Instant::now(), Micros::now());
        if let (Some(line), false) = (line, self.terminal) {
            writeln!(self.out, "{line}")?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn redraw(&mut self) -> Result<(), End> {
        let heading = format!("{}  {}  Ctrl-C ends", self.plan.url, self.plan.mode.label());
        let screen = self.board.draw(&heading, Instant::now());
        self.out.write_all(screen.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Notes are for people; when nobody can read them, so be it.
    fn note(&mut self, text: &str) {
        let _ = writeln!(self.notes, "tickcast watch: {text}");
        self.board.scroll();
    }
}

/// What one WebSocket message says, as the JSON protocol's objects; `packed` on a MessagePack connection.
fn messages(message: Message, packed: Option<&mut Packed>) -> Result<Vec<Value>, End> {
    match (message, packed) {
        (Message::Text(text), _) => Ok(serde_json::from_str(&text).into_iter().collect()),
        (Message::Binary(frame), Some(packed)) => packed
            .messages(&frame)
            .map_err(|e| End::Failed(format!("the server sent a frame that cannot be read: {e}"))),
        (Message::Binary(_), None) => Ok(Vec::new()),
        (Message::Closed { code, reason }, _) => Err(goodbye(code, &reason)),
    }
}

fn other_subprotocol(chosen: Option<&str>) -> End {
    End::Failed(match chosen {
        None => format!(
            "the server did not accept the subprotocol {SUBPROTOCOL_MSGPACK}: it does not speak MessagePack; use --format json"
        ),
        Some(name) => format!("the server chose the subprotocol {name}, which was not offered"),
    })
}

/// What a server's error means to the person at the terminal.
fn advise(code: &str, message: &str) -> String {
    let advice = match code {
        "AUTHENTICATION_ERROR" | "NOT_AUTHENTICATED" => {
            "pass a valid key with --key (a server without a key store takes demo-key; `tickcast keys add` makes one)"
        }
        "BROKER_ERROR" | "BROKER_INIT_ERROR" | "BROKER_CONNECTION_ERROR" => {
            "the server could not reach this user's broker; its log says why"
        }
        "LIMIT_EXCEEDED" => "watch fewer symbols, or raise limits.subscriptions_per_client",
        "INVALID_ACTION" | "INVALID_PARAMETERS" | "INVALID_MODE" => "does this server speak the same protocol version?",
        _ => return format!("{code}: {message}"),
    };
    format!("{code}: {message}. What to do: {advice}")
}

fn goodbye(code: u16, reason: &str) -> End {
    let failed = |why: &str| End::Failed(format!("the server closed the connection ({code} {reason}): {why}"));
    match code {
        4401 => failed("not authenticated; pass a valid key with --key"),
        4403 => failed("the key was revoked; ask for a new one"),
        4429 => failed("too many requests"),
        1013 => failed("this user or key has all the sessions it may have; close some"),
        1002 | 1003 | 1007 | 1009 => failed("it did not understand us; is it a tickcast or OpenAlgo server?"),
        _ => End::Lost(format!("the server closed the connection ({code} {reason})")),
    }
}

#[cfg(test)]
mod tests;
