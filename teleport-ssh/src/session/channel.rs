//! The two ends of a session as a service sees them: input, output, events. Output is recorded on its way.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use teleport_core::recording::{NoRecorder, OutputStream, Recorder, SessionEnd};
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::share::{Audience, Sizes};
use super::{FileReporter, SessionRequest, TerminalSize};
use crate::engine::transport::{Account, Link, payload};

/// How many pieces of what others type may wait.
const TYPED_AT_ONCE: usize = 16;
/// SSH's number for standard error.
const STDERR: u32 = 1;

/// A session: what was asked for, and the streams.
#[derive(Debug)]
#[non_exhaustive]
pub struct SessionChannel {
    /// What to run, for whom.
    pub request: SessionRequest,
    /// What the client sends.
    pub input: SessionInput,
    /// What the client is shown.
    pub output: SessionOutput,
    /// Window changes, signals, and the end of the connection.
    pub events: SessionEvents,
    /// Where a session of the kind [`SessionKind::Sftp`](super::SessionKind::Sftp) tells what it does.
    pub files: FileReporter,
}

/// What the client sends as standard input. Dropping it throws away whatever else comes.
pub struct SessionInput {
    channel: ChannelReadHalf,
    account: Account,
    /// What others type.
    others: Option<mpsc::Receiver<Bytes>>,
    ended: bool,
}

impl SessionInput {
    pub(crate) fn new(channel: ChannelReadHalf, account: Account) -> Self {
        Self { channel, account, others: None, ended: false }
    }

    /// Lets others type as well, by the end that is returned.
    pub(crate) fn share(&mut self) -> mpsc::Sender<Bytes> {
        let (sender, receiver) = mpsc::channel(TYPED_AT_ONCE);
        self.others = Some(receiver);
        sender
    }

    /// The next piece; `None` once the client has ended its input or is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            let message = match &mut self.others {
                None => self.channel.wait().await,
                Some(others) => tokio::select! {
                    message = self.channel.wait() => message,
                    Some(typed) = others.recv() => return Some(typed),
                },
            };
            self.account.taken(message.as_ref().map_or(0, payload));
            match message {
                Some(ChannelMsg::Data { data }) if !data.is_empty() => return Some(data),
                None | Some(ChannelMsg::Eof | ChannelMsg::Close) => self.ended = true,
                // Requests, which are handled elsewhere.
                Some(_) => {}
            }
        }
        None
    }

    /// The same as a reader.
    pub fn into_reader(self) -> impl AsyncRead + Send + 'static {
        let stream = futures_util::stream::unfold(self, async |mut input| {
            let piece = input.next().await?;
            Some((Ok::<_, io::Error>(piece), input))
        });
        tokio_util::io::StreamReader::new(Box::pin(stream))
    }
}

impl Drop for SessionInput {
    fn drop(&mut self) {
        self.account.close();
    }
}

impl fmt::Debug for SessionInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInput").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// Output can no longer be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputClosed {
    /// The client is gone.
    #[error("the client is gone")]
    Client,
    /// The session must be recorded, and cannot be.
    #[error("the session can no longer be recorded")]
    Recording,
}

/// What the client is shown; recorded on its way. Clones write to the same session.
#[derive(Clone)]
pub struct SessionOutput(Arc<Output>);

struct Output {
    channel: ChannelWriteHalf<Msg>,
    link: Link,
    closed: CancellationToken,
    started: Instant,
    tap: Mutex<Tap>,
}

/// Where a copy of everything goes that is shown.
struct Tap {
    recorder: Box<dyn Recorder>,
    /// Of a session that others may join.
    audience: Option<Audience>,
}

impl Tap {
    fn show(&mut self, data: &Bytes) {
        if let Some(audience) = &mut self.audience {
            audience.show(data);
        }
    }
}

impl SessionOutput {
    pub(crate) fn new(
        channel: ChannelWriteHalf<Msg>,
        link: Link,
        closed: CancellationToken,
        recorder: Box<dyn Recorder>,
    ) -> Self {
        let tap = Mutex::new(Tap { recorder, audience: None });
        Self(Arc::new(Output { channel, link, closed, started: Instant::now(), tap }))
    }

    /// Lets others watch from now on.
    pub(crate) fn share(&self) {
        self.tap().audience.get_or_insert_default();
    }

    /// Does something with those who watch, between two pieces of output; `None` if nobody can.
    pub(super) fn with_audience<T>(&self, act: impl FnOnce(&mut Audience) -> T) -> Option<T> {
        self.tap().audience.as_mut().map(act)
    }

    fn tap(&self) -> MutexGuard<'_, Tap> {
        self.0.tap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows `data` as standard output, or on the terminal. Waits for the client's window.
    ///
    /// When it returns early by being dropped, a part may have been sent.
    ///
    /// # Errors
    /// [`OutputClosed`]: the session should end.
    pub async fn stdout(&self, data: impl Into<Bytes>) -> Result<(), OutputClosed> {
        self.write(OutputStream::Stdout, data.into()).await
    }

    /// Shows `data` as standard error. See [`SessionOutput::stdout`].
    ///
    /// # Errors
    /// [`OutputClosed`]: the session should end.
    pub async fn stderr(&self, data: impl Into<Bytes>) -> Result<(), OutputClosed> {
        self.write(OutputStream::Stderr, data.into()).await
    }

