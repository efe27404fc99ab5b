//! Bytes between a client's channel and a stream, both ways, with as few copies as the engine allows.
//!
//! What a client sends arrives as reference-counted buffers and is written to the other side as it is, several of them in one
//! system call when more are waiting. What comes from there is read into a large buffer whose slices become the packets to
//! the client.
//!
//! Proxies lead to SSH alone ([`Rules::node`]): both directions must begin with `SSH-`, and a stream that is not SSH is cut before one
//! of its bytes reaches the other side, so even a node that announced the address of something else cannot turn the proxy into a
//! door to it.
//!
//! Nodes lead anywhere ([`Rules::forward`]), also to what reads nothing for a long time. The SSH library grants new window by itself,
//! so what nobody takes piles up, and above a limit nothing at all is read from the client (see [`transport`](crate::engine::transport)):
//! one program that hangs would hold up everything else on the connection. Whoever has taken nothing for [`HELD_UP_LIMIT`]
//! while that is so is given up, as if it had hung up.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep};

use crate::bulk::{self, Buffers, MAX_BATCH};
use crate::engine::transport::{Account, Link, payload};

/// How much is read from the other side at once, at most. A few packets' worth: larger brings nothing, smaller costs wake-ups.
const READ_SIZE: usize = 128 * 1024;
/// The same as long as little comes: most streams say little.
const SMALL_READ: usize = 8 * 1024;
/// How long a client may go on after a node has ended its side.
const HALF_CLOSED_FOR: Duration = Duration::from_secs(30);
/// How long somebody may take nothing while all of the client's input waits behind what is for them, and others wait as well.
const HELD_UP_LIMIT: Duration = Duration::from_secs(60);
/// Somebody for whom less than this waits holds up nobody, in bytes.
const HELD_UP_SHARE: usize = 256 << 10;
/// What SSH peers say first (RFC 4253 section 4.2).
const GREETING: &[u8] = b"SSH-";

/// What counts for a splice.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Goes to the other side right before the client's first bytes, in one write with them.
    opening: Bytes,
    /// Whether both directions must be SSH.
    ssh: bool,
    /// How long the client may go on after the other side has ended its own.
    half_closed_for: Option<Duration>,
    /// Whether who holds up the whole connection is given up.
    gives_up: bool,
}

impl Rules {
    /// To a node's SSH server.
    pub(crate) const fn node(opening: Bytes) -> Self {
        Self { opening, ssh: true, half_closed_for: Some(HALF_CLOSED_FOR), gives_up: false }
    }

    /// To anything.
    pub(crate) const fn forward() -> Self {
        Self { opening: Bytes::new(), ssh: false, half_closed_for: None, gives_up: true }
    }
}

/// How many bytes went which way. Counted while they go, for whoever may be ended in the middle.
#[derive(Debug, Default)]
pub(crate) struct Spliced {
    /// From the client.
    pub(crate) from_client: AtomicU64,
    /// To the client.
    pub(crate) to_client: AtomicU64,
}

