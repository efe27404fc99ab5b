//! Which recordings go and which stay: deletion, legal hold, and bounds of age and size.
//!
//! One record for each recording that is held or being deleted decides between the two: whoever writes it first. It is written
//! before anything is removed and stays until all is, so that a deletion that was interrupted is finished and a hold is never given
//! for what is half gone.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::{OpContext, contended};
use super::policy::{Permit, Scope};
use super::recordings::{KIND, api_error, sees, with_facts};
use super::{AuthService, Caller};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::clock::Timestamp;
use crate::id::SessionId;
use crate::recording::{Listing, RecordingError, RecordingHold, RecordingInfo};
use crate::resource::Verb;
use crate::storage::{Action, Batch, Condition, Record, Revision};

/// How many recordings a sweep looks at in one step.
const PAGE: usize = 500;
/// The most recordings that one sweep deletes; the next one goes on.
const MAX_DELETED: usize = 1000;
/// The longest reason.
const MAX_REASON: usize = 500;
/// How often a record is written again that others write as well.
const ATTEMPTS: usize = 16;

/// How long recordings are kept. Nothing is deleted unless it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionConfig {
    /// Recordings of sessions that began longer ago are deleted. For ever if absent.
    pub max_age: Option<Duration>,
    /// The oldest recordings are deleted when all together have more bytes. Any number if absent.
    pub max_size: Option<u64>,
}

/// What is said of a recording beside what its store knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// It stays.
    Held(RecordingHold),
    /// It goes.
    Deleting {
        /// Why, for the event.
        reason: String,
        /// Whether the event is written.
        told: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordingFate {
    session: SessionId,
    fate: Fate,
}

impl Record for RecordingFate {
    const COLLECTION: &'static str = "recording-fates";

    fn key(&self) -> String {
        self.session.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        None
    }
}

/// What a sweep has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Recordings that were deleted.
    pub deleted: usize,
    /// Recordings that would have been, and are held.
    pub held: usize,
    /// Recordings that could not be deleted: the log says why, and the next sweep tries again.
    pub failed: usize,
    /// Whether there is more to delete.
    pub more: bool,
}

impl Swept {
    /// One that cannot be deleted keeps no other from it.
    fn failed(&mut self, session: SessionId, error: &ApiError) {
        tracing::error!(%session, error = error as &dyn std::error::Error, "a recording cannot be deleted now");
        self.failed += 1;
    }
}

/// Says in a list which recordings are held.
pub(super) async fn tell_holds(call: &OpContext<'_>, listed: &mut [RecordingInfo]) -> ApiResult<()> {
    if listed.is_empty() {
        return Ok(());
    }
    let mut holds = holds(call).await?;
    for info in listed {
        info.hold = holds.remove(&info.meta.session);
    }
    Ok(())
}

async fn holds(call: &OpContext<'_>) -> ApiResult<HashMap<SessionId, RecordingHold>> {
    let fates = call.auth.recording_fates.list().await?.into_iter().map(|stored| stored.record);
    let held = fates.filter_map(|RecordingFate { session, fate }| match fate {
        Fate::Held(hold) => Some((session, hold)),
        Fate::Deleting { .. } => None,
    });
    Ok(held.collect())
}

/// The recording, if the caller may do this to it: rules must allow it, also for the own ones.
async fn authorized(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    verb: Verb,
) -> ApiResult<RecordingInfo> {
    let info = call.auth.ports.recordings.info(session).await.map_err(|error| api_error(error, session))?;
    if permit.scope() == Scope::All {
        return Ok(info);
    }
    let user = &permit.user().ok_or_else(ApiError::denied)?.user;
    let reason = format!("{} of session {session} of user {}", verb.as_str(), info.meta.user);
    let Ok(rights) = call.rights().await? else {
        return Err(call.deny(permit.operation(), reason).await);
    };
    let rules = rights.rules();
    if with_facts(&info, |facts| rules.check(KIND, verb, facts)).is_ok() {
        return Ok(info);
    }
    let denied = call.deny(permit.operation(), reason).await;
    // Ids of sessions are not confirmed to strangers.
    Err(if sees(Some(&rules), user, Verb::Read, &info) {
        denied
    } else {
        api_error(RecordingError::NotFound, session)
    })
}

fn event(call: &OpContext<'_>, kind: EventKind, info: &RecordingInfo) -> AuditEvent {
    let event = AuditEvent::new(kind)
        .session(info.meta.session)
        .field("session_user", info.meta.user.as_str())
        .field("session_start", info.meta.started.to_string())
        .field("size", info.len);
    call.by_caller(event)
}

fn because(event: AuditEvent, reason: Option<&str>) -> AuditEvent {
    match reason {
        Some(reason) => event.field("reason", reason),
        None => event,
    }
}

