//! The server's half: present the newest identity, find out who calls.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use teleport_core::cert::{
    CertRejected, HostIdentity, Identity, TlsAuthority, TlsFields, TrustBundle, X509Authority, verify_tls,
};
use teleport_core::clock::Clock;
use teleport_core::id::{ClusterName, HostRole};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ALPN_H2, ClockTime, auth_alpn, chain, provider, roots, unix_time};
use crate::identity::{HostIdentityHandle, HostMaterial};
use crate::rpc::ReadAhead;
use crate::rpc::x509::Leaf;

/// Finds out who presents a certificate: which authority vouches, and what `core` makes of it. The only way in.
#[derive(Debug)]
pub(crate) struct Authenticator {
    trust: TrustBundle,
    host: Option<Arc<dyn ClientCertVerifier>>,
    user: Option<Arc<dyn ClientCertVerifier>>,
}

impl Authenticator {
    pub(crate) fn new(trust: TrustBundle) -> Self {
        let verifier = |authorities: &[X509Authority]| {
            // Without authorities there is no verifier, and nobody passes.
            WebPkiClientVerifier::builder_with_provider(roots(authorities), provider()).build().ok()
        };
        Self { host: verifier(&trust.host_tls_ca), user: verifier(&trust.user_tls_ca), trust }
    }

    /// Which authority signed `leaf` itself. What else the peer sent is not looked at: nothing stands between an authority and an
    /// identity.
    fn authority(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<TlsAuthority, rustls::Error> {
        let mut refused = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        for (verifier, authority) in [(&self.host, TlsAuthority::Host), (&self.user, TlsAuthority::User)] {
            match verifier.as_ref().map(|verifier| verifier.verify_client_cert(leaf, &[], now)) {
                Some(Ok(_)) => return Ok(authority),
                Some(Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)))
                | None => {}
                Some(Err(error)) => refused = error,
            }
        }
        Err(refused)
    }

    /// Who presented `leaf`, from `peer` if that is known.
    pub(crate) fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        peer: Option<IpAddr>,
        clock: &dyn Clock,
    ) -> Result<Identity, CertRejected> {
        let authority = self.authority(leaf, unix_time(clock)).map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
            ) => CertRejected::Expired,
            _ => CertRejected::Authority,
        })?;
        let parsed = Leaf::parse(leaf).map_err(|_| CertRejected::Malformed)?;
        // `webpki` is content if the extension is missing.
        if !parsed.for_clients {
            return Err(CertRejected::Kind);
        }
        let fields = TlsFields {
            authority,
            common_name: &parsed.common_name,
            subject: &parsed.subject,
            serial: parsed.serial,
            not_before: parsed.not_before,
            not_after: parsed.not_after,
        };
        verify_tls(&fields, &self.trust, peer, clock.now())
    }

    fn any(&self) -> Option<&Arc<dyn ClientCertVerifier>> {
        self.host.as_ref().or(self.user.as_ref())
    }
}

/// For rustls: a certificate may be presented, and then it must be one of ours.
#[derive(Debug)]
struct OptionalClientCert(Arc<Authenticator>);

impl ClientCertVerifier for OptionalClientCert {
    fn offer_client_auth(&self) -> bool {
        self.0.any().is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.authority(end_entity, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.0.any() {
            Some(verifier) => verifier.verify_tls13_signature(message, cert, dss),
            None => Err(rustls::Error::General("no authority is known".to_owned())),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.any().map(|verifier| verifier.supported_verify_schemes()).unwrap_or_default()
    }
}

/// TLS for members of the cluster: follows the identity, so that a renewed certificate or a changed trust holds from the next connection on.
#[derive(Debug)]
pub(crate) struct TlsServer {
    identity: HostIdentityHandle,
    clock: Arc<dyn Clock>,
    protocols: fn(&ClusterName) -> Vec<Vec<u8>>,
    built: ArcSwapOption<Built>,
}

/// What was built of one identity.
#[derive(Debug)]
pub(crate) struct Built {
    material: Arc<HostMaterial>,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) authenticator: Arc<Authenticator>,
}

impl TlsServer {
    /// The auth service's.
    pub(crate) fn auth(identity: HostIdentityHandle, clock: Arc<dyn Clock>) -> Self {
        Self::new(identity, clock, |cluster| vec![ALPN_H2.to_vec(), auth_alpn(cluster)])
    }

    /// A service's that speaks one of `protocols` (ALPN).
    pub(crate) fn new(
        identity: HostIdentityHandle,
        clock: Arc<dyn Clock>,
        protocols: fn(&ClusterName) -> Vec<Vec<u8>>,
    ) -> Self {
        Self { identity, clock, protocols, built: ArcSwapOption::empty() }
    }

    /// What holds now. The same `Arc` for as long as the identity is the same.
    pub(crate) fn current(&self) -> Result<Arc<Built>, rustls::Error> {
        let material = self.identity.current();
        if let Some(built) = self.built.load_full().filter(|built| Arc::ptr_eq(&built.material, &material)) {
            return Ok(built);
        }
        let built = Arc::new(self.build(material)?);
        self.built.store(Some(Arc::clone(&built)));
        Ok(built)
    }

    /// TLS with a client that must be a host of this cluster, for the service `role`. Not cancel safe: the stream is lost.
    pub(crate) async fn accept_host<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        role: HostRole,
    ) -> io::Result<(TlsStream<ReadAhead<S>>, HostIdentity)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let built = self.current().map_err(io::Error::other)?;
        let tls = TlsAcceptor::from(Arc::clone(&built.config)).accept(ReadAhead::new(stream)).await?;
        let refused = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let leaf = leaf.ok_or_else(|| refused("no certificate was shown".to_owned()))?;
        let identity = built.authenticator.identify(leaf, Some(peer.ip()), &*self.clock);
        match identity.map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))? {
            Identity::Host(host) if host.role == role => Ok((tls, host)),
            _ => Err(refused(format!("the certificate is none of a {role}"))),
        }
    }

    fn build(&self, material: Arc<HostMaterial>) -> Result<Built, rustls::Error> {
        let authenticator = Arc::new(Authenticator::new(material.trust.clone()));
        let mut config =
            ServerConfig::builder_with_details(provider(), Arc::new(ClockTime(Arc::clone(&self.clock))))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(Arc::new(OptionalClientCert(Arc::clone(&authenticator))))
                .with_single_cert(chain(&material), material.tls.to_rustls())?;
        config.alpn_protocols = (self.protocols)(&material.cluster);
        // Nobody resumes: each connection proves anew who it is, by what is trusted then.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Built { material, config: Arc::new(config), authenticator })
    }
}

/// A host's own certificate and key for rustls.
pub(crate) fn certified_key(material: &HostMaterial) -> Result<CertifiedKey, rustls::Error> {
    let key = rustls::crypto::ring::sign::any_supported_type(&material.tls.to_rustls())?;
    Ok(CertifiedKey::new(chain(material), key))
}
