//! Replay in a terminal: space pauses, arrows move by ten seconds, `+` and `-` change the speed, `q` ends it.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use teleport_core::recording::{Pace, RecordedEvent, SessionEnd, Timeline};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Source, write};

/// How far an arrow moves.
const JUMP: Duration = Duration::from_secs(10);
const CLEAR: &[u8] = b"\x1b[0m\x1b[H\x1b[2J\x1b[3J";

/// The terminal in raw mode for as long as this lives.
struct RawMode;

impl RawMode {
    fn enter() -> Option<Self> {
        let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        // Made only then: its end writes to the terminal.
        (interactive && enable_raw_mode().is_ok()).then(|| Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = disable_raw_mode();
        // Whatever the session left switched on: colours, hidden cursor, alternate screen, mouse reports.
        let _ =
            write(b"\x1b[0m\x1b[?25h\x1b[?1049l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\r\n");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Back,
    Faster,
    Forward,
    Pause,
    Quit,
    Slower,
}

fn key(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char(' ') => Some(Key::Pause),
        KeyCode::Char('+' | '=') => Some(Key::Faster),
        KeyCode::Char('-') => Some(Key::Slower),
        KeyCode::Right => Some(Key::Forward),
        KeyCode::Left => Some(Key::Back),
        _ => None,
    }
}

/// Reads keys until nobody listens.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let ready = crossterm::event::poll(Duration::from_millis(100)).unwrap_or(false);
            if ready
                && let Ok(event) = crossterm::event::read()
                && let Some(key) = key(&event)
                && sender.blocking_send(key).is_err()
            {
                return;
            }
        }
    });
    receiver
}

struct Player {
    source: Source,
    timeline: Timeline,
    pace: Pace,
    /// Up to here everything is shown at once.
    until: Duration,
    /// Whether this terminal is in raw mode.
    raw: bool,
}

pub(super) async fn play(source: Source, pace: Pace) -> Result<()> {
    let raw = RawMode::enter();
    let mut pressed = raw.is_some().then(keys);
    let mut player =
        Player { source, timeline: Timeline::new(pace), pace, until: Duration::ZERO, raw: raw.is_some() };
    let result = player.run(&mut pressed).await;
    drop(raw);
    let last = result?;
    if let Some(RecordedEvent::End { end, .. }) = last {
        let how = match end {
            SessionEnd::Exited(status) => format!("exit status {status}"),
            SessionEnd::Signaled(name) => format!("killed by SIG{name}"),
            _ => "disconnected".to_owned(),
        };
        if std::io::stdout().is_terminal() {
            println!("[end of session: {how}]");
        }
    }
    Ok(())
}

impl Player {
    /// Plays to the end; returns the last event, `None` if the user ended it.
    async fn run(&mut self, keys: &mut Option<mpsc::Receiver<Key>>) -> Result<Option<RecordedEvent>> {
        let mut last = None;
        while let Some(event) = self.source.next().await? {
            let wait = self.timeline.wait(&event);
            let mut due = Instant::now() + if event.at() <= self.until { Duration::ZERO } else { wait };
            loop {
                let pressed = tokio::select! {
                    biased;
                    pressed = next(keys) => pressed,
                    () = sleep_until(due) => break,
                };
                match pressed {
                    Key::Quit => return Ok(None),
                    Key::Pause => {
                        let left = due.saturating_duration_since(Instant::now());
                        loop {
                            match next(keys).await {
                                Key::Quit => return Ok(None),
                                Key::Pause => break,
                                _ => {}
                            }
                        }
                        due = Instant::now() + left;
                    }
                    Key::Faster => self.change_speed(2.0),
                    Key::Slower => self.change_speed(0.5),
                    Key::Forward => {
                        self.until = self.timeline.position() + JUMP;
                        due = Instant::now();
                    }
                    Key::Back => {
                        self.until = self.timeline.position().saturating_sub(JUMP);
                        self.source = self.source.rewound().await?;
                        self.timeline = Timeline::new(self.pace);
                        write(CLEAR)?;
                        // What we were about to show comes again.
                        due = Instant::now();
                        last = None;
                        break;
                    }
                }
            }
            let rewound = self.timeline.position().is_zero() && !event.at().is_zero();
            if !rewound {
                self.show(&event)?;
                last = Some(event);
            }
        }
        Ok(last)
    }

    /// Whether the session had no terminal.
    fn is_plain(&self) -> bool {
        self.source.meta().is_some_and(|meta| meta.terminal.is_none())
    }

    fn change_speed(&mut self, factor: f64) {
        self.pace.speed = (self.pace.speed * factor).clamp(0.125, 16.0);
        self.timeline.set_pace(self.pace);
    }

    fn show(&self, event: &RecordedEvent) -> Result<()> {
        match event {
            // Without a terminal nothing turned line ends into what a terminal in raw mode needs.
            RecordedEvent::Output { data, .. } if self.raw && self.is_plain() => {
                let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
                write(&lines.join(&b"\r\n"[..]))
            }
            RecordedEvent::Output { data, .. } => write(data),
            RecordedEvent::Gap { lost, .. } => {
                write(format!("\r\n[{lost} bytes were not recorded]\r\n").as_bytes())
            }
            _ => Ok(()),
        }
    }
}

/// The next key; never, where there are none.
async fn next(keys: &mut Option<mpsc::Receiver<Key>>) -> Key {
    let pressed = match keys {
        Some(keys) => keys.recv().await,
        None => None,
    };
    match pressed {
        Some(key) => key,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn keys_mean_what_the_manual_says() {
        let press = |code, modifiers| key(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(press(KeyCode::Char(' '), KeyModifiers::NONE), Some(Key::Pause));
        assert_eq!(press(KeyCode::Left, KeyModifiers::NONE), Some(Key::Back));
        assert_eq!(press(KeyCode::Right, KeyModifiers::NONE), Some(Key::Forward));
    }
}
