//! Roles in the form that decisions need: everything that was written as text is parsed once.

use std::fmt;
use std::sync::Arc;

use super::command::CommandPattern;
use super::destination::DestinationPattern;
use super::join::JoinPattern;
use super::predicate::{Predicate, Scope};
use super::template::Template;
use crate::cert::{Traits, is_free_extension};
use crate::id::{OsLogin, RoleName};
use crate::label::LabelMatcher;
use crate::resource::{
    DocumentProblem, InvalidDocument, JoinSessions, NAMED_KINDS, RULE_KINDS, Role, RoleConditions,
    RoleOptions, Rule, Verb,
};
use crate::suggest::did_you_mean;

/// The most entries of each list of a role: logins, rules, destinations, commands, extensions.
pub const MAX_ENTRIES: usize = 1024;

/// A role whose templates, predicates and patterns are compiled.
///
/// [`CompiledRole::new`] is the check of what administrators write. What is stored already was checked by whoever wrote it,
/// perhaps an older version; of such a role, [`RoleSet`](super::RoleSet) takes what it understands, and where it does not understand, the role
/// allows nothing and denies everything.
#[derive(Clone)]
pub struct CompiledRole {
    role: Arc<Role>,
    pub(super) allow: Half,
    pub(super) deny: Half,
    pub(super) extensions: Vec<(String, Template)>,
}

/// One half of a role.
#[derive(Clone)]
pub(super) struct Half {
    pub(super) logins: Vec<LoginPattern>,
    pub(super) expression: Option<Predicate>,
    pub(super) rules: Vec<CompiledRule>,
    pub(super) destinations: Option<Vec<DestinationPattern>>,
    pub(super) commands: Option<Vec<CommandPattern>>,
    pub(super) joins: Vec<JoinPattern>,
}

/// What allows nothing and denies nothing.
pub(super) static NOTHING: Half = Half {
    logins: Vec::new(),
    expression: None,
    rules: Vec::new(),
    destinations: None,
    commands: None,
    joins: Vec::new(),
};

#[derive(Clone)]
pub(super) enum LoginPattern {
    /// `*`, for denials.
    Any,
    Template(Template),
}

impl LoginPattern {
    /// The logins that it stands for; `None` is all.
    pub(super) fn expand(&self, traits: &Traits) -> Option<Vec<String>> {
        match self {
            Self::Any => None,
            Self::Template(template) => Some(template.expand(traits)),
        }
    }
}

#[derive(Clone)]
pub(super) struct CompiledRule {
    pub(super) rule: Rule,
    pub(super) condition: Option<Predicate>,
}

impl CompiledRule {
    pub(super) fn is_about(&self, kind: &str) -> bool {
        self.rule.resources.iter().any(|resource| resource == "*" || resource == kind)
    }

    pub(super) fn allows(&self, kind: &str, verb: Verb) -> bool {
        let named = self.rule.resources.iter().any(|resource| resource == kind);
        (named || (self.is_about(kind) && !NAMED_KINDS.contains(&kind)))
            && self.rule.verbs.iter().any(|allowed| allowed.allows(verb))
    }

    pub(super) fn denies(&self, kind: &str, verb: Verb) -> bool {
        self.is_about(kind) && self.rule.verbs.iter().any(|denied| denied.denies(verb))
    }
}

/// Which half of a role something stands in; what is not understood allows nothing in the one and denies everything in the
/// other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Allow,
    Deny,
}

/// Compiles and takes note of what is wrong.
struct Compiler {
    side: Side,
    problems: Vec<DocumentProblem>,
}

impl Compiler {
    fn problem(&mut self, path: &str, message: impl fmt::Display) {
        let side = match self.side {
            Side::Allow => "allow",
            Side::Deny => "deny",
        };
        self.problems.push(DocumentProblem::new(format!("spec.{side}.{path}"), message.to_string()));
    }

