//! Recordings are bound into the audit log by their digest.

use super::context::OpContext;
use super::{recordings, uploads};
use crate::api::{ApiError, ApiResult};
use crate::audit::chain::{Digest, Hasher};
use crate::audit::{AuditEvent, AuditQuery, EventKind};
use crate::clock::Timestamp;
use crate::id::SessionId;
use crate::recording::{RecordingError, RecordingInfo};

/// The bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The SHA-256 of a recording as it is stored now: it is read once more, so it is of what is there and not of what was sent.
async fn digest(call: &OpContext<'_>, session: SessionId) -> Result<Digest, RecordingError> {
    let store = &call.auth.ports.recordings;
    let mut hasher = Hasher::new();
    let mut offset = 0;
    loop {
        let piece = store.read(session, offset, PIECE).await?;
        if piece.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(&piece);
        offset += piece.len() as u64;
    }
}

/// Says in the log that a recording is complete: `event`, and the digest. Of several who come at once or again, one says it.
///
/// # Errors
/// [`ApiErrorKind::Unavailable`](crate::api::ApiErrorKind::Unavailable), also while somebody else is at it: it may be tried again.
pub(super) async fn bind(call: &OpContext<'_>, before: &RecordingInfo, event: AuditEvent) -> ApiResult<()> {
    let session = before.meta.session;
    if !uploads::is_open(call.auth, session).await? {
        return Ok(());
    }
    // Before the claim, which is a short one.
    let event = match digest(call, session).await {
        Ok(digest) => event.field("sha256", digest.to_string()),
        // Nothing here can read it. That it is what was handed in is sealed into its parts.
        Err(RecordingError::Encrypted) => event,
        Err(error) => return Err(recordings::api_error(error, session)),
    };
    let Some(claim) = uploads::claim(call.auth, session).await? else { return Ok(()) };
    // Somebody may have been stopped between the two.
    let perhaps_told = claim.again || before.completed.is_some();
    let is_bound = perhaps_told && is_bound(call, before).await?;
    if !is_bound && let Err(error) = call.audit(vec![event]).await {
        claim.give_back(call.auth).await;
        return Err(error);
    }
    uploads::end(call.auth, session).await
}

/// Whether the log says already that this recording is complete, and not only that it was abandoned: that is said without a digest.
async fn is_bound(call: &OpContext<'_>, info: &RecordingInfo) -> ApiResult<bool> {
    let says_so =
        |event: &AuditEvent| event.fields.contains_key("sha256") || !event.fields.contains_key("abandoned");
    is_told(call, EventKind::SessionUpload, info.meta.session, info.meta.started, says_so).await
}

/// Whether the log has such an event of a session that began at `started`. What was before that is not looked at, and what is newest is
/// looked at first: whoever asks was interrupted, mostly just now.
pub(super) async fn is_told(
    call: &OpContext<'_>,
    kind: EventKind,
    session: SessionId,
    started: Timestamp,
    is_wanted: impl Fn(&AuditEvent) -> bool,
) -> ApiResult<bool> {
    let mut query = AuditQuery {
        events: vec![kind.code().to_owned()],
        session: Some(session.to_string()),
        from: Some(started.saturating_sub(call.auth.config.recordings.max_ahead)),
        limit: 1,
        newest_first: true,
        ..AuditQuery::default()
    };
    loop {
        let page = call.auth.ports.audit.search(query.clone()).await.map_err(ApiError::from)?;
        match page.next {
            _ if page.events.iter().any(&is_wanted) => return Ok(true),
            None => return Ok(false),
            next => query.after = next,
        }
    }
}
