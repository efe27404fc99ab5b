#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

fn role(version: &str, spec: Value) -> Value {
    json!({ "kind": "role", "version": version, "metadata": { "name": "r" }, "spec": spec })
}

fn problems(document: &Value) -> Vec<String> {
    load_role(document).unwrap_err().problems.iter().map(ToString::to_string).collect()
}

/// Every key of our own version.
fn full() -> Value {
    let half = json!({
        "logins": ["root", "{{internal.logins}}"],
        "node_labels": { "env": ["prod", "te*"], "team": "{{external.team}}" },
        "node_labels_expression": "labels[\"env\"] == \"prod\"",
        "permit_open": ["db:5432"],
        "join_sessions": [{ "name": "n", "roles": ["dev"], "kinds": ["ssh"], "modes": ["peer"] }],
        "rules": [{ "resources": ["session"], "verbs": ["list"], "where": "user.metadata.name == \"alice\"" }],
    });
    let mut allow = half.clone();
    allow["join_sessions"][0]["with_login"] = json!(true);
    allow["commands"] = json!(["uptime"]);
    role(
        "v1",
        json!({
            "allow": allow,
            "deny": half,
            "options": {
                "cert_extensions": [{ "type": "ssh", "mode": "extension", "name": "a@b", "value": "c" }],
                "client_idle_timeout": "10m0s",
                "disconnect_expired_cert": true,
                "forward_agent": true,
                "lock": "strict",
                "max_connections": 3,
                "max_session_ttl": "8h0m0s",
                "max_sessions": 4,
                "permit_x11_forwarding": true,
                "pin_source_ip": true,
                "port_forwarding": false,
                "record_session": { "default": "best_effort", "ssh": "strict" },
                "ssh_file_copy": false,
                "ssh_port_forwarding": { "local": { "enabled": true }, "remote": { "enabled": false } },
            },
        }),
    )
}

/// Whoever writes half of a regular expression into a denial believes that it denies.
#[test]
fn what_only_looks_like_a_regular_expression_is_told() {
    let document = json!({"kind": "role", "version": "v1", "metadata": {"name": "r"}, "spec": {
        "allow": {"node_labels": {"env": ["^prod$", "prod"]}, "commands": ["^id$", "^uptime"]},
        "deny": {"node_labels": {"team": "^db.*", "os": "x^y"}}}});
    let told = load_role(&document).unwrap().ignored;
    let [command, label] = &told[..] else { panic!("{told:?}") };
    assert!(command.starts_with("spec.allow.commands[1]: \"^uptime\" is no regular expression"), "{command}");
    assert!(label.starts_with("spec.deny.node_labels.team: \"^db.*\" is no regular expression"), "{label}");
}

#[test]
fn our_own_version_is_read_and_written_whole() {
    let loaded = load_role(&full()).unwrap();
    assert_eq!(loaded.role.spec.options.max_session_ttl, Duration::from_secs(8 * 3600));
    let mut expected = full();
    // One value of a label is written as a list.
    for half in ["allow", "deny"] {
        expected["spec"][half]["node_labels"]["team"] = json!(["{{external.team}}"]);
    }
    assert_eq!(serde_json::to_value(&loaded.role).unwrap(), expected);
}

/// Every key that is known can be read, and every one that is written is known.
#[test]
fn the_known_keys_are_those_that_exist() {
    fn paths(value: &Value, path: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(entries) => {
                entries.iter().for_each(|(key, value)| paths(value, &keys::join(path, key), into));
            }
            Value::Array(items) => items.iter().for_each(|item| paths(item, path, into)),
            _ => into.push(path.to_owned()),
        }
    }
    fn known(shape: &keys::Shape, path: &str, into: &mut Vec<String>) {
        match shape {
            keys::Shape::List(of) => known(of, path, into),
            keys::Shape::Map(entries) => {
                entries.iter().for_each(|(key, shape)| known(shape, &keys::join(path, key), into));
            }
            keys::Shape::Value => into.push(path.to_owned()),
        }
    }
    let (mut written, mut expected) = (Vec::new(), Vec::new());
    let mut document = full();
    document["metadata"] = json!({ "name": "r", "description": "d", "expires": "2030-01-01T00:00:00Z", "labels": "l", "revision": 1 });
    for half in ["allow", "deny"] {
        document["spec"][half]["node_labels"] = json!("any");
        document["spec"][half]["commands"] = json!(["any"]);
        document["spec"][half]["join_sessions"][0]["with_login"] = json!(true);
    }
    paths(&document, "", &mut written);
    known(&keys::ROLE, "", &mut expected);
    written.sort();
    written.dedup();
    expected.sort();
    assert_eq!(written, expected);
}

