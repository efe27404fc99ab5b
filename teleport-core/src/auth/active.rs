//! The sessions that run: nodes tell of theirs, users see those that they may join or that a rule lets them see, and who may end
//! one ends it.
//!
//! Each node has one stored value with all its sessions, which only it writes and which runs out when it falls silent. What
//! it says of a session is its word, as in the audit log; that it is the node it says is not.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Inner;
use super::context::{OpContext, Rights, Rules};
use super::policy::{Permit, Scope};
use super::{sessions, stand_in};
use crate::access::{ResourceFacts, SessionFacts, SessionToJoin};
use crate::api::{
    ActiveSession, ApiError, ApiErrorKind, ApiResult, EndSession, EndedSession, MAX_END_MESSAGE,
    RunningSession, SESSION_LEASE, SessionReport,
};
use crate::audit::{AuditEvent, EventKind};
use crate::cert::CLOCK_SKEW;
use crate::clock::Timestamp;
use crate::id::{HostId, HostRole, NodeName, SessionId};
use crate::resource::{JoinMode, NodeRecord, Verb};
use crate::storage::{Action, Batch, Condition, Key, Record};

/// As rules name them.
const KIND: &str = "session_tracker";
/// The longest command of a session.
const MAX_COMMAND: usize = 1024;
/// The most participants of a session beside its owner.
const MAX_PARTICIPANTS: usize = 256;
/// How long nodes are told to end a session: longer than one that is not heard may know of it.
const END_FOR: std::time::Duration = std::time::Duration::from_secs(600);
/// The most sessions that are being ended at a time: every node hears of all of them.
const MAX_ENDED: usize = 1000;

/// The sessions of one node, or a page of those of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostSessions {
    host: HostId,
    #[serde(default)]
    page: u16,
    name: NodeName,
    sessions: Vec<RunningSession>,
    until: Timestamp,
}

impl Record for HostSessions {
    const COLLECTION: &'static str = "active-sessions";

    fn key(&self) -> String {
        key_of(self.host, self.page)
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.until)
    }
}

fn key_of(host: HostId, page: u16) -> String {
    match page {
        0 => host.to_string(),
        page => format!("{host}.{page}"),
    }
}

/// Where everything is that a host said of its sessions.
pub(super) fn keys(auth: &Inner, host: HostId) -> ApiResult<Vec<Key>> {
    let pages = 0..SessionReport::MAX_PAGES;
    pages.map(|page| Ok(auth.active_sessions.key(&key_of(host, page))?)).collect()
}

/// That a session is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionEnding {
    session: SessionId,
    by: String,
    message: String,
    until: Timestamp,
}

impl Record for SessionEnding {
    const COLLECTION: &'static str = "ended-sessions";

    fn key(&self) -> String {
        self.session.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.until)
    }
}

/// All that are to end, for views.
pub(super) async fn ended(auth: &Inner) -> ApiResult<Vec<EndedSession>> {
    let now = auth.ports.clock.now();
    let ended = auth.ended_sessions.list().await?.into_iter().map(|stored| stored.record);
    let ended = ended.filter(|ended| now < ended.until);
    Ok(ended
        .map(|SessionEnding { session, by, message, .. }| EndedSession { session, by, message })
        .collect())
}

pub(super) async fn report(call: &OpContext<'_>, permit: Permit<'_>, report: SessionReport) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    let page = report.page;
    if page >= SessionReport::MAX_PAGES || (page > 0 && host.role != HostRole::Proxy) {
        return Err(ApiError::invalid("the report of sessions has too many pages"));
    }
    let key = call.auth.active_sessions.key(&key_of(host.host_id, page))?;
    if report.sessions.is_empty() {
        let batch = Batch::new().with(key, Condition::Any, Action::Delete);
        call.auth.ports.backend.commit(batch).await?;
        return Ok(());
    }
    check_report(&report)?;
    let mut sessions = Vec::with_capacity(report.sessions.len());
    let mut known = HashMap::new();
    for session in report.sessions {
        let node = session.node.unwrap_or(host.host_id);
        let speaks = match known.get(&node) {
            Some(speaks) => *speaks,
            None => {
                let speaks = stand_in::speaks_for(call, host, node).await?.is_some();
                known.insert(node, speaks);
                speaks
            }
        };
        if !speaks {
            // A server that is no member any more, where somebody is still logged in: what else the proxy says is true.
            if host.role == HostRole::Proxy && call.auth.hosts.get(&node.to_string()).await?.is_none() {
                continue;
            }
            let claim = format!("says that session {} runs on host {node}", session.id);
            return Err(call.deny(permit.operation(), claim).await);
        }
        if sessions::is_foreign(call.auth, node, session.id) {
            let claim = format!("says that session {} of another host is its own", session.id);
            return Err(call.deny(permit.operation(), claim).await);
        }
        sessions.push(session);
    }
    for session in &mut sessions {
        // The node's clock, as far as that can be believed.
        session.started = session.started.min(call.now.saturating_add(CLOCK_SKEW));
    }
    let until = call.now.saturating_add(SESSION_LEASE);
    let record = HostSessions { host: host.host_id, page, name: host.name.clone(), sessions, until };
    let batch = call.auth.active_sessions.write_in(Batch::new(), &record, Condition::Any)?;
    call.auth.ports.backend.commit(super::eviction::unless_evicted(call.auth, batch, host.host_id)?).await?;
    Ok(())
}

