//! What the proxy shows to whom.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use teleport_core::cert::SERVICE_DNS_NAME;
use teleport_core::clock::Clock;

use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::rpc::tls::{ALPN_H2, ClockTime, certified_key, provider};

/// A certificate or key from a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct CertificateError {
    /// What is wrong.
    pub reason: &'static str,
}

/// A certificate for browsers and its key.
#[derive(Clone)]
pub struct WebCertificate(Arc<CertifiedKey>);

impl WebCertificate {
    /// From PEM: the certificate first, then those that lead to its authority; and the key (PKCS#8, PKCS#1 or SEC 1).
    ///
    /// # Errors
    /// [`CertificateError`], also for a key that is not the certificate's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let wrong = |reason| CertificateError { reason };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("the certificate file is not PEM"))?;
        if chain.is_empty() {
            return Err(wrong("the certificate file has no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| wrong("the key file has no private key in PEM"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| wrong("the key is of a kind that is not supported"))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => Ok(Self(Arc::new(certified))),
            Err(_) => Err(wrong("the key does not belong to the certificate")),
        }
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebCertificate")
    }
}

type Own = (Arc<HostMaterial>, Arc<CertifiedKey>);

/// Shows the configured certificate, and the proxy's own identity to those who ask for the cluster's name or if there is no other.
struct Certificates {
    configured: Option<WebCertificate>,
    identity: HostIdentityHandle,
    own: ArcSwapOption<Own>,
}

impl Certificates {
    fn own(&self) -> Option<Arc<CertifiedKey>> {
        let material = self.identity.current();
        if let Some(own) = self.own.load_full().filter(|own| Arc::ptr_eq(&own.0, &material)) {
            return Some(Arc::clone(&own.1));
        }
        let key = Arc::new(certified_key(&material).ok()?);
        self.own.store(Some(Arc::new((material, Arc::clone(&key)))));
        Some(key)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match &self.configured {
            Some(configured) if hello.server_name() != Some(SERVICE_DNS_NAME) => {
                Some(Arc::clone(&configured.0))
            }
            _ => self.own(),
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

/// TLS 1.2 and 1.3 for everybody. No client certificates: who has one talks to the auth service, or later to the proxy's own API.
pub(super) fn server_config(
    identity: HostIdentityHandle,
    configured: Option<WebCertificate>,
    clock: Arc<dyn Clock>,
) -> Option<Arc<ServerConfig>> {
    let certificates = Certificates { configured, identity, own: ArcSwapOption::empty() };
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
    Some(Arc::new(config))
}
