//! OpenSSH judges the SSH certificates: `ssh-keygen` reads them, `sshd` lets users in, `ssh` knows hosts.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use teleport_ca::CertificateAuthority;
use teleport_core::cert::danger::unchecked_openssh_grant;
use teleport_core::cert::{CertIssuer, PublicKey, UserGrant};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::HostRole;
use tempfile::TempDir;

use crate::sshd::{Sshd, identity, login};
use crate::support::{HOST_ID, Subject, authority, backend, cluster, host_grant, now, sealer, user_grant};

fn keygen_list(certificate: &str) -> String {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("id-cert.pub");
    std::fs::write(&path, certificate).unwrap();
    let output = Command::new("ssh-keygen").env("TZ", "UTC").arg("-L").arg("-f").arg(&path).output();
    let output = output.expect("ssh-keygen (openssh-client) is needed for this test");
    assert!(output.status.success(), "{output:?}");
    // The first line is the name of the file.
    String::from_utf8(output.stdout).unwrap().split_once('\n').unwrap().1.to_owned()
}

/// A time as `ssh-keygen` prints it.
fn local(time: Timestamp) -> String {
    time.to_string().replace(".000Z", "")
}

/// How it shows an extension that it does not know.
fn unknown(name: &str, value: &str) -> String {
    let mut data = u32::try_from(value.len()).unwrap().to_be_bytes().to_vec();
    data.extend(value.as_bytes());
    format!("{name} UNKNOWN OPTION: {} (len {})", data_encoding::HEXLOWER.encode(&data), data.len())
}

#[tokio::test]
async fn keygen_reads_the_user_as_it_was_meant() {
    let ca = authority().await;
    let subject = Subject::new(1);
    let mut grant = user_grant(&["root", "alice"]);
    grant.source_addresses = vec!["192.0.2.0/24".into(), "2001:db8::1".into()];
    grant.permits.agent_forwarding = true;
    grant.permits.x11_forwarding = true;
    grant.extensions = vec![
        ("zeta@example.com".into(), "1".into()),
        ("login@github.com".into(), "alice-gh".into()),
        ("queue@example.com".into(), String::new()),
    ];
    let cert = ca.sign_user_ssh(&grant, &subject.keys.ssh).await.unwrap();
    let expected = format!(
        "        Type: ssh-ed25519-cert-v01@openssh.com user certificate
        Public key: ED25519-CERT {}
        Signing CA: ED25519 {} (using ssh-ed25519)
        Key ID: \"alice\"
        Serial: {}
        Valid: from {} to {}
        Principals: \n                root
                alice
        Critical Options: \n                source-address 192.0.2.0/24,2001:db8::1
        Extensions: \n                {}
                {}
                {}
                permit-X11-forwarding
                permit-agent-forwarding
                permit-port-forwarding
                permit-pty
                {}
                {}
                {}
                {}
                {}
",
        subject.keys.ssh.fingerprint(),
        ca.trust_bundle().user_ca[0].fingerprint(),
        cert.serial,
        local(cert.valid_after),
        local(cert.valid_before),
        unknown("login-ip@teleport-rs", "192.0.2.7"),
        unknown("login@github.com", "alice-gh"),
        unknown("mfa-device@teleport-rs", "5f0fad5b-d9cb-469f-a165-70867728950e"),
        "queue@example.com UNKNOWN FLAG OPTION",
        unknown("roles@teleport-rs", "[\"access\"]"),
        unknown("route-to-cluster@teleport-rs", "example.com"),
        unknown("traits@teleport-rs", "{\"team\":[\"blue\",\"größer, \\\"x\\\"\"]}"),
        unknown("zeta@example.com", "1"),
    );
    assert_eq!(keygen_list(&cert.openssh), expected);
    assert!(now().unix_secs().abs_diff(cert.valid_after.unix_secs() + 60) < 300);
    assert_eq!(cert.valid_before.unix_secs() - cert.valid_after.unix_secs(), 3660);
}

