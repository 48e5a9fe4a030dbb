//! Reading one session's socket: bytes in, events acted on, never waiting for a command.
//!
//! In: bytes. Out: commands, queued for `commands.rs`, and the answers that wait for nobody (pongs, `ping`, the broker list).
//! Promise: bounded work between two turns of the reactor; state survives a cancelled read, since it lies outside of any future.

use super::state::Session;
use super::{Sessions, commands};
use crate::limits::{COMMANDS_WAITING_BYTES_MAX, COMMANDS_WAITING_MAX};
use crate::model::limited;
use crate::policy::admission::Verdict;
use crate::wire::close::CloseReason;
use crate::wire::command::{self, Command};
use crate::wire::error::ErrorCode;
use crate::wire::frame::{self, Event, Input, Parser};
use bytes::Bytes;
use std::io;
use std::rc::Rc;
use std::time::Instant;

/// What one session's reader remembers between two reads.
struct Reader {
    parser: Parser,
    /// The stream has lost its meaning: what comes is read and dropped, so that the kernel does not answer it with a reset that
    /// would overtake our Close frame.
    discard: bool,
}

/// Reads until the peer has gone or the closing handshake is done.
pub(super) async fn read(sessions: Rc<Sessions>, session: Rc<Session>, early: Bytes) {
    let mut reader = Reader { parser: Parser::new(sessions.config.message_bytes_max.0), discard: false };
    // Tokio takes a socket for full until the reactor has seen it once: an answer to early bytes would fall behind for nothing.
    let known = session.transport.writable().await.is_ok();
    let mut open = early.is_empty() || reader.feed_safely(&sessions, &session, &mut early.to_vec());
    drop(early);
    open &= known;
    while open {
        if session.transport.readable().await.is_err() {
            break;
        }
        let mut scratch = sessions.scratch.borrow_mut();
        open = match session.transport.try_read(&mut scratch) {
            Ok(0) => false,
            // Tokio knows after a short read that nothing is left, so a client that floods us cannot keep the thread.
            Ok(n) => reader.feed_safely(&sessions, &session, &mut scratch[..n]),
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
    }
    sessions.finish(&session);
}

impl Reader {
    /// As [`feed`](Self::feed); a fault ends this session only, and ends it properly: nobody else would ever forget it.
    fn feed_safely(&mut self, sessions: &Rc<Sessions>, session: &Rc<Session>, bytes: &mut [u8]) -> bool {
        let fed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.feed(sessions, session, bytes)));
        fed.unwrap_or_else(|_| {
            limited!(error, 10, session = %session.id, "reading a client's message failed; its session ends, please report this");
            sessions.close(session, CloseReason::Internal);
            false
        })
    }

    /// Acts on what `bytes` complete; false when nothing more is to be read.
    fn feed(&mut self, sessions: &Rc<Sessions>, session: &Rc<Session>, bytes: &mut [u8]) -> bool {
        let mut input = Input::new(bytes);
        while !self.discard {
            // Before each frame's header: a key is verified between two of them, while the reader goes on.
            if session.state.borrow().user().is_some() {
                self.parser.set_limit(sessions.config.message_bytes_max.1);
            }
            match self.parser.next(&mut input) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    if !act(sessions, session, event) {
                        return false;
                    }
                }
                Err(violation) => {
                    self.discard = true;
                    sessions.close(session, violation.close_reason());
                }
            }
        }
        true
    }
}

/// Acts on one event; false when it was the last.
fn act(sessions: &Rc<Sessions>, session: &Rc<Session>, event: Event<'_>) -> bool {
    let closing = session.state.borrow().is_closing();
    match event {
        Event::Close { code, .. } => {
            // If ours was first this is its echo, and nothing is sent.
            let echo = code.map_or_else(frame::empty_close_frame, |code| frame::close_frame(code, ""));
            sessions.close_with(session, CloseReason::PeerClosed, Some(echo.into()));
            return false;
        }
        _ if closing => {}
        Event::Ping(payload) => sessions.worker.send(session.id, frame::pong_frame(payload).into()),
        Event::Pong(_) => session.state.borrow_mut().ping.due = None,
        Event::Text(text) => message(sessions, session, text.as_bytes(), false),
        Event::Binary(payload) => message(sessions, session, payload, true),
    }
    true
}

fn message(sessions: &Rc<Sessions>, session: &Rc<Session>, payload: &[u8], binary: bool) {
    let now = Instant::now();
    let verdict = session.state.borrow_mut().commands.take(sessions.config.commands, now);
    if let Verdict::Refuse { .. } = verdict {
        return sessions.close(session, CloseReason::CommandRate);
    }
    let command = command::parse(payload, binary, session.format, sessions.config.entries_max);
    let authenticated = session.state.borrow().user().is_some();
    match command {
        Ok(Command::Ping { timestamp, ping_id }) => {
            commands::pong(sessions, session, timestamp.as_deref(), ping_id.as_deref());
        }
        Ok(Command::SupportedBrokers) => {
            commands::supported_brokers(sessions, session);
        }
        // Errors keep their place behind the commands before them, as every reply but the two above does.
        Ok(command) => queue(sessions, session, Ok(command), payload.len()),
        Err(error) if error.needs_auth && !authenticated && session.state.borrow().waiting.is_empty() => {
            commands::refuse(
                sessions,
                session,
                ErrorCode::NotAuthenticated,
                commands::NOT_AUTHENTICATED,
                error.request_id.as_deref(),
            );
        }
        Err(error) => queue(sessions, session, Err(error), payload.len()),
    }
}

fn queue(sessions: &Rc<Sessions>, session: &Rc<Session>, command: commands::Queued, len: usize) {
    let mut state = session.state.borrow_mut();
    if state.waiting.len() >= COMMANDS_WAITING_MAX || state.waiting_bytes + len > COMMANDS_WAITING_BYTES_MAX.max(len) {
        drop(state);
        return sessions.close(session, CloseReason::CommandBacklog);
    }
    state.waiting.push_back((command, len));
    state.waiting_bytes += len;
    if !std::mem::replace(&mut state.busy, true) {
        drop(state);
        tokio::task::spawn_local(commands::carry_out(Rc::clone(sessions), Rc::clone(session)));
    }
}
