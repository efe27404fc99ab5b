//! What users do about their own password and second factors.

use std::time::Duration;

use super::context::OpContext;
use super::devices::{Device, TotpRecord, issue_ticket, read_ticket};
use super::guessers::Standing;
use super::password;
use super::policy::Permit;
use super::proof::{check_form, demand, settle};
use super::totp::{self, Seed};
use crate::api::{
    AddMfaDevice, ApiError, ApiResult, ChangePassword, MfaDevice, NewMfaDevice, RemoveMfaDevice,
};
use crate::audit::{AuditEvent, EventKind};
use crate::id::{DeviceName, UserName};
use crate::storage::Repo;

/// How long a device that was begun can be added.
const TICKET_TTL: Duration = Duration::from_secs(10 * 60);

/// The calling user, if there still is one of this name.
async fn caller<'p>(call: &OpContext<'_>, permit: Permit<'p>) -> ApiResult<&'p UserName> {
    let user = &permit.user().ok_or_else(ApiError::denied)?.user;
    match call.auth.users.get(user.as_str()).await? {
        Some(_) => Ok(user),
        None => Err(call.deny(permit.operation(), "the user does not exist any more".to_owned()).await),
    }
}

async fn devices(call: &OpContext<'_>, user: &UserName) -> ApiResult<TotpRecord> {
    let stored = Repo::<TotpRecord>::new(call.auth.ports.backend.clone()).get(user.as_str()).await?;
    Ok(stored.map_or_else(|| TotpRecord::new(user.as_str()), |stored| stored.record))
}

fn event(call: &OpContext<'_>, kind: EventKind, user: &UserName) -> AuditEvent {
    AuditEvent::new(kind).user(user).remote(call.caller.remote())
}

fn device_event(call: &OpContext<'_>, kind: EventKind, user: &UserName, device: &MfaDevice) -> AuditEvent {
    event(call, kind, user)
        .field("mfa_device_type", "totp")
        .field("mfa_device_name", device.name.as_str())
        .field("mfa_device_uuid", device.id.to_string())
}

pub(super) async fn change_password(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: ChangePassword,
) -> ApiResult<()> {
    check_form(call, &request.password, &request.code)?;
    let user = permit.user().ok_or_else(ApiError::denied)?.user.clone();
    password::check_new(&request.new_password, &user)?;
    if request.new_password == request.password {
        return Err(ApiError::invalid("the new password is the old one"));
    }
    let mut proof = demand(call, permit, &request.password, &request.code).await?;
    let slot = call.auth.hasher.slot(Standing::Good).await?;
    let entropy = &*call.auth.ports.entropy;
    proof.new_password =
        Some(call.auth.hasher.hash(slot, user.as_str(), request.new_password, entropy).await?);
    settle(call, permit, proof).await?;
    call.audit(vec![event(call, EventKind::UserPasswordChange, &user)]).await
}

pub(super) async fn list(call: &OpContext<'_>, permit: Permit<'_>) -> ApiResult<Vec<MfaDevice>> {
    let user = caller(call, permit).await?;
    Ok(devices(call, user).await?.devices.iter().map(Device::info).collect())
}

pub(super) async fn begin(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    name: &DeviceName,
) -> ApiResult<NewMfaDevice> {
    let user = caller(call, permit).await?;
    devices(call, user).await?.check_room(name)?;
    let ports = &call.auth.ports;
    let seed = Seed::random(&*ports.entropy)?;
    let expires = call.now.saturating_add(TICKET_TTL);
    Ok(NewMfaDevice {
        ticket: issue_ticket(&*ports.sealer, user.as_str(), name, &seed, expires)?,
        otpauth_url: seed.to_url(&call.auth.config.cluster, user.as_str())?,
        secret: seed.to_base32(),
        expires,
    })
}

pub(super) async fn add(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: AddMfaDevice,
) -> ApiResult<MfaDevice> {
    check_form(call, &request.password, &request.code)?;
    totp::check_form(&request.new_code)?;
    let user = caller(call, permit).await?;
    let ports = &call.auth.ports;
    // What is wrong about the new device is said before a code of another one is spent.
    let (name, seed) = read_ticket(&*ports.sealer, user.as_str(), &request.ticket, call.now)?;
    devices(call, user).await?.check_room(&name)?;
    let step = seed.step_of(&request.new_code, call.now).ok_or_else(|| {
        ApiError::invalid("the code of the new device is wrong; check the time of the device that shows it")
    })?;
    let mut proof = demand(call, permit, &request.password, &request.code).await?;
    proof.devices().check_room(&name)?;
    // The step is used up: the code that was shown now is not good for a login as well.
    let device = Device::new(user.as_str(), name, &seed, step, call.now, (&*ports.sealer, &*ports.entropy))?;
    let info = device.info();
    proof.devices_mut().devices.push(device);
    settle(call, permit, proof).await?;
    call.audit(vec![device_event(call, EventKind::MfaAdd, user, &info)]).await?;
    Ok(info)
}

pub(super) async fn remove(
    call: &OpContext<'_>,
    permit: Permit<'_>,
    request: RemoveMfaDevice,
) -> ApiResult<()> {
    check_form(call, &request.password, &request.code)?;
    let user = caller(call, permit).await?;
    devices(call, user).await?.removable(&request.name)?;
    let mut proof = demand(call, permit, &request.password, &request.code).await?;
    let place = proof.devices().removable(&request.name)?;
    let removed = proof.devices_mut().devices.remove(place).info();
    settle(call, permit, proof).await?;
    call.audit(vec![device_event(call, EventKind::MfaDelete, user, &removed)]).await
}
