//! Recordings: nodes write their own sessions, users read theirs, auditors read all.

use std::time::Duration;

use bytes::Bytes;

use super::bound;
use super::context::{OpContext, Rights, Rules};
use super::policy::{Permit, Scope};
use super::quota::{self, Amount};
use super::retention;
use super::sessions::Owner;
use super::{participants, stand_in, tails, uploads};
use crate::access::{ResourceFacts, SessionFacts};
use crate::api::{ApiError, ApiErrorKind, ApiResult, RecordingQuery};
use crate::audit::{AuditEvent, EventKind};
use crate::clock::Timestamp;
use crate::id::{SessionId, UserName};
use crate::recording::{
    Completion, Encoding, Form, Listing, MAX_PART_LEN, MAX_PARTS, RecordingError, RecordingInfo,
    RecordingMeta,
};
use crate::resource::Verb;

/// The most bytes of one answer.
const READ_LEN: usize = 1 << 20;
/// The most recordings of one answer.
const MAX_LISTED: usize = 1000;
/// Among how many recordings those are looked for that a user may see, if rules say which.
const MAX_SEARCHED: usize = 20_000;
/// As rules name them.
pub(super) const KIND: &str = "session";

pub(super) fn api_error(error: RecordingError, session: SessionId) -> ApiError {
    match error {
        RecordingError::Conflict { reason } => ApiError::new(ApiErrorKind::Conflict, reason),
        error @ RecordingError::Encrypted => ApiError::new(ApiErrorKind::Conflict, error.to_string()),
        RecordingError::NotFound => ApiError::not_found(format_args!("recording {session}")),
        error @ RecordingError::Unavailable { .. } => ApiError::unavailable(error),
    }
}

/// That the calling host recorded this session. The id of a session says nothing about its host: only what was written
/// down when the recording began does.
pub(super) async fn check_owner(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
) -> ApiResult<Owner> {
    let caller = permit.host().ok_or_else(ApiError::denied)?;
    let remembered = call.auth.session_hosts.owner(session);
    let owner = match remembered {
        Some(owner) => owner,
        None => {
            let info = call.auth.ports.recordings.info(session).await;
            let meta = info.map_err(|error| api_error(error, session))?.meta;
            let owner = Owner { host: meta.host_id, user: Some(meta.user) };
            call.auth.session_hosts.remember(session, owner.clone());
            owner
        }
    };
    if stand_in::speaks_for(call, caller, owner.host).await?.is_some() {
        Ok(owner)
    } else {
        Err(call.deny(permit.operation(), format!("session {session} is of host {}", owner.host)).await)
    }
}

pub(super) async fn create(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    mut meta: RecordingMeta,
) -> ApiResult<()> {
    let host = permit.host().ok_or_else(ApiError::denied)?;
    let name = match stand_in::speaks_for(call, host, meta.host_id).await? {
        Some(name) if meta.cluster == host.cluster => name,
        _ => {
            let claim = format!("records session {} as host {}", meta.session, meta.host_id);
            return Err(call.deny(permit.operation(), claim).await);
        }
    };
    if !meta.is_short() {
        return Err(ApiError::invalid("the command in the description of a recording is too long"));
    }
    meta.host_name = name;
    let session = meta.session;
    let completed = match call.auth.ports.recordings.info(session).await {
        // Begun before: an upload that goes on. It stays where it is in the list, whatever the time is now.
        Ok(known) => {
            meta.started = known.meta.started;
            // As its host was called then.
            if known.meta.host_id == meta.host_id {
                meta.host_name = known.meta.host_name;
            }
            known.completed.is_some()
        }
        Err(RecordingError::NotFound) => {
            quota::charge(call, meta.host_id, None, Amount::RECORDING).await?;
            meta.started = credible(call, meta.started);
            // Before it exists: what nobody looks after is never completed.
            uploads::begin(call, &meta).await?;
            false
        }
        Err(error) => return Err(api_error(error, session)),
    };
    if let Err(error) = call.auth.ports.recordings.create(&meta, &Form::PLAIN).await {
        // At the same moment by another service, whose clock said something else of a beginning that cannot be believed.
        let known = call.auth.ports.recordings.info(session).await;
        let same = known.is_ok_and(|known| meta == RecordingMeta { started: meta.started, ..known.meta });
        if !same {
            return Err(not_stored(call, session, error).await);
        }
    }
    if !completed {
        // Again: the service may have ended between the two, or found it abandoned.
        uploads::begin(call, &meta).await?;
    }
    let owner = Owner { host: meta.host_id, user: Some(meta.user) };
    call.auth.session_hosts.remember(session, owner);
    Ok(())
}