fn check_report(report: &SessionReport) -> ApiResult<()> {
    let too_long = |session: &RunningSession| {
        session.command.as_ref().is_some_and(|command| command.len() > MAX_COMMAND)
            || session.participants.len() > MAX_PARTICIPANTS
    };
    let length = serde_json::to_vec(report).map_err(ApiError::internal)?.len();
    if report.sessions.len() > SessionReport::MAX
        || length > SessionReport::MAX_LEN
        || report.sessions.iter().any(too_long)
    {
        return Err(ApiError::invalid("the report of sessions is too long"));
    }
    Ok(())
}

/// Whether a host has said lately that this session runs.
pub(super) async fn runs(auth: &Inner, host: HostId, session: SessionId, now: Timestamp) -> ApiResult<bool> {
    let tells = |told: &HostSessions, node: Option<HostId>| {
        now < told.until && told.sessions.iter().any(|running| running.id == session && running.node == node)
    };
    let own = auth.active_sessions.get(&host.to_string()).await?.map(|stored| stored.record);
    if own.is_some_and(|told| tells(&told, None)) {
        return Ok(true);
    }
    // Of a registered SSH server a proxy says it.
    if stand_in::registered(auth, host).await?.is_none() {
        return Ok(false);
    }
    let all = auth.active_sessions.list().await?;
    Ok(all.iter().any(|told| tells(&told.record, Some(host))))
}

async fn all(call: &OpContext<'_>) -> ApiResult<Vec<HostSessions>> {
    let hosts = call.auth.active_sessions.list().await?.into_iter().map(|stored| stored.record);
    Ok(hosts.filter(|host| call.now < host.until).collect())
}

/// What a user may know and do.
struct Sight<'a> {
    rights: Option<Rights<'a>>,
}

impl Sight<'_> {
    /// Shows a session as the user may see it; `None` if the user may not know of it.
    fn show(
        rules: Option<&Rules<'_>>,
        permit: Permit<'_>,
        verb: Verb,
        session: &RunningSession,
        node: &NodeRecord,
    ) -> Option<Vec<JoinMode>> {
        let user = permit.user()?;
        let rules = rules?;
        let modes = match session.terminal {
            Some(_) => rules.join_modes(user, &to_join(session, node)),
            None => Vec::new(),
        };
        let seen = with_facts(session, node, |facts| {
            let own = session.user == user.user || !modes.is_empty();
            if own { !rules.denies(KIND, verb, facts) } else { rules.check(KIND, verb, facts).is_ok() }
        });
        seen.then_some(modes)
    }
}

fn to_join<'s>(session: &'s RunningSession, node: &'s NodeRecord) -> SessionToJoin<'s> {
    SessionToJoin { owner: &session.user, owner_roles: &session.roles, login: &session.login, node }
}

