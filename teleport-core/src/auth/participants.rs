//! Who joined the sessions whose recordings are not complete yet. Nodes say it in their reports; with the recording's end it becomes
//! part of the recording.
//!
//! It stands under the host that said it, and is read for recordings of that host only: otherwise a host that knows the id of
//! somebody else's session could let its friends see that.

use std::time::Duration;

use super::context::OpContext;
use super::{Inner, quota};
use crate::api::ApiResult;
use crate::audit::{AuditEvent, EventKind};
use crate::cert::HostIdentity;
use crate::id::{HostId, SessionId, UserName};
use crate::recording::{RecordingInfo, RecordingMeta};
use crate::storage::{BackendExt, Batch, Condition, Prefix, RepoError};

const COLLECTION: &str = "recording-participants";
/// As long as pieces of recordings are kept: a node may deliver its recording much later.
const KEPT_FOR: Duration = Duration::from_secs(40 * 86_400);
/// The most of one session. A node lets fewer take part at a time.
const MAX_PARTICIPANTS: usize = 256;

fn of_session(session: SessionId) -> ApiResult<Prefix> {
    Ok(Prefix::new(COLLECTION).and_then(|all| all.join(&session.to_string())).map_err(RepoError::from)?)
}

fn of_host(session: SessionId, host: HostId) -> ApiResult<Prefix> {
    Ok(of_session(session)?.join(&host.to_string()).map_err(RepoError::from)?)
}

/// Takes note of those who join, as a host is about to report it. What it may store is bounded like its recordings; what is beyond is
/// left out, and the report stands.
///
/// # Errors
/// Those of the storage; doing it again is fine.
pub(super) async fn note(call: &OpContext<'_>, host: &HostIdentity, events: &[AuditEvent]) -> ApiResult<()> {
    for event in events.iter().filter(|event| event.code == EventKind::SessionJoin) {
        let user = event.user.as_deref().and_then(|user| UserName::new(user).ok());
        let (Some(session), Some(user)) = (event.sid, user) else { continue };
        let joined = of_host(session, event.server_id.unwrap_or(host.host_id))?;
        let key = joined.key(user.as_str()).map_err(RepoError::from)?;
        let known = call.auth.ports.backend.list(&joined).await?;
        if known.len() >= MAX_PARTICIPANTS || known.iter().any(|item| item.key == key) {
            continue;
        }
        if let Err(error) = quota::charge_piece(call, host.host_id, None, key.as_str().len()).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(%session, %user, error, "that somebody joined a session is not kept for its recording");
            continue;
        }
        let expires = Some(call.now.saturating_add(KEPT_FOR));
        call.auth.ports.backend.commit(Batch::new().put(key, Condition::Any, Vec::new(), expires)).await?;
    }
    Ok(())
}

/// Who joined the session of a recording, without its user.
pub(super) async fn of(auth: &Inner, meta: &RecordingMeta) -> ApiResult<Vec<UserName>> {
    let items = auth.ports.backend.list(&of_host(meta.session, meta.host_id)?).await?;
    let users = items.iter().filter_map(|item| UserName::new(item.key.leaf()).ok());
    Ok(users.filter(|user| *user != meta.user).collect())
}

/// Adds those who joined so far to what is said of a recording that is not complete.
pub(super) async fn tell(auth: &Inner, info: &mut RecordingInfo) -> ApiResult<()> {
    if info.completed.is_none() {
        info.participants = of(auth, &info.meta).await?;
    }
    Ok(())
}

/// The recording is complete, or gone.
pub(super) async fn drop_all(auth: &Inner, session: SessionId) -> ApiResult<()> {
    auth.ports.backend.delete_range(&of_session(session)?).await?;
    Ok(())
}