/// Why a recording, or a part of it, is not stored.
async fn not_stored(call: &OpContext<'_>, session: SessionId, error: RecordingError) -> ApiError {
    match error {
        RecordingError::Conflict { reason } => quota::refuse(call, session, reason).await,
        // For want of the keys, which another service may have, or this one tomorrow: no fault of whoever delivers it.
        error @ RecordingError::Encrypted => ApiError::unavailable(error),
        error => api_error(error, session),
    }
}

/// When a recording began, by the node's clock as far as that can be believed: recordings are listed and found by it.
fn credible(call: &OpContext<'_>, started: Timestamp) -> Timestamp {
    let limits = &call.auth.config.recordings;
    if started > call.now.saturating_add(limits.max_ahead) {
        call.now
    } else {
        started.max(call.now.saturating_sub(limits.max_age))
    }
}

pub(super) async fn put_part(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    number: u32,
    part: Bytes,
) -> ApiResult<()> {
    if part.len() > MAX_PART_LEN || part.is_empty() || number >= MAX_PARTS {
        return Err(ApiError::invalid(format!(
            "a part has 1 to {MAX_PART_LEN} bytes and a number below {MAX_PARTS}"
        )));
    }
    let owner = check_owner(call, permit, session).await?;
    quota::check_length(call, session, number, part.len()).await?;
    // Before what is looked up for it.
    quota::charge_part(call, owner.host, owner.user.as_ref(), part.len()).await?;
    tails::check_order(call, session, number).await?;
    tails::check(call, session, number, &part).await?;
    if let Err(error) = call.auth.ports.recordings.put_part(session, number, part).await {
        return Err(not_stored(call, session, error).await);
    }
    tails::settle(call, session, number).await?;
    uploads::heard(call, session).await
}

pub(super) async fn parts(call: &OpContext<'_>, permit: Permit<'_>, session: SessionId) -> ApiResult<u32> {
    check_owner(call, permit, session).await?;
    call.auth.ports.recordings.parts(session).await.map_err(|error| api_error(error, session))
}

pub(super) async fn complete(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    parts: u32,
) -> ApiResult<()> {
    check_owner(call, permit, session).await?;
    let store = &call.auth.ports.recordings;
    let info = store.info(session).await.map_err(|error| api_error(error, session))?;
    // What was streamed and shown is part of it.
    tails::check(call, session, parts, &[]).await?;
    let participants = participants::of(call.auth, &info.meta).await?;
    let completion = Completion { participants, ..Completion::new(parts, call.now) };
    if let Err(error) = store.complete(session, &completion).await {
        return Err(not_stored(call, session, error).await);
    }
    call.auth.session_hosts.forget(session);
    let event = AuditEvent::new(EventKind::SessionUpload).session(session);
    let event = call.by_caller(event).user(&info.meta.user).login(&info.meta.login).field("parts", parts);
    bound::bind(call, &info, event).await
}

/// Decides about one recording: the own ones, which are those of sessions that one took part in, need no rule that allows it,
/// but none may deny it; those of others need one.
pub(super) fn sees(rules: Option<&Rules<'_>>, user: &UserName, verb: Verb, info: &RecordingInfo) -> bool {
    let own = info.has_participant(user);
    // Somebody who was deleted since has the own ones.
    let Some(rules) = rules else { return own };
    with_facts(info, |facts| {
        if own { !rules.denies(KIND, verb, facts) } else { rules.check(KIND, verb, facts).is_ok() }
    })
}

