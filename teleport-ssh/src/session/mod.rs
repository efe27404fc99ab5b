//! Sessions: what runs when a user has been let in.
//!
//! [`SessionService`] is where other programs come in: a console, a REPL, a shell of their own over certificate-checked SSH,
//! without root, without a terminal device, without knowing SSH. [`OsSessions`] is the service that starts processes of the
//! operating system's users.

mod channel;
mod display;
mod files;
#[cfg(target_os = "linux")]
mod greeting;
pub(crate) mod machine;
#[cfg(target_os = "linux")]
mod os;
mod registry;
mod request;
mod share;
mod sockets;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use teleport_core::access::LoginGrant;
use teleport_core::clock::Timestamp;

pub(crate) use self::channel::EventSender;
pub use self::channel::{
    OutputClosed, SessionChannel, SessionEvent, SessionEvents, SessionInput, SessionOutput,
};
pub use self::display::{InvalidX11, X11Auth, X11Display};
pub use self::files::FileReporter;
pub(crate) use self::files::{FileReport, FileReports};
#[cfg(target_os = "linux")]
pub use self::os::OsSessions;
pub(crate) use self::registry::{EndedBy, Running};
pub use self::registry::{LiveSession, SessionRegistry};
pub use self::request::{ExitStatus, SessionKind, SessionRequest, Terminal, TerminalSize};
pub(crate) use self::share::{Party, Seat, Sizes, TooMany, View};
pub use self::sockets::{InvalidPath, MadeSocket, SocketPath, Sockets};

/// The name by which clients log in that only want to join a session: no [`OsLogin`](teleport_core::id::OsLogin) can be it. (The
/// original's begins with a dash, which stock `ssh` refuses to send.)
pub(crate) const JOIN_LOGIN: &str = "+join";

/// A login that the service cannot serve, although policy allows it. For the log; the peer hears that access was denied.
#[derive(Debug, thiserror::Error)]
#[error("the login cannot be served")]
#[non_exhaustive]
pub struct LoginRefused {
    /// The reason.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl LoginRefused {
    /// For implementors.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: source.into() }
    }
}

/// Runs sessions.
///
/// # Contract
/// `run` is called once for each session, in a task of its own, after the session was granted, its start was written to the
/// audit log and its recorder was attached. What goes through [`SessionChannel::output`] is recorded, but of
/// [`SessionKind::Sftp`]; there is no other way to the client. It should end soon after [`SessionEvent::Closed`] or an [`OutputClosed`]. The future may be dropped at any
/// time, when the node must stop: processes and other resources must then end by themselves. A panic ends this session only.
#[async_trait]
pub trait SessionService: fmt::Debug + Send + Sync + 'static {
    /// Decides, once for each connection and before anything else of it, whether the login can be served at all: does it
    /// exist, is it open? Runs within the connection's task: quick, and never longer than a look into a database.
    ///
    /// # Errors
    /// [`LoginRefused`]; the connection is then refused.
    async fn prepare(&self, grant: &LoginGrant, now: Timestamp) -> Result<(), LoginRefused> {
        let (_, _) = (grant, now);
        Ok(())
    }

    /// Whether sessions of the kind [`SessionKind::Sftp`] can be run. Where they cannot, clients hear that there is no such
    /// subsystem.
    fn offers_sftp(&self) -> bool {
        false
    }

    /// Whether programs of sessions can be told of the user's display ([`SessionRequest::display`]). Where they cannot, no display is
    /// forwarded.
    ///
    /// # Errors
    /// Why not: a sentence for the user.
    fn offers_x11(&self) -> Result<(), &'static str> {
        Err("this node does not forward X11")
    }

    /// What opens the sockets of connections that are forwarded for a login, and checks once more that it can be served; `None`
    /// if this service forwards nothing.
    ///
    /// # Errors
    /// [`LoginRefused`]; the connection is then not forwarded.
    async fn sockets(
        &self,
        grant: &LoginGrant,
        now: Timestamp,
    ) -> Result<Option<Arc<dyn Sockets>>, LoginRefused> {
        let (_, _) = (grant, now);
        Ok(None)
    }

    /// Runs one session to its end and says how it ended.
    async fn run(&self, grant: LoginGrant, channel: SessionChannel) -> ExitStatus;
}

#[cfg(test)]
mod tests {
    use teleport_core::id::OsLogin;

    use super::JOIN_LOGIN;

    #[test]
    fn nobody_is_called_like_those_who_come_to_join() {
        assert!(OsLogin::new(JOIN_LOGIN).is_err());
    }
}
