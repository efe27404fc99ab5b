//! TLS between members of the cluster that know each other: both show their certificates.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use teleport_core::cert::{HostIdentity, Identity, SERVICE_DNS_NAME};
use teleport_core::clock::Clock;
use teleport_core::id::HostRole;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::HostMaterial;
use crate::rpc::ReadAhead;
use crate::rpc::tls::{Authenticator, ServerTrust, TlsIdentity, client_config, server_roles};

/// How long TLS and the beginning of HTTP/2 may take, each.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connects to a proxy for `protocol` over `stream`, as `material` says who we are and whom we trust. Returns which proxy it is.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    material: &HostMaterial,
    protocol: &'static [u8],
    clock: Arc<dyn Clock>,
) -> io::Result<(HostIdentity, TlsStream<ReadAhead<S>>)> {
    let identity =
        TlsIdentity { certificate: material.tls_certificate.clone(), key: material.tls.to_rustls() };
    let trust = ServerTrust::Bundle(material.trust.clone());
    let protocols = vec![protocol.to_vec()];
    let config =
        client_config(trust, server_roles::PROXY, Some(identity), protocols, Arc::clone(&clock), None)
            .map_err(io::Error::other)?;
    let name = ServerName::try_from(SERVICE_DNS_NAME).map_err(io::Error::other)?;
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, ReadAhead::new(stream));
    let tls = tokio::time::timeout(HANDSHAKE, shaking).await??;
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(protocol) {
        let why = format!("the proxy does not speak {}", String::from_utf8_lossy(protocol));
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let leaf =
        session.peer_certificates().and_then(|chain| chain.first()).ok_or(io::ErrorKind::InvalidData)?;
    let identity = Authenticator::new(material.trust.clone()).identify(leaf, None, &*clock);
    match identity.map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))? {
        Identity::Host(host) if host.role == HostRole::Proxy => Ok((host, tls)),
        _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the certificate is none of a proxy")),
    }
}
