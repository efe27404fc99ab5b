//! A command on many nodes at a time. Each line of its output is written whole, behind the name of its node.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context as Task, Poll};

use anyhow::Result;
use futures_util::{StreamExt, stream};
use teleport_core::id::OsLogin;
use teleport_core::resource::Node;
use teleport_core::target::TargetHost;
use teleport_ssh::client::terminal::Ending;
use teleport_ssh::client::{ExitStatus, Profile, SessionRequest, SharedProxy, SshClient};
use tokio::io::AsyncWrite;

use super::super::common::{Context, Resume};
use crate::cli::{one_line, sanitize};

/// What is longer is written as several lines.
const MAX_LINE: usize = 64 * 1024;
/// Of the terminal: red is for what went wrong.
const COLOURS: [u8; 5] = [36, 32, 33, 35, 34];

/// What to do.
pub(super) struct Run {
    pub(super) command: String,
    pub(super) env: Vec<(String, String)>,
    /// On how many nodes at a time.
    pub(super) parallel: usize,
    pub(super) resume: Resume,
}

/// Runs it, over one connection to the proxy. Returns 0 if all succeeded, and 1 otherwise, after a list of those that did not.
pub(super) async fn run(
    context: &Context,
    profile: &Profile,
    nodes: Vec<Node>,
    login: &OsLogin,
    run: Run,
) -> Result<ExitCode> {
    let client = context.ssh(profile, &run.resume);
    let proxy = client.shared_proxy(&profile.ssh_address).await?;
    let names = names(&nodes);
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let shown = [io::stdout().is_terminal(), io::stderr().is_terminal()];
    let tasks = nodes.iter().zip(&names).enumerate().map(|(number, (node, name))| {
        let prefixes =
            shown.map(|shown| prefix(name, width, number, shown && std::env::var_os("NO_COLOR").is_none()));
        let [out, err] = prefixes;
        let output = (Lines::new(out, shown[0], io::stdout()), Lines::new(err, shown[1], io::stderr()));
        let (client, proxy, run) = (&client, &proxy, &run);
        async move { (name, on((client, proxy), (node, name), login, run, output).await) }
    });
    let all = stream::iter(tasks).buffer_unordered(run.parallel).collect::<Vec<_>>();
    let mut ending = Ending::listen()?;
    let ended = tokio::select! {
        ended = all => ended,
        code = ending.next() => return Ok(ExitCode::from(code)),
    };
    proxy.disconnect().await;
    let total = ended.len();
    let mut failed: Vec<(&String, String)> =
        ended.into_iter().filter_map(|(name, outcome)| Some((name, outcome.err()?))).collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    failed.sort();
    eprintln!("ERROR: {} of {total} nodes failed:", failed.len());
    for (name, why) in failed {
        eprintln!("  {name:width$}  {why}");
    }
    Ok(ExitCode::FAILURE)
}

/// Why it failed there.
async fn on(
    (client, proxy): (&SshClient, &SharedProxy),
    (node, name): (&Node, &str),
    login: &OsLogin,
    run: &Run,
    (mut stdout, mut stderr): (Lines<io::Stdout>, Lines<io::Stderr>),
) -> Result<(), String> {
    let said = |error: anyhow::Error| one_line(&error);
    let target = TargetHost::Id(node.record.host_id).into();
    let node = client.node_by(proxy, &target, login, name).await.map_err(|error| said(error.into()))?;
    let request = SessionRequest {
        command: Some(run.command.clone()),
        env: run.env.clone(),
        ..SessionRequest::default()
    };
    let session = node.session(&request).await.map_err(|error| said(error.into()))?;
    let status = session.run(tokio::io::empty(), &mut stdout, &mut stderr, stream::pending()).await;
    let ended = stdout.end().and_then(|()| stderr.end());
    node.disconnect().await;
    match (status.and_then(|status| ended.map(|()| status))).map_err(|error| said(error.into()))? {
        ExitStatus::Code(0) => Ok(()),
        ExitStatus::Code(code) => Err(format!("ended with status {code}")),
        ExitStatus::Signal { name } => Err(format!("killed by SIG{name}")),
        _ => Err(match node.lost() {
            Some(why) => format!("the connection was lost: {}", sanitize(&why)),
            None => "the connection ended before the command did".to_owned(),
        }),
    }
}

