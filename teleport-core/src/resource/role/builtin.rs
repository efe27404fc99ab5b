//! The roles that every cluster begins with.

use super::{Role, RoleConditions, RoleSpec, Rule, Verb};
use crate::label::LabelMatcher;

/// The roles that every cluster begins with: `access`, `editor` and `auditor`.
pub fn builtin_roles() -> Vec<Role> {
    use Verb::{Any, List, Read};
    let rule = |resources: &[&str], verbs: &[Verb]| Rule {
        resources: resources.iter().map(|kind| (*kind).to_owned()).collect(),
        verbs: verbs.to_vec(),
        condition: None,
    };
    let role = |name: &str, description: &str, allow: RoleConditions| {
        let mut role = Role::new(name, RoleSpec { allow, ..RoleSpec::default() });
        description.clone_into(&mut role.metadata.description);
        role
    };
    let mut access = role(
        "access",
        "Log in to every node as the logins of the user's own list",
        RoleConditions {
            logins: vec!["{{internal.logins}}".to_owned()],
            node_labels: LabelMatcher::everything(),
            ..RoleConditions::default()
        },
    );
    access.spec.options.forward_agent = true;
    let editor = role(
        "editor",
        "Administer users, roles, tokens, nodes and locks, end sessions; no login to nodes",
        RoleConditions {
            rules: vec![
                rule(&["user", "role", "token", "node", "lock", "session_tracker"], &[Any]),
                rule(&["cert_authority"], &[List, Read]),
            ],
            ..RoleConditions::default()
        },
    );
    let auditor = role(
        "auditor",
        "Read the audit log and all recordings, see who is at work; no login to nodes",
        RoleConditions {
            rules: vec![rule(&["event", "session", "session_tracker"], &[List, Read])],
            ..RoleConditions::default()
        },
    );
    vec![access, editor, auditor]
}
