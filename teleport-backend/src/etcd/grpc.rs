//! Calls over one HTTP/2 connection, as gRPC does them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderMap, HeaderValue, Request, header};
use teleport_core::task::TaskScope;
use zeroize::Zeroizing;

use super::messages::Call;
use crate::network::BoxedStream;

/// The longest answer: a page of a list, or a batch of the greatest values. Servers send no longer ones by themselves, and whoever
/// asks for a page asks for a shorter one then.
pub(super) const MAX_ANSWER: usize = 160 << 20;

/// What may be on its way to us before we take it.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A server that does not answer a ping for so long is gone. etcd cuts clients that ping more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(5);

const PREFIX_LEN: usize = 5;
const MAX_REASON_LEN: usize = 512;

pub(super) type Source = Box<dyn std::error::Error + Send + Sync>;

/// gRPC's codes that mean something to us.
pub(super) mod code {
    pub(in super::super) const INVALID_ARGUMENT: u16 = 3;
    pub(in super::super) const DEADLINE_EXCEEDED: u16 = 4;
    pub(in super::super) const PERMISSION_DENIED: u16 = 7;
    pub(in super::super) const RESOURCE_EXHAUSTED: u16 = 8;
    pub(in super::super) const OUT_OF_RANGE: u16 = 11;
    pub(in super::super) const UNAVAILABLE: u16 = 14;
    pub(in super::super) const UNAUTHENTICATED: u16 = 16;
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The server cannot have seen it.
    #[error("the connection was lost before the request was sent")]
    NotSent { source: Source },
    /// The server may have obeyed it.
    #[error("the connection was lost before the answer came")]
    Broken { source: Source },
    #[error("the answer is not what etcd says")]
    Malformed { source: Source },
    #[error("the answer is too long")]
    TooLong,
    #[error("etcd refused: {message} (code {code})")]
    Refused { code: u16, message: String },
}

/// Bytes that are no frames of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a message is compressed, which was not asked for")]
    Compressed,
    #[error("a message is too long")]
    TooLong,
}

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub(super) struct Frames(BytesMut);

impl Frames {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.0.extend_from_slice(chunk);
    }

    /// The next message that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(([compressed, length @ ..], _)) = self.0.split_first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        if *compressed != 0 {
            return Err(FrameError::Compressed);
        }
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_ANSWER {
            return Err(FrameError::TooLong);
        }
        if self.0.len() < PREFIX_LEN + length {
            return Ok(None);
        }
        self.0.advance(PREFIX_LEN);
        Ok(Some(self.0.split_to(length).freeze()))
    }
}

/// A connection to one server.
pub(super) struct Channel {
    requests: SendRequest<Bytes>,
    /// `http://host:port`.
    base: String,
    token: Option<HeaderValue>,
    ended: Arc<AtomicBool>,
    /// Keeps the connection going; dropping it closes it.
    _driver: TaskScope,
}

impl Channel {
    /// Speaks HTTP/2 over a connection.
    pub(super) async fn open(stream: BoxedStream, authority: &str, tls: bool) -> Result<Self, Source> {
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .max_header_list_size(64 << 10)
            .handshake::<_, Bytes>(stream)
            .await?;
        let driver = TaskScope::new();
        let ended = Arc::new(AtomicBool::new(false));
        let pings = connection.ping_pong();
        let end = Arc::clone(&ended);
        driver.spawn(async move {
            tokio::select! {
                end = connection => tracing::debug!(result = ?end, "a connection to etcd has ended"),
                () = keep_alive(pings) => tracing::debug!("a server of etcd does not answer pings"),
            }
            end.store(true, Ordering::Release);
        });
        let scheme = if tls { "https" } else { "http" };
        Ok(Self { requests, base: format!("{scheme}://{authority}"), token: None, ended, _driver: driver })
    }

