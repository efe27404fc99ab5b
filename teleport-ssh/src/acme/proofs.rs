//! Proofs that a name leads here: only while they are asked for, and only of names that were ordered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use instant_acme::{ChallengeType, KeyAuthorization};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use teleport_core::entropy::Entropy;
use teleport_core::task::Shutdown;

use crate::listener::limits::Limits;
use crate::listener::{Accepted, BindError, Ports};
use crate::mux::ProxyProtocol;
use crate::proxy_web::WebCertificates;

/// Where an authority asks (RFC 8555, section 8.3).
const PATH: &str = "/.well-known/acme-challenge/";
/// How long a request's header may take, and one connection in all.
const HEADER: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(10);

/// What is answered by HTTP now: by token.
type Tokens = Arc<Mutex<BTreeMap<String, String>>>;

/// Where proofs are shown.
pub(super) struct Proofs {
    certificates: WebCertificates,
    /// By HTTP-01, or else by TLS-ALPN-01.
    http: Option<Tokens>,
}

/// A proof of one name.
pub(super) enum Proof {
    /// For the token this.
    Http(String, String),
    /// For the name this.
    Tls(String, Arc<CertifiedKey>),
}

impl Proofs {
    pub(super) fn new(certificates: WebCertificates, http: Option<Tokens>) -> Self {
        Self { certificates, http }
    }

    /// How names are proved.
    pub(super) fn kind(&self) -> ChallengeType {
        if self.http.is_some() { ChallengeType::Http01 } else { ChallengeType::TlsAlpn01 }
    }

    /// The proof of `name`.
    pub(super) fn of(&self, name: &str, token: &str, key: &KeyAuthorization) -> Result<Proof, rcgen::Error> {
        if self.http.is_some() {
            return Ok(Proof::Http(token.to_owned(), key.as_str().to_owned()));
        }
        Ok(Proof::Tls(name.to_owned(), certificate(name, key.digest().as_ref())?))
    }

    /// Shows these and no others.
    pub(super) fn show(&self, proofs: Vec<Proof>) {
        let (mut by_token, mut by_name) = (BTreeMap::new(), BTreeMap::new());
        for proof in proofs {
            match proof {
                Proof::Http(token, answer) => drop(by_token.insert(token, answer)),
                Proof::Tls(name, key) => drop(by_name.insert(name, key)),
            }
        }
        if let Some(tokens) = &self.http {
            *tokens.lock().unwrap_or_else(PoisonError::into_inner) = by_token;
        }
        self.certificates.prove(by_name);
    }

    /// Shows none any more.
    pub(super) fn clear(&self) {
        self.show(Vec::new());
    }
}

impl Drop for Proofs {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What TLS-ALPN-01 wants to see: for the name, signed by itself, with the digest of the answer (RFC 8737).
fn certificate(name: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

/// A port for plain HTTP at which an authority asks for proofs. There is nothing else.
#[derive(Debug)]
pub(super) struct ProofPort {
    ports: Ports,
    tokens: Tokens,
}

impl ProofPort {
    pub(super) fn open(address: SocketAddr, entropy: Arc<dyn Entropy>) -> Result<Self, BindError> {
        // Strangers, and there for a moment.
        let limits =
            Limits { penalties: false, connections: 256, login_grace: CONNECTION, ..Limits::default() };
        Ok(Self {
            ports: Ports::open(vec![address], ProxyProtocol::default(), limits, entropy)?,
            tokens: Tokens::default(),
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.ports.local_addr()
    }

    pub(super) fn tokens(&self) -> Tokens {
        Arc::clone(&self.tokens)
    }

    pub(super) async fn serve(self, shutdown: Shutdown) {
        let tokens = self.tokens;
        let handler = move |accepted: Accepted| {
            let tokens = Arc::clone(&tokens);
            async move {
                let _ = tokio::time::timeout(CONNECTION, connection(accepted, &tokens)).await;
            }
        };
        self.ports.serve(shutdown, handler).await;
    }
}

async fn connection(accepted: Accepted, tokens: &Tokens) {
    let Accepted { stream, peer, admitted, .. } = accepted;
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let answer = answer(request.method(), request.uri().path(), tokens);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(16 << 10)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a request for a proof has failed");
    }
    drop(admitted);
}

fn answer(method: &Method, path: &str, tokens: &Tokens) -> Response<Full<Bytes>> {
    let proof = || {
        let token = path.strip_prefix(PATH)?;
        tokens.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    };
    let found = if method == Method::GET { proof() } else { None };
    let mut response = Response::new(Full::new(Bytes::from(found.clone().unwrap_or_default())));
    match found {
        Some(_) => {
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        None => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}
