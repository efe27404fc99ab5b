//! Those who watch a session: what is shown to them, and what they miss.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::filter::Filter;
use super::screen::Screen;

/// What may wait for one of them, in bytes. Whoever is further behind misses it, and is shown the screen again.
const MAX_WAITING: usize = 1 << 20;
/// The same in pieces.
const MAX_PIECES: usize = 8192;

/// All that a session shows to others than its owner.
#[derive(Debug, Default)]
pub(in crate::session) struct Audience {
    screen: Screen,
    filter: Filter,
    viewers: Vec<Arc<Viewer>>,
}

/// What one of them has not been shown yet.
#[derive(Debug, Default)]
pub(super) struct Viewer {
    queue: Mutex<Queue>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: Vec<Bytes>,
    length: usize,
    /// Bytes that were left out since; nothing waits then.
    missed: u64,
}

/// What there is to show to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// What was printed.
    Output(Vec<Bytes>),
    /// So many bytes were left out; this is the screen now.
    Skipped(u64, Bytes),
}

impl Viewer {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, data: &Bytes) {
        let mut queue = self.lock();
        let full = queue.length + data.len() > MAX_WAITING || queue.pieces.len() >= MAX_PIECES;
        if queue.missed > 0 || full {
            queue.missed += (queue.length + data.len()) as u64;
            queue.pieces = Vec::new();
            queue.length = 0;
        } else {
            queue.length += data.len();
            queue.pieces.push(data.clone());
        }
        drop(queue);
        self.woken.notify_one();
    }

    /// Resolves when there may be something to take. Cancel safe.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// What waits, if nothing was missed; how much was missed, otherwise.
    pub(super) fn take(&self) -> Result<Vec<Bytes>, u64> {
        let mut queue = self.lock();
        if queue.missed > 0 {
            return Err(queue.missed);
        }
        queue.length = 0;
        Ok(std::mem::take(&mut queue.pieces))
    }
}

impl Audience {
    /// Whether a program draws on all of the screen.
    pub(super) const fn is_alternate(&self) -> bool {
        self.screen.is_alternate()
    }

    /// Shows what was printed to whoever watches, and remembers it for those who come.
    pub(in crate::session) fn show(&mut self, data: &Bytes) {
        self.screen.show(data);
        if self.viewers.is_empty() {
            return;
        }
        let shown = self.filter.pass(data);
        if !shown.is_empty() {
            self.viewers.iter().for_each(|viewer| viewer.show(&shown));
        }
    }

    /// Lets somebody watch, whose terminal has so many rows; the first that is shown is the screen.
    pub(super) fn enter(&mut self, rows: u32) -> Arc<Viewer> {
        if self.viewers.is_empty() {
            // It has seen nothing since the last of them went.
            self.filter = Filter::default();
        }
        let viewer = Arc::new(Viewer::default());
        viewer.show(&self.screen.replay(rows));
        self.viewers.push(Arc::clone(&viewer));
        viewer
    }

    /// Nobody watches there any more.
    pub(super) fn leave(&mut self, viewer: &Arc<Viewer>) {
        self.viewers.retain(|other| !Arc::ptr_eq(other, viewer));
    }

    /// The screen for somebody who missed something, after which nothing is missed any more.
    pub(super) fn again(&self, viewer: &Viewer, rows: u32) -> View {
        let mut queue = viewer.lock();
        View::Skipped(std::mem::take(&mut queue.missed), self.screen.replay(rows))
    }

    /// What gives a terminal that was shown this back to its user.
    pub(super) fn undo(&self) -> Bytes {
        self.screen.undo()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests fail by panicking"
    )]
    use super::*;

    fn text(pieces: &[Bytes]) -> Vec<u8> {
        pieces.concat()
    }

    /// Nothing here waits for anybody; what one of them does not take is bounded, and costs the others nothing.
    #[test]
    fn fifty_watch_and_one_of_them_never_looks() {
        let mut audience = Audience::default();
        let viewers: Vec<_> = (0..50).map(|_| audience.enter(25)).collect();
        let (stuck, others) = viewers.split_last().unwrap();
        others.iter().for_each(|viewer| drop(viewer.take().unwrap()));
        let mut seen = vec![0; others.len()];
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        for _ in 0..256 {
            audience.show(&piece);
            for (viewer, seen) in others.iter().zip(&mut seen) {
                let pieces = viewer.take().unwrap();
                // The same bytes, not a copy for each.
                assert!(pieces.iter().all(|shown| shown.as_ptr() == piece.as_ptr()));
                *seen += pieces.iter().map(Bytes::len).sum::<usize>();
            }
            let queue = stuck.lock();
            assert!(queue.length <= MAX_WAITING && queue.pieces.len() <= MAX_PIECES);
        }
        assert!(seen.iter().all(|seen| *seen == 256 * piece.len()));
        let missed = stuck.take().unwrap_err();
        assert!(missed >= 255 * piece.len() as u64, "{missed}");
        // When it looks again, it is shown the screen, and then what comes.
        audience.show(&Bytes::from_static(b"\r\nnow\r\n"));
        let View::Skipped(missed, screen) = audience.again(stuck, 25) else { panic!("it missed something") };
        assert!(missed > 256 * piece.len() as u64 && screen.ends_with(b"now\r\n"));
        audience.show(&Bytes::from_static(b"then"));
        assert_eq!(text(&stuck.take().unwrap()), b"then");
        audience.leave(stuck);
        audience.show(&Bytes::from_static(b"later"));
        assert!(stuck.take().unwrap().is_empty());
        assert_eq!(text(&others[0].take().unwrap()), b"\r\nnow\r\nthenlater");
    }

    #[test]
    fn many_small_pieces_are_bounded_like_a_few_large_ones() {
        let mut audience = Audience::default();
        let viewer = audience.enter(25);
        for _ in 0..=MAX_PIECES {
            audience.show(&Bytes::from_static(b"x"));
        }
        assert!(viewer.take().is_err());
        assert!(viewer.lock().pieces.is_empty());
    }

    /// Whoever comes sees what was there before, and every byte since, once.
    #[test]
    fn nothing_is_seen_twice_and_nothing_is_missing() {
        let mut audience = Audience::default();
        audience.show(&Bytes::from_static(b"one\r\n"));
        let first = audience.enter(1);
        audience.show(&Bytes::from_static(b"two\r\n\x1b[6n"));
        let second = audience.enter(1);
        audience.show(&Bytes::from_static(b"three"));
        for viewer in [first, second] {
            let shown = text(&viewer.take().unwrap());
            assert!(shown.ends_with(b"\x1b[2Jone\r\ntwo\r\nthree"), "{}", shown.escape_ascii());
        }
    }
}
