//! Recordings are bound into the audit log by their digest.

use super::context::OpContext;
use crate::api::{ApiError, ApiResult};
use crate::audit::chain::{Digest, Hasher};
use crate::audit::{AuditQuery, EventKind};
use crate::id::SessionId;
use crate::recording::RecordingError;

/// The bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The SHA-256 of a recording as it is stored now: it is read once more, so it is of what is there and not of what was sent.
pub(super) async fn digest(call: &OpContext<'_>, session: SessionId) -> Result<Digest, RecordingError> {
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
            _ if page.events.iter().any(|event| event.fields.contains_key("sha256")) => return Ok(true),
            None => return Ok(false),
            next => query.after = next,
        }
    }
}
