//! What one side hears: taken from the wire at once, whether somebody wants it yet or not, so that what stands behind it is heard.

use std::collections::VecDeque;

use super::wire::Violation;
use super::{ACK_EVERY, WINDOW};

/// What is kept of an empty buffer, in bytes.
const KEPT: usize = 64 << 10;

/// The bytes of the stream that have come and were not taken.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    inbox: VecDeque<u8>,
    received: u64,
    /// Where the present wire is: behind, as long as it repeats what came by one before it.
    wire: u64,
    /// What the other side knows to be taken.
    told: u64,
    closed: bool,
}

impl Incoming {
    /// How much has come.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// What was taken. As far as the present wire has come: what came by one before, its other end has not sent yet.
    fn taken(&self) -> u64 {
        self.received.saturating_sub(self.inbox.len() as u64).min(self.wire)
    }

    /// A new wire begins at this position, which was [`received`](Self::received) when the other side was told.
    pub(super) fn resume(&mut self, position: u64) {
        self.wire = position.min(self.received);
        // Whether what it was told before has arrived is not known.
        self.told = 0;
    }

    /// More has come.
    pub(super) fn data(&mut self, piece: &[u8]) -> Result<(), Violation> {
        if self.closed {
            return Err(Violation::AfterClose);
        }
        let known = usize::try_from(self.received - self.wire).unwrap_or(usize::MAX);
        self.wire += piece.len() as u64;
        let new = piece.get(known..).unwrap_or_default();
        if self.inbox.len() + new.len() > WINDOW {
            return Err(Violation::Window);
        }
        self.inbox.extend(new);
        self.received += new.len() as u64;
        Ok(())
    }

    /// Takes what fits.
    pub(super) fn read(&mut self, out: &mut tokio::io::ReadBuf<'_>) {
        let (front, back) = self.inbox.as_slices();
        let mut taken = 0;
        for part in [front, back] {
            let (now, _) = part.split_at(part.len().min(out.remaining()));
            out.put_slice(now);
            taken += now.len();
        }
        self.inbox.drain(..taken);
        if self.inbox.is_empty() && self.inbox.capacity() > KEPT {
            self.inbox = VecDeque::new();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Nothing more comes.
    pub(super) fn close(&mut self) -> Result<(), Violation> {
        if std::mem::replace(&mut self.closed, true) { Err(Violation::AfterClose) } else { Ok(()) }
    }

    /// Nothing more comes, whether or not the other side has said so.
    pub(super) const fn end(&mut self) {
        self.closed = true;
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether so much was taken that the other side should know.
    pub(super) fn ack_is_due(&self) -> bool {
        self.taken().saturating_sub(self.told) >= ACK_EVERY
    }

    /// What was taken, if the other side does not know; it is told.
    pub(super) fn ack(&mut self) -> Option<u64> {
        let taken = self.taken();
        (taken != std::mem::replace(&mut self.told, taken)).then_some(taken)
    }
}
