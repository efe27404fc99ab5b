//! How much the recordings of one host may occupy: a bound for each day, so that a host which was taken over cannot fill the disk of
//! the auth service.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::context::{OpContext, contended};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::clock::Timestamp;
use crate::id::{HostId, SessionId, UserName};
use crate::recording::MAX_PART_LEN;
use crate::storage::{Condition, Record};

/// How often a reservation is tried again when other services reserve for the same host.
const ATTEMPTS: usize = 64;
/// What is reserved at a time, so that not every part writes to the storage: bytes and recordings. What is left of it when the
/// service ends is lost for the day.
const BLOCK: Amount = Amount { bytes: 64 << 20, recordings: 64 };
/// What even the shortest part occupies on a disk.
const LEAST: u64 = 4096;
/// What a piece of a part takes beside its bytes, about.
const PIECE: u64 = 256;
/// What an empty recording occupies on a disk: its description, its places in the lists, its directory.
const EMPTY: u64 = 4 * LEAST;
/// One user has this part of what a host may record on a day, so that nobody uses up everybody's.
const USER_SHARE: u64 = 2;
const DAY: u64 = 86_400;

/// Recordings, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Amount {
    bytes: u64,
    recordings: u64,
}

impl Amount {
    /// A recording that begins.
    pub(super) const RECORDING: Self = Self { bytes: EMPTY, recordings: 1 };

    /// A part of a recording.
    fn part(len: usize) -> Self {
        Self { bytes: u64::try_from(len).unwrap_or(u64::MAX).max(LEAST), recordings: 0 }
    }

    /// A piece of a part that arrives before the part is whole. It is charged once more with its part, but it is no file of its own.
    fn piece(len: usize) -> Self {
        Self { bytes: u64::try_from(len).unwrap_or(u64::MAX).saturating_add(PIECE), recordings: 0 }
    }

    fn minus(self, other: Self) -> Option<Self> {
        Some(Self {
            bytes: self.bytes.checked_sub(other.bytes)?,
            recordings: self.recordings.checked_sub(other.recordings)?,
        })
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            recordings: self.recordings.saturating_add(other.recordings),
        }
    }

    /// What is missing to `other`.
    const fn up_to(self, other: Self) -> Self {
        Self {
            bytes: other.bytes.saturating_sub(self.bytes),
            recordings: other.recordings.saturating_sub(self.recordings),
        }
    }

    /// What to reserve where so much is needed and so much is free: a block where anything is needed.
    fn reservation(self, free: Self) -> Self {
        let of =
            |needed: u64, block: u64, free: u64| if needed == 0 { 0 } else { needed.max(block).min(free) };
        Self {
            bytes: of(self.bytes, BLOCK.bytes, free.bytes),
            recordings: of(self.recordings, BLOCK.recordings, free.recordings),
        }
    }
}

/// For whom something is reserved: a host, or one user on it, who has a share of what the host has.
type Place = (HostId, Option<UserName>);

/// What was reserved for a host, or for a user on it, on a day, by all auth services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Usage {
    host_id: HostId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<UserName>,
    /// Days since 1970, UTC.
    day: u64,
    reserved: Amount,
    /// Whether the audit log says that it was not enough.
    told: bool,
}

impl Record for Usage {
    const COLLECTION: &'static str = "recording-usage";

    fn key(&self) -> String {
        key(self.host_id, self.user.as_ref())
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(end_of(self.day))
    }
}

/// All ids have the same length, so that it stands for one place.
fn key(host: HostId, user: Option<&UserName>) -> String {
    user.map_or_else(|| host.to_string(), |user| format!("{host}.{user}"))
}

fn end_of(day: u64) -> Timestamp {
    Timestamp::from_unix_secs(day.saturating_add(1).saturating_mul(DAY))
}

/// The most recordings of which is remembered that they are too long.
const MAX_TOLD: usize = 8192;

/// What this service has reserved and not used, and what it has complained of.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    left: Mutex<HashMap<Place, (u64, Amount)>>,
    too_long: Mutex<HashSet<SessionId>>,
}

impl Quotas {
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, (u64, Amount)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody was told before that this recording is too long.
    fn is_news(&self, session: SessionId) -> bool {
        let mut told = self.too_long.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        told.insert(session)
    }

    /// Uses `amount` of what is there for the day; what is missing if it is too little.
    fn use_up(&self, place: &Place, day: u64, amount: Amount) -> Result<(), Amount> {
        let mut left = self.lock();
        let there = left.get_mut(place).filter(|(of, _)| *of == day);
        match there {
            Some((_, there)) => match there.minus(amount) {
                Some(rest) => {
                    *there = rest;
                    Ok(())
                }
                None => Err(there.up_to(amount)),
            },
            None => Err(amount),
        }
    }

    fn add(&self, place: Place, day: u64, amount: Amount) {
        let mut left = self.lock();
        // Yesterday's are of no use to anybody.
        left.retain(|_, (of, _)| *of == day);
        let (_, there) = left.entry(place).or_insert((day, Amount::default()));
        *there = there.plus(amount);
    }
}

/// Uses up what a part takes, of the share of its user and of what the host has. First the share: who has used it up takes
/// nothing of what is there for all.
///
/// # Errors
/// [`ApiErrorKind::TooMany`] if it is too much; the first one of a day is in the audit log.
pub(super) async fn charge_part(
    call: &OpContext<'_>,
    host: HostId,
    user: Option<&UserName>,
    len: usize,
) -> ApiResult<()> {
    charge_amount(call, host, user, Amount::part(len)).await
}

