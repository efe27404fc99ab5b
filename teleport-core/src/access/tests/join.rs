//! Joining sessions of others.

use proptest::prelude::*;

use super::*;
use crate::resource::{JoinMode, JoinSessions, load_role};

use JoinMode::{Moderator, Observer, Peer};

fn entry(roles: &[&str], modes: &[&str]) -> JoinSessions {
    JoinSessions {
        roles: texts(roles),
        kinds: texts(&["ssh"]),
        modes: texts(modes),
        ..JoinSessions::default()
    }
}

fn joins(entries: Vec<JoinSessions>) -> RoleConditions {
    RoleConditions { join_sessions: entries, ..RoleConditions::default() }
}

/// What alice with these roles may do about a session of `owner`, begun by the roles `ops-eu` and `dev`, as root on a node.
fn decide_on(roles: &[Role], owner: &str, labels: &str, mode: JoinMode) -> Result<Option<String>, Denied> {
    let (identity, set) = (holder(roles), RoleSet::new(roles.to_vec()));
    let checker = AccessChecker::for_identity(&identity, &set);
    let (owner, node, login) = (owner.parse().unwrap(), node(labels), login("root"));
    let owner_roles = ["ops-eu".parse().unwrap(), "dev".parse().unwrap()];
    let session = SessionToJoin { owner: &owner, owner_roles: &owner_roles, login: &login, node: &node };
    let grant = checker.check_join(&identity, &session, mode);
    let modes = checker.join_modes(&identity, &session);
    assert_eq!(modes.contains(&mode), grant.is_ok());
    if grant.is_ok() && checker.check_login(&identity, &node, &login).is_err() {
        // Who may join without a login may come.
        assert!(checker.check_visit(&identity, &node).is_ok());
    }
    grant.map(|grant| grant.role)
}

fn join(roles: &[Role], mode: JoinMode) -> Result<Option<String>, Denied> {
    decide_on(roles, "bob", "env=prod", mode)
}

#[test]
fn entries_name_roles_of_the_owner_and_modes() {
    let by = |name: &str| Ok(Some(name.to_owned()));
    for (roles, modes, mode, expected) in [
        (&["ops-eu"][..], &["observer"][..], Observer, true),
        (&["ops-*"], &["observer"], Observer, true),
        (&["^ops-(eu|us)$"], &["observer"], Observer, true),
        (&["*"], &["*"], Peer, true),
        (&["x", "dev"], &["peer", "moderator"], Moderator, true),
        (&["*"], &["observer"], Peer, false),
        (&["*"], &["peer"], Observer, false),
        (&["ops"], &["*"], Observer, false),
        (&["alice"], &["*"], Observer, false),
    ] {
        let role = role("joiner", joins(vec![entry(roles, modes)]), none());
        let expected = if expected { by("joiner") } else { Err(Denied::NotAllowed) };
        assert_eq!(join(&[role], mode), expected, "{roles:?} {modes:?} {mode}");
    }
    assert_eq!(join(&[], Observer), Err(Denied::NoRoles));
}

