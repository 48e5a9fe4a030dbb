//! The terminal as a screen of our own, given back as it was however we end.
//!
//! In: lines. Out: what has changed is overwritten, so nothing flickers. Keys are read by a thread of their own, which ends with the process.
//! Tests: `tests/top.rs`, on a pseudo-terminal.

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Alternate screen, no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Of a terminal that does not know its size.
const COLUMNS_AND_ROWS: (usize, usize) = (80, 24);
/// Keys typed and not read; further ones wait in the terminal.
const KEYS_MAX: usize = 16;

/// Our screen, until it is dropped.
pub(super) struct Screen {
    /// How the terminal was, if stdin is one.
    before: Option<Termios>,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut ours = before.clone();
            // Keys come at once and unseen. Ctrl-C stays a signal; Ctrl-Z would leave our screen to the shell.
            ours.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            ours.special_codes[SpecialCodeIndex::VSUSP] = 0;
            tcsetattr(&stdin, OptionalActions::Now, &ours)?;
        }
        let screen = Screen { before };
        let mut out = io::stdout();
        out.write_all(ENTER.as_bytes())?;
        out.flush()?;
        Ok(screen)
    }

    /// Draws what `lines` makes of the terminal's columns and rows.
    pub(super) fn draw(&mut self, lines: impl FnOnce(usize, usize) -> Vec<String>) -> io::Result<()> {
        let (columns, rows) = match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => COLUMNS_AND_ROWS,
        };
        let mut text = String::from("\x1b[H");
        for (n, line) in lines(columns, rows).iter().take(rows).enumerate() {
            if n > 0 {
                text.push('\n');
            }
            // Before the text: behind a line as wide as the screen it would take the last character.
            text += "\x1b[K";
            text += line;
        }
        text += "\x1b[J";
        let mut out = io::stdout();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        // The terminal may be gone; there is nobody left to tell.
        let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Keys as they are typed.
pub(super) struct Input(mpsc::Receiver<u8>);

impl Input {
    /// Begins to read stdin.
    pub(super) fn read() -> Self {
        let (keys, input) = mpsc::channel(KEYS_MAX);
        std::thread::spawn(move || {
            let mut key = [0];
            while io::stdin().read_exact(&mut key).is_ok() && keys.blocking_send(key[0]).is_ok() {}
        });
        Input(input)
    }

    /// Waits for a `q`. Never comes back when stdin has ended.
    pub(super) async fn quit(&mut self) {
        while let Some(key) = self.0.recv().await {
            if key.eq_ignore_ascii_case(&b'q') {
                return;
            }
        }
        std::future::pending().await
    }
}
