//! A shell or a command on a node.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{Stream, StreamExt};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connect::within;
use super::connection::{NodeConnection, accepted};
use super::error::ConnectError;
use super::forward::{ForwardedDisplay, X11_PROTOCOL};
use crate::rpc::Prefixed;
use crate::sftp::Sftp;

const STDERR: u32 = 1;
/// How much is read from standard input at once, at most.
const READ_SIZE: usize = 64 * 1024;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct TerminalSize {
    /// Characters in a row.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

/// A terminal that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Terminal {
    /// Its kind: the value of `TERM`.
    pub term: String,
    /// Its size now.
    pub size: TerminalSize,
}

/// What runs on the node.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct SessionRequest {
    /// The command, for the user's shell; the shell itself if there is none.
    pub command: Option<String>,
    /// Environment variables that the node may refuse.
    pub env: Vec<(String, String)>,
    /// A terminal. Without one, standard output and standard error stay apart.
    pub terminal: Option<Terminal>,
    /// Programs in it may ask the agent of [`NodeConnection::forward_agent`]. The node may refuse, and the session begins without.
    pub agent: bool,
    /// Programs in it may use the display of [`NodeConnection::forward_x11`]. The node may refuse, and the session begins without.
    pub display: Option<Arc<ForwardedDisplay>>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this status.
    Code(u32),
    /// The connection ended before it did.
    Lost,
    /// A signal killed it: the name without `SIG`.
    Signal {
        /// The signal.
        name: String,
    },
}

impl ExitStatus {
    /// The status that a shell would report: 128 and more for signals, 255 if it is not known.
    pub fn shell_code(&self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(*code).unwrap_or(255),
            Self::Lost => 255,
            Self::Signal { name } => {
                SIGNALS.iter().find(|(known, _)| known == name).map_or(255, |(_, code)| 128 + code)
            }
        }
    }
}

/// The signals of RFC 4254 section 6.10, with their numbers on every system that we know.
const SIGNALS: [(&str, u8); 13] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("KILL", 9),
    ("PIPE", 13),
    ("QUIT", 3),
    ("SEGV", 11),
    ("TERM", 15),
    ("USR1", 10),
    ("USR2", 12),
];

/// A shell or command that runs.
#[derive(Debug)]
pub struct ClientSession {
    channel: Channel<Msg>,
    without: Vec<Without>,
}

/// What a session was asked for and has not got: the node refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Without {
    /// The agent of [`SessionRequest::agent`].
    Agent,
    /// The display of [`SessionRequest::display`].
    Display,
}

impl NodeConnection {
    /// Starts a shell or a command. Several may run on one connection.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::Refused`] if the node does not start it.
    pub async fn session(&self, request: &SessionRequest) -> Result<ClientSession, ConnectError> {
        let mut channel = self.channel().await?;
        let broken = |error| ConnectError::Ssh { peer: self.peer(), source: Box::new(error) };
        for (name, value) in &request.env {
            channel.set_env(false, name.as_str(), value.as_str()).await.map_err(broken)?;
        }
        if let Some(Terminal { term, size }) = &request.terminal {
            channel.request_pty(true, term, size.columns, size.rows, 0, 0, &[]).await.map_err(broken)?;
            self.answer(&mut channel, "no terminal").await?;
        }
        let mut without = Vec::new();
        if request.agent {
            channel.agent_forward(true).await.map_err(broken)?;
            if self.answer(&mut channel, "no agent").await.is_err() {
                without.push(Without::Agent);
            }
        }
        if let Some(display) = &request.display {
            let (cookie, screen) = (display.shown(), display.screen());
            channel.request_x11(true, false, X11_PROTOCOL, cookie, screen).await.map_err(broken)?;
            if self.answer(&mut channel, "no display").await.is_err() {
                without.push(Without::Display);
            }
        }
        match &request.command {
            Some(command) => channel.exec(true, command.as_bytes()).await.map_err(broken)?,
            None => channel.request_shell(true).await.map_err(broken)?,
        }
        self.answer(&mut channel, "the session was refused").await?;
        Ok(ClientSession { channel, without })
    }

