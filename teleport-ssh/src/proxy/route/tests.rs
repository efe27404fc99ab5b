#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use std::collections::BTreeMap;

use teleport_core::access::{RoleSet, Subject};
use teleport_core::api::NodeEvent;
use teleport_core::cert::Traits;
use teleport_core::label::LabelMatcher;
use teleport_core::resource::{NodeRecord, Role, RoleConditions, RoleSpec};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
const LONG_AGO: Timestamp = Timestamp::from_unix_secs(1_700_000_000);

fn id(number: u128) -> HostId {
    format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap()
}

fn node(number: u128, name: &str, address: &str, labels: &str, last_seen: Timestamp) -> Node {
    Node {
        record: NodeRecord {
            host_id: id(number),
            name: NodeName::new(name).unwrap(),
            address: address.to_owned(),
            labels: labels.parse().unwrap(),
            sub_kind: teleport_core::resource::NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: "0".to_owned(),
        },
        last_seen,
    }
}

/// What `alice`, who may see `env=prod` only, gets.
fn route(target: &str) -> Result<HostId, RouteError> {
    let mut table = NodeTable::new();
    table.apply(NodeEvent::Snapshot(vec![
        node(1, "web", "10.0.0.1:3022", "env=prod,tier=front", NOW),
        node(2, "db", "10.0.0.2:2222", "env=prod,tier=back", NOW),
        node(3, "twin", "10.0.0.3:3022", "env=prod", NOW),
        node(4, "twin", "10.0.0.4:3023", "env=prod", NOW),
        node(5, "asleep", "10.0.0.5:3022", "env=prod", LONG_AGO),
        node(6, "secret", "10.0.0.6:3022", "env=secret", NOW),
        node(7, "twin", "10.0.0.7:3022", "env=secret", NOW),
        node(8, "twin", "10.0.0.8:3022", "env=prod", LONG_AGO),
        node(9, "six", "[2001:db8::9]:3022", "env=prod", NOW),
        node(10, "named", "host.internal:3022", "env=prod", NOW),
        node(11, "odd.example.com", "10.0.0.11:3022", "env=prod", NOW),
        node(12, "broken", "no port", "env=prod", NOW),
    ]));
    let role = Role::new(
        "access",
        RoleSpec {
            allow: RoleConditions {
                logins: vec!["root".to_owned()],
                node_labels: LabelMatcher::new(BTreeMap::from([("env".to_owned(), vec!["prod".to_owned()])]))
                    .unwrap(),
                ..RoleConditions::default()
            },
            ..RoleSpec::default()
        },
    );
    let traits = Traits::new();
    let (names, roles) = (["access".parse().unwrap()], RoleSet::new([role]));
    let checker = AccessChecker::new(Subject::new("alice", &names, &traits), &roles);
    let cluster = ClusterName::new("example.com").unwrap();
    resolve(&target.parse().unwrap(), &table, &checker, &cluster, NOW).map(|route| route.host_id())
}

#[test]
fn finds_nodes_in_every_way() {
    for (target, expected) in [
        ("web", 1),
        ("WEB", 1),
        ("web:22", 1),
        ("web:3022", 1),
        ("web.example.com:22", 1),
        ("web@example.com", 1),
        ("db:2222", 2),
        ("db:22", 2),
        ("10.0.0.1", 1),
        ("[::ffff:10.0.0.1]:22", 1),
        ("[2001:db8::9]:3022", 9),
        ("host.internal", 10),
        ("odd.example.com", 11),
        ("odd.example.com.example.com", 11),
        ("twin:3023", 4),
        ("twin:3022", 3),
        ("tier=back", 2),
        ("env=prod,tier=front", 1),
        ("broken", 12),
    ] {
        assert_eq!(route(target), Ok(id(expected)), "{target}");
    }
    assert_eq!(route(&id(1).to_string()), Ok(id(1)));
    assert_eq!(route(&format!("{}.example.com:22", id(2))), Ok(id(2)));
}

#[test]
fn unknown_invisible_and_offline_read_the_same() {
    let secret = id(6).to_string();
    for (target, missing) in [
        ("nobody", Missing::Unknown),
        ("asleep", Missing::Offline),
        ("secret", Missing::Invisible),
        (secret.as_str(), Missing::Invisible),
        ("10.0.0.6", Missing::Invisible),
        ("env=secret", Missing::Invisible),
        ("web:25", Missing::Port),
        ("db:3025", Missing::Port),
        // What an attacker would have the proxy dial.
        ("127.0.0.1:22", Missing::Unknown),
        ("169.254.169.254:80", Missing::Unknown),
        ("[::1]:3025", Missing::Unknown),
        ("[::ffff:127.0.0.1]:22", Missing::Unknown),
        ("localhost:22", Missing::Unknown),
        ("0.0.0.0:22", Missing::Unknown),
        ("2130706433:22", Missing::Unknown),
    ] {
        let error = route(target).unwrap_err();
        let target: DialTarget = target.parse().unwrap();
        let public = format!("node {target} not found: it is not registered, offline, or not yours to see");
        assert_eq!(error.to_string(), public);
        assert_eq!(error.internal(), missing.as_str(), "{target}");
    }
}

#[test]
fn ambiguity_names_only_what_the_user_may_see() {
    let error = route("twin").unwrap_err();
    let RouteError::Ambiguous { candidates, .. } = &error else { unreachable!("two nodes match") };
    let ids: Vec<_> = candidates.iter().map(|node| node.record.host_id).collect();
    assert_eq!(ids, [id(3), id(4)], "neither the invisible nor the offline one");
    let (line, lines) = (error.to_string(), error.lines());
    assert!(!line.contains('\n') && line.contains(&format!("{} (twin), {} (twin)", id(3), id(4))), "{line}");
    let rows: Vec<&str> = lines.lines().collect();
    assert_eq!(rows.len(), 4, "{lines}");
    assert!(rows[0].contains("use the id of one of these nodes, as in <login>@<id>.example.com"), "{lines}");
    assert!(
        rows[1].starts_with("Node Name Node ID ") && rows[1].ends_with("Address       Labels"),
        "{lines}"
    );
    assert!(rows[2].contains(&id(3).to_string()) && rows[3].contains(&id(4).to_string()), "{lines}");
    let text = route("tier=back,env=prod").map(|id| id.to_string());
    assert_eq!(text, Ok(id(2).to_string()));
    assert!(
        matches!(route("env=prod"), Err(RouteError::Ambiguous { candidates, .. }) if candidates.len() > 5)
    );
}

#[test]
fn other_clusters_are_not_known() {
    let error = route("web@leaf").unwrap_err();
    assert_eq!(error.to_string(), "cluster leaf is not known here");
}
