#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_ca::seal::Sealer;
use teleport_core::cert::{CertIssuer, SubjectKeys, danger::unchecked_user_grant};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::ClusterName;
use teleport_core::secret::SecretBytes;

use super::*;
use crate::client::{FileFormat, write_identity};
use crate::identity::file::write_private;

const HOUR: Duration = Duration::from_secs(3600);

async fn authority(cluster: &str) -> CertificateAuthority {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
    let sealer = Sealer::new(&SecretBytes::new((0..32).collect::<Vec<u8>>()), entropy.clone()).unwrap();
    let backend = Arc::new(MemoryBackend::new(clock.clone()));
    let cluster = ClusterName::new(cluster).unwrap();
    let ca = CertificateAuthority::open_or_create(cluster, backend, Arc::new(sealer), clock, entropy);
    ca.await.unwrap()
}

/// An identity of `user` with these keys.
async fn issued(ca: &CertificateAuthority, user: &str, ssh: SshKeyPair, tls: TlsKeyPair) -> IdentityFile {
    let user = UserName::new(user).unwrap();
    let mut grant = unchecked_user_grant(user.clone(), HOUR);
    grant.logins = vec![OsLogin::new("root").unwrap()];
    grant.roles = vec![RoleName::new("access").unwrap()];
    grant.source_addresses = vec!["192.0.2.0/24".to_owned()];
    let (roles, logins) = (grant.roles.clone(), grant.logins.clone());
    let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    let certificates = ca.issue_user(grant, &keys).await.unwrap();
    let address = |text| ProxyAddress::parse(text).unwrap();
    let proxy =
        Some(ProxyAddresses { web: address("proxy.example.com:3080"), ssh: address("[2001:db8::1]:3023") });
    IdentityFile { user, roles, logins, ssh, tls, certificates, trust: ca.trust_bundle(), proxy }
}

/// An identity of alice, issued by an authority of its own for `cluster`.
async fn identity(cluster: &str) -> IdentityFile {
    let entropy = SystemEntropy::new();
    let (ssh, tls) = (SshKeyPair::generate(&entropy).unwrap(), TlsKeyPair::generate(&entropy).unwrap());
    issued(&authority(cluster).await, "alice", ssh, tls).await
}

#[tokio::test]
async fn what_is_written_is_read_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alice");
    let written = identity("example.com").await;
    let paths = write_identity(&written, FileFormat::File, &path).unwrap();
    assert_eq!(paths, std::slice::from_ref(&path));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let read = IdentityFile::read(&path).unwrap();
    assert_eq!((&read.user, &read.roles, &read.logins), (&written.user, &written.roles, &written.logins));
    assert_eq!(read.ssh.public(), written.ssh.public());
    assert_eq!(read.tls.to_pkcs8().expose(), written.tls.to_pkcs8().expose());
    assert_eq!((&read.certificates, &read.proxy), (&written.certificates, &written.proxy));
    let trust = TrustBundle { openssh_ca: Vec::new(), user_tls_ca: Vec::new(), ..written.trust.clone() };
    assert_eq!(read.trust, trust);
    // What was read is written as it was.
    assert_eq!(*read.to_text(), fs::read_to_string(&path).unwrap());
    // OpenSSH takes the first key of the file for its own.
    assert!(read.to_text().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));

    // Windows' line ends, comments and blank lines do no harm; without a proxy it is an identity as well.
    let text = read.to_text().replace("\n@proxy", "\n\n# @proxy").replace('\n', "\r\n");
    let read = IdentityFile::parse(&format!("# of alice\r\n\r\n{text}")).unwrap();
    assert_eq!((read.certificates, read.proxy), (written.certificates, None));
    let now = SystemClock::new().now();
    assert!(written.trust.user_tls_ca.len() == 1 && IdentityFile::parse(&text).unwrap().is_valid(now));
    assert!(!IdentityFile::parse(&text).unwrap().is_valid(now.saturating_add(HOUR)));
}

#[tokio::test]
async fn what_others_can_read_is_refused_as_openssh_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alice");
    write_identity(&identity("example.com").await, FileFormat::File, &path).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = IdentityFile::read(&path).unwrap_err();
        let IdentityFileError::File(reason) = &error.source else { panic!("{error:?}") };
        assert!(reason.to_string().contains(&format!("mode {mode:o}")), "{reason}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    // By way of a link, as deployments mount secrets.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(IdentityFile::read(&link).is_ok());
    let missing = IdentityFile::read(&dir.path().join("missing")).unwrap_err();
    assert!(matches!(&missing.source, IdentityFileError::File(e) if e.kind() == io::ErrorKind::NotFound));
    let long = dir.path().join("long");
    write_private(&long, &vec![b'\n'; 1 << 20]).unwrap();
    assert!(matches!(IdentityFile::read(&long).unwrap_err().source, IdentityFileError::File(_)));
}

