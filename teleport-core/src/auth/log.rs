//! The audit log: hosts report what they saw, auditors search it.
//!
//! Of a report the service itself writes who reported it, when, in which cluster and whether it is a success. A report about a
//! session that another host has begun, as far as this service knows (it remembers thousands, not all, and nothing across
//! restarts), is refused, and so is one that says that a session is of another user than the one it began with. Everything else is
//! the host's word: which user had a session on it, from where, and what was done there. A node that was taken over can so invent sessions of its own, always under its own id; ids of sessions are random,
//! so it cannot guess those of others. What a host sends again, because the answer was lost, is written once.

use super::context::OpContext;
use super::policy::Permit;
use super::sessions::Owner;
use super::{participants, stand_in, uploads};
use crate::api::{ApiError, ApiResult, AuditAnchors};
use crate::audit::chain::{CHAIN_FIELDS, StoredCheckpoint};
use crate::audit::{AuditEvent, AuditPage, AuditQuery, EventKind, MAX_EVENTS};
use crate::cert::HostIdentity;
use crate::id::{HostId, HostRole, NodeName, SessionId, UserName};
use crate::storage::Repo;

/// The most events of one report.
const MAX_REPORTED: usize = 512;
/// The longest event, as JSON in bytes.
const MAX_EVENT_LEN: usize = 64 * 1024;

/// Whether such an event of a session names the user whose session it is. Others may be about somebody who looks on.
const fn is_of_its_user(kind: EventKind) -> bool {
    matches!(kind, EventKind::Exec | EventKind::ExecFailure | EventKind::SessionEnd | EventKind::SessionStart)
}

/// The length of an event as it will be written.
fn written_len(event: &AuditEvent) -> ApiResult<usize> {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, event).map_err(ApiError::internal)?;
    Ok(count.0)
}

/// The registered SSH server of which a proxy tells. What it says of any other node is said of itself, as if it had named nobody.
async fn spoken_for(
    call: &OpContext<'_>,
    host: &HostIdentity,
    event: &AuditEvent,
) -> ApiResult<Option<(HostId, NodeName)>> {
    match event.server_id {
        Some(node) if host.role == HostRole::Proxy && node != host.host_id => {
            Ok(stand_in::speaks_for(call, host, node).await?.map(|name| (node, name)))
        }
        _ => Ok(None),
    }
}

pub(super) async fn emit(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    mut events: Vec<AuditEvent>,
) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    if events.len() > MAX_REPORTED {
        return Err(ApiError::invalid(format!("at most {MAX_REPORTED} events at a time")));
    }
    let mut servers = Vec::with_capacity(events.len());
    for event in &events {
        let server = spoken_for(call, host, event).await?;
        let role = if server.is_some() { HostRole::Node } else { host.role };
        servers.push(server);
        if !event.code.reporter().includes(role) {
            return Err(call.deny(permit.operation(), format!("reports {}", event.code)).await);
        }
    }
    let of_the_log = |event: &&AuditEvent| {
        event.index.is_some() || CHAIN_FIELDS.iter().any(|field| event.fields.contains_key(*field))
    };
    if events.iter().any(|event| of_the_log(&event)) {
        return Err(call
            .deny(permit.operation(), "reports an event with fields of the log's own".to_owned())
            .await);
    }
    for (event, server) in events.iter_mut().zip(servers) {
        // Whatever the host says of these, the certificate and the clock of this service say it better.
        event.event = event.code.name().to_owned();
        event.success = Some(event.code.is_success());
        match server {
            Some((id, name)) => {
                // Who said it of the server.
                event.fields.insert("proxy_id".to_owned(), host.host_id.to_string().into());
                (event.server_id, event.server_hostname) = (Some(id), Some(name));
            }
            None => (event.server_id, event.server_hostname) = (Some(host.host_id), Some(host.name.clone())),
        }
        // What is too long is cut and marked: an event is not lost for one long text.
        event.shorten();
        if written_len(event)? > MAX_EVENT_LEN {
            let reason = format!("reports an event of more than {MAX_EVENT_LEN} bytes: {}", event.code);
            call.deny(permit.operation(), reason).await;
            return Err(ApiError::invalid(format!("an event has at most {MAX_EVENT_LEN} bytes")));
        }
    }
    // What this very report begins counts for the rest of it.
    let mut begun: Vec<(SessionId, Owner)> = Vec::new();
    for event in &events {
        let Some(session) = event.sid else { continue };
        let of_this_report =
            || begun.iter().find(|(known, _)| *known == session).map(|(_, owner)| owner.clone());
        let owner = call
            .auth
            .session_hosts
            .owner(session)
            .or_else(|| call.auth.session_reporters.owner(session))
            .or_else(of_this_report);
        if let Some(owner) = &owner {
            if Some(owner.host) != event.server_id {
                let reason = format!("reports about session {session} of another host");
                return Err(call.deny(permit.operation(), reason).await);
            }
            if let (Some(user), Some(said)) = (&owner.user, &event.user)
                && is_of_its_user(event.code)
                && user.as_str() != said
            {
                let reason = format!("reports that session {session} of {user} is of {said}");
                return Err(call.deny(permit.operation(), reason).await);
            }
        } else if event.code == EventKind::SessionStart {
            let user = event.user.as_deref().and_then(|user| UserName::new(user).ok());
            begun.push((session, Owner { host: event.server_id.unwrap_or(host.host_id), user }));
        }
    }
    if let [event] = &events[..]
        && uploads::is_known_end(call, event).await?
    {
        return Ok(());
    }
    let claim = call.auth.reports.claim(call.auth, host.host_id, &mut events).await?;
    if !events.is_empty() {
        // Before: a report that could not be taken comes again as a whole.
        participants::note(call, host, &events).await?;
        call.audit(events).await?;
    }
    claim.written();
    for (session, owner) in begun {
        call.auth.session_reporters.remember(session, owner);
    }
    Ok(())
}

pub(super) async fn search(
    call: &OpContext<'_>,
    _permit: Permit<'_>,
    mut query: AuditQuery,
) -> ApiResult<AuditPage> {
    query.limit = if query.limit == 0 { 500 } else { query.limit.min(MAX_EVENTS) };
    Ok(call.auth.ports.audit.search(query).await?)
}

pub(super) async fn anchors(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<AuditAnchors> {
    let stored = Repo::<StoredCheckpoint>::new(call.auth.ports.backend.clone()).list().await?;
    Ok(AuditAnchors {
        keys: call.auth.config.audit_keys.clone(),
        checkpoints: stored.into_iter().map(|stored| stored.record).collect(),
    })
}