    fn half(&mut self, conditions: &RoleConditions) -> Half {
        let lists = [
            ("logins", conditions.logins.len()),
            ("join_sessions", conditions.join_sessions.len()),
            ("rules", conditions.rules.len()),
            ("permit_open", conditions.permit_open.as_ref().map_or(0, Vec::len)),
            ("commands", conditions.commands.as_ref().map_or(0, Vec::len)),
        ];
        for (path, _) in lists.into_iter().filter(|(_, len)| *len > MAX_ENTRIES) {
            self.problem(path, format_args!("at most {MAX_ENTRIES} entries"));
        }
        let expression = conditions.node_labels_expression.as_deref();
        Half {
            logins: self.logins(&conditions.logins),
            expression: expression
                .map(|source| self.predicate(source, Scope::Nodes, "node_labels_expression")),
            rules: conditions.rules.iter().enumerate().map(|(index, rule)| self.rule(rule, index)).collect(),
            destinations: conditions.permit_open.as_deref().map(|entries| self.destinations(entries)),
            commands: conditions.commands.as_deref().map(|entries| self.commands(entries)),
            joins: self.joins(&conditions.join_sessions),
        }
    }

    fn logins(&mut self, entries: &[String]) -> Vec<LoginPattern> {
        let mut logins = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("logins[{index}]");
            if entry == "*" {
                match self.side {
                    Side::Allow => {
                        self.problem(&path, "`*` can only be denied; name the logins that are allowed")
                    }
                    Side::Deny => logins.push(LoginPattern::Any),
                }
                continue;
            }
            match Template::new(entry) {
                Ok(template) => {
                    if let Some(Err(error)) = template.as_literal().map(OsLogin::new) {
                        // Harmless: it is nobody's login.
                        self.problem(&path, format_args!("{entry:?}: {error}"));
                    }
                    logins.push(LoginPattern::Template(template));
                }
                Err(error) => {
                    self.problem(&path, error);
                    if self.side == Side::Deny {
                        logins.push(LoginPattern::Any);
                    }
                }
            }
        }
        logins
    }

    fn predicate(&mut self, source: &str, scope: Scope, path: &str) -> Predicate {
        Predicate::new(source, scope).unwrap_or_else(|error| {
            self.problem(path, error);
            Predicate::constant(source, self.side == Side::Deny)
        })
    }

    fn rule(&mut self, rule: &Rule, index: usize) -> CompiledRule {
        let path = format!("rules[{index}]");
        for (number, kind) in rule.resources.iter().enumerate() {
            if !RULE_KINDS.contains(&kind.as_str()) {
                let near = did_you_mean(kind, RULE_KINDS);
                let message = format!("there are no resources of the kind {kind:?}{near}");
                self.problem(&format!("{path}.resources[{number}]"), message);
            }
        }
        if rule.resources.is_empty() || rule.verbs.is_empty() {
            self.problem(&path, "a rule names at least one kind of resources and one verb");
        }
        let place = format!("{path}.where");
        let condition = rule.condition.as_deref();
        let condition = condition.map(|source| self.predicate(source, Scope::Rules, &place));
        // It would decide about all resources of the kind or none, and not be what it seems.
        let mut kinds = rule.resources.iter();
        if let Some(predicate) = &condition
            && let Some((kind, what)) = kinds.find_map(|kind| Some((kind, predicate.unanswered(kind)?)))
        {
            let message = if matches!(kind.as_str(), "session" | "session_tracker") {
                format!("it asks about {what}, which sessions do not have")
            } else {
                format!(
                    "it asks about {what}, which is decided about in the kinds \"session\" and \"session_tracker\" only, and the rule is also about \
                     {kind:?}; write a rule without that condition for it"
                )
            };
            self.problem(&place, message);
        }
        CompiledRule { condition, rule: rule.clone() }
    }

    fn destinations(&mut self, entries: &[String]) -> Vec<DestinationPattern> {
        let mut patterns = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            match DestinationPattern::parse(entry) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => {
                    self.problem(&format!("permit_open[{index}]"), error);
                    if self.side == Side::Deny {
                        patterns.push(DestinationPattern::anything(entry));
                    }
                }
            }
        }
        patterns
    }

    fn commands(&mut self, entries: &[String]) -> Vec<CommandPattern> {
        if self.side == Side::Deny {
            self.problem(
                "commands",
                "commands can only be allowed: a shell has too many ways to write the same command",
            );
            return Vec::new();
        }
        let mut patterns = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            match CommandPattern::parse(entry) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => self.problem(&format!("commands[{index}]"), error),
            }
        }
        patterns
    }

    fn joins(&mut self, entries: &[JoinSessions]) -> Vec<JoinPattern> {
        let mut patterns = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let (pattern, problems) = JoinPattern::parse(entry, self.side == Side::Deny);
            patterns.extend(pattern);
            for (key, message) in problems {
                self.problem(&format!("join_sessions[{index}]{key}"), message);
            }
        }
        patterns
    }

    fn extensions(&mut self, options: &RoleOptions) -> Vec<(String, Template)> {
        let mut extensions = Vec::new();
        if options.cert_extensions.len() > MAX_ENTRIES {
            let message = format!("at most {MAX_ENTRIES} entries");
            self.problems.push(DocumentProblem::new("spec.options.cert_extensions", message));
        }
        for (index, extension) in options.cert_extensions.iter().enumerate() {
            let mut problem = |message: String| {
                let path = format!("spec.options.cert_extensions[{index}]");
                self.problems.push(DocumentProblem::new(path, message));
            };
            if extension.kind != "ssh" || extension.mode != "extension" {
                problem("only the type \"ssh\" and the mode \"extension\" are known".to_owned());
            } else if !is_free_extension(&extension.name) {
                problem(format!(
                    "an extension cannot be named {:?}; write it like login@example.com",
                    extension.name
                ));
            } else {
                match Template::new(&extension.value) {
                    Ok(template) => extensions.push((extension.name.clone(), template)),
                    Err(error) => problem(error.to_string()),
                }
            }
        }
        extensions
    }
}

