//! Names, identifiers, instants and keys of the storage: whatever is accepted is harmless and has one spelling.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::clock::Timestamp;
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, RoleName, SessionId, UserName};
use teleport_core::storage::{Key, Prefix};

fn check<T: std::str::FromStr + std::fmt::Display>(text: &str, parsed: &Option<T>) {
    let Some(name) = parsed else { return };
    assert_eq!(name.to_string(), text, "a name is itself");
    assert!(!text.is_empty() && text.len() <= 253 && !text.starts_with(['-', '.']), "{text:?}");
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@$".contains(&byte);
    assert!(text.bytes().all(harmless), "{text:?}");
}

fuzz_target!(|text: &str| {
    check(text, &UserName::new(text).ok());
    check(text, &OsLogin::new(text).ok());
    check(text, &ClusterName::new(text).ok());
    check(text, &RoleName::new(text).ok());
    check(text, &NodeName::new(text).ok());
    check(text, &text.parse::<HostId>().ok());
    check(text, &text.parse::<SessionId>().ok());
    if let Ok(role) = text.parse::<HostRole>() {
        assert_eq!(role.as_str().parse(), Ok(role));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert!(time <= Timestamp::MAX);
        assert_eq!(time.to_string().parse(), Ok(time));
    }
    if let Ok(key) = Key::new(text) {
        assert_eq!(key.as_str(), text);
        assert!(!key.leaf().is_empty() && !key.leaf().contains('/'));
        assert!(Prefix::new(text).is_ok());
    }
});
