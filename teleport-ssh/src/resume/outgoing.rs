//! What one side says: kept until the other side has taken it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::WINDOW;
use super::wire::{DATA_HEADER, MAX_DATA, Violation, data_header};

/// The bytes of the stream that the other side has not acknowledged, as frames that were sent and can be sent again, and those that
/// wait behind them.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Frames with their headers, in their order.
    frames: VecDeque<Bytes>,
    /// The position of the first of them.
    base: u64,
    /// Which of them is sent next, its position, and from where in it.
    next: usize,
    next_at: u64,
    cursor: u64,
    /// How far any wire has come: the last one may have repeated less of it than one before it had brought.
    sent: u64,
    /// What is no frame yet: room for the header, and what belongs behind it.
    tail: BytesMut,
    acked: u64,
    end: u64,
    closed: bool,
}

fn payload(frame: &Bytes) -> u64 {
    (frame.len().saturating_sub(DATA_HEADER)) as u64
}

impl Outgoing {
    /// Takes as much as there is room for, in bytes.
    pub(super) fn write(&mut self, data: &[u8]) -> usize {
        let waiting = usize::try_from(self.end - self.acked).unwrap_or(usize::MAX);
        let taken = WINDOW.saturating_sub(waiting).min(data.len());
        let mut rest = data.get(..taken).unwrap_or_default();
        while !rest.is_empty() {
            if self.tail.is_empty() {
                self.tail.reserve(DATA_HEADER + rest.len().min(MAX_DATA));
                self.tail.extend_from_slice(&[0; DATA_HEADER]);
            }
            let room = (DATA_HEADER + MAX_DATA).saturating_sub(self.tail.len());
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.tail.extend_from_slice(now);
            if now.len() == room {
                self.seal();
            }
            rest = later;
        }
        self.end += taken as u64;
        taken
    }

    /// Makes a frame of what waits.
    fn seal(&mut self) {
        let len = self.tail.len().saturating_sub(DATA_HEADER);
        let header = data_header(u32::try_from(len).unwrap_or(u32::MAX));
        if let Some(room) = self.tail.first_chunk_mut() {
            *room = header;
            self.frames.push_back(self.tail.split().freeze());
        }
    }

    /// The next frame to be sent.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.next == self.frames.len() && !self.tail.is_empty() {
            self.seal();
        }
        let frame = self.frames.get(self.next)?;
        let skip = usize::try_from(self.cursor - self.next_at).ok()?;
        let piece = if skip == 0 {
            frame.clone()
        } else {
            // The rest of one of which the other side has a part.
            let rest = frame.get(DATA_HEADER.saturating_add(skip)..)?;
            let header = data_header(u32::try_from(rest.len()).ok()?);
            [&header, rest].concat().into()
        };
        self.next += 1;
        self.next_at += payload(frame);
        self.cursor = self.next_at;
        self.sent = self.sent.max(self.cursor);
        Some(piece)
    }

    /// The other side has taken so many bytes.
    pub(super) fn ack(&mut self, position: u64) -> Result<(), Violation> {
        if position < self.acked || position > self.cursor {
            return Err(Violation::Ack);
        }
        self.acked = position;
        while let Some(frame) = self.frames.front()
            && self.base + payload(frame) <= position
        {
            self.base += payload(frame);
            self.frames.pop_front();
            self.next = self.next.saturating_sub(1);
        }
        Ok(())
    }

    /// Whether the other side, which says that it has so many bytes, can go on there.
    pub(super) const fn can_resume(&self, position: u64) -> bool {
        self.acked <= position && position <= self.sent
    }

    /// Goes on there, on a new wire.
    pub(super) fn resume(&mut self, position: u64) -> Result<(), Violation> {
        if !self.can_resume(position) {
            return Err(Violation::Ack);
        }
        (self.next, self.next_at, self.cursor) = (0, self.base, position);
        for frame in &self.frames {
            let end = self.next_at + payload(frame);
            if end > position {
                break;
            }
            (self.next, self.next_at) = (self.next + 1, end);
        }
        Ok(())
    }

    /// Nothing more is written.
    pub(super) const fn close(&mut self) {
        self.closed = true;
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether there is room for more.
    pub(super) const fn has_room(&self) -> bool {
        self.end - self.acked < WINDOW as u64
    }

    /// Whether something was sent that was not acknowledged.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }
}
