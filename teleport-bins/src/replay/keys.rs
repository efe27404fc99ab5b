//! The keys of a replay.

use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

/// What somebody who watches wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Back,
    Faster,
    Forward,
    Pause,
    Quit,
    Slower,
    /// To so many tenths of the session.
    Tenth(u32),
}

/// What the player says of them.
pub(super) const HELP: &str = "space plays, \u{2190} \u{2192} move 10s, 0-9 to a tenth, + - speed, q ends";

fn key(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char(' ') => Some(Key::Pause),
        KeyCode::Char('+' | '=') | KeyCode::Up => Some(Key::Faster),
        KeyCode::Char('-') | KeyCode::Down => Some(Key::Slower),
        KeyCode::Right => Some(Key::Forward),
        KeyCode::Left => Some(Key::Back),
        KeyCode::Home => Some(Key::Tenth(0)),
        KeyCode::Char(digit) => digit.to_digit(10).map(Key::Tenth),
        _ => None,
    }
}

/// Reads keys until nobody listens.
pub(super) fn listen() -> mpsc::Receiver<Key> {
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

/// The next key; never, where there are none. Cancel safe.
pub(super) async fn next(keys: &mut Option<mpsc::Receiver<Key>>) -> Key {
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
        for (code, meaning) in [
            (KeyCode::Char(' '), Key::Pause),
            (KeyCode::Left, Key::Back),
            (KeyCode::Right, Key::Forward),
            (KeyCode::Up, Key::Faster),
            (KeyCode::Down, Key::Slower),
            (KeyCode::Char('+'), Key::Faster),
            (KeyCode::Char('-'), Key::Slower),
            (KeyCode::Char('0'), Key::Tenth(0)),
            (KeyCode::Char('7'), Key::Tenth(7)),
        ] {
            assert_eq!(press(code, KeyModifiers::NONE), Some(meaning));
        }
    }
}
