//! Recordings whose end has not arrived: since when nothing was heard of them, and what becomes of those whose node is lost.
//!
//! ```text
//!            no sign of the host, no part                the host was removed, or 30 days without either
//!   open ──────────── 100 s ───────────▶ abandoned ──────────────────────────────────────▶ complete, for good
//!     └──────────── the host completes it ─────┴──▶ complete
//! ```
//!
//! An abandoned recording can be listed and played, its session has an end in the audit log, and its node may still deliver the rest:
//! nothing that a node kept is refused because it was away. Only when that cannot happen any more the recording is closed as it is.
//!
//! The host that counts is the one that delivers: of a session on a registered SSH server that is the proxy that stood in for it. What
//! became of the server does not matter.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::{OpContext, contended};
use super::{AuthService, Caller, Inner, active, bound, eviction, participants, tails};
use crate::api::{ApiError, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::clock::Timestamp;
use crate::id::{HostId, NodeName, OsLogin, SessionId, UserName};
use crate::recording::{Completion, RecordingError, RecordingInfo, RecordingMeta};
use crate::resource::{NODE_RETENTION, Node, NodeRecord};
use crate::storage::{Condition, Record, Repo, Revision, Stored};

/// How long nothing may be heard of a host and of its recording before it counts as lost. With [`SWEEP_EVERY`] less than two minutes,
/// and longer than the pause between two signs of life.
const ABANDONED_AFTER: Duration = Duration::from_secs(100);
/// How long a service has to listen before it believes that a host has nothing more to deliver.
const LISTEN: Duration = Duration::from_secs(86_400);
/// How often whoever runs the service should call [`LostUploads::sweep`].
pub const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How exactly it is known when something was last heard of a recording: not each piece of it is worth a write.
const HEARD_EVERY: Duration = Duration::from_secs(20);
/// How long one service may take to say that a recording is abandoned, before another one does.
const CLAIM: Duration = Duration::from_secs(60);
/// How long one service may take to write down that a recording is complete, before another one does.
const TELLING: Duration = Duration::from_secs(10);
/// How often a claim is tried again when others write at the same time.
const ATTEMPTS: usize = 8;
/// Recordings of which is remembered when something was heard; what was forgotten is written again.
const MAX_REMEMBERED: usize = 16_384;

/// A recording whose end has not arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    session: SessionId,
    host_id: HostId,
    host_name: NodeName,
    user: UserName,
    login: OsLogin,
    started: Timestamp,
    /// Who delivers it, if not that host: the proxy that stood in for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<HostId>,
    /// When something of it came last, to [`HEARD_EVERY`].
    heard: Timestamp,
    /// Until when a service is about to say that it is abandoned, or complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed: Option<Timestamp>,
    /// Since when it is abandoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    abandoned: Option<Timestamp>,
}

impl Record for Upload {
    const COLLECTION: &'static str = "recording-uploads";

    fn key(&self) -> String {
        self.session.to_string()
    }
}

/// When something was last heard of recordings, so that not each piece is a write.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<SessionId, Timestamp>>);

impl Heard {
    /// Whether that something was heard now is worth a write.
    fn is_news(&self, session: SessionId, now: Timestamp) -> bool {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.get(&session).is_some_and(|at| now.saturating_since(*at) < HEARD_EVERY && *at <= now) {
            return false;
        }
        if heard.len() >= MAX_REMEMBERED {
            heard.clear();
        }
        heard.insert(session, now);
        true
    }

    fn forget(&self, session: SessionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }
}

/// A recording begins.
pub(super) async fn begin(call: &OpContext<'_>, meta: &RecordingMeta) -> ApiResult<()> {
    let upload = Upload {
        session: meta.session,
        host_id: meta.host_id,
        host_name: meta.host_name.clone(),
        user: meta.user.clone(),
        login: meta.login.clone(),
        started: meta.started,
        by: call.caller.host().map(|host| host.host_id).filter(|host| *host != meta.host_id),
        heard: call.now,
        claimed: None,
        abandoned: None,
    };
    match call.auth.uploads.create(&upload).await {
        Err(error) if error.is_conflict() => heard(call, meta.session).await,
        outcome => {
            outcome?;
            call.auth.heard.is_news(meta.session, call.now);
            Ok(())
        }
    }
}

