//! Recordings are bound into the audit log by their digest.

use uuid::Uuid;

use super::context::OpContext;
use super::{recordings, uploads};
use crate::api::{ApiError, ApiResult};
use crate::audit::chain::Digest;
use crate::audit::{AuditEvent, AuditQuery, EventKind};
use crate::clock::Timestamp;
use crate::id::SessionId;
use crate::recording::{ContentDigest, RecordingInfo};

/// Whether an event says which content a recording has.
fn has_digest(event: &AuditEvent) -> bool {
    [ContentDigest::BYTES_FIELD, ContentDigest::PARTS_FIELD]
        .iter()
        .any(|field| event.fields.contains_key(*field))
}

/// The name of an event that there is once for a session. A service that dies may have written it without anybody knowing, and then
/// another one writes it too: by the name they are seen to be one.
pub(super) fn uid(session: SessionId, what: &str) -> Uuid {
    let digest = Digest::of(&[b"teleport-session-event-v1\n", session.uuid().as_bytes(), what.as_bytes()]);
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
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
    // Of what is stored now, and not of what was sent. Before the claim, which is a short one.
    let digest = ContentDigest::of(&*call.auth.ports.recordings, session).await;
    let digest = digest.map_err(|error| recordings::api_error(error, session))?;
    let mut event = event.field(digest.field(), digest.digest().to_string());
    event.uid = uid(session, "upload");
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
    let says_so = |event: &AuditEvent| has_digest(event) || !event.fields.contains_key("abandoned");
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