/// Wherever it is cut, it is refused and says what is missing; only the last line feed can be done without.
#[tokio::test]
async fn a_truncated_file_is_refused_wherever_it_was_cut() {
    let text = identity("example.com").await.to_text();
    for cut in 0..text.len() - 1 {
        let said = IdentityFile::parse(&text[..cut]).expect_err(&text[..cut]).to_string();
        assert!(["missing", "damaged", "line "].iter().any(|word| said.contains(word)), "{cut}: {said}");
    }
    assert!(IdentityFile::parse(text.trim_end()).is_ok());
}

/// Whatever one character becomes: the file is refused, or says the same about the same user.
#[tokio::test]
async fn a_damaged_file_is_refused_or_harmless() {
    let whole = identity("example.com").await;
    let text = whole.to_text();
    let mut refused = 0;
    for at in (0..text.len()).step_by(3) {
        for to in ["", "\n", " ", "A", "-", "=", "\u{fffd}"] {
            match IdentityFile::parse(&[&text[..at], to, &text[at + 1..]].concat()) {
                Err(_) => refused += 1,
                Ok(read) => {
                    assert_eq!(
                        (read.user, read.roles, read.logins),
                        (whole.user.clone(), whole.roles.clone(), whole.logins.clone())
                    );
                    assert_eq!(
                        (read.ssh.public(), read.tls.public()),
                        (whole.ssh.public(), whole.tls.public())
                    );
                    assert_eq!(
                        (&read.certificates.ssh, read.trust.cluster),
                        (&whole.certificates.ssh, whole.trust.cluster.clone())
                    );
                }
            }
        }
    }
    assert!(refused > text.len(), "{refused} of {}", text.len());
}

#[tokio::test]
async fn parts_that_do_not_belong_together_are_refused() {
    let (one, other) = (identity("example.com").await, identity("example.com").await);
    let elsewhere = identity("other.example").await;
    let refusal = |identity: &IdentityFile| IdentityFile::parse(&identity.to_text()).unwrap_err();

    let key = IdentityFile { ssh: other.ssh.clone(), ..one.clone() };
    assert!(matches!(refusal(&key), IdentityFileError::Mismatch { part } if part.contains("SSH")));
    let key = IdentityFile { tls: other.tls.clone(), ..one.clone() };
    assert!(matches!(refusal(&key), IdentityFileError::Mismatch { part } if part.contains("X.509")));
    // Another cluster's authority, although it calls the cluster by the same name.
    let trust = IdentityFile { trust: other.trust.clone(), ..one.clone() };
    let reason = refusal(&trust);
    assert!(matches!(reason, IdentityFileError::Certificate { reason: CertRejected::Authority }), "{reason}");
    let two = format!("{}{}", one.to_text().as_str(), known_hosts(&elsewhere.trust));
    assert!(matches!(IdentityFile::parse(&two), Err(IdentityFileError::Different)));
    for part in [one.ssh.to_openssh(), one.tls.to_pem()] {
        let twice = format!("{}{}", one.to_text().as_str(), part.expose());
        assert!(matches!(IdentityFile::parse(&twice), Err(IdentityFileError::Twice { .. })));
    }
    // Both certificates are for the keys, and not of one user.
    let ca = authority("example.com").await;
    let alice = issued(&ca, "alice", one.ssh.clone(), one.tls.clone()).await;
    let mut both = issued(&ca, "bob", one.ssh.clone(), one.tls.clone()).await;
    both.certificates.tls.clone_from(&alice.certificates.tls);
    assert!(matches!(refusal(&both), IdentityFileError::Different));
    let text = one.to_text();
    for (from, to) in [
        ("-----BEGIN PRIVATE KEY", "-----BEGIN RSA PRIVATE KEY"),
        ("@cert-authority *.", "@cert-authority "),
        ("@proxy ", "@proxy -oProxyCommand=x:1 "),
        ("@proxy ", "@revoked "),
        ("cert-v01@openssh.com AAAA", "cert-v01@openssh.com AAAB"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert!(changed != **text && IdentityFile::parse(&changed).is_err(), "{from} as {to}");
    }
    let html = IdentityFile::parse("<html>").unwrap_err();
    assert_eq!(
        html.to_string(),
        "line 1 is none of an identity file, which `tsh login --out` and `tctl auth sign` write"
    );
    let empty = IdentityFile::parse("").unwrap_err().to_string();
    assert!(empty.contains("the private key for SSH is missing"), "{empty}");
}
