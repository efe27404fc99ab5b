#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cert::Traits;
use crate::id::RoleName;
use crate::resource::NodeRecord;

fn values(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Evaluates as alice, about a node or session that is known if `known`.
fn evaluate(source: &str, scope: Scope, known: bool) -> Option<bool> {
    let traits = Traits::from([
        ("teams".to_owned(), values(&["dev", "ops"])),
        ("email".to_owned(), values(&["Alice@example.com"])),
        ("none".to_owned(), Vec::new()),
        ("blank".to_owned(), values(&[""])),
    ]);
    let roles = [RoleName::new("access").unwrap(), RoleName::new("auditor").unwrap()];
    let labels = BTreeMap::from(
        [("env", "prod"), ("team", "dev"), ("aws/region", "eu-1"), ("aws/zone", "b"), ("teams", "dev, ops")]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let session = SessionFacts {
        participants: &["alice", "bob"],
        login: "root",
        server_id: "0f8fad5b-d9cb-469f-a165-70867728950e",
        server_hostname: "web-1",
    };
    let resource = if known {
        ResourceFacts {
            name: Some("web-1"),
            address: Some("192.0.2.7:3022"),
            labels: Some(&labels),
            session: Some(session),
        }
    } else {
        ResourceFacts::default()
    };
    let facts = Facts { subject: Subject::new("alice", &roles, &traits), resource };
    let predicate = Predicate::new(source, scope).unwrap_or_else(|error| panic!("{source}: {error}"));
    predicate.evaluate(&facts)
}

#[test]
fn conditions_about_nodes() {
    for (source, expected) in [
        (r#"labels["env"] == "prod""#, true),
        (r#"labels.env == "prod""#, true),
        (r#"labels["env"] != "prod""#, false),
        (r#"labels["env"] == labels["team"]"#, false),
        (r#"labels["aws/region"] == "eu-1""#, true),
        (r#"resource.metadata.labels["env"] == "prod""#, true),
        (r#"resource.metadata.name == "web-1""#, true),
        (r#"has_prefix(resource.metadata.name, "web-")"#, true),
        (r#"has_suffix(resource.metadata.name, "-2")"#, false),
        (r#"contains(user.spec.traits["teams"], labels["team"])"#, true),
        (r#"contains(user.spec.traits["teams"], labels["env"])"#, false),
        (r#"contains(user.spec.traits.teams, "ops")"#, true),
        (r#"contains_any(user.spec.traits["teams"], set("x", "ops"))"#, true),
        (r#"contains_any(user.spec.traits["teams"], set())"#, false),
        (r#"contains_all(user.spec.traits["teams"], set("dev", "ops"))"#, true),
        (r#"contains_all(user.spec.traits["teams"], set("dev", "x"))"#, false),
        (r#"contains_all(user.spec.traits["teams"], set())"#, false),
        (r#"contains_all(user.spec.traits["teams"], labels["team"])"#, true),
        (r#"equals(user.metadata.name, "alice")"#, true),
        (r#"equals(user.spec.traits["teams"], set("ops", "dev", "ops"))"#, true),
        (r#"user.spec.traits["teams"] == set("ops")"#, false),
        (r#"contains(user.spec.roles, "access")"#, true),
        (r#"regexp.match(labels["env"], "p*d")"#, true),
        (r#"regexp.match(labels["env"], "^(prod|test)$")"#, true),
        (r#"regexp.match(labels["env"], "pro")"#, false),
        (r#"regexp.match(user.spec.traits["teams"], "^o.s$")"#, true),
        (r#"regexp.match(labels_matching("aws/*"), "eu-*")"#, true),
        (r#"contains(labels_matching("*"), "b")"#, true),
        (r#"contains(labels_matching("aws/*"), "prod")"#, false),
        (r#"contains(email.local(user.spec.traits["email"]), "Alice")"#, true),
        (r#"contains(strings.lower(email.local(user.spec.traits["email"])), user.metadata.name)"#, true),
        (r#"strings.upper(labels["env"]) == "PROD""#, true),
        (r#"contains(regexp.replace(user.spec.traits["teams"], "^d(.*)$", "$1"), "ev")"#, true),
        (r#"exists(labels["env"])"#, true),
        (r#"exists(labels["nothing"])"#, false),
        (r#"exists(user.spec.traits["none"])"#, false),
        (r#"!(labels["env"] == "prod") || labels["team"] == "dev""#, true),
        (r#"labels["env"] == "x" && labels["team"] == "dev" || true"#, true),
        ("true && !false", true),
        // What is not there.
        (r#"labels["nothing"] == """#, true),
        (r#"labels["nothing"] != "x""#, true),
        (r#"labels["nothing"] == "x""#, false),
        (r#"contains(user.spec.traits["blank"], labels["nothing"])"#, false),
        (r#"contains(user.spec.traits["nothing"], labels["nothing"])"#, false),
        (r#"regexp.match(labels["nothing"], "*")"#, false),
        (r#"has_prefix(labels["nothing"], "")"#, false),
        (r#"has_prefix(labels["env"], labels["nothing"])"#, false),
    ] {
        assert_eq!(evaluate(source, Scope::Nodes, true), Some(expected), "{source}");
    }
}

#[test]
fn conditions_about_resources() {
    for (source, expected) in [
        ("contains(session.participants, user.metadata.name)", true),
        (r#"contains(session.participants, "carol")"#, false),
        ("contains(ssh_session.participants, user.metadata.name)", true),
        (r#"contains(session_tracker.participants, "bob")"#, true),
        (r#"session.login == "root" && session.server_hostname == "web-1""#, true),
        (r#"has_prefix(session.server_id, "0f8")"#, true),
        ("resource.metadata.name == user.metadata.name", false),
        (r#"resource.metadata.labels["env"] == "prod""#, true),
    ] {
        assert_eq!(evaluate(source, Scope::Rules, true), Some(expected), "{source}");
    }
}

#[test]
fn queries_are_about_nodes_alone() {
    for (source, expected) in [
        (r#"name == "web-1" && labels["env"] == "prod""#, true),
        (r#"hasPrefix(name, "db-")"#, false),
        (r#"has_suffix(resource.metadata.name, "-1")"#, true),
        (r#"regexp.match(labels_matching("aws/*"), "eu-*")"#, true),
        (r#"contains(split(labels["teams"], ","), "ops")"#, true),
        (r#"contains(split(labels["teams"], ","), "op")"#, false),
        (r#"contains(split(labels["nothing"], ","), "")"#, false),
        (r#"search("WEB", "prod")"#, true),
        (r#"search("web-2")"#, false),
    ] {
        assert_eq!(evaluate(source, Scope::Queries, true), Some(expected), "{source}");
        let node = NodeRecord {
            host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: "web-1".parse().unwrap(),
            address: "192.0.2.7:3022".to_owned(),
            labels: "env=prod,aws/region=eu-1".parse().unwrap(),
            sub_kind: crate::resource::NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: "1".to_owned(),
        };
        let mut labels = node.labels.as_map().clone();
        labels.insert("teams".to_owned(), "dev, ops".to_owned());
        let node = NodeRecord { labels: crate::label::Labels::new(labels).unwrap(), ..node };
        assert_eq!(Predicate::new(source, Scope::Queries).unwrap().matches_node(&node), expected, "{source}");
    }
    for (source, says) in [
        (r#"user.metadata.name == "x""#, "exists only in node_labels_expression and `where` of rules"),
        (r#"contains(user.spec.traits["x"], "y")"#, "exists only in"),
        (r#"session.login == "x""#, "exists only in `where` of rules"),
        (r#"nam == "x""#, "did you mean \"name\""),
    ] {
        let error = Predicate::new(source, Scope::Queries).unwrap_err().to_string();
        assert!(error.contains(says), "{source}: {error}");
    }
}

#[test]
fn what_is_not_known_decides_nothing_unless_the_answer_is_the_same_either_way() {
    for (source, expected) in [
        ("contains(session.participants, user.metadata.name)", None),
        ("!contains(session.participants, user.metadata.name)", None),
        (r#"resource.metadata.name == "x""#, None),
        (r#"resource.metadata.name == "x" || user.metadata.name == "alice""#, Some(true)),
        (r#"resource.metadata.name == "x" && user.metadata.name == "alice""#, None),
        (r#"resource.metadata.name == "x" && user.metadata.name == "bob""#, Some(false)),
        (r#"exists(resource.metadata.labels["a"])"#, None),
        (r#"contains_any(user.spec.roles, session.participants)"#, None),
        (r#"contains_all(session.participants, user.spec.roles)"#, None),
        (r#"regexp.match(strings.lower(session.login), "r*")"#, None),
        (r#"user.metadata.name == "alice""#, Some(true)),
    ] {
        assert_eq!(evaluate(source, Scope::Rules, false), expected, "{source}");
    }
}

#[test]
fn mistakes_are_found_when_it_is_written() {
    use Scope::{Nodes, Rules};
    for (source, scope, column, says) in [
        (r#"regexp.match(labels["env"], "^prod.*")"#, Nodes, 29, "end it with `$`"),
        (r#"lables["env"] == "x""#, Nodes, 1, "did you mean \"labels\""),
        (r#"labels["env"]"#, Nodes, 1, "not a condition; compare it by `== \"…\"`"),
        (r#"labels == "x""#, Nodes, 1, "which of labels?; write labels[\"name\"]"),
        ("user.spec.roles", Nodes, 1, "contains(list, item)"),
        (r#"user.spec.trait["x"] == "y""#, Nodes, 1, "did you mean \"user.spec.traits\""),
        (r#"user.spec.traits["x"] == "y""#, Nodes, 1, "contains(list, item)"),
        (r#"user.name == "x""#, Nodes, 1, "there are labels"),
        (r#"true && contain(user.spec.roles, "x")"#, Nodes, 9, "did you mean \"contains\""),
        (r#"contains(labels["x"], "x")"#, Nodes, 10, "swap the arguments"),
        (r#"contains(user.spec.roles, user.spec.roles)"#, Nodes, 27, "expected a text, this is a list"),
        ("contains(user.spec.roles)", Nodes, 1, "write contains(list, item)"),
        (r#"frobnicate("x")"#, Nodes, 1, "there are contains"),
        (r#"regexp.match(labels["x"], "^($")"#, Nodes, 27, "unclosed group"),
        (r#"regexp.match(labels["x"], labels["y"])"#, Nodes, 27, "must be a text"),
        ("contains == true", Nodes, 1, "is a function"),
        (r#"contains(session.participants, "x")"#, Nodes, 10, "only in `where`"),
        (r#"labels["x"] == "y""#, Rules, 1, "only in node_labels_expression and queries"),
        (r#"name == "y""#, Nodes, 1, "only in queries"),
        (r#"contains(split(labels["x"], labels["y"]), "z")"#, Nodes, 29, "must be a text"),
        (r#"exists(labels_matching("x"))"#, Rules, 8, "only in node_labels_expression"),
        (r#"search("x")"#, Nodes, 1, "search() exists only in queries"),
        (r#"search("x")"#, Rules, 1, "search() exists only in queries"),
        (
            "contains(sesion.participants, user.metadata.name)",
            Rules,
            10,
            "did you mean \"session.participants\"",
        ),
        (r#"(true && false) == "x""#, Nodes, 2, "cannot equal"),
    ] {
        let error = Predicate::new(source, scope).unwrap_err();
        assert_eq!(error.column, column, "{source}: {error}");
        assert!(error.to_string().contains(says), "{source}: {error}");
    }
}

fn condition() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        r#"labels["env"] == "prod""#,
        r#"contains(user.spec.traits["teams"], labels["team"])"#,
        r#"resource.metadata.name == "web-1""#,
        r#"user.metadata.name == "bob""#,
        "true",
        r#"exists(labels["x"])"#,
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("!({inner})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left}) && ({right})")),
            (inner.clone(), inner).prop_map(|(left, right)| format!("({left}) || ({right})")),
        ]
    })
}

proptest! {
    /// What was decided without knowing the resource stays so whatever the resource is; and the laws of logic hold.
    #[test]
    fn knowing_more_never_changes_an_answer(left in condition(), right in condition()) {
        let known = |source: &str| evaluate(source, Scope::Nodes, true);
        if let Some(early) = evaluate(&left, Scope::Nodes, false) {
            prop_assert_eq!(known(&left), Some(early));
        }
        let not = known(&format!("!(({left}) && ({right}))"));
        prop_assert_eq!(not, known(&format!("!({left}) || !({right})")));
        prop_assert!(not.is_some());
    }
}

/// Whatever a text would be that is too long to be made: it allows nothing, and a denial holds.
#[test]
fn what_is_too_long_is_unknown() {
    for source in ["user.metadata.name", r#"user.spec.traits["teams"]"#] {
        let mut text = source.to_owned();
        for _ in 0..20 {
            text = format!(r#"regexp.replace({text},".","$0$0")"#);
        }
        for condition in [format!(r#"contains(set("x"), {text})"#), format!(r#"regexp.match({text}, "b")"#)] {
            if !(source.contains("traits") && condition.starts_with("contains")) {
                assert_eq!(evaluate(&condition, Scope::Nodes, true), None, "{condition}");
                assert_eq!(evaluate(&format!("!{condition}"), Scope::Nodes, true), None);
                assert_eq!(evaluate(&format!("true || {condition}"), Scope::Nodes, true), Some(true));
            }
        }
    }
}
