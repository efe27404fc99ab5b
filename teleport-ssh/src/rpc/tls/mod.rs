//! TLS as this platform uses it: one provider, our clock, our authorities.

mod client;
mod server;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use teleport_core::cert::{TrustBundle, X509Authority};
use teleport_core::clock::Clock;
use teleport_core::id::ClusterName;

pub(crate) use self::client::{SeenAuthorities, ServerTrust, TlsIdentity, client_config, server_roles};
pub(crate) use self::server::{Authenticator, TlsServer, certified_key};
use crate::identity::HostMaterial;

/// Names the protocol of the auth API inside TLS.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// The name by which a proxy recognises connections that are for the cluster's auth service, and by which the auth service
/// accepts them.
pub(crate) fn auth_alpn(cluster: &ClusterName) -> Vec<u8> {
    format!("teleport-auth@{cluster}").into_bytes()
}

/// The provider, given explicitly everywhere: a second one in an embedder's dependencies must not matter.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Our clock for rustls.
#[derive(Debug)]
pub(crate) struct ClockTime(pub(crate) Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.as_ref()))
    }
}

fn unix_time(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(clock.now().unix_secs()))
}

/// The authorities as `webpki` wants them. One that cannot be read is left out: it then vouches for nobody.
fn roots(authorities: &[X509Authority]) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        if let Err(error) = store.add(CertificateDer::from(authority.as_der())) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an authority of the trust bundle cannot be used"
            );
        }
    }
    Arc::new(store)
}

/// What a host presents: its certificate and the authorities of hosts, by which those who know a pin recognise them.
fn chain(material: &HostMaterial) -> Vec<CertificateDer<'static>> {
    let mut chain = vec![CertificateDer::from(material.tls_certificate.clone())];
    chain.extend(host_authorities(&material.trust));
    chain
}

fn host_authorities(trust: &TrustBundle) -> impl Iterator<Item = CertificateDer<'static>> {
    trust.host_tls_ca.iter().map(|authority| CertificateDer::from(authority.as_der().to_vec()))
}
