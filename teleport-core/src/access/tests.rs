#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::id::NodeName;
use crate::label::LabelMatcher;
use crate::resource::{RoleOptions, RoleSpec, builtin_roles};
use crate::testing::user_identity;

fn matcher(json: &str) -> LabelMatcher {
    serde_json::from_str(json).unwrap()
}

fn conditions(logins: &[&str], labels: &str) -> RoleConditions {
    RoleConditions {
        logins: logins.iter().map(|login| (*login).to_owned()).collect(),
        node_labels: matcher(labels),
        rules: Vec::new(),
    }
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
        version: "1".to_owned(),
    }
}

fn login(name: &str) -> OsLogin {
    OsLogin::new(name).unwrap()
}

fn identity(roles: &[&str], logins: &[&str]) -> UserIdentity {
    user_identity("alice", "example.com", roles, logins, Timestamp::MAX)
}

/// Decides as a user with all of `roles` whose certificate names root, alice and admin.
fn decide(roles: &[Role], labels: &str, as_login: &str) -> Result<String, Denied> {
    let names: Vec<&str> = roles.iter().map(|role| role.metadata.name.as_str()).collect();
    let identity = identity(&names, &["root", "alice", "admin"]);
    AccessChecker::for_identity(&identity, roles)
        .check_login(&identity, &node(labels), &login(as_login))
        .map(|grant| grant.role)
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
    assert!(AccessChecker::for_identity(&identity, &[star]).logins().is_empty());
}

#[test]
fn an_empty_matcher_matches_no_node() {
    let blind = role("blind", conditions(&["root"], "{}"), none());
    assert_eq!(decide(std::slice::from_ref(&blind), "env=prod", "root"), Err(Denied::NotAllowed));
    let identity = identity(&["blind"], &["root"]);
    assert!(!AccessChecker::for_identity(&identity, &[blind]).can_see(&"env=prod".parse().unwrap()));
}

#[test]
fn principals_and_existing_roles_both_bind() {
    let all = [role("all", conditions(&["root", "alice"], r#"{"*":"*"}"#), none())];
    let narrow = identity(&["all"], &["alice"]);
    let check = AccessChecker::for_identity(&narrow, &all);
    assert!(check.check_login(&narrow, &node(""), &login("alice")).is_ok());
    assert_eq!(check.check_login(&narrow, &node(""), &login("root")), Err(Denied::NotAllowed));
    let gone = identity(&["removed"], &["root"]);
    let check = AccessChecker::for_identity(&gone, &all);
    assert_eq!(check.check_login(&gone, &node(""), &login("root")), Err(Denied::NoRoles));
    assert_eq!(check.check_rule("user", Verb::List), Err(Denied::NoRoles));
    assert_eq!(check.max_session_ttl(), None);
}

#[test]
fn forwarding_needs_certificate_and_role() {
    let mut forwarding = role("fwd", conditions(&["root"], r#"{"*":"*"}"#), none());
    for (cert, by_role) in [(true, true), (true, false), (false, true), (false, false)] {
        forwarding.spec.options.forward_agent = by_role;
        forwarding.spec.options.port_forwarding = by_role;
        let mut identity = identity(&["fwd"], &["root"]);
        identity.permits.agent_forwarding = cert;
        identity.permits.port_forwarding = cert;
        let roles = [forwarding.clone()];
        let check = AccessChecker::for_identity(&identity, &roles);
        let grant = check.check_login(&identity, &node(""), &login("root")).unwrap();
        assert_eq!((grant.agent_forwarding, grant.port_forwarding), (cert && by_role, cert && by_role));
    }
}

/// What the built-in roles allow, kind by kind and verb by verb.
#[test]
fn builtin_roles_do_what_they_say() {
    let roles = builtin_roles();
    let mut table = String::new();
    for name in ["access", "editor", "auditor"] {
        let identity = identity(&[name], &["root"]);
        let check = AccessChecker::for_identity(&identity, &roles);
        let verbs = |kind| {
            let allowed = |verb: &&Verb| check.check_rule(kind, **verb).is_ok();
            Verb::EACH.iter().filter(allowed).map(|verb| verb.as_str()).collect::<Vec<_>>().join(",")
        };
        let logins = check.logins().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        table.push_str(&format!("{name}: logins [{logins}]"));
        for kind in ["user", "role", "token", "node", "cert_authority", "event", "session", "lock"] {
            table.push_str(&format!(" {kind} [{}]", verbs(kind)));
        }
        table.push('\n');
    }
    let any = "create,delete,list,read,update";
    assert_eq!(
        table,
        format!(
            "access: logins [root] user [] role [] token [] node [] cert_authority [] event [] session [] lock []\n\
             editor: logins [] user [{any}] role [{any}] token [{any}] node [{any}] cert_authority [list,read] \
             event [] session [] lock []\n\
             auditor: logins [] user [] role [] token [] node [] cert_authority [] event [list,read] \
             session [list,read] lock []\n"
        )
    );
}

const LOGINS: [&str; 4] = ["root", "alice", "admin", "*"];
const MATCHERS: [&str; 4] =
    ["{}", r#"{"*":"*"}"#, r#"{"env":"prod"}"#, r#"{"env":["prod","test"],"os":"linux"}"#];
const NODES: [&str; 4] = ["", "env=prod", "env=test,os=linux", "os=linux"];

prop_compose! {
    fn half()(logins in proptest::sample::subsequence(LOGINS.to_vec(), 0..3), matcher_index in 0..MATCHERS.len()) -> RoleConditions {
        conditions(&logins, MATCHERS[matcher_index])
    }
}

fn any_roles() -> impl Strategy<Value = Vec<Role>> {
    proptest::collection::vec((half(), half()), 0..4).prop_map(|halves| {
        halves
            .into_iter()
            .enumerate()
            .map(|(index, (allow, deny))| role(&format!("r{index}"), allow, deny))
            .collect()
    })
}

proptest! {
    /// Another role with only denials never opens anything, and another role with only allowances never closes anything.
    #[test]
    fn denials_only_narrow_and_allowances_only_widen(
        roles in any_roles(),
        half in half(),
        labels in 0..NODES.len(),
        as_login in 0..3_usize,
    ) {
        let before = decide(&roles, NODES[labels], LOGINS[as_login]);
        let with = |extra: Role| {
            let mut more = roles.clone();
            more.push(extra);
            decide(&more, NODES[labels], LOGINS[as_login])
        };
        if before.is_err() {
            prop_assert!(with(role("more", none(), half.clone())).is_err());
        } else {
            prop_assert!(with(role("more", half, none())).is_ok());
        }
    }

    /// The order of roles does not decide, and who may log in may also see, and finds the login in a new certificate.
    #[test]
    fn decisions_agree_with_each_other(roles in any_roles(), labels in 0..NODES.len(), as_login in 0..3_usize) {
        let granted = decide(&roles, NODES[labels], LOGINS[as_login]).is_ok();
        let mut reversed = roles.clone();
        reversed.reverse();
        prop_assert_eq!(decide(&reversed, NODES[labels], LOGINS[as_login]).is_ok(), granted);
        let names: Vec<&str> = roles.iter().map(|role| role.metadata.name.as_str()).collect();
        let identity = identity(&names, &["root", "alice", "admin"]);
        let check = AccessChecker::for_identity(&identity, &roles);
        if granted {
            prop_assert!(check.can_see(&NODES[labels].parse().unwrap()));
            prop_assert!(check.logins().contains(&login(LOGINS[as_login])));
        }
    }
}
