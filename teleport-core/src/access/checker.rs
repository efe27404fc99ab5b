//! One user's roles, ready to decide.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::compiled::{CompiledRole, Half, NOTHING};
use super::decide::{NodeFacts, NodeVerdict, RuleVerdict};
use super::filter::NodeFilter;
use super::policy::SessionPolicy;
use super::predicate::{Predicate, ResourceFacts, Subject};
use super::set::RoleSet;
use super::{Denied, LoginGrant, RulePermit};
use crate::cert::{Permits, Traits, UserIdentity};
use crate::id::{OsLogin, RoleName};
use crate::label::{LabelMatcher, ResolvedKey};
use crate::resource::{NodeRecord, RoleOptions, Verb};

/// Decides for one user.
#[derive(Clone)]
pub struct AccessChecker<'a> {
    pub(super) subject: Subject<'a>,
    /// In the order of their names, each once.
    pub(super) roles: Vec<HeldRole<'a>>,
    /// The keys of labels that the roles ask for: a node's labels are looked up once for all roles.
    pub(super) keys: Vec<&'a str>,
    /// The roles that deny some nodes or logins, by their index.
    pub(super) denying_nodes: Vec<usize>,
    pub(super) denying_logins: Vec<usize>,
    /// A role that cannot be read; it denies everything.
    pub(super) unreadable: Option<usize>,
}

/// A role as it is for one user: templates are expanded.
#[derive(Clone)]
pub(super) struct HeldRole<'a> {
    pub(super) role: &'a CompiledRole,
    /// What it allows: nothing, if it was taken from the user.
    pub(super) allow: &'a Half,
    /// Its options: of one that was taken from the user, what restricts.
    pub(super) options: Cow<'a, RoleOptions>,
    /// Sorted, each once.
    pub(super) allowed_logins: Vec<OsLogin>,
    /// `None` is all.
    pub(super) denied_logins: Option<Vec<String>>,
    pub(super) allowed_nodes: NodeCondition<'a>,
    pub(super) denied_nodes: NodeCondition<'a>,
    /// Whether one of the allowed logins is denied by no role.
    pub(super) has_login: bool,
}

/// Which nodes, for one user.
#[derive(Clone)]
pub(super) struct NodeCondition<'a> {
    /// Whether labels are named at all.
    pub(super) has_labels: bool,
    /// What the labels must be, with the index of the key.
    pub(super) labels: Vec<(usize, ResolvedKey<'a>)>,
    pub(super) expression: Option<&'a Predicate>,
}

impl<'a> NodeCondition<'a> {
    const NONE: Self = Self { has_labels: false, labels: Vec::new(), expression: None };

    fn new(
        matcher: &'a LabelMatcher,
        expression: Option<&'a Predicate>,
        traits: &Traits,
        keys: &mut Vec<&'a str>,
    ) -> Self {
        let resolved = matcher.resolve(traits);
        let indexed = |key: ResolvedKey<'a>| {
            let index = keys.iter().position(|known| *known == key.key).unwrap_or_else(|| {
                keys.push(key.key);
                keys.len() - 1
            });
            (index, key)
        };
        Self {
            has_labels: resolved.matches_some,
            labels: resolved.keys.into_iter().map(indexed).collect(),
            expression,
        }
    }

    fn is_empty(&self) -> bool {
        !self.has_labels && self.expression.is_none()
    }
}

