#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use std::os::unix::fs::PermissionsExt;

use teleport_core::testing::RepeatableEntropy;

use super::*;

fn profile(web: &str) -> Profile {
    let entropy = RepeatableEntropy::new(7);
    let ssh = SshKeyPair::generate(&entropy).unwrap();
    Profile {
        web_address: ProxyAddress::parse(web).unwrap(),
        ssh_address: ProxyAddress::parse("proxy.example.com:3023").unwrap(),
        user: UserName::new("alice").unwrap(),
        roles: vec![RoleName::new("access").unwrap()],
        logins: vec![OsLogin::new("root").unwrap()],
        tls: TlsKeyPair::generate(&entropy).unwrap(),
        certificates: IssuedCertificates {
            ssh: "ssh-ed25519-cert-v01@openssh.com AAAA".to_owned(),
            tls: vec![1, 2, 3],
            serial: 9,
            valid_after: Timestamp::from_unix_secs(1),
            valid_before: Timestamp::from_unix_secs(100),
        },
        trust: TrustBundle {
            cluster: ClusterName::new("example.com").unwrap(),
            user_ca: Vec::new(),
            openssh_ca: Vec::new(),
            host_ca: vec![ssh.public()],
            user_tls_ca: Vec::new(),
            host_tls_ca: Vec::new(),
        },
        ssh,
    }
}

#[test]
fn what_is_saved_is_loaded_and_private() {
    let home = tempfile::tempdir().unwrap();
    let store = ProfileStore::at(home.path().join("tsh"));
    assert!(store.load(None).unwrap().is_none());
    assert!(store.list().unwrap().is_empty());
    let saved = profile("proxy.example.com:3080");
    store.save(&saved).unwrap();
    let loaded = store.load(None).unwrap().unwrap();
    assert_eq!(loaded.ssh.public(), saved.ssh.public());
    assert_eq!(loaded.tls.public(), saved.tls.public());
    assert_eq!((loaded.certificates, loaded.trust), (saved.certificates, saved.trust));
    assert_eq!((loaded.user, loaded.web_address), (saved.user, saved.web_address));
    let dir = store.home().join("proxy.example.com");
    for (path, mode) in [
        (store.home().to_owned(), 0o700),
        (dir.clone(), 0o700),
        (store.home().join(CURRENT), 0o600),
        (dir.join(DOCUMENT), 0o600),
        (dir.join(KEY), 0o600),
        (dir.join(CERTIFICATE), 0o600),
        (dir.join(KNOWN_HOSTS), 0o600),
    ] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode, "{path:?}");
    }
    let lines = fs::read_to_string(dir.join(KNOWN_HOSTS)).unwrap();
    // By name only: nobody is believed for the address at which it was found.
    assert!(lines.starts_with("@cert-authority *.example.com"), "{lines}");
    assert!(!lines.contains("proxy.example.com"), "{lines}");
}

#[test]
fn the_newest_login_is_current_until_it_is_removed() {
    let home = tempfile::tempdir().unwrap();
    let store = ProfileStore::at(home.path());
    let (one, two) = (profile("one.example.com:443"), profile("two.example.com:8443"));
    store.save(&one).unwrap();
    store.save(&two).unwrap();
    assert_eq!(store.current().unwrap().as_deref(), Some("two.example.com_8443"));
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(store.load(Some(&one.web_address)).unwrap().unwrap().name(), "one.example.com");
    assert!(store.remove(&two.name()).unwrap().is_some());
    assert_eq!(store.current().unwrap(), None);
    assert!(store.remove(&two.name()).unwrap().is_none(), "twice is no error");
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn damaged_and_readable_profiles_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let store = ProfileStore::at(home.path());
    let profile = profile("proxy.example.com:3080");
    store.save(&profile).unwrap();
    let path = home.path().join("proxy.example.com").join(DOCUMENT);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(store.load(None), Err(ProfileError::File { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    for bad in
        ["", "{}", &good.replace("\"version\": 1", "\"version\": 2"), &good.replace("OPENSSH", "CLOSEDSSH")]
    {
        fs::write(&path, bad).unwrap();
        assert!(matches!(store.load(None), Err(ProfileError::Malformed { .. })), "{bad:.40}");
        assert!(store.list().unwrap().is_empty());
    }
    assert!(store.remove(&profile.name()).unwrap().is_none(), "a damaged profile can be removed");
}

#[test]
fn names_do_not_lead_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let store = ProfileStore::at(home.path());
    for name in ["", "..", "../x", "/etc", "a/b", "current", ".hidden"] {
        assert!(matches!(store.remove(name), Err(ProfileError::Proxy { .. })), "{name:?}");
    }
}
