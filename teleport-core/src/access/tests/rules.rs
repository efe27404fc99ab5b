//! Verbs on kinds of resources.

use std::collections::BTreeMap;

use super::*;
use crate::resource::{NAMED_KINDS, RULE_KINDS, Rule};

fn rule(kinds: &[&str], verbs: &[Verb], condition: Option<&str>) -> Rule {
    Rule { resources: texts(kinds), verbs: verbs.to_vec(), condition: condition.map(str::to_owned) }
}

fn with_rules(name: &str, allow: Vec<Rule>, deny: Vec<Rule>) -> Role {
    let half = |rules| RoleConditions { rules, ..RoleConditions::default() };
    role(name, half(allow), half(deny))
}

/// What the built-in roles allow, kind by kind and verb by verb.
#[test]
fn builtin_roles_do_what_they_say() {
    let roles = RoleSet::new(builtin_roles());
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
    let any = "create,delete,list,read,readnosecrets,rotate,update,use";
    let read = "list,read,readnosecrets";
    assert_eq!(
        table,
        format!(
            "access: logins [root] user [] role [] token [] node [] cert_authority [] event [] session [] lock []\n\
             editor: logins [] user [{any}] role [{any}] token [{any}] node [{any}] cert_authority [{read}] \
             event [] session [] lock [{any}]\n\
             auditor: logins [] user [] role [] token [] node [] cert_authority [] event [{read}] \
             session [{read}] lock []\n"
        )
    );
}

#[test]
fn verbs_include_each_other() {
    use Verb::{Any, Create, Delete, List, Read, ReadNoSecrets, Rotate, Update, Use};
    for (verb, allows, denies) in [
        (Any, &Verb::EACH[..], &Verb::EACH[..]),
        (Create, &[Create], &[Create]),
        (Delete, &[Delete], &[Delete]),
        (List, &[List], &[List]),
        (Read, &[Read, ReadNoSecrets], &[Read, ReadNoSecrets]),
        (ReadNoSecrets, &[ReadNoSecrets], &[Read, ReadNoSecrets]),
        (Rotate, &[Rotate], &[Rotate]),
        (Update, &[Update], &[Update]),
        (Use, &[Use], &[Use]),
    ] {
        for other in Verb::EACH {
            assert_eq!(verb.allows(other), allows.contains(&other), "{verb:?} allows {other:?}");
            assert_eq!(verb.denies(other), denies.contains(&other), "{verb:?} denies {other:?}");
        }
        let written = serde_json::to_string(&verb).unwrap();
        assert_eq!(written, format!("{:?}", verb.as_str()));
        assert_eq!(serde_json::from_str::<Verb>(&written).unwrap(), verb);
    }
}

#[test]
fn rules_are_about_kinds_and_verbs() {
    let allow = with_rules("a", vec![rule(&["user", "token"], &[Verb::List, Verb::Read], None)], Vec::new());
    let all = with_rules("z", vec![rule(&["*"], &[Verb::Any], None)], Vec::new());
    let deny = with_rules("d", Vec::new(), vec![rule(&["token"], &[Verb::Update], None)]);
    for (roles, kind, verb, expected) in [
        (vec![allow.clone()], "user", Verb::List, Ok(())),
        (vec![allow.clone()], "token", Verb::ReadNoSecrets, Ok(())),
        (vec![allow.clone()], "user", Verb::Update, Err(Denied::NotAllowed)),
        (vec![allow.clone()], "role", Verb::List, Err(Denied::NotAllowed)),
        (vec![allow.clone(), all.clone()], "role", Verb::Rotate, Ok(())),
        (
            vec![all.clone(), deny.clone()],
            "token",
            Verb::Update,
            Err(Denied::DeniedBy { role: "d".to_owned() }),
        ),
        (vec![all.clone(), deny.clone()], "token", Verb::List, Ok(())),
        (vec![deny.clone()], "user", Verb::List, Err(Denied::NotAllowed)),
        (Vec::new(), "user", Verb::List, Err(Denied::NoRoles)),
    ] {
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        let check = AccessChecker::for_identity(&identity, &set);
        assert_eq!(check.check_rule(kind, verb).map(drop), expected, "{check:?} {kind} {verb:?}");
        assert_eq!(check.may_have_rule(kind, verb), expected.is_ok(), "{check:?} {kind} {verb:?}");
    }
}

