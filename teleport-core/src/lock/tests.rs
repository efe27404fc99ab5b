#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;
use crate::resource::LockSpec;

const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);
const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const OTHER: &str = "1f8fad5b-d9cb-469f-a165-70867728950e";

fn lock(name: &str, target: serde_json::Value) -> Lock {
    let spec = LockSpec { target: serde_json::from_value(target).unwrap(), message: String::new() };
    Lock::new(name, spec)
}

fn knowledge(mode: LockMode, age: u64) -> Knowledge {
    Knowledge { now: NOW, age: Duration::from_secs(age), mode }
}

/// Somebody of whom everything is known, and to whom everything can happen.
struct Somebody {
    user: UserName,
    roles: Vec<RoleName>,
    login: OsLogin,
    node: (HostId, NodeName),
    device: DeviceId,
}

impl Somebody {
    fn new() -> Self {
        Self {
            user: "alice".parse().unwrap(),
            roles: vec!["access".parse().unwrap(), "ops".parse().unwrap()],
            login: "root".parse().unwrap(),
            node: (ID.parse().unwrap(), "web-1".parse().unwrap()),
            device: ID.parse().unwrap(),
        }
    }

    fn subject(&self) -> LockSubject<'_> {
        LockSubject {
            user: Some(&self.user),
            roles: &self.roles,
            login: Some(&self.login),
            node: Some((self.node.0, &self.node.1)),
            mfa_device: Some(self.device),
            serial: Some(7),
        }
    }
}

#[test]
fn each_kind_of_target_locks_whom_it_names_and_nobody_else() {
    let somebody = Somebody::new();
    let subject = somebody.subject();
    for (target, locked) in [
        (serde_json::json!({"user": "alice"}), true),
        (serde_json::json!({"user": "alic"}), false),
        (serde_json::json!({"role": "ops"}), true),
        (serde_json::json!({"role": "op"}), false),
        (serde_json::json!({"login": "root"}), true),
        (serde_json::json!({"login": "toor"}), false),
        (serde_json::json!({"node": "web-1"}), true),
        (serde_json::json!({"node": "web-2"}), false),
        (serde_json::json!({"node": ID}), true),
        (serde_json::json!({"node": OTHER}), false),
        (serde_json::json!({"mfa_device": ID}), true),
        (serde_json::json!({"mfa_device": OTHER}), false),
        (serde_json::json!({"serial": "7"}), true),
        (serde_json::json!({"serial": "8"}), false),
        // All of it, or nothing.
        (serde_json::json!({"user": "alice", "login": "root", "node": "web-1"}), true),
        (serde_json::json!({"user": "alice", "login": "toor", "node": "web-1"}), false),
        (serde_json::json!({"user": "bob", "login": "root", "node": "web-1"}), false),
        (serde_json::json!({}), false),
    ] {
        let locks = LockSet::from_iter([lock("l", target.clone())]);
        assert_eq!(locks.check(&subject, NOW).is_err(), locked, "{target}");
        for mode in [LockMode::BestEffort, LockMode::Strict] {
            assert_eq!(locks.decide(&subject, knowledge(mode, 0)).is_err(), locked, "{target}");
        }
        // Of whom nothing is known, nothing is true.
        assert_eq!(locks.check(&LockSubject::default(), NOW), Ok(()), "{target}");
    }
}

#[test]
fn what_is_not_known_here_is_decided_where_it_is() {
    let somebody = Somebody::new();
    let locks = LockSet::from_iter([lock("l", serde_json::json!({"user": "alice", "node": "web-1"}))]);
    let at_login = LockSubject { user: Some(&somebody.user), ..LockSubject::default() };
    assert_eq!(locks.check(&at_login, NOW), Ok(()));
    assert!(locks.check(&at_login.node(somebody.node.0, &somebody.node.1), NOW).is_err());
}

#[test]
fn the_text_says_whom_and_why() {
    let somebody = Somebody::new();
    let mut locks = vec![lock("b", serde_json::json!({"user": "alice"}))];
    let text = |locks: &[Lock]| {
        let locks: LockSet = locks.iter().cloned().collect();
        let locked = locks.check(&somebody.subject(), NOW).unwrap_err();
        assert_eq!(locked.public(), locked.to_string());
        locked.to_string()
    };
    assert_eq!(text(&locks), "lock targeting user:\"alice\" is in force");
    locks.push(lock("a", serde_json::json!({"user": "alice", "login": "root"})));
    locks.last_mut().unwrap().spec.message = "Ask the security team".to_owned();
    // The first by name, so that it is the same everywhere.
    assert_eq!(
        text(&locks),
        "lock targeting user:\"alice\" login:\"root\" is in force: Ask the security team"
    );
}