/// What rules may ask about a recording.
pub(super) fn with_facts<T>(info: &RecordingInfo, ask: impl FnOnce(ResourceFacts<'_>) -> T) -> T {
    let (name, host) = (info.meta.session.to_string(), info.meta.host_id.to_string());
    let participants: Vec<&str> =
        std::iter::once(&info.meta.user).chain(&info.participants).map(UserName::as_str).collect();
    ask(ResourceFacts {
        name: Some(&name),
        session: Some(SessionFacts {
            participants: &participants,
            login: info.meta.login.as_str(),
            server_id: &host,
            server_hostname: info.meta.host_name.as_str(),
        }),
        ..ResourceFacts::default()
    })
}

/// Whether a query that names logins or nodes asks for it.
fn is_asked_for(query: &RecordingQuery, info: &RecordingInfo) -> bool {
    let meta = &info.meta;
    query.login.as_ref().is_none_or(|login| *login == meta.login)
        && query
            .node
            .as_ref()
            .is_none_or(|node| node == meta.host_name.as_str() || *node == meta.host_id.to_string())
}

pub(super) async fn list(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    query: RecordingQuery,
) -> ApiResult<Vec<RecordingInfo>> {
    let day = Duration::from_secs(24 * 3600);
    let limit = if query.limit == 0 { 50 } else { query.limit.min(MAX_LISTED) };
    let rights;
    // Whose recordings may be seen, if not everybody's; and whether rules may show others as well.
    let (seen_by, of_others) = match permit.scope() {
        Scope::All => (None, true),
        Scope::Own => {
            let user = &permit.user().ok_or_else(ApiError::denied)?.user;
            rights = call.rights().await?.ok();
            let rules = rights.as_ref().map(Rights::rules);
            let of_others = rules.as_ref().is_some_and(|rules| rules.may_have(KIND, Verb::List));
            (Some((user, rules)), of_others)
        }
    };
    let mut listing = Listing {
        user: query.user.clone(),
        from: query.from.unwrap_or_else(|| call.now.saturating_sub(day)),
        to: query.to.unwrap_or(Timestamp::MAX),
        after: query.after,
        limit,
    };
    let asks_for = query.user.as_ref();
    if let (Some((user, _)), false) = (&seen_by, of_others) {
        listing.user = Some((*user).clone());
    }
    let (mut listed, mut searched) = (Vec::new(), 0);
    loop {
        let page = match query.session {
            Some(session) => one(call, session, &listing).await?,
            None => {
                let page = call.auth.ports.recordings.list(&listing).await;
                let mut page = page.map_err(ApiError::unavailable)?;
                for info in &mut page {
                    participants::tell(call.auth, info).await?;
                }
                page
            }
        };
        searched += page.len();
        let is_whole = query.session.is_some() || page.len() < listing.limit;
        let last = (!is_whole).then(|| page.last().map(RecordingInfo::place)).flatten();
        listed.extend(page.into_iter().filter(|info| {
            is_asked_for(&query, info)
                && asks_for.is_none_or(|user| info.has_participant(user))
                && seen_by.as_ref().is_none_or(|(user, rules)| sees(rules.as_ref(), user, Verb::List, info))
        }));
        listing.after = match last {
            Some(last) if listed.len() < limit => Some(last),
            _ => {
                listed.truncate(limit);
                uploads::mark(call.auth, &mut listed).await?;
                retention::tell_holds(call, &mut listed).await?;
                return Ok(listed);
            }
        };
        if searched >= MAX_SEARCHED {
            return Err(ApiError::invalid(format!(
                "there are more than {MAX_SEARCHED} recordings among which to look for those that you asked for; \
                 ask for a shorter time"
            )));
        }
        listing.limit = MAX_LISTED;
    }
}

/// The list of one recording, if it is within what is listed.
async fn one(call: &OpContext<'_>, session: SessionId, listing: &Listing) -> ApiResult<Vec<RecordingInfo>> {
    let mut info = match call.auth.ports.recordings.info(session).await {
        Ok(info) => info,
        Err(RecordingError::NotFound) => return Ok(Vec::new()),
        Err(error) => return Err(api_error(error, session)),
    };
    participants::tell(call.auth, &mut info).await?;
    let is_listed =
        listing.covers(info.place()) && listing.user.as_ref().is_none_or(|user| info.has_participant(user));
    Ok(if is_listed { vec![info] } else { Vec::new() })
}

/// What is known of a recording that the caller may read.
pub(super) async fn visible(
    call: &OpContext<'_>,
    permit: &Permit<'_>,
    session: SessionId,
) -> ApiResult<RecordingInfo> {
    let info = call.auth.ports.recordings.info(session).await;
    let mut info = info.map_err(|error| api_error(error, session))?;
    participants::tell(call.auth, &mut info).await?;
    if permit.scope() != Scope::All {
        let user = &permit.user().ok_or_else(ApiError::denied)?.user;
        let rights = call.rights().await?.ok();
        let rules = rights.as_ref().map(Rights::rules);
        if !sees(rules.as_ref(), user, Verb::Read, &info) {
            let reason = format!("session {session} is of user {}", info.meta.user);
            call.deny(permit.operation(), reason).await;
            // As for one that does not exist: ids of sessions are not confirmed to strangers.
            return Err(api_error(RecordingError::NotFound, session));
        }
    }
    Ok(info)
}

pub(super) async fn read(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    offset: u64,
) -> ApiResult<Bytes> {
    let info = visible(call, &permit, session).await?;
    let store = &call.auth.ports.recordings;
    let mut piece = store.read(session, offset, READ_LEN).await.map_err(|error| api_error(error, session))?;
    if piece.is_empty() && info.completed.is_none() && info.encoding == Encoding::Plain {
        piece = tails::read(call.auth, session, offset, READ_LEN).await?;
    }
    // Each piece, not only the first: nobody has to begin at the beginning. That it ended there is not worth a line.
    if offset == 0 || !piece.is_empty() {
        let event = AuditEvent::new(EventKind::RecordingAccess)
            .session(session)
            .field("session_user", info.meta.user.as_str())
            .field("offset", offset);
        call.audit(vec![call.by_caller(event)]).await?;
    }
    Ok(piece)
}
