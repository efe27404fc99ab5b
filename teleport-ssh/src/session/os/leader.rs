//! The process that a session is: a child of this one, or one that another process has started for it.

use std::io;
use std::time::Duration;

use crate::pam::PamSession;
use crate::sys::child::{Child, Exit};
use crate::sys::signal::Signal;

/// The process of a session. Dropping it ends the session.
#[derive(Debug)]
pub(super) enum Leader {
    Own(Child),
    Pam(PamSession),
}

impl Leader {
    pub(super) fn pid(&self) -> i32 {
        match self {
            Self::Own(child) => child.pid(),
            Self::Pam(session) => session.pid(),
        }
    }

    /// Waits for the end. Cancel safe; later calls answer the same.
    pub(super) async fn wait(&mut self) -> io::Result<Exit> {
        match self {
            Self::Own(child) => child.wait().await,
            Self::Pam(session) => session.wait().await,
        }
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal_group(&self, signal: Signal) -> io::Result<()> {
        match self {
            Self::Own(child) => child.signal_group(signal),
            Self::Pam(session) => session.signal_group(signal),
        }
    }

    /// Ends the process group: hang-up, a while, then kill.
    pub(super) async fn terminate(&mut self, grace: Duration) -> io::Result<Exit> {
        match self {
            Self::Own(child) => child.terminate(grace).await,
            Self::Pam(session) => session.terminate(grace).await,
        }
    }
}
