//! Invites: how a user gets a password and a second factor.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::SecondFactor;
use super::context::OpContext;
use super::devices::{Device, TotpRecord, first_name};
use super::guessers::Standing;
use super::password::{self, PasswordRecord};
use super::policy::Permit;
use super::totp::{self, Seed};
use super::{Inner, lockout};
use crate::api::{
    AcceptInvite, ApiError, ApiErrorKind, ApiResult, Invite, InviteInfo, TokenInfo, TokenPurpose,
};
use crate::audit::{AuditEvent, EventKind};
use crate::clock::Timestamp;
use crate::id::UserName;
use crate::label::Labels;
use crate::secret::SecretString;
use crate::storage::{Action, Batch, Condition, Record, Repo, Stored};
use crate::token::{ForInvite, TokenHash, TokenUse, random_secret};

/// An invite, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InviteRecord {
    pub(super) hash: TokenHash<ForInvite>,
    pub(super) user: UserName,
    /// The seed of the second factor that is offered, sealed for the key of this record. Made with the invite: asking
    /// twice, or on another auth server, gives the same one.
    sealed_seed: String,
    pub(super) expires: Timestamp,
    /// Whether it replaces what a user had before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) reset: bool,
}

impl Record for InviteRecord {
    const COLLECTION: &'static str = ForInvite::COLLECTION;

    fn key(&self) -> String {
        self.hash.to_hex()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires)
    }
}

impl InviteRecord {
    /// What the list of tokens shows.
    pub(super) fn info(&self) -> TokenInfo {
        let user = self.user.clone();
        TokenInfo {
            id: self.hash.id(),
            purpose: if self.reset { TokenPurpose::Reset(user) } else { TokenPurpose::Invite(user) },
            roles: Vec::new(),
            expires: Some(self.expires),
            uses_left: Some(1),
            labels: Labels::default(),
            is_static: false,
        }
    }
}

pub(super) fn repo(auth: &Inner) -> Repo<InviteRecord> {
    Repo::new(auth.ports.backend.clone())
}

fn context(hash: TokenHash<ForInvite>) -> String {
    format!("{}/{}", InviteRecord::COLLECTION, hash.to_hex())
}

fn unknown() -> ApiError {
    ApiError::new(ApiErrorKind::NotFound, "the invite is unknown, used or over")
}

/// How long a new user's invite shall be good.
pub(super) fn ttl(call: &OpContext<'_>, asked: Option<u64>) -> ApiResult<Duration> {
    let config = &call.auth.config;
    within(asked, config.invite_ttl, config.max_invite_ttl)
}

/// How long the invite of a reset shall be good.
pub(super) fn reset_ttl(call: &OpContext<'_>, asked: Option<u64>) -> ApiResult<Duration> {
    let config = &call.auth.config;
    within(asked, config.reset_ttl, config.max_reset_ttl)
}

fn within(asked: Option<u64>, default: Duration, most: Duration) -> ApiResult<Duration> {
    let ttl = asked.map_or(default, Duration::from_secs);
    if ttl.is_zero() || ttl > most {
        let hours = most.as_secs() / 3600;
        return Err(ApiError::invalid(format!("this invite is good for 1 second to {hours} hours")));
    }
    Ok(ttl)
}

/// Adds a new invite for `user` to a batch. The batch must also change the user's own record, so that deleting the user and
/// inviting exclude each other.
pub(super) fn create_in(
    call: &OpContext<'_>,
    batch: Batch,
    user: &UserName,
    ttl: Duration,
    reset: bool,
) -> ApiResult<(Batch, Invite)> {
    let ports = &call.auth.ports;
    let token = random_secret(&*ports.entropy)?;
    let hash = TokenHash::of(&token);
    let sealed_seed = Seed::random(&*ports.entropy)?.seal(&*ports.sealer, &context(hash))?;
    let expires = call.now.saturating_add(ttl);
    let record = InviteRecord { hash, user: user.clone(), sealed_seed, expires, reset };
    let batch = repo(call.auth).write_in(batch, &record, Condition::Absent)?;
    Ok((batch, Invite { user: user.clone(), token, expires }))
}

