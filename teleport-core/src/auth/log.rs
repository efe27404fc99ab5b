//! The audit log: hosts report what they saw, auditors search it.
//!
//! Of a report the service itself writes who reported it, when, in which cluster and whether it is a success. A report about a
//! session that another host has begun, as far as this service knows (it remembers thousands, not all, and nothing across
//! restarts), is refused. Everything else is the host's word: which user had a session on it, from where, and what was done
//! there. A node that was taken over can so invent sessions of its own, always under its own id; ids of sessions are random,
//! so it cannot guess those of others.

use super::context::OpContext;
use super::policy::Permit;
use super::sessions::Owner;
use super::uploads;
use crate::api::{ApiError, ApiResult};
use crate::audit::{AuditEvent, AuditPage, AuditQuery, EventKind, MAX_EVENTS};
use crate::id::{HostRole, SessionId};

/// The most events of one report.
const MAX_REPORTED: usize = 512;
/// The longest event, as JSON in bytes.
const MAX_EVENT_LEN: usize = 64 * 1024;

/// Whether a host of this role can have seen such an event. What the auth service itself does, nobody else reports.
const fn may_report(role: HostRole, kind: EventKind) -> bool {
    match kind {
        EventKind::AuthFailure
        | EventKind::ClientDisconnect
        // A proxy refuses every command.
        | EventKind::ExecFailure
        | EventKind::Port
        | EventKind::PortFailure
        | EventKind::SessionRejected
        | EventKind::Subsystem
        | EventKind::SubsystemFailure => true,
        EventKind::AgentForwardFailure
        | EventKind::Exec
        | EventKind::Resize
        | EventKind::ScpDisallowed
        | EventKind::SessionEnd
        | EventKind::SessionStart
        // That its spool is full.
        | EventKind::SessionUploadFailure
        | EventKind::SftpDisallowed
        | EventKind::X11ForwardFailure => matches!(role, HostRole::Node),
        _ => false,
    }
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

pub(super) async fn emit(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    mut events: Vec<AuditEvent>,
) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    if events.len() > MAX_REPORTED {
        return Err(ApiError::invalid(format!("at most {MAX_REPORTED} events at a time")));
    }
    if let Some(event) = events.iter().find(|event| !may_report(host.role, event.code)) {
        return Err(call.deny(permit.operation(), format!("reports {}", event.code)).await);
    }
    for event in &mut events {
        // Whatever the host says of these, the certificate and the clock of this service say it better.
        event.event = event.code.name().to_owned();
        event.success = Some(event.code.code().ends_with('I'));
        event.server_id = Some(host.host_id);
        event.server_hostname = Some(host.name.clone());
        if written_len(event)? > MAX_EVENT_LEN {
            return Err(ApiError::invalid(format!("an event has at most {MAX_EVENT_LEN} bytes")));
        }
    }
    let foreign = |session: &SessionId| {
        let by_recording = call.auth.session_hosts.owner(*session);
        let owner = by_recording.or_else(|| call.auth.session_reporters.owner(*session));
        owner.is_some_and(|owner| owner.host != host.host_id)
    };
    if let Some(session) = events.iter().filter_map(|event| event.sid).find(foreign) {
        return Err(call
            .deny(permit.operation(), format!("reports about session {session} of another host"))
            .await);
    }
    if let [event] = &events[..]
        && uploads::is_known_end(call, event).await?
    {
        return Ok(());
    }
    let begun: Vec<SessionId> = events
        .iter()
        .filter(|event| event.code == EventKind::SessionStart)
        .filter_map(|event| event.sid)
        .collect();
    if !events.is_empty() {
        call.audit(events).await?;
    }
    for session in begun {
        call.auth.session_reporters.remember(session, Owner { host: host.host_id, user: None });
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