fn check_reason(reason: Option<String>) -> ApiResult<Option<String>> {
    match reason {
        Some(reason) if reason.len() > MAX_REASON => {
            Err(ApiError::invalid(format!("a reason has at most {MAX_REASON} bytes")))
        }
        reason => Ok(reason.filter(|reason| !reason.trim().is_empty())),
    }
}

fn held(session: SessionId, hold: &RecordingHold) -> ApiError {
    let why = hold.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    ApiError::new(
        ApiErrorKind::Conflict,
        format!(
            "recording {session} is held by {} since {}{why}; `tctl recordings release {session}` ends that",
            hold.by, hold.since
        ),
    )
}

fn is_being_deleted(session: SessionId) -> ApiError {
    ApiError::new(ApiErrorKind::Conflict, format!("recording {session} is being deleted"))
}

pub(super) async fn hold(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    reason: Option<String>,
) -> ApiResult<RecordingInfo> {
    let reason = check_reason(reason)?;
    let mut info = authorized(call, permit, session, Verb::Update).await?;
    let hold = RecordingHold { by: call.caller.to_string(), since: call.now, reason };
    let fate = RecordingFate { session, fate: Fate::Held(hold.clone()) };
    for _ in 0..ATTEMPTS {
        match call.auth.recording_fates.create(&fate).await {
            Ok(revision) => {
                let event = event(call, EventKind::RecordingHold, &info);
                if let Err(error) = call.audit(vec![because(event, hold.reason.as_deref())]).await {
                    // Else the next attempt finds it held, and nothing ever says since when and by whom.
                    forget(call, session, revision).await?;
                    return Err(error);
                }
                // A deletion may have come to its end since the recording was looked at.
                if let Err(error) = call.auth.ports.recordings.info(session).await {
                    if matches!(error, RecordingError::NotFound) {
                        call.auth.recording_fates.delete(&session.to_string()).await?;
                    }
                    return Err(api_error(error, session));
                }
                info.hold = Some(hold);
                return Ok(info);
            }
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
        match call.auth.recording_fates.get(&session.to_string()).await?.map(|stored| stored.record.fate) {
            // The first one stays: it says since when.
            Some(Fate::Held(first)) => {
                info.hold = Some(first);
                return Ok(info);
            }
            Some(Fate::Deleting { .. }) => return Err(is_being_deleted(session)),
            None => {}
        }
    }
    Err(contended())
}

pub(super) async fn release(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    reason: Option<String>,
) -> ApiResult<()> {
    let reason = check_reason(reason)?;
    let info = authorized(call, permit, session, Verb::Update).await?;
    let stored = call.auth.recording_fates.get(&session.to_string()).await?;
    let Some((Fate::Held(hold), revision)) = stored.map(|stored| (stored.record.fate, stored.revision))
    else {
        return Err(ApiError::new(ApiErrorKind::Conflict, format!("recording {session} is not held")));
    };
    // Before it: what is not written down must not be deleted by the next sweep.
    let event = event(call, EventKind::RecordingRelease, &info).field("held_by", hold.by);
    call.audit(vec![because(event, reason.as_deref())]).await?;
    forget(call, session, revision).await
}

pub(super) async fn delete(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    reason: Option<String>,
) -> ApiResult<()> {
    let reason = check_reason(reason)?;
    let info = authorized(call, permit, session, Verb::Delete).await?;
    if info.completed.is_none() {
        return Err(ApiError::new(
            ApiErrorKind::Conflict,
            format!("recording {session} is not complete yet: its node may still add to it"),
        ));
    }
    remove(call, &info, reason.as_deref().unwrap_or("asked for")).await
}

/// Removes a recording that nobody holds. The event is written before anything is removed: it tells what is gone lawfully
/// from what is lost.
async fn remove(call: &OpContext<'_>, info: &RecordingInfo, reason: &str) -> ApiResult<()> {
    let session = info.meta.session;
    let fates = &call.auth.recording_fates;
    let deleting = |told| RecordingFate { session, fate: Fate::Deleting { reason: reason.to_owned(), told } };
    let (revision, is_told) = match fates.create(&deleting(false)).await {
        Ok(revision) => (revision, false),
        Err(error) if error.is_conflict() => {
            let there = fates.get(&session.to_string()).await?.ok_or_else(contended)?;
            match there.record.fate {
                Fate::Held(hold) => {
                    let error = held(session, &hold);
                    let refused = event(call, EventKind::RecordingDeleteFailure, info).error(&error);
                    call.audit(vec![refused]).await?;
                    return Err(error);
                }
                // By somebody else, or by us before we were interrupted.
                Fate::Deleting { told, .. } => (there.revision, told),
            }
        }
        Err(error) => return Err(error.into()),
    };
    if !is_told {
        call.audit(vec![event(call, EventKind::RecordingDelete, info).field("reason", reason)]).await?;
        // So that what cannot be removed for long is told once.
        match fates.update(&deleting(true), revision).await {
            Err(error) if !error.is_conflict() => return Err(error.into()),
            _ => {}
        }
    }
    finish(call, session).await
}

/// The last steps of a removal, which may have been done before.
async fn finish(call: &OpContext<'_>, session: SessionId) -> ApiResult<()> {
    call.auth.ports.recordings.delete(session).await.map_err(|error| api_error(error, session))?;
    call.auth.session_hosts.forget(session);
    match call.auth.recording_fates.get(&session.to_string()).await? {
        Some(stored) if matches!(stored.record.fate, Fate::Deleting { .. }) => {
            forget(call, session, stored.revision).await
        }
        _ => Ok(()),
    }
}

/// Removes what was written of a recording, unless it was changed meanwhile.
async fn forget(call: &OpContext<'_>, session: SessionId, revision: Revision) -> ApiResult<()> {
    let key = call.auth.recording_fates.key(&session.to_string())?;
    match call
        .auth
        .ports
        .backend
        .commit(Batch::new().with(key, Condition::Is(revision), Action::Delete))
        .await
    {
        Err(error) if !error.is_conflict() => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) async fn rewrap(call: &OpContext<'_>, permit: Permit<'_>, session: SessionId) -> ApiResult<bool> {
    let info = authorized(call, permit, session, Verb::Update).await?;
    let changed = call.auth.ports.recordings.rewrap(session).await;
    let changed = changed.map_err(|error| api_error(error, session))?;
    if changed {
        call.audit(vec![event(call, EventKind::RecordingRewrap, &info)]).await?;
    }
    Ok(changed)
}

impl AuthService {
    /// Deletes recordings that are older than the configuration keeps them, and the oldest while all together are larger; what is
    /// held and what is not complete stays. Finishes deletions that were interrupted. To be called from time to time; several
    /// services may do it at once.
    ///
    /// Dropping it stops between two steps; the next call goes on.
    ///
    /// # Errors
    /// [`ApiErrorKind::Unavailable`].
    pub async fn sweep_recordings(&self) -> ApiResult<Swept> {
        let caller = Caller::LocalAdmin;
        let call = OpContext::new(&self.0, &caller);
        let mut swept = Swept::default();
        for stored in self.0.recording_fates.list().await? {
            let RecordingFate { session, fate: Fate::Deleting { reason, .. } } = stored.record else {
                continue;
            };
            let removed = match self.0.ports.recordings.info(session).await {
                Ok(info) => remove(&call, &info, &reason).await,
                Err(RecordingError::NotFound) => finish(&call, session).await,
                Err(error) => Err(api_error(error, session)),
            };
            match removed {
                Ok(()) => swept.deleted += 1,
                Err(error) => swept.failed(session, &error),
            }
        }
        let RetentionConfig { max_age, max_size } = self.0.config.retention;
        let oldest = max_age.map_or(Timestamp::EPOCH, |age| call.now.saturating_sub(age));
        let to = match (max_age, max_size) {
            (None, None) => return Ok(swept),
            // Whatever is younger stays.
            (Some(_), None) => oldest,
            (_, Some(_)) => Timestamp::MAX,
        };
        let held = holds(&call).await?;
        let mut total = 0_u64;
        let mut listing = Listing::span(Timestamp::EPOCH, to, PAGE);
        loop {
            let page = self.0.ports.recordings.list(&listing).await.map_err(ApiError::unavailable)?;
            let last = page.last().map(RecordingInfo::place);
            for info in page {
                total = total.saturating_add(info.len);
                let is_old = info.meta.started < oldest;
                // From the first one on that does not fit: a small one is not kept for being small.
                let is_beyond = max_size.is_some_and(|limit| total > limit);
                if info.completed.is_none() || !(is_old || is_beyond) {
                    continue;
                }
                if held.contains_key(&info.meta.session) {
                    swept.held += 1;
                    continue;
                }
                if swept.deleted >= MAX_DELETED {
                    swept.more = true;
                    return Ok(swept);
                }
                let reason = if is_old { "retention: too old" } else { "retention: too much" };
                match remove(&call, &info, reason).await {
                    Ok(()) => swept.deleted += 1,
                    // It was held meanwhile.
                    Err(error) if error.kind() == ApiErrorKind::Conflict => swept.held += 1,
                    Err(error) => swept.failed(info.meta.session, &error),
                }
            }
            let Some(last) = last else { return Ok(swept) };
            listing.after = Some(last);
        }
    }
}