impl CompiledRole {
    /// Compiles a role that somebody wants to write.
    ///
    /// # Errors
    /// [`InvalidDocument`] with everything that is wrong.
    pub fn new(role: Role) -> Result<Self, InvalidDocument> {
        let readable = role.is_readable();
        let (compiled, mut problems) = Self::compile(role);
        if !readable {
            problems.insert(0, DocumentProblem::new("version", "must be \"v1\", of the kind \"role\""));
        }
        if problems.is_empty() { Ok(compiled) } else { Err(InvalidDocument { problems }) }
    }

    /// Compiles a role, and says what was not understood.
    pub(super) fn compile(role: Role) -> (Self, Vec<DocumentProblem>) {
        let mut compiler = Compiler { side: Side::Allow, problems: Vec::new() };
        if let Err(error) = RoleName::new(&role.metadata.name) {
            compiler.problems.push(DocumentProblem::new("metadata.name", error.to_string()));
        }
        let allow = compiler.half(&role.spec.allow);
        compiler.side = Side::Deny;
        let deny = compiler.half(&role.spec.deny);
        let extensions = compiler.extensions(&role.spec.options);
        (Self { role: Arc::new(role), allow, deny, extensions }, compiler.problems)
    }

    /// The role's name.
    pub fn name(&self) -> &str {
        &self.role.metadata.name
    }

    /// The document.
    pub fn role(&self) -> &Role {
        &self.role
    }

    pub(super) fn options(&self) -> &RoleOptions {
        &self.role.spec.options
    }

    pub(super) fn allow_labels(&self) -> &LabelMatcher {
        &self.role.spec.allow.node_labels
    }

    pub(super) fn deny_labels(&self) -> &LabelMatcher {
        &self.role.spec.deny.node_labels
    }
}

impl fmt::Debug for CompiledRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompiledRole({:?})", self.name())
    }
}