    pub(super) fn set_token(&mut self, token: HeaderValue) {
        self.token = Some(token);
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// One request, one answer. Dropping the future gives up the answer, not the request.
    pub(super) async fn unary(&self, call: &Call, timeout: Duration) -> Result<Bytes, CallError> {
        let mut answers = self.send(call, Some(timeout), true).await?;
        match answers.next().await? {
            Some(answer) => {
                // The answer came, but the status behind it decides.
                answers.finish().await?;
                Ok(answer)
            }
            None => Err(CallError::Malformed { source: "there is no answer".into() }),
        }
    }

    /// One request, any number of answers; the stream stays open until it is dropped.
    pub(super) async fn stream(&self, call: &Call) -> Result<Answers, CallError> {
        self.send(call, None, false).await
    }

    async fn send(
        &self,
        call: &Call,
        timeout: Option<Duration>,
        is_whole: bool,
    ) -> Result<Answers, CallError> {
        let not_sent = |source: Source| CallError::NotSent { source };
        let mut request = Request::post(format!("{}{}", self.base, call.path))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        if let Some(timeout) = timeout {
            // The server gives up when we do.
            request = request.header("grpc-timeout", format!("{}m", timeout.as_millis().min(99_999_999)));
        }
        if !is_whole {
            // A server that is cut off from the others would keep a stream open and have nothing to say.
            request = request.header("hasleader", "true");
        }
        if let Some(token) = &self.token {
            request = request.header("token", token);
        }
        let request = request.body(()).map_err(|error| not_sent(error.into()))?;
        let mut requests = self.requests.clone().ready().await.map_err(|error| not_sent(error.into()))?;
        let (response, mut body) =
            requests.send_request(request, false).map_err(|error| not_sent(error.into()))?;
        let mut frame = Zeroizing::new(Vec::with_capacity(PREFIX_LEN + call.message.len()));
        frame.put_u8(0);
        frame.put_u32(u32::try_from(call.message.len()).map_err(|error| not_sent(error.into()))?);
        frame.extend_from_slice(call.message.as_slice());
        let broken = |error: h2::Error| CallError::Broken { source: error.into() };
        body.send_data(Bytes::from_owner(frame), is_whole).map_err(broken)?;
        let (head, answer) = response.await.map_err(broken)?.into_parts();
        if head.status != http::StatusCode::OK {
            let source = format!("the server answered with the HTTP status {}", head.status).into();
            return Err(CallError::Malformed { source });
        }
        // An answer that is only a status has it in its head.
        if head.headers.contains_key("grpc-status") {
            status(&head.headers)?;
        }
        Ok(Answers { body: answer, frames: Frames::default(), _request: body })
    }
}

/// Ends when the server does not answer.
async fn keep_alive(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let pong = tokio::time::timeout(PING_PATIENCE, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

/// What comes back.
pub(super) struct Answers {
    body: RecvStream,
    frames: Frames,
    /// Dropping it would reset the stream.
    _request: h2::SendStream<Bytes>,
}

impl Answers {
    /// The next message; `None` at the end, when all went well. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            match self.frames.next() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(FrameError::TooLong) => return Err(CallError::TooLong),
                Err(error) => return Err(CallError::Malformed { source: error.into() }),
            }
            let broken = |error: h2::Error| CallError::Broken { source: error.into() };
            match self.body.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(broken)?;
                    self.frames.push(&chunk);
                    self.body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
                }
                None => {
                    if let Some(trailers) = self.body.trailers().await.map_err(broken)? {
                        status(&trailers)?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    async fn finish(&mut self) -> Result<(), CallError> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

/// The status of a call, from the headers or trailers that have it.
fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").map(str::parse::<u16>) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(CallError::Refused { code, message: printable(message) })
        }
        _ => Err(CallError::Malformed { source: "there is no status".into() }),
    }
}

/// A text of the server, bounded and without control characters; `%` escapes stay as they are.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_REASON_LEN).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn messages_are_cut_from_the_stream() {
        let mut frames = Frames::default();
        for byte in b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x01c" {
            assert_eq!(frames.0.len().saturating_sub(PREFIX_LEN + 2), 0);
            frames.push(&[*byte]);
            if let Some(message) = frames.next().unwrap() {
                assert!(["ab", "", "c"].iter().any(|known| message == *known));
            }
        }
        assert_eq!(frames.next(), Ok(None));
        assert!(frames.0.is_empty());
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_stored() {
        let mut frames = Frames::default();
        frames.push(b"\0\x0f\xff\xff\xff");
        assert_eq!(frames.next(), Err(FrameError::TooLong));
        let mut frames = Frames::default();
        frames.push(b"\x01\0\0\0\0");
        assert_eq!(frames.next(), Err(FrameError::Compressed));
    }

    #[test]
    fn a_status_is_asked_for() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            status(&headers)
        };
        assert!(with(&[("grpc-status", "0")]).is_ok());
        for bad in [&[][..], &[("grpc-status", "x")], &[("grpc-status", "-1")]] {
            assert!(matches!(with(bad), Err(CallError::Malformed { .. })), "{bad:?}");
        }
        let refused = with(&[("grpc-status", "7"), ("grpc-message", "no")]);
        assert!(matches!(refused, Err(CallError::Refused { code: 7, message }) if message == "no"));
    }
}