fn add(count: &AtomicU64, bytes: usize) {
    count.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Copies until both sides have said all, or one of them is gone. An end of one direction is passed on and leaves the
/// other open.
///
/// # Errors
/// Those of the other side's stream, and `InvalidData` if a side does not speak SSH that must. The client's channel is left to the
/// caller to close.
pub(crate) async fn splice<S>(
    from_client: ChannelReadHalf,
    to_client: &ChannelWriteHalf<Msg>,
    far: S,
    rules: Rules,
    link: &Link,
    account: &Account,
    spliced: &Spliced,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (from_far, to_far) = tokio::io::split(far);
    let to_far = Patient { to: to_far, link, account, gives_up: rules.gives_up, until: None };
    let _settled = CloseOnDrop(account);
    {
        let Rules { opening, ssh, half_closed_for, .. } = rules;
        let upload = upload(from_client, to_far, opening, Greeting::of(ssh), account, &spliced.from_client);
        let download = download(from_far, to_client, Greeting::of(ssh), link, &spliced.to_client);
        tokio::pin!(upload, download);
        // The other side ended its own: the client may still have something to say, but perhaps not for ever.
        let overdue = tokio::time::sleep(Duration::MAX);
        tokio::pin!(overdue);
        let (mut uploading, mut downloading) = (true, true);
        let mut listening = None;
        while uploading || downloading {
            tokio::select! {
                ended = &mut upload, if uploading => match ended? {
                    Ended::Input(client) => {
                        listening = Some(client);
                        uploading = false;
                    }
                    Ended::Closed => break,
                },
                () = discard(&mut listening, account), if listening.is_some() => break,
                ended = &mut download, if downloading => {
                    ended?;
                    downloading = false;
                    if let Some(limit) = half_closed_for {
                        overdue.as_mut().reset(Instant::now() + limit);
                    }
                }
                () = &mut overdue, if !downloading => break,
            }
        }
    }
    Ok(())
}

/// Whatever is in the queue when copying ends is taken by nobody.
struct CloseOnDrop<'a>(&'a Account);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

enum Ended {
    /// The client will send no more, or nobody takes it any more. The client still listens.
    Input(ChannelReadHalf),
    /// The channel is gone.
    Closed,
}

/// Takes what a client still says that has ended its side, such as that it can take more; resolves when it is gone. Cancel
/// safe.
async fn discard(client: &mut Option<ChannelReadHalf>, account: &Account) {
    let Some(client) = client else { return };
    while let Some(message) = client.wait().await {
        account.taken(payload(&message));
        if matches!(message, ChannelMsg::Close) {
            return;
        }
    }
}

async fn upload(
    mut client: ChannelReadHalf,
    mut far: impl AsyncWrite + Unpin,
    opening: Bytes,
    mut greeting: Greeting,
    account: &Account,
    count: &AtomicU64,
) -> io::Result<Ended> {
    let mut opening = Some(opening).filter(|opening| !opening.is_empty());
    let mut batch: Vec<Bytes> = Vec::new();
    loop {
        let mut end = None;
        // Wait for one message, then take what is there already.
        let mut next = client.wait().await;
        loop {
            match next {
                Some(ChannelMsg::Data { data }) => batch.push(data),
                Some(ChannelMsg::Eof) => end = Some(false),
                Some(ChannelMsg::Close) | None => end = Some(true),
                Some(other) => account.taken(payload(&other)),
            }
            if end.is_some() || batch.len() >= MAX_BATCH {
                break;
            }
            match client.wait().now_or_never() {
                Some(message) => next = message,
                None => break,
            }
        }
        let mut sizes = [0; MAX_BATCH];
        for (data, size) in batch.iter().zip(&mut sizes) {
            greeting.check(data)?;
            *size = data.len();
            add(count, data.len());
        }
        let taken = batch.len();
        if taken > 0
            && let Some(opening) = opening.take()
        {
            batch.insert(0, opening);
        }
        let written = bulk::write_all(&mut far, &mut batch).await;
        // Only now: what the other side has not taken yet still counts against the client.
        sizes.iter().take(taken).for_each(|size| account.taken(*size));
        if let Err(error) = written {
            if error.kind() == io::ErrorKind::TimedOut {
                return Err(error);
            }
            // It takes nothing more, and what it has said already is still on its way to the client.
            account.close();
            return Ok(if end == Some(true) { Ended::Closed } else { Ended::Input(client) });
        }
        if let Some(gone) = end {
            // Whatever the other side says to that, the client has ended its own.
            let _ = far.shutdown().await;
            return Ok(if gone { Ended::Closed } else { Ended::Input(client) });
        }
    }
}

async fn download(
    mut far: impl AsyncRead + Unpin,
    client: &ChannelWriteHalf<Msg>,
    mut greeting: Greeting,
    link: &Link,
    count: &AtomicU64,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut buffers = Buffers::new(SMALL_READ, READ_SIZE);
    loop {
        if far.read_buf(buffers.current()).await? == 0 {
            client.eof().await.map_err(gone)?;
            return Ok(());
        }
        let data = buffers.take();
        greeting.check(&data)?;
        add(count, data.len());
        link.moves();
        // Said aloud so that reading from the client goes on: its window adjustments are on their way to us.
        let _waits = link.output_waits();
        client.data_bytes(data).await.map_err(gone)?;
    }
}

