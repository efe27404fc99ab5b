//! What is refused when it is written, and what becomes of it when it is stored all the same.

use super::*;
use crate::resource::{CertExtension, Rule};

fn change(change: impl FnOnce(&mut Role)) -> Role {
    let mut role = role("r", conditions(&["root"], r#"{"*":"*"}"#), none());
    change(&mut role);
    role
}

fn rule(kind: &str, condition: Option<&str>) -> Rule {
    Rule { resources: texts(&[kind]), verbs: vec![Verb::Any], condition: condition.map(str::to_owned) }
}

#[test]
fn malformed_roles_are_refused_with_place_and_reason() {
    let cases: Vec<(Role, &str, &str)> = vec![
        (change(|role| role.metadata.name = "a b".to_owned()), "metadata.name", "role name"),
        (
            change(|role| role.spec.allow.logins.push("*".to_owned())),
            "spec.allow.logins[1]",
            "can only be denied",
        ),
        (
            change(|role| role.spec.allow.logins.push("{{internal.x".to_owned())),
            "spec.allow.logins[1]",
            "column 13",
        ),
        (
            change(|role| role.spec.allow.logins.push("-l".to_owned())),
            "spec.allow.logins[1]",
            "login must be",
        ),
        (change(|role| role.spec.deny.logins.push("{{x}}".to_owned())), "spec.deny.logins[0]", "internal.x"),
        (
            change(|role| role.spec.allow.node_labels_expression = Some("labels".to_owned())),
            "spec.allow.node_labels_expression",
            "column 1: which of labels",
        ),
        (
            change(|role| role.spec.deny.rules = vec![rule("session", Some("participants"))]),
            "spec.deny.rules[0].where",
            "there is no \"participants\"",
        ),
        (
            change(|role| role.spec.allow.rules = vec![rule("sesion", None)]),
            "spec.allow.rules[0].resources[0]",
            "did you mean \"session\"",
        ),
        (
            change(|role| role.spec.allow.rules = vec![Rule::default()]),
            "spec.allow.rules[0]",
            "at least one kind",
        ),
        (
            change(|role| role.spec.allow.permit_open = Some(texts(&["a:1", "b"]))),
            "spec.allow.permit_open[1]",
            "has no port",
        ),
        (
            change(|role| role.spec.allow.commands = Some(texts(&["*"]))),
            "spec.allow.commands[0]",
            "begin with its name",
        ),
        (
            change(|role| role.spec.deny.commands = Some(Vec::new())),
            "spec.deny.commands",
            "can only be allowed",
        ),
        (change(|role| role.version = "v2".to_owned()), "version", "must be \"v1\""),
        (change(|role| role.kind = "user".to_owned()), "version", "of the kind \"role\""),
        (
            change(|role| role.spec.deny.logins = vec!["a".to_owned(); MAX_ENTRIES + 1]),
            "spec.deny.logins",
            "at most 1024",
        ),
    ];
    for (role, path, says) in cases {
        let error = CompiledRole::new(role).unwrap_err();
        let [problem] = error.problems.as_slice() else { panic!("{error}") };
        assert_eq!(problem.path, path, "{error}");
        assert!(problem.message.contains(says), "{error}");
        assert!(error.to_string().starts_with(path));
    }
}

#[test]
fn extensions_of_certificates_have_names_that_mean_nothing_else() {
    for (name, value, fine) in [
        ("login@github.com", "{{external.github}}", true),
        ("a@b", "", true),
        ("permit-pty", "", false),
        ("force-command", "x", false),
        ("source-address", "0.0.0.0/0", false),
        ("roles@teleport-rs", "[]", false),
        ("roles@TELEPORT-RS", "[]", false),
        ("permit-x@openssh.com", "", false),
        ("", "", false),
        ("@", "", false),
        ("a b@c", "", false),
        ("a@b", "{{x}}", false),
    ] {
        let role = change(|role| role.spec.options.cert_extensions = vec![CertExtension::new(name, value)]);
        assert_eq!(CompiledRole::new(role).is_ok(), fine, "{name} {value}");
    }
    let mut extension = CertExtension::new("a@b", "c");
    extension.mode = "critical".to_owned();
    assert!(CompiledRole::new(change(|role| role.spec.options.cert_extensions = vec![extension])).is_err());
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let role = change(|role| {
        role.spec.allow.logins = texts(&["*", "{{", "ok"]);
        role.spec.deny.rules = vec![rule("nothing-like-it", Some("x"))];
    });
    let error = CompiledRole::new(role).unwrap_err();
    let paths: Vec<&str> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    let expected = [
        "spec.allow.logins[0]",
        "spec.allow.logins[1]",
        "spec.deny.rules[0].resources[0]",
        "spec.deny.rules[0].where",
    ];
    assert_eq!(paths, expected);
}

/// A role that is stored and not understood allows nothing, and denies everything.
#[test]
fn what_is_not_understood_fails_closed() {
    let all = || role("all", conditions(&["root", "alice"], r#"{"*":"*"}"#), none());
    let may = |roles: &[Role]| decide(roles, "env=prod", "root").is_ok();
    assert!(may(&[all()]));
    let bad: [fn(&mut RoleConditions); 3] = [
        |half| half.logins = texts(&["{{nonsense"]),
        |half| half.logins = texts(&["{{external.a}}{{external.b}}"]),
        |half| half.node_labels_expression = Some("nonsense(".to_owned()),
    ];
    for spoil in bad {
        let mut allowing = change(|_| ());
        spoil(&mut allowing.spec.allow);
        assert!(!may(&[allowing]));
        let mut denying = role("denying", none(), none());
        spoil(&mut denying.spec.deny);
        assert!(!may(&[all(), denying]));
    }
    let mut rules = role("rules", none(), none());
    rules.spec.allow.rules = vec![rule("user", None), rule("token", Some("nonsense("))];
    let mut denied = role("denied", none(), none());
    denied.spec.deny.rules = vec![rule("user", Some("nonsense("))];
    for (roles, user, token) in [(vec![rules.clone()], true, false), (vec![rules, denied], false, false)] {
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        let check = AccessChecker::for_identity(&identity, &set);
        assert_eq!(check.check_rule("user", Verb::List).is_ok(), user);
        assert_eq!(check.check_rule("token", Verb::List).is_ok(), token);
    }
    let to = |host| Destination { host, port: 80, address: None };
    let mut narrow = change(|role| role.spec.allow.permit_open = Some(texts(&["nonsense", "good:80"])));
    let destinations = grant(std::slice::from_ref(&narrow), "", "root").unwrap().policy.destinations;
    assert!(destinations.permit(&to("good")) && !destinations.permit(&to("nonsense")));
    narrow.spec.deny.permit_open = Some(texts(&["nonsense"]));
    assert!(!grant(&[narrow], "", "root").unwrap().policy.destinations.permit(&to("good")));
    let commands = change(|role| role.spec.allow.commands = Some(texts(&["* x", "id"])));
    let commands = grant(&[commands], "", "root").unwrap().policy.commands;
    assert!(commands.permit("id") && !commands.permit("a x"));
    let denied = change(|role| role.spec.deny.commands = Some(texts(&["rm *"])));
    assert!(!grant(&[denied], "", "root").unwrap().policy.commands.permit("id"));
}

/// A role of another version means something else, whatever its words are here.
#[test]
fn a_role_that_cannot_be_read_refuses_its_holders() {
    let all = role("all", conditions(&["root"], r#"{"*":"*"}"#), none());
    let mut newer = role("newer", conditions(&["root"], r#"{"*":"*"}"#), none());
    newer.version = "v2".to_owned();
    newer.spec.allow.rules = vec![rule("user", None)];
    let roles = [all, newer];
    let denied = Denied::Unreadable { role: "newer".to_owned() };
    assert_eq!(decide(&roles, "", "root"), Err(denied.clone()));
    let (identity, set) = (holder(&roles), RoleSet::new(roles));
    let check = AccessChecker::for_identity(&identity, &set);
    assert_eq!(check.readable(), Err(denied.clone()));
    assert_eq!(check.check_rule("user", Verb::List), Err(denied));
    assert!(!check.can_see(&node("")) && !check.filter().can_see(&node("")));
    assert!(!check.may_have_rule("user", Verb::List));
    assert!(check.logins().is_empty() && !check.agent_forwarding() && !check.port_forwarding());
    let explanation = check.explain_login(&node(""), &login("root"), None);
    assert_eq!(explanation.role.as_deref(), Some("newer"));
    assert!(explanation.to_string().contains("cannot be read; it denies everything"), "{explanation}");
    let explanation = check.explain_rule("user", Verb::List, ResourceFacts::default());
    assert_eq!(explanation.needed[0], "role newer must not deny it, or be taken from the user");
}

#[test]
fn a_set_is_written_as_the_list_of_its_roles() {
    let set = RoleSet::new(builtin_roles());
    let names: Vec<&str> = set.iter().map(|role| role.metadata.name.as_str()).collect();
    assert_eq!(names, ["access", "auditor", "editor"]);
    let written = serde_json::to_string(&set).unwrap();
    let again: RoleSet = serde_json::from_str(&written).unwrap();
    assert_eq!(again, set);
    assert_ne!(RoleSet::default(), set);
    assert!(set.get("access").is_some() && set.get("none").is_none());
    assert_eq!((set.len(), RoleSet::default().is_empty()), (3, true));
}

/// A condition on what is not known where it is decided would allow nothing, or deny everything, and look like more.
#[test]
fn conditions_that_nobody_can_answer_are_refused() {
    let took_part = "contains(session.participants, user.metadata.name)";
    for (kind, condition, says) in [
        ("session", took_part, None),
        ("session_tracker", took_part, None),
        ("session", r#"resource.metadata.name == "x" || session.login == "root""#, None),
        ("user", r#"user.metadata.name == "alice""#, None),
        ("*", r#"contains(user.spec.roles, "x")"#, None),
        ("session", r#"resource.metadata.labels["env"] == "x""#, Some("its labels, which sessions")),
        (
            "user",
            r#"resource.metadata.name == "x""#,
            Some("its name, which is decided about in the kinds \"session\" and \"session_tracker\" only"),
        ),
        ("node", r#"!(resource.metadata.labels["env"] == "x")"#, Some("its labels")),
        ("*", took_part, Some("a session")),
        ("event", took_part, Some("\"event\"")),
        ("token", r#"true || has_prefix(strings.lower(resource.metadata.name), "x")"#, Some("its name")),
    ] {
        for deny in [false, true] {
            let role = change(|role| {
                let half = if deny { &mut role.spec.deny } else { &mut role.spec.allow };
                half.rules = vec![rule(kind, Some(condition))];
            });
            let outcome = CompiledRole::new(role).map(drop).map_err(|error| error.to_string());
            match says {
                None => assert_eq!(outcome, Ok(()), "{kind} {condition}"),
                Some(says) => {
                    let side = if deny { "deny" } else { "allow" };
                    let error = outcome.unwrap_err();
                    assert!(
                        error.starts_with(&format!("spec.{side}.rules[0].where: ")) && error.contains(says),
                        "{error}"
                    );
                }
            }
        }
    }
}
