//! HTTP and HTTPS for the object storage.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use teleport_backend::recordings::s3::{HttpTransport, TransportError};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the whole of a request and its answer may take.
const EXCHANGE: Duration = Duration::from_secs(15);
/// How long a connection is kept that nobody uses: shorter than servers do.
const IDLE: Duration = Duration::from_secs(15);

/// A pool of connections. HTTPS servers are checked by the certificates that the system trusts.
#[derive(Clone)]
pub struct Https {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    exchange: Duration,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").finish_non_exhaustive()
    }
}

impl Https {
    /// A pool without connections.
    ///
    /// # Errors
    /// If TLS cannot be configured.
    pub fn new() -> Result<Self, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "some of the system's certificates cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        // Plain HTTP is the configuration's matter: without its word the client of the object storage asks for none.
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client, exchange: EXCHANGE })
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_timeout(self, exchange: Duration) -> Self {
        Self { exchange, ..self }
    }

    async fn exchange(
        &self,
        request: http::Request<Bytes>,
        limit: usize,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let answer = self.client.request(request.map(Full::new)).await.map_err(|error| {
            if error.is_connect() {
                TransportError::Connect { source: error.into() }
            } else {
                TransportError::Broken { source: error.into() }
            }
        })?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                TransportError::TooLong
            } else {
                TransportError::Broken { source: error }
            }
        })?;
        Ok(http::Response::from_parts(head, body.to_bytes()))
    }
}

#[async_trait]
impl HttpTransport for Https {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        limit: usize,
    ) -> Result<http::Response<Bytes>, TransportError> {
        tokio::time::timeout(self.exchange, self.exchange(request, limit))
            .await
            .unwrap_or(Err(TransportError::Timeout))
    }
}
