//! Who may take part in the session of somebody else, and how.

use super::checker::{AccessChecker, HeldRole};
use super::decide::{NodeFacts, NodeVerdict};
use super::policy::SessionPolicy;
use super::{Denied, VisitGrant};
use crate::cert::UserIdentity;
use crate::id::{OsLogin, RoleName, UserName};
use crate::pattern::Pattern;
use crate::resource::{JoinMode, JoinSessions, NodeRecord};

/// The kinds of sessions that there are, as roles name them.
const KINDS: [&str; 2] = ["*", "ssh"];

/// A session that runs, as far as joining it depends on it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it; a new fact must make them think")]
pub struct SessionToJoin<'a> {
    /// Whose it is.
    pub owner: &'a UserName,
    /// The roles by which it was begun.
    pub owner_roles: &'a [RoleName],
    /// As whom it runs.
    pub login: &'a OsLogin,
    /// Where.
    pub node: &'a NodeRecord,
}

/// Permission to take part in one session in one mode. Made by [`AccessChecker::check_join`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinGrant {
    /// Who.
    pub identity: UserIdentity,
    /// How.
    pub mode: JoinMode,
    /// The role that grants it, the first by name; `None` for the own session.
    pub role: Option<String>,
    /// What counts for the connection.
    pub policy: SessionPolicy,
}

/// A compiled entry of `join_sessions`.
#[derive(Clone)]
pub(super) struct JoinPattern {
    roles: Vec<Pattern>,
    modes: Vec<JoinMode>,
    with_login: bool,
}

impl JoinPattern {
    /// Compiles an entry and says what is wrong with it, and where. What is not understood allows nothing, and denies everything.
    pub(super) fn parse(entry: &JoinSessions, denies: bool) -> (Option<Self>, Vec<(String, String)>) {
        let mut problems = Vec::new();
        let mut roles = Vec::new();
        for (index, role) in entry.roles.iter().enumerate() {
            match Pattern::parse(role) {
                Ok(pattern) => roles.push(pattern),
                Err(error) => problems.push((format!(".roles[{index}]"), error.to_string())),
            }
        }
        for (index, kind) in entry.kinds.iter().enumerate() {
            if !KINDS.contains(&kind.as_str()) {
                let message = format!("there are no sessions of the kind {kind:?}; write \"ssh\" or \"*\"");
                problems.push((format!(".kinds[{index}]"), message));
            }
        }
        let mut modes = Vec::new();
        for (index, mode) in entry.modes.iter().enumerate() {
            match (mode.as_str(), mode.parse()) {
                ("*", _) => modes.extend(JoinMode::ALL),
                (_, Ok(mode)) => modes.push(mode),
                (_, Err(error)) => problems.push((format!(".modes[{index}]"), error.to_string())),
            }
        }
        if entry.roles.is_empty() || entry.kinds.is_empty() || entry.modes.is_empty() {
            let message = "an entry names at least one role of the session's owner, one kind and one mode";
            problems.push((String::new(), message.to_owned()));
        }
        if denies && entry.with_login {
            let message =
                "sessions can only be allowed so: whoever may not use a login joins none of its sessions";
            problems.push((".with_login".to_owned(), message.to_owned()));
        }
        let pattern = match (problems.is_empty(), denies) {
            (true, _) => Some(Self { roles, modes, with_login: entry.with_login }),
            (false, false) => None,
            (false, true) => {
                Some(Self { roles: vec![Pattern::Any], modes: JoinMode::ALL.to_vec(), with_login: false })
            }
        };
        (pattern, problems)
    }

    fn is_about(&self, session: &SessionToJoin<'_>, mode: JoinMode) -> bool {
        self.modes.contains(&mode)
            && session
                .owner_roles
                .iter()
                .any(|role| self.roles.iter().any(|pattern| pattern.matches(role.as_str())))
    }
}

