//! The signals that stop a daemon.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGINT, SIGTERM and SIGQUIT. Handlers only wake a future; nothing is decided in them.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        // A reload is what an operator means by SIGHUP; until there is one it must not kill sessions.
        drop(signal(SignalKind::hangup())?);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of the next signal. Cancel safe.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