/// Adds deleting all invites of `user` to a batch.
pub(super) async fn delete_in(call: &OpContext<'_>, mut batch: Batch, user: &UserName) -> ApiResult<Batch> {
    let repo = repo(call.auth);
    for invite in repo.list().await? {
        if invite.record.user == *user {
            batch = batch.with(repo.key(&invite.record.key())?, Condition::Any, Action::Delete);
        }
    }
    Ok(batch)
}

/// The invite of this secret. That there is none is in the audit log: it may be a link that somebody else has used.
async fn find(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    token: &SecretString,
    client: Option<SocketAddr>,
) -> ApiResult<Stored<InviteRecord>> {
    let hash = TokenHash::<ForInvite>::of(token);
    match repo(call.auth).get(&hash.to_hex()).await? {
        Some(invite) => Ok(invite),
        None => Err(refuse(call, permit, client).await),
    }
}

async fn refuse(call: &OpContext<'_>, permit: Permit<'_>, client: Option<SocketAddr>) -> ApiError {
    let error = unknown();
    call.deny_client(permit.operation(), error.to_string(), client).await;
    error
}

pub(super) async fn show(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    token: &SecretString,
) -> ApiResult<InviteInfo> {
    let invite = find(call, permit, token, call.caller.remote()).await?.record;
    let seed = Seed::open(&*call.auth.ports.sealer, &context(invite.hash), &invite.sealed_seed)?;
    let otpauth_url = seed.to_url(&call.auth.config.cluster, invite.user.as_str())?;
    Ok(InviteInfo { user: invite.user, otpauth_url, secret: seed.to_base32(), expires: invite.expires })
}

pub(super) async fn accept(call: &OpContext<'_>, permit: Permit<'_>, request: AcceptInvite) -> ApiResult<()> {
    let ports = &call.auth.ports;
    password::check_presented(&request.password)?;
    let without_device = call.auth.config.second_factor == SecondFactor::Off && request.code.is_empty();
    if !without_device {
        totp::check_form(&request.code)?;
    }
    let client = call.client(request.client_ip);
    let invite = find(call, permit, &request.token, client).await?;
    let user = invite.record.user.clone();
    let seed = Seed::open(&*ports.sealer, &context(invite.record.hash), &invite.record.sealed_seed)?;
    password::check_new(&request.password, &user)?;
    let mut devices = TotpRecord::new(user.as_str());
    if !without_device {
        let step = seed.step_of(&request.code, call.now).ok_or_else(|| {
            ApiError::invalid("the code is wrong; check the time of the device that shows it")
        })?;
        // The step is used up: the code that was shown now is not good for the first login as well.
        let name = first_name().map_err(ApiError::internal)?;
        let by = (&*ports.sealer, &*ports.entropy);
        devices.devices.push(Device::new(user.as_str(), name, &seed, step, call.now, by)?);
    }
    let slot = call.auth.hasher.slot(Standing::Good).await?;
    let hash = call.auth.hasher.hash(slot, user.as_str(), request.password, &*ports.entropy).await?;

    let invite_key = repo(call.auth).key(&invite.record.key())?;
    let batch = Batch::new().with(invite_key, Condition::Is(invite.revision), Action::Delete).with(
        call.auth.users.key(user.as_str())?,
        Condition::Exists,
        Action::Keep,
    );
    let batch = Repo::<PasswordRecord>::new(ports.backend.clone()).write_in(batch, &hash, Condition::Any)?;
    let batch = Repo::<TotpRecord>::new(ports.backend.clone()).write_in(batch, &devices, Condition::Any)?;
    let batch = lockout::forget_in(batch, &user)?;
    match ports.backend.commit(batch).await {
        // Used by somebody else in between, or the user was deleted.
        Err(error) if error.is_conflict() => return Err(refuse(call, permit, client).await.because(error)),
        outcome => outcome?,
    };
    let event =
        |kind| AuditEvent::new(kind).user(&user).remote(client).field("invite_id", invite.record.hash.id());
    let mut events = vec![event(EventKind::UserPasswordChange)];
    events.extend(devices.devices.iter().map(|device| {
        event(EventKind::MfaAdd)
            .field("mfa_device_type", "totp")
            .field("mfa_device_name", device.name.as_str())
            .field("mfa_device_uuid", device.id.to_string())
    }));
    call.audit(events).await
}