impl<'a> AccessChecker<'a> {
    /// Decides whether `identity`, for whom this checker was made, may take part in a session.
    ///
    /// One entry of `join_sessions` of one role must allow it, and no role may deny it: neither by `join_sessions`, nor the
    /// login that the session runs as, nor the node. Whoever could begin a session like the own one may join the own one.
    /// A certificate that permits no terminal, or one command only, joins nothing.
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn check_join(
        &self,
        identity: &UserIdentity,
        session: &SessionToJoin<'_>,
        mode: JoinMode,
    ) -> Result<JoinGrant, Denied> {
        self.check_visitor(identity)?;
        let role = self.decide_join(identity, session, mode)?;
        Ok(JoinGrant {
            identity: identity.clone(),
            mode,
            role: role.map(|held| held.role.name().to_owned()),
            policy: self.options(),
        })
    }

    /// The modes in which the user may take part in a session.
    pub fn join_modes(&self, identity: &UserIdentity, session: &SessionToJoin<'_>) -> Vec<JoinMode> {
        let may = |mode: &JoinMode| self.check_join(identity, session, *mode).is_ok();
        JoinMode::ALL.into_iter().filter(may).collect()
    }

    /// Decides whether `identity` may come to a node where no login is allowed, to join sessions that others have there; each of
    /// them is decided about by [`AccessChecker::check_join`].
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn check_visit(&self, identity: &UserIdentity, node: &NodeRecord) -> Result<VisitGrant, Denied> {
        self.check_visitor(identity)?;
        self.may_visit(node)?;
        Ok(VisitGrant { identity: identity.clone(), node: node.host_id, policy: self.options() })
    }

    /// Whether the user's roles may let the user join sessions of others on a node, whatever the certificate permits.
    ///
    /// # Errors
    /// [`Denied`], for the log.
    pub fn may_visit(&self, node: &NodeRecord) -> Result<(), Denied> {
        self.readable()?;
        if let Some(role) = self.node_denied_by(&NodeFacts::new(self, node)) {
            return Err(Denied::DeniedBy { role: self.name(role) });
        }
        // Who may use a login there has it.
        let mut entries = self.roles.iter().flat_map(|held| &held.allow.joins);
        if !entries.any(|entry| !entry.with_login) {
            return Err(Denied::NotAllowed);
        }
        Ok(())
    }

    fn check_visitor(&self, identity: &UserIdentity) -> Result<(), Denied> {
        if self.roles.is_empty() {
            return Err(Denied::NoRoles);
        }
        self.readable()?;
        if !identity.permits.pty || identity.force_command.is_some() {
            return Err(Denied::Restricted);
        }
        Ok(())
    }

    /// The role that allows it; `None` for the own session.
    fn decide_join(
        &self,
        identity: &UserIdentity,
        session: &SessionToJoin<'_>,
        mode: JoinMode,
    ) -> Result<Option<&HeldRole<'a>>, Denied> {
        let facts = NodeFacts::new(self, session.node);
        let denies =
            |held: &HeldRole<'_>| held.role.deny.joins.iter().any(|entry| entry.is_about(session, mode));
        let denied = self.login_denied_by(session.login).or_else(|| self.node_denied_by(&facts));
        if let Some(role) = denied.or_else(|| self.roles.iter().position(denies)) {
            return Err(Denied::DeniedBy { role: self.name(role) });
        }
        let could_begin = matches!(
            self.decide_login(&facts, session.login, Some(&identity.logins)),
            NodeVerdict::Allowed { .. }
        );
        // Typing is more than beginning where only certain commands may be begun.
        let has_login = could_begin
            && (mode != JoinMode::Peer
                || self.session_policy(identity.permits, &facts, session.login).shell());
        if has_login && session.owner.as_str() == self.subject.name {
            return Ok(None);
        }
        let allows = |held: &&HeldRole<'_>| {
            let mut entries = held.allow.joins.iter();
            entries.any(|entry| (has_login || !entry.with_login) && entry.is_about(session, mode))
        };
        self.roles.iter().find(allows).map(Some).ok_or(Denied::NotAllowed)
    }
}
