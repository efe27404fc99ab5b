//! Resources as administrators write them, and what follows from a role. Also those of the original.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::access::{AccessChecker, CompiledRole, ResourceFacts, RoleSet, Subject};
use teleport_core::cert::Traits;
use teleport_core::clock::Timestamp;
use teleport_core::id::RoleName;
use teleport_core::resource::{Document, NodeRecord, Role, User, Verb, load_document, load_role};
use teleport_core::testing::user_identity;
use teleport_fuzz::certificate::HOST_ID;
use teleport_fuzz::json::round_trip;

fn node(labels: &str) -> NodeRecord {
    NodeRecord {
        host_id: HOST_ID.parse().unwrap(),
        name: "web-1".parse().unwrap(),
        address: "192.0.2.7:3022".to_owned(),
        labels: labels.parse().unwrap(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "1".to_owned(),
    }
}

fuzz_target!(|data: &[u8]| {
    round_trip::<User>(data);
    if let Ok(document) = serde_json::from_slice(data)
        && let Ok(loaded) = load_role(&document)
    {
        // What was loaded is a document of ours; what is told of it again are hints about patterns, which stand in it as they were.
        let written = serde_json::to_value(&loaded.role).unwrap();
        let again = load_role(&written).expect("what was loaded can be loaded");
        assert_eq!(again.role, loaded.role);
        assert!(again.ignored.len() <= loaded.ignored.len(), "{:?}", again.ignored);
        decide(&loaded.role);
    }
    if let Some(role) = round_trip::<Role>(data) {
        decide(&role);
    }
    if let Ok(document) = serde_json::from_slice(data)
        && let Ok(loaded) = load_document(&document)
    {
        let written = match &loaded.document {
            Document::Role(role) => serde_json::to_value(role).unwrap(),
            Document::Secrets(secrets) => serde_json::to_value(secrets).unwrap(),
            Document::Token(token) => serde_json::to_value(token).unwrap(),
            Document::User(user) => serde_json::to_value(user).unwrap(),
            _ => return,
        };
        let again = load_document(&written).expect("what was loaded can be loaded");
        assert_eq!(again.document, loaded.document);
        assert!(again.ignored.len() <= loaded.ignored.len(), "{:?}", again.ignored);
    }
});

fn decide(role: &Role) {
    let Ok(name) = RoleName::new(&role.metadata.name) else { return };
    let readable = CompiledRole::new(role.clone()).is_ok() && role.is_readable();
    let set = RoleSet::new([role.clone()]);
    let mut identity = user_identity("alice", "example.com", &[], &["root", "alice"], Timestamp::MAX);
    identity.roles = vec![name];
    identity.traits = Traits::from([("logins".to_owned(), vec!["root".to_owned(), "-l".to_owned()])]);
    let checker = AccessChecker::for_identity(&identity, &set);
    let mut filter = checker.filter();
    for login in checker.logins() {
        assert!(!login.as_str().starts_with('-'));
        assert!(!role.spec.deny.logins.iter().any(|denied| denied == "*" || denied == login.as_str()));
    }
    for labels in ["", "env=prod,team=a", "env=test,os=linux"] {
        let node = node(labels);
        let sees = checker.can_see(&node);
        assert_eq!(filter.can_see(&node), sees);
        if role.spec.deny.node_labels.matches(&node.labels) {
            assert!(!sees, "a denial wins");
        }
        for login in ["root", "alice"] {
            let login = login.parse().unwrap();
            let decision = checker.check_login(&identity, &node, &login);
            let explained = checker.explain_login(&node, &login, Some(&identity.logins));
            assert_eq!(explained.allowed, decision.is_ok(), "{explained}");
            assert!(sees || decision.is_err());
        }
    }
    for verb in Verb::EACH {
        let decision = checker.check_rule("user", verb);
        assert_eq!(checker.explain_rule("user", verb, ResourceFacts::default()).allowed, decision.is_ok());
        if decision.is_ok() {
            assert!(!role.spec.allow.rules.is_empty() && checker.may_have_rule("user", verb));
            if readable {
                // The same role once more, denying what it allows, allows nothing.
                let mut mirrored = role.clone();
                mirrored.spec.deny.rules = role.spec.allow.rules.clone();
                let mirrored = RoleSet::new([mirrored]);
                assert!(AccessChecker::for_identity(&identity, &mirrored).check_rule("user", verb).is_err());
            }
        }
    }
    // Without the role nothing is allowed, whatever it says.
    let nobody = Subject::new("alice", &[], &identity.traits);
    assert!(AccessChecker::new(nobody, &set).logins().is_empty());
}
