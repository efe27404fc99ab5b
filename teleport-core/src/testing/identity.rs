//! Identities and keys that no certificate stands for.

use crate::cert::{HostIdentity, Permits, PublicKey, SubjectKeys, TlsPublicKey, Traits, UserIdentity};
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostRole, InvalidName, NodeName, OsLogin, RoleName, UserName};

/// Names in tests are written down by the programmer; a wrong one is a wrong test.
#[expect(clippy::panic, reason = "tests fail by panicking")]
fn name<T>(parsed: Result<T, InvalidName>) -> T {
    parsed.unwrap_or_else(|error| panic!("a test uses a name that cannot be: {error}"))
}

/// A host as it would be after verification.
///
/// # Panics
/// For names that are not valid.
pub fn host_identity(
    host_id: &str,
    node_name: &str,
    cluster: &str,
    role: HostRole,
    expires: Timestamp,
) -> HostIdentity {
    HostIdentity {
        host_id: name(host_id.parse()),
        name: name(NodeName::new(node_name)),
        cluster: name(ClusterName::new(cluster)),
        role,
        serial: 1,
        expires,
    }
}

/// A user as it would be after verification, with a trait `logins` like its logins and every permission but X11.
///
/// # Panics
/// For names that are not valid.
pub fn user_identity(
    user: &str,
    cluster: &str,
    roles: &[&str],
    logins: &[&str],
    expires: Timestamp,
) -> UserIdentity {
    let values = logins.iter().map(|login| (*login).to_owned()).collect();
    UserIdentity {
        user: name(UserName::new(user)),
        cluster: name(ClusterName::new(cluster)),
        roles: roles.iter().map(|role| name(RoleName::new(role))).collect(),
        logins: logins.iter().map(|login| name(OsLogin::new(login))).collect(),
        traits: Traits::from([("logins".to_owned(), values)]),
        permits: Permits { agent_forwarding: true, port_forwarding: true, pty: true, x11_forwarding: false },
        force_command: None,
        source_addresses: Vec::new(),
        extensions: Vec::new(),
        login_ip: None,
        mfa_device: None,
        serial: 1,
        valid_after: Timestamp::EPOCH,
        expires,
    }
}

/// Public keys of the right form, different for each `number`, that nobody has the private halves of.
///
/// # Panics
/// Never.
#[expect(clippy::panic, reason = "the form is right")]
pub fn subject_keys(number: u64) -> SubjectKeys {
    let mut ssh = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    ssh.extend([0x5a; 24]);
    ssh.extend(number.to_be_bytes());
    let mut tls = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\0\x04".to_vec();
    tls.extend([0x5a; 56]);
    tls.extend(number.to_be_bytes());
    match (PublicKey::from_wire(&ssh), TlsPublicKey::from_spki(&tls)) {
        (Ok(ssh), Ok(tls)) => SubjectKeys { ssh, tls },
        _ => panic!("the form of the keys is wrong"),
    }
}
