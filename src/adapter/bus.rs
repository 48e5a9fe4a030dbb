//! Kind `bus`: a publisher we cannot call. Its ticks arrive on ZeroMQ by themselves, so every call succeeds at once.
//! The simulated market uses it too: its source ticks whatever is subscribed.

use super::{Adapter, Command, Io, Report, Task};

/// Nobody to call.
#[derive(Clone, Copy, Debug, Default)]
pub struct BusAdapter;

impl Adapter for BusAdapter {
    fn run(self: Box<Self>, mut io: Io) -> Task {
        Box::pin(async move {
            while let Some(command) = io.commands.recv().await {
                let report = match command {
                    Command::Connect => Report::Connected,
                    Command::Subscribe { call, .. }
                    | Command::Unsubscribe { call, .. }
                    | Command::UnsubscribeAll { call } => Report::Answer { call, outcome: Ok(None) },
                    Command::Disconnect => Report::Disconnected,
                };
                let over = report == Report::Disconnected;
                if io.reports.send(report).await.is_err() || over {
                    break;
                }
            }
        })
    }
}
