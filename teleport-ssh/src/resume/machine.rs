//! One side of a stream that outlives its wires: no I/O, no clock.

use bytes::{Bytes, BytesMut};
use tokio::io::ReadBuf;

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::wire::{Control, Decoder, Frame, Violation};

/// The stream as one side has it.
#[derive(Debug, Default)]
pub(super) struct Machine {
    out: Outgoing,
    inc: Incoming,
    owed: Owed,
}

/// What is to be said between the data, on the present wire.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    ping: bool,
    pong: bool,
    /// Whether the end was said.
    closed: bool,
}

/// What goes to the wire next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The last of all.
    Close(Bytes),
    Control(Bytes),
    Data(Bytes),
}

impl Machine {
    /// Takes as much as there is room for; says how much.
    pub(super) fn write(&mut self, data: &[u8]) -> usize {
        self.out.write(data)
    }

    /// Takes what has come. Whether it is the end says [`has_ended`](Self::has_ended).
    pub(super) fn read(&mut self, out: &mut ReadBuf<'_>) {
        self.inc.read(out);
    }

    /// Whether there is something to be read.
    pub(super) fn is_readable(&self) -> bool {
        !self.inc.is_empty()
    }

    /// Whether the other side has ended the stream; what came before may still wait.
    pub(super) const fn has_ended(&self) -> bool {
        self.inc.is_closed()
    }

    /// Whether there is room to write.
    pub(super) const fn has_room(&self) -> bool {
        self.out.has_room()
    }

    /// Nothing more is written.
    pub(super) const fn close(&mut self) {
        self.out.close();
    }

    /// Whether this side has ended the stream.
    pub(super) const fn is_closed(&self) -> bool {
        self.out.is_closed()
    }

    /// Nothing more comes.
    pub(super) const fn end(&mut self) {
        self.inc.end();
    }

    /// Whether a wire that breaks is not missed: one side is done.
    pub(super) const fn is_over(&self) -> bool {
        self.inc.is_closed() || self.out.is_closed()
    }

    /// Whether the other side should hear of what was taken.
    pub(super) fn ack_is_due(&self) -> bool {
        self.inc.ack_is_due()
    }

    /// Asks for a sign of life.
    pub(super) const fn ping(&mut self) {
        self.owed.ping = true;
    }

    /// How much has come: what the other side needs to know to go on.
    pub(super) const fn received(&self) -> u64 {
        self.inc.received()
    }

    /// Whether the other side can go on if it has so much.
    pub(super) const fn can_resume(&self, position: u64) -> bool {
        self.out.can_resume(position)
    }

    /// Goes on on a new wire: this side was told that the other has `theirs`, which was told that this one has `ours`.
    pub(super) fn resume(&mut self, theirs: u64, ours: u64) -> Result<(), Violation> {
        self.out.resume(theirs)?;
        self.inc.resume(ours);
        self.owed = Owed::default();
        Ok(())
    }

    /// What goes to the wire next.
    pub(super) fn next(&mut self) -> Option<Next> {
        let mut control = BytesMut::new();
        let alive = self.owed.ping || self.owed.pong;
        if (alive || self.inc.ack_is_due())
            && let Some(taken) = self.inc.ack()
        {
            Control::Ack(taken).write(&mut control);
        }
        if std::mem::take(&mut self.owed.ping) {
            Control::Ping.write(&mut control);
        }
        if std::mem::take(&mut self.owed.pong) {
            Control::Pong.write(&mut control);
        }
        if !control.is_empty() {
            return Some(Next::Control(control.freeze()));
        }
        if let Some(frame) = self.out.next() {
            return Some(Next::Data(frame));
        }
        if self.out.is_closed() && !std::mem::replace(&mut self.owed.closed, true) {
            Control::Close.write(&mut control);
            return Some(Next::Close(control.freeze()));
        }
        None
    }

    /// Takes what was read from the present wire, whose decoder this is.
    pub(super) fn receive(&mut self, decoder: &mut Decoder, read: &mut BytesMut) -> Result<(), Violation> {
        while let Some(frame) = decoder.next(read)? {
            match frame {
                Frame::Control(Control::Ack(position)) => self.out.ack(position)?,
                Frame::Control(Control::Close) => self.inc.close()?,
                Frame::Control(Control::Ping) => self.owed.pong = true,
                Frame::Control(Control::Pong) => {}
                Frame::Data(piece) => self.inc.data(&piece)?,
            }
        }
        Ok(())
    }

    /// Whether something is to be said beside data.
    pub(super) fn owes(&self) -> bool {
        self.owed.ping || self.owed.pong
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.out.kept()
    }
}
