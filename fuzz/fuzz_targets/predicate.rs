//! Conditions and templates as administrators write them. The first byte says which.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use teleport_core::access::{
    Facts, InvalidExpression, MAX_EXPRESSION_LEN, Predicate, ResourceFacts, Scope, SessionFacts, Subject,
    Template,
};
use teleport_core::cert::Traits;

/// The place of a mistake is one in the text.
fn check(error: &InvalidExpression, source: &str) {
    assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty());
    assert!(error.line <= source.matches('\n').count() + 1);
    let line = source.split('\n').nth(error.line - 1).unwrap();
    assert!(error.column <= line.chars().count() + 1, "{error}");
    error.diagram(source);
}

fn predicate(source: &str, scope: Scope) {
    let predicate = match Predicate::new(source, scope) {
        Ok(predicate) => predicate,
        Err(error) => return check(&error, source),
    };
    assert!(source.len() <= MAX_EXPRESSION_LEN);
    assert_eq!(predicate.source(), source);
    let roles = ["access".parse().unwrap()];
    let traits = Traits::from([("teams".to_owned(), vec!["a".to_owned(), "b@c".to_owned()])]);
    let subject = Subject::new("alice", &roles, &traits);
    let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let session = SessionFacts {
        participants: &["alice", "bob"],
        login: "root",
        server_id: "7",
        server_hostname: "web-1",
    };
    let session = (scope == Scope::Rules).then_some(session);
    let all = ResourceFacts {
        name: Some("web-1"),
        address: Some("192.0.2.7:3022"),
        labels: Some(&labels),
        session,
    };
    // Everything is known; only a text that grew too long has no answer.
    let Some(decided) = predicate.evaluate(&Facts { subject, resource: all }) else { return };
    // What is decided before all is known stays so; and a negation is the opposite.
    for resource in
        [ResourceFacts::default(), ResourceFacts { name: None, ..all }, ResourceFacts { labels: None, ..all }]
    {
        assert!(predicate.evaluate(&Facts { subject, resource }).is_none_or(|early| early == decided));
    }
    if let Ok(negated) = Predicate::new(&format!("!({source})"), scope) {
        assert_eq!(negated.evaluate(&Facts { subject, resource: all }), Some(!decided));
    }
}

fn template(source: &str) {
    let traits = Traits::from([
        ("logins".to_owned(), vec!["root".to_owned(), "{{internal.logins}}".to_owned(), String::new()]),
        ("email".to_owned(), vec!["alice@example.com".to_owned()]),
    ]);
    match Template::new(source) {
        Ok(template) => {
            assert!(template.expand(&Traits::new()).len() <= 1);
            if let Some(literal) = template.as_literal() {
                assert_eq!(literal, source);
            }
            let expanded = template.expand(&traits);
            assert!(expanded.len() <= 3);
        }
        Err(error) => check(&error, source),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let Ok(source) = std::str::from_utf8(data) else { return };
    match kind {
        b'N' => predicate(source, Scope::Nodes),
        b'Q' => predicate(source, Scope::Queries),
        b'R' => predicate(source, Scope::Rules),
        b'T' => template(source),
        _ => {}
    }
});
