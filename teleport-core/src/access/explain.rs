//! Why: the decision that was made, what each role said, and what would be needed.

use std::fmt;

use serde::Serialize;

use super::checker::{AccessChecker, HeldRole, NodeCondition};
use super::decide::{NodeFacts, NodeVerdict, RuleVerdict, labels_match};
use super::predicate::ResourceFacts;
use super::terms::SessionTerms;
use crate::id::OsLogin;
use crate::lock::Locked;
use crate::resource::{NodeRecord, Verb};

/// What one role says to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RoleAccount {
    /// The role.
    pub role: String,
    /// Whether it alone would allow it.
    pub allows: bool,
    /// Whether it denies it, whatever others allow.
    pub denies: bool,
    /// What it says, with the places in its document.
    pub says: Vec<String>,
}

/// Why something is allowed or denied, for administrators. Made by the same decision as the enforcement.
///
/// Displayed as several lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// What was asked.
    pub question: String,
    /// The answer.
    pub allowed: bool,
    /// The role that decided, if one did.
    pub role: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// What each of the user's roles says, in the order of their names.
    pub roles: Vec<RoleAccount>,
    /// What would have to be otherwise; empty if it is allowed. Alternatives, unless roles deny it: none may.
    pub needed: Vec<String>,
    /// What counts in the session, for a login that is allowed with a certificate that is issued now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionTerms>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = if self.allowed { "allowed" } else { "denied" };
        writeln!(f, "{}: {answer}, {}", self.question, self.reason)?;
        for account in &self.roles {
            writeln!(f, "  role {}", account.role)?;
            for line in &account.says {
                writeln!(f, "    {line}")?;
            }
        }
        if !self.needed.is_empty() {
            writeln!(f, "  needed")?;
        }
        for line in &self.needed {
            writeln!(f, "    {line}")?;
        }
        if let Some(terms) = &self.session {
            writeln!(f, "  permitted in the session")?;
            for line in terms.to_string().lines() {
                writeln!(f, "    {line}")?;
            }
        }
        if !self.notes.is_empty() {
            writeln!(f, "  note")?;
        }
        for line in &self.notes {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

/// How a certificate in hand may differ from one that would be issued now.
const IN_HAND: &str = "a certificate in hand keeps the roles, logins and traits that the user had at its login, until it ends; \
     what those roles say counts as it is now";
/// What needs no rule of a role.
const OWN_SESSIONS: &str =
    "users list and read the recordings of their own sessions without any rule, unless a rule denies it";
const VISIBLE_NODES: &str = "users list the nodes to which they may log in without any rule";

impl Explanation {
    /// The same for somebody who is locked out, whatever roles allow.
    #[must_use]
    pub fn locked(mut self, locked: &Locked) -> Self {
        if self.allowed {
            self.reason = locked.to_string();
            self.role = None;
        } else {
            self.notes.push(locked.to_string());
        }
        self.allowed = false;
        self.session = None;
        self.needed.push(match locked {
            Locked::InForce { name, .. } => format!("lock {name} must end"),
            Locked::Stale { .. } | Locked::Unreadable { .. } => {
                "it must be known for certain who is locked".to_owned()
            }
        });
        self
    }
}

const UNREADABLE: &str = "a document cannot be read, and may hold denials: that of role";

/// `a, b or c`, at most a few.
fn words<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    const MOST: usize = 8;
    let mut words: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if words.is_empty() {
        return "none".to_owned();
    }
    if words.len() > MOST {
        let more = words.len() - MOST;
        words.truncate(MOST);
        words.push(format!("{more} more"));
    }
    words.join(", ")
}

/// What is to be said of a role that cannot be read.
fn unreadable(held: &HeldRole<'_>) -> Vec<String> {
    if held.role.role().is_readable() {
        Vec::new()
    } else {
        vec!["cannot be read; it denies everything".to_owned()]
    }
}

/// What of a condition about nodes does not hold; `None` if all of it does.
fn mismatch(
    checker: &AccessChecker<'_>,
    held: &HeldRole<'_>,
    condition: &NodeCondition<'_>,
    facts: &NodeFacts<'_>,
) -> Option<String> {
    if !condition.has_labels && condition.expression.is_none() {
        return Some("names no nodes".to_owned());
    }
    if condition.has_labels && !labels_match(condition, facts) {
        let source = held.role.allow_labels().source();
        let failing = condition.labels.iter().find(|(_, key)| !key.matches(facts.node.labels.get(key.key)));
        let key = failing.map_or("", |(_, key)| key.key);
        let wanted = source.get(key).map(|values| words(values.iter().map(|value| format!("{value:?}"))));
        let is = match facts.node.labels.get(key) {
            Some(value) => format!("is {value:?}"),
            None => "is missing".to_owned(),
        };
        return Some(format!("label {key} {is}, wanted {}", wanted.unwrap_or_default()));
    }
    if !checker.allows_node(held, facts) {
        let expression = condition.expression.map(ToString::to_string).unwrap_or_default();
        return Some(format!("node_labels_expression is false: {expression}"));
    }
    None
}

