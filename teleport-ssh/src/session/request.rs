//! What a client asks for, free of any SSH library.

use std::net::SocketAddr;
use std::path::PathBuf;

use teleport_core::id::{ClusterName, HostId, NodeName, SessionId};

use super::X11Display;
use crate::scp::ScpCommand;
use crate::sys::environment::ClientEnv;
use crate::sys::modes::TerminalModes;

/// What a session is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionKind {
    /// A command line, as sent: any bytes.
    Exec(Vec<u8>),
    /// Files, by the older protocol of `scp`. Asked of services that [offer SFTP](super::SessionService::offers_sftp) only.
    Scp(ScpCommand),
    /// The interactive shell, or whatever stands for it.
    Shell,
    /// Files, by [SFTP](crate::sftp). Asked of services that [offer it](super::SessionService::offers_sftp) only.
    Sftp,
}

/// The size of a terminal as a client sends it: not checked, zero where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the four numbers of the protocol")]
pub struct TerminalSize {
    /// Width in characters.
    pub columns: u32,
    /// Height in characters.
    pub rows: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl TerminalSize {
    /// Columns and rows as a recording keeps them; 80 by 25 where unknown.
    pub fn cells(self) -> (u16, u16) {
        let cut = |value: u32, default| match value {
            0 => default,
            value => u16::try_from(value).unwrap_or(u16::MAX),
        };
        (cut(self.columns, 80), cut(self.rows, 25))
    }
}

/// The terminal that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the fields of the protocol")]
pub struct Terminal {
    /// The type, such as `xterm-256color`: at most 256 bytes, otherwise not checked.
    pub kind: String,
    /// The size at the beginning.
    pub size: TerminalSize,
    /// Modes such as the erase character.
    pub modes: TerminalModes,
}

/// What a session runs and what it may know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionRequest {
    /// The session.
    pub id: SessionId,
    /// What to run. With a forced command in the certificate this is that command.
    pub kind: SessionKind,
    /// What the client had asked to run instead of the forced command.
    pub original_command: Option<Vec<u8>>,
    /// The terminal, if one was asked for and permitted.
    pub terminal: Option<Terminal>,
    /// Variables that the client may set.
    pub env: ClientEnv,
    /// Where the user's agent is, if it is forwarded.
    pub agent_socket: Option<PathBuf>,
    /// The user's display, if it is forwarded.
    pub display: Option<X11Display>,
    /// The client's end of the connection.
    pub client: SocketAddr,
    /// Our end of the connection.
    pub server: SocketAddr,
    /// This host.
    pub host_id: HostId,
    /// Its name.
    pub host_name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
}

/// How a session's program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It ended by itself.
    Code(u32),
    /// The client was gone before the end.
    Disconnected,
    /// Nothing was started, for the machine does not permit it; the user was told.
    Refused {
        /// Why, for the audit log.
        reason: String,
    },
    /// A signal ended it.
    Signal {
        /// The signal's name without `SIG`.
        name: String,
        /// Whether the system wrote a core file.
        core_dumped: bool,
    },
}
