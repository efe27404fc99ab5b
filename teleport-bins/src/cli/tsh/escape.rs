//! What is typed to this program itself and not to the session: `~` and another key at the beginning of a line.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::watch;

/// What `~?` says.
const HELP: &str = "\r\n~.  leave\r\n~~  type a ~\r\n~?  this\r\n";

/// Where in a line the typing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    LineBegins,
    /// After a `~` at the beginning of a line.
    Escape,
    Within,
}

/// The keys of a user, without those that are for this program. `~.` at the beginning of a line ends the reading and is told by
/// [`Keys::left`].
#[derive(Debug)]
pub(super) struct Keys<R> {
    keys: R,
    state: State,
    left: watch::Sender<bool>,
}

impl<R> Keys<R> {
    /// Reads from here.
    pub(super) fn new(keys: R) -> Self {
        Self { keys, state: State::default(), left: watch::Sender::new(false) }
    }

    /// Resolves when the user wants to leave. Cancel safe.
    pub(super) fn left(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut left = self.left.subscribe();
        async move {
            if left.wait_for(|left| *left).await.is_err() {
                // Nobody types any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes out what is for this program; `false` if the user leaves.
    fn take_out(&mut self, typed: &[u8], passed: &mut Vec<u8>, help: &mut bool) -> bool {
        for key in typed {
            match (self.state, key) {
                (State::LineBegins, b'~') => self.state = State::Escape,
                (State::Escape, b'.') => return false,
                (State::Escape, b'?') => {
                    *help = true;
                    self.state = State::LineBegins;
                }
                (State::Escape, b'~') => {
                    passed.push(b'~');
                    self.state = State::Within;
                }
                (before, key) => {
                    if before == State::Escape {
                        passed.push(b'~');
                    }
                    passed.push(*key);
                    self.state = if matches!(key, b'\r' | b'\n') { State::LineBegins } else { State::Within };
                }
            }
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
            let (mut passed, mut help) = (Vec::with_capacity(room + 1), false);
            let stays = self.take_out(typed.filled(), &mut passed, &mut help);
            if help {
                eprint!("{HELP}");
            }
            buffer.put_slice(&passed);
            if !stays {
                self.left.send_replace(true);
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

    fn typed(pieces: &[&str]) -> (String, bool, bool) {
        let mut keys = Keys::new(tokio::io::empty());
        let (mut passed, mut help) = (Vec::new(), false);
        let stays = pieces.iter().all(|piece| keys.take_out(piece.as_bytes(), &mut passed, &mut help));
        (String::from_utf8(passed).unwrap(), stays, help)
    }

    #[test]
    fn only_at_the_beginning_of_a_line() {
        for (pieces, passed, stays) in [
            (&["~."][..], "", false),
            (&["ls\r~.x"], "ls\r", false),
            (&["ls\r", "~", "."], "ls\r", false),
            (&["ls ~."], "ls ~.", true),
            (&["~~."], "~.", true),
            (&["~a~."], "~a~.", true),
            (&["~\r~."], "~\r", false),
            (&["~", "/x\r"], "~/x\r", true),
        ] {
            let outcome = typed(pieces);
            assert_eq!((outcome.0.as_str(), outcome.1), (passed, stays), "{pieces:?}");
        }
        assert_eq!(typed(&["~?~."]), (String::new(), false, true));
    }
}
