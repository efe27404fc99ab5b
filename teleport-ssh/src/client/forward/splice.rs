//! Bytes between a channel of the node and a socket of this machine.

use std::io;

use bytes::BytesMut;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read from the socket at once, at most.
const READ_SIZE: usize = 64 * 1024;

/// Copies until both sides have said all, the node closes the channel, or the socket fails. An end of one direction is passed on and
/// leaves the other open. The channel is closed afterwards; a dropped future leaves that to the end of the connection.
///
/// # Errors
/// Those of the socket.
pub(super) async fn splice<S: AsyncRead + AsyncWrite>(channel: Channel<Msg>, socket: S) -> io::Result<()> {
    let (from_node, to_node) = channel.split();
    let (from_socket, to_socket) = tokio::io::split(socket);
    let result = both_ways(from_node, &to_node, from_socket, to_socket).await;
    let _ = to_node.close().await;
    result
}

async fn both_ways<R: AsyncRead, W: AsyncWrite>(
    from_node: ChannelReadHalf,
    to_node: &ChannelWriteHalf<Msg>,
    from_socket: R,
    to_socket: W,
) -> io::Result<()> {
    let (upload, download) = (upload(from_socket, to_node), download(from_node, to_socket));
    tokio::pin!(upload, download);
    let mut from_node = tokio::select! {
        sent = &mut upload => {
            sent?;
            // All was said; now until the other side has.
            return download.await.map(drop);
        }
        received = &mut download => match received? {
            Some(from_node) => from_node,
            None => return Ok(()),
        },
    };
    // The node has said all; the socket may have more for it.
    let closed = async {
        while from_node.wait().await.is_some_and(|message| !matches!(message, ChannelMsg::Close)) {}
    };
    tokio::select! {
        sent = upload => sent,
        () = closed => Ok(()),
    }
}

async fn upload(from: impl AsyncRead, to_node: &ChannelWriteHalf<Msg>) -> io::Result<()> {
    tokio::pin!(from);
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_SIZE);
        if from.read_buf(&mut buffer).await? == 0
            || to_node.data_bytes(buffer.split().freeze()).await.is_err()
        {
            break;
        }
    }
    let _ = to_node.eof().await;
    Ok(())
}

/// Gives back the channel if it is still open.
async fn download(
    mut from_node: ChannelReadHalf,
    to: impl AsyncWrite,
) -> io::Result<Option<ChannelReadHalf>> {
    tokio::pin!(to);
    while let Some(message) = from_node.wait().await {
        match message {
            ChannelMsg::Data { data } => to.write_all(&data).await?,
            ChannelMsg::Eof => {
                to.shutdown().await?;
                return Ok(Some(from_node));
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    to.shutdown().await?;
    Ok(None)
}
