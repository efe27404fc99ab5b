//! `tctl access`: why somebody may do something, or not.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Subcommand;
use teleport_core::access::{AccessChecker, Explanation, ResourceFacts, RoleSet};
use teleport_core::api::{ApiErrorKind, NodeEvent};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::id::{OsLogin, UserName};
use teleport_core::lock::{Knowledge, LockSet, LockSubject};
use teleport_core::resource::{LockMode, Node, RULE_KINDS, Role, User, Verb};
use teleport_core::target::{DialTarget, LoginTarget};
use teleport_ssh::proxy::NodeTable;
use teleport_ssh::proxy::route::{candidates_table, find};

use super::super::{Format, sanitize};
use super::Context;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say which role decides whether a user may do something, and what would be needed
    ///
    /// tctl access explain alice root@web-1       log in to a node, by its name, id, address or labels
    ///
    /// tctl access explain alice list session     do something to all resources of a kind
    ///
    /// tctl access explain alice update role/dev  do something to one of them
    ///
    /// Decided is by the user and the roles as they are now, as for a certificate that is issued now.
    #[command(verbatim_doc_comment)]
    Explain {
        /// The user
        user: UserName,
        /// login@node, or a verb and a kind or kind/name
        #[arg(required = true, num_args = 1..=2, value_names = ["LOGIN@NODE | VERB", "KIND[/NAME]"])]
        what: Vec<String>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        format: Format,
    },
}

pub(super) async fn run(context: &Context, command: Command) -> Result<()> {
    let Command::Explain { user: name, what, format } = command;
    let question = Question::parse(&what)?;
    let user = context.api.user(name.clone()).await?;
    if let Some(at) = user.metadata.expires.filter(|_| user.metadata.has_expired(SystemClock::new().now())) {
        bail!("the user {} ended at {at}: nothing is allowed any more", user.metadata.name);
    }
    let roles = roles(context, &user).await?;
    let checker = AccessChecker::new(&user, &roles);
    let mode = checker.options().lock_mode.unwrap_or(LockMode::BestEffort);
    let mut subject = LockSubject { user: Some(&name), roles: &user.spec.roles, ..LockSubject::default() };
    let node;
    let explanation = match &question {
        Question::Login(target) => {
            let login = login(&checker, target)?;
            node = self::node(context, &target.target).await?.record;
            subject = subject.login(login).node(node.host_id, &node.name);
            checker.explain_login(&node, login, None)
        }
        Question::Rule { verb, kind, name: None } => {
            checker.explain_rule(kind, *verb, ResourceFacts::default())
        }
        Question::Rule { verb, kind, name: Some(name) } => {
            let facts = ResourceFacts { name: Some(name), ..ResourceFacts::default() };
            checker.explain_rule(kind, *verb, facts)
        }
    };
    let mut explanation = with_locks(context, explanation, &subject, mode).await?;
    if let Some(at) = user.metadata.expires {
        explanation.notes.push(format!("the user ends at {at}, and so does every certificate by then"));
    }
    // What a node calls itself must not drive this terminal; the format has lines of its own.
    format
        .print(&explanation, || explanation.to_string().lines().map(sanitize).collect::<Vec<_>>().join("\n"))
}

/// What is to be explained.
enum Question {
    Login(LoginTarget),
    Rule { verb: Verb, kind: String, name: Option<String> },
}

impl Question {
    fn parse(what: &[String]) -> Result<Self> {
        match what {
            [target] => target.parse().map(Self::Login).map_err(|error| anyhow!("{target:?}: {error}")),
            [verb, resource] => {
                let verb: Verb = serde_json::from_value(verb.as_str().into()).map_err(|_| {
                    anyhow!(
                        "there is no verb {verb:?}; there are list, create, read, update, delete and others"
                    )
                })?;
                let (kind, name) = match resource.split_once('/') {
                    Some((kind, name)) => (kind, Some(name.to_owned())),
                    None => (resource.as_str(), None),
                };
                if !RULE_KINDS.contains(&kind) {
                    bail!("rules know no kind {kind:?}; there are {}", RULE_KINDS.join(", "));
                }
                Ok(Self::Rule { verb, kind: kind.to_owned(), name })
            }
            _ => bail!("say login@node, or a verb and a kind"),
        }
    }
}

/// The roles that the user holds and that exist: as the services that enforce know them.
async fn roles(context: &Context, user: &User) -> Result<RoleSet> {
    let now = SystemClock::new().now();
    let mut roles: Vec<Role> = Vec::new();
    for name in &user.spec.roles {
        // One by one: a list may leave out what this administrator may not see, and then it would seem not to exist.
        match context.api.role(name.clone()).await {
            Ok(role) if role.metadata.has_expired(now) => {}
            Ok(role) => roles.push(role),
            Err(error) if error.kind() == ApiErrorKind::NotFound => {}
            Err(error) => return Err(anyhow::Error::new(error).context(format!("role {name} is needed"))),
        }
    }
    Ok(RoleSet::new(roles))
}

/// The login that is asked about.
fn login<'t>(checker: &AccessChecker<'_>, target: &'t LoginTarget) -> Result<&'t OsLogin> {
    target.login.as_ref().ok_or_else(|| {
        let logins = checker.logins();
        let logins: Vec<&str> = logins.iter().map(OsLogin::as_str).collect();
        let logins = if logins.is_empty() { "none".to_owned() } else { logins.join(", ") };
        anyhow!("as whom? say <login>@{}; the user's logins are {logins}", target.target)
    })
}

/// The same with the locks that are in force for `subject`.
async fn with_locks(
    context: &Context,
    mut explanation: Explanation,
    subject: &LockSubject<'_>,
    mode: LockMode,
) -> Result<Explanation> {
    let locks: LockSet = match context.api.locks().await {
        Ok(locks) => locks.into_iter().collect(),
        Err(error) if error.kind() == ApiErrorKind::Denied => {
            let note = "whether a lock is in force was not looked at: you may not list locks";
            explanation.notes.push(note.to_owned());
            return Ok(explanation);
        }
        Err(error) => return Err(error.into()),
    };
    let knowledge = Knowledge { now: SystemClock::new().now(), age: Duration::ZERO, mode };
    // Each of them must end before anything is allowed.
    let in_force: Vec<_> = locks.all(subject, knowledge.now).collect();
    if !in_force.is_empty() {
        return Ok(in_force.iter().fold(explanation, Explanation::locked));
    }
    Ok(match locks.decide(subject, knowledge) {
        Ok(()) => explanation,
        Err(locked) => explanation.locked(&locked),
    })
}

/// The node that is meant, online or not, whether or not the user may see it.
async fn node(context: &Context, target: &DialTarget) -> Result<Node> {
    let cluster = context.api.trust().await?.cluster;
    if let Some(other) = target.cluster.as_ref().filter(|asked| **asked != cluster) {
        bail!("cluster {other} is not known here");
    }
    let mut nodes = NodeTable::new();
    nodes.apply(NodeEvent::Snapshot(context.api.nodes().await?));
    let mut found = find(&target.host, &nodes, &cluster);
    found.sort_by_key(|node| node.record.host_id);
    match found.as_slice() {
        [node] => Ok(Node::clone(node)),
        [] => bail!("there is no node {}; `tctl nodes ls` lists them", target.host),
        several => {
            let table = candidates_table(several.iter().map(|node| &**node));
            eprintln!("{}", table.lines().map(sanitize).collect::<Vec<_>>().join("\n"));
            bail!(
                "{} is ambiguous, it may be any of these {} nodes: say the id of one",
                target.host,
                several.len()
            )
        }
    }
}
