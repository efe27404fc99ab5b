//! The client's side: begins a lane if the node offers it, and finds a new wire when one breaks.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use teleport_core::entropy::{Entropy, EntropyError, EntropyExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::ANSWER_LIMIT;
use super::carry::{Ended, carry};
use super::keys::{Half, Keys, Said};
use super::lane::{Lane, ResumeStream};
use super::pulse::Side;
use super::wire::{Accepted, Again, Challenge, Hello, MARK, YES};

/// What may stand before a server's identification, with it, in bytes.
const MAX_IDENTIFICATION: usize = 8 << 10;
/// The pause before the first attempt, at most; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How often in a row who answers may say no. A proxy that has just begun says so until it knows the nodes.
const MAX_REFUSALS: u32 = 8;
/// How long the user is told nothing.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// What happens to a connection, for its user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// It was lost for some seconds, and is being resumed.
    Lost {
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// It goes on.
    Resumed {
        /// The node.
        node: String,
    },
}

/// Hears what happens.
pub(crate) type Observer = Arc<dyn Fn(Notice) + Send + Sync>;

/// Why there is no new wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Undialled {
    /// There will be none.
    Never(String),
    /// Somebody says no, who may think otherwise soon.
    Refused(String),
    /// Nobody was reached.
    Unreachable(String),
}

/// Finds ways to a node.
#[async_trait]
pub(crate) trait Redial: Send + Sync + 'static {
    /// What leads there.
    type Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// A new way to the same node, whose identification is the first that comes. Ends by itself. Dropping the future leaves nothing
    /// behind.
    async fn dial(&self) -> Result<Self::Wire, Undialled>;

    /// Ends a wire over which all was said.
    async fn goodbye(&self, wire: Self::Wire);
}

/// Reads a server's identification with all that came before and behind it. Says whether the node offers to resume, and where the
/// identification ends. At the end of the stream it is what came.
///
/// # Errors
/// Those of the stream.
pub(crate) async fn identification(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(BytesMut, Option<usize>)> {
    let mut read = BytesMut::with_capacity(256);
    let mut line = 0;
    loop {
        while let Some(len) = read.get(line..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            let end = line + len + 1;
            let text = read.get(line..end).unwrap_or_default();
            if text.starts_with(b"SSH-") {
                let offers = text
                    .trim_ascii_end()
                    .split(|byte| *byte == b' ')
                    .skip(1)
                    .any(|word| word == MARK.as_bytes());
                return Ok((read, offers.then_some(end)));
            }
            line = end;
        }
        if read.len() >= MAX_IDENTIFICATION || stream.read_buf(&mut read).await? == 0 {
            return Ok((read, None));
        }
    }
}

/// A connection to a node that can be resumed.
#[derive(Clone)]
pub(crate) struct ClientLane(Arc<Lane>);

impl fmt::Debug for ClientLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLane").finish_non_exhaustive()
    }
}

impl ClientLane {
    /// Begins a lane on a wire to a node that offers it and whose identification was read, with what came behind it. The future carries
    /// the bytes and must be run; dropping it lets go of everything.
    ///
    /// # Errors
    /// Without randomness.
    pub(crate) fn begin<R: Redial>(
        wire: R::Wire,
        early: BytesMut,
        redial: R,
        node: String,
        observer: Option<Observer>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Self, ResumeStream, impl Future<Output = ()> + Send + 'static), EntropyError> {
        let half = Half::new(&*entropy)?;
        let hello = Hello::New { key: half.public() }.to_bytes();
        let lane = Lane::new();
        let driver = Driver { lane: Arc::clone(&lane), redial, node, observer, entropy };
        let stream = ResumeStream::new(Arc::clone(&lane));
        Ok((Self(lane), stream, driver.run(wire, hello, half, early)))
    }

    /// From now on the connection is resumed when it breaks.
    pub(crate) fn keep(&self) {
        self.0.keep();
    }

    /// Why it broke for good, if it did.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.0.failure()
    }

    /// Whether it has lost its wire, and waits for another one.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.0.is_interrupted()
    }

    /// Whether it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits until whoever uses the stream has said its last, ends it if that takes longer than `limit`, and tells the node.
    /// Cancel safe.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.0.finished(limit).await;
        self.0.abandon();
        self.0.finished(limit).await;
    }
}

struct Driver<R> {
    lane: Arc<Lane>,
    redial: R,
    node: String,
    observer: Option<Observer>,
    entropy: Arc<dyn Entropy>,
}