/// Something of a recording came.
pub(super) async fn heard(call: &OpContext<'_>, session: SessionId) -> ApiResult<()> {
    if !call.auth.heard.is_news(session, call.now) {
        return Ok(());
    }
    let Some(Stored { mut record, revision, .. }) = call.auth.uploads.get(&session.to_string()).await? else {
        return Ok(());
    };
    record.heard = record.heard.max(call.now);
    match call.auth.uploads.update(&record, revision).await {
        // Somebody else heard of it, or completed it.
        Err(error) if error.is_conflict() => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// A recording is complete, or gone.
pub(super) async fn end(auth: &Inner, session: SessionId) -> ApiResult<()> {
    auth.heard.forget(session);
    auth.uploads.delete(&session.to_string()).await?;
    participants::drop_all(auth, session).await?;
    tails::drop_all(auth, session).await
}

/// Whether the audit log may not say yet that a recording is complete.
pub(super) async fn is_open(auth: &Inner, session: SessionId) -> ApiResult<bool> {
    Ok(auth.uploads.get(&session.to_string()).await?.is_some())
}

/// The right to say that a recording is complete. Nobody else has it for a while.
#[derive(Debug)]
pub(super) struct Claim {
    upload: Upload,
    revision: Revision,
    /// Whether somebody had it before, and may have said it.
    pub(super) again: bool,
}

/// Takes that right; `None` if everything was said.
///
/// # Errors
/// [`ApiErrorKind::Unavailable`](crate::api::ApiErrorKind::Unavailable) while somebody else has it.
pub(super) async fn claim(auth: &Inner, session: SessionId) -> ApiResult<Option<Claim>> {
    for _ in 0..ATTEMPTS {
        let Some(Stored { record: mut upload, revision, .. }) =
            auth.uploads.get(&session.to_string()).await?
        else {
            return Ok(None);
        };
        let now = auth.ports.clock.now();
        let again = upload.claimed.is_some();
        if upload.claimed.is_some_and(|until| now < until) {
            return Err(ApiError::unavailable("it is being written down; try again"));
        }
        upload.claimed = Some(now.saturating_add(TELLING));
        match auth.uploads.update(&upload, revision).await {
            Err(error) if error.is_conflict() => {}
            outcome => return Ok(Some(Claim { upload, revision: outcome?, again })),
        }
    }
    Err(contended())
}

impl Claim {
    /// It could not be said, as far as is known: somebody else may try at once.
    pub(super) async fn give_back(mut self, auth: &Inner) {
        self.upload.claimed = Some(Timestamp::EPOCH);
        if let Err(error) = auth.uploads.update(&self.upload, self.revision).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(session = %self.upload.session, error, "others have to wait before they complete a recording");
        }
    }
}

/// Marks those whose node is lost.
pub(super) async fn mark(auth: &Inner, listed: &mut [RecordingInfo]) -> ApiResult<()> {
    for info in listed.iter_mut().filter(|info| info.completed.is_none()) {
        let upload = auth.uploads.get(&info.meta.session.to_string()).await?;
        info.abandoned = upload.is_some_and(|upload| upload.record.abandoned.is_some());
    }
    Ok(())
}

/// What is known of the host that delivers a recording.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    last_seen: Option<Timestamp>,
    evicted: bool,
    /// Whether it says that the session runs. One in which nothing happens hands in nothing, however long.
    runs: bool,
}

/// What becomes of a recording whose end has not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its node is lost.
    Abandon,
    /// Nothing of it comes any more.
    Close,
    Wait,
}

/// Decides about a recording at `now`. The service has listened since `since`: what was said before that it cannot have heard.
fn decide(upload: &Upload, host: Host, since: Timestamp, give_up: Duration, now: Timestamp) -> Verdict {
    let last = host.last_seen.unwrap_or_default().max(upload.heard).max(since);
    // What was streamed is kept as long, so that a service that is restarted often does not put this off for ever.
    let is_late =
        now >= upload.heard.saturating_add(give_up) && now >= since.saturating_add(LISTEN.min(give_up));
    let hopeless = host.evicted || (is_late && !host.runs);
    match upload.abandoned {
        Some(_) if hopeless => Verdict::Close,
        Some(_) => Verdict::Wait,
        None if hopeless || now >= last.saturating_add(ABANDONED_AFTER) => Verdict::Abandon,
        None => Verdict::Wait,
    }
}

/// Looks after recordings whose node is lost.
#[derive(Debug)]
pub struct LostUploads {
    auth: AuthService,
    since: Timestamp,
}

impl AuthService {
    /// Looks after recordings whose node is lost, from now on: what was not heard before this is held against nobody.
    pub fn lost_uploads(&self) -> LostUploads {
        LostUploads { auth: self.clone(), since: self.0.ports.clock.now() }
    }
}

impl LostUploads {
    /// One round. To be called every [`SWEEP_EVERY`], by each of the services that share a backend: what is done is done once.
    /// One recording that fails does not keep others from being looked at. Cancel safe.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`](crate::api::ApiErrorKind::Unavailable) if nothing could be looked at.
    pub async fn sweep(&self) -> ApiResult<()> {
        let auth = &*self.auth.0;
        let call = OpContext::new(auth, &Caller::LocalAdmin);
        for stored in auth.uploads.list().await? {
            let session = stored.record.session;
            if let Err(error) = self.look_at(&call, stored).await {
                tracing::error!(%session, error = &error as &dyn std::error::Error, "a recording whose node may be lost cannot be dealt with now");
            }
        }
        Ok(())
    }

