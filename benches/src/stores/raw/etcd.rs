//! The calls `Put`, `Range` and `Watch` of etcd's gRPC, written by hand: a message is a few tagged fields behind five bytes.

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use teleport_core::task::TaskScope;

use crate::stores::{ITEMS, VALUE};

pub(in crate::stores) struct Etcd {
    sender: SendRequest<Bytes>,
    _connection: TaskScope,
}

/// A field of bytes.
fn field(message: &mut BytesMut, tag: u8, bytes: &[u8]) {
    message.put_u8(tag << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        message.put_u8(len as u8 | 0x80);
        len >>= 7;
    }
    message.put_u8(len as u8);
    message.put_slice(bytes);
}

impl Etcd {
    pub(super) async fn connect(port: u16) -> Result<Self> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        // Windows as gRPC's own clients have them.
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(4 << 20).initial_connection_window_size(4 << 20);
        let (sender, connection) = builder.handshake(stream).await?;
        let scope = TaskScope::new();
        scope.spawn(async move {
            // Its end is seen by who sends.
            let _ = connection.await;
        });
        Ok(Self { sender, _connection: scope })
    }

    /// Sends a message, which is the last one or not.
    async fn send(
        &self,
        method: &str,
        message: &[u8],
        is_last: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        let request = http::Request::post(format!("http://127.0.0.1/etcdserverpb.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut body) = sender.send_request(request, false)?;
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len())?);
        frame.put_slice(message);
        body.send_data(frame.freeze(), is_last)?;
        Ok((answer, body))
    }

    /// Sends a message and returns how long the answer is.
    async fn call(&self, method: &str, message: &[u8]) -> Result<usize> {
        let (answer, _request) = self.send(method, message, true).await?;
        let mut body = answer.await?.into_body();
        let mut len = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            len += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        ensure!(
            trailers.get("grpc-status").is_some_and(|status| status == "0"),
            "etcd refuses: {trailers:?}"
        );
        Ok(len)
    }

    pub(super) async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let mut message = BytesMut::new();
        field(&mut message, 1, format!("raw/{key}").as_bytes());
        field(&mut message, 2, value);
        self.call("KV/Put", &message).await.map(drop)
    }

    pub(super) async fn get(&self, key: &str) -> Result<()> {
        let mut message = BytesMut::new();
        field(&mut message, 1, format!("raw/{key}").as_bytes());
        ensure!(self.call("KV/Range", &message).await? > VALUE, "an item is missing");
        Ok(())
    }

    pub(super) async fn range(&self) -> Result<()> {
        let mut message = BytesMut::new();
        field(&mut message, 1, b"raw/items/");
        field(&mut message, 2, b"raw/items0");
        ensure!(self.call("KV/Range", &message).await? > VALUE * ITEMS, "items are missing");
        Ok(())
    }

    /// Reads all that is changed from now on, and does nothing with it.
    pub(super) async fn follow(&self) -> Result<TaskScope> {
        let (mut create, mut message) = (BytesMut::new(), BytesMut::new());
        field(&mut create, 1, b"raw/");
        field(&mut create, 2, b"raw0");
        field(&mut message, 1, &create);
        let (answer, request) = self.send("Watch/Watch", &message, false).await?;
        let mut body = answer.await?.into_body();
        body.data().await.context("no answer to a watch")??;
        let scope = TaskScope::new();
        scope.spawn(async move {
            let _request = request;
            while let Some(Ok(data)) = body.data().await {
                if body.flow_control().release_capacity(data.len()).is_err() {
                    return;
                }
            }
        });
        Ok(scope)
    }
}
