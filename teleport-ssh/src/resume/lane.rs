//! The stream that the SSH library has, and whoever carries its bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};

use super::machine::Machine;

/// Shared by the stream and by whoever carries its bytes.
#[derive(Debug)]
pub(crate) struct Lane {
    state: Mutex<State>,
    /// There is something to be carried, or nothing more.
    pub(super) work: Notify,
    finished: watch::Sender<bool>,
    kept: AtomicBool,
    /// It has lost its wire, and waits for another one.
    interrupted: AtomicBool,
    /// Nobody reads any more.
    abandoned: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) machine: Machine,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Nobody carries anything any more.
    finished: bool,
    /// Why the stream is no more.
    failed: Option<(io::ErrorKind, Arc<str>)>,
}

impl State {
    /// Wakes whoever waits for what there is now.
    pub(super) fn wake(&mut self) {
        let ended = self.failed.is_some() || self.machine.has_ended();
        if ended || self.machine.is_readable() {
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        if ended || self.machine.has_room() {
            self.writer.take().into_iter().for_each(Waker::wake);
        }
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, why)) => Err(io::Error::new(*kind, why.to_string())),
            None => Ok(()),
        }
    }
}

impl Lane {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Notify::new(),
            finished: watch::Sender::new(false),
            kept: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        })
    }

    /// From now on the stream survives the loss of its wire.
    pub(super) fn keep(&self) {
        self.kept.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::SeqCst)
    }

    /// Says whether a wire is missed.
    pub(super) fn interrupt(&self, interrupted: bool) {
        self.interrupted.store(interrupted, Ordering::SeqCst);
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the stream for its user, who reads what has come before.
    pub(super) fn fail(&self, kind: io::ErrorKind, why: &str) {
        let mut state = self.lock();
        state.failed.get_or_insert_with(|| (kind, why.into()));
        state.wake();
    }

    /// Why the stream failed, if it did.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.lock().failed.as_ref().map(|(_, why)| Arc::clone(why))
    }

    /// Ends what this side says; what was said before is still carried, if there is a wire.
    pub(crate) fn close(&self) {
        self.lock().machine.close();
        self.work.notify_one();
    }

    /// Ends the stream: nobody reads what still comes.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.close();
    }

    /// Whether nobody misses what may still come.
    pub(super) fn needs_nothing(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst) || self.lock().machine.has_ended()
    }

    /// Nothing is carried any more: whoever reads has come to the end.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.finished = true;
        state.machine.end();
        state.wake();
        drop(state);
        self.finished.send_replace(true);
    }

    /// Whether nothing is carried any more.
    pub(super) fn is_finished(&self) -> bool {
        *self.finished.borrow()
    }

    /// Waits until all that was said has been carried, or cannot be; not for long. Cancel safe.
    pub(crate) async fn finished(&self, limit: Duration) {
        let mut finished = self.finished.subscribe();
        // The sender lives in `self`.
        let _ = tokio::time::timeout(limit, finished.wait_for(|finished| *finished)).await;
    }
}

/// A stream of bytes that outlives the connections that carry it. Ends the stream when it is dropped.
pub(crate) struct ResumeStream(Arc<Lane>);

impl ResumeStream {
    pub(super) const fn new(lane: Arc<Lane>) -> Self {
        Self(lane)
    }
}

impl fmt::Debug for ResumeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeStream").finish_non_exhaustive()
    }
}

impl Drop for ResumeStream {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl AsyncRead for ResumeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.machine.is_readable() {
            state.machine.read(out);
            if state.machine.ack_is_due() {
                self.0.work.notify_one();
            }
            return Poll::Ready(Ok(()));
        }
        state.check()?;
        if state.machine.has_ended() {
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for ResumeStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        state.check()?;
        if state.finished || state.machine.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = state.machine.write(data);
        if taken == 0 && !data.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.0.work.notify_one();
        Poll::Ready(Ok(taken))
    }

    /// Nothing waits here: what was taken is carried by somebody else.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.close();
        Poll::Ready(Ok(()))
    }
}
