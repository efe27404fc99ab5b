//! The proxy's HTTPS as tsh and joining hosts see it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use teleport_core::api::{
    AcceptInvite, ApiError, ApiErrorKind, ApiResult, HostCredentials, InviteInfo, JoinRequest, LoginRequest,
    LoginResponse, Ping,
};
use teleport_core::cert::{CaPin, SERVICE_DNS_NAME, TrustBundle};
use teleport_core::clock::Clock;
use teleport_core::id::HostRole;
use teleport_core::secret::SecretString;

use super::CertificateError;
use super::pages::Page;
use crate::rpc::http::ErrorBody;
use crate::rpc::tls::{ALPN_H2, SeenAuthorities, ServerTrust, client_config, server_roles};
use crate::rpc::{SecretBody, TcpConnector, handshake, read_answer};

/// How long a request may take: password hashing on a busy server included.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Why a client believes a proxy.
#[derive(Clone, Debug)]
pub struct WebTrust(pub(super) Reason);

#[derive(Clone, Debug)]
pub(super) enum Reason {
    Bundle(TrustBundle),
    Pins(Vec<CaPin>),
    Roots(Vec<Vec<u8>>),
    Unverified,
}

impl WebTrust {
    /// Its certificate is of the cluster that is trusted already.
    pub const fn bundle(trust: TrustBundle) -> Self {
        Self(Reason::Bundle(trust))
    }

    /// It presents an authority that one of these pins names.
    pub const fn pins(pins: Vec<CaPin>) -> Self {
        Self(Reason::Pins(pins))
    }

    /// It has an ordinary HTTPS certificate for the dialled name by one of the authorities in a PEM file.
    ///
    /// # Errors
    /// [`CertificateError`] if there is none.
    pub fn roots_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let roots: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem)
            .map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError { reason: "the file of authorities is not PEM" })?;
        if roots.is_empty() {
            return Err(CertificateError { reason: "the file of authorities has no certificate" });
        }
        Ok(Self(Reason::Roots(roots)))
    }

    pub(crate) fn into_server_trust(self) -> ServerTrust {
        match self.0 {
            Reason::Bundle(bundle) => ServerTrust::Bundle(bundle),
            Reason::Pins(pins) => ServerTrust::Pins(pins),
            Reason::Roots(roots) => ServerTrust::Roots(roots),
            Reason::Unverified => ServerTrust::Unverified,
        }
    }
}

/// Why a request to a proxy failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// The cluster answered with an error.
    #[error(transparent)]
    Api(ApiError),
    /// Nobody answers there, or not in time.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The proxy.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// Whoever answers there is not what is trusted. Nothing was sent.
    #[error("{address} is not a server of the trusted cluster")]
    Untrusted {
        /// The proxy.
        address: String,
        /// The pins of the authorities that it presents.
        seen: Vec<CaPin>,
        /// The reason.
        source: io::Error,
    },
}

impl From<ApiError> for WebError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Where a message goes, given which service answered.
pub(crate) type ServerPath = fn(HostRole) -> &'static str;

/// One request over a connection of its own, after the server was verified.
pub(crate) struct Exchange<'a> {
    pub(crate) address: &'a str,
    pub(crate) trust: ServerTrust,
    pub(crate) expected: &'static [HostRole],
    pub(crate) clock: Arc<dyn Clock>,
}

