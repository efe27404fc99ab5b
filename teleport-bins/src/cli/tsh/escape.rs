//! What is typed to this program itself and not to the session: `~` and another key at the beginning of a line.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// ^Z, as a terminal in raw mode sends it.
const SUSPEND: u8 = 26;

/// Where in a line the typing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    LineBegins,
    /// After the escape at the beginning of a line.
    Escape,
    Within,
}

/// What somebody wants of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// To see what is forwarded.
    Forwards,
    /// To go; nothing is read after that.
    Leave,
    /// To read this.
    Show(String),
    /// To go back to the shell for a while.
    Suspend,
}

/// The keys of a user, without those that are for this program.
#[derive(Debug)]
pub(super) struct Keys<R> {
    keys: R,
    state: State,
    /// No key is one, if there is none.
    escape: Option<u8>,
    wanted: mpsc::UnboundedSender<Escape>,
}

/// A key as it is shown.
fn shown(key: u8) -> String {
    match key {
        0..32 => format!("^{}", char::from(key + 64)),
        key => char::from(key).to_string(),
    }
}

impl<R> Keys<R> {
    /// Reads from here. What is for this program comes from the other value.
    pub(super) fn new(keys: R, escape: Option<u8>) -> (Self, mpsc::UnboundedReceiver<Escape>) {
        // A person types: nothing has to bound it.
        let (wanted, receiver) = mpsc::unbounded_channel();
        (Self { keys, state: State::default(), escape, wanted }, receiver)
    }

    fn help(escape: u8) -> String {
        let e = shown(escape);
        format!(
            "\r\n{e}.   leave\r\n{e}^Z  suspend this program\r\n{e}#   list what is forwarded\r\n{e}?   this\r\n{e}{e}   type a {e}\r\n"
        )
    }

    /// Takes out what is for this program; `false` if the user leaves.
    fn take_out(&mut self, typed: &[u8], passed: &mut Vec<u8>) -> bool {
        let want = |what| {
            // Nobody shows the session any more otherwise.
            let _ = self.wanted.send(what);
        };
        for key in typed {
            let escape = self.escape.filter(|_| self.state == State::Escape);
            self.state = match (self.state, escape, *key) {
                (State::LineBegins, _, key) if Some(key) == self.escape => {
                    self.state = State::Escape;
                    continue;
                }
                (_, Some(_), b'.') => {
                    want(Escape::Leave);
                    return false;
                }
                (_, Some(escape), b'?') => {
                    want(Escape::Show(Self::help(escape)));
                    State::LineBegins
                }
                (_, Some(_), b'#') => {
                    want(Escape::Forwards);
                    State::LineBegins
                }
                (_, Some(_), SUSPEND) => {
                    want(Escape::Suspend);
                    State::LineBegins
                }
                (_, Some(escape), key) if key == escape => {
                    passed.push(key);
                    State::Within
                }
                (_, escape, key) => {
                    passed.extend(escape);
                    passed.push(key);
                    if matches!(key, b'\r' | b'\n') { State::LineBegins } else { State::Within }
                }
            };
        }
        true
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Keys<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        // A key that is held back becomes two.
        let mut space = [0; 4096];
        let room = buffer.remaining().saturating_sub(1).min(space.len());
        loop {
            let mut typed = ReadBuf::new(space.get_mut(..room).unwrap_or_default());
            ready!(Pin::new(&mut self.keys).poll_read(cx, &mut typed))?;
            if typed.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut passed = Vec::with_capacity(room + 1);
            let stays = self.take_out(typed.filled(), &mut passed);
            buffer.put_slice(&passed);
            if !stays {
                return Poll::Ready(Ok(()));
            }
            // Nothing would be taken for the end.
            if !passed.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn typed(pieces: &[&str], escape: Option<u8>) -> (String, Vec<Escape>) {
        let (mut keys, mut wanted) = Keys::new(tokio::io::empty(), escape);
        let mut passed = Vec::new();
        let _ = pieces.iter().all(|piece| keys.take_out(piece.as_bytes(), &mut passed));
        drop(keys);
        let wanted = std::iter::from_fn(|| wanted.blocking_recv()).collect();
        (String::from_utf8(passed).unwrap(), wanted)
    }

    #[test]
    fn only_at_the_beginning_of_a_line() {
        let leave = || vec![Escape::Leave];
        for (pieces, passed, wanted) in [
            (&["~."][..], "", leave()),
            (&["ls\r~.x"], "ls\r", leave()),
            (&["ls\r", "~", "."], "ls\r", leave()),
            (&["ls ~."], "ls ~.", vec![]),
            (&["~~."], "~.", vec![]),
            (&["~a~."], "~a~.", vec![]),
            (&["~\r~."], "~\r", leave()),
            (&["~", "/x\r"], "~/x\r", vec![]),
            (&["~#~.", "x"], "", vec![Escape::Forwards, Escape::Leave]),
            (&["x\r~\u{1a}y~\u{1a}"], "x\ry~\u{1a}", vec![Escape::Suspend]),
        ] {
            assert_eq!(typed(pieces, Some(b'~')), (passed.to_owned(), wanted), "{pieces:?}");
        }
        let (passed, wanted) = typed(&["~?~."], Some(b'~'));
        assert_eq!(passed, "");
        assert!(
            matches!(&wanted[..], [Escape::Show(help), Escape::Leave] if help.contains("~^Z")),
            "{wanted:?}"
        );
    }

    #[test]
    fn another_key_or_none() {
        assert_eq!(typed(&["~.\r\u{2}."], Some(2)), ("~.\r".to_owned(), vec![Escape::Leave]));
        assert_eq!(typed(&["~.\r~."], None), ("~.\r~.".to_owned(), vec![]));
        assert_eq!((shown(2), shown(b'~')), ("^B".to_owned(), "~".to_owned()));
    }
}
