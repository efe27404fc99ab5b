//! Certificates of every kind of wrongness, properly signed: accepted exactly when the model says so.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use teleport_core::cert::{HostCheck, UserCheck};
use teleport_core::id::{HostRole, OsLogin};
use teleport_fuzz::certificate::{Damage, Entry, Key, Spec, Subject, Text, Time};
use teleport_fuzz::fixture::{now, trust};
use teleport_ssh::authn::{host_from_bytes, user_from_bytes};

fuzz_target!(|change: Change| {
    let spec = change.apply();
    let wire = spec.encode();
    let trust = trust();
    let login = OsLogin::new("root").unwrap();
    let peer = Some("10.1.2.3".parse().unwrap());
    let user = user_from_bytes(&wire, &trust, UserCheck { login: Some(&login), peer, now: now() });
    assert_eq!(user.is_ok(), spec.lets_a_user_in(), "{user:?}: {spec:?}");
    let host = host_from_bytes(&wire, &trust, HostCheck { name: "web-1", role: HostRole::Node, now: now() });
    assert_eq!(host.is_ok(), spec.shows_the_host(), "{host:?}: {spec:?}");
    if let Ok(user) = user {
        assert_eq!((user.user.as_str(), user.serial), (spec.key_id().as_str(), spec.serial));
        assert_eq!(user.cluster, trust.cluster);
    }
});

/// A good certificate with some changes, so that most mutants are wrong in one way and not in all.
#[derive(Arbitrary, Debug)]
struct Change {
    host: bool,
    fields: Vec<Field>,
}

#[derive(Arbitrary, Debug)]
enum Field {
    Authority(Key),
    Critical(Entry),
    Damage(Damage),
    Everything(Box<Spec>),
    Extension(Entry),
    InOrder(bool),
    KeyId(Text),
    Kind(u8),
    NoExtensions,
    Principal(Text),
    Principals(u8, Text),
    Reserved(u8),
    Serial(u64),
    Signer(Key),
    Subject(Subject),
    ValidAfter(Time),
    ValidBefore(Time),
}

impl Change {
    fn apply(self) -> Spec {
        let mut spec = if self.host { Spec::good_host() } else { Spec::good_user() };
        for field in self.fields {
            match field {
                Field::Authority(key) => spec.authority = key,
                Field::Critical(entry) => spec.critical.push(entry),
                Field::Damage(damage) => spec.damage = damage,
                Field::Everything(all) => spec = *all,
                Field::Extension(entry) => spec.extensions.push(entry),
                Field::InOrder(in_order) => spec.in_order = in_order,
                Field::KeyId(text) => spec.key_id = text,
                Field::Kind(kind) => spec.kind = kind,
                Field::NoExtensions => spec.extensions.clear(),
                Field::Principal(text) => spec.principals.push(text),
                Field::Principals(count, text) => spec.principals = vec![text; (count % 70).into()],
                Field::Reserved(bytes) => spec.reserved = bytes,
                Field::Serial(serial) => spec.serial = serial,
                Field::Signer(key) => spec.signer = key,
                Field::Subject(subject) => spec.subject = subject,
                Field::ValidAfter(time) => spec.valid_after = time,
                Field::ValidBefore(time) => spec.valid_before = time,
            }
        }
        spec
    }
}
