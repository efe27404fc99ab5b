//! Bodies and answers, the same on every HTTP port.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use teleport_core::api::{ApiError, ApiErrorKind, ApiResult};

/// How deep a JSON document may be nested.
const MAX_DEPTH: usize = 32;
/// How long a peer may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The body of an answer: whole, or a stream without an end.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub(crate) type Answer = Response<AnswerBody>;

/// `{"error":{"code":"denied","message":"access denied"}}`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorText,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorText {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl ErrorBody {
    /// The public half of an error. The other half is for the log.
    pub(crate) fn new(error: &ApiError) -> Self {
        let message = error.message().to_owned();
        Self { error: ErrorText { code: error.kind().as_str().to_owned(), message } }
    }

    /// The error as the client sees it.
    pub(crate) fn into_error(self) -> ApiError {
        ApiError::new(kind_of(&self.error.code), self.error.message)
    }
}

fn kind_of(code: &str) -> ApiErrorKind {
    match code {
        "conflict" => ApiErrorKind::Conflict,
        "denied" => ApiErrorKind::Denied,
        "evicted" => ApiErrorKind::Evicted,
        "invalid" => ApiErrorKind::Invalid,
        "not_found" => ApiErrorKind::NotFound,
        "too_many" => ApiErrorKind::TooMany,
        "unavailable" => ApiErrorKind::Unavailable,
        _ => ApiErrorKind::Internal,
    }
}

/// The status of an answer that is an error.
pub(crate) const fn status_of(kind: ApiErrorKind) -> StatusCode {
    match kind {
        ApiErrorKind::Conflict => StatusCode::CONFLICT,
        ApiErrorKind::Denied | ApiErrorKind::Evicted => StatusCode::FORBIDDEN,
        ApiErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ApiErrorKind::NotFound => StatusCode::NOT_FOUND,
        ApiErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ApiErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An answer with a body of bytes.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Answers hold certificates and secrets: no cache keeps them.
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// An answer in JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => answer(status, "application/json", bytes),
        Err(error) => refuse(&ApiError::internal(error)),
    }
}

/// The answer that is an error: its public text.
pub(crate) fn refuse(error: &ApiError) -> Answer {
    let kind = error.kind();
    if matches!(kind, ApiErrorKind::Internal | ApiErrorKind::Unavailable) {
        tracing::warn!(error = error as &dyn std::error::Error, "a request failed");
    }
    json(status_of(kind), &ErrorBody::new(error))
}

/// Reads a whole body of at most `max` bytes, within the deadline for bodies.
pub(crate) async fn read_body(body: Incoming, max: usize) -> ApiResult<Bytes> {
    let too_long = || ApiError::invalid(format!("the request's body is longer than {max} bytes"));
    if body.size_hint().lower() > max as u64 {
        return Err(too_long());
    }
    let read = async {
        let mut body = body;
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::invalid("the request broke off"))?.into_data() else {
                continue;
            };
            let so_far = first.as_ref().map_or(0, Bytes::len).saturating_add(rest.len());
            if so_far.saturating_add(data.len()) > max {
                return Err(too_long());
            }
            // Most bodies are one frame, which is not copied.
            match &first {
                None => first = Some(data),
                Some(_) => rest.extend_from_slice(&data),
            }
        }
        let first = first.unwrap_or_default();
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(first.len().saturating_add(rest.len()));
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    };
    match tokio::time::timeout(BODY_DEADLINE, read).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::invalid("the request's body came too slowly")),
    }
}

/// A request's body as a message.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    if depth(body) > MAX_DEPTH {
        return Err(ApiError::invalid("the request is nested too deeply"));
    }
    // The position is safe to tell, what stands there may be a secret: serde_json's texts can quote it.
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => {
                "the request has an unknown key, a missing key or a value of a wrong form"
            }
            _ => "the request is not JSON",
        };
        ApiError::invalid(format!("{what} (column {})", error.column()))
    })
}

/// How deep arrays and objects are nested. Of what is not JSON it says nothing useful, which does not matter.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_texts() {
        assert_eq!(depth(b"1"), 0);
        assert_eq!(depth(br#"{"a":[1,{"b":"]]]"}]}"#), 3);
        assert_eq!(depth(br#"["[[\"[[", "\\", []]"#), 2);
        assert_eq!(depth("[".repeat(10_000).as_bytes()), 10_000);
    }

    #[test]
    fn deep_documents_are_refused_before_they_are_read() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse::<serde_json::Value>(nested(32).as_bytes()).is_ok());
        let error = parse::<serde_json::Value>(nested(33).as_bytes()).unwrap_err();
        assert_eq!(error.message(), "the request is nested too deeply");
    }

    #[test]
    fn errors_do_not_quote_what_was_sent() {
        let error =
            parse::<teleport_core::api::LoginRequest>(br#"{"password": 5, "hunter2": 1}"#).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = parse::<teleport_core::api::Ping>(b"hunter2").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn an_error_survives_the_wire() {
        for kind in [
            ApiErrorKind::Conflict,
            ApiErrorKind::Denied,
            ApiErrorKind::Evicted,
            ApiErrorKind::Internal,
            ApiErrorKind::Invalid,
            ApiErrorKind::NotFound,
            ApiErrorKind::TooMany,
            ApiErrorKind::Unavailable,
        ] {
            let sent = ErrorBody::new(&ApiError::new(kind, "why").because("secret"));
            let text = serde_json::to_string(&sent).unwrap();
            assert!(!text.contains("secret"));
            let received: ErrorBody = serde_json::from_str(&text).unwrap();
            let error = received.into_error();
            assert_eq!((error.kind(), error.message()), (kind, "why"));
        }
    }
}
