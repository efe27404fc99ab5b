//! Bytes between a client's channel and a node, both ways, with as few copies as the engine allows.
//!
//! What a client sends arrives as reference-counted buffers and is written to the node as it is, several of them in one
//! system call when more are waiting. What a node sends is read into a large buffer whose slices become the packets to
//! the client.
//!
//! Both directions must begin with `SSH-`: a stream that is not SSH is cut before one of its bytes reaches the other side,
//! so even a node that announced the address of something else cannot turn the proxy into a door to it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::bulk::{self, Buffers, MAX_BATCH};
use crate::engine::transport::{Account, Link, payload};

/// How much is read from a node at once, at most. A few packets' worth: larger brings nothing, smaller costs wake-ups.
const READ_SIZE: usize = 128 * 1024;
/// The same as long as little comes: most sessions say little.
const SMALL_READ: usize = 8 * 1024;
/// How long a client may go on after the node has ended its side.
const HALF_CLOSED_FOR: Duration = Duration::from_secs(30);
/// What SSH peers say first (RFC 4253 section 4.2).
const GREETING: &[u8] = b"SSH-";

/// How many bytes went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spliced {
    pub(super) to_node: u64,
    pub(super) to_client: u64,
}

/// Copies until both sides have said all, or one of them is gone. An end of one direction is passed on and leaves the
/// other open. `opening` goes to the node right before the client's first bytes, in one write with them.
///
/// # Errors
/// Those of the node's stream, and `InvalidData` if a side does not speak SSH. The client's channel is left to the caller
/// to close.
pub(super) async fn splice<S>(
    from_client: ChannelReadHalf,
    to_client: &ChannelWriteHalf<Msg>,
    node: S,
    opening: Bytes,
    link: &Link,
    account: &Account,
) -> io::Result<Spliced>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (from_node, to_node) = tokio::io::split(node);
    let mut spliced = Spliced::default();
    let _settled = CloseOnDrop(account);
    {
        let upload = upload(from_client, to_node, opening, account, &mut spliced.to_node);
        let download = download(from_node, to_client, link, &mut spliced.to_client);
        tokio::pin!(upload, download);
        // The node ended its side: the client may still have something to say, but not for ever.
        let overdue = tokio::time::sleep(Duration::MAX);
        tokio::pin!(overdue);
        let (mut uploading, mut downloading) = (true, true);
        let mut listening = None;
        while uploading || downloading {
            tokio::select! {
                ended = &mut upload, if uploading => match ended? {
                    Ended::Eof(client) => {
                        listening = Some(client);
                        uploading = false;
                    }
                    Ended::Closed => break,
                },
                () = discard(&mut listening, account), if listening.is_some() => break,
                ended = &mut download, if downloading => {
                    ended?;
                    downloading = false;
                    overdue.as_mut().reset(Instant::now() + HALF_CLOSED_FOR);
                }
                () = &mut overdue, if !downloading => break,
            }
        }
    }
    Ok(spliced)
}

/// Whatever is in the queue when copying ends is taken by nobody.
struct CloseOnDrop<'a>(&'a Account);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

enum Ended {
    /// The client will send no more, and still listens.
    Eof(ChannelReadHalf),
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
    mut node: impl AsyncWrite + Unpin,
    opening: Bytes,
    account: &Account,
    count: &mut u64,
) -> io::Result<Ended> {
    let mut greeting = Greeting::default();
    let mut opening = Some(opening);
    let mut batch: Vec<Bytes> = Vec::with_capacity(MAX_BATCH);
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
            *count = count.saturating_add(data.len() as u64);
        }
        let taken = batch.len();
        if taken > 0
            && let Some(opening) = opening.take()
        {
            batch.insert(0, opening);
        }
        bulk::write_all(&mut node, &mut batch).await?;
        // Only now: what the node has not taken yet still counts against the client.
        sizes.iter().take(taken).for_each(|size| account.taken(*size));
        if let Some(gone) = end {
            // Whatever the node says to that, the client has ended its side.
            let _ = node.shutdown().await;
            return Ok(if gone { Ended::Closed } else { Ended::Eof(client) });
        }
    }
}

async fn download(
    mut node: impl AsyncRead + Unpin,
    client: &ChannelWriteHalf<Msg>,
    link: &Link,
    count: &mut u64,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut greeting = Greeting::default();
    let mut buffers = Buffers::new(SMALL_READ, READ_SIZE);
    loop {
        if node.read_buf(buffers.current()).await? == 0 {
            client.eof().await.map_err(gone)?;
            return Ok(());
        }
        let data = buffers.take();
        greeting.check(&data)?;
        *count = count.saturating_add(data.len() as u64);
        // Said aloud so that reading from the client goes on: its window adjustments are on their way to us.
        let _waits = link.output_waits();
        client.data_bytes(data).await.map_err(gone)?;
    }
}

/// Watches the first bytes of a direction.
#[derive(Default)]
struct Greeting {
    seen: usize,
}

impl Greeting {
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
            let mut greeting = Greeting::default();
            assert!(pieces.iter().all(|piece| greeting.check(piece).is_ok()));
        }
        for pieces in [&[&b"GET / HTTP/1.1"[..]][..], &[b"S", b"X"], &[b"\x16\x03\x01"], &[b"ssh-"]] {
            let mut greeting = Greeting::default();
            assert!(pieces.iter().any(|piece| greeting.check(piece).is_err()));
        }
    }
}
