#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use teleport_core::access::{AccessChecker, RoleSet};
use teleport_core::id::{NodeName, OsLogin};
use teleport_core::resource::{NodeRecord, RoleOptions, builtin_roles};
use teleport_core::testing::user_identity;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_secs(1_000_000);

/// As the roles make it: there is no other way.
fn policy(change: impl FnOnce(&mut RoleOptions)) -> SessionPolicy {
    let mut roles = builtin_roles();
    let access = roles.iter_mut().find(|role| role.metadata.name == "access").unwrap();
    access.spec.allow.logins = vec!["app".to_owned()];
    change(&mut access.spec.options);
    let roles = RoleSet::from(roles);
    let identity = user_identity("alice", "example.com", &["access"], &["app"], Timestamp::MAX);
    let node = NodeRecord {
        host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        name: NodeName::new("web-1").unwrap(),
        address: "192.0.2.7:3022".to_owned(),
        labels: "a=b".parse().unwrap(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    };
    let checker = AccessChecker::for_identity(&identity, &roles);
    checker.check_login(&identity, &node, &OsLogin::new("app").unwrap()).unwrap().policy
}

#[test]
fn whichever_comes_first_ends_it() {
    let secs = Duration::from_secs;
    let quiet = |policy: &mut RoleOptions| policy.client_idle_timeout = secs(600);
    let certificate = |policy: &mut RoleOptions| policy.disconnect_expired_cert = true;
    let (none, quiet, certificate, both) = (
        policy(|_| {}),
        policy(quiet),
        policy(certificate),
        policy(|options| {
            quiet(options);
            certificate(options);
        }),
    );
    let idle = Err(Over::Idle { after: secs(600) });
    for (policy, left, still, expected) in [
        (&none, 0, 1 << 30, Ok(None)),
        (&quiet, 0, 0, Ok(Some(secs(600)))),
        (&quiet, 0, 599, Ok(Some(secs(1)))),
        (&quiet, 0, 600, idle.clone()),
        (&quiet, 0, 601, idle.clone()),
        (&certificate, 60, 1 << 30, Ok(Some(secs(60)))),
        (&certificate, 0, 0, Err(Over::Expired)),
        (&both, 60, 0, Ok(Some(secs(60)))),
        (&both, 700, 100, Ok(Some(secs(500)))),
        (&both, 700, 600, idle.clone()),
        (&both, 0, 600, Err(Over::Expired)),
    ] {
        let found = rest(policy, NOW.saturating_add(secs(left)), NOW, secs(still));
        assert_eq!(found, expected, "{left} {still}");
    }
    // Long ago, too.
    assert_eq!(rest(&certificate, NOW.saturating_sub(secs(5)), NOW, secs(0)), Err(Over::Expired));
}

#[test]
fn times_are_told_as_administrators_write_them() {
    for (millis, expected) in
        [(250, "250ms"), (1000, "1s"), (90_000, "1m30s"), (5_400_000, "1h30m"), (7_200_000, "2h")]
    {
        assert_eq!(span(Duration::from_millis(millis)), expected);
    }
}
