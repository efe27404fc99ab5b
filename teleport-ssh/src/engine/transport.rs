//! The stream under an SSH connection: it can be cut from outside, finds dead peers, and stops reading when too much of what
//! was read waits to be taken.
//!
//! The SSH library grants a channel new window as soon as data arrives, not when somebody has taken it. If it hands the data
//! over through a bounded queue, one slow reader stops the whole connection, and with it the output that the slow reader may
//! be waiting to get rid of: `ssh host cat <big >out` would hang. So the queues here have no bound of their own; what they
//! hold is counted ([`Account`]), and above a limit the connection stops *reading the socket*, which lets TCP slow the
//! client down. As long as some output waits for window, reading goes on up to a harder limit, because the window
//! adjustment stands in line behind the data.
//!
//! What is bounded is what *waits*, that is memory: per connection 2 MiB, or 32 MiB while output waits, and one packet more. How
//! much comes and is taken is not bounded. A session that waits for input takes the requests on its channel, too, and throws
//! them away (the connection has handled them), so a flood of requests runs as fast as the network for as long as nothing waits.
//! On a channel on which nothing runs nobody takes anything: there the node cuts the connection at 1 MiB.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use russh::{ChannelMsg, Sig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::DEAD_AFTER;

/// Waiting input above which reading stops while no output waits.
const SOFT_LIMIT: isize = 2 << 20;
/// Waiting input above which reading stops in any case. More than what two sockets' buffers hold on the way.
const HARD_LIMIT: isize = 32 << 20;
/// What a waiting message costs beside its data.
const MESSAGE_COST: isize = 128;

/// A handle to a [`Transport`] and to what waits above it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link(Arc<State>);

#[derive(Debug)]
struct State {
    closed: AtomicBool,
    born: Instant,
    /// When something last moved on a channel: milliseconds since `born`.
    moved: AtomicU64,
    /// Bytes that were read and not taken.
    waiting: AtomicIsize,
    /// How many channels there are.
    accounts: AtomicUsize,
    /// How many writers wait for window or for their turn.
    writers: AtomicUsize,
    /// Of the task that runs the connection.
    waker: AtomicWaker,
}

impl Default for State {
    fn default() -> Self {
        Self {
            closed: AtomicBool::default(),
            born: Instant::now(),
            moved: AtomicU64::default(),
            waiting: AtomicIsize::default(),
            accounts: AtomicUsize::default(),
            writers: AtomicUsize::default(),
            waker: AtomicWaker::default(),
        }
    }
}

impl Link {
    /// For a new connection.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Cuts the connection: every read and write fails from now on.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.waker.wake();
    }

    /// Something moved: input or requests came on a channel, or output went. What the SSH library asks and answers by itself to
    /// learn whether the other side lives is no sign of anybody.
    pub(crate) fn moves(&self) {
        self.0.moved.fetch_max(self.millis(), Ordering::Relaxed);
    }

    /// For how long nothing has moved.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.millis().saturating_sub(self.0.moved.load(Ordering::Relaxed)))
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// An account for a new channel.
    pub(crate) fn account(&self) -> Account {
        self.0.accounts.fetch_add(1, Ordering::SeqCst);
        Account(Arc::new(Channel {
            link: self.clone(),
            waiting: AtomicIsize::new(0),
            closed: AtomicBool::new(false),
        }))
    }

    /// Says, until the guard is dropped, that output waits.
    pub(crate) fn output_waits(&self) -> OutputWaits<'_> {
        if self.0.writers.fetch_add(1, Ordering::SeqCst) == 0
            && self.0.waiting.load(Ordering::SeqCst) > SOFT_LIMIT
        {
            self.0.waker.wake();
        }
        OutputWaits(self)
    }

    fn add(&self, bytes: isize) {
        let before = self.0.waiting.fetch_add(bytes, Ordering::SeqCst);
        if bytes < 0 && before > SOFT_LIMIT {
            self.0.waker.wake();
        }
    }

    fn must_wait(&self) -> bool {
        let waiting = self.0.waiting.load(Ordering::SeqCst);
        waiting > HARD_LIMIT || (waiting > SOFT_LIMIT && self.0.writers.load(Ordering::SeqCst) == 0)
    }

    /// Whether nothing is read because too much waits, of which this much at least is of one channel, and others wait for it to be
    /// taken.
    pub(crate) fn is_held_up_by(&self, account: &Account, share: usize) -> bool {
        let own = usize::try_from(account.0.waiting.load(Ordering::SeqCst)).unwrap_or_default();
        self.must_wait() && own >= share && self.0.accounts.load(Ordering::SeqCst) > 1
    }

    fn check(&self) -> io::Result<()> {
        if self.0.closed.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut"));
        }
        Ok(())
    }
}

/// Cuts the connection when it is dropped. The SSH library runs each in a task that nobody owns, and which ends when its stream does.
#[derive(Debug)]
pub(crate) struct CutOnDrop(pub(crate) Link);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Output waits as long as this lives.
#[derive(Debug)]
pub(crate) struct OutputWaits<'a>(&'a Link);

