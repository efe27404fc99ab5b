//! What holds for all roles.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::id::RoleName;
use crate::resource::{PortForwarding, Rule, Switch};

const LOGINS: [&str; 5] = ["root", "alice", "admin", "*", "{{internal.logins}}"];
const MATCHERS: [&str; 5] = [
    "{}",
    r#"{"*":"*"}"#,
    r#"{"env":"prod"}"#,
    r#"{"env":["prod","te*"],"os":"linux"}"#,
    r#"{"owner":"{{internal.logins}}"}"#,
];
const EXPRESSIONS: [&str; 5] = [
    r#"labels["env"] == "prod""#,
    r#"contains(user.spec.traits["logins"], labels["owner"])"#,
    r#"!exists(labels["os"]) || resource.metadata.name == "db""#,
    "true",
    "not understood(",
];
const NODES: [&str; 5] = ["", "env=prod", "env=test,os=linux", "os=linux", "owner=alice,env=prod"];
const CONDITIONS: [Option<&str>; 4] =
    [None, Some(r#"user.metadata.name == "alice""#), Some(r#"resource.metadata.name == "x""#), Some("bad(")];
const KINDS: [&str; 3] = ["user", "session", "*"];
const VERBS: [Verb; 4] = [Verb::List, Verb::Read, Verb::ReadNoSecrets, Verb::Any];

prop_compose! {
    fn any_rule()(kind in 0..KINDS.len(), verb in 0..VERBS.len(), condition in 0..CONDITIONS.len()) -> Rule {
        Rule {
            resources: texts(&[KINDS[kind]]),
            verbs: vec![VERBS[verb]],
            condition: CONDITIONS[condition].map(str::to_owned),
        }
    }
}

prop_compose! {
    fn half()(
        logins in proptest::sample::subsequence(LOGINS.to_vec(), 0..3),
        matcher_index in 0..MATCHERS.len(),
        expression in proptest::option::weighted(0.3, 0..EXPRESSIONS.len()),
        rules in proptest::collection::vec(any_rule(), 0..3),
        open in proptest::option::weighted(0.3, Just("db:1")),
        commands in proptest::option::weighted(0.3, Just("id")),
    ) -> RoleConditions {
        RoleConditions {
            node_labels_expression: expression.map(|index| EXPRESSIONS[index].to_owned()),
            permit_open: open.map(|entry| texts(&[entry])),
            commands: commands.map(|entry| texts(&[entry])),
            rules,
            ..conditions(&logins, MATCHERS[matcher_index])
        }
    }
}

prop_compose! {
    fn options()(
        ttl in 0_u64..200_000,
        agent in any::<bool>(),
        forwarding in any::<bool>(),
        local in any::<Option<bool>>(),
        copy in any::<bool>(),
        sessions in 0_u64..4,
    ) -> RoleOptions {
        RoleOptions {
            max_session_ttl: Duration::from_secs(ttl),
            forward_agent: agent,
            port_forwarding: forwarding,
            ssh_port_forwarding: PortForwarding { local: local.map(|enabled| Switch { enabled }), remote: None },
            ssh_file_copy: copy,
            max_sessions: sessions,
            ..RoleOptions::default()
        }
    }
}

fn any_roles() -> impl Strategy<Value = Vec<Role>> {
    // Most roles deny nothing: else there would be nothing to look at.
    let denying = proptest::option::weighted(0.3, half());
    let readable = proptest::bool::weighted(0.95);
    proptest::collection::vec((half(), denying, options(), readable), 0..5).prop_map(|halves| {
        halves
            .into_iter()
            .enumerate()
            .map(|(index, (allow, deny, options, readable))| {
                let mut role = role(&format!("r{index}"), allow, deny.unwrap_or_default());
                role.spec.options = options;
                if !readable {
                    role.version = "v2".to_owned();
                }
                role
            })
            .collect()
    })
}

/// What a policy permits, as numbers that only grow with it.
fn width(policy: &SessionPolicy) -> Vec<u64> {
    let to = |host| Destination { host, port: 1, address: None };
    vec![
        policy.agent_forwarding.into(),
        policy.commands.permit("id").into(),
        policy.commands.permit("other").into(),
        policy.destinations.permit(&to("db")).into(),
        policy.destinations.permit(&to("other")).into(),
        policy.file_copy.into(),
        policy.local_forwarding.into(),
        policy.remote_forwarding.into(),
        policy.max_sessions.unwrap_or(u64::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A denial that matches, in whichever role, always wins; as a model: looking at every role by itself.
    #[test]
    fn c5_a_deny_always_wins_and_access_never_needs_two_roles(
        roles in any_roles(),
        labels in 0..NODES.len(),
        as_login in 0..3_usize,
    ) {
        let (labels, as_login) = (NODES[labels], LOGINS[as_login]);
        let alone = |role: &Role| decide(std::slice::from_ref(role), labels, as_login);
        let mut denied = false;
        let mut allowed = false;
        for one in &roles {
            denied |= matches!(alone(one), Err(Denied::DeniedBy { .. } | Denied::Unreadable { .. }));
            let mut without = one.clone();
            without.spec.deny = none();
            allowed |= alone(&without).is_ok();
        }
        prop_assert_eq!(decide(&roles, labels, as_login).is_ok(), allowed && !denied);
    }

    /// Another role with only denials never opens anything and never widens a session, and another role with only
    /// allowances never closes anything.
    #[test]
    fn c5_denials_only_narrow_and_allowances_only_widen(
        roles in any_roles(),
        half in half(),
        labels in 0..NODES.len(),
        as_login in 0..3_usize,
    ) {
        let (labels, as_login) = (NODES[labels], LOGINS[as_login]);
        let before = grant(&roles, labels, as_login);
        let with = |extra: Role| {
            let mut more = roles.clone();
            more.push(extra);
            grant(&more, labels, as_login)
        };
        let mut denying = role("more", none(), half.clone());
        // Its own options would be those of one more role; here it is only about denials.
        denying.spec.options = RoleOptions { max_session_ttl: Duration::MAX, port_forwarding: false, ..RoleOptions::default() };
        let narrowed = with(denying);
        match (&before, narrowed) {
            (Err(_), narrowed) => prop_assert!(narrowed.is_err()),
            (Ok(before), Ok(narrowed)) => {
                let (before, narrowed) = (width(&before.policy), width(&narrowed.policy));
                prop_assert!(narrowed.iter().zip(&before).all(|(now, before)| now <= before), "{before:?} {narrowed:?}");
            }
            (Ok(_), Err(denied)) => prop_assert_eq!(denied, Denied::DeniedBy { role: "more".to_owned() }),
        }
        if before.is_ok() {
            prop_assert!(with(role("more", half, none())).is_ok());
        }
    }

    /// Of a role that was taken from the user nothing is left but what it denies and restricts: nothing is wider than before, or
    /// without a role that is as the taken one was without its allowances.
    #[test]
    fn c8_what_is_taken_only_narrows(
        roles in any_roles(),
        taken in proptest::collection::vec(any::<bool>(), 5),
        labels in 0..NODES.len(),
        as_login in 0..3_usize,
    ) {
        let (labels, as_login) = (NODES[labels], LOGINS[as_login]);
        let (mut view, identity) = (access_view(roles.clone()), holder(&roles));
        let names = roles.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(role, _)| &role.metadata.name);
        let names: BTreeSet<RoleName> = names.map(|name| name.parse().unwrap()).collect();
        view.taken_roles.insert(identity.user.clone(), names.clone());
        let checker = view.checker(&identity);
        let after = checker.check_login(&identity, &node(labels), &login(as_login));
        let mut left = roles.clone();
        for role in left.iter_mut().filter(|role| names.iter().any(|name| name.as_str() == role.metadata.name)) {
            role.spec.allow = none();
        }
        prop_assert_eq!(after.is_ok(), decide(&left, labels, as_login).is_ok());
        prop_assert_eq!(checker.can_see(&node(labels)), {
            let set = RoleSet::new(left.clone());
            AccessChecker::for_identity(&identity, &set).can_see(&node(labels))
        });
        for kind in ["user", "session"] {
            let set = RoleSet::new(left.clone());
            let model = AccessChecker::for_identity(&identity, &set).check_rule(kind, Verb::Read);
            prop_assert_eq!(checker.check_rule(kind, Verb::Read).is_ok(), model.is_ok());
        }
        if let Ok(after) = after {
            prop_assert!(!names.iter().any(|name| name.as_str() == after.role));
            let before = grant(&roles, labels, as_login).unwrap();
            let (before, after) = (width(&before.policy), width(&after.policy));
            prop_assert!(after.iter().zip(&before).all(|(now, before)| now <= before), "{before:?} {after:?}");
        }
    }

    /// The order of roles does not decide, and who may log in may also see, and finds the login in a new certificate.
    #[test]
    fn decisions_agree_with_each_other(roles in any_roles(), labels in 0..NODES.len(), as_login in 0..3_usize) {
        let (labels, as_login) = (NODES[labels], LOGINS[as_login]);
        let granted = grant(&roles, labels, as_login);
        let mut reversed = roles.clone();
        reversed.reverse();
        prop_assert_eq!(grant(&reversed, labels, as_login).map(|grant| (grant.role, grant.policy)),
            granted.clone().map(|grant| (grant.role, grant.policy)));
        let (identity, set) = (holder(&roles), RoleSet::new(roles));
        let check = AccessChecker::for_identity(&identity, &set);
        if granted.is_ok() {
            prop_assert!(check.can_see(&node(labels)));
            prop_assert!(check.logins().contains(&login(as_login)));
        }
        // Who sees a node can log in to it as something.
        let some = ["root", "alice", "admin"].iter().any(|name| {
            check.check_login(&identity, &node(labels), &login(name)).is_ok()
        });
        prop_assert_eq!(check.can_see(&node(labels)), some);
        // Many nodes at once, twice: what is remembered changes nothing.
        let mut filter = check.filter();
        for labels in NODES.iter().chain(&NODES) {
            prop_assert_eq!(filter.can_see(&node(labels)), check.can_see(&node(labels)), "{}", labels);
        }
    }

    /// The explanation is the decision: the same answer, by the same role, and what it says of each role adds up to it.
    #[test]
    fn explanations_are_the_decisions(
        roles in any_roles(),
        labels in 0..NODES.len(),
        as_login in 0..3_usize,
        certified in proptest::sample::subsequence(vec!["root", "alice", "admin"], 0..=3),
        kind in 0..2_usize,
        verb in 0..3_usize,
        name in any::<Option<bool>>(),
    ) {
        let (node, as_login) = (node(NODES[labels]), login(LOGINS[as_login]));
        let mut identity = holder(&roles);
        identity.logins = certified.into_iter().map(login).collect();
        let set = RoleSet::new(roles);
        let check = AccessChecker::for_identity(&identity, &set);
        let explanation = check.explain_login(&node, &as_login, Some(&identity.logins));
        match check.check_login(&identity, &node, &as_login) {
            Ok(grant) => {
                prop_assert!(explanation.allowed && explanation.needed.is_empty());
                prop_assert_eq!(explanation.role.as_deref(), Some(grant.role.as_str()));
            }
            Err(denied) => {
                prop_assert!(!explanation.allowed && !explanation.needed.is_empty());
                if let Denied::DeniedBy { role } | Denied::Unreadable { role } = denied {
                    prop_assert_eq!(explanation.role.as_deref(), Some(role.as_str()));
                }
            }
        }
        let fresh = check.explain_login(&node, &as_login, None);
        // Who logs in now, and then to the node, gets what was said, under the terms that were said.
        let mut new = identity.clone();
        new.logins = check.logins();
        new.permits = check.permits();
        let granted = check.check_login(&new, &node, &as_login);
        prop_assert_eq!(fresh.allowed, granted.is_ok());
        prop_assert_eq!(fresh.session.as_ref().map(|terms| &terms.policy), granted.as_ref().ok().map(|grant| &grant.policy));
        prop_assert_eq!(fresh.role.clone().filter(|_| fresh.allowed), granted.ok().map(|grant| grant.role));
        let sum = fresh.roles.iter().any(|account| account.allows) && !fresh.roles.iter().any(|account| account.denies);
        prop_assert_eq!(fresh.allowed, sum, "{}", fresh);

        let facts = ResourceFacts { name: name.map(|same| if same { "x" } else { "y" }), ..ResourceFacts::default() };
        let explanation = check.explain_rule(KINDS[kind], VERBS[verb], facts);
        let permit = check.check_rule_on(KINDS[kind], VERBS[verb], facts);
        prop_assert_eq!(explanation.allowed, permit.is_ok());
        prop_assert_eq!(explanation.needed.is_empty(), permit.is_ok());
        let sum = explanation.roles.iter().any(|account| account.allows)
            && !explanation.roles.iter().any(|account| account.denies);
        prop_assert_eq!(explanation.allowed, sum, "{}", explanation);
        if let Err(Denied::DeniedBy { role } | Denied::Unreadable { role }) = permit {
            prop_assert_eq!(explanation.role.as_deref(), Some(role.as_str()));
        }
        // What is allowed to all is allowed to each, and what may not be for any is for none.
        if check.check_rule(KINDS[kind], VERBS[verb]).is_ok() {
            prop_assert!(explanation.allowed);
        }
        if explanation.allowed {
            prop_assert!(check.may_have_rule(KINDS[kind], VERBS[verb]));
        }
    }

    /// Another role, whatever it is, and a lower limit in one that is there: neither makes certificates live longer.
    #[test]
    fn a_narrower_life_never_grows(roles in any_roles(), extra in options(), at in any::<prop::sample::Index>()) {
        let life = |roles: Vec<Role>| {
            let (identity, set) = (holder(&roles), RoleSet::new(roles));
            AccessChecker::for_identity(&identity, &set).max_session_ttl()
        };
        let before = life(roles.clone());
        let mut more = roles.clone();
        let mut another = role("another", none(), none());
        another.spec.options = extra.clone();
        more.push(another);
        prop_assert!(before.is_none_or(|before| life(more).is_some_and(|life| life <= before)));
        if !roles.is_empty() {
            let mut narrowed = roles;
            let index = at.index(narrowed.len());
            let ttl = &mut narrowed[index].spec.options.max_session_ttl;
            *ttl = (*ttl).min(extra.max_session_ttl);
            prop_assert!(life(narrowed) <= before);
        }
    }
}
