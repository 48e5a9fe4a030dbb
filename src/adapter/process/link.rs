//! The DEALER of an adapter process: one connection after another to the server's control channel.
//!
//! The `zeromq` crate never reconnects a DEALER and spaces its own attempts up to 30 s apart: each attempt here is short, the waits
//! between are ours (0.25 to 2 s), and its monitor is looked at, since a read does not end when the peer goes. In: an endpoint,
//! messages for it. Out: [`Heard`]. Promise: a message is sent on the connection it was meant for or not at all; whoever
//! drops the sender of a connection ends it. Knows no message. Tests: `tests/adapter_process.rs`.

use crate::policy::backoff::Backoff;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};
use zeromq::{DealerSocket, Socket, SocketEvent, SocketOptions, SocketRecv, SocketSend, ZmqMessage};

/// Messages that may wait for one connection, counted: an answer to every call there may be.
pub const OUT_MAX: usize = 2 * super::machine::CALLS_MAX;
/// One attempt, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the crate's monitor is looked at.
const MONITOR_PERIOD: Duration = Duration::from_millis(100);

/// What the link says.
#[derive(Debug)]
pub enum Heard {
    /// A connection stands; what is sent here goes to it, and dropping this ends it.
    Up(mpsc::Sender<Bytes>),
    /// A message came.
    Message(Bytes),
    /// The connection is gone.
    Lost,
}

/// Connects again and again, until nobody listens.
pub async fn run(endpoint: String, heard: mpsc::Sender<Heard>) {
    let mut backoff = Backoff::default();
    loop {
        let mut options = SocketOptions::default();
        options.connect_timeout(CONNECT_TIMEOUT);
        let mut socket = DealerSocket::with_options(options);
        // Taken before connecting, or the first events are missed.
        let mut monitor = socket.monitor();
        match socket.connect(&endpoint).await {
            Ok(()) => {
                backoff.reset();
                let (out, queue) = mpsc::channel(OUT_MAX);
                if heard.send(Heard::Up(out)).await.is_err() {
                    return;
                }
                let lost = || {
                    std::iter::from_fn(|| monitor.try_recv().ok())
                        .any(|event| matches!(event, SocketEvent::Disconnected(_) | SocketEvent::Closed))
                };
                converse(socket, queue, &heard, lost).await;
                if heard.send(Heard::Lost).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(endpoint, %error, "cannot connect"),
        }
        // The lower half of the jitter only: no wait is longer than two seconds.
        let wait = sleep(backoff.wait(rand::random::<f64>() / 2.0));
        tokio::select! {
            () = wait => {}
            () = heard.closed() => return,
        }
    }
}

async fn converse(
    socket: DealerSocket,
    mut queue: mpsc::Receiver<Bytes>,
    heard: &mpsc::Sender<Heard>,
    mut lost: impl FnMut() -> bool,
) {
    let (mut sending, mut receiving) = socket.split();
    let mut look = interval(MONITOR_PERIOD);
    loop {
        tokio::select! {
            message = queue.recv() => {
                let Some(message) = message else { return };
                if let Err(error) = sending.send(ZmqMessage::from(message)).await {
                    return tracing::debug!(%error, "the control channel takes nothing");
                }
            }
            message = receiving.recv() => match message {
                Ok(message) => {
                    // A message of another shape is none of the channel's; it is a sign of life all the same.
                    let body = if message.len() == 1 { message.get(0).cloned() } else { None };
                    if heard.send(Heard::Message(body.unwrap_or_default())).await.is_err() {
                        return;
                    }
                }
                Err(error) => return tracing::debug!(%error, "the control channel says nothing"),
            },
            _ = look.tick() => if lost() { return },
        }
    }
}