/// What conditions of rules can ask about.
fn with_facts<T>(
    session: &RunningSession,
    node: &NodeRecord,
    decide: impl FnOnce(ResourceFacts<'_>) -> T,
) -> T {
    let (name, host) = (session.id.to_string(), node.host_id.to_string());
    let mut participants = vec![session.user.as_str()];
    participants.extend(session.participants.iter().map(|participant| participant.user.as_str()));
    decide(ResourceFacts {
        name: Some(&name),
        session: Some(SessionFacts {
            participants: &participants,
            login: session.login.as_str(),
            server_id: &host,
            server_hostname: node.name.as_str(),
        }),
        ..ResourceFacts::default()
    })
}

/// The sessions of a host that the caller may see.
async fn visible(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    sight: &Sight<'_>,
    verb: Verb,
    host: HostSessions,
) -> ApiResult<Vec<ActiveSession>> {
    let HostSessions { host: host_id, name: host_name, sessions, .. } = host;
    let rules = sight.rights.as_ref().map(Rights::rules);
    let mut nodes: HashMap<HostId, Option<NodeRecord>> = HashMap::new();
    let mut shown = Vec::with_capacity(sessions.len());
    for session in sessions {
        // Of a proxy: on a server that it stands in for.
        let on = session.node.unwrap_or(host_id);
        let node = match nodes.get(&on) {
            Some(known) => known.clone(),
            None => {
                let node = call.auth.nodes.get(&on.to_string()).await?.map(|stored| stored.record);
                nodes.insert(on, node.clone());
                node
            }
        };
        let named = |node: Option<&NodeRecord>| match (session.node, node) {
            (Some(_), Some(node)) => node.name.clone(),
            _ => host_name.clone(),
        };
        let (host_name, join_modes) = match (permit.scope(), &node) {
            (Scope::All, node) => (named(node.as_ref()), Vec::new()),
            // By the labels that denials may name. A node that is not there any more has sessions for no more than a lease.
            (Scope::Own, None) => continue,
            (Scope::Own, Some(node)) => match Sight::show(rules.as_ref(), permit, verb, &session, node) {
                Some(modes) => (named(Some(node)), modes),
                None => continue,
            },
        };
        shown.push(ActiveSession { session, host_id: on, host_name, join_modes });
    }
    Ok(shown)
}

async fn sight<'a>(call: &OpContext<'a>, permit: Permit<'_>) -> ApiResult<Sight<'a>> {
    let rights = match permit.scope() {
        Scope::All => None,
        Scope::Own => call.rights().await?.ok(),
    };
    Ok(Sight { rights })
}

pub(super) async fn list(call: &OpContext<'_>, permit: Permit<'_>) -> ApiResult<Vec<ActiveSession>> {
    let sight = sight(call, permit).await?;
    let mut sessions = Vec::new();
    for host in all(call).await? {
        sessions.append(&mut visible(call, permit, &sight, Verb::List, host).await?);
    }
    sessions.sort_by_key(|active| (active.session.started, active.session.id));
    Ok(sessions)
}

fn not_found(id: SessionId) -> ApiError {
    ApiError::not_found(format_args!("session {id}, among those that run and that are yours to see"))
}

/// The session, and its host's name, if the caller may see it. Ids of sessions are not confirmed to strangers.
async fn find(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    sight: &Sight<'_>,
    id: SessionId,
) -> ApiResult<ActiveSession> {
    let has = |host: &HostSessions| host.sessions.iter().any(|session| session.id == id);
    let Some(mut host) = all(call).await?.into_iter().find(has) else { return Err(not_found(id)) };
    host.sessions.retain(|session| session.id == id);
    match visible(call, permit, sight, Verb::Read, host).await?.pop() {
        Some(session) => Ok(session),
        None => {
            call.deny(permit.operation(), format!("session {id} is neither to be seen nor to be joined"))
                .await;
            Err(not_found(id))
        }
    }
}

pub(super) async fn show(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    id: SessionId,
) -> ApiResult<ActiveSession> {
    let sight = sight(call, permit).await?;
    find(call, permit, &sight, id).await
}

pub(super) async fn end(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    id: SessionId,
    EndSession { message }: EndSession,
) -> ApiResult<()> {
    if message.len() > MAX_END_MESSAGE || message.chars().any(char::is_control) {
        let rule =
            format!("the message: at most {MAX_END_MESSAGE} bytes in one line, without control characters");
        return Err(ApiError::invalid(rule));
    }
    let sight = sight(call, permit).await?;
    let found = find(call, permit, &sight, id).await?;
    if permit.scope() != Scope::All {
        let node = call.auth.nodes.get(&found.host_id.to_string()).await?.ok_or_else(|| not_found(id))?;
        let rights = sight.rights.as_ref().ok_or_else(ApiError::denied)?;
        let decided =
            with_facts(&found.session, &node.record, |facts| rights.rules().check(KIND, Verb::Delete, facts));
        if let Err(reason) = decided {
            return Err(call.deny(permit.operation(), reason.to_string()).await);
        }
    }
    if ended(call.auth).await?.len() >= MAX_ENDED {
        let why = "too many sessions were ended in the last minutes; try again later";
        return Err(ApiError::new(ApiErrorKind::Unavailable, why));
    }
    let by = call.caller.to_string();
    let until = call.now.saturating_add(END_FOR);
    let record = SessionEnding { session: id, by, message: message.clone(), until };
    let batch = call.auth.ended_sessions.write_in(Batch::new(), &record, Condition::Any)?;
    call.auth.ports.backend.commit(batch).await?;
    let event = AuditEvent::new(EventKind::SessionTerminate)
        .session(id)
        .login(&found.session.login)
        .field("session_user", found.session.user.as_str())
        .field("session_server_id", found.host_id.to_string())
        .field("session_server_hostname", found.host_name.as_str())
        .field("message", message);
    call.audit(vec![call.by_caller(event)]).await
}
