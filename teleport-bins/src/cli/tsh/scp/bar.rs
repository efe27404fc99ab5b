//! How far a copy is, on one line of the terminal.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use teleport_ssh::client::copy::{CopyFailure, CopyObserver};
use tokio::time::Instant;

use crate::cli::recordings::human_size;
use crate::cli::sanitize;

/// How often the line is drawn.
const EVERY: Duration = Duration::from_millis(100);
/// The shortest time from which a rate is computed.
const LEAST: Duration = Duration::from_millis(200);

/// One line for all files; nothing where there is no terminal, or where quiet was asked for. Failures are told in any case.
#[derive(Debug)]
pub(super) struct Bar {
    shows: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    drawn: Option<Instant>,
    /// The file that was begun last.
    name: String,
    files: u64,
    /// Of all files that were begun and say how long they are.
    size: u64,
    /// What was there of these before.
    there: u64,
    moved: u64,
}

impl Bar {
    pub(super) fn new(quiet: bool) -> Self {
        let state = State {
            began: Instant::now(),
            drawn: None,
            name: String::new(),
            files: 0,
            size: 0,
            there: 0,
            moved: 0,
        };
        Self { shows: !quiet && std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, state: &mut State) {
        let now = Instant::now();
        if self.shows && state.drawn.is_none_or(|drawn| now - drawn >= EVERY) {
            let columns = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns));
            eprint!("\r\x1b[K{}", state.line(now - state.began, columns));
            state.drawn = Some(now);
        }
    }

    /// Leaves the line as it is in the end.
    pub(super) fn end(&self) {
        let mut state = self.state();
        if self.shows && state.files > 0 {
            state.drawn = None;
            self.draw(&mut state);
            eprintln!();
        }
        state.drawn = None;
    }

    /// Leaves the line as it is.
    pub(super) fn stop(&self) {
        if self.state().drawn.take().is_some() {
            eprintln!();
        }
    }
}

impl CopyObserver for Bar {
    fn begins(&self, name: &str, size: Option<u64>, there: u64) {
        let mut state = self.state();
        if state.files == 0 {
            // Connecting took its time, which is none of the copy's.
            state.began = Instant::now();
        }
        state.name = sanitize(name);
        state.files += 1;
        state.size += size.unwrap_or_default();
        state.there += there;
        self.draw(&mut state);
    }

    fn moved(&self, bytes: u64) {
        let mut state = self.state();
        state.moved += bytes;
        self.draw(&mut state);
    }

    fn failed(&self, failure: &CopyFailure) {
        if self.state().drawn.take().is_some() {
            eprint!("\r\x1b[K");
        }
        eprintln!("ERROR: {}", sanitize(&failure.to_string()));
    }
}

impl State {
    fn line(&self, elapsed: Duration, columns: usize) -> String {
        let done = self.there + self.moved;
        let percent = done.saturating_mul(100).checked_div(self.size).unwrap_or(100).min(100);
        let rate = (elapsed >= LEAST).then(|| self.moved as f64 / elapsed.as_secs_f64());
        let shown_rate = rate.map_or_else(|| "-".to_owned(), |rate| human_size(rate as u64));
        let left = self.size.saturating_sub(done);
        let time = match rate {
            _ if left == 0 => clock(elapsed.as_secs()),
            Some(rate) if rate >= 1.0 => format!("{} ETA", clock((left as f64 / rate) as u64)),
            _ => "--:-- ETA".to_owned(),
        };
        let name = match self.files {
            0 | 1 => self.name.clone(),
            files => format!("{} ({files} files)", self.name),
        };
        let figures = format!("{percent:>3}% {:>10} {:>12} {time:>12}", human_size(done), shown_rate + "/s");
        // The last column stays free: some terminals would begin a new line.
        let room = columns.saturating_sub(figures.len() + 2);
        let name: String = name.chars().take(room).collect();
        format!("{name:<room$} {figures}")
    }
}

/// Minutes and seconds, with hours where there are some.
fn clock(seconds: u64) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    match minutes / 60 {
        0 => format!("{minutes:02}:{seconds:02}"),
        hours => format!("{hours}:{:02}:{seconds:02}", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(files: u64, size: u64, there: u64, moved: u64) -> State {
        State { began: Instant::now(), drawn: None, name: "name".to_owned(), files, size, there, moved }
    }

    #[test]
    fn the_line_has_rate_and_what_is_left() {
        let line = state(1, 4 << 20, 1 << 20, 1 << 20).line(Duration::from_secs(2), 80);
        assert!(line.len() < 80 && line.starts_with("name "), "{line:?}");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["name", "50%", "2.0", "MiB", "512.0", "KiB/s", "00:04", "ETA"]);
        let line = state(3, 0, 0, 0).line(Duration::from_millis(1), 80);
        assert!(line.contains("name (3 files)") && line.contains("100%") && line.contains("-/s"), "{line:?}");
        let line = state(1, u64::MAX, 0, 1).line(Duration::from_secs(7200), 20);
        assert!(line.contains("--:-- ETA"), "{line:?}");
        assert_eq!(
            (clock(59), clock(3600), clock(36_061)),
            ("00:59".into(), "1:00:00".into(), "10:01:01".into())
        );
    }
}
