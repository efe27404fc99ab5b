//! OpenSSL and rustls judge the X.509 chains.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use teleport_ca::{CertificateAuthority, danger};
use teleport_core::cert::{CaPin, CertIssuer, SERVICE_DNS_NAME, TrustBundle};
use teleport_core::id::HostRole;
use tempfile::TempDir;

use crate::support::{HOST_ID, Subject, authority, host_grant, now, pem, user_grant, x509_spki};

struct Files {
    dir: TempDir,
    trust: TrustBundle,
    user: Vec<u8>,
    host: Vec<u8>,
    auth: Vec<u8>,
}

impl Files {
    async fn new(ca: &CertificateAuthority) -> Self {
        let user = ca.issue_user(user_grant(&["root"]), &Subject::new(1).keys).await.unwrap().tls;
        let mut grant = host_grant("web-1", HostRole::Node);
        grant.addresses = vec!["web.internal".into(), "10.0.0.5".into()];
        let host = ca.issue_host(grant, &Subject::new(2).keys).await.unwrap().tls;
        let auth =
            ca.issue_host(host_grant("auth-1", HostRole::Auth), &Subject::new(3).keys).await.unwrap().tls;
        let files = Self { dir: TempDir::new().unwrap(), trust: ca.trust_bundle(), user, host, auth };
        for (name, der) in [
            ("user", files.user.as_slice()),
            ("host", &files.host),
            ("auth", &files.auth),
            ("user-ca", files.trust.user_tls_ca[0].as_der()),
            ("host-ca", files.trust.host_tls_ca[0].as_der()),
        ] {
            std::fs::write(files.path(name), pem("CERTIFICATE", der)).unwrap();
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.pem"))
    }

    fn verify(&self, ca: &str, leaf: &str, options: &[&str]) -> Output {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile"]).arg(self.path(ca));
        command.args(options).arg(self.path(leaf)).output().expect("openssl is needed for this test")
    }

    #[track_caller]
    fn accepts(&self, ca: &str, leaf: &str, options: &[&str]) {
        let output = self.verify(ca, leaf, options);
        assert!(output.status.success(), "{leaf} by {ca} {options:?}: {output:?}");
    }

    #[track_caller]
    fn refuses(&self, ca: &str, leaf: &str, options: &[&str], why: &str) {
        let output = self.verify(ca, leaf, options);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(why), "{leaf} by {ca} {options:?}: {text}");
    }
}