    async fn look_at(&self, call: &OpContext<'_>, stored: Stored<Upload>) -> ApiResult<()> {
        let auth = call.auth;
        let upload = &stored.record;
        let runs = active::runs(auth, upload.host_id, upload.session, call.now).await?;
        let host = Host {
            last_seen: last_seen(auth, upload).await?,
            evicted: eviction::is_evicted(auth, upload.by.unwrap_or(upload.host_id)).await?,
            runs,
        };
        match decide(upload, host, self.since, auth.config.recordings.max_age, call.now) {
            Verdict::Abandon => abandon(call, stored).await,
            Verdict::Close => close(call, upload.session).await,
            Verdict::Wait => Ok(()),
        }
    }
}

/// When the host that delivers a recording was last heard of.
async fn last_seen(auth: &Inner, upload: &Upload) -> ApiResult<Option<Timestamp>> {
    let backend = &auth.ports.backend;
    if let Some(proxy) = upload.by {
        let item = backend.get(&auth.proxies.key(&proxy.to_string())?).await?;
        return Ok(item.and_then(|item| item.expires).map(|expires| expires.saturating_sub(NODE_RETENTION)));
    }
    let item = backend.get(&auth.nodes.key(&upload.host_id.to_string())?).await?;
    Ok(item.and_then(|item| {
        let record = Repo::<NodeRecord>::decode(&item).ok()?.record;
        Some(Node::from_stored(record, item.expires).last_seen)
    }))
}

