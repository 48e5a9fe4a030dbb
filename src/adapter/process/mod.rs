//! An adapter as a process of its own: any [`Adapter`] behind the control channel, its ticks on ZeroMQ (`tickcast adapter`).
//!
//! `machine` decides, `words` reads and writes, `link` keeps a connection to the server, `outlet` publishes; this file moves
//! commands and reports between them. In: what the process is ([`Card`]), where the server is, how an adapter is made. Out: whether
//! it was stopped or replaced. Promises: an adapter that hangs is given up after [`CLOSE_WAIT`]; there is one at a time.
//! Knows no broker and no settings. Tests: `machine/tests.rs`, `tests/adapter_process.rs`.

pub mod link;
pub mod machine;
pub mod outlet;
pub mod words;

use self::link::Heard;
use self::machine::{CALLS_MAX, Effect, Machine};
use self::words::Card;
use super::supervisor::CLOSE_WAIT;
use super::{Adapter, Command, Io, Report};
use bytes::Bytes;
use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Messages of the server that may wait, counted; beyond it the kernel makes the server wait.
const HEARD_MAX: usize = 1024;
/// Reports of the adapter that may wait, counted; beyond it the adapter waits.
const REPORTS_MAX: usize = 1024;
/// At the end the adapter gets this long to log out.
const GOODBYE: Duration = Duration::from_secs(2);

/// Makes the adapter anew each time one is needed.
pub type Make = Box<dyn FnMut() -> Box<dyn Adapter>>;

/// Why the process is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// Another process serves the same broker and user.
    Replaced,
}

/// Serves the channel at `control` until `stop`; `live` is whether ticks are to be published.
pub async fn run(
    card: Card,
    control: String,
    make: Make,
    live: watch::Sender<bool>,
    stop: impl Future<Output = ()>,
) -> End {
    let (tell, mut heard) = mpsc::channel(HEARD_MAX);
    let mut link = tokio::spawn(link::run(control, tell));
    let mut shell = Shell { machine: Machine::new(card, Instant::now()), out: None, feed: None, make, live };
    let mut stop = pin!(stop);
    let end = loop {
        if shell.act() {
            break End::Replaced;
        }
        let wake = shell.wake_at();
        let Shell { feed, .. } = &mut shell;
        tokio::select! {
            Some(heard) = heard.recv() => shell.heard(heard),
            report = next_report(feed) => shell.report(report),
            () = until(wake) => shell.tick(),
            () = &mut stop => break End::Stopped,
            ended = &mut link => unreachable!("the link lives as long as it is listened to: {ended:?}"),
        }
    };
    shell.live.send_replace(false);
    shell.goodbye().await;
    link.abort();
    end
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn next_report(feed: &mut Option<Feed>) -> Option<Report> {
    match feed {
        Some(feed) => feed.reports.recv().await,
        None => pending().await,
    }
}

/// The adapter of now.
struct Feed {
    commands: mpsc::Sender<Command>,
    reports: mpsc::Receiver<Report>,
    task: JoinHandle<()>,
    /// Told to log out: when it is given up.
    closing: Option<Instant>,
}

struct Shell {
    machine: Machine,
    /// The connection of now.
    out: Option<mpsc::Sender<Bytes>>,
    feed: Option<Feed>,
    make: Make,
    live: watch::Sender<bool>,
}

impl Shell {
    fn wake_at(&self) -> Option<Instant> {
        let closing = self.feed.as_ref().and_then(|feed| feed.closing);
        [self.machine.wake_at(), closing].into_iter().flatten().min()
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Up(out) => {
                self.out = Some(out);
                self.machine.connected(Instant::now());
            }
            Heard::Message(body) => self.machine.heard(words::read(&body), Instant::now()),
            Heard::Lost => {
                self.out = None;
                self.machine.disconnected();
            }
        }
    }

    fn report(&mut self, report: Option<Report>) {
        let (now, chance) = (Instant::now(), rand::random());
        match report {
            Some(Report::Disconnected) | None => self.give_up("the adapter has ended"),
            Some(report) => self.machine.report(report, now, chance),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.feed.as_ref().is_some_and(|feed| feed.closing.is_some_and(|at| at <= now)) {
            self.give_up("the adapter did not end");
        }
        self.machine.tick(now);
    }

    /// There is no adapter any more.
    fn give_up(&mut self, reason: &str) {
        if let Some(feed) = self.feed.take() {
            feed.task.abort();
        }
        self.machine.ended(reason, Instant::now(), rand::random());
    }

    /// Does what the machine wants; whether another process has taken over.
    fn act(&mut self) -> bool {
        let mut effects = self.machine.effects();
        while !effects.is_empty() {
            for effect in effects {
                match effect {
                    Effect::Send(message) => self.send(message),
                    Effect::Reconnect => self.out = None,
                    Effect::Start => self.start(),
                    Effect::Tell(command) => self.tell(command),
                    Effect::Stop => {
                        self.tell(Command::Disconnect);
                        if let Some(feed) = &mut self.feed {
                            feed.closing = Some(Instant::now() + CLOSE_WAIT);
                        }
                    }
                    Effect::Publish(live) => _ = self.live.send_replace(live),
                    Effect::Replaced => return true,
                }
            }
            effects = self.machine.effects();
        }
        false
    }

    fn send(&mut self, message: Bytes) {
        if self.out.as_ref().is_some_and(|out| out.try_send(message).is_err()) {
            // It has room for every answer: it is stuck or gone, and what it was told is void.
            self.out = None;
            self.machine.disconnected();
        }
    }

    fn start(&mut self) {
        // One that failed may still be on its way out; its broker must not see two.
        if let Some(old) = self.feed.take() {
            old.task.abort();
        }
        let (commands, queue) = mpsc::channel(CALLS_MAX + 2);
        let (tell, reports) = mpsc::channel(REPORTS_MAX);
        let task = tokio::spawn((self.make)().run(Io { commands: queue, reports: tell }));
        self.feed = Some(Feed { commands, reports, task, closing: None });
        self.tell(Command::Connect);
    }

    fn tell(&mut self, command: Command) {
        let Some(feed) = &self.feed else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = feed.commands.try_send(command) {
            self.give_up("the adapter takes no calls");
        }
    }

    async fn goodbye(mut self) {
        self.tell(Command::Disconnect);
        let Some(mut feed) = self.feed.take() else { return };
        let logged_out =
            async { while feed.reports.recv().await.is_some_and(|report| report != Report::Disconnected) {} };
        if timeout(GOODBYE, logged_out).await.is_err() {
            tracing::warn!("the adapter did not log out in time");
        }
        feed.task.abort();
    }
}