#[test]
fn unknown_keys_are_refused_with_their_place_and_a_suggestion() {
    let document = role(
        "v1",
        json!({
            "alow": {},
            "allow": { "login": [], "rules": [{ "resources": ["user"], "verbs": ["list"], "were": "true" }] },
            "options": { "forward_agents": true, "require_session_mfa": true },
        }),
    );
    assert_eq!(
        problems(&document),
        [
            "spec.allow.login: there is no such key; did you mean \"logins\"?",
            "spec.allow.rules[0].were: there is no such key; did you mean \"where\"?",
            "spec.alow: there is no such key; did you mean \"allow\"?",
            "spec.options.forward_agents: there is no such key; did you mean \"forward_agent\"?",
            "spec.options.require_session_mfa: there is no such key",
        ]
    );
}

#[test]
fn what_is_no_role_is_refused() {
    for (document, says) in [
        (json!([]), "a role is a map"),
        (json!({ "kind": "user", "version": "v1" }), "kind: must be"),
        (json!({ "kind": "role" }), "version: must be"),
        (role("v2", json!({})), "version: must be"),
        (role("v9", json!({})), "version: must be"),
        (role("v1", json!({ "options": { "max_session_ttl": "forever" } })), "not a duration"),
        (role("v1", json!({ "allow": { "logins": "root" } })), "a list is wanted here, not \"root\""),
        (role("v1", json!({ "allow": { "logins": ["*"] } })), "spec.allow.logins[0]"),
        (role("v1", json!({ "allow": { "node_labels": { "env": "^($" } } })), "unclosed group"),
        (role("v1", json!({ "allow": { "rules": [{ "resources": ["user"], "verbs": ["look"] }] } })), "look"),
        (json!({ "kind": "role", "version": "v6", "metadata": { "name": "r" } }), "spec: is missing"),
        (
            role("v7", json!({ "allow": { "commands": ["id"] } })),
            "spec.allow.commands: only roles of version v1",
        ),
        (
            role("v1", json!({ "options": { "record_session": "strict" } })),
            "spec.options.record_session: a map such as {default: strict}",
        ),
        (
            role("v1", json!({ "options": { "max_sessions": "many" } })),
            "a whole number is wanted here, not \"many\"",
        ),
        (
            role("v1", json!({ "options": { "record_session": { "ssh": "of" } } })),
            "\"of\" is not known here; write off, best_effort, strict",
        ),
        (json!({ "kind": "role", "version": "v1", "metadata": { "name": "r" } }), "spec"),
        (
            json!({ "kind": "role", "version": "v7", "metadata": { "name": "a b" }, "spec": {} }),
            "metadata.name",
        ),
    ] {
        let error = load_role(&document).unwrap_err().to_string();
        assert!(error.contains(says), "{document}: {error}");
    }
}

