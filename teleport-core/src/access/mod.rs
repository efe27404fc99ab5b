//! Who may do what: pure decisions over roles.
//!
//! Default deny. A denial of any role wins. One single role must grant a node's labels **and** the login. Roles are
//! those that the certificate names *and* that exist now: a role that was deleted or changed counts at once. A role that was
//! taken from its user counts at nodes until the certificate ends; the auth service asks for the user as well. A role that
//! exists and cannot be read is no role that does not exist: whoever holds it is refused.

mod template;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::template::expand;
use crate::cert::{Traits, UserIdentity};
use crate::id::{HostId, OsLogin, RoleName};
use crate::label::Labels;
use crate::resource::{NodeRecord, Role, RoleConditions, Rule, Verb};

/// Why access was denied. For the log and the audit event; the peer hears no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// A role denies it.
    #[error("role {role} denies it")]
    DeniedBy {
        /// The role.
        role: String,
    },
    /// No role allows it.
    #[error("no role allows it")]
    NotAllowed,
    /// None of the certificate's roles exists.
    #[error("the user has no role that exists")]
    NoRoles,
    /// A role exists and cannot be read: what it denies is not known.
    #[error("the document of role {role} cannot be read, and may hold denials")]
    Unreadable {
        /// The role.
        role: String,
    },
}

/// Permission to open a session on one node as one login. Made by [`AccessChecker::check_login`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoginGrant {
    /// Who.
    pub identity: UserIdentity,
    /// As whom.
    pub login: OsLogin,
    /// Where.
    pub node: HostId,
    /// The role that grants it.
    pub role: String,
    /// Whether the agent may be forwarded: by the certificate and by a role.
    pub agent_forwarding: bool,
    /// Whether ports may be forwarded: by the certificate and by a role.
    pub port_forwarding: bool,
}

/// Permission for one verb on one kind of resource. Made by [`AccessChecker::check_rule`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RulePermit {
    /// The kind of resource.
    pub kind: &'static str,
    /// What may be done.
    pub verb: Verb,
}

/// Decides for one user.
#[derive(Clone)]
pub struct AccessChecker<'a> {
    traits: &'a Traits,
    roles: Vec<&'a Role>,
}

impl fmt::Debug for AccessChecker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roles.iter().map(|role| &role.metadata.name)).finish()
    }
}

fn logins_match(conditions: &RoleConditions, traits: &Traits, login: &OsLogin, deny: bool) -> bool {
    conditions.logins.iter().any(|template| {
        (deny && template == "*")
            || expand(template, traits).iter().any(|expanded| expanded == login.as_str())
    })
}

fn rule_matches(rule: &Rule, kind: &str, verb: Verb) -> bool {
    rule.resources.iter().any(|resource| resource == "*" || resource == kind)
        && rule.verbs.iter().any(|allowed| *allowed == Verb::Any || *allowed == verb)
}

impl<'a> AccessChecker<'a> {
    /// For the user with these role names and traits, among the roles that exist.
    pub fn new(names: &[RoleName], traits: &'a Traits, existing: &'a [Role]) -> Self {
        let named = |role: &&Role| names.iter().any(|name| name.as_str() == role.metadata.name);
        Self { traits, roles: existing.iter().filter(named).collect() }
    }

    /// For a verified user.
    pub fn for_identity(identity: &'a UserIdentity, existing: &'a [Role]) -> Self {
        Self::new(&identity.roles, &identity.traits, existing)
    }

    /// That every role of the user can be read. If not, every other decision is a refusal as well.
    ///
    /// # Errors
    /// [`Denied::Unreadable`].
    pub fn readable(&self) -> Result<(), Denied> {
        match self.roles.iter().find(|role| !role.is_readable()) {
            Some(role) => Err(Denied::Unreadable { role: role.metadata.name.clone() }),
            None => Ok(()),
        }
    }