impl AccessChecker<'_> {
    /// Says whether the user may open a session on `node` as `login`, and why: with a certificate that has these logins, or, for
    /// `None`, with one that would be issued now.
    pub fn explain_login(
        &self,
        node: &NodeRecord,
        login: &OsLogin,
        certified: Option<&[OsLogin]>,
    ) -> Explanation {
        let facts = NodeFacts::new(self, node);
        let verdict = self.decide_login(&facts, login, certified);
        let (role, reason) = match verdict {
            NodeVerdict::Allowed { role } => (Some(role), "by role"),
            NodeVerdict::LoginDeniedBy { role } => (Some(role), "the login is denied everywhere by role"),
            NodeVerdict::NodeDeniedBy { role } => (Some(role), "the node is denied for every login by role"),
            NodeVerdict::NoRoles => (None, "the user has no role that exists"),
            NodeVerdict::NotAllowed => (None, "no role allows both the node and the login"),
            NodeVerdict::NotInCertificate { role } => {
                (Some(role), "the certificate does not name the login; it is allowed by role")
            }
            NodeVerdict::Unreadable { role } => (Some(role), UNREADABLE),
        };
        let role = role.map(|role| self.name(role));
        let allowed = matches!(verdict, NodeVerdict::Allowed { .. });
        Explanation {
            question: format!("{} as {login} on {}", self.subject.name, node.name),
            allowed,
            reason: role.as_ref().map_or_else(|| reason.to_owned(), |role| format!("{reason} {role}")),
            roles: self.accounts(|held| self.account_of_login(held, &facts, login)),
            needed: if allowed { Vec::new() } else { self.needed_for_login(&facts, login, verdict) },
            session: (allowed && certified.is_none()).then(|| SessionTerms::new(self, &facts, login)),
            notes: if certified.is_none() { vec![IN_HAND.to_owned()] } else { Vec::new() },
            role,
        }
    }

    /// The accounts of the user's roles; those that do not exist say so.
    fn accounts(&self, account: impl Fn(&HeldRole<'_>) -> RoleAccount) -> Vec<RoleAccount> {
        let mut accounts: Vec<RoleAccount> = self.roles.iter().map(account).collect();
        for name in self.subject.roles {
            if !accounts.iter().any(|account| account.role == name.as_str()) {
                let says = vec!["does not exist".to_owned()];
                accounts.push(RoleAccount { role: name.to_string(), allows: false, denies: false, says });
            }
        }
        accounts.sort_by(|one, other| one.role.cmp(&other.role));
        accounts
    }

    fn account_of_login(&self, held: &HeldRole<'_>, facts: &NodeFacts<'_>, login: &OsLogin) -> RoleAccount {
        let mut says = unreadable(held);
        let has_login = held.allowed_logins.binary_search(login).is_ok();
        says.push(if has_login {
            format!("allow: login {login}: yes")
        } else {
            let logins = &held.allowed_logins;
            let has = if logins.is_empty() {
                "it has none".to_owned()
            } else {
                format!("its logins are {}", words(logins))
            };
            format!("allow: login {login}: no, {has}")
        });
        let why_not = mismatch(self, held, &held.allowed_nodes, facts);
        says.push(match &why_not {
            None => "allow: node: yes".to_owned(),
            Some(reason) => format!("allow: node: no, {reason}"),
        });
        let denies_login = held.denies_login(login);
        if denies_login {
            says.push(format!("deny: login {login}: yes, on every node"));
        }
        let denies_node = self.denies_node(held, facts);
        if denies_node {
            let by_labels = held.denied_nodes.has_labels && labels_match(&held.denied_nodes, facts);
            let by = if by_labels { "node_labels" } else { "node_labels_expression" };
            says.push(format!("deny: node: yes, by {by}, for every login"));
        }
        RoleAccount {
            role: held.role.name().to_owned(),
            allows: has_login && why_not.is_none(),
            denies: denies_login || denies_node,
            says,
        }
    }

    fn needed_for_login(&self, facts: &NodeFacts<'_>, login: &OsLogin, verdict: NodeVerdict) -> Vec<String> {
        let mut needed = Vec::new();
        for held in &self.roles {
            let name = held.role.name();
            if held.denies_login(login) {
                needed
                    .push(format!("role {name} must not deny the login {login}, or be taken from the user"));
            }
            if self.denies_node(held, facts) {
                needed.push(format!(
                    "role {name} must not deny the node {}, or be taken from the user",
                    facts.node.name
                ));
            }
        }
        if let NodeVerdict::NotInCertificate { .. } = verdict {
            needed.push("a new certificate: the user must log in again".to_owned());
            return needed;
        }
        if self.roles.iter().any(|held| self.grants(held, facts, login)) {
            return needed;
        }
        for held in &self.roles {
            let name = held.role.name();
            let has_login = held.allowed_logins.binary_search(login).is_ok();
            match mismatch(self, held, &held.allowed_nodes, facts) {
                None => needed.push(format!("role {name} allows the node: its logins must have {login}")),
                Some(reason) if has_login => {
                    needed.push(format!(
                        "role {name} allows the login: its nodes must have {} ({reason})",
                        facts.node.name
                    ));
                }
                Some(_) => {}
            }
        }
        needed
            .push(format!("or another role that allows the login {login} and the node {}", facts.node.name));
        needed
    }

    /// Says whether the user may do `verb` to a resource of `kind`, and why. Without facts about the resource, to all of them.
    pub fn explain_rule(&self, kind: &str, verb: Verb, resource: ResourceFacts<'_>) -> Explanation {
        let verdict = self.decide_rule(kind, verb, resource);
        let (role, reason) = match verdict {
            RuleVerdict::Allowed { role, rule } => {
                (Some(role), format!("by spec.allow.rules[{rule}] of role"))
            }
            RuleVerdict::DeniedBy { role, rule } => {
                (Some(role), format!("by spec.deny.rules[{rule}] of role"))
            }
            RuleVerdict::NoRoles => (None, "the user has no role that exists".to_owned()),
            RuleVerdict::NotAllowed => (None, "no role allows it".to_owned()),
            RuleVerdict::Unreadable { role } => (Some(role), UNREADABLE.to_owned()),
        };
        let role = role.map(|role| self.name(role));
        let allowed = matches!(verdict, RuleVerdict::Allowed { .. });
        let roles = self.accounts(|held| self.account_of_rule(held, kind, verb, resource));
        let mut needed = Vec::new();
        if !allowed {
            for account in roles.iter().filter(|account| account.denies) {
                needed.push(format!("role {} must not deny it, or be taken from the user", account.role));
            }
            if !roles.iter().any(|account| account.allows) {
                needed.push(format!("a role with a rule for {} on {kind}", verb.as_str()));
            }
        }
        let notes = match (kind, verb) {
            ("session", Verb::List | Verb::Read) => vec![OWN_SESSIONS.to_owned()],
            ("node", Verb::List) => vec![VISIBLE_NODES.to_owned()],
            _ => Vec::new(),
        };
        let verb = verb.as_str();
        Explanation {
            question: match resource.name {
                Some(name) => format!("{} to {verb} {kind}/{name}", self.subject.name),
                None => format!("{} to {verb} {kind}", self.subject.name),
            },
            allowed,
            reason: role.as_ref().map_or_else(|| reason.clone(), |role| format!("{reason} {role}")),
            roles,
            needed,
            session: None,
            notes,
            role,
        }
    }

    fn account_of_rule(
        &self,
        held: &HeldRole<'_>,
        kind: &str,
        verb: Verb,
        resource: ResourceFacts<'_>,
    ) -> RoleAccount {
        let facts = self.facts(resource);
        let mut account = RoleAccount {
            role: held.role.name().to_owned(),
            allows: false,
            denies: false,
            says: unreadable(held),
        };
        for (half, rules) in [("allow", &held.allow.rules), ("deny", &held.role.deny.rules)] {
            for (index, rule) in rules.iter().enumerate() {
                let (concerned, unknown) = match half {
                    "allow" => (rule.allows(kind, verb), false),
                    _ => (rule.denies(kind, verb), true),
                };
                if !concerned {
                    continue;
                }
                let value = rule.condition.as_ref().map(|condition| (condition, condition.evaluate(&facts)));
                let holds = value.as_ref().is_none_or(|(_, value)| value.unwrap_or(unknown));
                account.allows |= holds && half == "allow";
                account.denies |= holds && half == "deny";
                let answer = if holds { "yes" } else { "no" };
                account.says.push(match value {
                    None => format!("{half}: rules[{index}]: {answer}"),
                    Some((condition, None)) => {
                        format!("{half}: rules[{index}]: {answer}, it depends on the resource: {condition}")
                    }
                    Some((condition, Some(value))) => {
                        format!("{half}: rules[{index}]: {answer}, where is {value}: {condition}")
                    }
                });
            }
        }
        if account.says.is_empty() {
            account.says.push("no rule is about it".to_owned());
        }
        account
    }
}