impl<'a> HeldRole<'a> {
    fn new(role: &'a CompiledRole, subject: &Subject<'_>, keys: &mut Vec<&'a str>) -> Self {
        let traits = subject.traits;
        let taken = subject.taken.iter().any(|taken| taken.as_str() == role.name());
        let allow = if taken { &NOTHING } else { &role.allow };
        let allowed_nodes = if taken {
            NodeCondition::NONE
        } else {
            NodeCondition::new(role.allow_labels(), allow.expression.as_ref(), traits, keys)
        };
        let options = role.options();
        let options = if taken { Cow::Owned(options.restrictions()) } else { Cow::Borrowed(options) };
        let expand = |half: &Half| -> Option<Vec<String>> {
            let mut all = Vec::new();
            for pattern in &half.logins {
                all.append(&mut pattern.expand(traits)?);
            }
            Some(all)
        };
        let allowed = expand(allow).unwrap_or_default();
        let mut allowed_logins: Vec<OsLogin> =
            allowed.iter().filter_map(|login| OsLogin::new(login).ok()).collect();
        allowed_logins.sort_unstable();
        allowed_logins.dedup();
        Self {
            allowed_logins,
            denied_logins: expand(&role.deny),
            allowed_nodes,
            denied_nodes: NodeCondition::new(role.deny_labels(), role.deny.expression.as_ref(), traits, keys),
            has_login: false,
            allow,
            options,
            role,
        }
    }

    pub(super) fn denies_login(&self, login: &OsLogin) -> bool {
        self.denied_logins.as_ref().is_none_or(|denied| denied.iter().any(|denied| denied == login.as_str()))
    }
}

impl fmt::Debug for AccessChecker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roles.iter().map(|held| held.role.name())).finish()
    }
}