/// A writer that is given up when it holds up everybody else for too long.
struct Patient<'a, W> {
    to: W,
    link: &'a Link,
    account: &'a Account,
    gives_up: bool,
    /// Since it takes nothing.
    until: Option<Pin<Box<Sleep>>>,
}

impl<W: AsyncWrite + Unpin> Patient<'_, W> {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut W>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let done = act(Pin::new(&mut self.to), cx);
        if done.is_ready() || !self.gives_up {
            self.until = None;
            return done;
        }
        loop {
            let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(HELD_UP_LIMIT)));
            if until.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.link.is_held_up_by(self.account, HELD_UP_SHARE) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            until.as_mut().reset(Instant::now() + HELD_UP_LIMIT);
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Patient<'_, W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, |to, cx| to.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(cx, |to, cx| to.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.to.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(cx, |to, cx| to.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(cx, |to, cx| to.poll_shutdown(cx))
    }
}

/// Watches the first bytes of a direction, where they must be those of SSH.
struct Greeting {
    seen: usize,
}

impl Greeting {
    const fn of(ssh: bool) -> Self {
        Self { seen: if ssh { 0 } else { GREETING.len() } }
    }

    fn check(&mut self, data: &[u8]) -> io::Result<()> {
        let expected = GREETING.get(self.seen..).unwrap_or_default();
        let both = expected.len().min(data.len());
        if expected.get(..both) == data.get(..both) {
            self.seen += both;
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the stream is not SSH"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_greeting_may_arrive_in_pieces() {
        for pieces in [&[&b"SSH-2.0-x"[..], b"GET"][..], &[b"S", b"", b"SH", b"-2", b"x"]] {
            let mut greeting = Greeting::of(true);
            assert!(pieces.iter().all(|piece| greeting.check(piece).is_ok()));
        }
        for pieces in [&[&b"GET / HTTP/1.1"[..]][..], &[b"S", b"X"], &[b"\x16\x03\x01"], &[b"ssh-"]] {
            let mut greeting = Greeting::of(true);
            assert!(pieces.iter().any(|piece| greeting.check(piece).is_err()));
        }
    }

    /// Whether a write to somebody who takes nothing is given up within an hour.
    async fn is_given_up(gives_up: bool, held_up: bool, others: bool) -> bool {
        let link = Link::new();
        let account = link.account();
        let _other = others.then(|| link.account());
        if held_up {
            account.arrived(3 << 20);
        }
        let (near, _far) = tokio::io::duplex(8);
        let mut to = Patient { to: near, link: &link, account: &account, gives_up, until: None };
        match tokio::time::timeout(Duration::from_secs(3600), to.write_all(&[0; 100])).await {
            Ok(written) => written.unwrap_err().kind() == io::ErrorKind::TimedOut,
            Err(_) => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_if_others_wait_for_it() {
        assert!(is_given_up(true, true, true).await);
        assert!(!is_given_up(true, true, false).await, "nobody else is there");
        assert!(!is_given_up(true, false, true).await, "nothing is held up");
        assert!(!is_given_up(false, true, true).await, "the rules say otherwise");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_now_and_then_is_not_given_up() {
        let link = Link::new();
        let (account, _other) = (link.account(), link.account());
        account.arrived(3 << 20);
        let (near, mut far) = tokio::io::duplex(8);
        let mut to = Patient { to: near, link: &link, account: &account, gives_up: true, until: None };
        let reading = async {
            for _ in 0..100 {
                tokio::time::sleep(HELD_UP_LIMIT - Duration::from_secs(1)).await;
                far.read_exact(&mut [0]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(to.write_all(&[0; 100]), reading);
        written.unwrap();
    }
}