impl Drop for OutputWaits<'_> {
    fn drop(&mut self) {
        self.0.0.writers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts what of one channel's input was read and not taken.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<Channel>);

#[derive(Debug)]
struct Channel {
    link: Link,
    /// Below zero for a moment when a message is taken before its arrival is counted.
    waiting: AtomicIsize,
    closed: AtomicBool,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.link.0.accounts.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Account {
    /// A message with so many bytes of [`payload`] was put in the channel's queue. Returns how much waits in it now, in bytes.
    pub(crate) fn arrived(&self, data: usize) -> usize {
        self.0.link.moves();
        if self.0.closed.load(Ordering::SeqCst) {
            return 0;
        }
        let waiting = self.change(cost(data));
        if self.0.closed.load(Ordering::SeqCst) {
            self.settle();
        }
        usize::try_from(waiting).unwrap_or_default()
    }

    /// A message with so many bytes of [`payload`] was taken out of the queue.
    pub(crate) fn taken(&self, data: usize) {
        // What arrives after the end is not counted, so that it must not be given back: that would be credit for all other channels.
        if self.0.closed.load(Ordering::SeqCst) {
            return;
        }
        self.change(-cost(data));
        if self.0.closed.load(Ordering::SeqCst) {
            self.settle();
        }
    }

    /// Nobody takes anything any more; what arrives is thrown away.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.settle();
    }

    fn change(&self, by: isize) -> isize {
        let before = self.0.waiting.fetch_add(by, Ordering::SeqCst);
        self.0.link.add(by);
        before.saturating_add(by)
    }

    fn settle(&self) {
        let rest = self.0.waiting.swap(0, Ordering::SeqCst);
        self.0.link.add(-rest);
    }
}

/// The bytes of a message that its sender chose the number of: its data, or the texts of a request. Requests, too, wait in the
/// channel's queue, each as long as a packet may be.
pub(crate) fn payload(message: &ChannelMsg) -> usize {
    match message {
        ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => data.len(),
        ChannelMsg::Exec { command, .. } => command.len(),
        ChannelMsg::RequestPty { term, terminal_modes, .. } => pty_payload(term, terminal_modes.len()),
        ChannelMsg::RequestSubsystem { name, .. } => name.len(),
        ChannelMsg::RequestX11 { x11_authentication_protocol, x11_authentication_cookie, .. } => {
            x11_authentication_protocol.len().saturating_add(x11_authentication_cookie.len())
        }
        ChannelMsg::SetEnv { variable_name, variable_value, .. } => {
            variable_name.len().saturating_add(variable_value.len())
        }
        ChannelMsg::Signal { signal } => signal_payload(signal),
        _ => 0,
    }
}

/// [`payload`] of a request for a terminal.
pub(crate) fn pty_payload(term: &str, modes: usize) -> usize {
    term.len().saturating_add(modes.saturating_mul(8))
}

/// [`payload`] of a signal.
pub(crate) fn signal_payload(signal: &Sig) -> usize {
    match signal {
        Sig::Custom(name) => name.len(),
        _ => 0,
    }
}

fn cost(data: usize) -> isize {
    isize::try_from(data).unwrap_or(isize::MAX / 4).saturating_add(MESSAGE_COST)
}

/// A stream that obeys its [`Link`]. Gives up after [`DEAD_AFTER`] without a sign of life; the SSH library asks for one
/// three times before.
#[derive(Debug)]
pub(crate) struct Transport<S> {
    stream: S,
    link: Link,
    last: Instant,
    /// When to look whether the peer is dead, if that is found out here.
    check: Option<Pin<Box<Sleep>>>,
    paused: bool,
    blocked: bool,
}

impl<S> Transport<S> {
    /// Puts `stream` under the control of `link`.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub(crate) fn new(stream: S, link: Link) -> Self {
        let check = Some(Box::pin(tokio::time::sleep(DEAD_AFTER)));
        Self { stream, link, last: Instant::now(), check, paused: false, blocked: false }
    }

    /// The same, over a stream that finds dead peers by itself.
    pub(crate) fn over_lively(stream: S, link: Link) -> Self {
        Self { stream, link, last: Instant::now(), check: None, paused: false, blocked: false }
    }

    /// What controls it.
    pub(crate) const fn link(&self) -> &Link {
        &self.link
    }

    fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(check) = &mut self.check else { return Poll::Pending };
        loop {
            ready!(check.as_mut().poll(cx));
            let deadline = self.last + DEAD_AFTER;
            if Instant::now() >= deadline {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "no sign of life"));
            }
            check.as_mut().reset(deadline);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Transport<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.link.0.waker.register(cx.waker());
        this.link.check()?;
        if this.link.must_wait() {
            this.paused = true;
            return Poll::Pending;
        }
        if std::mem::take(&mut this.paused) {
            // Silence while nobody listened is no sign of death.
            this.last = Instant::now();
        }
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                this.last = Instant::now();
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_dead(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> Transport<S> {
    fn poll_writing<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.link.0.waker.register(cx.waker());
        self.link.check()?;
        match write(Pin::new(&mut self.stream), cx) {
            Poll::Ready(result) => {
                if std::mem::take(&mut self.blocked) {
                    // The peer took data, so it lives. That the system's buffer takes data says nothing.
                    self.last = Instant::now();
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.blocked = true;
                self.poll_dead(cx).map(Err)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_writing(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_writing(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_writing(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests;