#[test]
fn a_login_alone_joins_nothing_of_others() {
    let all = role("all", conditions(&["root"], r#"{"*":"*"}"#), none());
    assert_eq!(join(std::slice::from_ref(&all), Observer), Err(Denied::NotAllowed));
    // The own one may be joined by whoever could begin it.
    assert_eq!(decide_on(std::slice::from_ref(&all), "alice", "", Peer), Ok(None));
    let mut few = conditions(&["root"], r#"{"*":"*"}"#);
    few.commands = Some(texts(&["id"]));
    let few = [role("few", few, none())];
    assert_eq!(decide_on(&few, "alice", "", Peer), Err(Denied::NotAllowed), "she may begin no shell now");
    assert_eq!(decide_on(&few, "alice", "", Observer), Ok(None));
    let elsewhere = role("elsewhere", conditions(&["root"], r#"{"env":"test"}"#), none());
    assert_eq!(decide_on(&[elsewhere], "alice", "env=prod", Observer), Err(Denied::NotAllowed));
}

#[test]
fn c5_every_denial_counts_for_joining() {
    let all = || role("all", joins(vec![entry(&["*"], &["*"])]), none());
    let denied = |deny: RoleConditions| {
        let roles = [all(), role("not", none(), deny)];
        JoinMode::ALL.map(|mode| match join(&roles, mode) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, Denied::DeniedBy { role: "not".to_owned() });
                false
            }
        })
    };
    // Moderator, observer, peer.
    assert_eq!(denied(joins(vec![entry(&["ops-eu"], &["peer"])])), [true, true, false]);
    assert_eq!(denied(joins(vec![entry(&["ops-us"], &["peer"])])), [true, true, true]);
    assert_eq!(denied(joins(vec![entry(&["*"], &["*"])])), [false; 3]);
    assert_eq!(denied(conditions(&["root"], "{}")), [false; 3], "the login that it runs as");
    assert_eq!(denied(conditions(&["alice"], "{}")), [true; 3]);
    assert_eq!(denied(conditions(&[], r#"{"env":"prod"}"#)), [false; 3], "the node that it runs on");
    assert_eq!(denied(conditions(&[], r#"{"env":"test"}"#)), [true; 3]);
    // What cannot be understood denies.
    assert_eq!(denied(joins(vec![entry(&["^(ops$"], &["peer"])])), [false; 3]);
    assert_eq!(denied(joins(vec![entry(&["ops-us"], &["typist"])])), [false; 3]);
    // The own session too.
    let mut deny = joins(vec![entry(&["*"], &["peer"])]);
    deny.node_labels = matcher("{}");
    let own = [role("all", conditions(&["root"], r#"{"*":"*"}"#), none()), role("not", none(), deny)];
    assert_eq!(decide_on(&own, "alice", "", Observer), Ok(None));
    assert!(decide_on(&own, "alice", "", Peer).is_err());
}

#[test]
fn with_login_takes_the_login_on_that_node() {
    let with = |logins: &[&str], commands: Option<&str>| {
        let mut allow = conditions(logins, r#"{"env":"prod"}"#);
        allow.join_sessions = vec![JoinSessions { with_login: true, ..entry(&["*"], &["*"]) }];
        allow.commands = commands.map(|command| texts(&[command]));
        [role("with", allow, none())]
    };
    assert!(join(&with(&["root"], None), Peer).is_ok());
    assert!(join(&with(&["alice"], None), Peer).is_err());
    assert!(decide_on(&with(&["root"], None), "bob", "env=test", Peer).is_err());
    // Who may run only certain commands does not type into a shell.
    assert!(join(&with(&["root"], Some("id")), Peer).is_err());
    assert!(join(&with(&["root"], Some("id")), Observer).is_ok());
}

#[test]
fn a3_a_restricted_certificate_joins_nothing() {
    let roles = [role("all", joins(vec![entry(&["*"], &["*"])]), none())];
    let set = RoleSet::new(roles.to_vec());
    let (owner, node, login) = ("bob".parse().unwrap(), node(""), login("root"));
    let owner_roles = ["dev".parse().unwrap()];
    let session = SessionToJoin { owner: &owner, owner_roles: &owner_roles, login: &login, node: &node };
    let mut forced = holder(&roles);
    forced.force_command = Some("/bin/false".to_owned());
    let mut mute = holder(&roles);
    mute.permits.pty = false;
    for identity in [forced, mute] {
        let checker = AccessChecker::for_identity(&identity, &set);
        assert_eq!(checker.check_join(&identity, &session, Observer), Err(Denied::Restricted));
        assert_eq!(checker.check_visit(&identity, &node), Err(Denied::Restricted));
    }
}

#[test]
fn bad_entries_are_refused_when_they_are_written() {
    let load = |entry: serde_json::Value, side: &str| {
        let document = serde_json::json!({
            "kind": "role", "version": "v1", "metadata": { "name": "r" },
            "spec": { side: { "join_sessions": [entry] } },
        });
        load_role(&document).map(drop).map_err(|error| error.to_string()).err().unwrap_or_default()
    };
    let good = serde_json::json!({ "name": "n", "roles": ["*"], "kinds": ["ssh"], "modes": ["observer"] });
    assert_eq!(load(good.clone(), "allow"), "");
    assert_eq!(load(good.clone(), "deny"), "");
    for (key, value, side, expected) in [
        ("roles", serde_json::json!(["^($"]), "allow", "spec.allow.join_sessions[0].roles[0]: "),
        ("roles", serde_json::json!([]), "allow", "at least one role"),
        ("modes", serde_json::json!(["typist"]), "deny", "spec.deny.join_sessions[0].modes[0]: "),
        ("kinds", serde_json::json!(["k8s"]), "allow", "write \"ssh\" or \"*\""),
        ("with_login", serde_json::json!(true), "deny", "can only be allowed"),
        ("mode", serde_json::json!("peer"), "allow", "did you mean \"modes\""),
    ] {
        let mut entry = good.clone();
        entry[key] = value;
        let error = load(entry, side);
        assert!(error.contains(expected), "{key}: {error}");
    }
}

#[test]
fn roles_of_the_original_have_the_default_of_their_version() {
    let load = |version: &str| {
        let document = serde_json::json!({
            "kind": "role", "version": version, "metadata": { "name": "r" },
            "spec": { "allow": { "logins": ["root"], "node_labels": { "*": "*" } } },
        });
        [load_role(&document).unwrap().role]
    };
    for (version, joins) in [("v3", true), ("v4", true), ("v5", false), ("v8", false), ("v1", false)] {
        assert_eq!(join(&load(version), Peer).is_ok(), joins, "{version}");
    }
}

prop_compose! {
    fn any_entry()(
        role in 0..4_usize,
        mode in 0..4_usize,
        with_login in any::<bool>(),
    ) -> JoinSessions {
        let modes = ["observer", "peer", "moderator", "*"];
        JoinSessions { with_login, ..entry(&[["*", "ops-*", "dev", "^x$"][role]], &[modes[mode]]) }
    }
}

prop_compose! {
    fn any_role()(
        allow in proptest::collection::vec(any_entry(), 0..3),
        deny in proptest::collection::vec(any_entry(), 0..2),
        logins in proptest::sample::subsequence(vec!["root", "alice"], 0..=2),
        denied_labels in proptest::bool::weighted(0.2),
    ) -> (RoleConditions, RoleConditions) {
        let mut deny = joins(deny.into_iter().map(|entry| JoinSessions { with_login: false, ..entry }).collect());
        if denied_labels {
            deny.node_labels = matcher(r#"{"env":"prod"}"#);
        }
        (RoleConditions { join_sessions: allow, ..conditions(&logins, r#"{"env":"*"}"#) }, deny)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A denial of any role wins, and an allowance of one role suffices; as a model: looking at every role by itself.
    #[test]
    fn c5_a_deny_of_joining_always_wins(halves in proptest::collection::vec(any_role(), 1..4), own in any::<bool>()) {
        let owner = if own { "alice" } else { "bob" };
        let roles: Vec<Role> = halves
            .into_iter()
            .enumerate()
            .map(|(index, (allow, deny))| role(&format!("r{index}"), allow, deny))
            .collect();
        for mode in JoinMode::ALL {
            let (mut denied, mut logins) = (false, false);
            for one in &roles {
                let outcome = decide_on(std::slice::from_ref(one), owner, "env=prod", mode);
                denied |= matches!(outcome, Err(Denied::DeniedBy { .. }));
                let mut without = one.clone();
                without.spec.deny = none();
                logins |= decide(&[without], "env=prod", "root").is_ok();
            }
            // A login of one role makes `with_login` of another hold: both are about the same user and node.
            let allowed = (own && logins) || roles.iter().any(|one| {
                let mut without = one.clone();
                without.spec.deny = none();
                for entry in &mut without.spec.allow.join_sessions {
                    entry.with_login &= !logins;
                }
                without.spec.allow.logins.clear();
                decide_on(&[without], "bob", "env=prod", mode).is_ok()
            });
            let outcome = decide_on(&roles, owner, "env=prod", mode);
            prop_assert_eq!(outcome.is_ok(), allowed && !denied, "{:?}", outcome);
            // One more denial never opens anything.
            let mut more = roles.clone();
            more.push(role("z", none(), joins(vec![entry(&["dev"], &["*"])])));
            prop_assert!(decide_on(&more, owner, "env=prod", mode).is_err());
        }
    }
}
