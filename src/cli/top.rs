//! `tickcast top`: what an operator wants to see of a running server, once a second: clients, ticks, latency, feeds, and who is slow and why.
//!
//! In: an admin address. Out: a screen that is drawn anew until `q`, Ctrl-C or SIGTERM, or one screen as plain text (`--once`, or stdout is
//! no terminal); on stderr what to do when nobody answers. Exit: 0 ended as asked, 1 the server was never there, 2 bad options. Rates are
//! between two looks. A server that goes away later is waited for. `view` draws and is pure; `terminal` is the screen. Tests: `tests/top.rs`.

mod terminal;
mod view;

use super::admin::{Admin, AdminError, Metrics};
use super::exit;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use terminal::{Input, Screen};
use tokio::signal::unix::{SignalKind, signal};
use view::{Look, View};

/// Between two looks.
const REFRESH: Duration = Duration::from_secs(1);
/// Columns of a screen that is no terminal.
const PLAIN_COLUMNS: usize = 80;

/// Runs the command to its end; the exit code.
pub fn run(args: &super::TopArgs) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tickcast top: cannot start: {error}");
            return exit::RUNTIME;
        }
    };
    let code = runtime.block_on(top(args));
    // A name lookup may still hold a thread.
    runtime.shutdown_background();
    code
}

async fn top(args: &super::TopArgs) -> u8 {
    let admin = match Admin::parse(&args.url) {
        Ok(admin) => admin,
        Err(error) => {
            eprintln!("tickcast top: {error}");
            return exit::SETTINGS;
        }
    };
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let view = View::new(admin.address(), colours);
    let eyes = Eyes { sessions: format!("/sessions?top={}&by={}", args.top, args.by), admin };
    let ended = match args.once || !io::stdout().is_terminal() {
        true => once(&eyes, view).await,
        false => live(&eyes, view).await,
    };
    match ended {
        Ok(()) => exit::OK,
        // Whoever read our output has enough of it.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => exit::OK,
        Err(failure) => {
            eprintln!("tickcast top: {failure}");
            exit::RUNTIME
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Admin(#[from] AdminError),
    #[error("the terminal: {0}")]
    Io(#[from] io::Error),
}

/// What is looked at.
struct Eyes {
    admin: Admin,
    sessions: String,
}

impl Eyes {
    async fn look(&self) -> Result<Look, AdminError> {
        let at = Instant::now();
        let metrics = Metrics(self.admin.get("/metrics").await?);
        let sessions = self.admin.get(&self.sessions).await?;
        let feeds = self.admin.get("/feeds").await?;
        // Not ready is an answer too.
        let (_, readiness) = self.admin.page("/readyz").await?;
        Ok(Look::read(at, metrics, &sessions, &feeds, &readiness))
    }
}

/// Two looks, since rates are between them, and one screen.
async fn once(eyes: &Eyes, mut view: View) -> Result<(), Failure> {
    view.seen(eyes.look().await?);
    tokio::time::sleep(REFRESH).await;
    view.seen(eyes.look().await?);
    let mut out = io::stdout().lock();
    for line in view.lines(PLAIN_COLUMNS, usize::MAX) {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(out.flush()?)
}

/// Screens until told to end.
async fn live(eyes: &Eyes, mut view: View) -> Result<(), Failure> {
    // Before the screen changes: who is not there at all is told in plain words.
    view.seen(eyes.look().await?);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut resized = signal(SignalKind::window_change())?;
    let (mut screen, mut input) = (Screen::enter()?, Input::read());
    let mut looks = tokio::time::interval(REFRESH);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    looks.reset();
    loop {
        screen.draw(|columns, rows| view.lines(columns, rows))?;
        let look = async {
            looks.tick().await;
            eyes.look().await
        };
        tokio::select! {
            look = look => match look {
                Ok(look) => view.seen(look),
                Err(error) => view.lost(&error.to_string()),
            },
            () = input.quit() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = resized.recv() => {}
        }
    }
}
