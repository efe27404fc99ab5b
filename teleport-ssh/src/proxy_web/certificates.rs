//! What the proxy shows to whom.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use teleport_core::cert::SERVICE_DNS_NAME;
use teleport_core::clock::{Clock, Timestamp};

use super::WebCertificate;
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::rpc::tls::{ALPN_H2, ClockTime, certified_key, provider};

/// The certificates for browsers. Clones share them: what is shown can change while a proxy serves.
///
/// Of several the first one is shown that is for the name that a client asks for (SNI), or else the very first.
#[derive(Clone, Default)]
pub struct WebCertificates(Arc<Shown>);

#[derive(Default)]
struct Shown {
    certificates: ArcSwap<Vec<WebCertificate>>,
    /// By name, what proves to an authority that this name leads here.
    #[cfg(feature = "acme")]
    proofs: ArcSwap<std::collections::BTreeMap<String, Arc<CertifiedKey>>>,
}

impl WebCertificates {
    /// These; without any the proxy shows its own identity.
    pub fn new(certificates: impl IntoIterator<Item = WebCertificate>) -> Self {
        let shown = Self::default();
        shown.show(certificates);
        shown
    }

    /// Shows these from now on.
    pub fn show(&self, certificates: impl IntoIterator<Item = WebCertificate>) {
        self.0.certificates.store(Arc::new(certificates.into_iter().collect()));
    }

    /// When the first of them ends; `None` if there is none.
    pub fn first_end(&self) -> Option<Timestamp> {
        self.0.certificates.load().iter().map(WebCertificate::valid_before).min()
    }

    fn of(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let all = self.0.certificates.load();
        let asked = name.and_then(|name| all.iter().find(|certificate| certificate.is_for(name)));
        asked.or(all.first()).map(WebCertificate::key)
    }
}

#[cfg(feature = "acme")]
mod proofs {
    use std::collections::BTreeMap;

    use super::*;
    use crate::acme::TLS_ALPN;

    impl WebCertificates {
        /// What authorities are shown from now on who look whether a name leads here.
        pub(crate) fn prove(&self, proofs: BTreeMap<String, Arc<CertifiedKey>>) {
            self.0.proofs.store(Arc::new(proofs));
        }

        /// For those who ask for nothing but a proof. Whoever asks for a name that is not to be proved now sees nothing.
        pub(in crate::proxy_web) fn proofs(&self, clock: Arc<dyn Clock>) -> Option<Arc<ServerConfig>> {
            let mut config = config(Arc::new(ShowsProofs(self.clone())), clock)?;
            config.alpn_protocols = vec![TLS_ALPN.to_vec()];
            Some(Arc::new(config))
        }
    }

    #[derive(Debug)]
    struct ShowsProofs(WebCertificates);

    impl ResolvesServerCert for ShowsProofs {
        fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            let name = hello.server_name()?.to_ascii_lowercase();
            self.0.0.proofs.load().get(&name).cloned()
        }
    }
}

impl fmt::Debug for WebCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebCertificates").field(&self.0.certificates.load()).finish()
    }
}

type Own = (Arc<HostMaterial>, Arc<CertifiedKey>);

/// Shows the configured certificates, and the proxy's own identity to those who ask for the cluster's name or if there is no other.
struct Certificates {
    configured: WebCertificates,
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
        match hello.server_name() {
            Some(SERVICE_DNS_NAME) => self.own(),
            name => self.configured.of(name).or_else(|| self.own()),
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
    configured: WebCertificates,
    clock: Arc<dyn Clock>,
) -> Option<Arc<ServerConfig>> {
    let certificates = Certificates { configured, identity, own: ArcSwapOption::empty() };
    let mut config = config(Arc::new(certificates), clock)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
    Some(Arc::new(config))
}

fn config(certificates: Arc<dyn ResolvesServerCert>, clock: Arc<dyn Clock>) -> Option<ServerConfig> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)));
    Some(
        builder
            .with_safe_default_protocol_versions()
            .ok()?
            .with_no_client_auth()
            .with_cert_resolver(certificates),
    )
}