/// Why an attempt to go on failed.
enum Failed {
    /// It must not be tried again.
    ForGood(String),
    Refused(String),
    Otherwise(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Otherwise(error.to_string())
    }
}

impl<R: Redial> Driver<R> {
    async fn run(self, wire: R::Wire, hello: Vec<u8>, half: Half, early: BytesMut) {
        self.drive(wire, hello, half, early).await;
        self.lane.finish();
    }

    async fn drive(&self, mut wire: R::Wire, hello: Vec<u8>, half: Half, early: BytesMut) {
        if let Err(error) = wire.write_all(&hello).await {
            return self.lane.fail(error.kind(), &error.to_string());
        }
        let answer = Arc::new(Mutex::new(Vec::with_capacity(Accepted::LEN)));
        let mut headed = Headed { wire, read: early, answer: Arc::clone(&answer) };
        let ended = carry(&self.lane, &mut headed, BytesMut::new(), Side::Client).await;
        let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).split_off(0);
        let accepted = answer.first_chunk().and_then(Accepted::read);
        let keys = accepted.and_then(|Accepted { key, id, keeps }| Some((half.of_client(key, id)?, keeps)));
        let Some(mut why) = self.over(headed.wire, ended).await else { return };
        let Some((keys, keeps)) = keys else { return self.fail(&why) };
        let patience = Duration::from_secs(keeps.into());
        loop {
            if !self.lane.is_kept() {
                return self.fail(&why);
            }
            let Some((mut wire, early)) = self.again(&keys, &why, patience).await else { return };
            let ended = carry(&self.lane, &mut wire, early, Side::Client).await;
            match self.over(wire, ended).await {
                Some(next) => why = next,
                None => return,
            }
        }
    }

    fn fail(&self, why: &str) {
        self.lane.fail(io::ErrorKind::ConnectionAborted, why);
    }

    /// Why a wire is missed, if it is.
    async fn over(&self, wire: R::Wire, ended: Ended) -> Option<String> {
        match ended {
            Ended::Closed => {
                self.redial.goodbye(wire).await;
                None
            }
            Ended::Lost(why) => Some(why.to_string()),
            Ended::Violated(violation) => {
                self.fail(&format!("the node does not follow the protocol: {violation}"));
                None
            }
        }
    }

    /// Finds a new wire. `None` if there is none, or nobody wants it any more.
    async fn again(&self, keys: &Keys, why: &str, patience: Duration) -> Option<(R::Wire, BytesMut)> {
        let lost = Instant::now();
        let last = Mutex::new(why.to_owned());
        let said = || last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let trying = tokio::time::timeout_at(lost + patience, self.try_again(keys, &last));
        let tell = tokio::time::sleep_until(lost + TELL_AFTER);
        tokio::pin!(trying, tell);
        let mut told = false;
        self.lane.interrupt(true);
        tracing::debug!(node = self.node, why, "the connection was lost");
        let found = loop {
            if self.lane.lock().machine.is_closed() {
                return None;
            }
            tokio::select! {
                found = &mut trying => break found,
                () = &mut tell, if !told => {
                    told = true;
                    self.tell(Notice::Lost { node: self.node.clone(), why: said() });
                }
                () = self.lane.work.notified() => {}
            }
        };
        match found {
            Ok(Ok(wire)) => {
                self.lane.interrupt(false);
                tracing::debug!(node = self.node, after = ?lost.elapsed(), "the connection goes on");
                if told {
                    self.tell(Notice::Resumed { node: self.node.clone() });
                }
                // What waited for a wire may have woken this.
                self.lane.work.notify_one();
                Some(wire)
            }
            Ok(Err(why)) => {
                self.fail(&why);
                None
            }
            Err(_) => {
                self.fail(&format!("{} (for {} s)", said(), patience.as_secs()));
                None
            }
        }
    }

    fn tell(&self, notice: Notice) {
        if let Some(observer) = &self.observer {
            observer(notice);
        }
    }

    async fn try_again(&self, keys: &Keys, last: &Mutex<String>) -> Result<(R::Wire, BytesMut), String> {
        let (mut pause, mut refusals) = (FIRST_PAUSE, 0);
        loop {
            // Between half and all of it: those who were cut together do not come back together.
            let dice = self.entropy.bytes().map_or(0, u16::from_be_bytes);
            tokio::time::sleep(pause / 2 + pause / 2 / u32::from(u16::MAX) * u32::from(dice)).await;
            pause = (pause * 2).min(MAX_PAUSE);
            let why = match self.attempt(keys).await {
                Ok(wire) => return Ok(wire),
                Err(Failed::ForGood(why)) => return Err(why),
                Err(Failed::Refused(why)) => {
                    refusals += 1;
                    if refusals >= MAX_REFUSALS {
                        return Err(why);
                    }
                    why
                }
                Err(Failed::Otherwise(why)) => {
                    refusals = 0;
                    why
                }
            };
            tracing::debug!(node = self.node, why, "the connection cannot be resumed yet");
            *last.lock().unwrap_or_else(PoisonError::into_inner) = why;
        }
    }

    async fn attempt(&self, keys: &Keys) -> Result<(R::Wire, BytesMut), Failed> {
        let mut wire = self.redial.dial().await.map_err(|undialled| match undialled {
            Undialled::Never(why) => Failed::ForGood(why),
            Undialled::Refused(why) => Failed::Refused(why),
            Undialled::Unreachable(why) => Failed::Otherwise(why),
        })?;
        let late = |_| Failed::Otherwise("the node does not answer in time".to_owned());
        let early = tokio::time::timeout(ANSWER_LIMIT, self.agree(&mut wire, keys)).await.map_err(late)??;
        Ok((wire, early))
    }

    /// Proves to each other that it is the same connection, and goes on with it.
    async fn agree(&self, wire: &mut R::Wire, keys: &Keys) -> Result<BytesMut, Failed> {
        let gone = || Failed::ForGood("the node does not have this connection any more".to_owned());
        let (mut read, end) = identification(wire).await?;
        let Some(end) = end else {
            return Err(match read.starts_with(b"SSH-") {
                true => Failed::ForGood("the node does not resume connections any more".to_owned()),
                false => Failed::Otherwise("the node did not answer".to_owned()),
            });
        };
        bytes::Buf::advance(&mut read, end);
        let nonce = self.entropy.bytes().map_err(|error| Failed::Otherwise(error.to_string()))?;
        let received = self.lane.lock().machine.received();
        wire.write_all(&Hello::Again(Again { id: keys.id(), nonce, received }).to_bytes()).await?;
        wire.flush().await?;
        if take::<1>(wire, &mut read).await? != [YES] {
            return Err(gone());
        }
        let Some(challenge) = Challenge::read(&take(wire, &mut read).await?) else { return Err(gone()) };
        let said = Said {
            client_nonce: nonce,
            node_nonce: challenge.nonce,
            client_received: received,
            node_received: challenge.received,
        };
        if !keys.check_node(&said, &challenge.proof) {
            return Err(Failed::Refused("something that is not the node answered".to_owned()));
        }
        wire.write_all(&keys.prove_client(&said)).await?;
        wire.flush().await?;
        if take::<1>(wire, &mut read).await? != [YES] {
            return Err(gone());
        }
        match self.lane.lock().machine.resume(challenge.received, received) {
            Ok(()) => Ok(read),
            Err(_) => Err(gone()),
        }
    }
}

