//! A cluster with an authority, subjects with keys, and the way from a certificate to the functions that accept it.

use std::sync::Arc;
use std::time::Duration;

use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_ca::seal::Sealer;
use teleport_core::cert::{
    CertFields, CertKind, HostGrant, PublicKey, SubjectKeys, TlsAuthority, TlsFields, TlsPublicKey,
    UserGrant, danger,
};
use teleport_core::clock::{Clock, SystemClock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, RoleName, UserName};
use teleport_core::secret::SecretBytes;
use teleport_core::storage::Backend;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) const CLUSTER: &str = "example.com";
pub(crate) const HOST_ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn cluster() -> ClusterName {
    ClusterName::new(CLUSTER).unwrap()
}

pub(crate) fn now() -> Timestamp {
    SystemClock::new().now()
}

pub(crate) fn sealer(seed: u8) -> Arc<Sealer> {
    let master: Vec<u8> = (0..32).map(|byte| byte ^ seed).collect();
    Arc::new(Sealer::new(&SecretBytes::new(master), Arc::new(SystemEntropy::new())).unwrap())
}

pub(crate) fn backend() -> Arc<dyn Backend> {
    Arc::new(MemoryBackend::new(Arc::new(SystemClock::new())))
}

pub(crate) async fn open(backend: &Arc<dyn Backend>) -> CertificateAuthority {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
    CertificateAuthority::open_or_create(cluster(), Arc::clone(backend), sealer(0), clock, entropy)
        .await
        .unwrap()
}

pub(crate) async fn authority() -> CertificateAuthority {
    open(&backend()).await
}

/// A private key for SSH and one for TLS, as a client has them.
pub(crate) struct Subject {
    pub(crate) ssh: ssh_key::PrivateKey,
    pub(crate) tls: rcgen::KeyPair,
    pub(crate) keys: SubjectKeys,
}

impl Subject {
    pub(crate) fn new(seed: u8) -> Self {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        Self::with(ssh_key::PrivateKey::from(pair))
    }

    pub(crate) fn with(ssh: ssh_key::PrivateKey) -> Self {
        let tls = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let keys = SubjectKeys {
            ssh: PublicKey::from_wire(&ssh.public_key().to_bytes().unwrap()).unwrap(),
            tls: TlsPublicKey::from_spki(&rcgen::PublicKeyData::subject_public_key_info(&tls)).unwrap(),
        };
        Self { ssh, tls, keys }
    }
}

pub(crate) fn user_grant(logins: &[&str]) -> UserGrant {
    let mut grant = danger::unchecked_user_grant(UserName::new("alice").unwrap(), HOUR);
    grant.logins = logins.iter().map(|login| OsLogin::new(login).unwrap()).collect();
    grant.roles = vec![RoleName::new("access").unwrap()];
    grant.traits.insert("team".into(), vec!["blue".into(), "größer, \"x\"".into()]);
    grant.permits.pty = true;
    grant.permits.port_forwarding = true;
    grant.login_ip = Some("192.0.2.7".parse().unwrap());
    grant.mfa_device = Some("5f0fad5b-d9cb-469f-a165-70867728950e".parse().unwrap());
    grant
}

pub(crate) fn host_grant(name: &str, role: HostRole) -> HostGrant {
    let (id, name) = (HOST_ID.parse::<HostId>().unwrap(), NodeName::new(name).unwrap());
    danger::unchecked_host_grant(id, name, cluster(), role, HOUR)
}

/// Reads an SSH certificate with another implementation, which checks the signature with the key inside.
pub(crate) fn ssh_fields(openssh: &str) -> CertFields {
    let cert = ssh_key::Certificate::from_openssh(openssh).unwrap();
    cert.verify_signature().unwrap();
    let pairs = |map: &ssh_key::certificate::OptionsMap| {
        map.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let plain = |key: &ssh_key::public::KeyData| {
        PublicKey::from_wire(&ssh_key::PublicKey::from(key.clone()).to_bytes().unwrap()).unwrap()
    };
    CertFields {
        kind: if cert.cert_type().is_host() { CertKind::Host } else { CertKind::User },
        subject: plain(cert.public_key()),
        authority: plain(cert.signature_key()),
        signature_algorithm: cert.signature().algorithm().to_string(),
        serial: cert.serial(),
        key_id: cert.key_id().to_owned(),
        principals: cert.valid_principals().to_vec(),
        valid_after: cert.valid_after(),
        valid_before: cert.valid_before(),
        critical_options: pairs(cert.critical_options()),
        extensions: pairs(cert.extensions()),
    }
}

/// Reads an X.509 identity and gives its fields to `check`, as if its chain had been verified.
pub(crate) fn with_tls_fields<T>(
    der: &[u8],
    authority: TlsAuthority,
    check: impl FnOnce(&TlsFields<'_>) -> T,
) -> T {
    let (rest, cert) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    let serial = cert.raw_serial();
    let low = u64::from_be_bytes(serial[serial.len() - 8..].try_into().unwrap());
    let subject =
        cert.extensions().iter().find(|extension| extension.oid.to_id_string() == "1.3.9999.42.1").unwrap();
    check(&TlsFields {
        authority,
        common_name: cert.subject().iter_common_name().next().unwrap().as_str().unwrap(),
        subject: subject.value,
        serial: low,
        not_before: u64::try_from(cert.validity().not_before.timestamp()).unwrap(),
        not_after: u64::try_from(cert.validity().not_after.timestamp()).unwrap(),
    })
}

fn parsed(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).unwrap().1
}

/// From when until when, in seconds since the epoch.
pub(crate) fn x509_life(der: &[u8]) -> (u64, u64) {
    let cert = parsed(der);
    let secs = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap();
    (secs(cert.validity().not_before), secs(cert.validity().not_after))
}

pub(crate) fn x509_serial(der: &[u8]) -> Vec<u8> {
    parsed(der).raw_serial().to_vec()
}

pub(crate) fn x509_spki(der: &[u8]) -> Vec<u8> {
    parsed(der).public_key().raw.to_vec()
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