    async fn write(&self, stream: OutputStream, data: Bytes) -> Result<(), OutputClosed> {
        let output = &*self.0;
        // Recorded before it is shown: nothing is seen that is not in the recording.
        let (mut recorded, kept) = self.record(|tap, at| {
            tap.recorder.output(at, stream, &data);
            let kept = tap.recorder.kept();
            // With what is kept at once, or need not be.
            if kept.is_none() && !tap.recorder.failed() {
                tap.show(&data);
            }
            kept
        });
        if let Some(kept) = kept {
            recorded &= tokio::select! {
                biased;
                kept = kept => kept,
                () = output.closed.cancelled() => return Err(OutputClosed::Client),
            };
            if recorded {
                self.tap().show(&data);
            }
        }
        if !recorded {
            return Err(OutputClosed::Recording);
        }
        output.link.moves();
        let _waits = output.link.output_waits();
        let send = async {
            match stream {
                OutputStream::Stderr => output.channel.extended_data_bytes(STDERR, data).await,
                _ => output.channel.data_bytes(data).await,
            }
        };
        tokio::select! {
            biased;
            sent = send => sent.map_err(|_| OutputClosed::Client),
            () = output.closed.cancelled() => Err(OutputClosed::Client),
        }
    }

    /// Whether the session must be recorded, and is not any more.
    pub(crate) fn is_unrecorded(&self) -> bool {
        self.tap().recorder.failed()
    }

    /// Resolves when the session must be recorded, and cannot be any more. Cancel safe.
    pub(crate) async fn unrecorded(&self) {
        let failure = self.tap().recorder.failure();
        match failure {
            Some(failure) => failure.await,
            None => std::future::pending().await,
        }
    }

    /// Shows a word of the node itself, which is in no recording.
    pub(crate) async fn notice(&self, text: &'static str, terminal: bool) {
        let channel = &self.0.channel;
        // The client may be gone; then nobody hears it.
        let _ = match terminal {
            true => channel.data_bytes(text).await,
            false => channel.extended_data_bytes(STDERR, text).await,
        };
    }

    /// Whether everything is recorded that must be, and what `act` gives.
    fn record<T>(&self, act: impl FnOnce(&mut Tap, Duration) -> T) -> (bool, T) {
        let at = self.0.started.elapsed();
        let mut tap = self.tap();
        let result = act(&mut tap, at);
        (!tap.recorder.failed(), result)
    }

    pub(crate) fn resized(&self, size: TerminalSize) {
        let (columns, rows) = size.cells();
        self.record(|tap, at| tap.recorder.resize(at, columns, rows));
    }

    /// Ends the recording. It is delivered once what is returned is dropped.
    pub(crate) fn finish(&self, end: SessionEnd) -> Box<dyn Recorder> {
        let (_, recorder) = self.record(|tap, at| {
            tap.recorder.finish(at, end);
            std::mem::replace(&mut tap.recorder, Box::new(NoRecorder::new()))
        });
        recorder
    }

    pub(crate) fn channel(&self) -> &ChannelWriteHalf<Msg> {
        &self.0.channel
    }
}

impl fmt::Debug for SessionOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOutput").field("closed", &self.0.closed.is_cancelled()).finish_non_exhaustive()
    }
}

/// What happens to a session beside its streams.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The client is gone; the session should end.
    Closed,
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// The client sends a signal, named without `SIG`.
    Signal(String),
}

/// Where the connection puts a session's events.
#[derive(Debug)]
pub(crate) struct EventSender {
    sizes: Sizes,
    signals: mpsc::Sender<String>,
}

impl EventSender {
    /// Only the newest size counts.
    pub(crate) fn resize(&self, size: TerminalSize) {
        self.sizes.set_owner(size);
    }

    /// Says whether there was room for it.
    pub(crate) fn signal(&self, name: String) -> bool {
        self.signals.try_send(name).is_ok()
    }
}

/// The events of a session.
#[derive(Debug)]
pub struct SessionEvents {
    size: watch::Receiver<TerminalSize>,
    signals: mpsc::Receiver<String>,
    closed: CancellationToken,
    pub(super) output: Option<SessionOutput>,
}

impl SessionEvents {
    pub(crate) fn new(closed: CancellationToken, sizes: Sizes) -> (EventSender, Self) {
        let (signals, received) = mpsc::channel(16);
        let size = sizes.subscribe();
        (EventSender { sizes, signals }, Self { size, signals: received, closed, output: None })
    }

    /// New sizes go into this session's recording before anybody else hears of them.
    pub(crate) fn record_to(&mut self, output: &SessionOutput) {
        self.output = Some(output.clone());
    }

    /// Cancelled when the client has closed the channel, for whoever cannot ask for the next event all the time.
    pub(crate) fn closing(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// The next event; after [`SessionEvent::Closed`] nothing else comes. Cancel safe.
    pub async fn next(&mut self) -> SessionEvent {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => SessionEvent::Closed,
            Some(name) = self.signals.recv() => SessionEvent::Signal(name),
            Ok(()) = self.size.changed() => {
                let size = *self.size.borrow_and_update();
                if let Some(output) = &self.output {
                    output.resized(size);
                }
                SessionEvent::Resize(size)
            }
            // The connection has let go of both senders: it is over.
            else => SessionEvent::Closed,
        }
    }
}