/// The next `N` bytes. What comes behind them stays in `read`.
async fn take<const N: usize>(
    wire: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
) -> io::Result<[u8; N]> {
    loop {
        if let Some(bytes) = read.first_chunk::<N>() {
            let bytes = *bytes;
            bytes::Buf::advance(read, N);
            return Ok(bytes);
        }
        if wire.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A wire whose first bytes are the node's answer to the client's first message, for which nobody waits.
struct Headed<S> {
    wire: S,
    /// What was read before.
    read: BytesMut,
    answer: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Headed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.read.is_empty() {
                let mut answer = this.answer.lock().unwrap_or_else(PoisonError::into_inner);
                let missing = Accepted::LEN.saturating_sub(answer.len()).min(this.read.len());
                answer.extend_from_slice(&this.read.split_to(missing));
            }
            if !this.read.is_empty() {
                let len = this.read.len().min(out.remaining());
                out.put_slice(&this.read.split_to(len));
                return Poll::Ready(Ok(()));
            }
            let missing = {
                let answer = this.answer.lock().unwrap_or_else(PoisonError::into_inner);
                Accepted::LEN.saturating_sub(answer.len())
            };
            if missing == 0 {
                return Pin::new(&mut this.wire).poll_read(context, out);
            }
            let mut bytes = [0; Accepted::LEN];
            let mut head = ReadBuf::new(bytes.get_mut(..missing).unwrap_or_default());
            ready!(Pin::new(&mut this.wire).poll_read(context, &mut head))?;
            if head.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.read.extend_from_slice(head.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Headed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}
