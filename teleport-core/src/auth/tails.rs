//! What was streamed of recordings whose next part is not whole yet: kept in the backend, sealed, until the part is handed in as a
//! whole. So a node that is lost has lost nothing that was acknowledged, and stores see parts of full length only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::context::OpContext;
use super::policy::Permit;
use super::{Inner, quota, recordings, uploads};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::id::SessionId;
use crate::recording::{MAX_PART_LEN, MAX_PARTS, RecordingError};
use crate::storage::{Action, BackendExt, Batch, Condition, Item, Key, Prefix, RepoError};

/// The most bytes of one call.
const MAX_PIECE: usize = 256 << 10;
/// The most pieces of one part: a piece for each letter that somebody types is less than half of it.
const MAX_PIECES: usize = 65_536;
/// Of how many sessions is remembered how far they are. What was forgotten is looked up.
const MAX_REMEMBERED: usize = 16_384;
const COLLECTION: &str = "recording-tails";
const PART: u64 = MAX_PART_LEN as u64;

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reach {
    /// Whole parts.
    parts: u32,
    /// Bytes of the next one that were streamed.
    tail: usize,
    /// In so many pieces.
    pieces: usize,
}

/// How far recordings are, as far as this service has seen it.
#[derive(Debug, Default)]
pub(super) struct Tails(Mutex<HashMap<SessionId, Reach>>);

impl Tails {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Reach>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, session: SessionId) -> Option<Reach> {
        self.lock().get(&session).copied()
    }

    fn remember(&self, session: SessionId, reach: Reach) {
        let mut known = self.lock();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(session, reach);
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.lock().remove(&session);
    }
}

fn prefix(session: SessionId) -> ApiResult<Prefix> {
    Ok(Prefix::new(COLLECTION).and_then(|all| all.join(&session.to_string())).map_err(RepoError::from)?)
}

/// Numbers of fixed length, so that the order of keys is that of the bytes.
fn key(session: SessionId, part: u32, offset: usize) -> ApiResult<Key> {
    Ok(prefix(session)?.key(&format!("{part:07}.{offset:07}")).map_err(RepoError::from)?)
}

/// Part and offset of a piece.
fn place(key: &Key) -> Option<(u32, usize)> {
    let (part, offset) = key.leaf().split_once('.')?;
    Some((part.parse().ok()?, offset.parse().ok()?))
}

fn unreadable(key: &Key) -> ApiError {
    ApiError::unavailable(format!("the piece of a recording at {key} cannot be opened"))
}

/// What was streamed behind `parts` whole parts, without a gap.
pub(super) async fn of(auth: &Inner, session: SessionId, parts: u32) -> ApiResult<Vec<u8>> {
    Ok(pieces_of(auth, session, parts).await?.0)
}

/// The same, and in how many pieces it is there.
async fn pieces_of(auth: &Inner, session: SessionId, parts: u32) -> ApiResult<(Vec<u8>, usize)> {
    let (mut tail, mut pieces) = (Vec::new(), 0);
    for item in auth.ports.backend.list(&prefix(session)?).await? {
        if place(&item.key) == Some((parts, tail.len())) {
            tail.extend_from_slice(&open(auth, &item)?);
            pieces += 1;
        }
    }
    Ok((tail, pieces))
}

fn open(auth: &Inner, item: &Item) -> ApiResult<Vec<u8>> {
    let plain = auth.ports.sealer.open(item.key.as_str(), &item.value).map_err(|_| unreadable(&item.key))?;
    Ok(plain.expose().to_vec())
}

async fn look_up(call: &OpContext<'_>, session: SessionId) -> ApiResult<Reach> {
    let store = &call.auth.ports.recordings;
    let parts = store.parts(session).await.map_err(|error| recordings::api_error(error, session))?;
    let (tail, pieces) = pieces_of(call.auth, session, parts).await?;
    let reach = Reach { parts, tail: tail.len(), pieces };
    call.auth.tails.remember(session, reach);
    Ok(reach)
}