/// The right to make certificates for others is never given in passing, and always taken.
#[test]
fn some_kinds_are_allowed_by_their_names_only() {
    let all = with_rules("all", vec![rule(&["*"], &[Verb::Any], None)], Vec::new());
    let named = with_rules("named", vec![rule(&NAMED_KINDS, &[Verb::Create], None)], Vec::new());
    let none = with_rules("none", Vec::new(), vec![rule(&["*"], &[Verb::Any], None)]);
    for kind in NAMED_KINDS {
        assert!(RULE_KINDS.contains(&kind), "{kind}");
        for (roles, expected) in [
            (vec![all.clone()], Err(Denied::NotAllowed)),
            (builtin_roles(), Err(Denied::NotAllowed)),
            (vec![named.clone()], Ok(())),
            (vec![all.clone(), named.clone()], Ok(())),
            (vec![named.clone(), none.clone()], Err(Denied::DeniedBy { role: "none".to_owned() })),
        ] {
            let (identity, set) = (holder(&roles), RoleSet::new(roles));
            let check = AccessChecker::for_identity(&identity, &set);
            assert_eq!(check.check_rule(kind, Verb::Create).map(drop), expected, "{check:?} {kind}");
            assert_eq!(check.may_have_rule(kind, Verb::Create), expected.is_ok(), "{check:?} {kind}");
        }
    }
}

/// A `where` about the resource: nothing is allowed before the resource is known, and then only what it says.
#[test]
fn where_narrows_to_single_resources() {
    let took_part = "contains(session.participants, user.metadata.name)";
    let mine =
        with_rules("mine", vec![rule(&["session"], &[Verb::List, Verb::Read], Some(took_part))], Vec::new());
    let (identity, set) = (holder(std::slice::from_ref(&mine)), RoleSet::new([mine]));
    let check = AccessChecker::for_identity(&identity, &set);
    assert_eq!(check.check_rule("session", Verb::Read), Err(Denied::NotAllowed));
    assert!(check.may_have_rule("session", Verb::Read));
    assert!(!check.may_have_rule("session", Verb::Update));
    let of = |participants| {
        let session = SessionFacts { participants, login: "root", server_id: "", server_hostname: "" };
        let facts = ResourceFacts { session: Some(session), ..ResourceFacts::default() };
        check.check_rule_on("session", Verb::Read, facts).map(drop)
    };
    assert_eq!(of(&["bob", "alice"]), Ok(()));
    assert_eq!(of(&["bob"]), Err(Denied::NotAllowed));
}

#[test]
fn a_denial_that_depends_on_the_resource_denies_what_is_not_known() {
    let all = with_rules("all", vec![rule(&["*"], &[Verb::Any], None)], Vec::new());
    let prod = r#"resource.metadata.labels["env"] == "prod""#;
    let no_prod = with_rules("no-prod", Vec::new(), vec![rule(&["node"], &[Verb::Delete], Some(prod))]);
    let never = with_rules("never", Vec::new(), vec![rule(&["role"], &[Verb::Any], Some("true"))]);
    let roles = [all, no_prod, never];
    let (identity, set) = (holder(&roles), RoleSet::new(roles));
    let check = AccessChecker::for_identity(&identity, &set);
    let denied = || Err(Denied::DeniedBy { role: "no-prod".to_owned() });
    assert_eq!(check.check_rule("node", Verb::Delete).map(drop), denied());
    assert!(check.may_have_rule("node", Verb::Delete));
    assert!(!check.may_have_rule("role", Verb::Read));
    let on = |env: &str| {
        let labels = BTreeMap::from([("env".to_owned(), env.to_owned())]);
        let facts = ResourceFacts { labels: Some(&labels), ..ResourceFacts::default() };
        check.check_rule_on("node", Verb::Delete, facts).map(drop)
    };
    assert_eq!(on("prod"), denied());
    assert_eq!(on("test"), Ok(()));
}

#[test]
fn the_kinds_are_sorted_and_those_of_the_policy_table_are_among_them() {
    assert!(RULE_KINDS.is_sorted());
    #[cfg(feature = "auth")]
    for operation in crate::auth::policy::Operation::ALL {
        for caller in crate::auth::policy::CallerKind::ALL {
            if let crate::auth::policy::Rule::Role(kind, _) = operation.rule(caller) {
                assert!(RULE_KINDS.contains(&kind), "{kind}");
            }
        }
    }
}
