//! Whoever logs in, or changes password or second factors, proves to be the user: by the password and a one-time code.
//!
//! There is one such check, so that one lockout, one answer and one amount of work hold for all of it.

use std::net::IpAddr;

use super::config::SecondFactor;
use super::context::OpContext;
use super::devices::{TotpRecord, Verdict};
use super::guessers::Standing;
use super::lockout::{self, Charge};
use super::password::{self, PasswordRecord};
use super::policy::Permit;
use super::totp;
use crate::api::{ApiError, ApiResult};
use crate::audit::{AuditEvent, EventKind};
use crate::id::{DeviceId, UserName};
use crate::resource::User;
use crate::secret::SecretString;
use crate::storage::{Action, Batch, Condition, Repo, Revision, Stored};

/// Why a proof failed. For the log and the audit event; the user hears the same text every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the one-time code was used before")]
    CodeUsed,
    #[error("the one-time code is wrong")]
    CodeWrong,
    #[error("locked after too many failures")]
    Locked,
    #[error("the user has no password or second factor yet")]
    NotSetUp,
    #[error("the password is wrong")]
    PasswordWrong,
    #[error("there is no such user")]
    UnknownUser,
}

/// What somebody presents.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    /// Whose it shall be; `None` for a text that is nobody's name.
    pub(super) name: Option<&'a UserName>,
    /// The name as it was typed.
    pub(super) typed: &'a str,
    pub(super) password: &'a SecretString,
    pub(super) code: &'a SecretString,
    /// From where it comes, if that is known.
    pub(super) client: Option<IpAddr>,
}

/// Checks the form of what is presented: says nothing of any user, and costs nothing.
pub(super) fn check_form(
    call: &OpContext<'_>,
    password: &SecretString,
    code: &SecretString,
) -> ApiResult<()> {
    password::check_presented(password)?;
    match call.auth.config.second_factor {
        SecondFactor::Otp => totp::check_form(code),
        SecondFactor::Off => Ok(()),
    }
}

/// A device whose code was accepted.
#[derive(Clone, Debug)]
pub(super) struct UsedDevice {
    pub(super) id: DeviceId,
    pub(super) name: String,
}

/// Somebody is the user, if the commit says so, too. It uses the step of the code up and takes the charge back.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) name: UserName,
    pub(super) user: Stored<User>,
    password: Stored<PasswordRecord>,
    /// Takes the place of the password's hash.
    pub(super) new_password: Option<PasswordRecord>,
    devices: TotpRecord,
    devices_revision: Option<Revision>,
    devices_changed: bool,
    /// The device whose code it was.
    pub(super) device: Option<UsedDevice>,
}

impl Proof {
    /// The user's second factors, as they stay.
    pub(super) const fn devices(&self) -> &TotpRecord {
        &self.devices
    }

    /// The user's second factors, to be changed with the commit.
    pub(super) const fn devices_mut(&mut self) -> &mut TotpRecord {
        self.devices_changed = true;
        &mut self.devices
    }

    /// Makes the hash anew if the configuration asks for another cost by now. That is worth no failure: who is turned away is
    /// asked again at the next login.
    pub(super) async fn renew_hash(&mut self, call: &OpContext<'_>, password: SecretString) {
        if !call.auth.hasher.is_outdated(&self.password.record) {
            return;
        }
        let renewed = async {
            let slot = call.auth.hasher.slot(Standing::Good).await?;
            call.auth.hasher.hash(slot, self.name.as_str(), password, &*call.auth.ports.entropy).await
        };
        match renewed.await {
            Ok(record) => {
                tracing::info!(user = %self.name, "the password's hash has the configured cost from now on");
                self.new_password = Some(record);
            }
            Err(error) => {
                tracing::warn!(user = %self.name, error = &error as &dyn std::error::Error, "the password's hash stays as it is");
            }
        }
    }