#[tokio::test]
async fn keygen_reads_the_host_as_it_was_meant() {
    let ca = authority().await;
    let subject = Subject::new(2);
    let mut grant = host_grant("web-1", HostRole::Proxy);
    grant.addresses = vec!["proxy.example.com".into(), "10.0.0.5".into()];
    let cert = ca.issue_host(grant, &subject.keys).await.unwrap();
    let expected = format!(
        "        Type: ssh-ed25519-cert-v01@openssh.com host certificate
        Public key: ED25519-CERT {}
        Signing CA: ED25519 {} (using ssh-ed25519)
        Key ID: \"{HOST_ID} web-1\"
        Serial: {}
        Valid: from {} to {}
        Principals: \n                {HOST_ID}.example.com
                {HOST_ID}
                web-1.example.com
                web-1
                localhost
                127.0.0.1
                ::1
                teleport-proxy.example.com
                proxy.example.com
                10.0.0.5
        Critical Options: (none)
        Extensions: \n                {}
                {}
",
        subject.keys.ssh.fingerprint(),
        ca.trust_bundle().host_ca[0].fingerprint(),
        cert.serial,
        local(cert.valid_after),
        local(cert.valid_before),
        unknown("cluster@teleport-rs", "example.com"),
        unknown("host-role@teleport-rs", "proxy"),
    );
    assert_eq!(keygen_list(&cert.ssh), expected);
}

/// A key of each algorithm that is accepted, as the user's own tool makes it.
fn subjects() -> [(&'static str, Subject); 3] {
    [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384")].map(|(kind, bits)| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("key");
        let mut command = Command::new("ssh-keygen");
        let made = command.args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", "", "-f"]).arg(&path).status();
        assert!(made.expect("ssh-keygen (openssh-client) is needed for this test").success());
        (kind, Subject::with(ssh_key::PrivateKey::read_openssh_file(&path).unwrap()))
    })
}

fn known_hosts(authorities: &[PublicKey]) -> String {
    authorities.iter().map(|key| format!("@cert-authority * {key}\n")).collect()
}

async fn sshd(ca: &CertificateAuthority) -> Sshd {
    let host = Subject::new(2);
    let cert = ca.issue_host(host_grant("web-1", HostRole::Node), &host.keys).await.unwrap();
    Sshd::start(&host, &cert.ssh, &ca.trust_bundle().user_ca[0].to_string())
}

async fn user(
    ca: &CertificateAuthority,
    dir: &Path,
    subject: &Subject,
    grant: &UserGrant,
) -> std::path::PathBuf {
    let cert = ca.sign_user_ssh(grant, &subject.keys.ssh).await.unwrap();
    identity(dir, "user", subject, &cert.openssh)
}

#[tokio::test]
async fn sshd_lets_our_users_in() {
    let ca = authority().await;
    let sshd = sshd(&ca).await;
    let hosts = known_hosts(&ca.trust_bundle().host_ca);
    let login = login();
    for (name, subject) in subjects() {
        let grant = user_grant(&["nobody-else", &login]);
        let identity = user(&ca, sshd.path(), &subject, &grant).await;
        let output = sshd.connect("web-1.example.com", &hosts, &identity, &login);
        assert!(output.status.success(), "{name}: {output:?} {}", sshd.log());
        assert_eq!(output.stdout, b"let in\n");
        assert_eq!(output.stderr, b"", "no warnings");
    }
    assert!(sshd.log().contains("ID alice (serial "), "{}", sshd.log());
}

#[derive(Debug)]
struct Yesterday;

impl Clock for Yesterday {
    fn now(&self) -> Timestamp {
        now().saturating_sub(Duration::from_secs(24 * 3600))
    }
}

#[tokio::test]
async fn sshd_refuses_everybody_else() {
    let storage = backend();
    let ca = crate::support::open(&storage).await;
    let entropy = Arc::new(SystemEntropy::new());
    let yesterday =
        CertificateAuthority::open_or_create(cluster(), storage, sealer(0), Arc::new(Yesterday), entropy)
            .await
            .unwrap();
    let stranger = authority().await;
    let sshd = sshd(&ca).await;
    let hosts = known_hosts(&ca.trust_bundle().host_ca);
    let login = login();
    let subject = Subject::new(1);
    let mut elsewhere = user_grant(&[&login]);
    elsewhere.source_addresses = vec!["10.0.0.0/8".into()];
    let cases = [
        ("another authority", &stranger, user_grant(&[&login])),
        ("another login", &ca, user_grant(&["somebody"])),
        ("no login", &ca, user_grant(&[])),
        ("expired", &yesterday, user_grant(&[&login])),
        ("another address", &ca, elsewhere),
    ];
    for (name, authority, grant) in cases {
        let identity = user(authority, sshd.path(), &subject, &grant).await;
        let output = sshd.connect("web-1", &hosts, &identity, &login);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("Permission denied"), "{name}: {output:?}");
        assert!(output.stdout.is_empty());
    }
    // The certificate of a host is not one of a user.
    let host = Subject::new(3);
    let cert = ca.issue_host(host_grant(&login, HostRole::Node), &host.keys).await.unwrap();
    let output = sshd.connect("web-1", &hosts, &identity(sshd.path(), "user", &host, &cert.ssh), &login);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    // The same subject with a good certificate, so that the refusals above had their reasons.
    let mut here = user_grant(&[&login]);
    here.source_addresses = vec!["127.0.0.0/8".into()];
    let identity = user(&ca, sshd.path(), &subject, &here).await;
    let output = sshd.connect("web-1", &hosts, &identity, &login);
    assert!(output.status.success(), "{output:?} {}", sshd.log());
}

