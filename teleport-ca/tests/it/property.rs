//! For every grant: it is refused, or both certificates say exactly what was granted.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use teleport_core::cert::{
    CertIssuer, HostCheck, Identity, IssueError, MAX_USER_TTL, MIN_USER_TTL, Permits, TlsAuthority, Traits,
    UserCheck, UserGrant, UserIdentity, danger, verify_host, verify_tls, verify_user,
};
use teleport_core::id::{ClusterName, HostRole, NodeName, OsLogin, RoleName, UserName};

use crate::support::{CLUSTER, HOST_ID, Subject, authority, now, ssh_fields, with_tls_fields};

prop_compose! {
    fn grants()(
        user in "[a-z0-9][a-z0-9._@-]{0,63}",
        logins in prop::collection::vec("[A-Za-z0-9_][A-Za-z0-9._-]{0,20}[$]?", 0..34),
        roles in prop::collection::vec("[A-Za-z0-9][A-Za-z0-9._-]{0,20}", 0..6),
        traits in prop::collection::btree_map(".{0,12}", prop::collection::vec(any::<String>(), 0..4), 0..4),
        permits: [bool; 4],
        ttl in 0_u64..200_000,
        login_ip: Option<std::net::IpAddr>,
        device in prop::option::of("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}"),
        networks in prop::collection::vec("10\\.[0-9]{1,2}\\.0\\.[0-9]{1,2}(/[0-9]{1,2})?", 0..3),
    ) -> UserGrant {
        let mut grant = danger::unchecked_user_grant(UserName::new(&user).unwrap(), Duration::from_secs(ttl));
        grant.logins = logins.iter().map(|login| OsLogin::new(login).unwrap()).collect();
        grant.roles = roles.iter().map(|role| RoleName::new(role).unwrap()).collect();
        grant.traits = traits;
        let [agent_forwarding, port_forwarding, pty, x11_forwarding] = permits;
        grant.permits = Permits { agent_forwarding, port_forwarding, pty, x11_forwarding };
        grant.login_ip = login_ip;
        grant.mfa_device = device.map(|id| id.parse().unwrap());
        grant.source_addresses = networks;
        grant
    }
}

fn has_control(traits: &Traits) -> bool {
    traits.iter().any(|(name, values)| {
        name.chars().chain(values.iter().flat_map(|value| value.chars())).any(char::is_control)
    })
}

/// Whether the rules that the crate documents refuse it.
fn is_refused(grant: &UserGrant) -> bool {
    let number = |text: &str, max: u32| text.parse().is_ok_and(|n: u32| n <= max && n.to_string() == text);
    let network = |text: &String| {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        number(bits, 32) && address.split('.').all(|part| number(part, 255))
    };
    grant.logins.len() > 32 || has_control(&grant.traits) || !grant.source_addresses.iter().all(network)
}

fn check_identity(grant: &UserGrant, identity: UserIdentity) {
    assert_eq!(identity.user, grant.user);
    assert_eq!(identity.roles, grant.roles);
    assert_eq!(identity.traits, grant.traits);
    assert_eq!(identity.permits, grant.permits);
    assert_eq!(identity.mfa_device, grant.mfa_device);
    assert_eq!(identity.login_ip, grant.login_ip.map(|address| address.to_canonical()));
    assert_eq!(identity.logins.iter().collect::<BTreeSet<_>>(), grant.logins.iter().collect());
    assert_eq!(identity.source_addresses.len(), grant.source_addresses.len());
    assert_eq!(identity.force_command, None);
}

#[test]
fn a_user_certificate_says_what_was_granted() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ca = runtime.block_on(authority());
    let trust = ca.trust_bundle();
    let keys = Subject::new(1).keys;
    proptest!(|(mut grant in grants())| {
        let result = runtime.block_on(ca.issue_user(grant.clone(), &keys));
        if is_refused(&grant) {
            let refused = matches!(result, Err(IssueError::Refused { .. }));
            prop_assert!(refused, "{grant:?}");
            return Ok(());
        }
        let issued = result.unwrap();
        // So that the binding does not stand in the way of the comparison: an address that is within each network.
        let peer = grant.source_addresses.first().map(|text| text.split('/').next().unwrap().parse().unwrap());
        let check = UserCheck { login: None, peer, now: now() };
        let ssh = verify_user(&ssh_fields(&issued.ssh), &trust, check).unwrap();
        let ttl = grant.ttl.clamp(MIN_USER_TTL, MAX_USER_TTL).as_secs();
        prop_assert_eq!(issued.valid_before.unix_secs() - issued.valid_after.unix_secs(), ttl + 60);
        check_identity(&grant, ssh);
        let tls = with_tls_fields(&issued.tls, TlsAuthority::User, |fields| verify_tls(fields, &trust, peer, now()));
        let Ok(Identity::User(tls)) = tls else { panic!("{tls:?}") };
        prop_assert_eq!(&tls.logins, &grant.logins);
        grant.logins.dedup();
        check_identity(&grant, tls);
    });
}

#[test]
fn a_host_certificate_says_what_was_granted() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ca = runtime.block_on(authority());
    let trust = ca.trust_bundle();
    let keys = Subject::new(2).keys;
    let roles = prop::sample::select(HostRole::ALL.to_vec());
    proptest!(|(name in "[A-Za-z0-9][A-Za-z0-9._-]{0,60}", role in roles, addresses in prop::collection::vec("[a-z0-9][a-z0-9.-]{0,20}", 0..32))| {
        let (id, node, cluster) = (HOST_ID.parse().unwrap(), NodeName::new(&name).unwrap(), ClusterName::new(CLUSTER).unwrap());
        let mut grant = danger::unchecked_host_grant(id, node, cluster, role, Duration::from_secs(3600));
        grant.addresses = addresses.clone();
        let issued = runtime.block_on(ca.issue_host(grant, &keys)).unwrap();
        let fields = ssh_fields(&issued.ssh);
        let within = format!("{name}.{CLUSTER}");
        for expected in [HOST_ID, &name, &within, "localhost"].into_iter().chain(addresses.iter().map(String::as_str)) {
            let identity = verify_host(&fields, &trust, HostCheck { name: expected, role, now: now() }).unwrap();
            prop_assert_eq!(identity.name.as_str(), &name);
        }
        let tls = with_tls_fields(&issued.tls, TlsAuthority::Host, |fields| verify_tls(fields, &trust, None, now()));
        let Ok(Identity::Host(tls)) = tls else { panic!("{tls:?}") };
        prop_assert_eq!((tls.host_id, tls.name.as_str(), tls.role), (id, name.as_str(), role));
    });
}