    /// Makes it count, if nothing of what was checked has changed since.
    pub(super) async fn commit(self, call: &OpContext<'_>) -> ApiResult<Result<(UserName, User), Refused>> {
        let ports = &call.auth.ports;
        let name = self.name;
        let batch = Batch::new().with(
            call.auth.users.key(name.as_str())?,
            Condition::Is(self.user.revision),
            Action::Keep,
        );
        let passwords = Repo::<PasswordRecord>::new(ports.backend.clone());
        let unchanged = Condition::Is(self.password.revision);
        let batch = match &self.new_password {
            Some(record) => passwords.write_in(batch, record, unchanged)?,
            None => batch.with(passwords.key(name.as_str())?, unchanged, Action::Keep),
        };
        let batch = if self.devices_changed {
            let unchanged = self.devices_revision.map_or(Condition::Absent, Condition::Is);
            Repo::<TotpRecord>::new(ports.backend.clone()).write_in(batch, &self.devices, unchanged)?
        } else {
            batch
        };
        match ports.backend.commit(lockout::forget_in(batch, &name)?).await {
            Ok(_) => Ok(Ok((name, self.user.record))),
            Err(error) if error.is_conflict() => Ok(Err(Refused::CodeUsed)),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is known of the user.
#[derive(Default)]
struct Account {
    user: Option<Stored<User>>,
    password: Option<Stored<PasswordRecord>>,
    devices: Option<Stored<TotpRecord>>,
}

/// Decides. The work is the same for every outcome: one charge, one password hash of each cost, one look at a code for as many
/// devices as somebody may have; and only a success writes more.
pub(super) async fn prove(call: &OpContext<'_>, claim: Claim<'_>) -> ApiResult<Result<Proof, Refused>> {
    let ports = &call.auth.ports;
    let hasher = &call.auth.hasher;
    hasher.look(&Repo::new(ports.backend.clone())).await?;
    // First the turn, then the charge: an attempt that is turned away by a flood of others costs the user nothing.
    let slot = hasher.slot(call.auth.guessers.standing(claim.client, call.now)).await?;
    let account = match claim.name {
        Some(name) => Account {
            user: call.auth.users.get(name.as_str()).await?,
            password: Repo::new(ports.backend.clone()).get(name.as_str()).await?,
            devices: Repo::new(ports.backend.clone()).get(name.as_str()).await?,
        },
        None => Account::default(),
    };
    let known = claim.name.filter(|_| account.user.is_some());
    let charge = lockout::charge(call, known, claim.typed).await?;
    let hash = account.password.as_ref().map(|stored| &stored.record);
    let began = ports.clock.now();
    let (right, slot) = hasher.verify(slot, hash, claim.password.clone()).await?;
    let outcome = judge(call, claim, account, charge, right)?;
    if outcome.is_err() {
        call.auth.guessers.failed(claim.client, call.now);
        let now = ports.clock.now();
        hasher.rest(slot, now.saturating_since(began), now).await;
    }
    Ok(outcome)
}

/// What comes of it all. Pure but for the seal of the seeds.
fn judge(
    call: &OpContext<'_>,
    claim: Claim<'_>,
    account: Account,
    charge: Charge,
    right: bool,
) -> ApiResult<Result<Proof, Refused>> {
    let ports = &call.auth.ports;
    let record = account.devices.as_ref().map(|stored| &stored.record);
    let verdict = call.auth.decoy()?.verdict(record, claim.code, call.now, &*ports.sealer)?;
    let (Some(name), Account { user: Some(user), password, devices }) = (claim.name, account) else {
        return Ok(Err(Refused::UnknownUser));
    };
    if charge == Charge::Locked {
        return Ok(Err(Refused::Locked));
    }
    let asks_for_code = call.auth.config.second_factor != SecondFactor::Off;
    let Some(password) = password else { return Ok(Err(Refused::NotSetUp)) };
    if asks_for_code && devices.as_ref().is_none_or(|stored| stored.record.devices.is_empty()) {
        return Ok(Err(Refused::NotSetUp));
    }
    if !right {
        return Ok(Err(Refused::PasswordWrong));
    }
    let devices_revision = devices.as_ref().map(|stored| stored.revision);
    let devices = devices.map_or_else(|| TotpRecord::new(name.as_str()), |stored| stored.record);
    let mut proof = Proof {
        name: name.clone(),
        user,
        password,
        new_password: None,
        devices,
        devices_revision,
        devices_changed: false,
        device: None,
    };
    match verdict {
        Verdict::New { device, step } => {
            let used = proof.devices_mut().use_up(device, step, call.now);
            proof.device = used.map(|device| UsedDevice {
                id: DeviceId::from_uuid(device.id),
                name: device.name.to_string(),
            });
        }
        Verdict::Used if asks_for_code => return Ok(Err(Refused::CodeUsed)),
        Verdict::Wrong if asks_for_code => return Ok(Err(Refused::CodeWrong)),
        Verdict::Used | Verdict::Wrong => {}
    }
    Ok(Ok(proof))
}

/// Demands a proof of the calling user for something else than a login. What fails is in the audit log as a failed login that
/// says for what.
///
/// # Errors
/// Denied, in the same words whatever is wrong.
pub(super) async fn demand(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    password: &SecretString,
    code: &SecretString,
) -> ApiResult<Proof> {
    let identity = permit.user().ok_or_else(ApiError::denied)?;
    let name = &identity.user;
    let client = call.caller.client_ip(None);
    match prove(call, Claim { name: Some(name), typed: name.as_str(), password, code, client }).await? {
        Ok(proof) => Ok(proof),
        Err(refused) => Err(refuse(call, permit, name, refused).await?),
    }
}

/// Makes a proof of [`demand`] count, with what was changed in it.
///
/// # Errors
/// As [`demand`].
pub(super) async fn settle(call: &OpContext<'_>, permit: Permit<'_>, proof: Proof) -> ApiResult<()> {
    let name = proof.name.clone();
    match proof.commit(call).await? {
        Ok(_) => Ok(()),
        Err(refused) => Err(refuse(call, permit, &name, refused).await?),
    }
}

async fn refuse(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    name: &UserName,
    refused: Refused,
) -> ApiResult<ApiError> {
    tracing::info!(user = %name, operation = permit.operation().name(), reason = %refused, "a user was not recognised");
    let event = AuditEvent::new(EventKind::UserLoginFailure)
        .user(name)
        .remote(call.caller.remote())
        .field("method", "local")
        .field("operation", permit.operation().name())
        .error(refused);
    call.audit(vec![event]).await?;
    Ok(ApiError::denied().because(refused))
}
