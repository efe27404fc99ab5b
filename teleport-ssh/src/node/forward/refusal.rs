//! Why something is not forwarded: what the client is told, and what the audit log.

use std::io;

use nix::errno::Errno;
use russh::ChannelOpenFailure;
use teleport_core::access::NotForwarded;
use teleport_core::lock::Locked;

use crate::node::authorize::Refusal;
use crate::node::lifetime::Over;
use crate::session::{InvalidPath, InvalidX11, LoginRefused};

/// `SSH_OPEN_ADMINISTRATIVELY_PROHIBITED`
const PROHIBITED: u32 = 1;
/// `SSH_OPEN_CONNECT_FAILED`
const CONNECT_FAILED: u32 = 2;
/// `SSH_OPEN_RESOURCE_SHORTAGE`
const RESOURCE_SHORTAGE: u32 = 4;

/// Why something is not forwarded. The texts are for the audit log.
#[derive(Debug, thiserror::Error)]
pub(in crate::node) enum NoForward {
    #[error(transparent)]
    Access(#[from] Refusal),
    #[error("the audit log does not take that a connection is forwarded")]
    Audit,
    #[error("the node cannot listen there")]
    Bind(#[source] io::Error),
    #[error(transparent)]
    Cookie(#[from] InvalidX11),
    #[error("the node is shutting down")]
    Draining,
    #[error("the connection is being ended: {0}")]
    Ending(Over),
    #[error("it is asked for too late, or twice")]
    Late,
    #[error("the login cannot be served")]
    Login(#[from] LoginRefused),
    #[error("the name cannot be looked up")]
    Name(#[source] io::Error),
    #[error("the node forwards too many connections: at most {limit} at a time")]
    NodeFull { limit: usize },
    #[error("no display of this node is free")]
    NoDisplay,
    #[error("nobody is let in")]
    Nobody,
    #[error("this node forwards nothing")]
    NotOffered,
    #[error("this node forwards no connections of this kind: it has no sockets of its own to make")]
    NotOfThisKind,
    #[error(transparent)]
    Path(#[from] InvalidPath),
    #[error(transparent)]
    Permit(#[from] NotForwarded),
    #[error("ports below 1024 are for root alone")]
    Privileged,
    #[error("the socket cannot be opened")]
    Socket(#[source] io::Error),
    #[error("a channel of this kind is not the client's to open")]
    Reversed,
    #[error("the destination is none: {0}")]
    Target(&'static str),
    #[error("there was no answer in time")]
    Timeout,
    #[error("too many forwarded connections on one connection: at most {limit} at a time")]
    TooMany { limit: usize },
    #[error("too many listeners on one connection")]
    TooManyDoors,
    #[error("the destination cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("{0}")]
    X11(&'static str),
    #[error("whoever comes to join sessions has nothing forwarded")]
    Visitor,
}

impl NoForward {
    /// What the client is told. Who was let in may know what the roles say, and why a destination is not reached.
    pub(in crate::node) fn told(&self) -> ChannelOpenFailure {
        let (code, reason) = match self {
            Self::Access(why) => match why.lock() {
                Some(locked) => (PROHIBITED, Locked::public(locked)),
                None => return ChannelOpenFailure::AdministrativelyProhibited,
            },
            Self::Login(_) | Self::Nobody => return ChannelOpenFailure::AdministrativelyProhibited,
            Self::Late
            | Self::NotOffered
            | Self::NotOfThisKind
            | Self::Permit(_)
            | Self::Privileged
            | Self::Reversed
            | Self::Visitor
            | Self::X11(_) => (PROHIBITED, self.to_string()),
            Self::Audit
            | Self::Draining
            | Self::Ending(_)
            | Self::NoDisplay
            | Self::NodeFull { .. }
            | Self::TooMany { .. }
            | Self::TooManyDoors => (RESOURCE_SHORTAGE, self.to_string()),
            Self::Cookie(_) | Self::Path(_) | Self::Target(_) | Self::Timeout => {
                (CONNECT_FAILED, self.to_string())
            }
            Self::Bind(source) | Self::Name(source) | Self::Socket(source) | Self::Unreachable(source) => {
                (CONNECT_FAILED, short(source))
            }
        };
        ChannelOpenFailure::Other { code, reason }
    }
}

impl NoForward {
    /// Of a listener.
    pub(super) fn bind(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Unsupported => Self::NotOfThisKind,
            _ => Self::Bind(error),
        }
    }

    /// Of a socket in the file system.
    pub(super) fn socket(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Unsupported => Self::NotOfThisKind,
            _ => Self::Socket(error),
        }
    }

    /// The same for requests, which are answered by yes or no: a word for those who look (`ssh -v`).
    pub(in crate::node) fn word(&self) -> String {
        match self.told() {
            ChannelOpenFailure::Other { reason, .. } => reason,
            _ => "access denied".to_owned(),
        }
    }
}

/// As C programs say it.
fn short(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| Errno::from_raw(code).desc().to_owned())
}
