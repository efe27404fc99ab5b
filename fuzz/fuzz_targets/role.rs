//! Roles and users as administrators write them, and what follows from a role.
#![no_main]

use libfuzzer_sys::fuzz_target;
use teleport_core::access::{AccessChecker, expand};
use teleport_core::cert::Traits;
use teleport_core::id::RoleName;
use teleport_core::label::Labels;
use teleport_core::resource::{Role, User, Verb};
use teleport_fuzz::json::round_trip;

fuzz_target!(|data: &[u8]| {
    round_trip::<User>(data);
    let Some(role) = round_trip::<Role>(data) else { return };
    let Ok(name) = RoleName::new(&role.metadata.name) else { return };
    let traits = Traits::from([("logins".to_owned(), vec!["root".to_owned(), "-l".to_owned()])]);
    for template in &role.spec.allow.logins {
        expand(template, &traits);
    }
    let labels: Labels = "env=prod,team=a".parse().unwrap();
    let names = [name];
    let alone = std::slice::from_ref(&role);
    let checker = AccessChecker::new(&names, &traits, alone);
    for login in checker.logins() {
        assert!(!login.as_str().starts_with('-'));
        assert!(!role.spec.deny.logins.iter().any(|denied| denied == "*" || denied == login.as_str()));
    }
    if role.spec.deny.node_labels.matches(&labels) {
        assert!(!checker.can_see(&labels), "a denial wins");
    }
    for verb in Verb::EACH {
        if checker.check_rule("user", verb).is_ok() {
            assert!(!role.spec.allow.rules.is_empty());
            // The same role once more, denying what it allows, allows nothing.
            let mut mirrored = role.clone();
            mirrored.spec.deny = role.spec.allow.clone();
            assert!(AccessChecker::new(&names, &traits, &[mirrored]).check_rule("user", verb).is_err());
        }
    }
    // Without the role nothing is allowed, whatever it says.
    assert!(AccessChecker::new(&[], &traits, alone).logins().is_empty());
});
