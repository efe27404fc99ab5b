//! A session in the user's own terminal.

use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use futures_util::{Stream, stream};
use teleport_core::id::SessionId;
use teleport_core::resource::JoinMode;
use teleport_ssh::client::terminal::{Ending, RawTerminal};
use teleport_ssh::client::{
    ClientSession, ExitStatus, NodeConnection, SessionRequest, Terminal, TerminalSize,
};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::escape::Keys;

/// Whether a session gets a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantTerminal {
    /// For shells, if this program has one itself.
    Auto,
    Never,
    Yes,
}

/// The status of a session that its user cuts off, as OpenSSH has it.
const CUT: u8 = 255;

/// Variables that are sent along; a node takes those that its own rules allow.
fn environment() -> Vec<(String, String)> {
    let wanted = |name: &str| name == "LANG" || name.starts_with("LC_");
    std::env::vars().filter(|(name, _)| wanted(name)).collect()
}

fn size() -> TerminalSize {
    let (columns, rows) = crossterm::terminal::size().unwrap_or((80, 24));
    TerminalSize { columns: columns.into(), rows: rows.into() }
}

/// The terminal's sizes, from the next change on.
fn sizes() -> Result<impl Stream<Item = TerminalSize> + Unpin> {
    let changes = signal(SignalKind::window_change())?;
    Ok(Box::pin(stream::unfold(changes, |mut changes| async move {
        changes.recv().await?;
        Some((size(), changes))
    })))
}

/// The terminal of this program, as the node is asked for one like it.
fn like_ours() -> Terminal {
    let term =
        std::env::var("TERM").ok().filter(|term| !term.is_empty()).unwrap_or_else(|| "xterm".to_owned());
    Terminal { term, size: size() }
}

/// Runs a shell or `command` in this program's terminal or streams; returns the status a shell would report.
///
/// # Errors
/// When the session is refused, or this program's own streams fail.
pub(crate) async fn run(node: &NodeConnection, command: Option<String>, want: WantTerminal) -> Result<u8> {
    let interactive = std::io::stdin().is_terminal();
    let terminal = match want {
        WantTerminal::Auto => command.is_none() && interactive,
        WantTerminal::Never => false,
        WantTerminal::Yes => true,
    };
    let request = SessionRequest { command, env: environment(), terminal: terminal.then(like_ours) };
    show(node.session(&request).await?, terminal && interactive, CUT).await
}

/// Takes part in the session of somebody else; returns the status of its program, or 0 after leaving.
///
/// # Errors
/// As [`run`].
pub(crate) async fn join(
    node: &NodeConnection,
    session: SessionId,
    mode: JoinMode,
    reason: &str,
) -> Result<u8> {
    let interactive = std::io::stdin().is_terminal();
    let mut env = vec![
        ("TELEPORT_SESSION".to_owned(), session.to_string()),
        ("TELEPORT_SSH_JOIN_MODE".to_owned(), mode.to_string()),
    ];
    if !reason.is_empty() {
        env.push(("TELEPORT_SESSION_REASON".to_owned(), reason.to_owned()));
    }
    let request = SessionRequest { command: None, env, terminal: interactive.then(like_ours) };
    show(node.session(&request).await?, interactive, 0).await
}

/// Shows a session until it ends, or the user leaves it, which gives this status.
async fn show(session: ClientSession, interactive: bool, left_status: u8) -> Result<u8> {
    let (stdout, stderr) = (tokio::io::stdout(), tokio::io::stderr());
    if interactive {
        // A descriptor of our own: reads can be given up when the session ends, and nobody else's stdin changes its mode.
        let tty = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits() | nix::fcntl::OFlag::O_NOCTTY.bits())
            .open("/dev/tty")
            .context("the terminal cannot be read")?;
        let raw =
            RawTerminal::enter(std::io::stdin()).context("the terminal cannot be switched to raw mode")?;
        let mut ending = Ending::listen()?;
        let keys = Keys::new(pipe::Receiver::from_file_unchecked(tty)?);
        let left = keys.left();
        let status = tokio::select! {
            status = session.run(keys, stdout, stderr, sizes()?) => status?,
            () = left => {
                drop(raw);
                eprintln!();
                return Ok(left_status);
            }
            code = ending.next() => return Ok(code),
        };
        // What is said below is for a terminal that makes lines of it again.
        drop(raw);
        return Ok(shell_code(&status));
    }
    let status = session.run(tokio::io::stdin(), stdout, stderr, stream::pending()).await?;
    Ok(shell_code(&status))
}

fn shell_code(status: &ExitStatus) -> u8 {
    if *status == ExitStatus::Lost {
        eprintln!("ERROR: the connection ended before the command did");
    }
    status.shell_code()
}