/// Says in the audit log and in the list that the rest of a recording is missing.
async fn abandon(call: &OpContext<'_>, Stored { mut record, revision, .. }: Stored<Upload>) -> ApiResult<()> {
    let (auth, session) = (call.auth, record.session);
    if record.claimed.is_some_and(|until| call.now < until) {
        return Ok(());
    }
    record.claimed = Some(call.now.saturating_add(CLAIM));
    let revision = match auth.uploads.write(&record, Condition::Is(revision)).await {
        // Another service does it, or the node is back.
        Err(error) if error.is_conflict() => return Ok(()),
        outcome => outcome?,
    };
    let parts = match auth.ports.recordings.info(session).await {
        // Its end, or that it was removed, was not noted down here.
        Ok(info) if info.completed.is_some() => {
            record.claimed = Some(Timestamp::EPOCH);
            auth.uploads.write(&record, Condition::Is(revision)).await?;
            return bind(call, &info).await;
        }
        Err(RecordingError::NotFound) => return end(auth, session).await,
        Ok(_) => auth.ports.recordings.parts(session).await.map_err(ApiError::unavailable)?,
        Err(error) => return Err(ApiError::unavailable(error)),
    };
    let event = |kind| {
        AuditEvent::new(kind)
            .user(&record.user)
            .login(&record.login)
            .session(session)
            .server(record.host_id, &record.host_name)
    };
    let mut upload = event(EventKind::SessionUpload).field("parts", parts).field("abandoned", true);
    upload.uid = bound::uid(session, "abandoned");
    let mut events = vec![upload];
    if !has_ended(call, session, record.started).await? {
        let mut end = event(EventKind::SessionEnd)
            .field("reason", "the node was lost before the end of the session")
            .field("exit_reason", "disconnected")
            .field("session_start", record.started.to_string());
        end.uid = bound::uid(session, "end");
        events.insert(0, end);
    }
    call.audit(events).await?;
    tracing::warn!(%session, host = %record.host_name, "the node of a recording is lost: what is here of it can be played, the rest is taken when it comes");
    record.claimed = None;
    record.abandoned = Some(call.now);
    match auth.uploads.write(&record, Condition::Is(revision)).await {
        // Completed meanwhile.
        Err(error) if error.is_conflict() => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// Whether a node that was interrupted tells of an end that is known. It tells of each alone.
pub(super) async fn is_known_end(call: &OpContext<'_>, event: &AuditEvent) -> ApiResult<bool> {
    let recovered = event.fields.get("recovered").is_some_and(|value| *value == true);
    let Some(session) = event.sid.filter(|_| recovered && event.code == EventKind::SessionEnd) else {
        return Ok(false);
    };
    // It is told while the recording is delivered, whose description says when the session began. The log is not searched for one
    // that nobody began.
    let started = match call.auth.ports.recordings.info(session).await {
        Ok(info) => info.meta.started,
        Err(RecordingError::NotFound) => return Ok(false),
        Err(error) => return Err(ApiError::unavailable(error)),
    };
    has_ended(call, session, started).await
}

/// Whether the end of a session that began at `started` or later is in the audit log.
async fn has_ended(call: &OpContext<'_>, session: SessionId, started: Timestamp) -> ApiResult<bool> {
    bound::is_told(call, EventKind::SessionEnd, session, started, |_| true).await
}

/// Completes an abandoned recording as it is.
async fn close(call: &OpContext<'_>, session: SessionId) -> ApiResult<()> {
    let store = &call.auth.ports.recordings;
    let parts = match tails::keep(call.auth, session).await {
        Ok(parts) => parts,
        Err(tails::KeepError::Store(RecordingError::NotFound)) => return end(call.auth, session).await,
        Err(tails::KeepError::Store(error)) => return Err(ApiError::unavailable(error)),
        Err(tails::KeepError::Api(error)) => return Err(error),
    };
    let info = store.info(session).await.map_err(ApiError::unavailable)?;
    let participants = participants::of(call.auth, &info.meta).await?;
    let completion = Completion { abandoned: true, participants, ..Completion::new(parts, call.now) };
    store.complete(session, &completion).await.map_err(ApiError::unavailable)?;
    tracing::warn!(%session, "an abandoned recording is closed as it is");
    bind(call, &store.info(session).await.map_err(ApiError::unavailable)?).await
}

/// Says in the audit log that a recording is complete, whose node does not ask for it.
async fn bind(call: &OpContext<'_>, info: &RecordingInfo) -> ApiResult<()> {
    let session = info.meta.session;
    let parts = call.auth.ports.recordings.parts(session).await.map_err(ApiError::unavailable)?;
    let mut event = AuditEvent::new(EventKind::SessionUpload)
        .user(&info.meta.user)
        .login(&info.meta.login)
        .session(session)
        .server(info.meta.host_id, &info.meta.host_name)
        .field("parts", parts);
    if info.abandoned {
        event = event.field("abandoned", true);
    }
    bound::bind(call, info, event).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_becomes_of_a_recording_whose_end_has_not_arrived() {
        let at = Timestamp::from_unix_secs;
        let day = 86_400;
        let late = 1000 + 30 * day;
        // heard, abandoned, last seen, evicted, since, now
        for (heard, abandoned, seen, evicted, since, now, expected) in [
            (1000, None, Some(1000), false, 0, 1099, Verdict::Wait),
            (1000, None, Some(1000), false, 0, 1100, Verdict::Abandon),
            // Either sign of life suffices.
            (1000, None, Some(1050), false, 0, 1149, Verdict::Wait),
            (1050, None, Some(1000), false, 0, 1149, Verdict::Wait),
            (1050, None, Some(1000), false, 0, 1150, Verdict::Abandon),
            // A node that nobody lists, and one that was removed.
            (1000, None, None, false, 0, 1100, Verdict::Abandon),
            (1000, None, Some(1000), true, 0, 1001, Verdict::Abandon),
            // A service that has just begun to listen has heard nobody.
            (1000, None, Some(1000), false, 5000, 5099, Verdict::Wait),
            (1000, None, Some(1000), false, 5000, 5100, Verdict::Abandon),
            // What was abandoned waits for its node, and not for ever.
            (1000, Some(1100), None, false, 0, late - 1, Verdict::Wait),
            (1000, Some(1100), None, false, 0, late, Verdict::Close),
            (1000, Some(1100), None, true, 0, 1101, Verdict::Close),
            // A host that lives and does not deliver.
            (1000, None, Some(late), false, 0, late, Verdict::Abandon),
            // A service that was started a moment ago gives it a day more, and not as long again.
            (1000, Some(1100), None, false, late, late + day - 1, Verdict::Wait),
            (1000, Some(1100), None, false, late, late + day, Verdict::Close),
        ] {
            let upload = Upload {
                session: "6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f01".parse().unwrap(),
                host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
                host_name: "web-1".parse().unwrap(),
                user: "alice".parse().unwrap(),
                login: "root".parse().unwrap(),
                started: at(900),
                by: None,
                heard: at(heard),
                claimed: None,
                abandoned: abandoned.map(at),
            };
            let host = Host { last_seen: seen.map(at), evicted, runs: false };
            let give_up = Duration::from_secs(30 * day);
            let verdict = decide(&upload, host, at(since), give_up, at(now));
            assert_eq!(verdict, expected, "{heard} {abandoned:?} {seen:?} {evicted} {since} {now}");
            // Whoever is removed delivers nothing, whatever runs there.
            if now >= late && !evicted {
                let runs = decide(&upload, Host { runs: true, ..host }, at(since), give_up, at(now));
                assert_eq!(runs, Verdict::Wait, "a session in which nothing has happened for long");
            }
        }
    }
}