impl<'a> AccessChecker<'a> {
    /// For a user, among the roles that exist. Also takes `&UserIdentity` and `&User`.
    pub fn new(subject: impl Into<Subject<'a>>, existing: &'a RoleSet) -> Self {
        let subject = subject.into();
        let mut names: Vec<&RoleName> = subject.roles.iter().collect();
        names.sort_unstable();
        names.dedup();
        let mut keys = Vec::new();
        let found = names.into_iter().filter_map(|name| existing.get(name.as_str()));
        let roles: Vec<HeldRole<'a>> = found.map(|role| HeldRole::new(role, &subject, &mut keys)).collect();
        let indices = |says: fn(&HeldRole<'_>) -> bool| -> Vec<usize> {
            roles.iter().enumerate().filter(|(_, held)| says(held)).map(|(index, _)| index).collect()
        };
        let denying_nodes = indices(|held| !held.denied_nodes.is_empty());
        let denying_logins =
            indices(|held| held.denied_logins.as_ref().is_none_or(|logins| !logins.is_empty()));
        let unreadable = roles.iter().position(|held| !held.role.role().is_readable());
        let mut checker = Self { subject, roles, keys, denying_nodes, denying_logins, unreadable };
        let permitted = |held: &HeldRole<'_>| {
            held.allowed_logins.iter().any(|login| checker.login_denied_by(login).is_none())
        };
        let has_login: Vec<bool> = checker.roles.iter().map(permitted).collect();
        for (held, has_login) in checker.roles.iter_mut().zip(has_login) {
            held.has_login = has_login;
        }
        checker
    }

    /// For a verified user, whatever was taken from it since. Whoever has a view asks it for a checker
    /// ([`AccessView::checker`](crate::api::AccessView::checker)).
    pub fn for_identity(identity: &'a UserIdentity, existing: &'a RoleSet) -> Self {
        Self::new(identity, existing)
    }

    /// That every role of the user can be read. If not, every other decision is a refusal as well.
    ///
    /// # Errors
    /// [`Denied::Unreadable`].
    pub fn readable(&self) -> Result<(), Denied> {
        self.unreadable.map_or(Ok(()), |role| Err(Denied::Unreadable { role: self.name(role) }))
    }

    /// The index of a role that denies the login everywhere.
    pub(super) fn login_denied_by(&self, login: &OsLogin) -> Option<usize> {
        let denies = |index: &usize| self.roles.get(*index).is_some_and(|held| held.denies_login(login));
        self.denying_logins.iter().copied().find(denies)
    }

    /// The logins that the roles allow on some node, without those that are denied everywhere; sorted, each once. They
    /// become the certificate's principals.
    pub fn logins(&self) -> Vec<OsLogin> {
        let allowed = self.roles.iter().flat_map(|held| &held.allowed_logins);
        let mut logins: Vec<OsLogin> =
            allowed.filter(|login| self.login_denied_by(login).is_none()).cloned().collect();
        logins.sort_unstable();
        logins.dedup();
        logins
    }

    /// The longest life that every role allows a certificate; `None` without roles.
    pub fn max_session_ttl(&self) -> Option<Duration> {
        self.roles.iter().map(|held| held.options.max_session_ttl).min()
    }

    /// The merged options of all roles, without what depends on a node: any destination and any command.
    pub fn options(&self) -> SessionPolicy {
        SessionPolicy::merge(self.roles.iter().map(|held| held.options.as_ref()))
    }

    /// Whether some role permits agent forwarding.
    pub fn agent_forwarding(&self) -> bool {
        self.readable().is_ok() && self.options().agent_forwarding
    }

    /// Whether the roles permit port forwarding, in one direction at least.
    pub fn port_forwarding(&self) -> bool {
        let options = self.options();
        self.readable().is_ok() && (options.local_forwarding || options.remote_forwarding)
    }

    /// Whether some role permits to have the user's display on nodes.
    pub fn x11_forwarding(&self) -> bool {
        self.readable().is_ok() && self.options().x11_forwarding
    }

    /// What the roles permit in a certificate that is issued now.
    pub fn permits(&self) -> Permits {
        Permits {
            agent_forwarding: self.agent_forwarding(),
            port_forwarding: self.port_forwarding(),
            pty: true,
            x11_forwarding: self.x11_forwarding(),
        }
    }

    /// Whether some role binds certificates to the address of the login.
    pub fn pin_source_ip(&self) -> bool {
        self.roles.iter().any(|held| held.options.pin_source_ip)
    }

    /// The extensions that the roles add to certificates, with their values; sorted by name, each once. One whose template has
    /// no value for this user is left out.
    pub fn cert_extensions(&self) -> Vec<(String, String)> {
        let mut extensions: Vec<(String, String)> = Vec::new();
        for (name, value) in self.roles.iter().flat_map(|held| &held.role.extensions) {
            if !extensions.iter().any(|(known, _)| known == name)
                && let Some(value) = value.expand(self.subject.traits).into_iter().next()
            {
                extensions.push((name.clone(), value));
            }
        }
        extensions.sort_unstable();
        extensions
    }

    /// Whether the user may know of a node: some role allows it with at least one login that no role denies, and no role
    /// denies the node.
    pub fn can_see(&self, node: &NodeRecord) -> bool {
        let facts = NodeFacts::new(self, node);
        self.node_denied_by(&facts).is_none()
            && self.roles.iter().any(|held| held.has_login && self.allows_node(held, &facts))
    }

    /// Decides about many nodes as [`AccessChecker::can_see`] does about one, and faster.
    pub fn filter(&self) -> NodeFilter<'_, 'a> {
        NodeFilter::new(self)
    }

    /// Decides whether `identity`, for whom this checker was made, may open a session on `node` as `login`.
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn check_login(
        &self,
        identity: &UserIdentity,
        node: &NodeRecord,
        login: &OsLogin,
    ) -> Result<LoginGrant, Denied> {
        let facts = NodeFacts::new(self, node);
        let role = match self.decide_login(&facts, login, Some(&identity.logins)) {
            NodeVerdict::Allowed { role } => self.name(role),
            denied => return Err(self.denied(denied)),
        };
        Ok(LoginGrant {
            login: login.clone(),
            node: node.host_id,
            role,
            policy: self.session_policy(identity.permits, &facts, login),
            identity: identity.clone(),
        })
    }

    /// What counts for the session: the roles' options, within what the certificate permits, and the destinations and commands
    /// of the roles that grant it.
    pub(super) fn session_policy(
        &self,
        certified: Permits,
        facts: &NodeFacts<'_>,
        login: &OsLogin,
    ) -> SessionPolicy {
        let mut policy = self.options();
        policy.agent_forwarding &= certified.agent_forwarding;
        policy.local_forwarding &= certified.port_forwarding;
        policy.remote_forwarding &= certified.port_forwarding;
        policy.x11_forwarding &= certified.x11_forwarding;
        let granting: Vec<&HeldRole<'_>> =
            self.roles.iter().filter(|held| self.grants(held, facts, login)).collect();
        // A granting role without a list allows any.
        let lists = granting.iter().map(|held| held.allow.destinations.clone());
        policy.destinations.allowed = lists.collect::<Option<Vec<_>>>().map(|lists| lists.concat());
        let denied = self.roles.iter().filter_map(|held| held.role.deny.destinations.as_ref());
        policy.destinations.denied = denied.flatten().cloned().collect();
        let lists = granting.iter().map(|held| held.allow.commands.clone());
        policy.commands.allowed = lists.collect::<Option<Vec<_>>>().map(|lists| lists.concat());
        if self.roles.iter().any(|held| held.role.deny.commands.is_some()) {
            // Not a thing that can be written; what was stored all the same denies as much as it may have meant.
            policy.commands.allowed = Some(Vec::new());
        }
        policy.file_copy &= policy.commands.is_unrestricted();
        policy
    }

    /// Decides whether the user may do `verb` to every resource of `kind`. A rule whose `where` depends on the resource allows
    /// nothing here, and denies.
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn check_rule(&self, kind: &'static str, verb: Verb) -> Result<RulePermit, Denied> {
        self.check_rule_on(kind, verb, ResourceFacts::default())
    }

    /// Decides whether the user may do `verb` to one resource of `kind`.
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn check_rule_on(
        &self,
        kind: &'static str,
        verb: Verb,
        resource: ResourceFacts<'_>,
    ) -> Result<RulePermit, Denied> {
        match self.decide_rule(kind, verb, resource) {
            RuleVerdict::Allowed { .. } => Ok(RulePermit { kind, verb }),
            RuleVerdict::DeniedBy { role, .. } => Err(Denied::DeniedBy { role: self.name(role) }),
            RuleVerdict::NoRoles => Err(Denied::NoRoles),
            RuleVerdict::NotAllowed => Err(Denied::NotAllowed),
            RuleVerdict::Unreadable { role } => Err(Denied::Unreadable { role: self.name(role) }),
        }
    }

    /// Whether there may be resources of `kind` to which the user may do `verb`: whether it makes sense to go on and ask for
    /// each of them.
    pub fn may_have_rule(&self, kind: &str, verb: Verb) -> bool {
        let holds = |condition: Option<&Predicate>| match condition {
            Some(condition) => condition.evaluate(&self.facts(ResourceFacts::default())),
            None => Some(true),
        };
        let denies = |held: &HeldRole<'_>| {
            let mut rules = held.role.deny.rules.iter().filter(|rule| rule.denies(kind, verb));
            rules.any(|rule| holds(rule.condition.as_ref()) == Some(true))
        };
        let allows = |held: &HeldRole<'_>| {
            let mut rules = held.allow.rules.iter().filter(|rule| rule.allows(kind, verb));
            rules.any(|rule| holds(rule.condition.as_ref()) != Some(false))
        };
        self.unreadable.is_none() && !self.roles.iter().any(denies) && self.roles.iter().any(allows)
    }

    pub(super) fn name(&self, role: usize) -> String {
        self.roles.get(role).map_or_else(String::new, |held| held.role.name().to_owned())
    }

    pub(super) fn denied(&self, verdict: NodeVerdict) -> Denied {
        match verdict {
            NodeVerdict::LoginDeniedBy { role } | NodeVerdict::NodeDeniedBy { role } => {
                Denied::DeniedBy { role: self.name(role) }
            }
            NodeVerdict::NoRoles => Denied::NoRoles,
            NodeVerdict::NotInCertificate { .. } => Denied::NotInCertificate,
            NodeVerdict::Allowed { .. } | NodeVerdict::NotAllowed => Denied::NotAllowed,
            NodeVerdict::Unreadable { role } => Denied::Unreadable { role: self.name(role) },
        }
    }
}
