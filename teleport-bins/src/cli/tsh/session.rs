//! A session in the user's own terminal.

use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::{Stream, stream};
use nix::sys::signal::{Signal, raise};
use teleport_core::id::SessionId;
use teleport_core::resource::JoinMode;
use teleport_ssh::client::terminal::{Ending, RawTerminal};
use teleport_ssh::client::{
    ClientSession, ExitStatus, NodeConnection, SessionRequest, Terminal, TerminalSize, Without,
};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::super::sanitize;
use super::escape::{Escape, Keys};

/// Whether a session gets a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantTerminal {
    /// For shells, if this program has one itself.
    Auto,
    Never,
    Yes,
}

/// How a session is shown.
#[derive(Clone)]
pub(crate) struct Show {
    pub(crate) terminal: WantTerminal,
    /// The key that begins what is for this program, at the beginning of a line of a terminal.
    pub(crate) escape: Option<u8>,
    /// Programs may read what is typed, or comes from the standard input.
    pub(crate) stdin: bool,
    /// Nothing is warned of.
    pub(crate) quiet: bool,
    /// What the escape and `#` show.
    pub(crate) forwards: Option<Arc<dyn Fn() -> String + Send + Sync>>,
}

impl Default for Show {
    fn default() -> Self {
        Self { terminal: WantTerminal::Auto, escape: Some(b'~'), stdin: true, quiet: false, forwards: None }
    }
}

/// The status of a session that its user cuts off, as OpenSSH has it.
const CUT: u8 = 255;

/// Variables that are sent along; a node takes those that its own rules allow.
pub(crate) fn environment(also: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let wanted = |name: &str| name == "LANG" || name.starts_with("LC_") || also(name);
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| wanted(name))
        .collect()
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

/// Runs a shell or a command in this program's terminal or streams; returns the status a shell would report. `begun` is called when
/// the node has begun it.
///
/// # Errors
/// When the session is refused, or this program's own streams fail.
pub(crate) async fn run(
    node: &NodeConnection,
    mut request: SessionRequest,
    how: Show,
    begun: impl FnOnce() -> Result<()>,
) -> Result<u8> {
    let interactive = std::io::stdin().is_terminal() && how.stdin;
    let terminal = match how.terminal {
        WantTerminal::Auto => request.command.is_none() && interactive,
        WantTerminal::Never => false,
        WantTerminal::Yes => true,
    };
    request.terminal = terminal.then(like_ours);
    let session = node.session(&request).await?;
    for without in session.without().iter().filter(|_| !how.quiet) {
        let what = match without {
            Without::Agent => "agent",
            Without::Display => "display",
            _ => "part of this",
        };
        eprintln!("WARNING: the node does not forward your {what}");
    }
    begun()?;
    show(node, session, terminal && interactive, CUT, &how).await
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
    let request = SessionRequest { env, terminal: interactive.then(like_ours), ..SessionRequest::default() };
    show(node, node.session(&request).await?, interactive, 0, &Show::default()).await
}

/// Shows a session until it ends, or the user leaves it, which gives this status.
async fn show(
    node: &NodeConnection,
    session: ClientSession,
    interactive: bool,
    left_status: u8,
    how: &Show,
) -> Result<u8> {
    let (stdout, stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut ending = Ending::listen()?;
    if !interactive {
        let status = async {
            if how.stdin {
                session.run(tokio::io::stdin(), stdout, stderr, stream::pending()).await
            } else {
                session.run(tokio::io::empty(), stdout, stderr, stream::pending()).await
            }
        };
        return tokio::select! {
            status = status => Ok(shell_code(node, &status?)),
            code = ending.next() => Ok(code),
        };
    }
    // A descriptor of our own: reads can be given up when the session ends, and nobody else's stdin changes its mode.
    let tty = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits() | nix::fcntl::OFlag::O_NOCTTY.bits())
        .open("/dev/tty")
        .context("the terminal cannot be read")?;
    let raw = || {
        RawTerminal::enter(std::io::stdin()).context("the terminal cannot be switched to raw mode").map(Some)
    };
    let mut terminal = raw()?;
    let (keys, mut escapes) = Keys::new(pipe::Receiver::from_file_unchecked(tty)?, how.escape);
    let running = session.run(keys, stdout, stderr, sizes()?);
    tokio::pin!(running);
    loop {
        tokio::select! {
            status = &mut running => {
                // What is said below is for a terminal that makes lines of it again.
                drop(terminal.take());
                return Ok(shell_code(node, &status?));
            }
            Some(escape) = escapes.recv() => match escape {
                Escape::Leave => {
                    drop(terminal.take());
                    eprintln!();
                    if node.is_interrupted() {
                        eprintln!(
                            "tsh: left while the connection to {} was lost: what runs there ends when the node gives it up",
                            node.host().name
                        );
                    }
                    return Ok(left_status);
                }
                Escape::Suspend => {
                    drop(terminal.take());
                    // Goes on here when the shell continues it. The size may be another one then.
                    let _ = raise(Signal::SIGTSTP);
                    terminal = raw()?;
                    let _ = raise(Signal::SIGWINCH);
                }
                Escape::Show(text) => eprint!("{text}"),
                Escape::Forwards => match &how.forwards {
                    Some(list) => eprint!("{}", list()),
                    None => eprint!("\r\nNothing is forwarded\r\n"),
                },
            },
            code = ending.next() => return Ok(code),
        }
    }
}

fn shell_code(node: &NodeConnection, status: &ExitStatus) -> u8 {
    if *status == ExitStatus::Lost {
        match node.lost() {
            Some(why) => eprintln!("ERROR: the connection was lost: {}", sanitize(&why)),
            None => eprintln!("ERROR: the connection ended before the command did"),
        }
    }
    status.shell_code()
}
