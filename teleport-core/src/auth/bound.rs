//! Recordings are bound into the audit log by their digest.

use super::context::OpContext;
use crate::api::{ApiError, ApiResult};
use crate::audit::{AuditEvent, AuditQuery, EventKind};
use crate::id::SessionId;
use crate::recording::{ContentDigest, RecordingError};

/// The digest of a recording as it is stored now: of what is there, and not of what was sent.
pub(super) async fn digest(
    call: &OpContext<'_>,
    session: SessionId,
) -> Result<ContentDigest, RecordingError> {
    ContentDigest::of(&*call.auth.ports.recordings, session).await
}

/// Whether an event says which content a recording has.
fn has_digest(event: &AuditEvent) -> bool {
    [ContentDigest::BYTES_FIELD, ContentDigest::PARTS_FIELD]
        .iter()
        .any(|field| event.fields.contains_key(*field))
}

/// Whether the log says already that this recording is complete. Asked only where an upload was interrupted at its very end.
pub(super) async fn is_bound(call: &OpContext<'_>, session: SessionId) -> ApiResult<bool> {
    let mut query = AuditQuery {
        events: vec![EventKind::SessionUpload.code().to_owned()],
        session: Some(session.to_string()),
        limit: 1,
        newest_first: true,
        ..AuditQuery::default()
    };
    loop {
        let page = call.auth.ports.audit.search(query.clone()).await.map_err(ApiError::from)?;
        match page.next {
            // That it was abandoned is said without a digest.
            _ if page.events.iter().any(has_digest) => return Ok(true),
            None => return Ok(false),
            next => query.after = next,
        }
    }
}