/// What a cluster of the first release has stored.
#[test]
fn roles_of_the_first_release_are_read() {
    let stored = r#"{"kind":"role","version":"v1","metadata":{"name":"access","description":"Log in"},"spec":{"allow":{"logins":["{{internal.logins}}"],"node_labels":{"*":["*"]},"rules":[]},"deny":{"logins":[],"node_labels":{},"rules":[]},"options":{"max_session_ttl":108000,"forward_agent":true,"port_forwarding":true}}}"#;
    let read: Role = serde_json::from_str(stored).unwrap();
    assert_eq!(read.spec, builtin_roles()[0].spec);
    let numbers: Role =
        serde_json::from_str(&stored.replace("108000", "18446744073709551615").replace("[\"*\"]", "\"*\""))
            .unwrap();
    assert_eq!(numbers.spec.options.max_session_ttl, super::super::MAX_SPAN);
    let rules = stored.replace("\"rules\":[]", r#""rules":[{"resources":["user"],"verbs":["list","*"]}]"#);
    let read: Role = serde_json::from_str(&rules).unwrap();
    assert_eq!(read.spec.allow.rules[0].condition, None);
    assert!(serde_json::from_str::<Role>(&stored.replace("108000", "-1")).is_err());
}

#[test]
fn what_is_default_is_not_written() {
    let written = serde_json::to_value(RoleOptions::default()).unwrap();
    assert_eq!(
        written,
        json!({ "max_session_ttl": "30h0m0s", "forward_agent": false, "port_forwarding": true })
    );
    assert_eq!(serde_json::from_value::<RoleOptions>(json!({})).unwrap(), RoleOptions::default());
}

/// A role as the original's tools write it, with everything that it fills in by itself.
#[test]
fn a_role_of_the_original_is_read_for_what_is_about_ssh() {
    let document = json!({
        "kind": "role",
        "sub_kind": "",
        "version": "v7",
        "metadata": {
            "name": "dev",
            "namespace": "default",
            "description": "Developers",
            "labels": { "team": "dev" },
            "id": 1_695_123_456_789_i64,
            "revision": "0d7f2c4e-3c8e-4a3c-9a53-7c4e0b2f8a11",
        },
        "spec": {
            "allow": {
                "logins": ["{{internal.logins}}", "{{external[\"unix\"]}}", "{{email.local(external.email)}}"],
                "node_labels": { "env": ["dev", "^stage-[0-9]+$"] },
                "node_labels_expression": "labels[\"tier\"] != \"db\"",
                "app_labels": { "*": "*" },
                "kubernetes_groups": [],
                "db_users": ["postgres"],
                "namespaces": ["default"],
                "require_session_join": [{ "name": "watched", "filter": "true", "kinds": ["ssh"], "count": 1 }],
                "join_sessions": [{ "name": "all", "roles": ["*"], "kinds": ["*"], "modes": ["*"] }, { "roles": ["dev"], "kinds": ["k8s"], "modes": ["peer"] }],
                "rules": [
                    { "resources": ["session", "app"], "verbs": ["list", "readnosecrets"], "where": "contains(session.participants, user.metadata.name)" },
                    { "resources": ["access_request"], "verbs": ["list"] },
                    { "resources": ["node"], "verbs": ["list"], "where": "", "actions": ["log(\"info\", \"x\")"] },
                ],
            },
            "deny": { "logins": ["root"], "node_labels": null, "kubernetes_labels": {} },
            "options": {
                "cert_format": "standard",
                "client_idle_timeout": "never",
                "create_desktop_user": false,
                "desktop_clipboard": true,
                "disconnect_expired_cert": "no",
                "enhanced_recording": ["command", "network"],
                "forward_agent": "yes",
                "idp": { "saml": { "enabled": false } },
                "lock": "",
                "max_session_ttl": "8h0m0s",
                "max_sessions": 10,
                "pin_source_ip": false,
                "port_forwarding": null,
                "record_session": { "default": "strict", "desktop": true },
                "require_session_mfa": true,
                "request_access": "optional",
                "ssh_file_copy": true,
                "ssh_port_forwarding": { "local": { "enabled": true }, "remote": { "enabled": "off" } },
            },
        },
    });
    let loaded = load_role(&document).unwrap();
    assert_eq!(
        loaded.ignored,
        [
            "spec.allow.app_labels: not about SSH, or not offered",
            "spec.allow.db_users: not about SSH, or not offered",
            "spec.allow.join_sessions[1].kinds: there are no sessions of the kind \"k8s\"",
            "spec.allow.require_session_join: not enforced: sessions are less restricted than the document says",
            "spec.allow.rules[0].resources: there are no resources of the kind \"app\"",
            "spec.allow.rules[1].resources: there are no resources of the kind \"access_request\"",
            "spec.allow.rules[2].actions: not offered",
            "spec.options.desktop_clipboard: not about SSH, or not offered",
            "spec.options.enhanced_recording: not about SSH, or not offered",
            "spec.options.require_session_mfa: not enforced: sessions are less restricted than the document says",
        ]
    );
    let role = loaded.role;
    assert_eq!((role.version.as_str(), role.metadata.description.as_str()), ("v1", "Developers"));
    let options = &role.spec.options;
    assert_eq!(options.max_session_ttl, Duration::from_secs(8 * 3600));
    assert!(options.forward_agent && options.port_forwarding && !options.disconnect_expired_cert);
    assert_eq!(options.ssh_port_forwarding.remote, Some(Switch { enabled: false }));
    assert_eq!(options.record_session.for_ssh(), RecordingMode::Strict);
    assert_eq!((options.client_idle_timeout, options.lock), (Duration::ZERO, None));
    let [sessions, nodes] = role.spec.allow.rules.as_slice() else { panic!("{:?}", role.spec.allow.rules) };
    assert_eq!(sessions.resources, ["session"]);
    assert_eq!(sessions.verbs, [Verb::List, Verb::ReadNoSecrets]);
    assert!(sessions.condition.is_some() && nodes.condition.is_none());
    assert_eq!(role.spec.deny.logins, ["root"]);
    assert!(role.spec.deny.node_labels.is_empty());
    // What was loaded is a document of ours.
    assert_eq!(load_role(&serde_json::to_value(&role).unwrap()).unwrap().role, role);
}

#[test]
fn only_v3_lets_everybody_with_logins_in_everywhere() {
    for (version, allow, expected) in [
        ("v3", json!({ "logins": ["root"] }), true),
        ("v3", json!({ "logins": ["root"], "node_labels": { "env": "prod" } }), false),
        ("v3", json!({ "logins": ["root"], "node_labels": {} }), false),
        ("v3", json!({ "logins": [] }), false),
        ("v4", json!({ "logins": ["root"] }), false),
        ("v7", json!({ "logins": ["root"] }), false),
        ("v8", json!({ "logins": ["root"] }), false),
    ] {
        let loaded = load_role(&role(version, json!({ "allow": allow.clone() }))).unwrap();
        let everything = loaded.role.spec.allow.node_labels == LabelMatcher::everything();
        assert_eq!(everything, expected, "{version} {allow}");
    }
}

#[test]
fn documents_of_the_original_are_checked_as_ours_are() {
    let document = role(
        "v6",
        json!({
            "allow": { "loginz": ["root"], "rules": [{ "resources": ["user"], "verbs": ["lst"] }] },
            "options": { "max_sesion_ttl": "1h", "ssh_port_forwarding": { "lokal": {} }, "record_session": { "shh": "strict" } },
        }),
    );
    assert_eq!(
        problems(&document),
        [
            "spec.allow.loginz: there is no such key; did you mean \"logins\"?",
            "spec.allow.rules[0].verbs: there is no verb \"lst\"; did you mean \"list\"?",
            "spec.options.max_sesion_ttl: there is no such key; did you mean \"max_session_ttl\"?",
            "spec.options.record_session.shh: there is no such key; did you mean \"ssh\"?",
            "spec.options.ssh_port_forwarding.lokal: there is no such key; did you mean \"local\"?",
        ]
    );
    let kind = json!({ "allow": { "rules": [{ "resources": ["usr"], "verbs": ["list"] }] } });
    let [problem] = problems(&role("v6", kind)).try_into().unwrap();
    assert_eq!(
        problem,
        "spec.allow.rules[0].resources[0]: there are no resources of the kind \"usr\"; did you mean \"user\"?"
    );
    let template = json!({ "allow": { "logins": ["{{external.a.b}}"] } });
    assert!(problems(&role("v5", template))[0].starts_with("spec.allow.logins[0]: column 3"));
}