    /// Begins to work on files. Several may on one connection.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::Refused`] with the node's words if it has some, such as that roles permit no copying.
    pub async fn sftp(&self) -> Result<Sftp, ConnectError> {
        let mut channel = self.channel().await?;
        let broken = |error| ConnectError::Ssh { peer: self.peer(), source: Box::new(error) };
        channel.request_subsystem(true, "sftp").await.map_err(broken)?;
        self.answer(&mut channel, "files are not served there").await?;
        channel.data_bytes(Sftp::hello()).await.map_err(broken)?;
        let peer = self.peer();
        let greeting = within(&peer, accepted(&mut channel, &peer)).await?;
        let (reader, writer) = tokio::io::split(Prefixed::new(greeting, channel.into_stream()));
        let begun = within(&peer, async {
            Sftp::greeted(reader, writer)
                .await
                .map_err(|error| ConnectError::Ssh { peer: self.peer(), source: Box::new(error) })
        });
        begun.await
    }

    async fn answer(&self, channel: &mut Channel<Msg>, refusal: &str) -> Result<(), ConnectError> {
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure | ChannelMsg::Close) | None => {
                    return Err(ConnectError::Refused { message: format!("{}: {refusal}", self.peer()) });
                }
                // Windows may be adjusted at any time; output cannot come before the answer.
                Some(_) => {}
            }
        }
    }
}

impl ClientSession {
    /// What the node refused of what was asked for.
    pub fn without(&self) -> &[Without] {
        &self.without
    }

    /// Passes bytes between the session and the caller's streams until it ends. `sizes` are the new sizes of the caller's
    /// terminal; without one, pass [`futures_util::stream::pending`] or an empty stream.
    ///
    /// An end of `stdin` is passed on and does not end the session. Dropping the future closes the session; what it was
    /// doing is then up to the node.
    ///
    /// # Errors
    /// Those of `stdout` and `stderr`. An error of `stdin` counts as its end.
    pub async fn run<I, O, E, W>(
        self,
        stdin: I,
        stdout: O,
        stderr: E,
        sizes: W,
    ) -> std::io::Result<ExitStatus>
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
        W: Stream<Item = TerminalSize> + Unpin,
    {
        let (from_node, to_node) = self.channel.split();
        let receive = receive(from_node, stdout, stderr);
        let send = send(&to_node, stdin);
        let resize = resize(&to_node, sizes);
        tokio::pin!(receive, send, resize);
        let (mut sending, mut resizing) = (true, true);
        let result = loop {
            tokio::select! {
                ended = &mut receive => break ended,
                () = &mut send, if sending => sending = false,
                () = &mut resize, if resizing => resizing = false,
            }
        };
        // If the connection is gone, so is the channel.
        let _ = to_node.close().await;
        result
    }
}

async fn send(node: &ChannelWriteHalf<Msg>, mut stdin: impl AsyncRead + Unpin) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_SIZE);
        match stdin.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if node.data_bytes(buffer.split().freeze()).await.is_err() {
            return;
        }
    }
    let _ = node.eof().await;
}

async fn resize(node: &ChannelWriteHalf<Msg>, mut sizes: impl Stream<Item = TerminalSize> + Unpin) {
    while let Some(size) = sizes.next().await {
        if node.window_change(size.columns, size.rows, 0, 0).await.is_err() {
            return;
        }
    }
}

async fn receive(
    mut node: ChannelReadHalf,
    mut stdout: impl AsyncWrite + Unpin,
    mut stderr: impl AsyncWrite + Unpin,
) -> std::io::Result<ExitStatus> {
    let mut status = ExitStatus::Lost;
    while let Some(message) = node.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                stdout.write_all(&data).await?;
                stdout.flush().await?;
            }
            ChannelMsg::ExtendedData { data, ext: STDERR } => {
                stderr.write_all(&data).await?;
                stderr.flush().await?;
            }
            ChannelMsg::ExitStatus { exit_status } => status = ExitStatus::Code(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                // The library's debug form is the name of the RFC.
                status = ExitStatus::Signal { name: signal_word(&signal_name) };
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    Ok(status)
}

fn signal_word(signal: &russh::Sig) -> String {
    match signal {
        russh::Sig::Custom(name) => name.chars().filter(char::is_ascii_alphanumeric).take(16).collect(),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_shells_report_them() {
        for (status, code) in [
            (ExitStatus::Code(0), 0),
            (ExitStatus::Code(7), 7),
            (ExitStatus::Code(1000), 255),
            (ExitStatus::Lost, 255),
            (ExitStatus::Signal { name: signal_word(&russh::Sig::TERM) }, 143),
            (ExitStatus::Signal { name: signal_word(&russh::Sig::KILL) }, 137),
            (ExitStatus::Signal { name: "ODD".to_owned() }, 255),
        ] {
            assert_eq!(status.shell_code(), code, "{status:?}");
        }
    }
}
