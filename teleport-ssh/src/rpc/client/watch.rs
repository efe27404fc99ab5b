//! Reading a watch: one JSON document a line.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use teleport_core::api::{ApiError, ApiResult};

use super::KeptAlive;
use crate::rpc::http::ErrorText;

/// A server sends at least an empty line every 10 s; after so long without one it is gone.
const SILENCE: Duration = Duration::from_secs(40);
/// The longest line: all nodes of a large cluster.
const MAX_LINE: usize = 64 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<T> {
    Item(T),
    Error(ErrorText),
    End(serde::de::IgnoredAny),
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    rest: BytesMut,
    whole: VecDeque<Bytes>,
}

impl Lines {
    /// Takes bytes in; the error is that a line is too long.
    fn feed(&mut self, mut data: Bytes, max: usize) -> Result<(), ()> {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let head = data.split_to(end);
            data.advance(1);
            let line = if self.rest.is_empty() {
                head
            } else {
                self.rest.extend_from_slice(&head);
                self.rest.split().freeze()
            };
            // An empty line is a sign of life.
            if !line.is_empty() {
                self.whole.push_back(line);
            }
        }
        if self.rest.len().saturating_add(data.len()) > max {
            return Err(());
        }
        self.rest.extend_from_slice(&data);
        Ok(())
    }
}

struct Watch {
    body: Incoming,
    lines: Lines,
    over: bool,
    _connection: KeptAlive,
}

impl Watch {
    async fn next<T: DeserializeOwned>(&mut self) -> Option<ApiResult<T>> {
        if self.over {
            return None;
        }
        let line = match self.line().await {
            Ok(line) => line,
            Err(error) => {
                self.over = true;
                return Some(Err(error));
            }
        };
        match serde_json::from_slice(&line) {
            Ok(Line::Item(item)) => Some(Ok(item)),
            Ok(Line::End(_)) => {
                self.over = true;
                None
            }
            Ok(Line::Error(error)) => {
                self.over = true;
                Some(Err(crate::rpc::http::ErrorBody { error }.into_error()))
            }
            Err(error) => {
                self.over = true;
                Some(Err(super::not_understood(error)))
            }
        }
    }

    async fn line(&mut self) -> ApiResult<Bytes> {
        loop {
            if let Some(line) = self.lines.whole.pop_front() {
                return Ok(line);
            }
            let frame = match tokio::time::timeout(SILENCE, self.body.frame()).await {
                Err(_) => return Err(ApiError::unavailable("the watch has fallen silent")),
                Ok(None) => return Err(ApiError::unavailable("the watch was cut")),
                Ok(Some(Err(error))) => return Err(ApiError::unavailable(error)),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(data) = frame.into_data() {
                self.lines
                    .feed(data, MAX_LINE)
                    .map_err(|()| ApiError::unavailable("a line of the watch is too long"))?;
            }
        }
    }
}

/// The items of a watch. An error is the last item; it is there whenever the server did not say that the watch is over.
pub(super) fn items<T: DeserializeOwned + Send + 'static>(
    body: Incoming,
    connection: KeptAlive,
) -> BoxStream<'static, ApiResult<T>> {
    let watch = Watch { body, lines: Lines::default(), over: false, _connection: connection };
    stream::unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Some((item, watch))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn lines_do_not_care_how_they_arrive() {
        let text = b"{\"item\":1}\n\n{\"item\":22}\n\n\n{\"end\":true}\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            for chunk in text.chunks(size) {
                lines.feed(Bytes::from_static(b""), 100).unwrap();
                lines.feed(Bytes::copy_from_slice(chunk), 100).unwrap();
            }
            let whole: Vec<_> = lines.whole.iter().map(|line| std::str::from_utf8(line).unwrap()).collect();
            assert_eq!(whole, ["{\"item\":1}", "{\"item\":22}", "{\"end\":true}"]);
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let mut lines = Lines::default();
        assert!(lines.feed(Bytes::from_static(&[b'x'; 10]), 10).is_ok());
        assert!(lines.feed(Bytes::from_static(b"x"), 10).is_err());
    }

    #[test]
    fn the_last_line_says_how_it_ended() {
        assert!(matches!(serde_json::from_str::<Line<u8>>("{\"end\":true}").unwrap(), Line::End(_)));
        assert!(matches!(serde_json::from_str::<Line<u8>>("{\"item\":7}").unwrap(), Line::Item(7)));
        let line = serde_json::from_str::<Line<u8>>(r#"{"error":{"code":"denied","message":"no"}}"#).unwrap();
        assert!(matches!(line, Line::Error(text) if text.code == "denied"));
    }
}
