//! What is going on, on stderr: a bar in a terminal, now and then a line elsewhere, nothing with --quiet.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// Lines come no closer, where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines { last: Cell<Option<Instant>>, stage: RefCell<String> },
    Quiet,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet {
            return Progress::Quiet;
        }
        if !stderr().is_terminal() {
            return Progress::Lines { last: Cell::new(None), stage: RefCell::default() };
        }
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:>18} {bar:32} {percent:>3} % {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress::Bar(bar)
    }

    /// A stage without length.
    pub(crate) fn say(&self, stage: &str) {
        self.at(stage, 0, 1, "");
    }

    /// `done` of `all` of a stage.
    pub(crate) fn at(&self, stage: &str, done: u64, all: u64, text: &str) {
        match self {
            Progress::Bar(bar) => {
                bar.set_length(all);
                bar.set_position(done);
                bar.set_prefix(stage.to_owned());
                bar.set_message(text.to_owned());
            }
            Progress::Lines { last, stage: old } => {
                let is_new = *old.borrow() != stage;
                if is_new || last.get().is_none_or(|last| last.elapsed() >= LINE) {
                    last.set(Some(Instant::now()));
                    *old.borrow_mut() = stage.to_owned();
                    let percent = done * 100 / all.max(1);
                    eprintln!("loadtest: {stage} {percent} %{}{text}", if text.is_empty() { "" } else { ", " });
                }
            }
            Progress::Quiet => {}
        }
    }

    /// Makes room for the report.
    pub(crate) fn clear(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
