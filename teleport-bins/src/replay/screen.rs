//! The terminal on which a recording is shown.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use teleport_core::recording::TerminalFilter;
use teleport_ssh::client::terminal::RawTerminal;

/// Written at once when there is so much.
const FULL: usize = 64 * 1024;

/// Shows output, and leaves a terminal as it was, however it ends: dropping it does that, also while a panic unwinds.
pub(super) struct Screen {
    filter: TerminalFilter,
    /// What waits to be written.
    out: String,
    raw: Option<RawTerminal>,
    is_terminal: bool,
    /// Whether the session had no terminal.
    plain: bool,
    titled: bool,
    /// A line of ours is over the last one.
    covered: bool,
}

impl Screen {
    /// On stdout; keys can be read if that and stdin are a terminal.
    pub(super) fn open() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let interactive = is_terminal && io::stdin().is_terminal();
        let raw = interactive.then(|| RawTerminal::enter(io::stdin()).ok()).flatten();
        Self {
            filter: TerminalFilter::drawing(),
            out: String::new(),
            raw,
            is_terminal,
            plain: false,
            titled: false,
            covered: false,
        }
    }

    pub(super) const fn is_interactive(&self) -> bool {
        self.raw.is_some()
    }

    pub(super) const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Of a session without a terminal nothing turned line ends into what one needs.
    pub(super) const fn set_plain(&mut self, plain: bool) {
        self.plain = plain;
    }

    /// Shows recorded output.
    pub(super) fn show(&mut self, data: &[u8]) -> Result<()> {
        let text = self.filter.pass(data);
        if self.raw.is_some() && self.plain {
            self.out.push_str(&text.replace('\n', "\r\n"));
        } else {
            self.out.push_str(&text);
        }
        if self.out.len() >= FULL { self.flush() } else { Ok(()) }
    }

    /// Shows a line of ours.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        if !self.is_terminal {
            self.flush()?;
            eprintln!("{text}");
            return Ok(());
        }
        self.out.push_str(&self.filter.restore());
        self.out.push_str("\r\n[");
        self.out.push_str(text);
        self.out.push_str("]\r\n");
        self.flush()
    }

    /// Empties it, for what does not follow from what was shown.
    pub(super) fn clear(&mut self) {
        self.out.push_str(&self.filter.restore());
        if std::mem::take(&mut self.covered) {
            // Some terminals keep what is erased, to be scrolled back to.
            self.out.push_str("\x1b[999;1H\x1b[2K");
        }
        self.out.push_str("\x1b[H\x1b[2J");
        self.filter = TerminalFilter::drawing();
    }

    /// Shows a line of ours over the last line of the terminal. What it covers is lost.
    pub(super) fn status(&mut self, text: &str) -> Result<()> {
        let (columns, rows) = size().unwrap_or((80, 24));
        self.covered = true;
        let shown: String = text.chars().take(usize::from(columns).saturating_sub(2)).collect();
        self.out.push_str(&format!("\x1b7\x1b[?6l\x1b[{rows};1H\x1b[0;7m {shown} \x1b[0m\x1b[K\x1b8"));
        self.flush()
    }

    /// Puts text in the title of the window, until the end.
    pub(super) fn title(&mut self, text: &str) -> Result<()> {
        if !std::mem::replace(&mut self.titled, true) {
            // Terminals that can remember the title do.
            self.out.push_str("\x1b[22;0t");
        }
        self.out.push_str(&format!("\x1b]0;{text}\x07"));
        self.flush()
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.out);
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            let restore = self.filter.restore();
            self.out.push_str(&restore);
            if self.titled {
                self.out.push_str("\x1b]0;\x07\x1b[23;0t");
            }
        }
        // Where it cannot be written there is nothing to restore.
        let _ = self.flush();
    }
}

/// Columns and rows of the window.
pub(super) fn size() -> Option<(u16, u16)> {
    crossterm::terminal::size().ok().filter(|(columns, rows)| *columns > 0 && *rows > 0)
}
