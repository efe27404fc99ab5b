#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
mod compiled;
mod explain;
mod join;
mod options;
mod properties;
mod rules;
mod taken;

use super::*;
use crate::api::AccessView;
use crate::cert::TrustBundle;
use crate::clock::Timestamp;
use crate::id::NodeName;
use crate::label::LabelMatcher;
use crate::resource::{NodeRecord, Role, RoleConditions, RoleOptions, RoleSpec, builtin_roles};
use crate::testing::user_identity;

fn matcher(json: &str) -> LabelMatcher {
    serde_json::from_str(json).unwrap()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn conditions(logins: &[&str], labels: &str) -> RoleConditions {
    RoleConditions { logins: texts(logins), node_labels: matcher(labels), ..RoleConditions::default() }
}

fn expression(logins: &[&str], labels: &str, expression: &str) -> RoleConditions {
    RoleConditions { node_labels_expression: Some(expression.to_owned()), ..conditions(logins, labels) }
}

fn role(name: &str, allow: RoleConditions, deny: RoleConditions) -> Role {
    Role::new(name, RoleSpec { allow, deny, options: RoleOptions::default() })
}

fn none() -> RoleConditions {
    RoleConditions::default()
}

fn node(labels: &str) -> NodeRecord {
    NodeRecord {
        host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        name: NodeName::new("web-1").unwrap(),
        address: "192.0.2.7:3022".to_owned(),
        labels: labels.parse().unwrap(),
        sub_kind: crate::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    }
}

fn login(name: &str) -> OsLogin {
    OsLogin::new(name).unwrap()
}

fn identity(roles: &[&str], logins: &[&str]) -> UserIdentity {
    user_identity("alice", "example.com", roles, logins, Timestamp::MAX)
}

/// A user with all of `roles` whose certificate names root, alice and admin.
fn holder(roles: &[Role]) -> UserIdentity {
    let names: Vec<&str> = roles.iter().map(|role| role.metadata.name.as_str()).collect();
    identity(&names, &["root", "alice", "admin"])
}

fn access_view(roles: impl Into<RoleSet>) -> AccessView {
    let cluster = "example.com".parse().unwrap();
    let (user_ca, host_ca, openssh_ca, user_tls_ca, host_tls_ca) = Default::default();
    AccessView::new(TrustBundle { cluster, user_ca, host_ca, openssh_ca, user_tls_ca, host_tls_ca }, roles)
}

/// Decides as a user with all of `roles`.
fn grant(roles: &[Role], labels: &str, as_login: &str) -> Result<LoginGrant, Denied> {
    let (identity, set) = (holder(roles), RoleSet::new(roles.to_vec()));
    AccessChecker::for_identity(&identity, &set).check_login(&identity, &node(labels), &login(as_login))
}

/// The role that decided for it.
fn decide(roles: &[Role], labels: &str, as_login: &str) -> Result<String, Denied> {
    grant(roles, labels, as_login).map(|grant| grant.role)
}

#[test]
fn one_single_role_must_grant_labels_and_login() {
    let prod_alice = role("prod", conditions(&["alice"], r#"{"env":"prod"}"#), none());
    let test_root = role("test", conditions(&["root"], r#"{"env":"test"}"#), none());
    let both = [prod_alice, test_root];
    assert_eq!(decide(&both, "env=prod", "alice").unwrap(), "prod");
    assert_eq!(decide(&both, "env=test", "root").unwrap(), "test");
    assert_eq!(decide(&both, "env=prod", "root"), Err(Denied::NotAllowed));
    assert_eq!(decide(&both, "env=test", "alice"), Err(Denied::NotAllowed));
    assert_eq!(decide(&both, "", "alice"), Err(Denied::NotAllowed));
}

#[test]
fn any_denial_wins() {
    let all = || role("all", conditions(&["root", "alice"], r#"{"*":"*"}"#), none());
    let by = |name: &str| Err(Denied::DeniedBy { role: name.to_owned() });
    let no_root = role("no-root", none(), conditions(&["root"], "{}"));
    assert_eq!(decide(&[all(), no_root.clone()], "", "root"), by("no-root"));
    assert_eq!(decide(&[no_root, all()], "", "alice").unwrap(), "all");
    let no_prod = role("no-prod", none(), conditions(&[], r#"{"env":"prod"}"#));
    assert_eq!(decide(&[all(), no_prod.clone()], "env=prod", "alice"), by("no-prod"));
    assert_eq!(decide(&[all(), no_prod], "env=test", "alice").unwrap(), "all");
    let nobody = role("nobody", none(), conditions(&["*"], "{}"));
    assert_eq!(decide(&[all(), nobody], "", "alice"), by("nobody"));
    let template = role("own", none(), conditions(&["{{internal.logins}}"], "{}"));
    assert_eq!(decide(&[all(), template], "", "alice"), by("own"));
}

#[test]
fn a_star_among_logins_allows_nobody() {
    let star = role("star", conditions(&["*"], r#"{"*":"*"}"#), none());
    assert_eq!(decide(std::slice::from_ref(&star), "", "root"), Err(Denied::NotAllowed));
    let identity = identity(&["star"], &["root"]);
    assert!(AccessChecker::for_identity(&identity, &RoleSet::new([star])).logins().is_empty());
}

#[test]
fn an_empty_matcher_matches_no_node() {
    let blind = role("blind", conditions(&["root"], "{}"), none());
    assert_eq!(decide(std::slice::from_ref(&blind), "env=prod", "root"), Err(Denied::NotAllowed));
    let identity = identity(&["blind"], &["root"]);
    assert!(!AccessChecker::for_identity(&identity, &RoleSet::new([blind])).can_see(&node("env=prod")));
}

#[test]
fn principals_and_existing_roles_both_bind() {
    let all = RoleSet::new([role("all", conditions(&["root", "alice"], r#"{"*":"*"}"#), none())]);
    let narrow = identity(&["all"], &["alice"]);
    let check = AccessChecker::for_identity(&narrow, &all);
    assert!(check.check_login(&narrow, &node(""), &login("alice")).is_ok());
    assert_eq!(check.check_login(&narrow, &node(""), &login("root")), Err(Denied::NotInCertificate));
    let gone = identity(&["removed"], &["root"]);
    let check = AccessChecker::for_identity(&gone, &all);
    assert_eq!(check.check_login(&gone, &node(""), &login("root")), Err(Denied::NoRoles));
    assert_eq!(check.check_rule("user", Verb::List), Err(Denied::NoRoles));
    assert_eq!(check.max_session_ttl(), None);
}

#[test]
fn expressions_and_labels_of_a_role() {
    let prod = r#"labels["env"] == "prod""#;
    let mine = "contains(user.spec.traits[\"logins\"], labels[\"owner\"])";
    for (allow, deny, labels, expected) in [
        (expression(&["root"], "{}", prod), none(), "env=prod", true),
        (expression(&["root"], "{}", prod), none(), "env=test", false),
        (expression(&["root"], r#"{"os":"linux"}"#, prod), none(), "env=prod", false),
        (expression(&["root"], r#"{"os":"linux"}"#, prod), none(), "os=linux", false),
        (expression(&["root"], r#"{"os":"linux"}"#, prod), none(), "env=prod,os=linux", true),
        (expression(&["root"], "{}", mine), none(), "owner=alice", true),
        (expression(&["root"], "{}", mine), none(), "owner=bob", false),
        (expression(&["root"], "{}", r#"resource.metadata.name == "web-1""#), none(), "", true),
        (expression(&["root"], "{}", r#"user.metadata.name == "alice""#), none(), "", true),
        // In denials one suffices.
        (
            conditions(&["root"], r#"{"*":"*"}"#),
            expression(&[], r#"{"os":"linux"}"#, prod),
            "env=prod",
            false,
        ),
        (
            conditions(&["root"], r#"{"*":"*"}"#),
            expression(&[], r#"{"os":"linux"}"#, prod),
            "os=linux",
            false,
        ),
        (conditions(&["root"], r#"{"*":"*"}"#), expression(&[], r#"{"os":"linux"}"#, prod), "env=test", true),
    ] {
        let roles = [role("r", allow, deny)];
        assert_eq!(decide(&roles, labels, "root").is_ok(), expected, "{roles:?} {labels}");
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        assert_eq!(AccessChecker::for_identity(&identity, &set).can_see(&node(labels)), expected, "{labels}");
    }
}

#[test]
fn labels_may_be_those_of_the_user() {
    let own = role("own", conditions(&["root"], r#"{"owner":"{{internal.logins}}"}"#), none());
    assert!(decide(std::slice::from_ref(&own), "owner=alice", "root").is_ok());
    assert_eq!(decide(std::slice::from_ref(&own), "owner=bob", "root"), Err(Denied::NotAllowed));
    assert_eq!(decide(&[own], "owner=", "root"), Err(Denied::NotAllowed));
    let nobodys = role("nobodys", conditions(&["root"], r#"{"owner":"{{external.nothing}}"}"#), none());
    assert_eq!(decide(&[nobodys], "owner=", "root"), Err(Denied::NotAllowed));
}

#[test]
fn what_cannot_be_logged_in_to_is_not_seen() {
    let all = || role("all", conditions(&["root"], r#"{"*":"*"}"#), none());
    for (roles, expected) in [
        (vec![all()], true),
        (vec![all(), role("no-root", none(), conditions(&["root"], "{}"))], false),
        (vec![all(), role("no-bob", none(), conditions(&["bob"], "{}"))], true),
        (vec![role("odd", conditions(&["{{internal.nothing}}"], r#"{"*":"*"}"#), none())], false),
        (vec![role("odd", conditions(&["not a login"], r#"{"*":"*"}"#), none())], false),
    ] {
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        let check = AccessChecker::for_identity(&identity, &set);
        assert_eq!(check.can_see(&node("")), expected, "{check:?}");
    }
}

/// More combinations of labels than are remembered.
#[test]
fn many_nodes_are_judged_as_one_is() {
    let roles: Vec<Role> = (0..20)
        .map(|number| {
            let allow = conditions(&["root"], &format!(r#"{{"n":"*{number}","env":"prod"}}"#));
            let deny = if number % 3 == 0 { r#"{"n":"7*","env":"prod"}"# } else { "{}" };
            role(&format!("r{number}"), allow, conditions(&[], deny))
        })
        .collect();
    let (identity, set) = (holder(&roles), RoleSet::new(roles));
    let check = AccessChecker::for_identity(&identity, &set);
    let mut filter = check.filter();
    let mut seen = 0;
    // Twice, so that what is remembered is asked for.
    for number in (0..10_000).chain(0..10_000) {
        let node = node(&format!("env=prod,n={number}"));
        assert_eq!(filter.can_see(&node), check.can_see(&node), "{number}");
        seen += usize::from(filter.can_see(&node));
    }
    assert_eq!(seen, 2 * (10_000 - 1111), "all whose number does not begin with 7");
    for labels in ["", "env=prod", "env=prod,n=", "n=3", "env=test,n=3", "env=prod,n=7", "env=n,prod=3"] {
        assert!(!filter.can_see(&node(labels)), "{labels}");
    }
}

/// What is remembered of one node is not said of another that only its name tells apart, or labels that are not named.
#[test]
fn only_what_decides_is_remembered() {
    for (condition, odd) in [
        (r#"resource.metadata.name == "web-2""#, "web-2"),
        (r#"contains(labels_matching("o*"), "yes")"#, "labelled"),
        (r#"labels["odd"] == "yes" || labels["env"] == "x""#, "labelled"),
        (r#"!regexp.match(labels["odd"], "n*") && exists(strings.upper(labels["odd"]))"#, "labelled"),
        (r#"contains_any(set(labels["odd"]), set("yes"))"#, "labelled"),
    ] {
        let roles = [role("r", expression(&["root"], "{}", condition), none())];
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        let check = AccessChecker::for_identity(&identity, &set);
        let mut filter = check.filter();
        let mut node = node("env=prod");
        assert!(!filter.can_see(&node), "{condition}");
        match odd {
            "labelled" => node.labels = "env=prod,odd=yes".parse().unwrap(),
            name => node.name = NodeName::new(name).unwrap(),
        }
        assert!(filter.can_see(&node), "{condition}");
    }
}

/// More keys than are looked up in advance.
#[test]
fn many_keys_are_all_looked_at() {
    let keys: Vec<String> = (0..40).map(|number| format!("\"k{number:02}\":\"v\"")).collect();
    let all = role("all", conditions(&["root"], &format!("{{{}}}", keys.join(","))), none());
    let labels: Vec<String> = (0..40).map(|number| format!("k{number:02}=v")).collect();
    assert!(decide(std::slice::from_ref(&all), &labels.join(","), "root").is_ok());
    for wrong in 0..40 {
        let mut labels = labels.clone();
        labels[wrong] = format!("k{wrong:02}=w");
        assert!(decide(std::slice::from_ref(&all), &labels.join(","), "root").is_err(), "{wrong}");
    }
}

#[test]
fn extensions_of_certificates_are_added_up() {
    use crate::resource::CertExtension;
    let with = |name: &str, extensions: &[(&str, &str)]| {
        let mut role = role(name, none(), none());
        let extension = |(name, value): &(&str, &str)| CertExtension::new(*name, *value);
        role.spec.options.cert_extensions = extensions.iter().map(extension).collect();
        role
    };
    let roles = [
        with("b", &[("login@example.com", "second"), ("x@example.com", "{{internal.logins}}")]),
        with("a", &[("login@example.com", "first"), ("none@example.com", "{{external.nothing}}")]),
        with("c", &[("permit-pty", ""), ("roles@teleport-rs", "[]")]),
    ];
    let (identity, set) = (holder(&roles), RoleSet::new(roles));
    let extensions = AccessChecker::for_identity(&identity, &set).cert_extensions();
    let expected = [("login@example.com", "first"), ("x@example.com", "root")];
    assert_eq!(extensions, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}