fn openssl(args: &[&str], file: &Path) -> String {
    let output = Command::new("openssl")
        .args(args)
        .arg("-in")
        .arg(file)
        .output()
        .expect("openssl is needed for this test");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn openssl_accepts_each_chain_for_its_purpose_only() {
    let files = Files::new(&authority().await).await;
    let id = format!("{HOST_ID}.example.com");
    files.accepts("user-ca", "user", &["-purpose", "sslclient"]);
    files.refuses("user-ca", "user", &["-purpose", "sslserver"], "unsuitable certificate purpose");
    files.accepts("host-ca", "host", &["-purpose", "sslclient"]);
    files.accepts("host-ca", "host", &["-purpose", "sslserver"]);
    for name in [&id, HOST_ID, "web-1.example.com", "web-1", "localhost", "web.internal"] {
        files.accepts("host-ca", "host", &["-verify_hostname", name]);
    }
    for address in ["127.0.0.1", "::1", "10.0.0.5"] {
        files.accepts("host-ca", "host", &["-verify_ip", address]);
    }
    files.refuses("host-ca", "host", &["-verify_hostname", "web-2"], "hostname mismatch");
    files.refuses("host-ca", "host", &["-verify_hostname", SERVICE_DNS_NAME], "hostname mismatch");
    files.accepts("host-ca", "auth", &["-verify_hostname", SERVICE_DNS_NAME]);
}

#[tokio::test]
async fn openssl_refuses_crossed_chains() {
    let files = Files::new(&authority().await).await;
    let other = Files::new(&authority().await).await;
    files.refuses("host-ca", "user", &[], "error");
    files.refuses("user-ca", "host", &[], "error");
    std::fs::copy(other.path("user"), files.path("stranger")).unwrap();
    files.refuses("user-ca", "stranger", &[], "error");
}

/// A leaf, even one that its holder has the key of, vouches for nobody.
#[tokio::test]
async fn openssl_refuses_what_a_leaf_signed() {
    let ca = authority().await;
    let files = Files::new(&ca).await;
    let holder = Subject::new(1);
    let leaf = ca.issue_user(user_grant(&["root"]), &holder.keys).await.unwrap().tls;
    std::fs::write(files.path("leaf"), pem("CERTIFICATE", &leaf)).unwrap();
    let mut issuer = rcgen::CertificateParams::default();
    issuer.distinguished_name = rcgen::DistinguishedName::new();
    issuer.distinguished_name.push(rcgen::DnType::CommonName, "alice");
    let issuer = rcgen::Issuer::new(issuer, holder.tls);
    let mut forged = rcgen::CertificateParams::new(["web-1".to_owned()]).unwrap();
    forged.is_ca = rcgen::IsCa::ExplicitNoCa;
    forged.use_authority_key_identifier_extension = true;
    let forged = forged.signed_by(&Subject::new(9).tls, &issuer).unwrap();
    std::fs::write(files.path("forged"), pem("CERTIFICATE", forged.der())).unwrap();
    let leaf = files.path("leaf");
    files.accepts("user-ca", "leaf", &[]);
    files.refuses("user-ca", "forged", &["-untrusted", leaf.to_str().unwrap()], "invalid CA certificate");
}

#[tokio::test]
async fn openssl_prints_what_we_meant() {
    let ca = authority().await;
    let files = Files::new(&ca).await;
    let text = |name: &str| openssl(&["x509", "-noout", "-text"], &files.path(name));
    let authority = text("host-ca");
    for line in [
        "Issuer: CN = example.com, O = example.com",
        "Subject: CN = example.com, O = example.com",
        "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0",
        "X509v3 Key Usage: critical\n                Certificate Sign\n",
        "ASN1 OID: prime256v1",
        "Signature Algorithm: ecdsa-with-SHA256",
    ] {
        assert!(authority.contains(line), "{line} is not in {authority}");
    }
    let (not_before, not_after) = crate::support::x509_life(ca.trust_bundle().host_tls_ca[0].as_der());
    assert_eq!(not_after - not_before, 10 * 365 * 24 * 3600 + 60);
    assert!(now().unix_secs().abs_diff(not_before + 60) < 300);
    let user = text("user");
    for line in [
        "Subject: CN = alice\n",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n",
        "CA:FALSE",
        "1.3.9999.42.1: \n                {\"user\":{\"cluster\":\"example.com\",\"logins\":[\"root\"]",
    ] {
        assert!(user.contains(line), "{line} is not in {user}");
    }
    assert!(!user.contains("Subject Alternative Name"), "{user}");
    let host = text("host");
    for line in [
        &format!("Subject: CN = {HOST_ID}\n"),
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "CA:FALSE",
        "{\"host\":{\"cluster\":\"example.com\",\"name\":\"web-1\",\"role\":\"node\"}}",
        &format!(
            "DNS:{HOST_ID}.example.com, DNS:{HOST_ID}, DNS:web-1.example.com, DNS:web-1, DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:web.internal, IP Address:10.0.0.5"
        ),
    ] {
        assert!(host.contains(line), "{line} is not in {host}");
    }
}

#[tokio::test]
async fn the_pin_is_that_of_the_hosts_authority() {
    let ca = authority().await;
    let spki = x509_spki(ca.trust_bundle().host_tls_ca[0].as_der());
    assert_eq!(ca.ca_pins(), [CaPin::of_spki(&spki)]);
    assert_ne!(ca.ca_pins(), [CaPin::of_spki(&x509_spki(ca.trust_bundle().user_tls_ca[0].as_der()))]);
}

#[tokio::test]
async fn openssl_reads_exported_keys() {
    let ca = authority().await;
    let dir = TempDir::new().unwrap();
    let trust = ca.trust_bundle();
    for key in danger::export(&ca).await.unwrap() {
        let file = dir.path().join("key.pem");
        std::fs::write(&file, key.pem.expose()).unwrap();
        let output = Command::new("openssl")
            .args(["pkey", "-pubout", "-outform", "DER", "-in"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let publics = [&trust.user_ca[0], &trust.host_ca[0], &trust.openssh_ca[0]]
            .map(|key| key.as_wire()[19..].to_vec());
        let spkis = [&trust.user_tls_ca[0], &trust.host_tls_ca[0]].map(|ca| x509_spki(ca.as_der()));
        let found = publics.iter().chain(&spkis).filter(|public| output.stdout.ends_with(public)).count();
        assert_eq!(found, 1, "{}", key.purpose);
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(der: &[u8]) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(der.to_vec())).unwrap();
    Arc::new(roots)
}

fn rustls_accepts_server(root: &[u8], leaf: &[u8], name: &str) -> Result<(), rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(root), provider()).build().unwrap();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now().unix_secs()));
    let name = ServerName::try_from(name).unwrap();
    verifier.verify_server_cert(&CertificateDer::from(leaf), &[], &name, &[], time).map(|_| ())
}

fn rustls_accepts_client(root: &[u8], leaf: &[u8]) -> Result<(), rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(root), provider()).build().unwrap();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now().unix_secs()));
    verifier.verify_client_cert(&CertificateDer::from(leaf), &[], time).map(|_| ())
}

#[tokio::test]
async fn rustls_accepts_ours_and_refuses_the_rest() {
    let ca = authority().await;
    let files = Files::new(&ca).await;
    let (users, hosts) = (files.trust.user_tls_ca[0].as_der(), files.trust.host_tls_ca[0].as_der());
    rustls_accepts_client(users, &files.user).unwrap();
    rustls_accepts_client(hosts, &files.host).unwrap();
    rustls_accepts_server(hosts, &files.host, "web-1").unwrap();
    rustls_accepts_server(hosts, &files.host, "10.0.0.5").unwrap();
    rustls_accepts_server(hosts, &files.auth, SERVICE_DNS_NAME).unwrap();
    assert!(rustls_accepts_server(hosts, &files.host, SERVICE_DNS_NAME).is_err());
    assert!(rustls_accepts_server(users, &files.user, "localhost").is_err());
    assert!(rustls_accepts_client(hosts, &files.user).is_err());
    assert!(rustls_accepts_client(users, &files.host).is_err());
    assert!(rustls_accepts_client(users, users).is_err(), "an authority is no client");
}

/// A display name that is no DNS name must not make the whole certificate unreadable.
#[tokio::test]
async fn odd_names_do_no_harm() {
    let ca = authority().await;
    for name in ["web_1", "a..b", "1.2", "web-", "web.", "10.0.0.9", "a.-b", "7", &"x".repeat(200)] {
        let host = ca.issue_host(host_grant(name, HostRole::Node), &Subject::new(2).keys).await.unwrap().tls;
        let root = ca.trust_bundle();
        let id = format!("{HOST_ID}.example.com");
        rustls_accepts_server(root.host_tls_ca[0].as_der(), &host, &id)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let file = TempDir::new().unwrap();
        let path = file.path().join("host.pem");
        std::fs::write(&path, pem("CERTIFICATE", &host)).unwrap();
        openssl(&["x509", "-noout", "-text"], &path);
    }
}