/// A10: a registered server trusts the authority of logins alone: no certificate of a user, and of a login one name for some minutes.
#[tokio::test]
async fn a10_a_registered_sshd_takes_one_login_and_no_users() {
    let storage = backend();
    let ca = crate::support::open(&storage).await;
    let entropy = Arc::new(SystemEntropy::new());
    let before: Arc<dyn Clock> = Arc::new(Yesterday);
    let yesterday = CertificateAuthority::open_or_create(cluster(), storage, sealer(0), before, entropy);
    let yesterday = yesterday.await.unwrap();
    let trust = ca.trust_bundle();
    let host = Subject::new(200);
    let shown = ca.issue_host(host_grant("web-1", HostRole::Node), &host.keys).await.unwrap();
    let sshd = Sshd::start(&host, &shown.ssh, &format!("{}\n", trust.openssh_ca[0]));
    let (hosts, login, subject) = (known_hosts(&trust.host_ca), login(), Subject::new(1));
    let grant = |login: &str| {
        unchecked_openssh_grant("alice".parse().unwrap(), login.parse().unwrap(), Duration::from_secs(60))
    };
    let connect = |certificate: &str| {
        let identity = identity(sshd.path(), "user", &subject, certificate);
        sshd.connect("web-1", &hosts, &identity, &login)
    };
    let issue = async |ca: &CertificateAuthority, login: &str| {
        ca.issue_openssh_login(grant(login), &subject.keys.ssh).await.unwrap().ssh
    };
    let users = ca.sign_user_ssh(&user_grant(&[&login]), &subject.keys.ssh).await.unwrap().openssh;
    for (case, certificate) in [
        ("a user's", users),
        ("another login", issue(&ca, "somebody").await),
        ("over", issue(&yesterday, &login).await),
        ("another cluster's", issue(&authority().await, &login).await),
    ] {
        let output = connect(&certificate);
        assert!(!output.status.success() && output.stdout.is_empty(), "{case}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{case}: {output:?}");
    }
    let output = connect(&issue(&ca, &login).await);
    assert!(output.status.success() && output.stdout == b"let in\n", "{output:?} {}", sshd.log());
    assert!(sshd.log().contains("ID alice (serial "), "{}", sshd.log());
}

#[tokio::test]
async fn ssh_knows_our_hosts_by_each_name_and_no_other() {
    let ca = authority().await;
    let stranger = authority().await;
    let sshd = sshd(&ca).await;
    let login = login();
    let identity = user(&ca, sshd.path(), &Subject::new(1), &user_grant(&[&login])).await;
    let trust = ca.trust_bundle();
    let hosts = known_hosts(&trust.host_ca);
    let id = format!("{HOST_ID}.example.com");
    for name in [&id, HOST_ID, "web-1.example.com", "web-1", "localhost", "127.0.0.1"] {
        let output = sshd.connect(name, &hosts, &identity, &login);
        assert!(output.status.success(), "{name}: {output:?} {}", sshd.log());
    }
    for (case, name, hosts) in [
        ("another name", "web-2.example.com", hosts.clone()),
        ("another authority", "web-1", known_hosts(&stranger.trust_bundle().host_ca)),
        ("the authority of users", "web-1", known_hosts(&trust.user_ca)),
        ("no authority", "web-1", String::new()),
    ] {
        let output = sshd.connect(name, &hosts, &identity, &login);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && text.contains("Host key verification failed"),
            "{case}: {output:?}"
        );
    }
}
