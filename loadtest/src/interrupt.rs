//! Ctrl-C and SIGTERM end a run in order, so that the server it has started does not outlive it. A second one ends it at once.

use crate::Failure;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether the run is to end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Acquire)
}

/// Begins to listen for the signals.
pub(crate) fn listen() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("lt-signals".into()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
                return;
            };
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if ASKED.swap(true, Ordering::AcqRel) {
                    std::process::exit(i32::from(crate::COULD_NOT_RUN));
                }
            }
        });
    })?;
    Ok(())
}