#[test]
fn a_lock_ends_with_its_time() {
    let somebody = Somebody::new();
    let mut ending = lock("l", serde_json::json!({"user": "alice"}));
    ending.metadata.expires = Some(NOW);
    let locks = LockSet::from_iter([ending]);
    let before = NOW.saturating_sub(Duration::from_millis(1));
    assert!(locks.check(&somebody.subject(), before).is_err());
    assert_eq!(locks.check(&somebody.subject(), NOW), Ok(()));
}

#[test]
fn a8_stale_or_unreadable_locks_are_refused_where_they_are_strict() {
    let somebody = Somebody::new();
    let (none, unreadable) = (LockSet::default(), LockSet::from_iter([Lock::unreadable("l")]));
    let subject = somebody.subject();
    for (locks, mode, age, allowed) in [
        (&none, LockMode::BestEffort, 0, true),
        (&none, LockMode::BestEffort, 1 << 30, true),
        (&none, LockMode::Strict, 300, true),
        (&none, LockMode::Strict, 301, false),
        (&unreadable, LockMode::BestEffort, 0, true),
        (&unreadable, LockMode::Strict, 0, false),
    ] {
        let decided = locks.decide(&subject, knowledge(mode, age));
        assert_eq!(decided.is_ok(), allowed, "{locks:?} {mode:?} {age}");
        if let Err(locked) = decided {
            assert!(!locked.public().contains("lock l"), "{locked}");
        }
    }
}

#[test]
fn a_lock_of_a_later_version_is_not_lost_on_the_wire() {
    let documents = serde_json::json!([
        {"kind": "lock", "version": "v1", "metadata": {"name": "a"}, "spec": {"target": {"user": "alice"}}},
        {"kind": "lock", "version": "v1", "metadata": {"name": "b"}, "spec": {"target": {"desktop": "x"}}},
        {"kind": "lock", "version": "v2", "metadata": {"name": "c"}, "spec": {"target": {"user": "alice"}}},
    ]);
    let locks: LockSet = serde_json::from_value(documents).unwrap();
    let readable: Vec<bool> = locks.iter().map(Lock::is_readable).collect();
    assert_eq!(readable, [true, false, false]);
    let again: LockSet = serde_json::from_str(&serde_json::to_string(&locks).unwrap()).unwrap();
    assert_eq!(again, locks);
}

prop_compose! {
    fn targets()(
        user in prop::option::of("[ab]"),
        role in prop::option::of("[ab]"),
        login in prop::option::of("[ab]"),
        node in prop::option::of("[ab]"),
        device in any::<bool>(),
        serial in prop::option::of(1_u64..3),
    ) -> LockTarget {
        LockTarget {
            user: user.map(|name| name.parse().unwrap()),
            role: role.map(|name| name.parse().unwrap()),
            login: login.map(|name| name.parse().unwrap()),
            node: node.map(|name| name.parse().unwrap()),
            mfa_device: device.then(|| ID.parse().unwrap()),
            serial,
        }
    }
}

proptest! {
    /// Another lock never lets anybody in; naming more never locks more; knowing more never lets in whom a lock met.
    #[test]
    fn locks_only_take_away(
        some in prop::collection::vec(targets(), 0..4),
        more in targets(),
        user in "[ab]",
        role in "[ab]",
    ) {
        let somebody = Somebody {
            user: user.parse().unwrap(),
            roles: vec![role.parse().unwrap()],
            login: "a".parse().unwrap(),
            node: (ID.parse().unwrap(), "a".parse().unwrap()),
            device: ID.parse().unwrap(),
        };
        let named = |targets: &[LockTarget]| -> LockSet {
            let spec = |target: &LockTarget| LockSpec { target: target.clone(), message: String::new() };
            targets.iter().enumerate().map(|(at, target)| Lock::new(format!("l{at}"), spec(target))).collect()
        };
        let full = LockSubject { serial: Some(1), ..somebody.subject() };
        let mut all = some.clone();
        all.push(more.clone());
        let (before, after) = (named(&some).check(&full, NOW), named(&all).check(&full, NOW));
        prop_assert!(before.is_ok() || after.is_err());
        let fewer = LockTarget { login: None, serial: None, ..more.clone() };
        prop_assert!(fewer.is_empty() || !full.is_targeted(&more) || full.is_targeted(&fewer));
        let unknown = LockSubject { login: None, node: None, mfa_device: None, serial: None, ..full };
        prop_assert!(named(&all).check(&unknown, NOW).is_ok() || after.is_err());
        // Where they are strict nobody is let in who is not where they are not.
        let strict = named(&all).decide(&full, knowledge(LockMode::Strict, 0));
        prop_assert!(strict.is_err() || named(&all).decide(&full, knowledge(LockMode::BestEffort, 0)).is_ok());
    }
}
