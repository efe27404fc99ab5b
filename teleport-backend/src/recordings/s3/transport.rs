//! HTTP as the S3 client needs it. This crate opens no sockets: the program gives a transport.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};

/// Why there is no answer to a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// There is no connection.
    #[error("cannot connect")]
    Connect {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke before the answer was whole.
    #[error("the connection broke")]
    Broken {
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is longer than was allowed.
    #[error("the answer is too long")]
    TooLong,
    /// The answer took too long.
    #[error("the answer took too long")]
    Timeout,
}

impl TransportError {
    const fn kind(&self) -> HttpErrorKind {
        match self {
            Self::Connect { .. } => HttpErrorKind::Connect,
            Self::Broken { .. } => HttpErrorKind::Interrupted,
            Self::TooLong => HttpErrorKind::Decode,
            Self::Timeout => HttpErrorKind::Timeout,
        }
    }
}

/// Sends requests over HTTP and HTTPS.
///
/// # Contract
/// The whole request and the whole answer take a bounded time. Certificates of HTTPS servers are checked. No redirection is
/// followed. Dropping the future gives the request up.
#[async_trait]
pub trait HttpTransport: fmt::Debug + Send + Sync + 'static {
    /// Sends a request; gives the answer whatever its status, its body at most `limit` bytes.
    ///
    /// # Errors
    /// [`TransportError`].
    async fn send(
        &self,
        request: http::Request<Bytes>,
        limit: usize,
    ) -> Result<http::Response<Bytes>, TransportError>;
}

/// More than any answer that is asked for: a part, or a page of a list.
const MAX_ANSWER: usize = 8 << 20;

/// A transport as the client takes it.
#[derive(Clone, Debug)]
pub(super) struct Connector(pub(super) Arc<dyn HttpTransport>);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let answer = self.0.send(http::Request::from_parts(head, body), MAX_ANSWER).await;
        let answer = answer.map_err(|error| HttpError::new(error.kind(), error))?;
        Ok(answer.map(|body| HttpResponseBody::new(Full::new(body).map_err(|never| match never {}))))
    }
}