    /// The logins that the roles allow on some node, without those that are denied everywhere; sorted, each once. They
    /// become the certificate's principals.
    pub fn logins(&self) -> Vec<OsLogin> {
        if self.readable().is_err() {
            return Vec::new();
        }
        let mut logins: Vec<OsLogin> = self
            .roles
            .iter()
            .flat_map(|role| &role.spec.allow.logins)
            .flat_map(|template| expand(template, self.traits))
            .filter_map(|login| OsLogin::new(&login).ok())
            .filter(|login| {
                !self.roles.iter().any(|role| logins_match(&role.spec.deny, self.traits, login, true))
            })
            .collect();
        logins.sort_unstable();
        logins.dedup();
        logins
    }

    /// The longest life that every role allows a certificate; `None` without roles.
    pub fn max_session_ttl(&self) -> Option<std::time::Duration> {
        self.roles.iter().map(|role| role.spec.options.max_session_ttl()).min()
    }

    /// Whether some role permits agent forwarding.
    pub fn agent_forwarding(&self) -> bool {
        self.readable().is_ok() && self.roles.iter().any(|role| role.spec.options.forward_agent)
    }

    /// Whether some role permits port forwarding.
    pub fn port_forwarding(&self) -> bool {
        self.readable().is_ok() && self.roles.iter().any(|role| role.spec.options.port_forwarding)
    }

    fn denied_labels(&self, labels: &Labels) -> Option<Denied> {
        let denies = |role: &&&Role| role.spec.deny.node_labels.matches(labels);
        self.roles.iter().find(denies).map(|role| Denied::DeniedBy { role: role.metadata.name.clone() })
    }

    /// Whether the user may know of a node: some role gives its labels with at least one login, none denies it.
    pub fn can_see(&self, labels: &Labels) -> bool {
        self.readable().is_ok()
            && self.denied_labels(labels).is_none()
            && self.roles.iter().any(|role| {
                role.spec.allow.node_labels.matches(labels)
                    && role.spec.allow.logins.iter().any(|template| !expand(template, self.traits).is_empty())
            })
    }

    /// Decides whether `identity` may open a session on `node` as `login`.
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn check_login(
        &self,
        identity: &UserIdentity,
        node: &NodeRecord,
        login: &OsLogin,
    ) -> Result<LoginGrant, Denied> {
        if self.roles.is_empty() {
            return Err(Denied::NoRoles);
        }
        self.readable()?;
        let denies_login = |role: &&&Role| logins_match(&role.spec.deny, self.traits, login, true);
        if let Some(role) = self.roles.iter().find(denies_login) {
            return Err(Denied::DeniedBy { role: role.metadata.name.clone() });
        }
        if let Some(denied) = self.denied_labels(&node.labels) {
            return Err(denied);
        }
        let grants = |role: &&&Role| {
            role.spec.allow.node_labels.matches(&node.labels)
                && logins_match(&role.spec.allow, self.traits, login, false)
        };
        let role = self.roles.iter().find(grants).ok_or(Denied::NotAllowed)?;
        // The principals bind as well: a login that roles gave later needs a new certificate.
        if !identity.logins.contains(login) {
            return Err(Denied::NotAllowed);
        }
        Ok(LoginGrant {
            login: login.clone(),
            node: node.host_id,
            role: role.metadata.name.clone(),
            agent_forwarding: identity.permits.agent_forwarding && self.agent_forwarding(),
            port_forwarding: identity.permits.port_forwarding && self.port_forwarding(),
            identity: identity.clone(),
        })
    }

    /// Decides whether the user may do `verb` to resources of `kind`.
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn check_rule(&self, kind: &'static str, verb: Verb) -> Result<RulePermit, Denied> {
        self.readable()?;
        let has =
            |conditions: &RoleConditions| conditions.rules.iter().any(|rule| rule_matches(rule, kind, verb));
        if let Some(role) = self.roles.iter().find(|role| has(&role.spec.deny)) {
            return Err(Denied::DeniedBy { role: role.metadata.name.clone() });
        }
        if self.roles.iter().any(|role| has(&role.spec.allow)) {
            Ok(RulePermit { kind, verb })
        } else if self.roles.is_empty() {
            Err(Denied::NoRoles)
        } else {
            Err(Denied::NotAllowed)
        }
    }
}
