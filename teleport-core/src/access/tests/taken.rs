//! Roles that were taken from their users.

use super::*;
use crate::id::RoleName;
use crate::resource::{PortForwarding, Switch};

const BOTH: [&str; 2] = ["open", "strict"];

/// A role that opens all, and one that denies and restricts some of it.
fn roles() -> [Role; 2] {
    let mut open = role("open", conditions(&["root", "alice"], r#"{"*":"*"}"#), none());
    open.spec.options.forward_agent = true;
    let mut strict =
        role("strict", conditions(&["admin"], r#"{"*":"*"}"#), conditions(&["alice"], r#"{"env":"prod"}"#));
    strict.spec.options.ssh_file_copy = false;
    strict.spec.options.forward_agent = true;
    [open, strict]
}

fn view(taken: &[&str]) -> AccessView {
    let mut view = access_view(roles().to_vec());
    let taken = taken.iter().map(|name| RoleName::new(name).unwrap()).collect();
    view.taken_roles.insert("alice".parse().unwrap(), taken);
    view
}

fn decided(view: &AccessView, labels: &str, as_login: &str) -> Result<LoginGrant, Denied> {
    let identity = identity(&BOTH, &["root", "alice", "admin"]);
    view.checker(&identity).check_login(&identity, &node(labels), &login(as_login))
}

#[test]
fn c8_a_taken_role_allows_nothing_and_denies_what_it_denied() {
    let all = view(&[]);
    assert_eq!(decided(&all, "env=test", "root").unwrap().role, "open");
    assert_eq!(decided(&all, "env=test", "admin").unwrap().role, "strict");
    let without = view(&["strict"]);
    assert_eq!(decided(&without, "env=test", "admin"), Err(Denied::NotAllowed));
    // It may have been exchanged for one that the certificate does not know, and that denies the same.
    let denied = Err(Denied::DeniedBy { role: "strict".to_owned() });
    assert_eq!(decided(&without, "env=prod", "root"), denied);
    assert_eq!(decided(&without, "env=test", "alice"), denied);
    assert!(!decided(&without, "env=test", "root").unwrap().policy.file_copy);
    assert_eq!(decided(&view(&["open"]), "env=test", "root"), Err(Denied::NotAllowed));
    assert_eq!(decided(&view(&BOTH), "env=test", "root"), Err(Denied::NotAllowed));
    // Of another user nothing was taken.
    let mut bob = identity(&BOTH, &["root"]);
    bob.user = "bob".parse().unwrap();
    assert!(view(&BOTH).checker(&bob).check_login(&bob, &node("env=test"), &login("root")).is_ok());
}

#[test]
fn c8_a_taken_role_permits_nothing_by_its_options() {
    let mut roles = roles();
    roles[0].spec.options = RoleOptions {
        port_forwarding: false,
        ssh_port_forwarding: PortForwarding { local: None, remote: Some(Switch { enabled: false }) },
        ..RoleOptions::default()
    };
    roles[1].spec.options.permit_x11_forwarding = true;
    roles[1].spec.options.ssh_port_forwarding.local = Some(Switch { enabled: true });
    let identity = identity(&BOTH, &["root"]);
    let policy = |taken: &[&str]| {
        let mut view = view(taken);
        view.roles = roles.to_vec().into();
        view.checker(&identity).options()
    };
    let all = policy(&[]);
    assert!(all.agent_forwarding && all.x11_forwarding && all.local_forwarding && !all.remote_forwarding);
    let less = policy(&["strict"]);
    assert!(!less.agent_forwarding && !less.x11_forwarding && !less.local_forwarding && !less.file_copy);
    assert!(!policy(&["open"]).remote_forwarding, "what was switched off stays so");
}

/// Conditions that ask for the user's roles: what allows sees those that are left, what denies sees all.
#[test]
fn c8_conditions_do_not_see_taken_roles() {
    let mut roles = roles();
    let asks = r#"contains(user.spec.roles, "strict")"#;
    roles[0].spec.allow = expression(&["root"], "{}", asks);
    roles[1].spec = RoleSpec::default();
    let (mut before, mut after) = (view(&[]), view(&["strict"]));
    for view in [&mut before, &mut after] {
        view.roles = roles.to_vec().into();
    }
    assert!(decided(&before, "env=test", "root").is_ok());
    assert_eq!(decided(&after, "env=test", "root"), Err(Denied::NotAllowed));
    roles[0].spec.allow = conditions(&["root"], r#"{"*":"*"}"#);
    roles[0].spec.deny = expression(&[], "{}", asks);
    after.roles = roles.to_vec().into();
    assert_eq!(decided(&after, "env=test", "root"), Err(Denied::DeniedBy { role: "open".to_owned() }));
}
