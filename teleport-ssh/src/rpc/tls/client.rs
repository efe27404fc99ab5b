//! The client's half: who must the server be, and who are we.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use teleport_core::cert::{CaPin, SERVICE_DNS_NAME, Subject, TrustBundle};
use teleport_core::clock::Clock;
use teleport_core::id::HostRole;

use super::{ClockTime, provider, roots};
use crate::rpc::x509::{Leaf, authority_spki};

/// Why a server is believed to belong to the cluster.
#[derive(Clone, Debug)]
pub(crate) enum ServerTrust {
    /// Its certificate was issued by an authority of hosts that is known already.
    Bundle(TrustBundle),
    /// The same by an authority that it presents and that one of these pins names.
    Pins(Vec<CaPin>),
    /// An ordinary HTTPS certificate for the dialled name, by one of these authorities (DER).
    Roots(Vec<Vec<u8>>),
    /// **Nothing**: any authority that it presents will do.
    Unverified,
}

/// A client's certificate and key.
pub(crate) struct TlsIdentity {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// TLS for a client. The handshake fails unless the server is what `trust` and `expected` say, before anything is sent.
pub(crate) fn client_config(
    trust: ServerTrust,
    expected: &'static [HostRole],
    identity: Option<TlsIdentity>,
    alpn: Vec<Vec<u8>>,
    clock: Arc<dyn Clock>,
    seen: Option<SeenAuthorities>,
) -> Result<ClientConfig, Error> {
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        ServerTrust::Roots(ders) => {
            let mut store = RootCertStore::empty();
            // Systems have roots that nobody can read; without any that can be read there is no verifier.
            store.add_parsable_certificates(ders.into_iter().map(CertificateDer::from));
            webpki(Arc::new(store))?
        }
        trust => Arc::new(ClusterServer { trust, expected, seen: seen.unwrap_or_default() }),
    };
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(TlsIdentity { certificate, key }) => {
            builder.with_client_auth_cert(vec![CertificateDer::from(certificate)], key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The services that a server's certificate may name.
pub(crate) mod server_roles {
    use teleport_core::id::HostRole;

    /// The auth service.
    pub(crate) const AUTH: &[HostRole] = &[HostRole::Auth];
    /// The HTTPS of a proxy.
    pub(crate) const PROXY: &[HostRole] = &[HostRole::Proxy];
    /// Whoever lets hosts join.
    pub(crate) const AUTH_OR_PROXY: &[HostRole] = &[HostRole::Auth, HostRole::Proxy];
}

/// The pins of the authorities that a server presented, for the error and the warning.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenAuthorities(Arc<Mutex<Vec<CaPin>>>);

impl SeenAuthorities {
    fn note(&self, pins: Vec<CaPin>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pins;
    }

    pub(crate) fn pins(&self) -> Vec<CaPin> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn webpki(roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    // The only reason to fail is that there is no authority, and then nobody can be verified.
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|_| CertificateError::UnknownIssuer.into())
}

/// Accepts services of the cluster: issued by its authority of hosts, named as all of them are, with the right role.
#[derive(Debug)]
struct ClusterServer {
    trust: ServerTrust,
    expected: &'static [HostRole],
    seen: SeenAuthorities,
}

impl ClusterServer {
    fn roots(&self, presented: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        let authorities =
            presented.iter().filter_map(|der| Some((der, CaPin::of_spki(&authority_spki(der)?))));
        let authorities: Vec<_> = authorities.collect();
        self.seen.note(authorities.iter().map(|(_, pin)| *pin).collect());
        let accepted: Box<dyn Fn(&CaPin) -> bool> = match &self.trust {
            ServerTrust::Bundle(bundle) => return Ok(roots(&bundle.host_tls_ca)),
            // A fold, so that the comparison's time does not say which pin it was.
            ServerTrust::Pins(pins) => {
                Box::new(|seen| pins.iter().fold(false, |found, pin| found | (pin == seen)))
            }
            ServerTrust::Unverified => Box::new(|_| true),
            ServerTrust::Roots(_) => Box::new(|_| false),
        };
        let mut store = RootCertStore::empty();
        for (der, _) in authorities.iter().filter(|(_, pin)| accepted(pin)) {
            store.add((*der).clone())?;
        }
        Ok(Arc::new(store))
    }
}

impl ServerCertVerifier for ClusterServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = ServerName::try_from(SERVICE_DNS_NAME)
            .map_err(|_| Error::General("the services' name is no DNS name".to_owned()))?;
        // What was presented can be an anchor if it is known or pinned, never a link of a chain.
        let verifier = webpki(self.roots(intermediates)?)?;
        let verified = verifier.verify_server_cert(end_entity, &[], &name, ocsp_response, now)?;
        let leaf = Leaf::parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        match serde_json::from_slice(&leaf.subject) {
            Ok(Subject::Host { cluster, role, .. }) if self.expected.contains(&role) => match &self.trust {
                ServerTrust::Bundle(bundle) if bundle.cluster != cluster => {
                    Err(CertificateError::ApplicationVerificationFailure.into())
                }
                _ => Ok(verified),
            },
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