/// The same for a piece of a part.
///
/// # Errors
/// As of a part.
pub(super) async fn charge_piece(
    call: &OpContext<'_>,
    host: HostId,
    user: Option<&UserName>,
    len: usize,
) -> ApiResult<()> {
    charge_amount(call, host, user, Amount::piece(len)).await
}

async fn charge_amount(
    call: &OpContext<'_>,
    host: HostId,
    user: Option<&UserName>,
    amount: Amount,
) -> ApiResult<()> {
    let Some(user) = user else { return charge(call, host, None, amount).await };
    charge(call, host, Some(user), amount).await?;
    let charged = charge(call, host, None, amount).await;
    if charged.is_err() {
        // It is tried again and again, and must not be counted each time.
        call.auth.quotas.add((host, Some(user.clone())), call.now.unix_secs() / DAY, amount);
    }
    charged
}

/// Uses up `amount` of what `host`, or `user` on it, may record today.
///
/// # Errors
/// [`ApiErrorKind::TooMany`] if it is too much; the first one of a day is in the audit log.
pub(super) async fn charge(
    call: &OpContext<'_>,
    host: HostId,
    user: Option<&UserName>,
    amount: Amount,
) -> ApiResult<()> {
    let limits = &call.auth.config.recordings;
    let bytes = match user {
        None => limits.host_day_bytes,
        Some(_) => limits.host_day_bytes / USER_SHARE,
    };
    let limit = Amount { bytes, recordings: limits.host_day_recordings };
    let place = (host, user.cloned());
    let day = call.now.unix_secs() / DAY;
    for _ in 0..ATTEMPTS {
        let Err(missing) = call.auth.quotas.use_up(&place, day, amount) else { return Ok(()) };
        let stored = call.auth.usage.get(&key(host, user)).await?;
        let condition = stored.as_ref().map_or(Condition::Absent, |stored| Condition::Is(stored.revision));
        let usage = stored.map(|stored| stored.record).filter(|usage| usage.day == day);
        let mut usage = usage.unwrap_or_else(|| Usage {
            host_id: host,
            user: user.cloned(),
            day,
            reserved: Amount::default(),
            told: false,
        });
        let free = usage.reserved.up_to(limit);
        let reservation = missing.reservation(free);
        let enough = reservation.minus(missing).is_some();
        if !enough && usage.told {
            return Err(used_up(user, limit, day));
        }
        if enough {
            usage.reserved = usage.reserved.plus(reservation);
        } else {
            usage.told = true;
        }
        match call.auth.usage.write(&usage, condition).await {
            Err(error) if error.is_conflict() => continue,
            outcome => outcome?,
        };
        if !enough {
            let error = used_up(user, limit, day);
            let mut event = AuditEvent::new(EventKind::SessionUploadFailure).error(&error);
            if let Some(user) = user {
                event = event.field("session_user", user.as_str());
            }
            call.audit(vec![call.by_caller(event)]).await?;
            return Err(error);
        }
        call.auth.quotas.add(place.clone(), day, reservation);
    }
    Err(contended())
}

/// Refuses a part that makes its recording too long. All parts before it count as whole ones, which they are if the node is in
/// order, so nothing has to be added up.
///
/// # Errors
/// [`ApiErrorKind::Invalid`]; the first one of a recording is in the audit log.
pub(super) async fn check_length(
    call: &OpContext<'_>,
    session: SessionId,
    number: u32,
    len: usize,
) -> ApiResult<()> {
    let limit = call.auth.config.recordings.recording_bytes;
    let before = u64::from(number).saturating_mul(MAX_PART_LEN as u64);
    if before.saturating_add(len as u64) <= limit {
        return Ok(());
    }
    let error = ApiError::invalid(format!("a recording has at most {limit} bytes here"));
    if call.auth.quotas.is_news(session) {
        let event = AuditEvent::new(EventKind::SessionUploadFailure).session(session).error(&error);
        call.audit(vec![call.by_caller(event)]).await?;
    }
    Err(error)
}

/// Refuses what does not fit to what is there of a recording; the first of a recording is in the audit log.
pub(super) async fn refuse(call: &OpContext<'_>, session: SessionId, reason: &'static str) -> ApiError {
    let error = ApiError::new(ApiErrorKind::Conflict, reason);
    if call.auth.quotas.is_news(session) {
        let event = AuditEvent::new(EventKind::SessionUploadFailure).session(session).error(&error);
        // The refusal stands whether or not it could be written down.
        if let Err(error) = call.audit(vec![call.by_caller(event)]).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a refusal could not be audited");
        }
    }
    error
}

fn used_up(user: Option<&UserName>, limit: Amount, day: u64) -> ApiError {
    let Amount { bytes, recordings } = limit;
    let from = end_of(day);
    let text = match user {
        None => format!(
            "the recordings of this host have reached their limit for a day, {bytes} bytes or {recordings} recordings; \
             more are taken from {from} on"
        ),
        Some(user) => format!(
            "the recordings of {user} on this host have reached one user's limit for a day, {bytes} bytes; \
             more are taken from {from} on"
        ),
    };
    ApiError::new(ApiErrorKind::TooMany, text)
}
