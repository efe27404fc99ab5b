//! What administrators are told.

use super::*;
use crate::resource::Rule;

fn explain(roles: &[Role], labels: &str, as_login: &str, certified: Option<&[OsLogin]>) -> Explanation {
    let (identity, set) = (holder(roles), RoleSet::new(roles.to_vec()));
    AccessChecker::for_identity(&identity, &set).explain_login(&node(labels), &login(as_login), certified)
}

/// The lines up to those about the session and the notes.
fn decision(explanation: &Explanation) -> String {
    Explanation { session: None, notes: Vec::new(), ..explanation.clone() }.to_string()
}

#[test]
fn tells_who_decided_and_what_is_needed() {
    let prod = role("prod", conditions(&["alice"], r#"{"env":["prod","stage"]}"#), none());
    let test = role("test", conditions(&["root"], r#"{"env":"test"}"#), none());
    let roles = [prod, test];
    assert_eq!(
        decision(&explain(&roles, "env=prod", "alice", None)),
        "alice as alice on web-1: allowed, by role prod\n  \
           role prod\n    \
             allow: login alice: yes\n    \
             allow: node: yes\n  \
           role test\n    \
             allow: login alice: no, its logins are root\n    \
             allow: node: no, label env is \"prod\", wanted \"test\"\n"
    );
    assert_eq!(
        decision(&explain(&roles, "env=prod", "root", None)),
        "alice as root on web-1: denied, no role allows both the node and the login\n  \
           role prod\n    \
             allow: login root: no, its logins are alice\n    \
             allow: node: yes\n  \
           role test\n    \
             allow: login root: yes\n    \
             allow: node: no, label env is \"prod\", wanted \"test\"\n  \
           needed\n    \
             role prod allows the node: its logins must have root\n    \
             role test allows the login: its nodes must have web-1 (label env is \"prod\", wanted \"test\")\n    \
             or another role that allows the login root and the node web-1\n"
    );
}

#[test]
fn tells_of_denials_and_of_both_if_both_stand_in_the_way() {
    let all = role("all", conditions(&["root"], r#"{"*":"*"}"#), none());
    let no_root = role("no-root", none(), conditions(&["root"], "{}"));
    let no_prod = role("no-prod", none(), expression(&[], "{}", r#"labels.env == "prod""#));
    let explanation = explain(&[all.clone(), no_root.clone()], "", "root", None);
    assert_eq!(explanation.role.as_deref(), Some("no-root"));
    assert_eq!(explanation.needed, ["role no-root must not deny the login root, or be taken from the user"]);
    let explanation = explain(&[all, no_prod.clone()], "env=prod", "root", None);
    assert_eq!(explanation.reason, "the node is denied for every login by role no-prod");
    assert!(explanation.roles[1].says.iter().any(|line| line.contains("by node_labels_expression")));
    let explanation = explain(&[no_root, no_prod], "env=prod", "root", None);
    assert_eq!(explanation.needed.len(), 3, "{explanation}");
    assert!(explanation.needed[2].starts_with("or another role"), "{explanation}");
}

#[test]
fn tells_of_certificates_and_of_roles_that_do_not_exist() {
    let all = role("all", conditions(&["root"], r#"{"*":"*"}"#), none());
    let explanation = explain(&[all], "", "root", Some(&[]));
    assert!(!explanation.allowed);
    assert_eq!(explanation.needed, ["a new certificate: the user must log in again"]);
    let identity = identity(&["gone"], &["root"]);
    let set = RoleSet::default();
    let check = AccessChecker::for_identity(&identity, &set);
    let explanation = check.explain_login(&node(""), &login("root"), None);
    assert_eq!(explanation.reason, "the user has no role that exists");
    assert_eq!(explanation.roles[0].says, ["does not exist"]);
    assert!(!check.explain_rule("user", Verb::List, ResourceFacts::default()).allowed);
}

#[test]
fn tells_of_rules() {
    let half = |condition: Option<&str>, verbs: &[Verb]| RoleConditions {
        rules: vec![Rule {
            resources: texts(&["session"]),
            verbs: verbs.to_vec(),
            condition: condition.map(str::to_owned),
        }],
        ..RoleConditions::default()
    };
    let own = "contains(session.participants, user.metadata.name)";
    let roles = [
        role("own", half(Some(own), &[Verb::Read]), none()),
        role("auditor", half(None, &[Verb::List]), none()),
    ];
    let (identity, set) = (holder(&roles), RoleSet::new(roles));
    let check = AccessChecker::for_identity(&identity, &set);
    assert_eq!(
        decision(&check.explain_rule("session", Verb::List, ResourceFacts::default())),
        "alice to list session: allowed, by spec.allow.rules[0] of role auditor\n  \
           role auditor\n    \
             allow: rules[0]: yes\n  \
           role own\n    \
             no rule is about it\n"
    );
    let explanation = check.explain_rule("session", Verb::Read, ResourceFacts::default());
    assert_eq!(
        decision(&explanation),
        format!(
            "alice to read session: denied, no role allows it\n  \
               role auditor\n    \
                 no rule is about it\n  \
               role own\n    \
                 allow: rules[0]: no, it depends on the resource: {own}\n  \
               needed\n    \
                 a role with a rule for read on session\n"
        )
    );
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["allowed"], false);
}

#[test]
fn tells_what_counts_in_the_session_and_what_certificates_in_hand_say() {
    let mut narrow = conditions(&["root"], r#"{"*":"*"}"#);
    narrow.commands = Some(texts(&["uptime"]));
    narrow.permit_open = Some(texts(&["db:5432"]));
    let deny = RoleConditions { permit_open: Some(texts(&["169.254.169.254:*"])), ..none() };
    let mut ops = role("ops", narrow, deny);
    ops.spec.options = RoleOptions {
        max_session_ttl: std::time::Duration::from_secs(3600),
        max_sessions: 2,
        pin_source_ip: true,
        ..RoleOptions::default()
    };
    let roles = [ops];
    let explanation = explain(&roles, "", "root", None);
    let text = explanation.to_string();
    for line in [
        "max_session_ttl: 1h0m0s\n",
        "shell: no\n",
        "commands: uptime\n",
        "permit_open: db:5432\n",
        "deny_open: 169.254.169.254:*\n",
        "client_idle_timeout: as the cluster says\n",
        "max_connections: any number\n",
        "max_sessions: 2\n",
        "record_session: best_effort\n",
        "cert_extensions: none\n",
        "a certificate in hand keeps the roles",
    ] {
        assert!(text.contains(&format!("    {line}")), "{line}: {text}");
    }
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["session"]["max_sessions"], 2);
    assert_eq!(json["session"]["commands"], serde_json::json!(["uptime"]));
    assert_eq!(json["session"]["lock"], serde_json::Value::Null);
    // About a certificate that is there, or a login that is denied, there is nothing to promise.
    let root = [login("root")];
    assert_eq!(explain(&roles, "", "root", Some(&root)).session, None);
    assert_eq!(explain(&roles, "", "alice", None).session, None);
}
