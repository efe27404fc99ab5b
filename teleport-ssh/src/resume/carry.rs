//! Carries the bytes of a lane over one wire, until it breaks or nothing is left to be carried.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::lane::Lane;
use super::machine::Next;
use super::pulse::{Beat, Pulse, Side};
use super::wire::{Decoder, Violation};

/// How much is read at once, at most, and as long as little comes.
const READ_SIZE: usize = 128 << 10;
const SMALL_READ: usize = 4 << 10;
/// How long the other side may go on after this one has said its last.
const LINGER: Duration = Duration::from_secs(1);

/// How the carrying ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The stream itself has ended.
    Closed,
    /// The wire broke.
    Lost(io::Error),
    /// The other side is not what it should be.
    Violated(Violation),
}

/// Carries until the wire or the stream ends. `early` was read from the wire before. Dropping the future lets go of the wire; the
/// stream can be carried on by another one after [`Machine::resume`](super::machine::Machine::resume).
pub(super) async fn carry<S>(lane: &Lane, wire: &mut S, early: BytesMut, side: Side) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (reader, writer) = tokio::io::split(wire);
    let pulse = Heart(Mutex::new(Pulse::new(side, Instant::now())));
    let read = read(lane, reader, early, &pulse);
    let write = write(lane, writer, &pulse);
    tokio::pin!(read);
    let ended = tokio::select! {
        ended = &mut read => ended,
        ended = write => ended,
        ended = watch(lane, &pulse) => ended,
    };
    match ended {
        Ended::Closed => {
            // A socket that is closed while something comes takes back what it sent last. Clients send nothing that is missed.
            if side == Side::Node {
                let _ = tokio::time::timeout(LINGER, &mut read).await;
            }
            Ended::Closed
        }
        Ended::Lost(_) if lane.lock().machine.is_over() => Ended::Closed,
        ended => ended,
    }
}

struct Heart(Mutex<Pulse>);

impl Heart {
    fn with<T>(&self, act: impl FnOnce(&mut Pulse, Instant) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }
}

async fn read<S: AsyncRead>(lane: &Lane, mut wire: ReadHalf<S>, mut read: BytesMut, pulse: &Heart) -> Ended {
    let mut decoder = Decoder::default();
    let mut size = SMALL_READ;
    loop {
        {
            let mut state = lane.lock();
            let received = state.machine.receive(&mut decoder, &mut read);
            state.wake();
            if state.machine.owes() || state.machine.has_ended() {
                lane.work.notify_one();
            }
            if let Err(violation) = received {
                return Ended::Violated(violation);
            }
        }
        if read.is_empty() && size == SMALL_READ {
            // What was needed for much is not kept for little.
            read = BytesMut::new();
        }
        read.reserve(size);
        match wire.read_buf(&mut read).await {
            Ok(0) => return Ended::Lost(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => size = if len >= SMALL_READ { READ_SIZE } else { SMALL_READ },
            Err(error) => return Ended::Lost(error),
        }
        pulse.with(Pulse::heard);
    }
}

async fn write<S: AsyncWrite>(lane: &Lane, mut wire: WriteHalf<S>, pulse: &Heart) -> Ended {
    let mut said_all = false;
    loop {
        loop {
            let next = lane.lock().machine.next();
            let frame = match next {
                None => break,
                Some(Next::Control(frame)) => frame,
                Some(Next::Data(frame)) => {
                    pulse.with(Pulse::said);
                    frame
                }
                Some(Next::Close(frame)) => {
                    said_all = true;
                    frame
                }
            };
            if let Err(error) = wire.write_all(&frame).await {
                return Ended::Lost(error);
            }
        }
        if let Err(error) = wire.flush().await {
            return Ended::Lost(error);
        }
        if said_all && lane.needs_nothing() {
            // Whether it is heard makes no difference now.
            let _ = wire.shutdown().await;
            return Ended::Closed;
        }
        lane.work.notified().await;
    }
}

/// Ends when nobody is at the other end any more.
async fn watch(lane: &Lane, pulse: &Heart) -> Ended {
    loop {
        match pulse.with(Pulse::beat) {
            Beat::Dead => return Ended::Lost(io::Error::new(io::ErrorKind::TimedOut, "no sign of life")),
            Beat::Ping => {
                lane.lock().machine.ping();
                lane.work.notify_one();
            }
            Beat::Wait(until) => tokio::time::sleep_until(until).await,
        }
    }
}
