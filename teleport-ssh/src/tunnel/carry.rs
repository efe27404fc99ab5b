//! Two streams made one, byte for byte, without a copy of what passes.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use super::stream::{PIECE, TunnelStream, failure};

/// Carries what comes on each of the two to the other, until both have said everything or one is gone. What one side has not taken is not
/// acknowledged to the other, so a reader that stops stops its writer. Dropping the future breaks both off.
pub(super) async fn join(mut one: TunnelStream, mut other: TunnelStream) -> io::Result<()> {
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|context| {
        // One that is gone is noticed also while nothing is read of it, because the other takes nothing; and before something is sent to it, because
        // what it has said last is to arrive.
        back.poll_closed(&mut one.outgoing, context)?;
        there.poll_closed(&mut other.outgoing, context)?;
        let ended = there.poll(&mut one.incoming, &mut other.outgoing, context)?.is_ready();
        let returned = back.poll(&mut other.incoming, &mut one.outgoing, context)?.is_ready();
        if ended && returned { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// What came and was not sent on yet.
    waiting: Bytes,
    ended: bool,
    done: bool,
    closed: bool,
}

impl Way {
    fn poll(
        &mut self,
        from: &mut RecvStream,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            if self.waiting.is_empty() && !self.ended {
                match ready!(from.poll_data(context)) {
                    Some(Ok(data)) => self.waiting = data,
                    Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => self.ended = true,
                    Some(Err(error)) => return Poll::Ready(Err(failure(error))),
                    None => self.ended = true,
                }
            }
            if self.waiting.is_empty() {
                if self.ended {
                    to.send_data(Bytes::new(), true).map_err(failure)?;
                    self.done = true;
                }
                continue;
            }
            to.reserve_capacity(self.waiting.len().min(PIECE));
            let mut room = to.capacity();
            while room == 0 {
                room = match ready!(to.poll_capacity(context)) {
                    Some(room) => room.map_err(failure)?,
                    None => return Poll::Ready(self.end_of(to, context)),
                };
            }
            let piece = self.waiting.split_to(self.waiting.len().min(room));
            let length = piece.len();
            to.send_data(piece, false).map_err(failure)?;
            // Fails only when the stream is over, which is seen at its end.
            let _ = from.flow_control().release_capacity(length);
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing more is taken: it is over, if that was said without an error.
    fn end_of(&mut self, to: &mut SendStream<Bytes>, context: &mut Context<'_>) -> io::Result<()> {
        if self.poll_closed(to, context)? { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    /// Whether whoever this leads to takes nothing more. One that has said everything may say so without an error; then the other
    /// direction goes on.
    fn poll_closed(&mut self, to: &mut SendStream<Bytes>, context: &mut Context<'_>) -> io::Result<bool> {
        if self.closed {
            return Ok(true);
        }
        match to.poll_reset(context) {
            Poll::Pending => {}
            Poll::Ready(Ok(Reason::NO_ERROR)) => (self.closed, self.done) = (true, true),
            Poll::Ready(Ok(reason)) => {
                return Err(io::Error::new(
                    io::ErrorKind::BrokenPipe,
                    format!("the stream broke off: {reason}"),
                ));
            }
            Poll::Ready(Err(error)) => return Err(failure(error)),
        }
        Ok(self.closed)
    }
}
