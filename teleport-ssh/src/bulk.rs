//! Many bytes in few system calls, without copies or new memory.
//!
//! [`write_all`] writes what has gathered at once. [`Buffers`] are read into again and again: a buffer of this size that is freed goes back to the operating system, and the next one costs a page fault for every 4 KiB
//! and is cold in the cache, so a reader keeps hold of what it handed out and takes it back as soon as everybody else has let go.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// How many pieces are worth one system call, at most.
pub(crate) const MAX_BATCH: usize = 16;

/// The most buffers that one reader keeps hold of.
const MAX_KEPT: usize = 16;

/// The buffers of one reader.
#[derive(Debug)]
pub(crate) struct Buffers {
    small: usize,
    large: usize,
    /// Whether the last read was a good part of a large buffer's.
    bulk: bool,
    /// What is read into next.
    current: BytesMut,
    /// Whether the current one is a large one.
    current_is_large: bool,
    /// Large ones that were handed out, oldest first.
    used: VecDeque<BytesMut>,
}

impl Buffers {
    /// Buffers of `small` bytes as long as little is read at once, else of `large` bytes. None is allocated yet.
    pub(crate) fn new(small: usize, large: usize) -> Self {
        let (current, used) = (BytesMut::new(), VecDeque::new());
        Self { small, large, bulk: false, current, current_is_large: false, used }
    }

    /// A buffer with room for a read. Small pieces share one, and little of it stays unused.
    pub(crate) fn current(&mut self) -> &mut BytesMut {
        let size = if self.bulk { self.large } else { self.small };
        if self.current.capacity() < size / 2 {
            let full = std::mem::take(&mut self.current);
            if self.current_is_large && self.used.len() < MAX_KEPT {
                self.used.push_back(full);
            }
            self.current = self.next(size);
            self.current_is_large = self.bulk;
        }
        &mut self.current
    }

    /// What was read into the current buffer.
    pub(crate) fn take(&mut self) -> Bytes {
        self.bulk = self.current.len() >= self.small / 2;
        if !self.bulk {
            // What was kept for bulk goes.
            self.used.clear();
        }
        self.current.split().freeze()
    }

    fn next(&mut self, size: usize) -> BytesMut {
        if let Some(mut oldest) = self.used.pop_front() {
            if oldest.try_reclaim(size) {
                return oldest;
            }
            self.used.push_front(oldest);
        }
        BytesMut::with_capacity(size)
    }
}

/// Writes all pieces, as many of them at once as `to` takes, and empties `batch`.
///
/// When it is dropped early, `batch` holds what was not written, and some that was.
///
/// # Errors
/// Those of `to`; `WriteZero` if it takes no more.
pub(crate) async fn write_all(to: &mut (impl AsyncWrite + Unpin), batch: &mut Vec<Bytes>) -> io::Result<()> {
    let mut first = 0;
    while let Some(pending) = batch.get(first..).filter(|pending| !pending.is_empty()) {
        let mut slices = [IoSlice::new(&[]); MAX_BATCH];
        let filled = pending.iter().zip(&mut slices).map(|(data, slice)| *slice = IoSlice::new(data)).count();
        let mut written = to.write_vectored(slices.get(..filled).unwrap_or_default()).await?;
        if written == 0 && pending.iter().take(filled).any(|data| !data.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(data) = batch.get_mut(first) {
            if written < data.len() {
                data.advance(written);
                break;
            }
            written -= data.len();
            first += 1;
        }
    }
    batch.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use tokio::io::AsyncReadExt;

    use super::*;

    fn read(buffers: &mut Buffers, len: usize) -> (Bytes, usize) {
        read_of(buffers, len, 7)
    }

    fn read_of(buffers: &mut Buffers, len: usize, byte: u8) -> (Bytes, usize) {
        let current = buffers.current();
        assert!(current.is_empty(), "what was taken is gone");
        assert!(current.capacity() >= len.min(4), "there is room");
        current.extend_from_slice(&vec![byte; len.min(current.capacity())]);
        let at = current.as_ptr() as usize;
        (buffers.take(), at)
    }

    #[test]
    fn bulk_goes_round_in_few_buffers() {
        let mut buffers = Buffers::new(8, 64);
        let mut seen = std::collections::HashSet::new();
        let mut held = VecDeque::new();
        for _ in 0..1000 {
            let (data, at) = read(&mut buffers, 64);
            seen.insert(at);
            held.push_back(data);
            if held.len() > 3 {
                held.pop_front();
            }
        }
        // The small one of the beginning, those that are held, those on their way round.
        assert!(seen.len() <= 8, "{} buffers", seen.len());
    }

    #[test]
    fn what_is_held_for_ever_is_never_written_over() {
        let mut buffers = Buffers::new(8, 64);
        let held: Vec<Bytes> = (0..100).map(|round| read_of(&mut buffers, 64, round).0).collect();
        for (data, round) in held.iter().zip(0..) {
            assert!(data.iter().all(|byte| *byte == round), "{round}: {data:?}");
        }
        assert!(buffers.used.len() <= MAX_KEPT);
    }

    #[test]
    fn small_pieces_share_a_buffer_and_let_go_of_large_ones() {
        let mut buffers = Buffers::new(64, 1024);
        let _ = read(&mut buffers, 64);
        let _ = read(&mut buffers, 1024);
        let _ = read(&mut buffers, 1024);
        let (_, first) = read(&mut buffers, 3);
        let (_, second) = read(&mut buffers, 3);
        assert!(buffers.used.is_empty());
        assert_eq!(first + 3, second);
    }

    #[tokio::test]
    async fn batches_are_written_whole_and_in_order() {
        let (mut near, mut far) = tokio::io::duplex(7);
        let mut batch: Vec<Bytes> = ["one", "", "two", "three and more", ""].map(Bytes::from).to_vec();
        let reader = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        };
        let writer = async {
            write_all(&mut near, &mut batch).await.unwrap();
            assert!(batch.is_empty());
            drop(near);
        };
        let (all, ()) = tokio::join!(reader, writer);
        assert_eq!(all, b"onetwothree and more");
    }
}