impl Exchange<'_> {
    pub(crate) async fn send(
        &self,
        method: Method,
        path: ServerPath,
        body: Bytes,
    ) -> Result<Bytes, WebError> {
        match tokio::time::timeout(DEADLINE, self.exchange(method, path, body)).await {
            Ok(result) => result,
            Err(_) => Err(self.unreachable(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn exchange(&self, method: Method, path: ServerPath, body: Bytes) -> Result<Bytes, WebError> {
        let seen = SeenAuthorities::default();
        let protocols = vec![ALPN_H2.to_vec()];
        let clock = Arc::clone(&self.clock);
        let config =
            client_config(self.trust.clone(), self.expected, None, protocols, clock, Some(seen.clone()))
                .map_err(|error| self.untrusted(&seen, io::Error::other(error)))?;
        let host = match self.trust {
            ServerTrust::Roots(_) => host_of(self.address),
            _ => SERVICE_DNS_NAME,
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| self.unreachable(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream =
            TcpConnector::new([self.address]).tcp().await.map_err(|error| self.unreachable(error))?;
        let (mut sender, driver, leaf) = match handshake(Box::new(stream), name, Arc::new(config)).await {
            Ok(begun) => begun,
            Err(error) if is_about_certificate(&error) => return Err(self.untrusted(&seen, error)),
            Err(error) => return Err(self.unreachable(error)),
        };
        let role = crate::rpc::x509::role(&leaf).unwrap_or(HostRole::Proxy);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("https://{host}{}", path(role)).parse().map_err(ApiError::internal)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let broken = |error: hyper::Error| self.unreachable(io::Error::other(error));
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let bytes = read_answer(answer.into_body(), MAX_ANSWER).await?;
        drop(driver);
        if status.is_success() {
            return Ok(bytes);
        }
        Err(WebError::Api(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => body.into_error(),
            Err(_) => ApiError::new(
                ApiErrorKind::Unavailable,
                format!("{} answered HTTP {status}: it is not a server of a cluster", self.address),
            ),
        }))
    }

    fn unreachable(&self, source: io::Error) -> WebError {
        WebError::Unreachable { address: self.address.to_owned(), source }
    }

    fn untrusted(&self, seen: &SeenAuthorities, source: io::Error) -> WebError {
        WebError::Untrusted { address: self.address.to_owned(), seen: seen.pins(), source }
    }
}

/// The host of `host:port` or `[host]:port`.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn is_about_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

/// Talks to a proxy's HTTPS. Each call has a connection of its own and takes at most 30 s; the server is verified before anything is
/// sent.
#[derive(Clone, Debug)]
pub struct WebClient {
    address: String,
    trust: WebTrust,
    clock: Arc<dyn Clock>,
}

impl WebClient {
    /// For the proxy at `address` (`host:port`), believed because of `trust`.
    pub fn new(address: impl Into<String>, trust: WebTrust, clock: Arc<dyn Clock>) -> Self {
        Self { address: address.into(), trust, clock }
    }

    /// What a client must know before it logs in.
    ///
    /// # Errors
    /// [`WebError`].
    pub async fn ping(&self) -> Result<Ping, WebError> {
        self.exchange(Method::GET, |_| Page::Ping.path(), Bytes::new()).await
    }

    /// Logs a user in.
    ///
    /// # Errors
    /// [`WebError`]; of the kind denied whatever is wrong with the credentials.
    pub async fn login(&self, request: &LoginRequest) -> Result<LoginResponse, WebError> {
        self.call(|_| Page::Login.path(), request).await
    }

    /// What an invited user needs to set up a second factor.
    ///
    /// # Errors
    /// [`WebError`].
    pub async fn invite(&self, token: SecretString) -> Result<InviteInfo, WebError> {
        self.call(|_| Page::Invite.path(), &SecretBody { token }).await
    }

    /// Sets the invited user's password and second factor.
    ///
    /// # Errors
    /// [`WebError`].
    pub async fn accept(&self, request: &AcceptInvite) -> Result<(), WebError> {
        self.bytes(Method::POST, |_| Page::AcceptInvite.path(), to_json(request)?).await.map(drop)
    }

    /// Makes a host a member. [`crate::join::join`] is the way to do it.
    ///
    /// # Errors
    /// [`WebError`].
    pub async fn join(&self, request: &JoinRequest) -> Result<HostCredentials, WebError> {
        self.call(|_| Page::Join.path(), request).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        path: ServerPath,
        body: &impl Serialize,
    ) -> Result<T, WebError> {
        self.exchange(Method::POST, path, to_json(body)?).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: ServerPath,
        body: Bytes,
    ) -> Result<T, WebError> {
        from_json(&self.bytes(method, path, body).await?)
    }

    async fn bytes(&self, method: Method, path: ServerPath, body: Bytes) -> Result<Bytes, WebError> {
        let trust = self.trust.clone().into_server_trust();
        let clock = Arc::clone(&self.clock);
        let exchange = Exchange { address: &self.address, trust, expected: server_roles::PROXY, clock };
        exchange.send(method, path, body).await
    }
}

pub(crate) fn to_json(message: &impl Serialize) -> ApiResult<Bytes> {
    serde_json::to_vec(message).map(Into::into).map_err(ApiError::internal)
}

pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WebError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        ApiError::new(ApiErrorKind::Unavailable, "the answer was not understood").because(place).into()
    })
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn hosts_of_addresses() {
        for (address, host) in [
            ("proxy.example.com:3080", "proxy.example.com"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("proxy", "proxy"),
        ] {
            assert_eq!(host_of(address), host);
        }
    }
}