/// The names of the nodes, with the ids of those that share theirs.
fn names(nodes: &[Node]) -> Vec<String> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for node in nodes {
        *count.entry(node.record.name.as_str()).or_default() += 1;
    }
    let name = |node: &Node| match count.get(node.record.name.as_str()) {
        Some(1) => sanitize(node.record.name.as_str()),
        _ => format!("{} ({})", sanitize(node.record.name.as_str()), node.record.host_id),
    };
    nodes.iter().map(name).collect()
}

fn prefix(name: &str, width: usize, number: usize, coloured: bool) -> String {
    match COLOURS.get(number % COLOURS.len()) {
        Some(colour) if coloured => format!("\x1b[{colour}m{name:width$}\x1b[0m | "),
        _ => format!("{name:width$} | "),
    }
}

/// Writes whole lines behind a prefix.
struct Lines<W> {
    prefix: String,
    /// Whether a terminal shows them: what a node prints must not drive it, nor hide behind which name it is.
    shown: bool,
    line: Vec<u8>,
    to: W,
}

/// Control characters as `cat -v` shows them, but for tabs and the end of lines of DOS.
fn visible(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' => shown.push(letter),
            '\0'..='\x1f' | '\x7f' => shown.extend(['^', char::from(letter as u8 ^ 0x40)]),
            '\u{80}'..='\u{9f}' => shown.push(char::REPLACEMENT_CHARACTER),
            _ => shown.push(letter),
        }
    }
    shown.into_bytes()
}

impl<W: Write> Lines<W> {
    fn new(prefix: String, shown: bool, to: W) -> Self {
        Self { prefix, shown, line: Vec::new(), to }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = MAX_LINE.saturating_sub(self.line.len()).min(bytes.len());
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let (now, rest) = bytes.split_at(end.map_or(room, |end| end + 1));
            self.line.extend_from_slice(now.strip_suffix(b"\n").unwrap_or(now));
            bytes = rest;
            if end.is_some() || self.line.len() >= MAX_LINE {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> io::Result<()> {
        let line: Cow<'_, [u8]> =
            if self.shown { visible(&self.line).into() } else { self.line.as_slice().into() };
        let line = [self.prefix.as_bytes(), &line, b"\n"].concat();
        self.line.clear();
        // In one piece: the streams of all nodes are one.
        self.to.write_all(&line)?;
        self.to.flush()
    }

    /// What came without an end of its line.
    fn end(&mut self) -> io::Result<()> {
        if self.line.is_empty() { Ok(()) } else { self.end_line() }
    }
}

impl<W: Write + Unpin> AsyncWrite for Lines<W> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.take(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    /// What is written for pieces of output, each write for itself.
    fn written(shown: bool, pieces: &[&[u8]]) -> Vec<String> {
        #[derive(Default)]
        struct Writes(Vec<String>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(String::from_utf8_lossy(bytes).into_owned());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut lines = Lines::new("web | ".to_owned(), shown, Writes::default());
        pieces.iter().try_for_each(|piece| lines.take(piece)).unwrap();
        lines.end().unwrap();
        lines.to.0
    }

    #[test]
    fn lines_are_written_whole_however_they_come() {
        assert_eq!(
            written(false, &[b"a", b"b\nc", b"\n\nd"]),
            ["web | ab\n", "web | c\n", "web | \n", "web | d\n"]
        );
        assert!(written(true, &[]).is_empty());
        let long = vec![b'x'; MAX_LINE + 1];
        let lines = written(true, &[&long]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE + 7, 8]);
        let tricky: &[&[u8]] = &["a\r\n\x1b[31mweb2 | ok\rx\ty\u{9b}ä\0\x7f".as_bytes()];
        assert_eq!(written(true, tricky), ["web | a\n", "web | ^[[31mweb2 | ok^Mx\ty\u{fffd}ä^@^?\n"]);
        assert_eq!(written(false, &[b"a\r\n\x1b["]), ["web | a\r\n", "web | \x1b[\n"]);
        assert_eq!(prefix("web", 5, 1, false), "web   | ");
        assert_eq!(prefix("web", 5, 1, true), "\u{1b}[32mweb  \u{1b}[0m | ");
    }
}