/// Stores a piece behind what is there.
pub(super) async fn append(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    session: SessionId,
    position: u64,
    piece: Bytes,
) -> ApiResult<()> {
    let part = u32::try_from(position / PART).unwrap_or(u32::MAX);
    let offset = usize::try_from(position % PART).unwrap_or(MAX_PART_LEN);
    let end = offset.saturating_add(piece.len());
    if piece.is_empty() || piece.len() > MAX_PIECE || end > MAX_PART_LEN || part >= MAX_PARTS {
        let text = format!("what is streamed has 1 to {MAX_PIECE} bytes, all of one part");
        return Err(ApiError::invalid(text));
    }
    let owner = recordings::check_owner(call, permit, session).await?;
    quota::check_length(call, session, part, end).await?;
    quota::charge_piece(call, owner.host, owner.user.as_ref(), piece.len()).await?;
    let mut reach = match call.auth.tails.known(session) {
        Some(reach) => reach,
        None => look_up(call, session).await?,
    };
    // Another service may have taken what came before.
    if (part, offset) != (reach.parts, reach.tail) {
        reach = look_up(call, session).await?;
    }
    if part < reach.parts {
        // As a whole it was handed in already, and that is what counts.
        return Ok(());
    }
    let key = key(session, part, offset)?;
    if part > reach.parts || offset > reach.tail {
        return Err(quota::refuse(call, session, "what is streamed does not follow what is there").await);
    }
    if offset < reach.tail {
        // Sent again, because the answer was lost.
        let stored = call.auth.ports.backend.get(&key).await?;
        let same =
            stored.map(|item| open(call.auth, &item)).transpose()?.is_some_and(|stored| stored == piece);
        return match same {
            true => Ok(()),
            false => Err(quota::refuse(call, session, "what is streamed is there with other bytes").await),
        };
    }
    if reach.pieces >= MAX_PIECES {
        return Err(quota::refuse(call, session, "a part is streamed in too many pieces").await);
    }
    // Of the backend alone: a store of recordings may be far away, and whoever types waits for this.
    let complete = "the recording is complete";
    if !uploads::is_open(call.auth, session).await? {
        return Err(quota::refuse(call, session, complete).await);
    }
    let sealed = call.auth.ports.sealer.seal(key.as_str(), &piece)?;
    // Until the recording is complete, whenever that is.
    let batch = Batch::new().put(key, Condition::Absent, sealed, None);
    match call.auth.ports.backend.commit(batch).await {
        Ok(_) => {}
        // At the same moment by another service; what it was is seen when it is sent again.
        Err(error) if error.is_conflict() => {
            call.auth.tails.forget(session);
            return Err(ApiError::new(ApiErrorKind::Unavailable, "the same is being stored; try again")
                .because(error));
        }
        Err(error) => return Err(error.into()),
    }
    if !uploads::is_open(call.auth, session).await? {
        // Completed in this moment: nobody would ever remove it.
        drop_all(call.auth, session).await?;
        return Err(quota::refuse(call, session, complete).await);
    }
    call.auth.tails.remember(session, Reach { parts: part, tail: end, pieces: reach.pieces + 1 });
    uploads::heard(call, session).await
}

/// Refuses a part with a gap before it: nothing would ever complete it.
///
/// # Errors
/// Those of a refusal, which is in the audit log.
pub(super) async fn check_order(call: &OpContext<'_>, session: SessionId, number: u32) -> ApiResult<()> {
    let follows = |reach: Reach| number <= reach.parts;
    // What is known may be old, and then it is too little.
    if number == 0 || call.auth.tails.known(session).is_some_and(follows) {
        return Ok(());
    }
    if follows(look_up(call, session).await?) {
        Ok(())
    } else {
        Err(quota::refuse(call, session, "a part before it is missing").await)
    }
}

/// Refuses a part that is not what was streamed of it, as far as that was.
///
/// # Errors
/// Those of a refusal, which is in the audit log.
pub(super) async fn check(
    call: &OpContext<'_>,
    session: SessionId,
    number: u32,
    part: &[u8],
) -> ApiResult<()> {
    // What this service knows may be old: another one may have taken pieces since.
    if part.starts_with(&of(call.auth, session, number).await?) {
        Ok(())
    } else {
        Err(quota::refuse(call, session, "the part is not what was streamed").await)
    }
}

/// Part `number` is stored as a whole: what was streamed of it is not needed any more.
pub(super) async fn settle(call: &OpContext<'_>, session: SessionId, number: u32) -> ApiResult<()> {
    remove(call.auth, session, |part| part == number).await?;
    match call.auth.tails.known(session) {
        // Not the next one: how far it is has to be looked up.
        Some(reach) if reach.parts != number => call.auth.tails.forget(session),
        _ => {
            let parts = number.saturating_add(1);
            call.auth.tails.remember(session, Reach { parts, tail: 0, pieces: 0 });
        }
    }
    Ok(())
}

/// The recording is complete, or gone.
pub(super) async fn drop_all(auth: &Inner, session: SessionId) -> ApiResult<()> {
    auth.tails.forget(session);
    remove(auth, session, |_| true).await
}

async fn remove(auth: &Inner, session: SessionId, unwanted: impl Fn(u32) -> bool) -> ApiResult<()> {
    let items = auth.ports.backend.list(&prefix(session)?).await?;
    let keys: Vec<Key> = items
        .into_iter()
        .map(|item| item.key)
        .filter(|key| place(key).is_none_or(|(part, _)| unwanted(part)))
        .collect();
    for keys in keys.chunks(crate::storage::MAX_OPERATIONS) {
        let batch = keys
            .iter()
            .cloned()
            .fold(Batch::new(), |batch, key| batch.with(key, Condition::Any, Action::Delete));
        auth.ports.backend.commit(batch).await?;
    }
    Ok(())
}

/// Adds what was streamed of a recording as its last part, and says how many parts it has. For a node that will not do it any more.
///
/// # Errors
/// Those of the store.
pub(super) async fn keep(auth: &Inner, session: SessionId) -> Result<u32, KeepError> {
    let parts = auth.ports.recordings.parts(session).await?;
    let tail = of(auth, session, parts).await?;
    if tail.is_empty() {
        return Ok(parts);
    }
    auth.ports.recordings.put_part(session, parts, tail.into()).await?;
    Ok(auth.ports.recordings.parts(session).await?)
}

/// Why what was streamed could not be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] RecordingError),
}

/// Bytes of the tail from `offset` of the whole recording; empty if it has none there.
pub(super) async fn read(auth: &Inner, session: SessionId, offset: u64, len: usize) -> ApiResult<Bytes> {
    let parts = auth.ports.recordings.parts(session).await;
    let parts = parts.map_err(|error| recordings::api_error(error, session))?;
    let Some(from) = offset.checked_sub(u64::from(parts) * PART) else { return Ok(Bytes::new()) };
    let tail = of(auth, session, parts).await?;
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(tail.len());
    let to = from.saturating_add(len).min(tail.len());
    Ok(tail.get(from..to).map(Bytes::copy_from_slice).unwrap_or_default())
}
